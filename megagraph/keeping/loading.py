"""Take a run in from a zip file that nobody vouches for: all of it, or nothing.

The rows go into a small database of their own first. There they are brought up to date and looked through; then
they are copied in one transaction, after the files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlite_utils import Database as Tables

from megagraph.database import Database, connect
from megagraph.errors import ArchiveError, MegagraphError, RunBusy, ToolError, UsageError
from megagraph.files.folders import remove_folder
from megagraph.files.transfer import load as load_files
from megagraph.home import Home
from megagraph.keeping.archive import FORMAT, MANIFEST, OBJECTS, rows_member
from megagraph.keeping.deleting import MAIN, claims
from megagraph.keeping.leftovers import IMPORTED
from megagraph.keeping.rows import TableInfo, ledger_tables, tables
from megagraph.keeping.screening import made_harmless, screen_run, without_server
from megagraph.migrations import MIGRATIONS, migrate
from megagraph.scenario import load_scenario, shipped_scenarios

MOST_BYTES = 4_000_000_000
"""The size of all members of an archive, unpacked."""

_MOST_LINE = 150_000_000
_MOST_MANIFEST = 10_000_000
_FIRST_DATABASE = 6
"""The tables when the first archive was written."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, sqlite3.Error)


class _Member(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    bytes: int
    sha256: str


class _Manifest(BaseModel):
    """The list of what is in an archive."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: int
    database: int
    megagraph: str = ""
    runs: list[str]
    heads: dict[str, str]
    members: dict[str, _Member]


@dataclass(frozen=True)
class Loaded:
    """What was taken in."""

    run: str
    """The run that was exported."""
    runs: Mapping[str, str]
    """For each run of the archive, its id there and here."""
    notes: tuple[str, ...] = ()
    """What a person has to know of it."""

    def dump(self) -> dict[str, Any]:
        return {"run": self.run, "runs": dict(self.runs), "notes": list(self.notes)}


def load(home: Home, path: Path, *, scenario: Path | None = None) -> Loaded:
    """Take in what `save` has written, under the same ids or, where these are taken, new ones. Blocks.

    `scenario` is the folder of the run's scenario on this machine. Raises `ArchiveError` where the file is damaged,
    tampered with or of a newer format; nothing is taken in then.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _manifest(archive, path)
            _must_fit(archive, manifest, home)
            return _load(home, archive, manifest, scenario)
    except MegagraphError:
        # It is a `RuntimeError`, which is also what `zipfile` says of an encrypted member.
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> ArchiveError:
    why = "".join(c for c in " ".join(str(error).split())[:200] if c.isprintable()) or type(error).__name__
    return ArchiveError(f"the archive is damaged or was tampered with ({why}).", "Nothing was imported.")


def _manifest(archive: zipfile.ZipFile, path: Path) -> _Manifest:
    if MANIFEST not in archive.namelist() or archive.getinfo(MANIFEST).file_size > _MOST_MANIFEST:
        raise ArchiveError(f"{path} is no exported run.", "`megagraph export RUN -o run.zip` writes one.")
    try:
        data = json.loads(archive.read(MANIFEST))
        newer = data["format"] > FORMAT or data["database"] > len(MIGRATIONS)
        manifest = None if newer else _Manifest.model_validate(data)
    except ValidationError as error:
        raise _refusal(ValueError(error.errors()[0]["msg"])) from error
    except _BROKEN as error:
        raise _refusal(error) from error
    if manifest is None:
        raise ArchiveError(
            f"{path} was written by a newer megagraph.", "Nothing was imported; update megagraph to import it."
        )
    return manifest


def _must_fit(archive: zipfile.ZipFile, manifest: _Manifest, home: Home) -> None:
    """Raise `ArchiveError` where the archive has other members than it says, or too much in them."""
    infos = [info for info in archive.infolist() if info.filename != MANIFEST]
    said = {name: member.bytes for name, member in manifest.members.items()}
    if {info.filename: info.file_size for info in infos} != said or len(archive.infolist()) != len(said) + 1:
        raise _refusal(ValueError("its members are not those that it lists"))
    ids = manifest.runs
    if not ids or len(set(ids)) != len(ids) or set(manifest.heads) != set(ids) or OBJECTS not in said:
        raise _refusal(ValueError("its runs are not those that it lists"))
    if any(not _is_id(run) for run in ids) or not all(map(_COMMIT.fullmatch, manifest.heads.values())):
        raise _refusal(ValueError("a run has an id that none has"))
    if manifest.format < 1 or manifest.database < _FIRST_DATABASE:
        raise _refusal(ValueError("there never was such a format"))
    most = min(MOST_BYTES, shutil.disk_usage(home.path).free // 2)
    if sum(said.values()) > most:
        raise ArchiveError(f"the archive would take {sum(said.values()):,} bytes.", f"{most:,} are allowed here.")


def _is_id(run: str) -> bool:
    try:
        return str(UUID(run)) == run
    except ValueError:
        return False


def _load(home: Home, archive: zipfile.ZipFile, manifest: _Manifest, scenario: Path | None) -> Loaded:
    with ExitStack() as held:
        held.enter_context(home.making())
        ids = _free_ids(home, manifest.runs, held)
        first = ids[manifest.runs[0]]
        scratch, files = home.path / "scratch" / first, home.family(first)
        made = files.with_name(f".{files.name}{IMPORTED}")
        for old in (scratch, made, files):
            # Of an import that was killed: no row names it, and its lock is held here.
            remove_folder(old)
        scratch.mkdir(parents=True)
        done = False
        try:
            staged = scratch / "rows.db"
            with closing(connect(staged)) as rows:
                notes = _stage(rows, staged, archive, manifest, ids, scenario)
            _screen(staged, ids)
            _take_files(archive, manifest, ids, made)
            made.rename(files)
            _copy(home.database.path, staged)
            done = True
        except (MegagraphError, zipfile.BadZipFile):
            raise
        except (*_BROKEN, ToolError) as error:
            raise _refusal(error) from error
        finally:
            remove_folder(scratch)
            remove_folder(made)
            if not done:
                remove_folder(files)
                (home.path / "locks" / first).unlink(missing_ok=True)
    return Loaded(first, ids, notes)


def _free_ids(home: Home, runs: list[str], held: ExitStack) -> dict[str, str]:
    """The ids under which runs are taken in: their own, or new ones. The first is locked."""
    claimed = claims(home)
    taken = {*claimed, *(run for branches in claimed.values() for run in branches.values())}
    ids = {run: str(uuid4()) if run in taken else run for run in runs}
    try:
        held.enter_context(home.lock(ids[runs[0]]))
    except RunBusy:
        # Somebody else takes the same run in.
        ids[runs[0]] = str(uuid4())
        held.enter_context(home.lock(ids[runs[0]]))
    return ids


# --- rows ----------------------------------------------------------------------------------------------------


def _stage(
    rows: sqlite3.Connection,
    file: Path,
    archive: zipfile.ZipFile,
    manifest: _Manifest,
    ids: Mapping[str, str],
    scenario: Path | None,
) -> tuple[str, ...]:
    """Put the archive's rows into a database of their own, under their new ids; what is to be said of them."""
    known = Tables(rows)
    rows.execute("BEGIN")
    for step in MIGRATIONS[: manifest.database]:
        step(known)
    rows.execute(f"PRAGMA user_version = {manifest.database}")
    found = tables(rows)
    if {rows_member(table.name) for table in found} | {OBJECTS} != set(manifest.members):
        raise ValueError("its tables are not those of its format")
    for table in found:
        _fill(rows, table, archive, manifest)
    _must_be_theirs(rows, found, manifest.runs)
    rows.execute("COMMIT")
    migrate(file, rows)
    rows.execute("BEGIN")
    _rename(rows, manifest.runs, ids)
    notes = _settle(rows, scenario)
    rows.execute("COMMIT")
    return notes


def _fill(rows: sqlite3.Connection, table: TableInfo, archive: zipfile.ZipFile, manifest: _Manifest) -> None:
    name = rows_member(table.name)
    with archive.open(name) as member:
        lines = _checked_lines(member, manifest.members[name])
        if tuple(json.loads(next(lines, b"[]"))) != table.columns:
            raise ValueError(f"the table {table.name} has other columns")
        rows.executemany(table.insert, (_values(line, len(table.columns)) for line in lines))


def _checked_lines(stream: IO[bytes], said: _Member) -> Iterator[bytes]:
    """The lines of a member. Raises `ValueError` at its end where it is not the one that was written."""
    digest = hashlib.sha256()
    while line := stream.readline(_MOST_LINE):
        digest.update(line)
        if not line.endswith(b"\n"):
            raise ValueError("a row is too long")
        yield line
    if digest.hexdigest() != said.sha256:
        raise ValueError("a table is not the one that was written")


def _values(line: bytes, count: int) -> list[Any]:
    values = json.loads(line)
    if not isinstance(values, list) or len(values) != count:
        raise ValueError("a row has other columns")
    return [_value(value) for value in values]


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"], validate=True)
    if isinstance(value, list | bool):
        raise ValueError("a row has what no row has")  # noqa: TRY004 - it is the archive's value, not the caller's type
    return value


def _must_be_theirs(rows: sqlite3.Connection, found: list[TableInfo], runs: list[str]) -> None:
    for table in found:
        column = {"namespaces": "thread_id", "checkpoints": "", "writes": ""}.get(table.name, "run")
        owners = f'SELECT DISTINCT "{column}" FROM "{table.name}"'
        if column and not {owner for (owner,) in rows.execute(owners)} <= set(runs):
            raise ValueError("it has rows of runs that it does not list")
    if rows.execute("SELECT count(*) FROM runs").fetchone()[0] != len(runs):
        raise ValueError("it lacks runs that it lists")
    for name in ("checkpoints", "writes"):
        sql = f"SELECT count(*) FROM {name} WHERE namespace NOT IN (SELECT id FROM namespaces)"
        if rows.execute(sql).fetchone()[0]:
            raise ValueError("it has checkpoints of no run")


def _rename(rows: sqlite3.Connection, runs: list[str], ids: Mapping[str, str]) -> None:
    for old in runs:
        new = ids[old]
        for table in ledger_tables(rows):
            # Events go by the number of their run, whatever its id is.
            if table.name != "events":
                rows.execute(f'UPDATE "{table.name}" SET run = ? WHERE run = ?', (new, old))
        rows.execute("UPDATE namespaces SET thread_id = ? WHERE thread_id = ?", (new, old))
        rows.execute("UPDATE runs SET parent = ? WHERE parent = ?", (new, old))
        rows.execute("UPDATE runs SET repository = ? WHERE run = ?", (None if old == runs[0] else ids[runs[0]], new))


def _settle(rows: sqlite3.Connection, scenario: Path | None) -> tuple[str, ...]:
    """Take out of the settings what means something elsewhere only, and put in where the scenario is here."""
    notes: dict[str, None] = {}
    for run, name, model, text, parent in rows.execute(
        "SELECT run, scenario, model, settings, parent FROM runs"
    ).fetchall():
        if parent is not None and not _is_id(parent):
            raise ValueError("a run has a parent that is none")
        before = json.loads(text)
        try:
            settings = made_harmless(before)
        except UsageError as error:
            raise ValueError(error.message) from error
        if scenario is not None:
            if (found := load_scenario(scenario, settings.get("parameters", {}))).name != name:
                raise UsageError(f"the run's scenario is `{name}`, and {scenario} has `{found.name}`.")
            settings["scenario"] = str(scenario.resolve())
        elif name and name not in shipped_scenarios():
            notes[
                f"Its scenario `{name}` is not one of megagraph's: import it with --scenario FOLDER for its checks."
            ] = None
        if before.get("base_url") or without_server(model) != model:
            notes["Its model had a server of its own, which was left out: resume it with --base-url."] = None
        rows.execute(
            "UPDATE runs SET settings = ?, model = ? WHERE run = ?", (json.dumps(settings), without_server(model), run)
        )
    return tuple(notes)


def _screen(staged: Path, ids: Mapping[str, str]) -> None:
    database = Database(staged)
    try:
        for run in ids.values():
            screen_run(database, run)
    except MegagraphError as error:
        raise ValueError(error.message) from error
    finally:
        database.close()


def _copy(home: Path, staged: Path) -> None:
    """Put the rows into the home, in one transaction, in the order in which they were written."""
    with closing(connect(home)) as connection:
        connection.execute("ATTACH ? AS incoming", (str(staged),))
        connection.execute("BEGIN IMMEDIATE")
        for table in ledger_tables(connection):
            columns = ", ".join(f'"{column}"' for column in table.columns)
            connection.execute(
                f'INSERT INTO main."{table.name}" ({columns})'
                f' SELECT {columns} FROM incoming."{table.name}" ORDER BY {table.order}'
            )
        connection.execute(
            "INSERT INTO main.namespaces (thread_id, checkpoint_ns, parents)"
            " SELECT thread_id, checkpoint_ns, parents FROM incoming.namespaces ORDER BY id"
        )
        for name, columns in (
            ("checkpoints", "checkpoint_id, parent_id, body"),
            ("writes", "checkpoint_id, task_id, idx, body"),
        ):
            connection.execute(
                f"INSERT INTO main.{name} (namespace, {columns}) SELECT new.id, {columns} FROM incoming.{name} t"
                " JOIN incoming.namespaces old ON old.id = t.namespace JOIN main.namespaces new"
                " ON new.thread_id = old.thread_id AND new.checkpoint_ns = old.checkpoint_ns ORDER BY t.rowid"
            )
        connection.execute("COMMIT")


# --- files ---------------------------------------------------------------------------------------------------


class _Hashing:
    """A stream that knows what was read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def _take_files(archive: zipfile.ZipFile, manifest: _Manifest, ids: Mapping[str, str], path: Path) -> None:
    first = manifest.runs[0]
    branches = {MAIN if run == first else ids[run]: head for run, head in manifest.heads.items()}
    with archive.open(OBJECTS) as member:
        stream = _Hashing(member)
        load_files(path, stream, branches)
    if stream.digest.hexdigest() != manifest.members[OBJECTS].sha256:
        raise ValueError("the files are not those that were written")
