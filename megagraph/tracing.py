"""What LangChain's callbacks are told of an agent's model and tool calls: for tracing, and for who asks for tokens.

LangSmith, OpenTelemetry and any other tracer hang on these callbacks. Where there is neither a tracer nor a
listener to tokens, nothing here is called and no call carries a configuration of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManagerForLLMRun, BaseCallbackHandler
from langchain_core.callbacks.manager import AsyncCallbackManager, AsyncCallbackManagerForToolRun
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, get_async_callback_manager_for_config, merge_configs
from langchain_core.tracers._streaming import _StreamingCallbackHandler

TokenSink = Callable[[str, str], None]
"""Called with a piece of text, and the tool of whose arguments it is a piece, if it is."""

T = TypeVar("T")


def is_traced(callbacks: Sequence[BaseCallbackHandler]) -> bool:
    """Whether somebody wants to hear of calls: a handler here, LangSmith by its environment variables, or a tracer
    that has hooked itself into every callback manager, as those for OpenTelemetry do."""
    return bool(AsyncCallbackManager.configure(inheritable_callbacks=list(callbacks)).handlers)


def run_config(run: str, goal: str, callbacks: Sequence[BaseCallbackHandler]) -> RunnableConfig:
    """What the outermost span of a traced run is called and carries."""
    return {
        "run_name": f"megagraph {run[:8]}",
        "callbacks": list(callbacks),
        "tags": ["megagraph"],
        "metadata": {"megagraph_run": run, "megagraph_goal": " ".join(goal.split())[:200]},
    }


def call_config(run: str, agent: str, step: int, sink: TokenSink | None, *, traced: bool) -> RunnableConfig | None:
    """The configuration of a model call; None where nobody wants to hear of it."""
    if sink is None and not traced:
        return None
    mine: RunnableConfig = {"callbacks": [TokenHandler(sink)]} if sink is not None else {}
    if traced:
        mine |= {"run_name": agent, "tags": [f"agent:{agent}"], "metadata": _about(run, agent, step)}
    return merge_configs(ensure_config(), mine)


async def tool_span(
    run: str, agent: str, step: int, tool: str, args: Mapping[str, Any]
) -> AsyncCallbackManagerForToolRun:
    """Begin the span of a tool call; its `on_tool_end` or `on_tool_error` ends it."""
    mine: RunnableConfig = {"tags": [f"agent:{agent}"], "metadata": _about(run, agent, step)}
    manager = get_async_callback_manager_for_config(merge_configs(ensure_config(), mine))
    return await manager.on_tool_start({"name": tool}, str(dict(args)), name=tool, inputs=dict(args))


def _about(run: str, agent: str, step: int) -> dict[str, Any]:
    # `thread_id` is what LangSmith groups by.
    return {"megagraph_run": run, "megagraph_agent": agent, "megagraph_step": step, "thread_id": run}


class TokenHandler(AsyncCallbackHandler, _StreamingCallbackHandler[Any]):
    """Hands each piece of an answer to a sink. A chat model streams because of it, if it can."""

    def __init__(self, sink: TokenSink) -> None:
        self._sink = sink
        self._tools: dict[int | str | None, str] = {}

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:
        return output

    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        **kwargs: Any,
    ) -> None:
        message = chunk.message if isinstance(chunk, ChatGenerationChunk) else None
        if text := message.text if message is not None else token if isinstance(token, str) else "":
            self._sink(text, "")
        for call in getattr(message, "tool_call_chunks", ()):
            # Only the first piece of a call names its tool.
            name = self._tools.setdefault(call["index"], call["name"] or "")
            if call["args"]:
                self._sink(call["args"], name)


def wants_tokens(manager: AsyncCallbackManagerForLLMRun | None) -> bool:
    """Whether a handler of this call wants the answer as it is written."""
    return manager is not None and any(isinstance(h, _StreamingCallbackHandler) for h in manager.handlers)
