"""Play Gobang on the console: `python main.py --help`."""

from __future__ import annotations

import argparse
import sys

from gobang.console import Console
from gobang.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description="Gobang: five in a row on a board of 15 by 15.")
    add = parser.add_argument
    add("--first", choices=["human", "ai"], default="human", help="who plays black and begins")
    add("--two-players", action="store_true", help="two humans play; the AI moves on `go` only")
    add("--seconds", type=float, default=1.0, help="thinking time of the AI, by move (default 1)")
    options = parser.parse_args()
    engine = Engine(options.seconds)
    console = Console(
        engine.choose,
        sys.stdin,
        sys.stdout,
        ai_first=options.first == "ai",
        two_players=options.two_players,
    )
    try:
        console.run()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


if __name__ == "__main__":
    main()
