"""The organisation as a person sees it in a terminal: a tree made from the events of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from megagraph.events import Event
from megagraph.specs import BOSS

_MARKS = {
    "thinking": ("●", "cyan"),
    "acting": ("●", "blue"),
    "waiting": ("○", "dim"),
    "asking": ("?", "bold yellow"),
    "reported": ("✓", "green"),
    "incomplete": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "done": ("✓", "green"),
}


@dataclass
class AgentView:
    """One agent as its events tell it."""

    name: str
    lead: str
    role: str
    state: str = "waiting"
    note: str = ""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    members: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)

    def dump(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "lead": self.lead,
            "role": self.role,
            "state": self.state,
            "note": self.note,
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "files": sorted(self.files),
            "members": list(self.members),
        }


class View:
    """A run as its events tell it. Feed it with `apply`, look at it with `tree` or `lines`."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentView] = {BOSS: AgentView(BOSS, "", "the boss of the organisation")}
        self.headline = ""
        self.retries = 0
        self.bad_answers = 0
        self.checks: list[tuple[str, bool, str]] = []
        self._begun = time.monotonic()

    @classmethod
    def of(cls, events: Iterable[Event]) -> View:
        view = cls()
        for event in events:
            view.apply(event)
        return view

    def apply(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "run_started" | "run_resumed":
                self.headline = data.get("note") or f"Model: {data.get('model', '')}"
            case "recruited":
                lead = str(data["lead"])
                self.agents[event.agent] = AgentView(event.agent, lead, str(data["role"]))
                self.agents[lead].members.append(event.agent)
            case "retry":
                self.retries += 1
            case "bad_answer":
                self.bad_answers += 1
            case "check":
                self.checks.append((str(data["check"]), bool(data["passed"]), str(data["detail"])))
            case _:
                pass
        if event.agent in self.agents:
            self._apply(self.agents[event.agent], event)

    def _apply(self, agent: AgentView, event: Event) -> None:
        data = event.data
        match event.kind:
            case "thinking":
                agent.state, agent.note = "thinking", ""
            case "thought":
                agent.calls += 1
                agent.input_tokens += int(data["input_tokens"])
                agent.output_tokens += int(data["output_tokens"])
                agent.state, agent.note = "acting", ", ".join(data["calls"]) or str(data["text"])
            case "tool":
                agent.files.update(data.get("files", ()))
                if not data["ok"]:
                    agent.note = f"{data['tool']}: {data['result']}"
            case "waiting":
                # One that has reported waits only for rework.
                if agent.state not in ("reported", "incomplete", "failed"):
                    agent.state, agent.note = "waiting", str(data["why"])
            case "asking":
                agent.state, agent.note = "asking", str(data.get("question") or agent.note or data.get("why"))
            case "retry":
                agent.note = f"retry: {data['reason']}"
            case "reported":
                agent.state = "incomplete" if data["missing"] else "reported"
                agent.note = str(data["summary"])
            case "failed":
                agent.state, agent.note = "failed", str(data.get("error", ""))
            case "closed":
                if agent.state not in ("incomplete", "failed"):
                    agent.state = "done"
            case _:
                pass

    @property
    def calls(self) -> int:
        return sum(agent.calls for agent in self.agents.values())

    def totals(self) -> str:
        """One line: agents, calls, tokens, retries."""
        tokens_in = sum(agent.input_tokens for agent in self.agents.values())
        tokens_out = sum(agent.output_tokens for agent in self.agents.values())
        parts = [
            f"{len(self.agents)} agents",
            f"{self.calls} calls",
            f"{tokens_in:,} + {tokens_out:,} tokens",
        ]
        if self.retries:
            parts.append(f"{self.retries} retries")
        if self.bad_answers:
            parts.append(f"{self.bad_answers} bad answers")
        return " · ".join(parts)

    def tree(self, width: int = 100, most: int = 1000) -> Tree:
        """The agents as a tree. Of more than `most`, finished branches are folded away first."""
        shown = self._shown(most)
        root = Tree(self._line(self.agents[BOSS], width, 0), guide_style="dim")
        self._grow(root, BOSS, shown, width, 1)
        return root

    def live(self, width: int, height: int) -> RenderableType:
        """What the terminal shows while the run works."""
        clock = time.monotonic() - self._begun
        foot = Text(f"{self.totals()} · {clock:.0f} s", style="bold")
        return Group(self.tree(width, most=max(3, height - 4)), foot)

    def _grow(self, branch: Tree, name: str, shown: set[str], width: int, depth: int) -> None:
        members = self.agents[name].members
        for member in members:
            if member in shown:
                child = branch.add(self._line(self.agents[member], width, depth))
                self._grow(child, member, shown, width, depth + 1)
        hidden = [m for member in members if member not in shown for m in self._below(member)]
        if hidden:
            over = sum(self.agents[m].state in ("reported", "done") for m in hidden)
            branch.add(Text(f"… {len(hidden)} more, {over} of them done", style="dim"))

    def _below(self, name: str) -> Iterator[str]:
        yield name
        for member in self.agents[name].members:
            yield from self._below(member)

    def _shown(self, most: int) -> set[str]:
        if len(self.agents) <= most:
            return set(self.agents)
        rank = {"asking": 0, "failed": 0, "incomplete": 1, "thinking": 2, "acting": 2, "waiting": 3}
        shown: set[str] = set()
        # Each agent takes its line with those of its leads, and each lead a line for what it hides.
        for agent in sorted(self.agents.values(), key=lambda a: rank.get(a.state, 4)):
            path, name = {agent.name}, agent.lead
            while name and name not in shown:
                path.add(name)
                name = self.agents[name].lead
            if len(shown | path) * 1.25 > most:
                break
            shown |= path
        return shown

    def _line(self, agent: AgentView, width: int, depth: int) -> Text:
        mark, style = _MARKS[agent.state]
        line = Text.assemble((f"{mark} ", style), (agent.name, "bold"), (f"  {agent.role}", "dim"))
        if agent.calls:
            line.append(f"  {agent.calls} calls", style="dim")
        note = " ".join(agent.note.split())
        room = width - 4 * depth - line.cell_len - 3
        if note and room > 12:
            line.append("  " + (note if len(note) <= room else note[: room - 1] + "…"), style=style)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def plain_line(event: Event) -> str | None:
    """An event as a line of a log; None for those that say little."""
    data, who = event.data, event.agent or "run"
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    match event.kind:
        case "thinking" | "closed":
            return None
        case "thought":
            what = f"→ {', '.join(data['calls'])}" if data["calls"] else f"says: {data['text']}"
            what += f"  ({data['seconds']:.1f} s, {data['input_tokens']}+{data['output_tokens']} tokens)"
        case "tool":
            what = f"{data['tool']}: {data['result']}"
        case "letter":
            what = f"{data['about']} to {data['to']}: {data['text']}"
        case "recruited":
            after = f", after {', '.join(data['depends_on'])}" if data["depends_on"] else ""
            what = f"recruited by {data['lead']} as {data['role']}{after}"
        case "check":
            what = f"{'passed' if data['passed'] else 'FAILED'}: {data['check']}  {data['detail']}"
        case "retry":
            what = f"retry in {data['delay']} s: {data['reason']}"
        case _:
            said = (data.get(key) for key in ("note", "why", "question", "summary", "error", "reason", "missing"))
            what = event.kind.replace("_", " ") + "".join(f": {text}" for text in said if text)
    return f"{clock} {who}  {' '.join(str(what).split())[:240]}"
