"""An OpenAI-compatible HTTP server that plays a rehearsal, late and faulty in ways that can be repeated.

In a test it runs on the test's own event loop (`async with ModelServer(script) as server`) or on a thread
(`with ModelServer(script) as server`). As a process of its own:

    python tests/model_server.py --script scenarios/gobang/rehearsal.py --latency 0.5 \\
        --faults rate_limit=0.05,empty=0.02 --log calls.jsonl

Its first line is `listening on http://127.0.0.1:PORT/v1`; SIGTERM ends it.

What happens to a call depends on the seed, the agent, the agent's turn and the attempt, never on the order
in which calls arrive. An answer is logged before its last byte is sent: who holds one finds it in the log.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import math
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO, Any, Literal, Self, TypeAlias

import orjson
from aiohttp import web
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from megagraph.rehearsal import FAULT_PREFIX, Script, _spoilt, load_script, read_brief

Json: TypeAlias = dict[str, Any]
Latency: TypeAlias = float | tuple[Literal["lognormal"], float, float]
"""Seconds, or ("lognormal", mean in seconds, sigma of the logarithm)."""

REFUSALS = {"rate_limit": 429, "server_error": 500, "overloaded": 503}
SPOILS = ("truncated", "wrong_arguments", "unknown_tool", "empty")
FAULTS = (*REFUSALS, "disconnect", "timeout", *SPOILS)
MAX_SPOILT_IN_A_ROW = 2

_PIECES = 6
"""Into how many pieces a stream cuts a text, or the arguments of a call."""
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


@dataclass(frozen=True, slots=True)
class Record:
    """One call. `agent`, `turn`, `request` and `usage` are None where the server did not get that far."""

    time_in: float
    time_out: float
    agent: str | None
    turn: int | None
    """How many turns the agent had taken before, spoilt ones not counted."""
    request: str | None
    """The hash of the request, see `request_hash`."""
    status: int
    """0 where not even a status line was sent."""
    fault: str | None
    """One of `FAULTS`, or `max_in_flight`."""
    delivered: bool
    """The client was still there when the last byte was sent."""
    usage: Json | None
    in_flight: int
    """Calls that were being worked on when this one came, itself included unless it was refused."""


class Log(list[Record]):
    """The calls, in the order in which they ended."""

    @classmethod
    def read(cls, path: Path) -> Log:
        """The log that a server wrote to `path`."""
        return cls(Record(**orjson.loads(line)) for line in path.read_bytes().splitlines())

    def answered(self) -> list[Record]:
        """The calls that got a whole, unspoilt answer: each is one that somebody pays for and can use."""
        return [r for r in self if r.status == 200 and r.delivered and r.fault is None]

    def repeats(self) -> dict[str, int]:
        """The requests that were answered more than once, and how often."""
        counts = Counter(r.request for r in self.answered())
        return {request: n for request, n in counts.items() if request is not None and n > 1}

    def peak_in_flight(self) -> int:
        return max((r.in_flight for r in self), default=0)


@dataclass(frozen=True)
class Reply:
    """An answer in the wire's terms: `calls` are (id, tool, arguments as JSON)."""

    content: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    finish: str = "stop"

    def length(self) -> int:
        return len(self.content) + sum(len(name) + len(arguments) for _, name, arguments in self.calls)


@dataclass(slots=True, eq=False)
class _Exchange:
    """What is known of a call while it is worked on."""

    http: web.BaseRequest
    in_flight: int
    time_in: float = field(default_factory=time.time)
    body: Json = field(default_factory=dict)
    agent: str | None = None
    turn: int | None = None
    request: str | None = None
    fault: str | None = None
    usage: Json | None = None
    status: int = 0
    logged: bool = False

    def present(self) -> bool:
        """Whether the client still listens. The event loop learns of a closed connection later than this."""
        transport = self.http.transport
        if transport is None or transport.is_closing():
            return False
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), _GONE)
        return not poll.poll(0)


@dataclass(slots=True)
class _Tries:
    """What was tried to get one turn."""

    asked: Counter[str] = field(default_factory=Counter)
    """How often, by request."""
    spoilt: int = 0
    """How many spoilt answers there were."""


@dataclass(eq=False, kw_only=True)
class ModelServer:
    """Plays `script` at `url` and keeps a `log`."""

    script: Script = field(kw_only=False)
    port: int = field(default=0, kw_only=False)
    latency: Latency = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    """Probabilities by name, see `FAULTS`; each call has one fault at most, so their sum is at most 1."""
    seed: int = 0
    hang: float = 30.0
    """Seconds that a `timeout` holds the connection."""
    max_in_flight: int | None = None
    streams: bool = True
    """Whether answers can be had piece by piece; without, to ask for it is refused."""
    """While so many calls are worked on, every further one gets a 429."""
    key: str | None = None
    """With one, calls with another key get a 401."""
    models: Sequence[str] = ()
    """With some, calls of another model get a 404."""
    log_path: Path | None = None
    """A file that gets the log too, one JSON object a line."""

    log: Log = field(init=False, default_factory=Log)
    url: str = field(init=False, default="")
    _log_file: IO[bytes] | None = field(init=False, default=None)
    _in_flight: int = field(init=False, default=0)
    _exchanges: dict[int, _Exchange] = field(init=False, default_factory=dict)
    _tries: dict[tuple[str, int], _Tries] = field(init=False, default_factory=dict)
    """By agent and turn. Forgotten once a good answer was delivered: a second run meets the same faults."""
    _runner: web.ServerRunner | None = field(init=False, default=None)
    _thread: tuple[threading.Thread, asyncio.AbstractEventLoop] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if unknown := set(self.faults) - set(FAULTS):
            raise ValueError(f"no such faults: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
        if sum(self.faults.values()) > 1:
            raise ValueError("the probabilities of the faults add up to more than 1")

    async def __aenter__(self) -> Self:
        # The low-level server: no routes and no middlewares to pay for on every call.
        server = web.Server(self._serve, handler_cancellation=True, access_log=None, keepalive_timeout=3600)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=2048).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        if self.log_path is not None:
            # Unbuffered: a line is one write, and is there for whoever reads the file meanwhile.
            self._log_file = self.log_path.open("ab", buffering=0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._log_file is not None:
            self._log_file.close()

    def start(self) -> Self:
        """Serve on a thread of its own."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="model-server", daemon=True)
        thread.start()
        self._thread = thread, loop
        try:
            return asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the thread and whatever call is still held. May be called twice."""
        if self._thread is None:
            return
        (thread, loop), self._thread = self._thread, None
        asyncio.run_coroutine_threadsafe(self.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def in_flight(self) -> int:
        """Calls worked on at this moment."""
        return self._in_flight

    @property
    def calling(self) -> set[str]:
        """The agents whose calls are worked on at this moment."""
        return {exchange.agent for exchange in list(self._exchanges.values()) if exchange.agent}

    def latency_of(self, agent: str, turn: int) -> float:
        """Seconds that this turn of this agent takes, whoever asks and whenever."""
        if isinstance(self.latency, tuple):
            _, mean, sigma = self.latency
            rng = Random(f"latency/{self.seed}/{agent}/{turn}")
            return rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)
        return self.latency

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        if http.method == "GET" and http.path == "/v1/models":
            names = self.models or ("rehearsal",)
            return _json(200, {"object": "list", "data": [{"id": n, "object": "model"} for n in names]})
        if http.method != "POST" or http.path != "/v1/chat/completions":
            return _json(404, _error(f"no such address: {http.method} {http.path}", "not_found"))
        full = self.max_in_flight is not None and self._in_flight >= self.max_in_flight
        self._in_flight += not full
        exchange = _Exchange(http, self._in_flight)
        self._exchanges[id(exchange)] = exchange
        try:
            return await self._exchange(exchange, full)
        finally:
            self._in_flight -= not full
            del self._exchanges[id(exchange)]
            if not exchange.logged:
                self._record(exchange, exchange.status, delivered=False)

    async def _exchange(self, ex: _Exchange, full: bool) -> web.StreamResponse:
        arrived = asyncio.get_running_loop().time()
        # The raw stream, since `read()` refuses bodies above a megabyte.
        raw = await ex.http.content.read()
        if self.key is not None and ex.http.headers.get("Authorization") != f"Bearer {self.key}":
            return self._refuse(ex, 401, "Incorrect API key provided.", "invalid_api_key")
        try:
            ex.body = orjson.loads(raw)
            messages = [to_langchain(m) for m in ex.body["messages"]]
            ex.request = request_hash(ex.body)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            return self._refuse(ex, 400, f"The request cannot be read: {e!r}", "invalid_request")
        if self.models and ex.body.get("model") not in self.models:
            return self._refuse(ex, 404, f"No model `{ex.body.get('model')}` here.", "model_not_found")
        if ex.body.get("stream") and not self.streams:
            return self._refuse(ex, 400, "Streaming is not supported.", "unsupported")
        try:
            ex.agent = read_brief(messages).name
            ex.turn = sum(isinstance(m, AIMessage) and not _spoilt(m) for m in messages)
            if full:
                ex.fault = "max_in_flight"
                return self._refuse(ex, 429, "Too many calls at once.", "rate_limit_exceeded", wait=0.1)
            answer = self.script.answer(messages)
        except Exception as e:
            # 400, so that no client tries a broken or missing part again.
            return self._refuse(ex, 400, f"The rehearsal cannot go on: {e!r}", "rehearsal")

        reply, rng = self._spoil(ex, _reply(answer))
        if ex.fault in REFUSALS:
            wait = rng.uniform(0.05, 0.2) if ex.fault == "rate_limit" else None
            return self._refuse(ex, REFUSALS[ex.fault], f"Injected: {ex.fault}", ex.fault, wait=wait)
        if ex.fault == "timeout":
            await asyncio.sleep(self.hang)
            return self._cut(ex, 0, web.Response())
        prompt, completion = len(raw) // 4, reply.length() // 4 + 1
        ex.usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        due = arrived + self.latency_of(ex.agent, ex.turn)
        if ex.fault == "disconnect" and rng.random() < 0.5:
            await _sleep_until(due)
            return self._cut(ex, 0, web.Response())
        if ex.body.get("stream"):
            return await self._stream(ex, reply, arrived, due)
        await _sleep_until(due)
        return await self._whole(ex, reply)

    def _spoil(self, ex: _Exchange, reply: Reply) -> tuple[Reply, Random]:
        """Draw the fault of this attempt; the reply, spoilt if it is to be, and chance for what is left."""
        assert ex.agent is not None and ex.turn is not None and ex.request is not None
        tries = self._tries.setdefault((ex.agent, ex.turn), _Tries())
        rng = Random(f"fault/{self.seed}/{ex.agent}/{ex.turn}/{tries.asked[ex.request]}/{tries.spoilt}")
        tries.asked[ex.request] += 1
        ex.fault = _draw(self.faults, rng.random())
        if ex.fault not in SPOILS:
            return reply, rng
        ruined = None
        if tries.spoilt < MAX_SPOILT_IN_A_ROW:
            call_id = f"{FAULT_PREFIX}{ex.agent}_{ex.turn}_{tries.spoilt}"
            ruined = spoil(ex.fault, reply, call_id, ex.body.get("tools") or [], rng)
        if ruined is None:
            ex.fault = None
            return reply, rng
        tries.spoilt += 1
        return ruined, rng

    async def _whole(self, ex: _Exchange, reply: Reply) -> web.StreamResponse:
        message: Json = {"role": "assistant", "content": reply.content or None, "refusal": None}
        if reply.calls:
            message["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
                for i, name, arguments in reply.calls
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        payload = {**_head(ex, "chat.completion"), "choices": [choice], "usage": ex.usage}
        if ex.fault != "disconnect":
            self._record(ex, 200, delivered=ex.present())
            return _json(200, payload)
        data = orjson.dumps(payload)
        half = web.StreamResponse(headers={"Content-Type": "application/json"})
        half.content_length = len(data)
        await half.prepare(ex.http)
        await half.write(data[: len(data) // 2])
        return self._cut(ex, 200, half)

    async def _stream(self, ex: _Exchange, reply: Reply, arrived: float, due: float) -> web.StreamResponse:
        head = _head(ex, "chat.completion.chunk")
        steps: list[tuple[Json, str | None]] = [(delta, None) for delta in _deltas(reply)]
        steps.append(({}, reply.finish))
        lines = [
            _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            for delta, finish in steps
        ]
        if (ex.body.get("stream_options") or {}).get("include_usage"):
            lines.append(_event({**head, "choices": [], "usage": ex.usage}))
        if ex.fault == "disconnect":
            lines = lines[: len(lines) // 2]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(ex.http)
        ex.status = 200
        for i, line in enumerate(lines, start=1):
            await _sleep_until(arrived + (due - arrived) * i / len(lines))
            await response.write(line)
        if ex.fault == "disconnect":
            return self._cut(ex, 200, response)
        self._record(ex, 200, delivered=ex.present())
        await response.write(b"data: [DONE]\n\n")
        return response

    def _refuse(self, ex: _Exchange, status: int, text: str, code: str, *, wait: float | None = None) -> web.Response:
        self._record(ex, status, delivered=ex.present())
        response = _json(status, _error(text, code))
        if wait is not None:
            response.headers["Retry-After"] = f"{wait:.3f}"
        return response

    def _cut(self, ex: _Exchange, status: int, response: web.StreamResponse) -> web.StreamResponse:
        """Close the connection; what is left of `response` goes nowhere."""
        self._record(ex, status, delivered=False)
        if ex.http.transport is not None:
            ex.http.transport.close()
        return response

    def _record(self, ex: _Exchange, status: int, *, delivered: bool) -> None:
        known = ex.agent, ex.turn, ex.request
        record = Record(ex.time_in, time.time(), *known, status, ex.fault, delivered, ex.usage, ex.in_flight)
        ex.logged = True
        self.log.append(record)
        if self._log_file is not None:
            self._log_file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        if status == 200 and delivered and ex.fault is None and ex.agent is not None and ex.turn is not None:
            self._tries.pop((ex.agent, ex.turn), None)


def request_hash(body: Json) -> str:
    """SHA-256 of the messages, tools and model of a request, as JSON with sorted keys and no spaces."""
    said = {"messages": body["messages"], "tools": body.get("tools"), "model": body.get("model")}
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


def to_langchain(message: Json) -> BaseMessage:
    """A message of the OpenAI protocol as LangChain's."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content)
    match message["role"]:
        case "system" | "developer":
            return SystemMessage(content)
        case "user":
            return HumanMessage(content)
        case "tool":
            return ToolMessage(content, tool_call_id=message["tool_call_id"])
        case "assistant":
            good, bad = [], []
            for call in message.get("tool_calls") or ():
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                try:
                    good.append({"name": name, "args": orjson.loads(arguments), "id": call["id"]})
                except ValueError as e:
                    bad.append({"name": name, "args": arguments, "id": call["id"], "error": str(e)})
            return AIMessage(content, tool_calls=good, invalid_tool_calls=bad)
        case role:
            raise ValueError(f"no such role: {role}")


def spoil(fault: str, reply: Reply, call_id: str, tools: Sequence[Json], rng: Random) -> Reply | None:
    """The reply with `fault` in it, or None where it cannot have that fault.

    A spoilt reply has no text and one call at most: nothing of it can be carried out, so that the turn can be
    played again whole.
    """
    if fault == "empty":
        return Reply()
    _, name, arguments = reply.calls[0] if reply.calls else ("", "", "{}")
    if fault == "unknown_tool":
        return Reply(calls=((call_id, "no_such_tool", arguments),), finish="tool_calls") if tools else None
    if not reply.calls:
        return None
    if fault == "truncated":
        return Reply(calls=((call_id, name, arguments[: max(1, len(arguments) // 2)]),), finish="length")
    wrong = _wrong_arguments(orjson.loads(arguments), _parameters(tools, name), rng)
    if wrong is None:
        return None
    return Reply(calls=((call_id, name, orjson.dumps(wrong).decode()),), finish="tool_calls")


def _parameters(tools: Sequence[Json], name: str) -> Json:
    functions = (tool.get("function", {}) for tool in tools)
    return next((f.get("parameters") or {} for f in functions if f.get("name") == name), {})


def _wrong_arguments(args: Json, schema: Json, rng: Random) -> Json | None:
    """`args` that break `schema`: a required one left out or one of a wrong type. None where nothing can."""
    required = [name for name in schema.get("required", ()) if name in args]
    types = {name: p.get("type") for name, p in schema.get("properties", {}).items()}
    typed = [name for name in args if isinstance(types.get(name), str)]
    if required and (not typed or rng.random() < 0.5):
        left_out = rng.choice(required)
        return {name: value for name, value in args.items() if name != left_out}
    if not typed:
        return None
    name = rng.choice(typed)
    return args | {name: 7 if types[name] == "object" else {"no": "such type"}}


def _draw(faults: Mapping[str, float], at: float) -> str | None:
    for name in FAULTS:
        at -= faults.get(name, 0.0)
        if at < 0:
            return name
    return None


def _reply(answer: AIMessage) -> Reply:
    calls = tuple((c["id"] or "", c["name"], orjson.dumps(c["args"]).decode()) for c in answer.tool_calls)
    return Reply(str(answer.content), calls, "tool_calls" if calls else "stop")


def _head(ex: _Exchange, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{ex.agent}-{ex.turn}",
        "object": kind,
        "created": int(ex.time_in),
        "model": ex.body.get("model"),
    }


def _deltas(reply: Reply) -> Iterator[Json]:
    yield {"role": "assistant", "content": ""}
    for piece in _pieces(reply.content):
        yield {"content": piece}
    for i, (call_id, name, arguments) in enumerate(reply.calls):
        function = {"name": name, "arguments": ""}
        yield {"tool_calls": [{"index": i, "id": call_id, "type": "function", "function": function}]}
        for piece in _pieces(arguments):
            yield {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}


def _pieces(text: str) -> Iterator[str]:
    size = -(-len(text) // _PIECES)
    return (text[i : i + size] for i in range(0, len(text), size or 1))


def _event(chunk: Json) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _error(text: str, code: str) -> Json:
    return {"error": {"message": text, "type": code, "param": None, "code": code}}


def _json(status: int, payload: Json) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(payload), content_type="application/json")


async def _sleep_until(due: float) -> None:
    delay = due - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


def parse_latency(text: str) -> Latency:
    """`0.5`, or `lognormal:0.5,0.4`."""
    if text.startswith("lognormal:"):
        mean, sigma = text.removeprefix("lognormal:").split(",")
        return "lognormal", float(mean), float(sigma)
    return float(text)


def parse_faults(text: str) -> dict[str, float]:
    """`rate_limit=0.05,empty=0.02`."""
    pairs = (pair.split("=") for pair in text.split(",") if pair)
    return {name: float(probability) for name, probability in pairs}


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Play a rehearsal behind the OpenAI protocol.")
    add = parser.add_argument
    add(
        "--script",
        type=lambda text: load_script(Path(text)),
        required=True,
        help="a file that defines `script = Script(...)`",
    )
    add("--port", type=int, default=0)
    add("--latency", type=parse_latency, default=0.0, help="SECONDS, or lognormal:MEAN,SIGMA")
    add("--faults", type=parse_faults, default={}, help=f"NAME=P,NAME=P, of {', '.join(FAULTS)}")
    add("--seed", type=int, default=0)
    add("--hang", type=float, default=30.0, help="seconds that a timeout holds a connection")
    add("--max-in-flight", type=int)
    add("--key")
    add("--models", type=lambda text: text.split(","), default=())
    add("--log", type=Path, dest="log_path")
    server = ModelServer(**vars(parser.parse_args()))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Hundreds of held conversations would be scanned over and over, and none of them has cycles to find.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    async with server:
        print(f"listening on {server.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_main())
