"""Two runs side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from megagraph.specs import AgentSpec, Report

if TYPE_CHECKING:
    from megagraph.run import Result, Run


@dataclass(frozen=True)
class AgentDiff:
    """How one agent differs."""

    name: str
    what: tuple[str, ...]
    """`only in the first`, `only in the second`, or which of its parts differ: spec, report, calls."""
    calls: tuple[int, int]

    def dump(self) -> dict[str, Any]:
        return {"name": self.name, "what": list(self.what), "calls": list(self.calls)}


@dataclass(frozen=True)
class Comparison:
    """How two runs differ. Pairs are the first run's and the second's."""

    runs: tuple[Result, Result]
    kept_calls: tuple[int, int]
    """Calls that a branch has from its parent, and did not make itself."""
    agents: tuple[AgentDiff, ...]
    """Those that differ."""
    same_agents: int
    files: tuple[tuple[str, str], ...]
    """(path, `added`, `changed` or `deleted`) on the way from the first run's files to the second's."""
    verdicts: tuple[tuple[str, bool | None, bool | None], ...]
    """(check, passed in the first, passed in the second); None where it was not judged."""

    def dump(self) -> dict[str, Any]:
        """As docs/cli.md describes it."""
        one, other = self.runs
        return {
            "runs": [one.run, other.run],
            "status": [one.status, other.status],
            "passed": [one.passed, other.passed],
            "calls": [one.calls, other.calls],
            "kept_calls": list(self.kept_calls),
            "tokens": [r.input_tokens + r.output_tokens for r in self.runs],
            "cost_usd": [one.cost_usd, other.cost_usd],
            "seconds": [round(one.seconds, 3), round(other.seconds, 3)],
            "agents": [agent.dump() for agent in self.agents],
            "same_agents": self.same_agents,
            "files": [{"path": path, "status": status} for path, status in self.files],
            "verdicts": [{"check": check, "passed": [was, now]} for check, was, now in self.verdicts],
        }

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from megagraph.notebook.tables import comparison

        printer.text(comparison(self).text())

    def _repr_html_(self) -> str:
        from megagraph.notebook.tables import comparison

        return comparison(self)._repr_html_()


def compare(one: Run, other: Run) -> Comparison:
    """Compare two runs of homes. Blocks."""
    first, second = _agents(one), _agents(other)
    names = list(dict.fromkeys([*first, *second]))
    diffs = [diff for name in names if (diff := _differs(name, first.get(name), second.get(name)))]
    results = one.outcome(), other.outcome()
    was, now = ({verdict.check: verdict.passed for verdict in result.verdicts} for result in results)
    return Comparison(
        runs=results,
        kept_calls=(_kept(one), _kept(other)),
        agents=tuple(diffs),
        same_agents=len(names) - len(diffs),
        files=tuple((diff.path, diff.status) for diff in other.diff(one)),
        verdicts=tuple((check, was.get(check), now.get(check)) for check in dict.fromkeys([*was, *now])),
    )


def _agents(run: Run) -> dict[str, tuple[AgentSpec, Report | None, int]]:
    used = run.ledger.used_by()
    return {
        spec.name: (spec, report, used[spec.name].calls if spec.name in used else 0)
        for spec, report, _ in run.ledger.agents()
    }


def _differs(
    name: str, one: tuple[AgentSpec, Report | None, int] | None, other: tuple[AgentSpec, Report | None, int] | None
) -> AgentDiff | None:
    if one is None or other is None:
        calls = (one[2] if one else 0, other[2] if other else 0)
        return AgentDiff(name, ("only in the first" if one else "only in the second",), calls)
    parts = ("spec", "report", "calls")
    what = tuple(part for part, was, now in zip(parts, _plain(*one), _plain(*other), strict=True) if was != now)
    return AgentDiff(name, what, (one[2], other[2])) if what else None


def _plain(spec: AgentSpec, report: Report | None, calls: int) -> tuple[AgentSpec, Report | None, int]:
    """Without the version that a report is of: each run has ids of its own for the same files."""
    return spec, report and replace(report, version=""), calls


def _kept(run: Run) -> int:
    branch = run.row["branch"]
    return int(json.loads(branch)["kept"]["calls"]) if branch else 0
