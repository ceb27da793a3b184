"""What happened in a run as tables: shown as they are by a notebook, and taken by pandas, which is not needed."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from megagraph.journal import load_answer
from megagraph.view import View, many, one_line

if TYPE_CHECKING:
    import pandas

    from megagraph.branches.comparison import Comparison
    from megagraph.files.workspace import Workspace
    from megagraph.ledger import Ledger

SHOWN = 20
"""Rows that a notebook shows of a table."""

_STYLE = "text-align:left;vertical-align:top;max-width:32em;overflow-wrap:anywhere"


class Table(Sequence[dict[str, Any]]):
    """Rows with the same columns. `pandas.DataFrame(table)` and `table.to_pandas()` make a data frame of it."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.columns = tuple(columns)
        self._rows = [dict(zip(self.columns, row, strict=True)) for row in rows]

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Table: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Table:
        if isinstance(index, int):
            return dict(self._rows[index])
        return Table(self.columns, (tuple(row.values()) for row in self._rows[index]))

    def __len__(self) -> int:
        return len(self._rows)

    def records(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries."""
        return [dict(row) for row in self._rows]

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame, with all columns even where there is no row. Needs pandas: the extra `notebook`."""
        import pandas

        return pandas.DataFrame(self.records(), columns=list(self.columns))

    def text(self) -> str:
        """The first rows as plain text."""
        rows = [self.columns, *([one_line(_plain(value), 60) for value in row.values()] for row in self._rows[:SHOWN])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join([*map(str.rstrip, lines), self._size()])

    def _size(self) -> str:
        return f"{SHOWN} of {len(self):,} rows" if len(self) > SHOWN else many(len(self), "row")

    def __repr__(self) -> str:
        return f"<Table of {len(self):,} rows: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="{_STYLE}">{html.escape(name)}</th>' for name in self.columns)
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="{_STYLE}">{html.escape(one_line(_plain(value), 160))}</td>' for value in row.values()
            )
            + "</tr>"
            for row in self._rows[:SHOWN]
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{self._size()}</p>"


def agents(ledger: Ledger) -> Table:
    """Every agent: where it stands, what it used, what it has reported."""
    view, used = View.of(ledger.events()), ledger.used_by()
    times = {row["name"]: row for row in _rows(ledger, "SELECT name, recruited, reported FROM agents WHERE run = ?")}
    costs = _costs(ledger)

    def row(name: str, lead: str, role: str, depth: int, summary: str | None) -> list[Any]:
        seen, use, at = view.agents.get(name), used.get(name), times[name]
        return [
            name,
            lead,
            role,
            depth,
            seen.state if seen else "waiting",
            seen.accepted if seen else False,
            use.calls if use else 0,
            use.input_tokens if use else 0,
            use.output_tokens if use else 0,
            costs.get(name, 0.0),
            _time(at["recruited"]),
            _time(at["reported"]),
            summary,
        ]

    columns = ("agent", "lead", "role", "level", "state", "accepted", "calls", "input_tokens", "output_tokens")
    return Table(
        (*columns, "cost_usd", "recruited", "reported", "summary"),
        (
            row(spec.name, spec.lead, spec.role, spec.depth, report.summary if report else None)
            for spec, report, _ in ledger.agents()
        ),
    )


def calls(ledger: Ledger) -> Table:
    """Every answered model call, in the order of their beginnings."""
    columns = ("agent", "step", "started", "seconds", "model", "input_tokens", "output_tokens", "cached_tokens")
    rows = _rows(
        ledger, f"SELECT {', '.join(columns)}, cost, retries, answer FROM calls WHERE run = ? ORDER BY started"
    )

    def row(found: Any) -> list[Any]:
        answer = load_answer(json.loads(found["answer"]))
        asked = ", ".join(call["name"] for call in answer.tool_calls)
        values = [_time(found[name]) if name == "started" else found[name] for name in columns]
        return [*values, found["cost"], found["retries"], asked, answer.text]

    return Table((*columns, "cost_usd", "retries", "tools", "text"), map(row, rows))


def letters(ledger: Ledger) -> Table:
    """Every letter, in the order in which they were sent."""
    rows = _rows(
        ledger, "SELECT id, sender, recipient, kind, sent, text FROM letters WHERE run = ? ORDER BY sent, rowid"
    )
    columns = ("letter", "sender", "recipient", "kind", "sent", "text")
    return Table(columns, ([*list(row)[:4], _time(row["sent"]), row["text"]] for row in rows))


def files(workspace: Workspace, version: str | None = None) -> Table:
    """Every file: its path, its size in bytes, and who changed it last."""
    entries = workspace.files(version=version)
    return Table(("path", "bytes", "last_agent"), ((entry.path, entry.size, entry.last_agent) for entry in entries))


def comparison(compared: Comparison) -> Table:
    """Two runs side by side: how they stand, what they cost, their checks, and which agents and files differ."""
    told = compared.dump()
    one, other = told["runs"]
    names = ("status", "passed", "calls", "kept_calls", "tokens", "cost_usd", "seconds")
    rows: list[Sequence[Any]] = [(name.replace("_", " "), *told[name]) for name in names]
    rows += [(f"check: {check}", _verdict(was), _verdict(now)) for check, was, now in compared.verdicts]
    for agent in compared.agents:
        what = ", ".join(agent.what)
        was, now = agent.calls
        rows.append((f"agent: {agent.name} ({what})", many(was, "call"), many(now, "call")))
    rows.append(("agents that are the same", compared.same_agents, compared.same_agents))
    rows += [(f"file: {path}", "", status) for path, status in compared.files]
    return Table(("what", f"first: {one[:8]}", f"second: {other[:8]}"), rows)


def _verdict(passed: bool | None) -> str:
    return "not judged" if passed is None else "passed" if passed else "failed"


def _costs(ledger: Ledger) -> Mapping[str, float | None]:
    """US dollars by agent; None where the price of one of its calls is not known."""
    rows = _rows(
        ledger,
        "SELECT agent, sum(cost) AS cost, count(*) = count(cost) AS known FROM calls WHERE run = ? GROUP BY agent",
    )
    return {row["agent"]: row["cost"] if row["known"] else None for row in rows}


def _rows(ledger: Ledger, sql: str) -> list[Any]:
    return list(ledger.database.read(sql, (ledger.run,)))


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _plain(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}"
        case datetime():
            return value.strftime("%H:%M:%S")
        case _:
            return str(value)
