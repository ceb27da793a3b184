"""What one run did, as rows: its agents, model calls, tool calls, letters, questions and events.

A model call's row is its journal: it is committed before the answer is used, and found again after a crash.
A tool call's row is committed together with what the call changed here (recruits, letters, reports), so that
either both are there or neither.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from langchain_core.messages import AIMessage

from megagraph.approvals import EVERYONE
from megagraph.database import Database, Statement
from megagraph.events import TOLD, TOLD_OF_LETTERS, Event, EventKind, shortened
from megagraph.journal import CallRow, ToolRow, dump_answer, effects_of, load_answer, load_shortened
from megagraph.limits import Use
from megagraph.packing import Packed
from megagraph.specs import AgentSpec, Evidence, Letter, LetterKind, Report
from megagraph.text import to_json

QuestionKind = Literal["question", "approval"]
"""`approval`: what is answered by yes or no before something is done."""


_IN_ROWS: Mapping[EventKind, Collection[str]] = {
    "letter": ("to", "about", "text"),
    "tool_started": ("args",),
    "tool": ("ok", "seconds", "result"),
    "thought": ("seconds", "input_tokens", "output_tokens", "cost", "calls", "text"),
}
"""What is not kept with an event, since another row has it."""

_EVENTS = f"""
SELECT e.seq, e.time, e.kind, e.agent, e.data,
    l.recipient, l.kind AS about, substr(l.text, 1, {TOLD_OF_LETTERS}) AS text,
    t.ok, t.seconds AS worked, CASE e.kind WHEN 'tool' THEN substr(t.result, 1, {TOLD}) END AS result,
    CASE e.kind WHEN 'tool_started' THEN t.args END AS args,
    c.seconds AS thought, c.input_tokens, c.output_tokens, c.cost, c.answer
FROM events e
LEFT JOIN letters l ON e.kind = 'letter' AND l.run = e.run AND l.id = json_extract(e.data, '$.letter')
LEFT JOIN tool_calls t ON e.kind IN ('tool', 'tool_started') AND t.run = e.run AND t.agent = e.agent
    AND t.step = json_extract(e.data, '$.step') AND t.idx = json_extract(e.data, '$.index')
LEFT JOIN calls c ON (e.kind = 'thought' OR e.kind = 'tool_started' AND t.run IS NULL)
    AND c.run = e.run AND c.agent = e.agent AND c.step = json_extract(e.data, '$.step')
"""

_AT_WORK = """
EXISTS (SELECT 1 FROM agents a WHERE a.run = c.run AND a.name = c.agent AND (a.closed IS NULL OR a.lead = ''))
"""
"""Whether it is an agent's, and no reviewer's, that is the boss or has not come to its end."""

_LETTERS = "SELECT id, sender, recipient, kind, text, settles FROM letters"


class Ledger:
    """The rows of one run."""

    def __init__(self, database: Database, run: str) -> None:
        self.database = database
        self.run = run

    # --- the run -----------------------------------------------------------------------------------------

    def update_run(self, **columns: Any) -> Statement:
        names = ", ".join(f"{name} = ?" for name in columns)
        return f"UPDATE runs SET {names} WHERE run = ?", (*columns.values(), self.run)

    # --- agents ------------------------------------------------------------------------------------------

    def recruited(self, spec: AgentSpec, effect: str) -> Statement:
        return (
            "INSERT OR IGNORE INTO agents (run, name, lead, role, depth, wave, spec, effect, recruited)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.run,
                spec.name,
                spec.lead,
                spec.role,
                spec.depth,
                spec.wave,
                to_json(spec.dump()).decode(),
                effect,
                time.time(),
            ),
        )

    def reported(self, name: str, report: Report) -> Statement:
        return (
            "UPDATE agents SET report = ?, reported = ? WHERE run = ? AND name = ?",
            (to_json(report.dump()).decode(), time.time(), self.run, name),
        )

    def inside(self, name: str, teams: int) -> Statement:
        """Note how many teams of its lead an agent's own is inside of."""
        return (
            "UPDATE agents SET spec = json_set(spec, '$.inside', ?) WHERE run = ? AND name = ?",
            (teams, self.run, name),
        )

    def revised(self, name: str, old: Report, new: Report) -> Statement:
        """Put another judgement on an agent's report in the place of the old one, if that is still its last report."""
        sql, values = self.reported(name, new)
        return f"{sql} AND json(report) = json(?)", (*values, to_json(old.dump()).decode())

    def rested(self, name: str, step: int) -> Statement:
        """Note that an agent that had reported has nothing to hand in after this turn, and waits."""
        return "UPDATE agents SET rested = ? WHERE run = ? AND name = ?", (step, self.run, name)

    def rested_at(self) -> dict[str, int]:
        """The last turn after which each agent rested without another report."""
        rows = self.database.read("SELECT name, rested FROM agents WHERE run = ? AND rested IS NOT NULL", (self.run,))
        return {row["name"]: row["rested"] for row in rows}

    def closed(self, names: Sequence[str]) -> list[Statement]:
        now = time.time()
        sql = "UPDATE agents SET closed = ? WHERE run = ? AND name = ? AND closed IS NULL"
        return [(sql, (now, self.run, name)) for name in names]

    def agents(self) -> list[tuple[AgentSpec, Report | None, bool]]:
        """(spec, last report, closed) of each agent, leads before their members."""
        rows = self.database.read("SELECT spec, report, closed FROM agents WHERE run = ? ORDER BY rowid", (self.run,))
        return [(*_agent(row), row["closed"] is not None) for row in rows]

    async def report_of(self, name: str) -> Report | None:
        """The last report of an agent."""
        rows = await self.database.read_async(
            "SELECT report FROM agents WHERE run = ? AND name = ? AND report IS NOT NULL", (self.run, name)
        )
        return Report.load(json.loads(rows[0]["report"])) if rows else None

    async def around(self, name: str) -> tuple[AgentSpec, list[tuple[AgentSpec, Report | None]]] | None:
        """An agent, and those it depends on; where it depends on nobody, its team mates and its own recruits.

        With each is its last report. None where there is no such agent.
        """
        read, these = self.database.read_async, "SELECT spec, report FROM agents WHERE run = ? AND"
        rows = await read(f"{these} name = ?", (self.run, name))
        if not rows:
            return None
        spec, _ = _agent(rows[0])
        if spec.depends_on:
            others = to_json(spec.depends_on).decode()
            rows = await read(f"{these} name IN (SELECT value FROM json_each(?))", (self.run, others))
        else:
            teams = (self.run, spec.lead, name, name)
            rows = await read(f"{these} lead IN (?, ?) AND lead != '' AND name != ? ORDER BY rowid", teams)
        return spec, list(map(_agent, rows))

    async def over(self) -> set[str]:
        """The recruits whose work is over."""
        rows = await self.database.read_async(
            "SELECT name FROM agents WHERE run = ? AND closed IS NOT NULL AND lead != ''", (self.run,)
        )
        return {row["name"] for row in rows}

    def not_done(self) -> list[str]:
        """The recruits that handed in nothing, or nothing that was accepted, each with the reason."""
        found = []
        for spec, report, _ in self.agents():
            if not spec.lead or (report and report.accepted):
                continue
            if report is None:
                why = "dismissed before it reported"
            else:
                why = report.summary if report.failed else "missing: " + ", ".join(report.lacks)
            found.append(f"{spec.name} ({' '.join(spec.role.split())}): {' '.join(why.split())[:300]}")
        return found

    # --- model calls -------------------------------------------------------------------------------------

    def call(
        self,
        row: CallRow,
        *,
        started: float,
        seconds: float,
        model: str,
        request: str,
        retries: int,
        cost: float | None = None,
    ) -> Statement:
        usage = row.answer.usage_metadata
        details = (usage.get("input_token_details") or {}) if usage else {}
        return (
            "INSERT INTO calls (run, agent, step, started, seconds, model, request, heard, letters, answer,"
            " input_tokens, output_tokens, cached_tokens, retries, cost, shortened)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                self.run,
                row.agent,
                row.step,
                started,
                seconds,
                model,
                request,
                to_json(row.heard).decode(),
                to_json(row.letters).decode(),
                to_json(dump_answer(row.answer)).decode(),
                usage["input_tokens"] if usage else 0,
                usage["output_tokens"] if usage else 0,
                details.get("cache_read", 0),
                retries,
                cost,
                to_json(asdict(row.shortened)).decode() if row.shortened else None,
            ),
        )

    def journal(self) -> set[tuple[str, int]]:
        """(agent, step) of every answered call, of those who may call again."""
        rows = self.database.read(f"SELECT agent, step FROM calls c WHERE run = ? AND {_AT_WORK}", (self.run,))
        return {(row["agent"], row["step"]) for row in rows}

    async def answered(self, agent: str, step: int) -> CallRow:
        """The journalled call of `agent` at `step`, which must be there."""
        return await asyncio.to_thread(self.call_at, agent, step)

    async def kept(self, agent: str, step: int) -> CallRow | None:
        """The journalled call of `agent` at `step`, if there is one."""
        try:
            return await self.answered(agent, step)
        except IndexError:
            return None

    def call_at(self, agent: str, step: int) -> CallRow:
        """`answered`, for a thread. Raises `IndexError` where there is no such call."""
        row = self.database.read(
            "SELECT heard, letters, answer, shortened FROM calls WHERE run = ? AND agent = ? AND step = ?",
            (self.run, agent, step),
        )[0]
        return _call(agent, step, row)

    # --- tool calls --------------------------------------------------------------------------------------

    def tool_call(
        self, row: ToolRow, *, args: Mapping[str, Any], started: float, seconds: float, version: str
    ) -> Statement:
        return (
            "INSERT OR IGNORE INTO tool_calls (run, agent, step, idx, tool, args, started, seconds, ok, result,"
            " effects, version) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                self.run,
                row.agent,
                row.step,
                row.index,
                row.tool,
                to_json(args).decode(),
                started,
                seconds,
                int(row.ok),
                row.result,
                Packed(to_json(row.effects)),
                version,
            ),
        )

    def turns(self, agent: str, first: int, last: int) -> list[tuple[CallRow, list[tuple[str, str, str]]]]:
        """The turns of an agent from one step to another, with tool, arguments and result of each tool call.

        Arguments are JSON. Blocks.
        """
        of = self.run, agent, first, last
        done: dict[int, list[tuple[str, str, str]]] = {}
        for row in self.database.read(
            "SELECT step, tool, args, result FROM tool_calls WHERE run = ? AND agent = ? AND step BETWEEN ? AND ?"
            " ORDER BY step, idx",
            of,
        ):
            done.setdefault(row["step"], []).append((row["tool"], row["args"], row["result"]))
        calls = self.database.read(
            "SELECT step, heard, letters, answer, shortened FROM calls"
            " WHERE run = ? AND agent = ? AND step BETWEEN ? AND ? ORDER BY step",
            of,
        )
        return [(_call(agent, row["step"], row), done.get(row["step"], [])) for row in calls]

    def done_steps(self) -> set[tuple[str, int]]:
        """(agent, step) of every turn of which at least one tool call has finished, of those who may call again."""
        rows = self.database.read(
            f"SELECT DISTINCT agent, step FROM tool_calls c WHERE run = ? AND {_AT_WORK}", (self.run,)
        )
        return {(row["agent"], row["step"]) for row in rows}

    async def finished(self, agent: str, step: int) -> dict[int, ToolRow]:
        """The finished tool calls of one turn, by their place in it."""
        rows = await self.database.read_async(
            "SELECT idx, tool, ok, result, effects FROM tool_calls WHERE run = ? AND agent = ? AND step = ?",
            (self.run, agent, step),
        )
        return {
            row["idx"]: ToolRow(
                agent,
                step,
                row["idx"],
                row["tool"],
                bool(row["ok"]),
                row["result"],
                effects_of(row["effects"]),
            )
            for row in rows
        }

    def result(self, agent: str, step: int, index: int) -> ToolRow:
        """A finished tool call. Raises `IndexError` where there is none. Blocks."""
        row = self.database.read(
            "SELECT tool, ok, result, effects FROM tool_calls WHERE run = ? AND agent = ? AND step = ? AND idx = ?",
            (self.run, agent, step, index),
        )[0]
        return ToolRow(agent, step, index, row["tool"], bool(row["ok"]), row["result"], effects_of(row["effects"]))

    async def looks(self, agent: str) -> list[tuple[str, str, str]]:
        """(tool, path, version) of each file that `agent` has read and each program that it has run.

        The path of a program is empty: it is given all files of the version.
        """
        rows = await self.database.read_async(
            "SELECT tool, effects FROM tool_calls WHERE run = ? AND agent = ? AND ok"
            " AND tool IN ('read_file', 'run_program', 'start_program') ORDER BY step, idx",
            (self.run, agent),
        )
        found = []
        for row in rows:
            effects = effects_of(row["effects"])
            if row["tool"] == "read_file":
                found += [(row["tool"], path, version) for path, version in effects.get("versions", {}).items()]
            elif "saw" in effects:
                found.append((row["tool"], "", effects["saw"]))
        return found

    async def confirmed(self, agent: str, cited: Collection[str], version: str, files: Collection[str]) -> set[str]:
        """Which of these `step/index` are programs that ran, or reads, of `version`; if `files` are given, of those."""
        rows = await self.database.read_async(
            "SELECT step, idx, tool, effects FROM tool_calls WHERE run = ? AND agent = ? AND ok AND version = ?"
            " AND tool IN ('read_file', 'run_program')",
            (self.run, agent, version),
        )
        return {
            id_
            for row in rows
            if (id_ := f"{row['step']}/{row['idx']}") in cited
            and (row["tool"] != "read_file" or not files or set(effects_of(row["effects"])["versions"]) & set(files))
        }

    # --- evidence ----------------------------------------------------------------------------------------

    def found(self, evidence: Evidence) -> Statement:
        # The last finding is the one that was acted on: of those before it a kill has cut off the consequence.
        return (
            'INSERT OR REPLACE INTO evidence (run, id, agent, "check", passed, detail, version, found)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.run,
                evidence.id,
                evidence.agent,
                evidence.check,
                int(evidence.passed),
                evidence.detail,
                evidence.version,
                time.time(),
            ),
        )

    def evidence(self) -> list[Evidence]:
        """All that checks have found, oldest first."""
        rows = self.database.read(
            'SELECT id, agent, "check", passed, detail, version FROM evidence WHERE run = ? ORDER BY found, rowid',
            (self.run,),
        )
        return [
            Evidence(row["id"], row["agent"], row["check"], bool(row["passed"]), row["detail"], row["version"])
            for row in rows
        ]

    # --- letters and questions ---------------------------------------------------------------------------

    def letter(self, letter: Letter) -> Statement:
        return (
            "INSERT OR IGNORE INTO letters (run, id, sender, recipient, kind, text, sent, settles)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.run,
                letter.id,
                letter.sender,
                letter.to,
                letter.kind,
                letter.text,
                time.time(),
                to_json(letter.settles).decode() if letter.settles else None,
            ),
        )

    def letters(self) -> list[Letter]:
        """Every letter, oldest first."""
        return list(map(_letter, self.database.read(f"{_LETTERS} WHERE run = ? ORDER BY rowid", (self.run,))))

    async def letters_of(self, ids: Sequence[str]) -> list[Letter]:
        """The letters with these ids, in their order."""
        if not ids:
            return []
        wanted = to_json(ids).decode()
        rows = await self.database.read_async(
            f"{_LETTERS} WHERE run = ? AND id IN (SELECT value FROM json_each(?))", (self.run, wanted)
        )
        found = {row["id"]: _letter(row) for row in rows}
        return [found[id_] for id_ in ids if id_ in found]

    async def letters_to(self, name: str, sender: str, last: int, *, but: Iterable[str]) -> list[Letter]:
        """The last letters that somebody was sent, oldest first: of one sender, if one is named, and without some."""
        rows = await self.database.read_async(
            f"{_LETTERS} WHERE run = ?1 AND recipient = ?2 AND ?3 IN ('', sender)"
            " AND id NOT IN (SELECT value FROM json_each(?4)) ORDER BY rowid DESC LIMIT ?5",
            (self.run, name, sender, to_json(list(but)).decode(), last),
        )
        return list(map(_letter, reversed(rows)))

    def read_at(self) -> dict[str, int]:
        """The step at which its recipient read each letter that was read."""
        rows = self.database.read("SELECT step, letters FROM calls WHERE run = ? AND letters != '[]'", (self.run,))
        return {id_: row["step"] for row in rows for id_ in json.loads(row["letters"])}

    def question(self, id_: str, agent: str, question: str, kind: QuestionKind) -> Statement:
        return (
            "INSERT OR IGNORE INTO questions (run, id, agent, question, kind, asked) VALUES (?, ?, ?, ?, ?, ?)",
            (self.run, id_, agent, question, kind, time.time()),
        )

    def unasked(self, beginning: str, *, but: str) -> Statement:
        """Take back the open questions whose ids begin so: what they asked about is no more."""
        return (
            "DELETE FROM questions WHERE run = ? AND answer IS NULL AND instr(id, ?) = 1 AND id != ?",
            (self.run, f"{beginning}/", but),
        )

    def answer(self, id_: str, answer: str) -> Statement:
        return (
            "UPDATE questions SET answer = ?, answered = ? WHERE run = ? AND id = ? AND answer IS NULL",
            (answer, time.time(), self.run, id_),
        )

    def questions(self) -> list[dict[str, Any]]:
        """The open questions to a person, of those who still want to know, and of a run that has not ended.

        Of each its `id`, `agent`, `question`, `kind` and when it was `asked`.
        """
        rows = self.database.read(
            "SELECT id, agent, question, kind, asked FROM questions q WHERE run = ? AND answer IS NULL"
            " AND CASE instr(id, ?) WHEN 1 THEN"
            "  NOT EXISTS (SELECT 1 FROM runs r WHERE r.run = q.run AND r.ended IS NOT NULL)"
            " ELSE NOT EXISTS"
            "  (SELECT 1 FROM agents a WHERE a.run = q.run AND a.name = q.agent AND a.closed IS NOT NULL) END"
            " ORDER BY asked",
            (self.run, f"{EVERYONE}/"),
        )
        return [dict(row) for row in rows]

    def answers(self) -> dict[str, str]:
        """The answered questions, by id."""
        rows = self.database.read("SELECT id, answer FROM questions WHERE run = ? AND answer IS NOT NULL", (self.run,))
        return {row["id"]: row["answer"] for row in rows}

    def unused_answers(self) -> set[str]:
        """The answers, by question, whose tool call is not finished."""
        rows = self.database.read(
            "SELECT id FROM questions WHERE run = ? AND answer IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tool_calls t"
            " WHERE t.run = questions.run"
            " AND instr(questions.id || '/', t.agent || '/' || t.step || '/' || t.idx || '/') = 1)",
            (self.run,),
        )
        return {row["id"] for row in rows}

    # --- totals and events -------------------------------------------------------------------------------

    def usage(self) -> tuple[int, int, int]:
        """(calls, input tokens, output tokens) so far."""
        row = self.database.read(
            "SELECT count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0) FROM calls WHERE run = ?",
            (self.run,),
        )[0]
        return row[0], row[1], row[2]

    def cost(self) -> float | None:
        """US dollars that the calls so far cost; None where the price of one of them is not known."""
        row = self.database.read(
            "SELECT coalesce(sum(cost), 0.0), count(*) - count(cost) FROM calls WHERE run = ?", (self.run,)
        )[0]
        return None if row[1] else float(row[0])

    def used_by(self) -> dict[str, Use]:
        """What each agent has used so far; an unknown cost counts as nothing."""
        rows = self.database.read(
            "SELECT agent, count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),"
            " coalesce(sum(cost), 0.0) FROM calls WHERE run = ? GROUP BY agent",
            (self.run,),
        )
        return {row[0]: Use(*row[1:]) for row in rows}

    async def worked(self, agent: str, first: int, last: int, idle: Collection[str]) -> bool:
        """Whether `agent` called a tool that is not in `idle` at the steps from `first` to `last`."""
        rows = await self.database.read_async(
            f"SELECT 1 FROM tool_calls WHERE run = ? AND agent = ? AND step BETWEEN ? AND ?"
            f" AND tool NOT IN ({', '.join('?' * len(idle))}) LIMIT 1",
            (self.run, agent, first, last, *idle),
        )
        return bool(rows)

    def said(self, kind: EventKind, key: str, value: str) -> bool:
        """Whether there was an event of this kind with this value in it."""
        return bool(
            self.database.read(
                "SELECT 1 FROM events WHERE run = ? AND kind = ? AND json_extract(data, '$.' || ?) = ? LIMIT 1",
                (self.run, kind, key, value),
            )
        )

    def event(self, event: Event, *, whole: bool = False) -> Statement:
        """The row of an event; one without a number gets the next one when it is written.

        `whole` where the rows that have the rest of it are those of somebody else.
        """
        data = event.data
        if (elsewhere := _IN_ROWS.get(event.kind)) is not None and not whole:
            data = {key: value for key, value in data.items() if key not in elsewhere}
        row = (event.time, event.kind, event.agent, to_json(data).decode())
        if not event.seq:
            return (
                "INSERT INTO events (run, seq, time, kind, agent, data) SELECT ?,"
                " coalesce((SELECT max(seq) FROM events WHERE run = ?), 0) + 1, ?, ?, ?, ?",
                (self.run, self.run, *row),
            )
        return (
            "INSERT INTO events (run, seq, time, kind, agent, data) VALUES (?, ?, ?, ?, ?, ?)",
            (self.run, event.seq, *row),
        )

    def last_event(self) -> int:
        """The number of the last event so far."""
        row = self.database.read("SELECT coalesce(max(seq), 0) FROM events WHERE run = ?", (self.run,))[0]
        return int(row[0])

    def events(
        self,
        after: int = 0,
        agent: str | None = None,
        kinds: Collection[EventKind] | None = None,
        last: int | None = None,
    ) -> list[Event]:
        """The events after number `after` up to number `last`, of one agent or all, of some kinds or all."""
        where, params = "e.run = ? AND e.seq > ?", [self.run, after]
        if last is not None:
            where, params = f"{where} AND e.seq <= ?", [*params, last]
        if agent is not None:
            where, params = f"{where} AND e.agent = ?", [*params, agent]
        if kinds is not None:
            where, params = f"{where} AND e.kind IN ({', '.join('?' * len(kinds))})", [*params, *kinds]
        rows = self.database.read(f"{_EVENTS} WHERE {where} ORDER BY e.seq", params)
        return [Event(row["seq"], row["time"], row["kind"], row["agent"], _data(row)) for row in rows]


def _data(row: sqlite3.Row) -> dict[str, Any]:
    """What an event says, with what other rows have of it. Those of older homes say all of it themselves."""
    data: dict[str, Any] = json.loads(row["data"])
    match row["kind"]:
        case "letter":
            return {"to": row["recipient"], "about": row["about"], "text": row["text"] or "", **data}
        case "tool":
            ran = {"ok": bool(row["ok"]), "seconds": round(row["worked"] or 0.0, 3), "result": row["result"] or ""}
            return {**ran, **data}
        case "tool_started" if "args" not in data:
            data["args"] = {key: shortened(value) for key, value in _args(row, data["index"]).items()}
        case "thought" if "seconds" not in data:
            answer = load_answer(json.loads(row["answer"])) if row["answer"] else AIMessage("")
            data["seconds"] = round(row["thought"] or 0.0, 3)
            data |= {"input_tokens": row["input_tokens"] or 0, "output_tokens": row["output_tokens"] or 0}
            data["cost"] = row["cost"]
            data["calls"] = [call["name"] for call in answer.tool_calls]
            data["text"] = answer.text[:TOLD]
    return data


def _args(row: sqlite3.Row, index: int) -> Mapping[str, Any]:
    """The arguments of a tool call: from its own row, or from the model's answer while it has none."""
    if row["args"] is not None:
        args: Mapping[str, Any] = json.loads(row["args"])
        return args
    calls = json.loads(row["answer"])["tool_calls"] if row["answer"] else []
    return calls[index]["args"] if index < len(calls) else {}


def _agent(row: sqlite3.Row) -> tuple[AgentSpec, Report | None]:
    report = Report.load(json.loads(row["report"])) if row["report"] else None
    return AgentSpec.load(json.loads(row["spec"])), report


def _call(agent: str, step: int, row: sqlite3.Row) -> CallRow:
    return CallRow(
        agent,
        step,
        tuple(json.loads(row["heard"])),
        tuple(json.loads(row["letters"])),
        load_answer(json.loads(row["answer"])),
        load_shortened(row["shortened"]),
    )


def _letter(row: sqlite3.Row) -> Letter:
    settles = tuple(json.loads(row["settles"] or "[]"))
    return Letter(row["id"], row["sender"], row["recipient"], _kind(row["kind"]), row["text"], settles)


def _kind(text: str) -> LetterKind:
    kinds: dict[str, LetterKind] = {
        "message": "message",
        "report": "report",
        "failure": "failure",
        "notice": "notice",
        "aside": "aside",
    }
    return kinds[text]
