"""The tools agents work on the shared files with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from megagraph.events import News
from megagraph.files.history import Author
from megagraph.files.paths import legal_path
from megagraph.files.workspace import Entry, Read, Written
from megagraph.specs import Letter
from megagraph.tools import Args, Caller, Result, Tool

Change = Literal["written", "moved", "deleted"]

MAX_READ = 60_000
"""Characters that one reading returns."""
MAX_LISTED = 400
"""Files that one listing returns."""


class ListFiles(Args):
    """Arguments of `list_files`."""

    pattern: str = ""


class ReadFile(Args):
    """Arguments of `read_file`."""

    path: str
    start_line: int = Field(default=1, ge=1)
    end_line: int | None = None


class WriteFile(Args):
    """Arguments of `write_file`."""

    path: str
    content: str
    version: str = ""


class EditFile(Args):
    """Arguments of `edit_file`."""

    path: str
    old: str = Field(min_length=1)
    new: str


class MoveFile(Args):
    """Arguments of `move_file`."""

    path: str
    to: str


class DeleteFile(Args):
    """Arguments of `delete_file`."""

    path: str


class SearchFiles(Args):
    """Arguments of `search_files`."""

    expression: str = Field(min_length=1, max_length=500)
    pattern: str = ""


async def list_files(caller: Caller, args: ListFiles, effect: str) -> Result:
    workspace = caller.org.workspace
    entries, version = await asyncio.to_thread(lambda: (workspace.files(args.pattern), workspace.head))
    return Result(shown_entries(entries, args.pattern), effects={"saw": version})


def shown_entries(entries: Sequence[Entry], pattern: str) -> str:
    """A listing as an agent reads it."""
    if not entries:
        return "No files." if not pattern else f"No files for `{pattern}`."
    lines = [f"{e.path}  {e.size} bytes  {e.last_agent}".rstrip() for e in entries[:MAX_LISTED]]
    if len(entries) > MAX_LISTED:
        lines.append(f"… and {len(entries) - MAX_LISTED} more; ask with a pattern.")
    return "\n".join(lines)


async def read_file(caller: Caller, args: ReadFile, effect: str) -> Result:
    read = await asyncio.to_thread(caller.org.workspace.read, args.path)
    return Result(shown_lines(read, args), effects={"versions": {read.path: read.version}})


def shown_lines(read: Read, args: ReadFile) -> str:
    """The lines that were asked for, as an agent reads them."""
    lines = read.text.splitlines(keepends=True)
    last = min(args.end_line or len(lines), len(lines))
    text = "".join(lines[args.start_line - 1 : last])
    shown = f"lines {args.start_line} to {last} of {len(lines)}"
    if len(text) > MAX_READ:
        text = text[:MAX_READ]
        shown = f"{shown}, cut after {MAX_READ} characters: read on from line {args.start_line + text.count(chr(10))}"
    return f"{read.path}, version {read.version[:12]}, {shown}:\n{text}"


async def write_file(caller: Caller, args: WriteFile, effect: str) -> Result:
    written: Written = await caller.org.change_files(
        "write",
        args.path,
        args.content,
        base=args.version or _seen(caller, args.path),
        author=Author(caller.spec.name, effect),
    )
    return _changed(caller, effect, written, f"wrote {written.path} ({len(args.content)} characters)")


async def edit_file(caller: Caller, args: EditFile, effect: str) -> Result:
    written: Written = await caller.org.change_files(
        "edit",
        args.path,
        args.old,
        args.new,
        base=_seen(caller, args.path),
        author=Author(caller.spec.name, effect),
    )
    return _changed(caller, effect, written, f"edited {written.path}")


async def move_file(caller: Caller, args: MoveFile, effect: str) -> Result:
    author = Author(caller.spec.name, effect)
    moved: Written = await caller.org.change_files("move", args.path, args.to, author=author)
    return _changed(caller, effect, moved, f"moved {args.path} to {args.to}", "moved")


async def delete_file(caller: Caller, args: DeleteFile, effect: str) -> Result:
    author = Author(caller.spec.name, effect)
    await caller.org.change_files("delete", args.path, base=_seen(caller, args.path), author=author)
    return Result(f"deleted {args.path}", news=news_of_files(caller, [args.path], "deleted"))


async def search_files(caller: Caller, args: SearchFiles, effect: str) -> Result:
    workspace = caller.org.workspace
    found, version = await asyncio.to_thread(lambda: (workspace.search(args.expression, args.pattern), workspace.head))
    return Result(found.text(), effects={"saw": version})


def _seen(caller: Caller, path: str) -> str | None:
    """The version in which the agent saw the file last, however it spells the path."""
    return caller.versions.get(legal_path(path))


def _changed(caller: Caller, effect: str, written: Written, what: str, change: Change = "written") -> Result:
    merged = others = ""
    if written.merged_over:
        others = ", ".join(written.merged_over)
        merged = f" Merged with changes by {others}: read it, and check that they fit together."
    note = "" if written.changed else " Nothing changed: it was like that already."
    changed = [written.path] if written.changed else []
    return Result(
        f"{what}, version {written.version[:12]}.{merged}{note}",
        effects={"versions": {written.path: written.version}},
        news=news_of_files(caller, changed, change, written.version, written.merged_over),
        letters=asides_of_merge(caller, effect, written.merged_over, [written.path]),
    )


def news_of_files(
    caller: Caller, paths: Sequence[str], change: Change, version: str = "", merged_over: Sequence[str] = ()
) -> list[News]:
    """That the agent has changed these files."""
    told = {"change": change, "version": version, "merged_over": list(merged_over)}
    return [News("file", caller.spec.name, {"path": path, **told}) for path in paths]


def asides_of_merge(caller: Caller, effect: str, merged_over: Sequence[str], paths: Sequence[str]) -> list[Letter]:
    """A word to those whose changes were merged with: lines that fit may still not go together."""
    me = caller.spec.name
    text = f"I have changed {', '.join(paths)} after you; both changes are in it. Check that they fit together."
    return [
        Letter(f"{effect}/merged/{other}", me, other, "aside", text)
        for other in merged_over
        if other != me and not caller.org.mailroom.closed(other)
    ]


FILE_TOOLS = (
    Tool("list_files", ListFiles, list_files),
    Tool("read_file", ReadFile, read_file),
    Tool("write_file", WriteFile, write_file),
    Tool("edit_file", EditFile, edit_file),
    Tool("move_file", MoveFile, move_file),
    Tool("delete_file", DeleteFile, delete_file),
    Tool("search_files", SearchFiles, search_files),
)
