"""A run in child processes that are killed at random moments and resumed until it is done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megagraph import MegaGraph
from tests.model_server import ModelServer


@dataclass
class Campaign:
    """What came of it."""

    kills: int = 0
    """Kills that met a process at work."""
    depths: Counter[int] = field(default_factory=Counter)
    """How often an agent of each depth had a call in flight when its process was killed."""
    paid_twice: list[tuple[str, int]] = field(default_factory=list)
    """(agent, step) of the calls that were journalled before a kill and sent again after it."""
    letters_lost: list[str] = field(default_factory=list)
    letters_doubled: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    agents: list[str] = field(default_factory=list)
    status: str = ""


def command(*args: str, home: Path, url: str, model: str = "openai:scripted") -> list[str]:
    return [
        sys.executable,
        "-m",
        "megagraph",
        *args,
        "--home",
        str(home),
        "--model",
        model,
        "--base-url",
        url,
    ]


def depth_of(agent: str) -> int:
    """The depth of an agent of `deep_script`: the boss, its two leads, their workers."""
    return 0 if agent == "boss" else 1 + agent.count("_")


def run_campaign(
    server: ModelServer,
    home: Path,
    seed: int,
    kills: int,
    longest: float = 0.4,
    options: Sequence[str] = (),
    model: str = "openai:scripted",
) -> Campaign:
    """Start a run of `deep_script`, kill it `kills` times, resume it each time, and let it end.

    The moments are random, but every third kill waits for an agent of each depth to have a call in flight.
    """
    chance, campaign = random.Random(seed), Campaign()
    journalled: list[tuple[float, set[tuple[str, int]]]] = []
    args = ["run", "Write the files."]
    env = {**os.environ, "OPENAI_API_KEY": "test", "PYTHONPATH": str(Path.cwd())}
    for _ in range(3 * kills + 3):
        before = len(server.log)
        with (home.parent / "child.log").open("ab") as log:
            child = subprocess.Popen(
                command(*args, *options, home=home, url=server.url, model=model), stdout=log, stderr=log, env=env
            )
        if campaign.kills < kills:
            # Counted from the first call, so that no kill is spent on the start of the interpreter.
            while len(server.log) == before and server.in_flight == 0 and child.poll() is None:
                time.sleep(0.002)
            wanted = campaign.kills % 3
            time.sleep(chance.uniform(0, longest) if wanted else 0.01)
            patience = time.monotonic() + 1
            while time.monotonic() < patience and child.poll() is None:
                if wanted in map(depth_of, server.calling):
                    break
                time.sleep(0.002)
            campaign.depths.update(map(depth_of, server.calling))
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
                campaign.kills += 1
                journalled.append((time.time(), _look(home, campaign)))
        else:
            child.wait(timeout=120)
        if child.returncode == 0 or campaign.status == "done":
            break
        args = ["resume", "last"]
    _judge(server, home, journalled, campaign)
    return campaign


def _look(home: Path, campaign: Campaign) -> set[tuple[str, int]]:
    with MegaGraph(home=home) as mega:
        rows = mega.home.database.read("SELECT agent, step FROM calls")
        campaign.status = mega.open("last").status
        return {(row["agent"], row["step"]) for row in rows}


def _judge(
    server: ModelServer, home: Path, journalled: list[tuple[float, set[tuple[str, int]]]], campaign: Campaign
) -> None:
    for record in server.log:
        for at, calls in journalled:
            if record.time_in > at and (record.agent, record.turn + 1) in calls:
                campaign.paid_twice.append((record.agent, record.turn + 1))
    with MegaGraph(home=home) as mega:
        run = mega.open("last")
        campaign.status = run.status
        campaign.files = dict(run.files)
        db = mega.home.database
        campaign.agents = sorted(row["name"] for row in db.read("SELECT name FROM agents"))
        read = Counter[str]()
        for row in db.read("SELECT letters FROM calls"):
            read.update(json.loads(row["letters"]))
        campaign.letters_doubled = [id_ for id_, times in read.items() if times > 1]
        letters: list[Any] = db.read("SELECT id FROM letters WHERE kind NOT IN ('notice', 'aside')")
        campaign.letters_lost = [row["id"] for row in letters if row["id"] not in read]
