"""The server's lists of threads and assistants, kept up to date with the runs of a home.

The server has no list of what is in a checkpointer: it knows of a thread what it was told. Ids are the run's own, so
telling it twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError

from megagraph.mega import MegaGraph
from megagraph.run import Run
from megagraph.scenario import Scenario
from megagraph.view import one_line

GRAPH = "megagraph"
SECONDS = 1.0
"""How often it is looked for new runs."""

log = logging.getLogger(__name__)


async def keep_listed(mega: MegaGraph) -> None:
    """List the home's runs, and those that come, until this is cancelled."""
    client = get_client()
    listed: dict[str, dict[str, Any]] = {}
    while True:
        try:
            for run, about in await asyncio.to_thread(_runs, mega):
                if listed.get(run) != about:
                    await _list(client, run, about, new=run not in listed)
                    listed[run] = about
        except Exception:
            # The server may still be starting, or the home be busy for longer than usual.
            log.exception("the runs could not be listed; this is tried again")
        await asyncio.sleep(SECONDS)


def _runs(mega: MegaGraph) -> list[tuple[str, dict[str, Any]]]:
    """All runs, oldest first, with what their entries say."""
    found = []
    for row in reversed(mega.home.runs()):
        run = Run(mega.home, row["run"], Scenario(row["goal"]))
        about = {"goal": row["goal"], "scenario": row["scenario"], "model": row["model"], "status": run.status}
        found.append((run.id, {**about, "reason": row["reason"] or "", "parent": row["parent"] or ""}))
    return found


async def _list(client: LangGraphClient, run: str, about: dict[str, Any], *, new: bool) -> None:
    metadata = {"graph_id": GRAPH, **about}
    if new:
        await client.threads.create(thread_id=run, graph_id=GRAPH, metadata=metadata, if_exists="do_nothing")
        name = f"{about['scenario'] or one_line(about['goal'], 50)} ({run[:8]})"
        await client.assistants.create(
            GRAPH, {"configurable": {"run": run}}, assistant_id=run, name=name, if_exists="do_nothing"
        )
    try:
        await client.threads.update(run, metadata=metadata)
    except NotFoundError:
        log.info("thread %s was deleted; the run is still in the home", run)
