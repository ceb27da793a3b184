"""Delete runs: the rows of each in one transaction, then its files. What its branches share with it stays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pygit2

from megagraph.control import socket_path
from megagraph.errors import RunBusy
from megagraph.files.folders import remove_folder
from megagraph.files.packing import await_packing
from megagraph.home import Home
from megagraph.keeping.rows import bytes_of, removal, tables, thread_tables

MAIN = "main"
"""The branch of a run in a repository of its own."""

_BELOW = "SELECT id FROM namespaces WHERE thread_id = ? AND checkpoint_ns != ''"


@dataclass(frozen=True)
class Gone:
    """A run that is deleted, or trimmed, and about what that wins."""

    run: str
    status: str
    goal: str
    database_bytes: int
    file_bytes: int = 0
    shared: bool = False
    """Whether its files stay where they are, because runs of its family have them too."""

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def claims(home: Home) -> dict[str, dict[str, str]]:
    """For each repository, the branches in it that are some run's, with the run."""
    found: dict[str, dict[str, str]] = {}
    for row in home.database.read("SELECT run, repository FROM runs"):
        repository = row["repository"] or row["run"]
        found.setdefault(repository, {})[row["run"] if row["repository"] else MAIN] = row["run"]
    return found


def weigh(home: Home, row: Mapping[str, Any]) -> Gone:
    """What deleting a run would win."""
    with home.database.read_lock:
        rows = bytes_of(home.database.reader, row["run"], tables(home.database.reader))
    repository = row["repository"] or row["run"]
    shared = len(claims(home).get(repository, {})) > 1
    files = 0 if shared else folder_bytes(home.family(repository))
    return Gone(row["run"], row["status"], row["goal"], rows, files, shared)


def delete_runs(home: Home, runs: Sequence[str], *, dry_run: bool = False) -> list[Gone]:
    """Delete these runs, given by their ids, one after the other; with `dry_run`, only say what that would win.

    Raises `RunBusy` before anything is deleted where somebody works on one of them.
    """
    rows = [home.find(run) for run in dict.fromkeys(runs)]
    for row in rows:
        if home.locked(row["run"]):
            raise RunBusy(
                f"run {row['run'][:8]} is at work, and can only be deleted at rest.",
                f"Pause it first: `megagraph pause {row['run'][:8]}`.",
            )
    return [weigh(home, row) if dry_run else _delete(home, row) for row in rows]


def _delete(home: Home, row: Mapping[str, Any]) -> Gone:
    run = row["run"]
    with home.tidying(), home.lock(run):
        gone = weigh(home, row)
        with home.database.read_lock:
            statements = list(removal(home.database.reader, run))
        home.database.write_sync(*statements)
        # From here on nobody can see the run. What a kill leaves of its files, the next `prune` removes.
        repository = row["repository"] or run
        left = claims(home).get(repository)
        if left is None:
            remove_repository(home.family(repository))
        else:
            drop_branch(home.family(repository), run if row["repository"] else MAIN)
        remove_folder(home.path / "scratch" / run)
        socket_path(run).unlink(missing_ok=True)
        (home.path / "locks" / str(UUID(run))).unlink(missing_ok=True)
    return gone


def remove_repository(path: Path) -> None:
    await_packing(path)
    remove_folder(path)


def drop_branch(repository: Path, name: str) -> None:
    with suppress(KeyError, pygit2.GitError):
        pygit2.Repository(str(repository)).references.delete(f"refs/heads/{name}")


def trim_run(home: Home, row: Mapping[str, Any], *, dry_run: bool = False) -> Gone:
    """Take away the checkpoints of the agents below the boss of a run that is done. What they did stays in its rows.

    The run can then be looked at and exported, and no more be branched.
    """
    run = row["run"]
    with home.database.read_lock:
        reader = home.database.reader
        size = sum(
            reader.execute(
                f"SELECT coalesce(sum(length(body)), 0) FROM {table.name} WHERE namespace IN ({_BELOW})", (run,)
            ).fetchone()[0]
            for table in thread_tables(reader)[1:]
        )
    gone = Gone(run, row["status"], row["goal"], size)
    if size and not dry_run:
        settings = json.dumps(json.loads(row["settings"]) | {"trimmed": True})
        with home.lock(run):
            home.database.write_sync(
                (f"DELETE FROM writes WHERE namespace IN ({_BELOW})", (run,)),
                (f"DELETE FROM checkpoints WHERE namespace IN ({_BELOW})", (run,)),
                ("DELETE FROM namespaces WHERE thread_id = ? AND checkpoint_ns != ''", (run,)),
                home.ledger(run).update_run(settings=settings),
            )
    return gone


def folder_bytes(folder: Path) -> int:
    """The bytes of all files in a folder, or of one file."""
    if folder.is_file():
        return folder.stat().st_size
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += path.lstat().st_size if not path.is_dir() else 0
    return sizes
