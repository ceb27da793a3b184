"""What a report tells of a run. All times are milliseconds that the run had worked, pauses not counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from megagraph.specs import Verdict

Span: TypeAlias = tuple[int, int, str]
"""From, until, and the state of an agent between them, as `View` names it."""


@dataclass(frozen=True)
class Facts:
    """The run as a whole."""

    id: str
    goal: str
    scenario: str
    model: str
    status: str
    standing: str
    """How it stands, in a few words."""
    passed: bool
    reason: str
    rehearsal: bool
    created: float
    """Seconds since the epoch."""
    told: float
    """When this was collected."""
    worked: int
    """Milliseconds from its first event to its last."""
    breaks: tuple[int, ...]
    """Where a process ended and another one went on."""
    judged: int | None
    """When the boss had finished, and the checks began."""
    not_done: tuple[str, ...]
    retries: int
    bad_answers: int


@dataclass
class Member:
    """One agent, and what it has used."""

    name: str
    lead: int
    """The place of its lead among the agents; -1 for the boss."""
    role: str
    state: str
    note: str
    depends_on: tuple[int, ...]
    recruited: int
    spans: list[Span]
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = 0.0
    """None where the price of one of its calls is not known."""
    thinking: float = 0.0
    """Seconds in model calls."""
    tools: int = 0
    refused: int = 0
    """Tool calls that were answered with a no."""


@dataclass(frozen=True)
class Mail:
    """One letter. The numbers are places among the agents; -1 is who is none, such as the system or a person."""

    sender: int
    by: str
    to: int
    kind: str
    sent: int
    text: str


@dataclass(frozen=True)
class ToolUse:
    """One tool call: its arguments by name, and what came of it; `ok` is None while it is not finished."""

    tool: str
    args: tuple[tuple[str, str], ...]
    ok: bool | None = None
    result: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Turn:
    """One answered model call: what was heard since the one before, what was said, what was done."""

    step: int
    at: int
    seconds: float
    model: str
    input_tokens: int
    output_tokens: int
    cost: float | None
    retries: int
    heard: tuple[str, ...]
    mail: tuple[int, ...]
    """Places of the letters that were read with it."""
    said: str
    calls: tuple[ToolUse, ...]


@dataclass(frozen=True)
class FileChange:
    """One change of one file. `agent` is `input` where it came with the run's material."""

    agent: str
    time: float
    status: str
    effect: str
    merged_over: tuple[str, ...]
    added: int
    removed: int
    patch: str


@dataclass
class File:
    """One file, and its changes, the newest first. `size` is None where it was deleted."""

    path: str
    size: int | None
    changes: list[FileChange] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """What an agent asked a person."""

    agent: str
    question: str
    answer: str | None


@dataclass
class Story:
    """A run, whole. `page` shortens its texts where they are too many for one page."""

    facts: Facts
    report: str
    members: list[Member]
    verdicts: list[Verdict]
    questions: list[Question]
    mail: list[Mail]
    files: list[File]
    reports: dict[int, str]
    """What agents have handed in last."""
    turns: dict[int, list[Turn]]
    older_changes: bool = False
    """Whether files have changed so often that only the newest changes were read."""
