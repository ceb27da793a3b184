"""The tool agents look into their own past with."""

from __future__ import annotations

import asyncio

from pydantic import Field

from megagraph.journal import CallRow
from megagraph.tools import Args, Caller, Result, Tool

MAX_RECALLED = 20_000
"""Characters that one look returns."""


class Recall(Args):
    """Arguments of `recall`."""

    words: str = Field(default="", max_length=500)
    first_step: int = Field(default=1, ge=1)
    last_step: int | None = Field(default=None, ge=1)


async def recall(caller: Caller, args: Recall, effect: str) -> Result:
    first, last = min(args.first_step, caller.step), min(args.last_step or caller.step, caller.step - 1)
    turns = await asyncio.to_thread(caller.org.ledger.turns, caller.spec.name, first, last)
    words = args.words.casefold().split()
    found = [text for turn in turns if (text := _shown(*turn)) and all(word in text.casefold() for word in words)]
    shown: list[str] = []
    room = MAX_RECALLED
    for text in reversed(found):
        if len(text) > room:
            if not shown:
                shown.append(f"{text[:room]}\n(cut after {room:,} of {len(text):,} characters)")
            break
        shown.insert(0, text)
        room -= len(text)
    if more := len(found) - len(shown):
        shown.insert(0, f"({more} earlier turns as well: ask with `last_step`, or with more words.)")
    return Result("\n\n".join(shown) or "Nothing.")


def _shown(call: CallRow, done: list[tuple[str, str, str]]) -> str:
    """A turn as the agent reads it: what it had heard, what it said and did, and what came of it."""
    parts = [f"Step {call.step}", *call.heard, f"You: {call.answer.text.strip()}" if call.answer.text.strip() else ""]
    # What was recalled stands where it was said, and is not found once more.
    parts += [f"{tool} {args} → {result}" for tool, args, result in done if tool != "recall"]
    return "\n".join(filter(None, parts))


MEMORY_TOOLS = (Tool("recall", Recall, recall),)
