"""A conversation that gets too long for its model goes on as a short one: of old turns a line each is left.

No model is asked, and nothing is lost: the turns stay in the ledger, where `recall` finds them. What an agent has to
keep in mind is its task, its open points and its team; these stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from megagraph.conversation import in_short, note, said_so_far
from megagraph.organisation import Organisation
from megagraph.specs import LETTER, AgentSpec
from megagraph.state import AgentState

FULL = 0.8
"""The part of a model's window that a conversation may take before it is compacted. The rest is for what comes next."""
NEARLY = 0.7
"""The part at which its agent is told to write down what it must not forget."""
TURNS = 0.4
"""Of what a full conversation may take, the part that is left to its last turns."""
EARLIER = 0.1
"""The part that the lines of earlier turns may take."""

_BEGIN, _END = "<earlier>", "</earlier>"
_HEAD = (
    "Your conversation has become too long and was shortened. What you did and heard after your task is here in short,"
    " the oldest first; `recall` shows it whole."
)
_LESS = "What was before is not listed."
_LINE = 300
_PART = 120
_LEAST = 500
"""Characters that are left of the result of a call, if not all of its turn can be kept."""

_WRITE_DOWN = note(
    "Your conversation is getting long. Soon only its last turns will be left whole, and a line of each turn before."
    " Write down now what you must not forget: with `update_todo`, or in a file."
)


class Past(TypedDict):
    """What is otherwise in the state of an agent whose conversation was compacted."""

    messages: list[BaseMessage]
    before: int
    compacted: int


def used(messages: Sequence[BaseMessage], since: int = 0) -> tuple[int | None, int]:
    """The tokens of the last model call, its answer included, and about how many have come since.

    Answers before the message `since` do not say what a call takes now. None and the tokens of all messages where
    no answer says it.
    """
    more = 0
    for i in range(len(messages) - 1, -1, -1):
        message = messages[i]
        if i >= since and isinstance(message, AIMessage) and (usage := message.usage_metadata):
            return usage["input_tokens"] + usage["output_tokens"], more
        more += weight(message)
    return None, more


def weight(message: BaseMessage) -> int:
    """About how many tokens a message takes: four characters are one."""
    characters = len(message.text)
    if isinstance(message, AIMessage):
        characters += sum(len(call["name"] or "") + len(str(call["args"])) for call in _calls(message))
    return characters // 4


def compact_when_full(org: Organisation, spec: AgentSpec, state: AgentState) -> Past | None:
    """What the agent goes on with where its conversation is too long for its model; None where it is not.

    It follows from the state alone, so that an agent that is resumed goes on with the same.
    """
    window = org.models.window(spec.name, org.leads(spec.name))
    return _compact(org, spec, state, window) if _taken(org, state) > FULL * window else None


def compact_after_refusal(org: Organisation, spec: AgentSpec, state: AgentState) -> Past | None:
    """What the agent goes on with after the model has refused its conversation as too long; None if it must not.

    Others with this model are compacted in time from now on.
    """
    taken = _taken(org, state)
    past = _compact(org, spec, state, taken)
    if past is not None:
        org.models.narrow(spec.name, org.leads(spec.name), taken)
    return past


def nearly_full(org: Organisation, spec: AgentSpec, state: AgentState) -> list[str]:
    """What an agent is told, once, before its conversation is compacted."""
    if _taken(org, state) <= NEARLY * org.models.window(spec.name, org.leads(spec.name)):
        return []
    since = said_so_far(org, state)[state.get("compacted", 0) :]
    told = any(isinstance(message, HumanMessage) and message.text == _WRITE_DOWN for message in since)
    return [] if told else [_WRITE_DOWN]


def _taken(org: Organisation, state: AgentState) -> int:
    known, more = used(said_so_far(org, state), state.get("compacted", 0))
    return (org.meter.overhead if known is None else known) + more


def _compact(org: Organisation, spec: AgentSpec, state: AgentState, window: float) -> Past | None:
    """The task, a line of each old turn, and the last turns whole. None where nothing would become shorter."""
    said = said_so_far(org, state)
    task, lines, turns = _parts(said)
    room = int(FULL * window) - org.meter.overhead - sum(map(weight, task))
    kept = _last(turns, int(TURNS * room))
    old, new = turns[: len(turns) - len(kept)], [message for turn in kept for message in turn]
    last = _cut(kept[-1], int((1 - EARLIER) * room)) if kept else []
    if not old and (not kept or last == kept[-1]):
        return None
    new[len(new) - len(last) :] = last
    lines += [line for turn in old for line in _in_lines(turn)]
    text = _told(lines, max(_LINE, int(4 * EARLIER * room)), _standing(org, spec, state))
    earlier = HumanMessage(text, id=f"{spec.name}/{state.get('step', 0)}/earlier")
    messages = [*task, earlier, *new]
    return Past(messages=messages, before=0, compacted=len(messages))


def _parts(said: Sequence[BaseMessage]) -> tuple[list[BaseMessage], list[str], list[list[BaseMessage]]]:
    """What the agent was told at first, the lines of what was compacted before, and its turns since.

    A turn is an answer, what its calls came to, and what was heard after it.
    """
    task: list[BaseMessage] = []
    lines: list[str] = []
    turns: list[list[BaseMessage]] = []
    for message in said:
        if isinstance(message, AIMessage):
            turns.append([message])
        elif turns:
            turns[-1].append(message)
        elif isinstance(message, HumanMessage) and message.text.startswith(_BEGIN):
            lines = [line for line in message.text.split("\n") if line.startswith("- ") or line == _LESS]
        else:
            task.append(message)
    return task, lines, turns


def _last(turns: Sequence[list[BaseMessage]], room: int) -> list[list[BaseMessage]]:
    """The last turn, and those before it that there is room for."""
    first, taken = len(turns), 0
    while first:
        taken += sum(map(weight, turns[first - 1]))
        if taken > room and first < len(turns):
            break
        first -= 1
    return list(turns[first:])


def _cut(turn: list[BaseMessage], room: int) -> list[BaseMessage]:
    """The turn with the longest results cut until there is room for it, as far as that helps."""
    results = sorted((len(m.text) for m in turn if isinstance(m, ToolMessage)), reverse=True)
    over = sum(map(weight, turn)) * 4 - room * 4
    most = results[0] if results else 0
    for n, _ in enumerate(results, 1):
        # The n longest are cut to the same length.
        most = (sum(results[:n]) - max(0, over)) // n
        if n == len(results) or most >= results[n]:
            break
    most = max(most, _LEAST)
    return [_shortened(m, most) if isinstance(m, ToolMessage) and len(m.text) > most else m for m in turn]


def _shortened(result: ToolMessage, most: int) -> ToolMessage:
    text = f"{result.text[:most]}\n(cut: there was no room for all {len(result.text):,} characters)"
    return result if len(text) >= len(result.text) else result.model_copy(update={"content": text})


def _in_lines(turn: Sequence[BaseMessage]) -> Iterator[str]:
    """A line for what the agent did, and one for each letter that it heard after it."""
    answer, rest = turn[0], turn[1:]
    assert isinstance(answer, AIMessage)
    results = {message.tool_call_id: message.text for message in rest if isinstance(message, ToolMessage)}
    done = [_flat(answer.text, _PART)] if answer.text.strip() else []
    for call in _calls(answer):
        what = f"{call['name']} {_flat(str(call['args']), _PART)}"
        done.append(f"{what} → {_flat(results.get(call['id'] or '', ''), _PART)}")
    step = _step(rest)
    yield f"- {f'step {step}: ' if step else ''}{'; '.join(done)}"[:_LINE]
    for message in rest:
        if isinstance(message, HumanMessage):
            yield from (in_short(sender, kind, text) for sender, kind, text in LETTER.findall(message.text))


def _step(rest: Sequence[BaseMessage]) -> int | None:
    """The number of a turn, by the ids of what has come after its answer (`messages.py`)."""
    for message in rest:
        match (message.id or "").split("/"):
            case [_, step, "heard", _] if step.isdigit():
                return int(step) - 1
            case [_, step, index] if step.isdigit() and index.isdigit():
                return int(step)
    return None


def _told(lines: Sequence[str], most: int, standing: Sequence[str]) -> str:
    """The lines as the agent reads them, the last ones if there are more characters than `most`."""
    first, taken = len(lines), 0
    while first and taken + len(lines[first - 1]) < most:
        first -= 1
        taken += len(lines[first]) + 1
    less = [_LESS] if first and lines[first:][:1] != [_LESS] else []
    return "\n".join([_BEGIN, _HEAD, *less, *lines[first:], *standing, _END])


def _standing(org: Organisation, spec: AgentSpec, state: AgentState) -> list[str]:
    """The agent's open points, and its team."""
    lines = []
    if open_ := state.get("todo", {}).get("open"):
        lines.append(f"Your open points: {'; '.join(open_)}")
    places = org.mailroom.places
    if team := org.mailroom.open_members(spec.name):
        each = (f"{name}{' (has reported)' if places[name].report else ''}" for name in team)
        lines.append(f"Your team: {', '.join(each)}")
    return [_flat(line, 2000) for line in lines]


def _calls(answer: AIMessage) -> list[Any]:
    return [*answer.tool_calls, *answer.invalid_tool_calls]


def _flat(text: str, most: int) -> str:
    return " ".join(text.split())[:most]
