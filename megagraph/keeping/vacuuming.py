"""Give space back: what was deleted from the database, and the objects of files that no run needs any more."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megagraph.database import connect
from megagraph.files.packing import repack, size_of
from megagraph.home import Home
from megagraph.keeping.deleting import claims


@dataclass(frozen=True)
class Vacuumed:
    """Bytes on the disk, before and after."""

    dry_run: bool
    database_before: int
    database_after: int
    files_before: int
    files_after: int

    @property
    def bytes(self) -> int:
        """What was won, or would be."""
        return self.database_before - self.database_after + self.files_before - self.files_after

    def dump(self) -> dict[str, Any]:
        return {**asdict(self), "bytes": self.bytes}


def vacuum(home: Home, *, dry_run: bool = False) -> Vacuumed:
    """Write the database and the files anew without what nobody needs; with `dry_run`, only say what that would win.

    Raises `RunBusy` where anybody works on a run of the home. A kill at any moment loses nothing.
    """
    with home.alone():
        database = home.database.path
        before = _on_disk(database)
        with closing(connect(database)) as connection:
            after = _shrink(connection, database, dry_run=dry_run)
        repositories = [path for name in sorted(claims(home)) if (path := home.family(name)).is_dir()]
        files_before = sum(map(size_of, repositories))
        files_after = sum(repack(path, dry_run=dry_run) for path in repositories)
    return Vacuumed(dry_run, before, after, files_before, min(files_before, files_after) if dry_run else files_after)


def _shrink(connection: sqlite3.Connection, database: Path, *, dry_run: bool) -> int:
    if not dry_run:
        # Rows keep their order, which means something; their numbers need not stay.
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return _on_disk(database)
    page, pages, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page * (pages - free))


def _on_disk(database: Path) -> int:
    files = (database, database.with_name(f"{database.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
