"""The first process's side: it starts the workers, gives them branches, and answers what they ask."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt

from megagraph.errors import ModelError
from megagraph.events import Event
from megagraph.gate import Gate, Line, Ticket, gate_to
from megagraph.home import Home
from megagraph.limits import Claim, Use
from megagraph.mailroom import Afar, Mailroom
from megagraph.organisation import Organisation
from megagraph.specs import BOSS, AgentSpec
from megagraph.team_tools import Recruitment, admit
from megagraph.workers.far import Granted
from megagraph.workers.forkserver import Forked, ForkServer
from megagraph.workers.link import Link, LinkLost
from megagraph.workers.mail import FrontMailroom
from megagraph.workers.office import Posting
from megagraph.workers.tokens import Retelling

_LAST_SECONDS = 20.0
"""How long a worker is waited for that has been asked to end."""


@dataclass(eq=False)
class _Worker:
    """One worker, and what it holds of what there is only once."""

    number: int
    process: Forked | None = None
    link: Link | None = None
    listening: asyncio.Task[None] | None = None
    heads: set[str] = field(default_factory=set)
    said: int = 0
    """Messages to it that may set somebody to work."""
    taken_in: int = 0
    """How many of them it has answered to."""
    given: int = 0
    """The last number of a claim or a ticket."""
    claims: dict[int, Claim] = field(default_factory=dict)
    tickets: dict[int, Ticket] = field(default_factory=dict)
    gates: list[tuple[Gate, Line]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """What it holds of the organisation."""

    def number_for(self) -> int:
        self.given += 1
        return self.given

    def ticket(self, ticket: Ticket) -> int:
        """The number under which the worker knows it."""
        number = self.number_for()
        self.tickets[number] = ticket
        return number

    def tell(self, verb: str, *args: Any) -> None:
        if self.link is not None and not self.link.lost:
            self.link.tell(verb, *args)


class FrontOrganisation(Organisation):
    """The organisation in the first process: the boss, and all that there is only once."""

    workers: Workers
    home: Home
    _retelling: Retelling | None = None

    def staff(self, home: Home, posting: Posting, count: int, forks: ForkServer) -> None:
        """Let so many processes work for the boss's team, from `restore` to `aclose`."""
        self.home = home
        self.workers = self.crew = Workers(self, posting, count, forks)

    def _make_mailroom(self) -> Mailroom:
        return FrontMailroom(self._notice, self._changed, self._post)

    def _post(self, verb: str, *args: Any) -> None:
        self.workers.post(verb, *args)

    async def restore(self) -> None:
        await super().restore()
        await self.workers.start()
        wish = self.workers.wish_for_tokens
        self._retelling = Retelling(self.home, self.ledger.run, self.stream, wish, self.last_event)

    @property
    def lost(self) -> str:
        return self.workers.lost

    async def heard_all(self) -> None:
        await self.workers.ask("caught_up")

    async def settled(self) -> None:
        await self.workers.ask("settled")
        # Nobody is to be taken for lost who has nothing to do any more.
        await self.workers.aclose()
        await super().settled()

    def stop(self, reason: str) -> None:
        super().stop(reason)
        self.workers.tell("stop", reason)

    def take_answers(self, answers: Mapping[str, str]) -> None:
        super().take_answers(answers)
        self.workers.mail("answers", dict(answers))

    async def change_files(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = await super().change_files(method, *args, **kwargs)
        self.workers.tell("version", self.version)
        return result

    async def aclose(self) -> None:
        await self.workers.aclose()
        await super().aclose()
        if self._retelling is not None:
            await self._retelling.aclose()


class Workers:
    """The workers of a run, from `start` to `aclose`. A worker that dies stops the organisation, as a kill would."""

    def __init__(self, org: FrontOrganisation, posting: Posting, count: int, forks: ForkServer) -> None:
        self.lost = ""
        """What became of a worker that ended before it was asked to."""
        self._org = org
        self._posting = posting
        self._forks = forks
        self._workers = [_Worker(number) for number in range(count)]
        self._at: dict[str, _Worker] = {}
        self._origin: _Worker | None = None
        """Whose message is being taken in: it need not be told of it."""
        self._ending = False
        self._wishes: object = None
        self._leaving: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        await asyncio.gather(*map(self._start, self._workers))
        for name in self._org.mailroom.open_members(BOSS):
            self._give_away(name)

    async def ask(self, verb: str) -> None:
        """Return when all of them have answered, who are there."""
        links = [worker.link for worker in self._workers if worker.link is not None]
        for answer in await asyncio.gather(*(link.ask(verb) for link in links), return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, LinkLost):
                raise answer

    async def aclose(self) -> None:
        """End the workers, whatever they do. May be called twice."""
        # Of one that is gone, it is told what became of it.
        lost = (worker.listening for worker in self._workers if worker.link is not None and worker.link.lost)
        if listening := [task for task in lost if task is not None]:
            await asyncio.wait(listening, timeout=_LAST_SECONDS)
        self._ending = True
        self.tell("end")
        await asyncio.gather(*map(self._end, self._workers))

    # --- what the organisation wants of them ---------------------------------------------------------------

    def added(self, spec: AgentSpec) -> None:
        self.tell("added", spec)
        if spec.lead == BOSS:
            self._give_away(spec.name)

    async def work(self, head: str, state: dict[str, Any], place: dict[str, Any]) -> None:
        worker = self._at.get(head) or self._give_away(head)
        assert worker.link is not None
        try:
            parked: list[tuple[Any, str]] | None = await worker.link.ask("work", head, state, place)
        except LinkLost as error:
            raise self._org.park() from error
        if parked is not None:
            raise GraphInterrupt(tuple(Interrupt(value=value, id=id_) for value, id_ in parked))
        worker.heads.discard(head)
        del self._at[head]

    def tell(self, verb: str, *args: Any) -> None:
        """Tell all of them what wakes nobody."""
        for worker in self._workers:
            if worker is not self._origin:
                worker.tell(verb, *args)

    def mail(self, verb: str, *args: Any, to: Iterable[_Worker] | None = None) -> None:
        """Tell all of them, or some, what may set agents to work: until they have answered to it, these count so."""
        for worker in self._workers if to is None else to:
            if worker is not self._origin:
                worker.said += 1
                self._mailroom.expect(worker.heads)
                worker.tell("mail", worker.said, verb, args)

    def post(self, verb: str, *args: Any) -> None:
        """Pass on what happened in the mailroom here to those whom it concerns."""
        match verb:
            case "letter":
                self.mail(verb, *args, to=self._of([args[0].to]))
            case "read":
                # Who is owed an answer no more is not woken by that.
                for worker in self._of(id_.partition("/")[0] for id_ in args[1]):
                    if worker is not self._origin:
                        worker.tell(verb, *args)
            case "report" | "revise" if args[0] not in self._at:
                # Of those deep in a branch it is good to know, and wakes nobody elsewhere.
                self.tell(verb, *args)
            case "closed" if self._at.keys().isdisjoint(args[0]):
                self.tell(verb, *args)
            case _:
                self.mail(verb, *args)

    def wish_for_tokens(self, wishes: object) -> None:
        """Let the workers tell these tokens, for those who listen here."""
        if wishes != self._wishes:
            self._wishes = wishes
            self.tell("tokens", wishes)

    # --- inside --------------------------------------------------------------------------------------------

    @property
    def _mailroom(self) -> FrontMailroom:
        assert isinstance(self._org.mailroom, FrontMailroom)
        return self._org.mailroom

    def _of(self, names: Iterable[str]) -> list[_Worker]:
        """The workers of these agents."""
        found = (self._at.get(self._mailroom.head(name)) for name in names)
        return list(dict.fromkeys(worker for worker in found if worker is not None))

    def _give_away(self, head: str) -> _Worker:
        worker = min(self._workers, key=lambda worker: len(worker.heads))
        self._at[head] = worker
        if not self._mailroom.closed(head):
            worker.heads.add(head)
            self._mailroom.give_away(head)
            self.mail("take", head, self._mailroom.places[head].unread, to=[worker])
        return worker

    async def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            worker.process = self._forks.fork(theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        worker.link = Link(reader, writer, lambda verb, args: self._hear(worker, verb, args))
        worker.tell("start", self._posting, worker.number)
        worker.listening = asyncio.create_task(self._listen(worker))

    async def _listen(self, worker: _Worker) -> None:
        assert worker.link is not None and worker.process is not None
        try:
            await worker.link.listen()
        finally:
            self._take_back(worker)
            if not self._ending:
                lost, self.lost = self.lost, self.lost or "a worker process of the run is gone"
                how = await worker.process.wait()
                self.lost = lost or f"a worker process of the run ended unexpectedly ({how})"
                self._org.stop(self.lost)

    def _take_back(self, worker: _Worker) -> None:
        """Free what a worker that is gone had been given."""
        for claim in worker.claims.values():
            self._org.meter.release(claim)
        for ticket in worker.tickets.values():
            ticket.line.gate.gone(ticket)
        worker.claims.clear()
        worker.tickets.clear()
        for what in worker.held:
            self._leaving.append(asyncio.ensure_future(self._let(what)))
        worker.held.clear()

    async def _end(self, worker: _Worker) -> None:
        if worker.process is None or worker.listening is None:
            return
        # Its line ends with it, whoever can tell how it ended.
        over = asyncio.gather(worker.process.wait(), worker.listening, return_exceptions=True)
        try:
            await asyncio.wait_for(over, _LAST_SECONDS)
        except TimeoutError:
            worker.process.kill()
            await worker.process.wait()
        if worker.link is not None:
            worker.link.close()

    # --- what they say and ask -----------------------------------------------------------------------------

    def _hear(self, worker: _Worker, verb: str, args: tuple[Any, ...]) -> Any:
        self._origin = worker
        try:
            handler: Callable[..., Any] | None = getattr(self, f"_hear_{verb}", None)
            if handler is not None:
                return handler(worker, *args)
            assert self._mailroom.heard(verb, *args), verb
            return None
        finally:
            self._origin = None

    def _hear_stands(self, worker: _Worker, taken_in: int, states: Mapping[str, Afar]) -> None:
        self._origin = None
        worker.taken_in = taken_in or worker.taken_in
        # Otherwise it says how they stood before it had what was said to it since; it will say more.
        if worker.taken_in == worker.said:
            # Of those that it names not, after what was said to it, it says that they are at work, as is believed here.
            open_ = (head for head in worker.heads if not self._mailroom.closed(head))
            at_work = {head: Afar() for head in open_} if taken_in else {}
            self._mailroom.stand(at_work | dict(states))

    def _hear_stop(self, worker: _Worker, reason: str, failed: bool) -> None:
        self._origin = None
        self._org.failed = self._org.failed or (failed and not self._org.stopped)
        self._org.stop(reason)

    def _hear_token(self, worker: _Worker, agent: str, time: float, data: dict[str, Any]) -> None:
        self._org.stream.send(Event(self._org.last_event, time, "token", agent, data))

    def _hear_admit(self, worker: _Worker, lead: str, wave: int, wishes: list[dict[str, Any]]) -> Any:
        self._origin = None
        return admit(self._org, lead, wave, [Recruitment.model_validate(wish) for wish in wishes])

    async def _hear_files(self, worker: _Worker, method: str, args: Any, kwargs: Any) -> Any:
        return await self._org.change_files(method, *args, **kwargs)

    async def _hear_hold(self, worker: _Worker, what: str) -> None:
        hold: AbstractAsyncContextManager[None] = getattr(self._org, what)
        await hold.__aenter__()
        worker.held.append(what)

    def _hear_let(self, worker: _Worker, what: str) -> Awaitable[None]:
        worker.held.remove(what)
        return self._let(what)

    async def _let(self, what: str) -> None:
        hold: AbstractAsyncContextManager[None] = getattr(self._org, what)
        await hold.__aexit__(None, None, None)

    # limits

    def _hear_reserve(
        self,
        worker: _Worker,
        agent: str,
        step: int,
        expected: Use,
        branches: list[str],
        learn_from: int | None,
        gate: int | None,
    ) -> Granted | Awaitable[Granted | None]:
        call = agent, step, expected, branches, learn_from
        claim = self._org.meter.reserve_at_once(*call)
        if claim is None:
            return self._reserve(worker, *call)
        # Most calls are let through at once, and need not ask again.
        ticket = None if gate is None else worker.gates[gate][1].pass_for(agent)
        return self._granted(worker, claim, 0 if ticket is None else worker.ticket(ticket))

    async def _reserve(self, worker: _Worker, *call: Any) -> Granted | None:
        claim = await self._org.meter.reserve(*call)
        return None if claim is None else self._granted(worker, claim)

    def _granted(self, worker: _Worker, claim: Claim, ticket: int = 0) -> Granted:
        meter, number = self._org.meter, worker.number_for()
        worker.claims[number] = claim
        return Granted(number, meter.overhead, meter.usual_output, ticket)

    def _hear_settle(self, worker: _Worker, number: int, use: Use) -> None:
        self._origin = None
        self._org.meter.settle(worker.claims.pop(number), use)
        self._org.note_time()

    def _hear_release(self, worker: _Worker, number: int) -> None:
        self._org.meter.release(worker.claims.pop(number))

    def _hear_approve(self, worker: _Worker) -> None:
        self._org.meter.approve()

    def _hear_let_go(self, worker: _Worker, agent: str) -> None:
        self._org.meter.let_go(agent)

    def _hear_give(self, worker: _Worker, branch: str, part: dict[str, float]) -> None:
        # Whoever recruited it may have been dismissed meanwhile.
        if not self._mailroom.closed(branch):
            self._org.meter.give(branch, part)

    # gates

    def _hear_gate(self, worker: _Worker, number: int, *what: Any) -> None:
        assert number == len(worker.gates)
        gate = gate_to(*what)
        worker.gates.append((gate, gate.line()))

    def _hear_enter(
        self, worker: _Worker, gate: int, rank: tuple[float, ...], team: str, tokens: int, name: str
    ) -> int | Awaitable[int]:
        line = worker.gates[gate][1]
        ticket = line.enter_at_once(tokens, name)
        return self._enter(worker, line, rank, team, tokens, name) if ticket is None else worker.ticket(ticket)

    async def _enter(self, worker: _Worker, line: Line, rank: tuple[float, ...], *call: Any) -> int:
        return worker.ticket(await line.enter(lambda: rank, *call))

    def _hear_over(self, worker: _Worker, number: int, how: str, args: tuple[Any, ...]) -> None:
        ticket = worker.tickets.pop(number)
        # Whoever waits at the gate is told by it that the provider is down.
        with contextlib.suppress(ModelError):
            getattr(ticket.line.gate, how)(ticket, *args)

    async def _hear_given_up(self, worker: _Worker, gate: int, since: float, reason: str) -> ModelError | None:
        return await worker.gates[gate][0].given_up(since, reason)

    def _hear_leave(self, worker: _Worker, gate: int, error: Exception) -> None:
        worker.gates[gate][1].leave(error)

    def _hear_dismiss(self, worker: _Worker, gate: int, name: str) -> None:
        worker.gates[gate][1].dismiss(name)
