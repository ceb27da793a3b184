"""Nodes of a graph without LangChain's spans around them, where nobody listens to spans.

This rests on LangGraph's private parts; `tests/test_team.py` holds it to them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import BaseCallbackManager, Callbacks
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._runnable import RunnableSeq
from langgraph.graph.state import CompiledStateGraph


class Spanless(Runnable[Any, Any]):
    """A node and its writers, run as LangGraph does it, but without a span around them where nobody listens to spans.

    A span that nobody sees ends in a task of its own, as its node runs in one: half of all tasks that a run had.
    """

    def __init__(self, steps: RunnableSeq) -> None:
        self._steps = steps

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._steps.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        if config is None or kwargs or _heard(config.get("callbacks")):
            return await self._steps.ainvoke(input, config, **kwargs)
        node, *writers = self._steps.steps
        mine = var_child_runnable_config.set(config)
        try:
            value = await node.ainvoke(input, config)
        finally:
            var_child_runnable_config.reset(mine)
        for writer in writers:
            value = await writer.ainvoke(value, config)
        return value

    # LangGraph asks for these where a handler follows a stream piece by piece.

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        return self._steps.stream(input, config, **kwargs)

    def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        return self._steps.astream(input, config, **kwargs)


def _heard(callbacks: Callbacks) -> bool:
    return bool(callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks)


def without_spans(graph: CompiledStateGraph[Any, Any, Any, Any]) -> None:
    """Have its nodes run without a span where nobody listens."""
    for node in graph.nodes.values():
        if isinstance(steps := node.node, RunnableSeq):
            # The property remembers what it has made.
            vars(node)["node"] = Spanless(steps)
