"""The mailroom by itself: whatever a team does, it ends, no letter is lost, and nobody sleeps on its mail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from megagraph.mailroom import STALLS_BEFORE_END, Mailroom, Wake
from megagraph.specs import AgentSpec, Letter, LetterKind, Report
from megagraph.state import latest
from megagraph.workers.link import Link
from megagraph.workers.mail import BranchMailroom
from tests.simulation import ACCEPTED, FAILED, Action, Rows, Simulation, Tape, in_order, play


def within_seconds(main: Callable[[], Awaitable[None]]) -> None:
    """Run it, and fail where somebody who must wake does not."""

    async def bounded() -> None:
        await asyncio.wait_for(main(), 20)

    asyncio.run(bounded())


@pytest.mark.parametrize("number", range(4))
def test_every_run_ends(number: int) -> None:
    """Ten thousand plans and mail schedules, with kills, pauses and questions; `play` says what is checked."""
    with asyncio.Runner() as runner:

        @seed(number)
        @settings(max_examples=2500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.binary(min_size=256, max_size=256))
        def ends(data: bytes) -> None:
            runner.run(play(data))

        ends()


@pytest.mark.parametrize("kill", [True, False])
def test_a_run_that_is_stopped_anywhere_comes_to_the_same_end(kill: bool) -> None:
    turns_of: dict[str, list[list[Action]]] = {
        "boss": [[("recruit", (0, 1, 1))], [], [], [("talk", ["m0"])], [], [("finish", ACCEPTED)]],
        "m0": [[("finish", ACCEPTED)], [("talk", ["m1"])], [], [("finish", ACCEPTED)]],
        "m1": [[("talk", ["m0"])], [], [("finish", ACCEPTED)]],
        "m2": [[("finish", ACCEPTED)]],
    }

    class Scripted(Simulation):
        def decide(self, name: str, letters: Sequence[Letter]) -> tuple[Action, ...]:
            step = sum(agent == name for agent, _ in self.rows.calls)
            return tuple(turns_of[name][step])

    async def end(stop: int, kill: bool) -> tuple[int, Rows]:
        rows = Rows({"boss": AgentSpec("boss", "", "")})
        first = Scripted(Tape(b""), rows)
        if not await first.live(stop, kill=kill):
            assert await Scripted(Tape(b""), rows).live()
        return first.turns, rows

    async def main() -> None:
        turns, whole = await end(-1, kill=kill)
        assert len(whole.calls) == sum(map(len, turns_of.values()))
        for stop in range(1, turns):
            _, rows = await end(stop, kill)
            in_order(rows)
            # Not a call more: who waited before the kill waits on after it, at no cost.
            assert rows.calls.keys() == whole.calls.keys(), stop
            assert rows.read_at().keys() == whole.read_at().keys(), stop
            assert rows.reports == whole.reports

    within_seconds(main)


# --- the parts, one by one ----------------------------------------------------------------------------------


class Room(Mailroom):
    """A mailroom that keeps its notices, and `boss` with `members`."""

    def __init__(self, *members: str, gather_seconds: float = 0, quiet: float = 1) -> None:
        super().__init__(lambda lead, text: self.notices.append((lead, text)))
        self.gather_seconds = gather_seconds
        self.quiet = quiet
        self.notices: list[tuple[str, str]] = []
        self._letters = 0
        self.hire("boss", "")
        for name in members:
            self.hire(name)

    def hire(self, name: str, lead: str = "boss", depends_on: tuple[str, ...] = ()) -> None:
        self.add(AgentSpec(name, "", "", lead=lead, depends_on=depends_on))
        self.work(name) if not depends_on else None

    def send(self, sender: str, to: str, kind: LetterKind = "message") -> str:
        self._letters += 1
        letter = Letter(f"{sender}/{self._letters}/0", sender, to, kind, "")
        self.deliver(letter)
        return letter.id

    def hand_in(self, name: str, report: Report = ACCEPTED) -> None:
        self.report(name, report)
        self.send(name, self.places[name].spec.lead, "report")

    def read_all(self, name: str) -> None:
        self.read(name, [letter.id for letter in self.places[name].unread])

    async def sleeps(self, *names: str) -> list[asyncio.Task[Wake]]:
        """Let them wait, one after the other."""
        tasks = []
        for name in names:
            tasks.append(asyncio.ensure_future(self.wait(name)))
            await asyncio.sleep(0)
        return tasks

    async def let_go(self, *tasks: asyncio.Task[Wake]) -> None:
        """End those who are still asleep."""
        self.park()
        await asyncio.gather(*tasks)


def test_a_ring_of_waits_is_named_member_by_member() -> None:
    async def main() -> None:
        room = Room("a", "b", "c", "d")
        for sender, to in ("ab", "bc", "ca"):
            room.send(sender, to)
            room.read_all(to)
        room.hand_in("d")
        room.read_all("boss")
        tasks = await room.sleeps("boss", "a", "b", "d")
        assert room.notices == []
        tasks += await room.sleeps("c")
        assert room.notices[0][0] == "boss"
        assert room.notices[0][1].splitlines()[1:] == [
            "- a waits for an answer from b",
            "- b waits for an answer from c",
            "- c waits for an answer from a",
            "- d has reported",
        ]
        await room.let_go(*tasks)

    within_seconds(main)


def test_those_who_wait_for_a_failed_member_are_named_with_it() -> None:
    async def main() -> None:
        room = Room("a")
        room.hire("b", depends_on=("a",))
        tasks = await room.sleeps("boss", "b")
        room.hand_in("a", FAILED)
        room.read_all("boss")
        tasks += await room.sleeps("boss", "a")
        assert room.notices[0][1].splitlines()[1:] == [
            "- a has reported",
            "- b waits for the report of a (which failed)",
        ]
        assert room.busy("boss") == ["b (waits for the report of a (which failed))"]
        room.hand_in("a")
        assert await tasks[1] == "work"
        await room.let_go(*tasks)

    within_seconds(main)


def test_a_lead_that_does_nothing_about_a_stand_is_told_so_often_and_then_ended() -> None:
    async def main() -> None:
        room = Room("a")
        room.hand_in("a")
        (member,) = await room.sleeps("a")
        for told in range(1, STALLS_BEFORE_END + 1):
            room.read_all("boss")
            (lead,) = await room.sleeps("boss")
            assert len(room.notices) == told
            room.send("notice", "boss", "notice")
            assert await lead == "work"
        room.read_all("boss")
        assert await room.wait("boss") == "close"
        # Its team is not over yet, and nobody above may find it quiet before it is.
        assert room.places["boss"].state == "working"
        room.close_team("boss")
        assert await member == "close"

    within_seconds(main)


def test_a_lead_that_waits_for_an_answer_from_above_is_left_in_peace() -> None:
    async def main() -> None:
        room = Room("lead", "mate")
        room.hire("a", "lead")
        room.hand_in("a")
        room.send("lead", "mate")
        room.read_all("lead")
        tasks = await room.sleeps("a", "lead")
        assert room.notices == []
        assert room.why("lead") == "waits for an answer from mate"
        # Now that the mate waits for the lead in turn, the ring is named to the one above both.
        room.read_all("mate")
        room.send("mate", "boss")
        room.read_all("boss")
        tasks += await room.sleeps("boss", "mate")
        assert [lead for lead, _ in room.notices] == ["boss"]
        assert room.notices[0][1].splitlines()[1:] == [
            "- lead waits for an answer from mate",
            "- mate waits for an answer from boss",
        ]
        await room.let_go(*tasks)

    within_seconds(main)


def test_what_crosses_a_letter_is_no_answer_to_it() -> None:
    room = Room("a", "b")
    question = room.send("a", "b")
    room.send("b", "a")
    assert room.why("a") == "waits for an answer from b"
    room.read("b", [question])
    room.send("b", "a", "aside")
    assert room.why("a") == "waits for an answer from b"
    room.send("b", "a")
    assert room.why("a") == "has nothing to do"
    assert not room.may_rest("a")


def test_a_member_whose_lead_has_written_owes_another_report() -> None:
    room = Room("a")
    room.hand_in("a")
    assert room.may_rest("a")
    order = room.send("boss", "a")
    room.hand_in("a")
    assert not room.may_rest("a")
    room.read("a", [order])
    room.hand_in("a")
    assert room.may_rest("a")


def test_what_a_lead_has_not_read_keeps_it_from_ending_its_team() -> None:
    async def main() -> None:
        room = Room("a")
        room.hand_in("a")
        tasks = await room.sleeps("a")
        assert room.busy("boss") == ["a (has written to you meanwhile)"]
        room.read_all("boss")
        assert room.busy("boss") == []
        room.send("a", "boss", "aside")
        assert room.busy("boss") == []
        await room.let_go(*tasks)

    within_seconds(main)


def test_an_aside_wakes_nobody_and_is_read_with_the_next_letter() -> None:
    async def main() -> None:
        room = Room("a", "b")
        room.hand_in("a")
        (task,) = await room.sleeps("a")
        room.send("b", "a", "aside")
        await asyncio.sleep(0)
        assert not task.done()
        assert not room.has_mail("a")
        room.send("b", "a")
        assert await task == "work"
        assert [letter.kind for letter in room.places["a"].unread] == ["aside", "message"]

    within_seconds(main)


def test_reports_that_come_together_are_read_together() -> None:
    async def main() -> None:
        room = Room("a", "b", "c", gather_seconds=0.01)
        (lead,) = await room.sleeps("boss")
        room.hand_in("a")
        room.hand_in("b")
        assert await lead == "work"
        assert [letter.sender for letter in room.places["boss"].unread] == ["a", "b"]

    within_seconds(main)


def test_a_report_that_no_other_follows_waits_no_longer() -> None:
    async def main() -> None:
        room = Room("a", "b", "c", gather_seconds=3600, quiet=0.01 / 3600)
        for member in ("a", "b"):
            (lead,) = await room.sleeps("boss")
            room.hand_in(member)
            assert not lead.done()
            assert await lead == "work"
            assert [letter.sender for letter in room.places["boss"].unread] == [member]
            room.read_all("boss")

    within_seconds(main)


def test_each_report_begins_the_quiet_moment_anew_up_to_the_longest_wait() -> None:
    async def main() -> None:
        room = Room("a", "b", "c", "d", gather_seconds=3600, quiet=0.5)
        (lead,) = await room.sleeps("boss")
        boss = room.places["boss"]
        room.hand_in("a")
        first, longest = boss.gathering, boss.gather_until
        await asyncio.sleep(0.01)
        room.hand_in("b")
        second = boss.gathering
        assert first is not None and second is not None
        assert first.cancelled()
        assert first.when() < second.when() < longest
        room.quiet = 2
        room.hand_in("c")
        third = boss.gathering
        assert third is not None
        assert third.when() == longest == boss.gather_until
        await room.let_go(lead)

    within_seconds(main)


def test_a_lead_that_was_woken_by_a_message_waits_for_reports_anew() -> None:
    async def main() -> None:
        room = Room("a", "b", "c", gather_seconds=0.01)
        (lead,) = await room.sleeps("boss")
        room.hand_in("a")
        room.send("b", "boss")
        assert await lead == "work"
        room.read_all("boss")
        room.gather_seconds = 3600
        (lead,) = await room.sleeps("boss")
        await asyncio.sleep(0.02)
        room.hand_in("b")
        await asyncio.sleep(0.02)
        assert not lead.done()
        room.send("c", "boss")
        assert await lead == "work"

    within_seconds(main)


def test_a_lead_that_is_dismissed_while_reports_gather_is_woken_once() -> None:
    async def main() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        room = Room("a", gather_seconds=3600, quiet=0.01 / 3600)
        for member in ("a1", "a2"):
            room.hire(member, "a")
        (lead,) = await room.sleeps("a")
        room.hand_in("a1")
        room.close("a")
        assert await lead == "close"
        room.left("a")
        await asyncio.sleep(0.02)
        assert problems == []

    within_seconds(main)


def test_the_last_report_waits_for_nothing() -> None:
    async def main() -> None:
        room = Room("a", "b", "c", gather_seconds=3600)
        (lead,) = await room.sleeps("boss")
        room.hand_in("a")
        room.hand_in("b")
        await asyncio.sleep(0)
        assert not lead.done()
        room.hand_in("c")
        assert await lead == "work"
        assert len(room.places["boss"].unread) == 3

    within_seconds(main)


def test_what_is_said_of_waiting_does_not_grow_with_the_square_of_the_team() -> None:
    """It is an event each time, and a lead of three hundred waits three hundred times."""

    async def main() -> None:
        room = Room(*(f"w{i}" for i in range(300)))
        assert room.why("boss") == f"waits for its team: {', '.join(f'w{i}' for i in range(12))} and 288 more"

    within_seconds(main)


def test_a_message_is_not_kept_back_with_the_reports() -> None:
    async def main() -> None:
        room = Room("a", "b", gather_seconds=3600)
        (lead,) = await room.sleeps("boss")
        room.hand_in("a")
        room.send("b", "boss")
        assert await lead == "work"

    within_seconds(main)


def test_parking_lets_everyone_go_and_nobody_in() -> None:
    async def main() -> None:
        room = Room("a", "b", "c")
        tasks = [*await room.sleeps("boss", "a"), asyncio.ensure_future(room.ask("b"))]
        await asyncio.sleep(0)
        room.park()
        assert await asyncio.gather(*tasks, room.wait("c"), room.ask("c")) == ["park"] * 5

    within_seconds(main)


def test_a_run_where_only_a_person_can_help_is_parked() -> None:
    async def main() -> None:
        room = Room("a")
        (lead,) = await room.sleeps("boss")
        assert await room.ask("a") == "park"
        assert await lead == "park"

    within_seconds(main)


def test_a_report_that_waits_for_others_is_read_before_the_run_waits_for_a_person() -> None:
    async def main() -> None:
        room = Room("a", "b", gather_seconds=0.01)
        (lead,) = await room.sleeps("boss")
        asking = asyncio.ensure_future(room.ask("a"))
        await asyncio.sleep(0)
        room.hand_in("b")
        (rested,) = await room.sleeps("b")
        assert await lead == "work"
        room.read_all("boss")
        assert not asking.done()
        # Now nobody but a person can go on.
        assert await room.wait("boss") == "park"
        assert await asyncio.gather(asking, rested) == ["park", "park"]

    within_seconds(main)


def test_who_is_dismissed_while_an_answer_is_on_its_way_stays_dismissed() -> None:
    async def main() -> None:
        room = Room("a")
        task = asyncio.ensure_future(room.ask("a"))
        await asyncio.sleep(0)
        room.answered("a")
        room.close("a")
        assert await task == "work"
        assert room.closed("a")

    within_seconds(main)


def test_who_was_dismissed_in_the_middle_of_recruiting_gets_no_team() -> None:
    async def main() -> None:
        room = Room("a")
        room.close("a")
        room.hire("late", "a")
        assert room.closed("late")
        assert await room.wait("late") == "close"

    within_seconds(main)


def test_a_dependent_starts_without_those_who_were_dismissed() -> None:
    async def main() -> None:
        room = Room("a", "b")
        room.hire("c", depends_on=("a", "b"))
        (task,) = await room.sleeps("c")
        room.hand_in("a")
        assert room.blockers("c") == ["b"]
        room.close("b")
        assert await task == "work"

    within_seconds(main)


def test_a_restored_mailroom_wakes_only_those_who_have_mail() -> None:
    async def main() -> None:
        before = Room("a", "b")
        question = before.send("a", "b")
        before.send("b", "boss")
        letters = [*before.places["b"].unread, *before.places["boss"].unread]
        room = Room()
        for name in ("a", "b"):
            room.add(before.places[name].spec)
        room.restore(letters, {question: 1}, {}, {})
        tasks = await room.sleeps("a")
        assert room.why("a") == "waits for an answer from b"
        assert not tasks[0].done()
        assert await room.wait("boss") == "work"
        await room.let_go(*tasks)

    within_seconds(main)


def test_a_boss_whose_team_is_gone_does_not_wait_for_it() -> None:
    async def main() -> None:
        room = Room("a")
        room.close("a")
        assert await room.wait("boss") == "close"

    within_seconds(main)


def test_a_team_that_moved_since_is_not_ended_for_what_was_before() -> None:
    async def main() -> None:
        room = Room("a")
        for _ in range(STALLS_BEFORE_END + 2):
            room.send("boss", "a")
            room.work("a")
            room.read_all("a")
            room.hand_in("a")
            room.read_all("boss")
            (lead,) = await room.sleeps("boss")
            assert not lead.done()
            room.send("notice", "boss", "notice")
            assert await lead == "work"
        assert len(room.notices) == STALLS_BEFORE_END + 2

    within_seconds(main)


def test_of_those_whose_loops_have_ended_only_the_name_is_known() -> None:
    async def main() -> None:
        room = Room("a", "b")
        gone: list[str] = []
        room.on_gone = gone.append
        for member in ("a1", "a2"):
            room.hire(member, "a")
        room.hand_in("a1")
        room.close("a1")
        assert room.places.keys() == {"boss", "a", "b", "a1", "a2"}
        room.left("a1")
        assert room.places.keys() == {"boss", "a", "b", "a2"}
        room.hire("c", depends_on=("a",))
        (waits,) = await room.sleeps("c")
        room.send("b", "a2")
        room.close("a")
        assert await waits == "work"
        room.left("a")
        assert room.places.keys() == {"boss", "b", "c"}
        assert all(name in room.names for name in ("a", "a1", "a2"))
        assert len(room.names) == 6
        assert gone == ["a1", "a", "a2"]
        # What comes late changes nothing, and nobody comes back.
        room.send("b", "a")
        room.send("a1", "boss", "report")
        room.revise("a1", ACCEPTED, Report("", missing=("a.md",)))
        room.left("a2")
        room.hire("a1", "boss")
        room.hire("a3", "a")
        assert room.places.keys() == {"boss", "b", "c"}
        assert room.closed("a1")
        assert room.reach("b") == ["boss", "c"]
        assert room.accepted_of("boss") == 0
        assert await room.wait("a1") == "close"

    within_seconds(main)


def test_a_team_that_is_dismissed_at_once_is_forgotten_loop_by_loop() -> None:
    room = Room("a")
    for member in ("a1", "a2"):
        room.hire(member, "a")
    assert not room.over("boss", 0)
    assert room.close("a") == ["a", "a1", "a2"]
    for name, left in (("a2", {"boss", "a", "a1"}), ("a1", {"boss", "a"})):
        room.left(name)
        assert room.places.keys() == left
        assert not room.over("boss", 0)
    room.left("a")
    assert room.places.keys() == {"boss"}
    assert room.over("boss", 0)


def test_a_worker_keeps_no_letter_of_which_it_hears_no_more() -> None:
    told: list[tuple[Any, ...]] = []
    link = SimpleNamespace(tell=lambda *words: told.append(words), at_last=lambda say: None)
    room = BranchMailroom(lambda lead, text: None, lambda agent, state, why: None, cast(Link, link))
    for name, lead in (("boss", ""), ("head", "boss"), ("other", "boss")):
        room.add(AgentSpec(name, "", "", lead=lead))
    for name in ("head", "other"):
        room.take_over(name)
    for sender, kind in (("notice", "notice"), ("head", "message"), ("other", "message"), ("head", "report")):
        room.deliver(Letter(f"{sender}/{len(told)}/0", sender, "boss", cast(LetterKind, kind), ""))
    assert [words[0] for words in told] == ["letter"] * 4
    boss = room.places["boss"]
    assert [letter.sender for letter in boss.unread] == ["head", "other", "head"]
    room.close("head")
    room.left("head")
    # Of what the other has written, it is told whether it was read.
    assert [letter.sender for letter in boss.unread] == ["other"]
    assert room.heads.keys() == {"other"}


def test_what_was_read_last_takes_the_place_of_what_was_read_before() -> None:
    assert latest(["a"], [["b"], ["c", "d"]]) == ["c", "d"]
    assert latest(["a"], []) == ["a"]
