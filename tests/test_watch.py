"""The terminal's face of a run, on a pty of some size: alone, from another terminal, at any number of agents."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from megagraph.cli import main
from tests.commands import ended, spawn, until, write_scenario
from tests.screen import terminal

TREE = """
from benchmarks.organisation import tree_script
from dataclasses import replace
from megagraph.rehearsal import call, finish

def asks(brief):
    yield call("ask_human", question="Which of the three layouts?")
    yield finish("done")

def breaks(brief):
    raise RuntimeError("no idea")
    yield

tree = tree_script({agents})
script = replace(tree, parts=dict(tree.parts, member_0_1=asks, member_0_2=breaks), pace={pace})
"""
LIMITS = "checks: []\nlimits: {agents: 700, calls: 9000, width: 100}\n"


def organisation(tmp_path: Path, agents: int, pace: float) -> Path:
    """A scenario with so many agents, one of whom asks a person and one of whom fails."""
    return write_scenario(tmp_path / "tree", TREE.format(agents=agents, pace=pace), LIMITS)


@pytest.mark.parametrize(("agents", "columns", "lines"), [(5, 80, 24), (60, 200, 50), (600, 80, 24)])
def test_the_tree_is_readable_and_fits(tmp_path: Path, agents: int, columns: int, lines: int) -> None:
    scenario = organisation(tmp_path, agents, {5: 0.5, 60: 1.0, 600: 2.5}[agents])
    with terminal(tmp_path / "home", "run", scenario, columns=columns, lines=lines) as screen:
        text = screen.until(lambda text: "Answer with: megagraph answer" in text and "✗ member_0_2" in text)
        assert re.search(r"\? member_0_1  member  1 call.*  Which of the three layouts\?", text)
        assert re.search(r"✗ member_0_2 .*no idea", text)
        assert re.search(rf"^[█░]+ \d+ of {agents - 1} accepted · .*1 asking", text, re.M)
        assert re.search(rf"^{agents} agents · [\d,]+ calls? · .* · \d+\.?\d* calls/(s|min)", text, re.M)
        assert ("tokens/s" in text) == (columns >= 120)
        assert len(re.findall(r"^○ boss|^● boss", text, re.M)) == 1, "no picture is left behind above another"
        rows = [row for row in screen.lines if re.search(r"[●○✓✗?!] (boss|ministry|member)", row)]
        folded = sum(int(n.replace(",", "")) for n in re.findall(r"… ([\d,]+) more", text))
        assert len(rows) + folded == agents, "nobody is lost"
        if agents > lines:
            assert "boss" in screen.lines[1] and screen.lines[-1], "as tall as the screen, less a line"
        else:
            assert screen.end() == 3
            assert "asking: 1 open question" in screen.text


def test_watching_from_another_terminal(tmp_path: Path) -> None:
    home = tmp_path / "home"
    child = at_work(home, tmp_path)
    with terminal(home, "watch", "last") as leaving, terminal(home, "watch", columns=120) as staying:
        leaving.until(lambda text: "● boss" in text)
        staying.until(lambda text: "● boss" in text)
        os.kill(leaving.child.pid, signal.SIGINT)
        assert leaving.end() == 0
        assert re.search(r"^Left run \w{8}: it is running\.$", leaving.text, re.M)
        assert "Traceback" not in leaving.text
        assert child.poll() is None, "who leaves does not stop the run"
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        until(lambda: "safe point" in child.stderr.readline())  # type: ignore[union-attr]
        child.send_signal(signal.SIGINT)
        assert "paused: stopped at once" in ended(child).out
        assert staying.end() == 0
        assert "paused: stopped at once" in staying.text
        assert "Go on with: megagraph resume" in staying.text


def at_work(home: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """A run in the middle of its first call, which takes a minute."""
    child = spawn(home, "run", organisation(tmp_path, 5, 60.0))
    until(lambda: bool(list((home / "scratch").glob("*"))))
    return child


def test_watching_what_has_been(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    ended(spawn(home, "run", organisation(tmp_path, 5, 0.0)))
    for command in ("watch", "show", "log"):
        main_(command, "--home", str(home))
        said = capsys.readouterr().out
        assert "member_0_1" in said
        if command == "watch":
            watched = said
        elif command == "show":
            assert said.split("\n", 1)[1] in watched, "how it stands"
        else:
            assert said in watched, "a line per event"
    main_("watch", "--json", "--home", str(home))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    main_("log", "--json", "--home", str(home))
    assert events == [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_killed_run_ends_the_watch(tmp_path: Path) -> None:
    home = tmp_path / "home"
    child = at_work(home, tmp_path)
    with terminal(home, "watch") as screen:
        screen.until(lambda text: "● boss" in text)
        child.kill()
        ended(child)
        assert screen.end() == 0
        assert "interrupted" in screen.text


def main_(*args: str) -> None:
    try:
        main(args)
    except SystemExit as exit_:
        assert exit_.code in (0, None)
