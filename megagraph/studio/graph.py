"""The graph that the dev server is given. It is read like any other; to run it is to start or resume its run.

The server runs a graph by streaming it. An organisation needs more around its graph: the run's lock, its journal, its
mailroom, the process that writes its files. So `astream` lets a `Session` do the work, hands on what LangGraph streams
from inside it, and ends when the session does. Answers are rows of the ledger before anything is resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import Context
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.graph import Graph
from langgraph.errors import InvalidUpdateError
from langgraph.types import Command, StateUpdate

from megagraph.errors import UsageError
from megagraph.mega import MegaGraph
from megagraph.run import Run
from megagraph.session import Drive
from megagraph.team import AgentGraph, Grown, agent_graph

STOP_SECONDS = 5.0
"""How long a run that the server cancels has for its safe point, before it is stopped where it is."""

_TRACING = ("callbacks", "tags", "run_id", "run_name")
"""What is taken of the server's configuration: its own keys have no place in the checkpoints of a run."""

_working: set[Run] = set()
"""The runs that work for the server now."""

INPUT = {
    "title": "Input",
    "type": "object",
    "properties": {
        "goal": {"type": "string", "title": "Goal", "description": "What is to be reached, or a scenario's name."}
    },
}
CONTEXT = {
    "title": "Context",
    "type": "object",
    "properties": {
        "run": {"type": "string", "description": "The run that is drawn: its id, the beginning of it, or `last`."},
        "root": {"type": "string", "description": "The agent from which down it is drawn; without, the boss."},
        "depth": {"type": "integer", "description": "How many levels below that agent; without, all."},
    },
}


class RunGraph(AgentGraph):
    """The graph of one run, working through the run's own session."""

    mega: MegaGraph
    run: str

    @classmethod
    def of(cls, mega: MegaGraph, run: str, grown: Grown | None = None) -> RunGraph:
        """The graph of the run with this id, which may not have begun yet. With `grown` it can be drawn."""
        graph = cast(RunGraph, agent_graph(grown, checkpointer=mega.home.saver))
        # As in `team.py`, since `compile` makes no other class.
        graph.__class__ = cls
        graph.mega, graph.run = mega, run
        return graph

    def copy(self, update: dict[str, Any] | None = None) -> RunGraph:
        """The graph itself: the server would put its own checkpointer in the place of the home's."""
        return self

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        return INPUT

    def get_context_jsonschema(self) -> dict[str, Any]:
        return CONTEXT

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        # A large organisation takes seconds to draw.
        return await asyncio.to_thread(self.get_graph, config, xray=xray)

    # --- working -----------------------------------------------------------------------------------------

    async def astream(  # type: ignore[override]  # the overloads of the base class say no more than this
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        stream_mode: str | Sequence[str] | None = None,
        subgraphs: bool = False,
        interrupt_before: Any = None,
        interrupt_after: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Start the run with `{"goal": …}`, or go on with it; what LangGraph streams of it meanwhile.

        Raises `RunBusy` where another process works on it, and `UsageError` for what cannot be, such as a fork, and
        where the run stops before its end for another reason than an open question.
        """
        asked = config or {}
        modes = [stream_mode] if isinstance(stream_mode, str) else list(stream_mode or ["values"])
        chunks: asyncio.Queue[tuple[Any, ...] | None] = asyncio.Queue()

        async def drive(graph: AgentGraph, input: Any, config: RunnableConfig, **more: Any) -> dict[str, Any]:
            theirs = cast(RunnableConfig, {key: value for key, value in asked.items() if key in _TRACING})
            state: dict[str, Any] = {}
            async for chunk in graph.astream(
                input,
                merge_configs(theirs, config),
                stream_mode=cast(Any, list({*modes, "values"})),
                subgraphs=subgraphs,
                interrupt_before=interrupt_before,
                interrupt_after=interrupt_after,
                **more,
            ):
                found = cast("tuple[tuple[str, ...], str, Any]", chunk if subgraphs else ((), *chunk))
                namespace, mode, payload = found
                if mode == "values" and not namespace:
                    state = payload
                if mode in modes:
                    chunks.put_nowait(found)
            return state

        await self._refuse_fork(asked)
        # Not as a part of the server's own run: its context would make this a subgraph of it.
        run = await asyncio.create_task(self._begin(input, drive), context=Context())
        _working.add(run)
        result = asyncio.create_task(run.result())
        result.add_done_callback(lambda _: chunks.put_nowait(None))
        try:
            while (chunk := await chunks.get()) is not None:
                if isinstance(stream_mode, str) and not subgraphs:
                    yield chunk[2]
                elif isinstance(stream_mode, str):
                    yield chunk[0], chunk[2]
                else:
                    yield chunk if subgraphs else chunk[1:]
        finally:
            if not result.done():
                await _stop(run)
            _working.discard(run)
        outcome = await result
        if outcome.status not in ("done", "asking"):
            raise UsageError(f"run {run.id[:8]} is {outcome.status}: {outcome.reason}.", "Run it again to go on.")

    async def _begin(self, input: Any, drive: Drive) -> Run:
        known = await asyncio.to_thread(self._known)
        goal = input.get("goal") if isinstance(input, Mapping) else None
        if known is None:
            if not isinstance(goal, str) or not goal.strip():
                raise UsageError(f"thread {self.run} is no run of {self.mega.home.path}.", 'Start one: {"goal": "…"}.')
            return await self.mega.start(goal, id=self.run, drive=drive)
        if goal and goal not in (known["goal"], known["scenario"]):
            raise UsageError(f"run {self.run[:8]} has a goal already.", "Another goal is for a new thread.")
        if isinstance(input, Command):
            await self._answer(input)
        return await self.mega.resume(self.run, drive=drive)

    async def _answer(self, command: Command[Any]) -> None:
        """Write down the answers in `Command(resume=…)`: one, or several by the ids of interrupts or questions."""
        if command.goto or command.update:
            raise UsageError("the state of a run is not changed while it is resumed.", "Give `resume` alone.")
        given = command.resume
        if given is None:
            return
        with contextlib.ExitStack() as held:
            # Whoever else works on the run is not to be given an answer that this caller is told has failed.
            await asyncio.to_thread(lambda: held.enter_context(self.mega.home.lock(self.run)))
            ledger = self.mega.home.ledger(self.run)
            open_ = [question["id"] for question in await asyncio.to_thread(ledger.questions)]
            state = await self.aget_state({"configurable": {"thread_id": self.run}})
            asked = {i.id: i.value["id"] for i in state.interrupts if isinstance(i.value, Mapping) and "id" in i.value}
            answers = _by_question(given, open_, asked, self.run)
            given_before = await asyncio.to_thread(ledger.answers)
            for question, answer in answers.items():
                if given_before.get(question, answer) != answer:
                    raise UsageError(f"question {question} is answered already.", "Run it without `resume`.")
            run = await asyncio.to_thread(self.mega.open, self.run)
            for question, answer in answers.items():
                # One may have answered others of its kind.
                if question in {row["id"] for row in await asyncio.to_thread(run.questions)}:
                    await run.answer(question, answer)

    def _known(self) -> dict[str, Any] | None:
        """The run's row, where there is a run."""
        rows = self.mega.home.database.read("SELECT * FROM runs WHERE run = ?", (self.run,))
        return dict(rows[0]) if rows else None

    # --- changing ----------------------------------------------------------------------------------------

    async def abulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """Change the state at the head of a run at rest. Raises `InvalidUpdateError` for what would fork the thread."""
        await self._refuse_fork(config)
        with contextlib.ExitStack() as held:
            await asyncio.to_thread(lambda: held.enter_context(self.mega.home.lock(self.run)))
            state = await self.aget_state(config)
            copies = any(update.as_node == "__copy__" for step in supersteps for update in step)
            if copies or len(state.next) != 1 or state.next[0] not in ("think", "act", "wait"):
                raise self._no_fork(state.config)
            # Which node comes next is what the last one said, and would be lost with an update in its name.
            steps = [
                [
                    update._replace(values=cast(Any, Command(update=update.values, goto=state.next[0])))
                    for update in step
                ]
                for step in supersteps
            ]
            return await super().abulk_update_state(config, steps)

    async def _refuse_fork(self, config: RunnableConfig) -> None:
        """Raise `InvalidUpdateError` where the configuration asks for another checkpoint than the latest."""
        where = config.get("configurable", {})
        if not where.get("checkpoint_id"):
            return
        place = {"thread_id": self.run, "checkpoint_ns": where.get("checkpoint_ns", "")}
        head = await self.mega.home.saver.aget_tuple({"configurable": place})
        if head is None or head.config["configurable"]["checkpoint_id"] != where["checkpoint_id"]:
            raise self._no_fork(config)

    def _no_fork(self, config: RunnableConfig) -> InvalidUpdateError:
        at = config.get("configurable", {}).get("checkpoint_id", "now")
        # An error that the server answers with one line instead of "internal".
        return InvalidUpdateError(
            f"a run is not forked in its thread. Branch it: `megagraph branch {self.run[:8]} --at {at} --run`."
        )


def _by_question(given: Any, open_: Sequence[str], asked: Mapping[str, str], run: str) -> dict[str, str]:
    """The answers by question, from one answer or from answers by id. `asked` are the questions by interrupt."""
    ids = {question: question for question in (*asked.values(), *open_)} | dict(asked)
    if isinstance(given, Mapping) and given and given.keys() <= ids.keys():
        return {ids[id_]: _text(answer) for id_, answer in given.items()}
    if len(open_) == 1:
        return {open_[0]: _text(given)}
    raise UsageError(
        f"run {run[:8]} has {len(open_) or 'no'} open questions.",
        f'Answer by id, {{"resume": {{ID: "…"}}}}: {", ".join(asked or open_)}.' if open_ else "Leave `resume` out.",
    )


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


async def stop_all() -> None:
    """Bring every run that works for the server to a stop."""
    await asyncio.gather(*map(_stop, _working), return_exceptions=True)


async def _stop(run: Run) -> None:
    """Bring a run to a stop: at a safe point, or else at once."""
    run.stop("stopped through the server")
    result = asyncio.ensure_future(run.result())
    await asyncio.wait([result], timeout=STOP_SECONDS)
    if not result.done():
        await run.abort()
