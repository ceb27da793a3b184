"""Runs through the public API: cooperation, failure, rework, questions, pauses."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult

from megagraph import Limits, MegaGraph, Run
from megagraph.answers import MAX_IN_A_ROW
from megagraph.errors import RunBusy, RunNotFound, UsageError
from megagraph.rehearsal import (
    Brief,
    Part,
    RehearsalModel,
    Script,
    call,
    finish,
    read_brief,
    read_file,
    recruit,
    run_program,
    talk,
    update_todo,
    wait_for,
    write_file,
)
from megagraph.run import Result
from tests.model_server import ModelServer
from tests.scripts import Play, deep_script, one


def play(home: Path, parts: Mapping[str, Part], **kwargs: Any) -> tuple[Result, dict[str, str], list[Any]]:
    """Run a script to where it stops: how it stands, the files, the events."""

    async def work() -> tuple[Result, dict[str, str], list[Any]]:
        async with MegaGraph(RehearsalModel(script=Script(parts)), home=home, **kwargs) as mega:
            run = await mega.start("The goal.")
            events = [event async for event in run]
            return await run.result(), dict(run.files), events

    return asyncio.run(work())


def tools(events: list[Any], agent: str) -> list[tuple[str, bool, str]]:
    return [(e.data["tool"], e.data["ok"], e.data["result"]) for e in events if e.kind == "tool" and e.agent == agent]


def hire(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "worker", "instructions": f"be {name}", **more}


def test_the_boss_is_given_the_goal_and_nothing_but_the_goal(tmp_path: Path) -> None:
    tasks: dict[str, str] = {}

    def boss(brief: Brief) -> Play:
        tasks["boss"] = brief.task
        yield finish("done")

    result, _, _ = play(tmp_path, {"boss": boss})
    assert result.passed
    assert tasks["boss"] == "The goal:\n\nThe goal."


def test_a_dependent_starts_when_its_input_is_there_and_knows_the_report(tmp_path: Path) -> None:
    tasks: dict[str, str] = {}

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a", deliverables=["a.txt"]), hire("b", depends_on=["a"]), hire("c"))
        yield from wait_for(heard, ["a", "b", "c"])
        yield finish("done")

    def b(brief: Brief) -> Play:
        tasks["b"] = brief.task
        yield finish("b is done")

    parts = {"boss": boss, "a": one(write_file("a.txt", "x\n"), finish("a found 42", ["a.txt"])), "b": b}
    result, _, events = play(tmp_path, {**parts, "c": one(finish("c"))})
    assert result.passed
    assert "a reports: a found 42" in tasks["b"]
    assert "c: worker" in tasks["b"]
    order = [(e.kind, e.agent) for e in events]
    assert order.index(("reported", "a")) < order.index(("thinking", "b"))
    assert next(e.data["why"] for e in events if e.kind == "waiting" and e.agent == "b") == "waits for the report of a"
    # Whoever waits costs nothing: one call each but for the leads.
    assert sum(e.kind == "thinking" and e.agent == "b" for e in events) == 1


@pytest.mark.parametrize(
    ("agents", "complaint"),
    [
        ([hire("a", depends_on=["a"])], "`a` depends on itself"),
        ([hire("a", depends_on=["b"]), hire("b", depends_on=["a"])], "in a ring"),
        ([hire("a", depends_on=["ghost"])], "depends on `ghost`, who is not in the team"),
        ([hire("a"), hire("a")], "the name `a` is there 2 times"),
        ([hire("A b")], "`A b` is no legal name"),
        ([hire("x:y|z")], "is no legal name"),
        ([hire("desk")], "the name `desk` is reserved"),
        ([hire(f"w{i}") for i in range(6)], "a team may have 5 members: 0 are there and 6 are asked for"),
        ([], "wrong arguments for `recruit`: `agents`"),
    ],
)
def test_a_plan_that_cannot_be_is_a_tool_error_that_says_why(
    tmp_path: Path, agents: list[dict[str, Any]], complaint: str
) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield call("recruit", agents=agents)
        assert heard.results[0].startswith("Error: ")
        heard = yield recruit(hire("good"))
        yield from wait_for(heard, ["good"])
        yield finish("done")

    result, _, events = play(tmp_path, {"boss": boss, "good": one(finish("ok"))}, limits=Limits(width=5))
    assert result.passed
    assert any(complaint in text for tool, ok, text in tools(events, "boss") if not ok)


def test_depth_and_number_of_agents_are_bounded(tmp_path: Path) -> None:
    def greedy(brief: Brief) -> Play:
        number = int(brief.name.split("_")[1]) if "_" in brief.name else 0
        heard = yield recruit(hire(f"level_{number + 1}"))
        if heard.results[0].startswith("Error"):
            yield finish(heard.results[0])
        yield from wait_for(heard, [f"level_{number + 1}"])
        yield finish("done")

    script = Script({}, default=greedy)

    async def work(limits: Limits) -> tuple[Result, list[str]]:
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path, limits=limits) as mega:
            run = await mega.start("Recruit.")
            result = await run.result()
            return result, [spec.name for spec, _, _ in mega.home.ledger(run.id).agents()]

    result, agents = asyncio.run(work(Limits(depth=3)))
    assert result.status == "done"
    assert len(agents) == 4
    result, agents = asyncio.run(work(Limits(depth=100, agents=7)))
    assert result.status == "done"
    assert len(agents) == 7


def test_a_taken_name_gets_a_number_and_the_recruiter_is_told(tmp_path: Path) -> None:
    def lead(brief: Brief) -> Play:
        heard = yield recruit(hire("dev"), hire("qa", depends_on=["dev"]))
        name = "dev_2" if "dev is called dev_2" in heard.results[0] else "dev"
        yield from wait_for(heard, [name, name.replace("dev", "qa")])
        yield finish(name)

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("x"), hire("y"))
        reports = yield from wait_for(heard, ["x", "y"])
        yield finish(" ".join(sorted(reports.values())))

    result, _, _ = play(
        tmp_path,
        {"boss": boss, "x": lead, "y": lead, **dict.fromkeys(("dev", "dev_2", "qa", "qa_2"), one(finish("ok")))},
    )
    assert result.report is not None
    assert result.report.summary == "dev dev_2"


def test_rework_wakes_the_member_with_its_memory(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("dev", deliverables=["x.txt"]))
        reports = yield from wait_for(heard, ["dev"])
        heard = yield read_file("x.txt")
        assert "wrong" in heard.results[0]
        heard = yield talk("dev", "x.txt must say right")
        reports = yield from wait_for(heard, ["dev"])
        yield finish(reports["dev"])

    def dev(brief: Brief) -> Play:
        secret = "first turn"
        yield write_file("x.txt", "wrong")
        heard = yield finish("first", ["x.txt"])
        assert heard.letters == (("boss", "message", "x.txt must say right"),)
        yield write_file("x.txt", "right")
        yield finish(f"second, and I remember my {secret}", ["x.txt"])

    result, files, _ = play(tmp_path, {"boss": boss, "dev": dev})
    assert files["x.txt"] == "right"
    assert result.report is not None
    assert result.report.summary.startswith("second, and I remember my first turn")


def test_an_answer_without_a_tool_call_ends_a_turn_and_is_a_report(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("dev", deliverables=["x.txt"]))
        reports = yield from wait_for(heard, ["dev"])
        yield finish(reports["dev"])
        yield finish(reports["dev"])

    def dev(brief: Brief) -> Play:
        yield "I am done."
        yield "I really am."

    result, _, events = play(tmp_path, {"boss": boss, "dev": dev})
    assert sum(e.kind == "reminded" for e in events) == 1, "told once what is missing, never nagged"
    assert result.report is not None
    assert "I really am." in result.report.summary
    assert "Missing: the file x.txt" in result.report.summary


def test_an_incomplete_report_does_not_start_dependents_until_the_lead_decides(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a", deliverables=["a.txt"]), hire("b", depends_on=["a"]))
        yield from wait_for(heard, ["a"])
        heard = yield "Let me see."
        assert any("b waits for the report of a (whose report was incomplete)" in text for _, _, text in heard.letters)
        heard = yield call("dismiss", agents=["a"], reason="b can do without")
        reports = yield from wait_for(heard, ["b"])
        yield finish(reports["b"])

    def b(brief: Brief) -> Play:
        yield finish("without a: " + str("a was dismissed" in brief.task))

    parts = {"boss": boss, "a": one(finish("no file"), finish("still none")), "b": b}
    result, _, _ = play(tmp_path, parts)
    assert result.report is not None
    assert result.report.summary == "without a: True"


def test_a_lead_cannot_finish_over_the_heads_of_its_team(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("slow"))
        heard = yield finish("too early")
        assert "your team is still at work: slow" in heard.results[0]
        yield from wait_for(heard, ["slow"])
        yield finish("now")

    result, _, _ = play(tmp_path, {"boss": boss, "slow": one(write_file("x", "y"), finish("ok"))})
    assert result.passed


def test_a_member_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("bad"), hire("good"))
        letters: list[tuple[str, str, str]] = list(heard.letters)
        while {s for s, _, _ in letters} != {"bad", "good"}:
            heard = yield "I wait."
            letters += heard.letters
        failure = next(text for sender, kind, text in letters if kind == "failure")
        heard = yield finish(failure)
        assert "bad (failed)" in heard.results[0]
        yield finish(failure)

    def bad(brief: Brief) -> Play:
        raise RuntimeError("the roof is on fire")
        yield

    result, _, _ = play(tmp_path, {"boss": boss, "bad": bad, "good": one(finish("ok"))})
    assert result.status == "done"
    assert not result.passed
    assert result.report is not None
    assert "the roof is on fire" in result.report.summary


def test_a_second_failure_is_reported_as_the_first_was(tmp_path: Path) -> None:
    """First it writes nonsense till nobody wants more, then its model fails at once."""
    failures: list[str] = []

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a"))
        failures.extend(text for _, kind, text in heard.letters if kind == "failure")
        heard = yield talk("a", "try again")
        while not heard.letters:
            heard = yield "I wait."
        failures.extend(text for _, kind, text in heard.letters if kind == "failure")
        yield call("dismiss", agents=["a"])
        yield finish("it failed twice")

    def a(brief: Brief) -> Play:
        for _ in range(MAX_IN_A_ROW):
            yield call("nonsense")
        raise RuntimeError("the roof is on fire")

    result, _, _ = play(tmp_path, {"boss": boss, "a": a})
    assert result.status == "done"
    assert ["nonsense" in failures[0], "the roof is on fire" in failures[-1]] == [True, True]


def test_a_ring_of_waits_is_named_to_the_lead_who_resolves_it(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a"), hire("b"))
        while not any(kind == "notice" for _, kind, _ in heard.letters):
            heard = yield "I wait."
        notice = next(text for _, kind, text in heard.letters if kind == "notice")
        assert "a waits for an answer from b" in notice
        assert "b waits for an answer from a" in notice
        heard = yield talk(["a", "b"], "go on without")
        yield from wait_for(heard, ["a", "b"])
        yield finish("resolved")

    def stubborn(other: str) -> Part:
        def part(brief: Brief) -> Play:
            yield talk(other, "you first")
            heard = yield "After you."
            while not any(sender == "boss" for sender, _, _ in heard.letters):
                heard = yield "After you."
            yield finish("fine")

        return part

    result, _, _ = play(tmp_path, {"boss": boss, "a": stubborn("b"), "b": stubborn("a")})
    assert result.passed


def test_a_team_that_nobody_moves_is_ended_and_says_so(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        yield recruit(hire("a"))
        while True:
            yield "I wait."

    result, _, _ = play(tmp_path, {"boss": boss, "a": one(finish("ok"))})
    assert result.status == "done"
    assert not result.passed
    assert result.report is not None
    assert "came to a stand" in result.report.missing[0]


def test_who_can_be_reached_is_bounded_and_named(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a"), hire("b"))
        yield from wait_for(heard, ["a", "b"])
        yield finish("done")

    def a(brief: Brief) -> Play:
        heard = yield recruit(hire("deep"))
        yield from wait_for(heard, ["deep"])
        yield talk(["b", "boss"], "hello")
        yield finish("done")

    def deep(brief: Brief) -> Play:
        heard = yield talk(["b", "nobody"], "hello?")
        assert heard.results[0].startswith("Error: nothing was sent: `b`, `nobody` cannot be reached.")
        assert heard.results[0].endswith("You can write to: a.")
        heard = yield talk("a", "x" * 9000)
        assert "8000 are allowed" in heard.results[0]
        yield finish("done")

    result, _, _ = play(tmp_path, {"boss": boss, "a": a, "b": one(finish("ok")), "deep": deep})
    assert result.passed


def test_many_letters_are_folded_and_can_be_read_whole(tmp_path: Path) -> None:
    tail = "the end of a long letter"
    senders = [f"s{i:02}" for i in range(20)]

    def boss(brief: Brief) -> Play:
        # The gate depends on all who write, and the reader on the gate: it starts with a full box.
        heard = yield recruit(
            *(hire(name) for name in senders), hire("gate", depends_on=senders), hire("reader", depends_on=["gate"])
        )
        reports = yield from wait_for(heard, ["reader"])
        yield finish(reports["reader"])

    def sender(brief: Brief) -> Play:
        yield talk("reader", "word " * 100 + tail)
        yield finish("sent")

    def reader(brief: Brief) -> Play:
        heard = yield call("read_letters", sender=senders[0])
        yield finish(f"{heard.results[0].count(tail)} whole")

    async def work() -> tuple[Result, str]:
        parts = {"boss": boss, "reader": reader, "gate": one(finish("open")), **dict.fromkeys(senders, sender)}
        async with MegaGraph(RehearsalModel(script=Script(parts)), home=tmp_path, limits=Limits(width=30)) as mega:
            run = await mega.start("Write to the reader.")
            row = mega.home.database.read
            result = await run.result()
            return result, "".join(json.loads(row("SELECT heard FROM calls WHERE agent='reader' AND step=1")[0][0]))

    result, heard = asyncio.run(work())
    assert result.report is not None
    assert result.report.summary == "1 whole"
    assert "(8 older letters, in short" in heard
    assert heard.count(tail) == 12
    assert all(f"- {name} (message)" in heard or f'<letter from="{name}"' in heard for name in senders)


def test_several_calls_of_one_turn_see_one_another_in_order(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield (
            write_file("a.py", "print(open('b.txt').read())"),
            write_file("b.txt", "from b"),
            run_program("a.py"),
            update_todo(["one"]),
            update_todo([], ["one"]),
        )
        assert "from b" in heard.results[2]
        yield finish("done", ["a.py", "b.txt"])

    result, _, _ = play(tmp_path, {"boss": boss})
    assert result.passed


def test_unknown_tools_and_wrong_arguments_are_explained(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield call("fly", to="moon"), call("write_file", path=3), call("finish", summary="")
        assert "there is no tool `fly`" in heard.results[0]
        assert "recruit" in heard.results[0]
        assert "`content`: Field required" in heard.results[1]
        assert heard.results[2].startswith("Error: wrong arguments for `finish`")
        yield finish("done")

    result, _, events = play(tmp_path, {"boss": boss})
    assert result.passed
    assert sum(e.kind == "bad_answer" for e in events) == 3


# --- questions, pauses, other processes ---------------------------------------------------------------------


def questioner(name: str, member: str = "") -> Part:
    """Asks a person, and recruits `member` first, who asks too."""

    def part(brief: Brief) -> Play:
        heard = yield recruit(hire(member), work_on=True) if member else update_todo([])
        heard = yield call("ask_human", question=f"What does {name} need?")
        answer = heard.results[0]
        if member:
            yield from wait_for(heard, [member])
        yield finish(f"{name}: {answer}")

    return part


def asking_script() -> Script:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("one"), hire("busy"))
        reports = yield from wait_for(heard, ["one", "busy"])
        yield finish(" | ".join(sorted(reports.values())))

    return Script(
        {
            "boss": boss,
            "one": questioner("one", "two"),
            "two": questioner("two", "three"),
            "three": questioner("three"),
            "busy": one(write_file("busy.txt", "x"), finish("busy is done", ["busy.txt"])),
        }
    )


def test_questions_from_three_depths_survive_and_are_answered_in_any_order(tmp_path: Path) -> None:
    async def session(answer: str | None) -> tuple[Result, list[str], list[str]]:
        async with MegaGraph(RehearsalModel(script=asking_script()), home=tmp_path) as mega:
            if mega.home.runs():
                if answer is not None:
                    run = mega.open("last")
                    question = next(q for q in run.questions() if q["agent"] == answer)
                    await run.answer(question["id"], f"gold for {answer}")
                run = await mega.resume("last")
            else:
                run = await mega.start("Ask.")
            result = await run.result()
            state = await run.graph().aget_state(run.config, subgraphs=True)
            return result, [q["agent"] for q in run.questions()], [str(i.value["agent"]) for i in state.interrupts]

    result, open_, interrupts = asyncio.run(session(None))
    assert result.status == "asking"
    assert sorted(open_) == sorted(interrupts) == ["one", "three", "two"], "the others have gone on meanwhile"
    result, open_, _ = asyncio.run(session(None))
    assert sorted(open_) == ["one", "three", "two"], "an unanswered question survives a restart"
    for name in ("two", "one"):
        result, open_, _ = asyncio.run(session(name))
        assert result.status == "asking"
        assert name not in open_
    result, open_, interrupts = asyncio.run(session("three"))
    assert result.status == "done"
    assert (open_, interrupts) == ([], [])
    assert result.report is not None
    assert "one: The answer: gold for one" in result.report.summary


def test_an_answer_while_the_others_work_goes_straight_to_who_asked(tmp_path: Path) -> None:
    async def work() -> Result:
        async with MegaGraph(RehearsalModel(script=asking_script()), home=tmp_path) as mega:
            run = await mega.start("Ask.")
            async for event in run:
                if event.kind == "asking" and "question" in event.data:
                    await run.answer(event.data["id"], "now")
            return await run.result()

    result = asyncio.run(work())
    assert result.status == "done"
    assert result.report is not None
    assert "one: The answer: now" in result.report.summary


def slow_script(turns: int = 60) -> Script:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a"), hire("b"))
        yield from wait_for(heard, ["a", "b"])
        yield finish("done")

    def slow(brief: Brief) -> Play:
        for i in range(turns):
            yield update_todo([f"point {i}"])
        yield update_todo([])
        yield finish("ok")

    return Script({"boss": boss, "a": slow, "b": slow}, pace=0.02)


def test_pausing_stops_everybody_and_nothing_is_lost(tmp_path: Path) -> None:
    async def work() -> None:
        limits = Limits(rounds=100)
        async with MegaGraph(RehearsalModel(script=slow_script()), home=tmp_path, limits=limits) as mega:
            run = await mega.start("Be slow.")
            calls = 0
            for pauses in range(3):
                steps = 0
                async for event in run:
                    steps += event.kind == "thought"
                    if steps == 12 * (pauses + 1):
                        break
                result = await run.pause()
                assert result.status == "paused"
                assert result.reason == "paused by request"
                assert result.calls >= calls
                calls = result.calls
                run = await mega.resume(run.id)
            result = await run.result()
            assert result.passed
            rows = mega.home.database.read("SELECT agent, count(*) AS n, max(step) AS last FROM calls GROUP BY agent")
            assert all(row["n"] == row["last"] for row in rows), "every step was called once"

    asyncio.run(work())


@pytest.mark.parametrize("how", ["async with", "with"])
def test_who_leaves_a_run_at_work_finds_it_stopped_and_can_resume_it(tmp_path: Path, how: str) -> None:
    async def leave(server: ModelServer) -> str:
        async with MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega:
            run = await mega.start("The goal.")
            async for event in run:
                if event.kind == "thinking" and event.agent == "north_a":
                    break
            return run.id

    def leave_sync(server: ModelServer) -> str:
        with MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega:
            run = mega.sync.start("The goal.")
            until = time.monotonic() + 60
            while len(server.log) < 3:
                assert time.monotonic() < until, "it does not work"
                time.sleep(0.01)
            return run.id

    with ModelServer(deep_script(), latency=0.2) as server:
        id_ = asyncio.run(leave(server)) if how == "async with" else leave_sync(server)
        with MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega:
            left = mega.open(id_).outcome()
            assert (left.status, left.reason) == ("paused", "stopped at once")
            assert mega.resume_sync(id_).passed


def test_another_process_can_pause_a_run_and_answer_its_questions(tmp_path: Path) -> None:
    program = f"""
import asyncio
from megagraph import MegaGraph, Limits
from megagraph.rehearsal import RehearsalModel
from tests.test_run import slow_script
async def main():
    async with MegaGraph(RehearsalModel(script=slow_script(400)), home={str(tmp_path)!r},
                         limits=Limits(rounds=1000, calls=9000)) as mega:
        run = await mega.start("Be slow.")
        print(run.id, flush=True)
        print((await run.result()).status, flush=True)
asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout is not None
    run_id = child.stdout.readline().strip()

    async def pause() -> Result:
        async with MegaGraph(RehearsalModel(script=slow_script(400)), home=tmp_path) as mega:
            with pytest.raises(RunBusy):
                await mega.resume(run_id)
            opened = mega.open(run_id)
            assert opened.status == "running"
            await asyncio.to_thread(_await_work, opened)
            return await opened.pause()

    result = asyncio.run(pause())
    assert result.status == "paused"
    assert result.reason == "paused from another process"
    assert child.stdout.readline().strip() == "paused"
    assert child.wait(timeout=120) == 0


def _await_work(run: Run) -> None:
    while not any(event.kind == "thought" and event.agent == "a" for event in run.events()):
        pass


def test_runs_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    result, _, _ = play(tmp_path, {"boss": one(finish("done"))})
    with MegaGraph(home=tmp_path) as mega:
        assert mega.open(result.run[:6]).id == mega.open("last").id == result.run
        with pytest.raises(RunNotFound):
            mega.open("ffffffff-none")
        with pytest.raises(RunNotFound):
            mega.open("%")


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    result, _, _ = play(tmp_path, {"boss": one(finish("done"))})

    async def resume() -> None:
        async with MegaGraph(home=tmp_path) as mega:
            with pytest.raises(UsageError, match="is done"):
                await mega.resume(result.run)

    asyncio.run(resume())


def test_without_await_inside_a_running_loop_as_in_a_notebook(tmp_path: Path) -> None:
    async def cell() -> Result:
        with MegaGraph(RehearsalModel(script=Script({"boss": one(finish("done"))})), home=tmp_path) as mega:
            return mega.run("The goal.")

    assert asyncio.run(cell()).passed


def test_everything_is_a_table(tmp_path: Path) -> None:
    result, _, _ = play(tmp_path, {"boss": one(write_file("a", "b"), finish("done"))})
    with MegaGraph(home=tmp_path) as mega:
        calls = list(mega.db["calls"].rows_where("run = ?", [result.run]))
        assert [row["step"] for row in calls] == [1, 2]
        assert sum(row["input_tokens"] for row in calls) == result.input_tokens
        assert next(iter(mega.db["runs"].rows))["rehearsal"] == 1


# --- programs and files ---------------------------------------------------------------------------------------

GUESS = """
import sys
print("guess", flush=True)
for line in sys.stdin:
    if line.strip() == "7":
        open("won.txt", "w").write("seven")
        print("right", flush=True)
        break
    print("no", flush=True)
"""


def test_an_agent_talks_with_an_interactive_program(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        yield write_file("guess.py", GUESS)
        heard = yield call("start_program", path="guess.py")
        assert "program 1 is started. It says:\nguess" in heard.results[0]
        heard = yield call("send_input", program=1, text="3\n")
        assert heard.results[0].startswith("no")
        heard = yield call("send_input", program=1, text="7\n"), call("send_input", program=2, text="x")
        assert heard.results[0].startswith("right")
        assert "you have no interactive program 2 (yours: 1)" in heard.results[1]
        heard = yield call("stop_program", program=1)
        assert heard.results[0].startswith("exit code 0")
        yield finish("played", ["won.txt"])

    result, files, _ = play(tmp_path, {"boss": boss})
    assert result.passed, result
    assert files["won.txt"] == "seven"


def test_a_path_is_the_same_in_every_spelling(tmp_path: Path) -> None:
    boss = one(
        write_file("caf\u00e9.txt", "one"),
        write_file("./cafe\u0301.txt", "two"),
        finish("written"),
    )

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path) as mega:
            run = await mega.start("Write.")
            await run.result()
            assert dict(run.files) == {"caf\u00e9.txt": "two"}

    asyncio.run(work())


def test_concurrent_changes_merge_and_a_conflict_goes_back_with_both_sides(tmp_path: Path) -> None:
    lines = [f"line {i}\n" for i in range(20)]

    def boss(brief: Brief) -> Play:
        yield write_file("x.txt", "".join(lines))
        heard = yield recruit(hire("a"), hire("b"))
        reports = yield from wait_for(heard, ["a", "b"])
        yield finish(reports["a"] + reports["b"])

    def changer(name: str, line: int) -> Part:
        def part(brief: Brief) -> Play:
            yield read_file("x.txt")
            other = "b" if name == "a" else "a"
            heard = yield talk(other, "I have read it")
            while not any(sender == other for sender, _, _ in heard.letters):
                heard = yield "I wait until you have read it too."
            mine = [*lines]
            mine[line] = f"changed by {name}\n"
            yield write_file("x.txt", "".join(mine))
            # Both change the first line, on what both have read: one of them must come second.
            heard = yield call("edit_file", path="x.txt", old="line 0\n", new=f"first by {name}\n")
            yield finish(heard.results[0])

        return part

    result, files, events = play(tmp_path, {"boss": boss, "a": changer("a", 5), "b": changer("b", 15)})
    assert result.report is not None
    assert "changed by a\n" in files["x.txt"]
    assert "changed by b\n" in files["x.txt"]
    assert sum("Merged with changes by" in text for agent in "ab" for _, _, text in tools(events, agent)) >= 1
    assert files["x.txt"].count("first by") == 1
    assert "Error: " in result.report.summary


def test_a_folder_of_material_is_what_the_organisation_starts_from(tmp_path: Path) -> None:
    material = tmp_path / "material"
    (material / "notes").mkdir(parents=True)
    (material / "notes" / "a.txt").write_bytes(b"from\r\nthe person\r\n")

    def boss(brief: Brief) -> Play:
        heard = yield read_file("notes/a.txt")
        assert "the person" in heard.results[0]
        yield write_file("answer.txt", "seen")
        yield finish("done", ["answer.txt"])

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path / "home") as mega:
            run = await mega.start("Read.", input=material)
            assert (await run.result()).passed
            assert run.files.read("notes/a.txt") == b"from\r\nthe person\r\n"
            assert run.workspace.who_wrote("notes/a.txt") == "input"
            other = await mega.start("Read.", input=material)
            await other.result()
            assert run.diff(other) == []
            with pytest.raises(UsageError, match="is no folder"):
                await mega.start("Read.", input=tmp_path / "nowhere")

    asyncio.run(work())
    assert sorted(p.name for p in material.rglob("*")) == ["a.txt", "notes"]


def test_a_question_to_the_lead_is_answered_while_the_others_work_on(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("asker"), hire("slow"))
        while not any(sender == "asker" for sender, _, _ in heard.letters):
            heard = yield "I wait."
        heard = yield talk("asker", "the answer is 42")
        yield from wait_for(heard, ["asker", "slow"])
        yield finish("done")

    def asker(brief: Brief) -> Play:
        heard = yield talk("boss", "what is the answer?")
        while not any("42" in text for _, _, text in heard.letters):
            heard = yield "I wait for the answer."
        yield finish("I know: 42")

    def slow(brief: Brief) -> Play:
        for i in range(40):
            yield update_todo([f"point {i}"])
        yield update_todo([])
        yield finish("at last")

    async def work() -> None:
        script = Script({"boss": boss, "asker": asker, "slow": slow}, pace=0.01)
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path) as mega:
            run = await mega.start("Ask.")
            events = [event async for event in run]
            assert (await run.result()).passed
            order = [event.agent for event in events if event.kind == "reported"]
            assert order.index("asker") < order.index("slow")

    asyncio.run(work())


def test_what_follows_finish_in_one_turn_is_not_carried_out(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("eager"))
        reports = yield from wait_for(heard, ["eager"])
        yield finish(reports["eager"])

    eager = one((finish("done"), recruit(hire("late")), write_file("late.txt", "x")))
    result, files, events = play(tmp_path, {"boss": boss, "eager": eager})
    assert result.passed
    assert "late.txt" not in files
    assert [ok for _, ok, _ in tools(events, "eager")] == [True, False, False]
    assert not any(e.kind == "recruited" and e.agent == "late" for e in events)


def test_half_a_surrogate_pair_in_an_answer_stops_nobody(tmp_path: Path) -> None:
    """JSON may hold one, and so may what a model writes; a file and a database row may not."""
    parts = {"boss": one(write_file("a.txt", "smile: \ud83d"), update_todo([], ["\udcff"]), finish("done \ud83d"))}
    result, files, _ = play(tmp_path, parts)
    assert files["a.txt"] == "smile: \ufffd"
    assert result.report is not None
    assert result.report.summary == "done \ufffd"


def test_who_is_dismissed_in_the_middle_of_a_turn_does_nothing_more(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("slow"), hire("quick"))
        yield from wait_for(heard, ["quick"])
        yield call("dismiss", agents=["slow"])
        yield finish("done without it")

    slow = one(
        (call("ask_human", question="May I?"), write_file("late.txt", "x"), talk("boss", "late"), finish("late"))
    )
    result, files, events = play(tmp_path, {"boss": boss, "slow": slow, "quick": one(finish("ok"))})
    assert result.passed
    assert files == {}
    assert not [e for e in events if e.kind in ("letter", "reported") and e.agent == "slow"]
    assert all("dismissed" in text for tool, _, text in tools(events, "slow") if tool != "ask_human")
    with MegaGraph(home=tmp_path) as mega:
        assert mega.open(result.run).questions() == [], "nobody wants to know any more"


def test_who_is_dismissed_while_its_model_answers_reports_no_more(tmp_path: Path) -> None:
    begun, dismissed = asyncio.Event(), asyncio.Event()

    class Slow(RehearsalModel):
        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            answer = self._generate(messages)
            if read_brief(messages).name == "slow":
                begun.set()
                await dismissed.wait()
            elif answer.generations[0].text == "Now.":
                dismissed.set()
            else:
                await (begun.wait() if len(messages) > 3 else asyncio.sleep(0))
            return answer

    def boss(brief: Brief) -> Play:
        yield call("recruit", agents=[hire("slow")], work_on=True)
        yield call("dismiss", agents=["slow"])
        yield "Now."

    async def work() -> None:
        async with MegaGraph(Slow(script=Script({"boss": boss, "slow": one("I am done.")})), home=tmp_path) as mega:
            run = await mega.start("The goal.")
            result = await run.result()
            assert result.status == "done"
            assert result.not_done == ("slow (worker): dismissed before it reported",)
            assert not list(mega.db["letters"].rows_where("sender = 'slow'"))

    asyncio.run(work())


REFUSE = """CREATE TRIGGER refuse BEFORE INSERT ON tool_calls WHEN NEW.tool = '{}' AND NEW.ok
BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"""


def test_an_agent_is_closed_together_with_the_call_that_closes_it(tmp_path: Path) -> None:
    """Where the row of the call cannot be written, nobody was dismissed and no team was ended."""
    said: dict[str, str] = {}

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a"), hire("b", deliverables=["b.txt"]))
        yield from wait_for(heard, ["a", "b"])
        heard = yield call("dismiss", agents=["a"])
        said["dismiss"] = heard.results[0]
        yield finish("done")
        yield finish("done all the same")

    script = Script({"boss": boss, "a": one(finish("a")), "b": one(finish("b"), finish("there is no b.txt"))})

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path) as mega:
            run = await mega.start("The goal.")
            disk = sqlite3.connect(tmp_path / "megagraph.db", isolation_level=None)
            disk.execute(REFUSE.format("dismiss"))
            assert (await run.result()).status == "failed"
            assert not list(mega.db["agents"].rows_where("closed IS NOT NULL"))
            disk.execute("DROP TRIGGER refuse")
            disk.execute(REFUSE.format("finish").replace("NEW.ok", "NEW.agent = 'boss' AND NEW.ok"))
            run = await mega.resume(run.id)
            assert (await run.result()).status == "failed"
            assert said["dismiss"] == "Dismissed: a."
            assert [row["name"] for row in mega.db["agents"].rows_where("closed IS NOT NULL")] == ["a"]
            disk.execute("DROP TRIGGER refuse")
            result = await (await mega.resume(run.id)).result()
            assert result.report is not None
            disk.close()
            assert result.report.missing == ("b (missing: the file b.txt)",)

    asyncio.run(work())
