"""What everything else agrees on: colours, points and their names."""

from __future__ import annotations

SIZE = 15
POINTS = SIZE * SIZE
EMPTY, BLACK, WHITE = 0, 1, 2
COLOUR_NAMES = ("empty", "black", "white")
COLUMNS = "abcdefghijklmno"

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Steps of (row, column) along the four kinds of lines."""


def parse_point(text: str) -> int:
    """The number of the point that `text` names, row by row from 0 (a1) to 224 (o15).

    Raises `ValueError`, with a reason for the player, where it names none.
    """
    column, row = text[:1].lower(), text[1:]
    if len(column) != 1 or not column.isalpha() or not (row.isascii() and row.isdigit()):
        raise ValueError(f"{text!r} is not a point such as h8")
    if column not in COLUMNS or not 1 <= int(row[:9]) <= SIZE:
        raise ValueError(f"{text} is off the board")
    return (int(row) - 1) * SIZE + COLUMNS.index(column)


def point_name(point: int) -> str:
    """The name of a point: 112 is h8."""
    row, column = divmod(point, SIZE)
    return f"{COLUMNS[column]}{row + 1}"
