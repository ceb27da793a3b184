"""Who is at rest after a kill or in a branch: never who has something to do, and who has not from the first moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from megagraph import MegaGraph, Run, agent, failures
from megagraph.mailroom import Place
from megagraph.organisation import Organisation
from megagraph.rehearsal import Brief, Call, Heard, Part, Script, call, finish, read_brief, recruit, talk, update_todo
from tests.commands import child_env
from tests.scripts import Play, one
from tests.test_branches import Recorded

AGAIN = "try again"


def hire(name: str) -> dict[str, Any]:
    return {"name": name, "role": "worker", "instructions": f"be {name}"}


def told(heard: Heard | Brief, *kinds: str) -> bool:
    return any(kind in kinds for _, kind, _ in heard.letters)


def boss(brief: Brief) -> Play:
    """Finishes as soon as its worker has reported or failed. Where something is missing, it is told so once."""
    heard = yield recruit(hire("worker"))
    while not told(heard, "report", "failure"):
        heard = yield "I wait."
    yield finish("Over.")
    yield finish("Over, as it is.")


def patient(brief: Brief) -> Play:
    """Has a worker that failed try again."""
    heard = yield recruit(hire("worker"))
    while not told(heard, "report"):
        heard = yield talk("worker", AGAIN) if told(heard, "failure") else "I wait."
    yield finish("Over.")


def until_told(turn: Call) -> Part:
    """Makes this turn until it is told to try again."""

    def part(brief: Brief) -> Play:
        heard: Heard | Brief = brief
        while not told(heard, "message"):
            heard = yield turn
        yield finish("Done.")

    return part


def raises(brief: Brief) -> Play:
    raise RuntimeError("no")
    yield


class Mute(Recorded):
    """A scripted model that says nothing in the worker's place, until it is told to try again."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        if read_brief(messages).name == "worker" and not any(AGAIN in message.text for message in messages):
            return ChatResult(generations=[ChatGeneration(message=AIMessage(""))])
        return super()._generate(messages, *args, **kwargs)


@dataclass(frozen=True)
class Case:
    """A worker that hands something in, and is killed with its process before a checkpoint tells of it."""

    before: Part
    after: Part
    """How it would go on if it had handed in nothing."""
    model: type[Recorded] = Recorded
    broken: bool = False
    """Whether tools and checks raise what nobody has foreseen, before the kill."""


CASES = {
    "a model that raises": Case(raises, one(finish("Done."))),
    "empty answers": Case(one(), one(finish("Done.")), model=Mute),
    "calls that cannot be": Case(until_told(call("dance")), until_told(call("dance"))),
    "a broken tool": Case(*2 * (one(update_todo([]), finish("Done.")),), broken=True),
    "broken checks": Case(*2 * (one("All is done.", finish("Done.")),), broken=True),
    "a last word": Case(one("All is done."), one("All is done.", finish("Done anew."))),
}
FAILURES = [name for name in CASES if name != "a last word"]


def die(home: str, name: str, lead: str) -> None:
    """Begin a run, and be killed once the worker has handed in; in view of a patient lead, once it has answered."""
    case, hand_in = CASES[name], failures.hand_in
    perform, examine = agent.TOOLBOX.perform, agent.examine

    async def and_die(org: Organisation, spec: Any, *args: Any, **kwargs: Any) -> None:
        await hand_in(org, spec, *args, **kwargs)
        if spec.name == "worker":
            for _ in range(3000 if lead == "patient" else 0):
                if any(letter.text == AGAIN for letter in org.ledger.letters()):
                    break
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    async def broken_tool(caller: Any, *args: Any) -> Any:
        if case.broken and caller.spec.name == "worker":
            raise RuntimeError("broken")
        return await perform(caller, *args)

    async def broken_check(org: Organisation, spec: Any, *args: Any) -> Any:
        if case.broken and spec.name == "worker":
            raise RuntimeError("broken")
        return await examine(org, spec, *args)

    async def session() -> None:
        parts = {"boss": {"boss": boss, "patient": patient}[lead], "worker": case.before}
        async with MegaGraph(case.model(Script(parts)), home=home) as mega:
            await (await mega.start("Do it.")).result()

    for module in (agent, failures):
        module.hand_in = and_die  # type: ignore[attr-defined]
    agent.examine = broken_check  # type: ignore[attr-defined]
    agent.TOOLBOX.perform = broken_tool  # type: ignore[method-assign]
    asyncio.run(session())


def killed(home: Path, program: str) -> None:
    argv = [sys.executable, "-c", f"from tests.test_rest import *\n{program}"]
    child = subprocess.run(argv, env=child_env(home), timeout=120, check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr


@dataclass
class Seen:
    """What a process thought of the agents."""

    busy: list[str] = field(default_factory=list)
    """Why the boss could not have finished when the process began."""
    worked: list[str] = field(default_factory=list)
    """Who was taken to be at work, each time."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen, restore, go_to_work = Seen(), Organisation._restore, Place.go_to_work

    def restored(org: Organisation) -> None:
        restore(org)
        seen.busy, seen.worked = org.mailroom.busy("boss"), []

    def at_work(place: Place) -> None:
        seen.worked.append(place.spec.name)
        go_to_work(place)

    monkeypatch.setattr(Organisation, "_restore", restored)
    monkeypatch.setattr(Place, "go_to_work", at_work)
    return seen


def resumed(home: Path, script: Script, look: Callable[[Run, Recorded], None]) -> None:
    """Go on with the last run to its end."""

    async def session() -> None:
        model = Recorded(script)
        async with MegaGraph(model, home=home) as mega:
            run = await mega.resume("last")
            assert (await run.result()).status == "done"
            look(run, model)

    asyncio.run(session())


def never_refused(run: Run) -> None:
    results = [event.data["result"] for event in run.events() if event.kind == "tool" and event.agent == "boss"]
    assert not [result for result in results if "still at work" in result]


@pytest.mark.parametrize("name", CASES)
def test_what_was_handed_in_before_a_kill_leaves_its_agent_at_rest(tmp_path: Path, seen: Seen, name: str) -> None:
    killed(tmp_path, f"die({str(tmp_path)!r}, {name!r}, 'boss')")

    def look(run: Run, model: Recorded) -> None:
        never_refused(run)
        assert [line for line in seen.busy if "has written to you" not in line] == []
        assert "worker" not in seen.worked
        assert "worker" not in [agent for agent, _ in model.log]
        letters = [letter.id for letter in run.ledger.letters() if letter.sender == "worker"]
        assert len(letters) == 1, "it has handed in once"
        assert [step.reported for step in run.history("worker")][-1], "and the state of the agent tells of it"

    resumed(tmp_path, Script({"boss": boss, "worker": CASES[name].after}), look)


@pytest.mark.parametrize("name", FAILURES)
def test_an_answer_to_a_failure_is_read_though_the_process_died_in_between(
    tmp_path: Path, seen: Seen, name: str
) -> None:
    killed(tmp_path, f"die({str(tmp_path)!r}, {name!r}, 'patient')")

    def look(run: Run, model: Recorded) -> None:
        [answer] = [letter.id for letter in run.ledger.letters() if letter.text == AGAIN]
        rows = run.ledger.database.read("SELECT step, letters FROM calls WHERE agent = 'worker' ORDER BY step")
        assert json.loads(rows[-1]["letters"]) == [answer]
        [failure] = [letter.id for letter in run.ledger.letters() if letter.kind == "failure"]
        assert rows[-1]["step"] == int(failure.split("/")[1]) + 1, "what had failed is over"
        assert [agent for agent, _ in model.log].count("worker") == 1
        assert "worker (at work)" in seen.busy, "it has a letter to read"

    resumed(tmp_path, Script({"boss": patient, "worker": CASES[name].after}), look)


# --- rest after a letter, without another report ---------------------------------------------------------------


def noting_script() -> Script:
    """A worker that has reported answers two letters and has nothing more to say."""

    def lead(brief: Brief) -> Play:
        heard = yield recruit(hire("worker"))
        while not told(heard, "report"):
            heard = yield "I wait."
        heard = yield recruit(hire("mate"))
        while "mate" not in [sender for sender, kind, _ in heard.letters if kind == "report"]:
            heard = yield "I wait."
        yield finish("Over.")

    def mate(brief: Brief) -> Play:
        for word in ("first", "second"):
            heard = yield talk("worker", word)
            while word not in [text for sender, _, text in heard.letters if sender == "worker"]:
                heard = yield "I wait."
            yield update_todo([])
        yield finish("Told.")

    turns = (finish("Done."), talk("mate", "first"), "Noted.", talk("mate", "second"), "Noted as well.")
    return Script({"boss": lead, "mate": mate, "worker": one(*turns)})


class Slow(Recorded):
    """The mate goes on only when the worker rests again."""

    home: Any = None

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        todos = sum(
            call["name"] == "update_todo" for m in messages if isinstance(m, AIMessage) for call in m.tool_calls
        )
        wanted = {"mate": {1: 3, 2: 5}}.get(read_brief(messages).name, {}).get(todos, 0)
        for _ in range(3000):
            rows = self.home.database.read("SELECT max(rested) FROM agents WHERE name = 'worker'")
            if (rows[0][0] or 0) >= wanted:
                break
            await asyncio.sleep(0.01)
        return await super()._agenerate(messages, *args, **kwargs)

    @classmethod
    def at(cls, home: Path) -> MegaGraph:
        model = cls(noting_script())
        mega = MegaGraph(model, home=home)
        model.home = mega.home
        return mega


def die_at_rest(home: str) -> None:
    """Begin the run, and be killed when the worker has come to rest again and no checkpoint tells of it."""
    rest = agent._rest

    async def and_die(org: Organisation, spec: Any, *args: Any) -> Any:
        command = await rest(org, spec, *args)
        if spec.name == "worker" and command.goto == "wait":
            os.kill(os.getpid(), signal.SIGKILL)
        return command

    async def session() -> None:
        async with Slow.at(Path(home)) as mega:
            await (await mega.start("Do it.")).result()

    agent._rest = and_die
    asyncio.run(session())


def test_who_has_read_a_letter_and_rests_again_is_at_rest_after_a_kill(tmp_path: Path, seen: Seen) -> None:
    killed(tmp_path, f"die_at_rest({str(tmp_path)!r})")

    async def session() -> None:
        async with Slow.at(tmp_path) as mega:
            run = await mega.resume("last")
            async for event in run:
                if event.kind == "letter" and event.data["text"] == "second":
                    break
            assert seen.worked.count("worker") <= 1, "for the second letter alone"
            assert not [line for line in seen.busy if line.startswith("worker")]
            assert (await run.result()).status == "done"

    asyncio.run(session())


def test_who_has_read_a_letter_and_rests_again_is_at_rest_in_a_branch(tmp_path: Path, seen: Seen) -> None:
    async def session() -> None:
        async with Slow.at(tmp_path) as mega:
            run = await mega.start("Do it.")
            assert (await run.result()).status == "done"
            moments = {
                run.history("boss")[-1].address: False,
                # Before the second letter is sent, so that the worker waits for it again.
                "mate:think#4": False,
                "worker:act#4": True,
                "worker:think#5": True,
            }
            for at, at_work in moments.items():
                branch = await mega.resume((await run.branch(at)).id)
                assert (await branch.result()).status == "done"
                assert ("worker" in [line.split(" ")[0] for line in seen.busy]) == at_work, at

    asyncio.run(session())


# --- letters that a failure settles ---------------------------------------------------------------------------------


def test_letters_that_a_failure_settled_wake_nobody_in_a_branch(tmp_path: Path, seen: Seen) -> None:
    def worker(brief: Brief) -> Play:
        if not told(brief, "message"):
            raise RuntimeError("no")
        if sum(text == AGAIN for _, _, text in brief.letters) < 2:
            raise RuntimeError("no, again")
        yield finish("Done.")

    async def session() -> None:
        async with MegaGraph(Recorded(Script({"boss": patient, "worker": worker})), home=tmp_path) as mega:
            run = await mega.start("Do it.")
            assert (await run.result()).status == "done"
            settled = [letter.settles for letter in run.ledger.letters() if letter.kind == "failure"]
            assert [len(ids) for ids in settled] == [0, 1]
            branch = await mega.resume((await run.branch(run.history("boss")[-1].address)).id)
            assert (await branch.result()).status == "done"
            assert seen.busy == []
            assert "worker" not in seen.worked
            never_refused(branch)

    asyncio.run(session())
