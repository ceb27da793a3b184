"""Answers that do not fit, and conversations that every provider takes.

What a model gets wrong in writing down a call is repaired where only one thing can have been meant. All else is
answered with the exact problem by whoever carries the calls out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall, ToolCall, ToolMessage

from megagraph.text import whole

MAX_IN_A_ROW = 5
"""Bad answers in a row before an agent has failed."""
_UNREADABLE = 2_000
"""Characters of unreadable arguments that a model is shown again."""

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.S)
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_ESCAPED = re.compile(r"\\.", re.S)
_SPACE_AND_QUOTES = re.compile(r"[\s\"'`,\\]")


def fit(answer: AIMessage, conversation: Sequence[BaseMessage]) -> AIMessage:
    """The answer as it is journalled: calls repaired where that is certain, every call with an id of its own.

    A refusal becomes the text of the answer, with the finish reason `refusal`.
    """
    calls, broken = list(answer.tool_calls), list(answer.invalid_tool_calls)
    finish = answer.response_metadata.get("finish_reason")
    if finish != "length":
        # At the output limit a call may look whole although its end is missing.
        still: list[InvalidToolCall] = []
        for call in broken:
            args = repaired(call["args"] or "")
            if args is None:
                still.append(call)
            else:
                calls.append(ToolCall(name=call["name"] or "", args=args, id=call["id"], type="tool_call"))
        broken = still
    taken = {id_ for message in conversation if isinstance(message, AIMessage) for id_ in _all_calls(message)}
    every: list[ToolCall | InvalidToolCall] = [*calls, *broken]
    for i, each in enumerate(every):
        id_ = each["id"]
        if not id_ or id_ in taken:
            id_ = each["id"] = f"call_{len(conversation)}_{i}"
        taken.add(id_)
    refusal = answer.additional_kwargs.get("refusal")
    refused = bool(refusal) and not (calls or broken)
    return AIMessage(
        content=whole(str(refusal) if refused else answer.content),
        tool_calls=whole(calls),
        invalid_tool_calls=whole(broken),
        usage_metadata=answer.usage_metadata,
        response_metadata={**answer.response_metadata, **({"finish_reason": "refusal"} if refused else {})},
        id=answer.id,
    )


def declined(answer: AIMessage) -> Literal["refusal", "filter"] | None:
    """Whether the model or the provider declined to answer."""
    match answer.response_metadata.get("finish_reason"):
        case "refusal":
            return "refusal"
        case "content_filter":
            return "filter"
    return None


def cut(answer: AIMessage) -> bool:
    """Whether the answer ended at the output limit."""
    return answer.response_metadata.get("finish_reason") == "length"


def repaired(text: str) -> dict[str, Any] | None:
    """The object that a broken JSON text means; None where more than one could be meant.

    A repair may change quotes, commas, escapes and white space around values. All words and brackets must be the
    model's own, and no quotation mark may have been told from a delimiter by guessing.
    """
    from json_repair import loads

    if fenced := _FENCE.match(text):
        text = fenced[1]
    value = loads(text)
    if not isinstance(value, dict) or not value:
        return None
    inside = "".join(_strings(value))
    brackets = Counter(char for char in inside if char in "{}[]")
    brackets.update(_brackets(value))
    if brackets != Counter(char for char in text if char in "{}[]"):
        return None
    plain = _ESCAPED.sub("", text)
    for quote in _delimiters(text):
        # One without its partner opens a string that was cut.
        if plain.count(quote) % 2 or inside.count(quote) != text.count(f"\\{quote}"):
            return None
    if not _stand_in(text, _strings(value)) or _bare(json.dumps(value, ensure_ascii=False)) != _bare(text):
        return None
    return value


def well_formed(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The conversation with every call readable and answered, and no result without its call."""
    out: list[BaseMessage] = []
    i = 0
    while i < len(messages):
        message = messages[i]
        i += 1
        if isinstance(message, ToolMessage):
            continue
        if not isinstance(message, AIMessage):
            out.append(message)
            continue
        calls = _all_calls(message)
        if not calls:
            if message.text.strip():
                out.append(message)
            continue
        results: dict[str, BaseMessage] = {}
        while i < len(messages) and isinstance(result := messages[i], ToolMessage):
            results.setdefault(result.tool_call_id, result)
            i += 1
        out.append(message if _readable(message, calls) else _rewritten(message, calls))
        out += [
            results.get(id_) or ToolMessage("This call was not carried out.", tool_call_id=id_, status="error")
            for id_ in calls
        ]
    return out


def _readable(message: AIMessage, calls: Mapping[str, ToolCall | InvalidToolCall]) -> bool:
    return (
        not message.invalid_tool_calls
        and len(message.tool_calls) == len(calls)
        and all(
            call["id"] and 0 < len(call["name"]) <= 64 and not _NO_NAME.search(call["name"])
            for call in message.tool_calls
        )
    )


def _rewritten(message: AIMessage, calls: Mapping[str, ToolCall | InvalidToolCall]) -> AIMessage:
    return AIMessage(
        content=message.content,
        tool_calls=[
            ToolCall(name=_NO_NAME.sub("_", call["name"] or "")[:64] or "unknown", args=_args(call), id=id_)
            for id_, call in calls.items()
        ],
    )


def _all_calls(message: AIMessage) -> dict[str, ToolCall | InvalidToolCall]:
    calls: list[ToolCall | InvalidToolCall] = [*message.tool_calls, *message.invalid_tool_calls]
    return {call["id"] or f"call_{i}": call for i, call in enumerate(calls)}


def _args(call: ToolCall | InvalidToolCall) -> dict[str, Any]:
    if isinstance(call["args"], dict):
        return call["args"]
    # Servers read the arguments of earlier calls as JSON, so text that is none goes inside of it.
    return {"unreadable": str(call["args"] or "")[:_UNREADABLE]}


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return []


def _stand_in(text: str, strings: Sequence[str]) -> bool:
    """Whether the strings stand in the text in this order, each between quotes, or bare where it is one word."""
    at = 0
    for string in strings:
        forms = {string, json.dumps(string, ensure_ascii=False)[1:-1], json.dumps(string)[1:-1]}
        wanted = [f"{quote}{form}{quote}" for form in forms for quote in "\"'"]
        if string.isidentifier():
            wanted.append(string)
        found = [(place, len(form)) for form in wanted if (place := text.find(form, at)) >= 0]
        if not found:
            return False
        place, length = min(found)
        at = place + length
    return True


def _brackets(value: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    if isinstance(value, dict):
        counts.update("{}")
        for item in value.values():
            counts += _brackets(item)
    elif isinstance(value, list):
        counts.update("[]")
        for item in value:
            counts += _brackets(item)
    return counts


def _delimiters(text: str) -> str:
    """The quotes that delimit strings in a text: what stands next to a bracket, colon or comma."""
    return "".join(quote for quote in "\"'" if re.search(rf"[{{\[,:]\s*{quote}", text))


def _bare(text: str) -> str:
    """The text without what a repair may change."""
    return _SPACE_AND_QUOTES.sub("", re.sub(r"\\[nrtbf]|\\u[0-9a-fA-F]{4}", "", text)).casefold()
