"""The command line. Importing LangGraph takes most of a second: a command does it when it needs it, `--help` never."""

from __future__ import annotations

import gc
import sqlite3
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from megagraph.cli.options import app
from megagraph.errors import HomeError, MegagraphError, UsageError
from megagraph.garbage import THRESHOLDS

for _kind in ("working", "watching", "looking", "reporting", "branching", "keeping", "serving"):
    # Each adds its commands to the program, in the order of the help.
    import_module(f"megagraph.cli.{_kind}")

USAGE = 2
"""The exit code where what was asked for cannot be."""


def main(args: Sequence[str] | None = None) -> None:
    """The program. What a person can mend is told in one line, and the exit code is not 0."""
    # Most commands import a great deal, and do little more.
    gc.set_threshold(*THRESHOLDS)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign of the tree gets another one instead of an error.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(args, prog_name="megagraph")
    except MegagraphError as error:
        _fail(error)
    except sqlite3.DatabaseError as error:
        what = f"the database of the home cannot be used ({error})."
        _fail(HomeError(what, "Restore it from a copy, or name another --home."))
    except OSError as error:
        _fail(UsageError(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."))


def _fail(error: MegagraphError) -> NoReturn:
    print(f"megagraph: {error}", file=sys.stderr)
    sys.exit(USAGE)
