from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from model_server import FAULTS, MAX_SPOILT_IN_A_ROW, SPOILS, Log, ModelServer, request_hash

from megagraph.rehearsal import (
    FAULT_PREFIX,
    Brief,
    Heard,
    Script,
    Turn,
    finish,
    list_files,
    run_program,
    talk,
    write_file,
)

REPOSITORY = Path(__file__).parent.parent
SOURCE = "print('hello, world')\n" * 20


def coder(brief: Brief) -> Generator[Turn, Heard, None]:
    heard = yield "I write it, then I run it.", write_file("main.py", SOURCE), run_program("main.py")
    heard = yield talk("boss", f"It printed {heard.results[-1]}.")
    heard = yield list_files()
    yield finish(f"{brief.task} Done. {heard.results[-1]}", ["main.py"])


SCRIPT = Script({"coder": coder})


def tool(name: str, required: Sequence[str] = (), **types: str) -> dict[str, Any]:
    properties = {
        key: {"type": "array", "items": {"type": "string"}} if kind == "array" else {"type": kind}
        for key, kind in types.items()
    }
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [
    tool("write_file", ["path", "content"], path="string", content="string", version="string"),
    tool("run_program", ["path"], path="string", args="array", stdin="string"),
    tool("talk", ["to", "message"], to="array", message="string"),
    tool("list_files", pattern="string"),
    tool("finish", ["summary"], summary="string", artefacts="array"),
]
MESSAGES = [SystemMessage("Your name is `coder`."), HumanMessage("Write it.")]
TYPES = {"string": str, "array": list}


def opening(name: str = "coder") -> Any:
    return [
        {"role": "system", "content": f"You are an agent. Your name is `{name}`."},
        {"role": "user", "content": "Write a program."},
    ]


def client(server: ModelServer, **kwargs: Any) -> openai.AsyncOpenAI:
    options: dict[str, Any] = {"api_key": "any", "max_retries": 0, "timeout": 20.0} | kwargs
    return openai.AsyncOpenAI(base_url=server.url, http_client=openai.DefaultAioHttpClient(), **options)


@asynccontextmanager
async def chat(server: ModelServer, **kwargs: Any) -> AsyncIterator[Runnable[Any, AIMessage]]:
    async with openai.DefaultAioHttpClient() as http:
        options: dict[str, Any] = {"api_key": "any", "max_retries": 0, "http_async_client": http} | kwargs
        yield ChatOpenAI(model="rehearsal", base_url=server.url, **options).bind_tools(TOOLS)


def on(server: ModelServer, work: Callable[[openai.AsyncOpenAI], Awaitable[Any]], **kwargs: Any) -> Any:
    """What `work` returns, given a client of the running server."""

    async def main() -> Any:
        async with server, client(server, **kwargs) as openai_client:
            return await work(openai_client)

    return asyncio.run(main())


async def ask(c: openai.AsyncOpenAI, messages: Any = None, **kwargs: Any) -> Any:
    options = {"model": "rehearsal", "tools": TOOLS} | kwargs
    return await c.chat.completions.create(messages=messages or opening(), **options)


def test_answers_with_the_scripts_turn() -> None:
    server = ModelServer(SCRIPT)
    answer = on(server, lambda c: ask(c, model="any-name"))
    message = answer.choices[0].message
    assert message.content == "I write it, then I run it."
    assert [(c.id, c.function.name) for c in message.tool_calls] == [
        ("coder_0_0", "write_file"),
        ("coder_0_1", "run_program"),
    ]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.model == "any-name"
    usage = answer.usage
    assert usage.prompt_tokens > 100
    assert usage.completion_tokens > len(SOURCE) // 5
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_logs_what_it_answered() -> None:
    server = ModelServer(SCRIPT)
    before = time.time()
    answer = on(server, ask)
    [record] = server.log
    assert before <= record.time_in <= record.time_out <= time.time()
    assert (record.agent, record.turn, record.status, record.fault) == ("coder", 0, 200, None)
    assert record.delivered
    assert record.in_flight == 1
    assert record.usage == {k: getattr(answer.usage, k) for k in record.usage or {}} != {}
    assert record.request == request_hash({"model": "rehearsal", "tools": TOOLS, "messages": opening()})
    assert server.log.answered() == [record]
    assert not server.log.repeats()


def test_counts_requests_answered_twice() -> None:
    async def work(c: openai.AsyncOpenAI) -> None:
        await ask(c)
        await ask(c, [*opening(), {"role": "user", "content": "Go on."}])
        await ask(c)

    server = ModelServer(SCRIPT)
    on(server, work)
    assert server.log.repeats() == {server.log[0].request: 2}
    assert [r.turn for r in server.log] == [0, 0, 0]


@pytest.mark.parametrize("include_usage", [True, False])
def test_streams(include_usage: bool) -> None:
    async def work(c: openai.AsyncOpenAI) -> list[Any]:
        options = {"stream_options": {"include_usage": True}} if include_usage else {}
        return [chunk async for chunk in await ask(c, stream=True, **options)]

    server = ModelServer(SCRIPT, latency=0.1)
    chunks = on(server, work)
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(usages) == include_usage
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(c.delta.content or "" for c in choices) == "I write it, then I run it."
    arguments = [c.function.arguments for ch in choices for c in ch.delta.tool_calls or () if c.index == 0]
    assert len(arguments) > 3
    assert "hello, world" in "".join(arguments)
    assert [c.finish_reason for c in choices if c.finish_reason] == ["tool_calls"]
    [record] = server.log.answered()
    assert record.time_out - record.time_in > 0.09


def test_langchain_gets_the_same_answer_streamed_or_whole() -> None:
    async def main() -> tuple[AIMessage, AIMessage]:
        async with (
            ModelServer(SCRIPT) as server,
            chat(server) as model,
            chat(server, streaming=True, stream_usage=True) as streaming_model,
        ):
            return await model.ainvoke(MESSAGES), await streaming_model.ainvoke(MESSAGES)

    whole, streamed = asyncio.run(main())
    assert whole.tool_calls == streamed.tool_calls
    assert whole.tool_calls[0]["args"] == {"path": "main.py", "content": SOURCE}
    assert whole.text == streamed.text
    assert whole.usage_metadata
    assert streamed.usage_metadata
    assert whole.usage_metadata["output_tokens"] == streamed.usage_metadata["output_tokens"]


def test_understands_every_role_and_content_in_parts() -> None:
    text = "Your name is `coder`."
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "text", "text": text}]},
        {"role": "user", "content": [{"type": "text", "text": "Write "}, {"type": "text", "text": "it."}]},
    ]
    for i, (name, result) in enumerate([("write_file", "saved"), ("talk", "sent"), ("list_files", "main.py")]):
        function = {"name": name, "arguments": "{}"}
        calls = [{"id": f"c{i}", "type": "function", "function": function}]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": f"c{i}", "content": result})
    answer = on(ModelServer(SCRIPT), lambda c: ask(c, messages))
    assert '"summary":"Write it. Done. main.py"' in answer.choices[0].message.tool_calls[0].function.arguments


def test_lists_its_models_and_knows_no_others() -> None:
    async def work(c: openai.AsyncOpenAI) -> list[str]:
        with pytest.raises(openai.NotFoundError, match="No model `large`"):
            await ask(c, model="large")
        await ask(c, model="small")
        return [model.id async for model in c.models.list()]

    server = ModelServer(SCRIPT, models=["small", "tiny"])
    assert on(server, work) == ["small", "tiny"]
    assert [r.status for r in server.log] == [404, 200]


def test_refuses_a_wrong_key() -> None:
    server = ModelServer(SCRIPT, key="right")
    with pytest.raises(openai.AuthenticationError):
        on(server, ask)
    on(server, ask, api_key="right")
    assert [r.status for r in server.log] == [401, 200]


def test_refuses_what_the_script_cannot_play() -> None:
    def broken(brief: Brief) -> Generator[Turn, Heard, None]:
        yield f"{1 / 0}"

    async def work(c: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="no part for the agent `painter`"):
            await ask(c, opening("painter"))
        with pytest.raises(openai.BadRequestError, match="whose turn"):
            await ask(c, [{"role": "user", "content": "Hello."}])
        with pytest.raises(openai.BadRequestError, match="ZeroDivisionError"):
            await ask(c, opening("broken"))
        with pytest.raises(openai.BadRequestError, match="no such role"):
            await ask(c, [{"role": "oracle", "content": "Hello."}])

    server = ModelServer(Script({"coder": coder, "broken": broken}))
    on(server, work)
    assert [(r.agent, r.status) for r in server.log] == [
        ("painter", 400),
        (None, 400),
        ("broken", 400),
        (None, 400),
    ]
    assert not server.log.answered()


def test_takes_requests_of_megabytes() -> None:
    messages = [*opening(), {"role": "user", "content": "x" * 3_000_000}]
    assert on(ModelServer(SCRIPT), lambda c: ask(c, messages)).usage.prompt_tokens > 700_000


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("rate_limit", 429, openai.RateLimitError),
        ("server_error", 500, openai.InternalServerError),
        ("overloaded", 503, openai.InternalServerError),
    ],
)
def test_refusals(fault: str, status: int, error: type[openai.APIStatusError]) -> None:
    server = ModelServer(SCRIPT, faults={fault: 1.0}, latency=10)
    with pytest.raises(error) as caught:
        on(server, ask)
    assert caught.value.status_code == status
    if fault == "rate_limit":
        assert 0.05 <= float(caught.value.response.headers["retry-after"]) <= 0.2
    assert [(r.status, r.fault, r.delivered) for r in server.log] == [(status, fault, True)]
    assert not server.log.answered()


@pytest.mark.parametrize("stream", [False, True])
def test_disconnects_before_and_amid_an_answer(stream: bool) -> None:
    async def work(c: openai.AsyncOpenAI) -> None:
        for _ in range(12):
            with pytest.raises(openai.APIConnectionError):
                answer = await ask(c, stream=stream)
                if stream:
                    async for _ in answer:
                        pass

    server = ModelServer(SCRIPT, faults={"disconnect": 1.0})
    on(server, work)
    assert {r.status for r in server.log} == {0, 200}
    assert {(r.fault, r.delivered) for r in server.log} == {("disconnect", False)}


def test_holds_the_connection_until_the_client_gives_up() -> None:
    server = ModelServer(SCRIPT, faults={"timeout": 1.0}, hang=60)
    with pytest.raises(openai.APITimeoutError):
        on(server, ask, timeout=1.0)
    [record] = server.log
    assert (record.status, record.fault, record.delivered) == (0, "timeout", False)


def test_ends_a_hanging_call_without_an_answer() -> None:
    with pytest.raises(openai.APIConnectionError):
        on(ModelServer(SCRIPT, faults={"timeout": 1.0}, hang=0.05), ask)


def test_truncates_arguments() -> None:
    choice = on(ModelServer(SCRIPT, faults={"truncated": 1.0}), ask).choices[0]
    assert choice.finish_reason == "length"
    [call] = choice.message.tool_calls
    assert call.id.startswith(FAULT_PREFIX)
    assert call.function.arguments.startswith('{"path":"main.py","content":"print')
    assert not call.function.arguments.endswith("}")


def test_truncated_arguments_are_an_invalid_call_to_langchain() -> None:
    async def main() -> AIMessage:
        async with ModelServer(SCRIPT, faults={"truncated": 1.0}) as server, chat(server) as model:
            return await model.ainvoke(MESSAGES)

    answer = asyncio.run(main())
    assert not answer.tool_calls
    assert [(c["id"] or "").startswith(FAULT_PREFIX) for c in answer.invalid_tool_calls] == [True]


def test_calls_a_tool_that_does_not_exist() -> None:
    server = ModelServer(SCRIPT, faults={"unknown_tool": 1.0})
    [call] = on(server, ask).choices[0].message.tool_calls
    assert call.function.name not in {t["function"]["name"] for t in TOOLS}
    assert call.id.startswith(FAULT_PREFIX)
    assert [(r.status, r.fault, r.delivered) for r in server.log] == [(200, "unknown_tool", True)]
    assert not server.log.answered()


def test_answers_nothing() -> None:
    choice = on(ModelServer(SCRIPT, faults={"empty": 1.0}), ask).choices[0]
    assert choice.message.content is None
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


def test_wrong_arguments_break_the_schema_in_both_ways() -> None:
    async def work(c: openai.AsyncOpenAI) -> None:
        [call] = (await ask(c)).choices[0].message.tool_calls
        assert call.id.startswith(FAULT_PREFIX)
        complaints.add(complaint(call.function.name, json.loads(call.function.arguments)))

    complaints: set[str | None] = set()
    for seed in range(12):
        on(ModelServer(SCRIPT, faults={"wrong_arguments": 1.0}, seed=seed), work)
    assert None not in complaints
    assert {str(c).split()[0] for c in complaints} == {"missing", "mistyped"}


@pytest.mark.parametrize("fault", SPOILS)
def test_a_fault_that_an_answer_cannot_have_is_left_out(fault: str) -> None:
    def talker(brief: Brief) -> Generator[Turn, Heard, None]:
        yield "I only talk."

    server = ModelServer(Script({"talker": talker}), faults={fault: 1.0})
    message = on(server, lambda c: ask(c, opening("talker"), tools=openai.omit)).choices[0].message
    assert message.content == (None if fault == "empty" else "I only talk.")
    assert server.log[0].fault == ("empty" if fault == "empty" else None)


@pytest.mark.parametrize("faults", [*({f: 1.0} for f in SPOILS), dict.fromkeys(SPOILS, 0.2)], ids=str)
@pytest.mark.parametrize(("keeps", "streaming"), [(True, False), (False, False), (True, True)])
def test_a_conversation_with_spoilt_turns_ends_as_the_script_has_it(
    faults: dict[str, float], keeps: bool, streaming: bool
) -> None:
    async def main() -> list[tuple[str, Any]]:
        async with server, chat(server, streaming=streaming) as model:
            return await converse(model, keeps)

    server = ModelServer(SCRIPT, faults=faults, seed=3)
    assert asyncio.run(main()) == [
        ("write_file", {"path": "main.py", "content": SOURCE}),
        ("run_program", {"path": "main.py", "args": [], "stdin": ""}),
        ("talk", {"to": ["boss"], "message": "It printed run_program ok."}),
        ("list_files", {"pattern": ""}),
        ("finish", {"summary": "Write it. Done. list_files ok", "artefacts": ["main.py"]}),
    ]
    assert [r.turn for r in server.log.answered()] == [0, 1, 2, 3]
    spoilt = Counter(r.turn for r in server.log if r.fault)
    assert 0 < max(spoilt.values()) <= MAX_SPOILT_IN_A_ROW


async def converse(model: Runnable[Any, AIMessage], keeps_spoilt_turns: bool) -> list[tuple[str, Any]]:
    """Play a careful agent: it says what is wrong with a turn, and does nothing of a wrong turn."""
    messages: list[BaseMessage] = [*MESSAGES]
    carried_out: list[tuple[str, Any]] = []
    while True:
        answer = await model.ainvoke(messages)
        calls: list[Any] = [*answer.tool_calls, *answer.invalid_tool_calls]
        cut = answer.response_metadata["finish_reason"] == "length"
        wrong = cut or not calls or any(complaint(c["name"], c["args"]) for c in calls)
        if wrong and not (keeps_spoilt_turns and calls):
            messages.append(HumanMessage("That was no valid turn. Go on."))
            continue
        messages.append(answer)
        messages += [ToolMessage("wrong" if wrong else f"{c['name']} ok", tool_call_id=c["id"]) for c in calls]
        if not wrong:
            carried_out += [(c["name"], c["args"]) for c in calls]
            if calls[-1]["name"] == "finish":
                return carried_out


def complaint(name: str, args: Any) -> str | None:
    """What the schema of the tool says against these arguments."""
    schema = next((t["function"]["parameters"] for t in TOOLS if t["function"]["name"] == name), None)
    if schema is None or not isinstance(args, dict):
        return "no such tool or no arguments"
    for key in schema["required"]:
        if key not in args:
            return f"missing {key}"
    for key, value in args.items():
        if not isinstance(value, TYPES[schema["properties"][key]["type"]]):
            return f"mistyped {key}"
    return None


def test_a_retry_of_the_same_request_can_succeed() -> None:
    async def work(c: openai.AsyncOpenAI) -> None:
        for _ in range(60):
            try:
                await ask(c)
            except openai.RateLimitError:
                continue
            return

    server = ModelServer(SCRIPT, faults={"rate_limit": 0.8})
    on(server, work)
    assert server.log[-1].status == 200


def test_faults_and_latencies_do_not_depend_on_the_order_of_calls() -> None:
    def anyone(brief: Brief) -> Generator[Turn, Heard, None]:
        yield list_files()

    def outcome(names: Sequence[str], seed: int) -> dict[str | None, tuple[str | None, int, float]]:
        async def work(c: openai.AsyncOpenAI) -> None:
            await asyncio.gather(*(ask(c, opening(n)) for n in names), return_exceptions=True)

        script = Script({}, default=anyone)
        server = ModelServer(script, faults=faults, seed=seed, latency=("lognormal", 0.02, 0.5))
        on(server, work)
        return {r.agent: (r.fault, r.status, server.latency_of(r.agent or "", 0)) for r in server.log}

    names = [f"agent_{i}" for i in range(40)]
    faults = {f: 0.1 for f in FAULTS if f != "timeout"}
    first = outcome(names, 1)
    assert set(first) == set(names)
    assert first == outcome(names[::-1], 1) != outcome(names, 2)
    assert len({fault for fault, _, _ in first.values()}) > 5


def test_a_second_run_meets_the_same_faults() -> None:
    async def main() -> list[list[str | None]]:
        runs = []
        server = ModelServer(SCRIPT, faults=dict.fromkeys(SPOILS, 0.2), seed=5)
        async with server, chat(server) as model:
            for _ in range(2):
                await converse(model, True)
                runs.append([r.fault for r in server.log])
                server.log.clear()
        return runs

    first, second = asyncio.run(main())
    assert any(first)
    assert first == second


def test_lognormal_latencies_have_the_mean_they_say() -> None:
    server = ModelServer(SCRIPT, latency=("lognormal", 0.5, 0.6))
    latencies = [server.latency_of(f"agent_{i}", turn) for i in range(200) for turn in range(10)]
    assert sum(latencies) / len(latencies) == pytest.approx(0.5, rel=0.05)
    assert server.latency_of("coder", 3) == ModelServer(SCRIPT, latency=server.latency).latency_of("coder", 3)


@pytest.mark.parametrize("most", [1, 5])
def test_calls_in_flight_are_counted_and_capped(most: int) -> None:
    async def work(c: openai.AsyncOpenAI) -> None:
        held = {asyncio.create_task(ask(c)) for _ in range(7)}
        while len(held) > most:
            refused, held = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
            assert all(isinstance(call.exception(), openai.RateLimitError) for call in refused)
        for call in held:
            call.cancel()

    server = ModelServer(SCRIPT, latency=60, max_in_flight=most)
    on(server, work)
    assert [(r.fault, r.status) for r in server.log if r.fault] == [("max_in_flight", 429)] * (7 - most)
    assert server.log.peak_in_flight() == most
    assert len(server.log) == 7


def test_an_answer_to_a_client_that_left_is_not_delivered() -> None:
    async def work(c: openai.AsyncOpenAI) -> None:
        held = asyncio.create_task(ask(c))
        await until_held(c, held, lambda: server.log)
        held.cancel()
        await asyncio.wait([held])

    server = ModelServer(SCRIPT, latency=60, models=["rehearsal"])
    on(server, work)
    assert [(r.status, r.delivered) for r in server.log if r.agent] == [(0, False)]


def test_a_stream_that_the_client_leaves_is_not_delivered() -> None:
    async def work(c: openai.AsyncOpenAI) -> None:
        stream = await ask(c, stream=True)
        await anext(aiter(stream))
        await stream.close()

    server = ModelServer(SCRIPT, latency=5)
    on(server, work)
    assert [(r.status, r.delivered, r.fault) for r in server.log] == [(200, False, None)]


async def until_held(c: openai.AsyncOpenAI, call: asyncio.Task[Any], log: Callable[[], Log]) -> None:
    """Wait until the server works on `call`, by what it says of calls that it refuses."""
    while not call.done():
        with pytest.raises(openai.NotFoundError):
            await ask(c, model="unknown")
        if log()[-1].in_flight == 2:
            return


def test_serves_from_a_thread() -> None:
    with ModelServer(SCRIPT) as server:
        blocking = openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)
        answer: Any = blocking.chat.completions.create(model="m", messages=opening())
        assert answer.choices[0].message.tool_calls
        # The log has an answer before its client does.
        assert len(server.log.answered()) == 1
        with pytest.raises(OSError):
            ModelServer(SCRIPT, port=int(server.url.split(":")[2].split("/")[0])).start()
    with pytest.raises(openai.APIConnectionError):
        blocking.models.list()


@pytest.mark.parametrize("faults", [{"thunder": 0.1}, {"empty": 0.6, "timeout": 0.6}], ids=str)
def test_impossible_faults_are_refused(faults: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"no such faults: thunder|more than 1"):
        ModelServer(SCRIPT, faults=faults)


REHEARSAL = """
from megagraph.rehearsal import Script, finish

def anyone(brief):
    yield finish("Done.")

script = Script({}, default=anyone)
"""

CLIENT = """
import asyncio, sys, openai

async def main():
    client = openai.AsyncOpenAI(
        base_url=sys.argv[1], api_key="any", max_retries=0, http_client=openai.DefaultAioHttpClient()
    )
    for i in range(1000):
        prompt = f"Your name is `agent_{i}`."
        await client.chat.completions.create(model="m", messages=[{"role": "system", "content": prompt}])
        print(i, flush=True)

asyncio.run(main())
"""


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    script = folder / "rehearsal.py"
    script.write_text(REHEARSAL)
    command = [sys.executable, str(REPOSITORY / "tests/model_server.py"), "--script", str(script), *options]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            said, _, url = process.stdout.readline().strip().rpartition(" ")
            assert said == "listening on"
            yield url, process
        finally:
            process.kill()


def test_the_log_of_a_process_outlives_a_killed_client(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    with serving(tmp_path, "--log", str(log), "--latency", "0.02") as (url, server):
        with subprocess.Popen([sys.executable, "-c", CLIENT, url], stdout=subprocess.PIPE, text=True) as killed:
            assert killed.stdout is not None
            for _ in range(5):
                killed.stdout.readline()
            killed.kill()
            heard = 5 + len(killed.stdout.readlines())
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
    calls = Log.read(log)
    # One more may have been on its way, answered or not.
    assert heard <= len(calls.answered()) <= heard + 1
    assert len(calls) <= heard + 1
    assert not calls.repeats()
    assert [r.agent for r in calls] == [f"agent_{i}" for i in range(len(calls))]


def test_sigterm_ends_the_process_in_spite_of_held_calls(tmp_path: Path) -> None:
    options = ("--faults", "timeout=0.5,empty=0.5", "--latency", "lognormal:60,0.1", "--hang", "60")
    log = tmp_path / "calls.jsonl"
    with serving(tmp_path, "--log", str(log), "--models", "a,b", "--key", "k", *options) as (url, server):

        async def main() -> None:
            async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as c:
                assert [m.id async for m in c.models.list()] == ["a", "b"]
                held = asyncio.create_task(ask(c, model="a"))
                await until_held(c, held, lambda: Log.read(log))
                server.send_signal(signal.SIGTERM)
                with pytest.raises(openai.APIConnectionError):
                    await held

        asyncio.run(main())
        assert server.wait(10) == 0
    assert [(r.status, r.delivered) for r in Log.read(log) if r.agent] == [(0, False)]
