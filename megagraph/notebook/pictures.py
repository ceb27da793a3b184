"""The pictures of a run: its organisation as an outline with a Gantt bar on each row, its time, its cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from megagraph.errors import UsageError
from megagraph.limits import NOTHING, Use
from megagraph.notebook.svg import INKS, MARKS, SOFT, STATES, Picture, boxes, escape, fit, line, text, titled, width_of
from megagraph.outline import shown_agents
from megagraph.report.story import Span
from megagraph.report.timeline import Timeline, shortened
from megagraph.specs import BOSS, owner_of
from megagraph.view import AgentView, View, clock, many

ROWS = 40
"""Rows of an outline; what does not fit is folded into its lead."""
SPANS = 80
"""Spans of a row; shorter ones are joined."""

_WIDTH, _ROW, _TOP, _NAMES = 1000, 20, 88, 400
_LEFT, _RIGHT = 416, 850
_WORKING = ("thinking", "acting")
_GRADES = 5


@dataclass(frozen=True)
class Head:
    """What stands over a picture."""

    goal: str
    standing: str
    passed: bool | None = None
    """None while nobody can say."""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A line of an outline: an agent, or a part of a team that is folded."""

    agent: AgentView
    level: int
    hidden: Sequence[str] = field(default=())
    """The agents below it that have no line of their own; where `more`, the line is only theirs."""
    more: bool = False


def rows(view: View, most: int) -> Iterator[Row]:
    """The lines of an outline of no more than `most`, trouble opened first."""
    shown = shown_agents(view, most)

    def walk(name: str, level: int) -> Iterator[Row]:
        agent = view.agents[name]
        members = [member for member in agent.members if member in shown]
        hidden = [below for member in agent.members if member not in shown for below in branch(view, member)]
        yield Row(agent, level, () if members else hidden)
        for member in members:
            yield from walk(member, level + 1)
        if members and hidden:
            yield Row(agent, level + 1, hidden, more=True)

    return walk(BOSS, 0)


def branch(view: View, name: str) -> Iterator[str]:
    """The agent and all below it."""
    todo = [name]
    while todo:
        name = todo.pop()
        yield name
        todo += reversed(view.agents[name].members)


def outline(timeline: Timeline, head: Head, most: int = ROWS) -> Picture:
    """The organisation, a row for each agent or folded team, with its time beside it."""
    view, lines = timeline.view, list(rows(timeline.view, most))
    height = _TOP + _ROW * len(lines) + 34
    shapes = [*_head(timeline, head), *_axis(timeline, _TOP, height - 30)]
    for n, row in enumerate(lines):
        y = _TOP + _ROW * n
        shapes.append(_folded(timeline, row, y) if row.more else _member(timeline, row, y))
    shapes.append(_legend(height - 12, view.states))
    return Picture(_WIDTH, height, shapes, f"The organisation: {many(len(view.agents), 'agent')}, {head.standing}")


def time(timeline: Timeline, head: Head, most: int = ROWS) -> Picture:
    """How many agents worked and waited at each moment, and the agents in the order in which they began."""
    view, tall = timeline.view, 96
    chosen = sorted((view.agents[name] for name in shown_agents(view, most)), key=lambda a: timeline.began(a.name))
    top = _TOP + tall + 24
    height = top + _ROW * len(chosen) + 34
    shapes = [*_head(timeline, head), *_axis(timeline, _TOP, height - 30), *_crowd(timeline, _TOP, tall)]
    for n, agent in enumerate(chosen):
        shapes.append(_member(timeline, Row(agent, 0), top + _ROW * n))
    if left := len(view.agents) - len(chosen):
        shapes.append(text(16, height - 12, f"{left:,} more agents are only in the sum above.", fill=SOFT, size=11))
    else:
        shapes.append(_legend(height - 12, view.states))
    return Picture(
        _WIDTH, height, shapes, f"The time of {many(len(view.agents), 'agent')}: {clock(timeline.end / 1000)}"
    )


By = Literal["branch", "agent", "level"]


def cost(
    view: View, used: Mapping[str, Use], head: Head, *, priced: bool, by: By = "branch", most: int = 24
) -> Picture:
    """What was used by each branch below the boss, each agent or each level: US dollars, where prices are known."""
    groups = _grouped(view, used, by)
    order = sorted(groups.items(), key=lambda item: _weight(item[1], priced), reverse=True)
    if by == "level":
        order.sort()
    order, rest = order[:most], order[most:]
    total = sum(used.values(), start=NOTHING)
    widest = max((_weight(use, priced) for _, use in order), default=0) or 1
    height = 74 + 24 * (len(order) + bool(rest)) + 26
    shapes = [text(16, 28, head.goal, 960, size=15, bold=True), text(16, 48, _sum(total, priced), 960, fill=SOFT)]
    for n, (name, use) in enumerate(order):
        shapes.append(_use(name, use, 70 + 24 * n, widest, priced))
    if rest:
        left = f"{len(rest):,} more: {_sum(sum((use for _, use in rest), start=NOTHING), priced)}"
        shapes.append(text(250, 84 + 24 * len(order), left, fill=SOFT, size=11))
    colours = (
        (("tokens in", "#b9c2e6"), ("tokens out", STATES["thinking"]))
        if not priced
        else (("US dollars", STATES["acting"]),)
    )
    shapes.append(_keys(height - 12, colours))
    return Picture(_WIDTH, height, shapes, f"What each {by} used: {_sum(total, priced)}")


def _grouped(view: View, used: Mapping[str, Use], by: By) -> dict[str, Use]:
    if by not in ("branch", "agent", "level"):
        raise UsageError(f"`{by}` is nothing to divide the cost by.", "Say `branch`, `agent` or `level`.")
    top = {name: member for member in view.agents[BOSS].members for name in branch(view, member)}
    groups: dict[str, Use] = {}
    for caller, use in used.items():
        owner = owner_of(caller)
        level = view.agents[owner].place[0] if owner in view.agents else 0
        key = {"branch": top.get(owner, BOSS), "agent": owner, "level": f"level {level}"}[by]
        groups[key] = groups.get(key, NOTHING) + use
    return groups


def _weight(use: Use, priced: bool) -> float:
    return use.cost_usd if priced else use.input_tokens + use.output_tokens


def _sum(use: Use, priced: bool) -> str:
    money = f"${use.cost_usd:,.4g} · " if priced else ""
    return f"{money}{many(use.calls, 'call')} · {use.input_tokens:,} tokens in · {use.output_tokens:,} out"


def _use(name: str, use: Use, y: float, widest: float, priced: bool) -> str:
    x, room = 250.0, 430.0
    if priced:
        bars = boxes([(x, y + 4, room * use.cost_usd / widest, 12)], STATES["acting"])
    else:
        first = room * use.input_tokens / widest
        bars = boxes([(x, y + 4, first, 12)], "#b9c2e6")
        bars += boxes([(x + first, y + 4, room * use.output_tokens / widest, 12)], STATES["thinking"])
    end = x + room * _weight(use, priced) / widest
    label = text(240, y + 14, fit(name, 220), anchor="end")
    return titled(
        f"{name}: {_sum(use, priced)}", label + bars + text(end + 8, y + 14, _sum(use, priced), fill=SOFT, size=11)
    )


def _head(timeline: Timeline, head: Head) -> Iterator[str]:
    view = timeline.view
    colour = {True: "#1c6b3a", False: "#9b2c2c", None: "#7a5600"}[head.passed]
    room = width_of(head.standing, 12) + 16
    yield text(16, 28, head.goal, 940 - room, size=15, bold=True)
    yield text(984, 28, head.standing, fill=colour, anchor="end", bold=True)
    told = view.totals(timeline.end / 1000)
    yield text(16, 48, f"{told} · {head.note}" if head.note else told, 960, fill=SOFT)


def _axis(timeline: Timeline, top: float, bottom: float) -> Iterator[str]:
    step = _step(timeline.end)
    for n in range(int(timeline.end / step) + 1 if step else 0):
        x = _at(timeline, n * step)
        yield line(x, top - 8, x, bottom)
        label = f"{n * step / 1000:g} s" if step < 60_000 else clock(n * step / 1000)
        yield text(x, top - 12, label, fill=SOFT, size=10, anchor="middle" if n else "")
    for pause in timeline.clock.breaks:
        x = _at(timeline, pause)
        yield titled("paused, and resumed", line(x, top - 4, x, bottom, SOFT))
    yield text(_RIGHT + 62, top - 12, "calls", fill=SOFT, size=10, anchor="end")
    yield text(984, top - 12, "tokens", fill=SOFT, size=10, anchor="end")


def _step(end: int) -> int:
    """Milliseconds between two marks of the axis, of which there are at most six."""
    nice = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000)
    return next((step for step in (*nice, *(600_000 * 2**n for n in range(20))) if end <= step * 6), 0) if end else 0


def _at(timeline: Timeline, time: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * time / max(1, timeline.end)


def _member(timeline: Timeline, row: Row, y: float) -> str:
    agent, indent = row.agent, 16 + 16 * min(row.level, 12)
    spans = shortened(timeline.spans(agent.name), SPANS)
    parts = [
        text(indent, y + 14, MARKS[agent.state], fill=INKS[agent.state], bold=True),
        _words(row, indent + 16, y + 14),
        *_spans(timeline, spans, y + 4, 8 if row.hidden else 12),
    ]
    if row.hidden:
        parts += _density(timeline, row.hidden, y + 13, 4)
    calls, tokens = agent.calls, agent.input_tokens + agent.output_tokens
    for below in map(timeline.view.agents.__getitem__, row.hidden):
        calls, tokens = calls + below.calls, tokens + below.input_tokens + below.output_tokens
    parts.append(_numbers(calls, tokens, y))
    return titled(f"{agent.name}: {agent.role}. {agent.state}. {agent.note}", "".join(parts))


def _words(row: Row, x: float, y: float) -> str:
    """The name of an agent and what is to be said of it, one behind the other."""
    agent = row.agent
    name = fit(agent.name, _NAMES - x)
    below = f"+ {len(row.hidden):,} below" if row.hidden else ""
    said = " · ".join(filter(None, (below, agent.note if agent.is_urgent else agent.role)))
    room = _NAMES - x - 1.2 * width_of(name) - 12
    colour = INKS[agent.state] if agent.is_urgent else SOFT
    after = f'<tspan dx="8" fill="{colour}" font-size="11">{escape(fit(said, room, 11))}</tspan>' if room > 24 else ""
    return f'<text x="{x:g}" y="{y:g}"><tspan font-weight="600">{escape(name)}</tspan>{after}</text>'


def _folded(timeline: Timeline, row: Row, y: float) -> str:
    agents = [timeline.view.agents[name] for name in row.hidden]
    over = sum(agent.is_over for agent in agents)
    said = f"… {len(agents):,} more, {over:,} of them over"
    parts = [
        text(16 + 16 * min(row.level, 12) + 16, y + 14, said, fill=SOFT),
        *_density(timeline, row.hidden, y + 4, 12),
    ]
    tokens = sum(agent.input_tokens + agent.output_tokens for agent in agents)
    return "".join([*parts, _numbers(sum(agent.calls for agent in agents), tokens, y)])


def _numbers(calls: int, tokens: int, y: float) -> str:
    if not calls:
        return ""
    told = f"{tokens:,}" if tokens < 1_000_000 else f"{tokens / 1e6:,.1f} M"
    return text(_RIGHT + 62, y + 14, f"{calls:,}", fill=SOFT, size=11, anchor="end") + text(
        984, y + 14, told, fill=SOFT, size=11, anchor="end"
    )


def _spans(timeline: Timeline, spans: Iterable[Span], y: float, tall: float) -> Iterator[str]:
    by_state: dict[str, list[tuple[float, float, float, float]]] = {}
    for start, end, state in spans:
        x = _at(timeline, start)
        thin = state in ("waiting", "reported", "done")
        box = (
            (x, y + tall / 2 - 1, max(0.6, _at(timeline, end) - x), 2.0)
            if thin
            else (x, y, max(0.8, _at(timeline, end) - x), tall)
        )
        by_state.setdefault(state, []).append(box)
    # What is short and matters is drawn over what is long.
    for state in sorted(by_state, key=lambda state: state in _WORKING):
        yield boxes(by_state[state], STATES[state])


def _density(timeline: Timeline, names: Collection[str], y: float, tall: float) -> Iterator[str]:
    """How many of these work at each moment, as shades."""
    counts = _counts(timeline, names, _WORKING, 2 * (_RIGHT - _LEFT) // 6)
    most, wide = max(counts, default=0), 3
    graded: dict[int, list[tuple[float, float, float, float]]] = {}
    for n, count in enumerate(counts):
        if count:
            grade = 1 + int((_GRADES - 1) * count / most)
            graded.setdefault(grade, []).append((_LEFT + wide * n, y, wide, tall))
    for grade, found in sorted(graded.items()):
        yield boxes(found, STATES["thinking"], 0.15 + 0.75 * grade / _GRADES)


def _counts(timeline: Timeline, names: Iterable[str], states: Collection[str], bins: int) -> list[int]:
    """How many of these agents are in one of these states in each of so many parts of the time."""
    changes = [0] * (bins + 1)
    scale = bins / max(1, timeline.end)
    for name in names:
        reached = -1
        for start, end, state in timeline.spans(name):
            if state in states and (last := min(bins - 1, int(end * scale))) > reached:
                # Nobody is counted twice in one part.
                changes[max(reached + 1, int(start * scale))] += 1
                changes[last + 1] -= 1
                reached = last
    total, counts = 0, []
    for change in changes[:-1]:
        total += change
        counts.append(total)
    return counts


def _crowd(timeline: Timeline, top: float, tall: float) -> Iterator[str]:
    """How many agents work, and how many more wait, at each moment."""
    names, wide = list(timeline.view.agents), 2
    bins = (_RIGHT - _LEFT) // wide
    working = _counts(timeline, names, _WORKING, bins)
    there = _counts(timeline, names, (*_WORKING, "waiting", "asking"), bins)
    most = max(there, default=0) or 1
    for counts, colour in ((there, STATES["waiting"]), (working, STATES["thinking"])):
        bars = (
            (_LEFT + wide * n, top + tall * (1 - c / most), wide, tall * c / most) for n, c in enumerate(counts) if c
        )
        yield boxes(((x, round(y, 1), w, round(h, 1)) for x, y, w, h in bars), colour)
    yield line(_LEFT, top + tall, _RIGHT, top + tall, SOFT)
    yield text(16, top + 16, "Agents at the same time", bold=True)
    yield text(16, top + 36, f"most at work: {max(working, default=0):,}", fill=STATES["thinking"])
    yield text(16, top + 54, f"most at work or waiting: {most:,}", fill=SOFT)


def _legend(y: float, states: Counter[str]) -> str:
    return _keys(y, [(f"{state} {number:,}", STATES[state]) for state in STATES if (number := states[state])])


def _keys(y: float, keys: Iterable[tuple[str, str]]) -> str:
    parts, x = [], 16.0
    for said, colour in keys:
        parts += [boxes([(x, y - 8, 9, 9)], colour), text(x + 14, y, said, fill=SOFT, size=11)]
        x += 34 + width_of(said, 11)
    return "".join(parts)
