"""Loose objects of a git repository, put together into one file: less space, and one file in place of many."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pygit2

MANY = 1000
"""Loose objects that are worth a pack."""


def pack(path: Path, least: int = MANY) -> int:
    """Pack the loose objects of the repository at `path` if there are so many; how many were packed.

    Others may read and write meanwhile, as the runs of a family do, which share a repository: an object is removed
    only where it lies in a pack that is on disk, whether any branch has it or none yet. A kill at any moment leaves
    each object there at least once. Of several who would pack at once, one does.
    """
    with (path / "megagraph.packing").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        return _pack(path, least)


def _pack(path: Path, least: int) -> int:
    loose = dict(_loose(path / "objects"))
    if len(loose) < least:
        return 0
    builder = pygit2.PackBuilder(pygit2.Repository(str(path)))
    builder.set_threads(1)
    for oid in loose:
        builder.add(pygit2.Oid(hex=oid))
    packs = path / "objects" / "pack"
    before = set(packs.iterdir())
    builder.write()
    for file in (*(set(packs.iterdir()) - before), packs):
        _sync(file)
    for file in loose.values():
        # Its folder stays: somebody may be about to write into it.
        file.unlink(missing_ok=True)
    return len(loose)


def _loose(objects: Path) -> Iterator[tuple[str, Path]]:
    for folder in objects.iterdir():
        if len(folder.name) == 2:
            for file in folder.iterdir():
                if len(file.name) == 38:
                    yield folder.name + file.name, file


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
