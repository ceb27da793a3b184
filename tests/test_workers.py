"""The boss's team in worker processes: one organisation all the same, with the same guarantees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from langchain_core.tools import tool

from megagraph import Limits, MegaGraph, ReviewCheck, Run, Scenario
from megagraph.errors import LimitReached, UsageError
from megagraph.events import Event
from megagraph.gate import Rates
from megagraph.model_rules import ModelRules
from megagraph.rehearsal import (
    Brief,
    Part,
    RehearsalModel,
    Script,
    call,
    finish,
    list_files,
    read_file,
    recruit,
    talk,
    wait_for,
    write_file,
)
from megagraph.run import Result
from megagraph.scenario import load_scenario
from megagraph.workers.far import Passes
from megagraph.workers.link import Link, LinkLost
from megagraph.workers.office import Office
from tests.campaign import run_campaign
from tests.model_server import ModelServer
from tests.scripts import Play, deep_script, letters_script, one, reviewed_script
from tests.test_chaos import AGENTS, EXPECTED

RUNS = max(1, int(os.environ.get("MEGAGRAPH_KILLED_RUNS", "1")) // 3)


def hire(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "worker", "instructions": f"be {name}", **more}


def opened(home: Path, server: ModelServer, **kwargs: Any) -> MegaGraph:
    return MegaGraph(base_url=server.url, home=home, **{"model": "openai:scripted", "workers": 2, **kwargs})


def play(home: Path, script: Script, latency: Any = 0.0, **kwargs: Any) -> tuple[Result, dict[str, str], list[Any]]:
    """Run a script with two workers: how it stands, the files, the events as they were followed."""

    async def work(server: ModelServer) -> tuple[Result, dict[str, str], list[Any]]:
        async with opened(home, server, **kwargs) as mega:
            run = await mega.start("The goal.")
            events = [event async for event in run]
            return await run.result(), dict(run.files), events

    with ModelServer(script, latency=latency) as server:
        return asyncio.run(work(server))


def below(pid: int) -> list[int]:
    return [int(line) for line in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True).stdout.split()]


def forkservers(first: int = 0) -> list[int]:
    """What a first process, this one if none is named, forks workers from: its own image, or a program."""
    own = command_of(first or os.getpid())
    found = {pid: command_of(pid) for pid in below(first or os.getpid())}
    return [pid for pid, command in found.items() if command == own or b"workers.forkserver" in command]


def command_of(pid: int) -> bytes:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def threads_of(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def processes(first: int = 0) -> list[int]:
    """The workers of a run's first process, of this one if none is named."""
    return [pid for server in forkservers(first) for pid in below(server)]


# --- one organisation -----------------------------------------------------------------------------------------


def test_an_organisation_in_several_processes_does_what_it_does_in_one(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> None:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            most = 0
            async for _ in run:
                most = max(most, len(processes()))
            assert (await run.result()).passed
            assert dict(run.files) == EXPECTED
            assert most == 2
            assert not processes(), "they end with the run"

    with ModelServer(deep_script()) as server:
        asyncio.run(work(server))
    with MegaGraph(home=tmp_path) as mega:
        assert sorted(row["name"] for row in mega.db["agents"].rows) == AGENTS


def test_letters_cross_from_one_process_to_another(tmp_path: Path) -> None:
    result, files, _ = play(tmp_path, letters_script())
    assert result.passed
    assert files["two.txt"] == "one.txt says one"


def test_dependents_start_whichever_process_their_inputs_are_from(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(6)]

    def boss(brief: Brief) -> Play:
        heard = yield recruit(*(hire(name, depends_on=names[i - 1 : i]) for i, name in enumerate(names)))
        yield from wait_for(heard, names)
        yield finish("over")

    def chained(brief: Brief) -> Play:
        number = int(brief.name[1:])
        heard = yield read_file(f"w{number - 1}.txt") if number else list_files()
        before = heard.results[0].partition(":\n")[2] if number else ""
        yield write_file(f"{brief.name}.txt", f"{before}{brief.name}\n")
        yield finish("written", [f"{brief.name}.txt"])

    result, files, events = play(tmp_path, Script({"boss": boss, **dict.fromkeys(names, chained)}))
    assert result.passed
    assert files["w5.txt"].split() == names
    assert [event.agent for event in events if event.kind == "accepted"] == [*names, "boss"]


def test_a_team_at_a_stand_is_described_and_a_dismissal_ends_a_whole_branch(tmp_path: Path) -> None:
    told: list[str] = []

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a"), hire("b"), hire("c"))
        while not any("Nothing in your team moves" in text for _, _, text in heard.letters):
            heard = yield "I wait."
        told.extend(text for _, kind, text in heard.letters if kind == "notice")
        yield call("dismiss", agents=["a", "b"])
        yield finish("over")

    def asks(brief: Brief) -> Play:
        heard = yield recruit(hire(f"{brief.name}_helper"))
        yield from wait_for(heard, [f"{brief.name}_helper"])
        yield talk("boss", "what do you say?")
        while True:
            yield "I wait."

    helper = one(finish("helped"))
    parts: dict[str, Part] = {"boss": boss, "a": asks, "b": asks, "c": helper, "a_helper": helper, "b_helper": helper}
    result, _, events = play(tmp_path, Script(parts))
    assert result.status == "done"
    assert "- a waits for an answer from boss\n- b waits for an answer from boss\n- c has reported" in told[-1]
    closed = [event.agent for event in events if event.kind == "closed"]
    assert sorted(closed) == ["a", "a_helper", "b", "b_helper", "boss", "c"]


def test_a_name_is_given_once_in_all_processes(tmp_path: Path) -> None:
    def lead(brief: Brief) -> Play:
        heard = yield recruit(hire("dev"))
        name = "dev_2" if "dev is called dev_2" in heard.results[0] else "dev"
        yield from wait_for(heard, [name])
        yield finish(name)

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("x"), hire("y"))
        reports = yield from wait_for(heard, ["x", "y"])
        yield finish(" ".join(sorted(reports.values())))

    parts: dict[str, Part] = {"boss": boss, "x": lead, "y": lead}
    result, _, _ = play(tmp_path, Script({**parts, **dict.fromkeys(("dev", "dev_2"), one(finish("ok")))}))
    assert result.report is not None
    assert result.report.summary == "dev dev_2"


# --- what is seen of it ---------------------------------------------------------------------------------------


def test_events_are_one_stream_and_the_followed_ones_are_the_kept_ones(tmp_path: Path) -> None:
    result, _, events = play(tmp_path, deep_script())
    with MegaGraph(home=tmp_path) as mega:
        kept = mega.open(result.run).events()
    assert [event.seq for event in events] == list(range(1, len(kept) + 1))
    assert events == kept
    assert sum(event.kind == "thought" for event in events) == result.calls


def test_tokens_come_from_all_processes_to_those_who_ask(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> set[str]:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            return {event.agent async for event in run.events(follow=True, kinds=("token",))}

    with ModelServer(deep_script(), latency=0.05) as server:
        told = asyncio.run(work(server))
    assert {"boss", "north", "south_a"} <= told


def test_a_run_of_several_processes_is_read_drawn_and_branched_as_any_other(tmp_path: Path) -> None:
    result, files, _ = play(tmp_path, deep_script())

    async def look() -> None:
        async with MegaGraph("openai:scripted", base_url="http://127.0.0.1:9/v1", home=tmp_path) as mega:
            run = mega.open(result.run)
            drawn = run.graph().get_graph(xray=True).nodes
            for name in AGENTS[1:]:
                assert any(name in node.split(":") for node in drawn), name
            places = [row["checkpoint_ns"] for row in mega.db["namespaces"].rows]
            deep = next(place for place in places if "north_a:" in place.split("|")[-1])
            state = await run.graph().aget_state({"configurable": {"thread_id": run.id, "checkpoint_ns": deep}})
            assert state.values["report"]["summary"] == "north_a.txt is mended"
            plan = await run.plan_branch("south_b:think#2")
            assert {"south_b", "south", "boss"} <= plan.again.keys()
            assert not plan.again.get("north_a"), "it waits again at most"

    asyncio.run(look())

    async def branch(server: ModelServer) -> dict[str, str]:
        async with opened(tmp_path, server) as mega:
            other = await mega.open(result.run).branch("south_b:think#2")
            server.log.clear()
            run = await mega.resume(other.id)
            assert (await run.result()).passed
            return dict(run.files)

    with ModelServer(deep_script()) as server:
        assert asyncio.run(branch(server)) == files
        assert ("north_a", 0) not in {(record.agent, record.turn) for record in server.log}


# --- bounds ---------------------------------------------------------------------------------------------------


def crowd(count: int) -> Script:
    """A boss, and members with two calls each."""
    names = [f"w{i}" for i in range(count)]

    def boss(brief: Brief) -> Play:
        heard = yield recruit(*map(hire, names))
        yield from wait_for(heard, names)
        yield finish("over")

    return Script({"boss": boss}, default=one(list_files(), finish("done")))


def test_limits_hold_over_all_processes_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> tuple[Result, Result]:
        limits = Limits(calls=30, agents=60, width=60)
        async with opened(tmp_path, server, limits=limits) as mega:
            run = await mega.start("The goal.")
            low = await run.result()
            run = await mega.resume(run.id, limits=limits.model_copy(update={"calls": 300}))
            return low, await run.result()

    with ModelServer(crowd(50), latency=0.05) as server:
        low, high = asyncio.run(work(server))
        assert len(server.log.answered()) == high.calls, "nothing was paid twice, nothing forgotten"
    assert low.status == "paused" and low.calls == 30
    assert low.reason.startswith("limit reached: calls=30 of the run")
    assert high.passed


@pytest.mark.parametrize("most", [1, 5])
def test_so_many_agents_at_once_in_all_processes_together(tmp_path: Path, most: int) -> None:
    async def work(server: ModelServer) -> Result:
        async with opened(tmp_path, server, limits=Limits(agents_at_once=most, width=60)) as mega:
            return await (await mega.start("The goal.")).result()

    with ModelServer(crowd(12), latency=0.02) as server:
        assert asyncio.run(work(server)).passed
        assert server.log.peak_in_flight() == most


def test_a_provider_has_one_gate_for_all_processes(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> Result:
        async with opened(tmp_path, server, limits=Limits(agents=60, width=60)) as mega:
            return await (await mega.start("The goal.")).result()

    with ModelServer(crowd(50), latency=0.1, max_in_flight=6) as server:
        assert asyncio.run(work(server)).passed
        refused = sum(record.status == 429 for record in server.log)
    assert refused < 40, "each process by itself would have to find out"


def test_a_call_that_may_be_made_at_once_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    take = Link._take

    def counted(self: Link, verb: str, args: tuple[Any, ...], number: int) -> None:
        asked[verb] += 1
        take(self, verb, args, number)

    monkeypatch.setattr(Link, "_take", counted)

    async def work(server: ModelServer) -> Result:
        async with opened(tmp_path, server, limits=Limits(agents=60, width=60)) as mega:
            return await (await mega.start("The goal.")).result()

    with ModelServer(crowd(20), latency=0.05) as server:
        result = asyncio.run(work(server))
    assert result.passed
    assert asked["reserve"] == asked["settle"] == asked["over"] == 40, "of two calls of twenty members"
    assert asked["enter"] <= 20, "by those who were the first of their process to call"
    assert asked["dismiss"] == asked["let_go"] == 0, "nobody waited"


def test_a_ticket_that_came_along_is_used_once_or_given_back() -> None:
    said: list[tuple[str, tuple[Any, ...]]] = []

    class Heard(Link):
        def __init__(self) -> None:
            pass

        def tell(self, verb: str, *args: Any) -> None:
            said.append((verb, args))

    passes = Passes(Heard())
    assert passes.gate_for("ann") is None, "none is known"
    passes.know(0, Rates(in_flight=4))
    assert passes.gate_for("ann") == 0
    assert passes.gate_for("ann.review.2.0.1") is None, "it queues under another name"
    passes.keep("ann", 7)
    assert (passes.take("ann"), passes.take("ann")) == (7, 0)
    passes.keep("bob", 9)
    passes.drop("bob")
    passes.drop("bob")
    assert said == [("over", (9, "gone", ()))]
    passes.know(1, Rates())
    assert passes.gate_for("ann") is None, "it may go through either"
    for rates in (Rates(rpm=5), Rates(tpm=5)):
        counting = Passes(Heard())
        counting.know(0, rates)
        assert counting.gate_for("ann") is None


@pytest.mark.parametrize("options", ["in_flight=1", "rpm=6"])
def test_a_review_finds_a_place_where_there_is_one_and_is_counted_once(tmp_path: Path, options: str) -> None:
    check = {"review": "It is good.", "files": ["a.txt"]}

    def boss(brief: Brief) -> Play:
        heard = yield recruit({**hire("coder"), "deliverables": ["a.txt"], "checks": [check]})
        yield from wait_for(heard, ["coder"])
        yield finish("over")

    review = one(read_file("a.txt"), call("give_verdict", passed=True, reason="It is.", evidence=["1/0"]))
    coder = one(write_file("a.txt", "hello"), finish("done", ["a.txt"]))
    script = Script({"boss": boss, "coder": coder, "reviewer_of_coder": review})

    async def work(server: ModelServer) -> tuple[Result, list[Event], list[Event]]:
        model = f"openai:scripted?{options}"
        async with MegaGraph(model, base_url=server.url, home=tmp_path, workers=2) as mega:
            run = await mega.start("The goal.")
            # A call that is counted twice waits for the next minute, and one that waits for itself for ever.
            async with asyncio.timeout(45):
                result = await run.result()
            return result, run.events(kinds=("thought",)), run.events("coder", kinds=("thought",))

    with ModelServer(script) as server:
        result, thoughts, coders = asyncio.run(work(server))
    assert result.passed
    assert len(server.log.answered()) == len(thoughts) == 6
    # The reviewer's are told as those of whose work it looks at, and say what the reviewer's calls were.
    assert [event.data["calls"] for event in coders] == [["write_file"], ["finish"], ["read_file"], ["give_verdict"]]


def test_accepted_work_is_examined_again_once_for_all_processes(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> tuple[Result, list[Event]]:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            result = await run.result()
            return result, run.events(kinds=("failed", "withdrawn", "thought"))

    with ModelServer(reviewed_script(), latency=0.1) as server:
        result, events = asyncio.run(work(server))
    assert result.passed
    assert {event.kind for event in events} == {"thought"}
    assert len(server.log.answered()) == len(events) == result.calls
    assert sum(event.data["calls"] == ["give_verdict"] for event in events) == 2


def test_the_latest_version_is_not_mistaken_for_the_one_that_an_answer_is_of() -> None:
    async def work() -> str:
        office, ends = SimpleNamespace(version="", link=None), socket.socketpair()

        def hear(verb: str, args: tuple[Any, ...]) -> None:
            office.version = args[0]

        def both(verb: str, args: tuple[Any, ...]) -> tuple[str, str]:
            # As two workers' changes are told where both are done in the same round.
            front.tell("version", "first")
            asyncio.get_running_loop().call_soon(front.tell, "version", "second")
            return "written", "first"

        own = office.link = Link(*(await asyncio.open_connection(sock=ends[0])), hear)
        front = Link(*(await asyncio.open_connection(sock=ends[1])), both)
        listening = [asyncio.create_task(link.listen()) for link in (own, front)]
        assert await Office.change_files(cast(Office, office), "write") == ("written", "first")
        await asyncio.sleep(0.05)
        own.close()
        await asyncio.gather(*listening)
        return office.version

    assert asyncio.run(work()) == "second"


def test_a_team_that_moves_again_each_time_is_not_at_its_third_stand(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("asker"))
        for number in range(4):
            while not any("Nothing in your team moves" in text for _, _, text in heard.letters):
                heard = yield "I wait."
            heard = yield talk("asker", f"answer {number}")
        yield from wait_for(heard, ["asker"])
        yield finish("over")

    def asker(brief: Brief) -> Play:
        for number in range(4):
            heard = yield talk("boss", f"question {number}")
            while not any(text == f"answer {number}" for _, _, text in heard.letters):
                heard = yield "I wait."
        yield finish("all is answered")

    result, _, _ = play(tmp_path, Script({"boss": boss, "asker": asker}))
    assert result.passed
    assert result.report is not None
    assert result.report.summary == "over"


@pytest.mark.parametrize(("model", "leaves"), [("rehearsal", "openai:scripted"), ("openai:scripted", "rehearsal")])
def test_rules_with_a_rehearsal_among_their_models_hold_in_all_processes(
    tmp_path: Path, model: str, leaves: str
) -> None:
    (tmp_path / "scenario.yaml").write_text("name: crowd\ngoal: The goal.\nrehearsal: play.py\n")
    (tmp_path / "play.py").write_text("from tests.test_workers import crowd\n\nscript = crowd(3)\n")

    async def work(server: ModelServer) -> dict[str, str]:
        async with opened(tmp_path, server, model=model, models=ModelRules(leaves=leaves)) as mega:
            run = await mega.start(load_scenario(tmp_path))
            assert (await run.result()).passed
            rows = mega.home.database.read("SELECT DISTINCT agent, model FROM calls ORDER BY agent")
            return {row["agent"]: row["model"] for row in rows}

    with ModelServer(crowd(3)) as server:
        assert asyncio.run(work(server)) == {"boss": model, "w0": leaves, "w1": leaves, "w2": leaves}


def test_no_worker_is_there_any_more_while_a_whole_run_is_examined(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("writer"))
        yield from wait_for(heard, ["writer"])
        yield finish("over", ["a.txt"])

    review = one(read_file("a.txt"), call("give_verdict", passed=True, reason="It is.", evidence=["1/0"]))
    parts = {"boss": boss, "writer": one(write_file("a.txt", "x"), finish("done")), "reviewer_of_boss": review}

    async def work(server: ModelServer) -> tuple[Result, int]:
        async with opened(tmp_path, server) as mega:
            run = await mega.start(Scenario("The goal.", checks=(ReviewCheck(review="It is good.", files=("a.txt",)),)))
            seen = 0
            async for event in run:
                if event.kind == "thought" and event.data["calls"] == ["read_file"]:
                    assert not processes()
                    seen += 1
            return await run.result(), seen

    with ModelServer(Script(parts), latency=0.3) as server:
        result, seen = asyncio.run(work(server))
    assert result.passed
    assert seen == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_nobody_in_any_process_makes_a_call_that_is_dearer_than_approved(tmp_path: Path, workers: int) -> None:
    async def work(server: ModelServer) -> tuple[list[Result], Result]:
        limits = Limits(agents=60, width=60)
        async with opened(
            tmp_path, server, workers=workers, approve="cost=0.02", prices={"scripted": (0.5, 5.0)}, limits=limits
        ) as mega:
            run = await mega.start("The goal.")
            asking = [await run.result()]
            run = await mega.resume(run.id)
            asking.append(await run.result())
            [question] = run.questions()
            await run.answer(question["id"], "yes")
            return asking, await (await mega.resume(run.id)).result()

    with ModelServer(crowd(30), latency=0.05) as server:
        asking, done = asyncio.run(work(server))
        assert len(server.log.answered()) == done.calls
    assert [result.status for result in asking] == ["asking", "asking"]
    assert asking[0].calls == asking[1].calls > 1
    assert all(result.cost_usd is not None and result.cost_usd <= 0.02 for result in asking)
    assert done.passed


# --- pauses, questions, kills ---------------------------------------------------------------------------------


def test_a_pause_stops_all_processes_and_nothing_is_lost(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> tuple[Result, Result]:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            async for event in run:
                if event.kind == "thought" and event.agent == "south_a":
                    break
            paused = await run.pause()
            return paused, await (await mega.resume(run.id)).result()

    with ModelServer(deep_script(), latency=0.1) as server:
        paused, done = asyncio.run(work(server))
        assert len(server.log.answered()) == done.calls
    assert paused.status == "paused"
    assert 0 < paused.calls < done.calls
    assert done.passed


def test_questions_from_several_processes_survive_and_are_answered_one_by_one(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("x"), hire("y"))
        reports = yield from wait_for(heard, ["x", "y"])
        yield finish(" ".join(sorted(reports.values())))

    def lead(brief: Brief) -> Play:
        heard = yield recruit(hire(f"{brief.name}_asker"))
        reports = yield from wait_for(heard, [f"{brief.name}_asker"])
        yield finish(" ".join(reports.values()))

    def asker(brief: Brief) -> Play:
        heard = yield call("ask_human", question=f"what for {brief.name}?")
        yield finish(f"{brief.name} heard {heard.results[0]}")

    script = Script({"boss": boss, "x": lead, "y": lead, "x_asker": asker, "y_asker": asker})

    async def ask(server: ModelServer) -> str:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            result = await run.result()
            assert result.status == "asking", result
            return run.id

    async def answer(server: ModelServer, id_: str) -> Result:
        async with opened(tmp_path, server) as mega:
            run = mega.open(id_)
            questions = {row["agent"]: row["id"] for row in run.questions()}
            assert set(questions) == {"x_asker", "y_asker"}
            await run.answer(questions["y_asker"], "blue")
            run = await mega.resume(id_)
            assert (await run.result()).status == "asking"
            run = await mega.resume(id_)
            await run.answer(questions["x_asker"], "red")
            return await run.result()

    with ModelServer(script) as server:
        id_ = asyncio.run(ask(server))
        result = asyncio.run(answer(server, id_))
        assert len(server.log.answered()) == result.calls
    assert result.report is not None
    assert "x_asker heard" in result.report.summary and "red" in result.report.summary


def test_a_run_goes_on_by_itself_when_a_worker_is_killed(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> tuple[Result, list[Any], dict[str, str]]:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            events, killed = [], False
            async for event in run:
                events.append(event)
                if event.agent == "north_a" and event.kind == "thought" and not killed:
                    killed = True
                    os.kill(processes()[0], signal.SIGKILL)
            return await run.result(), events, dict(run.files)

    with ModelServer(deep_script(), latency=0.1) as server:
        result, events, files = asyncio.run(work(server))
        unanswered = len(server.log.answered()) - result.calls
    assert result.passed
    assert files == EXPECTED
    [lost] = [event for event in events if event.kind == "failed"]
    assert "signal 9" in lost.data["error"]
    assert unanswered <= 4, "at most what its agents had in flight is asked again"


def test_new_workers_go_on_where_somebody_has_a_part_and_has_failed_with_an_unread_letter(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("short", limits={"calls": 2}), hire("long", limits={"calls": 60}))
        yield from wait_for(heard, ["long"])
        yield call("dismiss", agents=["short"])
        yield finish("without")

    def long(brief: Brief) -> Play:
        heard = yield list_files()
        while not heard.letters:
            heard = yield list_files()
        yield talk("short", "now")
        for i in range(30):
            yield write_file(f"{i}.txt", "x")
        yield finish("done")

    short = one(talk("long", "when?"), "I wait.", finish("never"))

    async def work(server: ModelServer) -> tuple[Result, list[Event]]:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            events: list[Event] = []
            async for event in run:
                events.append(event)
                if event.kind == "letter" and event.data["about"] == "failure":
                    os.kill(processes()[0], signal.SIGKILL)
            settled = mega.home.database.read("SELECT settles FROM letters WHERE kind = 'failure'")
            assert [row["settles"] is not None for row in settled] == [True]
            return await run.result(), events

    with ModelServer(Script({"boss": boss, "short": short, "long": long}), latency=0.1) as server:
        result, events = asyncio.run(work(server))
    assert result.status == "done", result.reason
    failed = [event.agent for event in events if event.kind == "failed"]
    assert failed == ["short", ""], "one for its part, and one for the killed worker"
    assert result.report is not None and result.report.summary == "without"


def test_a_run_goes_on_by_itself_when_what_workers_are_forked_from_is_killed_with_one_of_them(tmp_path: Path) -> None:
    async def work(server: ModelServer) -> tuple[Result, int]:
        async with opened(tmp_path, server) as mega:
            run = await mega.start("The goal.")
            threads = 0
            async for event in run:
                if event.agent == "north_a" and event.kind == "thought" and not threads:
                    [parent] = forkservers()
                    threads = threads_of(parent)
                    one, _ = processes()
                    os.kill(parent, signal.SIGKILL)
                    os.kill(one, signal.SIGKILL)
            return await run.result(), threads

    with ModelServer(deep_script(), latency=0.1) as server:
        result, threads = asyncio.run(work(server))
    assert result.passed
    assert threads == 1, "to fork a process with more would not be sound"


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_run_of_several_processes_that_is_killed_pays_nothing_twice(tmp_path: Path, seed: int) -> None:
    with ModelServer(deep_script(), latency=("lognormal", 0.3, 0.5), seed=seed) as server:
        campaign = run_campaign(server, tmp_path / "home", seed, 5, longest=1.0, options=["--workers", "2"])
    assert campaign.status == "done"
    assert campaign.kills == 5
    assert campaign.paid_twice == []
    assert campaign.letters_lost == campaign.letters_doubled == []
    assert campaign.files == EXPECTED
    assert campaign.agents == AGENTS


def test_workers_end_when_the_first_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from megagraph import MegaGraph\n"
        "async def work():\n"
        "    async with MegaGraph('openai:scripted', base_url=sys.argv[1], home=sys.argv[2], workers=2) as mega:\n"
        "        run = await mega.start('The goal.')\n"
        "        async for event in run:\n"
        "            print(event.kind, event.agent, flush=True)\n"
        "asyncio.run(work())\n"
    )
    with ModelServer(crowd(8), latency=1.0) as server:
        child = subprocess.Popen([sys.executable, "-c", code, server.url, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(b"thinking w"):
                break
        workers = processes(child.pid)
        assert len(workers) == 2
        child.kill()
        child.wait()
        child.stdout.close()
        until = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
            time.sleep(0.02)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_program_that_has_one_thread_is_forked_and_shares_nothing_with_what_comes_of_it(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, socket, sys\n"
        "from megagraph import MegaGraph, find_scenario\n"
        "print('said once', end=' ')\n"
        "one, other = socket.socketpair()\n"
        "with MegaGraph('rehearsal', home=sys.argv[1], workers=2) as mega:\n"
        "    one.close()\n"
        "    other.settimeout(20)\n"
        "    print(other.recv(1), end=' ')\n"
        "    [child] = pathlib.Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()\n"
        "    print(sum(1 for _ in pathlib.Path(f'/proc/{child}/task').iterdir()), end=' ')\n"
        "    print(mega.run(find_scenario('policy', {'size': 13})).passed)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.stdout == "said once b'' 1 True\n", done.stderr
    assert done.stderr == ""


# --- what cannot be -------------------------------------------------------------------------------------------


@tool
def weather(place: str) -> str:
    """What the weather is like."""
    return "fine"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model": RehearsalModel(script=Script({}))}, "the model rehearsal, an object cannot be taken"),
        ({"tools": [weather]}, "tools that are Python objects cannot be taken"),
        ({"callbacks": [object()]}, "callbacks cannot be taken"),
        ({"workers": -1}, "workers=-1 cannot be"),
    ],
)
def test_what_cannot_be_taken_to_another_process_is_refused(
    tmp_path: Path, settings: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")

    async def work() -> Run:
        settings.setdefault("model", "openai:scripted")
        async with MegaGraph(home=tmp_path, **{"workers": 2, **settings}) as mega:
            return await mega.start("The goal.")

    with pytest.raises(UsageError, match=why):
        asyncio.run(work())


class OddError(Exception):
    """Of a kind that goes into a pickle and does not come out of it."""

    def __init__(self, how: str, what: str) -> None:
        super().__init__(f"{how} {what}")


def test_what_is_said_between_processes_comes_in_order_and_errors_come_as_they_are() -> None:
    async def work() -> None:
        heard: list[int] = []

        async def slowly(number: int) -> int:
            await asyncio.sleep(0.01)
            raise LimitReached("calls", number, "dev")

        async def odd() -> None:
            raise OddError("very", "strange")

        working = asyncio.ensure_future(asyncio.sleep(3600))

        def hear(verb: str, args: tuple[Any, ...]) -> Any:
            match verb:
                case "odd":
                    return odd()
                case "work":
                    return working
                case "say":
                    heard.append(args[0])
                    return None
                case "slowly":
                    return slowly(*args)
                case _:
                    return list(heard)

        ends = socket.socketpair()
        one, other = [Link(*(await asyncio.open_connection(sock=end)), hear) for end in ends]
        listening = [asyncio.create_task(link.listen()) for link in (one, other)]
        error = asyncio.ensure_future(one.ask("slowly", 7))
        for number in range(1000):
            one.tell("say", number)
        one.at_last(lambda: one.tell("say", "last"))
        assert await one.ask("what") == list(range(1000)), "what is said at last comes after all else of its round"
        assert heard[-1] == "last"
        with pytest.raises(LimitReached, match="limit reached: calls=7 of the run") as raised:
            await error
        assert (raised.value.limit, raised.value.agent) == ("calls", "dev")
        with pytest.raises(RuntimeError, match="OddError: very strange"):
            await one.ask("odd")
        asked = asyncio.ensure_future(one.ask("work"))
        await one.ask("what")
        working.cancel()
        with pytest.raises(LinkLost):
            await asyncio.wait_for(asked, 10)
        assert await one.ask("what"), "the line is there"
        one.close()
        await asyncio.gather(*listening)

    asyncio.run(work())
