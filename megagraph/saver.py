"""LangGraph's SQLite checkpoint saver over the group-committing database.

Reading, listing and replaying are the library's own; only the way a row is written differs.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from builtins import list as List  # noqa: N812 - `list` is a method of the saver
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from megagraph.database import Database, Statement

_PUT = (
    "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,"
    " type, checkpoint, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_WRITE = (
    "INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Saver(SqliteSaver):
    """A checkpoint saver, sync and async, whose writes are committed in groups.

    The tables `checkpoints` and `writes` must exist (the ledger's migrations make them).
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database.reader, serde=JsonPlusSerializer())
        self.is_setup = True
        self._database = database
        self._namespaces: dict[str, set[str]] = {}

    @contextmanager
    def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:
        """A reading cursor. The library's methods that write through it are replaced below."""
        with self._database.read_lock, closing(self._database.reader.cursor()) as cursor:
            yield cursor

    async def know(self, thread: str) -> None:
        """Take stock of a thread that nobody else will write to until `forget`.

        Every agent and every team begins by asking whether it has been there before: this answers it at once.
        """
        rows = await self._database.read_async(
            "SELECT DISTINCT checkpoint_ns FROM checkpoints WHERE thread_id = ?", (thread,)
        )
        self._namespaces[thread] = {row[0] for row in rows}

    def forget(self, thread: str) -> None:
        self._namespaces.pop(thread, None)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        self._database.write_sync(self._checkpoint(config, checkpoint, metadata))
        return _address(config, checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        where = config["configurable"]
        if (known := self._namespaces.get(where["thread_id"])) is not None:
            known.add(where.get("checkpoint_ns", ""))
        await self._database.write(self._checkpoint(config, checkpoint, metadata))
        return _address(config, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._database.write_sync(*self._writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._database.write(*self._writes(config, writes, task_id, task_path))

    def get_next_version(self, current: Any, channel: None) -> Any:
        # Counting is enough, since a thread is never forked in place; the library's own is fifty characters
        # for each channel of each checkpoint.
        return 1 if current is None else current + 1

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        # Eagerly: a caller may read the state of what it lists, which takes the same lock.
        return iter(list(super().list(config, filter=filter, before=before, limit=limit)))

    def delete_thread(self, thread_id: str) -> None:
        self._database.write_sync(*_deletion(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        await self._database.write(*_deletion(thread_id))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        where = config["configurable"]
        known = self._namespaces.get(where["thread_id"])
        if known is not None and where.get("checkpoint_ns", "") not in known:
            return None
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        def found() -> list[CheckpointTuple]:
            return list(self.list(config, filter=filter, before=before, limit=limit))

        for item in await asyncio.to_thread(found):
            yield item

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await asyncio.to_thread(self.get_delta_channel_history, config=config, channels=channels)

    def _checkpoint(self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata) -> Statement:
        where = config["configurable"]
        type_, blob = self.serde.dumps_typed(checkpoint)
        described = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False)
        return _PUT, (
            str(where["thread_id"]),
            where.get("checkpoint_ns", ""),
            checkpoint["id"],
            where.get("checkpoint_id"),
            type_,
            blob,
            described.encode("utf-8", "ignore"),
        )

    def _writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> List[Statement]:
        where = config["configurable"]
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        sql = f"INSERT OR {'REPLACE' if special else 'IGNORE'} {_WRITE}"
        place = (str(where["thread_id"]), str(where.get("checkpoint_ns", "")), str(where["checkpoint_id"]))
        return [
            (
                sql,
                (
                    *place,
                    task_id,
                    task_path,
                    WRITES_IDX_MAP.get(channel, idx),
                    channel,
                    *self.serde.dumps_typed(value),
                ),
            )
            for idx, (channel, value) in enumerate(writes)
        ]


def _address(config: RunnableConfig, checkpoint_id: str) -> RunnableConfig:
    where = config["configurable"]
    return {
        "configurable": {
            "thread_id": where["thread_id"],
            "checkpoint_ns": where.get("checkpoint_ns", ""),
            "checkpoint_id": checkpoint_id,
        }
    }


def _deletion(thread_id: str) -> tuple[Statement, ...]:
    return tuple((f"DELETE FROM {table} WHERE thread_id = ?", (thread_id,)) for table in ("checkpoints", "writes"))
