"""What a judge is told of how the delivered files came about: `run.json`, beside the judge's own file.

It is a copy for reading. Times are seconds since 1970; an agent's steps are its model calls, counted from 1.

    parameters   the scenario's parameters, by name
    agents       name, lead, role, depth, recruited; report (summary, artefacts, missing, failed) or null, reported
    changes      of the files, oldest first: path, agent, step, time, commit; step is null where no agent did it
    letters      oldest first: id, from, to, kind, text, sent; read, the step at which it was read, or null
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megagraph.files.workspace import Workspace
from megagraph.ledger import Ledger
from megagraph.scenario import Scenario

RECORD = "run.json"

_EFFECT = re.compile(r"(?P<agent>[^/]+)/(?P<step>\d+)/\d+")


def write_record(path: Path, scenario: Scenario, ledger: Ledger, workspace: Workspace) -> None:
    """Write what the run did so far to a file."""
    record = {
        "parameters": dict(scenario.parameters),
        "agents": list(_agents(ledger)),
        "changes": list(_changes(ledger, workspace)),
        "letters": list(_letters(ledger)),
    }
    path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def _agents(ledger: Ledger) -> Iterator[dict[str, Any]]:
    rows = ledger.database.read(
        "SELECT name, lead, role, depth, recruited, report, reported FROM agents WHERE run = ? ORDER BY rowid",
        (ledger.run,),
    )
    for row in rows:
        yield {**dict(row), "report": json.loads(row["report"]) if row["report"] else None}


def _changes(ledger: Ledger, workspace: Workspace) -> Iterator[dict[str, Any]]:
    """Commits know their second only; the tool call that made one knows it to the millisecond."""
    rows = ledger.database.read(
        "SELECT agent || '/' || step || '/' || idx AS effect, started + seconds AS time FROM tool_calls WHERE run = ?",
        (ledger.run,),
    )
    times = {row["effect"]: row["time"] for row in rows}
    for change in reversed(workspace.log()):
        step = _EFFECT.fullmatch(change.effect)
        for path in change.paths:
            yield {
                "path": path,
                "agent": change.agent,
                "step": int(step["step"]) if step else None,
                "time": times.get(change.effect, change.time.timestamp()),
                "commit": change.commit,
            }


def _letters(ledger: Ledger) -> Iterator[dict[str, Any]]:
    read_at = ledger.read_at()
    rows = ledger.database.read(
        "SELECT id, sender, recipient, kind, text, sent FROM letters WHERE run = ? ORDER BY rowid", (ledger.run,)
    )
    for row in rows:
        yield {
            "id": row["id"],
            "from": row["sender"],
            "to": row["recipient"],
            "kind": row["kind"],
            "text": row["text"],
            "sent": row["sent"],
            "read": read_at.get(row["id"]),
        }
