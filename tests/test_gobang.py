"""The Gobang scenario: its judge, the game of its rehearsal, and the fault that the rehearsal puts right."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCENARIO = Path(__file__).parents[1] / "scenarios" / "gobang"
GAME = SCENARIO / "rehearsal"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gobang_{name}", SCENARIO / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def judge(folder: Path, *options: str) -> dict[str, tuple[bool, str]]:
    """What the judge says of the program in `folder`, by check."""
    command = [sys.executable, str(SCENARIO / "check.py"), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert done.returncode == (0 if all(v["passed"] for v in verdicts) else 1)
    return {v["check"]: (v["passed"], v["detail"]) for v in verdicts}


def failed(verdicts: dict[str, tuple[bool, str]]) -> set[str]:
    return {check for check, (passed, _) in verdicts.items() if not passed}


def copy(folder: Path) -> Path:
    return Path(shutil.copytree(GAME, folder / "game", ignore=shutil.ignore_patterns("__pycache__")))


def change(game: Path, path: str, old: str, new: str) -> None:
    text = (game / path).read_text()
    assert text.count(old) == 1
    (game / path).write_text(text.replace(old, new))


def test_the_game_of_the_rehearsal_passes() -> None:
    verdicts = judge(GAME, "--quick")
    assert len(verdicts) == 17
    assert failed(verdicts) == set()


def test_the_game_passes_its_own_tests() -> None:
    command = [sys.executable, "-B", str(GAME / "run_tests.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout


def test_the_first_engine_has_a_fault_that_its_tests_and_the_judge_find(tmp_path: Path) -> None:
    game = copy(tmp_path)
    (game / "gobang" / "engine.py").write_text(load("rehearsal").first_engine())
    command = [sys.executable, "-B", "run_tests.py", "engine"]
    done = subprocess.run(command, cwd=game, capture_output=True, text=True, timeout=180, check=False)
    assert "FAIL: test_blocks_a_four_although_an_open_three_stands_elsewhere" in done.stdout
    assert done.stdout.count("FAIL: ") == 1
    assert failed(judge(game, "--only", "blocks a four beside a three", "--only", "takes a win")) == {
        "blocks a four beside a three"
    }


MUTANTS = {
    "misses a direction": (
        ("gobang/points.py", "(1, 1), (1, -1))", "(1, 1))"),
        {"sees five in all directions", "sees five at the edges"},
    ),
    "goes around the edge": (
        (
            "gobang/board.py",
            "            if not (0 <= row < SIZE and 0 <= column < SIZE):\n                return length\n"
            "            if self.cells[row * SIZE + column]",
            "            if not 0 <= row * SIZE + column < POINTS:\n                return length\n"
            "            if self.cells[row * SIZE + column]",
        ),
        {"sees no five where there is none"},
    ),
    "counts exactly five": (
        ("gobang/board.py", "self.longest_row(point) >= 5", "self.longest_row(point) == 5"),
        {"sees five in all directions"},
    ),
    "takes four for five": (
        ("gobang/board.py", "self.longest_row(point) >= 5", "self.longest_row(point) >= 4"),
        {"sees no five where there is none", "black wins", "white wins"},
    ),
    "lets stones be put on others": (
        ("gobang/board.py", "if self.cells[point] != EMPTY:", "if self.cells[point] == 7:"),
        {"refuses illegal moves"},
    ),
    "knows no draw": (
        ("gobang/console.py", 'self._say("DRAW")', 'self._say("Nobody wins.")'),
        {"a full board is a draw"},
    ),
    "does not answer": (
        ("gobang/console.py", "if not self.board.over and not self._two_players:", "if False:"),
        {"takes a legal move", "the AI answers legally"},
    ),
    "shows a board upside down": (
        ("gobang/board.py", "in reversed(range(SIZE))", "in range(SIZE)"),
        {"starts", "takes a legal move"},
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_judge_finds_broken_rules(name: str, tmp_path: Path) -> None:
    edit, expected = MUTANTS[name]
    game = copy(tmp_path)
    change(game, *edit)
    options = [word for check in sorted(expected) for word in ("--only", check)]
    assert failed(judge(game, "--quick", "--patience", "5", *options)) == expected


FIRST_MOVE = "        self.depth = 0\n        self._known.clear()"

PLAYERS = {
    "plays onto stones": (
        ("gobang/console.py", '"AI {point_name(point)}"', '"AI {point_name(self.board.moves[0])}"'),
        {"takes a legal move", "the AI answers legally", "beats a random player"},
    ),
    "never stops to think": (
        ("gobang/engine.py", FIRST_MOVE, "        while True:\n            pass"),
        {"takes a legal move", "the AI answers legally", "stops an open three", "answers in time"},
    ),
    "dies when it thinks": (
        ("gobang/engine.py", FIRST_MOVE, "        raise RuntimeError('out of ideas')"),
        {"takes a legal move", "takes a win"},
    ),
    "plays anywhere": (
        (
            "gobang/engine.py",
            FIRST_MOVE,
            "        return next(p for p in range(POINTS) if p not in moves)",
        ),
        {
            "takes a win",
            "blocks a four beside a three",
            "meets an open four",
            "stops an open three",
            "beats a greedy player",
        },
    ),
}


@pytest.mark.parametrize("name", PLAYERS)
def test_the_judge_finds_bad_players(name: str, tmp_path: Path) -> None:
    edit, expected = PLAYERS[name]
    game = copy(tmp_path)
    change(game, *edit)
    options = [word for check in sorted(expected) for word in ("--only", check)]
    assert failed(judge(game, "--quick", "--patience", "2", *options)) == expected


@pytest.mark.parametrize("me", [1, 2])
def test_the_puzzles_are_what_they_say(me: int) -> None:
    check = load("check")

    def boards(puzzles: Iterable[tuple[str, str]]) -> list[Any]:
        return [check.Board(check.posed(*puzzle, me, view)) for puzzle in puzzles for view in (0, 3, 5, 6)]

    for board in boards(check.TAKES_A_WIN):
        assert board.to_move == me
        assert board.fives(me)
        assert board.fives(3 - me)
    for board in boards(check.BLOCKS_A_FOUR):
        assert not board.fives(me)
        assert len(board.fives(3 - me)) == 1
        assert board.open_fours(3 - me)
    for board in boards(check.MEETS_AN_OPEN_FOUR):
        assert not board.fives(me)
        assert len(board.fives(3 - me)) == 2
    for board in boards(check.STOPS_A_THREE):
        assert not board.fives(me) | board.fives(3 - me) | board.open_fours(me)
        assert board.open_fours(3 - me)


PROGRAMS = {
    "nothing": "",
    "an error": "raise SystemExit('no board today')",
    "a hang": "import time\nwhile True: time.sleep(1)",
    "a flood": "while True: print('garbage ' * 100)",
    "a flood without lines": "import sys\nwhile True: sys.stdout.write('x' * 65536)",
    "bytes that are no text": "import os\nwhile True: os.write(1, b'\\xff\\xfe\\n')",
    "a board with letters": "print('BOARD')\nprint('15 Ä')\nprint('READY black')\ninput()",
    "a child that stays": "import os, time\nos.fork()\nprint('READY', flush=True)\nwhile True: time.sleep(1)",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_judge_fails_what_is_no_game_and_comes_to_an_end(name: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(PROGRAMS[name])
    verdicts = judge(tmp_path, "--patience", "0.5")
    assert failed(verdicts) == set(verdicts)
    assert all(detail for _, detail in verdicts.values())


def test_the_judge_fails_a_folder_without_a_program(tmp_path: Path) -> None:
    verdicts = judge(tmp_path)
    assert failed(verdicts) == set(verdicts)
    assert "main.py" in verdicts["starts"][1]
