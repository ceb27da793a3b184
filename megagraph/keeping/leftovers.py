"""What kills have left in a home: files, references, scratch folders and locks that belong to no run, or to no work."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pygit2

from megagraph.control import socket_path
from megagraph.files.folders import remove_folder
from megagraph.home import Home
from megagraph.keeping.deleting import claims, drop_branch, folder_bytes, remove_repository

Kind = Literal["repository", "reference", "scratch", "lock", "socket"]

IMPORTED = ".import"
"""How the name of a repository ends while a run is taken in."""

_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOMENT = 60.0
"""Seconds after which what a program does in one go is over."""


@dataclass(frozen=True)
class Leftover:
    """A thing of no use; `path` names it in the home."""

    kind: Kind
    path: str
    bytes: int

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def find_leftovers(home: Home) -> list[Leftover]:
    """What belongs to no run, or to no work. Call it while holding `Home.tidying`."""
    claimed = claims(home)
    runs = {run for branches in claimed.values() for run in branches.values()}
    return [
        *_repositories(home, claimed),
        *_scratch(home),
        *_locks(home, runs),
        *_sockets(home, runs),
    ]


def remove_leftover(home: Home, leftover: Leftover) -> None:
    path = Path(leftover.path) if leftover.kind == "socket" else home.path / leftover.path
    match leftover.kind:
        case "repository":
            remove_repository(path)
        case "scratch":
            remove_folder(path)
        case "reference" if path.name.endswith(".lock"):
            path.unlink(missing_ok=True)
        case "reference":
            drop_branch(path.parents[2], path.name)
        case _:
            path.unlink(missing_ok=True)


def _repositories(home: Home, claimed: dict[str, dict[str, str]]) -> Iterator[Leftover]:
    for path in sorted((home.path / "files").iterdir()):
        run = _RUN.search(path.name)
        if run is None or not path.is_dir():
            continue
        if path.name.startswith("."):
            over = path.name.endswith(IMPORTED) or time.time() - path.stat().st_mtime > _MOMENT
            if over and _idle(home, run[0]):
                yield _leftover(home, "repository", path)
        elif path.name == f"{run[0]}.git":
            if run[0] in claimed:
                yield from _references(home, path, claimed[run[0]])
            elif _idle(home, run[0]):
                yield _leftover(home, "repository", path)


def _references(home: Home, path: Path, branches: dict[str, str]) -> Iterator[Leftover]:
    try:
        names = list(pygit2.Repository(str(path)).references)
    except pygit2.GitError:
        return
    for name in names:
        branch = name.removeprefix("refs/heads/")
        if branch not in branches and (branch == "main" or _RUN.fullmatch(branch)) and _idle(home, branch):
            yield Leftover("reference", str((path / name).relative_to(home.path)), 0)
    if all(_idle(home, run) for run in branches.values()):
        for lock in (path / "refs" / "heads").glob("*.lock"):
            if time.time() - lock.stat().st_mtime > _MOMENT:
                yield _leftover(home, "reference", lock)


def _scratch(home: Home) -> Iterator[Leftover]:
    folder = home.path / "scratch"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _RUN.fullmatch(path.name) and _idle(home, path.name):
            yield _leftover(home, "scratch", path)


def _locks(home: Home, runs: set[str]) -> Iterator[Leftover]:
    for path in sorted((home.path / "locks").iterdir()):
        if _RUN.fullmatch(path.name) and path.name not in runs and _idle(home, path.name):
            yield _leftover(home, "lock", path)


def _sockets(home: Home, runs: set[str]) -> Iterator[Leftover]:
    for run in sorted(runs):
        path = socket_path(run)
        if path.exists() and _idle(home, run):
            yield Leftover("socket", str(path), 0)


def _idle(home: Home, run: str) -> bool:
    """Whether no process holds the run. Unlike `Home.locked` it makes no lock file."""
    with suppress(FileNotFoundError), (home.path / "locks" / run).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _leftover(home: Home, kind: Kind, path: Path) -> Leftover:
    return Leftover(kind, str(path.relative_to(home.path)), folder_bytes(path))
