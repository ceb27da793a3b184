"""Several calls of one answer: their order, and what holds where they contradict one another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from megagraph import MegaGraph, Result
from megagraph.rehearsal import (
    Brief,
    Call,
    Heard,
    Part,
    RehearsalModel,
    Script,
    call,
    finish,
    recruit,
    talk,
    update_todo,
    wait_for,
    write_file,
)
from megagraph.turns import Request, groups
from tests.scripts import Play, one
from tests.test_approvals import hire


def play(home: Path, script: Mapping[str, Part]) -> tuple[Result, dict[str, str]]:
    async def work() -> tuple[Result, dict[str, str]]:
        async with MegaGraph(RehearsalModel(script=Script(script)), home=home) as mega:
            run = await mega.start("Do it.")
            return await run.result(), dict(run.files)

    return asyncio.run(work())


def test_writes_of_one_answer_to_one_file_are_made_in_its_order_however_the_path_is_spelt(tmp_path: Path) -> None:
    writes = [write_file(path, f"{i}") for i, path in enumerate(["a.txt", "./a.txt", "b.txt", "a.txt"] * 5)]
    result, files = play(tmp_path, {"boss": one(tuple(writes), finish("done"))})
    assert result.passed
    assert files == {"a.txt": "19", "b.txt": "18"}


@pytest.mark.parametrize(
    ("calls", "together"),
    [
        ([("write_file", {"path": "a"}), ("write_file", {"path": "b"})], True),
        ([("write_file", {"path": "a"}), ("write_file", {"path": "./a"})], False),
        ([("write_file", {"path": "a"}), ("write_file", {"path": "a/b"})], False),
        ([("move_file", {"path": "a", "to": "c"}), ("move_file", {"path": "b", "to": "c"})], False),
        ([("move_file", {"path": "a", "to": "b"}), ("move_file", {"path": "b", "to": "c"})], False),
        ([("write_file", {"path": "a"}), ("edit_file", {"path": "b"})], False),
        ([("run_program", {"path": "a"}), ("run_program", {"path": "a"})], True),
        ([("talk", {"to": "a"}), ("talk", {"to": "b"})], False),
        ([("brought", {"path": "a"}), ("brought", {"path": "b"})], False),
        ([("write_file", {"path": 3}), ("write_file", {})], True),
    ],
)
def test_what_may_go_on_at_the_same_time(calls: list[tuple[str, dict[str, object]]], together: bool) -> None:
    requests = [Request(i, f"{i}", name, args) for i, (name, args) in enumerate(calls)]
    assert [len(group) for group in groups(requests)] == ([2] if together else [1, 1])


def boss_alone(*turns: tuple[Call, ...]) -> tuple[Part, dict[int, Heard]]:
    """A boss that makes these turns and finishes, and what it heard after each."""
    heard: dict[int, Heard] = {}

    def boss(brief: Brief) -> Play:
        for i, turn in enumerate(turns):
            heard[i] = yield turn
        yield finish("at last")

    return boss, heard


def test_finish_stands_for_a_turn_in_which_all_went_well(tmp_path: Path) -> None:
    boss, heard = boss_alone(
        (call("move_file", path="nothing.txt", to="b.txt"), finish("moved")),
        (finish("written"), call("write_file", wrong=1)),
    )
    result, _ = play(tmp_path / "failed", {"boss": boss})
    assert result.report is not None and result.report.summary == "written"
    assert "not handed in: `move_file` in the same turn was not carried out or failed" in heard[0].results[1]


def test_a_second_finish_does_not_hide_why_the_first_was_refused(tmp_path: Path) -> None:
    boss, heard = boss_alone((update_todo(["open"]),), (finish("one"), finish("two")))
    result, _ = play(tmp_path, {"boss": boss})
    assert "missing: the open point" in heard[1].results[0]
    assert "the `finish` before it in the same turn was refused" in heard[1].results[1]
    assert result.report is not None and result.report.summary == "at last"


def test_recruits_and_finish_in_one_answer(tmp_path: Path) -> None:
    kept: dict[int, Heard] = {}

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a")), finish("they work")
        kept[0] = heard
        yield from wait_for(heard, ["a"])
        yield finish("done")

    result, _ = play(tmp_path, {"boss": boss, "a": one(write_file("a.txt", "a"), finish("a is done", ["a.txt"]))})
    assert result.passed and result.report is not None and result.report.summary == "done"
    assert "your team is still at work: a" in kept[0].results[1]


def test_dismissing_and_writing_and_recruiting_in_one_answer(tmp_path: Path) -> None:
    kept: dict[int, Heard] = {}

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a"), hire("b")), recruit(hire("c")), recruit(hire("c") | {"role": "another"})
        kept[0] = heard
        heard = yield (
            call("dismiss", agents=["a"]),
            talk("a", "are you there?"),
            talk("b", "you go"),
            call("dismiss", agents=["b"]),
            call("dismiss", agents=["b"]),
            recruit(hire("d")),
            call("dismiss", agents=["d"]),
        )
        kept[1] = heard
        yield from wait_for(heard, ["c"])
        yield finish("done")

    waits = one(*["I wait."] * 20)
    script = {"boss": boss, "a": waits, "b": waits, "c": one(finish("c")), "c_2": one(finish("c_2")), "d": waits}
    result, _ = play(tmp_path, script)
    assert result.status == "done"
    taken, turn = kept[0].results, kept[1].results
    assert "c is called c_2, since the name was taken" in taken[2] or "would do the job of `c`" in taken[2]
    assert turn[0].startswith("Dismissed: a")
    assert "`a` cannot be reached" in turn[1]
    assert (turn[2], turn[3]) == ("Sent to b.", "Dismissed: b.")
    assert "b is not in your team" in turn[4]
    assert turn[5].startswith("Recruited: d") and turn[6] == "Dismissed: d."
