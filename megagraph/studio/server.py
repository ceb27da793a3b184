"""What LangGraph's dev server loads: the graph's factory, and the app whose life keeps its lists up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph_sdk.runtime import ServerRuntime
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from megagraph.errors import MegagraphError
from megagraph.mega import MegaGraph
from megagraph.specs import BOSS
from megagraph.studio.graph import RunGraph, stop_all
from megagraph.studio.listing import GRAPH, keep_listed
from megagraph.team import Grown, grown_tree

__all__ = ["GRAPH", "app", "make_graph", "options", "served"]

options: dict[str, Any] = {}
"""What `MegaGraph` is made with; `megagraph studio` sets it before the server starts."""


@cache
def served() -> MegaGraph:
    """The home that is served. Blocks when it is opened."""
    return MegaGraph(**options)


async def make_graph(config: RunnableConfig, runtime: ServerRuntime[Any]) -> RunGraph:
    """The graph of the thread that a request is about, or of the run that an assistant shows."""
    asked = config.get("configurable", {})
    mega = await asyncio.to_thread(served)
    if runtime.access_context != "assistants.read":
        return RunGraph.of(mega, str(asked.get("thread_id", "")))
    try:
        return await asyncio.to_thread(_drawn, mega, asked)
    except MegagraphError as error:
        raise HTTPException(404, str(error)) from error


def _drawn(mega: MegaGraph, asked: Mapping[str, Any]) -> RunGraph:
    """The graph as it has grown, for its picture: of `run`, from `root` down, `depth` levels of it."""
    if not asked.get("run"):
        return RunGraph.of(mega, "")
    run = mega.open(str(asked["run"]))
    specs = [spec for spec, _, _ in run.ledger.agents()]
    root, depth = str(asked.get("root") or BOSS), asked.get("depth")
    if root not in {spec.name for spec in specs}:
        raise HTTPException(404, f"run {run.id[:8]} has no agent `{root}`.")
    grown = grown_tree(specs, root)
    return RunGraph.of(mega, run.id, grown if depth is None else _cut(grown, int(depth)))


def _cut(grown: Grown | None, depth: int) -> Grown | None:
    """What has grown, without the agents that are deeper."""
    if grown is None or depth < 1:
        return None
    members = {name: _cut(below, depth - 1) for name, below in grown.members.items()}
    return Grown(members, grown.depends_on, _cut(grown.desk, depth))


@asynccontextmanager
async def _life(app: Starlette) -> AsyncIterator[None]:
    mega = await asyncio.to_thread(served)
    listing = asyncio.create_task(keep_listed(mega))
    try:
        yield
    finally:
        listing.cancel()
        await asyncio.gather(listing, return_exceptions=True)
        await stop_all()
        await mega.aclose()


app = Starlette(lifespan=_life)
