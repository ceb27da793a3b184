"""The tables of a home, made and brought up to date by numbered steps that are never changed afterwards.

The number of the last step is SQLite's `user_version`. A file with a higher number was written by a newer
megagraph and is refused untouched.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from megagraph.errors import HomeError

if TYPE_CHECKING:
    from sqlite_utils import Database as Tables
    from sqlite_utils.db import Table


def _checkpoints(db: Tables) -> None:
    """The two tables of LangGraph's SQLite saver.

    Their keys are long (a namespace names every agent above), so they are kept once, in the rows themselves.
    """
    db.conn.execute(
        """CREATE TABLE checkpoints (
            thread_id TEXT NOT NULL,
            checkpoint_ns TEXT NOT NULL DEFAULT '',
            checkpoint_id TEXT NOT NULL,
            parent_checkpoint_id TEXT,
            type TEXT,
            checkpoint BLOB,
            metadata BLOB,
            PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
        ) WITHOUT ROWID"""
    )
    db.conn.execute(
        """CREATE TABLE writes (
            thread_id TEXT NOT NULL,
            checkpoint_ns TEXT NOT NULL DEFAULT '',
            checkpoint_id TEXT NOT NULL,
            task_id TEXT NOT NULL,
            idx INTEGER NOT NULL,
            channel TEXT NOT NULL,
            type TEXT,
            value BLOB,
            task_path TEXT NOT NULL DEFAULT '',
            PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
        ) WITHOUT ROWID"""
    )


def _ledger(db: Tables) -> None:
    """Runs, their agents, and everything these did."""
    _table(db, "runs").create(
        {
            "run": str,
            "created": float,
            "ended": float,
            "seconds": float,
            "status": str,
            "reason": str,
            "goal": str,
            "scenario": str,
            "model": str,
            "rehearsal": int,
            "settings": str,
            "report": str,
            "verdicts": str,
        },
        pk="run",
    )
    _table(db, "agents").create(
        {
            "run": str,
            "name": str,
            "lead": str,
            "role": str,
            "depth": int,
            "wave": int,
            "spec": str,
            "effect": str,
            "recruited": float,
            "report": str,
            "reported": float,
            "closed": float,
        },
        pk=("run", "name"),
    )
    _table(db, "calls").create(
        {
            "run": str,
            "agent": str,
            "step": int,
            "started": float,
            "seconds": float,
            "model": str,
            "request": str,
            "heard": str,
            "letters": str,
            "answer": str,
            "input_tokens": int,
            "output_tokens": int,
            "cached_tokens": int,
            "retries": int,
        },
        pk=("run", "agent", "step"),
    )
    _table(db, "tool_calls").create(
        {
            "run": str,
            "agent": str,
            "step": int,
            "idx": int,
            "tool": str,
            "args": str,
            "started": float,
            "seconds": float,
            "ok": int,
            "result": str,
            "effects": str,
            "version": str,
        },
        pk=("run", "agent", "step", "idx"),
    )
    _table(db, "letters").create(
        {
            "run": str,
            "id": str,
            "sender": str,
            "recipient": str,
            "kind": str,
            "text": str,
            "sent": float,
        },
        pk=("run", "id"),
    )
    _table(db, "questions").create(
        {
            "run": str,
            "id": str,
            "agent": str,
            "question": str,
            "asked": float,
            "answer": str,
            "answered": float,
        },
        pk=("run", "id"),
    )
    _table(db, "events").create(
        {"run": str, "seq": int, "time": float, "kind": str, "agent": str, "data": str}, pk=("run", "seq")
    )
    _table(db, "letters").create_index(["run", "recipient"])


def _costs(db: Tables) -> None:
    """What a model call cost in US dollars; null where its price is not known."""
    db.conn.execute("ALTER TABLE calls ADD COLUMN cost REAL")


def _packed_checkpoints(db: Tables) -> None:
    """Checkpoints go by the number of their namespace, and their bodies are packed.

    The bodies stand in the order in which they were written, since a table ordered by its key keeps those above a
    thousand bytes on pages of their own.
    """
    # Imported here: it loads LangGraph, which a home that is up to date does without.
    from megagraph.saver import first_body, write_bodies

    db.conn.execute("ALTER TABLE checkpoints RENAME TO old_checkpoints")
    db.conn.execute("ALTER TABLE writes RENAME TO old_writes")
    db.conn.execute(
        """CREATE TABLE namespaces (
            id INTEGER PRIMARY KEY,
            thread_id TEXT NOT NULL,
            checkpoint_ns TEXT NOT NULL,
            UNIQUE (thread_id, checkpoint_ns)
        )"""
    )
    db.conn.execute(
        """CREATE TABLE checkpoints (
            namespace INTEGER NOT NULL,
            checkpoint_id TEXT NOT NULL,
            parent_id TEXT,
            body BLOB NOT NULL,
            PRIMARY KEY (namespace, checkpoint_id)
        )"""
    )
    db.conn.execute(
        """CREATE TABLE writes (
            namespace INTEGER NOT NULL,
            checkpoint_id TEXT NOT NULL,
            task_id TEXT NOT NULL,
            idx INTEGER NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (namespace, checkpoint_id, task_id, idx)
        )"""
    )
    for table in ("old_checkpoints", "old_writes"):
        db.conn.execute(
            "INSERT OR IGNORE INTO namespaces (thread_id, checkpoint_ns)"
            f" SELECT DISTINCT thread_id, checkpoint_ns FROM {table}"
        )
    number = {(thread, name): id_ for id_, thread, name in db.conn.execute("SELECT * FROM namespaces").fetchall()}
    for thread, name, id_, parent, type_, blob, metadata in db.conn.execute("SELECT * FROM old_checkpoints"):
        body = first_body(name, type_, blob, json.loads(metadata or "{}"))
        db.conn.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?)", (number[thread, name], id_, parent, body))
    rows = db.conn.execute(
        "SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value"
        " FROM old_writes ORDER BY 1, 2, 3, 4, idx"
    )
    for (thread, name, id_, task, path), group in groupby(rows, key=lambda row: tuple(row[:5])):
        for first, body in write_bodies(path, [tuple(row[5:]) for row in group]):
            key = (number[thread, name], id_, task, first)
            db.conn.execute("INSERT INTO writes VALUES (?, ?, ?, ?, ?)", (*key, body))
    db.conn.execute("DROP TABLE old_checkpoints")
    db.conn.execute("DROP TABLE old_writes")


def _evidence(db: Tables) -> None:
    """What checks found when reports were accepted or sent back, and at the end of a run."""
    _table(db, "evidence").create(
        {
            "run": str,
            "id": str,
            "agent": str,
            "check": str,
            "passed": int,
            "detail": str,
            "version": str,
            "found": float,
        },
        pk=("run", "id"),
    )


def _branches(db: Tables) -> None:
    """What a branch was cut from: its parent, the moment, whose repository has its files, and the rest as JSON."""
    for column in ("parent", "at", "repository", "branch"):
        db.conn.execute(f"ALTER TABLE runs ADD COLUMN {column} TEXT")


def _question_kinds(db: Tables) -> None:
    """What a question to a person is: one of an agent's, or an approval that a policy asks for."""
    db.conn.execute("ALTER TABLE questions ADD COLUMN kind TEXT NOT NULL DEFAULT 'question'")


def _rest(db: Tables) -> None:
    """Who is at rest: the letters that a failure settles, and the last turn after which a reported agent rested."""
    db.conn.execute("ALTER TABLE letters ADD COLUMN settles TEXT")
    db.conn.execute("ALTER TABLE agents ADD COLUMN rested INTEGER")


def _events_by_number(db: Tables) -> None:
    """Events stand in the order of their key: they are short and many, and their index was a quarter of them."""
    db.conn.execute("ALTER TABLE events RENAME TO old_events")
    db.conn.execute(
        """CREATE TABLE events (
            run TEXT NOT NULL,
            seq INTEGER NOT NULL,
            time FLOAT,
            kind TEXT,
            agent TEXT,
            data TEXT,
            PRIMARY KEY (run, seq)
        ) WITHOUT ROWID"""
    )
    db.conn.execute("INSERT INTO events SELECT run, seq, time, kind, agent, data FROM old_events ORDER BY run, seq")
    db.conn.execute("DROP TABLE old_events")


def _short_ids(db: Tables) -> None:
    """The ids of checkpoints and tasks as bytes, and with each namespace the checkpoints that it hangs on.

    What was written before keeps its parents in itself.
    """
    from megagraph.saver import stored_id

    db.conn.create_function("stored_id", 1, stored_id, deterministic=True)
    for table in ("checkpoints", "writes"):
        db.conn.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    db.conn.execute("ALTER TABLE namespaces ADD COLUMN parents BLOB")
    db.conn.execute(
        """CREATE TABLE checkpoints (
            namespace INTEGER NOT NULL,
            checkpoint_id BLOB NOT NULL,
            parent_id BLOB,
            body BLOB NOT NULL,
            PRIMARY KEY (namespace, checkpoint_id)
        )"""
    )
    db.conn.execute(
        """CREATE TABLE writes (
            namespace INTEGER NOT NULL,
            checkpoint_id BLOB NOT NULL,
            task_id BLOB NOT NULL,
            idx INTEGER NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (namespace, checkpoint_id, task_id, idx)
        )"""
    )
    db.conn.execute(
        "INSERT INTO checkpoints SELECT namespace, stored_id(checkpoint_id), stored_id(parent_id), body"
        " FROM old_checkpoints ORDER BY rowid"
    )
    db.conn.execute(
        "INSERT INTO writes SELECT namespace, stored_id(checkpoint_id), stored_id(task_id), idx, body"
        " FROM old_writes ORDER BY rowid"
    )
    for table in ("checkpoints", "writes"):
        db.conn.execute(f"DROP TABLE old_{table}")


def _no_index_of_recipients(db: Tables) -> None:
    """Nothing asked for the letters to one agent then: the mailroom had them."""
    db.conn.execute("DROP INDEX IF EXISTS idx_letters_run_recipient")


def _numbered_runs(db: Tables) -> None:
    """Events go by the number of their run, whose id was a quarter of them; `events` is how they are looked at."""
    # A person may have added views and columns. Views are to mean the new table by the name that they know.
    db.conn.execute("PRAGMA legacy_alter_table=ON")
    found = db.conn.execute("SELECT name, type FROM pragma_table_info('runs')").fetchall()
    db.conn.execute("ALTER TABLE runs RENAME TO old_runs")
    db.conn.execute(
        """CREATE TABLE runs (
            number INTEGER PRIMARY KEY,
            run TEXT NOT NULL UNIQUE,
            created FLOAT,
            ended FLOAT,
            seconds FLOAT,
            status TEXT,
            reason TEXT,
            goal TEXT,
            scenario TEXT,
            model TEXT,
            rehearsal INTEGER,
            settings TEXT,
            report TEXT,
            verdicts TEXT,
            parent TEXT,
            at TEXT,
            repository TEXT,
            branch TEXT
        )"""
    )
    known = {name for (name,) in db.conn.execute("SELECT name FROM pragma_table_info('runs')")}
    for name, type_ in found:
        if name not in known:
            db.conn.execute(f'ALTER TABLE runs ADD COLUMN "{name}" {type_}')
    names = ", ".join(f'"{name}"' for name, _ in found)
    db.conn.execute(f"INSERT INTO runs ({names}) SELECT {names} FROM old_runs ORDER BY rowid")
    db.conn.execute("DROP TABLE old_runs")
    db.conn.execute("ALTER TABLE events RENAME TO old_events")
    db.conn.execute(
        """CREATE TABLE event_rows (
            number INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            time FLOAT,
            kind TEXT,
            agent TEXT,
            data TEXT,
            PRIMARY KEY (number, seq)
        ) WITHOUT ROWID"""
    )
    db.conn.execute(
        "INSERT INTO event_rows SELECT number, seq, time, kind, agent, data FROM old_events JOIN runs USING (run)"
        " ORDER BY number, seq"
    )
    db.conn.execute("DROP TABLE old_events")
    db.conn.execute(
        "CREATE VIEW events AS SELECT r.run, e.seq, e.time, e.kind, e.agent, e.data"
        " FROM event_rows e JOIN runs r ON r.number = e.number"
    )
    number = "(SELECT number FROM runs WHERE run = {}.run)"
    db.conn.execute(
        "CREATE TRIGGER add_event INSTEAD OF INSERT ON events BEGIN"
        f" INSERT INTO event_rows VALUES ({number.format('NEW')}, NEW.seq, NEW.time, NEW.kind, NEW.agent, NEW.data);"
        " END"
    )
    db.conn.execute(
        "CREATE TRIGGER drop_event INSTEAD OF DELETE ON events BEGIN"
        f" DELETE FROM event_rows WHERE number = {number.format('OLD')} AND seq = OLD.seq;"
        " END"
    )
    # A number may be given again.
    db.conn.execute(
        "CREATE TRIGGER drop_run AFTER DELETE ON runs BEGIN DELETE FROM event_rows WHERE number = OLD.number; END"
    )
    db.conn.execute("PRAGMA legacy_alter_table=OFF")


def _shortened_conversations(db: Tables) -> None:
    """How a conversation was made shorter before a call, where it had become too long for its model."""
    db.conn.execute("ALTER TABLE calls ADD COLUMN shortened TEXT")


def _letters_by_recipient(db: Tables) -> None:
    """Who looks for older letters to an agent has to go through no others."""
    db.conn.execute("CREATE INDEX letters_recipient ON letters (recipient, run)")


Migration: TypeAlias = "Callable[[Tables], None]"

MIGRATIONS: tuple[Migration, ...] = (
    _checkpoints,
    _ledger,
    _costs,
    _packed_checkpoints,
    _evidence,
    _branches,
    _question_kinds,
    _rest,
    _events_by_number,
    _short_ids,
    _no_index_of_recipients,
    _numbered_runs,
    _shortened_conversations,
    _letters_by_recipient,
)


def _table(db: Tables, name: str) -> Table:
    return db.table(name)


def migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Bring the file up to date, in one transaction.

    Raises `HomeError` where the file is newer than this program, or no database of megagraph's.
    """
    try:
        # Two processes may open a new home at the same moment: the second finds the work done.
        connection.execute("BEGIN IMMEDIATE")
        try:
            _run(path, connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    except sqlite3.DatabaseError as error:
        raise HomeError(
            f"{path} cannot be used as megagraph's database ({error}).",
            "Nothing was changed; restore it from a copy, or name another --home.",
        ) from error


def _run(path: Path, connection: sqlite3.Connection) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise HomeError(
            f"{path} was written by a newer megagraph (format {version}; this one knows {len(MIGRATIONS)}).",
            "Nothing was changed; update megagraph to open it.",
        )
    if version == len(MIGRATIONS):
        return
    # Imported here: it brings pandas along where that is installed, a third of a second for each process.
    from sqlite_utils import Database as Tables

    tables = Tables(connection)
    for step in MIGRATIONS[version:]:
        step(tables)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
