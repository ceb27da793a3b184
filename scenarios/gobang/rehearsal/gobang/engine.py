"""The AI: wins by a row of fours first, then alpha-beta that deepens until the time is up."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from gobang.patterns import MAKES_FIVE, MAKES_FOUR, MAKES_FOUR_AND_THREE, MAKES_OPEN_FOUR
from gobang.points import BLACK, POINTS, SIZE, WHITE
from gobang.position import Position

WIN = 1_000_000
"""The value of a five on the board; a win n stones away is worth `WIN - n`."""

SURE = WIN - 2 * POINTS
"""From here on a value is a proven win."""

WIDTH = 12
"""Quiet moves looked at in a position."""

FOURS = 16
"""How many fours in a row are tried from the position on the board."""

FOURS_AHEAD = 4
"""The same, at the ends of the search."""

DEEPEST = 24
CENTRE = POINTS // 2

_CENTRALITY = [-max(abs(p // SIZE - SIZE // 2), abs(p % SIZE - SIZE // 2)) for p in range(POINTS)]
_EXACT, _AT_LEAST, _AT_MOST = range(3)


class _Known(NamedTuple):
    """What the search found out about a position."""

    depth: int
    value: int
    bound: int
    move: int


class _TimeUpError(Exception):
    """The time of the move is used up."""


class Engine:
    """Chooses moves. Points are numbered row by row, from 0 (a1) to 224 (o15)."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        """The time a move may take."""
        self.depth = 0
        """How deep the last search went; 0 where there was nothing to search."""
        self._position = Position()
        self._known: dict[tuple[int, int], _Known] = {}
        self._no_win_by_fours: dict[tuple[int, int], int] = {}
        self._best = CENTRE
        self._until = 0.0

    def choose(self, moves: Sequence[int]) -> int:
        """The move to play after `moves`, which alternate and begin with black."""
        self.depth = 0
        self._known.clear()
        self._no_win_by_fours.clear()
        me = WHITE if len(moves) % 2 else BLACK
        started = time.monotonic()
        self._set_up(moves)
        if not moves:
            return CENTRE
        urgent = self._urgent(me)
        if len(urgent) == 1:
            return urgent[0]
        try:
            self._until = started + self.seconds / 2
            winning = self._fours(me, FOURS)
            if winning is not None:
                return winning
        except _TimeUpError:
            self._set_up(moves)
        self._until = started + self.seconds
        try:
            self._deepen(me, urgent or self._candidates(me)[:WIDTH], started + self.seconds / 2)
        except _TimeUpError:
            self._set_up(moves)
        return self._best

    def _set_up(self, moves: Sequence[int]) -> None:
        self._position = Position()
        for n, move in enumerate(moves):
            self._position.place(move, WHITE if n % 2 else BLACK)

    def _urgent(self, me: int) -> list[int]:
        """The only moves that make sense while a win or a threat is there; none where it is quiet."""
        mine, theirs = self._position.ranked[me], self._position.ranked[3 - me]
        if mine[MAKES_FIVE]:
            return [min(mine[MAKES_FIVE])]
        if theirs[MAKES_FIVE]:
            return [min(theirs[MAKES_FIVE])]
        if mine[MAKES_OPEN_FOUR]:
            return [min(mine[MAKES_OPEN_FOUR])]
        if theirs[MAKES_OPEN_FOUR]:
            return self._answers(me)
        return []

    def _answers(self, me: int) -> list[int]:
        """What can meet the threat of an open four: a stone on its points, or fours of one's own."""
        mine, theirs = self._position.ranked[me], self._position.ranked[3 - me]
        blocks = theirs[MAKES_OPEN_FOUR] | theirs[MAKES_FOUR] | theirs[MAKES_FOUR_AND_THREE]
        return self._best_first(me, blocks | mine[MAKES_FOUR] | mine[MAKES_FOUR_AND_THREE])

    def _candidates(self, me: int) -> list[int]:
        """The points that matter to either side, best first."""
        position = self._position
        mine, theirs, cells = position.values[me], position.values[3 - me], position.cells
        points = [p for p in range(POINTS) if not cells[p] and mine[p] + theirs[p]]
        if points:
            return self._best_first(me, points)
        return [max((p for p in range(POINTS) if not cells[p]), key=_CENTRALITY.__getitem__)]

    def _best_first(self, me: int, points: Collection[int]) -> list[int]:
        mine, theirs = self._position.values[me], self._position.values[3 - me]
        return sorted(points, key=lambda p: (mine[p] + theirs[p], _CENTRALITY[p], p), reverse=True)

    def _fours(self, me: int, depth: int) -> int | None:
        """The first move of a win by an unbroken row of at most `depth` fours, or None."""
        position = self._position
        mine, theirs = position.ranked[me], position.ranked[3 - me]
        if mine[MAKES_FIVE]:
            return min(mine[MAKES_FIVE])
        fours = mine[MAKES_OPEN_FOUR] | mine[MAKES_FOUR_AND_THREE] | mine[MAKES_FOUR]
        if theirs[MAKES_FIVE]:
            if len(theirs[MAKES_FIVE]) > 1:
                return None
            fours &= theirs[MAKES_FIVE]
        elif mine[MAKES_OPEN_FOUR]:
            return min(mine[MAKES_OPEN_FOUR])
        here = (position.key, me)
        if not fours or depth <= self._no_win_by_fours.get(here, 0):
            return None
        for move in self._best_first(me, fours):
            self._look_at_the_clock()
            position.place(move, me)
            won = len(mine[MAKES_FIVE]) > 1
            if not won:
                (block,) = mine[MAKES_FIVE]
                position.place(block, 3 - me)
                won = self._fours(me, depth - 1) is not None
                position.take(block)
            position.take(move)
            if won:
                return move
        self._no_win_by_fours[here] = depth
        return None

    def _deepen(self, me: int, moves: list[int], enough: float) -> None:
        """Search `moves` deeper and deeper; `_best` is the best yet. After `enough`, no new depth begins."""
        self._best = moves[0]
        widened = False
        while self.depth < DEEPEST and time.monotonic() < enough:
            value = self._first_ply(me, moves, self.depth + 1)
            moves = [self._best, *(m for m in moves if m != self._best)]
            if value > SURE or (value < -SURE and widened):
                return
            if value < -SURE:
                # All of the likely moves lose, so the unlikely ones are worth a look.
                widened = True
                moves += [m for m in self._candidates(me) if m not in moves]
            else:
                self.depth += 1

    def _first_ply(self, me: int, moves: list[int], depth: int) -> int:
        position = self._position
        alpha = -WIN
        for n, move in enumerate(moves):
            position.place(move, me)
            value = alpha + 1 if n == 0 else -self._search(3 - me, depth - 1, -alpha - 1, -alpha, 1)
            if value > alpha:
                value = -self._search(3 - me, depth - 1, -WIN, -alpha, 1)
            position.take(move)
            if value > alpha:
                alpha, self._best = value, move
        return alpha

    def _search(self, me: int, depth: int, alpha: int, beta: int, ply: int) -> int:
        """The value of the position for `me`, who is to move, within the window of `alpha` and `beta`."""
        self._look_at_the_clock()
        position = self._position
        mine, theirs = position.ranked[me], position.ranked[3 - me]
        if mine[MAKES_FIVE]:
            return WIN - ply - 1
        if theirs[MAKES_FIVE]:
            if len(theirs[MAKES_FIVE]) > 1:
                return ply + 2 - WIN
            (block,) = theirs[MAKES_FIVE]
            position.place(block, me)
            value = -self._search(3 - me, depth, -beta, -alpha, ply + 1)
            position.take(block)
            return value
        if mine[MAKES_OPEN_FOUR]:
            return WIN - ply - 3
        if position.stones == POINTS:
            return 0
        if depth <= 0:
            if self._fours(me, FOURS_AHEAD) is not None:
                return WIN - ply - 5
            return 5 * position.totals[me] // 4 - position.totals[3 - me]
        known = self._known.get((position.key, me))
        if known is not None and known.depth >= depth:
            if known.bound == _EXACT:
                return known.value
            if known.value >= beta if known.bound == _AT_LEAST else known.value <= alpha:
                return known.value
        moves = self._answers(me) if theirs[MAKES_OPEN_FOUR] else self._candidates(me)[:WIDTH]
        if known is not None:
            moves = [known.move, *(m for m in moves if m != known.move)]
        floor, best, best_move = alpha, -WIN, moves[0]
        for n, move in enumerate(moves):
            position.place(move, me)
            value = alpha + 1 if n == 0 else -self._search(3 - me, depth - 1, -alpha - 1, -alpha, ply + 1)
            if n == 0 or alpha < value < beta:
                value = -self._search(3 - me, depth - 1, -beta, -alpha, ply + 1)
            position.take(move)
            if value > best:
                best, best_move = value, move
                alpha = max(alpha, value)
                if alpha >= beta:
                    break
        bound = _AT_LEAST if best >= beta else _EXACT if best > floor else _AT_MOST
        self._known[position.key, me] = _Known(depth, best, bound, best_move)
        return best

    def _look_at_the_clock(self) -> None:
        if time.monotonic() > self._until:
            raise _TimeUpError
