"""The folder in which runs live: one SQLite file, and one bare git repository per run."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from megagraph.database import Database, connect
from megagraph.errors import HomeError, RunBusy, RunNotFound
from megagraph.files.folders import remove_folder
from megagraph.files.workspace import Workspace
from megagraph.ledger import Ledger
from megagraph.migrations import migrate
from megagraph.saver import Saver

DEFAULT_HOME = Path(".megagraph")
_DATABASE = "megagraph.db"
_TIDYING = 30.0
"""Seconds for which somebody who tidies the home up is waited for."""
_MAKING = 2.0
"""Seconds for which those are waited for who make runs."""


def home_path(path: Path | str | None = None) -> Path:
    """Where a home is: at `path`, else where `MEGAGRAPH_HOME` says, else `.megagraph` in the current folder."""
    return Path(path or os.environ.get("MEGAGRAPH_HOME") or DEFAULT_HOME).expanduser().absolute()


def is_home(path: Path) -> bool:
    """Whether there is a home already."""
    return (path / _DATABASE).exists()


class Home:
    """An opened home. `database` holds everything but the files, `saver` is LangGraph's view of it."""

    def __init__(self, path: Path | str | None = None) -> None:
        """Open the folder that `home_path` finds, making it if need be.

        Raises `HomeError` where it cannot be written, or its database is corrupt or newer than this program.
        """
        self.path = home_path(path)
        try:
            for folder in (self.path, self.path / "files", self.path / "locks"):
                folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(f"no permission to write in {self.path}")
        except OSError as error:
            raise HomeError(
                f"the home {self.path} cannot be used ({error.strerror or error}).",
                "Name another one with --home or MEGAGRAPH_HOME.",
            ) from error
        file = self.path / _DATABASE
        connection = connect(file)
        try:
            migrate(file, connection)
        finally:
            connection.close()
        self.database = Database(file, turns=self.path / "locks" / "writing")
        self.saver = Saver(self.database)

    def workspace(self, run: str) -> Workspace:
        """The shared files of a run. Those of a branch are in the repository of the run that its family began with."""
        path = self.repository(run)
        return Workspace(path) if path.stem == run else Workspace(path, run)

    def repository(self, run: str) -> Path:
        """Where the shared files of a run are, or will be."""
        rows = self.database.read("SELECT repository FROM runs WHERE run = ?", (run,))
        return self.family((rows and rows[0]["repository"]) or run)

    def family(self, first: str) -> Path:
        """The repository of the files of a run that is no branch, and of all its branches."""
        return self.path / "files" / f"{first}.git"

    def ledger(self, run: str) -> Ledger:
        return Ledger(self.database, run)

    def runs(self) -> list[dict[str, Any]]:
        """The rows of all runs, newest first."""
        return [dict(row) for row in self.database.read("SELECT * FROM runs ORDER BY created DESC")]

    def find(self, run: str) -> dict[str, Any]:
        """The row of a run, given by its id, the beginning of it, or `last`.

        Raises `RunNotFound` where no run or more than one is meant.
        """
        if run == "last":
            rows = self.database.read("SELECT * FROM runs ORDER BY created DESC LIMIT 1")
        else:
            pattern = run.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
            rows = self.database.read("SELECT * FROM runs WHERE run LIKE ? ESCAPE '\\'", (pattern,)) if run else []
        if len(rows) == 1:
            return dict(rows[0])
        if run == "last":
            raise RunNotFound(f"there are no runs in {self.path} yet.", "Start one with `megagraph run`.")
        which = f"{len(rows)} runs of {self.path} begin with `{run}`" if rows else f"{self.path} has no run `{run}`"
        raise RunNotFound(f"{which}.", "`megagraph runs` lists them.")

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Hold a run for this process, as long as it lives. Raises `RunBusy` where another one holds it."""
        path = self.path / "locks" / str(UUID(run))
        with self._held("working", fcntl.LOCK_SH, "is being vacuumed", 0), path.open("a+") as file:
            try:
                _take(file)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()
                raise RunBusy(
                    f"run {run[:8]} is being worked on by another process{f' ({holder})' if holder else ''}.",
                    "Wait for it, or stop it with Ctrl-C there.",
                ) from None
            _await_helpers(file, run)
            file.truncate(0)
            file.write(f"pid {os.getpid()}")
            file.flush()
            yield

    @contextmanager
    def helping(self, run: str) -> Iterator[None]:
        """Hold this in a worker process of a run. Who takes the run up after a kill waits until all workers are gone.

        A lock of another kind on the same file: closing the file anywhere in this process would give it up.
        """
        with (self.path / "locks" / str(UUID(run))).open("r") as file:
            fcntl.lockf(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def at_rest(self, run: str) -> Iterator[None]:
        """Keep everybody from working on a run while it is read. Raises `RunBusy` where somebody does."""
        with self.making(), (self.path / "locks" / str(UUID(run))).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunBusy(
                    f"run {run[:8]} is at work, and can only be branched or saved at rest.",
                    f"Pause it first: `megagraph pause {run[:8]}`, or `await run.pause()`.",
                ) from None
            yield

    def making(self) -> AbstractContextManager[None]:
        """Hold this while there are files of a run that no row names yet, so that nobody takes them for leftovers."""
        return self._held("making", fcntl.LOCK_SH, "is being tidied up", _TIDYING)

    def tidying(self) -> AbstractContextManager[None]:
        """Keep everybody from making runs: what no row names now is a leftover. Raises `RunBusy` where one is made."""
        return self._held("making", fcntl.LOCK_EX, "has a run that is just being made", _MAKING)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep everybody from making runs and working on them. Raises `RunBusy` where somebody does."""
        with self.tidying(), self._held("working", fcntl.LOCK_EX, "has runs at work", 0):
            yield

    @contextmanager
    def _held(self, name: str, kind: int, otherwise: str, seconds: float) -> Iterator[None]:
        """Hold a lock on the home. Others are waited for that long, then this raises `RunBusy`."""
        with (self.path / "locks" / name).open("a") as file:
            until = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise RunBusy(f"{self.path} {otherwise}.", "Try again when that is over.") from None
                    time.sleep(0.02)
            yield

    def locked(self, run: str) -> bool:
        """Whether some process is working on the run."""
        with (self.path / "locks" / str(UUID(run))).open("a") as file:
            try:
                # A shared lock, so that those who only look do not find one another.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def await_unlocked(self, run: str) -> None:
        """Return when no process works on the run any more. Blocks."""
        with (self.path / "locks" / str(UUID(run))).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)

    @asynccontextmanager
    async def scratch(self, run: str) -> AsyncIterator[Path]:
        """A folder for what one process of a run needs while it works; what a killed one left there is removed."""
        folder = self.path / "scratch" / run
        await asyncio.to_thread(remove_folder, folder)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            await asyncio.to_thread(remove_folder, folder)

    def close(self) -> None:
        self.database.close()


def _await_helpers(file: IO[str], run: str) -> None:
    """Wait for the workers of a process that was killed: they end as soon as they see it, and keep what was paid."""
    until = time.monotonic() + _TIDYING
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_UN)
            return
        except OSError:
            if time.monotonic() > until:
                raise RunBusy(
                    f"worker processes of run {run[:8]} are still at work, though the one that started them is gone.",
                    f"Try again in a moment; if they stay, end those who hold {file.name} (`fuser` lists them).",
                ) from None
            time.sleep(0.02)


def _take(file: IO[str]) -> None:
    """Take the lock of a run. Whoever only looks at it holds it for a moment, which is waited out."""
    for _ in range(3):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return None
