"""The checks on what a run has made in the end. Their verdicts decide what the run is worth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from megagraph.acceptance import bench_of
from megagraph.inspection import carry_out
from megagraph.organisation import Organisation
from megagraph.record import RECORD, write_record
from megagraph.scenario import Scenario
from megagraph.specs import BOSS, Evidence, Verdict


async def judge(org: Organisation, scenario: Scenario) -> AsyncIterator[Verdict]:
    """The verdicts on the latest version of the files, each as soon as it is there, and durable."""
    version = org.version

    def record(folder: Path) -> None:
        write_record(folder / RECORD, scenario, org.ledger, org.workspace)

    for number, check in enumerate(scenario.checks):
        id_ = f"{BOSS}/end/{number}"
        bench = replace(bench_of(org, version, id_, BOSS), folder=scenario.folder, record=record, most_seconds=None)
        for place, verdict in enumerate(await carry_out(check, bench)):
            evidence = Evidence(f"{id_}/{place}", BOSS, verdict.check, verdict.passed, verdict.detail, version)
            await org.ledger.database.write(org.ledger.found(evidence))
            yield verdict
