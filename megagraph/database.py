"""One SQLite file: every write goes through one thread, which commits what has gathered as one transaction.

Writes become durable in the order in which they were handed in, so nothing is ever on disk without all that
came before it: where a write that nobody waits for fails, everything after it fails too, and says why.
`synchronous=NORMAL` with a write-ahead log survives the death of the process at any moment.
"""

from __future__ import annotations

import asyncio
import fcntl
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

from megagraph.errors import HomeError
from megagraph.text import whole

Statement: TypeAlias = tuple[str, Sequence[Any]]

_BATCH = 1024
_BUSY_SECONDS = 30.0
_PAGE = 8192
"""Bytes of a page of a new file. Calls and tool calls take two thousand bytes, of which few fit on smaller pages."""


class _Job:
    """Some statements, and whoever waits for them."""

    __slots__ = ("future", "loop", "statements")

    def __init__(
        self,
        statements: Iterable[Statement],
        future: asyncio.Future[None] | Future[None] | None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.statements = tuple(statements)
        self.future = future
        self.loop = loop


class Database:
    """A SQLite file with a group-committing writer and a reading connection. Safe to use from any thread.

    `turns` is a file by which processes that write to it at the same time take turns: who finds SQLite busy tries
    again and again, up to a tenth of a second later, where who waits for a lock on a file is woken.
    """

    def __init__(self, path: Path, turns: Path | None = None) -> None:
        self.path = path
        self._turns: IO[bytes] | None = None if turns is None else turns.open("ab")
        self.commits = 0
        """Transactions committed so far by this object."""
        self.statements = 0
        """Statements written so far by this object."""
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._gathered: list[_Job] = []
        self._gatherer: asyncio.AbstractEventLoop | None = None
        self._gathering = threading.Lock()
        self._writer = connect(path)
        self.reader = connect(path)
        self.read_lock = threading.Lock()
        self._closed = False
        self._lost: HomeError | None = None
        """Why a write that nobody waited for came to nothing."""
        self._told = False
        self._thread = threading.Thread(target=self._work, name="megagraph-db", daemon=True)
        self._thread.start()

    async def write(self, *statements: Statement) -> None:
        """Write in one transaction; returns when it is durable.

        Raises what SQLite raises if it fails, and `HomeError` where something that was posted before has failed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._put(_Job(statements, future, loop), loop)
        await future

    def post(self, *statements: Statement) -> None:
        """Write without waiting. It is durable no later than anything written after it, which fails if this does."""
        self._put(_Job(statements, None), _running_loop())

    def write_sync(self, *statements: Statement) -> None:
        """`write` for callers without an event loop."""
        future: Future[None] = Future()
        self._put(_Job(statements, future))
        future.result()

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self.read_lock:
            return self.reader.execute(sql, params).fetchall()

    async def read_async(self, sql: str, params: Sequence[Any] = ()) -> list[sqlite3.Row]:
        return await asyncio.to_thread(self.read, sql, params)

    def close(self) -> None:
        """Write what is left and close. May be called twice.

        Raises `HomeError` where something that was posted has failed, and nobody was told of it yet.
        """
        if self._closed:
            return
        self._closed = True
        self._hand_over()
        self._jobs.put(None)
        self._thread.join()
        self._writer.close()
        with self.read_lock:
            self.reader.close()
        if self._turns is not None:
            self._turns.close()
        if self._lost is not None and not self._told:
            raise self._lost

    def _put(self, job: _Job, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Hand a job over, from an event loop with all others of its round: waking the writer has its price."""
        if self._closed:
            raise HomeError(f"the database {self.path} is closed")
        with self._gathering:
            first = not self._gathered
            self._gathered.append(job)
            if first:
                self._gatherer = loop
            elif self._gatherer is not loop:
                # Nobody waits for another loop's next round, which may never come.
                loop = None
        if loop is None:
            self._hand_over()
        elif first:
            loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        # In the lock, so that what was gathered first comes first.
        with self._gathering:
            if self._gathered:
                self._jobs.put(self._gathered)
                self._gathered = []

    def _work(self) -> None:
        jobs: list[_Job] = []
        ended = False
        while not ended:
            batch = self._jobs.get()
            while batch is not None:
                jobs += batch
                if len(jobs) >= _BATCH:
                    break
                try:
                    batch = self._jobs.get_nowait()
                except queue.Empty:
                    break
            ended = batch is None
            if jobs:
                self._commit(jobs)
            jobs = []

    def _commit(self, jobs: list[_Job]) -> None:
        error = self._transaction(jobs)
        if error is None:
            self._settle(jobs, None)
            return
        # One bad statement must not fail its neighbours: write them one by one.
        for job in jobs:
            self._settle([job], self._alone(job))

    def _alone(self, job: _Job) -> Exception | None:
        """One job in a transaction of its own. Half a surrogate pair, which SQLite does not take, is replaced."""
        error = self._transaction([job])
        if isinstance(error, UnicodeEncodeError):
            job.statements = tuple((whole(sql), [whole(x) for x in params]) for sql, params in job.statements)
            error = self._transaction([job])
        return error

    def _transaction(self, jobs: list[_Job]) -> Exception | None:
        if self._lost is not None:
            return self._lost
        try:
            # Who only waits for what was sent before takes no turn.
            if any(job.statements for job in jobs):
                with self._turn():
                    self._carry_out(jobs)
        except Exception as error:
            # Of any kind: without this thread, whoever writes would wait for ever.
            return error
        self.commits += 1
        self.statements += sum(len(job.statements) for job in jobs)
        return None

    def _carry_out(self, jobs: list[_Job]) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job in jobs:
                for sql, params in job.statements:
                    self._writer.execute(sql, params)
            self._writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            raise

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._turns is None:
            yield
            return
        # The process's own: what it has forked does not hold it on when it is killed.
        fcntl.lockf(self._turns, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._turns, fcntl.LOCK_UN)

    def _settle(self, jobs: list[_Job], error: Exception | None) -> None:
        if error is not None:
            waited = any(job.future is not None for job in jobs)
            if self._lost is not None:
                self._told = self._told or waited
            elif not waited:
                self._lost = HomeError(
                    f"{self.path} cannot be written ({error}).",
                    "What was written before is kept; mend what is wrong there, then resume the run.",
                )
        _resolve_all(jobs, error)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the settings this package relies on. Raises `HomeError` where it cannot be had."""
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA page_size={_PAGE}")
        _use_log(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.DatabaseError as error:
        raise HomeError(
            f"{path} cannot be opened as a database ({error}).",
            "Nothing was changed; restore it from a copy, or name another --home.",
        ) from error
    return connection


def _use_log(connection: sqlite3.Connection) -> None:
    """Have a write-ahead log. While another connection brings one in, SQLite refuses at once: that is waited out."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _resolve_all(jobs: list[_Job], error: Exception | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for job in jobs:
        if isinstance(job.future, Future):
            if error is None:
                job.future.set_result(None)
            else:
                job.future.set_exception(error)
        elif job.future is not None and job.loop is not None:
            by_loop.setdefault(job.loop, []).append(job.future)
    for loop, futures in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
