"""The command line as its users meet it: what it prints, how it ends, and what it does with what cannot be."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from megagraph.events import EventKind
from megagraph.rehearsal import Brief, Script, finish, recruit, wait_for, write_file
from tests.commands import HELLO, ROOT, Outcome, Program, child_env, ended, spawn, until, write_scenario
from tests.model_server import ModelServer
from tests.scripts import Play, one, worker

NOTE = "no language model is called"


@pytest.fixture
def mg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEGAGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return Program(tmp_path / "home", capsys)


def assert_refused(outcome: Outcome, *words: str) -> None:
    """One line on standard error, nothing on standard output, and exit code 2."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("megagraph: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


# --- a run ---------------------------------------------------------------------------------------------------


def test_a_run_prints_its_tree_report_verdicts_and_how_to_use_the_result(mg: Program, tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path / "hello", more="play: python hello.py\n")
    outcome = mg("run", scenario, "--unsafe-programs")
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert NOTE in lines[0]
    assert re.fullmatch(r"run [0-9a-f-]{36}", lines[1])
    for line in ("✓ boss", "It says hello.", "✓ it runs", "done, all 1 checks passed"):
        assert line in outcome.out
    assert outcome.out.count(NOTE) >= 2
    assert re.search(
        r"^Use it: megagraph files \w{8} --out result && cd result && python hello\.py$", outcome.out, re.M
    )


def test_what_is_printed_to_be_copied_works_where_the_shell_does_not_find_the_program(tmp_path: Path) -> None:
    """As after `make demo`, which calls it by its path."""
    scenario = write_scenario(tmp_path / "hello")
    here = Path(sys.executable).parent / "megagraph"
    env = child_env(tmp_path / "home", PATH="/usr/bin:/bin")
    command = [here, "run", str(scenario), "--unsafe-programs"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    [line] = re.findall(r"^Use it: (.+)$", done.stdout, re.M)
    subprocess.run(line, shell=True, env=env, cwd=tmp_path, check=True)
    assert (tmp_path / "result" / "hello.py").exists()


def test_a_run_with_a_model_says_which_and_is_no_rehearsal(mg: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    script = Script({"boss": one(write_file("poem.txt", "roses\n"), finish("A poem.", ["poem.txt"]))})
    with ModelServer(script) as server:
        outcome = mg("run", "write a poem", "--model", "openai:x", "--base-url", server.url, "--out", "poems")
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("Model: openai:x\n")
    assert NOTE not in outcome.out
    assert Path("poems/poem.txt").read_text() == "roses\n"


def test_a_failed_check_is_exit_code_1(mg: Program, tmp_path: Path) -> None:
    rehearsal = HELLO.replace("print('hello')", "raise SystemExit('broken')")
    outcome = mg("run", write_scenario(tmp_path / "hello", rehearsal), "--unsafe-programs")
    assert outcome.code == 1
    assert "✗ it runs" in outcome.out
    assert "broken" in outcome.out
    assert "done, 1 of 1 checks failed" in outcome.out


def test_a_report_with_something_missing_is_exit_code_1(mg: Program, tmp_path: Path) -> None:
    rehearsal = """
    from megagraph.rehearsal import Script, finish, update_todo

    def boss(brief):
        yield update_todo(["write it"])
        yield finish("I give up.")
        yield "I really do."
        yield "I do."

    script = Script({"boss": boss})
    """
    outcome = mg("run", write_scenario(tmp_path / "hello", rehearsal, "checks: []\n"))
    assert outcome.code == 1, outcome
    assert "done, incomplete" in outcome.out
    assert "incomplete" in mg("runs").out


def test_a_limit_pauses_and_a_higher_one_lets_it_go_on(mg: Program, tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path / "hello")
    outcome = mg("run", scenario, "--unsafe-programs", "--limit", "calls=1")
    assert outcome.code == 3
    assert "paused: limit reached: calls=1" in outcome.out
    resume = re.search(r"Go on with: megagraph (resume \w+) --limit calls=…$", outcome.out, re.M)
    assert resume
    assert mg("resume").code == 3, "without a higher limit it stays where it is"
    resumed = mg(*resume[1].split(), "--limit", "calls=500")
    assert resumed.code == 0, resumed
    assert "2 calls" in resumed.out
    assert "run_started" not in resumed.out
    assert "started:" not in resumed.out, "what an earlier process did is not told again"
    assert_refused(mg("resume"), "is done", "megagraph show")


def test_the_way_back_names_a_home_that_is_not_the_default(mg: Program, tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path / "hello")
    outcome = mg("run", scenario, "--limit", "calls=1", "--home", tmp_path / "another home")
    assert f"--home '{tmp_path}/another home'" in outcome.out


def test_questions_are_listed_answered_and_taken_up(mg: Program, tmp_path: Path) -> None:
    rehearsal = """
    from megagraph.rehearsal import Script, call, finish

    def boss(brief):
        heard = yield call("ask_human", question="Which colour?")
        yield finish("It is " + heard.text)

    script = Script({"boss": boss})
    """
    outcome = mg("run", write_scenario(tmp_path / "hello", rehearsal, "checks: []\n"))
    assert outcome.code == 3, outcome
    assert "boss asks: Which colour?" in outcome.out
    command = re.search(r'megagraph (answer \w+ \S+) "…"', outcome.out)
    assert command
    answer = command[1].split()
    assert "Which colour?" in mg("answer", "last").out
    assert_refused(mg(*answer), "the answer is missing")
    assert_refused(mg("answer", "last", "nobody/1/0", "red"), "no open question")
    [question] = json.loads(mg("show", "--json").out)["questions"]
    assert documented("Question") == set(question)
    assert [question] == json.loads(mg("answer", "last", "--json").out)
    answered = mg(*answer, "blue")
    assert answered.code == 0
    assert answered.out.startswith("Answered.\n")
    assert "Go on with: megagraph resume" in answered.out
    resumed = mg("resume")
    assert resumed.code == 0, resumed
    assert "blue" in resumed.out


# --- looking -------------------------------------------------------------------------------------------------


def test_the_looking_commands(mg: Program, tmp_path: Path) -> None:
    mg("run", write_scenario(tmp_path / "hello"), "--unsafe-programs")
    assert re.search(r"done\s+1/1\s+hello\s+rehearsal\s+2 ", mg("runs").out)
    shown = mg("show").out
    assert "✓ boss" in shown
    assert "1 file" in shown
    assert "hello.py" in mg("files").out
    log = mg("log").out
    assert "boss  write_file" in log
    assert mg("log", "last", "boss").out in log
    assert_refused(mg("log", "last", "nobody"), "no agent `nobody`", "boss")


def test_files_are_written_and_never_over_others(mg: Program, tmp_path: Path) -> None:
    mg("run", write_scenario(tmp_path / "hello"), "--unsafe-programs")
    assert mg("files", "--out", "result").code == 0
    mine = tmp_path / "result" / "hello.py"
    mine.write_text("mine\n")
    assert_refused(mg("files", "--out", "result"), "other versions of `hello.py`")
    assert mine.read_text() == "mine\n"
    assert mg("files", "--out", "result", "--overwrite").code == 0
    assert mine.read_text() == "print('hello')\n"
    assert_refused(mg("files", "--out", "/proc/nothing"), "/proc/nothing")


def test_looking_makes_no_home(mg: Program) -> None:
    assert mg("runs").out.startswith("No runs in ")
    assert json.loads(mg("runs", "--json").out) == []
    for command in ("show", "files", "log", "resume"):
        assert_refused(mg(command), "there are no runs in", "megagraph run")
    assert not mg.home.exists()


def test_a_list_of_runs_does_not_need_their_scenarios(mg: Program, tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path / "hello")
    mg("run", scenario, "--limit", "calls=1")
    (scenario / "scenario.yaml").write_text("name: [")
    assert "paused" in mg("runs").out


def test_what_agents_write_is_shown_and_never_obeyed(mg: Program, tmp_path: Path) -> None:
    rehearsal = r"""
    from megagraph.rehearsal import Script, finish, recruit, wait_for, write_file

    EVIL = "[bold]x[/] [/nope] :smile: \x1b[2J\x1b]0;owned\x07 \u202egnp.exe \x9b5m"

    def boss(brief):
        heard = yield recruit({"name": "a", "role": EVIL, "instructions": EVIL})
        yield from wait_for(heard, ["a"])
        yield finish("Said: " + EVIL)

    def a(brief):
        yield finish(EVIL)

    script = Script({"boss": boss, "a": a})
    """
    scenario = write_scenario(tmp_path / "hello", rehearsal, "checks: []\n")
    outcome = mg("run", scenario)
    assert outcome.code == 0, outcome
    for said in (outcome.out, mg("show").out, mg("log").out, mg("runs").out):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
    for said in (outcome.out, mg("show").out, mg("log").out):
        assert r"[bold]x[/] [/nope] :smile: \x1b[2J" in said


# --- what cannot be ------------------------------------------------------------------------------------------


def test_a_goal_without_a_model_is_told_the_ways_to_give_it_one(mg: Program) -> None:
    outcome = mg("run", "write a poem")
    assert outcome.code == 2
    for way in ("OPENAI_API_KEY", "--base-url", "--model rehearsal", "MegaGraph(model=ChatModel())"):
        assert way in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", ""], ["the goal is empty"]),
        (["run", "goban"], ["no scenario `goban`", "gobang"]),
        (["run", "./nowhere"], ["no scenario `./nowhere`"]),
        (["run", "x" * 400], ["one word is no goal"]),
        (["run", "gobang", "--limit", "calls"], ["NAME=VALUE"]),
        (["run", "gobang", "--limit", "calls=many"], ["`calls`", "integer"]),
        (["run", "gobang", "--limit", "calls=0"], ["`calls`", "greater"]),
        (["run", "gobang", "--limit", "cals=3"], ["`cals`", "Known limits: calls"]),
        (
            ["run", "gobang", "--model", "openai:x", "--base-url", "localhost:8000/v1"],
            ["`localhost:8000/v1`", "https://"],
        ),
        (["runs", "--home", "/proc/here"], []),
        (["run", "gobang", "--home", "/proc/here"], ["the home /proc/here cannot be used", "--home"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(mg: Program, args: list[str], words: list[str]) -> None:
    outcome = mg(*args)
    if words:
        assert_refused(outcome, *words)
    assert not mg.home.exists() or mg("runs").out.startswith("No runs"), "nothing was started"


@pytest.mark.parametrize("model", ["nonsense", "openai:", "openai:gpt-x", "other:thing"])
def test_a_model_that_cannot_be_had_is_refused(mg: Program, model: str) -> None:
    outcome = mg("run", "write a poem", "--model", model)
    assert outcome.code == 2
    assert outcome.err.startswith("megagraph: ")
    assert "Ways to give it one" in outcome.err


def test_a_rejected_key_fails_the_run_and_keeps_it(mg: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    args = ("--model", "openai:x", "--base-url")
    with ModelServer(Script({"boss": one(finish("Done."))}), key="right") as server:
        outcome = mg("run", "write a poem", *args, server.url)
        assert outcome.code == 3, outcome
        assert "check OPENAI_API_KEY" in outcome.out
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        assert mg("resume").code == 0


def test_a_home_that_is_a_file(mg: Program, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert_refused(mg("run", "gobang", "--home", file), "cannot be used", "--home")
    assert file.read_text() == "mine"


def test_a_database_that_is_garbage_or_newer_is_left_alone(mg: Program, tmp_path: Path) -> None:
    mg.home.mkdir()
    database = mg.home / "megagraph.db"
    database.write_bytes(os.urandom(5000))
    before = database.read_bytes()
    for command in (["runs"], ["show"], ["resume"], ["run", "gobang"]):
        assert_refused(mg(*command), str(database), "Nothing was changed")
    assert database.read_bytes() == before
    database.unlink()
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert_refused(mg("runs"), "newer megagraph", "update megagraph")


def test_a_database_with_broken_pages(mg: Program, tmp_path: Path) -> None:
    mg("run", write_scenario(tmp_path / "hello"), "--unsafe-programs")
    with (mg.home / "megagraph.db").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(2 * 4096)
        file.write(os.urandom(size - 2 * 4096))
    for command in ("runs", "show", "log", "files", "resume"):
        assert_refused(mg(command), "database", "--home")


def test_a_run_that_is_not_there(mg: Program, tmp_path: Path) -> None:
    mg("run", write_scenario(tmp_path / "hello"), "--json", "--limit", "calls=1")
    for command in ("show", "files", "log", "answer", "resume"):
        assert_refused(mg(command, "zzz"), "has no run `zzz`", "megagraph runs")


def test_an_out_folder_that_is_a_file_is_refused_before_anything_is_done(mg: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = mg("run", write_scenario(tmp_path / "hello"), "--out", "file")
    assert outcome.code == 2
    assert "is a file" in outcome.err
    assert not mg.home.exists()


# --- signals and processes -----------------------------------------------------------------------------------


def start(home: Path, server: ModelServer, *args: str) -> subprocess.Popen[str]:
    command = args or ("run", "Write the files.")
    return spawn(home, *command, "--model", "openai:x", "--base-url", server.url, OPENAI_API_KEY="test")


def pair_script() -> Script:
    """A boss and two workers, 10 calls in all."""

    def boss(brief: Brief) -> Play:
        hire = [{"name": name, "role": "worker", "instructions": f"write {name}"} for name in ("a", "b")]
        heard = yield recruit(*hire)
        yield from wait_for(heard, ["a", "b"])
        yield finish("Both have written.")

    return Script({"boss": boss, **{name: worker(f"{name}.txt", name) for name in ("a", "b")}})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_safe_point(
    mg: Program, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with ModelServer(pair_script(), latency=0.3) as server:
        child = start(mg.home, server)
        until(lambda: len(server.log) >= 3)
        child.send_signal(number)
        outcome = ended(child)
        assert outcome.code == 130, outcome
        assert "Stopping at the next safe point" in outcome.err
        assert "Traceback" not in outcome.err
        assert "paused: stopped by a signal" in outcome.out
        assert "Go on with: megagraph resume" in outcome.out
        answered = len(server.log.answered())
        shown = json.loads(mg("show", "--json").out)
        assert (shown["status"], shown["calls"]) == ("paused", answered)
        server.latency = 0.0
        resumed = mg("resume")
    assert resumed.code == 0, resumed
    assert server.log.repeats() == {}


INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "langgraph":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Interrupt())
from megagraph.cli import main
main(sys.argv[1:])
"""
"""The program, with a Ctrl-C while it imports where nobody passes a `KeyboardInterrupt` on, as in pydantic's core."""


@pytest.mark.parametrize("command", ["run", "resume", "watch"])
def test_an_interrupt_before_the_run_begins_ends_the_program_at_once(mg: Program, tmp_path: Path, command: str) -> None:
    folder = write_scenario(tmp_path / "hello")
    assert command == "run" or mg("run", folder, "--model", "rehearsal").code == 0
    args = ("run", str(folder), "--model", "rehearsal") if command == "run" else (command, "last")
    argv = [sys.executable, "-c", INTERRUPTED, *args]
    child = subprocess.run(argv, env=child_env(mg.home), capture_output=True, text=True, timeout=120, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (-signal.SIGINT, "", "")
    assert command != "run" or mg("runs").out.startswith("No runs in"), "nothing has begun"


def test_a_second_signal_stops_at_once_and_a_killed_run_is_interrupted(
    mg: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with ModelServer(Script({"boss": one(finish("Done."))}), latency=60) as server:
        child = start(mg.home, server)
        until(lambda: server.in_flight > 0)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        until(lambda: "safe point" in child.stderr.readline())  # type: ignore[union-attr]
        assert child.poll() is None, "the first one waits for the call in flight"
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        outcome = ended(child)
        assert time.monotonic() - begun < 15
        assert outcome.code == 130, outcome
        assert "paused: stopped at once" in outcome.out
        assert "Traceback" not in outcome.err

        # A second process is refused while one is at work, and what a killed one leaves is `interrupted`.
        until(lambda: server.in_flight == 0)
        child = start(mg.home, server, "resume")
        until(lambda: server.in_flight > 0)
        assert_refused(mg("resume"), f"another process (pid {child.pid})", "Wait for it")
        assert "running" in mg("runs").out
        assert "Go on with" not in mg("show").out
        child.kill()
        ended(child)
        assert "interrupted" in mg("runs").out
        shown = mg("show").out
        assert "\ninterrupted" in shown
        assert "Go on with: megagraph resume" in shown


def test_the_picture_moves_while_nothing_happens(mg: Program) -> None:
    with ModelServer(Script({"boss": one(finish("Done."))}), latency=600) as server:
        args = ["run", "Write a poem.", "--model", "openai:x", "--base-url", server.url]
        ours, theirs = pty.openpty()
        env = child_env(mg.home, OPENAI_API_KEY="test", TERM="xterm", LINES="24")
        child = subprocess.Popen(
            [sys.executable, "-m", "megagraph", *args], env=env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        said, seconds = b"", list[int]()
        # However few pictures a busy machine makes: those that it makes tell of the time that goes by.
        while len(set(seconds)) < 3 or len(seconds) < 6:
            said += os.read(ours, 65536)
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode(errors="replace"))
            seconds = [int(s) for s in re.findall(r"out · (\d+) s", text)]
        assert seconds == sorted(seconds)
        child.kill()
        child.wait()
        os.close(ours)


def test_help_is_quick_because_it_loads_nothing() -> None:
    program = "import sys; sys.argv = ['megagraph', '--help']\nfrom megagraph.cli import main\ntry: main()\n"
    program += "except SystemExit: print(sorted(m for m in sys.modules if m.split('.')[0] in HEAVY))"
    heavy = "HEAVY = {'langgraph', 'langchain_core', 'openai', 'pydantic', 'pygit2', 'yaml', 'sqlite_utils'}\n"
    done = subprocess.run([sys.executable, "-c", heavy + program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


# --- docs/cli.md ---------------------------------------------------------------------------------------------


def documented(heading: str) -> set[str]:
    """The fields in the table below a heading of docs/cli.md."""
    page = (ROOT / "docs" / "cli.md").read_text()
    section = page.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0].split("| kind |", 1)[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.M))


def documented_events() -> dict[str, set[str]]:
    page = (ROOT / "docs" / "cli.md").read_text()
    rows = re.findall(r"^\| (.*?) \| (.*?) ?\|", page.split("| kind | data |", 1)[1].split("\n## ", 1)[0], re.M)
    return {kind: set(re.findall(r"`(\w+)`", data)) for kinds, data in rows for kind in re.findall(r"`(\w+)`", kinds)}


def test_the_documented_help_is_the_programs() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    make_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_cli)
    page = (ROOT / "docs" / "cli.md").read_text()
    assert make_cli.updated(page) == page, "run `make docs`"
    commands = re.findall(r"^  (\w+) ", page.split("Commands:\n", 1)[1].split("```", 1)[0], re.M)
    assert commands == re.findall(r"<!-- help: (\w+) -->", page)


def test_the_documented_json_is_what_is_printed(mg: Program, tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path / "hello")
    result: dict[str, Any] = json.loads(mg("run", scenario, "--unsafe-programs", "--json").out)
    assert set(result) == documented("Result")
    assert result["rehearsal"] is True
    assert result["passed"] is True
    assert set(result["report"]) == documented("Report")
    assert set(result["verdicts"][0]) == documented("Verdict")

    [listed] = json.loads(mg("runs", "--json").out)
    assert set(listed) == documented("Result") | documented("Listed run")
    shown = json.loads(mg("show", "--json").out)
    assert set(shown) == set(listed) | documented("Shown run")
    assert {key: shown[key] for key in listed} == listed
    assert set(shown["agents"][0]) == documented("Agent")
    assert shown["agents"][0]["calls"] == result["calls"] == 2
    assert shown["agents"][0]["files"] == shown["files"] == ["hello.py"]

    [file] = json.loads(mg("files", "--json").out)
    assert set(file) == documented("File")
    assert file == {"path": "hello.py", "bytes": 15, "agent": "boss"}
    assert json.loads(mg("answer", "last", "--json").out) == []

    mg("run", scenario, "--json", "--limit", "calls=1")
    assert set(json.loads(mg("resume", "--json").out)) == documented("Result")


def test_the_documented_events_are_those_that_happen(mg: Program, tmp_path: Path) -> None:
    rehearsal = "from tests.scripts import deep_script\nscript = deep_script()\n"
    scenario = write_scenario(tmp_path / "hello", rehearsal, "checks: [{run: [nothing.py]}]\n")
    assert mg("run", scenario, "--json", "--limit", "calls=10").code == 3
    assert mg("resume", "--json", "--limit", "calls=500").code == 1
    events = [json.loads(line) for line in mg("log", "--json").out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = documented_events()
    for event in events:
        assert set(event) == documented("Event")
        assert set(event["data"]) <= kinds[event["kind"]], event
    seen = {event["kind"] for event in events}
    assert {"run_started", "run_resumed", "run_paused", "run_ended", "recruited", "letter", "check"} <= seen


def test_every_kind_of_event_is_documented() -> None:
    assert set(documented_events()) == set(get_args(EventKind))
