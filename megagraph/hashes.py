"""A set of texts that only ever grows, in eight bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort


class Hashes:
    """Which texts were added, by their hashes.

    It is right about each that was added. Of those that were not, one in ten million millions seems to be there, when
    there are a million.
    """

    def __init__(self) -> None:
        self._sorted = array("q")

    def add(self, text: str) -> None:
        if text not in self:
            insort(self._sorted, hash(text))

    def __contains__(self, text: object) -> bool:
        number = hash(text)
        at = bisect_left(self._sorted, number)
        return at < len(self._sorted) and self._sorted[at] == number

    def __len__(self) -> int:
        return len(self._sorted)
