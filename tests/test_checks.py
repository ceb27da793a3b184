"""Checks: what decides what a run is worth, and that nothing passes which was not seen to pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from megagraph import Check, JudgeCheck, Limits, MegaGraph, RunCheck
from megagraph.checks import parse_checks
from megagraph.claims import claim_of
from megagraph.errors import UsageError
from megagraph.placeholders import placeholder
from megagraph.rehearsal import RehearsalModel, Script, finish, write_file
from megagraph.run import Result
from megagraph.scenario import Scenario
from tests.scripts import one

PRINT = "import json\ndef say(check, passed, detail=''): print(json.dumps(locals()), flush=True)\n"


def judged(tmp_path: Path, *checks: Check, judge: str = "", main: str = "print('ok')\n") -> Result:
    """A run that delivers `main.py` and `data.txt`, judged by `checks`."""
    folder = tmp_path / "scenario"
    folder.mkdir(exist_ok=True)
    (folder / "check.py").write_text(PRINT + judge)
    model = RehearsalModel(
        script=Script({"boss": one([write_file("main.py", main), write_file("data.txt", "1\n")], finish("done"))})
    )

    async def work() -> Result:
        async with MegaGraph(model, home=tmp_path / "home", unsafe_programs=True) as mega:
            run = await mega.start(Scenario("Deliver.", folder=folder, checks=checks))
            result = await run.result()
            assert sorted(run.files) == ["data.txt", "main.py"], "a check leaves nothing among the files"
            return result

    return asyncio.run(work())


JUDGE = JudgeCheck(judge="check.py", seconds=20)


def test_a_judge_gives_a_verdict_a_line(tmp_path: Path) -> None:
    judge = "say('a', True)\nprint('chatter')\nsay('b', False, 'why')\nprint('{}')\nprint('[1]')\nsay('c', True)\n"
    result = judged(tmp_path, JUDGE, judge=judge)
    assert [(v.check, v.passed, v.detail) for v in result.verdicts] == [
        ("a", True, ""),
        ("b", False, "why"),
        ("c", True, ""),
    ]
    assert not result.passed


def test_a_judge_is_given_the_delivered_files(tmp_path: Path) -> None:
    judge = "import sys, pathlib\nsay('data', pathlib.Path(sys.argv[1], 'data.txt').read_text() == '1\\n')\n"
    assert judged(tmp_path, JUDGE, judge=judge).passed


def test_what_one_check_writes_the_next_does_not_see(tmp_path: Path) -> None:
    judge = "import pathlib\np = pathlib.Path('data.txt')\nsay('clean', p.read_text() == '1\\n')\np.write_text('2')\n"
    result = judged(tmp_path, JUDGE, JUDGE, judge=judge)
    assert [v.passed for v in result.verdicts] == [True, True]


@pytest.mark.parametrize(
    "judge",
    [
        "say('a', True)\nraise RuntimeError('broken')\n",
        "say('a', True)\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)\n",
        "say('a', True)\nimport time; time.sleep(60)\n",
        "say('a', True)\nraise SystemExit(3)\n",
        "pass\n",
        "print(json.dumps({'check': 'a', 'passed': 'yes'}))\n",
    ],
)
def test_a_judge_that_does_not_come_to_its_end_passes_nothing_more(tmp_path: Path, judge: str) -> None:
    check = JudgeCheck(judge="check.py", seconds=1 if "sleep" in judge else 20)
    result = judged(tmp_path, check, judge=judge)
    assert not result.passed
    assert not result.verdicts[-1].passed
    if "say" in judge:
        assert "did not finish" in result.verdicts[-1].detail


@pytest.mark.parametrize(("main", "passed"), [("print('ok')", True), ("raise SystemExit(4)", False), ("1/0", False)])
def test_a_delivered_program_must_exit_with_0(tmp_path: Path, main: str, passed: bool) -> None:
    result = judged(tmp_path, RunCheck(run=("main.py",), name="runs"), main=main)
    assert [(v.check, v.passed) for v in result.verdicts] == [("runs", passed)]
    assert result.passed == passed


def test_a_program_that_was_not_delivered_has_not_passed(tmp_path: Path) -> None:
    result = judged(tmp_path, RunCheck(run=("gone.py", "--fast")))
    assert [(v.check, v.passed) for v in result.verdicts] == [("gone.py --fast", False)]
    assert "gone.py" in result.verdicts[0].detail


def test_verdicts_are_kept(tmp_path: Path) -> None:
    result = judged(tmp_path, JUDGE, judge="say('a', True, 'seen')\n")
    with MegaGraph(home=tmp_path / "home") as mega:
        kept = mega.open("last")
        assert kept.outcome().verdicts == result.verdicts
        assert json.loads(json.dumps([v.dump() for v in result.verdicts]))[0]["detail"] == "seen"
        assert [e.data for e in kept.events() if e.kind == "check"] == [v.dump() for v in result.verdicts]


# --- the kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "passed", "detail"),
    [
        ({"file": "data.txt"}, True, ""),
        ({"file": "./data.txt"}, True, ""),
        ({"file": "gone.txt"}, False, "There is no file `gone.txt`"),
        ({"file": "../data.txt"}, False, ".."),
        ({"file": "data.txt", "matches": "^1$"}, True, ""),
        ({"file": "data.txt", "matches": "^2"}, False, "no match"),
        ({"file": "data.txt", "schema": {"type": "integer"}}, True, ""),
        ({"file": "data.txt", "schema": {"type": "string"}}, False, "$: 1 is not of type 'string'"),
        ({"file": "main.py", "schema": {}}, False, "no valid JSON"),
        ({"run": ["main.py"], "contains": "ok", "output": r"^ok$"}, True, "exit code 0"),
        ({"run": ["main.py"], "contains": "fine"}, False, "'fine' is not in its output"),
        ({"run": ["main.py"], "output": r"^\d+$"}, False, "does not match"),
        ({"run": ["main.py"], "exit_code": 3}, False, "expected exit code 3: exit code 0"),
        ({"backed": "data.txt"}, False, "its author, boss, has not run a program"),
        ({"judge": "gone.py"}, False, "gone.py cannot be read"),
    ],
)
def test_a_check_in_its_plain_form(tmp_path: Path, check: dict[str, object], passed: bool, detail: str) -> None:
    [verdict] = judged(tmp_path, *parse_checks([check]), main="print('ok')\n").verdicts
    assert verdict.passed == passed
    assert detail in verdict.detail


def test_schemas_of_yaml_their_own_references_and_patterns_bounded_in_time(tmp_path: Path) -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
    slow = {"type": "object", "properties": {"s": {"pattern": "^(a|aa)+$"}}}
    ring = {"$ref": "#"}
    files = {"good.yaml": "n: 1\n", "bad.yaml": "n: x\n", "slow.json": json.dumps({"s": "a" * 80 + "b"})}
    checks = parse_checks(
        [
            {"file": "good.yaml", "schema": schema},
            {"file": "bad.yaml", "schema": schema},
            {"file": "slow.json", "schema": slow},
            {"file": "slow.json", "schema": ring},
        ]
    )
    boss = one([write_file(path, text) for path, text in files.items()], finish("done"))

    async def work() -> Result:
        async with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path, checks=checks) as mega:
            return await (await mega.start("Deliver.")).result()

    verdicts = asyncio.run(work()).verdicts
    assert [v.passed for v in verdicts] == [True, False, False, False]
    assert verdicts[1].detail == "$.n: 'x' is not of type 'integer'"
    assert "took more than" in verdicts[2].detail
    assert "cannot be used" in verdicts[3].detail


def test_functions_are_checks(tmp_path: Path) -> None:
    def has_main(files: Mapping[str, str]) -> bool:
        return "print" in files["main.py"] and sorted(files) == ["data.txt", "main.py"]

    async def number(files: Mapping[str, str]) -> tuple[bool, str]:
        return files["data.txt"] == "2\n", "it is " + files["data.txt"].strip()

    def broken(files: Mapping[str, str]) -> bool:
        return bool(files["gone.txt"])

    def careless(files: Mapping[str, str]) -> None:
        files["main.py"]

    result = judged(tmp_path, *map(Check.call, (has_main, number, broken, careless)))
    assert [(v.check, v.passed, v.detail) for v in result.verdicts] == [
        ("has_main", True, ""),
        ("number", False, "it is 1"),
        ("broken", False, "KeyError: 'gone.txt'"),
        ("careless", False, "it returned None, and not True, False, or one of these with a detail"),
    ]


def test_a_resumed_run_is_judged_by_the_checks_it_began_with(tmp_path: Path) -> None:
    """Also where it had no scenario; a function has to be given again, and is missed where it is not."""
    checks = [Check.call(lambda files: True, "sure"), RunCheck(run=("main.py",))]
    boss = one(write_file("main.py", "print(1)\n"), finish("done", ["main.py"]))

    def mega(**more: Any) -> MegaGraph:
        model = RehearsalModel(script=Script({"boss": boss}))
        return MegaGraph(model, home=tmp_path, unsafe_programs=True, **more)

    def verdicts(checks_at_resume: Sequence[Check]) -> list[tuple[str, bool]]:
        with mega(checks=checks) as first:
            id_ = first.run(Scenario("Deliver.", limits=Limits(calls=1))).run
        with mega(checks=checks_at_resume) as second:
            return [(v.check, v.passed) for v in second.resume_sync(id_, limits=Limits(calls=5)).verdicts]

    assert verdicts(checks) == [("sure", True), ("main.py", True)]
    assert verdicts([]) == [("sure", False), ("main.py", True)]


@pytest.mark.parametrize(
    ("check", "complaint"),
    [
        ({}, "give one of `file`, `run`, `backed`, `review`, `judge`, `call`"),
        ({"file": "a", "matches": "("}, "not a regular expression"),
        ({"file": "a", "schema": {"type": "nothing"}}, "no JSON Schema"),
        ({"file": "a", "schema": {"$ref": "https://example.org/x"}}, "only references within the schema"),
        ({"file": "a", "schema": {"patternProperties": {"(a|aa)+$": {}}}}, "`patternProperties` is not supported"),
        ({"file": "a", "schema": {"pattern": "("}}, "no JSON Schema"),
        ({"run": []}, "at least 1 item"),
        ({"run": ["a.py"], "seconds": 0}, "greater than 0"),
        ({"file": "a", "run": ["a.py"]}, "not permitted"),
    ],
)
def test_a_check_that_does_not_fit_is_refused_in_one_line(check: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as error:
        parse_checks([check])
    assert "\n" not in str(error.value)


def test_checks_survive_being_written_down() -> None:
    plain = [
        {"file": "a"},
        {"file": "a", "matches": "x", "name": "n"},
        {"file": "a", "schema": {"type": "object"}},
        {"run": ["a.py", "-v"], "exit_code": 2, "output": "x", "contains": "y", "stdin": "z", "seconds": 5.0},
        {"backed": "a.md"},
        {"review": "is it good?", "files": ["a"]},
        {"judge": "check.py"},
    ]
    assert json.loads(json.dumps([check.dump() for check in parse_checks(plain)])) == plain


@pytest.mark.parametrize(
    ("path", "text", "is_one"),
    [
        ("a.md", "", True),
        ("a.md", " \n\t\n", True),
        ("pkg/__init__.py", "", False),
        ("a.md", "# Title\n\nTODO\n", True),
        ("a.md", "TODO: write this\n", True),
        ("a.md", "- [ ] TODO\n", True),
        ("a.md", "content goes here", True),
        ("a.md", "# Title\n\n*To be written.*\n", True),
        ("a.md", "...\n", True),
        ("a.js", "// TODO: implement\n", True),
        ("a.py", "# TODO\npass\n", True),
        ("a.py", "def f():\n    pass\n", True),
        ("a.py", "import os\nclass A:\n    def g(self):\n        'Do.'\n        raise NotImplementedError()\n", True),
        ("a.md", "Lorem ipsum dolor sit amet\n", True),
        ("a.md", "Dear <insert name here>,\nyou have won.\n", True),
        ("a.md", "Signed: [your name here]\n", True),
        ("a.md", "Todo list app\n", False),
        ("a.md", "# Title\n* TODO: more\n* a real item\n", False),
        ("a.md", "The text here is good.\n", False),
        ("a.txt", "1\n", False),
        ("a.json", "{}\n", False),
        ("a.py", "x = '<insert name>'\n", False),
        ("a.py", "class A(Protocol):\n    def g(self) -> int: ...\n", False),
        ("a.py", "class E(Exception):\n    pass\n", False),
        ("a.py", "def f():\n    pass\nf()\n", False),
        ("a.py", "def f(:\n", False),
    ],
)
def test_placeholders_are_told_by_rule(path: str, text: str, is_one: bool) -> None:
    assert bool(placeholder(path, text.encode())) == is_one


def test_a_binary_file_is_no_placeholder() -> None:
    assert placeholder("a.png", b"\x89PNG\xff\x00") == ""


@pytest.mark.parametrize(
    ("path", "claim"),
    [
        ("test_report.md", "test"),
        ("docs/TestReport.txt", "test"),
        ("qa-results.json", "test"),
        ("playtest.md", "test"),
        ("test_plan.md", ""),
        ("test_engine.py", ""),
        ("tests/data.json", ""),
        ("code_review.md", "review"),
        ("audit.md", "review"),
        ("preview.md", ""),
        ("report.md", ""),
    ],
)
def test_claims_are_told_by_name(path: str, claim: str) -> None:
    assert claim_of(path) == claim
