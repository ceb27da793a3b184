"""The words between the organisation and a model: what an agent hears before a turn, and what its answer asks for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage

from megagraph.answers import cut, declined
from megagraph.organisation import Organisation
from megagraph.specs import LETTER, AgentSpec, Letter, in_short, rendered
from megagraph.state import AgentState
from megagraph.tokens import evenly, shorter, size
from megagraph.turns import Request

MAX_UNREAD = 12
"""Letters handed over whole in one turn; of more, the rest is folded into a digest."""

CUT = "the answer was cut at the output limit; write less in one turn"


def said_so_far(org: Organisation, state: AgentState) -> list[BaseMessage]:
    """The agent's whole conversation."""
    own, before = state.get("messages", []), state.get("before", 0)
    return [*org.before[state["spec"]["name"]][:before], *own] if before else list(own)


def heard_before(
    org: Organisation, spec: AgentSpec, state: AgentState, letters: Sequence[Letter], room: float = math.inf
) -> list[str]:
    """What the agent hears before its next turn, with about `room` bytes of letters."""
    task = [] if state.get("messages") or state.get("before") else [_task(org, spec)]
    return [*task, _mail(letters, room)] if letters else task


def _task(org: Organisation, spec: AgentSpec) -> str:
    places = org.mailroom.places
    mates = [places[n].spec for n in places[spec.lead].open if n != spec.name] if spec.lead else []
    inputs = {name: None if org.mailroom.closed(name) else places[name].report for name in spec.depends_on}
    return org.prompts.task(spec, org.goal, mates, inputs)


def _mail(letters: Sequence[Letter], room: float) -> str:
    """The letters as the agent reads them. Of very many, the oldest are folded to a line each; long ones are cut."""
    folded, whole = letters[:-MAX_UNREAD], letters[-MAX_UNREAD:]
    parts = [letter.render() for letter in whole]
    if folded:
        lines = last_lines([in_short(x.sender, x.kind, x.text) for x in folded], room / 2)
        less = f", the last {len(lines)}" if len(lines) < len(folded) else ""
        head = f"({len(folded)} older letters, in short{less}; `read_letters` shows them whole:)"
        parts.insert(0, "\n".join([head, *lines]))
    return cut_letters("\n".join(parts), room)


def cut_letters(heard: str, room: float) -> str:
    """What somebody has heard, with the longest letters in it cut for it to take `room` bytes, as far as that helps."""
    if size(heard) <= room:
        return heard
    sizes = [size(letter[3]) for letter in LETTER.finditer(heard)]
    most = evenly(sizes, room - size(heard) + sum(sizes))
    hint = "; `read_letters` shows more"
    return LETTER.sub(lambda letter: rendered(letter[1], letter[2], shorter(letter[3], most, hint)), heard)


def last_lines(lines: Sequence[str], room: float) -> Sequence[str]:
    """The last lines that there are so many bytes for."""
    first = len(lines)
    while first and (room := room - size(lines[first - 1]) - 1) >= 0:
        first -= 1
    return lines[first:]


def note(text: str) -> str:
    """A word from the system itself, told from letters and from the task."""
    return f"<note>{text}</note>"


def fingerprint(messages: Sequence[BaseMessage]) -> str:
    """A short hash of what was sent."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(f"{message.type}\0{message.content}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def requests_of(messages: Sequence[BaseMessage], most: int) -> list[Request]:
    """The tool calls of the last answer, malformed ones included, in a fixed order; above `most` only to say no."""
    answer = next(m for m in reversed(messages) if isinstance(m, AIMessage))
    calls = [(c["id"], c["name"], c["args"], "") for c in answer.tool_calls]
    if calls and answer.response_metadata.get("finish_reason") == "length" and not answer.invalid_tool_calls:
        # A repaired call may look whole although the end of an argument is missing.
        calls[-1] = (*calls[-1][:3], f"the call was not carried out: {CUT}")
    calls += [
        (
            c["id"],
            c["name"] or "",
            {},
            f"the arguments are no valid JSON ({_why_cut(answer, c.get('error'))})",
        )
        for c in answer.invalid_tool_calls
    ]
    above = f"not carried out: a turn may have {most} tool calls. Make the others in your next turn."
    return [
        Request(i, id_ or f"call_{i}", name, args, why if i < most else above)
        for i, (id_, name, args, why) in enumerate(calls)
    ]


def _why_cut(answer: AIMessage, error: str | None) -> str:
    if answer.response_metadata.get("finish_reason") == "length":
        return CUT
    return " ".join((error or "malformed").split())[:300]


def no_answer(answer: AIMessage) -> str:
    """Why an answer without a tool call is none; empty if it is one."""
    match declined(answer):
        case "refusal":
            return f"the model refused: {answer.text[:300]}"
        case "filter":
            return "the provider's content filter stopped the answer"
    if cut(answer):
        return CUT
    return "" if says_something(answer) else "your answer was empty"


def says_something(answer: AIMessage) -> bool:
    return bool(answer.tool_calls or answer.invalid_tool_calls or answer.text.strip())
