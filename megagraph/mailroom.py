"""Who waits for what, in memory: letters, dependencies, the quiet of a team.

The mailroom holds no truth of its own. Letters, reports and closings are rows of the ledger, what an agent has
read is in the rows of its calls; on start the mailroom is filled from them. It decides synchronously, within one turn
of the event loop, so that nothing can happen between seeing that a team is quiet and acting on it.

An agent that has nothing to do awaits a future here. It is woken by what it waits for and by nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from megagraph.hashes import Hashes
from megagraph.specs import AgentSpec, Letter, Report

Wake = Literal["work", "close", "park"]
"""Why a wait ended: there is something to do, the team is over, or the whole run stops here for now."""

STALLS_BEFORE_END = 2
"""How often a lead is told that nothing moves before its team is ended for it."""

GATHER_SECONDS = 0.05
"""The longest that a report waits for others while team mates are still at work, as long as nobody has said how long
a call takes."""

QUIET = 0.2
"""The part of this time after which a report that no other has followed waits no longer."""

MOST_NAMED = 12
"""How many of a large team are named where a lead is said to wait for it."""


@dataclass
class Afar:
    """What is known here of an agent for whom another process works, and of all below it."""

    idle: bool = False
    """Whether none of them moves without mail from elsewhere."""
    moves: bool = True
    asking: bool = False
    """Whether one of them waits for a person's answer."""
    why: str = "at work"


@dataclass(slots=True)
class Place:
    """What the mailroom knows of one agent."""

    spec: AgentSpec
    state: Literal["working", "waiting", "asking", "closed"] = "working"
    started: bool = False
    resting: bool = False
    """It has reported and has nothing to do since, though it may still be on its way to wait."""
    report: Report | None = None
    had: Hashes = field(default_factory=Hashes)
    """The ids of all letters that were ever sent to it."""
    fresh: dict[str, Letter] = field(default_factory=dict)
    """Those that it has not read, in order of arrival."""
    handed_in: Letter | None = None
    """The last report or failure that it has sent to its lead."""
    awaits: dict[str, str] = field(default_factory=dict)
    """Whom it has written to without an answer since, and the letter. What crosses a letter is no answer to it."""
    future: asyncio.Future[Wake] | None = None
    leads: bool = False
    """Whether it has ever recruited."""
    members: dict[str, None] = field(default_factory=dict)
    """Those of its recruits that have a place."""
    open: dict[str, None] = field(default_factory=dict)
    """Those of them whose work is not over."""
    accepted_before: int = 0
    """How many of those whose work is over had their report accepted."""
    stalls: int = 0
    gathering: asyncio.TimerHandle | None = None
    """Wakes it when the reports have come that come together."""
    gather_until: float = 0.0
    """When it wakes at the latest, by the clock of the event loop."""
    afar: Afar | None = None
    """Where another process works for it: what that one says of it."""

    @property
    def unread(self) -> list[Letter]:
        return list(self.fresh.values())

    def has_read(self, id_: str) -> bool:
        return id_ in self.had and id_ not in self.fresh

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    def go_to_work(self) -> None:
        self.state, self.started, self.resting = "working", True, False
        self.gather_no_more()

    def gather_no_more(self) -> None:
        if self.gathering is not None:
            self.gathering.cancel()
            self.gathering = None


class Mailroom:
    """The places of one run. `notify(lead, text)` is called when a team cannot move by itself."""

    def __init__(
        self, notify: Callable[[str, str], None], on_change: Callable[[str, str, str], None] | None = None
    ) -> None:
        self.places: dict[str, Place] = {}
        """Of those whose work is not over, or whose loops have not come to their ends since. Of all others there are
        only the rows."""
        self.open: dict[str, Place] = {}
        """The places of those whose work is not over."""
        self.names = Hashes()
        """Of all that there ever were."""
        self._notify = notify
        self._on_change = on_change or (lambda agent, state, why: None)
        self._parked = False
        self._ever_asked = False
        self._leaving: set[str] = set()
        """Those whose work was ended in the middle of it, until their loops have come to their ends."""
        self.gather_seconds = GATHER_SECONDS
        self.quiet = QUIET
        self.on_gone: Callable[[str], None] = lambda agent: None
        """Called for each agent that is forgotten."""

    # --- filling -----------------------------------------------------------------------------------------

    def add(self, spec: AgentSpec, report: Report | None = None) -> Place | None:
        """The place of an agent, made where it has had none. None where its work, or its lead's, is over."""
        if spec.name in self.names:
            return self.places.get(spec.name)
        self.names.add(spec.name)
        place = Place(spec, report=report)
        place.started = place.resting = report is not None
        if spec.lead:
            lead = self.places.get(spec.lead)
            if lead is None or lead.closed:
                # Whoever was dismissed in the middle of recruiting gets no team.
                return None
            # Who recruits is at work.
            lead.started = lead.leads = True
            lead.members[spec.name] = lead.open[spec.name] = None
        self.places[spec.name] = self.open[spec.name] = place
        return place

    def note_closed(self, spec: AgentSpec, report: Report | None) -> None:
        """Note an agent whose work was over before this process began. Only the boss, of whom the last questions are,
        gets a place."""
        if not spec.lead:
            self.add(spec, report)
            Mailroom.close(self, spec.name)
        self.names.add(spec.name)
        if lead := self.places.get(spec.lead):
            lead.started = lead.leads = True
            lead.accepted_before += report is not None and report.accepted

    def restore(
        self,
        letters: Iterable[Letter],
        read_at: Mapping[str, int],
        last_calls: Mapping[str, int],
        rested: Mapping[str, int],
    ) -> None:
        """Put back what an earlier process has left.

        `letters` are all there were, oldest first, and `read_at` is the step each was shown at. Of each agent,
        `last_calls` is the step of its last model call, and `rested` the last step after which it had nothing to hand
        in. From these it follows who is at rest, wherever in its loop it is: whoever has reported and called no more,
        or has come to rest with its last call.
        """
        handed_in: dict[str, int] = {}
        read_at = dict(read_at)
        for letter in letters:
            step = int(letter.id.split("/")[1]) if letter.kind != "notice" else 0
            self._file(letter, partial(_was_read, read_at, step))
            if letter.kind in ("report", "failure"):
                handed_in[letter.sender] = step
            if sender := self.places.get(letter.sender):
                sender.started = True
                if letter.settles:
                    read_at.update(dict.fromkeys(letter.settles, step))
                    self.read(letter.sender, letter.settles)
            if letter.id in read_at and (reader := self.open.get(letter.to)):
                reader.fresh.pop(letter.id, None)
        for name, place in self.places.items():
            last = last_calls.get(name, 0)
            place.started = place.started or last > 0
            if place.report is not None and place.spec.lead:
                place.resting = last <= handed_in.get(name, 0) or last == rested.get(name)

    # --- who can be reached ------------------------------------------------------------------------------

    def reach(self, name: str) -> list[str]:
        """Whom `name` can write to: its lead, its team mates, its own subordinates."""
        place = self.places[name]
        lead = place.spec.lead
        mates = [mate for mate in self.places[lead].open if mate != name] if lead else []
        reach = [*([lead] if lead else []), *mates, *place.open]
        return [other for other in reach if not self.closed(other)]

    def open_members(self, lead: str) -> list[str]:
        return list(self.places[lead].open)

    def accepted_of(self, lead: str) -> int:
        """How many of all that it has ever recruited had their report accepted."""
        reports = (self.places[name].report for name in self.places[lead].open)
        return self.places[lead].accepted_before + sum(report is not None and report.accepted for report in reports)

    def closed(self, name: str) -> bool:
        """Whether nobody is at work under this name: so it is with those that have no place."""
        return name not in self.open

    # --- letters -----------------------------------------------------------------------------------------

    def deliver(self, letter: Letter) -> None:
        """File a letter and wake its reader. The same id a second time changes nothing.

        Members who work alike report at almost the same moment. Their lead is given the moment, so that it
        reads them together: one model call where there would be two. Who reports long after the others is not waited
        for.
        """
        if not self._file(letter):
            return
        if letter.kind == "report" and self.gather_seconds and self._at_work(letter.to):
            self._gather(self.places[letter.to])
        else:
            self._wake_if_due(letter.to)

    def _gather(self, lead: Place) -> None:
        """Wake a lead once no other report has come for a moment, or the first one has waited long enough."""
        now = asyncio.get_running_loop().time()
        if lead.gathering is None:
            lead.gather_until = now + self.gather_seconds
        else:
            lead.gathering.cancel()
        until = min(now + self.quiet * self.gather_seconds, lead.gather_until)
        lead.gathering = asyncio.get_running_loop().call_at(until, self._wake_if_due, lead.spec.name)

    def has_mail(self, name: str) -> bool:
        """Whether there is an unread letter that is worth a turn."""
        return self._due(self.places[name])

    def read(self, name: str, ids: Iterable[str]) -> None:
        """Note that `name` has read these letters."""
        if place := self.open.get(name):
            for id_ in ids:
                place.fresh.pop(id_, None)

    def told_lead(self, name: str, id_: str) -> Letter | None:
        """What `name` has last handed in to its lead, if it has this id."""
        letter = self.places[name].handed_in
        return letter if letter is not None and letter.id == id_ else None

    # --- waiting -----------------------------------------------------------------------------------------

    async def wait(self, name: str) -> Wake:
        """Wait until there is something to do for `name`. Costs nothing while it lasts."""
        if self.closed(name):
            return "close"
        if self._parked:
            return "park"
        place = self.places[name]
        if self._due(place):
            self._set_to_work(place)
            return "work"
        if not place.spec.lead and not self.open_members(name):
            # Nobody is left who could write to it. So it is after a kill in the middle of ending its team.
            return "close"
        place.state = "waiting"
        self._on_change(name, "waiting", self.why(name))
        return await self._sleep(place)

    def work(self, name: str) -> None:
        """Note that `name` is at work (its loop went on without waiting, as after a restart)."""
        if not self.closed(name):
            self._set_to_work(self.places[name])

    async def ask(self, name: str) -> Wake:
        """Wait for a person's answer. Returns `work` when `answered` was called, else as `wait`."""
        if self.closed(name):
            return "close"
        if self._parked:
            return "park"
        place = self.places[name]
        place.state = "asking"
        self._ever_asked = True
        self._on_change(name, "asking", self.why(name))
        return await self._sleep(place)

    def answered(self, name: str) -> None:
        """A person has answered `name`'s question."""
        place = self.places.get(name)
        if place is not None and place.state == "asking":
            self._resolve(place, "work")

    def blockers(self, name: str) -> list[str]:
        """The dependencies that `name` still waits for."""
        place = self.places[name]
        return [] if place.started else [d for d in place.spec.depends_on if not self.released(d)]

    def may_rest(self, name: str) -> bool:
        """Whether a turn that asks for nothing means waiting for mail, and not the end of the work.

        It does while the agent's team works, while somebody owes it an answer, and after it has reported,
        unless its lead has written since: then the lead is owed another report.
        """
        place = self.places[name]
        owes_lead = bool(place.spec.lead) and name in self.places[place.spec.lead].awaits
        reported = place.report is not None and not owes_lead
        return bool(reported or self.open_members(name) or self._awaited(place))

    def why(self, name: str) -> str:
        """What `name` waits for, in words."""
        place = self.places[name]
        if place.afar is not None:
            return place.afar.why
        if blockers := self.blockers(name):
            return "waits for the report of " + ", ".join(map(self._describe, blockers))
        if place.state == "asking":
            return "waits for a person's answer"
        open_members = self.open_members(name)
        if busy := [member for member in open_members if not self._idle(self.places[member])]:
            more = f" and {len(busy) - MOST_NAMED} more" if len(busy) > MOST_NAMED else ""
            return "waits for its team: " + ", ".join(busy[:MOST_NAMED]) + more
        if open_members:
            others = self._awaited_above(place)
            return f"waits for an answer from {', '.join(others)}" if others else "waits for its team: all idle"
        if place.report is not None:
            return "has reported"
        if awaited := self._awaited(place):
            return "waits for an answer from " + ", ".join(awaited)
        return "has nothing to do"

    # --- ending ------------------------------------------------------------------------------------------

    def report(self, name: str, report: Report) -> None:
        """File `name`'s report. Dependents whose last input this was start at once."""
        place = self.places[name]
        place.report, place.resting = report, True
        if place.spec.lead:
            self._wake_dependents(place.spec.lead)

    def revise(self, name: str, old: Report, report: Report) -> None:
        """Put another judgement in the place of the old one, if that is still `name`'s last report.

        Wakes nobody but dependents.
        """
        if self.closed(name) or self.places[name].report != old:
            return
        place = self.places[name]
        place.report = report
        if place.spec.lead:
            self._wake_dependents(place.spec.lead)

    def hold(self, name: str) -> None:
        """Take back the start of an agent: what it waits for does not hold any more."""
        self.places[name].started = False

    def busy(self, lead: str) -> list[str]:
        """The members of `lead` whose work is not over, each with the reason."""
        unread = {letter.sender for letter in self.places[lead].unread if letter.kind != "aside"}
        found = []
        for name in self.open_members(lead):
            place = self.places[name]
            if not self._idle(place) or not place.report or self.open_members(name):
                found.append(f"{name} ({self._describe_work(name)})")
            elif name in unread:
                found.append(f"{name} (has written to you meanwhile)")
        return found

    def unaccepted(self, lead: str) -> list[str]:
        """The members of `lead` that have reported, but failed or left something missing."""
        found = []
        for name in self.open_members(lead):
            report = self.places[name].report
            if report and not report.accepted:
                why = "failed" if report.failed else "missing: " + ", ".join(report.lacks)
                found.append(f"{name} ({why})")
        return found

    def close(self, name: str) -> list[str]:
        """End `name` and everyone below it; the names that were open until now, top down."""
        if self.closed(name):
            return []
        place = self.places[name]
        if not place.afar.idle if place.afar else place.state == "working" and not place.resting:
            self._leaving.add(name)
        place.state = "closed"
        place.gather_no_more()
        del self.open[name]
        lead = self.places[place.spec.lead] if place.spec.lead else None
        if lead is not None:
            del lead.open[name]
            lead.awaits.pop(name, None)
            lead.accepted_before += place.report is not None and place.report.accepted
        self._resolve(place, "close")
        names = [name]
        for member in list(place.open):
            names += Mailroom.close(self, member)
        if lead is not None and not lead.closed:
            self._wake_dependents(place.spec.lead)
        if not self._has_loop(place):
            self._forget(place)
        return names

    def close_team(self, lead: str) -> list[str]:
        """End every member of `lead`'s team; the names that were open until now."""
        return [name for member in self.open_members(lead) for name in self.close(member)]

    def left(self, name: str) -> None:
        """Note that the loops of `name` and of everybody below it have come to their ends."""
        place = self.places.get(name)
        if place is not None and place.closed:
            self._forget(place)

    def over(self, lead: str, wave: int) -> bool:
        """Whether nobody of one of `lead`'s teams is open, or still in the middle of what it was dismissed from."""
        staying = (*self.places[lead].open, *(above for name in self._leaving for above in self._above(name)))
        specs = (self.places[name].spec for name in staying)
        return not any(spec.lead == lead and spec.wave == wave for spec in specs)

    def park(self) -> None:
        """Let every waiting agent go, so that the graph can stop. Nothing is lost: it waits again on resume."""
        self._parked = True
        for place in self.open.values():
            self._resolve(place, "park")

    @property
    def asking(self) -> list[str]:
        return [name for name, place in self.open.items() if place.state == "asking"]

    # --- inside ------------------------------------------------------------------------------------------

    def _has_loop(self, place: Place) -> bool:
        """Whether this process is told when the loops of the agent and those below it have come to their ends."""
        return True

    def _forget(self, place: Place) -> None:
        """Nobody looks for the agent, or anybody below it, any more."""
        if lead := self.places.get(place.spec.lead):
            del lead.members[place.spec.name]
        gone = [place]
        while gone:
            place = gone.pop()
            gone += map(self.places.__getitem__, place.members)
            self._leaving.discard(place.spec.name)
            del self.places[place.spec.name]
            self.on_gone(place.spec.name)

    async def _sleep(self, place: Place) -> Wake:
        place.future = asyncio.get_running_loop().create_future()
        self._settle(place)
        try:
            return await place.future
        finally:
            place.future = None

    def _file(self, letter: Letter, read_by_sender: Callable[[str], bool] | None = None) -> bool:
        place = self.open.get(letter.to)
        if place is None or letter.id in place.had:
            return False
        place.had.add(letter.id)
        place.fresh[letter.id] = letter
        sender = self.open.get(letter.sender)
        if sender is None or letter.kind == "aside":
            return True
        if letter.kind == "message":
            sender.awaits[letter.to] = letter.id
        elif letter.kind != "notice":
            sender.handed_in = letter
        asked = place.awaits.get(letter.sender)
        if asked is not None and (read_by_sender or sender.has_read)(asked):
            del place.awaits[letter.sender]
        return True

    def _above(self, name: str) -> Iterator[str]:
        """The agent, its lead, and so on up to the boss."""
        while name:
            yield name
            name = self.places[name].spec.lead

    def _at_work(self, lead: str) -> bool:
        """Whether any member of `lead` may report without further mail."""
        return any(not self._idle(self.places[name]) for name in self.open_members(lead))

    def _due(self, place: Place) -> bool:
        """Whether there is something to do. Until its dependencies have reported, an agent does not start."""
        if not place.started:
            return not self.blockers(place.spec.name)
        return any(letter.kind != "aside" for letter in place.fresh.values())

    def _wake_if_due(self, name: str) -> None:
        place = self.places[name]
        if place.state == "waiting" and self._due(place):
            self._resolve(place, "work")

    def _wake_dependents(self, lead: str) -> None:
        for member in list(self.places[lead].open):
            self._wake_if_due(member)

    def _resolve(self, place: Place, wake: Wake) -> None:
        if place.future is not None and not place.future.done():
            place.future.set_result(wake)
            if wake == "work":
                # From here on it counts as working: nobody may find its team quiet before it runs.
                self._set_to_work(place)

    def _set_to_work(self, place: Place) -> None:
        place.go_to_work()
        if place.spec.lead:
            self.places[place.spec.lead].stalls = 0

    def released(self, name: str) -> bool:
        """Whether those who depend on `name` need not wait for it any more."""
        place = self.open.get(name)
        return place is None or (place.report is not None and place.report.accepted)

    def _idle(self, place: Place) -> bool:
        """Whether neither it nor anybody below it moves without mail from elsewhere."""
        if place.afar is not None:
            return place.afar.idle
        at_rest = place.state == "waiting" or (place.resting and not place.closed)
        members = self.open_members(place.spec.name)
        return at_rest and not self._due(place) and all(self._idle(self.places[name]) for name in members)

    def _awaited(self, place: Place) -> list[str]:
        return sorted(name for name in place.awaits if not self.closed(name))

    def _awaited_above(self, place: Place) -> list[str]:
        """Its lead and team mates that owe it an answer."""
        return [name for name in self._awaited(place) if name not in place.open]

    def _describe(self, name: str) -> str:
        report = self.places[name].report
        if report is None or report.accepted:
            return name
        return f"{name} (which failed)" if report.failed else f"{name} (whose report was incomplete)"

    def _describe_work(self, name: str) -> str:
        place = self.places[name]
        return self.why(name) if place.state != "working" or place.afar is not None else "at work"

    def _settle(self, place: Place) -> None:
        """`place` has just gone to wait: is its team, a team above, or the whole run at a stand?"""
        lead = place.spec.name if self.open_members(place.spec.name) else place.spec.lead
        while lead and self._at_a_stand(lead):
            if not self._awaited_above(self.places[lead]):
                self._tell_of_stand(lead)
                break
            # It waits for an answer from above, with good reason: whether that can come is seen from there.
            lead = self.places[lead].spec.lead
        self._park_if_all_wait()

    def _park_if_all_wait(self) -> None:
        """Let the graph stop where nobody moves before a person has answered."""
        if self._ever_asked and self._anybody_asks() and not any(map(self._moves, self.open.values())):
            self.park()

    def _anybody_asks(self) -> bool:
        return any(place.afar.asking if place.afar else place.state == "asking" for place in self.open.values())

    def _moves(self, place: Place) -> bool:
        """Whether it works, or is about to be woken."""
        if place.afar is not None:
            return place.afar.moves
        return place.state == "working" or (place.state == "waiting" and self._due(place))

    def _at_a_stand(self, lead: str) -> bool:
        """Whether nobody in the team can move without its lead, and the lead sleeps."""
        leader = self.places[lead]
        return leader.state == "waiting" and bool(self.open_members(lead)) and self._idle(leader)

    def _tell_of_stand(self, lead: str) -> None:
        """Wake the lead of a team at a stand and say why it stands; end the team of one that does nothing about it."""
        leader = self.places[lead]
        leader.stalls += 1
        if leader.stalls > STALLS_BEFORE_END:
            self._resolve(leader, "close")
            # It has its team to end, and is not quiet before it has.
            leader.state = "working"
            return
        lines = [f"- {name} {self.why(name)}" for name in self.open_members(lead)]
        self._notify(lead, "Nothing in your team moves by itself any more:\n" + "\n".join(lines))


def _was_read(read_at: Mapping[str, int], step: int, id_: str) -> bool:
    """Whether a letter was read at a step or before."""
    return read_at.get(id_, step + 1) <= step
