"""The console, played through its lines."""

from __future__ import annotations

import io
import unittest
from collections.abc import Sequence

from gobang.console import Console


def first_empty(moves: Sequence[int]) -> int:
    return next(point for point in range(225) if point not in moves)


def session(*lines: str, ai_first: bool = False, two_players: bool = False) -> list[str]:
    out = io.StringIO()
    text = io.StringIO("\n".join(lines))
    Console(first_empty, text, out, ai_first=ai_first, two_players=two_players).run()
    return out.getvalue().splitlines()


class Protocol(unittest.TestCase):
    def test_the_ai_answers_a_move(self) -> None:
        said = session("h8")
        self.assertEqual(
            [line for line in said if line.startswith(("AI", "READY"))],
            ["READY black", "AI a1", "READY black"],
        )
        self.assertIn(" 8 . . . . . . . X . . . . . . .", said)

    def test_the_ai_can_begin(self) -> None:
        said = session(ai_first=True)
        self.assertLess(said.index("AI a1"), said.index("READY white"))

    def test_a_refused_line_changes_nothing(self) -> None:
        for line in ("h8", "a1", "q9", "x y z", "position b2 b2", "position a1 a99"):
            with self.subTest(line):
                said = session("h8", line, "board")
                self.assertEqual(sum(word.startswith("ILLEGAL ") for word in said), 1)
                self.assertEqual(said[-18:-2], said[said.index("AI a1") + 2 :][:16])

    def test_a_win_is_told_and_the_game_is_over(self) -> None:
        said = session("position h8 h9 i8 i9 j8 j9 k8 k9", "l8", "l9", two_players=True)
        self.assertIn("WINNER black", said)
        self.assertEqual(said[-4:-1], ["READY over", "ILLEGAL the game is over", "READY over"])

    def test_go_moves_for_either_side(self) -> None:
        self.assertIn("AI a1", session("go"))
        self.assertIn("AI a1", session("position h8", "go"))

    def test_help_names_the_commands(self) -> None:
        text = "\n".join(session("help"))
        for word in ("position", "go", "board", "quit"):
            self.assertIn(word, text)
