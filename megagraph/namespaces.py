"""Which namespaces a run at work has in its checkpoints: asked at the beginning of every agent and of every team."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import accumulate

from megagraph.hashes import Hashes


class Namespaces:
    """The namespaces of one thread, as long as something may be written to them."""

    def __init__(self, rows: Iterable[tuple[str, bytes | None]], over: Container[str] = ()) -> None:
        """`rows` are those that there are, `over` the agents whose work is over."""
        self.parents: dict[str, bytes | None] = {}
        """Where in the tree each one hangs."""
        self._inside: dict[str, set[str]] = {}
        self._closed = Hashes()
        for namespace, parents in rows:
            if ended := _of_one(namespace, over):
                self._closed.add(ended)
            else:
                self.add(namespace, parents)

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
        return namespace in self.parents or any(name in self._closed for name in _down_to(namespace))


def _down_to(namespace: str) -> Iterator[str]:
    """The namespaces that it is inside of, the outermost first, and itself."""
    return accumulate(namespace.split("|"), "{}|{}".format)


def _of_one(namespace: str, agents: Container[str]) -> str:
    """The outermost namespace that it is inside of, or itself, of one of these agents; empty where there is none."""
    parts = zip(namespace.split("|"), _down_to(namespace), strict=True)
    return next((whole for part, whole in parts if part.partition(":")[0] in agents), "")
