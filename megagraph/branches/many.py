"""Many branches of one moment at once: a search among organisations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megagraph.branches.edits import Edits
from megagraph.errors import UsageError
from megagraph.limits import NOTHING, Limits, Pool

if TYPE_CHECKING:
    from megagraph.mega import MegaGraph
    from megagraph.run import Result, Run


@dataclass(frozen=True)
class Ranked:
    """One of the branches, with how it stands."""

    run: Run
    edits: Edits
    result: Result

    @property
    def passed(self) -> int:
        """Checks that it passed."""
        return sum(verdict.passed for verdict in self.result.verdicts)

    def dump(self) -> dict[str, Any]:
        """As docs/cli.md describes it."""
        return {
            "run": self.run.id,
            "edits": self.edits.dump(),
            "status": self.result.status,
            "reason": self.result.reason,
            "passed": self.result.passed,
            "checks_passed": self.passed,
            "checks": len(self.result.verdicts),
            "calls": self.result.calls,
            "cost_usd": self.result.cost_usd,
            "seconds": round(self.result.seconds, 3),
        }


async def branch_many(
    mega: MegaGraph, run: Run, at: str, edits: Sequence[Edits], limits: Limits | None = None
) -> list[Ranked]:
    """Make a branch for each of `edits`, let all work at once under common limits, and rank them."""
    if not edits:
        raise UsageError("there is nothing to branch.", "Give at least one set of changes.")
    # One that cannot be must not leave those before it behind.
    for each in edits:
        await mega.check_branch(run, await run.plan_branch(at, each))
    branches = [await run.branch(at, each) for each in edits]
    kept = sum(branches[0].ledger.used_by().values(), start=NOTHING)
    pool = Pool(limits or Limits.parse(json.loads(run.row["settings"])["limits"]), kept)
    at_work = await asyncio.gather(*(mega.resume(branch.id, pool=pool) for branch in branches))
    try:
        results = await asyncio.gather(*(branch.result() for branch in at_work))
    except asyncio.CancelledError:
        for branch in at_work:
            branch.stop("stopped with the others")
        await asyncio.gather(*(branch.result() for branch in at_work), return_exceptions=True)
        raise
    return sorted(map(Ranked, at_work, edits, results), key=_rank)


def _rank(ranked: Ranked) -> tuple[bool, int, bool, float, int]:
    """The best first: done and whole, by the checks it passed, then by what it cost."""
    result = ranked.result
    accepted = result.report is not None and result.report.accepted
    cost = result.cost_usd if result.cost_usd is not None else 0.0
    return (result.status != "done", -ranked.passed, not accepted, cost, result.calls)
