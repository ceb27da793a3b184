"""The program as the tests run it: in process where that will do, as a child where signals and exits matter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from megagraph.cli import main

ROOT = Path(__file__).parent.parent

HELLO = """
from megagraph.rehearsal import Script, finish, write_file

def boss(brief):
    yield write_file("hello.py", "print('hello')\\n")
    yield finish("It says hello.", ["hello.py"])

script = Script({"boss": boss})
"""
"""A rehearsal: a boss who writes a program that works."""


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str


@dataclass
class Program:
    """`megagraph` in this process, with a home of its own."""

    home: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *args: str | Path) -> Outcome:
        self.capture.readouterr()
        try:
            main([str(arg) for arg in args])
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
        out, err = self.capture.readouterr()
        return Outcome(code, out, err)


def write_scenario(folder: Path, rehearsal: str = HELLO, more: str = "") -> Path:
    """A scenario whose one check runs `hello.py`; `more` is added to its YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rehearsal.py").write_text(textwrap.dedent(rehearsal), encoding="utf-8")
    text = "name: hello\ngoal: Write a program that says hello.\nrehearsal: rehearsal.py\n"
    checks = "" if "checks:" in more else "checks:\n- run: [hello.py]\n  name: it runs\n"
    (folder / "scenario.yaml").write_text(text + checks + more, encoding="utf-8")
    return folder


def child_env(home: Path, **more: str) -> dict[str, str]:
    """The environment of a child process: no model but those that are named."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "MEGAGRAPH_"))}
    return env | {"PYTHONPATH": str(ROOT), "MEGAGRAPH_HOME": str(home), "COLUMNS": "120", **more}


def spawn(home: Path, *args: str | Path, **more: str) -> subprocess.Popen[str]:
    """The program as a child process."""
    return subprocess.Popen(
        [sys.executable, "-m", "megagraph", *map(str, args)],
        env=child_env(home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(child: subprocess.Popen[str], seconds: float = 180) -> Outcome:
    """What a child has left, once it has ended."""
    out, err = child.communicate(timeout=seconds)
    return Outcome(child.returncode, out, err)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
