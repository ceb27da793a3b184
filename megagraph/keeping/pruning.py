"""Prune a home: delete the runs that a policy names, or only trim them, and clear what kills have left."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

from megagraph.errors import RunBusy, RunNotFound, UsageError
from megagraph.home import Home
from megagraph.keeping.deleting import Gone, delete_runs, trim_run
from megagraph.keeping.leftovers import Leftover, find_leftovers, remove_leftover
from megagraph.session import Status


@dataclass(frozen=True)
class Policy:
    """Which runs are meant: those that all of these hold for. Without any, none is deleted."""

    older_than: timedelta | None = None
    """Nothing has happened in the run for so long."""
    keep: int | None = None
    """It is not among the newest so many."""
    status: Collection[str] = ()
    """It stands like one of these."""
    checkpoints: bool = False
    """Delete none: of those that are done, only take away what is needed for nothing but branching."""

    def __post_init__(self) -> None:
        if unknown := [status for status in self.status if status not in get_args(Status)]:
            raise UsageError(f"no run is ever `{unknown[0]}`.", f"Known: {', '.join(get_args(Status))}.")
        if self.keep is not None and self.keep < 0:
            raise UsageError("a number of runs to keep is not below 0.")

    @property
    def names_some(self) -> bool:
        return self.older_than is not None or self.keep is not None or bool(self.status)


@dataclass(frozen=True)
class Pruned:
    """What was taken away, or would be."""

    dry_run: bool
    deleted: Sequence[Gone] = ()
    trimmed: Sequence[Gone] = ()
    leftovers: Sequence[Leftover] = ()
    busy: Sequence[str] = ()
    """Runs that were meant, and are at work."""

    @property
    def database_bytes(self) -> int:
        """About what becomes free in the database; `vacuum` gives it back to the disk."""
        return sum(gone.database_bytes for gone in (*self.deleted, *self.trimmed))

    @property
    def file_bytes(self) -> int:
        """What becomes free on the disk at once."""
        return sum(gone.file_bytes for gone in self.deleted) + sum(left.bytes for left in self.leftovers)

    def dump(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "deleted": [gone.dump() for gone in self.deleted],
            "trimmed": [gone.dump() for gone in self.trimmed],
            "leftovers": [leftover.dump() for leftover in self.leftovers],
            "busy": list(self.busy),
            "database_bytes": self.database_bytes,
            "file_bytes": self.file_bytes,
        }


def prune(home: Home, policy: Policy, *, dry_run: bool = False) -> Pruned:
    """Carry a policy out, a run at a time, and clear what kills have left."""
    deleted: list[Gone] = []
    trimmed: list[Gone] = []
    busy: list[str] = []
    for row in _meant(home, policy):
        if home.locked(row["run"]):
            busy.append(row["run"])
            continue
        try:
            if policy.checkpoints:
                trimmed += [gone for gone in [trim_run(home, row, dry_run=dry_run)] if gone.database_bytes]
            else:
                deleted += delete_runs(home, [row["run"]], dry_run=dry_run)
        except RunBusy:
            busy.append(row["run"])
        except RunNotFound:
            # Somebody else was faster.
            continue
    with home.tidying():
        leftovers = find_leftovers(home)
        for leftover in () if dry_run else leftovers:
            remove_leftover(home, leftover)
    return Pruned(dry_run, deleted, trimmed, leftovers, busy)


def _meant(home: Home, policy: Policy) -> list[dict[str, Any]]:
    if not (policy.names_some or policy.checkpoints):
        return []
    rows = home.runs()[policy.keep or 0 :]
    if policy.checkpoints:
        rows = [row for row in rows if row["status"] == "done"]
    if policy.older_than is not None:
        until = time.time() - policy.older_than.total_seconds()
        last = dict(map(tuple, home.database.read("SELECT run, max(time) FROM events GROUP BY run")))
        rows = [row for row in rows if max(row["created"], last.get(row["run"], 0.0)) < until]
    return [row for row in rows if not policy.status or _status(home, row) in policy.status]


def _status(home: Home, row: dict[str, Any]) -> str:
    """As `Run.status` says it."""
    at_work = row["status"] == "running"
    return "interrupted" if at_work and not home.locked(row["run"]) else str(row["status"])
