"""What every agent of a running organisation shares: its mailroom, ledger, files, sandbox, model and limits.

It is the context of the run's graph. It can be thrown away at any moment: all of it is made again from the
ledger, the files and the checkpoints when the run is resumed.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphInterrupt
from langgraph.runtime import RunControl

from megagraph.approvals import EVERYONE, Approve
from megagraph.database import Statement
from megagraph.events import Event, EventKind, News, news_of_closed, news_of_letters
from megagraph.files.workspace import Workspace
from megagraph.files.writer import Writer
from megagraph.guards import Guards
from megagraph.ledger import Ledger
from megagraph.limits import NOTHING, Meter
from megagraph.mailroom import Mailroom
from megagraph.models import Asker, Models
from megagraph.outside_tools import OutsideTools
from megagraph.prices import Price
from megagraph.programs.sandbox import ProgramLimits, Sandbox
from megagraph.prompts import Prompts
from megagraph.specs import BOSS, AgentSpec, Letter, Report, owner_of
from megagraph.stream import Stream
from megagraph.tracing import call_config

GATHER_MOST = 2.0
"""The longest that a report waits, in seconds, for others to be read with it."""


class Crew(Protocol):
    """The processes that work for the boss's team."""

    def added(self, spec: AgentSpec) -> None:
        """The boss has recruited an agent."""

    async def work(self, head: str, state: dict[str, Any], place: dict[str, Any]) -> None:
        """Run the graph of an agent of the boss's team to its end, at a place among LangGraph's checkpoints.

        Raises `GraphInterrupt` where it stops before.
        """


class Front(Protocol):
    """What a process that works for a part of the organisation asks the one that has started it."""

    async def admit(self, lead: str, wave: int, wishes: Sequence[dict[str, Any]]) -> tuple[list[AgentSpec], list[str]]:
        """The recruits of a lead, with names that nobody has, and notes on what was changed. Raises `ToolError`."""


@dataclass
class Organisation:
    """The shared parts of one run, in one process."""

    goal: str
    ledger: Ledger
    workspace: Workspace
    models: Models
    meter: Meter
    reviewers: Models
    """The same models, with the tools of reviewers."""
    prompts: Prompts
    sandbox: Sandbox | None
    """None where programs cannot be run; the tool then says why."""
    no_sandbox: str
    """Why there is no sandbox."""
    scratch: Path
    """A folder for what is needed only while this process works."""
    programs: ProgramLimits = field(default_factory=ProgramLimits)
    guards: Guards = field(default_factory=Guards)
    prices: Mapping[str, Price | None] = field(default_factory=dict)
    """What each model costs; None where nobody knows."""
    stream: Stream = field(default_factory=Stream)
    control: RunControl = field(default_factory=RunControl)
    traced: bool = False
    """Whether model and tool calls are told to LangChain's callbacks."""
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
    outside: OutsideTools = field(default_factory=OutsideTools)
    """The tools that were brought from outside."""
    approve: Approve = field(default_factory=Approve)
    """What a person wants to be asked about."""
    shared: bool = False
    """Whether other processes work on the run with this one."""
    crew: Crew | None = None
    """Those other processes, for the one that has started them."""
    front: Front | None = None
    """The process that has started this one, where it is one of them."""
    before: dict[str, Sequence[BaseMessage]] = field(default_factory=dict)
    """What each lead had said and heard when it sat down at its desk."""
    last_event: int = 0
    version: str = ""
    """The latest version of the shared files."""
    rechecking: AbstractAsyncContextManager[None] = field(default_factory=asyncio.Lock)
    """Held while accepted work is examined again, so that it is done once."""
    interactive: object = None
    """The interactive programs, once there was one; `program_tools` knows what they are."""
    programs_at_once: AbstractAsyncContextManager[None] = field(init=False)
    """Held by whoever runs a program to its end: each may use much of the machine."""
    _closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _told: set[tuple[EventKind, str]] = field(default_factory=set)
    _usual: float | None = None
    _noted: float = field(default_factory=time.monotonic)
    mailroom: Mailroom = field(init=False)
    _writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self.mailroom = self._make_mailroom()
        self.mailroom.on_gone = self.meter.take_back
        self.meter.nearly = self._nearly
        self.programs_at_once = asyncio.Semaphore(self.programs.at_once)
        self._writer = Writer(self.workspace.path, self.workspace.branch)

    def _make_mailroom(self) -> Mailroom:
        return Mailroom(self._notice, self._changed)

    async def restore(self) -> None:
        """Fill in what earlier processes of this run have done."""
        await asyncio.gather(asyncio.to_thread(self._restore), self._writer.start())

    @property
    def lost(self) -> str:
        """What became of other processes that worked for the run and are gone; empty where all is well."""
        return ""

    async def heard_all(self) -> None:
        """Return when all have taken in what they were told, so that nobody counts as at work for that alone."""

    async def settled(self) -> None:
        """Return when all that was done for the run is durable, once nobody works any more."""
        await self.ledger.database.write()

    def _restore(self) -> None:
        agents = self.ledger.agents()
        for spec, report, closed in agents:
            if closed:
                self.mailroom.note_closed(spec, report)
            else:
                self.mailroom.add(spec, report)
        self._restore_parts(agents)
        self.journal = self.ledger.journal()
        last_calls: dict[str, int] = {}
        for agent, step in self.journal:
            last_calls[agent] = max(step, last_calls.get(agent, 0))
        self.mailroom.restore(self.ledger.letters(), self.ledger.read_at(), last_calls, self.ledger.rested_at())
        self.done_steps = self.ledger.done_steps()
        self.answers = self.ledger.answers()
        self.last_event = self.ledger.last_event()
        self.version = self.workspace.head

    def _restore_parts(self, agents: Sequence[tuple[AgentSpec, Report | None, bool]]) -> None:
        """Hold those again who were given a part of the limits."""
        if divided := [spec for spec, _, closed in agents if spec.part and not closed]:
            used, leads = self.ledger.used_by(), {spec.name: spec.lead for spec, _, _ in agents}
            for spec in divided:
                below = (use for name, use in used.items() if spec.name in _chain(owner_of(name), leads.__getitem__))
                self.meter.give(spec.name, spec.part, sum(below, start=NOTHING))

    def emit(self, kind: EventKind, agent: str = "", **data: Any) -> None:
        """Tell whoever listens, and keep it."""
        event = self.event(kind, agent, **data)
        self.ledger.database.post(self.ledger.event(event))

    def event(self, kind: EventKind, agent: str = "", **data: Any) -> Event:
        """The next event, told to whoever listens, for a caller that keeps it itself, with other rows."""
        if self.shared:
            # The database numbers them, and those who listen are told what is in it.
            return Event(0, time.time(), kind, agent, data)
        self.last_event += 1
        event = Event(self.last_event, time.time(), kind, agent, data)
        self.stream.send(event)
        return event

    def event_rows(self, news: Iterable[News]) -> list[Statement]:
        """The next events, told to whoever listens, for a caller that at once writes them with what they tell of."""
        return [self.ledger.event(self.event(x.kind, x.agent, **x.data)) for x in news]

    def call_config(self, agent: str, step: int) -> RunnableConfig | None:
        """What goes with a model call for tracers and for those who asked for tokens; None where there are none."""

        def tell(text: str, tool: str) -> None:
            # It is not kept, and so has no number of its own.
            data = {"step": step, "text": text, "tool": tool}
            self.stream.send(Event(self.last_event, time.time(), "token", agent, data))

        sink = tell if self.stream.wants_tokens(agent) else None
        return call_config(self.ledger.run, agent, step, sink, traced=self.traced)

    def first(self, kind: EventKind, id_: str) -> bool:
        """Whether this is the first time, in this process, that an event of this kind is due for what has this id."""
        first = (kind, id_) not in self._told
        self._told.add((kind, id_))
        return first

    def spec(self, name: str) -> AgentSpec:
        """What an agent was told. Raises `KeyError` where its work is over, and its loop at its end."""
        return self.mailroom.places[name].spec

    def chain(self, name: str) -> list[str]:
        """The agent, its lead, and so on up to the boss. Raises `KeyError` as `spec` does."""
        return _chain(name, lambda below: self.spec(below).lead)

    def stop(self, reason: str) -> None:
        """Let every agent stop at its next step; nothing in flight is lost."""
        if not self.stopped:
            self.stopped = reason
            self.control.request_drain(reason)
            self.mailroom.park()
            self.meter.let_go()
            self.models.leave()
            self.reviewers.leave()

    def asker(self, name: str) -> Asker:
        """The agent as one of those who wait for a model."""
        place = self.mailroom.places[name]
        return Asker(
            name,
            place.spec.lead,
            self.leads(name),
            lambda: (-self._held_up(name), place.spec.depth),
            self.outside_of(name),
            lambda: self.mailroom.closed(name),
        )

    def gone(self, name: str) -> bool:
        """Whether the agent was dismissed, while the run goes on."""
        return self.mailroom.closed(name) and not self.stopped

    def leads(self, name: str) -> bool:
        """Whether the agent is the boss, or has recruited."""
        place = self.mailroom.places[name]
        return not place.spec.lead or place.leads

    def outside_of(self, name: str) -> tuple[str, ...]:
        """The tools from outside that the agent has."""
        return self.outside.of(name, leads=self.leads(name))

    def _held_up(self, name: str) -> int:
        """How many agents cannot go on, or not come to their end, before this one has moved.

        Those below it; those who depend on it, one by way of another; and those who depend on a lead above it,
        whose report needs its own.
        """
        places = self.mailroom.places
        found: set[str] = set()
        asked: set[str] = set()
        todo = [(name, True)]
        while todo:
            here, below = todo.pop()
            if here in asked or self.mailroom.closed(here):
                continue
            asked.add(here)
            place = places[here]
            if below:
                found.update(place.open)
                todo += [(member, True) for member in place.open if places[member].open]
            if place.spec.lead:
                waiting = [
                    mate
                    for mate in places[place.spec.lead].open
                    if here in places[mate].spec.depends_on and not places[mate].started
                ]
                found.update(waiting)
                todo += [(mate, False) for mate in (*waiting, place.spec.lead)]
        return len(found - {name})

    async def change_files(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The result of a method of `Workspace` that changes the shared files."""
        result, self.version = await self._writer.call(method, *args, **kwargs)
        return result

    def called(self, seconds: float) -> None:
        """A model call took so long. Leads give reports half of a usual call, at most, to arrive together."""
        self._usual = seconds if self._usual is None else self._usual + (seconds - self._usual) / 16
        self.mailroom.gather_seconds = min(GATHER_MOST, self._usual / 2)
        self.note_time()

    def note_time(self) -> None:
        """Keep how long the run has worked, now and then, so that a killed process's time counts too."""
        if time.monotonic() - self._noted > 1:
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
                asker = question.partition("/")[0]
                for name in self.mailroom.asking if asker == EVERYONE else [asker]:
                    self.mailroom.answered(name)

    def park(self) -> GraphInterrupt:
        """What a node raises to stay unfinished: it writes nothing and runs again on resume."""
        return GraphInterrupt(())

    def close(self, names: list[str]) -> None:
        """Note that these agents' work is over."""
        if names:
            self.ledger.database.post(*self.ledger.closed(names), *self.event_rows(news_of_closed(names)))
            self.let_go(names)

    def let_go(self, names: Iterable[str]) -> None:
        """Let nobody of these, whose work is over, wait for a call any longer."""
        for name in names:
            self.models.dismiss(name)
            self.meter.let_go(name)

    def tell(self, id_: str, to: str, text: str) -> None:
        """Send a word from the system itself, and wake its reader. The same id is sent once in the life of a run."""
        if not self.mailroom.closed(to) and id_ not in self.mailroom.places[to].had:
            letter = Letter(id_, "notice", to, "notice", text)
            self.ledger.database.post(self.ledger.letter(letter), *self.event_rows(news_of_letters([letter])))
            self.mailroom.deliver(letter)

    def _notice(self, lead: str, text: str) -> None:
        self.tell(f"notice/{lead}/{uuid.uuid4().hex[:8]}", lead, text)

    def _nearly(self, limit: str, used: float, allowed: float) -> None:
        """Tell the boss that a limit is near, so that it can wind down."""
        id_, why = f"notice/{BOSS}/{limit}={allowed:g}", f"{limit}: {used:,.6g} of {allowed:,.6g} are used"
        if self.mailroom.closed(BOSS) or id_ in self.mailroom.places[BOSS].had:
            return
        self.emit("limit", limit=limit, used=used, allowed=allowed, reached=False, why=why)
        self.tell(
            id_,
            BOSS,
            f"A limit of the whole organisation is near: {why}. At the limit everybody stops. Wind down: recruit nobody"
            " else, let what is begun come to an end, keep what works, and hand in.",
        )

    def _changed(self, agent: str, state: str, why: str) -> None:
        kinds: Mapping[str, EventKind] = {"waiting": "waiting", "asking": "asking"}
        self.emit(kinds[state], agent, why=why)


def _chain(name: str, lead_of: Callable[[str], str]) -> list[str]:
    chain = [name]
    while lead := lead_of(chain[-1]):
        chain.append(lead)
    return chain
