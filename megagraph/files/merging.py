"""Three-way merges of single files, and the conflict that goes back to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pygit2
from pygit2.enums import FileMode

from megagraph.errors import ToolError
from megagraph.files.trees import blob_data

MAX_SHOWN = 12_000
"""Characters of a file that a conflict shows; of a larger one, the places that differ."""
MAX_NAMED = 20
"""Files that a conflict describes."""

_MARKS = ("<<<<<<<", "=======", ">>>>>>>")


@dataclass(frozen=True)
class Clash:
    """One file that could not be merged."""

    path: str
    reason: str
    agents: tuple[str, ...]
    """Who made the other change."""
    marked: str | None = None
    """The text with both sides marked."""


class Conflict(ToolError):
    """Others changed the same place. Nothing was written."""

    def __init__(self, clashes: Sequence[Clash], version: str) -> None:
        self.clashes = tuple(clashes)
        self.version = version
        """What the next attempt has to build on."""
        named = self.clashes[:MAX_NAMED]
        limit = MAX_SHOWN // max(1, len(named))
        parts = ["Conflict, nothing was written.", *(_describe(clash, limit) for clash in named)]
        if len(named) < len(clashes):
            parts.append(f"[… and {len(clashes) - len(named)} more files …]")
        remedy = f"Settle it so that both intentions are kept, then write again with version {version}."
        super().__init__("\n\n".join([*parts, remedy]))


def merge_file(
    repo: pygit2.Repository,
    path: str,
    base: pygit2.Oid | None,
    ours: pygit2.Oid | None,
    theirs: pygit2.Oid | None,
    others: tuple[str, ...],
) -> pygit2.Oid | Clash:
    """Merge two changes of one file by lines, byte for byte; None stands for an absent file.

    `others` are the agents who made theirs.
    """
    if theirs is None:
        return Clash(path, "was deleted since the version you build on", others)
    reason = "was changed since the version you build on" if base else "exists already, last changed"
    if ours is None:
        return Clash(path, reason, others)
    if any(as_text(blob_data(repo, oid)) is None for oid in (base, ours, theirs) if oid):
        return Clash(path, f"is not text and cannot be merged; it {reason}", others)

    # The markers are named after the paths given.
    def entry(name: str, oid: pygit2.Oid) -> pygit2.IndexEntry:
        return pygit2.IndexEntry(name, oid, FileMode.BLOB)

    merged = repo.merge_file_from_index(
        entry("base", base) if base else None,
        entry("yours", ours),
        entry(f"changed by {' and '.join(others)}", theirs),
    )
    assert not isinstance(merged, str)
    if base and merged.automergeable:
        return repo.create_blob(merged.contents.encode())
    return Clash(path, reason, others, merged.contents)


def as_text(content: bytes) -> str | None:
    """The text that `content` is, or None if it is binary."""
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _describe(clash: Clash, limit: int) -> str:
    who = " and ".join(f"`{agent}`" for agent in clash.agents)
    line = f"`{clash.path}` {clash.reason}{f' by {who}' if who else ''}."
    return line if clash.marked is None else f"{line}\n{_bounded(clash.marked, limit)}"


def _bounded(marked: str, limit: int) -> str:
    """`marked`; of a longer one the conflicts with three lines around each, at most `limit` characters."""
    if len(marked) <= limit:
        return marked
    lines = marked.splitlines(keepends=True)
    keep: set[int] = set()
    inside = False
    for n, line in enumerate(lines):
        if line.startswith(_MARKS):
            keep.update(range(max(0, n - 3), n + 4))
            inside = line.startswith((_MARKS[0], _MARKS[1]))
        elif inside:
            keep.add(n)
    chosen = [n for n in sorted(keep) if n < len(lines)]
    shown: list[str] = []
    for previous, n in zip([-1, *chosen], chosen, strict=False):
        if n != previous + 1:
            shown.append(f"[… {n - previous - 1} lines …]\n")
        shown.append(lines[n])
    text = "".join(shown)
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters, read the file …]\n{text[-half:]}"
