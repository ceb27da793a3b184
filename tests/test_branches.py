"""Branches: what did not depend on the moment is kept, the rest runs again to the same end, and nothing else changes.

`make chaos` branches at every step of every agent; the suite takes a sample of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage

from megagraph import MegaGraph, ReviewCheck, Run
from megagraph.branches.history import Step
from megagraph.journal import effects_of
from megagraph.rehearsal import RehearsalModel, Script, read_brief
from tests.scripts import checked_script, deep_script, generations_script, letters_script

SAMPLE = int(os.environ.get("MEGAGRAPH_BRANCH_POINTS", "4"))
"""Branch points of each organisation; 0 for all there are."""

SCRIPTS: dict[str, Callable[[], Script]] = {
    "deep": deep_script,
    "letters": letters_script,
    "checked": checked_script,
    "generations": partial(generations_script, 4),
    "overlapping": partial(generations_script, 4, overlap=2),
}
CHECKS = {"checked": [ReviewCheck(review="The engine runs.", files=("engine.py",))]}


REVIEWER = "reviewer_of_"


class Recorded(RehearsalModel):
    """A scripted model that notes who asked it, and for which turn."""

    log: Any

    def __init__(self, script: Script) -> None:
        super().__init__(script=script, log=[])

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        turn = 1 + sum(isinstance(message, AIMessage) for message in messages)
        self.log.append((read_brief(messages).name, turn))
        return super()._generate(messages, *args, **kwargs)


def fingerprint(mega: MegaGraph, run: Run) -> str:
    """All rows of a run, and where its files stand."""
    digest = hashlib.sha256()
    for table in ("runs", "agents", "calls", "tool_calls", "letters", "questions", "events", "evidence"):
        order = "seq" if table == "events" else "rowid"
        for row in mega.home.database.read(f"SELECT * FROM {table} WHERE run = ? ORDER BY {order}", (run.id,)):
            digest.update(repr(tuple(row)).encode())
    for table in ("checkpoints", "writes"):
        rows = mega.home.database.read(
            f"SELECT n.*, t.* FROM namespaces n JOIN {table} t ON t.namespace = n.id WHERE n.thread_id = ?", (run.id,)
        )
        for row in rows:
            digest.update(repr(tuple(row)).encode())
    digest.update(run.workspace.head.encode())
    return digest.hexdigest()


def reports(run: Run) -> dict[str, Any]:
    """How everybody stood; in place of a version, which is each run's own, what it was of."""
    found = {}
    for spec, report, closed in run.ledger.agents():
        about = [*spec.deliverables, *(report.artefacts if report else ())]
        seen = {path: run.workspace.read(path, report.version).text for path in about if report and report.version}
        found[spec.name] = (report and report.dump() | {"version": seen}, closed)
    return found


def findings(run: Run, *, again: bool) -> set[tuple[str, str, str, bool]]:
    """(what for, whose work, check, whether it passed) of all evidence; what was examined again, or the rest."""
    rows = [(item, item.id.split("/")) for item in run.outcome().evidence]
    return {
        (parts[0] if again else item.id, item.agent, item.check, item.passed)
        for item, parts in rows
        if (parts[2] == "again") == again
    }


def calls(mega: MegaGraph, run: Run) -> dict[tuple[str, int], str]:
    rows = mega.home.database.read("SELECT agent, step, answer, heard FROM calls WHERE run = ?", (run.id,))
    return {(row["agent"], row["step"]): row["answer"] + row["heard"] for row in rows}


def sample(steps: Sequence[Step]) -> list[Step]:
    return list(steps) if not SAMPLE else [*steps[3 :: max(1, len(steps) // SAMPLE)]]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_branch_without_a_change_comes_to_the_same_end(tmp_path: Path, name: str) -> None:
    async def work() -> None:
        model = Recorded(SCRIPTS[name]())
        async with MegaGraph(model, home=tmp_path, unsafe_programs=True, checks=CHECKS.get(name, ())) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            files, ends, made = dict(run.files), reports(run), calls(mega, run)
            found, found_again = findings(run, again=False), findings(run, again=True)
            before = fingerprint(mega, run)
            steps = run.history()
            assert len(steps) > 40
            for step in sample(steps):
                plan = await run.plan_branch(step.address)
                branch = await run.branch(step.address)
                kept = calls(mega, branch)
                assert kept.items() <= made.items()
                assert (step.agent, step.number) not in kept or step.kind == "act"
                assert len(kept) == plan.dump()["kept"]["calls"]
                model.log.clear()
                again = await mega.resume(branch.id)
                result = await again.result()
                assert (result.status, result.passed) == ("done", True), (step.address, result)
                assert dict(again.files) == files, step.address
                assert reports(again) == ends, step.address
                assert {what[1:] for what in findings(again, again=False)} == {what[1:] for what in found}, step.address
                assert findings(again, again=True) <= found_again, step.address
                reviewed = [agent.removeprefix(REVIEWER) for agent, _ in model.log if agent.startswith(REVIEWER)]
                asked = [(agent, turn) for agent, turn in model.log if not agent.startswith(REVIEWER)]
                assert not set(asked) & set(kept), f"{step.address}: a call before the cut was made again"
                assert len(asked) == len(set(asked)) == result.calls - len(kept) - len(reviewed)
                assert {agent for agent, _ in asked} <= {*plan.again, *plan.removed}
                assert fingerprint(mega, run) == before, step.address

    asyncio.run(work())


def affected(mega: MegaGraph, run: Run, agent: str, step: int) -> set[tuple[str, int]]:
    """The model calls that depend on a turn of an agent, found by walking the recorded rows from it.

    A turn is a node: its call and what that call asked for. There is an edge where one could know of the other.
    """
    read = mega.home.database.read
    # Without those of reviewers, which are a part of what they were made for.
    rows = read("SELECT * FROM calls WHERE run = ? AND agent NOT LIKE '%.%'", (run.id,))
    made = {(row["agent"], row["step"]): row for row in rows}
    specs = {r["name"]: (json.loads(r["spec"]), r) for r in read("SELECT * FROM agents WHERE run = ?", (run.id,))}
    letters = read("SELECT * FROM letters WHERE run = ? AND kind != 'notice'", (run.id,))
    tools = read("SELECT * FROM tool_calls WHERE run = ? AND agent NOT LIKE '%.%' ORDER BY started", (run.id,))
    edges: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
    for name, number in made:
        edges[name, number].add((name, number + 1))
    reader = {id_: key for key, row in made.items() for id_ in json.loads(row["letters"])}
    for letter in letters:
        sender, number = letter["id"].split("/")[:2]
        if letter["id"] in reader:
            edges[sender, int(number)].add(reader[letter["id"]])
    for name, (spec, row) in specs.items():
        if row["effect"] != "start":
            lead, number = row["effect"].split("/")[:2]
            edges[lead, int(number)].add((name, 1))
            for mate, (other, _) in specs.items():
                # Whoever begins is told of its mates.
                if other["lead"] == spec["lead"] and row["recruited"] < made[mate, 1]["started"]:
                    edges[lead, int(number)].add((mate, 1))
        for dependency in spec["depends_on"]:
            known = [x for x in letters if x["sender"] == dependency and x["kind"] == "report"]
            last = [x for x in known if x["sent"] < made[name, 1]["started"]][-1]
            edges[dependency, int(last["id"].split("/")[1])].add((name, 1))
    order = [change.effect for change in run.workspace.changes()]
    commits = [change.commit for change in run.workspace.changes()]
    paths = [change.paths for change in run.workspace.changes()]
    for tool in tools:
        effects, args = effects_of(tool["effects"]), json.loads(tool["args"])
        if tool["tool"] == "read_file":
            (path, version), *_ = effects["versions"].items()
            seen = [i for i in range(commits.index(version) + 1) if path in paths[i]]
        elif tool["tool"] in ("list_files", "run_program"):
            seen = list(range(commits.index(effects["saw"]) + 1 if effects["saw"] in commits else 0))
        elif tool["tool"] == "finish":
            owed = [*args.get("artefacts", []), *specs[tool["agent"]][0]["deliverables"]]
            done = {f"{t['agent']}/{t['step']}/{t['idx']}" for t in tools if t["started"] < tool["started"]}
            seen = [i for i, effect in enumerate(order) if effect in done and set(owed) & set(paths[i])]
            below = {n for n, (s, _) in specs.items() if tool["agent"] in chain(specs, n)}
            for other, number in made:
                if other in below and made[other, number]["started"] < tool["started"]:
                    edges[other, number].add((tool["agent"], tool["step"]))
        else:
            continue
        for i in seen:
            writer, number = order[i].split("/")[:2]
            edges[writer, int(number)].add((tool["agent"], tool["step"]))
    found, todo = set(), [(agent, step)]
    while todo:
        here = todo.pop()
        if here not in found:
            found.add(here)
            todo += edges[here]
    return found & made.keys()


def chain(specs: dict[str, Any], name: str) -> list[str]:
    lead: str = specs[name][0]["lead"]
    return [lead, *chain(specs, lead)] if lead else []


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_what_depends_on_the_moment_is_left_out(tmp_path: Path, name: str) -> None:
    async def work() -> None:
        async with MegaGraph(Recorded(SCRIPTS[name]()), home=tmp_path, unsafe_programs=True) as mega:
            run = await mega.start("Write the files.")
            await run.result()
            for step in [step for step in run.history() if step.kind == "think"]:
                plan = await run.plan_branch(step.address)
                gone = {(c.agent, c.step) for c in plan.evidence.calls if not plan.keeps_call(c)}
                expected = affected(mega, run, step.agent, step.number)
                # A tool may see what a turn's own call did not know of: then its act is made again, its call kept.
                acts = {(did.agent, did.step) for did in plan.evidence.tools if not plan.keeps_tool(did)}
                # Checks may look at anything, and it is not recorded at what: more is left out for them.
                assert name in CHECKS or gone <= expected, (step.address, sorted(gone - expected))
                assert expected <= gone | acts, (step.address, sorted(expected - gone - acts))

    asyncio.run(work())
