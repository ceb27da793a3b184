"""The checks that decide what a run is worth: programs that judge the delivered files from outside."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from megagraph.errors import ToolError
from megagraph.files.workspace import Workspace
from megagraph.ledger import Ledger
from megagraph.programs.process import Outcome, program_argv, run_program
from megagraph.programs.sandbox import Sandbox
from megagraph.record import RECORD, write_record
from megagraph.scenario import CheckSpec, Scenario
from megagraph.specs import Verdict

_JUDGE = "_judge"


async def run_checks(
    scenario: Scenario, workspace: Workspace, sandbox: Sandbox | None, scratch: Path, ledger: Ledger
) -> AsyncIterator[Verdict]:
    """The verdicts on the latest version of the files, each as soon as it is there."""
    for number, check in enumerate(scenario.checks):
        name = check.name or (Path(check.judge).stem if check.judge else " ".join(check.run))
        if sandbox is None:
            yield Verdict(name, False, "not judged: there is no sandbox to run programs in")
            continue
        tree = scratch / f"check_{number}"
        await asyncio.to_thread(workspace.materialise, tree)
        if check.judge:
            (tree / _JUDGE).mkdir()
            await asyncio.to_thread(write_record, tree / _JUDGE / RECORD, scenario, ledger, workspace)
        try:
            outcome = await _run(check, scenario, sandbox, tree)
        except ToolError as error:
            yield Verdict(name, False, str(error))
            continue
        for verdict in _verdicts(check, name, outcome):
            yield verdict


async def _run(check: CheckSpec, scenario: Scenario, sandbox: Sandbox, tree: Path) -> Outcome:
    limits = scenario.programs.model_copy(
        update={
            "wall_seconds": check.seconds,
            "cpu_seconds": int(check.seconds * 4),
            "output_kb": max(256, scenario.programs.output_kb),
        }
    )
    path, args = (check.run or ("", ""))[0], list(check.run[1:])
    if check.judge and scenario.folder is not None:
        await asyncio.to_thread(shutil.copy, scenario.folder / check.judge, tree / _JUDGE / "check.py")
        path, args = f"{_JUDGE}/check.py", ["."]
    return await run_program(sandbox, program_argv(path, args, tree, limits), tree, limits=limits)


def _verdicts(check: CheckSpec, name: str, outcome: Outcome) -> list[Verdict]:
    if check.run:
        return [Verdict(name, outcome.exit_code == 0, outcome.text()[-2000:])]
    verdicts = [verdict for line in outcome.stdout.splitlines() if (verdict := _parse(line)) is not None]
    # A judge that was stopped, crashed, or found nothing to say, has not passed what it did not get to.
    failed = any(not verdict.passed for verdict in verdicts)
    finished = outcome.ended == "exited" and outcome.exit_code in (0, 1 if failed else 0)
    if not finished or not verdicts:
        verdicts.append(Verdict(name, False, "the judge did not finish: " + outcome.text()[-2000:]))
    return verdicts


def _parse(line: str) -> Verdict | None:
    try:
        data = json.loads(line)
        return Verdict(str(data["check"]), data["passed"] is True, str(data.get("detail", "")))
    except (ValueError, KeyError, TypeError):
        return None
