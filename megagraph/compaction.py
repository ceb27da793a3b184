"""A conversation that gets too long for its model goes on as a short one: of old turns a line each is left.

No model is asked, and nothing is lost: the turns stay in the ledger, where `recall` finds them. What an agent has to
keep in mind is its task, its open points and its team; these stay. How a conversation was made shorter is kept with
the call that it was made shorter for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from megagraph.asking import Sent
from megagraph.conversation import cut_letters, heard_before, last_lines, note, said_so_far
from megagraph.events import News
from megagraph.journal import CallRow, Shortened
from megagraph.messages import earlier_in
from megagraph.organisation import Organisation
from megagraph.specs import AgentSpec, Letter, in_short, letters_in
from megagraph.state import AgentState
from megagraph.tokens import BYTES, counted, density, evenly, shorter, size, weigh

FULL = 0.8
"""The part of a model's window that a call may take before it is made shorter. The rest is for what comes next."""
NEARLY = 0.7
"""The part at which an agent is told to write down what it must not forget."""
TURNS = 0.4
"""Of what a full conversation may take beside its task, the part that is left to its last turns."""
LETTERS = 0.2
"""The part that the letters may take which are handed over before the turn."""
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
_STANDING = 2000
"""Characters of open points, and of the names of a team."""
_IN_EARNEST = 0.95
"""A refused call that is not shorter than this part of it is not made again."""

_WRITE_DOWN = note(
    "Your conversation is getting long. Soon only its last turns will be left whole, and a line of each turn before."
    " Write down now what you must not forget: with `update_todo`, or in a file."
)


class Past(TypedDict):
    """What is otherwise in the state of an agent whose conversation was made shorter."""

    messages: list[BaseMessage]
    before: int
    compacted: int


class Draft:
    """What an agent is about to send: all that was said, and what it hears before its turn. It can be made shorter."""

    def __init__(
        self, org: Organisation, spec: AgentSpec, state: AgentState, letters: Sequence[Letter], notes: Sequence[str]
    ) -> None:
        self.overhead = org.meter.overhead
        """What the meter's was, with which the tokens are counted."""
        self.shortened: Shortened | None = None
        self.heard: list[str] = []
        self.messages: list[BaseMessage] = []
        self._org, self._spec, self._state, self._letters, self._notes = org, spec, state, letters, notes
        self._system = SystemMessage(org.prompts.system(spec))
        self._said, self._since = said_so_far(org, state), state.get("compacted", 0)
        self._outside = org.outside.tokens(org.outside_of(spec.name))
        self._dense = 1.0
        self._write(math.inf)

    @property
    def tokens(self) -> int:
        """About how many tokens the call takes."""
        known, more = (None, weigh(self.messages)) if self.shortened else self._counted()
        if known is None:
            return int(self._dense * (self.overhead + self._outside + more))
        return known + int(self._dense * more)

    @property
    def sent(self) -> Sent:
        """What is sent, as it is now."""
        letters = [letter.id for letter in self._letters]
        if self.shortened is None:
            return Sent(self.messages, self.heard, letters)
        step, after = self._state.get("step", 0) + 1, len(self.messages) - 1 - len(self.heard)
        news = News("compacted", self._spec.name, {"step": step, "before": len(self._said), "after": after})
        return Sent(self.messages, self.heard, letters, self.shortened, [news])

    def fit(self, window: float) -> None:
        """Make it shorter where it is too long for a model; tell its agent before, once, that this will be done."""
        known, more = self._counted()
        if (known or self.overhead + self._outside) + BYTES * more <= NEARLY * window:
            # Not even if each byte were a token; to look how dense it is takes longer.
            return
        self._look_how_dense()
        if self.tokens > FULL * window:
            self._shorten(window)
        elif self.tokens > NEARLY * window and not self._was_told():
            self.heard.append(_WRITE_DOWN)
            self.messages.append(HumanMessage(_WRITE_DOWN))

    def give_way(self) -> bool:
        """Make it shorter than it is, since the model takes less; whether it could be done in earnest."""
        self._look_how_dense()
        before = self.tokens
        self._shorten(before)
        return self.tokens < _IN_EARNEST * before

    def _counted(self) -> tuple[int | None, int]:
        return counted(self.messages, 1 + self._since)

    def _look_how_dense(self) -> None:
        # What was learned of calls with other tools is not taken for dense text.
        tools = max(self.overhead, self._org.meter.described) + self._outside
        self._dense = density([self._system, *self._said], tools, 1 + self._since)

    def _was_told(self) -> bool:
        since = self._said[self._since :]
        return any(isinstance(message, HumanMessage) and message.text == _WRITE_DOWN for message in since)

    def _shorten(self, window: float) -> None:
        """First letters are cut that are long for this window; where that is not enough, turns are put away."""
        task = self._said[0] if self._said else HumanMessage(self.heard[0])
        fixed = self.overhead + self._outside + weigh([self._system, task])
        room = BYTES * max(0.0, FULL * window / self._dense - fixed)
        self._write(LETTERS * room)
        if self.shortened is not None or self.tokens > FULL * window:
            self.shortened = _put_away(self._said, room, _standing(self._org, self._spec, self._state))
            self._write(LETTERS * room)

    def _write(self, room: float) -> None:
        heard = heard_before(self._org, self._spec, self._state, self._letters, room)
        self.heard = [*heard, *self._notes]
        said = self._said if self.shortened is None else _left(self._said, self.shortened)
        self.messages = [self._system, *said, *(HumanMessage(text) for text in self.heard)]


def past_of(org: Organisation, state: AgentState, row: CallRow) -> Past:
    """What an agent goes on with whose conversation was made shorter before this call."""
    assert row.shortened is not None
    messages = _left(said_so_far(org, state), row.shortened, earlier_in(row))
    return Past(messages=messages, before=0, compacted=len(messages))


def _put_away(said: Sequence[BaseMessage], room: float, standing: Sequence[str]) -> Shortened | None:
    """The last turns that there is room for, and a line of each before. None where nothing would become shorter.

    `room` is bytes beside the task.
    """
    lines, turns = _parts(said)
    kept = _last(turns, TURNS * room)
    longest = _longest(kept[-1], (1 - LETTERS - EARLIER) * room) if kept else None
    old = turns[: len(turns) - len(kept)]
    if not old and longest is None:
        return None
    lines += [line for turn in old for line in _in_lines(turn)]
    return Shortened(_told(lines, EARLIER * room, standing), sum(map(len, kept)), longest)


def _left(said: Sequence[BaseMessage], how: Shortened, earlier: HumanMessage | None = None) -> list[BaseMessage]:
    """The task, what is told of earlier turns, and the last ones."""
    messages = list(said[-how.kept :])
    if how.longest is not None:
        last = next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], AIMessage)), 0)
        messages[last:] = [_cut(message, how.longest) for message in messages[last:]]
    return [said[0], earlier or HumanMessage(how.earlier), *messages]


def _parts(said: Sequence[BaseMessage]) -> tuple[list[str], list[list[BaseMessage]]]:
    """The lines of what was put away before, and the turns since. The first message is the task, and in none of them.

    A turn is an answer, what its calls came to, and what was heard after it. What was heard before the first answer is
    one without an answer.
    """
    lines: list[str] = []
    turns: list[list[BaseMessage]] = []
    for message in said[1:]:
        if isinstance(message, HumanMessage) and message.text.startswith(_BEGIN) and not turns:
            lines = [line for line in message.text.split("\n") if line.startswith("- ") or line == _LESS]
        elif isinstance(message, AIMessage) or not turns:
            turns.append([message])
        else:
            turns[-1].append(message)
    return lines, turns


def _last(turns: Sequence[list[BaseMessage]], room: float) -> list[list[BaseMessage]]:
    """The last turn, and those before it that there is room for."""
    first, taken = len(turns), 0
    while first:
        taken += BYTES * weigh(turns[first - 1])
        if taken > room and first < len(turns):
            break
        first -= 1
    return list(turns[first:])


def _longest(turn: Sequence[BaseMessage], room: float) -> int | None:
    """To how many bytes what a turn came to is cut for all of it to have room; None where there is room."""
    answers = [message for message in turn if isinstance(message, AIMessage)]
    sizes = [size(message.text) for message in turn if not isinstance(message, AIMessage)]
    most = evenly(sizes, room - BYTES * weigh(answers))
    return int(most) if sizes and most < max(sizes) else None


def _cut(message: BaseMessage, most: int) -> BaseMessage:
    match message:
        case ToolMessage():
            less = shorter(message.text, most)
        case HumanMessage():
            less = cut_letters(message.text, most)
        case _:
            return message
    return message if less == message.text else message.model_copy(update={"content": less})


def _in_lines(turn: Sequence[BaseMessage]) -> Iterator[str]:
    """A line for what the agent did, and one for each letter that it heard after it."""
    if isinstance(answer := turn[0], AIMessage):
        results = {message.tool_call_id: message.text for message in turn if isinstance(message, ToolMessage)}
        done = [_flat(answer.text, _PART)] if answer.text.strip() else []
        for call in (*answer.tool_calls, *answer.invalid_tool_calls):
            what = f"{call['name']} {_flat(str(call['args']), _PART)}"
            done.append(f"{what} → {_flat(results.get(call['id'] or '', ''), _PART)}")
        step = _step(turn[1:])
        yield f"- {f'step {step}: ' if step else ''}{'; '.join(done)}"[:_LINE]
    for message in turn:
        if isinstance(message, HumanMessage):
            yield from (in_short(*letter) for letter in letters_in(message.text))


def _step(rest: Sequence[BaseMessage]) -> int | None:
    """The number of a turn, by the ids of what has come after its answer (`messages.py`)."""
    for message in rest:
        match (message.id or "").split("/"):
            case [_, step, "heard", _] if step.isdigit():
                return int(step) - 1
            case [_, step, index] if step.isdigit() and index.isdigit():
                return int(step)
    return None


def _told(lines: Sequence[str], room: float, standing: Sequence[str]) -> str:
    """The lines as the agent reads them, the last ones if there are too many, and how things stand."""
    shown = last_lines(lines, max(_LINE, room - sum(map(size, standing))))
    less = [_LESS] if len(shown) < len(lines) and shown[:1] != [_LESS] else []
    return "\n".join([_BEGIN, _HEAD, *less, *shown, *standing, _END])


def _standing(org: Organisation, spec: AgentSpec, state: AgentState) -> list[str]:
    """The agent's open points, and its team."""
    lines = []
    if open_ := state.get("todo", {}).get("open"):
        lines.append(f"Your open points: {_listed(open_, '; ')}")
    places = org.mailroom.places
    if team := org.mailroom.open_members(spec.name):
        each = [f"{name}{' (has reported)' if places[name].report else ''}" for name in team]
        lines.append(f"Your team: {_listed(each, ', ')}")
    return lines


def _listed(items: Sequence[str], between: str) -> str:
    """The first of these that there is room for, and how many more there are."""
    flat = [" ".join(item.split()) for item in items]
    ends = accumulate(len(item) + len(between) for item in flat)
    shown = max(1, sum(end <= _STANDING for end in ends))
    more = f"{between}and {len(flat) - shown} more" if shown < len(flat) else ""
    return f"{between.join(flat[:shown])[:_STANDING]}{more}"


def _flat(text: str, most: int) -> str:
    return " ".join(text.split())[:most]
