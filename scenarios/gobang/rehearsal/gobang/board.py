"""The board and the rules: black begins, five or more in a row win, a full board is a draw."""

from __future__ import annotations

from collections.abc import Iterable

from gobang.points import BLACK, COLUMNS, DIRECTIONS, EMPTY, POINTS, SIZE, WHITE, point_name

STONES = ".XO"


class IllegalMoveError(ValueError):
    """The rules do not allow the move; the text says why."""


class Board:
    """A game so far."""

    def __init__(self, moves: Iterable[int] = ()) -> None:
        self.cells = [EMPTY] * POINTS
        self.moves: list[int] = []
        self.winner = EMPTY
        for move in moves:
            self.play(move)

    @property
    def to_move(self) -> int:
        """The colour whose turn it is."""
        return WHITE if len(self.moves) % 2 else BLACK

    @property
    def over(self) -> bool:
        return self.winner != EMPTY or len(self.moves) == POINTS

    def play(self, point: int) -> None:
        """Put the next stone on `point`. Raises `IllegalMoveError`, and then nothing has changed."""
        if self.over:
            raise IllegalMoveError("the game is over")
        if self.cells[point] != EMPTY:
            raise IllegalMoveError(f"{point_name(point)} is occupied")
        colour = self.to_move
        self.cells[point] = colour
        self.moves.append(point)
        if self.longest_row(point) >= 5:
            self.winner = colour

    def longest_row(self, point: int) -> int:
        """The length of the longest unbroken row through the stone on `point`."""
        return max(1 + self._run(point, down, right) + self._run(point, -down, -right) for down, right in DIRECTIONS)

    def _run(self, point: int, down: int, right: int) -> int:
        row, column = divmod(point, SIZE)
        length = 0
        while True:
            row, column = row + down, column + right
            if not (0 <= row < SIZE and 0 <= column < SIZE):
                return length
            if self.cells[row * SIZE + column] != self.cells[point]:
                return length
            length += 1

    def draw(self) -> str:
        """The board as text: 15 rows, the highest first, and a line of column names."""
        rows = [
            f"{row + 1:2} " + " ".join(STONES[cell] for cell in self.cells[row * SIZE : (row + 1) * SIZE])
            for row in reversed(range(SIZE))
        ]
        return "\n".join([*rows, "   " + " ".join(COLUMNS)])
