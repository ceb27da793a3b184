"""Checkpoints name the messages that are rows, and give back the same conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Overwrite

from megagraph import MegaGraph
from megagraph.errors import HomeError
from megagraph.home import Home
from megagraph.packing import unpack
from megagraph.rehearsal import Brief, Heard, RehearsalModel, Script, Turn, finish, recruit, wait_for, write_file
from megagraph.team import agent_graph

TEXT = "The clause that nobody has read aloud."


def script() -> Script:
    def boss(brief: Brief) -> Generator[Turn, Heard, None]:
        heard = yield recruit({"name": "scribe", "role": "scribe", "instructions": "write"})
        yield from wait_for(heard, ["scribe"])
        yield finish("done")

    def scribe(brief: Brief) -> Generator[Turn, Heard, None]:
        yield write_file("clause.md", TEXT)
        yield finish(f"written: {TEXT}", ["clause.md"])

    return Script({"boss": boss, "scribe": scribe})


def worked(home: Path) -> str:
    async def work() -> str:
        async with MegaGraph(RehearsalModel(script=script()), home=home) as mega:
            run = await mega.start("Write it down.")
            assert (await run.result()).status == "done"
            return run.id

    return asyncio.run(work())


def place_of(home: Home, run: str, agent: str) -> RunnableConfig:
    [(namespace,)] = home.database.read(
        "SELECT checkpoint_ns FROM namespaces WHERE thread_id = ? AND checkpoint_ns GLOB ?", (run, f"*|{agent}:*")
    )
    return {"configurable": {"thread_id": run, "checkpoint_ns": namespace}}


def conversation(home: Home, config: RunnableConfig) -> list[BaseMessage]:
    return list(agent_graph(checkpointer=home.saver).get_state(config).values["messages"])


def test_a_conversation_is_not_repeated_in_checkpoints_and_comes_back(tmp_path: Path) -> None:
    run = worked(tmp_path)
    home = Home(tmp_path)
    bodies = [
        unpack(row[0])
        for table in ("checkpoints", "writes")
        for row in home.database.read(f"SELECT body FROM {table} ORDER BY rowid")
    ]
    # The report is in the scribe's state too, as what it has handed in.
    assert not [body for body in bodies if TEXT.encode() in body and b"written:" not in body]
    found = conversation(home, place_of(home, run, "scribe"))
    assert [type(message) for message in found] == [HumanMessage, AIMessage, ToolMessage, AIMessage, ToolMessage]
    ledger = home.ledger(run)
    assert [message.text for message in found[:1]] == list(ledger.call_at("scribe", 1).heard)
    assert isinstance(found[1], AIMessage) and isinstance(found[2], ToolMessage)
    assert found[1].tool_calls == ledger.call_at("scribe", 1).answer.tool_calls
    assert found[2].tool_call_id == found[1].tool_calls[0]["id"]
    assert (found[2].content, found[2].status) == (ledger.result("scribe", 1, 0).result, "success")
    assert len({message.id for message in found}) == len(found)
    assert None not in {message.id for message in found}
    home.close()


def test_a_message_that_somebody_has_changed_is_kept_as_it_is(tmp_path: Path) -> None:
    run = worked(tmp_path)
    home = Home(tmp_path)
    graph, config = agent_graph(checkpointer=home.saver), place_of(home, run, "scribe")
    first, *others = conversation(home, config)
    first.content = "Write something else."
    update: dict[str, Any] = {"messages": Overwrite([first, *others])}
    graph.update_state(config, update, as_node="think")
    assert conversation(home, config) == [first, *others]
    first.content = "Write nothing."
    graph.update_state(config, {"messages": [first]}, as_node="think")
    assert conversation(home, config)[-1].text == "Write nothing."
    home.close()


def test_a_row_that_is_gone_is_one_clear_line(tmp_path: Path) -> None:
    run = worked(tmp_path)
    home = Home(tmp_path)
    config = place_of(home, run, "scribe")
    home.database.write_sync(("DELETE FROM tool_calls WHERE agent = 'scribe'", ()))
    with pytest.raises(HomeError, match="scribe heard or did at step"):
        conversation(home, config)
    home.close()
