"""Draws the pictures of docs/concepts from a run of the tutorial's scenario. Run it with `make docs`."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from langchain_core.runnables.graph import Graph

from megagraph import MegaGraph, Run
from megagraph.branches.history import Step
from megagraph.scenario import find_scenario
from megagraph.team import agent_graph

DOCS = Path(__file__).parent
FOLDER = DOCS / "pictures"
AT = "coder:think#1"
"""The step at which the branch of cut.svg begins; the tutorial branches there too."""

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933 }
.name { font-weight: 600 } .small { font-size: 11px; fill: #52606d }
.agent { fill: #fff; stroke: #52606d } .team { fill: #eef2f7; stroke: #9aa5b1; stroke-dasharray: 4 3 }
.node { fill: #dbeafe; stroke: #3b82f6 } .kept { fill: #d1fae5; stroke: #059669 }
.again { fill: #fee2e2; stroke: #dc2626 } .edge { fill: none; stroke: #334e68; stroke-width: 1.5 }
"""
_GAP = 14
_PILL = (52, 24)


@dataclass
class Box:
    """A part of the picture: what is drawn at its own origin, and how large it is."""

    width: float
    height: float
    inside: list[str] = field(default_factory=list)

    def put(self, other: Box, x: float, y: float) -> None:
        self.inside.append(f'<g transform="translate({x:g} {y:g})">{"".join(other.inside)}</g>')


def grown(graph: Graph) -> str:
    """A graph of an organisation as it has grown, its teams as boxes within boxes."""
    return _svg(_agent(graph, "", "boss"), "The graph of the organisation")


def _agent(graph: Graph, prefix: str, name: str) -> Box:
    """One agent: its nodes in a row, and below them its team, if one has grown."""
    nodes = [n for n in ("think", "act", "wait") if f"{prefix}{n}" in graph.nodes]
    row = Box(len(nodes) * (_PILL[0] + 8) - 8, _PILL[1])
    for i, node in enumerate(nodes):
        row.put(_pill(node, "node", *_PILL), i * (_PILL[0] + 8), 0)
    team = _team(graph, f"{prefix}team:")
    parts = [row, *([team] if team else [])]
    box = Box(max(part.width for part in parts) + 2 * _GAP, 30 + sum(part.height + _GAP for part in parts))
    box.inside.append(f'<rect class="agent" width="{box.width:g}" height="{box.height:g}" rx="8"/>')
    box.inside.append(f'<text class="name" x="{_GAP}" y="20">{escape(name)}</text>')
    y = 30.0
    for part in parts:
        box.put(part, _GAP, y)
        y += part.height + _GAP
    return box


def _team(graph: Graph, prefix: str) -> Box | None:
    """A team: those who start at once on the left, each dependent to the right of those it depends on."""
    inside = (id_[len(prefix) :].split(":") for id_ in graph.nodes if id_.startswith(prefix))
    names = list(dict.fromkeys(parts[0] for parts in inside if len(parts) > 1))
    if not names:
        return None
    before = {name: list(_depends_on(graph, prefix, name)) for name in names}
    columns: dict[int, list[str]] = {}
    for name in names:
        columns.setdefault(_column(before, name), []).append(name)
    boxes = {name: _agent(graph, f"{prefix}{name}:", name) for name in names}
    team, x = Box(0, 0), float(_GAP)
    places: dict[str, tuple[float, float]] = {}
    for _, members in sorted(columns.items()):
        y = 30.0
        for name in members:
            places[name] = (x, y)
            y += boxes[name].height + _GAP
        team.height = max(team.height, y)
        x += max(boxes[name].width for name in members) + 3 * _GAP
    team.width = x - 2 * _GAP
    team.inside.append(f'<rect class="team" width="{team.width:g}" height="{team.height:g}" rx="8"/>')
    team.inside.append(f'<text class="small" x="{_GAP}" y="19">team</text>')
    for name, (left, top) in places.items():
        team.put(boxes[name], left, top)
        for other in before[name]:
            start = places[other][0] + boxes[other].width, places[other][1] + 20
            team.inside.append(_arrow(*start, left, top + 20))
    return team


def _depends_on(graph: Graph, prefix: str, name: str) -> Iterator[str]:
    for edge in graph.edges:
        if edge.target == f"{prefix}{name}:__start__" and edge.source.endswith(":__end__"):
            yield edge.source.removeprefix(prefix).removesuffix(":__end__")


def _column(before: Mapping[str, Sequence[str]], name: str) -> int:
    return max((1 + _column(before, other) for other in before[name]), default=0)


def cut(run: Run, again: Mapping[str, str], removed: Collection[str], at: str) -> str:
    """The model calls of every agent, a row each, and which of them a branch at a step does without."""
    steps = run.history()
    agents = list(dict.fromkeys(step.agent for step in steps))
    columns = _columns(run, steps)
    wide, high = 62, 44
    box = Box(70 + wide * (1 + max(columns.values())), high * len(agents) + 34)
    left_out: set[str] = set()
    for step in sorted(steps, key=lambda step: (columns[step.address], step.agent, step.number)):
        y = high * agents.index(step.agent)
        if step.address == again.get(step.agent) or step.agent in removed:
            left_out.add(step.agent)
        if step.kind == "think":
            pill = _pill(f"call {step.number}", "again" if step.agent in left_out else "kept", wide - 8, _PILL[1])
            box.put(pill, 70 + wide * columns[step.address], y + 6)
    box.inside += [
        f'<text class="name" x="0" y="{high * i + 23}">{escape(name)}</text>' for i, name in enumerate(agents)
    ]
    foot = f"A branch at {at}: green is kept, red is not; what leads to what goes to the right."
    box.inside.append(f'<text class="small" x="0" y="{box.height - 8:g}">{escape(foot)}</text>')
    return _svg(box, foot)


def _columns(run: Run, steps: Sequence[Step]) -> dict[str, int]:
    """How far to the right each step stands, `act` at its call: behind all that it followed from, in every run."""
    depends_on = {spec.name: spec.depends_on for spec, _, _ in run.ledger.agents()}
    columns: dict[str, int] = {}
    done: list[Step] = []
    for step in steps:
        first = all(other.agent != step.agent for other in done)
        before = max((columns[s.address] for s in done if _leads_to(s, step, first, depends_on)), default=-1)
        columns[step.address] = before + (step.kind == "think")
        done.append(step)
    return columns


def _leads_to(before: Step, step: Step, first: bool, depends_on: Mapping[str, Sequence[str]]) -> bool:
    started = step.agent in before.recruited or (before.reported and before.agent in depends_on[step.agent])
    return before.agent == step.agent or bool({*before.sent} & {*step.read}) or (first and started)


def _pill(text: str, style: str, width: float, height: float) -> Box:
    rect = f'<rect class="{style}" width="{width:g}" height="{height:g}" rx="6"/>'
    middle = f'x="{width / 2:g}" y="{height / 2 + 4:g}" text-anchor="middle"'
    return Box(width, height, [rect, f'<text class="small" {middle}>{escape(text)}</text>'])


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (x + to_x) / 2
    line = f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"
    return f'<path class="edge" d="{line}"/><path class="edge" d="M{to_x - 6:g} {to_y - 4:g}l6 4l-6 4"/>'


def _svg(box: Box, title: str) -> str:
    width, height = box.width + 4, box.height + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width:g} {height:g}" width="{width:g}">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>\n"
        f'<rect x="-2" y="-2" width="100%" height="100%" fill="#fff"/>\n{"".join(box.inside)}\n</svg>\n'
    )


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows: those of its code blocks whose first line is a comment with a path."""
    for path, text in re.findall(
        r"^```\w+\n# (\S+/\S+\.\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


async def draw(folder: Path) -> dict[str, str]:
    """The pictures by name, from the tutorial's scenario at work in `folder`."""
    write_files(DOCS / "tutorial.md", folder)
    pictures = {"agent.svg": grown(agent_graph().get_graph(xray=True))}
    scenario = find_scenario(str(folder / "convert"))
    assert scenario is not None
    async with MegaGraph("rehearsal", home=folder / "home", unsafe_programs=True) as mega:
        run = await mega.start(scenario)
        result = await run.result()
        assert result.passed, result
        pictures["grown.svg"] = grown(run.graph().get_graph(xray=True))
        plan = await run.plan_branch(AT)
        pictures["cut.svg"] = cut(run, plan.again, plan.removed, AT)
    return pictures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in asyncio.run(draw(Path(temporary))).items():
            (FOLDER / name).write_text(text, encoding="utf-8")
