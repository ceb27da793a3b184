"""LangChain's OpenAI chat model with a shorter way to the wire.

The request is LangChain's, and so is the reading of the answer. Between them the SDK would check every message
and tool against its types again, and copy headers and answers through three libraries: more than half of what
a call costs the processor. Here the body goes out through aiohttp as it is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from pydantic import PrivateAttr, SecretStr

from megagraph.faults import asked_to_wait
from megagraph.text import from_json, to_json
from megagraph.tracing import wants_tokens
from megagraph.wire import Pieces, WireError, read_events

CONNECT_SECONDS = 10.0
_OFFICIAL = "https://api.openai.com/v1"
_NO_STREAMS = (400, 404, 405, 422, 501)
"""Statuses with which a server may refuse to stream; if it was something else, it refuses the plain call too."""
_MOST_TOOLS = 100
_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class _Request(aiohttp.Payload):
    """JSON in parts, sent as one. It is kept until the answer, since a server may want it sent to another address."""

    _value: tuple[bytes, ...]

    def __init__(self, *parts: bytes) -> None:
        super().__init__(parts, content_type="application/json")
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await writer.write(b"".join(self._value)[:content_length])


class LeanChatOpenAI(ChatOpenAI):
    """`ChatOpenAI` whose chat completions go through one aiohttp session. Close it with `aclose`."""

    _session: aiohttp.ClientSession | None = PrivateAttr(default=None)
    _streams: bool = PrivateAttr(default=True)
    """Whether the server has not refused to stream yet."""
    _tools: dict[int, tuple[Any, bytes]] = PrivateAttr(default_factory=dict)
    """Lists of tools by their identity, and what is sent of them."""

    async def answer_directly(self, messages: Sequence[BaseMessage], **kwargs: Any) -> AIMessage:
        """`ainvoke` for where nobody listens: it spares LangChain a third of what a call costs the processor."""
        generation = (await self._agenerate(list(messages), **kwargs)).generations[0]
        message = generation.message
        assert isinstance(message, AIMessage)
        message.response_metadata = {**(generation.generation_info or {}), **message.response_metadata}
        return message

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        body = self._body(messages, stop, kwargs)
        if body is None:
            # Some models are only to be had through the Responses API, which the SDK speaks.
            return await super()._agenerate(messages, stop, run_manager, **kwargs)
        plain, streamed, answer = self._request_of(body), None, None
        if run_manager and self._streams and wants_tokens(run_manager):
            streamed = self._request_of(body | _STREAMED)
        # A call takes long, and a conversation as dicts several times its text.
        del body
        if run_manager and streamed:
            answer = await self._told(streamed, run_manager)
        if answer is None:
            answer = await self._post(plain)
        _check(answer)
        result = self._create_chat_result(answer)
        for generation, choice in zip(result.generations, answer["choices"], strict=True):
            if refusal := choice["message"].get("refusal"):
                generation.message.additional_kwargs["refusal"] = refusal
        return result

    def _body(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any] | None:
        """What is sent for a chat completion; None where the model has none."""
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        if "messages" not in payload:
            return None
        payload |= payload.pop("extra_body", None) or {}
        if self.openai_api_base and "max_completion_tokens" in payload:
            # The name that OpenAI has given up is the one that all compatible servers know.
            payload["max_tokens"] = payload.pop("max_completion_tokens")
        return {k: v for k, v in payload.items() if v is not None}

    def _request_of(self, body: dict[str, Any]) -> _Request:
        """A body as it is sent. Tools, most of it, are the same bytes for all who have the same ones."""
        tools = body.get("tools")
        if not tools:
            return _Request(to_json(body))
        known, data = self._tools.get(id(tools), (None, b""))
        if known is not tools:
            if len(self._tools) >= _MOST_TOOLS:
                self._tools.clear()
            data = to_json(tools)
            self._tools[id(tools)] = tools, data
        rest = to_json({key: value for key, value in body.items() if key != "tools"})
        return _Request(rest[:-1] + b',"tools":', data, b"}")

    def _should_stream(self, **kwargs: Any) -> bool:
        # For a handler that wants tokens, `_agenerate` streams by itself: the answer is read as any other is.
        return bool(kwargs.get("stream")) and super()._should_stream(**kwargs)

    async def _post(self, body: _Request) -> dict[str, Any]:
        async with self._request(body) as response:
            answer: dict[str, Any] = from_json(await response.read())
            return answer

    async def _told(self, body: _Request, run_manager: AsyncCallbackManagerForLLMRun) -> dict[str, Any] | None:
        """The answer, told piece by piece as it is written; None from a server that cannot do so.

        Who only watches must not make a call fail.
        """
        try:
            async with self._request(body) as response:
                if response.content_type != "text/event-stream":
                    answer: dict[str, Any] = json.loads(await response.read())
                    return answer
                pieces = Pieces()
                async for event in read_events(response.content.iter_any()):
                    pieces.add(event)
                    if event.get("choices") and (
                        chunk := self._convert_chunk_to_generation_chunk(event, AIMessageChunk, None)
                    ):
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                return pieces.answer()
        except WireError as error:
            if error.status_code not in _NO_STREAMS:
                raise
            self._streams = False
            return None

    @asynccontextmanager
    async def _request(self, body: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        url = (self.openai_api_base or _OFFICIAL).rstrip("/") + "/chat/completions"
        async with self._opened().post(url, data=body) as response:
            if response.status != 200:
                raise _refusal(response, await response.read())
            yield response

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = self.openai_api_key.get_secret_value() if isinstance(self.openai_api_key, SecretStr) else ""
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            if self.openai_organization:
                headers["OpenAI-Organization"] = self.openai_organization
            seconds = self.request_timeout if isinstance(self.request_timeout, int | float) else None
            self._session = aiohttp.ClientSession(
                # How many calls are in flight is the gate's to decide.
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
                headers={**headers, **(self.default_headers or {})},
                # `trust_env` would look at the environment and for a `.netrc` again with every call, in other threads.
                proxy=_proxy_to(self.openai_api_base or _OFFICIAL),
            )
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _proxy_to(url: str) -> str | None:
    """The proxy that the environment names for a server: `HTTPS_PROXY` or `HTTP_PROXY`, but for those of `NO_PROXY`."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def _check(answer: Any) -> None:
    """Raise what an answer with status 200 says in fact; make arguments that are no object unreadable."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if error:
        said = error if isinstance(error, dict) else {"message": error}
        code = said.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise WireError(status, str(said.get("message", error)), str(code), None)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not choices or not all(isinstance(choice.get("message"), dict) for choice in choices):
        raise WireError(502, "the answer holds no message", None, None)
    for choice in choices:
        for call in choice["message"].get("tool_calls") or ():
            function = call.get("function") or {}
            arguments = function.get("arguments")
            if isinstance(arguments, dict):
                function["arguments"] = json.dumps(arguments)
            elif isinstance(arguments, str) and arguments.strip():
                with contextlib.suppress(ValueError):
                    if not isinstance(json.loads(arguments, strict=False), dict):
                        function["arguments"] = f"{arguments} is no object"


def _refusal(response: aiohttp.ClientResponse, text: bytes) -> WireError:
    try:
        error = json.loads(text)["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        message, code = text.decode("utf-8", "replace")[:300] or str(response.reason), None
    return WireError(response.status, message, code, asked_to_wait(response.headers))
