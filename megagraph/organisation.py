"""What every agent of a running organisation shares: its mailroom, ledger, files, sandbox, model and limits.

It is the context of the run's graph. It can be thrown away at any moment: all of it is made again from the
ledger, the files and the checkpoints when the run is resumed.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langgraph.errors import GraphInterrupt
from langgraph.runtime import RunControl

from megagraph.events import Event, EventKind, Stream
from megagraph.files.workspace import Workspace
from megagraph.files.writer import Writer
from megagraph.ledger import Ledger
from megagraph.limits import Meter
from megagraph.mailroom import Mailroom
from megagraph.models import Model
from megagraph.programs.sandbox import ProgramLimits, Sandbox
from megagraph.prompts import Prompts
from megagraph.specs import AgentSpec, Letter

GATHER_MOST = 2.0
"""The longest that a report waits, in seconds, for others to be read with it."""


@dataclass
class Organisation:
    """The shared parts of one run, in one process."""

    goal: str
    ledger: Ledger
    workspace: Workspace
    model: Model
    meter: Meter
    prompts: Prompts
    sandbox: Sandbox | None
    """None where programs cannot be run; the tool then says why."""
    no_sandbox: str
    """Why there is no sandbox."""
    scratch: Path
    """A folder for what is needed only while this process works."""
    programs: ProgramLimits = field(default_factory=ProgramLimits)
    stream: Stream = field(default_factory=Stream)
    control: RunControl = field(default_factory=RunControl)
    stopped: str = ""
    """Why the run is stopping, where it is."""
    failed: bool = False
    """Whether it is because the boss could not go on."""
    journal: set[tuple[str, int]] = field(default_factory=set)
    """The model calls answered in an earlier process, by agent and step."""
    done_steps: set[tuple[str, int]] = field(default_factory=set)
    """The turns of which an earlier process finished at least one tool call."""
    answers: dict[str, str] = field(default_factory=dict)
    """A person's answers, by question."""
    last_event: int = 0
    version: str = ""
    """The latest version of the shared files."""
    interactive: object = None
    """The interactive programs, once there was one; `program_tools` knows what they are."""
    _closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _usual: float | None = None
    _noted: float = field(default_factory=time.monotonic)
    mailroom: Mailroom = field(init=False)
    _writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self.mailroom = Mailroom(self._notice, self._changed)
        self._writer = Writer(self.workspace.path)

    async def restore(self) -> None:
        """Fill in what earlier processes of this run have done."""
        await asyncio.gather(asyncio.to_thread(self._restore), self._writer.start())

    def _restore(self) -> None:
        for spec, report, closed in self.ledger.agents():
            self.mailroom.add(spec, report=report, closed=closed)
        self.mailroom.restore(self.ledger.letters(), self.ledger.read_at())
        self.journal = self.ledger.journal()
        self.done_steps = self.ledger.done_steps()
        self.answers = self.ledger.answers()
        self.last_event = self.ledger.last_event()
        self.version = self.workspace.head

    def emit(self, kind: EventKind, agent: str = "", **data: Any) -> None:
        """Tell whoever listens, and keep it."""
        self.last_event += 1
        event = Event(self.last_event, time.time(), kind, agent, data)
        self.ledger.database.post(self.ledger.event(event))
        self.stream.send(event)

    def spec(self, name: str) -> AgentSpec:
        return self.mailroom.places[name].spec

    def stop(self, reason: str) -> None:
        """Let every agent stop at its next step; nothing in flight is lost."""
        if not self.stopped:
            self.stopped = reason
            self.control.request_drain(reason)
            self.mailroom.park()

    async def change_files(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The result of a method of `Workspace` that changes the shared files."""
        result, self.version = await self._writer.call(method, *args, **kwargs)
        return result

    def called(self, seconds: float) -> None:
        """A model call took so long. Leads give reports half of a usual call to arrive together."""
        self._usual = seconds if self._usual is None else self._usual + (seconds - self._usual) / 16
        self.mailroom.gather_seconds = min(GATHER_MOST, self._usual / 2)
        if time.monotonic() - self._noted > 1:
            # So that a killed process's time counts too.
            self._noted = time.monotonic()
            self.ledger.database.post(self.ledger.update_run(seconds=self.meter.seconds))

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call this when the process's work on the run ends, however it does."""
        self._closing.append(close)

    async def aclose(self) -> None:
        """End what was started for the run and cannot outlive this process's work on it."""
        for close in self._closing:
            await close()
        await self._writer.aclose()

    def take_answers(self, answers: Mapping[str, str]) -> None:
        """Hand a person's answers to those who asked; the ids of questions begin with the agent's name."""
        for question, answer in answers.items():
            if self.answers.setdefault(question, answer) == answer:
                self.mailroom.answered(question.partition("/")[0])

    def park(self) -> GraphInterrupt:
        """What a node raises to stay unfinished: it writes nothing and runs again on resume."""
        return GraphInterrupt(())

    def close(self, names: list[str]) -> None:
        """Note that these agents' work is over."""
        if names:
            self.ledger.database.post(*self.ledger.closed(names))
            for name in names:
                self.emit("closed", name)

    def deliver(self, letters: Iterable[Letter]) -> None:
        """Deliver letters whose rows are durable."""
        for x in letters:
            self.emit("letter", x.sender, to=x.to, letter=x.id, about=x.kind, text=x.text[:500])
            self.mailroom.deliver(x)

    def _notice(self, lead: str, text: str) -> None:
        letter = Letter(f"notice/{lead}/{uuid.uuid4().hex[:8]}", "notice", lead, "notice", text)
        self.ledger.database.post(self.ledger.letter(letter))
        self.deliver([letter])

    def _changed(self, agent: str, state: str, why: str) -> None:
        kinds: Mapping[str, EventKind] = {"waiting": "waiting", "asking": "asking"}
        self.emit(kinds[state], agent, why=why)
