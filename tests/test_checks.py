"""Checks: what decides what a run is worth, and that nothing passes which was not seen to pass."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from megagraph import Check, JudgeCheck, MegaGraph, RunCheck
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
