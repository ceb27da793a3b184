"""LangChain's OpenAI client, without the SDK's walk through every request.

The SDK checks messages and tools against their types again on each call, which for a dozen tools costs more
than everything else of the call. What LangChain made is well formed, so it goes into the body as it is.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_openai import ChatOpenAI


class LeanChatOpenAI(ChatOpenAI):
    """`ChatOpenAI` whose messages and tools bypass the SDK's transformation."""

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        if "messages" not in payload:
            return payload
        body = {key: payload.pop(key) for key in ("messages", "tools") if key in payload}
        # The SDK insists on `messages`; `extra_body` overrides it.
        return {**payload, "messages": [], "extra_body": {**(payload.get("extra_body") or {}), **body}}
