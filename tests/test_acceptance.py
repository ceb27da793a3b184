"""Acceptance: work is accepted on evidence, which is newer than the last change of what it is about, and kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from megagraph import Check, Limits, MegaGraph, ReviewCheck, Scenario, reviewer
from megagraph.claims import subjects
from megagraph.errors import BranchStopped
from megagraph.home import Home
from megagraph.limits import Claim, Meter, Use
from megagraph.mailroom import Mailroom
from megagraph.models import Asker
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
    talk,
    wait_for,
    write_file,
)
from megagraph.run import Result
from megagraph.specs import AgentSpec, Report
from tests.scripts import Play, one

ENGINE = "print('engine 1')\n"


def hire(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": f"the {name}", "instructions": f"be {name}", **more}


CODER = hire("coder", deliverables=["engine.py"])
TESTER = hire("tester", deliverables=["test_report.md"], depends_on=["coder"])


def play(
    home: Path, parts: Mapping[str, Part], checks: Sequence[Check] = (), limits: Limits | None = None
) -> tuple[Result, list[Any]]:
    """Run a script to where it stops: how it stands, the events."""

    async def work() -> tuple[Result, list[Any]]:
        model = RehearsalModel(script=Script(parts))
        async with MegaGraph(model, home=home, unsafe_programs=True, checks=checks, limits=limits) as mega:
            run = await mega.start("The goal.")
            events = [event async for event in run]
            return await run.result(), events

    return asyncio.run(work())


def found(result: Result, agent: str) -> list[tuple[str, str, bool]]:
    """(id, check, passed) of the evidence on an agent's work."""
    return [(item.id, item.check, item.passed) for item in result.evidence if item.agent == agent]


def trusting(*agents: Mapping[str, Any], artefacts: Sequence[str] = ()) -> Part:
    """A boss that recruits, waits for all, and hands in twice, whatever it is told."""

    def boss(brief: Brief) -> Play:
        heard = yield recruit(*agents)
        over: set[str] = set()
        while over < {str(agent["name"]) for agent in agents}:
            over |= {sender for sender, kind, _ in heard.letters if kind in ("report", "failure")}
            if over < {str(agent["name"]) for agent in agents}:
                heard = yield "I wait."
        heard = yield finish("All is done.", artefacts)
        if any("not handed in" in text for text in heard.results):
            yield finish("All is done, I say.", artefacts)

    return boss


# --- what is handed in ----------------------------------------------------------------------------------------


def test_a_placeholder_is_not_accepted_and_its_author_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []

    def writer(brief: Brief) -> Play:
        yield write_file("guide.md", "# Guide\n\nTODO: write this\n")
        heard = yield finish("The guide is written.", ["guide.md"])
        told.extend(heard.results)
        yield write_file("guide.md", "# Guide\n\nPress start.\n")
        yield finish("Now it is.", ["guide.md"])

    parts = {"boss": trusting(hire("writer", deliverables=["guide.md"])), "writer": writer}
    result, events = play(tmp_path, parts)
    assert result.passed
    assert "it is a placeholder: nothing is in it but “TODO: write this”" in told[0]
    assert found(result, "writer") == [("writer/2/0/0", "guide.md", False), ("writer/4/0/0", "guide.md", True)]
    [sent_back] = [e.data["evidence"] for e in events if e.kind == "sent_back"]
    [accepted] = [e.data["evidence"] for e in events if e.kind == "accepted" and e.agent == "writer"]
    assert [item["passed"] for item in (*sent_back, *accepted)] == [False, True]


def test_a_success_without_artefacts_is_not_believed(tmp_path: Path) -> None:
    """Of a boss that names a file which was never written, and of a member that promised one."""
    coder = one(finish("engine.py is there, all 25 tests pass"), finish("It is there, believe me"))
    parts = {"boss": trusting(CODER, artefacts=["main.py"]), "coder": coder}
    result, _ = play(tmp_path, parts)
    assert (result.status, result.passed) == ("done", False)
    assert result.report is not None
    assert result.report.missing == ("the file main.py", "coder (missing: the file engine.py)")
    assert [line.partition(" ")[0] for line in result.not_done] == ["coder"]


def test_checks_of_a_lead_are_told_and_hold_until_they_pass(tmp_path: Path) -> None:
    tasks: list[str] = []
    heard_by_coder: list[str] = []
    checks = [
        {"run": ["engine.py"], "contains": "engine 2", "name": "prints its number"},
        {"file": "scores.json", "schema": {"type": "array", "minItems": 1}},
    ]

    def coder(brief: Brief) -> Play:
        tasks.append(brief.task)
        yield write_file("engine.py", ENGINE), write_file("scores.json", "[]")
        heard = yield finish("Done.")
        heard_by_coder.extend(heard.results)
        yield write_file("engine.py", ENGINE.replace("1", "2")), write_file("scores.json", "[1]")
        yield finish("Done.")

    def user(brief: Brief) -> Play:
        assert "coder reports: Done." in brief.task
        yield finish("I could use it.")

    boss = trusting({**CODER, "checks": checks}, hire("user", depends_on=["coder"]))
    result, events = play(tmp_path, {"boss": boss, "coder": coder, "user": user})
    assert result.passed
    assert '"contains": "engine 2"' in tasks[0]
    assert "prints its number ('engine 2' is not in its output" in heard_by_coder[0]
    assert "scores.json fits its schema ($: [] should be non-empty)" in heard_by_coder[0]
    assert [passed for _, _, passed in found(result, "coder")] == [True, False, False, True, True, True]
    order = [(e.kind, e.agent) for e in events if e.kind in ("sent_back", "reported", "thought") and e.agent != "boss"]
    assert order.index(("thought", "user")) > order.index(("reported", "coder")) > order.index(("sent_back", "coder"))


def test_an_agent_that_just_stops_is_looked_at_as_well(tmp_path: Path) -> None:
    parts = {"boss": trusting(CODER), "coder": one(write_file("engine.py", "# TODO\n"), "Done.", "Done, I say.")}
    result, events = play(tmp_path, parts)
    assert [(e.agent, e.data["evidence"][0]["passed"]) for e in events if e.kind == "reminded"] == [("coder", False)]
    assert found(result, "coder") == [("coder/2/end/0", "engine.py", False), ("coder/3/end/0", "engine.py", False)]
    assert not result.passed


def test_who_promised_nothing_costs_nothing(tmp_path: Path) -> None:
    result, _ = play(
        tmp_path,
        {"boss": trusting(hire("a"), hire("b", depends_on=["a"])), "a": one(finish("ok")), "b": one(finish("ok"))},
    )
    assert result.passed
    assert result.evidence == ()


@pytest.mark.parametrize("check", [{"judge": "x.py"}, {"run": []}, {"file": "a", "matches": "("}, {}])
def test_a_recruit_with_a_check_that_does_not_fit_is_refused(tmp_path: Path, check: dict[str, Any]) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("coder", checks=[check]))
        yield finish(heard.results[0])

    result, _ = play(tmp_path, {"boss": boss})
    assert result.report is not None
    assert "wrong arguments for `recruit`: `agents.0.checks.0" in result.report.summary


# --- testers that lie -----------------------------------------------------------------------------------------


def test_a_tester_that_ran_nothing_has_no_say(tmp_path: Path) -> None:
    """As in the original's recorded run: files were read, none was run, and a test report was written."""

    def tester(brief: Brief) -> Play:
        yield read_file("engine.py")
        yield write_file("test_report.md", "All 25 tests pass. The AI is very strong.\n")
        heard = yield finish("I have tested everything.", ["test_report.md"])
        assert "its author, tester, has not run a program" in heard.results[0]
        yield finish("I have really tested everything.", ["test_report.md"])

    boss = trusting(CODER, TESTER, artefacts=["engine.py", "test_report.md"])
    coder = one(write_file("engine.py", ENGINE), finish("Done."))
    result, _ = play(tmp_path, {"boss": boss, "coder": coder, "tester": tester})
    assert (result.status, result.passed) == ("done", False)
    assert result.report is not None
    assert result.report.missing[0].startswith("test_report.md is backed (it does not count: its author, tester,")
    assert result.report.missing[1].startswith("tester (missing: test_report.md is backed")
    assert [line.partition(" ")[0] for line in result.not_done] == ["tester"]


def test_a_test_of_an_older_version_does_not_count_until_it_is_made_again(tmp_path: Path) -> None:
    """The other half of it: the fix came after the test report."""

    def coder(brief: Brief) -> Play:
        yield write_file("engine.py", ENGINE)
        heard = yield finish("Done.")
        while not any("fix" in text for _, _, text in heard.letters):
            heard = yield "I wait."
        yield write_file("engine.py", "print('engine 2')\n")
        yield finish("Fixed.")

    def tester(brief: Brief) -> Play:
        yield run_program("engine.py")
        yield write_file("test_report.md", "It prints its number.\n")
        heard = yield finish("Tested.")
        while not any("again" in text for _, _, text in heard.letters):
            heard = yield "I wait."
        heard = yield finish("Tested again, I say.")
        assert "has not run a program since engine.py was changed" in heard.results[0]
        yield run_program("engine.py")
        yield finish("Tested again.")

    def boss(brief: Brief) -> Play:
        heard = yield recruit(CODER, TESTER)
        yield from wait_for(heard, ["coder", "tester"])
        heard = yield talk("coder", "fix it")
        yield from wait_for(heard, ["coder"])
        heard = yield finish("All is done.")
        assert "tester (missing: test_report.md is backed" in heard.results[0]
        heard = yield talk("tester", "test it again")
        yield from wait_for(heard, ["tester"])
        yield finish("All is done.", ["engine.py", "test_report.md"])

    result, events = play(tmp_path, {"boss": boss, "coder": coder, "tester": tester})
    assert result.passed
    [withdrawn] = [e for e in events if e.kind == "withdrawn"]
    assert withdrawn.agent == "tester"
    assert "since engine.py was changed" in withdrawn.data["why"]
    assert result.not_done == ()


def test_what_a_claim_is_about_is_known_by_the_rows(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ledger = home.ledger("the run")
    specs = [
        AgentSpec("boss", "", ""),
        AgentSpec("lead", "leads", "Lead.", lead="boss"),
        AgentSpec("coder", "codes", "Code.", ("engine.py",), lead="lead"),
        AgentSpec("tester", "tests", "Test.", ("test_report.md",), ("coder",), lead="lead"),
        AgentSpec("critic", "reviews", "Look.", ("review.md",), lead="lead"),
        AgentSpec("head", "leads", "Lead and look.", ("audit.md",), lead="boss"),
        AgentSpec("hand", "works", "Work.", ("./text.md",), lead="head"),
    ]
    report = Report("Done.", ("engine.py", "more.py"), version="1" * 40)
    home.database.write_sync(
        *(ledger.recruited(spec, f"boss/1/{i}") for i, spec in enumerate(specs)),
        ledger.reported("coder", report),
        *ledger.closed([spec.name for spec in specs]),
        home.ledger("another").recruited(AgentSpec("stranger", "", "", ("other.md",), lead="lead"), "boss/1/0"),
    )

    async def about() -> dict[str, list[str] | None]:
        names = ("boss", "tester", "critic", "head", "nobody")
        return {name: await subjects(ledger, name) for name in names}

    assert asyncio.run(about()) == {
        "boss": [],
        "tester": ["engine.py", "more.py"],
        "critic": ["engine.py", "more.py"],
        "head": ["text.md"],
        "nobody": None,
    }
    home.close()


def test_a_review_needs_a_read_of_what_it_is_about(tmp_path: Path) -> None:
    reviewer = hire("reviewer", deliverables=["code_review.md"], depends_on=["coder"])
    coder = one(write_file("engine.py", ENGINE), finish("Done."))

    def honest(brief: Brief) -> Play:
        yield write_file("code_review.md", "Well written.\n")
        heard = yield finish("Reviewed.")
        assert "has not run a program or read what it is about" in heard.results[0]
        yield read_file("engine.py")
        yield finish("Reviewed.")

    result, _ = play(tmp_path, {"boss": trusting(CODER, reviewer), "coder": coder, "reviewer": honest})
    assert result.passed
    assert result.evidence[-1].detail.startswith("reviewer read engine.py in version ")


# --- what changes afterwards ----------------------------------------------------------------------------------


def test_a_dependent_does_not_start_from_what_no_longer_holds(tmp_path: Path) -> None:
    """Accepted, emptied by somebody else, and then the last input of a third agent arrives."""
    notices: list[str] = []

    def vandal(brief: Brief) -> Play:
        heard = yield talk("boss", "What shall I do?")
        while not any("go" in text for _, _, text in heard.letters):
            heard = yield "I wait for work."
        yield read_file("engine.py")
        yield write_file("engine.py", "# TODO\n")
        yield finish("I have tidied up.")

    def boss(brief: Brief) -> Play:
        heard = yield recruit(CODER, hire("user", depends_on=["coder", "vandal"]), hire("vandal"))
        reports = yield from wait_for(heard, ["coder"])
        heard = yield talk("vandal", "go")
        while not (told := [text for _, kind, text in heard.letters if kind == "notice"]):
            heard = yield "I wait."
        notices.extend(told)
        assert reports
        yield read_file("engine.py")
        yield write_file("engine.py", ENGINE)
        heard = yield talk("coder", "mend it")
        yield from wait_for(heard, ["user"])
        yield finish("All is done.", ["engine.py"])

    def coder(brief: Brief) -> Play:
        yield write_file("engine.py", ENGINE)
        heard = yield finish("Done.")
        while not any("mend" in text for _, _, text in heard.letters):
            heard = yield "I wait."
        yield finish("Mended.")

    parts = {"boss": boss, "coder": coder, "vandal": vandal, "user": one([read_file("engine.py")], finish("used"))}
    result, events = play(tmp_path, parts)
    assert result.passed
    assert "What coder handed in does not hold any more" in notices[0]
    assert "it is a placeholder" in notices[0]
    kinds = [(e.kind, e.agent) for e in events]
    assert kinds.index(("withdrawn", "coder")) < kinds.index(("thought", "user"))
    assert kinds.count(("thought", "user")) == 2


def test_a_lead_cannot_hand_in_over_a_file_that_was_spoilt_and_whoever_mends_it(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(CODER)
        yield from wait_for(heard, ["coder"])
        yield read_file("engine.py")
        yield write_file("engine.py", "# TODO\n")
        heard = yield finish("All is done.")
        assert "coder (missing: engine.py (it is a placeholder" in heard.results[0]
        yield write_file("engine.py", ENGINE)
        yield finish("All is done.", ["engine.py"])

    result, events = play(tmp_path, {"boss": boss, "coder": one(write_file("engine.py", ENGINE), finish("Done."))})
    assert result.passed
    assert [e.kind for e in events if e.agent == "coder" and e.kind in ("withdrawn", "accepted")] == [
        "accepted",
        "withdrawn",
        "accepted",
    ]
    with MegaGraph(home=tmp_path) as mega:
        kept = mega.open("last").outcome()
    assert kept.evidence == result.evidence, "evidence is in the ledger"


def test_a_report_that_comes_while_the_last_one_is_examined_again_is_the_one_that_counts(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        check = {"run": ["engine.py"], "contains": "engine"}
        heard = yield recruit(
            {**CODER, "checks": [check]},
            hire("spoiler", depends_on=["coder"]),
            hire("user", depends_on=["spoiler", "coder"]),
        )
        yield from wait_for(heard, ["coder", "spoiler"])
        heard = yield talk("coder", "mend it")
        yield from wait_for(heard, ["user"])
        yield finish("All is done.", ["engine.py"])

    def coder(brief: Brief) -> Play:
        yield write_file("engine.py", ENGINE)
        heard = yield finish("Made.")
        while not any(text == "mend it" for _, _, text in heard.letters):
            heard = yield "Noted."
        yield read_file("engine.py")
        yield write_file("engine.py", ENGINE + "print('mended')\n")
        yield finish("Mended.")

    slow = "import time\ntime.sleep(1)\n"
    spoiler = one(read_file("engine.py"), write_file("engine.py", slow), finish("Spoilt."))
    result, _ = play(tmp_path, {"boss": boss, "coder": coder, "spoiler": spoiler, "user": one(finish("Used."))})
    assert result.passed
    with MegaGraph(home=tmp_path) as mega:
        [report] = [report for spec, report, _ in mega.open("last").ledger.agents() if spec.name == "coder"]
    assert report is not None
    assert (report.summary, report.accepted) == ("Mended.", True)


# --- reviewers ------------------------------------------------------------------------------------------------

CRITERIA = ReviewCheck(review="engine.py prints which engine it is.", files=("engine.py",), name="review")
BOSS = one(write_file("engine.py", ENGINE), finish("Done.", ["engine.py"]))


def verdict(passed: bool, *evidence: str) -> Any:
    return call("give_verdict", passed=passed, reason="I say so", evidence=list(evidence))


@pytest.mark.parametrize(
    ("turns", "passed", "detail"),
    [
        ([read_file("engine.py"), verdict(True, "1/0")], True, "I say so (seen: 1/0)"),
        ([run_program("engine.py"), verdict(True, "1/0")], True, "I say so (seen: 1/0)"),
        ([[read_file("engine.py"), run_program("engine.py")], verdict(True, "1/0", "1/1")], True, "I say so"),
        ([run_program("engine.py"), verdict(False, "1/0")], False, "I say so (seen: 1/0)"),
        ([verdict(True)], False, "the verdict does not count: it cites nothing"),
        ([verdict(True, "1/0")], False, "the verdict does not count: it cites 1/0"),
        ([read_file("engine.py"), verdict(True, "1/0", "7/3")], False, "the verdict does not count: it cites 7/3"),
        ([read_file("other.txt"), verdict(True, "1/0")], False, "the verdict does not count: it cites 1/0"),
        ([read_file("gone.py"), verdict(True, "1/0")], False, "the verdict does not count"),
        ([call("list_files", pattern=""), verdict(True, "1/0")], False, "the verdict does not count"),
        (["It is fine.", read_file("engine.py"), verdict(True, "2/0")], True, "I say so"),
        ([call("write_file", path="engine.py", content="x"), verdict(True, "1/0")], False, "does not count"),
    ],
)
def test_a_reviewers_verdict_counts_if_the_ledger_has_what_it_cites(
    tmp_path: Path, turns: Sequence[Any], passed: bool, detail: str
) -> None:
    boss = one([write_file("engine.py", ENGINE), write_file("other.txt", "x")], finish("Done.", ["engine.py"]))
    result, _ = play(tmp_path, {"boss": boss, "reviewer_of_boss": one(*turns)}, [CRITERIA])
    [found] = result.verdicts
    assert (found.check, found.passed) == ("review", passed)
    assert detail in found.detail
    assert result.passed == passed
    assert result.calls == 2 + len(turns), "a reviewer's calls are counted"


def test_a_reviewer_that_comes_to_no_verdict_has_not_passed_anything(tmp_path: Path) -> None:
    def undecided(brief: Brief) -> Play:
        while True:
            yield read_file("engine.py")

    result, _ = play(tmp_path, {"boss": BOSS, "reviewer_of_boss": undecided}, [CRITERIA])
    assert result.verdicts[0].detail == "the reviewer came to no verdict in 12 turns"
    assert not result.passed


def test_a_review_of_a_members_work_sends_it_back(tmp_path: Path) -> None:
    heard_by_coder: list[str] = []

    def coder(brief: Brief) -> Play:
        yield write_file("engine.py", "print('nothing')\n")
        heard = yield finish("Done.")
        heard_by_coder.extend(heard.results)
        yield write_file("engine.py", ENGINE)
        yield finish("Done.")

    def reviewer(brief: Brief) -> Play:
        assert "engine.py prints which engine it is." in brief.task
        heard = yield run_program("engine.py")
        yield verdict("engine 1" in heard.results[0], "1/0")

    boss = trusting({**CODER, "checks": [CRITERIA.dump()]})
    result, _ = play(tmp_path, {"boss": boss, "coder": coder, "reviewer_of_coder": reviewer})
    assert result.passed
    assert "review (I say so (seen: 1/0))" in heard_by_coder[0]
    assert [passed for _, check, passed in found(result, "coder") if check == "review"] == [False, True]


@pytest.mark.parametrize("at", ["finish", "end"])
def test_a_review_survives_a_limit_in_its_middle_and_pays_nothing_twice(tmp_path: Path, at: str) -> None:
    boss = BOSS if at == "end" else trusting({**CODER, "checks": [CRITERIA.dump()]})
    reviewer = one(read_file("engine.py"), run_program("engine.py"), verdict(True, "1/0", "2/0"))
    parts = {
        "boss": boss,
        "coder": one(write_file("engine.py", ENGINE), finish("Done.")),
        "reviewer_of_coder": reviewer,
        "reviewer_of_boss": reviewer,
    }
    checks = [CRITERIA] if at == "end" else []
    low = 4 if at == "end" else 5
    first, _ = play(tmp_path, parts, checks, Limits(calls=low))
    assert (first.status, first.calls) == ("paused", low)
    assert first.reason.startswith(f"limit reached: calls={low}")
    with MegaGraph(RehearsalModel(script=Script(parts)), home=tmp_path, unsafe_programs=True) as mega:
        result = mega.resume_sync("last", limits=Limits(calls=50))
        names = [row["agent"] for row in mega.db["calls"].rows]
    assert result.passed
    reviews = [name for name in names if ".review." in name]
    assert len(reviews) == 3
    assert len(set(reviews)) == 1, "the review went on where it was"
    assert len({item.id for item in result.evidence}) == len(result.evidence)


def test_evidence_in_the_json_of_show_is_what_the_result_has(tmp_path: Path) -> None:
    result, _ = play(tmp_path, {"boss": BOSS})
    assert [item.dump() for item in result.evidence] == [
        {
            "id": "boss/2/0/0",
            "agent": "boss",
            "check": "engine.py",
            "passed": True,
            "detail": "",
            "version": result.evidence[0].version,
        }
    ]
    with MegaGraph(home=tmp_path) as mega:
        assert mega.open("last").workspace.head == result.evidence[0].version
        rows = list(mega.db["evidence"].rows_where("run = ?", [result.run]))
    assert [(row["id"], row["passed"]) for row in rows] == [("boss/2/0/0", 1)]
    assert json.dumps([item.dump() for item in result.evidence])


def test_a_scenario_is_judged_by_all_kinds(tmp_path: Path) -> None:
    scenario = Scenario("Deliver.", checks=(CRITERIA, Check.call(lambda files: len(files) == 1, "one file")))

    async def work() -> Result:
        parts = {"boss": BOSS, "reviewer_of_boss": one(read_file("engine.py"), verdict(True, "1/0"))}
        model = RehearsalModel(script=Script(parts))
        async with MegaGraph(model, home=tmp_path, unsafe_programs=True) as mega:
            return await (await mega.start(scenario)).result()

    result = asyncio.run(work())
    assert result.passed
    assert [item.id for item in result.evidence] == ["boss/2/0/0", "boss/end/0/0", "boss/end/1/0"]


def test_nobody_pays_for_the_review_of_one_who_was_dismissed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, asked, mailroom = Meter(Limits()), [], Mailroom(lambda lead, text: None)
    mailroom.add(AgentSpec("boss", "", ""))
    for name in ("there", "gone", "going"):
        mailroom.add(AgentSpec(name, "", "", lead="boss"))
    mailroom.close("gone")
    mailroom.left("gone")

    async def reserve(org: Any, agent: str, step: int, tokens: int, owner: str, *, may_ask: bool) -> Claim | None:
        if owner == "going":
            mailroom.close("going")
            mailroom.left("going")
        return await meter.reserve(agent, step, Use(1, tokens))

    async def ask_model(*args: Any, **kwargs: Any) -> None:
        asked.append(args)
        raise BranchStopped("asked")

    async def kept(agent: str, step: int) -> None:
        return None

    org = SimpleNamespace(
        ledger=SimpleNamespace(kept=kept),
        meter=meter,
        reviewers=None,
        mailroom=mailroom,
        stopped="",
        spec=lambda name: mailroom.places[name].spec,
        asker=Asker,
    )
    monkeypatch.setattr(reviewer, "reserve", reserve)
    monkeypatch.setattr(reviewer, "ask_model", ask_model)

    async def turn(agent: str) -> str:
        of = cast(reviewer._Review, SimpleNamespace(org=org, agent=agent, name=f"{agent}.review", may_ask=True))
        with pytest.raises(BranchStopped) as stopped:
            await reviewer._turn(of, 1, [], "Look.")
        return str(stopped.value)

    for agent in ("gone", "going"):
        assert asyncio.run(turn(agent)) == "the work it reviews is over"
    assert (asked, meter.in_flight) == ([], 0)
    assert asyncio.run(turn("there")) == "asked"
    mailroom.close("boss")
    # The boss's work is reviewed when it is over.
    assert asyncio.run(turn("boss")) == "asked"
