"""The calls of a run made again by simpler clients, in the same order of waiting: what is the least they can cost?

Nothing is kept, no tool is called, no file is written: only the same requests, the same answers, the same waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from langchain_core.messages import convert_to_messages
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent
from pydantic import SecretStr

from benchmarks.calls import Call, Message
from benchmarks.watch import watched
from megagraph.agent import TOOLBOX
from megagraph.prompts import Prompts

Ask = Callable[[list[Message]], Awaitable[object]]


async def again(calls: Sequence[Call], ask: Ask) -> dict[str, float]:
    """Make the calls, each as soon as those it needs are answered."""
    answered = [asyncio.Event() for _ in calls]

    async def one(place: int, call: Call) -> None:
        for need in call.needs:
            await answered[need].wait()
        await ask(call.messages)
        answered[place].set()

    async with watched() as figures:
        await asyncio.gather(*(one(place, call) for place, call in enumerate(calls)))
    return figures


async def bare_aiohttp(calls: Sequence[Call], url: str) -> dict[str, float]:
    """An HTTP client and a JSON encoder."""
    tools = _tools()
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(messages: list[Message]) -> object:
            body = {"model": "scripted", "messages": messages, "tools": tools}
            async with session.post(f"{url}/chat/completions", json=body) as answer:
                return await answer.json()

        return await again(calls, ask)


async def chat_openai(calls: Sequence[Call], url: str) -> dict[str, float]:
    """LangChain's `ChatOpenAI.ainvoke` as it comes."""
    model = _chat(url).bind_tools(_tools())
    return await again(calls, lambda messages: model.ainvoke(convert_to_messages(messages)))


async def langgraph_agent(calls: Sequence[Call], url: str) -> dict[str, float]:
    """LangGraph's own agent around it, without a checkpointer: one turn for each call."""
    graph: Any = create_react_agent(_chat(url), [])
    return await again(calls, lambda messages: graph.ainvoke({"messages": convert_to_messages(messages)}))


FLOORS = {"bare aiohttp": bare_aiohttp, "ChatOpenAI.ainvoke": chat_openai, "LangGraph's agent": langgraph_agent}


def _chat(url: str) -> ChatOpenAI:
    return ChatOpenAI(
        model="scripted",
        base_url=url,
        api_key=SecretStr(os.environ["OPENAI_API_KEY"]),
        max_retries=0,
        timeout=3600,
    )


def _tools() -> list[dict[str, Any]]:
    return TOOLBOX.schemas(Prompts([]).tools)
