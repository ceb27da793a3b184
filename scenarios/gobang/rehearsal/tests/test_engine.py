"""The AI: what it must see, and that it beats simple players."""

from __future__ import annotations

import random
import time
import unittest
from collections.abc import Sequence

from gobang.engine import Engine
from gobang.points import BLACK, POINTS, WHITE, parse_point, point_name
from selfplay import play_out


def points(text: str) -> list[int]:
    return [parse_point(word) for word in text.split()]


def answer(moves: str, seconds: float = 0.3) -> str:
    return point_name(Engine(seconds).choose(points(moves)))


class Tactics(unittest.TestCase):
    def test_takes_a_win_although_the_other_side_has_a_four(self) -> None:
        self.assertIn(answer("f8 c3 g8 d3 h8 e3 i8 f3"), {"e8", "j8"})

    def test_blocks_a_four(self) -> None:
        self.assertEqual(answer("a1 c12 b2 l4 c3 m12 d4"), "e5")

    def test_blocks_a_four_although_an_open_three_stands_elsewhere(self) -> None:
        self.assertEqual(answer("a1 c12 b2 l4 c3 m12 d4 e13 j10 n3 k10 f2 l10"), "e5")
        self.assertEqual(answer("e8 d12 f8 c4 h8 n8 i8 o2 l3 a14 l4 c14 l5"), "g8")

    def test_stops_an_open_three(self) -> None:
        self.assertIn(answer("g8 c3 h8 m4 i8"), {"e8", "f8", "j8", "k8"})

    def test_finds_a_win_by_a_row_of_fours(self) -> None:
        # A four along row 8 comes first; its answer leaves the fours of column h to decide.
        moves = points("e8 d8 f8 a1 g8 c1 h5 e1 h6 h4 i10 g1")
        engine = Engine(0.5)
        self.assertEqual(play_out(engine.choose, engine.choose, moves, len(moves) + 12), BLACK)


class Games(unittest.TestCase):
    def test_beats_a_random_player_with_either_colour(self) -> None:
        dice = random.Random(5)

        def anywhere(moves: Sequence[int]) -> int:
            return dice.choice([p for p in range(POINTS) if p not in moves])

        engine = Engine(0.1)
        self.assertEqual(play_out(engine.choose, anywhere, []), BLACK)
        self.assertEqual(play_out(anywhere, engine.choose, []), WHITE)

    def test_keeps_to_its_time(self) -> None:
        started = time.monotonic()
        answer("h8 i9 g7 i7 j8 h10", seconds=0.2)
        self.assertLess(time.monotonic() - started, 2.0)
