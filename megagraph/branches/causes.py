"""What depends on what: which moves of a run must be left out where some of them are.

A cut says for each agent which of its moves are kept: those before a place. `close` grows a cut until nothing that is
kept has learned anything from what is left out. Who learns from whom:

- who reads a letter learns from the move that sent it, and who recruits makes everything that the recruit does;
- who depended on an agent learns from its last report before it began, or from its dismissal, and everybody who
  begins is told of the team mates there are;
- who reads, lists or searches files, or runs a program, learns from the changes that were in what was looked at; who
  edits, moves or deletes a file, or has a change merged, from the earlier changes of that file;
- who finishes, or is told that its team stands still, learns how everybody below it stood;
- who ended an agent's work did so in view of it; where its end is left out, it waits again;
- whose work is accepted or sent back learns from the files that were looked at for that, and for a claim from what
  others had done; who starts on a report, finishes, or is told of a withdrawn one, from what it was examined again for;
- who was refused somebody, or given another name for a recruit, learns who was there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from megagraph.branches.closings import closers
from megagraph.branches.evidence import Did, Evidence, Sent
from megagraph.branches.judging import Judging, named
from megagraph.branches.moves import Move, owner_of
from megagraph.files.paths import matches
from megagraph.specs import BOSS

_CHANGES = frozenset({"write_file", "edit_file", "move_file", "delete_file"})
_LOOKS = _CHANGES | {
    "read_file",
    "list_files",
    "search_files",
    "run_program",
    "start_program",
    "stop_program",
    "finish",
}


@dataclass
class Cut:
    """Which moves are kept. Agents that are not named keep all."""

    at: dict[str, int] = field(default_factory=dict)
    """For each agent that is cut, its first move that is left out."""
    removed: set[str] = field(default_factory=set)
    """Agents that were never recruited."""
    why: dict[str, str] = field(default_factory=dict)
    """For each agent that is cut or removed, what it had learned."""


@dataclass(frozen=True)
class _Touch:
    """The first change of a path that is left out, or made from outside."""

    position: float
    """Its place in the history of the files; infinite where only its time counts."""
    time: float


@dataclass(frozen=True)
class Outside:
    """What a person changes, and from when on it would have been seen."""

    letters: Collection[str] = ()
    paths: Collection[str] = ()
    time: float = math.inf


class Causes:
    """The rules, over the evidence of one run."""

    def __init__(self, evidence: Evidence, outside: Outside | None = None) -> None:
        self.evidence = evidence
        self.outside = outside or Outside()
        self.judging = Judging(evidence)
        self.cut = Cut()
        self.unmergeable: set[str] = set()
        """Effects whose changes of the files could not be made without others."""
        self._changed = False
        self._reads = {
            id_: (agent, i)
            for agent, moves in evidence.moves.by_agent.items()
            for i, move in enumerate(moves)
            for id_ in move.letters
        }
        for call in evidence.calls:
            # A call that was answered, and no checkpoint tells of it yet.
            place = evidence.moves.index(call.agent, "think", call.step)
            for id_ in call.letters:
                self._reads.setdefault(id_, (call.agent, place))
        for letter in evidence.letters.values():
            if letter.settles and (settled := evidence.place_of_letter(letter)):
                for id_ in letter.settles:
                    self._reads.setdefault(id_, settled)
        self._acts = {
            (agent, move.step): i
            for agent, moves in evidence.moves.by_agent.items()
            for i, move in enumerate(moves)
            if move.node == "act"
        }
        self._position = {change.effect: i for i, change in enumerate(evidence.changes) if change.effect}
        self._done_at = {did.effect: did.started for did in evidence.tools}
        self._base = self._position_base()
        self._closers = closers(evidence)

    # --- the cut -----------------------------------------------------------------------------------------

    def keeps(self, agent: str, place: int) -> bool:
        """Whether this move of an agent is kept."""
        return agent not in self.cut.removed and place < self.cut.at.get(agent, math.inf)

    def leave_out(self, agent: str, place: int, why: str = "", *, exactly: bool = False) -> None:
        """Leave out an agent's moves from this one on. Where it had waited before a call, it waits again."""
        moves = self.evidence.moves.of(agent)
        if agent in self.cut.removed:
            return
        place = min(place, len(moves))
        if not exactly and 0 < place < len(moves) and moves[place].node == "think":
            before = moves[place - 1]
            if before.node == "wait" and before.namespace == moves[place].namespace:
                place -= 1
        if place < self.cut.at.get(agent, math.inf):
            self.cut.at[agent] = place
            self.cut.why[agent] = why or self.cut.why.get(agent, "")
            self._changed = True

    def remove(self, agent: str, why: str) -> None:
        """Leave out an agent and everybody below it."""
        for name in (agent, *self.evidence.below.get(agent, ())):
            if name not in self.cut.removed:
                self.cut.removed.add(name)
                self.cut.at.pop(name, None)
                self.cut.why[name] = why
                self._changed = True

    def closed(self, agent: str) -> bool:
        """Whether the end of an agent's work is kept."""
        closer = self._closers.get(agent)
        return agent not in self.cut.removed and closer is not None and self.keeps(*closer)

    def sent(self, letter: Sent) -> bool:
        """Whether a letter is kept: it was sent, and its reader is there."""
        if letter.recipient in self.cut.removed:
            return False
        place = self.evidence.place_of_letter(letter)
        if place is not None:
            return self.keeps(*place)
        if letter.id in self._reads and self.keeps(*self._reads[letter.id]):
            return True
        # The system says again what still holds, but not that an acceptance was withdrawn where that is kept.
        about = letter.withdrawal
        return about is not None and self.undisturbed(self.evidence.revised.get(about, letter.sent))

    def judged(self, id_: str, time: float) -> bool:
        """Whether what a check found is kept, by its id and time. A judgement that is not kept is come to anew."""
        agent, step, what = id_.split("/")[:3]
        if agent in self.cut.removed:
            return False
        if place := self.evidence.place_of_occasion(id_):
            return self.keeps(*place)
        if what == "again" and step != "end":
            return self.closed(agent) or self.undisturbed(time)
        return self.closed(BOSS) and not self.outside.paths and not self.left_out_commits()

    def undisturbed(self, time: float) -> bool:
        """Whether nothing that is left out, other than waiting, began before `time`."""
        return all(self._busy_from(name) >= time for name in (*self.cut.at, *self.cut.removed))

    def left_out_commits(self) -> set[str]:
        """The changes of the files that are left out."""
        return {change.commit for change in self.evidence.changes if not self._keeps_effect(change.effect)}

    def close(self) -> None:
        """Leave out whatever learned from what is left out."""
        rules: tuple[Callable[[], None], ...] = (
            self._recruits,
            self._ends,
            self._letters,
            self._beginnings,
            self._looks_at_teams,
            self._looks_at_names,
            self._files,
            self._claims,
            self._nesting,
        )
        self._changed = True
        while self._changed:
            self._changed = False
            for rule in rules:
                rule()

    # --- the rules ---------------------------------------------------------------------------------------

    def _recruits(self) -> None:
        for name, member in self.evidence.members.items():
            if name not in self.cut.removed and not self._keeps_effect(member.effect):
                self.remove(name, f"{member.spec.lead} recruits anew")

    def _ends(self) -> None:
        for name, (agent, place) in self._closers.items():
            if name in self.cut.removed:
                continue
            if self._busy_from(name) < math.inf:
                self.leave_out(agent, place, f"it ended the work of {name}")
            if not self.keeps(agent, place):
                self._reopen(name, f"{agent} had ended its work")

    def _reopen(self, name: str, why: str) -> None:
        closed = self.evidence.members[name].closed or 0.0
        for i, move in enumerate(self.evidence.moves.of(name)):
            if move.node != "team" and move.ended >= closed:
                return self.leave_out(name, i, why)
        return None

    def _letters(self) -> None:
        for letter in self.evidence.letters.values():
            place = self.evidence.place_of_letter(letter)
            if place is None:
                continue
            known = self.keeps(*place)
            if letter.recipient in self.cut.removed and known:
                self.leave_out(*place, f"it wrote to {letter.recipient}")
            if (not known or letter.id in self.outside.letters) and letter.id in self._reads:
                self.leave_out(*self._reads[letter.id], f"it read a letter from {place[0]}")

    def _beginnings(self) -> None:
        """What an agent was told when it began."""
        members = self.evidence.members
        reopened = [name for name in self._closers if name not in self.cut.removed and not self.closed(name)]
        for name, began in self.evidence.first_call.items():
            spec = members[name].spec
            for dependency in spec.depends_on:
                if self._news_of(dependency, began):
                    self.leave_out(name, 0, f"it began with what {dependency} reported")
            mates = (m for m in self.cut.removed if members[m].spec.lead == spec.lead and m != name)
            if spec.lead and any(members[mate].recruited < began for mate in mates):
                self.leave_out(name, 0, f"it was told of others that {spec.lead} had recruited")
            gone = (m for m in reopened if members[m].spec.lead == spec.lead and m != name)
            if spec.lead and any((members[mate].closed or 0.0) < began for mate in gone):
                self.leave_out(name, 0, f"it was not told of others, whose work {spec.lead} had ended")

    def _news_of(self, dependency: str, began: float) -> bool:
        """Whether what a dependent knew of this one when it began is left out."""
        if dependency in self.cut.removed:
            return True
        closed = self.evidence.members[dependency].closed
        if closed is not None and closed < began:
            return not self.closed(dependency)
        reports = [letter for letter in self.evidence.reports.get(dependency, ()) if letter.sent < began]
        place = self.evidence.place_of_letter(reports[-1]) if reports else None
        return place is not None and not self.keeps(*place)

    def _looks_at_teams(self) -> None:
        for did in self.evidence.tools:
            if did.tool == "finish" and self._moved_below(did.agent, did.ended):
                self._leave_out_act(did, "it had looked how its team stood")
        for id_, (agent, place) in self._reads.items():
            letter = self.evidence.letters.get(id_)
            if letter and letter.of_system and "=" not in id_ and self._moved_below(agent, letter.sent):
                self.leave_out(agent, place, "it was told that its team stood still")

    def _moved_below(self, lead: str, time: float) -> bool:
        """Whether anybody below `lead` did something before `time` that is left out."""
        return any(self._busy_from(name) < time for name in self.evidence.below[lead])

    def _looks_at_names(self) -> None:
        members = self.evidence.members
        gone = min((members[name].recruited for name in self.cut.removed), default=math.inf)
        for did in self.evidence.tools:
            if did.tool == "recruit" and (not did.ok or " is called " in did.result) and gone < did.ended:
                self._leave_out_act(did, "it was told who was there")
            if did.tool in ("talk", "dismiss") and not did.ok:
                leads = (did.agent, members[did.agent].spec.lead)
                near = [name for name in members if members[name].spec.lead in leads]
                if min(map(self._differs_from, near), default=math.inf) < did.ended:
                    self._leave_out_act(did, "it was told who was there")

    def _differs_from(self, name: str) -> float:
        """From when on it was otherwise whether `name` can be reached."""
        member = self.evidence.members[name]
        if name in self.cut.removed:
            return member.recruited
        return math.inf if member.closed is None or self.closed(name) else member.closed

    def _files(self) -> None:
        touched = self._touched()
        for effect in self.unmergeable:
            if place := self.evidence.place_of_effect(effect):
                self.leave_out(*place, "its change of a file needs another one")
        if not touched and not self.outside.paths:
            return
        edited = dict.fromkeys(self.outside.paths, _Touch(math.inf, self.outside.time))
        for did in self.evidence.tools:
            if did.tool not in _LOOKS or not self._keeps_act(did):
                continue
            if self._saw(did, touched) or self._saw_edit(did, edited):
                self._leave_out_act(did, "it saw files that were written by others")
        for agent, moves in self.evidence.moves.by_agent.items():
            for i in filter(lambda i: _ended_with_a_look(moves[i]), range(len(moves))):
                owed = self.judging.files(agent, ())
                for paths in (touched, edited):
                    if self._any_before(paths if owed is None else owed, paths, moves[i].ended):
                        self.leave_out(agent, i, "it looked for its files")
        self._inputs(touched)
        self._inputs(edited)

    @staticmethod
    def _any_before(paths: Iterable[str], touched: Mapping[str, _Touch], time: float) -> bool:
        return any(touched[path].time < time for path in paths if path in touched)

    def _inputs(self, touched: Mapping[str, _Touch]) -> None:
        """Who started on a report, or was told of a withdrawn one: its files were looked at again if they changed."""

        def again(of: str, time: float) -> bool:
            return self._any_before((path for path in touched if self.judging.again(of, path, time)), touched, time)

        for name, began in self.evidence.first_call.items():
            for dependency in self.evidence.members[name].spec.depends_on:
                if again(dependency, began):
                    self.leave_out(name, 0, f"what {dependency} reported was looked at again")
        for id_, (agent, place) in self._reads.items():
            letter = self.evidence.letters.get(id_)
            if letter and letter.withdrawal and again(letter.withdrawal[0], letter.sent):
                self.leave_out(agent, place, "it was told what does not hold any more")

    def _claims(self) -> None:
        """Whether a claim counts depends on what its author, and those it is about, had done."""
        judging, members = self.judging, self.evidence.members

        def differs(others: Collection[str], time: float) -> bool:
            return any(self._busy_from(other) < time for other in others)

        for did in self.evidence.tools:
            if did.tool == "finish" and differs(judging.claimants(did.agent, named(did.args)), did.ended):
                self._leave_out_act(did, "its claims are of what others did")
        for agent, moves in self.evidence.moves.by_agent.items():
            for i in filter(lambda i: _ended_with_a_look(moves[i]), range(len(moves))):
                if differs(judging.claimants(agent, ()), moves[i].ended):
                    self.leave_out(agent, i, "its claims are of what others did")
        for name, began in self.evidence.first_call.items():
            for dependency in members[name].spec.depends_on:
                if differs(judging.claimants_again(dependency, began), began):
                    self.leave_out(name, 0, f"what {dependency} reported was looked at again")

    def _touched(self) -> dict[str, _Touch]:
        """The first change of each path that is left out."""
        touched: dict[str, _Touch] = {}
        for i, change in enumerate(self.evidence.changes):
            if not self._keeps_effect(change.effect):
                time = self._done_at.get(change.effect, change.time.timestamp())
                for path in change.paths:
                    touched.setdefault(path, _Touch(i, time))
        return touched

    def _saw(self, did: Did, touched: Mapping[str, _Touch]) -> bool:
        """Whether what a tool call looked at had one of these changes in it."""
        own = self._position.get(did.effect)
        if own is not None:
            change = self.evidence.changes[own]
            alone = did.tool in ("write_file", "run_program", "stop_program") and not change.merged_over
            paths = () if alone else change.paths
            if any(touched[path].position < own for path in paths if path in touched):
                return True
            if did.tool in _CHANGES:
                return False
        if (version := did.effects.get("saw")) is None and did.tool == "read_file" and did.ok:
            version = next(iter(did.effects.get("versions", {}).values()), None)
        position = self.evidence.workspace.position(version) if version else None
        return any(
            touch.position <= position - self._base if position is not None else touch.time < did.ended
            for touch in (touched[path] for path in self._looked_at(did, touched))
        )

    def _saw_edit(self, did: Did, edited: Mapping[str, _Touch]) -> bool:
        wrote = self._position.get(did.effect)
        paths = set(self._looked_at(did, edited))
        if wrote is not None:
            paths |= edited.keys() & set(self.evidence.changes[wrote].paths)
        return any(edited[path].time < did.ended for path in paths)

    def _looked_at(self, did: Did, paths: Mapping[str, _Touch]) -> Iterator[str]:
        """Which of these paths a tool call looked at."""
        pattern = str(did.args.get("pattern") or "")
        for path in paths:
            match did.tool:
                case "list_files" | "search_files":
                    seen = matches(path, pattern)
                case "finish":
                    owed = self.judging.files(did.agent, named(did.args))
                    seen = owed is None or path in owed or self.judging.team_again(did.agent, path, did.ended)
                case "read_file" if did.ok:
                    seen = path in did.effects.get("versions", {})
                case "write_file" | "edit_file" | "move_file" | "delete_file" if did.ok:
                    seen = path in (did.args.get("path"), did.args.get("to"), *did.effects.get("versions", {}))
                case "stop_program":
                    seen = False
                case _:
                    # A program may look at everything, and what went wrong names what is near.
                    seen = True
            if seen:
                yield path

    def _nesting(self) -> None:
        """Whoever is cut inside a team leaves that team open: its lead is still at the desk."""
        for agent, place in list(self.cut.at.items()):
            move = self._first_left_out(agent, place)
            if move is None:
                continue
            for namespace, checkpoint in self.evidence.moves.parents[move.namespace].items():
                if not (owner := owner_of(namespace)) or owner == agent:
                    continue
                moves = self.evidence.moves.of(owner)
                later = (i for i, m in enumerate(moves) if m.namespace == namespace and m.checkpoint > checkpoint)
                if (first := next(later, None)) is not None and self.keeps(owner, first):
                    self.leave_out(owner, first - 1, f"{agent} is in its team", exactly=True)

    # --- where things are --------------------------------------------------------------------------------

    def _keeps_effect(self, effect: str) -> bool:
        place = self.evidence.place_of_effect(effect)
        return place is None or self.keeps(*place)

    def _keeps_act(self, did: Did) -> bool:
        return self.keeps(did.agent, self._act(did))

    def _leave_out_act(self, did: Did, why: str) -> None:
        self.leave_out(did.agent, self._act(did), why)

    def _act(self, did: Did) -> int:
        place = self._acts.get((did.agent, did.step))
        return self.evidence.moves.index(did.agent, "act", did.step) if place is None else place

    def _first_left_out(self, agent: str, place: int) -> Move | None:
        moves = self.evidence.moves.of(agent)
        return moves[place] if place < len(moves) else moves[-1] if moves else None

    def _busy_from(self, name: str) -> float:
        """When an agent began the first thing that is left out, other than waiting."""
        if name in self.cut.removed:
            return self.evidence.members[name].recruited
        if (place := self.cut.at.get(name)) is None:
            return math.inf
        moves = self.evidence.moves.of(name)[place:]
        return next((move.begun for move in moves if move.node in ("think", "act", "")), math.inf)

    def _position_base(self) -> int:
        """Where the first change stands in the history of the files."""
        changes = self.evidence.changes
        return (self.evidence.workspace.position(changes[0].commit) or 0) if changes else 0


def _ended_with_a_look(move: Move) -> bool:
    """Whether a turn without a tool call was the end of an agent's work, which was looked at."""
    return move.node == "think" and (move.told or (move.report is not None and not move.report["failed"]))
