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


class Position:
    """Stones, and per colour the tally, rank and value of each empty point, kept up to date."""

    def __init__(self) -> None:
        self.cells = [0] * POINTS
        self.key = 0
        """A hash of the stones."""
        self.stones = 0
        self._codes = list(_EMPTY_CODES)
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
        for side in (BLACK, WHITE):
            self.totals[side] -= self.values[side][point]
            self.ranked[side][self.ranks[side][point]].discard(point)
        self.cells[point] = colour
        self.key ^= _KEYS[colour][point]
        self.stones += 1
        self._shift(point, colour)

    def take(self, point: int) -> None:
        """Take the stone back that was placed last."""
        colour = self.cells[point]
        self._shift(point, -colour)
        self.stones -= 1
        self.key ^= _KEYS[colour][point]
        self.cells[point] = 0
        for side in (BLACK, WHITE):
            self.totals[side] += self.values[side][point]
            rank = self.ranks[side][point]
            if rank:
                self.ranked[side][rank].add(point)

    def _shift(self, point: int, change: int) -> None:
        # Occupied neighbours are passed over: stones leave in the reverse order in which they came, so that
        # whatever such a neighbour misses here has been taken back before it is empty again.
        cells, codes = self.cells, self._codes
        for q, line, unit in _NEAR[point]:
            if cells[q]:
                continue
            before = codes[line]
            codes[line] = after = before + change * unit
            black_before, white_before = _SHAPES[before]
            black_after, white_after = _SHAPES[after]
            if black_before != black_after:
                self._retally(BLACK, q, black_after - black_before)
            if white_before != white_after:
                self._retally(WHITE, q, white_after - white_before)

    def _retally(self, colour: int, point: int, change: int) -> None:
        tallies, ranks, values = self._tallies[colour], self.ranks[colour], self.values[colour]
        tallies[point] = tally = tallies[point] + change
        rank, value = _RANKS[tally]
        if rank != ranks[point]:
            self.ranked[colour][ranks[point]].discard(point)
            if rank:
                self.ranked[colour][rank].add(point)
            ranks[point] = rank
        self.totals[colour] += value - values[point]
        values[point] = value
