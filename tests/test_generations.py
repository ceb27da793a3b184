"""Teams that come one after the other: they do not lie inside one another, and are killed, looked at and drawn like
any other. Their branches are tried in `tests/test_branches.py`."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.types import StateSnapshot

from megagraph import Limits, MegaGraph, Run
from megagraph.limits import Account
from megagraph.mailroom import Place
from megagraph.rehearsal import Brief, RehearsalModel, Script, call, finish, read_brief, recruit, talk, wait_for
from tests.campaign import run_campaign
from tests.model_server import ModelServer
from tests.scripts import Play, generations_script, one

MANY = Limits(calls=100_000, agents=10_000, rounds=10_000, input_tokens=10**9, output_tokens=10**9)
KILLS_OF_A_RUN = 6
RUNS = int(os.environ.get("MEGAGRAPH_KILLED_RUNS", "1"))


def worked(home: Path, script: Script, limits: Limits = MANY) -> Run:
    """A run of the script, at its end or stopped by a limit."""

    async def work() -> str:
        async with MegaGraph(RehearsalModel(script=script), home=home, limits=limits) as mega:
            run = await mega.start("Write the files.")
            await run.result()
            return run.id

    return MegaGraph(home=home).open(asyncio.run(work()))


def desks(run: Run) -> dict[str, int]:
    """For every agent, the most desks one inside the other on the way to where it worked."""
    found: dict[str, int] = {}
    for (namespace,) in MegaGraph(home=run.home).home.database.read("SELECT checkpoint_ns FROM namespaces"):
        names = [part.partition(":")[0] for part in namespace.split("|")]
        if names[-1] not in ("team", ""):
            name = next((name for name in reversed(names) if name not in ("team", "desk")), "boss")
            found[name] = max(found.get(name, 0), names.count("desk"))
    return found


def drawn(run: Run) -> set[str]:
    return {node.removesuffix(":think") for node in run.graph().get_graph(xray=True).nodes if node.endswith(":think")}


def test_forty_generations_do_not_lie_inside_one_another(tmp_path: Path) -> None:
    run = worked(tmp_path, generations_script(40))
    assert run.outcome().passed
    found = desks(run)
    assert {name for name, number in found.items() if number} == {"boss", *(f"lead{n}" for n in range(2, 40, 3))}
    assert set(found.values()) == {0, 1}


def test_the_drawing_shows_all_who_were_ever_recruited(tmp_path: Path) -> None:
    run = worked(tmp_path, generations_script(6))
    assert drawn(run) == {
        "team:desk",
        *(f"team:{name}" for name in ("a0", "b0", "a1", "b1", "a2", "a3", "b3", "a4", "b4", "a5")),
        "team:lead2",
        "team:lead5",
        *(f"team:lead{n}:team:{name}" for n in (2, 5) for name in ("desk", f"x{n}", f"y{n}", f"z{n}")),
    }
    assert "boss_team" in run.graph().get_graph(xray=True).draw_mermaid()


def overlapping_script() -> Script:
    """Of the first team one stays while the second works; both are dismissed before the third comes."""

    def boss(brief: Brief) -> Play:
        heard = yield recruit({"name": "a", "role": "one", "instructions": "a"})
        yield from wait_for(heard, ["a"])
        heard = yield recruit({"name": "b", "role": "two", "instructions": "b"})
        yield from wait_for(heard, ["b"])
        heard = yield call("dismiss", agents=["b"]), recruit({"name": "c", "role": "three", "instructions": "c"})
        yield from wait_for(heard, ["c"])
        heard = yield talk("a", "again")
        yield from wait_for(heard, ["a"])
        heard = yield recruit({"name": "d", "role": "four", "instructions": "d"}), call("dismiss", agents=["a", "c"])
        yield from wait_for(heard, ["d"])
        yield finish("done")

    return Script({"boss": boss}, default=again)


def again(brief: Brief) -> Play:
    """Reports whenever it is told to."""
    heard = yield finish("done")
    while True:
        heard = yield finish("done again") if any(kind == "message" for _, kind, _ in heard.letters) else "Noted."


def test_teams_that_overlap_lie_inside_one_another_and_others_do_not(tmp_path: Path) -> None:
    run = worked(tmp_path, overlapping_script())
    assert run.outcome().passed
    # The second and the third were inside the first, one after the other, and the fourth beside all of them.
    assert {name: number for name, number in desks(run).items() if name != "boss"} == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert drawn(run) >= {"team:a", "team:d", "team:desk", "team:desk:team:b", "team:desk:team:c"}


def test_nobody_waits_for_one_who_was_dismissed_in_the_middle_of_a_call(tmp_path: Path) -> None:
    """The next team is opened inside then, as the call may take long."""

    def boss(brief: Brief) -> Play:
        yield recruit({"name": "slow", "role": "slow", "instructions": "be slow"}, work_on=True)
        heard = yield call("dismiss", agents=["slow"]), recruit({"name": "next", "role": "x", "instructions": "y"})
        yield from wait_for(heard, ["next"])
        heard = yield call("dismiss", agents=["next"]), recruit({"name": "last", "role": "x", "instructions": "y"})
        yield from wait_for(heard, ["last"])
        yield finish("done")

    script = Script({"boss": boss}, default=one(finish("done")))

    async def work() -> None:
        async with (
            ModelServerOf(script, slow=1.5) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Go on.")
            assert (await run.result()).passed
            recruited = {event.agent: event.time for event in run.events(kinds=["recruited"])}
            begun = {event.agent: event.time for event in run.events(kinds=["thinking"]) if event.data["step"] == 1}
            assert begun["next"] - recruited["next"] < 0.7
            assert {name: n for name, n in desks(run).items() if name != "boss"} == {
                "slow": 0,
                "next": 1,
                "last": 1,
            }

    asyncio.run(work())


class ModelServerOf(ModelServer):
    """A model server at which the agent `slow` waits longer than others."""

    def __init__(self, script: Script, slow: float) -> None:
        super().__init__(script)
        self.slow = slow

    def latency_of(self, agent: str, turn: int) -> float:
        return self.slow if agent == "slow" else 0.0


def test_a_run_that_was_stopped_between_two_generations_goes_on_in_the_next(tmp_path: Path) -> None:
    whole = dict(worked(tmp_path / "whole", generations_script(5)).files)

    async def in_pieces() -> None:
        calls, run_id, status = 0, "", ""
        while status != "done":
            calls += 7
            model, limits = RehearsalModel(script=generations_script(5)), MANY.model_copy(update={"calls": calls})
            async with MegaGraph(model, home=tmp_path / "pieces", limits=limits) as mega:
                run = await (mega.resume(run_id) if run_id else mega.start("Write the files."))
                run_id, status = run.id, (await run.result()).status
                state = await run.graph().aget_state(run.config, subgraphs=True)
                assert status == "done" or pending(state) >= open_agents(run), calls
                assert set(desks(run).values()) <= {0, 1}
                # A process that goes on takes in what is of use to those who go on.
                may_go_on = {"boss", *(spec.name for spec, _, closed in run.ledger.agents() if not closed)}
                for steps in (run.ledger.journal(), run.ledger.done_steps()):
                    assert {agent for agent, _ in steps} <= may_go_on
                assert {step for agent, step in run.ledger.journal() if agent == "boss"} == set(steps_of(run, "boss"))
                files = dict(run.files)
        assert files == whole

    asyncio.run(in_pieces())


def test_what_reviewers_did_is_asked_of_the_rows(tmp_path: Path) -> None:
    run = worked(tmp_path, generations_script(3), MANY.model_copy(update={"calls": 14}))
    ledger, over = run.ledger, {spec.name for spec, _, closed in run.ledger.agents() if closed}
    for table, read in (("calls", ledger.journal), ("tool_calls", ledger.done_steps)):
        ledger.database.write_sync((f"UPDATE {table} SET agent = agent || '.reviewer' WHERE step = 1", ()))
        rows = {tuple(row) for row in ledger.database.read(f"SELECT agent, step FROM {table}")}
        agents = {agent for agent, _ in rows}
        assert read() == {(agent, step) for agent, step in rows if agent not in over and "." not in agent}
        assert agents & over and any("." in agent for agent in agents)


def steps_of(run: Run, agent: str) -> Iterable[int]:
    rows = run.ledger.database.read("SELECT step FROM calls WHERE run = ? AND agent = ?", (run.id, agent))
    return (row["step"] for row in rows)


def pending(state: StateSnapshot) -> set[str]:
    """The agents whose state LangGraph's own calls reach from here."""
    found = set()
    for task in state.tasks:
        found.add(task.name)
        if isinstance(task.state, StateSnapshot):
            found |= pending(task.state)
    return found


def open_agents(run: Run) -> set[str]:
    """Those who have begun and whose work is not over; they are nodes under their own names."""
    begun = desks(run)
    return {spec.name for spec, _, closed in run.ledger.agents() if spec.lead and not closed and spec.name in begun}


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_run_that_is_killed_between_generations_pays_nothing_twice(tmp_path: Path, seed: int) -> None:
    script = generations_script(9)
    whole = worked(tmp_path / "whole", script)
    with ModelServer(script, latency=("lognormal", 0.05, 0.5), seed=seed) as server:
        campaign = run_campaign(server, tmp_path / "home", seed, KILLS_OF_A_RUN)
    assert campaign.status == "done"
    assert campaign.kills == KILLS_OF_A_RUN
    assert campaign.paid_twice == []
    assert campaign.letters_lost == campaign.letters_doubled == []
    assert campaign.files == dict(whole.files)
    assert campaign.agents == sorted(spec.name for spec, _, _ in whole.ledger.agents())
    with MegaGraph(home=tmp_path / "home") as mega:
        assert max(desks(mega.open("last")).values()) <= 2


def test_who_stays_for_the_next_generation_has_it_inside(tmp_path: Path) -> None:
    found = desks(worked(tmp_path, generations_script(9, overlap=2)))
    assert [found[f"a{number}"] for number in range(9)] == [0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_what_a_branch_changes_at_a_desk_is_known_in_the_generations_after_it(tmp_path: Path) -> None:
    """The lead has left its first messages behind when it sat down there."""

    class Listening(RehearsalModel):
        firsts: list[tuple[str, str]] = []

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            self.firsts.append((read_brief(messages).name, messages[1].text))
            return super()._generate(messages, *args, **kwargs)

    async def work() -> None:
        model = Listening(script=generations_script(3))
        async with MegaGraph(model, home=tmp_path) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            steps = [step for step in run.history("lead2") if step.kind == "think"]
            branch = await run.branch(steps[2].address, instructions="Be another lead.")
            model.firsts.clear()
            assert (await (await mega.resume(branch.id)).result()).passed
            told = [text for name, text in model.firsts if name == "lead2"]
            assert len(told) > len(steps) / 2
            assert all("Be another lead." in text for text in told)
            last = await run.branch(steps[2].address, messages={-1: "Go on."})
            state = last.graph().get_state({"configurable": {"thread_id": last.id, "checkpoint_ns": seat_of(last)}})
            assert state.values["messages"][-1].text == "Go on."

    asyncio.run(work())


def seat_of(run: Run) -> str:
    """The namespace of the desk at which `lead2` sits."""
    names = [
        row[0]
        for row in MegaGraph(home=run.home).home.database.read(
            "SELECT checkpoint_ns FROM namespaces WHERE thread_id = ?", (run.id,)
        )
    ]
    return next(name for name in names if "|lead2:" in name and name.rpartition("|")[2].startswith("desk"))


def test_agents_whose_work_is_over_leave_nothing_behind_but_their_rows(tmp_path: Path) -> None:
    """What is left in memory for each is what the boss has said and heard of it."""

    class Counting(RehearsalModel):
        left: dict[int, int] = {}
        """For each number of recruits of the boss, the fewest objects that there were."""
        most_places: int = 0
        most_parts: int = 0
        """Accounts of those who were given a part of the limits, as one of each generation is."""

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            if read_brief(messages).name == "boss":
                calls = [c for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
                waves = sum(c["name"] == "recruit" for c in calls)
                gc.collect()
                there = gc.get_objects()
                self.left[waves] = min(len(there), self.left.get(waves, len(there)))
                self.most_places = max(self.most_places, sum(type(x) is Place for x in there))
                self.most_parts = max(self.most_parts, sum(type(x) is Account and x.branch != "" for x in there))
            return super()._generate(messages, *args, **kwargs)

    async def work() -> dict[int, int]:
        model = Counting(script=generations_script(36))
        async with MegaGraph(model, home=tmp_path, limits=MANY) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            # The boss and those of one generation, who may not have left yet as the next one comes.
            assert 4 <= model.most_places <= 7
            assert 1 <= model.most_parts <= 2
            return model.left

    left = asyncio.run(work())
    then, now = left[10], left[34]
    # Three agents to a generation. The fourteen objects for each are the messages of the boss.
    assert now - then < 18 * 3 * (34 - 10)
