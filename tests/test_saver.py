"""The checkpoint saver against LangGraph's own conformance suite, and what it does of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate

from megagraph.errors import HomeError
from megagraph.home import Home
from megagraph.namespaces import Namespaces
from megagraph.packing import unpack
from megagraph.saver import Saver


def test_it_is_a_checkpoint_saver_as_langgraph_wants_one() -> None:
    @checkpointer_test(name="megagraph")
    async def saver() -> AsyncIterator[Saver]:
        with tempfile.TemporaryDirectory() as folder:
            home = Home(folder)
            yield home.saver
            home.close()

    report = asyncio.run(validate(saver))
    assert report.passed_all_base(), report


def test_an_unknown_namespace_is_answered_without_a_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        home = Home(tmp_path)
        saver = home.saver
        checkpoint = empty_checkpoint()
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": "a"}}
        await saver.aput(config, checkpoint, {}, {})
        await saver.know("t")
        monkeypatch.setattr(saver, "get_tuple", lambda config: "asked")
        assert await saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": "new"}}) is None
        assert await saver.aget_tuple(config) == "asked"
        await saver.aput({"configurable": {"thread_id": "t", "checkpoint_ns": "new"}}, checkpoint, {}, {})
        assert await saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": "new"}}) == "asked"
        saver.forget("t")
        assert await saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": "other"}}) == "asked"
        home.close()

    asyncio.run(work())


def test_a_namespace_in_which_nothing_is_written_any_more_is_still_read(tmp_path: Path) -> None:
    async def work() -> None:
        home = Home(tmp_path)
        saver = home.saver
        await saver.know("t")

        def at(namespace: str) -> RunnableConfig:
            return {"configurable": {"thread_id": "t", "checkpoint_ns": namespace}}

        # As LangGraph has them, which is when they are kept once for a namespace.
        parents = {
            "a:1": {"": str(uuid4())},
            "a:1|b:2": {"": str(uuid4()), "a:1": str(uuid4())},
            "a:10": {"": str(uuid4())},
        }
        made = {name: {**empty_checkpoint(), "channel_values": {"step": name}} for name in parents}
        for namespace, checkpoint in made.items():
            await saver.aput(at(namespace), checkpoint, {"parents": parents[namespace]}, {})
        saver.close("t", "a:1")
        for namespace, checkpoint in made.items():
            found = await saver.aget_tuple(at(namespace))
            assert found is not None
            assert found.checkpoint == checkpoint
            assert found.metadata == {"parents": parents[namespace]}
        # Should anything be written there after all, it is beside what there was.
        later = {**empty_checkpoint(), "channel_values": {"step": "later"}}
        others = {"": str(uuid4()), "a:1": str(uuid4())}
        await saver.aput(at("a:1|b:2"), later, {"parents": others}, {})
        found = await saver.aget_tuple(at("a:1|b:2"))
        assert found is not None
        assert (found.checkpoint, found.metadata) == (later, {"parents": others})
        assert len([item async for item in saver.alist(at("a:1|b:2"))]) == 2
        home.close()

    asyncio.run(work())


def test_of_agents_whose_work_is_over_no_namespace_is_kept_in_memory() -> None:
    rows = [("", None), ("team:1", b"a"), ("team:1|b:2", b"b"), ("team:1|b:2|team:3", b"c"), ("team:1|c:4", b"d")]
    rows += [("team:1|c:4|team:5|d:6", b"e"), ("team:1|c:4|team:5|d:6|think:7", b"f")]
    found = Namespaces(rows, {"b", "d"})
    assert found.parents == {"": None, "team:1": b"a", "team:1|c:4": b"d"}
    # There are checkpoints in all of these, and none in others.
    assert all(found.may_have(name) for name, _ in rows)
    assert not any(found.may_have(name) for name in ("team:2", "team:1|e:5", "team:1|c:4|team:5", "team:1|c:4|b:2"))
    found.add("team:1|c:4|team:8", b"g")
    found.close("team:1|c:4")
    assert found.parents == {"": None, "team:1": b"a"}


def test_a_thread_at_work_here_is_written_without_waiting_and_read_as_it_is(tmp_path: Path) -> None:
    async def work() -> None:
        home = Home(tmp_path)
        saver, blocker = home.saver, sqlite3.connect(home.database.path, isolation_level=None)
        await saver.know("t")
        checkpoint = {**empty_checkpoint(), "channel_values": {"step": 7}}
        blocker.execute("BEGIN IMMEDIATE")
        config = await saver.aput({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, checkpoint, {}, {})
        await saver.aput_writes(config, [("step", 8)], "task")
        other = {"configurable": {"thread_id": "other", "checkpoint_ns": ""}}
        waiting = asyncio.ensure_future(saver.aput(other, checkpoint, {}, {}))
        reading = asyncio.ensure_future(saver.aget_tuple(config))
        await asyncio.sleep(0.05)
        assert not waiting.done(), "of a thread that is not at work here, others may have to see it"
        assert not reading.done()
        blocker.execute("ROLLBACK")
        await waiting
        found = await reading
        assert found is not None
        assert found.checkpoint == checkpoint
        assert found.pending_writes == [("task", "step", 8)]
        blocker.close()
        home.close()

    asyncio.run(work())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    home, inner = Home(tmp_path), "team:1|coder:2"
    above = {"": empty_checkpoint()["id"], "team:1": empty_checkpoint()["id"]}
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": inner}}
    usual, odd, whole = empty_checkpoint(), empty_checkpoint(), empty_checkpoint()
    odd["ts"] = "yesterday"
    whole["ts"] = datetime.now(UTC).replace(microsecond=0).isoformat()
    elsewhere = dict.fromkeys(above, empty_checkpoint()["id"])
    put = [(usual, above), (odd, elsewhere), (whole, {"other": "a"}), ({**usual, "id": "1"}, None)]

    async def work() -> None:
        await home.saver.know("t")
        for checkpoint, parents in put:
            metadata = {"step": 1} if parents is None else {"step": 1, "parents": parents}
            there = await home.saver.aput(config, checkpoint, metadata, {})
            found = await home.saver.aget_tuple(there)
            assert found is not None
            assert (found.checkpoint, found.metadata) == (checkpoint, metadata)

    asyncio.run(work())
    # Who hangs where the namespace does need not say so.
    bodies = [unpack(row[0]) for row in home.database.read("SELECT body FROM checkpoints ORDER BY rowid")]
    assert [above[""].encode() in body for body in bodies] == [False] * 4
    assert [elsewhere[""].encode() in body for body in bodies] == [False, True, False, False]
    home.close()


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    home = Home(tmp_path)
    config = home.saver.put({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, empty_checkpoint(), {}, {})
    for damage in (b"\1garbage", b"\7", b"", b"\0\xc1"):
        home.database.write_sync(("UPDATE checkpoints SET body = ?", (damage,)))
        with pytest.raises(HomeError, match="damaged"):
            home.saver.get_tuple(config)
    home.close()


def test_checkpoints_and_writes_of_a_thread_are_told_without_their_content(tmp_path: Path) -> None:
    home, inner = Home(tmp_path), "team:1|coder:2"
    saver, first, second = home.saver, empty_checkpoint(), empty_checkpoint()
    above = {"": "a", "team:1": "b"}
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": inner}}
    there = saver.put(config, first, {"step": -1, "parents": above}, {})
    saver.put(there, second, {"step": 0, "parents": above}, {})
    saver.put({"configurable": {"thread_id": "other", "checkpoint_ns": ""}}, first, {}, {})
    saver.put_writes(there, [("step", 1), ("messages", ["hello"])], "task", "~path")
    assert [tuple(row) for row in saver.checkpoints_of("t")] == [
        (inner, first["id"], None, {"step": -1, "parents": above}),
        (inner, second["id"], first["id"], {"step": 0, "parents": above}),
    ]
    assert [tuple(row) for row in saver.writes_of("t", {"step"})] == [
        (inner, first["id"], "task", "~path", "step", 1),
        (inner, first["id"], "task", "~path", "messages", None),
    ]
    home.close()
