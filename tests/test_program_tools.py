"""Programs as agents run them: hostile ones harm neither the run nor one another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from megagraph import MegaGraph, program_tools
from megagraph.rehearsal import (
    Brief,
    Call,
    RehearsalModel,
    Script,
    call,
    finish,
    recruit,
    run_program,
    wait_for,
    write_file,
)
from megagraph.run import Result
from tests.scripts import Play, one

DEEP = """
import os
os.mkdir("__pycache__"); os.chdir("__pycache__")
for n in range(1100):
    os.mkdir("d"); os.chdir("d")
"""


def work(home: Path, script: Script) -> tuple[Result, list[str]]:
    """A run to its end, and what its tools answered."""

    async def main() -> tuple[Result, list[str]]:
        async with MegaGraph(RehearsalModel(script=script), home=home) as mega:
            run = await mega.start("Run programs.")
            result = await asyncio.wait_for(run.result(), 120)
            rows = list(mega.db["tool_calls"].rows_where("run = ?", [run.id], order_by="agent, step, idx"))
            return result, [row["result"] for row in rows]

    return asyncio.run(main())


def test_a_program_that_digs_itself_in_does_not_stop_the_run(tmp_path: Path) -> None:
    boss = one(write_file("deep.py", DEEP), run_program("deep.py"), finish("done"))
    result, said = work(tmp_path, Script({"boss": boss}))
    assert result.status == "done"
    assert not said[1].startswith("Error")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_so_many_programs_at_once_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0
    real = program_tools.run_to_end

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await real(*args, **kwargs)
        finally:
            running -= 1

    monkeypatch.setattr(program_tools, "run_to_end", counted)
    programs = [run_program("python", ["-c", f"print({n})"]) for n in range(24)]
    result, said = work(tmp_path, Script({"boss": one(programs, finish("done"))}))
    assert result.status == "done"
    assert [text.split()[-1] for text in said[:24]] == [str(n) for n in range(24)]
    assert most == 8


def test_programs_that_a_reported_agent_forgot_keep_no_place(tmp_path: Path) -> None:
    start: Call = call("start_program", path="python", args=["-c", "input('ready>')"])

    def boss(brief: Brief) -> Play:
        names = ["one", "two", "three"]
        heard = yield recruit(*({"name": n, "role": n, "instructions": f"Be {n}."} for n in names))
        yield from wait_for(heard, names)
        heard = yield start
        yield finish(heard.results[0])

    member = one([start] * 3, finish("forgotten"))
    result, _ = work(tmp_path, Script({"boss": boss, "one": member, "two": member, "three": member}))
    assert result.report is not None
    assert "ready>" in result.report.summary
