"""The organisation as lines of a terminal: a tree that fits, with finished branches folded and trouble in sight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group
from rich.text import Text

from megagraph.specs import BOSS
from megagraph.view import AgentView, View, many, one_line

MARKS = {
    "thinking": ("●", "cyan"),
    "acting": ("●", "blue"),
    "waiting": ("○", "dim"),
    "asking": ("?", "bold yellow"),
    "reported": ("✓", "green"),
    "incomplete": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "done": ("✓", "green"),
}
_WIDE = 120
"""Columns from which on there is room for tokens."""


def tree(view: View, width: int = 100, most: int | None = None) -> Group:
    """The agents as a tree of no more than `most` lines. What asks, fails or works is opened before what is over."""
    shown = shown_agents(view, most)
    return Group(*_lines(view, shown, BOSS, "", "", width))


def shown_agents(view: View, most: int | None) -> set[str]:
    """The names of those that get a line, so that these and the lines of partly folded teams are at most `most`."""
    if most is None or len(view.agents) <= most:
        return set(view.agents)
    shown, hidden = {BOSS}, {BOSS: len(view.agents[BOSS].members)}

    def folds(name: str, hidden: int) -> int:
        # A lead whose team is folded as a whole says so in its own line.
        return int(0 < hidden < len(view.agents[name].members))

    def open_(agents: Iterable[AgentView], lines: int, most: int) -> int:
        """Give lines to these as far as there are any; how many are taken then."""
        misses = 0
        for agent in agents:
            path, top = [], agent.name
            while top not in shown:
                path.append(top)
                top = view.agents[top].lead
            if not path:
                continue
            leads = {top: hidden[top] - 1, **{name: len(view.agents[name].members) - 1 for name in path[1:]}}
            more = len(path) + sum(folds(name, left) for name, left in leads.items()) - folds(top, hidden[top])
            if lines + more > most:
                # The others need as much, or are of less interest.
                misses += 1
                if misses > most:
                    break
                continue
            lines += more
            shown.update(path)
            hidden.update({**leads, agent.name: len(agent.members)})
        return lines

    order = list(view.by_urgency())
    lines = open_((agent for agent in order if agent.is_urgent), 1, most)
    # Half of what is left goes to the teams, half to those who are at work in them.
    teams = (agent for agent in order if agent.members and not agent.is_over)
    lines = open_(sorted(teams, key=lambda agent: agent.place), lines, (lines + most) // 2)
    open_(order, lines, most)
    return shown


def _lines(view: View, shown: set[str], name: str, first: str, rest: str, width: int) -> Iterator[Text]:
    """The lines of an agent and all below it: `first` goes before its own, `rest` before the others."""
    agent = view.agents[name]
    members = [member for member in agent.members if member in shown]
    folded = [view.agents[member] for member in agent.members if member not in shown]
    fold = ""
    if folded:
        size = sum(1 + member.below for member in folded)
        over = sum(member.is_over + member.over_below for member in folded)
        fold = f"… {size:,} more, {over:,} of them over"
    yield _line(agent, first, width, "" if members else fold)
    for i, member in enumerate(members):
        last = i == len(members) - 1 and not folded
        yield from _lines(
            view, shown, member, rest + ("└── " if last else "├── "), rest + ("    " if last else "│   "), width
        )
    if members and fold:
        yield Text.assemble((f"{rest}└── {fold}", "dim"), no_wrap=True, overflow="ellipsis")


def _line(agent: AgentView, guide: str, width: int, fold: str) -> Text:
    mark, style = MARKS[agent.state]
    role = one_line(agent.role, max(16, width // (6 if agent.is_urgent else 4)))
    line = Text.assemble((guide, "dim"), (f"{mark} ", style), (agent.name, "bold"), (f"  {role}", "dim"))
    line.no_wrap, line.overflow = True, "ellipsis"
    if agent.calls:
        line.append(f"  {many(agent.calls, 'call')}", style="dim")
        if width >= _WIDE:
            line.append(f", {agent.input_tokens:,} tokens in, {agent.output_tokens:,} out", style="dim")
    if agent.files:
        line.append(f"  {many(len(agent.files), 'file')}", style="dim")
    if fold:
        line.append(f"  {fold}", style="dim")
    note = Text(one_line(agent.note), style=style)
    room = width - line.cell_len - 3
    if note and room > 12:
        note.truncate(room, overflow="ellipsis")
        line.append("  ").append_text(note)
    return line


def foot(view: View, now: float, width: int) -> Text:
    """How far the run is and how fast, in lines that fit."""
    return Text(
        "\n".join(
            _wrapped([_progress(view), *view.parts(view.seconds(now)), *view.pace(now, tokens=width >= _WIDE)], width)
        )
    )


def _progress(view: View) -> str:
    states = view.states
    counts = (
        (states["thinking"] + states["acting"], "at work"),
        (states["waiting"], "waiting"),
        (states["asking"], "asking"),
        (states["incomplete"], "incomplete"),
        (states["failed"], "failed"),
    )
    recruits = len(view.agents) - 1
    done = [f"{bar(view.accepted / recruits)} {view.accepted:,} of {recruits:,} accepted"] if recruits else []
    return " · ".join([*done, *(f"{number:,} {what}" for number, what in counts if number)])


def bar(share: float, cells: int = 12) -> str:
    full = int(share * cells)
    return "█" * full + "░" * (cells - full)


def _wrapped(parts: list[str], width: int) -> Iterator[str]:
    """The parts in lines, each as long as the width allows; the first one is a line of its own."""
    first, *others = parts
    yield first[: max(1, width - 1)]
    line = ""
    for part in others:
        longer = f"{line} · {part}" if line else part
        if len(longer) >= width and line:
            yield line
            longer = part
        line = longer
    if line:
        yield line[: max(1, width - 1)]
