"""LangChain's callbacks: every model and tool call is told with its agent, and nothing is called for nobody."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage

from megagraph import MegaGraph
from megagraph.rehearsal import RehearsalModel
from megagraph.run import Run
from tests.commands import child_env
from tests.model_server import ModelServer
from tests.scripts import deep_script


class Recorder(AsyncCallbackHandler):
    """Keeps the spans it is told of."""

    raise_error = True

    def __init__(self) -> None:
        self.spans: dict[UUID, dict[str, Any]] = {}

    def _begin(self, what: str, run_id: UUID, parent: UUID | None, **more: Any) -> None:
        self.spans[run_id] = {"what": what, "parent": parent, "ended": False, **more}

    async def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        self._begin("chain", run_id, parent_run_id, **more)

    async def on_chat_model_start(
        self,
        serialized: Any,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> None:
        self._begin("model", run_id, parent_run_id, **more)

    async def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        self._begin("tool", run_id, parent_run_id, **more)

    def _end(self, run_id: UUID) -> None:
        assert not self.spans[run_id]["ended"]
        self.spans[run_id]["ended"] = True

    async def on_chain_end(self, outputs: Any, *, run_id: UUID, **more: Any) -> None:
        self._end(run_id)

    async def on_llm_end(self, response: Any, *, run_id: UUID, **more: Any) -> None:
        self._end(run_id)

    async def on_tool_end(self, output: Any, *, run_id: UUID, **more: Any) -> None:
        self._end(run_id)

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        self._end(run_id)

    def of(self, what: str) -> list[dict[str, Any]]:
        return [span for span in self.spans.values() if span["what"] == what]

    def ancestors(self, span: dict[str, Any]) -> list[str]:
        names = []
        while span["parent"] is not None:
            span = self.spans[span["parent"]]
            names.append(span["name"])
        return names


@pytest.mark.parametrize("model", ["rehearsal", "openai:x"])
def test_spans_carry_the_agent_and_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    recorder = Recorder()

    async def work(url: str) -> Run:
        played = RehearsalModel(script=deep_script()) if model == "rehearsal" else model
        async with MegaGraph(played, base_url=url, home=tmp_path, callbacks=[recorder]) as mega:
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            thoughts = Counter((e.agent, e.data["step"]) for e in run.events(kinds=("thought",)))
            tools = Counter((e.agent, e.data["step"], e.data["tool"]) for e in run.events(kinds=("tool",)))
            spans = recorder.of("model")
            assert all(span["name"] == span["metadata"]["megagraph_agent"] for span in spans)
            assert Counter(map(_call, spans)) == thoughts
            assert Counter((*_call(span), span["name"]) for span in recorder.of("tool")) == tools
            return run

    with ModelServer(deep_script()) as server:
        run = asyncio.run(work(server.url))
    for span in [*recorder.of("model"), *recorder.of("tool")]:
        assert span["ended"]
        assert span["metadata"]["megagraph_run"] == run.id
        assert f"agent:{span['metadata']['megagraph_agent']}" in span["tags"]
        assert recorder.ancestors(span)[-1] == f"megagraph {run.id[:8]}"
    member = next(span for span in recorder.of("model") if span["name"] == "north_a")
    assert {"north_a", "team"} <= set(recorder.ancestors(member)), "it lies below its node in its team"


def _call(span: dict[str, Any]) -> tuple[str, int]:
    return span["metadata"]["megagraph_agent"], span["metadata"]["megagraph_step"]


def test_without_a_handler_no_call_carries_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a configuration for the model nor a span for a tool is made."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("somebody was told")

    for name in ("merge_configs", "TokenHandler", "get_async_callback_manager_for_config"):
        monkeypatch.setattr(f"megagraph.tracing.{name}", never)
    monkeypatch.delenv("LANGSMITH_TRACING", raising=False)

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=deep_script()), home=tmp_path) as mega:
            assert (await (await mega.start("Write the files.")).result()).passed

    asyncio.run(work())


OPENTELEMETRY = """
import asyncio, json, sys
from opentelemetry.instrumentation.langchain import LangchainInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
LangchainInstrumentor().instrument(tracer_provider=provider)

from megagraph import MegaGraph
from megagraph.rehearsal import RehearsalModel
from tests.scripts import deep_script

async def main():
    async with MegaGraph(RehearsalModel(script=deep_script())) as mega:
        run = await mega.start("Write the files.")
        assert (await run.result()).passed
        return run.id, len(run.events(kinds=("thought",))), len(run.events(kinds=("tool",)))

counts = asyncio.run(main())
found = [(s.name, dict(s.attributes), s.parent is None) for s in spans.get_finished_spans()]
print(json.dumps([counts, found], default=str))
"""


def test_opentelemetry_hooks_itself_in(tmp_path: Path) -> None:
    """Its own instrumentation for LangChain is enough: no handler is handed over."""
    done = subprocess.run(
        [sys.executable, "-c", OPENTELEMETRY], env=child_env(tmp_path), capture_output=True, text=True, check=True
    )
    (run, thoughts, tools), spans = json.loads(done.stdout)
    assert [name for name, _, is_root in spans if is_root] == [f"invoke_agent megagraph {run[:8]}"]
    about = "traceloop.association.properties.megagraph_"
    by_agent = [(name, data) for name, data, _ in spans if f"{about}agent" in data]
    assert all(data[f"{about}run"] == run for _, data in by_agent)
    assert sum(name.endswith(".chat") for name, _ in by_agent) == thoughts
    assert sum(name.startswith("execute_tool ") for name, _ in by_agent) == tools
    assert {"boss", "north", "north_a"} <= {data[f"{about}agent"] for _, data in by_agent}
