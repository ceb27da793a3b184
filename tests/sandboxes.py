"""The sandboxes that work on this machine, and how to tell that a program left nothing running."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from megagraph.programs.sandbox import Bubblewrap, Sandbox, Sandlock, Unconfined

CONFINED: list[Sandbox] = [sandbox for sandbox in (Bubblewrap(), Sandlock()) if sandbox.problem() is None]
ALL: list[Sandbox] = [*CONFINED, Unconfined()]


def new_mark() -> str:
    """A word to put into a program's arguments, so that it and its forks can be found."""
    return f"mark-{uuid.uuid4().hex}"


def marked(mark: str) -> list[int]:
    """The processes with `mark` in their command line that are not merely waiting to be collected."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
                found += [int(folder.name)] if state != b"Z" else []
        except OSError:
            continue
    return found


def wait_until_none(mark: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while marked(mark):
        assert time.monotonic() < until, f"still running: {marked(mark)}"
        time.sleep(0.01)


def wait_for_file(path: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} did not appear"
        time.sleep(0.01)
