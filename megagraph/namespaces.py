"""Which namespaces a run at work has in its checkpoints: asked at the beginning of every agent and of every team."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from megagraph.hashes import Hashes


class Namespaces:
    """The namespaces of one thread, as long as something may be written to them."""

    def __init__(self, rows: Iterable[tuple[str, bytes | None]]) -> None:
        self.parents: dict[str, bytes | None] = {}
        """Where in the tree each one hangs."""
        self._inside: dict[str, set[str]] = {}
        self._closed = Hashes()
        for row in rows:
            self.add(*row)

    def add(self, namespace: str, parents: bytes | None) -> None:
        self.parents[namespace] = parents
        self._inside.setdefault(namespace.rpartition("|")[0], set()).add(namespace)

    def close(self, namespace: str) -> None:
        """In this one and below it, nothing is written any more."""
        self._closed.add(namespace)
        above = namespace.rpartition("|")[0]
        if siblings := self._inside.get(above):
            siblings.discard(namespace)
            if not siblings:
                del self._inside[above]
        ended = [namespace]
        while ended:
            name = ended.pop()
            self.parents.pop(name, None)
            ended += self._inside.pop(name, ())

    def may_have(self, namespace: str) -> bool:
        """Whether there may be checkpoints in it."""
        above = accumulate(namespace.split("|"), "{}|{}".format)
        return namespace in self.parents or any(name in self._closed for name in above)
