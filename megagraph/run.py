"""One run: the organisation at work on a goal, from its first call to its verdict, through any number of processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig

from megagraph.approvals import HOW, Approve, Decision, matter_of
from megagraph.control import say
from megagraph.errors import UsageError
from megagraph.events import Event, EventKind
from megagraph.files.diffs import FileDiff
from megagraph.files.mapping import Files
from megagraph.files.workspace import Workspace
from megagraph.home import Home
from megagraph.ledger import Ledger
from megagraph.limits import Limits, Pool
from megagraph.models import ModelChoice
from megagraph.notebook.face import Face
from megagraph.notebook.kernel import pausing
from megagraph.outside_tools import OutsideTools
from megagraph.portal import call_in, running
from megagraph.prices import Prices
from megagraph.prompts import Prompts
from megagraph.scenario import Scenario
from megagraph.session import Drive, Session, Status
from megagraph.specs import BOSS, Evidence, Report, Verdict
from megagraph.stream import follow_from_afar, follow_here
from megagraph.sync import RunSync
from megagraph.team import AgentGraph, agent_graph, grown_tree

if TYPE_CHECKING:
    from megagraph.branches.comparison import Comparison
    from megagraph.branches.edits import Changes, Edits
    from megagraph.branches.history import Step
    from megagraph.branches.plan import BranchPlan
    from megagraph.workers.forkserver import ForkServer


@dataclass(frozen=True)
class Result:
    """How a run stands."""

    run: str
    status: Status
    reason: str
    """Why it is not done, where it is not."""
    report: Report | None
    verdicts: tuple[Verdict, ...]
    calls: int
    input_tokens: int
    output_tokens: int
    seconds: float
    """Seconds the organisation has worked. Of a branch, with those of what it kept of its parent."""
    rehearsal: bool
    cost_usd: float | None = None
    """None where the price of a model is not known."""
    not_done: tuple[str, ...] = ()
    """Of a run that is done: the agents whose work was not accepted, each with the reason."""
    evidence: tuple[Evidence, ...] = ()
    """What was found when reports were accepted or sent back, and at the end, oldest first."""

    @property
    def passed(self) -> bool:
        """True if the run is done, nothing is missing, and every check has passed."""
        return (
            self.status == "done"
            and self.report is not None
            and self.report.accepted
            and all(verdict.passed for verdict in self.verdicts)
        )


class Run(Face):
    """A run of a home. Iterate over it for its events, await `result()` for its end.

    Made by `MegaGraph.start`, `resume` or `open`. One that was only opened can be looked at.
    """

    def __init__(self, home: Home, id_: str, scenario: Scenario, broken: UsageError | None = None) -> None:
        self.id = id_
        """The run's id, which is LangGraph's thread id."""
        self.scenario = scenario
        self.broken = broken
        """What is wrong with the scenario's files, where they can no longer be read."""
        self._home = home
        self._ledger = home.ledger(id_)
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- looking -----------------------------------------------------------------------------------------

    @property
    def row(self) -> dict[str, Any]:
        return self._home.find(self.id)

    @property
    def status(self) -> Status:
        status: Status = self.row["status"]
        if status == "running" and self._task is None and not self._home.locked(self.id):
            return "interrupted"
        return status

    @property
    def at_work(self) -> bool:
        """Whether some process works on it, this one or another."""
        return self.loop is not None or self._home.locked(self.id)

    @property
    def config(self) -> RunnableConfig:
        """The configuration with which LangGraph's own calls address this run."""
        return {"configurable": {"thread_id": self.id}}

    @property
    def home(self) -> Path:
        """The folder of the home that it is in."""
        return self._home.path

    @property
    def ledger(self) -> Ledger:
        """The run's rows."""
        return self._ledger

    def graph(self) -> AgentGraph:
        """The graph of the organisation as it has grown so far: for its state, its history, its picture."""
        specs = [spec for spec, _, _ in self._ledger.agents()]
        return agent_graph(grown_tree(specs, BOSS), checkpointer=self._home.saver)

    @property
    def workspace(self) -> Workspace:
        return self._home.workspace(self.id)

    @property
    def files(self) -> Files:
        """The shared files as they are now."""
        return Files(self.workspace)

    def export(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the files to a folder. Raises `UsageError` where that would change a file there."""
        self.workspace.export(folder, overwrite=overwrite)

    def save(self, path: Path | str, *, family: bool = False, overwrite: bool = False) -> Path:
        """Write the whole run to a zip file, with its branches if `family`: `MegaGraph.load` takes it in elsewhere.

        Raises `RunBusy` while a process works on it, `UsageError` where the file is there already.
        """
        from megagraph.keeping.archive import save

        save(self._home, self.id, Path(path), family=family, overwrite=overwrite)
        return Path(path)

    def diff(self, other: Run) -> list[FileDiff]:
        """What leads from the other run's files to this one's."""
        return self.workspace.diff(other.workspace)

    def report_html(self) -> str:
        """The run as one HTML page that needs nothing else, as it stands now."""
        from megagraph.report import collect, page

        return page(collect(self, self._ledger))

    def write_report(self, path: Path | str) -> Path:
        """Write `report_html` to a file. Raises `UsageError` where a file that is no such report is there."""
        from megagraph.report import write

        return write(self.report_html(), Path(path))

    def compare(self, other: Run) -> Comparison:
        """This run and another one side by side: agents, files, verdicts, cost and time."""
        from megagraph.branches.comparison import compare

        return compare(self, other)

    def history(self, agent: str | None = None) -> list[Step]:
        """What every agent did, or one of them, step by step; each step has an address to branch at."""
        from megagraph.branches.history import history

        self._must_be_whole()
        return history(self._home, self.id, agent)

    @property
    def parent(self) -> str:
        """The id of the run that this one is a branch of; empty for one that is none."""
        return self.row["parent"] or ""

    @property
    def report(self) -> Report | None:
        """The boss's report, once there is one."""
        text = self.row["report"]
        return Report.load(json.loads(text)) if text else None

    def outcome(self) -> Result:
        """How the run stands now."""
        row = self.row
        calls, input_tokens, output_tokens = self._ledger.usage()
        return Result(
            self.id,
            self.status,
            row["reason"] or "",
            Report.load(json.loads(row["report"])) if row["report"] else None,
            tuple(Verdict(**verdict) for verdict in json.loads(row["verdicts"] or "[]")),
            calls,
            input_tokens,
            output_tokens,
            row["seconds"] or 0.0,
            bool(row["rehearsal"]),
            self._ledger.cost(),
            tuple(self._ledger.not_done()) if row["status"] == "done" else (),
            tuple(self._ledger.evidence()),
        )

    @overload
    def events(
        self,
        agent: str | None = None,
        *,
        after: int = 0,
        kinds: Collection[EventKind] | None = None,
        follow: Literal[False] = False,
    ) -> list[Event]: ...

    @overload
    def events(
        self,
        agent: str | None = None,
        *,
        after: int = 0,
        kinds: Collection[EventKind] | None = None,
        follow: Literal[True],
    ) -> AsyncIterator[Event]: ...

    def events(
        self,
        agent: str | None = None,
        *,
        after: int = 0,
        kinds: Collection[EventKind] | None = None,
        follow: bool = False,
    ) -> list[Event] | AsyncIterator[Event]:
        """What has happened so far, as a list; with `follow`, to be iterated over with `async for`.

        Following gives the same events and then the live ones, in whichever process the run is at work, until that
        process's work on it has ended; at once where none works on it. `after` is the `seq` of the last event that
        is known already. `agent` and `kinds` choose among them. Only who names `token` among the kinds
        (`megagraph.events.KINDS` are all) is told the answers as they are written, from the next model call on.
        """
        if not follow:
            return self._ledger.events(after, agent, kinds)
        if self._session is not None and self._loop is running():
            return follow_here(self._home, self.id, self._session.stream, after, agent, kinds)
        return follow_from_afar(self._home, self.id, after, agent, kinds)

    def questions(self) -> list[dict[str, Any]]:
        """The open questions to a person: `id`, `agent`, `question`, `kind` (`question` or `approval`), `asked`."""
        return self._ledger.questions()

    def __aiter__(self) -> AsyncIterator[Event]:
        """`events(follow=True)`: all of them from the start, then the live ones until the work on the run has ended."""
        return self.events(follow=True)

    # --- steering ----------------------------------------------------------------------------------------

    @property
    def sync(self) -> RunSync:
        """The calls of this part and the next, without `await`."""
        return RunSync(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which this object works on the run; None while it does not."""
        return self._loop if self._task is not None and not self._task.done() else None

    async def result(self) -> Result:
        """Wait until this process's work on the run has ended; how it stands then.

        Raises what made it fail, other than what an agent did: an unusable database, a bug.
        """
        if self._task is not None:
            async with pausing(self):
                await self._ended(self._task)
        return await asyncio.to_thread(self.outcome)

    def stop(self, reason: str = "paused by request") -> None:
        """Let every agent stop at its next step. `result()` returns when all have; nothing is lost."""
        if self._session is None:
            return
        loop = self.loop
        if loop is None or loop is running():
            self._session.stop(reason)
        else:
            loop.call_soon_threadsafe(self._session.stop, reason)

    async def pause(self, reason: str = "paused by request") -> Result:
        """`stop`, and wait until all agents have, in whichever process they work."""
        if self._session is None:
            await asyncio.to_thread(say, self.id, "pause")
            await asyncio.to_thread(self._home.await_unlocked, self.id)
        self.stop(reason)
        return await self.result()

    async def abort(self) -> Result:
        """Stop at once, in the middle of model calls. What was answered is kept; the run can be resumed."""
        if self._task is not None and (loop := self.loop) is not None:
            loop.call_soon_threadsafe(self._task.cancel)
            await asyncio.gather(self._ended(self._task), return_exceptions=True)
        return await asyncio.to_thread(self.outcome)

    async def answer(self, question: str, answer: str) -> None:
        """Answer an open question, by its id. Raises `UsageError` where there is none of that id.

        An approval takes `yes`, `yes, always` (which answers the open ones of its kind, too), or `no: reason`.
        """
        open_ = {row["id"]: row["kind"] for row in await asyncio.to_thread(self.questions)}
        if question not in open_:
            raise UsageError(
                f"run {self.id[:8]} has no open question `{question}`.",
                f"Open: {', '.join(open_) or 'none'}.",
            )
        answered = [question]
        if open_[question] == "approval":
            decision = Decision.read(answer)
            if decision is None:
                raise UsageError(f"`{answer.strip()[:60]}` is neither yes nor no.", HOW)
            if decision.always:
                answered = [id_ for id_ in open_ if matter_of(id_) == matter_of(question)]
        await self._home.database.write(*(self._ledger.answer(id_, answer) for id_ in answered))
        if self._session is not None and (loop := self.loop) is not None:
            await call_in(loop, self._session.answers_have_come())
        else:
            await asyncio.to_thread(say, self.id, "answers")

    # --- branching ---------------------------------------------------------------------------------------

    async def branch(self, at: str, edits: Edits | None = None, **changes: Unpack[Changes]) -> Run:
        """A new run that goes on from a moment of this one, which stays as it is. `MegaGraph.resume` sets it to work.

        `at` is a step such as `engine_dev:think#3` (see `history`), a checkpoint's id, `@SECONDS` since the start,
        `@2026-01-31T12:00`, or `now`. What may be changed there is in `Edits`; the same names are keywords here.
        Raises `UsageError` where the moment or a change cannot be, `RunBusy` while a process works on the run.
        """
        from megagraph.branches.edits import Edits
        from megagraph.branches.making import make_branch
        from megagraph.branches.plan import plan_branch

        def make() -> str:
            self._must_be_whole()
            with self._home.at_rest(self.id):
                return make_branch(self._home, plan_branch(self._home, self.id, at, Edits.of(edits, changes)))

        id_ = await asyncio.to_thread(make)
        goal = await asyncio.to_thread(lambda: self._home.find(id_)["goal"])
        return Run(self._home, id_, replace(self.scenario, goal=goal), self.broken)

    async def plan_branch(self, at: str, edits: Edits | None = None, **changes: Unpack[Changes]) -> BranchPlan:
        """What `branch` would keep, and what would run again. Nothing is made."""
        from megagraph.branches.edits import Edits
        from megagraph.branches.plan import plan_branch

        def plan() -> BranchPlan:
            self._must_be_whole()
            with self._home.at_rest(self.id):
                return plan_branch(self._home, self.id, at, Edits.of(edits, changes))

        return await asyncio.to_thread(plan)

    def _must_be_whole(self) -> None:
        if json.loads(self.row["settings"]).get("trimmed"):
            raise UsageError(
                f"the checkpoints of run {self.id[:8]} were pruned: it has no steps to look at or to branch from.",
                f"`megagraph show {self.id[:8]}`, `log` and `report` still tell what it did.",
            )

    # --- working -----------------------------------------------------------------------------------------

    async def begin(
        self,
        choice: ModelChoice,
        limits: Limits,
        unsafe: bool,
        prompts: Prompts,
        prices: Prices | None = None,
        callbacks: Sequence[BaseCallbackHandler] = (),
        pool: Pool | None = None,
        approve: Approve | None = None,
        outside: OutsideTools | None = None,
        drive: Drive | None = None,
        workers: int = 0,
        forks: ForkServer | None = None,
    ) -> None:
        """Go to work in this event loop, where the run was left. The run's lock is taken before this returns.

        With a `pool`, it is held to limits that it shares with other runs; `drive` runs its graph, for who wants to
        have LangGraph's stream of it; so many `workers`, forked from `forks`, are processes for the boss's team.
        Raises `RunBusy` where another process works on it.
        """
        lock = self._home.lock(self.id)
        await asyncio.to_thread(lock.__enter__)
        session = Session(
            self._home,
            self.id,
            self.scenario,
            choice,
            limits,
            prompts,
            unsafe,
            prices or {},
            callbacks,
            pool,
            approve or Approve(),
            outside or OutsideTools(),
        )
        session.drive, session.workers, session.forks = drive or session.drive, workers, forks

        async def work() -> None:
            try:
                await session.work()
            finally:
                lock.__exit__(None, None, None)
                session.stream.end()

        self._session, self._loop = session, asyncio.get_running_loop()
        self._task = self._loop.create_task(work(), name=f"megagraph-{self.id[:8]}")

    async def _ended(self, task: asyncio.Task[None]) -> None:
        """Wait for the task, in whichever loop it is, and raise what it raised."""

        async def wait() -> None:
            await asyncio.shield(task)

        await (wait() if task.done() or self._loop is None else call_in(self._loop, wait()))
