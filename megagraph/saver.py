"""LangGraph's checkpoints in the home's database, through its group-committing writer.

A namespace of LangGraph's names every agent above, so it is kept once and rows go by its number. With it are the
checkpoints that it hangs on: a task's id is made of its checkpoint's, so they are the same for all of its rows. Ids
are kept as bytes. All writes of a task that come together are one row. Bodies are packed.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from builtins import list as List  # noqa: N812 - `list` is a method of the saver
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, cast

import ormsgpack
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from megagraph.database import Database, Statement
from megagraph.errors import HomeError
from megagraph.ledger import Ledger
from megagraph.messages import named, recalled
from megagraph.namespaces import Namespaces
from megagraph.packing import Packed, unpack
from megagraph.text import to_json

_NAMESPACE = "INSERT OR IGNORE INTO namespaces (thread_id, checkpoint_ns, parents) VALUES (?, ?, ?)"
_CHECKPOINT = (
    "INSERT OR REPLACE INTO checkpoints (namespace, checkpoint_id, parent_id, body)"
    " SELECT id, ?, ?, ? FROM namespaces WHERE thread_id = ? AND checkpoint_ns = ?"
)
_WRITES = (
    "INTO writes (namespace, checkpoint_id, task_id, idx, body)"
    " SELECT id, ?, ?, ?, ? FROM namespaces WHERE thread_id = ? AND checkpoint_ns = ?"
)
_SELECT = (
    "SELECT n.id AS namespace, n.thread_id, n.checkpoint_ns, n.parents, c.checkpoint_id, c.parent_id, c.body"
    " FROM namespaces n JOIN checkpoints c ON c.namespace = n.id"
)
_ANCESTORS = """
WITH RECURSIVE chain (namespace, checkpoint_id, parent_id, body) AS (
    SELECT c.namespace, c.checkpoint_id, c.parent_id, c.body FROM checkpoints c JOIN namespaces n ON c.namespace = n.id
        WHERE n.thread_id = ? AND n.checkpoint_ns = ? AND c.checkpoint_id = ?
    UNION ALL
    SELECT c.namespace, c.checkpoint_id, c.parent_id, c.body FROM chain
        JOIN checkpoints c ON c.namespace = chain.namespace AND c.checkpoint_id = chain.parent_id
)
SELECT * FROM chain
"""
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_START = datetime(1582, 10, 15, tzinfo=UTC)
"""What UUIDs count the time from."""


class CheckpointRow(NamedTuple):
    """One checkpoint, without its content."""

    namespace: str
    checkpoint: str
    parent: str | None
    metadata: CheckpointMetadata


class WriteRow(NamedTuple):
    """One value that a task wrote at a checkpoint; `value` is None where it was not asked for."""

    namespace: str
    checkpoint: str
    task: str
    path: str
    channel: str
    value: Any


class Saver(BaseCheckpointSaver[int]):
    """A checkpoint saver, sync and async, over a database whose tables the migrations have made."""

    def __init__(self, database: Database, ledger: Callable[[str], Ledger] | None = None) -> None:
        """`ledger` gives the rows of a thread's run, where they are not in the same database under its id."""
        super().__init__(serde=JsonPlusSerializer())
        self._database = database
        self._ledger = ledger or partial(Ledger, database)
        self._known: dict[str, Namespaces] = {}
        """The namespaces of threads that nobody else writes to."""

    async def know(self, thread: str) -> None:
        """Take stock of a thread that nobody else will write to until `forget`.

        Every agent and every team begins by asking whether it has been there before: this answers it at once.
        Its checkpoints are written without waiting: what this process writes after one of them is durable no sooner.
        """
        over = await self._ledger(thread).over()
        rows = await self._database.read_async(
            "SELECT checkpoint_ns, parents FROM namespaces WHERE thread_id = ?", (thread,)
        )
        self._known[thread] = Namespaces(map(tuple, rows), over)

    def forget(self, thread: str) -> None:
        self._known.pop(thread, None)

    def close(self, thread: str, namespace: str) -> None:
        """Note that in this namespace of a thread, and below it, nothing is written any more."""
        if (known := self._known.get(thread)) is not None:
            known.close(namespace)

    def get_next_version(self, current: int | None, channel: None) -> int:
        # Counting is enough, since a thread is never forked in place; the library's own is fifty characters
        # for each channel of each checkpoint.
        return 1 if current is None else current + 1

    # --- reading -----------------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        where = ["n.thread_id = ?", "n.checkpoint_ns = ?"]
        values: List[Any] = list(_place(config))
        if checkpoint_id := get_checkpoint_id(config):
            where.append("c.checkpoint_id = ?")
            values.append(stored_id(checkpoint_id))
        rows = self._database.read(
            f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY c.checkpoint_id DESC LIMIT 1", values
        )
        return self._tuple(rows[0]) if rows else None

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        asked = config["configurable"] if config else {}
        wishes = {
            "n.thread_id = ?": asked.get("thread_id"),
            "n.checkpoint_ns = ?": asked.get("checkpoint_ns"),
            "c.checkpoint_id = ?": stored_id(asked.get("checkpoint_id")),
            "c.checkpoint_id < ?": stored_id(get_checkpoint_id(before)) if before else None,
        }
        where = {sql: value for sql, value in wishes.items() if value is not None}
        sql = f"{_SELECT}{' WHERE ' if where else ''}{' AND '.join(where)} ORDER BY c.checkpoint_id DESC"
        if limit is not None and not filter:
            sql += f" LIMIT {int(limit)}"
        left = limit
        # Eagerly: a caller may read the state of what it lists.
        for row in self._database.read(sql, tuple(where.values())):
            if left == 0:
                return
            found = self._tuple(row)
            if all(found.metadata.get(key) == value for key, value in (filter or {}).items()):
                yield found
                left = None if left is None else left - 1

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What each channel was written on the way to a checkpoint, from its last full value on."""
        found: dict[str, List[List[PendingWrite]]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        target = get_checkpoint_id(config)
        if target is None and (latest := self.get_tuple(config)):
            target = latest.config["configurable"]["checkpoint_id"]
        last, thread = stored_id(target), _place(config)[0]
        for row in self._database.read(_ANCESTORS, (*_place(config), last)):
            if len(seeds) == len(found):
                break
            if row["checkpoint_id"] == last:
                continue
            for channel, writes in self._writes_of(thread, row, found.keys() - seeds.keys()).items():
                found[channel].append(writes)
            values = self._opened(thread, row)["channel_values"]
            seeds |= {channel: values[channel] for channel in found if channel not in seeds and channel in values}
        history: dict[str, DeltaChannelHistory] = {}
        for channel, steps in found.items():
            history[channel] = {"writes": [write for writes in reversed(steps) for write in writes]}
            if channel in seeds:
                history[channel]["seed"] = seeds[channel]
        return history

    def checkpoints_of(self, thread: str) -> Iterator[CheckpointRow]:
        """Every checkpoint of a thread without its content, by namespace and age."""
        rows = self._database.read(
            f"{_SELECT} WHERE n.thread_id = ? ORDER BY n.checkpoint_ns, c.checkpoint_id", (thread,)
        )
        for row in rows:
            yield CheckpointRow(
                row["checkpoint_ns"], shown_id(row["checkpoint_id"]), shown_id(row["parent_id"]), _metadata(row)
            )

    def writes_of(self, thread: str, channels: Container[str]) -> Iterator[WriteRow]:
        """Every write of a thread; the values of these channels only."""
        rows = self._database.read(
            "SELECT n.checkpoint_ns, w.checkpoint_id, w.task_id, w.body FROM namespaces n JOIN writes w"
            " ON w.namespace = n.id WHERE n.thread_id = ? ORDER BY 1, 2, 3, w.idx",
            (thread,),
        )
        for namespace, checkpoint, task, body in rows:
            path, written = _content(body)
            for _, channel, type_, blob in written:
                value = self._value(thread, channel, type_, blob) if channel in channels else None
                yield WriteRow(namespace, shown_id(checkpoint), shown_id(task), path, channel, value)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        thread, namespace = _place(config)
        known = self._known.get(thread)
        if known is not None and not known.may_have(namespace):
            return None
        await self._caught_up(thread)
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        def found() -> List[CheckpointTuple]:
            return list(self.list(config, filter=filter, before=before, limit=limit))

        await self._caught_up(config["configurable"].get("thread_id") if config else None)
        for item in await asyncio.to_thread(found):
            yield item

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        await self._caught_up(_place(config)[0])
        return await asyncio.to_thread(self.get_delta_channel_history, config=config, channels=channels)

    # --- writing -----------------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        self._database.write_sync(*self._checkpoint(config, checkpoint, metadata))
        return _address(*_place(config), checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        await self._store(_place(config)[0], self._checkpoint(config, checkpoint, metadata))
        return _address(*_place(config), checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._database.write_sync(*self._writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._store(_place(config)[0], self._writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._database.write_sync(*deletion(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        await self._database.write(*deletion(thread_id))

    # --- inside ------------------------------------------------------------------------------------------

    async def _caught_up(self, thread: str | None) -> None:
        """Return when all that was written without waiting can be read, of one thread or all.

        Of a run that is at rest there is nothing.
        """
        if thread in self._known or (thread is None and self._known):
            await self._database.write()

    async def _store(self, thread: str, statements: Sequence[Statement]) -> None:
        if thread in self._known:
            self._database.post(*statements)
        else:
            await self._database.write(*statements)

    def _named(self, place: tuple[str, str], parents: bytes | None = None) -> List[Statement]:
        """The statement that gives a namespace its number, where it may have none."""
        thread, namespace = place
        known = self._known.get(thread)
        if known is not None and namespace in known.parents:
            return []
        if known is not None and not known.may_have(namespace):
            known.add(namespace, parents)
        return [(_NAMESPACE, (*place, parents))]

    def _checkpoint(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> List[Statement]:
        place, id_ = _place(config), checkpoint["id"]
        parents = _joined(place[1], metadata.get("parents"))
        naming = self._named(place, parents)
        about: dict[str, Any] = dict(get_checkpoint_metadata(config, metadata))
        known = self._known.get(place[0])
        if parents is not None and known is not None and known.parents.get(place[1]) == parents:
            about["parents"] = True
        # Its id says nearly when it was made.
        kept: dict[str, Any] = {key: value for key, value in checkpoint.items() if key not in ("id", "ts")}
        kept["channel_values"] = {key: named(key, value) for key, value in checkpoint["channel_values"].items()}
        made = _since(id_, checkpoint["ts"])
        body = Packed(ormsgpack.packb((*self.serde.dumps_typed(kept), to_json(about), made)))
        parent = stored_id(config["configurable"].get("checkpoint_id"))
        return [*naming, (_CHECKPOINT, (stored_id(id_), parent, body, *place))]

    def _writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> List[Statement]:
        place, key = _place(config), (stored_id(config["configurable"]["checkpoint_id"]), stored_id(task_id))
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        sql = f"INSERT OR {'REPLACE' if special else 'IGNORE'} {_WRITES}"
        rows = [
            (WRITES_IDX_MAP.get(channel, idx), channel, *self.serde.dumps_typed(named(channel, value)))
            for idx, (channel, value) in enumerate(writes)
        ]
        return [
            *self._named(place),
            *((sql, (*key, first, body, *place)) for first, body in write_bodies(task_path, rows)),
        ]

    def _value(self, thread: str, channel: str, type_: str, blob: bytes) -> Any:
        return recalled(channel, self.serde.loads_typed((type_, blob)), self._ledger(thread))

    def _opened(self, thread: str, row: sqlite3.Row) -> Checkpoint:
        type_, blob, _, *made = _content(row["body"])
        checkpoint = self.serde.loads_typed((type_, blob))
        for channel, value in checkpoint["channel_values"].items():
            checkpoint["channel_values"][channel] = recalled(channel, value, self._ledger(thread))
        if made:
            checkpoint["id"] = shown_id(row["checkpoint_id"])
            checkpoint["ts"] = _time(checkpoint["id"], made[0])
        return cast(Checkpoint, checkpoint)

    def _tuple(self, row: sqlite3.Row) -> CheckpointTuple:
        place = row["thread_id"], row["checkpoint_ns"]
        return CheckpointTuple(
            _address(*place, shown_id(row["checkpoint_id"])),
            self._opened(row["thread_id"], row),
            _metadata(row),
            _address(*place, shown_id(row["parent_id"])) if row["parent_id"] else None,
            self._pending(row["thread_id"], row),
        )

    def _pending(self, thread: str, row: sqlite3.Row, channels: Iterable[str] | None = None) -> List[PendingWrite]:
        """The writes to a checkpoint, or those to some channels, in the order in which LangGraph applies them."""
        found = []
        for task, body in self._database.read(
            "SELECT task_id, body FROM writes WHERE namespace = ? AND checkpoint_id = ?",
            (row["namespace"], row["checkpoint_id"]),
        ):
            path, writes = _content(body)
            task = shown_id(task)
            found += [
                (writes_sort_key(path, task, idx), task, channel, type_, blob)
                for idx, channel, type_, blob in writes
                if channels is None or channel in channels
            ]
        found.sort(key=lambda write: write[0])
        return [(task, channel, self._value(thread, channel, type_, blob)) for _, task, channel, type_, blob in found]

    def _writes_of(self, thread: str, row: sqlite3.Row, channels: Iterable[str]) -> dict[str, List[PendingWrite]]:
        by_channel: dict[str, List[PendingWrite]] = {}
        for write in self._pending(thread, row, channels):
            by_channel.setdefault(write[1], []).append(write)
        return by_channel


def first_body(namespace: str, type_: str, blob: bytes, metadata: Mapping[str, Any]) -> Packed:
    """A checkpoint and its metadata as they were stored at first: with its id, its time, and its parents' ids."""
    parents = metadata.get("parents")
    if isinstance(parents, Mapping) and list(parents) == _above(namespace):
        metadata = {**metadata, "parents": list(parents.values())}
    return Packed(ormsgpack.packb((type_, blob, to_json(metadata))))


def write_bodies(path: str, rows: Sequence[tuple[int, str, str, bytes]]) -> Iterator[tuple[int, Packed]]:
    """The writes of a task as they are stored: what is special, such as an interrupt, each for itself."""
    for together, group in groupby(rows, key=lambda row: row[0] >= 0):
        for part in [list(group)] if together else ([row] for row in group):
            yield part[0][0], Packed(ormsgpack.packb((path, part)))


def deletion(thread: str) -> tuple[Statement, ...]:
    """The statements that take a thread away."""
    of_thread = "namespace IN (SELECT id FROM namespaces WHERE thread_id = ?)"
    return (
        (f"DELETE FROM writes WHERE {of_thread}", (thread,)),
        (f"DELETE FROM checkpoints WHERE {of_thread}", (thread,)),
        ("DELETE FROM namespaces WHERE thread_id = ?", (thread,)),
    )


def stored_id(id_: Any) -> Any:
    """An id as it is kept: that of a checkpoint or a task, a UUID, as its sixteen bytes."""
    return bytes.fromhex(id_.replace("-", "")) if isinstance(id_, str) and _ID.fullmatch(id_) else id_


def shown_id(stored: Any) -> Any:
    """The id that is kept so."""
    if not isinstance(stored, bytes):
        return stored
    text = stored.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _joined(namespace: str, parents: Mapping[str, str] | None) -> bytes | None:
    """The ids of the checkpoints that a namespace hangs on, outermost first; None where they are not the usual ones."""
    if parents is None or List(parents) != _above(namespace):
        return None
    ids = [stored_id(id_) for id_ in parents.values()]
    return b"".join(ids) if all(isinstance(id_, bytes) for id_ in ids) else None


def _metadata(row: sqlite3.Row) -> CheckpointMetadata:
    """The metadata of a checkpoint, with its parents."""
    metadata: dict[str, Any] = json.loads(_content(row["body"])[2])
    match metadata.get("parents"):
        case True:
            joined = row["parents"]
            ids = [shown_id(joined[i : i + 16]) for i in range(0, len(joined), 16)]
        case List() as ids:
            pass
        case _:
            return cast(CheckpointMetadata, metadata)
    return cast(CheckpointMetadata, metadata | {"parents": dict(zip(_above(row["checkpoint_ns"]), ids, strict=True))})


def _since(id_: str, time: str) -> int | str:
    """The time of a checkpoint as the microseconds since its id was made; as it is where it is written otherwise."""
    try:
        micros = (datetime.fromisoformat(time) - _made(id_)) // timedelta(microseconds=1)
    except ValueError:
        return time
    return micros if _time(id_, micros) == time else time


def _time(id_: str, since: int | str) -> str:
    return since if isinstance(since, str) else (_made(id_) + timedelta(microseconds=since)).isoformat()


def _made(id_: str) -> datetime:
    """When an id of LangGraph's was made: it is a UUID of version 6. Raises `ValueError` for any other."""
    number = stored_id(id_)
    if not isinstance(number, bytes) or number[6] >> 4 != 6:
        raise ValueError(id_)
    ticks = int.from_bytes(number[:6]) << 12 | int.from_bytes(number[6:8]) & 0xFFF
    return _START + timedelta(microseconds=ticks // 10)


def _content(body: bytes) -> Any:
    try:
        return ormsgpack.unpackb(unpack(body))
    except ValueError as error:
        raise HomeError(
            f"a checkpoint in the home's database is damaged ({error}).", "Restore the home from a copy."
        ) from error


def _place(config: RunnableConfig) -> tuple[str, str]:
    where = config["configurable"]
    return str(where["thread_id"]), str(where.get("checkpoint_ns", ""))


def _above(namespace: str) -> List[str]:
    """The namespaces above one, outermost first."""
    parts = namespace.split("|") if namespace else []
    return ["|".join(parts[:n]) for n in range(len(parts))]


def _address(thread: str, namespace: str, checkpoint: str) -> RunnableConfig:
    return cast(
        RunnableConfig,
        {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint}},
    )
