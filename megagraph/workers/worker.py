"""A worker process, forked by `workers/forkserver.py` for the first process of a run.

It ends when it is told to, and at once when the first process is gone: what it has paid for by then it has written.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import select
import socket
import sys
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any

from langgraph.errors import GraphDrained, GraphInterrupt

from megagraph.agent import TOOLBOX
from megagraph.garbage import seldom_collected
from megagraph.home import Home
from megagraph.mcp_servers import McpServers, read_mcp
from megagraph.models import ModelChoice, Models
from megagraph.outside_tools import OutsideTools, accepted, tokens_of
from megagraph.reviewer import reviewer_schemas
from megagraph.stream import Stream
from megagraph.team import graph_for_work, work_at
from megagraph.tracing import is_traced
from megagraph.workers.far import FarMeter, Passes, far_gates
from megagraph.workers.link import Link
from megagraph.workers.office import Office, Posting
from megagraph.workers.tokens import pass_on


class Worker:
    """What a worker is told, and does."""

    def __init__(self, talk: socket.socket) -> None:
        self.link: Link
        self._talk = talk
        self._office: asyncio.Future[Office] = asyncio.get_running_loop().create_future()
        self._early: list[tuple[str, tuple[Any, ...]]] = []
        """What was said before it was ready to take anything in."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._home: Home | None = None
        self._ending: ExitStack = ExitStack()
        self._opened: list[Any] = []

    def hear(self, verb: str, args: tuple[Any, ...]) -> Any:
        match verb:
            case "start":
                self._do(self._start(*args))
            case "end":
                self._do(self._end())
            case "caught_up":
                # How all stand after what was said before goes out with the answer.
                return asyncio.shield(self._office_is_open())
            case "work":
                return self._kept(self._work(*args))
            case "settled":
                # Before it was ready it has done nothing.
                return self._home.database.write() if self._office.done() and self._home is not None else None
            case _ if not self._office.done():
                self._early.append((verb, args))
            case _:
                self._take_in(self._office.result(), verb, args)
        return None

    @staticmethod
    def _take_in(office: Office, verb: str, args: tuple[Any, ...]) -> None:
        if verb == "mail":
            number, verb, args = args
            office.heard(verb, args)
            office.branches.took_in(number)
        elif verb == "tokens":
            pass_on(office, args[0])
        else:
            office.heard(verb, args)

    async def _start(self, posting: Posting, number: int) -> None:
        self._home = home = Home(posting.home)
        self._ending.enter_context(home.helping(posting.run))
        if _hung_up(self._talk):
            # The first process died before it could be seen that this one has begun.
            os._exit(1)
        scratch = posting.scratch / f"worker-{number}"
        scratch.mkdir(exist_ok=True)
        servers = McpServers(read_mcp(posting.mcp) if posting.mcp else {})
        outside = OutsideTools(accepted(await servers.tools(), TOOLBOX.names), gone=posting.gone, close=servers.aclose)
        choice, passes = _choice(posting), Passes(self.link)
        gates = far_gates(self.link, passes)
        schemas = TOOLBOX.schemas(posting.prompts.tools)
        models = Models(choice, schemas, outside, gates)
        reviewers = Models(choice, reviewer_schemas(posting.prompts.reviewer_tools), None, gates)
        self._opened = [models, reviewers, outside]
        # A first call would wait for it, and all others in this process with it.
        await asyncio.gather(home.saver.know(posting.run), asyncio.to_thread(choice.warm))
        office = Office(
            home,
            posting,
            self.link,
            models=models,
            reviewers=reviewers,
            meter=FarMeter(posting.limits, self.link, passes, tokens_of(schemas)),
            outside=outside,
            stream=Stream(),
            traced=is_traced(()),
        )
        await office.restore()
        self._ending.enter_context(seldom_collected())
        for verb, args in self._early:
            self._take_in(office, verb, args)
        self._office.set_result(office)

    async def _work(self, head: str, state: dict[str, Any], place: dict[str, Any]) -> list[tuple[Any, str]] | None:
        """Run the graph of an agent. Where it stops before its end: the interrupts that it left open."""
        office = await asyncio.shield(self._office)
        assert self._home is not None
        try:
            await work_at(place, state, office, self._home.saver)
            # The first process goes on from here, and keeps that this agent has come to its end.
            await self._home.database.write()
        except GraphInterrupt as stop:
            return [(interrupt.value, interrupt.id) for interrupt in (stop.args[0] if stop.args else ())]
        except GraphDrained:
            return []
        return None

    async def _office_is_open(self) -> None:
        await self._office

    async def _end(self) -> None:
        """End in order: at rest, or in the middle of it all where the run is stopped at once."""
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._office.done():
            await self._office.result().aclose()
        await asyncio.gather(*(opened.aclose() for opened in self._opened))
        if self._home is not None:
            await asyncio.to_thread(self._home.close)
        self._ending.close()
        self.link.close()
        os._exit(0)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self._kept(work).add_done_callback(_must_succeed)

    def _kept(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _must_succeed(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        print(f"megagraph: a worker process cannot work ({type(error).__name__}: {error})", file=sys.stderr)
        os._exit(1)


def _choice(posting: Posting) -> ModelChoice:
    return posting.choice.with_script(posting.scenario.script()) if posting.choice.scripted else posting.choice


def _hung_up(talk: socket.socket) -> bool:
    """Whether the other end is gone, though not all may be read yet that it has said."""
    poll = select.poll()
    poll.register(talk, select.POLLHUP)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


async def _serve(talk: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=talk)
    worker = Worker(talk)
    worker.link = Link(reader, writer, worker.hear)
    await worker.link.listen()
    # The first process is gone. What is in the writer's hands is written or not: both are sound.
    os._exit(1)


def prepare() -> None:
    """Import and make what else a worker needs, once for all that are forked."""
    importlib.import_module("megagraph.openai_chat")
    graph_for_work()


def main(talk: socket.socket) -> None:
    """Work for the process at the other end of the socket."""
    asyncio.run(_serve(talk))
