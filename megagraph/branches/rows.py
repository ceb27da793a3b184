"""The rows of a branch: those of its parent that are kept, under another run's id."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph.checkpoint.base import WRITES_IDX_MAP

from megagraph.branches.moves import Move
from megagraph.branches.plan import BranchPlan
from megagraph.database import Database, Statement
from megagraph.events import Event
from megagraph.ledger import Ledger
from megagraph.saver import stored_id

_CHECKPOINT = "checkpoint_id, parent_id, body"
_WRITE = "checkpoint_id, task_id, idx, body"
_IN = "namespace = (SELECT id FROM namespaces WHERE thread_id = ? AND checkpoint_ns = ?)"
_ERROR = WRITES_IDX_MAP["__error__"]
_AGENT = "name, lead, role, depth, wave, spec, effect, recruited, report, reported, closed, rested"
_CALL = (
    "agent, step, started, seconds, model, request, heard, letters, answer, input_tokens, output_tokens,"
    " cached_tokens, retries, cost, shortened"
)
_TOOL = "agent, step, idx, tool, args, started, seconds, ok, result, effects, version"
_LETTER = "id, sender, recipient, kind, text, sent, settles"
_EVIDENCE = 'id, agent, "check", passed, detail, version, found'
_QUESTION = "id, agent, question, kind, asked, answer, answered"
_EVENT = "seq, time, kind, agent, data"
_OF_RUN = ("run_started", "run_resumed", "run_paused", "unpriced", "branched")


@dataclass
class _Limits:
    """How far each namespace is kept."""

    until: dict[str, str] = field(default_factory=dict)
    """The last checkpoint of a namespace that is not kept whole."""
    leaves: set[str] = field(default_factory=set)
    """Those whose agent begins again at that checkpoint; in the others a task of it is still at work."""
    tasks: set[tuple[str, str, str]] = field(default_factory=set)
    """Tasks that have ended, and are at work again."""

    def add(self, plan: BranchPlan, move: Move) -> None:
        self._until(move.namespace, move.checkpoint)
        self.leaves.add(move.namespace)
        for namespace, checkpoint in plan.evidence.moves.parents[move.namespace].items():
            self._until(namespace, checkpoint)
            below = move.namespace[len(namespace) + 1 if namespace else 0 :].partition("|")[0]
            self.tasks.add((namespace, checkpoint, below.partition(":")[2]))

    def _until(self, namespace: str, checkpoint: str) -> None:
        self.until[namespace] = min(checkpoint, self.until.get(namespace, checkpoint))

    def drops(self, parents: Iterable[tuple[str, str]]) -> bool:
        """Whether a namespace that hangs there came later."""
        return any(
            checkpoint > self.until[namespace] or (checkpoint == self.until[namespace] and namespace in self.leaves)
            for namespace, checkpoint in parents
            if namespace in self.until
        )


def copied(plan: BranchPlan, branch: str, database: Database) -> tuple[list[Statement], list[Event]]:
    """The statements that copy what is kept, and the events among it."""
    events = list(_events(plan, Ledger(database, plan.run)))
    return [
        *_checkpoints(plan, branch),
        *_ledger(plan, branch),
        (
            f"INSERT INTO events (run, {_EVENT}) SELECT ?, {_EVENT} FROM events"
            " WHERE run = ? AND seq IN (SELECT value FROM json_each(?))",
            (branch, plan.run, json.dumps([event.seq for event in events])),
        ),
        *_changed_agents(plan, branch),
    ], events


def _checkpoints(plan: BranchPlan, branch: str) -> Iterator[Statement]:
    moves, limits = plan.evidence.moves, _Limits()
    for agent, place in plan.causes.cut.at.items():
        if place < len(moves.of(agent)):
            limits.add(plan, moves.of(agent)[place])
    dropped = [namespace for namespace, parents in moves.parents.items() if limits.drops(parents.items())]
    whole = [name for name in moves.parents if name not in limits.until and name not in set(dropped)]
    partly = {name: last for name, last in limits.until.items() if name not in set(dropped)}
    yield (
        "INSERT INTO namespaces (thread_id, checkpoint_ns, parents) SELECT ?, checkpoint_ns, parents FROM namespaces"
        " WHERE thread_id = ? AND checkpoint_ns IN (SELECT value FROM json_each(?)) ORDER BY id",
        (branch, plan.run, json.dumps([*whole, *partly])),
    )
    for table, columns in (("checkpoints", _CHECKPOINT), ("writes", _WRITE)):
        given = ", ".join(f"t.{column}" for column in columns.split(", "))
        copy = (
            f"INSERT INTO {table} (namespace, {columns}) SELECT new.id, {given} FROM namespaces old"
            " JOIN namespaces new ON new.checkpoint_ns = old.checkpoint_ns AND new.thread_id = ?"
            f" JOIN {table} t ON t.namespace = old.id WHERE old.thread_id = ?"
        )
        yield (
            f"{copy} AND old.checkpoint_ns IN (SELECT value FROM json_each(?)) ORDER BY t.rowid",
            (branch, plan.run, json.dumps(whole)),
        )
        for namespace, last in partly.items():
            less = "<" if table == "writes" and namespace in limits.leaves else "<="
            yield (
                f"{copy} AND old.checkpoint_ns = ? AND t.checkpoint_id {less} ? ORDER BY t.rowid",
                (branch, plan.run, namespace, stored_id(last)),
            )
    for namespace, checkpoint in moves.strays:
        for table in ("checkpoints", "writes"):
            yield f"DELETE FROM {table} WHERE {_IN} AND checkpoint_id = ?", (branch, namespace, stored_id(checkpoint))
    for namespace, checkpoint, task in limits.tasks:
        yield (
            f"DELETE FROM writes WHERE {_IN} AND checkpoint_id = ? AND task_id = ?",
            (branch, namespace, stored_id(checkpoint), stored_id(task)),
        )
    # Errors that LangGraph's own calls have left; those of an organisation are in its rows.
    yield (
        "DELETE FROM writes WHERE idx = ? AND namespace IN (SELECT id FROM namespaces WHERE thread_id = ?)",
        (_ERROR, branch),
    )


def _ledger(plan: BranchPlan, branch: str) -> Iterator[Statement]:
    evidence, causes = plan.evidence, plan.causes
    members = [m.row for name, m in evidence.members.items() if name not in causes.cut.removed]
    yield _by_row("agents", _AGENT, plan, branch, members)
    called = (*evidence.calls, *evidence.review_calls)
    yield _by_row("calls", _CALL, plan, branch, [c.row for c in called if plan.keeps_call(c)])
    done = (*evidence.tools, *evidence.review_tools)
    yield _by_row("tool_calls", _TOOL, plan, branch, [did.row for did in done if plan.keeps_tool(did)])
    found = [finding.row for finding in evidence.findings if causes.judged(finding.id, finding.found)]
    yield _by_row("evidence", _EVIDENCE, plan, branch, found)
    letters = [letter.row for letter in evidence.letters.values() if causes.sent(letter)]
    yield _by_row("letters", _LETTER, plan, branch, letters)
    left_out = json.dumps([*causes.cut.removed])
    yield (
        f"INSERT INTO questions (run, {_QUESTION}) SELECT ?, {_QUESTION} FROM questions"
        " WHERE run = ? AND agent NOT IN (SELECT value FROM json_each(?)) ORDER BY rowid",
        (branch, plan.run, left_out),
    )
    for agent, place in causes.cut.at.items():
        if (step := _first_act(evidence.moves.of(agent), place)) is not None:
            yield (
                "DELETE FROM questions WHERE run = ? AND agent = ? AND CAST(substr(id, ?) AS INTEGER) >= ?",
                (branch, agent, len(agent) + 2, step),
            )


def _first_act(moves: list[Move], place: int) -> int | None:
    """The first turn of an agent whose tool calls are left out."""
    if place >= len(moves):
        return None
    move = moves[place]
    return move.step if move.node in ("think", "act") else move.step + 1


def _by_row(table: str, columns: str, plan: BranchPlan, branch: str, rows: list[int]) -> Statement:
    return (
        f"INSERT INTO {table} (run, {columns}) SELECT ?, {columns} FROM {table}"
        " WHERE run = ? AND rowid IN (SELECT value FROM json_each(?)) ORDER BY rowid",
        (branch, plan.run, json.dumps(rows)),
    )


def _changed_agents(plan: BranchPlan, branch: str) -> Iterator[Statement]:
    """How those stood of whom something is left out."""
    cut = plan.causes.cut
    changed = {name for name, place in cut.at.items() if place < len(plan.evidence.moves.of(name))}
    # Where accepted work was examined again in what is left out, it counts as when it was handed in.
    changed |= {x.agent for x in plan.evidence.findings if x.again and not plan.causes.judged(x.id, x.found)}
    for name in sorted(changed - cut.removed):
        time, report = _handed_in(plan, name)
        yield (
            "UPDATE agents SET report = ?, reported = ?, rested = ? WHERE run = ? AND name = ?",
            (json.dumps(report, ensure_ascii=False) if report else None, time, _rested(plan, name), branch, name),
        )
    for name, member in plan.evidence.members.items():
        if member.closed is not None and name not in plan.causes.cut.removed and not plan.causes.closed(name):
            yield "UPDATE agents SET closed = NULL WHERE run = ? AND name = ?", (branch, name)


def _handed_in(plan: BranchPlan, name: str) -> tuple[float | None, Mapping[str, Any] | None]:
    """When an agent handed in its last report that is kept, and the report as it was then."""
    moves = plan.evidence.moves.of(name)
    kept = moves[: plan.causes.cut.at.get(name, len(moves))]
    handed_in = [(min(move.ended, move.begun + 1e9), move.report) for move in kept if move.report is not None]
    # One that was killed before its checkpoint has handed in all the same.
    handed_in += [
        (did.ended, did.effects["report"])
        for did in plan.evidence.tools
        if did.agent == name and "report" in did.effects and plan.keeps_tool(did)
    ]
    return max(handed_in, key=lambda each: each[0], default=(None, None))


def _rested(plan: BranchPlan, name: str) -> int | None:
    """The last turn of an agent that is kept, if it rested after it without a report."""
    moves = plan.evidence.moves.of(name)
    kept = moves[: plan.causes.cut.at.get(name, len(moves))]
    last = next((move for move in reversed(kept) if move.node == "think"), None)
    return last.step if last and last.goto == "wait" and last.report is None else None


def _events(plan: BranchPlan, ledger: Ledger) -> Iterator[Event]:
    until = {
        agent: moves[place].begun
        for agent, place in plan.causes.cut.at.items()
        if place < len(moves := plan.evidence.moves.of(agent))
    }
    for event in ledger.events():
        if _keeps(plan, event, until):
            yield event


def _keeps(plan: BranchPlan, event: Event, until: dict[str, float]) -> bool:
    evidence, causes = plan.evidence, plan.causes
    if event.agent not in evidence.members:
        if event.kind == "letter":
            letter = evidence.letters.get(str(event.data.get("letter")))
            return letter is not None and causes.sent(letter)
        return event.kind in _OF_RUN and event.time < plan.point.time
    if event.agent in causes.cut.removed:
        return False
    match event.kind:
        case "recruited":
            return True
        case "withdrawn" | "accepted":
            return causes.closed(event.agent) or causes.undisturbed(event.time)
        case "closed":
            return causes.closed(event.agent)
    return event.time < until.get(event.agent, math.inf)
