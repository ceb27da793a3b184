"""Scenarios: found by name or folder, read, and refused in one line that says what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from megagraph import JudgeCheck, RunCheck
from megagraph.errors import UsageError
from megagraph.limits import Limits
from megagraph.rehearsal import Script
from megagraph.scenario import find_scenario, load_scenario, shipped_scenarios
from tests.commands import write_scenario


def write(folder: Path, text: str | bytes, **files: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {"scenario.yaml": text, **{k.replace("_", "."): v for k, v in files.items()}}.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_a_scenario_is_read_with_all_it_says(tmp_path: Path) -> None:
    text = """
    name: full
    title: A full one
    goal_file: goal.md
    limits: {calls: 7}
    programs: {wall_seconds: 3}
    checks:
    - judge: check.py
      seconds: 5
    - run: [main.py, --test]
      name: its own tests
    rehearsal: rehearsal.py
    play: python main.py
    """
    rehearsal = "from megagraph.rehearsal import Script\nscript = Script({})\n"
    scenario = load_scenario(write(tmp_path, text, goal_md="Make it.\n", check_py="", rehearsal_py=rehearsal))
    assert (scenario.name, scenario.title, scenario.goal) == ("full", "A full one", "Make it.\n")
    assert scenario.limits == Limits(calls=7)
    assert scenario.programs.wall_seconds == 3
    assert scenario.checks == (
        JudgeCheck(judge="check.py", seconds=5),
        RunCheck(run=("main.py", "--test"), name="its own tests"),
    )
    assert isinstance(scenario.script(), Script)
    assert scenario.folder == tmp_path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: [", "no valid YAML"),
        (b"name: \xff\xfe", "no valid YAML"),
        ("", "must hold fields such as `name`"),
        ("only words", "must hold fields such as `name`"),
        ("goal: g", "`name`: field required"),
        ("name: x", "either `goal` or `goal_file`"),
        ("name: x\ngoal: g\ngoal_file: f", "either `goal` or `goal_file`"),
        ("name: x\ngoal: '  '", "the goal is empty"),
        ("name: x\ngoal: g\ncheks: []", "`cheks`: extra inputs are not permitted.*Known fields: name, title"),
        ("name: x\ngoal: g\nlimits: {calls: 0}", "`calls`: input should be greater.*Known limits"),
        ("name: x\ngoal: g\nlimits: {call: 1}", "`call`: extra inputs.*Known limits: calls"),
        ("name: x\ngoal: g\nprograms: {wall: 1}", "`programs` does not fit: `wall`.*Known: wall_seconds"),
        ("name: x\ngoal: g\nchecks: [{}]", "`checks.0`: give one of `file`, `run`, `backed`, `review`, `judge`"),
        ("name: x\ngoal: g\nchecks: [{run: main.py}]", "`checks.0.run`: input should be a list"),
        ("name: x\ngoal: g\nchecks: [{judge: gone.py}]", "not there: gone.py"),
        ("name: x\ngoal: g\nrehearsal: gone.py", "not there: gone.py"),
        ("name: x\ngoal_file: gone.md", "not there: gone.md"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as error:
        load_scenario(write(tmp_path, text))
    assert "scenario.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_goal_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"goal\.md cannot be read"):
        load_scenario(write(tmp_path, "name: x\ngoal_file: goal.md", goal_md=b"\xff\xfe"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def (", "SyntaxError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "defines no `script"),
        ("script = 3", "defines no `script"),
    ],
)
def test_a_rehearsal_that_cannot_be_loaded(tmp_path: Path, text: str, complaint: str) -> None:
    scenario = load_scenario(write(tmp_path, "name: x\ngoal: g\nrehearsal: r.py", r_py=text))
    with pytest.raises(UsageError, match=complaint) as error:
        scenario.script()
    assert "\n" not in str(error.value)


def test_a_scenario_is_found_by_folder_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_scenario(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", str(folder)):
        found = find_scenario(name)
        assert found is not None
        assert found.folder == folder
    gobang = find_scenario("gobang")
    assert gobang is not None
    assert gobang.checks
    assert gobang.script() is not None
    assert "gobang" in shipped_scenarios()


@pytest.mark.parametrize("goal", ["Write a poem.", "x" * 5000, "a\0b", "很长" * 3000, "two\nlines"])
def test_a_goal_in_words_is_no_scenario(goal: str) -> None:
    assert find_scenario(goal) is None
