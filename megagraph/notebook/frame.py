"""The organisation as a small page in a sandboxed frame: folded, unfolded, searched. It can reach nothing outside."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

from megagraph.notebook.pictures import Head
from megagraph.notebook.svg import INKS, MARKS, STATES
from megagraph.outline import shown_agents
from megagraph.report.timeline import Timeline, shortened
from megagraph.view import AgentView, clean, one_line

SPANS = 12
"""Spans of a row; shorter ones are joined."""
_OPEN = 30
"""Rows that are open at first, about."""


def frame(timeline: Timeline, head: Head) -> str:
    """The frame as HTML for a notebook's output."""
    page = _page(timeline, head)
    rows = min(len(timeline.view.agents), _OPEN)
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(page)}" title="The organisation"'
        f' style="width:100%;height:{86 + 20 * rows}px;border:1px solid #e7e3db;border-radius:6px"></iframe>'
    )


def _page(timeline: Timeline, head: Head) -> str:
    folder = files("megagraph.notebook") / "assets"
    style = (folder / "outline.css").read_text(encoding="utf-8")
    script = (folder / "outline.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    kind = {True: "good", False: "bad", None: "open"}[head.passed]
    told = timeline.view.totals(timeline.end / 1000)
    data = json.dumps(_data(timeline), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<style>{style}</style><header><h1>{_text(head.goal)}</h1><b class={kind}>{_text(head.standing)}</b>"
        f"<p>{_text(' · '.join(filter(None, (told, head.note))))}</p>"
        '<span><input id=find placeholder="Filter" aria-label="Filter the agents">'
        " <button id=all>Fold / unfold</button></span></header>"
        f'<main id=rows></main><script type="application/json" id=data>{data}</script>'
        f"<script>{script}</script>"
    )


def _data(timeline: Timeline) -> dict[str, Any]:
    view, states = timeline.view, list(STATES)
    places = {name: n for n, name in enumerate(view.agents)}
    shown = shown_agents(view, _OPEN)

    def row(agent: AgentView) -> list[Any]:
        spans = [
            value
            for start, end, state in shortened(timeline.spans(agent.name), SPANS)
            for value in (start, end, states.index(state))
        ]
        tokens = agent.input_tokens + agent.output_tokens
        lead = places.get(agent.lead, -1)
        note = one_line(agent.note, 120)
        return [clean(agent.name), one_line(agent.role, 80), lead, agent.state, note, agent.calls, tokens, spans]

    return {
        "agents": [row(agent) for agent in view.agents.values()],
        "open": [places[name] for name in shown if any(member in shown for member in view.agents[name].members)],
        "end": max(1, timeline.end),
        "states": states,
        "colours": STATES,
        "inks": INKS,
        "marks": MARKS,
        "thin": ["waiting", "reported", "done"],
    }


def _text(said: str) -> str:
    return html.escape(one_line(said))


def _hash(said: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(said.encode()).digest()).decode()}'"
