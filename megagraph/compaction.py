"""A conversation that gets too long for its model goes on as a short one: of old turns a line each is left.

No model is asked, and nothing is lost: the turns stay in the ledger, where `recall` finds them. What an agent has to
keep in mind is its task, its open points and its team; these stay as they are. How a conversation was made shorter
is kept with the call that it was made shorter for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from megagraph.asking import Sent
from megagraph.conversation import evenly, heard_before, note, said_so_far
from megagraph.events import News
from megagraph.ledger import CallRow, Shortened
from megagraph.messages import earlier_in
from megagraph.organisation import Organisation
from megagraph.specs import AgentSpec, Letter, in_short, letters_in
from megagraph.state import AgentState
from megagraph.tokens import CHARACTERS, counted, density, weigh

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
_LEAST = 500
"""Characters that are left of a message, if not all of the last turn can be kept."""

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
        self.shortened: Shortened | None = None
        self.heard: list[str] = []
        self.messages: list[BaseMessage] = []
        self._org, self._spec, self._state, self._letters, self._notes = org, spec, state, letters, notes
        self._system = SystemMessage(org.prompts.system(spec))
        self._said, self._since = said_so_far(org, state), state.get("compacted", 0)
        self._beside = org.meter.overhead + org.outside.tokens(org.outside_of(spec.name))
        self._dense = 1.0
        self._write(math.inf)

    @property
    def tokens(self) -> int:
        """About how many tokens the call takes."""
        known, more = (None, weigh(self.messages)) if self.shortened else counted(self.messages, 1 + self._since)
        return int(self._dense * (self._beside + more)) if known is None else known + int(self._dense * more)

    def fit(self, window: float) -> None:
        """Make it shorter where it is too long for a model; tell its agent before, once, that this will be done."""
        known, more = counted(self.messages, 1 + self._since)
        if (known or self._beside) + CHARACTERS * more <= NEARLY * window:
            # Not even if each character were a token; to look how dense it is takes longer.
            return
        self._look_how_dense()
        if self.tokens > FULL * window:
            self._shorten(window)
        elif self.tokens > NEARLY * window and not self._told():
            self.heard.append(_WRITE_DOWN)
            self.messages.append(HumanMessage(_WRITE_DOWN))

    @property
    def sent(self) -> Sent:
        """What is sent, as it is now."""
        letters = [letter.id for letter in self._letters]
        if self.shortened is None:
            return Sent(self.messages, self.heard, letters)
        step, after = self._state.get("step", 0) + 1, len(self.messages) - 1 - len(self.heard)
        news = News("compacted", self._spec.name, {"step": step, "before": len(self._said), "after": after})
        return Sent(self.messages, self.heard, letters, self.shortened, [news])

    def shorten(self) -> bool:
        """Make it shorter than it is, since the model takes less; whether that could be done."""
        self._look_how_dense()
        before = self.tokens
        self._shorten(before)
        return self.tokens < before

    def _look_how_dense(self) -> None:
        self._dense = density([self._system, *self._said], self._beside, 1 + self._since)

    def _told(self) -> bool:
        since = self._said[self._since :]
        return any(isinstance(message, HumanMessage) and message.text == _WRITE_DOWN for message in since)

    def _shorten(self, window: float) -> None:
        """First letters are cut that are long for this window; where that is not enough, turns are put away."""
        most = FULL * window / self._dense - self._beside - weigh([self._system])
        room = max(0, int(most - weigh(task_of(self._said))))
        self._write(LETTERS * room)
        if self.shortened is not None or self.tokens > FULL * window:
            self.shortened = _shorter(self._said, room, _standing(self._org, self._spec, self._state))
            self._write(LETTERS * room)

    def _write(self, room: float) -> None:
        heard = heard_before(self._org, self._spec, self._state, self._letters, CHARACTERS * room)
        self.heard = [*heard, *self._notes]
        said = self._said if self.shortened is None else _shortened(self._said, self.shortened)
        self.messages = [self._system, *said, *(HumanMessage(text) for text in self.heard)]


def past_of(org: Organisation, state: AgentState, row: CallRow) -> Past:
    """What an agent goes on with whose conversation was made shorter before this call."""
    assert row.shortened is not None
    messages = _shortened(said_so_far(org, state), row.shortened, earlier_in(row))
    return Past(messages=messages, before=0, compacted=len(messages))


def task_of(said: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What an agent was told at first."""
    return _parts(said)[0]


def _shorter(said: Sequence[BaseMessage], room: int, standing: Sequence[str]) -> Shortened | None:
    """The last turns that there is room for, and a line of each before. None where nothing would become shorter.

    `room` is for tokens beside the task.
    """
    _, lines, turns = _parts(said)
    kept = _last(turns, int(TURNS * room))
    last = kept[-1] if kept else []
    longest = _longest(last, int((1 - LETTERS - EARLIER) * room))
    old = turns[: len(turns) - len(kept)]
    if not old and longest is None:
        return None
    lines += [line for turn in old for line in _in_lines(turn)]
    earlier = _told(lines, max(_LINE, int(CHARACTERS * EARLIER * room)), standing)
    return Shortened(earlier, sum(map(len, kept)), longest)


def _shortened(said: Sequence[BaseMessage], how: Shortened, earlier: HumanMessage | None = None) -> list[BaseMessage]:
    """The task, what is told of earlier turns, and the last ones."""
    messages = list(said[len(said) - how.kept :])
    if how.longest is not None:
        last = next(i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], AIMessage))
        messages[last:] = [_cut(message, how.longest) for message in messages[last:]]
    return [*task_of(said), earlier or HumanMessage(how.earlier), *messages]


def _parts(said: Sequence[BaseMessage]) -> tuple[list[BaseMessage], list[str], list[list[BaseMessage]]]:
    """What the agent was told at first, the lines of what was put away before, and its turns since.

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
        taken += weigh(turns[first - 1])
        if taken > room and first < len(turns):
            break
        first -= 1
    return list(turns[first:])


def _longest(turn: Sequence[BaseMessage], room: int) -> int | None:
    """How long a message after the turn's answer may be for there to be room for all; None where there is."""
    lengths = [len(message.text) for message in turn[1:]]
    if weigh(turn) <= room or not lengths:
        return None
    most = max(_LEAST, evenly(lengths, CHARACTERS * (room - weigh(turn[:1]))))
    return int(most) if most < max(lengths) else None


def _cut(message: BaseMessage, most: int) -> BaseMessage:
    text = message.text
    if isinstance(message, AIMessage) or len(text) <= most:
        return message
    less = f"{text[:most]}\n(cut: there was no room for all {len(text):,} characters)"
    return message if len(less) >= len(text) else message.model_copy(update={"content": less})


def _in_lines(turn: Sequence[BaseMessage]) -> Iterator[str]:
    """A line for what the agent did, and one for each letter that it heard after it."""
    answer, rest = turn[0], turn[1:]
    assert isinstance(answer, AIMessage)
    results = {message.tool_call_id: message.text for message in rest if isinstance(message, ToolMessage)}
    done = [_flat(answer.text, _PART)] if answer.text.strip() else []
    for call in (*answer.tool_calls, *answer.invalid_tool_calls):
        what = f"{call['name']} {_flat(str(call['args']), _PART)}"
        done.append(f"{what} → {_flat(results.get(call['id'] or '', ''), _PART)}")
    step = _step(rest)
    yield f"- {f'step {step}: ' if step else ''}{'; '.join(done)}"[:_LINE]
    for message in rest:
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


def _told(lines: Sequence[str], most: int, standing: Iterable[str]) -> str:
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


def _flat(text: str, most: int) -> str:
    return " ".join(text.split())[:most]
