"""The dev server on a home, as LangGraph's own client sees it: a real server in a child process."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from tests.commands import Program, child_env, ended, spawn, until, write_scenario

pytest.importorskip("langgraph_api", reason="the extra `studio` is not installed")

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

ASKING = """
from megagraph.rehearsal import Script, call, finish, recruit, wait_for, write_file

def boss(brief):
    heard = yield recruit(
        {"name": "lead", "role": "lead", "instructions": "recruit"},
        {"name": "busy", "role": "worker", "instructions": "write"},
    )
    reports = yield from wait_for(heard, ["lead", "busy"])
    yield finish(" | ".join(sorted(reports.values())))

def lead(brief):
    heard = yield recruit({"name": "deep", "role": "worker", "instructions": "ask"}, work_on=True)
    heard = yield call("ask_human", question="What does lead need?")
    mine = heard.results[0]
    reports = yield from wait_for(heard, ["deep"])
    yield finish(f"lead: {mine}; {reports['deep']}")

def deep(brief):
    heard = yield [call("ask_human", question="First?"), call("ask_human", question="Second?")]
    yield finish("deep: " + ", ".join(heard.results))

def busy(brief):
    yield write_file("busy.txt", "x")
    yield finish("busy", ["busy.txt"])

script = Script({"boss": boss, "lead": lead, "deep": deep, "busy": busy})
"""
"""Three questions: one of a lead at its desk, and two in one turn of its member."""

SLOW = """
import time
from megagraph.rehearsal import Script, finish, write_file

def boss(brief):
    for n in range(200):
        time.sleep(0.05)
        yield write_file("n.txt", str(n))
    yield finish("slow", ["n.txt"])

script = Script({"boss": boss})
"""

Served: TypeAlias = Callable[[Callable[[LangGraphClient], Awaitable[Any]]], Any]

AGENTS = ("lead", "busy", "deep")


@contextmanager
def serving(home: Path, *args: str | Path) -> Iterator[str]:
    """A dev server on this home, and its address."""
    said = home.with_suffix(".log")
    argv = [sys.executable, "-m", "megagraph", "studio", "--no-browser", "--port", "0", *map(str, args)]
    with said.open("w") as log:
        child = subprocess.Popen(argv, env=child_env(home), stdout=log, stderr=log)
    try:
        until(lambda: bool(re.search(r"(http://127\.0\.0\.1:\d+)\n", said.read_text())))
        yield re.findall(r"at (http://127\.0\.0\.1:\d+)\n", said.read_text())[0]
    finally:
        child.terminate()
        assert child.wait(60) is not None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    home = tmp_path_factory.mktemp("studio") / "home"
    with serving(home, "--model", "rehearsal") as address:
        yield home, address


@pytest.fixture
def mg(server: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program in this process, on the home that is served."""
    monkeypatch.setenv("MEGAGRAPH_HOME", str(server[0]))
    return Program(server[0], capsys)


@pytest.fixture
def served(server: tuple[Path, str]) -> Served:
    """Calls a function with a client of the server."""

    async def call(work: Callable[[LangGraphClient], Awaitable[Any]]) -> Any:
        async with get_client(url=server[1]) as client:
            return await work(client)

    return lambda work: asyncio.run(call(work))


def begun(mg: Program, folder: Path, rehearsal: str = ASKING, *args: str) -> dict[str, Any]:
    """A run made by the program, as far as it gets."""
    scenario = write_scenario(folder, rehearsal, "checks: []\n")
    result: dict[str, Any] = json.loads(mg("run", scenario, "--json", *args).out)
    return result


async def when(look: Callable[[], Awaitable[Any]], good: Callable[[Any], bool] = bool) -> Any:
    """What is seen, once it is as it should be."""
    end = time.monotonic() + 120
    while not good(seen := await look()):
        assert time.monotonic() < end, seen
        await asyncio.sleep(0.05)
    return seen


async def listed(client: LangGraphClient, run: str, status: str) -> Any:
    """The run's thread, once it is listed with this status."""
    wanted = {"status": status}
    return (await when(lambda: client.threads.search(ids=[run], metadata=wanted)))[0]


async def parts(stream: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in stream]


def named(state: Any) -> set[str]:
    """The agents in a nested state."""
    found = set()
    for task in state["tasks"]:
        found |= {task["name"]} | (named(task["state"]) if task["state"] else set())
    return found


def test_a_run_of_the_program_is_listed_drawn_read_answered_and_ended(
    mg: Program, served: Served, tmp_path: Path
) -> None:
    result = begun(mg, tmp_path / "ask")
    run, other = result["run"], begun(mg, tmp_path / "two")["run"]
    assert result["status"] == "asking"

    async def look(client: LangGraphClient) -> Any:
        thread = await listed(client, run, "asking")
        assert thread["metadata"]["goal"] == "Write a program that says hello."
        assistant = await client.assistants.get(run)
        assert assistant["config"]["configurable"] == {"run": run}
        drawn = await client.assistants.get_graph(run, xray=True)
        names = {part for node in drawn["nodes"] for part in str(node["id"]).split(":")}
        assert set(AGENTS) <= names
        part = await client.assistants.create("megagraph", {"configurable": {"run": run, "root": "lead", "depth": 1}})
        drawn = await client.assistants.get_graph(part["assistant_id"], xray=True)
        names = {part for node in drawn["nodes"] for part in str(node["id"]).split(":")}
        assert "deep" in names
        assert "busy" not in names
        flat = await client.assistants.create("megagraph", {"configurable": {"run": run, "depth": 1}})
        drawn = await client.assistants.get_graph(flat["assistant_id"], xray=True)
        names = {part for node in drawn["nodes"] for part in str(node["id"]).split(":")}
        assert names & set(AGENTS) == {"lead", "busy"}
        assert "team|lead|team|deep" in await client.assistants.get_subgraphs(run, recurse=True)

        state: Any = await client.threads.get_state(run, subgraphs=True)
        assert set(AGENTS) <= named(state)
        team = {"checkpoint_ns": state["tasks"][0]["state"]["checkpoint"]["checkpoint_ns"]}
        history = await client.threads.get_history(run, checkpoint=team)
        assert [step["next"] for step in history][-1] == ["__start__"]
        asked = {i["value"]["question"]: i["id"] for i in state["interrupts"]}
        assert set(asked) == {"First?", "What does lead need?"}
        return asked

    async def answer(client: LangGraphClient) -> Any:
        asked: dict[str, str] = await look(client)
        # One answer for two questions is refused, and says what to do.
        said = await parts(client.runs.stream(run, "megagraph", command={"resume": "gold"}))
        assert "2 open questions" in said[-1].data["message"]
        assert all(id_ in said[-1].data["message"] for id_ in asked.values())
        resume = {asked["First?"]: "one", asked["What does lead need?"]: "gold"}
        said = await parts(
            client.runs.stream(
                run, run, command={"resume": resume}, stream_mode=["updates", "messages-tuple"], stream_subgraphs=True
            )
        )
        assert any(part.event.startswith("updates|team:") for part in said), "what happens inside is streamed"
        assert (await client.threads.get(run))["status"] == "interrupted"
        [second] = (await client.threads.get_state(run))["interrupts"]
        assert second["value"]["question"] == "Second?", "the answer to the first is not taken for the second"
        await client.runs.wait(run, run, command={"resume": "two"})
        state: Any = await client.threads.get_state(run)
        thread = await listed(client, run, "done")
        assert (state["next"], state["interrupts"], thread["status"]) == ([], [], "idle")
        summary: str = state["values"]["report"]["summary"]
        return summary

    summary = served(answer)
    assert "lead: The answer: gold; deep: The answer: one, The answer: two" in summary
    shown = json.loads(mg("show", run, "--json").out)
    assert (shown["status"], shown["report"]["summary"]) == ("done", summary)
    assert json.loads(mg("show", other, "--json").out)["status"] == "asking"


def test_a_run_goes_from_server_to_program_and_back(mg: Program, served: Served, tmp_path: Path) -> None:
    scenario, run = write_scenario(tmp_path / "ask", ASKING, "checks: []\n"), str(uuid4())

    async def start(client: LangGraphClient) -> None:
        await client.threads.create(thread_id=run, graph_id="megagraph")
        said = await parts(client.runs.stream(run, "megagraph", input={"goal": "  "}))
        assert "is no run of" in said[-1].data["message"]
        await client.runs.wait(run, "megagraph", input={"goal": str(scenario)})
        await listed(client, run, "asking")

    served(start)
    open_ = {q["question"]: q["id"] for q in json.loads(mg("answer", run, "--json").out)}
    assert set(open_) == {"First?", "What does lead need?"}
    mg("answer", run, open_["First?"], "one")
    mg("answer", run, open_["What does lead need?"], "gold")
    assert json.loads(mg("resume", run, "--json").out)["status"] == "asking"

    async def end(client: LangGraphClient) -> None:
        said = await parts(client.runs.stream(run, "megagraph", input={"goal": "Another."}))
        assert "has a goal already" in said[-1].data["message"]
        [second] = (await client.threads.get_state(run))["interrupts"]
        await client.runs.wait(run, "megagraph", command={"resume": {second["id"]: "two"}})
        said = await parts(client.runs.stream(run, "megagraph", input=None))
        assert "is done" in said[-1].data["message"]

    served(end)
    result = json.loads(mg("show", run, "--json").out)
    assert result["status"] == "done"
    assert "lead: The answer: gold; deep: The answer: one, The answer: two" in result["report"]["summary"]


def test_two_processes_do_not_work_on_one_run(mg: Program, served: Served, tmp_path: Path) -> None:
    child = spawn(mg.home, "run", write_scenario(tmp_path / "slow", SLOW, "checks: []\n"), "--json")
    until(lambda: mg("runs", "--json").out.count('"running"') == 1)
    run = next(row["run"] for row in json.loads(mg("runs", "--json").out) if row["status"] == "running")

    async def interfere(client: LangGraphClient) -> None:
        thread = await listed(client, run, "running")
        assert thread["thread_id"] == run
        said = await parts(client.runs.stream(run, "megagraph", input=None))
        assert said[-1].data["error"] == "RunBusy"
        assert f"run {run[:8]} is being worked on by another process (pid {child.pid})" in said[-1].data["message"]

    served(interfere)
    mg("pause", run)
    ended(child)

    async def work(client: LangGraphClient) -> str:
        # And the other way round; a run that the server cancels is left at a safe point.
        await listed(client, run, "paused")
        going = await client.runs.create(run, "megagraph", input=None)
        await listed(client, run, "running")
        refused = await asyncio.to_thread(lambda: ended(spawn(mg.home, "resume", run)))
        assert (refused.code, "is being worked on by another process" in refused.err) == (2, True)
        await client.runs.cancel(run, going["run_id"], wait=True)
        return str((await listed(client, run, "paused"))["metadata"]["reason"])

    assert served(work) == "stopped through the server"


def test_a_thread_is_not_forked_and_its_head_can_be_changed(mg: Program, served: Served, tmp_path: Path) -> None:
    run = begun(mg, tmp_path / "hello", SLOW, "--limit", "calls=3")["run"]

    async def change(client: LangGraphClient) -> None:
        await listed(client, run, "paused")
        head, *past = await client.threads.get_history(run, limit=4)
        old: Any = past[-1]["checkpoint"]
        said = await parts(client.runs.stream(run, "megagraph", input=None, checkpoint=old))
        assert f"megagraph branch {run[:8]} --at {old['checkpoint_id']} --run" in said[-1].data["message"]
        with pytest.raises(Exception, match="megagraph branch"):
            await client.threads.update_state(run, {"told": True}, checkpoint=old)
        with pytest.raises(Exception, match="megagraph branch"):
            await client.threads.update_state(run, None, as_node="__copy__")
        await client.threads.update_state(run, {"told": True})
        state: Any = await client.threads.get_state(run)
        assert (state["values"]["told"], state["next"]) == (True, head["next"])
        said = await parts(client.runs.stream(run, "megagraph", input=None))
        assert "limit reached: calls=3" in said[-1].data["message"], "a run that has stopped before its end says why"

    served(change)
    resumed = json.loads(mg("resume", run, "--json", "--limit", "calls=5").out)
    assert (resumed["status"], resumed["calls"]) == ("paused", 5), "the run goes on with the change"


def test_what_cannot_be_served_is_told_in_one_line(
    mg: Program, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = mg("studio", "--no-browser", "--port", server[1].rpartition(":")[2])
    assert taken.code == 2
    assert "is taken. Name another one with --port" in taken.err
    monkeypatch.setattr("megagraph.cli.serving.find_spec", lambda name: None)
    missing = mg("studio", "--no-browser", "--port", "0")
    assert missing.code == 2
    assert missing.err == (
        "megagraph: LangGraph's dev server is not installed. Install it: `pip install 'megagraph[studio]'`.\n"
    )
