"""Puts a story into the page: its data compressed, its texts as long as the page has room for."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from megagraph import __version__
from megagraph.errors import UsageError
from megagraph.report.story import FileChange, Mail, Member, Story, Turn
from megagraph.report.timeline import shortened
from megagraph.view import clean, one_line

MOST_BYTES = 1_900_000
"""Size of a page."""
SCRIPTS = ("base", "tree", "outline", "map", "mail", "files", "checks", "cost", "agent", "app")
"""Files of the page's program, in the order in which they build on one another."""

_MARK = '<meta name="generator" content="megagraph report'
_HOLE = re.compile(r"\{\{(\w+)\}\}")


class Room(NamedTuple):
    """How much of a run is told."""

    text: int
    """Characters of one text."""
    turns: int
    """Turns of one agent; of more, the ones in the middle are left out."""
    changes: int
    """Changes of one file, the newest ones."""
    spans: int = 160
    """Spans of one agent in the timeline; the shortest are joined."""


_ROOMS = (
    Room(40_000, 1000, 200),
    Room(12_000, 1000, 100),
    Room(5_000, 600, 60),
    Room(2_400, 300, 40),
    Room(1_200, 200, 20),
    Room(600, 100, 10, 80),
    Room(300, 60, 6, 60),
    Room(160, 24, 3, 40),
    Room(80, 8, 1, 24),
    Room(40, 2, 0, 12),
)


def page(story: Story, most: int = MOST_BYTES) -> str:
    """The whole page. Texts are shortened, with a note, until it has no more than about `most` bytes."""
    folder = files("megagraph.report") / "assets"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    holes = {
        "generator": html.escape(f"megagraph report {__version__}"),
        "policy": f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "title": html.escape(f"{one_line(story.facts.goal, 80)} · {story.facts.standing}"),
        "style": style,
        "script": script,
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    room = most - len(template) - sum(len(text.encode()) for text in holes.values())
    overview, texts = _fitting(story, room)
    holes |= {"overview": overview, "texts": texts}
    return _HOLE.sub(lambda hole: holes[hole[1]], template)


def write(text: str, path: Path) -> Path:
    """Write a page to a file, of which nothing is seen before it is whole.

    Raises `UsageError` where that would replace a file that is no report.
    """
    if path.exists() and not _is_report(path):
        raise UsageError(f"{path} is there already, and is no report.", "Name another file.")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}.", "Make it, or name another file.")
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return path


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _MARK.encode() in file.read(4096)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _fitting(story: Story, most: int) -> tuple[str, str]:
    """The overview and the texts, packed, as long as there is room for."""
    packed, ratio = ("", ""), 0.1
    for room in _ROOMS:
        texts = _json(_texts(story, room))
        # What would be far too long, by what compression made of the last try, is not tried.
        if len(texts) * ratio * 0.8 > most and room is not _ROOMS[-1]:
            continue
        packed = _pack(_json(_overview(story, room))), _pack(texts)
        ratio = len(packed[1]) / len(texts)
        if sum(map(len, packed)) <= most:
            break
    return packed


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _pack(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _shown(text: str, most: int) -> str:
    """The text, harmless to look at; of a long one the beginning and the end, and how much lies between."""
    if len(text) > most + 40:
        left = len(text) - most
        head = most * 2 // 3
        text = f"{text[:head]}\n[… {left:,} characters left out …]\n{text[head + left :]}"
    return clean(text)


def _overview(story: Story, room: Room) -> dict[str, Any]:
    """What is shown at first: the run, its agents in time, its checks."""
    facts = vars(story.facts) | {
        "goal": _shown(story.facts.goal, 4000),
        "reason": _shown(story.facts.reason, 600),
        "not_done": [_shown(text, 400) for text in story.facts.not_done[:200]],
        "scenario": clean(story.facts.scenario),
        "model": clean(story.facts.model),
    }
    return {
        "run": facts,
        "report": _shown(story.report, 6000),
        "agents": [_member(member, room) for member in story.members],
        "checks": [
            {"name": _shown(v.check, 300), "passed": v.passed, "detail": _shown(v.detail, 4000)} for v in story.verdicts
        ],
        "questions": [
            {
                "agent": q.agent,
                "question": _shown(q.question, 2000),
                "answer": None if q.answer is None else _shown(q.answer, 2000),
            }
            for q in story.questions
        ],
        "letters": len(story.mail),
        "files": sum(file.size is not None for file in story.files),
    }


def _member(member: Member, room: Room) -> dict[str, Any]:
    line = max(100, min(room.text, 300))
    return vars(member) | {
        "role": one_line(member.role, line),
        "note": one_line(member.note, line),
        "spans": shortened(member.spans, room.spans),
        "cost": None if member.cost is None else round(member.cost, 6),
        "thinking": round(member.thinking, 2),
    }


def _texts(story: Story, room: Room) -> dict[str, Any]:
    """What is read on: conversations, letters, files."""

    def shown(text: str) -> str:
        return _shown(text, room.text)

    return {
        "mail": [_letter(letter, shown) for letter in story.mail],
        "files": [
            {
                "path": _shown(file.path, 1100),
                "size": file.size,
                "count": len(file.changes),
                "changes": [_change(change, shown) for change in file.changes[: room.changes]],
            }
            for file in story.files
        ],
        "older_changes": story.older_changes,
        "reports": {place: shown(text) for place, text in story.reports.items()},
        "turns": {place: _turns(turns, room, shown) for place, turns in story.turns.items()},
        "cut_at": room.text,
    }


def _letter(letter: Mail, shown: Callable[[str], str]) -> list[Any]:
    return [letter.sender, clean(letter.by), letter.to, letter.kind, letter.sent, shown(letter.text)]


def _change(change: FileChange, shown: Callable[[str], str]) -> dict[str, Any]:
    return vars(change) | {"patch": shown(change.patch)}


def _turns(turns: list[Turn], room: Room, shown: Callable[[str], str]) -> list[Any]:
    """The turns, with the number of those left out where some are."""
    if len(turns) <= room.turns:
        return [_turn(turn, shown) for turn in turns]
    head = (room.turns + 1) // 2
    tail = turns[len(turns) - (room.turns - head) :] if room.turns > head else []
    return [
        *(_turn(turn, shown) for turn in turns[:head]),
        len(turns) - head - len(tail),
        *(_turn(turn, shown) for turn in tail),
    ]


def _turn(turn: Turn, shown: Callable[[str], str]) -> dict[str, Any]:
    return {
        "step": turn.step,
        "at": turn.at,
        "seconds": round(turn.seconds, 2),
        "model": clean(turn.model),
        "in": turn.input_tokens,
        "out": turn.output_tokens,
        "cost": turn.cost,
        "retries": turn.retries,
        "heard": [shown(text) for text in turn.heard],
        "mail": turn.mail,
        "said": shown(turn.said),
        "calls": [
            [
                _shown(call.tool, 80),
                [[_shown(name, 80), shown(text)] for name, text in call.args],
                call.ok,
                shown(call.result),
                round(call.seconds, 2),
            ]
            for call in turn.calls
        ],
    }
