"""Commands that make something of a run to keep or to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megagraph.cli.options import Home, RunId, app, open_home


@app.command()
def report(
    run_id: RunId = "last",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", dir_okay=False, help="The file to write.  [default: run-ID.html, where you are]"),
    ] = None,
    home: Home = None,
) -> None:
    """Write a run as one HTML page: agents in time, mail, files, checks, cost, conversations.

    The page is one file, needs no network, and can be mailed or kept.
    """
    with open_home(home) as mega:
        opened = mega.open(run_id)
        path = opened.write_report(out or Path(f"run-{opened.id[:8]}.html"))
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB). Open it in a browser.")
