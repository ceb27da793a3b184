"""Which model answers, and one call to it: through the gate, with time-outs, tried again where that can help."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from megagraph.errors import ModelError, UsageError
from megagraph.gate import Gate
from megagraph.rehearsal import RehearsalModel, Script

ATTEMPTS = 8
"""How often a call is made before it counts as failed for good."""
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 20.0

WAYS = """Ways to give it one:
  --model openai:NAME with OPENAI_API_KEY set               OpenAI
  --model openai:NAME --base-url http://HOST:PORT/v1        any compatible server (vLLM, Ollama, llama.cpp)
  --model rehearsal                                         a scenario's scripted model; no language model is called
  MegaGraph(model=ChatModel())                              any LangChain chat model, from Python"""

Retry = Callable[[str, float], None]
"""Called with the reason and the delay in seconds before a call is made again."""


@dataclass(frozen=True)
class ModelChoice:
    """A model that has been named and can be opened."""

    label: str
    make: Callable[[], BaseChatModel]
    rehearsal: bool = False
    base_url: str = ""


@dataclass(frozen=True)
class Answer:
    """What came back, in how many seconds, after how many retries."""

    message: AIMessage
    seconds: float
    retries: int


def choose_model(
    model: str | BaseChatModel | None,
    *,
    base_url: str | None = None,
    script: Script | None = None,
    timeout: float = 300.0,
) -> ModelChoice:
    """Find the model that is meant. `script` is the rehearsal of the scenario, if it has one.

    Without a model: the one that `OPENAI_MODEL` names, else the rehearsal if no key is set. `timeout` is seconds
    for one whole call. Raises `UsageError` where there is neither, or where the name is not understood.
    """
    if isinstance(model, BaseChatModel):
        chat, rehearsal = model, isinstance(model, RehearsalModel)
        name = getattr(model, "model_name", None) or getattr(model, "model", None) or type(model).__name__
        return ModelChoice("rehearsal" if rehearsal else str(name), lambda: chat, rehearsal)
    if model is None:
        model = _model_from_environment(script)
    if model == "rehearsal":
        if script is None:
            raise UsageError("there is no rehearsal for this goal: only a scenario can ship one.", WAYS)
        return ModelChoice("rehearsal", lambda: RehearsalModel(script=script), rehearsal=True)
    provider, _, name = model.partition(":")
    if provider != "openai" or not name:
        raise UsageError(f"the model `{model}` is not understood.", WAYS)
    return _openai(name, base_url or os.environ.get("OPENAI_BASE_URL") or "", timeout)


def _model_from_environment(script: Script | None) -> str:
    if name := os.environ.get("OPENAI_MODEL"):
        return name if name.startswith("openai:") else f"openai:{name}"
    # Who has a key may expect a real model: neither guess which one, nor pass off a rehearsal for it.
    if script is not None and not os.environ.get("OPENAI_API_KEY"):
        return "rehearsal"
    raise UsageError("no model was named.", WAYS)


def _openai(name: str, base_url: str, timeout: float) -> ModelChoice:
    key = os.environ.get("OPENAI_API_KEY") or ("not-needed" if base_url else "")
    if not key:
        raise UsageError(f"`openai:{name}` needs OPENAI_API_KEY, or a --base-url that needs no key.", WAYS)

    def make() -> BaseChatModel:
        from pydantic import SecretStr

        from megagraph.openai_chat import LeanChatOpenAI

        return LeanChatOpenAI(
            model=name, api_key=SecretStr(key), base_url=base_url or None, max_retries=0, timeout=timeout
        )

    return ModelChoice(f"openai:{name}", make, base_url=base_url)


class Model:
    """An opened model with its tools bound. Belongs to one event loop; close it when the run stops."""

    def __init__(self, choice: ModelChoice, tools: Sequence[dict[str, Any]], gate: Gate | None = None) -> None:
        self.choice = choice
        self.gate = gate or Gate()
        self._chat = choice.make()
        self._bound = self._chat.bind_tools(list(tools))

    async def ask(self, messages: Sequence[BaseMessage], retrying: Retry) -> Answer:
        """One answer. Raises `ModelError` when it failed for good; calls `retrying` before each new attempt."""
        started = time.monotonic()
        for attempt in range(ATTEMPTS):
            try:
                async with self.gate:
                    message = await self._bound.ainvoke(list(messages))
                return Answer(message, time.monotonic() - started, attempt)
            except Exception as error:
                reason, may_retry, retry_after = explain(error)
                if not may_retry or attempt == ATTEMPTS - 1:
                    raise ModelError(f"{self.choice.label}: {reason}") from error
                if retry_after is not None or reason.startswith(("429", "503")):
                    self.gate.refused(retry_after)
                backoff = min(_LONGEST_DELAY, _FIRST_DELAY * 2**attempt)
                delay = max(retry_after or 0.0, random.uniform(0, backoff))
                retrying(reason, delay)
                await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        if close := getattr(self._chat, "aclose", None):
            await close()


def explain(error: Exception) -> tuple[str, bool, float | None]:
    """What went wrong in one line, whether trying again can help, and after how many seconds at the earliest."""
    if isinstance(error, UsageError):
        return error.message, False, None
    status = getattr(error, "status_code", None)
    text = " ".join(str(getattr(error, "message", None) or error).split())[:300]
    if isinstance(status, int):
        if getattr(error, "code", None) == "insufficient_quota":
            return f"{status}: the account has no quota left ({text})", False, None
        if status in (408, 409, 429) or status >= 500:
            return f"{status}: {text}", True, _retry_after(error)
        remedy = {
            401: " (check OPENAI_API_KEY)",
            403: " (the key may not use this model)",
            404: " (check the model's name and the base URL)",
        }
        return f"{status}: {text}{remedy.get(status, '')}", False, None
    # By name, since the clients are imported only when they are used, and wrap one another's errors.
    names = {kind.__name__ for kind in type(error).__mro__}
    cause = " ".join(str(error.__cause__ or error).split())[:200]
    if names & {"APITimeoutError", "TimeoutError", "TimeoutException"}:
        return f"time-out or disconnect: {cause}", True, None
    if names & {"APIConnectionError", "TransportError", "ClientError", "OSError", "JSONDecodeError"}:
        return f"connection: {cause}", True, None
    return f"{type(error).__name__}: {text}", False, None


def _retry_after(error: Exception) -> float | None:
    seconds = getattr(error, "retry_after", None)
    return seconds if isinstance(seconds, float) else None
