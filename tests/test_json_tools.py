"""Tools offered by JSON Schema, for models that cannot call them: a whole run over HTTP, and what does not fit."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from megagraph import MegaGraph
from megagraph.json_tools import plain, read
from megagraph.rehearsal import Script
from tests.scripts import deep_script
from tests.test_answers import problems
from tests.test_chaos import EXPECTED
from tests.test_models import key, models_by_agent  # noqa: F401 - a fixture for all tests here


class SmallModel:
    """An OpenAI-compatible server whose model only writes JSON that fits the schema it is sent."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.objections: list[str] = []
        self.calls = 0

    async def __aenter__(self) -> SmallModel:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls += 1
        roles = [message["role"] for message in body["messages"]]
        if roles[0] != "system" or any(a == b for a, b in pairwise(roles)) or "tool" in roles:
            self.objections.append(f"roles: {roles}")
        if "tools" in body:
            self.objections.append("tools were sent")
        self.objections += problems(body["messages"])
        answer = self.script.answer(as_native(body["messages"]))
        turns = [{"tool": c["name"], **c["args"]} for c in answer.tool_calls] or [{"tool": "say", "text": answer.text}]
        turn = {"call": turns[0]}
        schema = body["response_format"]["json_schema"]["schema"]
        self.objections += [e.message for e in Draft202012Validator(schema).iter_errors(turn)]
        message = {"role": "assistant", "content": json.dumps(turn)}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


def as_native(messages: Sequence[dict[str, Any]]) -> list[BaseMessage]:
    """The plain conversation as the script's parts read it."""
    out: list[BaseMessage] = []
    for n, message in enumerate(messages):
        text = message["content"]
        if message["role"] == "system":
            out.append(SystemMessage(text))
        elif message["role"] == "assistant":
            call = dict(json.loads(text)["call"])
            tool = call.pop("tool")
            made = [{"name": tool, "args": call, "id": f"c{n}", "type": "tool_call"}] if tool != "say" else []
            out.append(AIMessage("" if made else call["text"], tool_calls=made))
        else:
            for part in re.split(r"(<result>\n.*?\n</result>)", text, flags=re.S):
                if part.startswith("<result>"):
                    out.append(ToolMessage(part[9:-10], tool_call_id="c"))
                elif part.strip():
                    out.append(HumanMessage(part.strip()))
    return out


def test_an_organisation_of_a_model_that_cannot_call_tools(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            SmallModel(deep_script()) as server,
            MegaGraph("openai:small", tool_protocol="json", base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            assert dict(run.files) == EXPECTED
            assert server.objections == []
            assert run.row["model"] == "openai:small?tools=json"

    asyncio.run(work())
    assert models_by_agent(tmp_path)["boss"] == {"openai:small?tools=json"}


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ('{"call": {"tool": "finish", "summary": "done"}}', "finish"),
        ('{"tool": "finish", "summary": "done"}', "finish"),
        ('```json\n{"call": {"tool": "finish", "summary": "done"}}\n```', "finish"),
        ("{'call': {'tool': 'finish', 'summary': 'done'}}", "finish"),
        ('{"call": {"tool": "say", "text": "I wait."}}', None),
    ],
)
def test_a_turn_is_read_as_a_call(text: str, tool: str | None) -> None:
    answer = read(AIMessage(text), 3)
    assert [call["name"] for call in answer.tool_calls] == ([tool] if tool else [])
    assert answer.text == ("" if tool else "I wait.")
    assert answer.invalid_tool_calls == []


@pytest.mark.parametrize("text", ["I will do it.", '{"call": {"summary": "done"}}', '{"call": {"tool": "fin', "[1]"])
def test_a_turn_that_is_no_call_is_answered_with_the_reason(text: str) -> None:
    answer = read(AIMessage(text), 3)
    assert [call["id"] for call in answer.invalid_tool_calls] == ["json_3"]
    assert not answer.tool_calls and not answer.text


def test_several_calls_and_results_become_one_turn_each() -> None:
    calls = [{"name": "a", "args": {"x": 1}, "id": "1", "type": "tool_call"}] * 2
    messages = [
        SystemMessage("You are."),
        HumanMessage("task"),
        AIMessage("", tool_calls=calls),  # type: ignore[arg-type]
        ToolMessage("one", tool_call_id="1"),
        ToolMessage("two", tool_call_id="2"),
        HumanMessage("letter"),
    ]
    sent = plain(messages, "The tools.")
    assert [m.type for m in sent] == ["system", "human", "ai", "human"]
    assert sent[-1].text == "<result>\none\n</result>\n\n<result>\ntwo\n</result>\n\nletter"
