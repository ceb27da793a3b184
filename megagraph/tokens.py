"""About how many tokens a conversation takes: what the provider said of the last call, and characters since."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata

CHARACTERS = 4
"""Characters of a token, where nobody has counted. Of text that is no English it may be one, or less."""


def weight(message: BaseMessage) -> int:
    """About how many tokens a message takes."""
    characters = len(message.text)
    if isinstance(message, AIMessage):
        calls = (*message.tool_calls, *message.invalid_tool_calls)
        characters += sum(len(call["name"] or "") + len(str(call["args"])) for call in calls)
    return characters // CHARACTERS


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
