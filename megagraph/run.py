"""One run: the organisation at work on a goal, from its first call to its verdict, through any number of processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained

from megagraph.agent import TOOLBOX, AgentState
from megagraph.checks import run_checks
from megagraph.errors import SandboxUnavailable, UsageError
from megagraph.events import Event, Stream
from megagraph.home import Home
from megagraph.limits import Limits, Meter
from megagraph.models import Model, ModelChoice
from megagraph.organisation import Organisation
from megagraph.prompts import Prompts
from megagraph.programs.sandbox import Sandbox, choose_sandbox
from megagraph.scenario import Scenario
from megagraph.specs import BOSS, AgentSpec, Report, Verdict
from megagraph.team import AgentGraph, agent_graph, grown_tree
from megagraph.workspace import Workspace

Status = Literal["running", "done", "paused", "asking", "failed", "interrupted"]
"""`paused`: by a person or a limit; `asking`: waits for a person; `failed`: the boss could not go on;
`interrupted`: its process died. All but `done` can be resumed."""

REHEARSAL_NOTE = "This is a rehearsal: a scripted model plays every agent, no language model is called."


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
    """Seconds the organisation has worked."""
    rehearsal: bool

    @property
    def passed(self) -> bool:
        """True if the run is done, nothing is missing, and every check has passed."""
        return (
            self.status == "done"
            and self.report is not None
            and self.report.accepted
            and all(verdict.passed for verdict in self.verdicts)
        )


class Files(Mapping[str, str]):
    """The shared files of a run as they are now: path to text. `read(path)` gives bytes."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def __getitem__(self, path: str) -> str:
        if path not in self._workspace.paths():
            raise KeyError(path)
        return self._workspace.read(path).text

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._workspace.paths()))

    def __len__(self) -> int:
        return len(self._workspace.paths())

    def read(self, path: str) -> bytes:
        """The bytes of a file, for those that are no text."""
        return self._workspace.read(path).content


class Run:
    """A run of a home. Iterate over it for its events, await `result()` for its end.

    Made by `MegaGraph.start`, `resume` or `open`. One that was only opened can be looked at.
    """

    def __init__(self, home: Home, id_: str, scenario: Scenario, stream: Stream | None = None) -> None:
        self.id = id_
        """The run's id, which is LangGraph's thread id."""
        self.scenario = scenario
        self._home = home
        self._ledger = home.ledger(id_)
        self._stream = stream
        self._org: Organisation | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = ""

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
    def config(self) -> RunnableConfig:
        """The configuration with which LangGraph's own calls address this run."""
        return {"configurable": {"thread_id": self.id}}

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
        )

    def events(self, agent: str | None = None) -> list[Event]:
        """What has happened so far, of one agent or all."""
        return self._ledger.events(agent=agent)

    def questions(self) -> list[dict[str, Any]]:
        """The open questions to a person: `id`, `agent`, `question`, `asked`."""
        rows = self._home.database.read(
            "SELECT id, agent, question, asked FROM questions WHERE run = ? AND answer IS NULL ORDER BY asked",
            (self.id,),
        )
        return [dict(row) for row in rows]

    async def __aiter__(self) -> AsyncIterator[Event]:
        """All events from the start, then the live ones until this process's work on the run has ended."""
        queue = self._stream.listen() if self._stream else None
        last = 0
        try:
            # An empty write returns when all that was sent before it is durable, and so readable.
            await self._home.database.write()
            for event in await asyncio.to_thread(self._ledger.events):
                last = event.seq
                yield event
            while queue is not None and (event_ := await queue.get()) is not None:
                if event_.seq > last:
                    yield event_
        finally:
            if queue is not None and self._stream is not None:
                self._stream.leave(queue)

    # --- steering ----------------------------------------------------------------------------------------

    async def result(self) -> Result:
        """Wait until this process's work on the run has ended; how it stands then.

        Raises what made it fail, other than what an agent did: an unusable database, a bug.
        """
        if self._task is not None:
            await asyncio.shield(self._task)
        return await asyncio.to_thread(self.outcome)

    def stop(self, reason: str = "paused by request") -> None:
        """Let every agent stop at its next step. `result()` returns when all have; nothing is lost."""
        self._stop = reason
        if self._org is not None:
            self._org.stop(reason)

    async def pause(self, reason: str = "paused by request") -> Result:
        """`stop`, and wait until all agents have."""
        self.stop(reason)
        return await self.result()

    async def abort(self) -> Result:
        """Stop at once, in the middle of model calls. What was answered is kept; the run can be resumed."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        return await asyncio.to_thread(self.outcome)

    async def answer(self, question: str, answer: str) -> None:
        """Answer an open question, by its id. Raises `UsageError` where there is none of that id."""
        open_ = {row["id"]: row["agent"] for row in self.questions()}
        if question not in open_:
            raise UsageError(
                f"run {self.id[:8]} has no open question `{question}`.",
                f"Open: {', '.join(open_) or 'none'}.",
            )
        await self._home.database.write(self._ledger.answer(question, answer))
        if self._org is not None:
            self._org.answers[question] = answer
            self._org.mailroom.answered(open_[question])

    # --- working -----------------------------------------------------------------------------------------

    def begin(self, choice: ModelChoice, limits: Limits, unsafe: bool, prompts: Prompts) -> None:
        """Go to work in this event loop, where the run was left. The run's lock is taken before this returns.

        Raises `RunBusy` where another process works on it.
        """
        lock = self._home.lock(self.id)
        lock.__enter__()
        self._stream = self._stream or Stream()

        async def work() -> None:
            try:
                await self._work(choice, limits, unsafe, prompts)
            finally:
                lock.__exit__(None, None, None)
                if self._stream:
                    self._stream.end()

        self._task = asyncio.get_running_loop().create_task(work(), name=f"megagraph-{self.id[:8]}")

    async def _work(self, choice: ModelChoice, limits: Limits, unsafe: bool, prompts: Prompts) -> None:
        home, database = self._home, self._home.database
        sandbox, why_not = await asyncio.to_thread(_sandbox, unsafe)
        calls, input_tokens, output_tokens = self._ledger.usage()
        meter = Meter(
            limits,
            calls=calls,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            seconds=self.row["seconds"] or 0.0,
        )
        model = Model(choice, TOOLBOX.schemas)
        with home.scratch(self.id) as scratch:
            org = Organisation(
                goal=self.scenario.goal,
                ledger=self._ledger,
                workspace=await asyncio.to_thread(home.workspace, self.id),
                model=model,
                meter=meter,
                prompts=prompts,
                sandbox=sandbox,
                no_sandbox=why_not,
                scratch=scratch,
                programs=self.scenario.programs,
                stream=self._stream or Stream(),
            )
            try:
                await org.restore()
                self._org = org
                if self._stop:
                    org.stop(self._stop)
                await self._drive(org, scratch)
            except asyncio.CancelledError:
                self._note("paused", "stopped at once")
                raise
            except Exception as error:
                self._note("failed", f"{type(error).__name__}: {error}"[:2000])
                raise
            finally:
                database.post(self._ledger.update_run(seconds=meter.seconds))
                self._org = None
                await database.write()
                await model.aclose()

    async def _drive(self, org: Organisation, scratch: Path) -> None:
        """Run the graph to where it stops, and the checks if it is at its end."""
        resumed = org.last_event > 0
        self._note("running", "")
        org.emit(
            "run_resumed" if resumed else "run_started",
            model=org.model.choice.label,
            rehearsal=org.model.choice.rehearsal,
            note=REHEARSAL_NOTE if org.model.choice.rehearsal else "",
        )
        graph = agent_graph(checkpointer=self._home.saver)
        begun = await self._home.saver.aget_tuple(self.config)
        start: AgentState = {
            "seat": "boss",
            "spec": org.spec(BOSS).dump(),
            "messages": [],
            "step": 0,
            "wave": 0,
            "plan": [],
            "report": None,
        }
        config: RunnableConfig = {**self.config, "recursion_limit": 1_000_000}
        state: dict[str, Any] = {}
        with contextlib.suppress(GraphDrained):
            state = await graph.ainvoke(
                None if begun else start, config, context=org, durability="sync", control=org.control
            )
        report = state.get("report")
        if report is None or org.stopped:
            self._leave(org)
            return
        org.close([BOSS] if not org.mailroom.closed(BOSS) else [])
        org.mailroom.close(BOSS)
        self._home.database.post(self._ledger.update_run(report=json.dumps(report, ensure_ascii=False)))
        verdicts = []
        async for verdict in run_checks(self.scenario, org.workspace, org.sandbox, scratch):
            verdicts.append(verdict.dump())
            org.emit("check", **verdict.dump())
        self._home.database.post(
            self._ledger.update_run(verdicts=json.dumps(verdicts, ensure_ascii=False), ended=time.time())
        )
        self._note("done", "")
        org.emit("run_ended", passed=all(verdict["passed"] for verdict in verdicts))

    def _leave(self, org: Organisation) -> None:
        """Note why the organisation stopped before its end."""
        open_ = len(self.questions())
        if org.stopped.startswith("the boss failed"):
            self._note("failed", org.stopped)
        elif org.stopped or not open_:
            self._note("paused", org.stopped or "stopped before its end")
        else:
            self._note("asking", f"{open_} open question{'s' if open_ > 1 else ''}")
        org.emit("run_paused", reason=org.stopped or f"{open_} open questions")

    def _note(self, status: Status, reason: str) -> None:
        self._home.database.post(self._ledger.update_run(status=status, reason=reason))


def _sandbox(unsafe: bool) -> tuple[Sandbox | None, str]:
    try:
        return choose_sandbox(unsafe=unsafe), ""
    except SandboxUnavailable as error:
        return None, str(error)


def boss_spec() -> AgentSpec:
    """The boss, who is given the goal and nothing else."""
    return AgentSpec(BOSS, "the boss of the organisation", "")
