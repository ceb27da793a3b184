"""The policy scenario: a small nation to its end, nations of all sizes on paper, and a judge that finds each fault."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from megagraph import MegaGraph
from megagraph.errors import UsageError
from megagraph.record import write_record
from megagraph.rehearsal import Brief, Call, Heard
from megagraph.run import Result
from megagraph.scenario import find_scenario
from scenarios.policy.check import CHECKS, near_copies
from scenarios.policy.texts import Nation

JUDGE = Path(__file__).parents[1] / "scenarios" / "policy" / "check.py"
SIZE = 19


class Nation19:
    """What a run of the scenario with 19 agents left, once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with MegaGraph("rehearsal", home=folder / "home", unsafe_programs=True) as mega:
            scenario = find_scenario("policy", {"size": SIZE})
            assert scenario is not None
            self.result: Result = mega.run(scenario)
            run = mega.open("last")
            self.agents = [spec for spec, _, _ in mega.home.ledger(run.id).agents()]
            run.export(folder / "files")
            write_record(folder / "run.json", run.scenario, mega.home.ledger(run.id), run.workspace)


@pytest.fixture(scope="module")
def nation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nation19]:
    yield Nation19(tmp_path_factory.mktemp("nation"))


class Copy:
    """A copy of what a run left, to be damaged."""

    def __init__(self, nation: Nation19, folder: Path) -> None:
        self.files = Path(shutil.copytree(nation.folder / "files", folder / "files"))
        self.record: dict[str, Any] = json.loads((nation.folder / "run.json").read_text())
        self._record = folder / "run.json"

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.files / path).read_text()
        assert re.search(old, text, re.S | re.M), old
        (self.files / path).write_text(re.sub(old, new, text, count=1, flags=re.S | re.M))

    def failed(self) -> set[str]:
        self._record.write_text(json.dumps(self.record))
        command = [sys.executable, str(JUDGE), str(self.files), "--record", str(self._record)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        verdicts = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.stderr == ""
        assert len(verdicts) == 11
        assert done.returncode == (0 if all(v["passed"] for v in verdicts) else 1)
        assert all(bool(v["detail"]) != v["passed"] for v in verdicts)
        return {v["check"] for v in verdicts if not v["passed"]}


def test_a_small_nation_makes_its_policy(nation: Nation19) -> None:
    result = nation.result
    assert result.passed, [v for v in result.verdicts if not v.passed]
    assert len(result.verdicts) == 11
    assert len(nation.agents) == SIZE
    assert max(spec.depth for spec in nation.agents) == 2
    assert {spec.role.split()[0] for spec in nation.agents} == {"the", "Minister", "Drafter", "Citizen:"}
    assert result.calls < 6 * SIZE


def test_citizens_are_heard_and_ministries_settle_by_letter(nation: Nation19) -> None:
    record = json.loads((nation.folder / "run.json").read_text())
    written = {(x["from"], x["to"]) for x in record["letters"] if x["kind"] == "message"}
    citizens = [name for name in (spec.name for spec in nation.agents) if "_citizen_" in name]
    assert {sender for sender, to in written if "_drafter_" in to} == set(citizens)
    assert {to for sender, to in written if "_drafter_" in sender} == set(citizens), "each gets an answer"
    assert {("health", "education"), ("education", "health")} <= written
    assert ("boss", "health") in written, "the first claims are more than there is"
    nation_md = (nation.folder / "files" / "nation.md").read_text()
    assert "both now have" in nation_md


@pytest.mark.parametrize("size", [13, 14, 60, 590, 606, 607, 2000, 5000, 12000])
def test_a_nation_of_any_size_is_laid_out(size: int) -> None:
    nation = Nation(size)
    names = ["boss", *nation.departments]
    for ministry in nation.ministries.values():
        names += [ministry.name, *ministry.drafters, *ministry.citizens]
    assert len(names) == len(set(names)) == size
    assert max(map(len, names)) <= 48
    scenario = find_scenario("policy", {"size": size})
    assert scenario is not None
    assert scenario.limits.agents >= size
    leads = list(nation.departments) or ["boss"]
    assert max(len(nation.departments), *(len(nation.below(lead)) for lead in leads)) <= 100 < scenario.limits.width
    for lead in leads:
        claimed = sum(ministry.share for ministry in nation.below(lead))
        assert nation.budget() < claimed < nation.budget() * 1.2, "there is something to be cut"
    pairs = [(m, nation.ministries[m.partner]) for m in nation.ministries.values() if m.partner]
    assert all(other.partner == m.name and other.matter == m.matter for m, other in pairs)
    different = [m for m, other in pairs if m.value != other.value]
    assert len(different) / 2 >= max(1, len(nation.ministries) // 10)


def test_the_goal_has_its_size() -> None:
    scenario = find_scenario("policy")
    assert scenario is not None
    assert "about 60 agents" in scenario.goal
    assert "about 98 ministers" in scenario.with_(size=590).goal
    assert "${" not in scenario.goal
    with pytest.raises(UsageError, match="must be at least 13"):
        scenario.with_(size=12)


def test_with_departments_a_nation_is_summed_up_twice(tmp_path: Path) -> None:
    """With few fields, a small nation needs the departments of a large one."""
    folder = shutil.copytree(JUDGE.parent, tmp_path / "policy", ignore=shutil.ignore_patterns("__pycache__"))
    words = yaml.safe_load((folder / "vocabulary.yaml").read_text())
    words["fields"] = dict(list(words["fields"].items())[:8])
    (folder / "vocabulary.yaml").write_text(yaml.safe_dump(words, sort_keys=False))

    async def work() -> Result:
        async with MegaGraph("rehearsal", home=tmp_path / "home", unsafe_programs=True) as mega:
            small = find_scenario(str(folder), {"size": 60})
            assert small is not None
            run = await mega.start(small)
            result = await run.result()
            names = [spec.name for spec, _, _ in mega.home.ledger(run.id).agents() if spec.depth == 1]
            assert {f"departments/{name}.md" for name in names} <= set(run.files)
            assert len(names) == 3
            return result

    result = asyncio.run(work())
    assert result.passed, [v for v in result.verdicts if not v.passed]


def drop(copy: Copy, path: str) -> None:
    (copy.files / path).unlink()


def no_change_after_test(copy: Copy) -> None:
    """As if the policy had been handed in as it was drafted."""
    first = next(x["sent"] for x in copy.record["letters"] if x["from"] == "health_citizen_1")
    copy.record["changes"] = [
        c for c in copy.record["changes"] if c["path"] != "policies/health.md" or c["time"] < first
    ]


def role(copy: Copy, name: str, new: str) -> None:
    next(agent for agent in copy.record["agents"] if agent["name"] == name)["role"] = new


def silent(copy: Copy, name: str) -> None:
    copy.record["letters"] = [x for x in copy.record["letters"] if x["from"] != name]


def without_letters_between_ministers(copy: Copy) -> None:
    ministers = {"health", "education", "energy", "boss"}
    copy.record["letters"] = [x for x in copy.record["letters"] if not {x["from"], x["to"]} <= ministers]


def open_point(copy: Copy) -> None:
    agent = next(agent for agent in copy.record["agents"] if agent["name"] == "health")
    agent["report"]["missing"] = ["the open point “Test by citizens”"]


def copied(copy: Copy) -> None:
    """The policy of another ministry, with other names and numbers."""
    text = (copy.files / "policies/health.md").read_text()
    tail = (copy.files / "policies/energy.md").read_text().partition("### 6.")[2]
    text = text.partition("### 6.")[0].replace("Health", "Energy").replace("2031", "2030") + "### 6." + tail
    share = re.search("Share.*", (copy.files / "policies/energy.md").read_text())
    assert share is not None
    (copy.files / "policies/energy.md").write_text(re.sub("Share.*", share[0], text, count=1))


SHARE = r"^Share of the national budget: [\d.]+ %"

DAMAGES: dict[str, tuple[Callable[[Copy], Any], set[str]]] = {
    "few agents": (
        lambda c: c.record["parameters"].update(size=200),
        {"the government has its size"},
    ),
    "no policy": (
        lambda c: drop(c, "policies/energy.md"),
        {"every ministry has a policy", "references resolve", "the budget adds up"},
    ),
    "a policy of nobody": (
        lambda c: (c.files / "policies/magic.md").write_text("# Magic\n"),
        {"every ministry has a policy"},
    ),
    "one minister": (
        lambda c: [role(c, name, "Adviser") for name in ("education", "energy")],
        {"the government has its size", "every ministry has a policy", "the budget adds up"},
    ),
    "no minister at all": (
        lambda c: [role(c, name, "Adviser") for name in ("health", "education", "energy")],
        set(CHECKS),
    ),
    "a promise to write": (
        lambda c: c.change("policies/health.md", r"\n## How it is", "\nThe rest is to be written.\n\n## How it is"),
        {"no policy is a placeholder"},
    ),
    "a place left open": (
        lambda c: c.change("policies/health.md", r"\n## How it is", "\n<!-- clauses 7, 8 -->\n\n## How it is"),
        {"no policy is a placeholder"},
    ),
    "a policy of a few words": (
        lambda c: c.change("policies/health.md", r"(## Where we stand).*?(### 6)", r"\1\n\n\2"),
        {"no policy is a placeholder", "references resolve"},
    ),
    "many words that say little": (
        lambda c: c.change(
            "policies/health.md", r"(### 2\. [^\n]*\n).*?(### 3)", r"\1\n" + "good health for all " * 600 + r"\n\n\2"
        ),
        {"no policy is a placeholder"},
    ),
    "no record of a test": (
        lambda c: drop(c, "tests/health.md"),
        {"each was tested by its citizens", "references resolve"},
    ),
    "a citizen who is not in the record": (
        lambda c: c.change("tests/health.md", "^## health_citizen_2", "## somebody"),
        {"each was tested by its citizens"},
    ),
    "a citizen who said nothing": (
        lambda c: silent(c, "health_citizen_2"),
        {"each was tested by its citizens"},
    ),
    "an objection to no clause": (
        lambda c: c.change("tests/health.md", r"\[clause \d\]\([^)]*\)", "everything"),
        {"each was tested by its citizens"},
    ),
    "one citizen": (
        lambda c: [role(c, f"health_citizen_{n}", "Friend") for n in (2, 3)],
        {"each was tested by its citizens"},
    ),
    "no change after the test": (
        no_change_after_test,
        {"each was changed after its test"},
    ),
    "an open point": (open_point, {"no minister has an open point"}),
    "a link to a heading that is not there": (
        lambda c: c.change("policies/health.md", r"(\]\(energy\.md#)2-", r"\g<1>3-"),
        {"references resolve"},
    ),
    "a link to a file that is not there": (
        lambda c: c.change("nation.md", r"\(tests/health\.md\)", "(tests/wealth.md)"),
        {"references resolve", "nation.md is whole"},
    ),
    "a policy on its own": (
        lambda c: c.change("policies/energy.md", r"\[[^\]]*\]\([^)]*\)", "nothing"),
        {"references resolve"},
    ),
    "no nation": (
        lambda c: drop(c, "nation.md"),
        {"nation.md is whole", "contradictions were settled"},
    ),
    "no contents": (
        lambda c: c.change("nation.md", "^## Contents.*?(?=^## )", ""),
        {"nation.md is whole"},
    ),
    "contents with a gap": (
        lambda c: c.change("nation.md", r"^  - \[Energy\][^\n]*\n", ""),
        {"nation.md is whole"},
    ),
    "no contradictions": (
        lambda c: c.change("nation.md", r"(^## Contradictions settled\n).*", r"\1\nNone.\n"),
        {"contradictions were settled"},
    ),
    "a contradiction of one": (
        lambda c: c.change("nation.md", r"Settled with \[([^\]]*)\]\([^)]*\)", r"Settled with \1"),
        {"contradictions were settled"},
    ),
    "a contradiction nobody wrote about": (
        without_letters_between_ministers,
        {"contradictions were settled"},
    ),
    "a contradiction that is in no policy": (
        lambda c: [
            c.change(f"policies/{name}.md", r"^Settled with \[([^\]]*)\]\([^)]*\)", r"Settled with \1")
            or c.change(
                f"policies/{name}.md", r"(read with) .*", r"\1 [it](energy.md#1-the-winter-reserve-of-electricity)."
            )
            for name in ("health", "education")
        ],
        {"contradictions were settled"},
    ),
    "more than there is": (
        lambda c: c.change("policies/health.md", SHARE, "Share of the national budget: 80.00 %"),
        {"the budget adds up"},
    ),
    "a share that is not said": (
        lambda c: c.change("policies/energy.md", SHARE, "We claim our share."),
        {"the budget adds up"},
    ),
    "a copy": (copied, {"no two files are near copies", "references resolve"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_judge_finds_what_is_wrong(name: str, nation: Nation19, tmp_path: Path) -> None:
    copy = Copy(nation, tmp_path)
    damage, expected = DAMAGES[name]
    damage(copy)
    failed = copy.failed()
    assert failed == expected


def test_the_judge_passes_what_is_whole(nation: Nation19, tmp_path: Path) -> None:
    assert Copy(nation, tmp_path).failed() == set()


def test_near_copies_are_found_among_many_and_in_crowds() -> None:
    def text(number: int) -> str:
        return " ".join(f"w{(number * 7919 + i * i) % 10007}" for i in range(300)) + " this part is the same" * 5

    texts = {f"{n:04}": text(n) for n in range(600)}
    assert list(near_copies(texts)) == []
    copies = texts | {"copy": texts["0300"].replace("this part", "that bit")}
    assert [(one, two) for one, two, _ in near_copies(copies)] == [("0300", "copy")]
    crowd = texts | {f"x{n:03}": text(0) + f" number {n} of many" for n in range(200)}
    found = {name for one, two, _ in near_copies(crowd) for name in (one, two)}
    assert found == {"0000", *(f"x{n:03}" for n in range(200))}


def test_a_minister_knows_what_a_partner_wrote_before_its_first_turn() -> None:
    """With workers one may be there long before the other."""
    scenario = find_scenario("policy", {"size": 13})
    script = scenario and scenario.script()
    assert script is not None and script.default is not None
    early = (("education", "message", "On what we share, we say: The age of the young: 16 years."),)
    part = script.default(Brief("health", "", early))
    next(part)
    reports = tuple((f"health_citizen_{n}", "report", "Outcome: accepted.") for n in (1, 2, 3))
    part.send(Heard(letters=reports))
    turn = part.send(Heard())
    assert not isinstance(turn, str) and [act.tool for act in turn if isinstance(act, Call)][-1] == "finish"
