"""All rows of a run, in whichever tables they are: a table that a later version adds is found by its columns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from megagraph.database import Statement
from megagraph.saver import deletion

OF_THREAD = ("namespaces", "checkpoints", "writes")
"""LangGraph's tables: the first has the run's id as `thread_id`, the others go by its numbers."""

_IN_THREAD = "namespace IN (SELECT id FROM namespaces WHERE thread_id = ?)"


@dataclass(frozen=True)
class TableInfo:
    """A table with a run's rows: the columns that mean something, and which of its rows are a run's."""

    name: str
    columns: tuple[str, ...]
    where: str
    order: str = "rowid"
    """In which order its rows were written."""

    @property
    def select(self) -> str:
        """The rows of one run, in the order in which they were written."""
        columns = ", ".join(f'"{column}"' for column in self.columns)
        return f'SELECT {columns} FROM "{self.name}" WHERE {self.where} ORDER BY {self.order}'

    @property
    def insert(self) -> str:
        columns = ", ".join(f'"{column}"' for column in self.columns)
        return f'INSERT INTO "{self.name}" ({columns}) VALUES ({", ".join("?" * len(self.columns))})'


def ledger_tables(connection: sqlite3.Connection) -> list[TableInfo]:
    """The tables that name the run in each row, and the view that does it for events; `runs` is the first."""
    names = connection.execute(
        "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c"
        " WHERE (m.type = 'table' OR m.name = 'events') AND c.name = 'run' ORDER BY m.name != 'runs', m.name"
    ).fetchall()
    return [TableInfo(name, _columns(connection, name), "run = ?", _order(connection, name)) for (name,) in names]


def thread_tables(connection: sqlite3.Connection) -> list[TableInfo]:
    rules = {"namespaces": "thread_id = ?", "checkpoints": _IN_THREAD, "writes": _IN_THREAD}
    # All columns, the number of a namespace too: the others go by it.
    return [
        TableInfo(
            name, tuple(row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))), where
        )
        for name, where in rules.items()
    ]


def tables(connection: sqlite3.Connection) -> list[TableInfo]:
    """All tables with rows of runs, those first that others go by."""
    return [*ledger_tables(connection), *thread_tables(connection)]


def bytes_of(connection: sqlite3.Connection, run: str, among: Iterable[TableInfo]) -> int:
    """About how much of the database the rows of a run take."""
    return sum(_bytes(connection, table, run) for table in among)


def removal(connection: sqlite3.Connection, run: str) -> Iterator[Statement]:
    """The statements that take all rows of a run away."""
    yield from deletion(run)
    for table in reversed(ledger_tables(connection)):
        yield f'DELETE FROM "{table.name}" WHERE run = ?', (run,)


def _bytes(connection: sqlite3.Connection, table: TableInfo, run: str) -> int:
    # Events are shown with the id of their run, and kept without.
    kept = [column for column in table.columns if (table.name, column) != ("events", "run")]
    length = " + ".join(f'coalesce(length(CAST("{column}" AS BLOB)), 0)' for column in kept)
    sql = f'SELECT coalesce(sum({length}), 0) FROM "{table.name}" WHERE {table.where}'
    return int(connection.execute(sql, (run,)).fetchone()[0])


def _order(connection: sqlite3.Connection, table: str) -> str:
    """The number of the row, or the key where rows stand in the order of that."""
    [(type_, made)] = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (table,))
    if type_ == "view":
        return "run, seq"
    if not made.endswith("WITHOUT ROWID"):
        return "rowid"
    return ", ".join(row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk", (table,)))


def _columns(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    """All columns but a number that only this database knows the row by."""
    found = [tuple(row) for row in connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", (table,))]
    keys = [name for name, _, pk in found if pk]
    return tuple(name for name, type_, pk in found if not (pk and len(keys) == 1 and type_ == "INTEGER"))
