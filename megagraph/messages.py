"""The messages of a conversation that are rows as well, and how checkpoints name them instead of repeating them.

What an agent hears, what the model answers and what a tool returns is in the ledger before it is in the agent's
state. So a checkpoint says only where: the conversation was half of what checkpoints took. A message that anybody
else has made or changed is another object, and is kept whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Overwrite

from megagraph.errors import HomeError
from megagraph.journal import CallRow, ToolRow
from megagraph.ledger import Ledger

Kind: TypeAlias = Literal["@earlier", "@heard", "@answer", "@result"]
M = TypeVar("M", bound=BaseMessage)

_MARKS = [["@earlier"], ["@heard"], ["@answer"], ["@result"]]

_TALKS = ("messages",)
_WITH_TALKS = ("lead", "desk", "__start__")
"""Channels with a conversation among other things."""


class Place(NamedTuple):
    """Where a message stands in the ledger."""

    kind: Kind
    agent: str
    step: int
    number: int = 0
    call: str = ""
    """For a result, the id of the call in the model's answer."""


class _Known(weakref.ref[BaseMessage]):
    """A message that was made of a row, as long as it is in use."""

    __slots__ = ("key", "place")

    key: int
    place: Place


_KNOWN: dict[int, _Known] = {}
"""These messages by their identity."""


def earlier_in(row: CallRow) -> HumanMessage:
    """What an agent was told of the turns that were put away before an answer that is durable."""
    return _known(_earlier(row), Place("@earlier", row.agent, row.step))


def heard_in(row: CallRow) -> list[HumanMessage]:
    """What an agent heard before an answer that is durable."""
    return [_known(_heard(row, i), Place("@heard", row.agent, row.step, i)) for i in range(len(row.heard))]


def answer_in(row: CallRow) -> AIMessage:
    """An answer that is durable."""
    return _known(_answer(row), Place("@answer", row.agent, row.step))


def result_in(row: ToolRow, call: str) -> ToolMessage:
    """What came of the call with this id, once it is durable."""
    return _known(_result(row, call), Place("@result", row.agent, row.step, row.index, call))


def named(channel: str, value: Any) -> Any:
    """What is written to a channel, with the places of messages instead of these."""
    return _each(channel, value, _place)


def recalled(channel: str, value: Any, ledger: Ledger) -> Any:
    """What was written to a channel, with the messages whose places are there. Blocks."""
    calls: dict[tuple[str, int], CallRow] = {}

    def message(item: Any) -> Any:
        # Whatever else is in a conversation is a message already.
        return _recall(Place(*item), ledger, calls) if isinstance(item, list) and item[:1] in _MARKS else item

    return _each(channel, value, message)


def _earlier(row: CallRow) -> HumanMessage:
    if row.shortened is None:
        raise LookupError("the conversation was not made shorter")
    return HumanMessage(row.shortened.earlier, id=f"{row.agent}/{row.step}/earlier")


def _heard(row: CallRow, index: int) -> HumanMessage:
    return HumanMessage(row.heard[index], id=f"{row.agent}/{row.step}/heard/{index}")


def _answer(row: CallRow) -> AIMessage:
    row.answer.id = row.answer.id or f"{row.agent}/{row.step}"
    return row.answer


def _result(row: ToolRow, call: str) -> ToolMessage:
    return ToolMessage(
        row.result,
        id=f"{row.agent}/{row.step}/{row.index}",
        tool_call_id=call,
        status="success" if row.ok else "error",
    )


def _known(message: M, place: Place) -> M:
    # What is read from a checkpoint is not noted: whoever reads it may change it in place.
    known = _Known(message, _forget)
    known.key, known.place = id(message), place
    _KNOWN[known.key] = known
    return message


def _forget(known: weakref.ref[BaseMessage]) -> None:
    assert isinstance(known, _Known)
    _KNOWN.pop(known.key, None)


def _place(message: Any) -> Any:
    found = _KNOWN.get(id(message))
    return tuple(found.place) if found is not None and found() is message else message


def _each(channel: str, value: Any, change: Callable[[Any], Any]) -> Any:
    if channel in _TALKS:
        match value:
            case list():
                return [change(item) for item in value]
            case _DeltaSnapshot(value=list(said)):
                return _DeltaSnapshot([change(item) for item in said])
            case Overwrite(value=list(said)):
                return Overwrite([change(item) for item in said])
    if channel in _WITH_TALKS and isinstance(value, dict):
        return {key: _each(key, item, change) for key, item in value.items()}
    return value


def _recall(place: Place, ledger: Ledger, calls: dict[tuple[str, int], CallRow]) -> BaseMessage:
    key = place.agent, place.step
    try:
        if place.kind == "@result":
            return _result(ledger.result(*key, place.number), place.call)
        if key not in calls:
            calls[key] = ledger.call_at(*key)
        match place.kind:
            case "@earlier":
                return _earlier(calls[key])
            case "@heard":
                return _heard(calls[key], place.number)
            case "@answer":
                return _answer(calls[key])
    except (LookupError, ValueError) as error:
        raise HomeError(
            f"a checkpoint names what {place.agent} heard or did at step {place.step}, which is not there.",
            "Restore the home from a copy.",
        ) from error
