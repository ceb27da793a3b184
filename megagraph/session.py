"""One process's work on a run: from where it was left to where it stops, and the checks if it is at its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained, GraphInterrupt

from megagraph.agent import TOOLBOX
from megagraph.approvals import Approve
from megagraph.control import Word, listening
from megagraph.errors import LimitReached, SandboxUnavailable
from megagraph.events import TOKENS
from megagraph.final import judge
from megagraph.garbage import seldom_collected
from megagraph.home import Home
from megagraph.ledger import Ledger
from megagraph.limits import NEARLY, NOTHING, Limits, Meter, Pool, Use
from megagraph.models import ModelChoice, Models
from megagraph.organisation import Organisation
from megagraph.outside_tools import OutsideTools, tokens_of
from megagraph.prices import Price, Prices, find_price
from megagraph.programs.sandbox import Sandbox, choose_sandbox
from megagraph.prompts import Prompts
from megagraph.reviewer import reviewer_schemas
from megagraph.scenario import Scenario
from megagraph.specs import BOSS, AgentSpec, Report
from megagraph.state import AgentState
from megagraph.stream import Stream
from megagraph.team import AgentGraph, agent_graph
from megagraph.tracing import is_traced, run_config

if TYPE_CHECKING:
    from megagraph.workers.forkserver import ForkServer

Status = Literal["running", "done", "paused", "asking", "failed", "interrupted"]
"""`paused`: by a person or a limit; `asking`: waits for a person; `failed`: the boss could not go on;
`interrupted`: its process died. All but `done` can be resumed."""

Drive: TypeAlias = Callable[..., Awaitable[dict[str, Any]]]
"""What runs a graph to where it stops: it is called like `AgentGraph.ainvoke`, and returns the state as that does."""

_LOSSES = 3
"""How often a run goes on by itself after a worker has died. What dies each time will die again."""

REHEARSAL_NOTE = "This is a rehearsal: a scripted model plays every agent, no language model is called."


@dataclass
class Session:
    """The work itself. Whoever starts it holds the run's lock."""

    home: Home
    run: str
    scenario: Scenario
    choice: ModelChoice
    limits: Limits
    prompts: Prompts
    unsafe_programs: bool
    prices: Prices = field(default_factory=dict)
    callbacks: Sequence[BaseCallbackHandler] = ()
    """Handlers of LangChain that are told of every node, model call and tool call."""
    pool: Pool | None = None
    """Limits that it shares with other runs."""
    approve: Approve = field(default_factory=Approve)
    outside: OutsideTools = field(default_factory=OutsideTools)
    drive: Drive = AgentGraph.ainvoke
    workers: int = 0
    """Processes besides this one, which work for the boss's team."""
    forks: ForkServer | None = None
    """What they are forked from."""
    stream: Stream = field(default_factory=Stream)
    _org: Organisation | None = None
    _stop: str = ""
    _hearing: asyncio.Task[None] | None = None
    """A task that nobody keeps may be collected before its end."""
    _losses: int = 0
    """How often a worker has died."""

    def stop(self, reason: str) -> None:
        """Let every agent stop at its next step."""
        self._stop = reason
        if self._org is not None:
            self._org.stop(reason)

    async def answers_have_come(self) -> None:
        """Hand answers that were written to the ledger to those who asked."""
        answers = await asyncio.to_thread(self._ledger.answers)
        if self._org is not None:
            self._org.take_answers(answers)

    async def work(self) -> None:
        """Work until the run is done, stopped, or waits for a person."""
        row = await asyncio.to_thread(self.home.find, self.run)
        before = row["seconds"] or 0.0
        schemas = TOOLBOX.schemas(self.prompts.tools)
        meter = Meter(
            self.limits,
            used=await self._used(),
            seconds=before,
            pool=self.pool,
            described=tokens_of(schemas),
            ask_above=self.approve.cost_usd,
        )
        # The sandbox is tried with a program that runs elsewhere, and meanwhile libraries are imported here.
        (sandbox, why_not), prices, _ = await asyncio.gather(
            asyncio.to_thread(_sandbox, self.unsafe_programs),
            asyncio.to_thread(prices_of, self.choice, self.prices),
            asyncio.to_thread(self.choice.warm),
        )
        try:
            if not self.workers:
                # With workers, what is done elsewhere on the strength of a checkpoint might be durable before it.
                await self.home.saver.know(self.run)
            with seldom_collected():
                async with self.home.scratch(self.run) as scratch, listening(self.run, self._heard, self._tokens):
                    again = True
                    while again:
                        # Those of an attempt that was stopped let nobody through any more.
                        models = Models(self.choice, schemas, self.outside)
                        reviewers = Models(self.choice, reviewer_schemas(self.prompts.reviewer_tools))
                        org = self._organisation(
                            workspace=await asyncio.to_thread(self.home.workspace, self.run),
                            models=models,
                            reviewers=reviewers,
                            meter=meter,
                            prices=prices,
                            sandbox=sandbox,
                            no_sandbox=why_not,
                            scratch=scratch,
                        )
                        try:
                            again = await self._drive(org)
                        except Exception:
                            # LangGraph may leave agents of inner teams at work when one of another team fails.
                            org.stop("the run has failed")
                            raise
                        finally:
                            await asyncio.gather(org.aclose(), models.aclose(), reviewers.aclose())
        except asyncio.CancelledError:
            self._note("paused", "stopped at once")
            raise
        except Exception as error:
            self._note("failed", f"{type(error).__name__}: {error}"[:2000])
            raise
        finally:
            self._org = None
            self.home.saver.forget(self.run)
            await self.outside.aclose()
            self.home.database.post(self._ledger.update_run(seconds=meter.seconds))
            # Raises what became of all that was written without waiting.
            await self.home.database.write()

    async def _used(self) -> Use:
        """What the run has used, by its rows."""
        return sum((await asyncio.to_thread(self._ledger.used_by)).values(), start=NOTHING)

    def _organisation(self, **parts: Any) -> Organisation:
        """The organisation of one attempt."""
        parts |= {
            "goal": self.scenario.goal,
            "ledger": self._ledger,
            "guards": self.scenario.guards,
            "prompts": self.prompts,
            "programs": self.scenario.programs,
            "approve": self.approve,
            "outside": self.outside,
            "stream": self.stream,
            "traced": is_traced(self.callbacks),
        }
        if self.forks is None:
            # What workers are made of is not even imported by who works alone.
            return Organisation(**parts)
        from megagraph.workers.crew import FrontOrganisation
        from megagraph.workers.office import Posting

        posting = Posting(
            home=self.home.path,
            run=self.run,
            scratch=parts["scratch"],
            scenario=replace(self.scenario, checks=()),
            choice=self.choice.with_script(None),
            limits=self.limits,
            prompts=self.prompts,
            prices=dict(parts["prices"]),
            sandbox=parts["sandbox"],
            no_sandbox=parts["no_sandbox"],
            approve=self.approve,
            mcp=self.outside.mcp,
            gone=self.outside.gone,
        )
        front = FrontOrganisation(**parts, shared=True)
        front.staff(self.home, posting, self.workers, self.forks)
        return front

    async def _drive(self, org: Organisation) -> bool:
        """Run the graph to where it stops. True if answers that have come meanwhile let it go on at once."""
        await org.restore()
        self._org = org
        # Some may have come since the organisation was restored, when nobody was there to hand them to.
        await self.answers_have_come()
        known = set(org.answers)
        if self._stop:
            org.stop(self._stop)
        self._note("running", "")
        org.emit(
            "run_resumed" if org.last_event else "run_started",
            model=self.choice.label,
            rehearsal=self.choice.rehearsal,
            note=REHEARSAL_NOTE if self.choice.rehearsal else "",
        )
        for label, price in org.prices.items():
            if price is None and not await asyncio.to_thread(self._ledger.said, "unpriced", "model", label):
                why = f"the price of {label} is not known, and so the cost of this run is not either"
                org.emit("unpriced", model=label, why=why)
        report = await self._run_graph(org)
        await org.settled()
        if org.lost and not self._stop and self._losses < _LOSSES:
            self._losses += 1
            # It may have kept answers of which it could not tell any more.
            org.meter.count_anew(await self._used())
            org.emit("failed", error=f"{org.lost}; its agents go on where they were", problem="worker")
            return True
        if report is not None and not org.stopped and await self._judge(org, report):
            return False
        # In this order: what is answered between the two is not open, and is found among the answers.
        open_ = len(await asyncio.to_thread(self._ledger.questions))
        if not org.stopped and await asyncio.to_thread(self._ledger.unused_answers) - known:
            return True
        self._leave(org, open_)
        return False

    async def _run_graph(self, org: Organisation) -> dict[str, Any] | None:
        """The boss's report; None where the graph stopped before it."""
        config: RunnableConfig = {"configurable": {"thread_id": self.run}, "recursion_limit": 1_000_000}
        begun = await self.home.saver.aget_tuple(config)
        start: AgentState = {
            "seat": "boss",
            "spec": org.spec(BOSS).dump(),
            "messages": [],
            "step": 0,
            "wave": 0,
            "plan": [],
            "report": None,
        }
        if org.traced:
            config = {**config, **run_config(self.run, org.goal, self.callbacks)}
        graph = agent_graph(checkpointer=self.home.saver)
        with contextlib.suppress(GraphDrained), _clock(org):
            state = await self.drive(
                graph, None if begun else start, config, context=org, durability="sync", control=org.control
            )
            report: dict[str, Any] | None = state.get("report")
            return report
        return None

    async def _judge(self, org: Organisation, report: dict[str, Any]) -> bool:
        """Note the report, run the scenario's checks, and end the run. Whether they all came to a verdict."""
        org.close(org.mailroom.close(BOSS))
        database = self.home.database
        database.post(self._ledger.update_run(report=json.dumps(report, ensure_ascii=False)))
        verdicts = []
        try:
            async for verdict in judge(org, self.scenario):
                verdicts.append(verdict.dump())
                org.emit("check", **verdict.dump())
        except GraphInterrupt:
            # A review met a limit, or a person is to be asked: the checks are run again when the run goes on.
            return False
        database.post(self._ledger.update_run(verdicts=json.dumps(verdicts, ensure_ascii=False), ended=time.time()))
        self._note("done", "")
        passed = Report.load(report).accepted and all(verdict["passed"] for verdict in verdicts)
        org.emit("run_ended", passed=passed)
        return True

    def _leave(self, org: Organisation, open_: int) -> None:
        """Note why the organisation stopped before its end, with so many questions open."""
        asking = f"{open_} open question{'s' if open_ != 1 else ''}"
        if org.failed:
            self._note("failed", org.stopped)
        elif org.stopped or not open_:
            self._note("paused", org.stopped or "stopped before its end")
        else:
            self._note("asking", asking)
        org.emit("run_paused", reason=org.stopped or asking)

    def _heard(self, word: Word) -> None:
        """Another process has something to say to this run."""
        if word == "pause":
            self.stop("paused from another process")
        else:
            self._hearing = asyncio.create_task(self.answers_have_come())

    @contextlib.contextmanager
    def _tokens(self, agent: str | None) -> Iterator[AsyncIterator[dict[str, Any]]]:
        """The tokens of an agent or of all, for another process."""
        listener = self.stream.listen(agent, TOKENS)
        try:
            yield (event.dump() async for event in listener)
        finally:
            self.stream.leave(listener)

    def _note(self, status: Status, reason: str) -> None:
        self.home.database.post(self._ledger.update_run(status=status, reason=reason))

    @property
    def _ledger(self) -> Ledger:
        return self.home.ledger(self.run)


@contextlib.contextmanager
def _clock(org: Organisation) -> Iterator[None]:
    """Hold the organisation to its wall time, also while nobody begins or ends a model call."""
    loop, meter = asyncio.get_running_loop(), org.meter
    most = meter.limits.minutes * 60
    over = LimitReached("minutes", meter.limits.minutes, BOSS).message
    timers = [
        loop.call_later(max(0.0, NEARLY * most - meter.seconds), meter.tell_what_is_near),
        loop.call_later(max(0.0, most - meter.seconds), org.stop, over),
    ]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _sandbox(unsafe: bool) -> tuple[Sandbox | None, str]:
    try:
        return choose_sandbox(unsafe=unsafe), ""
    except SandboxUnavailable as error:
        return None, str(error)


def prices_of(choice: ModelChoice, prices: Prices) -> dict[str, Price | None]:
    """What each model of a choice costs, by its label; None where nobody knows."""
    choices = (choice, *choice.others.values())
    return {c.label: find_price(c.label, base_url=c.base_url, prices=prices) for c in choices}


def boss_spec() -> AgentSpec:
    """The boss, who is given the goal and nothing else."""
    return AgentSpec(BOSS, "the boss of the organisation", "")
