"""The mailroom of a run whose agents are in several processes: each has its part, and tells the others what they need.

The first process decides for the boss, each worker for the branches that were given to it. Of an agent that another
process works for, a place is kept here all the same: so that it can be written to, and that its report starts those
who depend on it. How its branch stands is told by its process, after all that this process
had said to it by then: nobody is found idle who has mail on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from megagraph.mailroom import Afar, Mailroom, Place
from megagraph.specs import BOSS, AgentSpec, Letter, Report
from megagraph.workers.link import Link

Post = Callable[..., None]
"""Tells the other process, or those whom it concerns: a verb and its arguments."""


class SharedMailroom(Mailroom):
    """A part of a run's mailroom. `post` passes on what happens here to agents that others may want to know of."""

    def __init__(
        self, notify: Callable[[str, str], None], on_change: Callable[[str, str, str], None], post: Post
    ) -> None:
        super().__init__(notify, on_change)
        self._post = post

    def head(self, name: str) -> str:
        """The agent of the boss's own team in whose branch `name` is; empty for the boss, and where nobody knows."""
        place = self.places.get(name)
        while place is not None and place.spec.lead not in ("", BOSS):
            place = self.places.get(place.spec.lead)
        return place.spec.name if place is not None and place.spec.lead else ""

    def deliver(self, letter: Letter) -> None:
        place = self.places.get(letter.to)
        if place is not None and place.afar is None:
            super().deliver(letter)
        # Those deep in another branch get asides only, which their own process keeps.
        elif place is not None and (not _is_near(place) or self._file(letter)):
            self._post("letter", letter)
            if letter.kind == "notice":
                # Nobody waits for word of whether it was read.
                place.fresh.pop(letter.id, None)

    def read(self, name: str, ids: Iterable[str]) -> None:
        new = [] if self.closed(name) else [id_ for id_ in ids if id_ in self.places[name].fresh]
        super().read(name, new)
        # Whoever wrote may find that it is owed an answer no more.
        if theirs := [id_ for id_ in new if self._is_afar(id_.partition("/")[0])]:
            self._post("read", name, theirs)

    def report(self, name: str, report: Report) -> None:
        super().report(name, report)
        self._post("report", name, report.dump())

    def revise(self, name: str, old: Report, report: Report) -> None:
        super().revise(name, old, report)
        self._post("revise", name, old.dump(), report.dump())

    def close(self, name: str) -> list[str]:
        if names := super().close(name):
            self._post("closed", names)
        return names

    def heard(self, verb: str, *args: object) -> bool:
        """Take in what another process has posted; False where that is no news of the mailroom's."""
        match verb, args:
            case "added", (AgentSpec() as spec,):
                self.add(spec)
            case "letter", (Letter() as letter,):
                self.deliver(letter)
            case "read", (str(name), list(ids)):
                self.read(name, ids)
            case "report", (str(name), dict(report)):
                if name in self.places:
                    self.report(name, Report.load(report))
            case "revise", (str(name), dict(old), dict(report)):
                self.revise(name, Report.load(old), Report.load(report))
            case "closed", (list(names),):
                for name in names:
                    self.close(name)
            case _:
                return False
        return True

    def _is_afar(self, name: str) -> bool:
        place = self.places.get(name)
        return place is not None and place.afar is not None

    def _branch(self, place: Place) -> Iterable[Place]:
        yield place
        for name in place.members:
            yield from self._branch(self.places[name])


def _nobody(verb: str, *args: object) -> None:
    """Tells nobody."""


def _is_near(place: Place) -> bool:
    """Whether it is the boss or in its team: what these are sent and have read counts for their mates everywhere."""
    return place.spec.lead in ("", BOSS)


class FrontMailroom(SharedMailroom):
    """The first process's part: the boss's."""

    def give_away(self, head: str) -> None:
        """From now on another process works for this agent and everybody below it."""
        place = self.places[head]
        for below in self._branch(place):
            below.afar = Afar(idle=True, moves=False)
        place.afar = Afar()

    def add(self, spec: AgentSpec, report: Report | None = None) -> Place | None:
        place = super().add(spec, report)
        if place is not None and place.afar is None and spec.lead not in ("", BOSS) and self._is_afar(spec.lead):
            place.afar = Afar(idle=True, moves=False)
        return place

    def _has_loop(self, place: Place) -> bool:
        # Of those deep in a branch their process is told.
        return place.afar is None or place.spec.lead == BOSS

    def park(self) -> None:
        super().park()
        self._post("park")

    def expect(self, heads: Iterable[str]) -> None:
        """Something was said to the process of these agents: until it has answered, they count as at work."""
        for head in heads:
            self.places[head].afar = Afar()

    def stand(self, states: Mapping[str, Afar]) -> None:
        """How the branches of these agents stand, by the word of their process: all of them at one moment."""
        boss = self.places[BOSS]
        for head, afar in states.items():
            self.places[head].afar = afar
            self._ever_asked = self._ever_asked or afar.asking
            if afar.moves:
                self.places[head].started, boss.stalls = True, 0
        if boss.closed or all(afar.moves and not afar.idle for afar in states.values()):
            return
        if not self._at_work(BOSS):
            # There are no more reports to wait for.
            self._wake_if_due(BOSS)
        self._settle(boss)


class BranchMailroom(SharedMailroom):
    """A worker's part: the branches that were given to it."""

    def __init__(
        self, notify: Callable[[str, str], None], on_change: Callable[[str, str, str], None], link: Link
    ) -> None:
        super().__init__(notify, on_change, link.tell)
        self._link = link
        self.heads: dict[str, Afar] = {}
        """The agents at the head of a branch of this process, and how they were last said to stand."""
        self._moved: set[str] = set()
        """Those of whose branch something has happened since."""
        self._taken_in = 0
        """The number of the last message from the first process, until that is told how all stand after it."""
        self._saying = False

    def take_over(self, head: str) -> None:
        """From now on this process works for the agent and everybody below it."""
        if self.closed(head):
            # It was over before this process had read the rows.
            return
        self.heads[head] = Afar()
        for place in self._branch(self.places[head]):
            place.afar = None

    def add(self, spec: AgentSpec, report: Report | None = None) -> Place | None:
        new = spec.name not in self.places
        place = super().add(spec, report)
        if new and place is not None and self.head(spec.name) not in self.heads:
            place.afar = Afar()
        return place

    def left(self, name: str) -> None:
        super().left(name)
        if self.heads.pop(name, None) is not None:
            self._moved.discard(name)
            boss = self.places[BOSS]
            # Of what it has written, this process is not told any more whether it was read.
            boss.fresh = {id_: letter for id_, letter in boss.fresh.items() if letter.sender != name}

    def _has_loop(self, place: Place) -> bool:
        return place.afar is None

    def restore(self, *rows: Any, **more: Any) -> None:
        # The first process has read the same rows.
        with self._silent():
            super().restore(*rows, **more)

    def heard(self, verb: str, *args: object) -> bool:
        # What the first process tells it knows.
        with self._silent():
            return super().heard(verb, *args)

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Tell the first process nothing meanwhile."""
        post, self._post = self._post, _nobody
        try:
            yield
        finally:
            self._post = post

    def took_in(self, number: int) -> None:
        """The first process's message of this number was taken in. It counts all as at work until it hears more."""
        self._taken_in = number
        self.heads = {head: Afar() for head in self.heads if not self.closed(head)}
        self._moved = set(self.heads)
        self._say_soon()

    def read(self, name: str, ids: Iterable[str]) -> None:
        super().read(name, ids)
        self._has_moved(name)

    def report(self, name: str, report: Report) -> None:
        super().report(name, report)
        self._has_moved(name)

    def close(self, name: str) -> list[str]:
        names = super().close(name)
        self._has_moved(name)
        return names

    def _settle(self, place: Place) -> None:
        super()._settle(place)
        self._has_moved(place.spec.name)

    def _set_to_work(self, place: Place) -> None:
        super()._set_to_work(place)
        self._has_moved(place.spec.name)

    def _park_if_all_wait(self) -> None:
        # Whether nobody moves in the whole organisation is for the first process to see.
        pass

    def _has_moved(self, name: str) -> None:
        if (head := self.head(name)) in self.heads:
            self._moved.add(head)
            self._say_soon()

    def _say_soon(self) -> None:
        if not self._saying:
            self._saying = True
            self._link.at_last(self._say)

    def _say(self) -> None:
        """Tell how those branches stand that do not stand as they did."""
        self._saying = False
        states = {head: self._state(self.places[head]) for head in self._moved}
        news = {head: state for head, state in states.items() if state != self.heads[head]}
        self._moved.clear()
        self.heads |= news
        taken_in, self._taken_in = self._taken_in, 0
        if news or taken_in:
            self._link.tell("stands", taken_in, news)

    def _state(self, place: Place) -> Afar:
        moves = any(map(self._moves, self._branch(place)))
        asking = self._ever_asked and any(below.state == "asking" for below in self._branch(place))
        return Afar(self._idle(place), moves, asking, "at work" if moves else self._describe_work(place.spec.name))
