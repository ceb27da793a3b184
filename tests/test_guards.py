"""Guards: agents that go in circles are told, then their leads, then they are stopped; others are left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from megagraph import Limits, MegaGraph, Scenario
from megagraph.errors import UsageError
from megagraph.guards import Counts, Finding, Guards, Turn, duplicate_of, look
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
    update_todo,
    wait_for,
    write_file,
)
from megagraph.run import Result
from megagraph.scenario import load_scenario
from megagraph.specs import AgentSpec, Letter
from tests.scripts import Play, deep_script, one

QUICK = Guards(ping_pong=2, same_todo=2, no_growth=2)


def hire(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "worker", "instructions": f"be {name}", **more}


def play(
    home: Path, parts: Mapping[str, Part], limits: Limits | None = None, guards: Guards = QUICK
) -> tuple[Result, list[Any]]:
    """Run a script to where it stops: how it stands, the events."""

    async def work() -> tuple[Result, list[Any]]:
        scenario = Scenario("The goal.", limits=limits or Limits(), guards=guards)
        async with MegaGraph(RehearsalModel(script=Script(parts)), home=home) as mega:
            run = await mega.start(scenario)
            events = [event async for event in run]
            return await run.result(), events

    return asyncio.run(work())


def levels(events: list[Any], agent: str, guard: str) -> list[str]:
    return [e.data["level"] for e in events if e.kind == "guard" and e.agent == agent and e.data["guard"] == guard]


def told_boss(failures: list[str], names: Sequence[str]) -> Part:
    """A boss that recruits, waits until everybody has reported or failed, and hands in what there is."""

    def boss(brief: Brief) -> Play:
        heard = yield recruit(*map(hire, names))
        over: set[str] = set()
        while True:
            failures.extend(text for _, kind, text in heard.letters if kind in ("failure", "notice"))
            over |= {sender for sender, kind, _ in heard.letters if kind in ("failure", "report")}
            if over >= set(names):
                break
            heard = yield "I wait."
        yield finish("this is what there is")
        yield finish("this is what there is, and no more")

    return boss


# --- counting -------------------------------------------------------------------------------------------------


def count(guards: Guards, turns: Sequence[Turn], *, works: bool = False) -> list[Finding]:
    """What the guards find over these turns, their counts kept as JSON in between."""

    async def worked(agent: str, first: int, last: int) -> bool:
        return works

    async def main() -> list[Finding]:
        counts: Counts = {}
        found: list[Finding] = []
        for turn in turns:
            changed, findings = await look(guards, counts, turn, worked)
            counts = json.loads(json.dumps({**counts, **changed}))
            found += findings
        return found

    return asyncio.run(main())


def calls(*names: str) -> Turn:
    return Turn(calls=[("read_file", {"path": name}, f"text of {name}") for name in names])


LETTER = Turn(letters=[Letter("b/7/0/0", "b", "a", "message", "hello")])


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([calls("x")] * 3, ["note"]),
        ([calls("x")] * 8, ["note", "lead"]),
        ([calls("x")] * 9, ["note", "lead", "stop"]),
        ([calls("x"), calls("y")] * 3, ["note"]),
        ([calls("x", "y")] * 3, ["note"]),
        ([calls("x"), calls("x"), calls("y"), calls("x"), calls("x")], []),
        ([calls("x"), calls("x"), LETTER, calls("x"), calls("x")], []),
        ([calls(str(i)) for i in range(100)], []),
        ([calls("x", str(i)) for i in range(100)], []),
        ([calls("x"), Turn()] * 3, ["note"]),
    ],
)
def test_the_same_call_with_the_same_result_counts_until_something_is_new(
    turns: Sequence[Turn], expected: list[str]
) -> None:
    assert [finding.level for finding in count(Guards(), turns)] == expected
    assert count(Guards(same_call=0), turns) == []


def test_the_same_call_with_another_result_is_another_one() -> None:
    turns = [Turn(calls=[("run_program", {"path": "x.py"}, f"{i} failed")]) for i in range(20)]
    assert count(Guards(), turns) == []


def letters(n: int, *, other: Sequence[Turn] = ()) -> list[Turn]:
    turns: list[Turn] = []
    for i in range(n):
        turns += [
            Turn(calls=[("talk", {"to": ["b"], "message": f"{i}"}, "Sent to b.")]),
            Turn(letters=[Letter(f"b/{i}/0/0", "b", "a", "message", f"{i}")]),
            *other,
        ]
    return turns


def test_letters_to_and_fro_count_until_one_of_the_two_works() -> None:
    guards = Guards(ping_pong=4)
    assert [f.level for f in count(guards, letters(12))] == ["note", "lead", "stop"]
    assert count(guards, letters(3)) == []
    assert count(guards, letters(12), works=True) == []
    assert count(guards, letters(12, other=[calls("x")])) == []
    assert count(Guards(ping_pong=0), letters(100)) == []
    unanswered = [turn for turn in letters(30) if turn.calls]
    assert count(guards, unanswered) == [], "who gets no answer plays no ping-pong"


def test_a_todo_that_does_not_move_and_a_team_that_does_not_grow() -> None:
    todo = {"open": ["p"], "done": []}
    turns = [Turn(calls=[("list_files", {}, str(i))], todo=todo) for i in range(100)]
    assert [f.level for f in count(Guards(same_todo=10), turns[:30])] == ["note", "lead", "stop"]
    moved = [Turn(calls=t.calls, todo={"open": [f"p{i // 9}"]}) for i, t in enumerate(turns)]
    assert count(Guards(same_todo=10), moved) == []
    team = [Turn(members=("x", "y", "z"), unaccepted=2, accepted=1)] * 31
    assert [f.level for f in count(Guards(no_growth=10), team)] == ["note", "lead", "stop"]
    growing = [Turn(members=("x",) * 20, unaccepted=10, accepted=i // 9) for i in range(100)]
    assert count(Guards(no_growth=10), growing) == []
    judging = [
        Turn(members=("x", "y", "z"), unaccepted=0, accepted=3, calls=[("read_file", {}, str(i))]) for i in range(100)
    ]
    assert count(Guards(no_growth=10), judging) == []


@pytest.mark.parametrize(
    ("wish", "same"),
    [
        (AgentSpec("dev_2", "Developer", "Write the  engine", lead="boss"), "dev"),
        (AgentSpec("dev_2", "developer", "write the engine!", lead="boss"), "dev"),
        (AgentSpec("dev_2", "developer", "write the parser", lead="boss"), None),
        (AgentSpec("dev_2", "tester", "write the engine", lead="boss"), None),
        (AgentSpec("other", "x", "y", ("engine.py",), lead="boss"), "dev"),
        (AgentSpec("other", "x", "y", ("engine.py",), ("dev",), lead="boss"), None),
        (AgentSpec("other", "x", "y", ("engine.py", "more.py"), lead="boss"), None),
        # Another team may have a developer as well; nobody hires its own double.
        (AgentSpec("helper", "developer", "write the engine", lead="qa"), None),
        (AgentSpec("helper", "developer", "write the engine", ("engine.py",), lead="dev"), "dev"),
        (AgentSpec("helper", "x", "y", ("engine.py",), lead="dev"), None),
    ],
)
def test_a_job_that_somebody_has_is_recognised(wish: AgentSpec, same: str | None) -> None:
    boss = AgentSpec("boss", "boss", "")
    dev = AgentSpec("dev", "developer", "Write the engine.", ("engine.py",), lead="boss", depth=1)
    qa = AgentSpec("qa", "qa", "test", lead="boss", depth=1)
    chain = [dev, boss] if wish.lead == "dev" else [qa, boss] if wish.lead == "qa" else [boss]
    found = duplicate_of(wish, [boss, dev, qa], chain)
    assert (found[0] if found else None) == same


# --- runs -----------------------------------------------------------------------------------------------------


def test_an_agent_that_repeats_itself_is_told_then_its_lead_then_it_is_stopped(tmp_path: Path) -> None:
    failures: list[str] = []

    def loop(brief: Brief) -> Play:
        while True:
            yield list_files()

    parts = {"boss": told_boss(failures, ["loop", "good"]), "loop": loop, "good": one(finish("ok"))}
    result, events = play(tmp_path, parts)
    assert result.status == "done"
    assert not result.passed
    assert levels(events, "loop", "same_call") == ["note", "lead", "stop"]
    assert sum(e.kind == "thought" and e.agent == "loop" for e in events) == 9
    assert any("loop goes in circles: it has called `list_files` 6 times" in text for text in failures)
    assert any("I failed: I go in circles: loop has called `list_files` 9 times" in text for text in failures)
    assert [line.partition(" ")[0] for line in result.not_done] == ["loop"]
    assert result.report is not None
    assert any(line.startswith("loop (failed") for line in result.report.missing)


def test_an_agent_that_heeds_the_note_goes_on(tmp_path: Path) -> None:
    heard: list[str] = []

    async def work() -> Result:
        async with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path) as mega:
            run = await mega.start("The goal.")
            result = await run.result()
            rows = mega.home.database.read("SELECT heard FROM calls ORDER BY step")
            heard.extend(text for row in rows for text in json.loads(row["heard"]))
            return result

    def boss(brief: Brief) -> Play:
        for _ in range(3):
            yield list_files()
        yield write_file("x.txt", "new")
        for _ in range(2):
            yield list_files()
        yield finish("done")

    assert asyncio.run(work()).passed
    assert [text for text in heard if "<note>You go in circles" in text] == [
        "<note>You go in circles: boss has called `list_files` 3 times with the same arguments "
        '({"pattern": ""}) and the same result (“No files.”), and tried nothing new in between. Repeating it will'
        " not change the result: try something else, ask, or `finish` and say what is missing.</note>"
    ]


def test_a_boss_that_loops_stops_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        for _ in range(14):
            yield list_files()
        yield finish("done")

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path) as mega:
            run = await mega.start("The goal.")
            result = await run.result()
            assert result.status == "failed"
            assert not result.passed
            assert "the boss goes in circles: it has called `list_files` 9 times" in result.reason
            assert result.calls == 9
            result = await (await mega.resume(run.id)).result()
            assert result.passed, "a person has let it go on: it is counted anew"

    asyncio.run(work())


def test_members_that_only_write_letters_to_one_another_are_stopped(tmp_path: Path) -> None:
    failures: list[str] = []

    def ping(other: str) -> Part:
        def part(brief: Brief) -> Play:
            i = 0
            while True:
                i += 1
                yield talk(other, f"{brief.name} says {i}")

        return part

    parts = {"boss": told_boss(failures, ["a", "b"]), "a": ping("b"), "b": ping("a")}
    # How often the boss is told of it depends on how the letters cross: its own rounds are not what is tried here.
    result, events = play(tmp_path, parts, Limits(calls=200), QUICK.model_copy(update={"no_growth": 0}))
    assert result.status == "done"
    assert not result.passed
    # A letter that was on its way wakes whoever has failed, and it is counted anew.
    assert any(levels(events, name, "ping_pong")[:3] == ["note", "lead", "stop"] for name in ("a", "b"))
    assert any(
        "I go in circles: a has written" in text or "I go in circles: b has written" in text for text in failures
    )


def test_a_lead_that_answers_its_member_is_not_stopped_for_it(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("asks"))
        while not any(kind == "failure" for _, kind, _ in heard.letters):
            heard = yield talk("asks", "just do it")
            if not heard.letters:
                heard = yield "I wait."
        heard = yield call("dismiss", agents=["asks"])
        yield finish("without")

    def asks(brief: Brief) -> Play:
        while True:
            yield talk("boss", "may I?")
            yield "I wait."

    result, events = play(
        tmp_path, {"boss": boss, "asks": asks}, Limits(calls=200), Guards(ping_pong=2, no_growth=0, same_call=0)
    )
    assert result.passed
    assert "stop" in levels(events, "asks", "ping_pong")
    assert set(levels(events, "boss", "ping_pong")) <= {"note"}


def test_a_todo_that_never_moves_and_work_that_is_never_accepted(tmp_path: Path) -> None:
    failures: list[str] = []

    def idle(brief: Brief) -> Play:
        yield update_todo(["the one point"])
        i = 0
        while True:
            i += 1
            yield write_file("x.txt", f"{i}")

    def lead(brief: Brief) -> Play:
        heard = yield recruit(hire("never", deliverables=["never.txt"]))
        i = 0
        while True:
            i += 1
            heard = yield "I wait."
            if heard.letters:
                yield talk("never", f"once more, with feeling {i}")

    def never(brief: Brief) -> Play:
        i = 0
        while True:
            i += 1
            yield f"I have done nothing, {i}."

    parts = {"boss": told_boss(failures, ["idle", "lead"]), "idle": idle, "lead": lead, "never": never}
    result, events = play(tmp_path, parts, guards=Guards(same_todo=3, no_growth=3))
    assert result.status == "done"
    assert not result.passed
    assert levels(events, "idle", "same_todo") == ["note", "lead", "stop"]
    assert levels(events, "lead", "no_growth") == ["note", "lead", "stop"]
    assert any("without a change in its open points (the one point)" in text for text in failures)
    assert any("without another member's report being accepted" in text for text in failures)


def test_a_failed_agent_tries_again_when_its_lead_writes_and_knows_what_went_wrong(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("loop"))
        while not any(kind == "failure" for _, kind, _ in heard.letters):
            heard = yield "I wait."
        heard = yield talk("loop", "write x.txt instead")
        reports = yield from wait_for(heard, ["loop"])
        yield finish(reports["loop"], ["x.txt"])

    def loop(brief: Brief) -> Play:
        heard = yield list_files()
        while not heard.letters:
            heard = yield list_files()
        yield write_file("x.txt", "x")
        yield finish("I did something else", ["x.txt"])

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=Script({"boss": boss, "loop": loop})), home=tmp_path) as mega:
            run = await mega.start("The goal.")
            assert (await run.result()).passed
            state = await run.graph().aget_state(run.config)
            assert state.values["report"]["summary"].startswith("I did something else")

    asyncio.run(work())


def test_a_failure_is_told_once_however_many_letters_lie_unread(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("bad"), hire("mate"))
        letters = list(heard.letters)
        while sum(kind == "failure" for _, kind, _ in letters) < 2:
            if any(kind == "failure" for _, kind, _ in heard.letters):
                heard = yield talk("bad", "try again")
            else:
                heard = yield "I wait."
            letters += heard.letters
        heard = yield call("dismiss", agents=["bad"])
        if "mate" not in {sender for sender, _, _ in letters}:
            yield from wait_for(heard, ["mate"])
        yield finish("without bad")

    def bad(brief: Brief) -> Play:
        raise RuntimeError("the roof is on fire")
        yield

    parts = {"boss": boss, "bad": bad, "mate": one(talk("bad", "hello"), talk("bad", "hello?"), finish("ok"))}
    result, events = play(tmp_path, parts)
    assert result.passed
    failed = sum(e.kind == "failed" and e.agent == "bad" for e in events)
    assert failed == sum(e.kind == "letter" and e.data["about"] == "failure" for e in events)
    assert failed <= 4, "one for each time that somebody wrote to it"
    assert [line.split(" ")[0] for line in result.not_done] == ["bad"]


def test_nobody_is_recruited_for_a_job_that_somebody_has(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        first = {"name": "dev", "role": "developer", "instructions": "Write the engine.", "deliverables": ["e.txt"]}
        heard = yield recruit(first, work_on=True)
        again = {"name": "coder", "role": "Developer", "instructions": "write the engine"}
        heard = yield recruit(again, {"name": "x", "role": "y", "instructions": "z", "deliverables": ["e.txt"]})
        assert "`coder` would do the job of `dev`, which has the same role" in heard.results[0]
        assert "`x` would do the job of `dev`, which delivers the same (e.txt)" in heard.results[0]
        assert "`talk` to it, or `dismiss` it first" in heard.results[0]
        heard = yield call("dismiss", agents=["dev"]), recruit(again)
        assert heard.results[1].startswith("Recruited: coder.")
        yield from wait_for(heard, ["coder"])
        yield finish("done")

    def dev(brief: Brief) -> Play:
        while True:
            yield "I never finish."

    parts = {"boss": boss, "dev": one(write_file("e.txt", "x"), finish("ok", ["e.txt"])), "coder": one(finish("ok"))}
    result, _ = play(tmp_path, parts)
    assert result.passed


def test_a_failed_agent_may_be_replaced_by_one_with_the_same_job(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        job = {"role": "developer", "instructions": "Write the engine."}
        heard = yield recruit({"name": "dev", **job})
        while not any(kind == "failure" for _, kind, _ in heard.letters):
            heard = yield "I wait."
        heard = yield recruit({"name": "dev_two", **job})
        yield from wait_for(heard, ["dev_two"])
        heard = yield call("dismiss", agents=["dev"])
        yield finish("done")

    def bad(brief: Brief) -> Play:
        raise RuntimeError("the roof is on fire")
        yield

    result, _ = play(tmp_path, {"boss": boss, "dev": bad, "dev_two": one(finish("ok"))})
    assert result.passed
    assert [line.partition(": ")[0] for line in result.not_done] == ["dev (developer)"]


@pytest.mark.parametrize("work_on", [True, False])
def test_a_boss_that_recruits_without_end_ends_within_its_limits(tmp_path: Path, work_on: bool) -> None:
    def boss(brief: Brief) -> Play:
        i = 0
        while True:
            i += 1
            yield recruit(hire(f"w{i}"), work_on=work_on)

    limits = Limits(agents=12, calls=100, rounds=40)

    async def work() -> tuple[Result, int]:
        script = Script({"boss": boss}, default=one(finish("ok")))
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path, limits=limits) as mega:
            run = await mega.start("Recruit.")
            result = await run.result()
            return result, len(mega.home.ledger(run.id).agents())

    result, agents = asyncio.run(work())
    assert agents == 12
    assert result.status == "paused"
    assert result.reason.startswith("limit reached: rounds=40 of one agent (at agent `boss`)")
    assert not result.passed


def test_counts_survive_a_pause_and_a_team_that_is_opened(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        yield list_files()
        yield list_files()
        heard = yield recruit(hire("a"), work_on=True)
        for _ in range(20):
            heard = yield read_file("none.txt")
        yield from wait_for(heard, ["a"])

    async def work() -> None:
        model = RehearsalModel(script=Script({"boss": boss, "a": one(talk("boss", "x"), "waits")}))
        calls, events = 0, []
        for _ in range(20):
            async with MegaGraph(model, home=tmp_path, limits=Limits(calls=calls + 2)) as mega:
                run = await mega.resume("last") if mega.runs() else await mega.start("The goal.")
                result = await run.result()
                calls, events = result.calls, run.events()
                if result.status != "paused":
                    break
        assert result.status == "failed"
        assert levels(events, "boss", "same_call") == ["note", "lead", "stop"]

    asyncio.run(work())


def test_normal_work_trips_no_guard(tmp_path: Path) -> None:
    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=deep_script()), home=tmp_path) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            assert not any(event.kind == "guard" for event in run.events())

    asyncio.run(work())


def test_a_scenario_sets_the_guards(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("name: x\ngoal: g\nguards: {same_call: 5}\nprices: {m: [1, 2.5]}\n")
    scenario = load_scenario(tmp_path)
    assert scenario.guards == Guards(same_call=5)
    assert scenario.prices == {"m": (1.0, 2.5)}
    (tmp_path / "scenario.yaml").write_text("name: x\ngoal: g\nguards: {same_cal: 5}\n")
    with pytest.raises(UsageError, match=r"`guards` does not fit: `same_cal`.*Known: same_call, ping_pong"):
        load_scenario(tmp_path)
    (tmp_path / "scenario.yaml").write_text("name: x\ngoal: g\nprices: {m: 3}\n")
    with pytest.raises(UsageError, match="the price of `m` does not fit"):
        load_scenario(tmp_path)
