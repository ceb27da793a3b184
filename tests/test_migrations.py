"""A home's tables: made, brought up to date, and never touched by a program that is older than they are."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import INTERRUPT
from sqlite_utils import Database as Tables

from megagraph import migrations
from megagraph.database import Database, connect
from megagraph.errors import HomeError
from megagraph.events import Event
from megagraph.journal import effects_of
from megagraph.ledger import Ledger
from megagraph.migrations import MIGRATIONS, migrate
from megagraph.packing import pack
from megagraph.saver import Saver, first_body, write_bodies


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "megagraph.db"


def up(file: Path) -> None:
    with closing(connect(file)) as connection:
        migrate(file, connection)


def version(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def schema(file: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()


def test_a_new_file_gets_all_tables_and_a_second_time_changes_nothing(file: Path) -> None:
    up(file)
    made = schema(file)
    tables = {"runs", "agents", "calls", "tool_calls", "letters", "questions", "events", "checkpoints", "writes"}
    assert tables <= {name for name, *_ in made}
    assert version(file) == len(MIGRATIONS)
    up(file)
    assert schema(file) == made


@pytest.mark.parametrize("old", range(1, len(MIGRATIONS)))
def test_an_older_file_is_brought_up_to_date(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: int
) -> None:
    with monkeypatch.context() as then:
        then.setattr(migrations, "MIGRATIONS", MIGRATIONS[:old])
        up(file)
    assert version(file) == old
    up(file)
    new = tmp_path / "new.db"
    up(new)
    assert schema(file) == schema(new)


def test_a_newer_file_is_refused_untouched(file: Path) -> None:
    up(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = schema(file)
    with pytest.raises(HomeError, match="newer megagraph") as error:
        up(file)
    assert "update megagraph" in str(error.value)
    assert schema(file) == before
    assert version(file) == len(MIGRATIONS) + 1


def test_a_step_that_fails_leaves_all_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up(file)
    before = schema(file)

    def half(db: Tables) -> None:
        db.conn.execute("CREATE TABLE half (x)")
        db.conn.execute("nonsense")

    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, half))
    with pytest.raises(HomeError, match="Nothing was changed"):
        up(file)
    assert schema(file) == before
    assert version(file) == len(MIGRATIONS)


def test_several_may_open_a_new_home_at_once(tmp_path: Path) -> None:
    errors: list[Exception] = []
    ready = threading.Barrier(8)

    def open_() -> None:
        for number in range(40):
            ready.wait()
            try:
                up(tmp_path / f"{number}.db")
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=open_) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {version(tmp_path / f"{number}.db") for number in range(40)} == {len(MIGRATIONS)}


def test_checkpoints_of_the_first_format_are_read_as_they_were_written(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(migrations, "MIGRATIONS", MIGRATIONS[:3])
        up(file)
    serde, inner = JsonPlusSerializer(), "team:1|coder:2"
    root, leaf = empty_checkpoint(), {**empty_checkpoint(), "channel_values": {"step": 3}}
    parents = {"": root["id"], "team:1": "x"}
    writes = [("messages", ["hello"]), ("step", 4), ("branch:to:act", None)]
    with closing(sqlite3.connect(file)) as old, old:
        for name, checkpoint, metadata in (("", root, {"step": -1}), (inner, leaf, {"step": 2, "parents": parents})):
            row = ("t", name, checkpoint["id"], None, *serde.dumps_typed(checkpoint), json.dumps(metadata).encode())
            old.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        for idx, (channel, value) in [*enumerate(writes), (-3, (INTERRUPT, "why?"))]:
            row = ("t", inner, leaf["id"], "task", idx, channel, *serde.dumps_typed(value), "~path")
            old.execute("INSERT INTO writes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    up(file)
    database = Database(file)
    found = Saver(database).get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": inner}})
    database.close()
    assert found is not None
    assert found.checkpoint == leaf
    assert found.metadata == {"step": 2, "parents": parents}
    assert found.pending_writes == [("task", INTERRUPT, "why?"), *(("task", *write) for write in writes)]


def test_checkpoints_whose_ids_were_text_are_found_by_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(migrations, "MIGRATIONS", MIGRATIONS[:8])
        up(file)
    serde, first, second = JsonPlusSerializer(), empty_checkpoint(), empty_checkpoint()
    parents = {"": empty_checkpoint()["id"]}
    task = str(UUID(int=7))
    with closing(sqlite3.connect(file)) as old, old:
        old.execute("INSERT INTO namespaces VALUES (1, 't', 'team:1')")
        for checkpoint, parent in ((first, None), (second, first["id"])):
            body = first_body("team:1", *serde.dumps_typed(checkpoint), {"parents": parents})
            old.execute("INSERT INTO checkpoints VALUES (1, ?, ?, ?)", (checkpoint["id"], parent, body))
        [(idx, body)] = write_bodies("", [(0, "step", *serde.dumps_typed(4))])
        old.execute("INSERT INTO writes VALUES (1, ?, ?, ?, ?)", (second["id"], task, idx, body))
    up(file)
    database = Database(file)
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": "team:1", "checkpoint_id": second["id"]}}
    found = Saver(database).get_tuple(config)
    database.close()
    assert found is not None and found.parent_config is not None
    assert (found.checkpoint, found.metadata) == (second, {"parents": parents})
    assert found.parent_config["configurable"]["checkpoint_id"] == first["id"]
    assert found.pending_writes == [(task, "step", 4)]


def test_events_of_an_older_file_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(migrations, "MIGRATIONS", MIGRATIONS[:8])
        up(file)
    said = {"to": "b", "letter": "a/1/0/0", "about": "message", "text": "Hello."}
    rows = [("r", 2, 1.5, "letter", "a", json.dumps(said)), ("r", 1, 0.5, "thinking", "a", '{"step":1}')]
    with closing(sqlite3.connect(file)) as old, old:
        old.executemany("INSERT INTO runs (run, goal) VALUES (?, ?)", [("q", "another"), ("r", "this")])
        old.executemany("INSERT INTO events (run, seq, time, kind, agent, data) VALUES (?, ?, ?, ?, ?, ?)", rows)
    up(file)
    database = Database(file)
    found = Ledger(database, "r").events()
    database.close()
    assert found == [Event(1, 0.5, "thinking", "a", {"step": 1}), Event(2, 1.5, "letter", "a", said)]


def test_events_go_by_the_number_of_their_run(file: Path) -> None:
    up(file)
    database = Database(file)
    for run in ("first", "second"):
        database.write_sync(("INSERT INTO runs (run, goal) VALUES (?, ?)", (run, "a goal")))
        for seq in (1, 2):
            database.write_sync(Ledger(database, run).event(Event(seq, 0.5, "thinking", run, {"step": seq})))
    rows = database.read("SELECT run, seq, agent FROM events ORDER BY run, seq")
    assert [tuple(row) for row in rows] == [(run, seq, run) for run in ("first", "second") for seq in (1, 2)]
    assert [row["number"] for row in database.read("SELECT number FROM event_rows")] == [1, 1, 2, 2]
    with pytest.raises(sqlite3.IntegrityError):
        database.write_sync(Ledger(database, "nobody's").event(Event(1, 0.5, "thinking")))
    database.write_sync(("DELETE FROM events WHERE run = ?", ("first",)))
    assert Ledger(database, "first").events() == []
    assert len(Ledger(database, "second").events()) == 2
    # The number of a run that is gone is given again, and nothing may be left that has it.
    database.write_sync(("DELETE FROM runs WHERE run = 'second'", ()))
    database.write_sync(("INSERT INTO runs (run, goal) VALUES ('third', 'a goal')", ()))
    assert Ledger(database, "third").events() == []
    assert database.read("SELECT * FROM event_rows") == []
    database.close()


def test_what_a_person_has_added_to_an_older_file_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(migrations, "MIGRATIONS", MIGRATIONS[:11])
        up(file)
    with closing(sqlite3.connect(file)) as old, old:
        old.execute("ALTER TABLE runs ADD COLUMN tag TEXT")
        old.execute("INSERT INTO runs (run, goal, tag) VALUES ('r', 'a goal', 'mine')")
        old.execute("INSERT INTO events VALUES ('r', 1, 0.5, 'thinking', 'a', '{}')")
        old.execute("CREATE VIEW goals AS SELECT goal, tag, kind FROM runs JOIN events USING (run)")
    up(file)
    with closing(sqlite3.connect(file)) as new:
        assert new.execute("SELECT * FROM goals").fetchall() == [("a goal", "mine", "thinking")]


def test_a_call_whose_row_is_gone_is_told_without_its_numbers(file: Path) -> None:
    up(file)
    database = Database(file)
    thought = Event(1, 0.5, "thought", "ann", {"step": 1, "seconds": 2.0, "input_tokens": 5, "calls": ["talk"]})
    database.write_sync(("INSERT INTO runs (run, goal) VALUES ('r', 'a goal')", ()))
    database.write_sync(Ledger(database, "r").event(thought))
    [told] = Ledger(database, "r").events()
    assert (told.data["seconds"], told.data["input_tokens"], told.data["calls"]) == (0.0, 0, [])
    database.close()


def test_effects_are_read_as_text_where_older_versions_have_written_them() -> None:
    effects = {"saw": "0" * 40, "versions": {"a.md": "1" * 40}}
    text = json.dumps(effects)
    assert effects_of(text) == effects_of(pack(text.encode())) == effects
    with pytest.raises(ValueError, match="too large"):
        effects_of(pack(text.encode() * 100), 50)
