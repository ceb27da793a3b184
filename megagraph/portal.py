"""Coroutines for callers that cannot await: one event loop in a thread of its own, made when first needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="megagraph-loop", daemon=True).start()
    return loop


def call_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, run in the background loop. Works where a loop is running already."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()
