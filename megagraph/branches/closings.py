"""Which move of which agent ended somebody's work."""

from __future__ import annotations

from megagraph.branches.evidence import Evidence
from megagraph.specs import BOSS

_SLACK = 0.02
"""Seconds by which two clocks of one process may differ: one is read at a tool's start, the other measures it."""


def closers(evidence: Evidence) -> dict[str, tuple[str, int]]:
    """For each agent whose work is over, the agent and the move that ended it."""
    return {
        name: _closer(evidence, name, member.closed)
        for name, member in evidence.members.items()
        if member.closed is not None
    }


def _closer(evidence: Evidence, name: str, closed: float) -> tuple[str, int]:
    child, lead = name, evidence.members[name].spec.lead
    while lead:
        if (place := _closing_move(evidence, lead, child, closed)) is not None:
            return lead, place
        child, lead = lead, evidence.members[lead].spec.lead
    # It was there when the whole organisation came to its end.
    return BOSS, max(0, len(evidence.moves.of(BOSS)) - 1)


def _closing_move(evidence: Evidence, lead: str, child: str, closed: float) -> int | None:
    for i, move in enumerate(evidence.moves.of(lead)):
        if move.node not in ("think", "act", "wait") or not move.begun - _SLACK <= closed <= move.ended + _SLACK:
            continue
        if move.report is not None and (move.report["failed"] or move.node == "wait"):
            return i
        if move.node == "act" and (not move.done or _closes(evidence, lead, move.step, child, closed)):
            return i
    return None


def _closes(evidence: Evidence, lead: str, step: int, child: str, closed: float) -> bool:
    return any(
        did.started - _SLACK <= closed <= did.ended + _SLACK
        and (
            (did.tool == "finish" and "report" in did.effects)
            or (did.tool == "dismiss" and did.ok and child in did.args.get("agents", ()))
        )
        for did in evidence.tools_of.get((lead, step), ())
    )
