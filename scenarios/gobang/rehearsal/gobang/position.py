"""A position that knows, after every stone, what each empty point is worth to either colour."""

from __future__ import annotations

import random

from gobang.patterns import RANKS, REACH, WALL, Ranks, Shapes
from gobang.points import BLACK, DIRECTIONS, POINTS, SIZE, WHITE

_SHAPES = Shapes()
_RANKS = Ranks()


def _near() -> tuple[list[list[tuple[int, int, int]]], list[int]]:
    """For each point its neighbours as (point, line, bit place), and the line codes of the empty board."""
    near: list[list[tuple[int, int, int]]] = [[] for _ in range(POINTS)]
    codes = [0] * (4 * POINTS)
    for point in range(POINTS):
        row, column = divmod(point, SIZE)
        for direction, (down, right) in enumerate(DIRECTIONS):
            for step in range(1, REACH + 1):
                for side, place in ((-step, REACH - step), (step, REACH + step - 1)):
                    r, c = row + side * down, column + side * right
                    if 0 <= r < SIZE and 0 <= c < SIZE:
                        near[r * SIZE + c].append((point, 4 * point + direction, 1 << 2 * place))
                    else:
                        codes[4 * point + direction] |= WALL << 2 * place
    return near, codes


_NEAR, _EMPTY_CODES = _near()
_EMPTY_TALLIES = [sum(_SHAPES[code][0] for code in _EMPTY_CODES[4 * p : 4 * p + 4]) for p in range(POINTS)]
_random = random.Random(15)
_KEYS = [[_random.getrandbits(62) for _ in range(POINTS)] for _ in range(3)]


_Change = tuple[int, int, int, int, int]
"""A colour, a point, and the tally, rank and value that the point had for it."""


class Position:
    """Stones, and per colour the tally, rank and value of each empty point, kept up to date."""

    def __init__(self) -> None:
        self.cells = [0] * POINTS
        self.key = 0
        """A hash of the stones."""
        self.stones = 0
        self._codes = list(_EMPTY_CODES)
        self._changes: list[list[_Change]] = []
        """For each stone, what it has changed: taking it back is putting that back."""
        # The lists by colour have an unused first entry, so that a colour is its own index.
        self._tallies = [list(_EMPTY_TALLIES) for _ in range(3)]
        self.ranks = [[0] * POINTS for _ in range(3)]
        self.values = [[0] * POINTS for _ in range(3)]
        self.ranked: list[list[set[int]]] = [[set() for _ in range(RANKS)] for _ in range(3)]
        """The empty points by colour and rank; rank 0 is not kept."""
        self.totals = [0, 0, 0]
        """The sum of the values of all empty points, by colour."""

    def place(self, point: int, colour: int) -> None:
        """Put a stone on an empty point."""
        changes: list[_Change] = []
        for side in (BLACK, WHITE):
            self.totals[side] -= self.values[side][point]
            self.ranked[side][self.ranks[side][point]].discard(point)
        cells, codes, shapes = self.cells, self._codes, _SHAPES
        cells[point] = colour
        self.key ^= _KEYS[colour][point]
        self.stones += 1
        # Occupied neighbours are passed over: stones leave in the reverse order in which they came, so that
        # whatever such a neighbour misses here has been taken back before it is empty again.
        for q, line, unit in _NEAR[point]:
            if cells[q]:
                continue
            before = codes[line]
            codes[line] = after = before + colour * unit
            old, new = shapes[before], shapes[after]
            if old is new:
                continue
            if old[0] != new[0]:
                changes.append(self._retally(BLACK, q, new[0] - old[0]))
            if old[1] != new[1]:
                changes.append(self._retally(WHITE, q, new[1] - old[1]))
        self._changes.append(changes)

    def take(self, point: int) -> None:
        """Take the stone back that was placed last."""
        cells, codes = self.cells, self._codes
        colour = cells[point]
        for side, q, tally, rank, value in reversed(self._changes.pop()):
            self._tallies[side][q] = tally
            now = self.ranks[side][q]
            if rank != now:
                self.ranked[side][now].discard(q)
                if rank:
                    self.ranked[side][rank].add(q)
                self.ranks[side][q] = rank
            self.totals[side] += value - self.values[side][q]
            self.values[side][q] = value
        for q, line, unit in _NEAR[point]:
            if not cells[q]:
                codes[line] -= colour * unit
        self.stones -= 1
        self.key ^= _KEYS[colour][point]
        cells[point] = 0
        for side in (BLACK, WHITE):
            self.totals[side] += self.values[side][point]
            rank = self.ranks[side][point]
            if rank:
                self.ranked[side][rank].add(point)

    def _retally(self, side: int, point: int, change: int) -> _Change:
        """Count what has changed on one line of a point; what it was before."""
        tallies, ranks, values = self._tallies[side], self.ranks[side], self.values[side]
        old_tally, old_rank, old_value = tallies[point], ranks[point], values[point]
        tallies[point] = tally = old_tally + change
        rank, value = _RANKS[tally]
        if rank != old_rank:
            self.ranked[side][old_rank].discard(point)
            if rank:
                self.ranked[side][rank].add(point)
            ranks[point] = rank
        if value != old_value:
            self.totals[side] += value - old_value
            values[point] = value
        return side, point, old_tally, old_rank, old_value
