"""An organisation in memory: simulated agents that use the real mailroom, and a ledger of plain dictionaries.

`Simulation` plays an organisation as `agent.py` and `team.py` run it: the same nodes, rows and waits, with a
pause wherever the real ones await something. Which agent goes on after a pause, and what each of them does, is
read from a tape of random bytes. Past the end of the tape everybody does the most constructive thing there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from megagraph.mailroom import Mailroom, Wake
from megagraph.specs import AgentSpec, Letter, LetterKind, Report, Seat

MOST_AGENTS = 9
DEPTH = 3
MOST_TURNS = 4000
"""Of the event loop, in one life. A run of the longest tape takes a few hundred."""

ACCEPTED, INCOMPLETE, FAILED = Report("done"), Report("half", missing=("x",)), Report("I failed", failed=True)
Action = tuple[Any, ...]
Node = Literal["think", "act", "team", "wait", "end"]


class Tape:
    """Choices, one byte each; zeros past its end."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def below(self, n: int) -> int:
        return next(self._bytes, 0) % n

    def some(self, of: list[str]) -> list[str]:
        """One or two of them, where there are any."""
        return list(dict.fromkeys(of[self.below(len(of))] for _ in range(1 + self.below(2)))) if of else []


@dataclass(frozen=True)
class State:
    """The checkpoint of one loop."""

    name: str
    seat: Seat
    node: Node
    step: int = 0
    seen: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    wave: int = 0


@dataclass
class Rows:
    """What survives a kill."""

    specs: dict[str, AgentSpec] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    """Who has ever handed in all it owed."""
    closed: set[str] = field(default_factory=set)
    letters: dict[str, Letter] = field(default_factory=dict)
    calls: dict[tuple[str, int], tuple[tuple[str, ...], tuple[Action, ...]]] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The effects of finished tool calls."""
    questions: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    rested: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[str, State] = field(default_factory=dict)

    def report(self, name: str, report: Report) -> None:
        self.reports[name] = report
        if report.accepted:
            self.accepted.add(name)

    def read_at(self) -> dict[str, int]:
        return {id_: step for (_, step), (ids, _) in self.calls.items() for id_ in ids}

    def last_calls(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for name, step in self.calls:
            last[name] = max(step, last.get(name, 0))
        return last


class Parked(Exception):
    """A loop stays where it is."""


class Broken(Exception):
    """An agent fails."""


@dataclass
class Simulation:
    """One process's work on a run. Another one goes on from the same rows and tape."""

    tape: Tape
    rows: Rows
    stubborn: set[str] = field(default_factory=set)
    notices: int = 0
    turns: int = 0
    stopping: bool = False
    wrong: Exception | None = None
    """What was found to be untrue inside a loop."""
    room: Mailroom = field(init=False)
    ready: list[asyncio.Future[None]] = field(default_factory=list)
    active: set[str] = field(default_factory=set)
    """Who is between starting to think and waiting or reporting."""
    at_rest: set[str] = field(default_factory=set)
    """Whose lead could have ended the work as this process began."""
    acted: set[str] = field(default_factory=set)
    """Who has done something in this process that no row told of."""

    def __post_init__(self) -> None:
        self.room = Mailroom(self.notice)
        self.room.gather_seconds = 0
        for spec in self.rows.specs.values():
            note = self.room.note_closed if spec.name in self.rows.closed else self.room.add
            note(spec, self.rows.reports.get(spec.name))
        rows = self.rows
        self.room.restore(rows.letters.values(), rows.read_at(), rows.last_calls(), rows.rested)
        for lead in self.room.open:
            busy = {line.split(" ")[0] for line in self.room.busy(lead) if "has written to you" not in line}
            self.at_rest |= set(self.room.open_members(lead)) - busy

    # --- the event loop ----------------------------------------------------------------------------------

    async def pause(self) -> None:
        """Something is awaited; the tape says who goes on first."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.append(future)
        await future

    async def live(self, turns: int = -1, *, kill: bool = False) -> bool:
        """Work for so many turns and then pause or be killed, or to where the run stops. True at its end."""
        root = asyncio.ensure_future(self.run("", State("boss", "boss", "think")))
        try:
            return await self.drive(root, turns, kill)
        finally:
            root.cancel()
            await asyncio.gather(root, return_exceptions=True)

    async def drive(self, root: asyncio.Future[State], turns: int, kill: bool) -> bool:
        while not root.done():
            if self.wrong:
                raise self.wrong
            if not self.ready:
                await self.quiet(root)
            elif self.turns == turns:
                self.turns += 1
                if kill:
                    root.cancel()
                else:
                    self.stopping = True
                    self.room.park()
            else:
                self.turns += 1
                assert self.turns < MOST_TURNS, "the run does not end"
                if self.rows.questions != self.rows.answers and self.tape.below(8) == 7:
                    self.answer()
                if self.turns % 8 == 0:
                    self.check()
                for _ in range(1 + self.tape.below(3)):
                    future = self.ready.pop(self.tape.below(len(self.ready)))
                    if not future.done():
                        future.set_result(None)
                    if not self.ready:
                        break
            await asyncio.sleep(0)
        try:
            return (await root).node == "end"
        except (Parked, asyncio.CancelledError):
            return False

    async def quiet(self, root: asyncio.Future[State]) -> None:
        """Nobody has anything to go on with: that must pass at once, or the run hangs."""
        for _ in range(100):
            await asyncio.sleep(0)
            if self.ready or root.done() or self.wrong:
                return
        whys = {name: self.room.why(name) for name, place in self.room.places.items() if not place.closed}
        raise AssertionError(f"a hang: {whys}")

    def answer(self) -> None:
        """A person answers one of the open questions."""
        id_ = min(self.rows.questions - self.rows.answers)
        self.rows.answers.add(id_)
        self.room.answered(id_.split("/")[0])

    def check(self) -> None:
        for name, place in self.room.places.items():
            asleep = place.state == "waiting" and place.future is not None and not place.future.done()
            mail = any(letter.kind != "aside" for letter in place.unread)
            assert not (asleep and place.started and mail), f"{name} sleeps on its mail"

    # --- an agent, as agent.py has it --------------------------------------------------------------------

    async def run(self, path: str, start: State) -> State:
        state = self.rows.checkpoints.setdefault(path, start)
        nodes = {"think": self.think, "act": self.act, "wait": self.wait}
        while state.node != "end":
            try:
                state = await (self.team(path, state) if state.node == "team" else nodes[state.node](state))
            except Broken:
                state = await self.fail(replace(state, step=state.step + (state.node == "think")))
            except Parked:
                raise
            except Exception as error:
                self.wrong = error
                raise
            self.rows.checkpoints[path] = state
            await self.pause()
            if self.stopping:
                raise Parked
        assert state.seat != "member" or self.room.closed(state.name), f"{state.name} has ended by itself"
        return state

    async def think(self, state: State) -> State:
        name, step, room = state.name, state.step + 1, self.room
        if room.closed(name):
            return replace(state, node="end")
        failure = self.rows.letters.get(f"{name}/{step}/failure")
        if (name, step) not in self.rows.calls:
            if failure:
                return self.failed(replace(state, step=step), failure.settles)
            room.work(name)
            self.active.add(name)
            self.may_think(name, step)
            letters = room.places[name].unread
            self.act_on(name, letters)
            await self.pause()
            if name != "boss" and self.tape.below(16) == 15:
                raise Broken
            self.rows.calls[name, step] = tuple(x.id for x in letters), self.decide(name, letters)
            await self.pause()
        ids, turn = self.rows.calls[name, step]
        room.read(name, ids)
        assert not set(ids) & set(state.seen), "a letter was read twice"
        state = replace(state, step=step, seen=state.seen + ids)
        return replace(state, node="act") if turn else await self.rest(state)

    def act_on(self, name: str, letters: Sequence[Letter] = ()) -> None:
        """`name` does something that no row told of. Who counted as at rest does so for a letter only."""
        mail = any(letter.kind != "aside" for letter in letters)
        assert mail or name in self.acted or name not in self.at_rest, f"{name} was at work, and counted as at rest"
        self.acted.add(name)

    def may_think(self, name: str, step: int) -> None:
        assert name not in self.rows.closed, f"{name} works although it was closed"
        for need in self.rows.specs[name].depends_on if step == 1 else ():
            assert need in self.rows.closed | self.rows.accepted, f"{name} starts before {need}"

    async def rest(self, state: State) -> State:
        place = self.room.places[state.name]
        if f"{state.name}/{state.step}/end" in self.rows.letters:
            return after_report(state)
        if self.room.has_mail(state.name):
            return replace(state, node="think")
        if state.seat != "boss" and (place.resting or self.room.may_rest(state.name)):
            if place.report and not place.resting:
                self.act_on(state.name)
                self.rows.rested[state.name] = state.step
                await self.pause()
            return replace(state, node="wait")
        report = (ACCEPTED, ACCEPTED, INCOMPLETE)[self.tape.below(3)]
        await self.hand_in(state.name, report, f"{state.name}/{state.step}/end", "report")
        return after_report(state)

    async def fail(self, state: State) -> State:
        name = state.name
        settles = tuple(letter.id for letter in self.room.places[name].unread)
        self.close(self.room.close_team(name))
        await self.hand_in(name, FAILED, f"{name}/{state.step}/failure", "failure", settles)
        return self.failed(state, settles)

    def failed(self, state: State, settles: tuple[str, ...]) -> State:
        self.room.read(state.name, settles)
        return after_report(replace(state, seen=state.seen + settles))

    async def hand_in(
        self, name: str, report: Report, id_: str, kind: LetterKind, settles: tuple[str, ...] = ()
    ) -> None:
        self.act_on(name)
        self.rows.report(name, report)
        after = self.letter(id_, name, self.rows.specs[name].lead, kind, settles)
        await self.pause()
        self.active.discard(name)
        self.room.report(name, report)
        after()

    async def act(self, state: State) -> State:
        if self.room.closed(state.name):
            return replace(state, node="end")
        if failure := self.rows.letters.get(f"{state.name}/{state.step}/failure"):
            return self.failed(state, failure.settles)
        actions = self.rows.calls[state.name, state.step][1]
        ids = [f"{state.name}/{state.step}/{i}" for i in range(len(actions))]
        if not any("report" in self.rows.done.get(id_, {}) for id_ in ids):
            self.room.work(state.name)
            self.active.add(state.name)
        effects: dict[str, Any] = {}
        for id_, action in zip(ids, actions, strict=True):
            if id_ not in self.rows.done:
                await self.perform(state, id_, action)
            effects |= self.rows.done[id_]
        if "report" in effects:
            return after_report(state)
        if "plan" in effects:
            return replace(state, plan=effects["plan"], wave=state.wave + 1, node="team")
        return replace(state, node="think")

    async def perform(self, state: State, id_: str, action: Action) -> None:
        """One tool call: decide, write the rows, and only then act on them."""
        self.act_on(state.name)
        name, (kind, *args) = state.name, action
        afters: list[Callable[[], None]] = []
        effects: dict[str, Any] = {}
        if kind == "talk":
            if set(args[0]) <= set(self.room.reach(name)):
                afters = [self.letter(f"{id_}/{i}", name, to, "message") for i, to in enumerate(args[0])]
        elif kind == "aside":
            afters = [self.letter(f"{id_}/{to}", name, to, "aside") for to in args[0] if to != name]
        elif kind == "recruit":
            effects["plan"] = self.recruit(state, args[0])
        elif kind == "dismiss":
            names = [x for member in args[0] for x in self.room.close(member)]
            self.close(names)
        elif kind == "ask":
            self.rows.questions.add(id_)
            while id_ not in self.rows.answers:
                self.active.discard(name)
                wake = await self.room.ask(name)
                if wake == "park":
                    raise Parked
                if wake == "close":
                    break
                self.active.add(name)
        elif kind == "fail":
            raise Broken
        else:
            await self.pause()
            if not self.room.busy(name):
                unread = {x.sender for x in self.room.places[name].unread if x.kind != "aside"}
                late = unread & set(self.room.open_members(name))
                assert not late, f"{name} ends without having read {late}"
                effects["report"] = True
                self.close(self.room.close_team(name))
                self.rows.report(name, args[0])
                afters = [lambda: self.room.report(name, args[0])]
                afters.append(self.letter(f"{id_}/0", name, self.rows.specs[name].lead, "report"))
        self.rows.done[id_] = effects
        await self.pause()
        if "report" in effects:
            self.active.discard(name)
        for after in afters:
            after()

    async def wait(self, state: State) -> State:
        self.active.discard(state.name)
        self.may_have_rested(state.name)
        wake: Wake = await self.room.wait(state.name)
        if wake == "park":
            raise Parked
        self.active.add(state.name)
        if wake == "work":
            return replace(state, node="think")
        if state.seat == "desk" and not self.room.closed(state.name):
            self.close(self.room.close_team(state.name))
            await self.hand_in(state.name, INCOMPLETE, f"{state.name}/{state.step}/stand", "report")
        return replace(state, node="end")

    def may_have_rested(self, name: str) -> None:
        """Who had nothing to do in this process has counted as at rest all the time, once it had reported."""
        if self.room.closed(name):
            return
        place = self.room.places[name]
        idle = not (name in self.acted or self.room.has_mail(name) or self.room.open_members(name))
        if idle and place.report and place.spec.lead:
            assert name in self.at_rest and place.resting, f"{name} was at rest, and counted as at work"

    async def team(self, path: str, state: State) -> State:
        """The desk and the members side by side; one that parks or fails leaves the others alone."""
        path = f"{path}/{state.wave}"
        loops = [self.run(path, replace(state, seat="desk", node=("wait", "think")[self.tape.below(2)]))]
        for name in state.plan:
            start: Node = "wait" if self.rows.specs[name].depends_on else "think"
            loops.append(self.member(f"{path}/{name}", State(name, "member", start)))
        ends = await asyncio.gather(*loops, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        desk = ends[0]
        assert isinstance(desk, State)
        return after_report(replace(state, step=desk.step, seen=desk.seen, wave=desk.wave))

    async def member(self, path: str, start: State) -> State:
        end = await self.run(path, start)
        self.room.left(start.name)
        assert start.name not in self.room.places, f"{start.name} is remembered although it is gone"
        return end

    # --- what they do ------------------------------------------------------------------------------------

    def decide(self, name: str, letters: list[Letter]) -> tuple[Action, ...]:
        """The model's answer: actions, or none for a plain text."""
        room, below = self.room, self.tape.below
        mine, busy = room.open_members(name), [line.split(" ")[0] for line in room.busy(name)]
        few = len(self.rows.specs) < MOST_AGENTS and room.places[name].spec.depth < DEPTH
        plan = ("recruit", tuple(below(16) for _ in range(1 + below(3)))) if few else ("talk", ())
        talk = ("talk", self.tape.some(room.reach(name)))
        choices: list[tuple[Action, ...]]
        if mine and name in self.stubborn:
            return ()
        if mine and any(letter.kind == "notice" for letter in letters):
            choices = [
                (("dismiss", busy), ("finish", ACCEPTED)),
                (),
                (("talk", mine),),
                (("dismiss", mine[:1]),),
                (plan,),
            ]
        elif mine:
            done: tuple[Action, ...] = () if busy else (("finish", ACCEPTED),)
            choices = [
                done,
                done,
                (),
                (talk,),
                (plan,),
                (("dismiss", self.tape.some(mine)),),
                (talk, plan),
                (("ask",),),
            ]
        else:
            done = (("finish", ACCEPTED),)
            choices = [done, done, (plan,), (talk, *done), (talk,), (), (("finish", INCOMPLETE),), (("ask",), plan)]
            choices += [(("aside", self.tape.some(list(room.places))), talk)]
            choices += [(("fail",),)] if name != "boss" else []
            if name == "boss" and not room.places[name].leads:
                choices = [(plan,)]
        return choices[below(len(choices))]

    def recruit(self, state: State, wishes: Iterable[int]) -> tuple[str, ...]:
        """Add a member for each wish, whose bits say which of those before it it depends on."""
        lead = self.rows.specs[state.name]
        before = self.room.open_members(lead.name)
        first = sum(spec.lead == lead.name for spec in self.rows.specs.values())
        specs = []
        for i, bits in enumerate(wishes, first):
            name = f"{lead.name}_{i}" if lead.lead else f"m{i}"
            needs = tuple(n for k, n in enumerate(reversed(before[-3:])) if bits >> k & 1)
            specs.append(AgentSpec(name, "", "", depends_on=needs, lead=lead.name, depth=lead.depth + 1))
            before.append(name)
            if bits >= 14:
                self.stubborn.add(name)
        for spec in specs:
            self.room.add(spec)
            self.rows.specs[spec.name] = spec
        return tuple(spec.name for spec in specs)

    def letter(
        self, id_: str, sender: str, to: str, kind: LetterKind, settles: tuple[str, ...] = ()
    ) -> Callable[[], None]:
        """Write a letter's row; call the result to deliver it."""
        if not to:
            return lambda: None
        letter = self.rows.letters.setdefault(id_, Letter(id_, sender, to, kind, "", settles))
        return lambda: self.room.deliver(letter)

    def close(self, names: list[str]) -> None:
        self.rows.closed.update(names)

    def notice(self, lead: str, text: str) -> None:
        """The mailroom tells a lead that nothing moves. It had better be true, and name everyone."""
        self.notices += 1
        members = self.room.open_members(lead)
        assert [line.split(" ")[1] for line in text.splitlines()[1:]] == members
        assert not self.active & self.below(lead), f"{self.active & self.below(lead)} are at work: {text}"
        self.letter(f"notice/{lead}/{len(self.rows.letters)}", "notice", lead, "notice")()

    def below(self, lead: str) -> set[str]:
        names = self.room.open_members(lead)
        return set(names).union(*(self.below(name) for name in names))


def after_report(state: State) -> State:
    return replace(state, plan=(), node="wait" if state.seat == "member" else "end")


async def play(data: bytes) -> int:
    """A whole run through any number of processes, and what is true at the end of every run; its processes."""
    tape, rows = Tape(data), Rows({"boss": AgentSpec("boss", "", "")})
    stubborn = {"boss"} if tape.below(8) == 7 else set()
    stops = [1 + tape.below(256) for _ in range(tape.below(4))]
    for life in range(40):
        simulation, answered = Simulation(tape, rows, stubborn), set(rows.answers)
        stop = stops[life] if life < len(stops) else -1
        if await simulation.live(stop, kill=stop % 2 == 0):
            break
        if life >= len(stops):
            assert rows.questions - answered, "the run stops though nobody asks"
            rows.answers |= rows.questions
    else:
        raise AssertionError("the run does not end")
    assert simulation.below("boss") == set(), "somebody is still there"
    in_order(rows)
    return life + 1


def in_order(rows: Rows) -> None:
    """What each agent has read of each other one is in the order in which it was written."""
    read: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for (name, _), (ids, _) in sorted(rows.calls.items()):
        for id_ in ids:
            sender, step, index = rows.letters[id_].sender, *id_.split("/")[1:3]
            if step.isdigit() and index.isdigit():
                read.setdefault((name, sender), []).append((int(step), int(index)))
    assert all(ids == sorted(set(ids)) for ids in read.values())
