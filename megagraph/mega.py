"""`MegaGraph`: the entrance for Python programs and notebooks."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel

from megagraph.agent import TOOLBOX
from megagraph.approvals import Approve
from megagraph.branches.moves import forked
from megagraph.checks import Check, parse_checks, restored
from megagraph.errors import UsageError
from megagraph.files.packing import await_packing
from megagraph.home import Home
from megagraph.limits import Limits, Pool
from megagraph.mcp_servers import McpServers, read_mcp
from megagraph.model_rules import ModelRules
from megagraph.models import ModelChoice, Tools, choose_model, with_rules
from megagraph.outside_tools import Given, OutsideTools, accepted
from megagraph.portal import running
from megagraph.prices import Prices, parse_prices
from megagraph.prompts import Prompts
from megagraph.run import Result, Run
from megagraph.scenario import Scenario, find_scenario, load_scenario
from megagraph.session import Drive, boss_spec, prices_of
from megagraph.sync import MegaSync
from megagraph.workers.forkserver import ForkServer

if TYPE_CHECKING:
    from sqlite_utils import Database as Tables

    from megagraph.branches.edits import Edits
    from megagraph.branches.many import Ranked
    from megagraph.branches.plan import BranchPlan
    from megagraph.keeping.deleting import Gone
    from megagraph.keeping.pruning import Pruned
    from megagraph.keeping.vacuuming import Vacuumed


class MegaGraph:
    """Runs organisations, and opens those that have run.

        mega = MegaGraph(model="openai:gpt-5-mini", limits=Limits(calls=200))
        run = await mega.start("Develop a Gobang game with a very strong AI, playable from main.py")
        async for event in run:
            print(event)
        print((await run.result()).report)

    Args:
        model: `openai:NAME`, `rehearsal`, a LangChain chat model, or None for what the environment names.
        models: Which agent is answered by which model; without, and without a `model`, the scenario's rules.
        tool_protocol: `json` for models that cannot call tools: they are offered by JSON Schema.
        limits: The limits of each run; without, the scenario's or the defaults.
        prices: US dollars for a million input and a million output tokens, by the model's name, where the list
            prices do not hold or there are none. They go before the scenario's.
        home: The folder that keeps the runs; without, `MEGAGRAPH_HOME` or `.megagraph`.
        base_url: An OpenAI-compatible server, such as `http://localhost:8000/v1`.
        timeout: Seconds for one model call.
        unsafe_programs: Run programs without a sandbox where there is none.
        prompts: A folder with prompts that take the place of the package's.
        checks: Checks on the result of each run, besides the scenario's; functions among them have to be given again
            where a run is resumed in another process.
        callbacks: Handlers of LangChain, such as a tracer's, told of every node, model call and tool call.
        approve: What waits for a person's yes: `plan`, `programs`, `cost=5`, in a list or with commas between.
            Without, what the scenario says, or nothing.
        tools: LangChain tools or functions that agents have besides megagraph's own; an `OutsideTool` says which
            agents, and bounds the time and the output. Give them again to resume.
        mcp: MCP servers: a file with `mcpServers`, or what such a file holds. They go before the scenario's.
        workers: Processes in which the boss's team works, besides this one: for organisations so large that one core
            is not enough. Without, what the run had before, or none. `callbacks`, `tools` and model objects, which
            live in this process, do not go with them.

    Raises `HomeError` where the home cannot be used.
    """

    def __init__(
        self,
        model: str | BaseChatModel | None = None,
        *,
        models: ModelRules | None = None,
        tool_protocol: Tools = "native",
        limits: Limits | None = None,
        prices: Prices | None = None,
        home: Path | str | None = None,
        base_url: str | None = None,
        timeout: float = 300.0,
        unsafe_programs: bool = False,
        prompts: Path | str | None = None,
        checks: Sequence[Check] = (),
        callbacks: Sequence[BaseCallbackHandler] = (),
        approve: Approve | str | Sequence[str] | None = None,
        tools: Sequence[Given] = (),
        mcp: Path | str | Mapping[str, Any] | None = None,
        workers: int | None = None,
    ) -> None:
        if workers is not None and workers < 0:
            raise UsageError(f"workers={workers} cannot be.", "Give a number of processes, or 0 for none.")
        self._model = model
        self._models = models
        self._tool_protocol = tool_protocol
        self._limits = limits
        self._prices = parse_prices(prices or {})
        self._base_url = base_url
        self._timeout = timeout
        self._unsafe = unsafe_programs
        self._prompts = Path(prompts) if prompts else None
        self._checks = parse_checks(checks)
        self._callbacks = tuple(callbacks)
        self._approve = approve if isinstance(approve, Approve | None) else Approve.parse(approve)
        self._tools = accepted(tools, TOOLBOX.names)
        self._mcp = mcp
        self._workers = workers
        self._begun: list[Run] = []
        """What was started or resumed here, all of it."""
        # Before the home is opened, which has a thread: then what is imported is there already.
        self._forks = ForkServer() if workers else None
        try:
            self.home = Home(home)
        except BaseException:
            self._end_forks()
            raise

    @property
    def db(self) -> Tables:
        """All that happened, as tables: `mega.db["calls"].rows_where("run = ?", [run.id])`. Read only."""
        # Imported here: it brings pandas along where that is installed.
        from sqlite_utils import Database as Tables

        tables = Tables(self.home.database.path)
        tables.conn.execute("PRAGMA query_only = ON")
        return tables

    @property
    def sync(self) -> MegaSync:
        """`start`, `resume` and `branch_many` without `await`."""
        return MegaSync(self)

    async def start(
        self,
        goal: str | Scenario,
        *,
        input: Path | str | None = None,
        id: str | None = None,
        drive: Drive | None = None,
    ) -> Run:
        """Start a run and return while it works: `goal` is a goal in words, or a scenario or its name.

        `input` is a folder of material: its files are the shared files that the organisation starts from; the
        folder itself is only read. `id` is a UUID to know it by; for `drive` see `Run.begin`. Raises `UsageError` where
        no model can be found, the folder cannot be taken, or the cost is limited and not known.
        """
        scenario = self._scenario(goal)
        # A named scenario is read again when the run is resumed; other checks are kept with the run.
        kept = [check.dump() for check in (*(() if scenario.name else scenario.checks), *self._checks)]
        scenario = replace(scenario, checks=(*scenario.checks, *self._checks))
        choice = self._choose(self._model, scenario, scenario.models)
        limits = self._limits or scenario.limits
        prices = {**scenario.prices, **self._prices}
        approve = self._approve or scenario.approve
        await asyncio.to_thread(_must_know_cost, limits, choice, prices, approve)
        mcp = self._mcp or scenario.mcp
        workers = self._workers_for(choice, drive, self._workers or 0)
        outside = await self._outside(mcp)
        id_ = id or str(uuid4())
        ledger = self.home.ledger(id_)
        settings = {
            "limits": limits.model_dump(),
            "prices": prices,
            "base_url": choice.base_url,
            "models": choice.rules.model_dump(),
            "scenario": str(scenario.folder) if scenario.folder else "",
            "parameters": dict(scenario.parameters),
            "unsafe_programs": self._unsafe,
            "checks": kept,
            "approve": approve.words(),
            "tools": outside.names,
            "mcp": _remembered(mcp),
            "workers": workers,
        }
        with ExitStack() as held:
            if input is not None:
                await asyncio.to_thread(held.enter_context, self.home.making())
                await asyncio.to_thread(self._take_in, id_, Path(input))
            # The row comes before the work: a run that was accepted is never lost.
            await self.home.database.write(
                (
                    "INSERT INTO runs (run, created, status, reason, goal, scenario, model, rehearsal, settings,"
                    " seconds) VALUES (?, ?, 'running', '', ?, ?, ?, ?, ?, 0)",
                    (
                        id_,
                        time.time(),
                        scenario.goal,
                        scenario.name,
                        choice.label,
                        int(choice.rehearsal),
                        json.dumps(settings),
                    ),
                ),
                ledger.recruited(boss_spec(), "start"),
            )
        run = Run(self.home, id_, scenario)
        prompts = self._prompts_for(scenario)
        await run.begin(
            choice,
            limits,
            self._unsafe,
            prompts,
            prices,
            self._callbacks,
            None,
            approve,
            outside,
            drive,
            workers,
            await asyncio.to_thread(self._forks_for, workers),
        )
        self._begun.append(run)
        return run

    async def resume(
        self, run: str, *, limits: Limits | None = None, pool: Pool | None = None, drive: Drive | None = None
    ) -> Run:
        """Go on with a run where it was left, after a crash, a pause, an answer or with other limits.

        `run` is its id, the beginning of it, or `last`; with a `pool`, it shares limits with others; for
        `drive` see `Run.begin`. Raises `RunNotFound`, `RunBusy`, or `UsageError` where the run is done or its model
        cannot be had.
        """
        opened = await asyncio.to_thread(self.open, run)
        if opened.broken is not None:
            raise opened.broken
        row = await asyncio.to_thread(lambda: opened.row)
        if row["status"] == "done":
            raise UsageError(f"run {opened.id[:8]} is done.", f"`megagraph show {opened.id[:8]}` shows it.")
        if await asyncio.to_thread(forked, self.home.saver, opened.id):
            raise UsageError(
                f"run {opened.id[:8]} was forked in place by LangGraph's own calls, and cannot go on as it was.",
                f"Nothing it did is lost: `megagraph branch {opened.id[:8]} --at now --run` goes on without the fork.",
            )
        settings = json.loads(row["settings"])
        choice, limits, prices, approve = await self._terms(opened, row["model"], settings, limits)
        unsafe = self._unsafe or settings["unsafe_programs"]
        mcp = self._mcp or settings.get("mcp") or opened.scenario.mcp
        before = settings.get("workers", 0) if drive is None and pool is None else 0
        workers = self._workers_for(choice, drive, before if self._workers is None else self._workers)
        outside = await self._outside(mcp, settings.get("tools", []))
        prompts = self._prompts_for(opened.scenario)
        await opened.begin(
            choice,
            limits,
            unsafe,
            prompts,
            prices,
            self._callbacks,
            pool,
            approve,
            outside,
            drive,
            workers,
            await asyncio.to_thread(self._forks_for, workers),
        )
        self._begun.append(opened)
        settings |= {
            "limits": limits.model_dump(),
            "prices": prices,
            "base_url": choice.base_url,
            "models": choice.rules.model_dump(),
            "approve": approve.words(),
            "tools": sorted({*outside.names, *outside.gone}),
            "mcp": _remembered(mcp),
            "workers": workers,
        }
        await self.home.database.write(
            self.home.ledger(opened.id).update_run(
                settings=json.dumps(settings), model=choice.label, rehearsal=int(choice.rehearsal)
            )
        )
        return opened

    async def check_branch(self, run: Run, plan: BranchPlan) -> None:
        """Raise `UsageError` where a branch made by this plan could not be resumed: no model can be had, say."""
        from megagraph.branches.making import branch_settings

        if run.broken is not None:
            raise run.broken
        row = await asyncio.to_thread(lambda: run.row)
        await self._terms(run, row["model"], branch_settings(plan, json.loads(row["settings"])))

    def open(self, run: str) -> Run:
        """A run to look at: its id, the beginning of it, or `last`. Raises `RunNotFound`."""
        row = self.home.find(run)
        settings = json.loads(row["settings"])
        folder, values = Path(settings["scenario"] or "/nowhere"), settings.get("parameters", {})
        scenario, broken = None, None
        try:
            if row["scenario"]:
                shipped = not (folder / "scenario.yaml").is_file()
                scenario = find_scenario(row["scenario"], values) if shipped else load_scenario(folder, values)
        except UsageError as error:
            broken = error
        # The goal is the run's own, whatever has become of the scenario since.
        scenario = scenario or Scenario("", folder=folder if folder.is_dir() else None)
        checks = restored(settings.get("checks", ()), self._checks)
        scenario = replace(scenario, goal=row["goal"], checks=(*scenario.checks, *checks))
        return Run(self.home, row["run"], scenario, broken)

    async def branch_many(
        self, run: str, at: str, edits: Sequence[Edits], *, limits: Limits | None = None
    ) -> list[Ranked]:
        """Branch a run at one moment once for each of `edits`, let all branches work at once, and rank them.

        All are held to one set of limits together: `limits`, or the run's own. What they have from the run counts
        once. The first of the list passed the most checks; among equals it is the cheapest. Raises as `Run.branch` and
        `resume`, before a branch is made.
        """
        from megagraph.branches.many import branch_many

        return await branch_many(self, self.open(run), at, edits, limits)

    def runs(self) -> list[Run]:
        """All runs of the home, newest first."""
        return [self.open(row["run"]) for row in self.home.runs()]

    # --- house-keeping -----------------------------------------------------------------------------------

    def delete(self, *runs: str, dry_run: bool = False) -> list[Gone]:
        """Delete runs; their branches keep what they share with them. `dry_run` only says what that would win.

        Raises `RunNotFound`, or `RunBusy` while a process works on one of them; nothing is deleted then.
        """
        from megagraph.keeping.deleting import delete_runs

        return delete_runs(self.home, [self.home.find(run)["run"] for run in runs], dry_run=dry_run)

    def prune(
        self,
        *,
        older_than: timedelta | None = None,
        keep: int | None = None,
        status: Collection[str] = (),
        checkpoints: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete the runs that all of this holds for, and clear what killed processes have left.

        They are idle for `older_than`, not among the newest `keep`, and stand like one of `status`; with nothing of
        this given, no run is deleted. With `checkpoints`, those that are done are not deleted: they lose what is
        needed for nothing but `history` and `branch`. Runs at work are left out.
        """
        from megagraph.keeping.pruning import Policy, prune

        return prune(self.home, Policy(older_than, keep, status, checkpoints), dry_run=dry_run)

    def vacuum(self, *, dry_run: bool = False) -> Vacuumed:
        """Give the space of what was deleted back to the disk. Raises `RunBusy` while any run is at work."""
        from megagraph.keeping.vacuuming import vacuum

        return vacuum(self.home, dry_run=dry_run)

    def load(self, path: Path | str, *, scenario: Path | str | None = None) -> Run:
        """Take in what `Run.save` has written, here or elsewhere: under its id or, where that is taken, a new one.

        `scenario` is the folder of its scenario on this machine, if that is not a shipped one. Nothing of the file
        is trusted. Raises `ArchiveError` where it is damaged or of a newer format; nothing is taken in then.
        """
        from megagraph.keeping.loading import load

        return self.open(load(self.home, Path(path), scenario=Path(scenario) if scenario else None).run)

    # --- without await -----------------------------------------------------------------------------------

    def run(self, goal: str | Scenario) -> Result:
        """`start` and wait for the end, without `await`; works inside a running event loop too.

        Ctrl-C pauses the run and raises `KeyboardInterrupt`; `resume_sync("last")` goes on with it.
        """
        return self.sync.start(goal).sync.result()

    def resume_sync(self, run: str, *, limits: Limits | None = None) -> Result:
        """`resume` and wait for the end, without `await`."""
        return self.sync.resume(run, limits=limits).sync.result()

    async def aclose(self) -> None:
        """Stop what is still at work, as `Run.abort` does: it can be resumed. Then close the home; all is at rest."""
        try:
            await asyncio.gather(*(run.abort() for run in self._at_work()))
        finally:
            await asyncio.to_thread(self._close)

    def close(self) -> None:
        """`aclose` without `await`. What works in the event loop of this very thread has to be stopped before."""
        try:
            for run in self._at_work():
                if run.loop is not running():
                    run.sync.abort()
        finally:
            self._close()

    def _close(self) -> None:
        self._end_forks()
        # Its result was not held up by that, but who closes the home may want to move or delete it.
        for run in self._begun:
            await_packing(self.home.repository(run.id))
        self._begun.clear()
        self.home.close()

    def _end_forks(self) -> None:
        if self._forks is not None:
            self._forks.close()
            self._forks = None

    def _at_work(self) -> list[Run]:
        return [run for run in self._begun if run.loop is not None and run.loop.is_running()]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_in(self, run: str, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"the input {folder} is no folder.")
        self.home.workspace(run).import_tree(folder)

    def _scenario(self, goal: str | Scenario) -> Scenario:
        if isinstance(goal, Scenario):
            return goal
        if not goal.strip():
            raise UsageError("the goal is empty.", "Say what is to be reached, or name a scenario.")
        return find_scenario(goal) or Scenario(goal)

    def _choose(
        self,
        model: str | BaseChatModel | None,
        scenario: Scenario,
        rules: ModelRules,
        base_url: str = "",
        own: Mapping[str, str] | None = None,
    ) -> ModelChoice:
        """The model that is meant, with others for some agents. `rules` hold where nothing else was asked for.

        `own` are models of single agents that go before all else.
        """
        # A program of the scenario's, which nobody has to run who has another model.
        script = functools.cache(scenario.script)

        def choose(name: str | BaseChatModel | None) -> ModelChoice:
            return choose_model(
                name,
                base_url=self._base_url or base_url or None,
                script=script,
                timeout=self._timeout,
                tools=self._tool_protocol,
            )

        if self._models is not None:
            rules = self._models
        elif self._model is not None:
            rules = ModelRules()
        if model is None and (os.environ.get("OPENAI_API_KEY") or script() is None):
            model = rules.leads or rules.leaves or None
        choice = choose(model)
        if not (choice.rehearsal and self._models is None):
            choice = with_rules(choice, rules, choose)
        if own:
            first = choice.rules.model_copy(update={"agents": {**own, **choice.rules.agents}})
            choice = with_rules(choice, first, choose)
        return choice

    async def _terms(
        self, run: Run, before: str, settings: Mapping[str, Any], limits: Limits | None = None
    ) -> tuple[ModelChoice, Limits, Prices, Approve]:
        """What a run that had the model `before` goes on with. Raises `UsageError` where that cannot be."""
        # Limits that were set for a branch hold for it; else those of this object go before those of before.
        limits = limits or (None if settings.get("own_limits") else self._limits) or Limits.parse(settings["limits"])
        model = self._model if self._model is not None else before
        # Another model may be at another place: what was named for the one before does not hold for it.
        base_url = settings["base_url"] if model == before else ""
        rules = ModelRules.parse(settings.get("models", {})) if self._model is None else ModelRules()
        choice = self._choose(model, run.scenario, rules, base_url, settings.get("own_models", {}))
        prices = {**parse_prices(settings.get("prices", {})), **self._prices}
        approve = self._approve or Approve.parse(settings.get("approve", []))
        await asyncio.to_thread(_must_know_cost, limits, choice, prices, approve)
        return choice, limits, prices, approve

    async def _outside(self, mcp: Path | str | Mapping[str, Any] | None, before: Sequence[str] = ()) -> OutsideTools:
        """The tools from outside, of which there were these `before`; MCP servers are asked for theirs."""
        entries = await asyncio.to_thread(read_mcp, mcp) if mcp else {}
        servers = McpServers(entries)
        tools = accepted([*self._tools, *await servers.tools()], TOOLBOX.names)
        return OutsideTools(tools, gone=before, close=servers.aclose, mcp=mcp)

    def _workers_for(self, choice: ModelChoice, drive: Drive | None, workers: int) -> int:
        """The number of workers asked for. Raises `UsageError` where what they need is in this process only."""
        here = {
            "callbacks": self._callbacks,
            "tools that are Python objects": self._tools,
            "a stream of LangGraph's own": drive,
            f"the model {choice.label}, an object": not choice.portable,
        }
        if workers and (kept := [name for name, there in here.items() if there]):
            raise UsageError(
                f"workers={workers} cannot be: {kept[0]} cannot be taken to other processes.",
                "Leave `workers` out, or do without.",
            )
        return workers

    def _forks_for(self, workers: int) -> ForkServer | None:
        """What a run's workers are forked from, if it has any."""
        if not workers:
            return None
        if self._forks is None:
            self._forks = ForkServer()
        return self._forks

    def _prompts_for(self, scenario: Scenario) -> Prompts:
        folders = [self._prompts, scenario.folder and scenario.folder / "prompts", self.home.path / "prompts"]
        return Prompts([folder for folder in folders if folder])


def _remembered(mcp: Path | str | Mapping[str, Any] | None) -> str:
    """The file with the MCP servers, to be found again from anywhere. What was given itself may hold secrets."""
    return str(Path(mcp).absolute()) if isinstance(mcp, str | Path) else ""


def _must_know_cost(limits: Limits, choice: ModelChoice, prices: Prices, approve: Approve) -> None:
    """Raise `UsageError` where the cost is limited, or to be approved, and a model's price is not known."""
    asked, most = ("cost_usd", limits.cost_usd) if limits.cost_usd is not None else ("approve cost", approve.cost_usd)
    if most is None:
        return
    if unknown := [label for label, price in prices_of(choice, prices).items() if price is None]:
        raise UsageError(
            f"{asked}={most:g} cannot be held: the price of {', '.join(unknown)} is not known.",
            f"Give it as `prices` in the scenario or to MegaGraph, or leave {asked} out.",
        )
