"""The tools agents work on the shared files with, and run programs on them."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from pydantic import Field

from megagraph.errors import ToolError
from megagraph.files.history import Author
from megagraph.files.workspace import Written
from megagraph.programs.process import program_argv
from megagraph.programs.process import run_program as run_in_sandbox
from megagraph.tools import Args, Caller, Result, Tool

MAX_READ = 60_000
"""Characters that one reading returns."""
MAX_LISTED = 400
"""Files that one listing returns."""


class ListFiles(Args):
    """List the shared files: path, size in bytes, and who changed it last."""

    pattern: str = Field(default="", description="A folder, or a pattern such as *.py or src/**; empty for all.")


class ReadFile(Args):
    """Read a shared file, or some of its lines."""

    path: str = Field(description="The path of the file.")
    start_line: int = Field(default=1, ge=1, description="The first line to read.")
    end_line: int | None = Field(default=None, description="The last line to read; to the end without.")


class WriteFile(Args):
    """Write a whole file. To change a file of somebody else, read it first; what was changed meanwhile elsewhere
    in it is merged, and a conflict is returned with both sides."""

    path: str = Field(description="The path of the file.")
    content: str = Field(description="Its whole content.")
    version: str = Field(default="", description="The version you build on; without, the one you read or wrote last.")


class EditFile(Args):
    """Replace one passage of a file. The old text must occur exactly once."""

    path: str = Field(description="The path of the file.")
    old: str = Field(min_length=1, description="The text to replace, with enough around it to occur only once.")
    new: str = Field(description="The text to put there.")


class MoveFile(Args):
    """Give a file another path."""

    path: str = Field(description="The path it has.")
    to: str = Field(description="The path it gets.")


class DeleteFile(Args):
    """Delete a file."""

    path: str = Field(description="The path of the file.")


class SearchFiles(Args):
    """Search the shared text files for a regular expression."""

    expression: str = Field(min_length=1, max_length=500, description="The regular expression.")
    pattern: str = Field(default="", description="Which files to search, as in list_files.")


class RunProgram(Args):
    """Run a Python file of the shared tree in the sandbox, in a copy of the tree as it is now, and return its exit
    code and output. Files it writes become shared files."""

    path: str = Field(description="The program: the path of a .py file, or the name of an allowed command.")
    args: list[str] = Field(default=[], description="Its arguments.")
    stdin: str = Field(default="", description="What it reads from standard input.")


async def list_files(caller: Caller, args: ListFiles, effect: str) -> Result:
    entries = await asyncio.to_thread(caller.org.workspace.files, args.pattern)
    if not entries:
        return Result("No files." if not args.pattern else f"No files for `{args.pattern}`.")
    lines = [f"{e.path}  {e.size} bytes  {e.last_agent}".rstrip() for e in entries[:MAX_LISTED]]
    if len(entries) > MAX_LISTED:
        lines.append(f"… and {len(entries) - MAX_LISTED} more; ask with a pattern.")
    return Result("\n".join(lines))


async def read_file(caller: Caller, args: ReadFile, effect: str) -> Result:
    read = await asyncio.to_thread(caller.org.workspace.read, args.path)
    lines = read.text.splitlines(keepends=True)
    last = min(args.end_line or len(lines), len(lines))
    text = "".join(lines[args.start_line - 1 : last])
    shown = f"lines {args.start_line} to {last} of {len(lines)}"
    if len(text) > MAX_READ:
        text = text[:MAX_READ]
        shown = f"{shown}, cut after {MAX_READ} characters: read on from line {args.start_line + text.count(chr(10))}"
    return Result(
        f"{read.path}, version {read.version[:12]}, {shown}:\n{text}",
        effects={"versions": {read.path: read.version}},
    )


async def write_file(caller: Caller, args: WriteFile, effect: str) -> Result:
    workspace = caller.org.workspace
    written = await asyncio.to_thread(
        workspace.write,
        args.path,
        args.content,
        base=args.version or caller.versions.get(args.path.removeprefix("./")),
        author=Author(caller.spec.name, effect),
    )
    return _changed(written, f"wrote {written.path} ({len(args.content)} characters)")


async def edit_file(caller: Caller, args: EditFile, effect: str) -> Result:
    written = await asyncio.to_thread(
        caller.org.workspace.edit,
        args.path,
        args.old,
        args.new,
        base=caller.versions.get(args.path.removeprefix("./")),
        author=Author(caller.spec.name, effect),
    )
    return _changed(written, f"edited {written.path}")


async def move_file(caller: Caller, args: MoveFile, effect: str) -> Result:
    author = Author(caller.spec.name, effect)
    return _changed(
        await asyncio.to_thread(caller.org.workspace.move, args.path, args.to, author=author),
        f"moved {args.path} to {args.to}",
    )


async def delete_file(caller: Caller, args: DeleteFile, effect: str) -> Result:
    author = Author(caller.spec.name, effect)
    await asyncio.to_thread(caller.org.workspace.delete, args.path, author=author)
    return Result(f"deleted {args.path}")


async def search_files(caller: Caller, args: SearchFiles, effect: str) -> Result:
    found = await asyncio.to_thread(caller.org.workspace.search, args.expression, args.pattern)
    return Result(found.text())


async def run_program(caller: Caller, args: RunProgram, effect: str) -> Result:
    org = caller.org
    if org.sandbox is None:
        raise ToolError(f"programs cannot be run here: {org.no_sandbox}")
    with tempfile.TemporaryDirectory(prefix="program-", dir=org.scratch) as folder:
        tree = Path(folder) / "tree"
        version = await asyncio.to_thread(org.workspace.materialise, tree)
        argv = program_argv(args.path, args.args, tree, org.programs)
        outcome = await run_in_sandbox(org.sandbox, argv, tree, stdin=args.stdin.encode(), limits=org.programs)
    text = outcome.text()
    if not outcome.changes:
        return Result(text)
    try:
        proposal = await asyncio.to_thread(
            org.workspace.propose,
            version,
            outcome.changes,
            author=Author(caller.spec.name, effect),
            subject=f"run {args.path}",
        )
    except ToolError as error:
        return Result(f"{text}\nThe files it wrote were not taken over: {error}")
    return Result(text, effects={"versions": dict.fromkeys(proposal.paths, proposal.version)})


def _changed(written: Written, what: str) -> Result:
    merged = (
        f" Merged with changes by {', '.join(written.merged_over)}: check that they fit." if written.merged_over else ""
    )
    note = "" if written.changed else " Nothing changed: it was like that already."
    return Result(
        f"{what}, version {written.version[:12]}.{merged}{note}",
        effects={"versions": {written.path: written.version}},
    )


FILE_TOOLS = (
    Tool("list_files", ListFiles, list_files),
    Tool("read_file", ReadFile, read_file),
    Tool("write_file", WriteFile, write_file),
    Tool("edit_file", EditFile, edit_file),
    Tool("move_file", MoveFile, move_file),
    Tool("delete_file", DeleteFile, delete_file),
    Tool("search_files", SearchFiles, search_files),
    Tool("run_program", RunProgram, run_program),
)
