"""Everything the agents of a run did, move by move, as their checkpoints tell it.

A move is one node of an agent's graph that was carried out, or is to be: it begins at a checkpoint. An agent's moves
are in one or more namespaces: its own, and one for each desk it sat at. The order of the checkpoints is their order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from megagraph.saver import Saver
from megagraph.specs import BOSS
from megagraph.team import DESK

_SPECIAL = ("__interrupt__", "__resume__", "__error__", "__scheduled__")
_BRANCH = "branch:to:"
_TOLD = frozenset({"step", "seen", "report", "told"})
"""The channels that say what a move was."""
_GREGORIAN = 0x01B21DD213814000
"""Tenths of a microsecond between the beginning of the Gregorian calendar and that of 1970."""


@dataclass(frozen=True)
class Move:
    """One node of one agent, from a checkpoint to the next."""

    agent: str
    node: str
    """`think`, `act`, `wait`, `team`; `edit` is a change from outside, empty what cannot be known."""
    step: int
    """The number of the model call that it makes or follows."""
    namespace: str
    checkpoint: str
    """The checkpoint it begins at."""
    begun: float
    ended: float = math.inf
    """Seconds since the epoch; infinite where no checkpoint follows yet."""
    done: bool = False
    goto: str = ""
    """The node it leads to; empty where it ended its loop, or is not done."""
    letters: tuple[str, ...] = ()
    """The letters it read."""
    report: Mapping[str, Any] | None = None
    """The report it handed in, plain."""
    told: bool = False
    """It looked for what is missing and told the agent."""

    @property
    def address(self) -> str:
        return f"{self.agent}:{self.node or 'next'}#{self.step}"


@dataclass
class Moves:
    """The moves of all agents of a run, and where their namespaces hang."""

    by_agent: dict[str, list[Move]] = field(default_factory=dict)
    parents: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """For each namespace: at which checkpoint of each namespace above it its own path went on."""

    strays: list[tuple[str, str]] = field(default_factory=list)
    """Namespace and id of the checkpoints of forks that LangGraph's own calls have made in place."""
    _places: dict[tuple[str, str, int], int] | None = None

    def of(self, agent: str) -> list[Move]:
        return self.by_agent.get(agent, [])

    def __iter__(self) -> Iterator[Move]:
        for moves in self.by_agent.values():
            yield from moves

    def index(self, agent: str, node: str, step: int) -> int:
        """The place of the first move of this kind and step; the last place where no checkpoint tells of it yet."""
        if self._places is None:
            self._places = {}
            for name, moves in self.by_agent.items():
                for i, move in enumerate(moves):
                    self._places.setdefault((name, move.node, move.step), i)
        return self._places.get((agent, node, step), max(0, len(self.of(agent)) - 1))


def time_of(checkpoint: str) -> float:
    """When a checkpoint was made, in seconds since the epoch: its id is a UUID of version 6."""
    number = UUID(checkpoint).int
    ticks = (number >> 80) << 12 | (number >> 64) & 0xFFF
    return (ticks - _GREGORIAN) / 1e7


def owner_of(namespace: str) -> str:
    """Whose loop a namespace holds; empty for a team's own."""
    names = [part.partition(":")[0] for part in namespace.split("|")] if namespace else []
    if names and names[-1] == "team":
        return ""
    return next((name for name in reversed(names) if name not in ("team", DESK)), BOSS)


@dataclass
class _Task:
    """What one task wrote at a checkpoint."""

    node: str
    values: dict[str, Any] = field(default_factory=dict)
    goto: str = ""
    letters: tuple[str, ...] = ()


@dataclass
class _Lines:
    """The checkpoints that the organisation itself made, by namespace."""

    lines: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """(id, source) of each, the oldest first."""
    parents: dict[str, Mapping[str, str]] = field(default_factory=dict)
    strays: list[tuple[str, str]] = field(default_factory=list)


def forked(saver: Saver, run: str) -> bool:
    """Whether LangGraph's own calls have forked the thread of a run in place. Blocks."""
    return bool(_read_lines(saver, run).strays)


def read_moves(saver: Saver, run: str) -> Moves:
    """Read them from the checkpoints. Blocks."""
    found = _read_lines(saver, run)
    tasks: dict[tuple[str, str], dict[str, _Task]] = {}
    for write in saver.writes_of(run, _TOLD):
        if write.channel in _SPECIAL or not owner_of(write.namespace):
            continue
        at = tasks.setdefault((write.namespace, write.checkpoint), {})
        task = at.setdefault(write.task, _Task(write.path.rpartition(", ")[2]))
        if write.channel.startswith(_BRANCH):
            task.goto = write.channel.removeprefix(_BRANCH)
        elif write.value is not None:
            task.values[write.channel] = write.value
    moves = Moves(parents=found.parents, strays=found.strays)
    for namespace, line in found.lines.items():
        if agent := owner_of(namespace):
            moves.by_agent.setdefault(agent, []).extend(_moves_in(agent, namespace, line, tasks))
    for list_ in moves.by_agent.values():
        list_.sort(key=lambda move: move.checkpoint)
    return moves


def _read_lines(saver: Saver, run: str) -> _Lines:
    by_namespace: dict[str, list[tuple[str, str | None, str]]] = {}
    found = _Lines()
    for row in saver.checkpoints_of(run):
        found.parents.setdefault(row.namespace, row.metadata.get("parents", {}))
        entry = (row.checkpoint, row.parent, str(row.metadata.get("source")))
        by_namespace.setdefault(row.namespace, []).append(entry)
    busy = {place for parents in found.parents.values() for place in parents.items()}
    strays: set[tuple[str, str]] = set()
    # Namespaces come in the order of their names, and so each after those above it.
    for namespace, checkpoints in by_namespace.items():
        line = [] if strays & set(found.parents[namespace].items()) else _line(namespace, checkpoints, busy)
        on_it = {id_ for id_, _ in line}
        strays |= {(namespace, id_) for id_, _, _ in checkpoints if id_ not in on_it}
        if line:
            found.lines[namespace] = line
        else:
            del found.parents[namespace]
    found.strays = sorted(strays)
    return found


def _line(
    namespace: str, checkpoints: Sequence[tuple[str, str | None, str]], busy: Collection[tuple[str, str]]
) -> list[tuple[str, str]]:
    """(id, source) of the checkpoints that the organisation itself made in a namespace, the oldest first.

    Where LangGraph's own calls forked it in place, a checkpoint has a second child, which is later; or the only one,
    while a team was at work below it.
    """
    following: dict[str | None, tuple[str, str]] = {}
    for id_, parent, source in checkpoints:
        if source != "fork" and not (source == "update" and (namespace, parent) in busy):
            following.setdefault(parent, (id_, source))
    line: list[tuple[str, str]] = []
    here: str | None = None
    while here in following:
        line.append(following[here])
        here = line[-1][0]
    return line


def _moves_in(
    agent: str, namespace: str, line: Sequence[tuple[str, str]], tasks: Mapping[tuple[str, str], Mapping[str, _Task]]
) -> Iterator[Move]:
    step, node = 0, ""
    for i, (id_, source) in enumerate(line):
        later = line[i + 1] if i + 1 < len(line) else None
        here = list(tasks.get((namespace, id_), {}).values())
        task = here[-1] if here else None
        edited = later is not None and later[1] == "update"
        if source == "input" and (task is not None or later is not None):
            # What it begins with: no move of the agent's.
            step, node = int((task.values if task else {}).get("step", step)), task.goto if task else ""
            continue
        done = task is not None or later is not None
        name = "edit" if edited else task.node if task else node
        written = task.values if task else {}
        # A team hands back the number of the desk's last call.
        number = step if name == "team" else int(written.get("step", step))
        if name == "think" and number == step:
            number += 1
        goto = task.goto if task else ""
        # What the team hands back was the desk's, and is told of there.
        told = name in ("think", "act", "wait")
        if name != "edit" and not done and i and not node:
            # The loop has come to its end: nothing follows.
            return
        yield Move(
            agent,
            name,
            number,
            namespace,
            id_,
            time_of(id_),
            time_of(later[0]) if later else math.inf,
            done,
            goto,
            tuple(written.get("seen") or ()) if name in ("think", "act") else (),
            written.get("report") if told else None,
            bool(written.get("told")) and name == "think",
        )
        step, node = int(written.get("step", step)), _next(agent, namespace, name, goto, task)


def _next(agent: str, namespace: str, name: str, goto: str, task: _Task | None) -> str:
    """The node that follows. Where a team ends, its lead's seat decides, as `after_report` says."""
    if name != "team" or goto:
        return goto
    last = namespace.rpartition("|")[2].partition(":")[0]
    return "wait" if last not in ("", DESK) else ""
