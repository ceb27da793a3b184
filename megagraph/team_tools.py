"""The tools agents lead, talk and report with."""

from __future__ import annotations

from collections.abc import Container, Sequence
from graphlib import CycleError, TopologicalSorter

from pydantic import Field

from megagraph.acceptance import examine, recheck
from megagraph.checks import AgentCheck
from megagraph.errors import ToolError
from megagraph.events import News, news_of_closed, news_of_report
from megagraph.guards import duplicate_of
from megagraph.limits import Part
from megagraph.organisation import Organisation
from megagraph.specs import NAME, RESERVED_NAMES, AgentSpec, Letter, Report
from megagraph.tools import Args, Caller, Permit, Result, Shown, Tool

MAX_LETTER = 8_000
"""Characters of one letter. What is longer belongs into a file."""


class Recruitment(Args):
    """One agent to recruit."""

    name: str
    role: str
    instructions: str
    deliverables: list[str] = []
    depends_on: list[str] = []
    limits: Part = Part()
    checks: list[AgentCheck] = Field(default=[], max_length=20)


class Recruit(Args):
    """Arguments of `recruit`."""

    agents: list[Recruitment] = Field(min_length=1)
    work_on: bool = False


class Talk(Args):
    """Arguments of `talk`."""

    to: list[str] | str
    message: str = Field(min_length=1)


class ReadLetters(Args):
    """Arguments of `read_letters`."""

    sender: str = ""
    last: int = Field(default=10, ge=1, le=50)


class Dismiss(Args):
    """Arguments of `dismiss`."""

    agents: list[str] = Field(min_length=1)
    reason: str = ""


class UpdateTodo(Args):
    """Arguments of `update_todo`."""

    todo: list[str] = []
    done: list[str] = []


class Finish(Args):
    """Arguments of `finish`."""

    summary: str = Field(min_length=1)
    artefacts: list[str] = []


async def recruit(caller: Caller, args: Recruit, effect: str) -> Result:
    org, lead = caller.org, caller.spec
    if org.front is None:
        specs, notes = admit(org, lead.name, caller.wave, args.agents)
    else:
        specs, notes = await org.front.admit(lead.name, caller.wave, [wish.model_dump() for wish in args.agents])
        for spec in specs:
            org.mailroom.add(spec)

    news = [
        News(
            "recruited",
            spec.name,
            {
                "lead": lead.name,
                "role": spec.role,
                "depends_on": list(spec.depends_on),
                "deliverables": list(spec.deliverables),
            },
        )
        for spec in specs
    ]

    def after() -> None:
        for spec in specs:
            if spec.part:
                org.meter.give(spec.name, spec.part)
        # Its lead may have been dismissed, and they with it, before they had rows.
        if org.mailroom.closed(lead.name):
            org.ledger.database.post(*org.ledger.closed([spec.name for spec in specs]))

    return Result(
        f"Recruited: {', '.join(s.name for s in specs)}. Their reports and questions will reach you as letters."
        + "".join(f" Note: {note}." for note in notes),
        effects={"plan": [spec.dump() for spec in specs], "work_on": args.work_on},
        statements=[org.ledger.recruited(spec, effect) for spec in specs],
        news=news,
        after=after,
    )


def admit(org: Organisation, name: str, wave: int, wishes: Sequence[Recruitment]) -> tuple[list[AgentSpec], list[str]]:
    """Take recruits of an agent in, with names that nobody has; notes say which were changed.

    Raises `ToolError` with everything that is wrong with the plan.
    """
    if org.mailroom.closed(name):
        raise ToolError("nobody was recruited: your work is over.")
    lead = org.spec(name)
    _check_recruits(org, lead, wishes)
    taken: set[str] = set()
    names = {wish.name: _free_name(wish.name, org.mailroom.names, taken) for wish in wishes}
    specs = [
        AgentSpec(
            name=names[wish.name],
            role=wish.role,
            instructions=wish.instructions,
            deliverables=tuple(wish.deliverables),
            depends_on=tuple(names.get(d, d) for d in wish.depends_on),
            lead=lead.name,
            depth=lead.depth + 1,
            wave=wave,
            part=wish.limits.dump(),
            checks=tuple(check.dump() for check in wish.checks),
        )
        for wish in wishes
    ]
    for spec in specs:
        org.mailroom.add(spec)
        if org.crew is not None:
            org.crew.added(spec)
    return specs, [f"{old} is called {new}, since the name was taken" for old, new in names.items() if old != new]


async def show_plan(caller: Caller, args: Recruit) -> Shown | None:
    """The first recruits of a run, as a person is asked to approve them."""
    if len(caller.org.mailroom.names) > 1:
        return None
    _check_recruits(caller.org, caller.spec, args.agents)
    lines = [f"May `{caller.spec.name}` recruit these agents?"]
    for wish in args.agents:
        after = f", after {', '.join(wish.depends_on)}" if wish.depends_on else ""
        owes = f", delivers {', '.join(wish.deliverables)}" if wish.deliverables else ""
        told = " ".join(wish.instructions.split())[:300]
        lines.append(f"- {wish.name}: {wish.role}{after}{owes}. {told}")
    return Shown("\n".join(lines))


def _check_recruits(org: Organisation, lead: AgentSpec, wishes: Sequence[Recruitment]) -> None:
    """Raise `ToolError` with everything that is wrong with the plan."""
    limits, problems = org.meter.limits, []
    names = [wish.name for wish in wishes]
    for name in sorted(set(names)):
        if not NAME.fullmatch(name):
            problems.append(f"`{name[:60]}` is no legal name (a–z, 0–9 and _, a letter first, at most 48)")
        elif name in RESERVED_NAMES:
            problems.append(f"the name `{name}` is reserved")
        if names.count(name) > 1:
            problems.append(f"the name `{name}` is there {names.count(name)} times")
    mates = set(org.mailroom.open_members(lead.name))
    for wish in wishes:
        for dependency in wish.depends_on:
            if dependency == wish.name:
                problems.append(f"`{wish.name}` depends on itself")
            elif dependency not in names and dependency not in mates:
                problems.append(f"`{wish.name}` depends on `{dependency}`, who is not in the team")
    try:
        tuple(TopologicalSorter({wish.name: wish.depends_on for wish in wishes}).static_order())
    except CycleError as error:
        ring = list(dict.fromkeys(error.args[1]))
        if len(ring) > 1:
            problems.append("these wait for one another in a ring: " + " → ".join([*ring, ring[0]]))
    if lead.depth + 1 > limits.depth:
        problems.append(f"you are on level {lead.depth} and the limit is {limits.depth}: do the work yourself")
    if len(mates) + len(wishes) > limits.width:
        problems.append(
            f"a team may have {limits.width} members: {len(mates)} are there and {len(wishes)} are asked for"
        )
    total = len(org.mailroom.names)
    if total + len(wishes) > limits.agents:
        problems.append(
            f"the organisation may have {limits.agents} agents in all: {total} are there"
            f" and {len(wishes)} are asked for"
        )
    problems += _repeated_jobs(org, lead.name, wishes)
    if None in org.prices.values() and any(wish.limits.cost_usd for wish in wishes):
        problems.append("`cost_usd` cannot be held, since prices are not known: limit calls or tokens instead")
    if problems:
        raise ToolError("nobody was recruited: " + "; ".join(problems) + ".")


def _repeated_jobs(org: Organisation, lead: str, wishes: Sequence[Recruitment]) -> list[str]:
    """Which wishes would do again what an open agent is there for. One that has failed may be replaced."""
    places = org.mailroom.places
    chain = [places[name].spec for name in org.chain(lead)]
    above, promised = {spec.name for spec in chain}, {path for wish in wishes for path in wish.deliverables}
    others = [
        place.spec
        for name, place in org.mailroom.open.items()
        # The rest of a large organisation is at work on other things.
        if (place.spec.lead == lead or name in above or not promised.isdisjoint(place.spec.deliverables))
        and not (place.report and place.report.failed)
    ]
    found = []
    for wish in wishes:
        spec = AgentSpec(
            wish.name, wish.role, wish.instructions, tuple(wish.deliverables), tuple(wish.depends_on), lead
        )
        if same := duplicate_of(spec, others, chain):
            name, why = same
            way = "`talk` to it, or `dismiss` it first" if name in places[lead].open else "use its work"
            found.append(f"`{wish.name}` would do the job of `{name}`, which {why}: {way}")
    return found


def _free_name(name: str, known: Container[str], taken: set[str]) -> str:
    """`name`, or the first free one with a number behind it."""
    free, number = name, 2
    while free in taken or free in known:
        suffix = f"_{number}"
        free, number = name[: 48 - len(suffix)] + suffix, number + 1
    taken.add(free)
    return free


async def talk(caller: Caller, args: Talk, effect: str) -> Result:
    org, sender = caller.org, caller.spec.name
    recipients = list(dict.fromkeys([args.to] if isinstance(args.to, str) else args.to))
    reach = org.mailroom.reach(sender)
    unknown = [name for name in recipients if name not in reach]
    if unknown or not recipients:
        who = ", ".join(f"`{name[:60]}`" for name in unknown) or "nobody"
        raise ToolError(f"nothing was sent: {who} cannot be reached. You can write to: {', '.join(reach) or 'nobody'}.")
    if len(args.message) > MAX_LETTER:
        raise ToolError(
            f"nothing was sent: the letter has {len(args.message)} characters, and {MAX_LETTER} are allowed."
            " Write it into a file and name the path."
        )
    places = [org.mailroom.places[name] for name in recipients]
    told = {"by": sender, "missing": [args.message[:500]], "evidence": []}
    return Result(
        f"Sent to {', '.join(recipients)}.",
        news=[
            News("sent_back", place.spec.name, told)
            for place in places
            if place.spec.lead == sender and place.report is not None
        ],
        letters=[Letter(f"{effect}/{i}", sender, name, "message", args.message) for i, name in enumerate(recipients)],
    )


async def read_letters(caller: Caller, args: ReadLetters, effect: str) -> Result:
    name, place = caller.spec.name, caller.org.mailroom.places[caller.spec.name]
    found = await caller.org.ledger.letters_to(name, args.sender, args.last, but=place.fresh)
    # One that has just come has a row before it is handed over.
    letters = [letter.render() for letter in found if place.has_read(letter.id)]
    return Result("\n".join(letters) or "No letters.")


async def dismiss(caller: Caller, args: Dismiss, effect: str) -> Result:
    org = caller.org
    mine = org.mailroom.open_members(caller.spec.name)
    unknown = [name for name in args.agents if name not in mine]
    if unknown:
        raise ToolError(
            f"nobody was dismissed: {', '.join(unknown)} is not in your team. It has: {', '.join(mine) or 'nobody'}."
        )
    names = [name for member in args.agents for name in org.mailroom.close(member)]
    return Result(
        f"Dismissed: {', '.join(names)}.",
        statements=org.ledger.closed(names),
        news=news_of_closed(names),
        after=lambda: org.let_go(names),
    )


async def update_todo(caller: Caller, args: UpdateTodo, effect: str) -> Result:
    done = list(dict.fromkeys([*caller.todo.get("done", []), *args.done]))
    return Result(f"{len(args.todo)} open, {len(done)} done.", effects={"todo": {"open": args.todo, "done": done}})


async def finish(caller: Caller, args: Finish, effect: str) -> Result:
    org, spec = caller.org, caller.spec
    await org.heard_all()
    _must_be_quiet(caller)
    await recheck(org, spec.name, org.mailroom.open_members(spec.name))
    _must_be_there(caller)
    found = await examine(org, spec, caller.todo, args.artefacts, effect)
    # From here to the closing of the team nothing is awaited: what is quiet stays quiet.
    _must_be_there(caller)
    _must_be_quiet(caller)
    missing = [*found.missing, *org.mailroom.unaccepted(spec.name)]
    if missing and not caller.told:
        return Result(
            f"Error: not handed in, since this is missing: {'; '.join(missing)}. Mend it, or call finish again"
            " and say in the summary why it must stay so.",
            ok=False,
            effects={"told": True},
            statements=found.statements(org),
            news=[News("sent_back", spec.name, {"by": "", "missing": missing, "evidence": found.dump()})],
        )
    report = Report(args.summary, tuple(args.artefacts), tuple(missing), version=found.version)
    team = org.mailroom.close_team(spec.name)
    letters = [Letter(f"{effect}/0", spec.name, spec.lead, "report", report.text())] if spec.lead else []

    def after() -> None:
        org.let_go(team)
        org.mailroom.report(spec.name, report)

    return Result(
        "Handed in.",
        effects={"report": report.dump(), "told": False},
        statements=[
            *org.ledger.closed(team),
            org.ledger.reported(spec.name, report),
            *found.statements(org),
        ],
        news=[*news_of_closed(team), *news_of_report(spec.name, report, found.dump())],
        letters=letters,
        after=after,
    )


def _must_be_there(caller: Caller) -> None:
    if caller.org.mailroom.closed(caller.spec.name):
        raise ToolError("not handed in: you have been dismissed.")


def _must_be_quiet(caller: Caller) -> None:
    """Raise `ToolError` while anybody in the caller's team is at work."""
    if busy := caller.org.mailroom.busy(caller.spec.name):
        raise ToolError(
            f"your team is still at work: {'; '.join(busy)}. Their letters will wake you; answer with a short text"
            " to wait, or dismiss whom you no longer need."
        )


TEAM_TOOLS = (
    Tool("recruit", Recruit, recruit, Permit("plan", show_plan)),
    Tool("talk", Talk, talk),
    Tool("read_letters", ReadLetters, read_letters),
    Tool("dismiss", Dismiss, dismiss),
    Tool("update_todo", UpdateTodo, update_todo),
    Tool("finish", Finish, finish),
)
