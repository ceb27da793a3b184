"""What happens in a run, as typed events: one kind for each thing that can happen, with data of a known shape.

Every kind but `token` is kept as a row; `megagraph/stream.py` is how they are followed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NotRequired, TypedDict, get_args

from megagraph.specs import Letter, Report

VERSION = 1
"""The version of the events' shape. It grows when a kind or a field changes its meaning, not when one is added."""

EventKind = Literal[
    "branched",
    "run_started",
    "run_resumed",
    "run_paused",
    "run_ended",
    "recruited",
    "waiting",
    "thinking",
    "token",
    "thought",
    "tool_started",
    "tool",
    "file",
    "letter",
    "reported",
    "accepted",
    "sent_back",
    "withdrawn",
    "reminded",
    "asking",
    "answered",
    "retry",
    "bad_answer",
    "failed",
    "limit",
    "unpriced",
    "guard",
    "compacted",
    "closed",
    "check",
]

KINDS: frozenset[EventKind] = frozenset(get_args(EventKind))
"""All of them. Following with `kinds=KINDS` asks for the tokens too."""

TOLD, TOLD_OF_LETTERS = 200, 500
"""Characters of a tool's argument or result, and of a letter, that those who watch are told."""

BEGINNINGS: frozenset[EventKind] = frozenset({"run_started", "run_resumed", "branched"})
"""The kinds before which nobody worked since the event before them."""

TOKENS: frozenset[EventKind] = frozenset({"token"})
"""The kinds that are made for those who ask for them, and not kept."""


def shortened(value: Any) -> Any:
    """An argument of a tool as those who watch are told it."""
    if isinstance(value, bool | int | float | None):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:TOLD]


@dataclass(frozen=True)
class Event:
    """One thing that happened. `agent` is empty for what concerns the whole run."""

    seq: int
    """Its place among the events of the run, from 1. A token, which is not kept, has that of the event before it."""
    time: float
    """Seconds since the epoch."""
    kind: EventKind
    agent: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the kind says: a `TypedDict` of this module, by `DATA`."""

    def dump(self) -> dict[str, Any]:
        """The event as plain JSON, with the version of its shape."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Event:
        return cls(data["seq"], data["time"], data["kind"], data["agent"], data["data"])


@dataclass(frozen=True)
class News:
    """What an event is to say, before it is made: it has no number and no time yet."""

    kind: EventKind
    agent: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Branched(TypedDict):
    """The run was cut from another one; what comes before is its parent's."""

    parent: str
    at: str


class Begun(TypedDict):
    """A process begins to work on the run."""

    model: str
    rehearsal: bool
    note: str


class Paused(TypedDict):
    """The process has stopped before the end."""

    reason: str


class Ended(TypedDict):
    """The run is done."""

    passed: bool


class Recruited(TypedDict):
    """An agent has been recruited."""

    lead: str
    role: str
    depends_on: list[str]
    deliverables: list[str]


class Waiting(TypedDict):
    """It waits: for its team, for those it depends on, or for letters."""

    why: str


class Thinking(TypedDict):
    """A model call begins."""

    step: int


class Token(TypedDict):
    """A piece of an answer as it is written: of its text, or of the arguments of a call of `tool`."""

    step: int
    text: str
    tool: str


class Thought(TypedDict):
    """The model call was answered."""

    step: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cost: float | None
    """US dollars; None where the price is not known."""
    calls: list[str]
    """The tools asked for."""
    text: str
    """The beginning of the text."""


class ToolStarted(TypedDict):
    """A tool call begins; the call is number `index` of its turn."""

    tool: str
    step: int
    index: int
    args: dict[str, Any]
    """Its arguments, long ones cut."""


class ToolEnded(TypedDict):
    """A tool call has ended."""

    tool: str
    step: int
    index: int
    ok: bool
    seconds: float
    result: str
    """Its beginning."""


class FileChanged(TypedDict):
    """A shared file was changed by the agent, itself or by a program it ran."""

    path: str
    change: Literal["written", "moved", "deleted"]
    version: str
    """The commit; empty for what is deleted."""
    merged_over: list[str]
    """The agents whose changes were merged with it."""


class LetterSent(TypedDict):
    """A letter was sent; `about` is its kind, `letter` its id."""

    to: str
    letter: str
    about: str
    text: str


class Found(TypedDict):
    """What a check found in one version of the files."""

    check: str
    passed: bool
    detail: str
    """Its beginning."""
    version: str
    """The commit."""


class Reported(TypedDict):
    """It has handed in its work."""

    summary: str
    missing: list[str]
    evidence: list[Found]
    """Where it is accepted, the event of that has the evidence."""


class Accepted(TypedDict):
    """The report was accepted: nothing is missing, and who depends on it may start."""

    why: str
    """Why it is accepted again; empty where it was just handed in."""
    evidence: list[Found]


class SentBack(TypedDict):
    """Its work was not accepted as it is, and it goes on with it."""

    by: str
    """The lead whose letter woke it after its report; empty where `finish` was refused."""
    missing: list[str]
    """What is missing, or what the lead writes."""
    evidence: list[Found]


class Withdrawn(TypedDict):
    """Its accepted work was changed since, and does not hold any more."""

    why: str
    evidence: list[Found]


class Reminded(TypedDict):
    """It stopped with something missing, and was told so, once."""

    missing: list[str]
    evidence: list[Found]


class Asking(TypedDict, total=False):
    """It asks a person (`id`, `question`, `about`: the kind of the question), and then waits for the answer (`why`)."""

    id: str
    question: str
    about: str
    why: str


class Answered(TypedDict):
    """The person's answer has come."""

    id: str
    answer: str


class Retried(TypedDict):
    """A model call failed and is made again; tokens of the step that have come are void."""

    step: int
    reason: str
    delay: float


class BadAnswer(TypedDict):
    """The model's answer, or the call of a tool in it, could not be used as it was."""

    step: int
    why: str
    tool: NotRequired[str]


class Failed(TypedDict):
    """An agent could not go on, or, with `tool`, one of its tools broke."""

    error: str
    tool: NotRequired[str]
    problem: NotRequired[str]
    """What kind of problem the agent's is."""


class LimitMet(TypedDict):
    """A limit of the run is nearly used, and the boss is told; or it is reached, and the run stops."""

    limit: str
    used: float
    allowed: float
    reached: bool
    why: str


class Unpriced(TypedDict):
    """The price of a model is not known, so costs are not either."""

    model: str
    why: str


class Guarded(TypedDict):
    """An agent goes in circles: a `note` to it, then one to its `lead`, then a `stop`."""

    guard: str
    level: str
    why: str


class Compacted(TypedDict):
    """Its conversation had become too long for its model, and goes on as a shorter one."""

    step: int
    """The step before which it was."""
    before: int
    after: int
    """Messages it had, and has."""


class Closed(TypedDict):
    """Its work is over."""


class Checked(TypedDict):
    """The verdict of a check."""

    check: str
    passed: bool
    detail: str


DATA: Mapping[EventKind, type] = {
    "branched": Branched,
    "run_started": Begun,
    "run_resumed": Begun,
    "run_paused": Paused,
    "run_ended": Ended,
    "recruited": Recruited,
    "waiting": Waiting,
    "thinking": Thinking,
    "token": Token,
    "thought": Thought,
    "tool_started": ToolStarted,
    "tool": ToolEnded,
    "file": FileChanged,
    "letter": LetterSent,
    "reported": Reported,
    "accepted": Accepted,
    "sent_back": SentBack,
    "withdrawn": Withdrawn,
    "reminded": Reminded,
    "asking": Asking,
    "answered": Answered,
    "retry": Retried,
    "bad_answer": BadAnswer,
    "failed": Failed,
    "limit": LimitMet,
    "unpriced": Unpriced,
    "guard": Guarded,
    "compacted": Compacted,
    "closed": Closed,
    "check": Checked,
}
"""The shape of each kind's data."""


def news_of_letters(letters: Iterable[Letter]) -> list[News]:
    """That these were sent."""
    return [
        News("letter", x.sender, {"to": x.to, "letter": x.id, "about": x.kind, "text": x.text[:TOLD_OF_LETTERS]})
        for x in letters
    ]


def news_of_closed(names: Iterable[str]) -> list[News]:
    """That these agents' work is over."""
    return [News("closed", name) for name in names]


def news_of_report(name: str, report: Report, evidence: Sequence[Found] = ()) -> list[News]:
    """That an agent has handed in its work, and, if nothing is missing, on what evidence it is accepted."""
    found = [] if report.accepted else list(evidence)
    told = {"summary": report.summary[:500], "missing": list(report.missing), "evidence": found}
    news = [News("reported", name, told)]
    if report.accepted:
        news.append(News("accepted", name, {"why": "", "evidence": list(evidence)}))
    return news
