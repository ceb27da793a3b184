"""Which models answer, and one call to them: through the gate, with time-outs, tried again where that can help."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableBinding, RunnableConfig

from megagraph.answers import fit, well_formed
from megagraph.errors import ModelError, UsageError
from megagraph.faults import Fault, explain
from megagraph.gate import MOST, START, Gate, Left, Rank, Rates, gate_to
from megagraph.json_tools import JsonTools
from megagraph.model_rules import ModelRules
from megagraph.outside_tools import OutsideTools
from megagraph.rehearsal import RehearsalModel, Script

ATTEMPTS = 8
"""How often a call is made before it counts as failed for good. A time-out counts twice: it takes minutes."""
FIRST_DELAY = 0.5
LONGEST_DELAY = 20.0
USUAL_WINDOW = 128_000
"""Tokens that a call may have, where nobody knows. A model that takes less says so, and is believed."""
_MOST_BY_SCHEMA = 4096

WAYS = """Ways to give it one:
  --model openai:NAME with OPENAI_API_KEY set               OpenAI
  --model openai:NAME --base-url http://HOST:PORT/v1        any compatible server (vLLM, Ollama, llama.cpp)
  --model rehearsal                                         a scenario's scripted model; no language model is called
  MegaGraph(model=ChatModel())                              any LangChain chat model, from Python"""

OPTIONS = """openai:NAME?tools=json&in_flight=4 with any of
  tools=json        offer tools by JSON Schema, for models that cannot call tools
  in_flight=N       calls at once; rpm=N, tpm=N: requests and tokens in a minute; without, found out by trying
  max_tokens=N      the longest answer
  context=N         the model's window in tokens; near it, an agent's old turns are shortened to a line each
  base_url=URL      an OpenAI-compatible server
  key=VARIABLE      the environment variable with the key, in place of OPENAI_API_KEY"""

Retry = Callable[[str, float], None]
"""Called with the reason and the delay in seconds before a call is made again."""

Tools = Literal["native", "json"]

Gates = Callable[[Hashable, str, Rates, float], Gate]
"""Finds the gate to a provider, as `gate_to` does."""


@dataclass(frozen=True)
class ModelChoice:
    """A model that has been named and can be opened."""

    label: str
    """How it was named; naming it so again gives the same model."""
    make: Callable[[], BaseChatModel]
    rehearsal: bool = False
    base_url: str = ""
    provider: Hashable = None
    """Those who have the same provider and key share a gate. None: nothing is shared, nothing held back."""
    rates: Rates = field(default_factory=Rates)
    tools: Tools = "native"
    context: int | None = None
    """Tokens that a call may have, where they were named."""
    rules: ModelRules = field(default_factory=ModelRules)
    others: Mapping[str, ModelChoice] = field(default_factory=dict)
    """The models that `rules` names."""

    @property
    def portable(self) -> bool:
        """Whether another process can open the same model."""
        choices = (self, *self.others.values())
        return all(isinstance(choice.make, _OpenAI | _Rehearsal) for choice in choices)

    @property
    def scripted(self) -> bool:
        """Whether a scenario's script plays the model, or another that its rules name."""
        return any(isinstance(choice.make, _Rehearsal) for choice in (self, *self.others.values()))

    def with_script(self, script: Script | None) -> ModelChoice:
        """The same choice with this script in the place of the one that a scenario has, or without one."""
        others = {name: other.with_script(script) for name, other in self.others.items()}
        make = _Rehearsal(script) if isinstance(self.make, _Rehearsal) else self.make
        return replace(self, make=make, others=others)

    def warm(self) -> None:
        """Import what the model is made of, which takes a tenth of a second and more, before a call waits for it."""
        # If it cannot be made, the first call says so.
        with suppress(Exception):
            self.make()

    @property
    def name(self) -> str:
        """What the provider calls it."""
        return self.label.partition(":")[2].partition("?")[0] or self.label


@dataclass(frozen=True)
class Answer:
    """What came back from which model, in how many seconds, after how many retries."""

    message: AIMessage
    seconds: float
    retries: int
    model: str


@dataclass(frozen=True)
class Asker:
    """Who asks. Of those who wait, the lowest `rank` goes first, and teams take turns."""

    name: str = ""
    team: str = ""
    leads: bool = False
    rank: Callable[[], Rank] = tuple
    outside: tuple[str, ...] = ()
    """The tools from outside that it has."""
    gone: Callable[[], bool] = lambda: False
    """Whether it was dismissed meanwhile."""


def _no_script() -> None:
    """Of a goal in words."""


def choose_model(
    model: str | BaseChatModel | None,
    *,
    base_url: str | None = None,
    script: Callable[[], Script | None] = _no_script,
    timeout: float = 300.0,
    tools: Tools = "native",
) -> ModelChoice:
    """Find the model that is meant. `script` loads the rehearsal of the scenario, if it has one; it is asked for late.

    Without a model: the one that `OPENAI_MODEL` names, else the rehearsal if no key is set. `timeout` is seconds
    for one whole call. Raises `UsageError` where there is neither, or where the name is not understood.
    """
    if isinstance(model, BaseChatModel):
        chat, rehearsal = model, isinstance(model, RehearsalModel)
        name = getattr(model, "model_name", None) or getattr(model, "model", None) or type(model).__name__
        label, key = ("rehearsal", None) if rehearsal else (str(name), ("object", id(chat)))
        return ModelChoice(label, lambda: chat, rehearsal, provider=key, tools=tools)
    if model is None:
        model = _model_from_environment(script)
    if model == "rehearsal":
        played = script()
        if played is None:
            raise UsageError("there is no rehearsal for this goal: only a scenario can ship one.", WAYS)
        return ModelChoice("rehearsal", _Rehearsal(played), rehearsal=True)
    provider, _, named = model.partition(":")
    name, _, options = named.partition("?")
    if provider != "openai" or not name:
        raise UsageError(f"the model `{model}` is not understood.", WAYS)
    return _openai(model, name, options, base_url or os.environ.get("OPENAI_BASE_URL") or "", timeout, tools)


def with_rules(choice: ModelChoice, rules: ModelRules, choose: Callable[[str], ModelChoice]) -> ModelChoice:
    """The choice with others for some agents. Raises `UsageError` where one of them cannot be had."""
    return replace(choice, rules=rules, others={name: choose(name) for name in rules.names()})


def _model_from_environment(script: Callable[[], Script | None]) -> str:
    if name := os.environ.get("OPENAI_MODEL"):
        return name if name.startswith("openai:") else f"openai:{name}"
    # Who has a key may expect a real model: neither guess which one, nor pass off a rehearsal for it.
    if not os.environ.get("OPENAI_API_KEY") and script() is not None:
        return "rehearsal"
    raise UsageError("no model was named.", WAYS)


def _openai(label: str, name: str, options: str, base_url: str, timeout: float, tools: Tools) -> ModelChoice:
    given = _options(label, options)
    base_url = given.pop("base_url", base_url)
    if base_url and not _is_server(base_url):
        raise UsageError(
            f"`{base_url}` is no URL of a server.", "It needs http:// or https://, such as http://localhost:8000/v1."
        )
    variable = given.pop("key", "OPENAI_API_KEY")
    key = os.environ.get(variable) or ("not-needed" if base_url else "")
    if not key:
        raise UsageError(f"`openai:{name}` needs {variable}, or a --base-url that needs no key.", WAYS)
    by_schema = given.pop("tools", tools)
    if by_schema not in ("native", "json"):
        raise UsageError(f"the option `tools={by_schema}` of `{label}` is not understood.", OPTIONS)
    try:
        numbers = {option: int(value) for option, value in given.items()}
    except ValueError:
        numbers = {"": 0}
    if any(number < 1 for number in numbers.values()):
        raise UsageError(f"the options of `{label}` want whole numbers above 0.", OPTIONS)
    # A model that is held to a schema may write on in it without end.
    max_tokens = numbers.pop("max_tokens", _MOST_BY_SCHEMA if by_schema == "json" else None)
    context = numbers.pop("context", None)

    provider = ("openai", base_url.rstrip("/"), key)
    tools = "json" if by_schema == "json" else "native"
    if tools == "json" and "tools=json" not in options:
        label += "&tools=json" if options else "?tools=json"
    make = _OpenAI(name, key, base_url, timeout, max_tokens)
    return ModelChoice(
        label, make, base_url=base_url, provider=provider, rates=Rates(**numbers), tools=tools, context=context
    )


@dataclass(frozen=True)
class _Rehearsal:
    """Opens the model that plays a scenario's script. Another process finds the script where the scenario is."""

    script: Script | None

    def __call__(self) -> BaseChatModel:
        return RehearsalModel(script=self.script)


@dataclass(frozen=True)
class _OpenAI:
    """Opens a model that speaks OpenAI's protocol. It can be taken to another process."""

    name: str
    key: str
    base_url: str
    timeout: float
    max_tokens: int | None

    def __call__(self) -> BaseChatModel:
        from pydantic import SecretStr

        from megagraph.openai_chat import LeanChatOpenAI

        return LeanChatOpenAI(
            model=self.name,
            api_key=SecretStr(self.key),
            base_url=self.base_url or None,
            max_retries=0,
            timeout=self.timeout,
            max_completion_tokens=self.max_tokens,
        )


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _options(label: str, options: str) -> dict[str, str]:
    known = ("tools", "in_flight", "rpm", "tpm", "max_tokens", "context", "base_url", "key")
    try:
        given = dict(parse_qsl(options, strict_parsing=True)) if options else {}
    except ValueError:
        given = {options: ""}
    if unknown := [option for option in given if option not in known]:
        raise UsageError(f"the option `{unknown[0]}` of `{label}` is not understood.", OPTIONS)
    return given


class _Bound(Protocol):
    async def ainvoke(self, messages: Any, config: RunnableConfig | None = None, /) -> AIMessage: ...


@dataclass(frozen=True)
class _Ready:
    """A model with its tools."""

    bound: _Bound
    direct: Callable[..., Awaitable[AIMessage]] | None = None
    """Asks the model without LangChain's detour, where it knows how."""

    async def answer(self, messages: Sequence[BaseMessage], config: RunnableConfig | None) -> AIMessage:
        if config is None and self.direct is not None:
            return await self.direct(messages)
        return await self.bound.ainvoke(messages, config)


def _bound(chat: BaseChatModel, tools: Sequence[dict[str, Any]], *, by_schema: bool) -> _Ready:
    if by_schema:
        return _Ready(JsonTools(chat, tools))
    bound = chat.bind_tools(list(tools))
    direct = getattr(chat, "answer_directly", None)
    if direct is None or not isinstance(bound, RunnableBinding):
        return _Ready(bound)
    return _Ready(bound, partial(direct, **bound.kwargs))


class Model:
    """One opened model with its tools bound."""

    def __init__(
        self,
        choice: ModelChoice,
        tools: Sequence[dict[str, Any]],
        outside: OutsideTools | None = None,
        gates: Gates = gate_to,
    ) -> None:
        self.choice = choice
        self._chat = choice.make()
        self._tools = tools
        self._outside = outside or OutsideTools()
        self._bound: dict[tuple[str, ...], _Ready] = {}
        """By the tools from outside that are bound besides megagraph's own."""
        key = choice.provider if choice.provider is not None else object()
        start = START if choice.provider is not None else MOST
        self.gate = gates(key, choice.base_url or choice.label, choice.rates, start)
        self._line = self.gate.line()
        self._overhead = len(json.dumps(tools, default=str)) // 4
        """Tokens of a call beyond its messages: the tools, the answer. Learned from what was answered."""
        self.window = choice.context or _window_of(self._chat)
        """Tokens that a call may have."""
        self._taken = 0
        """Tokens of the longest call that was answered."""
        self._too_long: dict[str, int] = {}
        """By agent: about how many tokens a call had that was too long for the model, until it takes a shorter one."""
        self.out: ModelError | None = None
        """Why it is not asked any more."""
        self._left: Exception | None = None

    async def ask(
        self, asker: Asker, messages: Sequence[BaseMessage], retrying: Retry, config: RunnableConfig | None = None
    ) -> Answer:
        """One answer. Raises `ModelError` when it failed for good; calls `retrying` before each new attempt."""
        began, attempts, retries = time.monotonic(), 0, 0
        bound = self._bound_with(asker.outside)
        while True:
            outcome = await self._once(asker, bound, messages, config)
            if isinstance(outcome, AIMessage):
                return Answer(fit(outcome, messages), time.monotonic() - began, retries, self.choice.label)
            attempts += 2 if outcome.kind == "timeout" else 1
            if not outcome.may_retry:
                raise outcome.error(self.choice.label)
            if attempts >= ATTEMPTS:
                # Had others been answered meanwhile, it would be this call alone that fails.
                raise await self.gate.given_up(began, outcome.reason) or outcome.error(self.choice.label)
            if self._left is not None:
                raise self._left
            delay = _delay(outcome, retries)
            retries += 1
            if asker.gone():
                raise Left
            retrying(outcome.reason, delay)
            await self._line.rest(delay, asker.name)

    def _bound_with(self, outside: tuple[str, ...]) -> _Ready:
        """The model with megagraph's tools and these from outside."""
        ready = self._bound.get(outside)
        if ready is None:
            tools = [*self._tools, *self._outside.schemas(outside)]
            ready = self._bound[outside] = _bound(self._chat, tools, by_schema=self.choice.tools == "json")
        return ready

    async def _once(
        self, asker: Asker, bound: _Ready, messages: Sequence[BaseMessage], config: RunnableConfig | None
    ) -> AIMessage | Fault:
        """One attempt, and what the gate learns from it."""
        said = estimate = 0
        if self.choice.rates.tpm:
            said = sum(len(message.text) for message in messages) // 4 + self._outside.tokens(asker.outside)
            estimate = said + self._overhead
        ticket = await self._line.enter(asker.rank, asker.team, estimate, asker.name)
        try:
            message = await bound.answer(messages, config)
        except Exception as error:
            fault = explain(error)
            if fault.kind in ("refused", "timeout"):
                # A server that queues what it cannot do at once says so by answering too late.
                self.gate.refused(ticket, fault.reason, fault.retry_after)
            elif fault.may_retry:
                self.gate.failed(ticket, fault.reason)
            else:
                if (final := fault.error(self.choice.label)).everyone:
                    self._line.leave(final)
                self.gate.gone(ticket)
            return fault
        except BaseException:
            self.gate.gone(ticket)
            raise
        tokens = message.usage_metadata["total_tokens"] if message.usage_metadata else None
        if tokens is not None and self.choice.rates.tpm:
            self._overhead += (max(0, tokens - said) - self._overhead) // 4
        self.gate.answered(ticket, tokens)
        return message

    def found_too_long(self, name: str, tokens: int) -> None:
        """Note that the model does not take an agent's call with about so many tokens, or so it says."""
        self._too_long[name] = min(tokens, self._too_long.get(name, tokens))

    def took(self, name: str, answer: AIMessage, tokens: int) -> None:
        """Note that an agent's call with about so many tokens was answered: what was too long before was so indeed."""
        usage = answer.usage_metadata
        self._taken = max(self._taken, usage["input_tokens"] if usage else tokens)
        if refused := self._too_long.pop(name, None):
            self.window = min(self.window, max(refused, self._taken))

    def leave(self, error: Exception) -> None:
        self._left = error
        self._line.leave(error)

    def dismiss(self, name: str) -> None:
        self._line.dismiss(name)

    async def aclose(self) -> None:
        if close := getattr(self._chat, "aclose", None):
            await close()


class Models:
    """The models of a run, each opened when it is first asked. Close them when the run stops."""

    def __init__(
        self,
        choice: ModelChoice,
        tools: Sequence[dict[str, Any]],
        outside: OutsideTools | None = None,
        gates: Gates = gate_to,
    ) -> None:
        self.choice = choice
        self._gates = gates
        self._tools = tools
        self._outside = outside or OutsideTools()
        self._open: dict[str, Model] = {}
        self._left: Exception | None = None

    async def ask(
        self,
        asker: Asker,
        messages: Sequence[BaseMessage],
        retrying: Retry,
        config: RunnableConfig | None = None,
        *,
        tokens: int = 0,
    ) -> Answer:
        """The answer of the model that is this agent's by the rules, or of one that stands in for it.

        `tokens` is about how many the call takes: what is refused as too long, and answered where it is shorter, tells
        how many the model takes.

        Raises `ModelError` where all of them have failed for good, and `Left` where the run stops meanwhile or
        the agent is dismissed.
        """
        messages = well_formed(messages)
        chain = self._of(asker.name, asker.leads)
        failed: ModelError | None = None
        too_long: ModelError | None = None
        for i, model in enumerate(chain):
            if asker.gone():
                raise Left
            if model.out is not None:
                failed = failed or model.out
                continue
            try:
                answer = await model.ask(asker, messages, retrying, config)
                model.took(asker.name, answer.message, tokens)
                return answer
            except ModelError as error:
                failed = failed or error
                if error.kind == "context":
                    model.found_too_long(asker.name, tokens)
                    # Whoever asks can mend it, and what is wrong with the others it cannot.
                    too_long = too_long or error
                if error.everyone:
                    model.out = error
                if rest := [other.choice.label for other in chain[i + 1 :] if other.out is None]:
                    retrying(f"{error.message} Going on with {rest[0]}.", 0.0)
        assert failed is not None
        raise too_long or failed

    def window(self, name: str, leads: bool) -> float:
        """The tokens that a call of this agent may have, by all the models that may answer it."""
        return min(model.window for model in self._of(name, leads))

    def _of(self, name: str, leads: bool) -> list[Model]:
        return [self._opened(model) for model in self.choice.rules.chain(name, leads=leads)]

    def leave(self) -> None:
        """The run stops: whoever waits for a call or for another attempt waits no longer."""
        self._left = Left()
        for model in self._open.values():
            model.leave(self._left)

    def dismiss(self, name: str) -> None:
        """The agent is dismissed: it waits no longer for a call."""
        for model in self._open.values():
            model.dismiss(name)

    async def aclose(self) -> None:
        # Whoever is still in a call must not begin another one, for which nobody would close the connection.
        self.leave()
        await asyncio.gather(*(model.aclose() for model in self._open.values()))

    def _opened(self, name: str) -> Model:
        choice = self.choice.others[name] if name else self.choice
        model = self._open.get(choice.label)
        if model is None:
            model = self._open[choice.label] = Model(choice, self._tools, self._outside, self._gates)
            if self._left is not None:
                model.leave(self._left)
        return model


def _window_of(chat: BaseChatModel) -> float:
    """The tokens that a call of this model may have, as LangChain knows it. A rehearsal takes any number."""
    if isinstance(chat, RehearsalModel):
        return math.inf
    profile: Mapping[str, Any] = getattr(chat, "profile", None) or {}
    return profile.get("max_input_tokens") or USUAL_WINDOW


def _delay(fault: Fault, retries: int) -> float:
    """Seconds before the next attempt, by chance, so that those who failed together do not come back together."""
    if fault.kind == "refused" and fault.retry_after is not None:
        # The gate sees to it that not all of them go at once.
        return fault.retry_after + random.uniform(0, FIRST_DELAY / 5)
    return max(fault.retry_after or 0.0, random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**retries)))
