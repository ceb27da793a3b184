"""The checks on what a run has made in the end. Their verdicts decide what the run is worth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from megagraph.acceptance import bench_of
from megagraph.checks import Check
from megagraph.errors import CostNotApproved
from megagraph.inspection import Bench, carry_out
from megagraph.organisation import Organisation
from megagraph.questions import approve_cost
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
        bench = bench_of(org, version, id_, BOSS, may_ask=False)
        bench = replace(bench, folder=scenario.folder, record=record, most_seconds=None)
        for place, verdict in enumerate(await _carried_out(org, check, bench)):
            evidence = Evidence(f"{id_}/{place}", BOSS, verdict.check, verdict.passed, verdict.detail, version)
            await org.ledger.database.write(org.ledger.found(evidence))
            yield verdict


async def _carried_out(org: Organisation, check: Check, bench: Bench) -> Sequence[Verdict]:
    """The verdicts of a check. Parks where it costs more than a person has approved until now."""
    while True:
        try:
            return await carry_out(check, bench)
        except CostNotApproved as needs:
            if not await approve_cost(org, BOSS, needs.spent):
                raise org.park() from needs
