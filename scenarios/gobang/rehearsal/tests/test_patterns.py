"""Shapes of lines, and the position that keeps count of them."""

from __future__ import annotations

import random
import unittest

from gobang import patterns
from gobang.patterns import shape
from gobang.points import BLACK, POINTS, WHITE
from gobang.position import Position


def shape_of(line: str) -> int:
    """The shape of nine points, the middle one a stone: `x` own, `.` free, anything else blocked."""
    own = sum(1 << i for i, point in enumerate(line) if point == "x")
    free = sum(1 << i for i, point in enumerate(line) if point == ".")
    return shape(own, free)


class Shapes(unittest.TestCase):
    def test_each_shape_is_known(self) -> None:
        for line, expected in {
            "xxxxx....": patterns.FIVE,
            "...xxxxxx": patterns.FIVE,
            ".xxxx....": patterns.OPEN_FOUR,
            "oxxxx....": patterns.FOUR,
            "x.xxx.x..": patterns.OPEN_FOUR,
            "xx.xx....": patterns.FOUR,
            "..xxx....": patterns.OPEN_THREE,
            ".x.xx....": patterns.OPEN_THREE,
            ".oxxx....": patterns.THREE,
            ".oxxx.o..": patterns.NONE,
            "...xx....": patterns.OPEN_TWO,
            "....x....": patterns.OPEN_ONE,
            "oooox....": patterns.ONE,
            "oooox...o": patterns.NONE,
        }.items():
            with self.subTest(line):
                self.assertEqual(shape_of(line), expected)


class Counting(unittest.TestCase):
    def test_stones_taken_back_leave_no_trace(self) -> None:
        dice = random.Random(3)
        position = Position()
        moves = dice.sample(range(POINTS), 60)
        seen = []
        for n, move in enumerate(moves):
            seen.append((position.key, list(position.totals), [[set(s) for s in side] for side in position.ranked]))
            position.place(move, WHITE if n % 2 else BLACK)
        for move, (key, totals, ranked) in zip(reversed(moves), reversed(seen), strict=True):
            position.take(move)
            self.assertEqual((position.key, position.totals, position.ranked), (key, totals, ranked))

    def test_the_order_of_the_stones_does_not_matter(self) -> None:
        dice = random.Random(4)
        stones = {point: 1 + n % 2 for n, point in enumerate(dice.sample(range(POINTS), 40))}
        positions = []
        for _ in range(2):
            position = Position()
            for point in dice.sample(list(stones), len(stones)):
                position.place(point, stones[point])
            positions.append(position)
        one, other = positions
        self.assertEqual((one.key, one.totals, one.ranked), (other.key, other.totals, other.ranked))
