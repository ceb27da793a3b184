"""Parameters of a scenario: declared with it, set for a run, in the goal, the limits, the rehearsal and the judge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from megagraph import Limits, MegaGraph
from megagraph.errors import UsageError
from megagraph.run import Result
from megagraph.scenario import Scenario, find_scenario, load_scenario
from tests.commands import Program

YAML = """
name: greetings
goal: Write ${count} greetings, ${count * 2} words each at the most, in ${tone} words. It costs $5 and {nothing}.
parameters:
  count: {default: 3, least: 1, most: 50, description: how many}
  tone: {default: warm, choices: [warm, cool]}
  pace: {default: 0.5}
  loud: {default: false}
limits: {calls: "${count * 10}", agents: 3, width: "${min(20, count + 1)}", minutes: "${pace * 60}"}
programs: {wall_seconds: "${count / 2}"}
checks:
- judge: check.py
rehearsal: rehearsal.py
"""

REHEARSAL = """
from megagraph.rehearsal import Script, finish, read_file, recruit, talk, wait_for, write_file

def script(count, tone, pace, loud):
    def boss(brief):
        assert f"Write {count} greetings" in brief.task
        heard = yield recruit({"name": "writer", "role": "writer", "instructions": "Write."})
        yield from wait_for(heard, ["writer"])
        yield read_file("greetings.txt")
        yield write_file("greetings.txt", f"{tone} hello\\n" * count)
        yield finish("done", ["greetings.txt"])

    def writer(brief):
        yield write_file("greetings.txt", "hello\\n" * count)
        yield talk("boss", "There they are.")
        yield finish("done", ["greetings.txt"])

    return Script({"boss": boss, "writer": writer})
"""

JUDGE = """
import json, pathlib
record = json.loads(pathlib.Path(__file__).with_name("run.json").read_text())
text = pathlib.Path("greetings.txt").read_text()
wanted = record["parameters"]["tone"] + " hello\\n"
print(json.dumps({"check": "greets", "passed": text == wanted * record["parameters"]["count"]}))
print(json.dumps({"check": "record", "passed": True, "detail": json.dumps(record)}))
"""


def write(folder: Path, text: str = YAML) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {"scenario.yaml": text, "rehearsal.py": REHEARSAL, "check.py": JUDGE}.items():
        (folder / name).write_text(content)
    return folder


def test_defaults_hold_and_values_take_their_place(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path / "greetings"))
    assert scenario.parameters == {"count": 3, "tone": "warm", "pace": 0.5, "loud": False}
    assert scenario.goal == ("Write 3 greetings, 6 words each at the most, in warm words. It costs $5 and {nothing}.")
    assert scenario.limits == Limits(calls=30, agents=3, width=4, minutes=30)
    changed = scenario.with_(count=40, loud=True)
    assert changed.goal.startswith("Write 40 greetings, 80 words each")
    assert (changed.limits.calls, changed.limits.width, changed.programs.wall_seconds) == (400, 20, 20)
    assert changed.parameters == {"count": 40, "tone": "warm", "pace": 0.5, "loud": True}
    assert changed.with_(tone="cool").parameters["count"] == 40, "what was set before stays set"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"count": "1,0"}, 10),
        ({"count": " 7 "}, 7),
        ({"pace": "2"}, 2.0),
        ({"pace": 2}, 2.0),
        ({"loud": "yes"}, True),
        ({"loud": "FALSE"}, False),
        ({"tone": "cool"}, "cool"),
    ],
)
def test_values_are_read_as_their_default_is(tmp_path: Path, given: dict[str, Any], read: Any) -> None:
    scenario = load_scenario(write(tmp_path / "greetings"), given)
    [name] = given
    assert scenario.parameters[name] == read
    assert type(scenario.parameters[name]) is type(read)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"cuont": 4}, r"no parameter `cuont`. It has: count \(default 3\): how many; tone"),
        ({"count": "many"}, "`count=many` does not fit: it must be a whole number"),
        ({"count": 2.5}, "must be a whole number"),
        ({"count": True}, "must be a whole number"),
        ({"count": 0}, "must be at least 1"),
        ({"count": 51}, "must be at most 50"),
        ({"tone": "rude"}, "must be one of warm, cool"),
        ({"pace": "fast"}, "must be a number"),
        ({"pace": "nan"}, "the limits do not fit: `minutes`"),
        ({"loud": "perhaps"}, "must be true or false"),
    ],
)
def test_values_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as error:
        load_scenario(write(tmp_path / "greetings"), given)
    assert "\n" not in str(error.value)
    assert "scenario.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("parameters: {n: {default: 3, least: 4}}", "the default must be at least 4"),
        ("parameters: {n: {}}", "`parameters.n.default`: field required"),
        ("parameters: {n: {default: 3}}\nlimits: {calls: '${m}'}", "there is no parameter m.*Parameters: n"),
        ("parameters: {n: {default: 3}}\nlimits: {calls: '${n / 0}'}", "makes no sense .division by zero"),
        ("parameters: {n: {default: 3}}\nlimits: {calls: '${n.bit_length()}'}", "this cannot be computed"),
        ("parameters: {n: {default: 3}}\nlimits: {calls: '${n +}'}", "makes no sense"),
        ("parameters: {n: {default: 3}}\nlimits: {calls: '${-n}'}", "`calls`: input should be greater"),
    ],
)
def test_a_scenario_whose_parameters_do_not_fit(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "scenario.yaml").write_text(f"name: x\ngoal: g\n{text}\n")
    with pytest.raises(UsageError, match=complaint):
        load_scenario(tmp_path)


def test_a_scenario_without_parameters_keeps_its_texts(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("name: x\ngoal: Print ${HOME}.\n")
    assert load_scenario(tmp_path).goal == "Print ${HOME}."
    with pytest.raises(UsageError, match=r"no parameter `size`\. It has none"):
        load_scenario(tmp_path).with_(size=3)
    with pytest.raises(UsageError, match="a goal in words has no parameters"):
        Scenario("Do it.").with_(size=3)


def test_a_run_keeps_its_parameters_and_its_judge_is_told_how_it_went(tmp_path: Path) -> None:
    folder = write(tmp_path / "greetings")

    async def begin() -> None:
        async with MegaGraph("rehearsal", home=tmp_path / "home", unsafe_programs=True) as mega:
            scenario = find_scenario(str(folder), {"count": "5", "tone": "cool"})
            assert scenario is not None
            run = await mega.start(scenario)
            run.stop()
            assert (await run.result()).status == "paused"

    async def go_on() -> Result:
        async with MegaGraph(home=tmp_path / "home", unsafe_programs=True) as mega:
            run = await mega.resume("last")
            assert run.scenario.parameters["count"] == 5
            return await run.result()

    asyncio.run(begin())
    result = asyncio.run(go_on())
    assert result.passed, result
    record = json.loads(result.verdicts[1].detail)
    assert record["parameters"] == {"count": 5, "tone": "cool", "pace": 0.5, "loud": False}
    assert [(a["name"], a["lead"], a["report"]["summary"]) for a in record["agents"]] == [
        ("boss", "", "done"),
        ("writer", "boss", "done"),
    ]
    assert [(c["path"], c["agent"], c["step"]) for c in record["changes"]] == [
        ("greetings.txt", "writer", 1),
        ("greetings.txt", "boss", 4),
    ]
    [message, report] = record["letters"]
    assert (message["from"], message["to"], message["kind"], message["text"]) == (
        "writer",
        "boss",
        "message",
        "There they are.",
    )
    assert report["kind"] == "report"
    first, second = (change["time"] for change in record["changes"])
    assert first <= message["sent"] <= report["sent"] <= second, "one clock for all"
    assert message["read"] is not None


def test_parameters_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, folder = Program(tmp_path / "home", capsys), write(tmp_path / "greetings")
    options = ("--home", tmp_path / "home", "--unsafe-programs", "--model", "rehearsal")
    done = program("run", folder, "--set", "count=2", "--set", "tone = cool", *options)
    assert done.code == 0, done
    for args, complaint in (
        (("run", folder, "--set", "count"), "`--set count` is not understood. Write it as NAME=VALUE."),
        (("run", folder, "--set", "size=3"), "no parameter `size`"),
        (("run", "Write a poem.", "--set", "size=3"), "a goal in words has no parameters"),
    ):
        refused = program(*args, *options)
        assert refused.code == 2
        assert complaint in refused.err
        assert refused.err.count("\n") == 1
    assert len(json.loads(program("runs", "--home", tmp_path / "home", "--json").out)) == 1
