"""Writes what `--help` prints into docs/cli.md, where its markers are. Run it with `make docs`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent / "cli.md"
_BLOCK = re.compile(r"(<!-- help:([ a-z]*) -->\n```text\n).*?(```\n)", re.S)


def updated(page: str) -> str:
    """The page with every help block as the program prints it now."""
    return _BLOCK.sub(lambda block: block[1] + _help(block[2]) + block[3], page)


def _help(command: str) -> str:
    hidden = ("MEGAGRAPH_HOME", "OPENAI_BASE_URL")
    env = {name: value for name, value in os.environ.items() if name not in hidden} | {"COLUMNS": "100"}
    argv = [sys.executable, "-m", "megagraph", *command.split(), "--help"]
    folder = PAGE.parent.parent
    return subprocess.run(argv, env=env, cwd=folder, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
