"""The group-committing database: order, durability, one bad statement among good ones, other processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from megagraph.database import Database, connect
from megagraph.errors import HomeError

INSERT = "INSERT INTO t VALUES (?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    connection.close()
    return tmp_path / "x.db"


def test_what_gathers_is_committed_together(path: Path) -> None:
    async def work() -> None:
        database = Database(path)
        await asyncio.gather(*(database.write((INSERT, (n,))) for n in range(2000)))
        assert database.commits < 200, "the point of grouping"
        assert database.read("SELECT count(*) FROM t")[0][0] == 2000
        database.close()

    asyncio.run(work())


def test_one_bad_statement_fails_alone(path: Path) -> None:
    async def work() -> None:
        database = Database(path)
        jobs = [database.write((INSERT, (n,))) for n in (1, 2, 2, 3)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(r) for r in results] == [type(None), type(None), sqlite3.IntegrityError, type(None)]
        assert [row[0] for row in database.read("SELECT n FROM t")] == [1, 2, 3]
        database.close()

    asyncio.run(work())


def test_what_sqlite_cannot_take_fails_alone_and_the_writing_goes_on(path: Path) -> None:
    """The errors of binding are none of SQLite's own: they must not end the thread that writes."""

    async def work() -> None:
        database = Database(path)
        jobs = [database.write((INSERT, (n,))) for n in (1, 2**70, 3)]
        results = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 20)
        assert [type(r) for r in results] == [type(None), OverflowError, type(None)]
        for words in ("half a pair: \ud83d", "and another: \udcff"):
            await asyncio.wait_for(database.write(("CREATE TABLE IF NOT EXISTS w (t)", ())), 20)
            await asyncio.wait_for(database.write(("INSERT INTO w VALUES (?)", (words,))), 20)
        assert [row[0] for row in database.read("SELECT t FROM w")] == ["half a pair: \ufffd", "and another: \ufffd"]
        database.close()

    asyncio.run(work())


def test_what_was_posted_in_vain_fails_all_that_comes_after(path: Path) -> None:
    async def work() -> None:
        database = Database(path)
        await database.write((INSERT, (1,)))
        database.post((INSERT, (1,)))
        for _ in range(2):
            with pytest.raises(HomeError, match=r"UNIQUE constraint.*resume the run"):
                await database.write((INSERT, (2,)))
        assert [row[0] for row in database.read("SELECT n FROM t")] == [1], "nothing without what came before it"
        database.close()

    asyncio.run(work())


def test_closing_says_what_was_posted_in_vain_where_nobody_was_told(path: Path) -> None:
    database = Database(path)
    database.post((INSERT, (1,)), (INSERT, (1,)))
    with pytest.raises(HomeError, match="UNIQUE constraint"):
        database.close()
    database.close()


def test_a_job_is_all_or_nothing(path: Path) -> None:
    async def work() -> None:
        database = Database(path)
        with pytest.raises(sqlite3.IntegrityError):
            await database.write((INSERT, (1,)), (INSERT, (1,)))
        assert database.read("SELECT count(*) FROM t")[0][0] == 0
        database.close()

    asyncio.run(work())


def test_what_was_posted_is_durable_before_what_is_written_after(path: Path) -> None:
    """SIGKILL right after an awaited write: nothing that was handed in before it is missing."""
    program = f"""
import asyncio, os, signal
from pathlib import Path
from megagraph.database import Database
async def work():
    database = Database(Path({str(path)!r}))
    for n in range(500):
        database.post(({INSERT!r}, (n,)))
    await database.write(({INSERT!r}, (1000,)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(work())
"""
    child = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert child.returncode == -signal.SIGKILL
    connection = connect(path)
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 501
    connection.close()


def test_two_loops_and_a_plain_thread_may_write(path: Path) -> None:
    database = Database(path)

    async def work(first: int) -> None:
        await asyncio.gather(*(database.write((INSERT, (first + n,))) for n in range(10)))

    asyncio.run(work(0))
    asyncio.run(work(100))
    database.write_sync((INSERT, (500,)))
    assert database.read("SELECT count(*) FROM t")[0][0] == 21
    database.close()
    database.close()


def test_closing_writes_what_is_left(path: Path) -> None:
    database = Database(path)
    for n in range(300):
        database.post((INSERT, (n,)))
    database.close()
    connection = connect(path)
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 300
    connection.close()
    with pytest.raises(HomeError, match="is closed"):
        database.post((INSERT, (999,)))


def test_what_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    file.write_bytes(b"this is no database at all, but long enough to look like one" * 20)
    with pytest.raises(HomeError, match="cannot be opened as a database"):
        connect(file)
    assert file.read_bytes().startswith(b"this is no database")


def test_processes_take_turns_and_one_that_is_killed_in_its_turn_gives_it_up(path: Path, tmp_path: Path) -> None:
    turns = tmp_path / "writing"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\n"
            "turn = open(sys.argv[1], 'ab'); fcntl.lockf(turn, fcntl.LOCK_EX); print('mine', flush=True)\n"
            "time.sleep(600)\n",
            turns,
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()

    async def work() -> None:
        database = Database(path, turns)
        waiting = asyncio.ensure_future(database.write((INSERT, (1,))))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert database.read("SELECT n FROM t") == [], "who reads waits for nobody"
        holder.kill()
        await asyncio.wait_for(waiting, 20)
        database.close()

    asyncio.run(work())
    holder.wait()
    holder.stdout.close()
