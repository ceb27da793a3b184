"""Agents that go in circles, found by counting; no model is asked.

Each guard counts something that a healthy agent does not do for long. At its threshold the agent is told, at twice
the threshold its lead, and at three times the agent and its branch are stopped. The counts are plain data in the
agent's own checkpoints, so they are the same after a crash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from pydantic import BaseModel, ConfigDict, Field

from megagraph.specs import AgentSpec, Letter

Level = Literal["note", "lead", "stop"]
_LEVELS: tuple[Level, ...] = ("note", "lead", "stop")

_REMEMBERED = 24
"""Calls that are remembered in order to be recognised."""
TALK = frozenset({"talk", "read_letters", "recall", "update_todo"})
"""Tools with which nothing is done but talk."""


class Guards(BaseModel):
    """When an agent counts as going in circles. 0 switches a guard off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    same_call: int = Field(default=3, ge=0)
    """Times that a call gives the same result, while no letter comes and nothing new is tried."""
    ping_pong: int = Field(default=6, ge=0)
    """Letters answered by a letter, to and from one other agent, while neither of the two does anything else."""
    same_todo: int = Field(default=25, ge=0)
    """Turns of work with open points and no change in them."""
    no_growth: int = Field(default=20, ge=0)
    """Rounds that a lead spends on members without another one's report being accepted."""


@dataclass(frozen=True)
class Turn:
    """What an agent did last, and what it learns now."""

    calls: Sequence[tuple[str, Mapping[str, Any], str]] = ()
    """The tool, the arguments and the result of each call."""
    letters: Sequence[Letter] = ()
    """The letters that it reads before its next turn."""
    todo: Mapping[str, Sequence[str]] = field(default_factory=dict)
    members: Sequence[str] = ()
    """The open members of its team."""
    unaccepted: int = 0
    """Those of them without an accepted report."""
    accepted: int = 0
    """Members that ever had their report accepted, dismissed ones included."""


@dataclass(frozen=True)
class Finding:
    """An agent goes in circles."""

    guard: str
    level: Level
    why: str
    """What was seen, such as `has called …`, to follow the agent's name."""
    advice: str
    """What the agent can do about it."""


Counts = Mapping[str, Mapping[str, Any]]
"""What is counted of one agent, by guard; kept in its state."""

Worked = Callable[[str, int, int], Awaitable[bool]]
"""Whether an agent called other tools than `TALK` from one step to another."""

FRESH: Counts = {"same_call": {}, "ping_pong": {}, "same_todo": {}, "no_growth": {}}
"""The counts of an agent that begins, or begins again."""


async def look(guards: Guards, counts: Counts, turn: Turn, worked: Worked) -> tuple[Counts, list[Finding]]:
    """The counts after this turn, those that have changed, and what they say that they did not say before."""
    seen = {
        "same_call": _same_call(guards.same_call, counts.get("same_call", {}), turn),
        "ping_pong": await _ping_pong(guards.ping_pong, counts.get("ping_pong", {}), turn, worked),
        "same_todo": _same_todo(guards.same_todo, counts.get("same_todo", {}), turn),
        "no_growth": _no_growth(guards.no_growth, counts.get("no_growth", {}), turn),
    }
    changed = {name: now for name, (now, _) in seen.items() if now != counts.get(name, {})}
    return changed, [finding for _, finding in seen.values() if finding is not None]


def last_calls(messages: Sequence[BaseMessage]) -> list[tuple[str, Mapping[str, Any], str]]:
    """The tool, the arguments and the result of each call of the last turn."""
    results: list[str] = []
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            results.insert(0, message.text)
        elif isinstance(message, AIMessage):
            calls: list[tuple[str, Mapping[str, Any]]] = [(c["name"], c["args"]) for c in message.tool_calls]
            calls += [(c["name"] or "", {"text": c["args"]}) for c in message.invalid_tool_calls]
            return [(tool, args, result) for (tool, args), result in zip(calls, results, strict=False)]
    return []


def duplicate_of(wish: AgentSpec, others: Sequence[AgentSpec], chain: Sequence[AgentSpec]) -> tuple[str, str] | None:
    """Whose job `wish` would do again, and in what; None where it is new.

    `others` are the open agents, `chain` those that `wish` works for, its lead first. What it is given to build upon
    or to do for them may be the same file, and two teams may each have a tester.
    """
    above = {spec.name for spec in chain}
    for other in others:
        if other.name in wish.depends_on:
            continue
        near = other.lead == wish.lead or other.name in above
        if near and _words(other.role) == _words(wish.role) and _words(other.instructions) == _words(wish.instructions):
            return other.name, "has the same role and the same instructions"
        if wish.deliverables and other.name not in above and set(wish.deliverables) == set(other.deliverables):
            return other.name, f"delivers the same ({', '.join(other.deliverables)})"
    return None


def _same_call(most: int, old: Mapping[str, Any], turn: Turn) -> tuple[Mapping[str, Any], Finding | None]:
    # What an agent writes may be a reason to look again; what the system says is none.
    news = any(letter.kind not in ("notice", "aside") for letter in turn.letters)
    if not most or not turn.calls:
        return ({} if news else old), None
    times: dict[str, int] = dict(old.get("times", {}))
    marks = {_mark(*call): call for call in turn.calls}
    new = any(mark not in times for mark in marks)
    if new:
        times = dict.fromkeys(times, 0)
    for mark in marks:
        times[mark] = times.pop(mark, 0) + 1
    top = max(marks, key=lambda mark: times[mark])
    level = 0 if new else int(old.get("level", 0))
    level, found = _rise(level, times[top], most)
    finding = None
    if found:
        tool, args, result = marks[top]
        finding = Finding(
            "same_call",
            found,
            f"has called `{tool}` {times[top]} times with the same arguments ({_short(args)}) and the same result"
            f" (“{' '.join(result.split())[:120]}”), and tried nothing new in between",
            "Repeating it will not change the result: try something else, ask, or `finish` and say what is missing.",
        )
    if news:
        return {}, finding
    return {"times": dict(list(times.items())[-_REMEMBERED:]), "level": level}, finding


async def _ping_pong(
    most: int, old: Mapping[str, Any], turn: Turn, worked: Worked
) -> tuple[Mapping[str, Any], Finding | None]:
    entry, finding = dict(old), None
    talked = {name for tool, args, _ in turn.calls if tool == "talk" for name in _recipients(args)}
    if any(tool not in TALK for tool, _, _ in turn.calls) or len(talked) > 1:
        entry = {}
    elif most and talked:
        (other,) = talked
        if entry.get("with") != other:
            entry = {"with": other, "n": 1, "level": 0}
        elif entry.get("answered"):
            entry |= {"n": entry["n"] + 1, "answered": False}
            finding = await _rise_ping_pong(most, entry, turn, worked)
    steps = [_step(x) for x in turn.letters if x.sender == entry.get("with") and x.kind == "message"]
    if steps:
        entry |= {"answered": True, "first": entry.get("first", min(steps)), "last": max(steps)}
    return entry, finding


async def _rise_ping_pong(most: int, entry: dict[str, Any], turn: Turn, worked: Worked) -> Finding | None:
    level, found = _rise(entry["level"], entry["n"], most)
    other = entry["with"]
    if not found or (other in turn.members and found != "note"):
        # Of a lead and its member, the member is the one to be stopped.
        return None
    if await worked(other, entry["first"], entry["last"]):
        # An exchange with someone who works between the letters is a conversation.
        entry.clear()
        entry.update({"with": other, "n": 1, "level": 0})
        return None
    entry["level"] = level
    return Finding(
        "ping_pong",
        found,
        f"has written {entry['n']} letters to `{other}` and got as many back, and neither of the two does anything"
        " else",
        "Stop writing letters: do what is to be done, or ask your lead to decide.",
    )


def _same_todo(most: int, old: Mapping[str, Any], turn: Turn) -> tuple[Mapping[str, Any], Finding | None]:
    open_ = turn.todo.get("open", [])
    if not most or not open_:
        return {}, None
    if not turn.calls:
        return old, None
    mark = _hash([open_, turn.todo.get("done", [])])
    if old.get("mark") != mark:
        return {"mark": mark, "n": 1, "level": 0}, None
    level, found = _rise(old["level"], old["n"] + 1, most)
    finding = None
    if found:
        finding = Finding(
            "same_todo",
            found,
            f"has worked for {old['n'] + 1} turns without a change in its open points ({'; '.join(open_)[:200]})",
            "Take one point and finish it, split it with `update_todo`, or say what keeps you from it.",
        )
    return {"mark": mark, "n": old["n"] + 1, "level": level}, finding


def _no_growth(most: int, old: Mapping[str, Any], turn: Turn) -> tuple[Mapping[str, Any], Finding | None]:
    if not most or not turn.members:
        return {}, None
    if not old or turn.accepted > old["accepted"]:
        return {"accepted": turn.accepted, "n": 0, "level": 0}, None
    if not turn.unaccepted and all(tool != "talk" for tool, _, _ in turn.calls):
        # Looking at what was handed in, however long it takes, is the lead's own work.
        return old, None
    level, found = _rise(old["level"], old["n"] + 1, most)
    finding = None
    if found:
        finding = Finding(
            "no_growth",
            found,
            f"has led its team for {old['n'] + 1} rounds without another member's report being accepted",
            "Change the plan: give clearer orders, smaller pieces, another member, or do without.",
        )
    return {"accepted": turn.accepted, "n": old["n"] + 1, "level": level}, finding


def _rise(level: int, count: int, most: int) -> tuple[int, Level | None]:
    """The level that a count has reached, and its name if it is a new one."""
    reached = min(len(_LEVELS), count // most)
    return (reached, _LEVELS[reached - 1]) if reached > level else (level, None)


def _recipients(args: Mapping[str, Any]) -> list[str]:
    to = args.get("to", [])
    return [to] if isinstance(to, str) else [str(name) for name in to] if isinstance(to, list) else []


def _step(letter: Letter) -> int:
    return int(letter.id.split("/")[1])


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _mark(tool: str, args: Mapping[str, Any], result: str) -> str:
    return _hash([tool, args, result])


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _short(args: Mapping[str, Any]) -> str:
    text = json.dumps(args, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:159] + "…"
