"""A run as one zip file: its rows, its checkpoints and what its files need, with a list of it all.

megagraph.json      the format, the runs, where their files stand, and length and SHA-256 of each other member
rows/TABLE.jsonl    the columns, then a row a line; bytes are {"base64": …}
files.objects       the objects of git that the runs' branches need, as `files/transfer.py` writes them
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import megagraph
from megagraph.database import connect
from megagraph.errors import UsageError
from megagraph.files.transfer import dump
from megagraph.home import Home
from megagraph.keeping.rows import TableInfo, tables
from megagraph.migrations import MIGRATIONS

FORMAT = 1
"""Raised where an older program could not read what is written."""

MANIFEST = "megagraph.json"
OBJECTS = "files.objects"


def rows_member(table: str) -> str:
    return f"rows/{table}.jsonl"


def save(home: Home, run: str, path: Path, *, family: bool = False, overwrite: bool = False) -> list[str]:
    """Write a run, and its branches with `family`, to a zip file; the ids of the runs in it. Blocks.

    Raises `RunBusy` where one of them is at work, `UsageError` where a file is there already.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already.", "Give another name, or say that it may be overwritten.")
    runs = [run, *(_descendants(home, run) if family else ())]
    with ExitStack() as held:
        for each in runs:
            held.enter_context(home.at_rest(each))
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                _write(home, runs, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True))
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return runs


def _descendants(home: Home, run: str) -> Iterator[str]:
    for row in home.database.read("SELECT run FROM runs WHERE parent = ? ORDER BY created", (run,)):
        yield row["run"]
        yield from _descendants(home, row["run"])


def _write(home: Home, runs: list[str], archive: zipfile.ZipFile) -> None:
    members: dict[str, Any] = {}
    with archive:
        with home.database.read_lock:
            found = tables(home.database.reader)
        for table in found:
            name = rows_member(table.name)
            members[name] = _add(archive, name, _lines(home, table, runs))
        heads = {run: home.workspace(run).head for run in runs}
        members[OBJECTS] = _add(archive, OBJECTS, dump(home.repository(runs[0]), heads.values()))
        about = {
            "format": FORMAT,
            "database": len(MIGRATIONS),
            "megagraph": megagraph.__version__,
            "runs": runs,
            "heads": heads,
            "members": members,
        }
        archive.writestr(MANIFEST, json.dumps(about, indent=1))


def _add(archive: zipfile.ZipFile, name: str, parts: Iterable[bytes]) -> Mapping[str, Any]:
    digest, size = hashlib.sha256(), 0
    with archive.open(name, "w", force_zip64=True) as member:
        for part in parts:
            digest.update(part)
            size += len(part)
            member.write(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _lines(home: Home, table: TableInfo, runs: list[str]) -> Iterator[bytes]:
    yield _line(table.columns)
    # A reader of its own: the home's is for short questions.
    with contextlib.closing(connect(home.database.path)) as connection:
        for run in runs:
            for row in connection.execute(table.select, (run,)):
                yield _line([_plain(value) for value in row])


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _line(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
