"""What a stone would make of a line, and what it would make of a point."""

from __future__ import annotations

from functools import cache

WALL = 3
"""Stands in a line's code beside `BLACK` and `WHITE` for what lies off the board."""

REACH = 4
"""How far along a line a stone can matter to a five."""

NONE, ONE, OPEN_ONE, TWO, OPEN_TWO, THREE, OPEN_THREE, FOUR, OPEN_FOUR, FIVE = range(10)
"""Shapes of one line, weakest first. A `FOUR` has one point that makes it five, an `OPEN_FOUR` has two.
An `OPEN_THREE` can become an `OPEN_FOUR`, a `THREE` only a `FOUR`, and so on down."""

QUIET, MAKES_THREE, MAKES_TWO_THREES, MAKES_FOUR, MAKES_FOUR_AND_THREE, MAKES_OPEN_FOUR, MAKES_FIVE = range(7)
"""Ranks of a point, weakest first: the best that one stone there would do. Two fours at once count as an open
four, for neither can be stopped."""

RANKS = 7
SHAPE_VALUE = (0, 0, 0, 2, 7, 9, 26, 30, 120, 600)
RANK_BONUS = (0, 0, 40, 0, 60, 0, 0)

_FIVES = tuple(0b11111 << i for i in range(REACH + 1))
_CENTRE = 1 << REACH


@cache
def shape(own: int, free: int) -> int:
    """The shape of a line through its middle stone.

    `own` and `free` are masks of nine points, bit 4 being the middle; a point in neither is blocked.
    """
    to_five = 0
    for five in _FIVES:
        missing = five & ~own
        if not missing:
            return FIVE
        if not missing & ~free and not missing & (missing - 1):
            to_five |= missing
    if to_five:
        return OPEN_FOUR if to_five & (to_five - 1) else FOUR
    best = NONE
    for i in range(2 * REACH + 1):
        bit = 1 << i
        if free & bit:
            best = max(best, shape(own | bit, free ^ bit) - 2)
    return best


_PAIRS: dict[tuple[int, int], tuple[int, int]] = {}


class Shapes(dict[int, tuple[int, int]]):
    """By the code of a line's eight neighbours: what a black and a white stone would make, as tallies.

    A code holds two bits a neighbour (0 empty, else `BLACK`, `WHITE` or `WALL`). A tally counts the shapes of
    the four lines of a point, three bits a shape, so that the tallies of its lines add up to its own.
    """

    def __missing__(self, code: int) -> tuple[int, int]:
        masks = [0, 0, 0, 0]
        for i in range(2 * REACH):
            at = i if i < REACH else i + 1
            masks[code >> 2 * i & 3] |= 1 << at
        free, black, white, _ = masks
        found = (_tally(shape(black | _CENTRE, free)), _tally(shape(white | _CENTRE, free)))
        # One object for each pair, so that `is` tells what has not changed.
        self[code] = found = _PAIRS.setdefault(found, found)
        return found


class Ranks(dict[int, tuple[int, int]]):
    """By the tally of a point: its rank, and its value for ordering moves and judging positions."""

    def __missing__(self, tally: int) -> tuple[int, int]:
        counts = [tally >> 3 * kind & 7 for kind in range(FIVE + 1)]
        rank = _rank(counts)
        value = sum(n * SHAPE_VALUE[kind] for kind, n in enumerate(counts)) + RANK_BONUS[rank]
        found = self[tally] = (rank, value)
        return found


def _tally(kind: int) -> int:
    # What is less than a two is worth nothing, and not counting it spares most of the work of a stone.
    return 1 << 3 * kind if kind >= TWO else 0


def _rank(counts: list[int]) -> int:
    if counts[FIVE]:
        return MAKES_FIVE
    if counts[OPEN_FOUR] or counts[FOUR] > 1:
        return MAKES_OPEN_FOUR
    if counts[FOUR]:
        return MAKES_FOUR_AND_THREE if counts[OPEN_THREE] else MAKES_FOUR
    if counts[OPEN_THREE]:
        return MAKES_TWO_THREES if counts[OPEN_THREE] > 1 else MAKES_THREE
    return QUIET
