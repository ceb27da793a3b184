"""The tools agents run programs with: once from start to end, or talked with over a terminal.

A program gets a copy of the shared files as they are. What it has written there when it ends comes back as a
change by the agent that started it, under the same rules as any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from pydantic import Field

from megagraph.errors import ToolError
from megagraph.file_tools import asides_of_merge, news_of_files
from megagraph.files.folders import remove_folder
from megagraph.files.history import Author
from megagraph.files.workspace import Proposal
from megagraph.organisation import Organisation
from megagraph.programs.process import Outcome, program_argv
from megagraph.programs.process import run_program as run_to_end
from megagraph.programs.sandbox import Sandbox
from megagraph.programs.terminal import Terminals
from megagraph.tools import Args, Caller, Permit, Result, Shown, Tool

_SHOWN = 4_000
"""Characters of a program that a person is shown before it runs."""
_SHOWN_INPUT = 500


class RunProgram(Args):
    """Arguments of `run_program`."""

    path: str
    args: list[str] = []
    stdin: str = ""


class StartProgram(Args):
    """Arguments of `start_program`."""

    path: str
    args: list[str] = []


class SendInput(Args):
    """Arguments of `send_input`."""

    program: int
    text: str = ""
    until: str = ""
    seconds: float = Field(default=10.0, gt=0, le=120)


class StopProgram(Args):
    """Arguments of `stop_program`."""

    program: int


async def show_program(caller: Caller, args: RunProgram | StartProgram) -> Shown:
    """The program that is to run, as a person is asked to approve it: its command line and its text."""
    _sandbox(caller.org)
    stdin = getattr(args, "stdin", "")
    given = f"\nIts input: {stdin[:_SHOWN_INPUT]!r}" if stdin else ""
    try:
        text = (await asyncio.to_thread(caller.org.workspace.read, args.path)).text
    except ToolError:
        text = ""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n(… {len(text) - _SHOWN:,} characters more)"
    question = f"May `{caller.spec.name}` run this program?\n{shlex.join([args.path, *args.args])}{given}"
    return Shown(f"{question}\n--- {args.path}\n{shown.rstrip()}\n---" if text else question, digest)


async def run_program(caller: Caller, args: RunProgram, effect: str) -> Result:
    org = caller.org
    sandbox = _sandbox(org)
    async with org.programs_at_once:
        tree = Path(await asyncio.to_thread(mkdtemp, prefix="program-", dir=org.scratch))
        try:
            version = await asyncio.to_thread(org.workspace.materialise, tree)
            argv = program_argv(args.path, args.args, tree, org.programs)
            outcome = await run_to_end(sandbox, argv, tree, stdin=args.stdin.encode(), limits=org.programs)
        finally:
            await asyncio.to_thread(remove_folder, tree)
    return await _taken_over(caller, outcome, version, args.path, effect)


@dataclass
class _Started:
    """An interactive program: whose it is, and what it was started on."""

    owner: str
    path: str
    version: str
    tree: Path


class InteractivePrograms:
    """The interactive programs of one process of a run. They end with it."""

    def __init__(self, org: Organisation) -> None:
        self._org = org
        self._terminals = Terminals(_sandbox(org), org.programs)
        self._started: dict[int, _Started] = {}

    async def start(self, owner: str, path: str, args: list[str]) -> int:
        await self._end_forgotten()
        tree = Path(await asyncio.to_thread(mkdtemp, prefix="program-", dir=self._org.scratch))
        try:
            version = await asyncio.to_thread(self._org.workspace.materialise, tree)
            number = await self._terminals.start(program_argv(path, args, tree, self._org.programs), tree)
        except BaseException:
            await asyncio.to_thread(remove_folder, tree)
            raise
        self._started[number] = _Started(owner, path, version, tree)
        return number

    def version(self, number: int) -> str:
        """The version of the files that a program was started on."""
        return self._started[number].version

    async def send(self, owner: str, number: int, text: str, until: str, seconds: float) -> str:
        self._of(owner, number)
        return await self._terminals[number].send(text, until, seconds)

    async def stop(self, caller: Caller, number: int, effect: str) -> Result:
        started = self._of(caller.spec.name, number)
        outcome = await self._terminals.stop(number)
        del self._started[number]
        try:
            return await _taken_over(caller, outcome, started.version, started.path, effect)
        finally:
            await asyncio.to_thread(remove_folder, started.tree)

    async def close(self) -> None:
        # Their folders go with the scratch folder.
        await self._terminals.close()

    async def _end_forgotten(self) -> None:
        """End the programs of agents that have reported: they would keep their places from all others."""
        mailroom = self._org.mailroom
        for number, started in list(self._started.items()):
            if mailroom.closed(started.owner) or mailroom.places[started.owner].report is not None:
                del self._started[number]
                await self._terminals.stop(number)
                await asyncio.to_thread(remove_folder, started.tree)

    def _of(self, owner: str, number: int) -> _Started:
        started = self._started.get(number)
        if started is None or started.owner != owner:
            mine = [str(n) for n, s in self._started.items() if s.owner == owner]
            raise ToolError(
                f"you have no interactive program {number} (yours: {', '.join(mine) or 'none'}). Programs end when"
                " the run is stopped and resumed: start it again."
            )
        return started


async def start_program(caller: Caller, args: StartProgram, effect: str) -> Result:
    programs = _interactive(caller.org)
    number = await programs.start(caller.spec.name, args.path, args.args)
    said = await programs.send(caller.spec.name, number, "", "", 10.0)
    text = f"program {number} is started. It says:\n{said}"
    return Result(text, effects={"saw": programs.version(number)})


async def send_input(caller: Caller, args: SendInput, effect: str) -> Result:
    programs = _interactive(caller.org)
    said = await programs.send(caller.spec.name, args.program, args.text, args.until, args.seconds)
    return Result(said or "(it says nothing)")


async def stop_program(caller: Caller, args: StopProgram, effect: str) -> Result:
    return await _interactive(caller.org).stop(caller, args.program, effect)


def _interactive(org: Organisation) -> InteractivePrograms:
    if org.interactive is None:
        programs = InteractivePrograms(org)
        org.interactive = programs
        org.at_end(programs.close)
        return programs
    assert isinstance(org.interactive, InteractivePrograms)
    return org.interactive


def _sandbox(org: Organisation) -> Sandbox:
    if org.sandbox is None:
        raise ToolError(f"programs cannot be run here: {org.no_sandbox}")
    return org.sandbox


async def _taken_over(caller: Caller, outcome: Outcome, version: str, path: str, effect: str) -> Result:
    """The outcome as the agent reads it, and the files the program wrote as a change of the agent's."""
    org, text = caller.org, outcome.text()
    if not outcome.changes:
        return Result(text, effects={"saw": version})
    author = Author(caller.spec.name, effect)
    try:
        proposal: Proposal = await org.change_files(
            "propose", version, outcome.changes, author=author, subject=f"run {path}"
        )
    except ToolError as error:
        return Result(f"{text}\nThe files it wrote were not taken over: {error}", effects={"saw": version})
    return Result(
        text,
        effects={"saw": version, "versions": dict.fromkeys(proposal.paths, proposal.version)},
        news=news_of_files(caller, proposal.paths, "written", proposal.version, proposal.merged_over),
        letters=asides_of_merge(caller, effect, proposal.merged_over, proposal.paths),
    )


PROGRAM_TOOLS = (
    Tool("run_program", RunProgram, run_program, Permit("programs", show_program)),
    Tool("start_program", StartProgram, start_program, Permit("programs", show_program)),
    Tool("send_input", SendInput, send_input),
    Tool("stop_program", StopProgram, stop_program),
)
