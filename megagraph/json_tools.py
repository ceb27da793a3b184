"""Tools for models that cannot call tools: each turn is one JSON object that names a tool and its arguments.

Many small models never write a valid tool call, and write valid JSON when the server holds them to a schema. So
the tools are offered as one union of schemas, and the conversation holds plain text only: what the model wrote,
and what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from megagraph.answers import cut, repaired

SAY = "say"
"""The turn that calls no tool."""
_LONGEST = 8_000
"""Characters of a string without a bound of its own: an unbounded one lets a small model write on for ever."""

_INTRODUCTION = """
Answer with one JSON object in each turn and with nothing else: {"call": {"tool": NAME, …arguments}}. The tools:
"""


class JsonTools:
    """A chat model with the tools offered by schema."""

    def __init__(self, chat: BaseChatModel, tools: Sequence[Mapping[str, Any]]) -> None:
        functions = [tool["function"] for tool in tools]
        self.schema = union(functions)
        response_format = {"type": "json_schema", "json_schema": {"name": "turn", "schema": self.schema}}
        self._bound = chat.bind(response_format=response_format)
        self._about = _INTRODUCTION + "\n".join(_describe(function) for function in functions) + f"\n{_SAY_LINE}"

    async def ainvoke(self, messages: Sequence[BaseMessage], config: RunnableConfig | None = None) -> AIMessage:
        answer: AIMessage = await self._bound.ainvoke(plain(messages, self._about), config)
        return read(answer, sum(isinstance(m, AIMessage) for m in messages))


_SAY_LINE = (
    f"- {SAY}(text): Say something without calling a tool, such as to wait for letters. "
    f'So: {{"call": {{"tool": "{SAY}", "text": "I wait."}}}}'
)


def union(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of one turn: a call of one of these functions."""
    say = {"name": SAY, "parameters": {"properties": {"text": {"type": "string"}}, "required": ["text"]}}
    return {
        "type": "object",
        "properties": {"call": {"anyOf": [_branch(function) for function in (*functions, say)]}},
        "required": ["call"],
        "additionalProperties": False,
    }


def plain(messages: Sequence[BaseMessage], about: str) -> list[BaseMessage]:
    """The conversation without tool calls and their results, roles in turns, as every chat template takes it."""
    out: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, SystemMessage):
            out.append(SystemMessage(f"{message.text}\n{about}"))
            continue
        if isinstance(message, AIMessage):
            calls = [{"tool": call["name"], **call["args"]} for call in message.tool_calls]
            turns = calls or [{"tool": SAY, "text": message.text}]
            text = "\n".join(json.dumps({"call": turn}, ensure_ascii=False) for turn in turns)
            out.append(AIMessage(text))
            continue
        text = f"<result>\n{message.text}\n</result>" if isinstance(message, ToolMessage) else message.text
        if out and isinstance(out[-1], HumanMessage):
            text = f"{out.pop().text}\n\n{text}"
        out.append(HumanMessage(text))
    return out


def read(answer: AIMessage, turn: int) -> AIMessage:
    """The answer with the call that its text means."""
    text = answer.text.strip()
    if not text:
        return answer
    id_ = f"json_{turn}"
    try:
        value = json.loads(text)
    except ValueError as error:
        value = None if cut(answer) else repaired(text)
        if value is None:
            problem = f"the turn is no JSON object: {error}"
            broken = {"name": "", "args": text, "id": id_, "error": problem, "type": "invalid_tool_call"}
            return answer.model_copy(update={"content": "", "invalid_tool_calls": [broken]})
    call = value.get("call", value) if isinstance(value, dict) else None
    if not isinstance(call, dict) or not isinstance(call.get("tool"), str):
        broken = {"name": "", "args": text, "id": id_, "error": "the turn names no tool", "type": "invalid_tool_call"}
        return answer.model_copy(update={"content": "", "invalid_tool_calls": [broken]})
    args = {name: value for name, value in call.items() if name != "tool"}
    if call["tool"] == SAY:
        return answer.model_copy(update={"content": str(args.get("text", ""))})
    made = {"name": call["tool"], "args": args, "id": id_, "type": "tool_call"}
    return answer.model_copy(update={"content": "", "tool_calls": [made]})


def _branch(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function["parameters"]
    return {
        "type": "object",
        "properties": {
            "tool": {"type": "string", "const": function["name"]},
            **{name: _bounded(schema) for name, schema in parameters.get("properties", {}).items()},
        },
        "required": ["tool", *parameters.get("required", ())],
        "additionalProperties": False,
    }


def _bounded(schema: Any) -> Any:
    """The schema with a bound on every string."""
    if isinstance(schema, list):
        return [_bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    bounded = {key: _bounded(value) for key, value in schema.items()}
    if schema.get("type") == "string" and "enum" not in schema and "const" not in schema:
        bounded["maxLength"] = min(schema.get("maxLength", _LONGEST), _LONGEST)
    return bounded


def _describe(function: Mapping[str, Any]) -> str:
    parameters = function["parameters"]
    required = parameters.get("required", ())
    names = [name if name in required else f"{name}?" for name in parameters.get("properties", {})]
    return f"- {function['name']}({', '.join(names)}): {function['description']}"
