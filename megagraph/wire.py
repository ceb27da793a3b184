"""The OpenAI protocol's answers as they come over the wire: refusals, and answers in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any


class WireError(Exception):
    """A provider answered with something else than an answer."""

    def __init__(self, status_code: int, message: str, code: str | None, retry_after: float | None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.message = message
        self.code = code
        self.retry_after = retry_after


async def read_events(blocks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, at its end `{"done": true}` where the server says so.

    Raises `WireError` where something else is sent.
    """
    rest = b""
    async for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                yield {"done": True}
                return
            if data:
                try:
                    event = json.loads(data)
                except ValueError as error:
                    raise WireError(502, f"the stream holds no JSON ({error})", None, None) from error
                if not isinstance(event, dict):
                    raise WireError(502, "the stream holds something else than events", None, None)
                yield event


class Pieces:
    """The pieces of one answer, put together as the server would have sent it whole."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: dict[Any, dict[str, Any]] = {}
        self._choice: dict[str, Any] = {"index": 0, "message": self._message, "finish_reason": None}

    def add(self, event: dict[str, Any]) -> None:
        self._answer |= {key: value for key, value in event.items() if key != "choices" and value is not None}
        for choice in event.get("choices") or ():
            # One answer is asked for.
            self._choice["finish_reason"] = choice.get("finish_reason") or self._choice["finish_reason"]
            delta = choice.get("delta") or {}
            for key in ("content", "refusal"):
                if isinstance(delta.get(key), str):
                    self._message[key] = (self._message.get(key) or "") + delta[key]
            for call in delta.get("tool_calls") or ():
                self._add_call(call)

    def _add_call(self, piece: dict[str, Any]) -> None:
        # Some servers do not number the calls: a piece with an id is a new one then.
        number = piece.get("index")
        if number is None:
            number = len(self._calls) if piece.get("id") or not self._calls else next(reversed(self._calls))
        whole = self._calls.setdefault(
            number, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        whole["id"] = piece.get("id") or whole["id"]
        said = piece.get("function") or {}
        whole["function"]["name"] = said.get("name") or whole["function"]["name"]
        if isinstance(said.get("arguments"), dict):
            said = {"arguments": json.dumps(said["arguments"])}
        whole["function"]["arguments"] += said.get("arguments") or ""

    def answer(self) -> dict[str, Any]:
        """The whole answer, or the error that came in its place. Raises `WireError` where the end is missing."""
        if "error" in self._answer:
            return self._answer
        if not (self._answer.pop("done", False) or self._choice["finish_reason"]):
            raise WireError(502, "the stream broke off", None, None)
        if self._calls:
            self._message["tool_calls"] = list(self._calls.values())
        return {**self._answer, "object": "chat.completion", "choices": [self._choice]}
