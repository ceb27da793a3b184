"""What the rest relies on of LangGraph's private parts, and that a grown team is a subgraph to every public call."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.callbacks.manager import AsyncCallbackManager
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.graph import START, StateGraph
from langgraph.types import StateSnapshot
from typing_extensions import TypedDict

from megagraph import Limits, MegaGraph
from megagraph.rehearsal import RehearsalModel, Script
from megagraph.spans import Spanless, without_spans
from megagraph.specs import AgentSpec
from megagraph.team import agent_graph, grown_tree
from tests.scripts import deep_script


def spec(name: str, lead: str = "", wave: int = 0, depends_on: tuple[str, ...] = ()) -> AgentSpec:
    return AgentSpec(name, "role", "", lead=lead, wave=wave, depends_on=depends_on)


SPECS = [
    spec("boss"),
    spec("a", "boss"),
    spec("b", "boss", depends_on=("a",)),
    spec("c", "b"),
    spec("late", "boss", wave=1, depends_on=("a",)),
]


def test_the_drawing_shows_every_agent_and_who_waits_for_whom() -> None:
    graph = agent_graph(grown_tree(SPECS, "boss")).get_graph(xray=True)
    for path in ("team:a", "team:b", "team:b:team:c", "team:desk:team:late"):
        assert f"{path}:think" in graph.nodes
    team = next(iter(dict(agent_graph(grown_tree(SPECS, "boss")).get_subgraphs()).values())).get_graph()
    assert ("a", "b") in {(edge.source, edge.target) for edge in team.edges}


def test_mermaid_takes_a_deep_organisation() -> None:
    text = agent_graph(grown_tree(SPECS, "boss")).get_graph(xray=True).draw_mermaid()
    assert "boss_team" in text
    assert "b_team" in text
    assert "boss_desk" in text


def test_a_graph_in_a_notebook_is_not_sent_to_a_drawing_service() -> None:
    bundle = agent_graph(grown_tree(SPECS, "boss"))._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/vnd.mermaid"}


def names(state: StateSnapshot) -> set[str]:
    """The agents whose pending state can be reached from here."""
    found = set()
    for task in state.tasks:
        if isinstance(task.state, StateSnapshot):
            inner: Any = task.state.values.get("spec")
            if inner:
                found.add(inner["name"])
            found |= names(task.state)
    return found


def half_done(home: Path, calls: int) -> tuple[str, set[str]]:
    """A run that was stopped by a limit in the middle of its work: its id, and its agents."""

    async def work() -> tuple[str, set[str]]:
        model = RehearsalModel(script=deep_script())
        async with MegaGraph(model, home=home, limits=Limits(calls=calls)) as mega:
            run = await mega.start("Write the files.")
            result = await run.result()
            assert result.status == "paused"
            assert "calls" in result.reason
            return run.id, {spec.name for spec, _, _ in mega.home.ledger(run.id).agents()}

    return asyncio.run(work())


def test_a_fresh_process_sees_the_pending_tree_and_its_history(tmp_path: Path) -> None:
    run_id, agents = half_done(tmp_path, calls=20)
    assert {"boss", "north", "south", "north_a"} <= agents

    async def look() -> None:
        async with MegaGraph(home=tmp_path) as mega:
            run = mega.open(run_id)
            graph = run.graph()
            state = await graph.aget_state(run.config, subgraphs=True)
            assert state.next == ("team",)
            assert names(state) >= agents - {"north_b", "south_b", "north_c", "south_c"}
            assert set(graph.get_graph(xray=True).nodes) >= {"team:north:team:north_a:think"}

            north = namespace_of(state, "north")
            config: RunnableConfig = {"configurable": {"thread_id": run.id, "checkpoint_ns": north}}
            inner = await graph.aget_state(config)
            assert inner.values["spec"]["name"] == "north"
            history = [s async for s in graph.aget_state_history(config)]
            assert [s.next for s in history][-1] == ("__start__",)
            # The same through the synchronous calls.
            sync = await asyncio.to_thread(graph.get_state, run.config, subgraphs=True)
            assert names(sync) == names(state)
            assert len(await asyncio.to_thread(lambda: list(graph.get_state_history(config)))) == len(history)

    asyncio.run(look())


def namespace_of(state: StateSnapshot, name: str) -> str:
    for task in state.tasks:
        if isinstance(task.state, StateSnapshot):
            spec: Any = task.state.values.get("spec")
            if spec and spec["name"] == name and task.name != "desk":
                return str(task.state.config["configurable"]["checkpoint_ns"])
            if found := namespace_of(task.state, name):
                return found
    return ""


def test_nested_state_can_be_changed_from_outside(tmp_path: Path) -> None:
    run_id, _ = half_done(tmp_path, calls=20)

    async def change() -> None:
        async with MegaGraph(home=tmp_path) as mega:
            run = mega.open(run_id)
            graph = run.graph()
            before = await graph.aget_state(run.config, subgraphs=True)
            config: RunnableConfig = {
                "configurable": {"thread_id": run.id, "checkpoint_ns": namespace_of(before, "north")}
            }
            await graph.aupdate_state(config, {"told": True}, as_node="act")
            assert (await graph.aget_state(config)).values["told"] is True

    asyncio.run(change())


def test_a_run_stopped_half_way_goes_on_to_the_same_result(tmp_path: Path) -> None:
    run_id, _ = half_done(tmp_path / "stopped", calls=23)

    async def finish(home: Path, run: str | None, script: Script) -> tuple[dict[str, str], int]:
        async with MegaGraph(RehearsalModel(script=script), home=home, limits=Limits()) as mega:
            opened = await (mega.resume(run) if run else mega.start("Write the files."))
            result = await opened.result()
            assert result.passed
            return dict(opened.files), result.calls

    whole, _ = asyncio.run(finish(tmp_path / "whole", None, deep_script()))
    resumed, _ = asyncio.run(finish(tmp_path / "stopped", run_id, deep_script()))
    assert resumed == whole


class Said(TypedDict):
    said: str


def test_nodes_run_as_langgraph_runs_them_and_without_a_span_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans: list[str] = []
    started = AsyncCallbackManager.on_chain_start

    async def on_chain_start(self: AsyncCallbackManager, *args: Any, **kwargs: Any) -> Any:
        spans.append(str(kwargs.get("name")))
        return await started(self, *args, **kwargs)

    monkeypatch.setattr(AsyncCallbackManager, "on_chain_start", on_chain_start)

    async def node(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        # What LangGraph's own helpers and LangChain's models look for in a node.
        assert get_config()["metadata"]["langgraph_node"] == "node"
        return {"said": f"{state['said']}!"}

    graph = StateGraph(Said)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    plain, quick = graph.compile(name="plain"), graph.compile(name="quick")
    without_spans(quick)
    assert isinstance(quick.nodes["node"].node, Spanless)

    async def said(compiled: Any, **config: Any) -> Any:
        spans.clear()
        return await compiled.ainvoke({"said": "Hello"}, config or None)

    assert asyncio.run(said(plain)) == {"said": "Hello!"}
    assert spans == ["plain", "node"]
    assert asyncio.run(said(quick)) == {"said": "Hello!"}
    assert spans == ["quick"]
    told: list[str] = []

    class Listener(AsyncCallbackHandler):
        async def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            told.append(kwargs["name"])

    assert asyncio.run(said(quick, callbacks=[Listener()])) == {"said": "Hello!"}
    assert told == ["quick", "node"]

    async def streamed(compiled: Any) -> list[tuple[str, Any]]:
        found = [event async for event in compiled.astream_events({"said": "Hello"}, version="v2")]
        return [(event["event"], event["data"].get("chunk")) for event in found]

    assert asyncio.run(streamed(quick)) == asyncio.run(streamed(plain))
