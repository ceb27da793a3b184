"""A run as its events tell it to a person: where every agent stands, what it came to, and lines of a log."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from megagraph.approvals import dollars
from megagraph.events import BEGINNINGS, Event
from megagraph.specs import BOSS
from megagraph.speed import Speed

_ENDED = ("reported", "incomplete", "failed", "done")
_URGENCY = ("asking", "failed", "incomplete", "working", "waiting", "over")
"""What a person wants to see first."""
_CLASS = {"thinking": "working", "acting": "working", "reported": "over", "done": "over"}
"""The class of urgency of a state, where it is not its own."""

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
    cost_usd: float | None = 0.0
    """US dollars; None where the price of a call is not known."""
    members: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """The files that it was the last to change; known after `View.credit`."""
    accepted: bool = False
    """Its report is accepted, and it was not sent back since."""
    place: tuple[int, int] = (0, 0)
    """Its level, and its number in the order of recruitment."""
    below: int = 0
    """How many agents there are below it."""
    over_below: int = 0
    """How many of them have nothing left to do."""

    @property
    def urgency(self) -> str:
        return _CLASS.get(self.state, self.state)

    @property
    def is_urgent(self) -> bool:
        """Whether a person should look at it."""
        return self.state in _URGENCY[:3]

    @property
    def is_over(self) -> bool:
        return self.urgency == "over"

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
            "cost_usd": self.cost_usd,
            "files": list(self.files),
            "members": list(self.members),
        }


class View:
    """A run as its events tell it. Feed it with `apply`: what that costs does not grow with the organisation."""

    def __init__(self) -> None:
        boss = AgentView(BOSS, "", "the boss of the organisation")
        self.agents: dict[str, AgentView] = {BOSS: boss}
        self.states: Counter[str] = Counter({boss.state: 1})
        """How many agents are in each state."""
        self.accepted = 0
        """How many recruits' reports are accepted."""
        self.calls = 0
        self.input_tokens = 0
        self.cost_usd: float | None = 0.0
        """US dollars; None where the price of a call is not known."""
        self.output_tokens = 0
        self.retries = 0
        self.bad_answers = 0
        self.judging = False
        """The boss has finished, and the checks are at work."""
        self._by_urgency: dict[str, set[str]] = {name: set() for name in _URGENCY}
        self._by_urgency[boss.urgency].add(BOSS)
        self._speed = Speed()
        self._worked = self._kept = 0.0
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
            case kind if kind in BEGINNINGS:
                self._worked += self._last - self._begun
                self._begun = event.time
                if kind == "branched":
                    self._kept = self._worked
            case "run_ended":
                self.judging = False
            case "recruited":
                self._recruit(event.agent, str(data["lead"]), str(data["role"]))
                self._speed.recruited(event.time)
            case "thought":
                self.calls += 1
                self.input_tokens += int(data["input_tokens"])
                self.cost_usd = _sum(self.cost_usd, data.get("cost"))
                self.output_tokens += int(data["output_tokens"])
                self._speed.called(event.time, int(data["output_tokens"]))
            case "retry":
                self.retries += 1
            case "bad_answer":
                self.bad_answers += 1
            case "closed" if event.agent == BOSS:
                self.judging = True
            case _:
                pass
        self._last = event.time
        if agent := self.agents.get(event.agent):
            before = agent.state, agent.urgency, agent.is_over, agent.accepted
            self._apply(agent, event)
            self._moved(agent, *before, event.time)

    def _recruit(self, name: str, lead: str, role: str) -> None:
        place = self.agents[lead].place[0] + 1, len(self.agents)
        agent = self.agents[name] = AgentView(name, lead, role, place=place)
        self.agents[lead].members.append(name)
        self.states[agent.state] += 1
        self._by_urgency[agent.urgency].add(name)
        for above in self._above(agent):
            above.below += 1

    def _moved(self, agent: AgentView, state: str, urgency: str, is_over: bool, accepted: bool, time: float) -> None:
        """Count what an event has changed in an agent that was so before it."""
        self.states[state] -= 1
        self.states[agent.state] += 1
        if urgency != agent.urgency:
            self._by_urgency[urgency].remove(agent.name)
            self._by_urgency[agent.urgency].add(agent.name)
        if more := agent.is_over - is_over:
            for above in self._above(agent):
                above.over_below += more
        if agent.lead and (more := agent.accepted - accepted):
            self.accepted += more
            if more > 0:
                self._speed.accepted(time)

    def _above(self, agent: AgentView) -> Iterator[AgentView]:
        while agent.lead:
            agent = self.agents[agent.lead]
            yield agent

    def _apply(self, agent: AgentView, event: Event) -> None:
        data = event.data
        match event.kind:
            case "thinking":
                agent.state, agent.note = "thinking", ""
            case "thought":
                agent.calls += 1
                agent.input_tokens += int(data["input_tokens"])
                agent.output_tokens += int(data["output_tokens"])
                agent.cost_usd = _sum(agent.cost_usd, data.get("cost"))
                agent.state, agent.note = "acting", ", ".join(data["calls"]) or str(data["text"])
            case "tool_started":
                agent.note = str(data["tool"])
            case "tool":
                if not data["ok"]:
                    agent.note = f"{data['tool']}: {data['result']}"
            case "sent_back":
                agent.note, agent.accepted = f"sent back: {'; '.join(data['missing'])}", False
                if data["by"]:
                    agent.state = "waiting"
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
                agent.accepted = not data["missing"]
                agent.state = "reported" if agent.accepted else "incomplete"
                agent.note = str(data["summary"])
            case "withdrawn":
                agent.state, agent.note, agent.accepted = "incomplete", str(data["why"]), False
            case "accepted" if agent.state == "incomplete":
                agent.state, agent.note, agent.accepted = "reported", "", True
            case "failed" if "tool" in data:
                agent.note = f"{data['tool']}: {data['error']}"
            case "failed":
                agent.state, agent.note, agent.accepted = "failed", str(data.get("error", "")), False
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

    def by_urgency(self) -> Iterator[AgentView]:
        """The agents, those first that a person wants to see first; of those whose work is over, leads before members.

        Beyond that the order is that of recruitment, so that a picture does not jump.
        """
        for urgency in _URGENCY:
            agents = (self.agents[name] for name in self._by_urgency[urgency])
            yield from sorted(agents, key=lambda a: a.place if urgency == "over" else a.place[1:])

    @property
    def asking(self) -> bool:
        return self.states["asking"] > 0

    def seconds(self, now: float | None = None) -> float:
        """Seconds the run has worked, over all its processes: up to its last event, or up to `now`.

        Those of what a branch has from its parent are among them, as its calls are.
        """
        return self._worked + max(0.0, (now or self._last) - self._begun) if self._begun else 0.0

    def totals(self, seconds: float) -> str:
        """One line: agents, calls, tokens, what went wrong on the way, and how long it took.

        Of a branch, it says how much of that is kept of its parent.
        """
        return " · ".join(self.parts(seconds))

    def parts(self, seconds: float) -> list[str]:
        """The parts of `totals`."""
        parts = [
            many(len(self.agents), "agent"),
            many(self.calls, "call"),
            f"{self.input_tokens:,} tokens in",
            f"{self.output_tokens:,} out",
        ]
        if cost := self.cost_usd:
            parts.append(dollars(cost))
        if self.retries:
            parts.append("1 retry" if self.retries == 1 else f"{self.retries} retries")
        if self.bad_answers:
            parts.append(many(self.bad_answers, "bad answer"))
        kept = f" ({clock(self._kept)} kept)" if self._kept >= 1 else ""
        return [*parts, clock(seconds) + kept]

    def pace(self, now: float, *, tokens: bool = True) -> list[str]:
        """How fast calls and tokens come, and how long it will take if it goes on so; what is not known is left out."""
        left = sum(number for state, number in self.states.items() if state not in _ENDED)
        left -= self.agents[BOSS].state not in _ENDED
        rest = None if self.asking or self.judging else self._speed.rest(left, now, self._begun)
        words = [f"{clock(rest)} to go if nobody else is recruited"] if rest is not None else []
        return [*self._speed.words(now, self._begun, tokens=tokens), *words]


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
        case "compacted":
            what = f"goes on with {data['after']} of {many(data['before'], 'message')}: the model takes no more"
        case "accepted":
            found = ", ".join(item["check"] for item in data["evidence"])
            what = "; ".join(filter(None, ("accepted", data["why"], found)))
        case "sent_back":
            what = f"sent back{data['by'] and ' by '}{data['by']}: {'; '.join(data['missing'])}"
        case "run_ended":
            what = "ended: " + ("all is well" if data["passed"] else "not all is well")
        case "reported" | "reminded" | "sent_back":
            missing = ", ".join(data["missing"])
            what = "; ".join(filter(None, (data.get("summary", ""), missing and f"missing: {missing}")))
            what = f"{event.kind.replace('_', ' ')}: {what}"
        case _:
            said = next((data[key] for key in ("why", "question", "answer", "error", "reason") if data.get(key)), "")
            what = event.kind.removeprefix("run_").replace("_", " ") + (f": {said}" if said else "")
    return f"{time.strftime('%H:%M:%S', time.localtime(event.time))} {who}  {one_line(what)}"


def _sum(cost: float | None, more: float | None) -> float | None:
    return None if cost is None or more is None else cost + more


def many(number: int, thing: str) -> str:
    """Such as `1 call` or `1,200 calls`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
