"""The events of a run: typed, followed live, from another process and after the fact."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from megagraph import MegaGraph
from megagraph.database import Database
from megagraph.events import DATA, KINDS, Event, EventKind
from megagraph.rehearsal import (
    Brief,
    RehearsalModel,
    Script,
    call,
    finish,
    read_file,
    recruit,
    talk,
    wait_for,
    write_file,
)
from megagraph.run import Result
from tests.commands import child_env
from tests.model_server import ModelServer
from tests.scripts import Play, deep_script, one

FOLLOW = """
import asyncio, json, sys
from megagraph import MegaGraph
from megagraph.database import Database
from megagraph.events import KINDS

async def main(run, kinds):
    async with MegaGraph() as mega:
        async for event in mega.open(run).events(follow=True, kinds=KINDS if kinds == "all" else None):
            print(json.dumps(event.dump()), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def follower(home: Path, run: str, kinds: str = "stored") -> subprocess.Popen[str]:
    """Another process that follows a run and prints what it is told."""
    argv = [sys.executable, "-c", FOLLOW, run, kinds]
    return subprocess.Popen(argv, env=child_env(home), stdout=subprocess.PIPE, text=True)


async def printed(child: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = await asyncio.to_thread(child.communicate, timeout=180)
    assert child.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def paced(script: Script, pace: float) -> RehearsalModel:
    return RehearsalModel(script=Script(script.parts, pace=pace))


def assert_typed(event: Event) -> None:
    """The data has the fields of its kind and no others."""
    shape: Any = DATA[event.kind]
    assert shape.__required_keys__ <= event.data.keys() <= shape.__required_keys__ | shape.__optional_keys__, event


def test_every_kind_has_its_shape() -> None:
    assert DATA.keys() == KINDS
    assert all(shape.__doc__ for shape in DATA.values())


def test_live_events_are_the_kept_ones_in_order(tmp_path: Path) -> None:
    async def work() -> tuple[list[Event], list[Event]]:
        async with MegaGraph(paced(deep_script(), 0.005), home=tmp_path) as mega:
            run = await mega.start("Write the files.")
            return [event async for event in run], run.events()

    live, kept = asyncio.run(work())
    assert [event.seq for event in live] == list(range(1, len(live) + 1))
    assert live == kept
    for event in live:
        assert_typed(event)
        assert Event.load(json.loads(json.dumps(event.dump()))) == event
    kinds = {event.kind for event in live}
    assert {"tool_started", "tool", "file", "accepted", "sent_back", "waiting", "closed"} <= kinds
    started = [(e.agent, e.data["step"], e.data["index"]) for e in live if e.kind == "tool_started"]
    ended = [(e.agent, e.data["step"], e.data["index"]) for e in live if e.kind == "tool"]
    assert sorted(started) == sorted(ended)
    assert len(set(started)) == len(started)


def test_another_process_is_told_the_same(tmp_path: Path) -> None:
    async def work() -> tuple[list[dict[str, Any]], list[Event], list[dict[str, Any]]]:
        async with MegaGraph(paced(deep_script(), 0.1), home=tmp_path) as mega:
            run = await mega.start("Write the files.")
            child = follower(tmp_path, run.id)
            first = await anext(aiter(run))
            told, result = await asyncio.gather(printed(child), run.result())
            assert first.kind == "run_started"
            assert result.status == "done"
            return told, run.events(), await printed(follower(tmp_path, run.id))

    live, kept, after = asyncio.run(work())
    assert live == after == [event.dump() for event in kept]


def test_what_is_followed_can_be_chosen(tmp_path: Path) -> None:
    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=deep_script()), home=tmp_path) as mega:
            run = await mega.start("Write the files.")
            chosen = [e async for e in run.events("north", kinds=("thought", "tool"), follow=True)]
            assert {(e.agent, e.kind) for e in chosen} == {("north", "thought"), ("north", "tool")}
            assert chosen == run.events("north", kinds=("thought", "tool"))
            last = chosen[-3].seq
            assert run.events("north", kinds=("thought", "tool"), after=last) == chosen[-2:]
            opened = mega.open(run.id)
            afar = [e async for e in opened.events("north", kinds=("thought", "tool"), after=last, follow=True)]
            assert afar == chosen[-2:]

    asyncio.run(work())


# --- tokens --------------------------------------------------------------------------------------------------

POEM = "roses are red\nviolets are blue\n"


def poet() -> Script:
    return Script({"boss": one(write_file("poem.txt", POEM), ("I am done.", finish("A poem.", ["poem.txt"])))})


def spoken(events: Sequence[Event]) -> dict[tuple[int, str], str]:
    """What the tokens come to, by step and tool."""
    said: dict[tuple[int, str], str] = {}
    for event in events:
        if event.kind == "token":
            key = event.data["step"], event.data["tool"]
            said[key] = said.get(key, "") + event.data["text"]
    return said


def assert_spoken(events: Sequence[Event]) -> None:
    said = spoken(events)
    assert json.loads(said[1, "write_file"]) == {"path": "poem.txt", "content": POEM}
    assert said[2, ""] == "I am done."
    assert json.loads(said[2, "finish"])["summary"] == "A poem."
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    for event in events:
        assert_typed(event)


@pytest.mark.parametrize("model", ["rehearsal", "openai:x", "openai:x?tools=json"])
def test_tokens_are_made_for_those_who_ask_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")

    async def work(ask: bool) -> tuple[list[Event], list[Event], Result]:
        played = RehearsalModel(script=poet()) if model == "rehearsal" else model
        async with MegaGraph(played, base_url=server.url, home=tmp_path) as mega:
            run = await mega.start("Write a poem.")
            live = [e async for e in run.events(follow=True, kinds=KINDS if ask else None)]
            return live, run.events(), await run.result()

    with ModelServer(poet()) as server:
        live, kept, result = asyncio.run(work(True))
        quiet, kept_too, same = asyncio.run(work(False))
    assert result.passed and same.passed
    assert result.output_tokens == same.output_tokens > 0
    assert result.input_tokens > 0
    assert [e for e in live if e.kind != "token"] == kept
    assert quiet == kept_too
    assert_spoken(live)


def busy(brief: Brief) -> Play:
    """Writes one file after the other."""
    for number in range(100):
        yield write_file(f"{number}.txt", f"number {number}\n")


def test_another_process_is_told_tokens_too(tmp_path: Path) -> None:
    def listen(child: subprocess.Popen[str], told: list[Event]) -> None:
        """Until it has heard a turn whole: its tokens, and that it was answered."""
        assert child.stdout is not None
        for line in child.stdout:
            told.append(Event.load(json.loads(line)))
            step = told[-1].data.get("step")
            if told[-1].kind == "thought" and (step, "write_file") in spoken(told):
                return

    async def work() -> tuple[list[Event], list[Event]]:
        told: list[Event] = []
        async with MegaGraph(paced(Script({"boss": busy}), 0.3), home=tmp_path) as mega:
            run = await mega.start("Write the files.")
            with follower(tmp_path, run.id, "all") as child:
                await asyncio.to_thread(listen, child, told)
                await run.pause()
                assert child.stdout is not None
                told += [Event.load(json.loads(line)) for line in await asyncio.to_thread(child.stdout.readlines)]
            return told, run.events()

    told, kept = asyncio.run(work())
    assert [event for event in told if event.kind != "token"] == kept
    assert spoken(told)
    for (step, tool), said in spoken(told).items():
        number = step - 1
        assert tool == "write_file"
        assert json.loads(said) == {"path": f"{number}.txt", "content": f"number {number}\n"}


def test_who_watches_makes_no_call_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that breaks streams off, and one that has none."""
    monkeypatch.setenv("OPENAI_API_KEY", "test")

    async def work(url: str) -> tuple[list[Event], Result]:
        async with MegaGraph("openai:x", base_url=url, home=tmp_path) as mega:
            run = await mega.start("Write a poem.")
            return [e async for e in run.events(follow=True, kinds=KINDS)], await run.result()

    with ModelServer(poet(), faults={"disconnect": 0.6}, seed=2) as server:
        live, result = asyncio.run(work(server.url))
        assert result.passed
        assert "retry" in {event.kind for event in live}
    with ModelServer(poet(), streams=False) as server:
        live, result = asyncio.run(work(server.url))
        assert result.passed
        assert spoken(live) == {}


def test_what_other_rows_have_is_not_kept_again_and_told_all_the_same(tmp_path: Path) -> None:
    async def work() -> None:
        def boss(brief: Brief) -> Play:
            yield write_file("a.md", "x" * 300)
            heard = yield recruit({"name": "ann", "role": "reader", "instructions": "Read."})
            yield from wait_for(heard, ["ann"])
            yield finish("done", ["a.md"])

        def ann(brief: Brief) -> Play:
            yield talk("boss", "It is long.")
            yield finish("read")

        async with MegaGraph(RehearsalModel(script=Script({"boss": boss, "ann": ann})), home=tmp_path) as mega:
            run = await mega.start("Write.")
            live = [event async for event in run if event.kind in REPEATED]
            await run.result()
            database, told = mega.home.database, run.events(kinds=tuple(REPEATED))
            assert told == live
            first = {kind: next(event.data for event in told if event.kind == kind) for kind in REPEATED}
            assert first["tool_started"]["args"] == {"path": "a.md", "content": "x" * 200}
            assert first["tool"]["ok"] is True and first["tool"]["result"]
            assert first["thought"]["calls"] == ["write_file"] and first["thought"]["input_tokens"] > 0
            said = next(event.data for event in told if event.kind == "letter")
            assert (said["to"], said["about"], said["text"]) == ("boss", "message", "It is long.")
            for kind, data in database.read("SELECT kind, data FROM events"):
                assert not json.loads(data).keys() & REPEATED.get(kind, set())
            # A tool that is still at work, or was when its process was killed, has no row of its own.
            await database.write(("DELETE FROM tool_calls", ()))
            assert run.events(kinds=("tool_started",)) == [event for event in told if event.kind == "tool_started"]

    asyncio.run(work())


REPEATED: dict[EventKind, set[str]] = {
    "tool_started": {"args"},
    "tool": {"ok", "seconds", "result"},
    "thought": {"seconds", "input_tokens", "output_tokens", "cost", "calls", "text"},
    "letter": {"to", "about", "text"},
}
"""What the rows of calls, tool calls and letters say of an event."""


# --- kills ---------------------------------------------------------------------------------------------------

TOLD_OF = {
    "thought": "calls",
    "tool": "tool_calls",
    "letter": "letters",
    "recruited": "agents WHERE lead != ''",
    "closed": "agents WHERE closed IS NOT NULL",
}
"""The rows that each of these kinds tells of."""


def test_no_kill_can_keep_a_row_without_its_event_or_an_event_without_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed to the database as one is what a kill cannot part: it is looked at after each piece."""
    commit, torn = Database._commit, set[str]()

    def commit_singly(database: Database, jobs: list[Any]) -> None:
        for job in jobs:
            commit(database, [job])
            for kind, rows in TOLD_OF.items():
                [(told,)] = database.read("SELECT count(*) FROM events WHERE kind = ?", (kind,))
                [(there,)] = database.read(f"SELECT count(*) FROM {rows}")
                if told != there:
                    torn.add(kind)

    def boss(brief: Brief) -> Play:
        team = [{"name": name, "role": name, "instructions": f"Be {name}."} for name in ("ann", "bob", "bad")]
        lines = [f"line {number}\n" for number in range(9)]
        heard = yield write_file("shared.txt", "".join(lines))
        heard = yield recruit(*team)
        while not any(kind == "notice" for _, kind, _ in heard.letters):
            heard = yield "I wait."
        yield write_file("shared.txt", "".join([*lines[:-1], "the end\n"]))
        yield call("dismiss", agents=["bob"])
        yield finish("done")
        yield finish("done, as far as it can be")

    def ann(brief: Brief) -> Play:
        heard = yield read_file("shared.txt")
        yield write_file("shared.txt", heard.results[0].partition(":\n")[2].replace("line 0", "the beginning"))
        yield finish("It has a beginning.")

    def bob(brief: Brief) -> Play:
        yield talk("ann", "Are you there?")
        while True:
            yield "I wait."

    def bad(brief: Brief) -> Play:
        raise RuntimeError("no")
        yield

    async def work() -> None:
        script = Script({"boss": boss, "ann": ann, "bob": bob, "bad": bad})
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path) as mega:
            run = await mega.start("Write.")
            live = [event async for event in run]
            assert (await run.result()).status == "done"
            assert live == run.events()
            assert [event.seq for event in live] == list(range(1, len(live) + 1))
            sent = {event.data["about"] for event in live if event.kind == "letter"}
            assert sent == {"message", "report", "failure", "notice", "aside"}

    monkeypatch.setattr(Database, "_commit", commit_singly)
    asyncio.run(work())
    assert not torn
