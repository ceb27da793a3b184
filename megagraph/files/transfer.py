"""The objects of a git repository as one stream, and a repository made of such a stream that nobody vouches for.

Each object is as git hashes it: its kind, its length, a zero byte, its content. Whoever reads it computes the ids
again, so what was changed on the way is not found under its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pygit2
from pygit2.enums import FileMode, ObjectType

from megagraph.errors import ToolError
from megagraph.files.history import change_of
from megagraph.files.packing import pack
from megagraph.files.paths import legal_path
from megagraph.files.trees import reachable

MOST_BYTES = 100_000_000
"""The size of one object in a stream."""

_KINDS = {b"commit": ObjectType.COMMIT, b"tree": ObjectType.TREE, b"blob": ObjectType.BLOB}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_PLAIN = {FileMode.BLOB: ObjectType.BLOB, FileMode.TREE: ObjectType.TREE}


class Readable(Protocol):
    """Where a stream comes from."""

    def read(self, size: int, /) -> bytes: ...


def dump(path: Path, tips: Iterable[str]) -> Iterator[bytes]:
    """The stream of what these commits of the repository at `path` need."""
    repo = pygit2.Repository(str(path))
    for oid in reachable(repo, tips):
        kind, data = repo.odb.read(oid)
        yield b"%s %d\0" % (_NAMES[ObjectType(kind)], len(data)) + data


def load(path: Path, stream: Readable, branches: Mapping[str, str]) -> None:
    """Make a bare repository at `path`, with these branches and the commits they stand at.

    Raises `ValueError` where the stream is none, lacks what the branches need, or has what no shared files have.
    """
    repo = pygit2.init_repository(str(path), bare=True, initial_head=next(iter(branches)))
    repo.config["gc.auto"] = 0
    while header := _header(stream):
        kind, size = header
        data = stream.read(size)
        if len(data) != size:
            raise ValueError("the files are cut short")
        if repo.odb.write(kind, data) is None:
            raise ValueError("a file cannot be kept")
    try:
        for name, commit in branches.items():
            _must_be_plain(repo, commit)
            repo.references.create(f"refs/heads/{name}", pygit2.Oid(hex=commit))
    except (KeyError, TypeError, AssertionError, OverflowError, OSError, pygit2.GitError, ToolError) as error:
        raise ValueError(f"the files are not whole ({error})") from error
    pack(path, 1)


def _header(stream: Readable) -> tuple[ObjectType, int] | None:
    header = b""
    while not header.endswith(b"\0"):
        byte = stream.read(1)
        if not byte and not header:
            return None
        header += byte
        if not byte or len(header) > 30:
            raise ValueError("the files cannot be read")
    kind, _, size = header[:-1].partition(b" ")
    if kind not in _KINDS or not size.isdigit() or int(size) > MOST_BYTES:
        raise ValueError("the files cannot be read")
    return _KINDS[kind], int(size)


def _must_be_plain(repo: pygit2.Repository, tip: str) -> None:
    """Everything that a commit needs is there, and every path may be written to a folder."""
    needed = reachable(repo, [tip])
    kinds = {oid: ObjectType(repo.odb.read_header(oid)[0]) for oid in needed}
    legal: set[str] = set()
    for oid in needed:
        found = repo[oid]
        if isinstance(found, pygit2.Tree):
            for entry in found:
                if _PLAIN.get(FileMode(entry.filemode)) != kinds[entry.id]:
                    raise ValueError(f"the files have {entry.name!r} among them, which is no plain file or folder")
                legal.add(entry.name or "")
        elif isinstance(found, pygit2.Commit):
            if len(found.parents) > 1:
                raise ValueError("the files have a history that is no line")
            change_of(found)
    if illegal := [name for name in legal if "/" in name or legal_path(name) != name]:
        raise ValueError(f"the files have the name {illegal[0]!r} among them")
