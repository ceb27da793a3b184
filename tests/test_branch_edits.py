"""What can be changed at a branch, where a branch can begin, and what a branch leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command

from megagraph import Limits, MegaGraph, Run
from megagraph.branches.edits import Edits, PlanEdit
from megagraph.errors import MegagraphError, RunBusy, UsageError
from megagraph.rehearsal import Brief, Part, Script, call, finish, read_file, recruit, talk, wait_for, write_file
from megagraph.report import collect
from megagraph.view import View
from tests.campaign import command
from tests.commands import Program, until, write_scenario
from tests.model_server import ModelServer
from tests.scripts import Play, checked_script, deep_script, one
from tests.test_branches import Recorded, calls, fingerprint, reports
from tests.test_chaos import EXPECTED
from tests.test_cli import documented


def hire(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "worker", "instructions": f"be {name}", **more}


def said_script() -> Script:
    """A boss and two workers: `teller` says what it was told, `reader` what it finds in a file and a letter."""

    def boss(brief: Brief) -> Play:
        goal = brief.task.rpartition("\n\n")[2]
        heard = yield write_file("given.txt", "old\n"), recruit(hire("teller"), hire("reader"))
        heard = yield talk("reader", "the word is old")
        reports = yield from wait_for(heard, ["teller", "reader"])
        yield finish(f"{goal} | {reports['teller']} | {reports['reader']}")

    def teller(brief: Brief) -> Play:
        heard = yield read_file("given.txt")
        task = brief.task.partition("Your task:\n\n")[2].partition("\n")[0]
        yield finish(f"told: {task}; saw {heard.results[0].rpartition(':')[2].strip()}")

    def reader(brief: Brief) -> Play:
        words = [text for sender, _, text in brief.letters if sender == "boss"]
        heard = yield talk("boss", "I am here")
        while not words:
            words += [text for sender, _, text in heard.letters if sender == "boss"]
            if not words:
                heard = yield "I wait."
        heard = yield read_file("given.txt")
        yield finish(f"{words[0]}; saw {heard.results[0].rpartition(':')[2].strip()}")

    return Script({"boss": boss, "teller": teller, "reader": reader}, default=one(finish("nothing")))


async def finished(mega: MegaGraph, run: Run) -> str:
    result = await (await mega.resume(run.id)).result()
    assert result.status == "done", result
    assert result.report is not None
    return result.report.summary


def in_home(home: Path, script: Script, work: Callable[[MegaGraph, Run, Recorded], Awaitable[None]]) -> None:
    """Run the script to its end, and work on the run; it must be as it was afterwards."""

    async def session() -> None:
        model = Recorded(script)
        async with MegaGraph(model, home=home) as mega:
            run = await mega.start("Say it.")
            await run.result()
            before = fingerprint(mega, run)
            model.log.clear()
            await work(mega, run, model)
            assert fingerprint(mega, run) == before, "the run that was branched has changed"

    asyncio.run(session())


OLD = "Say it. | told: be teller; saw old | the word is old; saw old"


@pytest.mark.parametrize(
    ("at", "changes", "said", "spared"),
    [
        ("boss:think#1", {}, OLD, ""),
        ("teller:think#1", {"instructions": "sing"}, OLD.replace("be teller", "sing"), "reader"),
        ("teller:think#2", {"instructions": "sing"}, OLD.replace("be teller", "sing"), "reader"),
        ("boss:think#1", {"goal": "Do it."}, OLD.replace("Say it.", "Do it."), ""),
        ("teller:think#2", {"messages": {-1: "given.txt:\nedited"}}, OLD.replace("saw old", "saw edited", 1), "reader"),
        (
            "boss:act#1",
            {"plan": PlanEdit(change={"teller": {"instructions": "hum"}})},
            OLD.replace("be teller", "hum"),
            "",
        ),
        ("boss:act#1", {"plan": PlanEdit(add=[hire("third")])}, OLD, ""),
    ],
)
def test_what_is_changed_is_what_the_branch_goes_on_with(
    tmp_path: Path, at: str, changes: Any, said: str, spared: str
) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        branch = await run.branch(at, **changes)
        assert branch.parent == run.id
        assert await finished(mega, branch) == said
        assert not spared or spared not in {agent for agent, _ in model.log}
        if "plan" in changes and changes["plan"].add:
            assert "third" in reports(branch)

    in_home(tmp_path, said_script(), work)


def test_a_file_is_otherwise_for_whoever_looks_later(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        looked = [s for s in run.history() if s.agent != "boss" and "read_file" in s.tools]
        branch = await run.branch(looked[0].address, files={"given.txt": b"new\n"})
        assert branch.files["given.txt"] == "new\n"
        assert run.files["given.txt"] == "old\n"
        assert (await finished(mega, branch)).count("saw new") == 2, "both looked after the moment"
        gone = await run.branch(looked[0].address, files={"given.txt": None})
        assert "given.txt" not in gone.files

    in_home(tmp_path, said_script(), work)


def test_a_letter_that_is_another_one_is_read_anew(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        branch = await run.branch("now", letters={"boss/2/0/0": "the word is new"})
        assert "the word is new" in await finished(mega, branch)
        assert "teller" not in {agent for agent, _ in model.log}

    in_home(tmp_path, said_script(), work)


def test_limits_and_models_of_a_branch_are_its_own(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        kept = (await run.plan_branch("teller:think#2")).dump()["kept"]["calls"]
        branch = await run.branch("teller:think#2", limits=Limits(calls=kept + 1), model="openai:other")
        settings = json.loads(branch.row["settings"])
        assert settings["own_models"] == {"teller": "openai:other"}
        with pytest.raises(UsageError, match="OPENAI_API_KEY"):
            await mega.resume(branch.id)
        branch = await run.branch("teller:think#2", limits=Limits(calls=kept + 1))
        result = await (await mega.resume(branch.id)).result()
        assert (result.status, result.calls) == ("paused", kept + 1)
        assert "limit reached: calls" in result.reason

    in_home(tmp_path, said_script(), work)


def test_a_todo_that_a_person_adds_is_owed(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        branch = await run.branch("teller:think#2", todo=["sing"])
        result = await (await mega.resume(branch.id)).result()
        assert "the open point “sing”" in str(result.not_done) + str(result.report)

    in_home(tmp_path, said_script(), work)


WRONG: list[tuple[str, Any, str]] = [
    ("tellr:think#1", {}, "Near it: teller:think#1"),
    ("teller:think#99", {}, "no moment"),
    ("@yesterday", {}, "is no time"),
    ("now", {"instructions": "x"}, "only be changed at a step of an agent"),
    ("boss:think#1", {"instructions": "x"}, "the boss has no instructions"),
    ("teller:think#1", {"goal": "x"}, "Branch at a step of the boss"),
    ("teller:act#1", {"plan": PlanEdit(drop=["x"])}, "recruits nobody"),
    ("boss:act#1", {"plan": PlanEdit(drop=["x"])}, "the plan has no x"),
    ("boss:act#1", {"plan": PlanEdit(drop=["teller", "reader"])}, "cannot be empty"),
    ("boss:think#1", {"letters": {"boss/9/9/9": "x"}}, "no letter boss/9/9/9"),
    ("boss:act#2", {"letters": {"boss/2/0/0": "x"}}, "is not sent yet at boss:act#2"),
    ("teller:think#2", {"messages": {77: "x"}}, "no message 77"),
    ("teller:think#2", {"instructons": "x"}, "Did you mean `instructions`"),
    ("teller:think#2", {"files": {"/etc/passwd": "x"}}, "not a legal path"),
    ("teller:think#2", {"model": {"nobody": "x"}}, "no agent nobody"),
]


def test_what_cannot_be_is_one_clear_line_and_makes_nothing(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        for at, changes, complaint in WRONG:
            with pytest.raises(MegagraphError) as error:
                await run.branch(at, **changes)
            assert complaint in str(error.value)
            assert "\n" not in str(error.value)
        assert len(mega.runs()) == 1

    in_home(tmp_path, said_script(), work)


def test_moments_are_steps_checkpoints_and_times(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        steps = run.history()
        end = dict(run.files), reports(run)
        for step in steps[2:-1:26]:
            by_id = await run.branch(step.checkpoint)
            by_time = await run.branch(f"@{step.time:.6f}" if step.time < 1e6 else f"@{step.time - steps[0].time:.6f}")
            for branch in (by_id, by_time):
                kept = calls(mega, branch)
                await finished(mega, branch)
                assert kept.items() <= calls(mega, branch).items()
                assert (dict(branch.files), reports(branch)) == end
        whole = await run.branch("now")
        assert calls(mega, whole) == calls(mega, run)
        model.log.clear()
        await finished(mega, whole)
        assert model.log == []

    in_home(tmp_path, deep_script(), work)


def test_branches_of_branches_and_what_a_family_looks_like(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        end = dict(run.files), reports(run)
        child = await run.branch("north_a:think#3")
        before = fingerprint(mega, child)
        # Of one that has not been set to work yet.
        early = await child.branch("north_a:act#2")
        await finished(mega, early)
        assert (dict(early.files), reports(early)) == end
        assert fingerprint(mega, child) == before
        await finished(mega, child)
        assert (dict(child.files), reports(child)) == end
        for step in child.history()[20::28]:
            grandchild = await child.branch(step.address)
            great = await grandchild.branch(grandchild.history()[-5].address)
            for branch in (great, grandchild):
                await finished(mega, branch)
                assert (dict(branch.files), reports(branch)) == end, step.address
                assert branch.workspace.path == run.workspace.path, "what a family shares is there once"

    in_home(tmp_path, deep_script(), work)


def test_what_lies_between_a_run_and_its_branch_was_nobodys_work(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        for _ in range(2):
            await asyncio.sleep(1.2)
            branch = await run.branch("boss:think#2")
            kept = branch.outcome().seconds
            assert View.of(branch.events()).seconds() == pytest.approx(kept, abs=1e-5)
            assert collect(branch, branch.ledger).facts.worked == pytest.approx(1000 * kept, abs=2)
            assert 0 < kept <= run.outcome().seconds
            await finished(mega, branch)
            assert kept < View.of(branch.events()).seconds() <= branch.outcome().seconds
            run = branch

    in_home(tmp_path, said_script(), work)


def test_a_branch_can_be_looked_at_before_it_works(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        branch = await run.branch("north_a:act#5")
        assert branch.status == "paused"
        assert [s.address for s in branch.history("north_a") if s.kind == "think"][-1] == "north_a:think#5"
        state = await branch.graph().aget_state(branch.config, subgraphs=True)
        assert state.next == ("team",)
        teams = [task.state for task in state.tasks]
        names: set[str] = set()
        while teams:
            snapshot = teams.pop()
            if hasattr(snapshot, "tasks"):
                names |= {task.name for task in snapshot.tasks}
                teams += [task.state for task in snapshot.tasks]
        assert {"north", "north_a", "north_b"} <= names
        assert branch.files["north_a.txt"] == "by north_a\n"
        *kept, own = branch.events()
        assert {"thought", "recruited"} <= {event.kind for event in kept}
        assert {event.seq: event for event in run.events()}.items() > {event.seq: event for event in kept}.items()
        assert (own.kind, own.seq) == ("branched", kept[-1].seq + 1)
        assert own.seq > len(kept) + 1, "what is left out leaves gaps"

    in_home(tmp_path, deep_script(), work)


def asking() -> Script:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(*(hire(name) for name in ("one", "two", "three")))
        reports = yield from wait_for(heard, ["one", "two", "three"])
        yield finish("; ".join(f"{name}: {text}" for name, text in sorted(reports.items())))

    def worker(brief: Brief) -> Play:
        yield write_file(f"{brief.name}.txt", "asked\n")
        heard = yield call("ask_human", question=f"what about {brief.name}?")
        yield finish(heard.results[0])

    parts: Mapping[str, Part] = {"boss": boss, "one": worker, "two": worker, "three": worker}
    return Script(parts)


def test_a_run_with_open_questions_is_branched_with_them(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        assert run.status == "asking"
        assert len(run.questions()) == 3
        same = await run.branch("now")
        other = await run.branch("two:think#1")
        assert sorted(q["agent"] for q in same.questions()) == ["one", "three", "two"]
        assert sorted(q["agent"] for q in other.questions()) == ["one", "three"]
        model.log.clear()
        for branch in (same, other):
            opened = await mega.resume(branch.id)
            assert (await opened.result()).status == "asking"
            state = await opened.graph().aget_state(opened.config, subgraphs=True)
            assert sorted(i.value["agent"] for i in state.interrupts) == ["one", "three", "two"]
            for question in opened.questions():
                await opened.answer(question["id"], f"all for {question['agent']}")
            assert "two: The answer: all for two" in await finished(mega, opened)
        assert sorted({agent for agent, _ in model.log}) == ["boss", "one", "three", "two"]
        assert model.log.count(("two", 1)) == 1, "asked anew where its turn was left out"

    in_home(tmp_path, asking(), work)


@pytest.mark.parametrize("pauses", [11, 31])
def test_a_paused_run_is_branched_at_any_of_its_steps(tmp_path: Path, pauses: int) -> None:
    async def session() -> None:
        model = Recorded(deep_script())
        async with MegaGraph(model, home=tmp_path, limits=Limits(calls=pauses)) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).status == "paused"
        async with MegaGraph(model, home=tmp_path) as mega:
            run = mega.open("last")
            before = fingerprint(mega, run)
            steps = run.history()
            branches = [await run.branch(step.address, limits=Limits()) for step in steps[1 :: len(steps) // 3]]
            branches.append(await run.branch("now", limits=Limits()))
            ends = []
            for branch in branches:
                kept = calls(mega, branch)
                model.log.clear()
                await finished(mega, branch)
                assert not set(kept) & set(model.log)
                ends.append((dict(branch.files), reports(branch)))
            assert fingerprint(mega, run) == before
            final = await (await mega.resume(run.id, limits=Limits())).result()
            assert final.status == "done"
            assert all(end == (dict(run.files), reports(run)) for end in ends)

    asyncio.run(session())


def test_a_run_that_was_paused_in_the_middle_of_a_review_is_branched(tmp_path: Path) -> None:
    async def session() -> None:
        model = Recorded(checked_script())
        async with MegaGraph(model, home=tmp_path, unsafe_programs=True, limits=Limits(calls=4)) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).status == "paused"
            made = calls(mega, run)
            [review] = [agent for agent, _ in made if agent.startswith("coder.review.")]
            same = await run.branch("now", limits=Limits())
            assert calls(mega, same) == made
            other = await run.branch("coder:think#2", limits=Limits())
            assert calls(mega, other).keys() == made.keys() - {("coder", 2), (review, 1)}
            plan = (await run.plan_branch("coder:think#2")).dump()
            assert (plan["kept"]["calls"], plan["left_out"]["calls"]) == (2, 2)
            for branch, first in ((same, ("reviewer_of_coder", 2)), (other, ("coder", 2))):
                model.log.clear()
                assert await finished(mega, branch) == "Over."
                assert next(each for each in model.log if each[0] != "boss") == first
            steps = {step.address: step.tokens for step in same.history("coder")}
            assert steps["coder:act#2"] > 0, "what a review has used is told with the step that it was for"

    asyncio.run(session())


def test_a_failed_run_goes_on_from_before_its_failure(tmp_path: Path) -> None:
    broken = {"boss": True}

    def boss(brief: Brief) -> Play:
        yield write_file("a.txt", "a\n")
        if broken["boss"]:
            raise RuntimeError("no")
        yield finish("mended", ["a.txt"])

    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        assert run.status == "failed"
        broken["boss"] = False
        branch = await run.branch("boss:think#2")
        assert await finished(mega, branch) == "mended"

    in_home(tmp_path, Script({"boss": boss}), work)


def test_an_agent_that_failed_twice_is_branched_at_any_of_its_steps(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("worker"))
        while not any(kind == "report" for _, kind, _ in heard.letters):
            failed = any(kind == "failure" for _, kind, _ in heard.letters)
            heard = yield talk("worker", "try again") if failed else "I wait."
        yield finish("Over.", ["a.txt"])

    def worker(brief: Brief) -> Play:
        heard = yield write_file("a.txt", "a\n")
        if sum(text == "try again" for _, _, text in heard.letters) < 2:
            raise RuntimeError("no")
        yield finish("Done.", ["a.txt"])

    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        failures = [letter.id for letter in run.ledger.letters() if letter.kind == "failure"]
        assert failures == ["worker/2/failure", "worker/3/failure"]
        end = dict(run.files), reports(run)
        for step in run.history():
            branch = await run.branch(step.address)
            kept = [letter.id for letter in branch.ledger.letters() if letter.kind == "failure"]
            if step.agent == "worker":
                assert kept == [id_ for id_ in failures if int(id_.split("/")[1]) < step.number], step.address
            assert await finished(mega, branch) == "Over."
            assert [letter.id for letter in branch.ledger.letters() if letter.kind == "failure"] == failures
            assert (dict(branch.files), reports(branch)) == end, step.address

    in_home(tmp_path, Script({"boss": boss, "worker": worker}), work)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_whose_process_was_killed_is_branched(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    home = tmp_path / "home"
    with ModelServer(deep_script(), latency=("lognormal", 0.05, 0.5), seed=seed) as server:
        env = {**os.environ, "OPENAI_API_KEY": "test", "PYTHONPATH": str(Path.cwd())}
        child = subprocess.Popen(
            command("run", "Write the files.", home=home, url=server.url), stdout=subprocess.DEVNULL, env=env
        )
        wanted = chance.randint(8, 38)
        until(lambda: len(server.log) >= wanted)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()

    async def session() -> None:
        model = Recorded(deep_script())
        async with MegaGraph(model, home=home) as mega:
            run = mega.open("last")
            assert run.status == "interrupted"
            before = fingerprint(mega, run)
            steps = run.history()
            for at in ("now", *(step.address for step in chance.sample(steps, 2)), steps[-1].address):
                branch = await run.branch(at)
                kept = calls(mega, branch)
                model.log.clear()
                await finished(mega, branch)
                assert not set(kept) & set(model.log), at
                assert dict(branch.files) == EXPECTED, at
                assert at != "now" or kept == calls(mega, run)
                assert not mega.home.database.read(
                    "SELECT id FROM letters WHERE run = ? GROUP BY id HAVING count(*) > 1", (branch.id,)
                )
            assert fingerprint(mega, run) == before

    asyncio.run(session())


def test_a_run_at_work_is_not_branched(tmp_path: Path) -> None:
    async def session() -> None:
        script = Script(deep_script().parts, pace=0.05)
        async with MegaGraph(Recorded(script), home=tmp_path) as mega:
            run = await mega.start("Write the files.")
            with pytest.raises(RunBusy, match="megagraph pause"):
                await run.branch("now")
            await run.pause()
            await run.branch("now")

    asyncio.run(session())


def test_many_branches_work_under_common_limits_and_are_ranked(tmp_path: Path) -> None:
    async def session() -> None:
        folder = write_scenario(tmp_path / "scenario")
        async with MegaGraph(home=tmp_path / "home") as mega:
            from megagraph.scenario import load_scenario

            run = await mega.start(load_scenario(folder))
            assert (await run.result()).passed
            edits = [Edits(files={"hello.py": "raise SystemExit(1)\n"}), Edits(), Edits(files={"more.txt": "x"})]
            # The first one's file is wrong when the check runs; the others are as good as the run was.
            ranked = await mega.branch_many(run.id, "boss:think#2", edits)
            assert [each.result.passed for each in ranked] == [True, True, False]
            assert ranked[-1].edits is edits[0]
            kept = ranked[0].run.outcome().calls - 1
            few = await mega.branch_many(run.id, "boss:think#2", edits, limits=Limits(calls=kept + 2))
            assert sorted(each.result.status for each in few) == ["done", "done", "paused"]
            assert "limit reached: calls" in few[-1].result.reason

    asyncio.run(session())


def test_nothing_is_branched_to_work_where_no_model_can_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGAGRAPH_HOME", str(tmp_path))
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    megagraph = Program(tmp_path, capsys)

    async def made() -> str:
        async with MegaGraph("openai:x", home=tmp_path) as mega:
            run = await mega.start("Say it.")
            await run.abort()
            return run.id

    run = asyncio.run(made())
    monkeypatch.delenv("OPENAI_API_KEY")
    many = tmp_path / "many.yaml"
    many.write_text("- {}\n- limits: {calls: 2}\n")
    for how in (["--run"], ["--many", many]):
        outcome = megagraph("branch", run, "--at", "now", *how)
        assert outcome.code == 2
        assert "needs OPENAI_API_KEY" in outcome.err
        assert outcome.out == ""
    with MegaGraph(home=tmp_path) as mega:
        assert [each.id for each in mega.runs()] == [run]
    # What only some branch cannot have keeps all from being made.
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    for edits in (Edits(model={"boss": "openai:y?key=NO_SUCH_KEY"}), Edits(files={"../up": "x"})):
        with MegaGraph(home=tmp_path) as mega:
            with pytest.raises(UsageError):
                mega.sync.branch_many(run, "now", [Edits(), edits])
            assert [each.id for each in mega.runs()] == [run]


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        branch = await run.branch("teller:think#1", instructions="sing", files={"more.txt": "x\n"})
        await finished(mega, branch)
        comparison = run.compare(branch)
        assert {agent.name: agent.what for agent in comparison.agents}["teller"][:2] == ("spec", "report")
        assert "reader" not in {agent.name for agent in comparison.agents}
        assert comparison.files == (("more.txt", "added"),)
        assert comparison.kept_calls[0] == 0 < comparison.kept_calls[1]
        assert json.dumps(comparison.dump())

    in_home(tmp_path, said_script(), work)


KILLED = """
import asyncio, sys
from megagraph import MegaGraph
async def main():
    async with MegaGraph(home=sys.argv[1]) as mega:
        run = mega.open(sys.argv[2])
        print("ready", flush=True)
        while True:
            await run.branch("north_a:think#5", instructions="again")
asyncio.run(main())
"""


def branch_until_killed(home: Path, run: str, seconds: float) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(home), run], stdout=subprocess.PIPE, env=env)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def test_a_branch_that_is_killed_while_it_is_made_is_not_there(tmp_path: Path) -> None:
    async def work(mega: MegaGraph, run: Run, model: Recorded) -> None:
        end = dict(run.files), reports(run)
        whole = await run.branch("north_a:think#5", instructions="again")
        tables = ("agents", "calls", "tool_calls", "letters", "events")

        def sizes(id_: str) -> list[int]:
            rows = [mega.home.database.read(f"SELECT count(*) FROM {t} WHERE run = ?", (id_,))[0][0] for t in tables]
            saver = mega.home.saver
            return [*rows, len(list(saver.checkpoints_of(id_))), len(list(saver.writes_of(id_, ())))]

        chance = random.Random(7)
        for _ in range(int(os.environ.get("MEGAGRAPH_KILLED_RUNS", "2"))):
            await asyncio.to_thread(branch_until_killed, tmp_path, run.id, chance.uniform(0.02, 0.25))
        branches = [other for other in mega.runs() if other.parent == run.id]
        assert all(sizes(branch.id) == sizes(whole.id) for branch in branches), "a branch is there whole or not at all"
        known = {row[0] for row in mega.home.database.read("SELECT DISTINCT thread_id FROM namespaces")}
        assert known == {other.id for other in mega.runs()}
        await finished(mega, branches[0])
        assert (dict(branches[0].files), set(reports(branches[0]))) == (end[0], set(end[1]))

    in_home(tmp_path, deep_script(), work)


def test_the_command_line_says_what_is_kept_and_makes_the_branch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGAGRAPH_HOME", str(tmp_path / "home"))
    megagraph = Program(tmp_path / "home", capsys)
    folder = write_scenario(tmp_path / "scenario")
    assert megagraph("run", folder, "--model", "rehearsal").code == 0
    told = megagraph("history", "last")
    assert "boss:think#1" in told.out
    assert "finish (reported)" not in megagraph("history", "last", "nobody").out
    steps = json.loads(megagraph("history", "last", "--json").out)
    assert [step["address"] for step in steps][:2] == ["boss:think#1", "boss:act#1"]
    assert set(steps[0]) == documented("Step")
    dry = megagraph("branch", "last", "--at", "boss:think#2", "--dry-run")
    assert dry.code == 0
    assert "kept:     1 agents, 1 calls" in dry.out
    assert "again:    boss:think#2" in dry.out
    new = tmp_path / "new.py"
    new.write_text("print('new')\n")
    made = megagraph("branch", "last", "--at", "boss:think#2", "--set", f"file:hello.py=@{new}", "--json")
    about = json.loads(made.out)
    assert set(about) == documented("Branch")
    assert megagraph("resume", about["branch"]).code == 0
    assert "print('new')" in megagraph("diff", about["branch"], about["run"]).out
    compared = megagraph("compare", about["run"], about["branch"])
    assert "changed: hello.py" in compared.out
    plain = json.loads(megagraph("compare", about["run"], about["branch"], "--json").out)
    assert set(plain) == documented("Comparison")
    assert plain["kept_calls"] == [0, 1]
    tree = megagraph("runs", "--tree").out.splitlines()
    assert tree[0].startswith(about["run"][:8])
    assert about["branch"][:8] in tree[1]
    assert "at boss:think#2" in tree[1]
    again = megagraph("branch", about["run"], "--at", "boss:think#2", "--run")
    assert again.code == 0
    many = tmp_path / "many.yaml"
    many.write_text("- files: {hello.py: 'raise SystemExit(1)'}\n- {}\n")
    ranked = json.loads(megagraph("branch", about["run"], "--at", "boss:think#2", "--many", many, "--json").out)
    assert [each["passed"] for each in ranked] == [True, False]
    assert all(set(each) == documented("Ranked branch") for each in ranked)
    for wrong in (("--set", "nonsense"), ("--set", "colour=red"), ("--at", "boss:thonk#1")):
        failed = megagraph("branch", "last", "--at", "boss:think#1", *wrong)
        assert failed.code == 2
        assert failed.err.startswith("megagraph: ")
        assert failed.err.count("\n") == 1


def test_forks_of_langgraphs_own_corrupt_nothing(tmp_path: Path) -> None:
    async def session() -> None:
        model = Recorded(deep_script())
        async with MegaGraph(model, home=tmp_path, limits=Limits(calls=30)) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).status == "paused"
            made, files, steps = calls(mega, run), dict(run.files), [step.address for step in run.history()]
            graph = run.graph()
            root = [state async for state in graph.aget_state_history(run.config)]
            member = next(step for step in run.history("north_a"))
            rows = mega.home.saver.checkpoints_of(run.id)
            namespace = next(row.namespace for row in rows if row.checkpoint == member.checkpoint)
            nested = {"configurable": {"thread_id": run.id, "checkpoint_ns": namespace}}
            inside = [state async for state in graph.aget_state_history(nested)]
            model.log.clear()
            for past, node in ((root[-2].config, "wait"), (inside[-3].config, "act")):
                fork = await graph.aupdate_state(past, Command(update={"told": True}, goto="think"), as_node=node)
                with pytest.raises(UsageError, match="works in its run only"):
                    await graph.ainvoke(None, fork)
                with pytest.raises(UsageError, match="works in its run only"):
                    await graph.ainvoke(None, run.config)
            assert model.log == []
            assert (calls(mega, run), dict(run.files), run.status) == (made, files, "paused")
            assert set(steps) <= {step.address for step in run.history()}
            with pytest.raises(UsageError, match="forked in place"):
                await mega.resume(run.id, limits=Limits())
            branch = await run.branch("now", limits=Limits())
            await finished(mega, branch)
            assert not set(made) & set(model.log)
            assert dict(branch.files) == EXPECTED, dict(branch.files)

    asyncio.run(session())
