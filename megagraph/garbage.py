"""Python's garbage collector while organisations work, and while the libraries are imported that they are made of.

Both allocate much that lives long: with its usual thresholds the collector walks through everything again and again,
0.1 s at a time in the middle of a burst of answers, and for a fifth of the time that the imports take.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (20_000, 10, 50)
"""What gathers before each of the three generations is collected."""

_lock = threading.Lock()
_at_work = 0
_usual = gc.get_threshold()


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: where modules are imported, there is next to none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Collect garbage less often, and leave out what is there already, until the last run of the process stops."""
    global _at_work, _usual
    with _lock:
        _at_work += 1
        if _at_work == 1:
            _usual = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        with _lock:
            _at_work -= 1
            if _at_work == 0:
                gc.set_threshold(*_usual)
                gc.unfreeze()
