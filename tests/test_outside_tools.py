"""Tools from outside: of LangChain and of a real MCP server, for those they are meant for, and whatever they do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mcp.client.stdio  # noqa: F401 - it keeps the stderr of its import, which in a test with `capsys` is no file
import pytest
from langchain_core.tools import BaseTool, tool

from megagraph import Limits, MegaGraph, OutsideTool, Result
from megagraph.errors import UsageError
from megagraph.mcp_servers import read_mcp
from megagraph.outside_tools import plain
from megagraph.rehearsal import Brief, Part, RehearsalModel, Script, call, finish, recruit, wait_for
from tests.commands import Program, child_env, until, write_scenario
from tests.model_server import ModelServer
from tests.scripts import Play, one
from tests.test_approvals import hire


@tool
def look_up(word: str, times: int = 1) -> str:
    """Look a word up."""
    return " ".join([f"{word} means nothing."] * times)


@tool
async def ask_oracle(question: str) -> str:
    """Ask."""
    await asyncio.sleep(0)
    return f"42 to {question}"


def shout(text: str) -> str:
    """Say it aloud."""
    return text.upper()


class Plain(BaseTool):
    """A tool that is a class, and blocks."""

    name: str = "plain"
    description: str = "Which thread it is."

    def _run(self) -> str:
        return threading.current_thread().name


def play(home: Path, script: Mapping[str, Part], tools: Sequence[Any] = (), **kwargs: Any) -> tuple[Result, list[Any]]:
    async def work() -> tuple[Result, list[Any]]:
        async with MegaGraph(RehearsalModel(script=Script(script)), home=home, tools=tools, **kwargs) as mega:
            run = await mega.start("Do it.")
            result = await run.result()
            rows = mega.home.database.read("SELECT tool, ok, result FROM tool_calls ORDER BY agent, step, idx")
            return result, [(row["tool"], bool(row["ok"]), row["result"]) for row in rows]

    return asyncio.run(work())


def test_tools_of_every_make_are_called_and_journalled(tmp_path: Path) -> None:
    calls = (
        call("look_up", word="owl", times=2),
        call("ask_oracle", question="all"),
        call("shout", text="hey"),
        call("plain"),
    )
    result, rows = play(tmp_path, {"boss": one(calls, finish("done"))}, [look_up, ask_oracle, shout, Plain()])
    assert result.passed
    assert rows[:3] == [
        ("look_up", True, "owl means nothing. owl means nothing."),
        ("ask_oracle", True, "42 to all"),
        ("shout", True, "HEY"),
    ]
    assert rows[3][2].startswith("megagraph-tool-plain"), "a tool that blocks has a thread of its own"


def test_what_goes_wrong_in_a_tool_goes_to_the_model(tmp_path: Path) -> None:
    def breaks(how: str) -> str:
        """Break."""
        if how == "exit":
            sys.exit(3)
        raise ValueError(how)

    def sleeps() -> str:
        """Block."""
        time.sleep(5)
        return "awake"

    async def waits() -> str:
        """Wait."""
        await asyncio.sleep(5)
        return "done"

    def tells() -> str:
        """Tell much."""
        return "x" * 5000

    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    async def work() -> list[tuple[bool, str]]:
        calls = (
            call("breaks", how="so"),
            call("breaks", how="exit"),
            call("breaks", wrong=1),
            call("sleeps"),
            call("waits"),
            call("tells"),
        )
        given = [
            breaks,
            OutsideTool(sleeps, seconds=0.2),
            OutsideTool(waits, seconds=0.2),
            OutsideTool(tells, characters=100),
        ]
        async with MegaGraph(
            RehearsalModel(script=Script({"boss": one(calls, finish("done"))})), home=tmp_path, tools=given
        ) as mega:
            heart = asyncio.create_task(beat())
            assert (await (await mega.start("Do it.")).result()).passed
            heart.cancel()
            rows = mega.home.database.read("SELECT ok, result FROM tool_calls ORDER BY step, idx")
            return [(bool(row["ok"]), row["result"]) for row in rows]

    rows = asyncio.run(work())
    assert rows[0] == (False, "Error: `breaks` failed: ValueError: so")
    assert not rows[1][0] and "SystemExit: 3" in rows[1][1]
    assert not rows[2][0] and "wrong arguments for `breaks`: `how`: Field required" in rows[2][1]
    assert rows[3] == (False, "Error: `sleeps` has not answered in 0.2 seconds.")
    assert rows[4] == (False, "Error: `waits` has not answered in 0.2 seconds.")
    assert rows[5] == (True, f"{'x' * 100}\n(cut: the first 100 of 5,000 characters)")
    assert beats > 10, "the loop was never blocked"


def test_a_tool_is_shown_to_those_it_is_for_and_to_nobody_else(tmp_path: Path) -> None:
    given = [
        OutsideTool(look_up, agents=["leads"]),
        OutsideTool(ask_oracle, agents="leaves"),
        OutsideTool(shout, agents=["*_poet", "boss"]),
    ]

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("a_poet"), hire("b"))
        yield from wait_for(heard, ["a_poet", "b"])
        yield finish("done")

    script = {
        "boss": boss,
        "a_poet": one(call("shout", text="o"), finish("sung")),
        "b": one((call("shout", text="o"), call("ask_oracle", question="x")), finish("heard")),
    }
    shown: dict[str, set[str]] = {}

    class Looking(ModelServer):
        async def _whole(self, ex: Any, reply: Any) -> Any:
            names = {t["function"]["name"] for t in ex.body["tools"]}
            shown[ex.agent] = names & {"look_up", "ask_oracle", "shout"}
            (schema,) = [t["function"] for t in ex.body["tools"] if t["function"]["name"] == "shout"] or [None]
            if schema:
                assert schema["description"] == "Say it aloud."
                assert schema["parameters"]["required"] == ["text"]
            return await super()._whole(ex, reply)

    async def work() -> None:
        async with (
            Looking(Script(script)) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, tools=given) as mega,
        ):
            run = await mega.start("Do it.")
            assert (await run.result()).passed
            rows = mega.home.database.read("SELECT result FROM tool_calls WHERE agent = 'b' AND tool = 'shout'")
            assert rows[0]["result"].startswith("Error: there is no tool `shout`.")

    asyncio.run(work())
    assert shown == {"boss": {"look_up", "shout"}, "a_poet": {"ask_oracle", "shout"}, "b": {"ask_oracle"}}


def test_what_tools_add_to_a_call_is_expected_before_it(tmp_path: Path) -> None:
    @tool(description="It does many things. " * 400)
    def wordy(text: str) -> str:
        return text

    def limited(home: Path, tools: Sequence[Any]) -> Result:
        script = {"boss": one(finish("done"))}
        return play(home, script, tools, limits=Limits(input_tokens=5000))[0]

    assert limited(tmp_path / "a", []).passed
    assert "input_tokens=5000" in limited(tmp_path / "b", [wordy]).reason


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([tool("recruit", description="x")(lambda text: text)], "the name of one of megagraph's own"),
        ([tool("run program", description="x")(lambda text: text)], "a name that models do not take"),
        ([look_up, look_up], "`look_up` is given twice"),
        ([lambda text: text], "no tool can be made of"),
        ([OutsideTool(look_up, seconds=0)], "must be above 0"),
    ],
)
def test_tools_that_cannot_be_had_are_refused_in_one_line(tmp_path: Path, given: Any, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as refused:
        MegaGraph("rehearsal", home=tmp_path, tools=given)
    assert "\n" not in str(refused.value)


KILLED = """
import asyncio, os, signal, sys
from megagraph import MegaGraph
from megagraph.rehearsal import RehearsalModel, Script, call, finish
from tests.scripts import one

def mark(name: str) -> str:
    "Leave a mark."
    with open(sys.argv[2], "a") as file:
        file.write(name + "\\n")
    if name == "second" and sys.argv[3] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return name

calls = (call("mark", name="first"), call("mark", name="second"))

async def work():
    script = Script({"boss": one(calls, (call("mark", name="third"),), finish("done"))})
    tools = [] if sys.argv[3] == "without" else [mark]
    async with MegaGraph(RehearsalModel(script=script), home=sys.argv[1], tools=tools) as mega:
        run = await (mega.resume("last") if mega.home.runs() else mega.start("Do it."))
        print((await run.result()).status)
        for row in mega.home.database.read("SELECT result FROM tool_calls WHERE tool = 'mark' ORDER BY step, idx"):
            print(row["result"])

asyncio.run(work())
"""


@pytest.mark.parametrize("way", ["with", "without"])
def test_a_finished_call_is_not_made_again_after_a_kill(tmp_path: Path, way: str) -> None:
    log = tmp_path / "log"

    def child(way: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", KILLED, str(tmp_path), str(log), way]
        return subprocess.run(argv, env=child_env(tmp_path), timeout=180, check=False, capture_output=True, text=True)

    assert child("kill").returncode == -9
    ended = child(way)
    gone = "Error: `mark` was given to this run before, and is not given any more. Do without it."
    if way == "with":
        assert ended.stdout.split("\n") == ["done", "first", "second", "third", ""], ended.stderr
        assert log.read_text().split() == ["first", "second", "second", "third"], "what a kill met is made once more"
    else:
        assert ended.stdout.split("\n") == ["done", "first", gone, gone, ""], ended.stderr
        assert log.read_text().split() == ["first", "second"]


# --- MCP -----------------------------------------------------------------------------------------------------


def servers(log: Path, **more: Any) -> dict[str, Any]:
    argv = [str(Path(__file__).parent / "mcp_server.py"), str(log)]
    return {"mcpServers": {"helper": {"command": sys.executable, "args": argv, **more}}}


def started(log: Path) -> list[int]:
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("started")]


def alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_an_mcp_server_is_used_in_one_session_that_ends_with_the_run(tmp_path: Path) -> None:
    calls = (call("helper_count_up"), call("helper_count_up", by=2), call("helper_fail", why="so"))
    script = {"boss": one(calls, (call("helper_count_up", by="many"),), finish("done"))}
    log = tmp_path / "log"
    result, rows = play(tmp_path, script, mcp=servers(log))
    assert result.passed
    assert [row[2] for row in rows[:2]] == ["the count is 1", "the count is 3"]
    assert not rows[2][1] and "so" in rows[2][2]
    assert not rows[3][1] and "many" in rows[3][2]
    assert len(started(log)) == 2, "once to tell its tools, once to be called"
    until(lambda: not any(map(alive, started(log))))


def test_a_server_that_dies_or_hangs_gives_errors_and_the_next_call_another_one(tmp_path: Path) -> None:
    script = {
        "boss": one(
            (call("helper_count_up"), call("helper_die"), call("helper_count_up"), call("helper_hang")),
            (call("helper_count_up"),),
            finish("done"),
        )
    }
    log = tmp_path / "log"
    result, rows = play(tmp_path, script, mcp=servers(log, seconds=5))
    assert result.passed
    assert not rows[1][1] and "the MCP server `helper` failed" in rows[1][2]
    assert rows[2][2] == "the count is 1", "it is another one"
    assert rows[3][:2] == ("helper_hang", False) and "has not answered in 5 seconds" in rows[3][2]
    assert rows[4][2] == "the count is 1"
    assert result.status == "done"
    until(lambda: not any(map(alive, started(log))))


def test_a_server_that_cannot_be_used_stops_the_start_in_one_line(tmp_path: Path) -> None:
    for entry in ({"command": "/nowhere/server"}, {"command": sys.executable, "args": ["-c", "pass"]}):
        mega = MegaGraph(RehearsalModel(script=Script({})), home=tmp_path, mcp={"mcpServers": {"odd": entry}})
        with mega, pytest.raises(UsageError, match="the MCP server `odd` cannot be used: ") as refused:
            mega.run("Do it.")
        assert "\n" not in str(refused.value)
        with MegaGraph(home=tmp_path) as looking:
            assert looking.home.runs() == [], "nothing was begun"


def test_servers_come_from_a_file_of_the_command_line_or_of_a_scenario(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = """
    from megagraph.rehearsal import Script, call, finish

    def boss(brief):
        heard = yield call("helper_count_up")
        yield finish(heard.results[0])

    script = Script({"boss": boss})
    """
    monkeypatch.setenv("MEGAGRAPH_HOME", str(tmp_path / "home"))
    megagraph = Program(tmp_path / "home", capsys)
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps(servers(tmp_path / "log")))
    bare = write_scenario(tmp_path / "bare", rehearsal, "checks: []\n")
    ended = megagraph("run", bare, "--mcp", config)
    assert ended.code == 0 and "the count is 1" in ended.out
    own = write_scenario(tmp_path / "own", rehearsal, "checks: []\nmcp: servers.json\n")
    (own / "servers.json").write_text(config.read_text())
    assert "the count is 1" in megagraph("run", own).out
    for text, complaint in (("{", "no valid JSON"), ('{"mcpServers": {"a": {}}}', "either `command` or `url`")):
        config.write_text(text)
        ended = megagraph("run", bare, "--mcp", config)
        assert ended.code == 2 and complaint in ended.err and ended.err.count("\n") == 1


def test_the_configuration_is_the_usual_one() -> None:
    read = read_mcp(
        {
            "mcpServers": {
                "a": {"command": "x", "args": ["y"], "env": {"K": "v"}, "autoApprove": [], "agents": "leads"},
                "b": {"url": "http://localhost/mcp", "headers": {"A": "b"}},
                "c": {"type": "sse", "url": "http://localhost/sse"},
                "d": {"command": "x", "disabled": True},
            }
        }
    )
    assert list(read) == ["a", "b", "c"]
    assert read["a"].connection() == {
        "transport": "stdio",
        "command": "x",
        "args": ["y"],
        "env": {"K": "v"},
        "cwd": None,
    }
    assert read["a"].agents == ("leads",)
    assert read["b"].connection()["transport"] == "http"
    assert read["c"].connection()["transport"] == "sse"
    for odd in ({"a": {"url": "x", "type": "pigeon"}}, {"a": []}, {"a": {"command": "x", "seconds": 0}}):
        with pytest.raises(UsageError):
            read_mcp({"mcpServers": odd})


def test_without_the_extra_it_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_mcp_adapters", None)
    mega = MegaGraph(RehearsalModel(script=Script({})), home=tmp_path, mcp=servers(tmp_path / "log"))
    with mega, pytest.raises(UsageError, match=r"pip install 'megagraph\[mcp\]'"):
        mega.run("Do it.")


def test_a_schema_that_contains_itself_is_flattened() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#/$defs/Tree"}, "title": {"type": "string"}}}
    flat = plain({"$ref": "#/$defs/Tree", "$defs": {"Tree": tree}})
    assert flat["properties"] == {"child": {}, "title": {"type": "string"}}
