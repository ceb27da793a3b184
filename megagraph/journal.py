"""What is kept of a model call and of a tool call: as the organisation has it, and in the columns of its row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage

from megagraph.packing import unpack


@dataclass(frozen=True)
class Shortened:
    """How a conversation was made shorter before a call (`compaction.py`)."""

    earlier: str
    """What is told of the turns that were put away."""
    kept: int
    """Messages at its end that were left."""
    longest: int | None = None
    """Bytes that were left of what came of the last turn, of each message; None: all."""


@dataclass(frozen=True)
class CallRow:
    """One answered model call: what the agent heard just before it, and the answer."""

    agent: str
    step: int
    heard: tuple[str, ...]
    letters: tuple[str, ...]
    answer: AIMessage
    shortened: Shortened | None = None
    """What was done to the conversation before it was sent."""


@dataclass(frozen=True)
class ToolRow:
    """One finished tool call. `effects` is what it changes in its agent's state."""

    agent: str
    step: int
    index: int
    tool: str
    ok: bool
    result: str
    effects: Mapping[str, Any]


def effects_of(stored: str | bytes, most: int = 0) -> dict[str, Any]:
    """The effects of a tool call as its row has them: packed, or as text in what older versions wrote.

    Raises `ValueError` where they are damaged, or larger than `most` bytes, if that is given.
    """
    effects: dict[str, Any] = json.loads(stored if isinstance(stored, str) else unpack(stored, most))
    return effects


def dump_answer(message: AIMessage) -> dict[str, Any]:
    """An answer as plain JSON: all of it that the conversation needs."""
    return {
        "content": message.content,
        "tool_calls": message.tool_calls,
        "invalid_tool_calls": message.invalid_tool_calls,
        "usage": message.usage_metadata,
        "id": message.id,
        "finish_reason": message.response_metadata.get("finish_reason"),
    }


def load_answer(data: Mapping[str, Any]) -> AIMessage:
    return AIMessage(
        content=data["content"],
        tool_calls=data["tool_calls"],
        invalid_tool_calls=data["invalid_tool_calls"],
        usage_metadata=data["usage"],
        id=data["id"],
        response_metadata={"finish_reason": data["finish_reason"]},
    )


def load_shortened(stored: str | None) -> Shortened | None:
    """What a row says of a conversation that was made shorter. Raises `ValueError` where it cannot be that."""
    if stored is None:
        return None
    match json.loads(stored):
        case {"earlier": str(earlier), "kept": int(kept), "longest": int() | None as longest}:
            if kept > 0:
                return Shortened(earlier, kept, longest)
    raise ValueError("a conversation was made shorter in no way that is known")
