"""The game on a console: one line in, an answer out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

from gobang.board import Board, IllegalMoveError
from gobang.points import COLOUR_NAMES, EMPTY, parse_point, point_name

HELP = """\
A point such as h8   put your stone there
go                   let the AI move for the side whose turn it is
position h8 i9 ...   set up a game from these moves, black first; `position` alone clears the board
board                show the board
help, quit           this text; leave
Black (X) begins. Five or more in a row win, along a row, a column or a diagonal."""


class Console:
    """Talks to one player, or to two, over a pair of text streams."""

    def __init__(
        self,
        choose: Callable[[Sequence[int]], int],
        lines: TextIO,
        out: TextIO,
        *,
        ai_first: bool = False,
        two_players: bool = False,
    ) -> None:
        self.board = Board()
        self._choose = choose
        self._lines = lines
        self._out = out
        self._ai_first = ai_first
        self._two_players = two_players

    def run(self) -> None:
        """Play until `quit` or the end of the input."""
        self._say("Gobang: five in a row win. Type a point such as h8, or help.")
        if self._ai_first and not self._two_players:
            self._ai_moves()
        self._show()
        self._ready()
        for line in self._lines:
            words = line.lower().split()
            if words[:1] == ["quit"]:
                break
            if words:
                self._obey(words)
            self._ready()
        self._say("Goodbye.")

    def _obey(self, words: list[str]) -> None:
        try:
            match words:
                case ["help"]:
                    self._say(HELP)
                case ["board"]:
                    self._show()
                case ["go"]:
                    self._ai_moves()
                    self._show()
                case ["position", *names]:
                    self.board = Board(parse_point(name) for name in names)
                    self._show()
                case [name]:
                    self.board.play(parse_point(name))
                    if not self.board.over and not self._two_players:
                        self._ai_moves()
                    self._show()
                case _:
                    self._say(f"ILLEGAL {' '.join(words)!r} is neither a point nor a command; try help")
        except ValueError as refusal:
            self._say(f"ILLEGAL {refusal}")

    def _ai_moves(self) -> None:
        if self.board.over:
            raise IllegalMoveError("the game is over")
        point = self._choose(self.board.moves)
        self.board.play(point)
        self._say(f"AI {point_name(point)}")

    def _show(self) -> None:
        self._say("BOARD\n" + self.board.draw())
        if self.board.winner != EMPTY:
            self._say(f"WINNER {COLOUR_NAMES[self.board.winner]}")
        elif self.board.over:
            self._say("DRAW")

    def _ready(self) -> None:
        self._say("READY over" if self.board.over else f"READY {COLOUR_NAMES[self.board.to_move]}")

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)
