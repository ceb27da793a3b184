"""A person is asked before what they want to be asked about, once, and their word holds."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from megagraph import Limits, MegaGraph, Result, ReviewCheck, Run, Scenario
from megagraph.approvals import Approve, Decision
from megagraph.errors import UsageError
from megagraph.files.history import Author
from megagraph.rehearsal import (
    Brief,
    Part,
    RehearsalModel,
    Script,
    call,
    finish,
    read_file,
    recruit,
    run_program,
    wait_for,
    write_file,
)
from tests.commands import Program, child_env, write_scenario
from tests.model_server import ModelServer
from tests.scripts import REVIEWED, Play, deep_script, one, reviewed_script


def hire(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": f"the {name}", "instructions": f"be {name}", **more}


def parts() -> Mapping[str, Part]:
    """A boss whose plan is mended until it is approved, one who runs a program, and one who works meanwhile."""

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("runner"), hire("busy"))
        while not heard.results[0].startswith("Recruited"):
            heard = yield recruit(hire("runner"), hire("busy"))
        reports = yield from wait_for(heard, ["runner", "busy"])
        yield finish(" | ".join(sorted(reports.values())))

    def runner(brief: Brief) -> Play:
        yield write_file("a.py", "print('first')\n")
        heard = yield run_program("a.py"), run_program("a.py", "twice")
        said = [text.split("\n")[-1] if text.startswith("Error") else text for text in heard.results]
        yield finish(" / ".join(said))

    return {"boss": boss, "runner": runner, "busy": one(write_file("busy.txt", "x"), finish("busy is done"))}


def session(home: Path, approve: Any = None, answer: Callable[[dict[str, Any]], str | None] | None = None) -> Any:
    """One process's work: it answers as it is told to; how the run stands, what is open, and what was asked."""

    async def work() -> tuple[Result, list[dict[str, Any]], list[str]]:
        async with MegaGraph(RehearsalModel(script=Script(parts())), home=home, approve=approve) as mega:
            if mega.home.runs():
                for question in mega.open("last").questions():
                    if answer is not None and (said := answer(question)):
                        await mega.open("last").answer(question["id"], said)
                run = await mega.resume("last")
            else:
                run = await mega.start("Do it.")
            result = await run.result()
            state = await run.graph().aget_state(run.config, subgraphs=True)
            open_ = run.questions()
            assert {i.value["id"] for i in state.interrupts} == {q["id"] for q in open_}
            assert all(i.value["kind"] == "approval" for i in state.interrupts)
            asked = [e.data["id"] for e in run.events() if e.kind == "asking" and "id" in e.data]
            return result, open_, asked

    return asyncio.run(work())


def test_by_default_nobody_is_asked(tmp_path: Path) -> None:
    result, open_, asked = session(tmp_path)
    assert result.status == "done"
    assert (open_, asked) == ([], [])


def test_the_first_recruits_wait_for_a_yes_and_a_refusal_reaches_the_boss(tmp_path: Path) -> None:
    result, open_, _ = session(tmp_path, "plan")
    assert result.status == "asking"
    assert [(q["agent"], q["kind"]) for q in open_] == [("boss", "approval")]
    assert "- runner: the runner. be runner" in open_[0]["question"]
    result, again, _ = session(tmp_path)
    assert [q["id"] for q in again] == [q["id"] for q in open_], "it survives a restart, and so does the policy"
    result, others, _ = session(tmp_path, answer=lambda q: "no: too many of them")
    assert result.status == "asking"
    assert others[0]["id"] != open_[0]["id"], "another plan is another thing"
    result, left, asked = session(tmp_path, answer=lambda q: "yes")
    assert (result.status, left) == ("done", [])
    assert len(set(asked)) == 2
    with MegaGraph(home=tmp_path) as mega:
        rows = mega.home.database.read("SELECT result FROM tool_calls WHERE tool = 'recruit' ORDER BY step")
    assert len(rows) == 2
    assert rows[0]["result"] == "Error: not carried out, since a person did not approve it: too many of them"


def test_a_plan_that_cannot_be_bothers_nobody(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit({**hire("a"), "depends_on": ["nobody"]})
        assert "who is not in the team" in heard.results[0]
        yield finish("alone")

    with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path, approve="plan") as mega:
        assert mega.run("Do it.").passed
        assert not mega.db["questions"].count


def test_programs_are_shown_and_run_only_after_a_yes(tmp_path: Path) -> None:
    result, open_, _ = session(tmp_path, ["programs"])
    assert result.status == "asking"
    assert "print('first')" in open_[0]["question"] and "`runner`" in open_[0]["question"]
    with MegaGraph(home=tmp_path) as mega:
        events = mega.open("last").events()
        assert "busy" in {e.agent for e in events if e.kind == "reported"}, "the others have gone on"
        assert not [e for e in events if e.kind == "tool" and e.data["tool"] == "run_program"]
    first = open_[0]["id"]
    result, open_, _ = session(tmp_path, answer=lambda q: "no: not on this machine")
    assert [q["id"] for q in open_] != [first]
    result, open_, asked = session(tmp_path, answer=lambda q: "yes")
    assert (result.status, open_) == ("done", [])
    assert result.report is not None
    assert "not on this machine" in result.report.summary and "first" in result.report.summary
    assert len(set(asked)) == 2


def test_yes_always_is_for_all_programs_of_the_run(tmp_path: Path) -> None:
    session(tmp_path, "programs")
    result, open_, asked = session(tmp_path, answer=lambda q: "Yes, always.")
    assert (result.status, open_, len(set(asked))) == ("done", [], 1)
    assert result.report is not None and "did not approve" not in result.report.summary


def alone_script() -> Script:
    """A boss that does it all itself, and a review in the end."""
    verdict = one(read_file("a.txt"), call("give_verdict", passed=True, reason="It is.", evidence=["1/0"]))
    return Script({"boss": one(write_file("a.txt", "x"), finish("over", ["a.txt"])), "reviewer_of_boss": verdict})


@pytest.mark.parametrize(
    ("script", "workers", "live"),
    [
        (alone_script, 0, False),
        (alone_script, 2, True),
        (reviewed_script, 0, False),
        (reviewed_script, 0, True),
        (reviewed_script, 2, False),
        (reviewed_script, 2, True),
    ],
)
def test_wherever_a_run_becomes_too_dear_a_person_is_asked_and_it_goes_on(
    tmp_path: Path, script: Callable[[], Script], workers: int, live: bool
) -> None:
    scenario = Scenario("The goal.", checks=(ReviewCheck(review="It is good.", files=("a.txt",)),))
    steps = 4 if workers else 12

    async def answer(run: Run) -> None:
        async for event in run:
            # Each process may have told of the question.
            if event.kind == "asking" and (questions := run.questions()):
                await run.answer(questions[0]["id"], "yes")

    async def work(server: ModelServer, home: Path, approve: str) -> tuple[Result, list[float]]:
        asked: list[float] = []
        async with MegaGraph(
            "openai:scripted",
            base_url=server.url,
            home=home,
            workers=workers,
            prices={"scripted": (0.5, 5.0)},
            approve=approve,
        ) as mega:
            run = await mega.start(scenario)
            while True:
                answering = asyncio.create_task(answer(run)) if live else None
                async with asyncio.timeout(30):
                    result = await run.result()
                if answering is not None:
                    await answering
                if result.status == "done":
                    assert not run.events(kinds=("failed", "withdrawn"))
                    assert approve == "none" or run.events(kinds=("answered",))
                    return result, asked
                assert result.status == "asking", result.reason
                asked.append(result.cost_usd or 0.0)
                for question in run.questions():
                    await run.answer(question["id"], "yes")
                run = await mega.resume(run.id)

    with ModelServer(script()) as server:
        free, _ = asyncio.run(work(server, tmp_path / "free", "none"))
    assert free.passed and free.cost_usd is not None
    times_asked = 0
    for step in range(1, steps):
        most = free.cost_usd * step / steps
        with ModelServer(script()) as server:
            result, asked = asyncio.run(work(server, tmp_path / str(step), f"cost={most!r}"))
            assert len(server.log.answered()) == result.calls
        assert result.passed
        assert all(cost <= most for cost in asked)
        times_asked += len(asked)
    assert live or times_asked >= steps - 1


@pytest.mark.parametrize("script", [alone_script, reviewed_script])
@pytest.mark.parametrize("said", ["no: too dear", ""])
def test_a_run_that_is_too_dear_stops_with_the_reason_and_goes_on_where_it_may_be_dearer(
    tmp_path: Path, script: Callable[[], Script], said: str
) -> None:
    scenario = Scenario("The goal.", checks=(ReviewCheck(review="It is good.", files=("a.txt",)),))

    def opened(server: ModelServer, home: Path, approve: str) -> MegaGraph:
        prices = {"scripted": (0.5, 5.0)}
        return MegaGraph("openai:scripted", base_url=server.url, home=home, prices=prices, approve=approve)

    async def whole(server: ModelServer) -> float:
        async with opened(server, tmp_path / "free", "none") as mega:
            return (await (await mega.start(scenario)).result()).cost_usd or 0.0

    async def work(server: ModelServer, home: Path, approve: str) -> None:
        async with opened(server, home, approve) as mega:
            run = await mega.start(scenario)
            assert (await run.result()).status == "asking"
            if said:
                await run.answer(run.questions()[0]["id"], said)
                result = await (await mega.resume(run.id)).result()
                assert (result.status, not run.questions()) == ("paused", True)
                assert "was not approved: too dear" in result.reason
        async with opened(server, home, "none") as mega:
            run = await mega.resume(run.id)
            result = await run.result()
            assert result.passed
            assert run.questions() == [], "of a run that is done, nothing is asked"
            assert len(server.log.answered()) == result.calls

    with ModelServer(script()) as server:
        cost = asyncio.run(whole(server))
    for step in range(1, 8):
        with ModelServer(script()) as server:
            asyncio.run(work(server, tmp_path / str(step), f"cost={cost * step / 8!r}"))


def test_a_lead_hears_what_was_withdrawn_before_a_person_was_asked(tmp_path: Path) -> None:
    matches = {"file": "f.txt", "matches": "hello"}

    def boss(brief: Brief) -> Play:
        heard = yield recruit(
            {**hire("a"), "deliverables": ["f.txt"], "checks": [matches]},
            {**hire("x"), "deliverables": ["a.txt"], "checks": [REVIEWED]},
            hire("spoiler", depends_on=["a", "x"]),
            hire("late", depends_on=["a", "x", "spoiler"]),
        )
        told: list[str] = []
        while not any("does not hold any more" in text for text in told):
            told += [text for _, _, text in heard.letters]
            if any("does not hold any more" in text for text in told):
                break
            heard = yield "I wait."
        yield call("dismiss", agents=["late"])
        yield finish("over")
        yield finish("over all the same")

    verdict = one(read_file("a.txt"), call("give_verdict", passed=True, reason="It is.", evidence=["1/0"]))
    spoil = read_file("f.txt"), read_file("a.txt")
    parts: dict[str, Part] = {
        "boss": boss,
        "a": one(write_file("f.txt", "hello"), finish("a is done", ["f.txt"])),
        "x": one(write_file("a.txt", "hello"), finish("x is done", ["a.txt"])),
        "spoiler": one(spoil, (write_file("f.txt", "spoilt"), write_file("a.txt", "hello again")), finish("changed")),
        "reviewer_of_x": verdict,
    }

    async def work(server: ModelServer, home: Path, approve: str) -> tuple[Result, int]:
        asked = 0
        async with MegaGraph(
            "openai:scripted", base_url=server.url, home=home, prices={"scripted": (0.5, 5.0)}, approve=approve
        ) as mega:
            run = await mega.start("The goal.")
            async with asyncio.timeout(40):
                while (result := await run.result()).status == "asking":
                    asked += len(run.events(kinds=("withdrawn",)))
                    await run.answer(run.questions()[0]["id"], "yes")
                    run = await mega.resume(run.id)
            assert [event.agent for event in run.events(kinds=("withdrawn",))] == ["a"]
            return result, asked

    with ModelServer(Script(parts)) as server:
        free, _ = asyncio.run(work(server, tmp_path / "free", "none"))
    assert free.report is not None and free.report.summary.startswith("over")
    later = 0
    for step in range(1, 16):
        with ModelServer(Script(parts)) as server:
            result, asked = asyncio.run(
                work(server, tmp_path / str(step), f"cost={(free.cost_usd or 0) * step / 16!r}")
            )
        assert result.report is not None and result.report.summary.startswith("over")
        later += asked
    assert later, "it was asked after the withdrawal as well"


def test_a_program_that_changes_while_a_person_thinks_is_shown_again(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        yield write_file("a.py", "print('harmless')\n")
        heard = yield recruit(hire("runner"), hire("other"))
        reports = yield from wait_for(heard, ["runner", "other"])
        yield finish(reports["runner"])

    def runner(brief: Brief) -> Play:
        heard = yield run_program("a.py")
        yield finish(heard.results[0])

    script = Script({"boss": boss, "runner": runner, "other": one(write_file("b.txt", "b"), finish("ready"))})

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path, approve="programs") as mega:
            run = await mega.start("Do it.")
            assert (await run.result()).status == "asking"
            run.workspace.write(
                "a.py", "print('another')\n", base=run.workspace.head, author=Author("other", "other/9/9")
            )
            first = run.questions()[0]
            await run.answer(first["id"], "yes")
            result = await (await mega.resume("last")).result()
            assert result.status == "asking"
            (second,) = run.questions()
            assert "another" in second["question"] and second["id"] != first["id"]
            await run.answer(second["id"], "yes")
            result = await (await mega.resume("last")).result()
            assert result.passed and result.report is not None
            assert "another" in result.report.summary

    asyncio.run(work())


def test_an_answer_while_others_work_goes_straight_on_and_nonsense_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=Script(parts())), home=tmp_path, approve="plan,programs") as mega:
            run, answered = await mega.start("Do it."), set[str]()
            while True:
                async for event in run:
                    id_ = event.data.get("id")
                    if event.kind != "asking" or id_ is None or id_ in answered:
                        continue
                    assert event.data["about"] == "approval"
                    for nonsense in ("perhaps", "yes, but only once"):
                        with pytest.raises(UsageError, match="neither yes nor no"):
                            await run.answer(id_, nonsense)
                    await run.answer(id_, "no: I said no" if "program" in id_ else "yes")
                    answered.add(id_)
                result = await run.result()
                if result.status != "asking":
                    break
                # Nobody else was at work, and the run had stopped before the answer came.
                run = await mega.resume(run.id)
            assert result.status == "done" and result.report is not None
            assert result.report.summary.count("I said no") == 2

    asyncio.run(work())


def test_above_a_cost_everybody_waits_for_one_answer(tmp_path: Path) -> None:
    prices = {"scripted": (0.5, 5.0)}

    async def work() -> None:
        async with (
            ModelServer(deep_script(), latency=0.01) as server,
            MegaGraph(
                "openai:scripted", base_url=server.url, home=tmp_path, prices=prices, approve="cost=0.02"
            ) as mega,
        ):
            run = await mega.start("Write the files.")
            result = await run.result()
            assert result.status == "asking"
            assert result.cost_usd is not None and 0.01 < result.cost_usd < 0.021
            (question,) = run.questions()
            assert (question["kind"], question["agent"]) == ("approval", "boss")
            assert (await (await mega.resume("last")).result()).status == "asking"
            await run.answer(question["id"], "no: too dear")
            refused = await (await mega.resume("last")).result()
            assert refused.status == "paused"
            assert "more than $0.02 was not approved: too dear" in refused.reason
            assert refused.cost_usd is not None and refused.cost_usd < 0.021
        async with (
            ModelServer(deep_script()) as server,
            MegaGraph(
                "openai:scripted", base_url=server.url, home=tmp_path, prices=prices, approve="cost=0.03"
            ) as mega,
        ):
            run = await mega.resume("last")
            async for event in run:
                # Those of the process before come too.
                if event.kind == "asking" and event.data.get("id") == "everyone/cost=0.03":
                    await run.answer(event.data["id"], "yes")
            result = await run.result()
            if result.status == "asking":
                # The run had stopped before the answer came.
                result = await (await mega.resume(run.id)).result()
            assert result.passed and result.cost_usd is not None and result.cost_usd > 0.03
            asked = [e.data["id"] for e in run.events() if e.kind == "asking" and "id" in e.data]
            assert len(set(asked)) == 2

    asyncio.run(work())


KILLED = """
import asyncio, os, signal, sys
from megagraph import MegaGraph
from megagraph.rehearsal import RehearsalModel, Script
from tests.test_approvals import parts

async def work():
    async with MegaGraph(RehearsalModel(script=Script(parts())), home=sys.argv[1], approve=["plan"]) as mega:
        run = await (mega.resume("last") if mega.home.runs() else mega.start("Do it."))
        async for event in run:
            if event.kind == "asking" and "id" in event.data:
                await run.answer(event.data["id"], "yes")
                os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(work())
"""


def test_what_was_approved_is_not_asked_again_after_a_kill(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, str(tmp_path)]
    child = subprocess.run(argv, env=child_env(tmp_path), timeout=180, check=False)
    assert child.returncode == -9
    result, open_, asked = session(tmp_path)
    assert (result.status, open_) == ("done", [])
    assert len(asked) == 1


def test_from_a_scenario_and_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = """
    from megagraph.rehearsal import Script, finish, recruit, wait_for

    def boss(brief):
        heard = yield recruit({"name": "a", "role": "a helper", "instructions": "help"})
        if heard.results[0].startswith("Recruited"):
            yield from wait_for(heard, ["a"])
        yield finish("done")

    def a(brief):
        yield finish("helped")

    script = Script({"boss": boss, "a": a})
    """
    folder = write_scenario(tmp_path / "scenario", rehearsal, "checks: []\napprove: [plan]\n")
    monkeypatch.setenv("MEGAGRAPH_HOME", str(tmp_path / "home"))
    megagraph = Program(tmp_path / "home", capsys)
    ended = megagraph("run", folder)
    assert ended.code == 3
    assert "boss waits for an approval:" in ended.out and "- a: a helper. help" in ended.out
    (question,) = json.loads(megagraph("answer", "last", "--json").out)
    assert question["kind"] == "approval"
    wrong = megagraph("answer", "last", question["id"], "hm")
    assert wrong.code == 2 and "neither yes nor no" in wrong.err
    assert megagraph("answer", "last", question["id"], "yes").code == 0
    assert megagraph("resume").code == 0
    assert megagraph("run", folder, "--approve", "none").code == 0, "the command line goes before the scenario"
    odd = megagraph("run", folder, "--approve", "everything")
    assert odd.code == 2 and odd.err.count("\n") == 1 and "cost=DOLLARS" in odd.err


def test_words_of_a_policy_and_of_an_answer() -> None:
    assert Approve.parse(" plan, cost=5 ") == Approve(plan=True, cost_usd=5)
    assert Approve.parse(Approve.parse("plan,programs,cost=0.25").words()).cost_usd == 0.25
    assert Approve.parse("none") == Approve.parse([]) == Approve()
    for odd in ("cost", "cost=x", "cost=-1", "cost=nan", "plans"):
        with pytest.raises(UsageError):
            Approve.parse(odd)
    assert Decision.read("Yes") == Decision(True)
    assert Decision.read(" yes, always ") == Decision(True, always=True)
    assert Decision.read("no: because\nof this") == Decision(False, reason="because\nof this")
    assert Decision.read("no") == Decision(False)
    assert [Decision.read(odd) for odd in ("", "ok", "not now", "yes and no")] == [None] * 4


def test_a_cost_that_nobody_knows_cannot_be_approved(tmp_path: Path) -> None:
    mega = MegaGraph("openai:odd", base_url="http://127.0.0.1:1", home=tmp_path, approve="cost=1", limits=Limits())
    with mega, pytest.raises(UsageError, match="approve cost=1 cannot be held"):
        mega.run("Do it.")
