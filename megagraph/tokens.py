"""About how many tokens a conversation takes: what was counted at the last call, and the length of what came since."""

from __future__ import annotations

import math
from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata

BYTES = 4
"""Bytes of a token in UTF-8, about, in whatever script, where nobody has counted."""

LEAST = 500
"""Bytes that are left of a text for which there is no room."""


def size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def evenly(sizes: Sequence[int], room: float) -> float:
    """To how many bytes the longest of these have to be cut for all to have room together."""
    over, down = sum(sizes) - room, sorted(sizes, reverse=True)
    if over <= 0:
        return math.inf
    for n in range(1, len(down) + 1):
        # The n longest are cut to the same length.
        most = (sum(down[:n]) - over) / n
        if n == len(down) or most >= down[n]:
            return max(LEAST, most)
    return LEAST


def shorter(text: str, most: float, hint: str = "") -> str:
    """The beginning of a text of more than so many bytes, and that it is cut; `hint` says where the rest is."""
    if size(text) <= most:
        return text
    begin = text.encode("utf-8", "surrogatepass")[: int(most)].decode("utf-8", "ignore")
    less = f"{begin}\n(cut: there was no room for all {len(text):,} characters{hint})"
    return less if size(less) < size(text) else text


def weight(message: BaseMessage) -> int:
    """About how many tokens a message takes."""
    length = size(message.text)
    if isinstance(message, AIMessage):
        calls = (*message.tool_calls, *message.invalid_tool_calls)
        length += sum(size(f"{call['name']}{call['args']}") for call in calls)
    return length // BYTES


def weigh(messages: Sequence[BaseMessage]) -> int:
    """About how many tokens these messages take."""
    return sum(map(weight, messages))


def counted(messages: Sequence[BaseMessage], since: int = 0) -> tuple[int | None, int]:
    """The tokens of the last model call, its answer included, and about how many have come since.

    Answers before the message `since` do not say what a call takes now. None and the tokens of all messages where no
    answer says it.
    """
    last = _last_answer(messages, since)
    if last is None:
        return None, weigh(messages)
    i, usage = last
    # What a model has thought is counted as its answer, and is not sent again.
    thought = (usage.get("output_token_details") or {}).get("reasoning", 0)
    return usage["input_tokens"] + usage["output_tokens"] - thought, weigh(messages[i + 1 :])


def density(messages: Sequence[BaseMessage], beside: int, since: int = 0) -> float:
    """How many times as many tokens as `weigh` says the provider counted at the last call; 1 where it was fewer.

    `beside` the messages, a call has so many tokens of tools.
    """
    last = _last_answer(messages, since)
    if last is None:
        return 1.0
    i, usage = last
    return max(1.0, usage["input_tokens"] / max(1, beside + weigh(messages[:i])))


def _last_answer(messages: Sequence[BaseMessage], since: int) -> tuple[int, UsageMetadata] | None:
    """Where the last answer is of which the provider has said what the call took, and what it said."""
    for i in range(len(messages) - 1, since - 1, -1):
        message = messages[i]
        if isinstance(message, AIMessage) and (usage := message.usage_metadata):
            return i, usage
    return None
