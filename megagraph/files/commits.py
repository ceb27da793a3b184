"""The commits of one branch, known by their place in it: thirty-two bytes each, and twelve for what was done in one.

Python's own objects would take ten times that, and there is a commit for each write of a long run.
"""

from __future__ import annotations

import re
import threading
from array import array
from bisect import bisect_left, bisect_right

_ID = 20
"""Bytes of a commit's id."""
_HEX = re.compile(r"[0-9a-f]{1,40}")


class Places:
    """Places by numbers of 64 bits, of which many may have the same."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._places = array("I")
        self._lock = threading.Lock()

    def add(self, number: int, place: int) -> None:
        with self._lock:
            at = bisect_right(self._numbers, number)
            self._numbers.insert(at, number)
            self._places.insert(at, place)

    def between(self, least: int, most: int) -> list[int]:
        """The places of the numbers from `least` to `most`."""
        with self._lock:
            return list(self._places[bisect_left(self._numbers, least) : bisect_right(self._numbers, most)])


class Commits:
    """The ids of commits, the oldest first."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._by_beginning = Places()

    def __len__(self) -> int:
        return len(self._ids) // _ID

    def __getitem__(self, place: int) -> str:
        return self._ids[_ID * place : _ID * (place + 1)].hex()

    def append(self, commit: str) -> None:
        """Add the next one. Only one thread may do so at a time, and all may read."""
        place = len(self)
        self._ids += bytes.fromhex(commit)
        self._by_beginning.add(int(commit[:16], 16), place)

    def place(self, commit: str) -> int | None:
        """The place of a commit; None where it is not there."""
        return next(iter(self.beginning_with(commit)), None) if len(commit) == 2 * _ID else None

    def beginning_with(self, start: str) -> list[int]:
        """The places of those whose id begins so."""
        if not _HEX.fullmatch(start):
            return []
        least, most = (int(start[:16].ljust(16, digit), 16) for digit in "0f")
        return [place for place in self._by_beginning.between(least, most) if self[place].startswith(start)]
