"""When each agent of a run was in which state, from its events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from megagraph.events import BEGINNINGS, Event
from megagraph.report.story import Span
from megagraph.specs import BOSS
from megagraph.view import View


class Clock:
    """Turns the time of day into milliseconds that the run had worked."""

    def __init__(self) -> None:
        self._begun: list[float] = []
        self._before: list[float] = []
        self._last = 0.0

    def hear(self, event: Event) -> None:
        if event.kind in BEGINNINGS or not self._begun:
            self._before.append(self._before[-1] + self._last - self._begun[-1] if self._begun else 0.0)
            self._begun.append(event.time)
        self._last = max(event.time, self._begun[-1])

    def at(self, time: float) -> int:
        """The milliseconds worked at this time; what lies between two processes counts as the end of the first."""
        n = max(0, bisect_right(self._begun, time) - 1)
        if not self._begun or time < self._begun[0]:
            return 0
        worked = self._before[n] + time - self._begun[n]
        return round(1000 * (min(worked, self._before[n + 1]) if n + 1 < len(self._before) else worked))

    @property
    def breaks(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(round(1000 * before) for before in self._before[1:]))


class Timeline:
    """The states that a `View` shows, each with its time."""

    def __init__(self, events: Iterable[Event] = (), now: float | None = None) -> None:
        """`now` is given where the run is still at work."""
        self.view = View()
        self.clock = Clock()
        self.judged: int | None = None
        """When the boss's work was over."""
        self._spans: dict[str, list[Span]] = {}
        self._open: dict[str, tuple[int, str]] = {}
        self._last = 0.0
        for event in events:
            self.apply(event)
        self.until(now)

    def apply(self, event: Event) -> None:
        self.clock.hear(event)
        self.view.apply(event)
        self._last = event.time
        if event.agent in self.view.agents:
            self._apply(event)

    def until(self, now: float | None = None) -> None:
        """The end is `now`, or at the last event."""
        self.end = self.clock.at(max(now or 0.0, self._last))

    def spans(self, agent: str) -> list[Span]:
        """The agent's states, the last one up to the end of the run so far."""
        closed = self._spans.get(agent, [])
        if agent not in self._open:
            return closed
        begun, state = self._open[agent]
        return [*closed, (begun, self.end, state)]

    def began(self, agent: str) -> int:
        spans = self.spans(agent)
        return spans[0][0] if spans else 0

    def _apply(self, event: Event) -> None:
        name, now = event.agent, self.clock.at(event.time)
        state = self.view.agents[name].state
        if event.kind == "closed":
            self._close(name, now)
            if name == BOSS:
                self.judged = now
        elif name not in self._open or self._open[name][1] != state:
            self._close(name, now)
            self._open[name] = now, state

    def _close(self, name: str, now: int) -> None:
        if name in self._open:
            begun, state = self._open.pop(name)
            self._spans.setdefault(name, []).append((begun, now, state))


def shortened(spans: list[Span], most: int) -> list[Span]:
    """At most `most` spans over the same time: the shortest are joined to those before them."""
    least = 1
    while len(spans) > most:
        kept: list[Span] = []
        for start, end, state in spans:
            if kept and (end - start < least or kept[-1][2] == state):
                kept[-1] = kept[-1][0], end, kept[-1][2]
            else:
                kept.append((start, end, state))
        spans, least = kept, least * 2
    return spans
