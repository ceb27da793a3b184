"""The history of a run as a person reads it: what every agent did, step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from megagraph.branches.evidence import Called, Did, Evidence, gather
from megagraph.branches.moves import Move
from megagraph.errors import UsageError
from megagraph.home import Home
from megagraph.journal import load_answer
from megagraph.reviewer import occasion_of


@dataclass(frozen=True)
class Step:
    """One step of one agent: a model call (`think`), or the tool calls that it asked for (`act`)."""

    address: str
    """Where a branch can begin, such as `engine_dev:think#3`: just before the step is made."""
    agent: str
    kind: str
    number: int
    time: float
    """Seconds since the epoch at which it began."""
    seconds: float | None
    """How long it took; None where it is not done."""
    checkpoint: str
    what: str
    """What it was, in a line."""
    read: tuple[str, ...] = ()
    """The ids of the letters it read."""
    sent: tuple[str, ...] = ()
    """The ids of the letters it sent."""
    tools: tuple[str, ...] = ()
    recruited: tuple[str, ...] = ()
    reported: bool = False
    commit: str = ""
    """The version of the files that it made last."""
    tokens: int = 0
    """Of its model call, and of the reviews that it led to."""
    cost_usd: float | None = None
    model: str = ""

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def history(home: Home, run: str, agent: str | None = None) -> list[Step]:
    """Every step, or those of one agent, in the order in which they began. Blocks.

    Raises `UsageError` where there is no such agent.
    """
    evidence = gather(home, run)
    if agent is not None and agent not in evidence.members:
        raise UsageError(f"run {run[:8]} has no agent `{agent}`.", f"It has: {', '.join(evidence.members)}.")
    answers = home.database.read("SELECT agent, step, answer FROM calls WHERE run = ?", (run,))
    texts = {(row["agent"], row["step"]): row["answer"] for row in answers}
    sent: dict[tuple[str, int], list[str]] = {}
    for letter in evidence.letters.values():
        if place := evidence.place_of_letter(letter):
            sent.setdefault(place, []).append(letter.id)
    calls = {(call.agent, call.step): call for call in evidence.calls}
    reviews: dict[tuple[str, int], list[Called]] = {}
    for call in evidence.review_calls:
        if place := evidence.place_of_occasion(occasion_of(call.agent)):
            reviews.setdefault(place, []).append(call)
    commits = {change.effect: change.commit for change in evidence.changes}
    steps = [
        _step(evidence, move, tuple(sent.get((name, i), ())), calls, texts, commits, reviews.get((name, i), []))
        for name, moves in evidence.moves.by_agent.items()
        for i, move in enumerate(moves)
        if agent in (None, name) and move.node in ("think", "act")
    ]
    return sorted(steps, key=lambda step: (step.time, step.address))


def _step(
    evidence: Evidence,
    move: Move,
    sent: tuple[str, ...],
    calls: Mapping[tuple[str, int], Called],
    texts: Mapping[tuple[str, int], str],
    commits: Mapping[str, str],
    reviews: list[Called],
) -> Step:
    call = calls.get((move.agent, move.step)) if move.node == "think" else None
    tools = evidence.tools_of.get((move.agent, move.step), []) if move.node == "act" else []
    recruits = [spec["name"] for did in tools for spec in did.effects.get("plan", [])]
    paid = [*([call] if call else []), *reviews]
    costs = [each.cost for each in paid] or [None]
    made = [commits[did.effect] for did in tools if did.effect in commits]
    return Step(
        address=move.address,
        agent=move.agent,
        kind=move.node,
        number=move.step,
        time=call.started if call else move.begun,
        seconds=call.seconds if call else move.ended - move.begun if move.done and move.ended < 1e12 else None,
        checkpoint=move.checkpoint,
        what=_thought(move, texts.get((move.agent, move.step))) if move.node == "think" else _acted(move, tools),
        read=move.letters or (call.letters if call else ()),
        sent=sent,
        tools=tuple(did.tool for did in tools),
        recruited=tuple(recruits),
        reported=move.report is not None,
        commit=made[-1] if made else "",
        tokens=sum(each.input_tokens + each.output_tokens for each in paid),
        cost_usd=None if None in costs else sum(filter(None, costs)),
        model=call.model if call else "",
    )


def _thought(move: Move, answer: str | None) -> str:
    if answer is None:
        return f"failed: {move.report['summary']}" if move.report else "not made yet" if not move.done else "no call"
    message = load_answer(json.loads(answer))
    names = [call["name"] for call in message.tool_calls]
    return f"→ {', '.join(names)}" if names else f"says: {message.text}"


def _acted(move: Move, tools: list[Did]) -> str:
    if not tools:
        return "not made yet" if not move.done else "nothing"
    return "; ".join(f"{did.tool}{_about(did)}{'' if did.ok else ' (refused)'}" for did in tools)


def _about(did: Did) -> str:
    """What a tool call was about, in a few words."""
    match did.tool:
        case "recruit":
            return f" {', '.join(spec['name'] for spec in did.effects.get('plan', []))}"
        case "talk":
            to = did.args.get("to", "")
            return f" to {', '.join(map(str, to)) if isinstance(to, list) else to}"
        case "dismiss":
            return f" {', '.join(map(str, did.args.get('agents', [])))}"
    path = did.args.get("path")
    return f" {path}" if path else ""
