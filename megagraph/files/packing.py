"""Objects of a git repository, put together into one file: less space, and one file in place of many."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pygit2

from megagraph.files.trees import reachable

MANY = 1000
"""Loose objects that are worth a pack."""


def pack(path: Path, least: int = MANY) -> int:
    """Pack the loose objects of the repository at `path` if there are so many; how many were packed.

    Others may read and write meanwhile, as the runs of a family do, which share a repository: an object is removed
    only where it lies in a pack that is on disk, whether any branch has it or none yet. A kill at any moment leaves
    each object there at least once. Of several who would pack at once, one does.
    """
    with _lock(path) as lock:
        return _pack(path, least) if _taken(lock) else 0


def pack_aside(path: Path) -> None:
    """Have the repository packed, if that is worth it, by a process that nobody waits for, as `git gc` is.

    The calling process has one thread, and nothing else to do: it should end now. What cannot be packed stays as it is.
    """
    with suppress(OSError), _lock(path) as lock:
        if not _taken(lock) or sum(1 for _ in _loose(path / "objects")) < MANY or os.fork():
            return
        # The lock was taken before the fork, and is held until this is over.
        os.nice(10)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        try:
            _pack(path, MANY)
        finally:
            os._exit(0)


@contextmanager
def unpacked(path: Path) -> Iterator[None]:
    """Wait until nobody packs the repository, and let nobody do so meanwhile."""
    with _lock(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def await_packing(path: Path) -> None:
    """Return when nobody packs the repository. One that is not there, or cannot be locked, nobody does."""
    with suppress(OSError), unpacked(path):
        pass


def _lock(path: Path) -> IO[bytes]:
    return (path / "megagraph.packing").open("ab")


def _taken(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def repack(path: Path, *, dry_run: bool = False) -> int:
    """Keep only what the branches of the repository at `path` need, in one pack; the bytes of its objects then.

    Nobody may write meanwhile. A kill at any moment leaves each object that is needed there at least once. With
    `dry_run` nothing is changed.
    """
    with unpacked(path):
        return _repack(path, dry_run)


def _repack(path: Path, dry_run: bool) -> int:
    repo = pygit2.Repository(str(path))
    builder = pygit2.PackBuilder(repo)
    builder.set_threads(1)
    needed = reachable(repo)
    for oid in needed:
        builder.add(oid)
    making, packs = path / "repack", path / "objects" / "pack"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        if needed:
            builder.write(str(making))
        # The pack before its index, by which it is found.
        made = sorted(making.iterdir(), key=lambda file: file.suffix == ".idx")
        size = sum(file.stat().st_size for file in made)
        if dry_run:
            return size
        packs.mkdir(exist_ok=True)
        old = [file for file in packs.iterdir() if file.name not in {new.name for new in made}]
        for file in made:
            _sync(file)
            file.replace(packs / file.name)
        _sync(packs)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    for file in sorted(old, key=lambda file: file.suffix != ".idx"):
        file.unlink(missing_ok=True)
    for _, file in list(_loose(path / "objects")):
        file.unlink(missing_ok=True)
    return size


def size_of(path: Path) -> int:
    """The bytes of the objects of a repository."""
    with unpacked(path):
        return sum(file.stat().st_size for file in (path / "objects").rglob("*") if file.is_file())


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
