"""Models over the wire: which one is meant, what is tried again, and runs through every kind of fault."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import SecretStr

from megagraph import Limits, MegaGraph, models, openai_chat
from megagraph.errors import HomeError, UsageError
from megagraph.gate import Left, Rates
from megagraph.model_rules import ModelRules
from megagraph.models import Asker, Model, ModelChoice, choose_model
from megagraph.rehearsal import Brief, Part, RehearsalModel, Script, Turn, call, finish, recruit, talk, write_file
from megagraph.run import Result, Run
from tests.commands import until
from tests.model_server import FAULTS, ModelServer
from tests.scripts import Play, deep_script, one
from tests.test_chaos import EXPECTED

Outcome: TypeAlias = tuple[Result, dict[str, str], Counter[str]]

SIMPLE = Script({"boss": one(finish("done"))})


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    for name in ("OPENAI_MODEL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_no_key_no_model_and_a_bare_goal_lists_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError) as caught:
        choose_model(None)
    for way in ("openai:NAME", "--base-url", "rehearsal", "MegaGraph(model="):
        assert way in str(caught.value)


def test_no_key_and_no_model_rehearses_a_scenario_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert choose_model(None, script=lambda: SIMPLE).rehearsal


def test_with_a_key_a_rehearsal_is_not_passed_off_for_a_model() -> None:
    with pytest.raises(UsageError, match="no model was named"):
        choose_model(None, script=lambda: SIMPLE)


@pytest.mark.parametrize("name", ["gpt-5", "openai:", "martian:x", ""])
def test_a_name_that_is_not_understood_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not understood"):
        choose_model(name)


def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="needs OPENAI_API_KEY"):
        choose_model("openai:x")
    assert choose_model("openai:x", base_url="http://127.0.0.1:1/v1").label == "openai:x"


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "127.0.0.1:8000", "ws://h/v1", "http://", "http://h:x/v1", "http://["]
)
def test_a_server_without_a_whole_url_is_refused_before_anything_is_asked(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start() -> None:
        async with MegaGraph("openai:x", base_url=url, home=tmp_path) as mega:
            await mega.start("Write the files.")

    for refused in (
        lambda: choose_model("openai:x", base_url=url),
        lambda: choose_model(f"openai:x?base_url={url}"),
        lambda: asyncio.run(start()),
    ):
        with pytest.raises(UsageError, match="needs http:// or https://") as caught:
            refused()
        assert f"`{url}`" in caught.value.message
    with MegaGraph(home=tmp_path) as mega:
        assert mega.runs() == []
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(UsageError, match="needs http:// or https://"):
        choose_model("openai:x")


async def run_on(server: ModelServer, home: Path, patience: float = 20.0) -> Outcome:
    async with MegaGraph("openai:scripted", base_url=server.url, home=home, timeout=patience, limits=Limits()) as mega:
        run = await mega.start("Write the files.")
        result = await run.result()
        kinds = Counter(event.kind for event in run.events())
        kinds.update(
            str(event.data.get("reason") or event.data.get("why"))
            for event in run.events()
            if event.kind in ("retry", "bad_answer")
        )
        return result, dict(run.files), kinds


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_completes_with_any_fault_and_the_log_shows_it(tmp_path: Path, fault: str) -> None:
    async def work() -> None:
        async with ModelServer(deep_script(), faults={fault: 0.05}, seed=3, hang=30.0) as server:
            result, files, kinds = await run_on(server, tmp_path, patience=0.5 if fault == "timeout" else 20.0)
            injected = sum(record.fault == fault for record in server.log)
            assert result.passed, result
            assert files == EXPECTED
            assert injected > 0, "the fault never happened: nothing was tested"
            assert kinds["retry"] + kinds["bad_answer"] == injected
            answered = [r for r in server.log if r.status == 200 and r.delivered]
            assert result.calls == len(answered)
            assert (result.input_tokens, result.output_tokens) == (
                sum((r.usage or {})["prompt_tokens"] for r in answered),
                sum((r.usage or {})["completion_tokens"] for r in answered),
            ), "what was paid is in the journal, spoilt answers included"

    asyncio.run(work())


def test_all_faults_together(tmp_path: Path) -> None:
    async def work() -> None:
        async with ModelServer(deep_script(), faults=dict.fromkeys(FAULTS, 0.05), seed=1, hang=30.0) as server:
            result, files, kinds = await run_on(server, tmp_path, patience=1.0)
            assert result.passed, result
            assert files == EXPECTED
            assert kinds["retry"] and kinds["bad_answer"]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"key": "another"}, "check OPENAI_API_KEY"),
        ({"models": ("other",)}, "check the model's name"),
    ],
)
def test_what_cannot_be_retried_stops_the_run_in_one_line(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    async def work() -> None:
        async with ModelServer(SIMPLE, **options) as server:  # type: ignore[arg-type]
            result, _, kinds = await run_on(server, tmp_path)
            assert result.status == "failed"
            assert reason in result.reason
            assert kinds["retry"] == 0
            assert len(server.log) == 1

        # It can be resumed when the cause is mended: the same call is made again, and no other.
        async with (
            ModelServer(SIMPLE) as mended,
            MegaGraph("openai:scripted", base_url=mended.url, home=tmp_path) as mega,
        ):
            run = await mega.resume("last")
            assert (await run.result()).passed
            assert len(mended.log) == 1

    asyncio.run(work())


def test_a_member_whose_calls_fail_for_good_is_reported_to_its_lead(tmp_path: Path) -> None:
    script = deep_script()
    mute = Script({name: part for name, part in script.parts.items() if name != "north_c"})

    async def work() -> None:
        async with ModelServer(mute) as server:
            result, files, kinds = await run_on(server, tmp_path)
            assert result.status == "done"
            assert not result.passed
            assert kinds["failed"] == 1
            assert "south.txt" in files, "the others went on"

    asyncio.run(work())


# --- options, rules, fallback ----------------------------------------------------------------------------------


def test_calls_go_through_the_proxy_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(home: Path) -> Result:
        async with MegaGraph("openai:scripted", base_url="http://models.example/v1", home=home) as mega:
            return await (await mega.start("The goal.")).result()

    # A login for the server is not for its models, which have a key.
    (tmp_path / "netrc").write_text("machine models.example login somebody password secret\n")
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with ModelServer(SIMPLE) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
        assert asyncio.run(work(tmp_path / "through")).passed
        assert len(server.log) == 1
        monkeypatch.setenv("NO_PROXY", "models.example")
        monkeypatch.setattr(models, "ATTEMPTS", 1)
        assert "models.example" in asyncio.run(work(tmp_path / "past")).reason
        assert len(server.log) == 1


def test_a_server_may_send_a_call_elsewhere(tmp_path: Path) -> None:
    class Moved(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307)
            self.send_header("Location", f"{server.url}/chat/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    async def work(url: str) -> Result:
        async with MegaGraph("openai:scripted", base_url=url, home=tmp_path) as mega:
            return await (await mega.start("The goal.")).result()

    with ModelServer(SIMPLE) as server, ThreadingHTTPServer(("127.0.0.1", 0), Moved) as old:
        threading.Thread(target=old.serve_forever, daemon=True).start()
        assert asyncio.run(work(f"http://127.0.0.1:{old.server_port}/v1")).passed
        old.shutdown()
        assert len(server.log.answered()) == 1


def test_tools_are_made_into_json_once_for_all_who_have_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    write = openai_chat.to_json

    def to_json(value: Any) -> bytes:
        made.append(value)
        return write(value)

    monkeypatch.setattr(openai_chat, "to_json", to_json)
    chat = openai_chat.LeanChatOpenAI(model="scripted", api_key=SecretStr("key"))
    tools, others = [{"type": "function", "function": {"name": name}} for name in "ab"], [{"type": "function"}]
    for body in ({"messages": ["x"], "tools": tools, "n": 1}, {"tools": tools, "messages": ["y"]}):
        assert json.loads(chat._request_of(body).decode()) == body
    for body in ({"messages": ["x"], "tools": others}, {"messages": ["x"], "tools": []}, {"messages": ["x"]}):
        assert json.loads(chat._request_of(body).decode()) == body
    assert made.count(tools) == made.count(others) == 1
    # As many lists as there may ever be: an old one is made again, and none is taken for another.
    for number in range(300):
        fresh = [{"type": "function", "function": {"name": str(number)}}]
        assert json.loads(chat._request_of({"messages": ["x"], "tools": fresh}).decode())["tools"] == fresh
    assert len(chat._tools) <= 100


def test_a_model_that_is_named_needs_no_rehearsal(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("name: broken\ngoal: The goal.\nrehearsal: rehearsal.py\n")
    (tmp_path / "rehearsal.py").write_text("raise RuntimeError('nobody asked for it')\n")

    async def work(model: str, url: str) -> Result:
        async with MegaGraph(model, base_url=url, home=tmp_path / "home") as mega:
            return await (await mega.start(str(tmp_path))).result()

    with ModelServer(SIMPLE) as server:
        assert asyncio.run(work("openai:scripted", server.url)).passed
        with pytest.raises(UsageError, match="nobody asked for it"):
            asyncio.run(work("rehearsal", server.url))


def test_a_name_carries_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "secret")
    choice = choose_model("openai:small?tools=json&in_flight=4&rpm=60&tpm=9000&base_url=http://host/v1&key=OTHER_KEY")
    assert (choice.name, choice.base_url, choice.tools) == ("small", "http://host/v1", "json")
    assert choice.rates == Rates(in_flight=4, rpm=60, tpm=9000)
    assert choice.provider == ("openai", "http://host/v1", "secret")
    assert "secret" not in choice.label


@pytest.mark.parametrize("options", ["tools=xml", "speed=9", "rpm=many", "rpm=0", "fast", "key=NOT_SET"])
def test_an_option_that_is_not_understood_is_refused(options: str) -> None:
    with pytest.raises(UsageError, match=r"option|NOT_SET"):
        choose_model(f"openai:x?{options}")


def test_the_protocol_for_tools_is_part_of_the_name() -> None:
    label = choose_model("openai:x", tools="json").label
    assert choose_model(label).tools == "json"


def models_by_agent(home: Path) -> dict[str, set[str]]:
    with MegaGraph(home=home) as mega:
        rows = mega.db["calls"].rows
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["agent"], set()).add(row["model"])
        return found


RULES = ModelRules(leads="openai:big", leaves="openai:small", agents={"*_c": "openai:odd"})


def test_leads_and_leaves_have_models_of_their_own(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            ModelServer(deep_script(), models=("big", "small", "odd")) as server,
            MegaGraph(models=RULES, base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            assert dict(run.files) == EXPECTED
            assert run.row["model"] == "openai:big"

    asyncio.run(work())
    models = models_by_agent(tmp_path)
    assert models["boss"] == {"openai:big"}
    # It becomes a lead with its first recruits.
    assert models["north"] == {"openai:small", "openai:big"}
    assert models["north_a"] == {"openai:small"}
    assert models["south_c"] == {"openai:odd"}


def test_a_scenario_has_rules_and_a_model_named_by_the_caller_goes_before_them(tmp_path: Path) -> None:
    folder = tmp_path / "scenario"
    folder.mkdir()
    (folder / "scenario.yaml").write_text(
        "name: files\ngoal: Write the files.\nmodels: {leads: 'openai:big', leaves: 'openai:small'}\n"
    )

    async def work(home: Path, model: str | None) -> None:
        async with (
            ModelServer(deep_script()) as server,
            MegaGraph(model, base_url=server.url, home=home, limits=Limits(calls=20)) as mega,
        ):
            run = await mega.start(str(folder))
            assert (await run.result()).status == "paused"
            again = MegaGraph(base_url=server.url, home=home)
            assert (await (await again.resume("last", limits=Limits())).result()).passed

    asyncio.run(work(tmp_path / "a", None))
    asyncio.run(work(tmp_path / "b", "openai:mine"))
    rules = models_by_agent(tmp_path / "a")
    assert (rules["boss"], rules["south_c"]) == ({"openai:big"}, {"openai:small"})
    assert {model for models in models_by_agent(tmp_path / "b").values() for model in models} == {"openai:mine"}


def test_rules_that_do_not_fit_are_refused_before_anything_is_paid(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`models` does not fit: `leavs`"):
        ModelRules.parse({"leavs": "x"})

    async def work() -> None:
        async with MegaGraph("openai:x", models=ModelRules(leaves="martian:x"), home=tmp_path) as mega:
            with pytest.raises(UsageError, match="martian:x"):
                await mega.start("Do it.")

    asyncio.run(work())


def test_a_fallback_model_goes_on_where_one_is_not_to_be_had(tmp_path: Path) -> None:
    async def work() -> None:
        rules = ModelRules(leaves="openai:gone", fallback=("openai:gone_too", "openai:there"))
        async with (
            ModelServer(deep_script(), models=("main", "there")) as server,
            MegaGraph("openai:main", models=rules, base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            assert dict(run.files) == EXPECTED
            refused = sum(record.status == 404 for record in server.log)
            assert 2 <= refused <= 2 * 8, "a model that is not there is not asked over and over"
            assert any("Going on with" in str(e.data.get("reason")) for e in run.events() if e.kind == "retry")

    asyncio.run(work())
    models = models_by_agent(tmp_path)
    assert models["boss"] == {"openai:main"}
    assert models["north_a"] == {"openai:there"}


def test_a_fallback_at_another_provider_goes_on_when_one_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megagraph.models.FIRST_DELAY", 0.001)

    async def work() -> None:
        async with (
            ModelServer(deep_script(), faults={"server_error": 1.0}) as broken,
            ModelServer(deep_script()) as sound,
            MegaGraph(
                f"openai:x?base_url={broken.url}",
                models=ModelRules(fallback=(f"openai:y?base_url={sound.url}",)),
                home=tmp_path,
            ) as mega,
        ):
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            assert dict(run.files) == EXPECTED
            assert broken.log.answered() == []

    asyncio.run(work())


def forgiving_script(leads: int, leaves: int) -> Script:
    """A boss, leads and leaves. Who leads lets a member that failed try once more, and then does without it."""

    def leading(members: list[str]) -> Part:
        def lead(brief: Brief) -> Play:
            heard = yield recruit(*({"name": n, "role": f"the {n}", "instructions": f"be {n}"} for n in members))
            settled: set[str] = set()
            failed: Counter[str] = Counter()
            while True:
                again = []
                for sender, kind, _ in heard.letters:
                    failed[sender] += kind == "failure"
                    if kind == "failure" and failed[sender] == 1:
                        again.append(talk(sender, "Try again."))
                    elif kind in ("failure", "report"):
                        settled.add(sender)
                if settled >= set(members):
                    break
                heard = yield tuple(again) or "I wait."
            lost = [name for name in members if failed[name] > 1]
            if lost:
                yield call("dismiss", agents=lost)
            yield finish(f"without {', '.join(lost)}" if lost else "all have reported")
            yield finish("as it is")

        return lead

    names = [f"lead{i}" for i in range(leads)]
    parts: dict[str, Part] = {"boss": leading(names)}
    for name in names:
        members = [f"{name}_{i}" for i in range(leaves)]
        parts[name] = leading(members)
        parts |= {m: one(write_file(f"{m}.txt", m), *[finish(f"{m} is done", [f"{m}.txt"])] * 3) for m in members}
    return Script(parts)


def test_nobody_goes_on_where_the_disk_is_full(tmp_path: Path) -> None:
    told: list[Any] = []

    async def follow(run: Run) -> None:
        told.extend([event async for event in run])

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        with ModelServer(forgiving_script(6, 3), latency=("lognormal", 0.7, 1.0)) as server:
            mega = MegaGraph("openai:scripted", base_url=server.url, home=tmp_path)
            run = await mega.start("Write the files.")
            following = asyncio.create_task(follow(run))
            await asyncio.to_thread(until, lambda: len(server.log) >= 16)
            disk = sqlite3.connect(tmp_path / "megagraph.db", isolation_level=None)
            disk.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON checkpoints BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
            )
            with pytest.raises(HomeError, match="the disk is full"):
                await run.result()
            await following
            await asyncio.sleep(0.7)
            assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody is at work any more"
            assert server.in_flight == 0
            disk.execute("DROP TRIGGER refuse")
            disk.close()
            with suppress(HomeError):
                await mega.aclose()

    asyncio.run(work())
    gc.collect()
    assert not [event for event in told if isinstance(event, str) or event.kind == "retry"]


def test_every_fault_at_ten_percent_over_sixty_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = 1 + 6 + 6 * 9
    for name, seconds in (("FIRST_DELAY", 0.02), ("LONGEST_DELAY", 0.1)):
        monkeypatch.setattr(models, name, seconds)

    async def work() -> None:
        script, limits = forgiving_script(6, 9), Limits(calls=4000, agents=agents, rounds=400)
        async with ModelServer(script, faults=dict.fromkeys(FAULTS, 0.1), seed=2, hang=30.0) as server:
            async with MegaGraph(
                "openai:scripted", base_url=server.url, home=tmp_path, timeout=0.2, limits=limits
            ) as mega:
                run = await mega.start("Write the files.")
                result = await run.result()
                for _ in range(20):
                    if result.status == "done":
                        break
                    assert result.status in ("paused", "failed")
                    assert "calls in a row failed" in result.reason or "the boss failed" in result.reason
                    result = await (await mega.resume(run.id)).result()
                assert result.status == "done"
                specs = [spec for spec, _, _ in mega.home.ledger(run.id).agents()]
                assert len(specs) == agents
                files = set(run.files)
                done = {spec.name for spec in specs if spec.depth == 2} - {n.partition(" ")[0] for n in result.not_done}
                assert {f"{name}.txt" for name in done} <= files
                assert len(files) > 30, "most are done, and those that are not are named"
            paid = [r.usage for r in server.log if r.status == 200 and r.delivered and r.usage]
            assert {r.fault for r in server.log} >= set(FAULTS)
            assert result.calls == len(paid)
            assert result.input_tokens == sum(usage["prompt_tokens"] for usage in paid)
            assert result.output_tokens == sum(usage["completion_tokens"] for usage in paid)

    asyncio.run(work())


def test_a_call_that_failed_is_not_made_again_for_one_who_was_dismissed_meanwhile() -> None:
    asked: list[str] = []

    def fails(brief: Brief) -> Turn:
        asked.append(brief.name)
        raise ConnectionError("gone away")

    async def work() -> None:
        model = Model(ModelChoice("x", lambda: RehearsalModel(script=Script({"a": fails}))), [])
        asker = Asker("a", gone=lambda: bool(asked))
        with pytest.raises(Left):
            await model.ask(asker, [SystemMessage("Your name is `a`."), HumanMessage("Go.")], lambda *why: None)

    asyncio.run(work())
    assert asked == ["a"]
