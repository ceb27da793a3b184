"""Reads what a report tells from the rows and the files of a run."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from megagraph.display import standing
from megagraph.journal import load_answer
from megagraph.ledger import Ledger
from megagraph.report.story import Facts, File, FileChange, Mail, Member, Question, Story, ToolUse, Turn
from megagraph.report.timeline import Timeline

if TYPE_CHECKING:
    from megagraph.files.workspace import Workspace
    from megagraph.run import Run

MOST_CHANGES = 4000
"""Changes of files that are read, the newest ones."""


def collect(run: Run, ledger: Ledger) -> Story:
    """The whole story of a run as it stands now."""
    return _Collector(run, ledger).story()


class _Collector:
    def __init__(self, run: Run, ledger: Ledger) -> None:
        self._run, self._ledger = run, ledger
        self._result = run.outcome()
        self._status = self._result.status
        now = time.time() if self._status == "running" else None
        self._timeline = Timeline(ledger.events(), now)
        self._agents = ledger.agents()
        self._places = {spec.name: n for n, (spec, _, _) in enumerate(self._agents)}

    def story(self) -> Story:
        # Of a run that is at work: a letter is there before the call that reads it, so the calls are read first.
        calls = self._rows("SELECT * FROM calls WHERE run = ? ORDER BY agent, step")
        mail, letters = self._mail()
        files, older = self._files(self._run.workspace)
        reports = {n: report.text() for n, (_, report, _) in enumerate(self._agents) if report}
        members = self._members()
        turns = self._turns(calls, members, letters)
        return Story(
            self._facts(),
            self._result.report.text() if self._result.report else "",
            members,
            list(self._result.verdicts),
            self._questions(),
            mail,
            files,
            reports,
            turns,
            older,
        )

    def _facts(self) -> Facts:
        row, result, view = self._run.row, self._result, self._timeline.view
        return Facts(
            id=self._run.id,
            goal=row["goal"],
            scenario=row["scenario"] or "",
            model=row["model"] or "",
            status=self._status,
            standing=standing(result),
            passed=result.passed,
            reason=result.reason,
            rehearsal=result.rehearsal,
            created=row["created"],
            told=time.time(),
            worked=self._timeline.end,
            breaks=self._timeline.clock.breaks,
            judged=self._timeline.judged,
            not_done=result.not_done,
            retries=view.retries,
            bad_answers=view.bad_answers,
        )

    def _members(self) -> list[Member]:
        members = []
        for spec, _, _ in self._agents:
            seen = self._timeline.view.agents.get(spec.name)
            members.append(
                Member(
                    name=spec.name,
                    lead=self._places.get(spec.lead, -1),
                    role=spec.role,
                    state=seen.state if seen else "waiting",
                    note=seen.note if seen else "",
                    depends_on=tuple(self._places[name] for name in spec.depends_on if name in self._places),
                    recruited=self._timeline.began(spec.name),
                    spans=self._timeline.spans(spec.name),
                )
            )
        return members

    def _mail(self) -> tuple[list[Mail], dict[str, int]]:
        """The letters, and the place of each by its id."""
        rows = self._rows("SELECT id, sender, recipient, kind, text, sent FROM letters WHERE run = ? ORDER BY rowid")
        mail = [
            Mail(
                self._places.get(row["sender"], -1),
                row["sender"],
                self._places.get(row["recipient"], -1),
                row["kind"],
                self._timeline.clock.at(row["sent"]),
                row["text"],
            )
            for row in rows
        ]
        return mail, {row["id"]: n for n, row in enumerate(rows)}

    def _turns(self, calls: list[Any], members: list[Member], letters: Mapping[str, int]) -> dict[int, list[Turn]]:
        """The conversation of each agent; what it used is counted on the way."""
        done: dict[tuple[str, int], dict[int, Any]] = defaultdict(dict)
        for row in self._rows("SELECT agent, step, idx, ok, result, seconds FROM tool_calls WHERE run = ?"):
            done[row["agent"], row["step"]][row["idx"]] = row
        turns: dict[int, list[Turn]] = defaultdict(list)
        for row in calls:
            place = self._places.get(row["agent"])
            if place is None:
                continue
            first = not turns[place]
            turn = self._turn(row, done[row["agent"], row["step"]], letters, first)
            turns[place].append(turn)
            _count(members[place], turn, row["cached_tokens"])
        return turns

    def _turn(self, row: Any, done: Mapping[int, Any], letters: Mapping[str, int], first: bool) -> Turn:
        heard, read = json.loads(row["heard"]), json.loads(row["letters"])
        if read and len(heard) > int(first):
            # The letters are told apart from the rest: they come after the task, which is heard at first.
            del heard[int(first)]
        answer = load_answer(json.loads(row["answer"]))
        asked = [(call["name"], call["args"]) for call in answer.tool_calls]
        asked += [(call["name"] or "", {"": call["args"] or ""}) for call in answer.invalid_tool_calls]
        return Turn(
            step=row["step"],
            at=self._timeline.clock.at(row["started"]),
            seconds=row["seconds"],
            model=row["model"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cost=row["cost"],
            retries=row["retries"],
            heard=tuple(heard),
            mail=tuple(letters[id_] for id_ in read if id_ in letters),
            said=answer.text,
            calls=tuple(_tool_use(tool, args, done.get(n)) for n, (tool, args) in enumerate(asked)),
        )

    def _questions(self) -> list[Question]:
        rows = self._rows("SELECT agent, question, answer FROM questions WHERE run = ? ORDER BY asked")
        return [Question(row["agent"], row["question"], row["answer"]) for row in rows]

    def _files(self, workspace: Workspace) -> tuple[list[File], bool]:
        """The files there are and were, and whether there are older changes than those that were read."""
        files = {entry.path: File(entry.path, entry.size) for entry in workspace.files()}
        changes = workspace.log(limit=MOST_CHANGES + 1)
        for change in changes[:MOST_CHANGES]:
            for diff in workspace.patches(change.commit):
                added, removed = _lines(diff.patch)
                files.setdefault(diff.path, File(diff.path, None)).changes.append(
                    FileChange(
                        change.agent,
                        change.time.timestamp(),
                        diff.status,
                        change.effect,
                        change.merged_over,
                        added,
                        removed,
                        _hunks(diff.patch),
                    )
                )
        return [files[path] for path in sorted(files)], len(changes) > MOST_CHANGES

    def _rows(self, sql: str) -> list[Any]:
        return list(self._ledger.database.read(sql, (self._ledger.run,)))


def _tool_use(tool: str, args: Mapping[str, Any], row: Any) -> ToolUse:
    told = tuple((name, value if isinstance(value, str) else _json(value)) for name, value in args.items())
    if row is None:
        return ToolUse(tool, told)
    return ToolUse(tool, told, bool(row["ok"]), row["result"], row["seconds"])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1 if isinstance(value, list | dict) else None, default=str)


def _count(member: Member, turn: Turn, cached: int) -> None:
    member.calls += 1
    member.input_tokens += turn.input_tokens
    member.output_tokens += turn.output_tokens
    member.cached_tokens += cached
    member.cost = None if member.cost is None or turn.cost is None else member.cost + turn.cost
    member.thinking += turn.seconds
    member.tools += len(turn.calls)
    member.refused += sum(call.ok is False for call in turn.calls)


def _hunks(patch: str) -> str:
    """A unified diff without its head, which says what is known: the path and the ids."""
    start = patch.find("\n@@")
    if start >= 0:
        return patch[start + 1 :]
    return "(binary)" if "\nBinary files " in patch else "(no text)"


def _lines(patch: str) -> tuple[int, int]:
    """How many lines a unified diff adds and removes."""
    lines = _hunks(patch).splitlines()
    return sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)
