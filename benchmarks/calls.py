"""The model calls of a finished run as a graph: which had to be answered before which could be made.

A call waits for the agent's call before it, for the calls that wrote the letters it read, for the call that recruited
the agent, and for the reports of those whom the agent depends on. From that follows the critical path, and the same
calls can be made again by other clients.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from megagraph import MegaGraph, Run
from megagraph.prompts import Prompts
from megagraph.specs import AgentSpec

Message = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One model call; `needs` are the places, in the list of all, of the calls it waited for."""

    agent: str
    step: int
    needs: tuple[int, ...]
    messages: list[Message]
    """What was sent, as OpenAI's protocol has it."""


def calls_of(mega: MegaGraph, run: Run) -> list[Call]:
    """The calls of a finished run, each after those it needs."""
    read = mega.home.database.read
    agents = {
        row["name"]: (AgentSpec.load(json.loads(row["spec"])), row["effect"])
        for row in read("SELECT name, spec, effect FROM agents WHERE run = ?", (run.id,))
    }
    rows = read(
        "SELECT agent, step, heard, letters, answer FROM calls WHERE run = ? ORDER BY started + seconds", (run.id,)
    )
    place = {(row["agent"], row["step"]): i for i, row in enumerate(rows)}
    reported = {
        sender: place[sender, int(id_.split("/")[1])]
        for sender, id_ in read(
            "SELECT sender, id FROM letters WHERE run = ? AND kind = 'report' ORDER BY rowid DESC", (run.id,)
        )
    }
    results: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in read("SELECT agent, step, result FROM tool_calls WHERE run = ? ORDER BY agent, step, idx", (run.id,)):
        results[row["agent"], row["step"]].append(row["result"])
    prompts, talks, calls = Prompts([]), defaultdict[str, list[Message]](list), []
    for row in rows:
        agent, step = row["agent"], row["step"]
        spec, effect = agents[agent]
        needs = {place[agent, step - 1]} if step > 1 else {reported[name] for name in spec.depends_on}
        if step == 1 and spec.lead:
            needs.add(place[spec.lead, int(effect.split("/")[1])])
        origins = (id_.split("/") for id_ in json.loads(row["letters"]))
        needs |= {place[origin[0], int(origin[1])] for origin in origins if origin[0] in agents}
        talk = talks[agent] or [{"role": "system", "content": prompts.system(spec)}]
        talk += [{"role": "user", "content": text} for text in json.loads(row["heard"])]
        calls.append(Call(agent, step, tuple(sorted(needs)), list(talk)))
        talks[agent] = talk + _answered(json.loads(row["answer"]), results[agent, step])
    return calls


def _answered(answer: dict[str, Any], results: Sequence[str]) -> list[Message]:
    asked = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["args"])},
        }
        for call in answer["tool_calls"]
    ]
    said: Message = {"role": "assistant", "content": answer["content"] or None}
    done = [
        {"role": "tool", "tool_call_id": call["id"], "content": result}
        for call, result in zip(asked, results, strict=False)
    ]
    return [{**said, "tool_calls": asked} if asked else said, *done]


def critical_path(calls: Sequence[Call], latency: Callable[[str, int], float]) -> float:
    """Seconds that the calls take with no time but the model's; `latency(agent, turn)`, turns from 0."""
    ends: list[float] = []
    for call in calls:
        ends.append(latency(call.agent, call.step - 1) + max((ends[i] for i in call.needs), default=0.0))
    return max(ends)
