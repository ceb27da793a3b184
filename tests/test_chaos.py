"""SIGKILL at random moments: nothing answered is paid again, no letter is lost or doubled, the files are the same.

`make chaos` makes a hundred kills and more; the suite makes a shorter campaign.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.campaign import run_campaign
from tests.model_server import ModelServer
from tests.scripts import deep_script

KILLS_OF_A_RUN = 6
"""More, and it might be done before the last of them."""
RUNS = int(os.environ.get("MEGAGRAPH_KILLED_RUNS", "2"))
LATENCY = ("lognormal", 0.15, 0.5)

EXPECTED = {
    "main.txt": "done\n",
    **{
        f"{region}.txt": "".join(
            f"{region}_{x}: {region}_{x}.txt is {done}\nArtefacts: {region}_{x}.txt\n"
            for x, done in (("a", "mended"), ("b", "written"), ("c", "written"))
        )
        for region in ("north", "south")
    },
    **{
        f"{region}_{x}.txt": f"by {region}_{x}\n" + (f"again by {region}\n" if x == "a" else "")
        for region in ("north", "south")
        for x in "abc"
    },
}
AGENTS = ["boss", *(f"{r}{x}" for r in ("north", "south") for x in ("", "_a", "_b", "_c"))]


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_run_that_is_killed_pays_nothing_twice(tmp_path: Path, seed: int) -> None:
    with ModelServer(deep_script(), latency=LATENCY, seed=seed) as server:
        campaign = run_campaign(server, tmp_path / "home", seed, KILLS_OF_A_RUN)

    assert campaign.status == "done"
    assert campaign.kills == KILLS_OF_A_RUN
    assert campaign.paid_twice == []
    assert campaign.letters_lost == []
    assert campaign.letters_doubled == []
    assert campaign.files == EXPECTED
    assert campaign.agents == AGENTS
    assert {0, 1, 2} == set(campaign.depths), "every level had a call in flight when it was killed"
