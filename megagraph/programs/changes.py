"""What a program changed in its tree: regular files only, compared with what was there before."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

IGNORED = frozenset({"__pycache__", ".git", ".tmp"})
"""Files and folders of these names are nobody's work."""

DEPTH = 32
"""Folders in one another; what is below is not looked at."""
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Snapshot: TypeAlias = dict[str, tuple[int, int, int]]
"""Per relative POSIX path: size in bytes, time of the last change, inode.

The time is the inode's own (ctime): a program can set the other one back.
"""


class Changes(NamedTuple):
    """The files a program left different from how it found them."""

    files: dict[str, bytes | None]
    """New content by relative POSIX path, None for a deleted file."""
    notes: tuple[str, ...]
    """What was not taken over, and why, one line each."""


class Extent(NamedTuple):
    """How much there is in a tree."""

    size: int
    """Bytes on disk."""
    entries: int
    too_deep: bool
    """Are there folders in it so deep that nobody looks into them?"""


class _Entry(NamedTuple):
    path: str
    info: os.stat_result
    folder: int
    """A descriptor of the folder that it is in, good until the next entry is asked for."""


def snapshot(tree: Path) -> Snapshot:
    """The regular files of `tree` as they are. Blocks on the disk."""
    return {entry.path: _stamp(entry.info) for entry in _walk(tree) if stat.S_ISREG(entry.info.st_mode)}


def changes_since(before: Snapshot, tree: Path, most_bytes: int, most_files: int) -> Changes:
    """What differs from `before`. Blocks on the disk; nothing may be running in the tree any more.

    Files beyond `most_bytes` in all, or beyond `most_files` in number, are left out and named. Folders that
    go too deep for other programs to handle are removed.
    """
    files: dict[str, bytes | None] = {}
    refused: list[str] = []
    found: set[str] = set()
    bottomless: set[str] = set()
    left = most_bytes
    for entry in _walk(tree, mend=True):
        mode = entry.info.st_mode
        if stat.S_ISREG(mode):
            found.add(entry.path)
        if stat.S_ISDIR(mode):
            if entry.path.count("/") + 1 >= DEPTH:
                refused.append(f"{_shown(entry.path)} (too deep)")
                bottomless.add(entry.path.partition("/")[0])
        elif not stat.S_ISREG(mode):
            refused.append(f"{_shown(entry.path)} ({_KINDS.get(stat.S_IFMT(mode), 'not a file')})")
        elif before.get(entry.path) == _stamp(entry.info):
            continue
        elif not _is_text(entry.path):
            refused.append(f"{_shown(entry.path)} (its name is not UTF-8)")
        elif entry.info.st_size > left or len(files) >= most_files:
            refused.append(f"{_shown(entry.path)} (too much: {entry.info.st_size} bytes)")
        else:
            files[entry.path] = content = _read(entry, left)
            left -= len(content)
    for name in bottomless:
        # Whoever clears the tree away may well do so by recursion.
        subprocess.run(["rm", "-rf", "--", name], cwd=tree, check=False)
    # A file whose place was taken by something else counts as deleted.
    files |= {path: None for path in before if path not in found}
    notes = [f"not taken over: {', '.join(refused[:8])}"] if refused else []
    if len(refused) > 8:
        notes[0] += f" and {len(refused) - 8} more"
    return Changes(files, tuple(notes))


def extent(tree: Path, most_entries: int) -> Extent:
    """How much there is in `tree` now; counting ends at `most_entries`. Blocks on the disk."""
    size = entries = 0
    too_deep = False
    for entry in _walk(tree, ignored=frozenset()):
        size += entry.info.st_blocks * 512
        entries += 1
        # What is below is not counted, so nothing may be put there.
        too_deep = too_deep or (stat.S_ISDIR(entry.info.st_mode) and entry.path.count("/") + 1 >= DEPTH)
        if entries > most_entries:
            break
    return Extent(size, entries, too_deep)


def _walk(tree: Path, ignored: frozenset[str] = IGNORED, mend: bool = False) -> Iterator[_Entry]:
    # By descriptors, so that neither a swapped link nor an over-long path leads anywhere else. Folders that
    # were made unreadable are opened up with `mend`; while a program runs that could be led astray by a link.
    for folder, folders, files, handle in os.fwalk(tree):
        inside = os.path.relpath(folder, tree)
        prefix = "" if inside == os.curdir else inside.replace(os.sep, "/") + "/"
        for name in sorted({*folders, *files} - ignored):
            try:
                info = os.stat(name, dir_fd=handle, follow_symlinks=False)
                if mend and stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                    os.chmod(name, stat.S_IRWXU, dir_fd=handle)
            except OSError:
                continue
            yield _Entry(prefix + name, info, handle)
        folders[:] = [name for name in folders if name not in ignored and prefix.count("/") + 1 < DEPTH]


def _read(entry: _Entry, most: int) -> bytes:
    name = entry.path.rpartition("/")[2]
    if not entry.info.st_mode & stat.S_IRUSR:
        os.chmod(name, stat.S_IRUSR | stat.S_IWUSR, dir_fd=entry.folder)
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=entry.folder)
    with os.fdopen(handle, "rb") as file:
        return file.read(most)


def _stamp(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_ctime_ns, info.st_ino


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    shown = os.fsencode(path).decode(errors="replace")
    return shown if len(shown) <= 80 else f"{shown[:40]}…{shown[-39:]}"
