"""What agents are told, and how a user overrides it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from langchain_core.messages import BaseMessage

from megagraph import MegaGraph
from megagraph.errors import UsageError
from megagraph.prompts import Prompts
from megagraph.rehearsal import RehearsalModel, Script, finish
from megagraph.scenario import Scenario
from megagraph.specs import AgentSpec, Report
from tests.scripts import one

BOSS = AgentSpec("boss", "the boss", "")
CODER = AgentSpec("coder", "programmer", "Write it.", deliverables=("a.py", "b.py"), lead="boss", depth=1)
TESTER = AgentSpec("tester", "tester", "Test it.", depends_on=("coder",), lead="boss", depth=1)


def test_the_boss_is_told_the_goal_and_nothing_of_roles() -> None:
    text = Prompts().task(BOSS, "Make $5 with ${name} and {braces}.", [], {})
    assert text == "The goal:\n\nMake $5 with ${name} and {braces}."


def test_a_recruit_is_told_its_task_its_mates_and_what_it_waited_for() -> None:
    text = Prompts().task(TESTER, "The goal\nin two lines.", [CODER], {"coder": Report("It works.", ("a.py",))})
    for part in ("The goal", "Test it.", "coder: programmer (delivers a.py, b.py)", "coder reports: It works.", "a.py"):
        assert part in text
    assert "in two lines" not in text
    assert "a.py, b.py" in Prompts().task(CODER, "g", [], {})
    assert "was dismissed" in Prompts().task(TESTER, "g", [], {"coder": None})


def test_every_agent_is_told_its_name_and_who_leads_it() -> None:
    assert "Your name is `coder`." in Prompts().system(CODER)
    assert "Your lead is `boss`." in Prompts().system(CODER)
    assert "You lead the whole organisation." in Prompts().system(BOSS)


def test_a_file_takes_a_prompts_place_and_the_first_folder_wins(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "boss.md").write_text(f"{name}: ${{goal}} ${{unknown}} $5\n")
    (tmp_path / "second" / "task.md").write_text("Do: ${instructions}")
    prompts = Prompts([tmp_path / "none", tmp_path / "first", tmp_path / "second"])
    assert prompts.task(BOSS, "g", [], {}) == "first: g ${unknown} $5"
    assert prompts.task(CODER, "g", [], {}) == "Do: Write it."
    assert prompts.system(CODER) == Prompts().system(CODER)


def test_a_prompt_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "boss.md").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"boss\.md cannot be read"):
        Prompts([tmp_path])


class Listener(RehearsalModel):
    """Keeps what it is told."""

    told: list[str]

    async def _agenerate(self, messages: list[BaseMessage], *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        self.told.append(str(messages[-1].content))
        return await super()._agenerate(messages)


@pytest.mark.parametrize("places", [["home"], ["home", "scenario"], ["home", "scenario", "own"]])
def test_the_nearest_of_home_scenario_and_own_prompts_is_used(tmp_path: Path, places: Sequence[str]) -> None:
    folders = {"home": tmp_path / "home" / "prompts", "scenario": tmp_path / "s" / "prompts", "own": tmp_path / "own"}
    for place in places:
        folders[place].mkdir(parents=True)
        (folders[place] / "boss.md").write_text(f"{place}: ${{goal}}")
    model = Listener(script=Script({"boss": one(finish("done"))}), told=[])

    async def work() -> None:
        own = folders["own"] if "own" in places else None
        async with MegaGraph(model, home=tmp_path / "home", prompts=own) as mega:
            await (await mega.start(Scenario("Go.", folder=tmp_path / "s"))).result()

    asyncio.run(work())
    assert model.told == [f"{places[-1]}: Go."]
