"""What the rows and the files of a run say about who learned what from whom."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megagraph.branches.moves import Move, Moves, read_moves
from megagraph.files.history import Change
from megagraph.files.workspace import Workspace
from megagraph.home import Home
from megagraph.journal import effects_of
from megagraph.specs import AgentSpec

_VERSION = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Member:
    """One agent's row."""

    row: int
    spec: AgentSpec
    effect: str
    """The tool call that recruited it."""
    recruited: float
    closed: float | None


@dataclass(frozen=True)
class Called:
    """One model call's row."""

    row: int
    agent: str
    step: int
    started: float
    seconds: float
    letters: tuple[str, ...]
    cost: float | None
    model: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Did:
    """One tool call's row."""

    row: int
    agent: str
    step: int
    index: int
    tool: str
    args: Mapping[str, Any]
    started: float
    ended: float
    ok: bool
    result: str
    effects: Mapping[str, Any]
    version: str

    @property
    def effect(self) -> str:
        return f"{self.agent}/{self.step}/{self.index}"


@dataclass(frozen=True)
class Sent:
    """One letter's row."""

    row: int
    id: str
    sender: str
    recipient: str
    kind: str
    sent: float
    settles: tuple[str, ...] = ()
    """The letters that a failure answered."""

    @property
    def of_system(self) -> bool:
        """Whether no move of any agent sent it."""
        return self.kind == "notice" and self.id.startswith("notice/")

    @property
    def withdrawal(self) -> tuple[str, str] | None:
        """Whose acceptance it tells was withdrawn, and the first 12 digits of the version, where it is about that."""
        _, _, rest = self.id.partition("/")
        agent, _, version = rest.partition("/")
        return (agent, version[:12]) if self.of_system and _VERSION.fullmatch(version) else None


@dataclass(frozen=True)
class Finding:
    """One row of what checks have found."""

    row: int
    id: str
    agent: str
    found: float

    @property
    def again(self) -> bool:
        """Whether accepted work was examined again."""
        return self.id.split("/")[2] == "again"


@dataclass
class Evidence:
    """All of it."""

    run: str
    moves: Moves
    members: dict[str, Member]
    calls: list[Called]
    """Those of agents."""
    tools: list[Did]
    """Those of agents."""
    letters: dict[str, Sent]
    changes: Sequence[Change]
    """The changes of the files, the oldest first."""
    workspace: Workspace
    findings: list[Finding]
    """What checks have found, the oldest first."""
    review_calls: list[Called]
    """The model calls of reviewers."""
    review_tools: list[Did]
    """The tool calls of reviewers."""
    below: dict[str, list[str]] = field(default_factory=dict)
    """Everybody below an agent, at any depth."""
    first_call: dict[str, float] = field(default_factory=dict)
    """When each agent made its first model call."""
    tools_of: dict[tuple[str, int], list[Did]] = field(default_factory=dict)
    """The tool calls of one turn of an agent."""
    reports: dict[str, list[Sent]] = field(default_factory=dict)
    """What each agent has handed in, the oldest first."""
    revised: dict[tuple[str, str], float] = field(default_factory=dict)
    """When an agent's accepted work was examined again in a version, given by its first 12 digits."""

    def __post_init__(self) -> None:
        for name, member in self.members.items():
            self.below.setdefault(name, [])
            lead = member.spec.lead
            while lead:
                self.below.setdefault(lead, []).append(name)
                lead = self.members[lead].spec.lead
        for call in self.calls:
            self.first_call.setdefault(call.agent, call.started)
        for did in self.tools:
            self.tools_of.setdefault((did.agent, did.step), []).append(did)
        for letter in self.letters.values():
            if letter.kind in ("report", "failure"):
                self.reports.setdefault(letter.sender, []).append(letter)
        for finding in self.findings:
            if finding.again:
                self.revised.setdefault((finding.agent, finding.id.split("/")[1]), finding.found)

    def place_of_letter(self, letter: Sent) -> tuple[str, int] | None:
        """The agent and the move that sent a letter; None for the system's own."""
        agent, _, rest = letter.id.partition("/")
        if letter.of_system or agent not in self.members:
            return None
        step, _, what = rest.partition("/")
        return agent, self._place(agent, int(step), what)

    def place_of_effect(self, effect: str) -> tuple[str, int] | None:
        """The agent and the move of a tool call; None for what no agent did."""
        parts = effect.split("/")
        if len(parts) < 3 or parts[0] not in self.members:
            return None
        return parts[0], self.moves.index(parts[0], "act", int(parts[1]))

    def place_of_occasion(self, id_: str) -> tuple[str, int] | None:
        """The agent and the move that checks were carried out for, by the id of what they found.

        None for those at the end of a run, and where accepted work was examined again.
        """
        agent, step, what = id_.split("/")[:3]
        if step == "end" or what == "again":
            return None
        return agent, self.moves.index(agent, "think" if what == "end" else "act", int(step))

    def _place(self, agent: str, step: int, what: str) -> int:
        if what[:1].isdigit():
            return self.moves.index(agent, "act", step)
        if what == "failure":
            return self._failure(agent, step)
        return self.moves.index(agent, "wait" if what == "stand" else "think", step)

    def _failure(self, agent: str, step: int) -> int:
        """A failure is named after the last step that was done, or after the one that it ends."""
        moves = self.moves.of(agent)

        def fits(move: Move) -> bool:
            near = step in (move.step, move.step - 1) if move.node == "think" else move.step == step
            return near and move.report is not None and bool(move.report["failed"])

        return next((i for i, move in enumerate(moves) if fits(move)), max(0, len(moves) - 1))


def gather(home: Home, run: str) -> Evidence:
    """Read it all. Blocks."""
    read, workspace = home.database.read, home.workspace(run)
    members = {
        row["name"]: Member(
            row["id"],
            AgentSpec.load(json.loads(row["spec"])),
            row["effect"],
            row["recruited"],
            row["closed"],
        )
        for row in read("SELECT rowid AS id, * FROM agents WHERE run = ? ORDER BY rowid", (run,))
    }
    calls = [
        Called(
            row["id"],
            row["agent"],
            row["step"],
            row["started"],
            row["seconds"],
            tuple(json.loads(row["letters"])),
            row["cost"],
            row["model"],
            row["input_tokens"],
            row["output_tokens"],
        )
        for row in read(
            "SELECT rowid AS id, agent, step, started, seconds, letters, cost, model, input_tokens, output_tokens"
            " FROM calls WHERE run = ? ORDER BY started, rowid",
            (run,),
        )
    ]
    tools = [
        Did(
            row["id"],
            row["agent"],
            row["step"],
            row["idx"],
            row["tool"],
            json.loads(row["args"]),
            row["started"],
            row["started"] + row["seconds"],
            bool(row["ok"]),
            row["result"],
            effects_of(row["effects"]),
            row["version"] or "",
        )
        for row in read("SELECT rowid AS id, * FROM tool_calls WHERE run = ? ORDER BY rowid", (run,))
    ]
    letters = {
        row["id"]: Sent(
            row["rowid"],
            row["id"],
            row["sender"],
            row["recipient"],
            row["kind"],
            row["sent"],
            tuple(json.loads(row["settles"] or "[]")),
        )
        for row in read(
            "SELECT rowid, id, sender, recipient, kind, sent, settles FROM letters WHERE run = ? ORDER BY rowid",
            (run,),
        )
    }
    moves = read_moves(home.saver, run)
    findings = [
        Finding(row["rowid"], row["id"], row["agent"], row["found"])
        for row in read("SELECT rowid, id, agent, found FROM evidence WHERE run = ? ORDER BY found, rowid", (run,))
    ]
    return Evidence(
        run,
        moves,
        members,
        [call for call in calls if call.agent in members],
        [did for did in tools if did.agent in members],
        letters,
        workspace.changes(),
        workspace,
        findings,
        [call for call in calls if call.agent not in members],
        [did for did in tools if did.agent not in members],
    )
