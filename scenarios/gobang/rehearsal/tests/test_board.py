"""The rules."""

from __future__ import annotations

import unittest

from gobang.board import Board, IllegalMoveError
from gobang.points import BLACK, EMPTY, POINTS, SIZE, WHITE, parse_point, point_name


def points(text: str) -> list[int]:
    return [parse_point(word) for word in text.split()]


class Names(unittest.TestCase):
    def test_every_point_has_a_name_that_leads_back(self) -> None:
        for point in range(POINTS):
            self.assertEqual(parse_point(point_name(point)), point)
        self.assertEqual(point_name(112), "h8")

    def test_what_is_no_point_is_refused(self) -> None:
        for text in ("", "h", "8", "p8", "h16", "h0", "h-1", "hh8", "h8x", "é5", "h²"):
            with self.subTest(text), self.assertRaises(ValueError):
                parse_point(text)


class Rules(unittest.TestCase):
    def test_five_in_each_direction_win(self) -> None:
        for row in ("a1 b1 c1 d1 e1", "o11 o12 o13 o14 o15", "k11 l12 m13 n14 o15", "a5 b4 c3 d2 e1"):
            with self.subTest(row):
                board = Board()
                for black, white in zip(points(row)[:4], points("h7 i7 h9 i9"), strict=True):
                    board.play(black)
                    board.play(white)
                    self.assertEqual(board.winner, EMPTY)
                board.play(points(row)[4])
                self.assertEqual(board.winner, BLACK)

    def test_more_than_five_win_too(self) -> None:
        board = Board(points("a1 a9 b1 b9 c1 c9 e1 e9 f1 f9 d1"))
        self.assertEqual((board.winner, board.longest_row(parse_point("d1"))), (BLACK, 6))

    def test_a_row_does_not_go_on_at_the_other_edge(self) -> None:
        self.assertEqual(Board(points("m8 h1 n8 h3 o8 h5 a9 h7 b9")).winner, EMPTY)
        self.assertEqual(Board(points("a8 h1 b8 h3 m8 h5 n8 h7 o8")).winner, EMPTY)

    def test_an_illegal_move_changes_nothing(self) -> None:
        board = Board(points("h8"))
        with self.assertRaises(IllegalMoveError):
            board.play(parse_point("h8"))
        self.assertEqual((board.moves, board.to_move), (points("h8"), WHITE))

    def test_nobody_moves_after_the_end(self) -> None:
        board = Board(points("a1 a9 b1 b9 c1 c9 d1 d9 e1"))
        with self.assertRaises(IllegalMoveError):
            board.play(parse_point("e9"))

    def test_a_full_board_is_a_draw(self) -> None:
        colours = [(p % SIZE // 2 + p // SIZE) % 2 for p in range(POINTS)]
        black = [p for p in range(POINTS) if not colours[p]]
        white = [p for p in range(POINTS) if colours[p]]
        moves = [0] * POINTS
        moves[0::2], moves[1::2] = black, white
        board = Board(moves)
        self.assertTrue(board.over)
        self.assertEqual(board.winner, EMPTY)
