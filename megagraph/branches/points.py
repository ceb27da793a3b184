"""Where a branch begins: a step of an agent, a checkpoint, a moment, or how the run stands now."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

from megagraph.branches.evidence import Evidence
from megagraph.errors import UsageError

_STEP = re.compile(r"([a-z][a-z0-9_]*):(think|act)#(\d+)")
_CHECKPOINT = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}")

FORMS = (
    "A moment is an agent's step (boss:think#2), a checkpoint's id, @2026-01-31T12:00:00, @SECONDS since the start,"
    " or now. `megagraph history RUN` lists the steps."
)


@dataclass(frozen=True)
class Point:
    """A moment of a run. `agent` and `place` are a move of an agent; else `time` counts for everybody."""

    address: str
    agent: str = ""
    place: int = 0
    time: float = math.inf
    exactly: bool = False
    """The very move was meant, and not the wait before it."""


def find_point(evidence: Evidence, at: str) -> Point:
    """The moment that `at` means. Raises `UsageError` naming what is near."""
    at = at.strip()
    if at == "now":
        return Point(at)
    if at.startswith("@"):
        return Point(at, time=_time(at, min((move.begun for move in evidence.moves), default=0.0)))
    if step := _STEP.fullmatch(at):
        agent, node, number = step[1], step[2], int(step[3])
        for place, move in enumerate(evidence.moves.of(agent)):
            if (move.node, move.step) == (node, number):
                return Point(at, agent, place, move.begun)
    elif _CHECKPOINT.fullmatch(at):
        found = [
            Point(move.address, agent, place, move.begun, exactly=True)
            for agent, moves in evidence.moves.by_agent.items()
            for place, move in enumerate(moves)
            if move.checkpoint.startswith(at)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{len(found)} checkpoints begin with `{at}`.", "Give more of the id.")
    known = [move.address for move in evidence.moves if move.node in ("think", "act")]
    near = get_close_matches(at, known, n=3, cutoff=0.5)
    hint = f"Near it: {', '.join(near)}. " if near else ""
    raise UsageError(f"this run has no moment `{at[:80]}`.", hint + FORMS)


def _time(at: str, begun: float) -> float:
    text = at[1:]
    try:
        return begun + float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(f"`{at[:80]}` is no time.", FORMS) from None
