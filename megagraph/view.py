"""The organisation as a person sees it: a tree made from the events of a run, and lines of a log."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

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
_WIDE = 120
"""Columns from which on there is room for every agent's tokens."""
_ENDED = ("reported", "incomplete", "failed", "done")

# C0 but tab and line feed, DEL, C1, what turns the direction of writing, and halves of pairs, which no stream takes.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with everything that would steer a terminal spelt out, such as `\\x1b`."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def one_line(text: str, most: int = 240) -> str:
    """The beginning of the text, cleaned, on one line."""
    line = " ".join(clean(text[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def clock(seconds: float) -> str:
    """A time span for people: `52 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


@dataclass
class AgentView:
    """One agent as its events tell it."""

    name: str
    lead: str
    role: str
    state: str = "waiting"
    note: str = ""
    """What it does, waits for, asks or has reported."""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    members: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """The files that it was the last to change; known after `View.credit`."""

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
            "files": list(self.files),
            "members": list(self.members),
        }


class View:
    """A run as its events tell it. Feed it with `apply`; look at it with `tree` and `totals`."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentView] = {BOSS: AgentView(BOSS, "", "the boss of the organisation")}
        self.retries = 0
        self.bad_answers = 0
        self.judging = False
        """The boss has finished, and the checks are at work."""
        self._worked = 0.0
        self._begun = self._last = 0.0

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
                # What lies between the last event of a process and the first of the next was nobody's work.
                self._worked += self._last - self._begun
                self._begun = event.time
            case "run_ended":
                self.judging = False
            case "recruited":
                lead = str(data["lead"])
                self.agents[event.agent] = AgentView(event.agent, lead, str(data["role"]))
                self.agents[lead].members.append(event.agent)
            case "retry":
                self.retries += 1
            case "bad_answer":
                self.bad_answers += 1
            case "closed" if event.agent == BOSS:
                self.judging = True
            case _:
                pass
        self._last = event.time
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
            case "tool_started":
                agent.note = str(data["tool"])
            case "tool":
                if not data["ok"]:
                    agent.note = f"{data['tool']}: {data['result']}"
            case "sent_back":
                agent.note = f"sent back: {'; '.join(data['evidence'])}"
            case "waiting":
                # One that has reported waits only for rework.
                if agent.state not in _ENDED:
                    agent.state, agent.note = "waiting", str(data["why"])
            case "asking":
                agent.state, agent.note = "asking", str(data.get("question") or agent.note or data.get("why"))
            case "answered":
                agent.state, agent.note = "acting", ""
            case "retry":
                agent.note = f"retry: {data['reason']}"
            case "reported":
                agent.state = "incomplete" if data["missing"] else "reported"
                agent.note = str(data["summary"])
            case "failed" if "tool" in data:
                agent.note = f"{data['tool']}: {data['error']}"
            case "failed":
                agent.state, agent.note = "failed", str(data.get("error", ""))
            case "closed":
                if agent.state not in ("incomplete", "failed"):
                    agent.state = "done"
            case _:
                pass

    def credit(self, files: Iterable[tuple[str, str]]) -> None:
        """Note who was the last to change each file: pairs of a path and an agent."""
        for path, agent in files:
            if agent in self.agents:
                self.agents[agent].files.append(path)

    @property
    def calls(self) -> int:
        return sum(agent.calls for agent in self.agents.values())

    @property
    def asking(self) -> bool:
        return any(agent.state == "asking" for agent in self.agents.values())

    def seconds(self, now: float | None = None) -> float:
        """Seconds the run has worked, over all its processes: up to its last event, or up to `now`."""
        return self._worked + max(0.0, (now or self._last) - self._begun) if self._begun else 0.0

    def totals(self, seconds: float) -> str:
        """One line: agents, calls, tokens, what went wrong on the way, and the seconds it took."""
        agents = self.agents.values()
        parts = [
            _many(len(agents), "agent"),
            _many(self.calls, "call"),
            f"{sum(a.input_tokens for a in agents):,} tokens in",
            f"{sum(a.output_tokens for a in agents):,} out",
        ]
        if self.retries:
            parts.append("1 retry" if self.retries == 1 else f"{self.retries} retries")
        if self.bad_answers:
            parts.append(_many(self.bad_answers, "bad answer"))
        return " · ".join([*parts, clock(seconds)])

    def tree(self, width: int = 100, most: int = 1000) -> Tree:
        """The agents as a tree. Of more than `most`, finished branches are folded away first."""
        shown = self._shown(most)
        root = Tree(self._line(self.agents[BOSS], width, 0), guide_style="dim")
        self._grow(root, BOSS, shown, width, 1)
        return root

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
        shown: set[str] = {BOSS}
        folds = {BOSS}
        # Each agent takes a line, and so does each lead that hides some of its members.
        for agent in sorted(self.agents.values(), key=lambda a: rank.get(a.state, 4)):
            path, name = set(), agent.name
            while name and name not in shown:
                path.add(name)
                name = self.agents[name].lead
            new_folds = folds | {p for p in path if self.agents[p].members}
            if len(shown | path) + len(new_folds) > most:
                continue
            shown |= path
            folds = {name for name in new_folds if not shown.issuperset(self.agents[name].members)}
        return shown

    def _line(self, agent: AgentView, width: int, depth: int) -> Text:
        mark, style = _MARKS[agent.state]
        role = one_line(agent.role, max(20, width // 3))
        line = Text.assemble((f"{mark} ", style), (agent.name, "bold"), (f"  {role}", "dim"))
        if agent.calls:
            line.append(f"  {_many(agent.calls, 'call')}", style="dim")
            if width >= _WIDE:
                line.append(f", {agent.input_tokens:,} tokens in, {agent.output_tokens:,} out", style="dim")
        if agent.files:
            line.append(f"  {_many(len(agent.files), 'file')}", style="dim")
        note = Text(one_line(agent.note), style=style)
        room = width - 4 * depth - line.cell_len - 3
        if note and room > 12:
            note.truncate(room, overflow="ellipsis")
            line.append("  ").append_text(note)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def plain_line(event: Event) -> str | None:
    """An event as a line of a log; None for those that say little."""
    data, who = event.data, event.agent or "run"
    match event.kind:
        case "thinking" | "closed" | "tool_started" | "file" | "token":
            return None
        case "thought":
            what = f"→ {', '.join(data['calls'])}" if data["calls"] else f"says: {data['text']}"
            what += f"  ({data['seconds']:.1f} s, {data['input_tokens']:,} tokens in, {data['output_tokens']:,} out)"
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
        case "run_started" | "run_resumed":
            what = f"{event.kind[4:]}: {data.get('note') or data.get('model', '')}"
        case "accepted":
            what = "; ".join(["accepted", *data["evidence"]])
        case "sent_back":
            what = f"sent back{data['by'] and ' by '}{data['by']}: {'; '.join(data['evidence'])}"
        case "run_ended":
            what = "ended: " + ("all is well" if data["passed"] else "not all is well")
        case "reported" | "reminded":
            missing = ", ".join(data["missing"])
            what = "; ".join(filter(None, (data.get("summary", ""), missing and f"missing: {missing}")))
            what = f"{event.kind}: {what}"
        case _:
            said = next((data[key] for key in ("why", "question", "answer", "error", "reason") if data.get(key)), "")
            what = event.kind.removeprefix("run_").replace("_", " ") + (f": {said}" if said else "")
    return f"{time.strftime('%H:%M:%S', time.localtime(event.time))} {who}  {one_line(what)}"


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
