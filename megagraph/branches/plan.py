"""What a branch will be, before it is made: what is kept, what is left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megagraph.branches.causes import Causes, Outside
from megagraph.branches.edits import Edits
from megagraph.branches.evidence import Called, Did, Evidence, gather
from megagraph.branches.points import FORMS, Point, find_point
from megagraph.errors import ToolError, UsageError
from megagraph.files.paths import legal_path
from megagraph.files.rebuilding import Unmergeable
from megagraph.home import Home
from megagraph.reviewer import occasion_of
from megagraph.specs import BOSS


@dataclass(frozen=True)
class BranchPlan:
    """A branch that can be made."""

    run: str
    point: Point
    edits: Edits
    evidence: Evidence = field(repr=False)
    causes: Causes = field(repr=False)
    version: str
    """The files that it begins with."""
    goal: str
    """The goal of the run that it is cut from."""

    @property
    def at(self) -> str:
        return self.point.address

    @property
    def again(self) -> dict[str, str]:
        """The first step that each affected agent makes again; empty for one that only waits again."""
        found = {}
        for agent, place in sorted(self.causes.cut.at.items()):
            moves = self.evidence.moves.of(agent)[place:]
            found[agent] = next((move.address for move in moves if move.node in ("think", "act")), "")
        return found

    @property
    def removed(self) -> list[str]:
        """The agents that are not recruited yet."""
        return sorted(self.causes.cut.removed)

    @property
    def why(self) -> Mapping[str, str]:
        """Why an agent is affected."""
        return self.causes.cut.why

    def keeps_call(self, call: Called) -> bool:
        """Whether a call of an agent, or of a reviewer, is kept."""
        if call.agent not in self.evidence.members:
            return self.causes.judged(occasion_of(call.agent), call.started)
        return self.causes.keeps(call.agent, self.evidence.moves.index(call.agent, "think", call.step))

    def keeps_tool(self, did: Did) -> bool:
        """Whether a tool call of an agent, or of a reviewer, is kept."""
        if did.agent not in self.evidence.members:
            return self.causes.judged(occasion_of(did.agent), did.started)
        return self.causes.keeps(did.agent, self.evidence.moves.index(did.agent, "act", did.step))

    def dump(self) -> dict[str, Any]:
        """What is kept and what runs again, as docs/cli.md describes it."""
        calls = (*self.evidence.calls, *self.evidence.review_calls)
        kept = [call for call in calls if self.keeps_call(call)]
        gone = [call for call in calls if not self.keeps_call(call)]
        left_out = self.causes.left_out_commits()
        return {
            "run": self.run,
            "at": self.at,
            "kept": {"agents": len(self.evidence.members) - len(self.removed), **_sums(kept)},
            "left_out": {"agents": len(self.removed), **_sums(gone), "changes_of_files": len(left_out)},
            "again": self.again,
            "removed": self.removed,
            "why": {name: self.why[name] for name in (*self.again, *self.removed) if self.why.get(name)},
            "edits": self.edits.dump(),
        }


def _sums(calls: list[Called]) -> dict[str, Any]:
    costs = [call.cost for call in calls]
    return {
        "calls": len(calls),
        "tokens": sum(call.input_tokens + call.output_tokens for call in calls),
        "cost_usd": None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs),
    }


def plan_branch(home: Home, run: str, at: str, edits: Edits) -> BranchPlan:
    """Find out what a branch would keep. Blocks; nothing is changed.

    Raises `UsageError` where the moment or an edit cannot be.
    """
    evidence = gather(home, run)
    row = home.find(run)
    point = find_point(evidence, at)
    _check(evidence, point, edits)
    paths = _files(edits)
    causes = Causes(evidence, Outside(tuple(edits.letters), tuple(paths), point.time))
    _begin(causes, point)
    while True:
        causes.close()
        try:
            why = f"branch of {run} at {point.address}"
            version = evidence.workspace.rebuild(causes.left_out_commits(), paths, why)
        except ToolError as error:
            raise UsageError(f"the files cannot be changed so. {error}") from error
        if not isinstance(version, Unmergeable):
            if late := [id_ for id_ in edits.letters if not causes.sent(evidence.letters[id_])]:
                raise UsageError(
                    f"{', '.join(late)} is not sent yet at {point.address}.",
                    "Branch at a later moment, or at `now`; whoever had read it reads it anew.",
                )
            return BranchPlan(run, point, edits, evidence, causes, version, row["goal"])
        if not version.change.effect or version.change.effect in causes.unmergeable:
            raise UsageError(f"the files cannot be taken back to {point.address}: {version.change.subject}.")
        causes.unmergeable.add(version.change.effect)


def _begin(causes: Causes, point: Point) -> None:
    moves = causes.evidence.moves
    if point.agent:
        causes.leave_out(point.agent, point.place, "the branch begins here", exactly=point.exactly)
        return
    for agent in moves.by_agent:
        # A team spans what its members did; whoever was in the midst of a move makes it again.
        later = (i for i, move in enumerate(moves.of(agent)) if move.node != "team" and move.ended > point.time)
        if point.address != "now" and (place := next(later, None)) is not None:
            causes.leave_out(agent, place, "it came later", exactly=True)


def _check(evidence: Evidence, point: Point, edits: Edits) -> None:
    """Raise `UsageError` where an edit does not fit the moment."""
    if not point.agent and edits.of_agent:
        raise UsageError(f"{', '.join(edits.of_agent)} can only be changed at a step of an agent.", FORMS)
    if edits.goal is not None and point.agent != BOSS:
        raise UsageError("the goal is what the boss is given.", "Branch at a step of the boss, such as boss:think#1.")
    if edits.goal is not None and not edits.goal.strip():
        raise UsageError("the goal is empty.", "Say what is to be reached.")
    if edits.instructions is not None and point.agent == BOSS:
        raise UsageError("the boss has no instructions but the goal.", "Change the goal.")
    if unknown := [id_ for id_ in edits.letters if id_ not in evidence.letters]:
        raise UsageError(f"this run has no letter {', '.join(unknown)}.", "`megagraph history RUN` names the letters.")
    if isinstance(edits.model, Mapping) and (strange := [n for n in edits.model if n not in evidence.members]):
        raise UsageError(f"this run has no agent {', '.join(strange)}.", f"It has: {', '.join(evidence.members)}.")


def _files(edits: Edits) -> dict[str, bytes | None]:
    try:
        return {
            legal_path(path): content.encode() if isinstance(content, str) else content
            for path, content in edits.files.items()
        }
    except ToolError as error:
        raise UsageError(str(error)) from error
