"""A team with a random dependency graph: how much longer it takes than its longest chain of model calls.

    python -m benchmarks.barrier [--seeds 5] [--members 50] [--mean SECONDS]

Each member depends on up to three earlier ones, and makes two model calls whose latencies are drawn from a
lognormal distribution. Beside it: the same plan, latencies and calls as a plain LangGraph `StateGraph` with an
edge for every dependency and no checkpoints, where a node waits for the superstep of the nodes before it.

The critical path is computed from the plan and the latencies alone: the boss's call that recruits, the longest
chain of members, the boss's call that finishes. `desk` is how long the last report waited for the boss to end a
call that it was in the middle of; it is part of the makespan and not of the critical path.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from operator import add
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END, START, StateGraph
from pydantic import SecretStr

from benchmarks.server import MODEL, served
from megagraph import Limits, MegaGraph
from megagraph.openai_chat import LeanChatOpenAI
from megagraph.rehearsal import Brief, Heard, Script, Turn, finish, recruit, wait_for, write_file
from tests.model_server import ModelServer

SIGMA = 0.6
"""Of the logarithm of the latencies: one call in forty takes more than three times as long as the median one."""

Plan = dict[str, list[str]]
"""Whom each member depends on; earlier members first."""


def plan_of(members: int, seed: int) -> Plan:
    rng = Random(f"plan/{seed}")
    names: list[str] = []
    plan: Plan = {}
    for i in range(members):
        plan[f"member_{i:02}"] = sorted(rng.sample(names, min(rng.randint(0, 3), len(names))))
        names.append(f"member_{i:02}")
    return plan


def script_of(plan: Plan) -> Script:
    """The boss recruits them all, reads reports as they come, and finishes; a member writes a file and reports."""

    def boss(brief: Brief) -> Generator[Turn, Heard, None]:
        agents = (
            {"name": name, "role": "member", "instructions": f"write {name}.md", "depends_on": needs}
            for name, needs in plan.items()
        )
        heard = yield recruit(*agents)
        yield from wait_for(heard, list(plan))
        yield finish("all have reported")

    def member(brief: Brief) -> Generator[Turn, Heard, None]:
        yield write_file(f"{brief.name}.md", f"The work of {brief.name}.\n" * 10)
        yield finish("written", [f"{brief.name}.md"])

    return Script({"boss": boss}, default=member)


def longest_chain(plan: Plan, seconds: dict[str, float]) -> float:
    ends: dict[str, float] = {}
    for name, needs in plan.items():
        ends[name] = seconds[name] + max((ends[need] for need in needs), default=0.0)
    return max(ends.values())


class Bench:
    """One seed: its plan, its latencies, and a model server in a process of its own."""

    def __init__(self, members: int, mean: float, seed: int) -> None:
        self.mean, self.seed = mean, seed
        self.plan = plan_of(members, seed)
        self.script = script_of(self.plan)
        # Never started: it tells the latencies that the server in the other process will have.
        self._clock = ModelServer(self.script, latency=("lognormal", mean, SIGMA), seed=seed)

    def critical_path(self, boss_turns: int) -> float:
        """Seconds, where the boss's call that finishes is its turn number `boss_turns`."""
        latency = self._clock.latency_of
        chain = longest_chain(self.plan, {name: latency(name, 0) + latency(name, 1) for name in self.plan})
        return latency("boss", 0) + chain + latency("boss", boss_turns - 1)

    @contextmanager
    def server(self, folder: Path) -> Iterator[str]:
        source = (
            "from benchmarks.barrier import plan_of, script_of\n"
            f"script = script_of(plan_of({len(self.plan)}, {self.seed}))\n"
        )
        with served(source, folder, f"lognormal:{self.mean},{SIGMA}", self.seed) as url:
            yield url

    async def megagraph(self, url: str, folder: Path) -> dict[str, float]:
        limits = Limits(agents=len(self.plan) + 1, width=len(self.plan), calls=10 * len(self.plan), rounds=1000)
        async with MegaGraph(MODEL, base_url=url, home=folder / "home", limits=limits) as mega:
            begun = time.perf_counter()
            run = await mega.start("Write the files.")
            result = await run.result()
            seconds = time.perf_counter() - begun
            assert result.passed, result
            turns = result.calls - 2 * len(self.plan)
            path = self.critical_path(turns)
            read = mega.home.database.read
            last_report = read("SELECT max(reported) FROM agents WHERE lead = 'boss'")[0][0]
            last_call = read("SELECT max(started) FROM calls WHERE agent = 'boss'")[0][0]
            return {
                "critical path": path,
                "makespan": seconds,
                "ratio": seconds / path,
                "desk": last_call - last_report,
                "boss calls": turns,
            }

    async def plain_graph(self, url: str) -> dict[str, float]:
        chat = LeanChatOpenAI(model="scripted", api_key=SecretStr("benchmark"), base_url=url, max_retries=0)
        graph = plain_graph(self.plan, chat)
        begun = time.perf_counter()
        await graph.ainvoke({"done": []}, {"recursion_limit": 1000})
        seconds = time.perf_counter() - begun
        await chat.aclose()
        path = self.critical_path(boss_turns=2)
        return {"critical path": path, "makespan": seconds, "ratio": seconds / path}


class PlainState(TypedDict):
    done: Annotated[list[str], add]


def plain_graph(plan: Plan, chat: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """The plan as LangGraph's own edges: a node starts in the superstep after the last of those it depends on."""

    async def ask(name: str, calls: int, heard: list[BaseMessage]) -> list[BaseMessage]:
        messages: list[BaseMessage] = [SystemMessage(f"Your name is `{name}`."), *heard]
        for _ in range(calls):
            answer = await chat.ainvoke(messages)
            messages += [answer, *(ToolMessage("Done.", tool_call_id=call["id"]) for call in answer.tool_calls)]
        return messages[1:]

    def member(name: str) -> Any:
        async def node(state: PlainState) -> dict[str, list[str]]:
            await ask(name, 2, [HumanMessage(f"write {name}.md")])
            return {"done": [name]}

        return node

    said: list[BaseMessage] = []

    async def boss(state: PlainState) -> dict[str, list[str]]:
        said.extend(await ask("boss", 1, [HumanMessage("Write the files.")]))
        return {"done": []}

    async def end(state: PlainState, config: RunnableConfig) -> dict[str, list[str]]:
        letters = (f'<letter from="{name}" kind="report">\nwritten\n</letter>' for name in plan)
        await ask("boss", 1, [*said, HumanMessage("\n".join(letters))])
        return {"done": []}

    graph = StateGraph(PlainState)
    graph.add_node("boss", boss)
    graph.add_node("end", end)
    graph.add_edge(START, "boss")
    for name, needs in plan.items():
        graph.add_node(name, member(name))
        graph.add_edge(needs or "boss", name)
    graph.add_edge(list(plan), "end")
    graph.add_edge("end", END)
    return graph.compile()


async def measure(bench: Bench) -> tuple[dict[str, float], dict[str, float]]:
    with tempfile.TemporaryDirectory() as name, bench.server(Path(name)) as url:
        return await bench.megagraph(url, Path(name)), await bench.plain_graph(url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--mean", type=float, default=1.0, help="seconds of one model call, on average")
    options = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "benchmark")
    asyncio.run(measure(Bench(3, 0.01, 0)))  # imports, and the caches of first use
    print(
        f"{'seed':>4} {'load':>5}  {'critical path':>13} {'makespan':>9} {'ratio':>6} {'desk':>6} {'boss calls':>10}",
        end="",
    )
    print(f"   {'plain: path':>11} {'makespan':>9} {'ratio':>6}")
    ratios, plain_ratios = [], []
    for seed in range(options.seeds):
        ours, plain = asyncio.run(measure(Bench(options.members, options.mean, seed)))
        ratios.append(ours["ratio"])
        plain_ratios.append(plain["ratio"])
        print(
            f"{seed:>4} {os.getloadavg()[0]:>5.2f}  {ours['critical path']:>13.2f} {ours['makespan']:>9.2f}"
            f" {ours['ratio']:>6.3f} {ours['desk']:>6.2f} {ours['boss calls']:>10.0f}"
            f"   {plain['critical path']:>11.2f} {plain['makespan']:>9.2f} {plain['ratio']:>6.3f}",
            flush=True,
        )
    print(f"median ratio: megagraph {statistics.median(ratios):.3f}, plain {statistics.median(plain_ratios):.3f}")


if __name__ == "__main__":
    main()
