"""Coroutines for callers that cannot await, or are in another loop: one loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

from megagraph.errors import UsageError

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="megagraph-loop", daemon=True).start()
    return loop


def start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Let a coroutine run in the background loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


def call_sync(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """The result of a coroutine, run in `loop` or the background one. Works where a loop is running already.

    Raises `UsageError` where `loop` is the one that would have to wait.
    """
    if loop is not None and loop is running():
        coroutine.close()
        raise UsageError(
            "this run works in the event loop of this very thread, which cannot wait for itself.",
            "Write `await` and the same call without `.sync`, or begin the run with `mega.sync.start(…)`.",
        )
    return asyncio.run_coroutine_threadsafe(coroutine, loop or _loop()).result()


async def call_in(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has to run in `loop`, from whichever loop this is."""
    if loop is running():
        return await coroutine
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


def running() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
