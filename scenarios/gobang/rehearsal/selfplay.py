"""Let the AI play against itself: `python selfplay.py [SECONDS] [STONES]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from gobang.engine import Engine
from gobang.patterns import MAKES_FIVE
from gobang.points import BLACK, COLOUR_NAMES, EMPTY, POINTS, WHITE, point_name
from gobang.position import Position

Player = Callable[[Sequence[int]], int]


def play_out(black: Player, white: Player, moves: list[int], stones: int = POINTS) -> int:
    """Play on from `moves` to the end or to so many stones; the colour that won, or `EMPTY`."""
    position = Position()
    for n, move in enumerate(moves):
        position.place(move, WHITE if n % 2 else BLACK)
    while len(moves) < stones:
        colour, player = (WHITE, white) if len(moves) % 2 else (BLACK, black)
        move = player(moves)
        if position.cells[move] != EMPTY:
            raise ValueError(f"{point_name(move)} is occupied")
        wins = move in position.ranked[colour][MAKES_FIVE]
        position.place(move, colour)
        moves.append(move)
        if wins:
            return colour
    return EMPTY


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    stones = int(sys.argv[2]) if len(sys.argv) > 2 else POINTS
    engine = Engine(seconds)
    slowest = 0.0

    def choose(moves: Sequence[int]) -> int:
        nonlocal slowest
        started = time.monotonic()
        move = engine.choose(moves)
        slowest = max(slowest, time.monotonic() - started)
        colour = COLOUR_NAMES[1 + len(moves) % 2]
        print(f"{len(moves) + 1:3} {colour} {point_name(move)} depth {engine.depth}")
        return move

    moves: list[int] = []
    winner = play_out(choose, choose, moves, stones)
    result = f"winner: {COLOUR_NAMES[winner]}" if winner else "no winner yet"
    print(f"{len(moves)} stones, {result}, slowest move {slowest:.2f} s")


if __name__ == "__main__":
    main()
