"""What agents are told: plain Markdown files with `${fields}`, and `tools.yaml` with the words for their tools.

A file of the same name in a scenario's or the home's `prompts` folder takes the place of the package's; of
`tools.yaml`, single entries do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from megagraph.errors import UsageError
from megagraph.specs import AgentSpec, Report

NAMES = ("system", "boss", "task", "reviewer", "review")


@dataclass(frozen=True)
class ToolText:
    """What agents are told about a tool. Arguments of the objects in a list are named `list.argument`."""

    description: str
    arguments: Mapping[str, str]


class Prompts:
    """The prompts of one run. `folders` are looked through first to last, then the package's own."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._templates = {name: Template(_find(f"{name}.md", folders) or _packaged(f"{name}.md")) for name in NAMES}
        self.tools = _tool_texts("tools.yaml", folders)
        """The tools that agents have, and what they are told about them."""
        self.reviewer_tools = _tool_texts("reviewer_tools.yaml", folders)
        """What reviewers are told about theirs."""

    def system(self, spec: AgentSpec) -> str:
        """Who the agent is and how the organisation works. The same for its whole life."""
        lead = f"Your lead is `{spec.lead}`.\n" if spec.lead else "You lead the whole organisation.\n"
        return self._fill("system", name=spec.name, role=spec.role, lead_line=lead)

    def task(self, spec: AgentSpec, goal: str, mates: Sequence[AgentSpec], inputs: Mapping[str, Report | None]) -> str:
        """What the agent is to do, whom it works with, and what the ones it waited for have reported."""
        if not spec.lead:
            return self._fill("boss", goal=goal)
        team = "".join(f"- {m.name}: {m.role}{_owes(m)}\n" for m in mates)
        reports = "\n".join(_input(name, report) for name, report in inputs.items())
        return self._fill(
            "task",
            goal_line=_first_line(goal),
            instructions=spec.instructions,
            deliverables=(", ".join(spec.deliverables) or "a report") + _asked(spec),
            team=f"\nYour team mates:\n{team}" if team else "",
            inputs=f"\nWhat you waited for is there:\n{reports}" if reports else "",
        )

    def reviewer(self, agent: str) -> str:
        """Who reviews an agent's work, and how."""
        return self._fill("reviewer", agent=agent)

    def review(self, goal: str, criteria: str, files: Sequence[str]) -> str:
        """What is to be reviewed."""
        return self._fill("review", goal_line=_first_line(goal), criteria=criteria, files=", ".join(files) or "all")

    def _fill(self, template: str, **fields: str) -> str:
        return self._templates[template].safe_substitute(fields).strip()


def _first_line(goal: str) -> str:
    return goal.strip().splitlines()[0][:300] if goal.strip() else ""


def _asked(spec: AgentSpec) -> str:
    """The checks that the agent's work has to pass, a line each."""
    if not spec.checks:
        return ""
    return "\n\nBefore it is accepted, this is checked:\n" + "\n".join(
        f"- {json.dumps(check, ensure_ascii=False)}" for check in spec.checks
    )


def _owes(spec: AgentSpec) -> str:
    return f" (delivers {', '.join(spec.deliverables)})" if spec.deliverables else ""


def _input(name: str, report: Report | None) -> str:
    if report is None:
        return f"- {name} was dismissed; do without its work."
    return f"- {name} reports: " + report.text().replace("\n", "\n  ")


def _tool_texts(file: str, folders: Sequence[Path]) -> dict[str, ToolText]:
    entries: dict[str, Any] = yaml.safe_load(_packaged(file))
    for folder in reversed(folders):
        path = folder / file
        try:
            own = yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}
            for name, entry in own.items():
                entries[name] = entry and {
                    "description": entry.get("description", entries.get(name, {}).get("description")),
                    "arguments": {**entries.get(name, {}).get("arguments", {}), **entry.get("arguments", {})},
                }
        except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
            raise UsageError(f"{path} does not fit: {' '.join(str(error).split())[:300]}.") from error
    return {name: ToolText(entry["description"], entry["arguments"]) for name, entry in entries.items() if entry}


def _find(file: str, folders: Sequence[Path]) -> str | None:
    for folder in folders:
        path = folder / file
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"the prompt {path} cannot be read ({error}).") from error
    return None


@cache
def _packaged(file: str) -> str:
    return (resources.files("megagraph") / "prompts" / file).read_text(encoding="utf-8")
