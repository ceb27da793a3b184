"""The plain data of an organisation: what an agent is told, what it hands in, what it is sent.

All of it is checkpointed or stored, so it stays JSON-plain.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
"""A legal agent name. It becomes a graph node, so `:` and `|` can never be in it."""

RESERVED_NAMES = frozenset({"boss", "desk", "human", "think", "act", "team", "wait", "input", "everyone"})
"""Names that a recruit cannot have: graph nodes, and senders of letters that are not agents."""

BOSS = "boss"


def owner_of(name: str) -> str:
    """Whose work a model call counts for: the agent itself, or the one whose work a reviewer looks at."""
    return name.partition(".")[0]


Seat = Literal["boss", "member", "desk"]
"""Where an agent's loop runs: at the root, as a member of a team, or at the desk of the team it leads."""

LetterKind = Literal["message", "report", "failure", "notice", "aside"]
"""`notice` is from the system itself; an `aside` wakes nobody and is read with the next letter or turn."""


def _plain(found: AgentSpec | Report) -> dict[str, Any]:
    """Its fields, with lists in the place of tuples."""
    values = ((name, getattr(found, name)) for name in found.__slots__)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent is told when it is recruited."""

    name: str
    role: str
    instructions: str
    deliverables: tuple[str, ...] = ()
    """Paths of files that must exist when the agent reports."""
    depends_on: tuple[str, ...] = ()
    """Team mates whose accepted report this agent waits for."""
    lead: str = ""
    """Who recruited it; empty for the boss."""
    depth: int = 0
    """0 for the boss, 1 for its recruits, and so on."""
    wave: int = 0
    """How many teams its lead had opened before the one this agent is in."""
    inside: int | None = None
    """How many of those teams its own is inside of, where it is not all of them."""
    part: dict[str, float] = field(default_factory=dict)
    """What it and everybody below it may use of the run's limits, where that is bounded."""
    checks: tuple[dict[str, Any], ...] = ()
    """What its lead wants to be shown before it accepts the work: checks in their plain form."""

    def dump(self) -> dict[str, Any]:
        return _plain(self)

    @classmethod
    def load(cls, data: dict[str, Any]) -> AgentSpec:
        lists = {key: tuple(data.get(key, ())) for key in ("deliverables", "depends_on", "checks")}
        return cls(**{**data, **lists})


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent hands in with `finish`, or with a turn that asks for nothing."""

    summary: str
    artefacts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What it owed and did not hand in: deliverables that are not there, checks that fail, todos left open."""
    failed: bool = False
    version: str = ""
    """The version of the files that its evidence is of; empty where there was nothing to look at."""
    withdrawn: tuple[str, ...] = ()
    """What does not hold any more since it was accepted, because files were changed."""

    @property
    def accepted(self) -> bool:
        """True where nothing is missing, so that dependents may start."""
        return not (self.failed or self.missing or self.withdrawn)

    @property
    def lacks(self) -> tuple[str, ...]:
        """All that keeps it from being accepted, other than a failure."""
        return (*self.missing, *self.withdrawn)

    def dump(self) -> dict[str, Any]:
        return _plain(self)

    @classmethod
    def load(cls, data: dict[str, Any]) -> Report:
        lists = {key: tuple(data.get(key, ())) for key in ("artefacts", "missing", "withdrawn")}
        return cls(**{**data, **lists})

    def text(self) -> str:
        """The report as its lead reads it."""
        lines = [self.summary.strip() or "(no summary)"]
        if self.artefacts:
            lines.append("Artefacts: " + ", ".join(self.artefacts))
        if self.missing:
            lines.append("Missing: " + ", ".join(self.missing))
        if self.withdrawn:
            lines.append("Does not hold any more: " + ", ".join(self.withdrawn))
        return "\n".join(lines)


LETTER = re.compile(r'<letter from="([^"]*)" kind="([^"]*)">\n(.*?)\n</letter>', re.S)
"""Sender, kind and text of a letter as its reader sees it."""
_FOLDED = re.compile(r"^- (\w+) \((message|report|failure|notice|aside)\): (.*)$", re.M)


@dataclass(frozen=True)
class Letter:
    """One message between two agents. `id` is `sender/step/index`, the same again after a crash."""

    id: str
    sender: str
    to: str
    kind: LetterKind
    text: str
    settles: tuple[str, ...] = ()
    """Of a failure: the letters that its sender had not come to, and does not owe a turn any more."""

    def render(self) -> str:
        """The letter as its reader sees it. The text cannot close the letter or forge another."""
        return rendered(self.sender, self.kind, _unmarked(self.text))


def rendered(sender: str, kind: str, text: str) -> str:
    """A letter as its reader sees it, of a text that cannot close it."""
    return f'<letter from="{sender}" kind="{kind}">\n{text}\n</letter>'


def in_short(sender: str, kind: str, text: str) -> str:
    """A letter as one line."""
    return f"- {sender} ({kind}): {_unmarked(' '.join(text.split())[:160])}"


def _unmarked(text: str) -> str:
    """A text that can neither end a letter nor begin one."""
    return re.sub(r"<(/?letter)", r"‹\1", text)


def letters_in(text: str) -> list[tuple[str, str, str]]:
    """(sender, kind, text) of each letter in what somebody has heard, of the folded ones their line."""
    return [*_FOLDED.findall(LETTER.sub("", text)), *LETTER.findall(text)]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check."""

    check: str
    passed: bool
    detail: str = ""

    def dump(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What one check found, in one version of the files, when somebody's work was to be accepted."""

    id: str
    """The same again after a crash: what it was found for, and its place there."""
    agent: str
    """Whose work it is about; the boss's for the checks at the end of a run."""
    check: str
    passed: bool
    detail: str
    version: str

    def dump(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Todo:
    """An agent's own list."""

    open: tuple[str, ...] = ()
    done: tuple[str, ...] = field(default=())
