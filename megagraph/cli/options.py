"""What the commands share: the program itself, their options, and how a home is opened."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megagraph.errors import HomeError, UsageError

if TYPE_CHECKING:
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph
    from megagraph.model_rules import ModelRules

app = typer.Typer(
    name="megagraph",
    help="One goal, one boss, and an organisation of agents that grows itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Home = Annotated[
    Path | None,
    typer.Option("--home", envvar="MEGAGRAPH_HOME", help="The folder that keeps the runs.  [default: .megagraph]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as docs/cli.md describes it.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or `last`.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="openai:NAME, or `rehearsal` for a scenario's scripted model. Options go behind NAME, as in"
        " NAME?tools=json&in_flight=4: tools=json (offer tools by JSON Schema), in_flight, rpm, tpm, max_tokens,"
        " context (the model's window in tokens), base_url, key (the variable with the key).",
    ),
]
Leads = Annotated[
    str | None,
    typer.Option("--leads", metavar="MODEL", help="The model of the boss and of whoever has recruited."),
]
Leaves = Annotated[
    str | None,
    typer.Option("--leaves", metavar="MODEL", help="The model of everybody else."),
]
Fallback = Annotated[
    list[str] | None,
    typer.Option("--fallback", metavar="MODEL", help="A model to go on with where another fails. Repeatable."),
]
Approvals = Annotated[
    list[str] | None,
    typer.Option(
        "--approve",
        metavar="WHAT",
        help="Ask before the first recruits (plan), before a program runs (programs), above a cost (cost=5); none"
        " for nothing. Repeatable.",
    ),
]
Mcp = Annotated[
    Path | None,
    typer.Option("--mcp", metavar="FILE", dir_okay=False, help="MCP servers whose tools agents get, as JSON."),
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", envvar="OPENAI_BASE_URL", help="An OpenAI-compatible server."),
]
LimitOptions = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=VALUE", help="Set a limit, such as calls=200. Repeatable."),
]
SetOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter of the scenario, such as size=590. Repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", file_okay=False, help="Write the files to this folder.")]
Unsafe = Annotated[
    bool,
    typer.Option("--unsafe-programs", help="Run agents' programs without a sandbox where there is none."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes for the boss's team; worth it from a thousand agents on."),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one model call.")]


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the program at once until an event loop listens to it: before that, nothing has begun.

    A `KeyboardInterrupt` in the middle of imports may be lost, since pydantic's core goes on where it meets one.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def open_home(home: Path | None) -> MegaGraph:
    """The home to look at. Looking makes none."""
    must_exist(home)
    from megagraph.mega import MegaGraph

    return MegaGraph(home=home)


def must_exist(home: Path | None) -> None:
    from megagraph.home import home_path, is_home

    path = home_path(home)
    if not is_home(path):
        raise HomeError(f"there are no runs in {path}.", "Start one with `megagraph run`, or name another --home.")


def limits_of(options: list[str], base: Limits | None) -> Limits:
    from megagraph.limits import Limits

    return Limits.parse((base or Limits()).model_dump() | pairs_of("--limit", options))


def pairs_of(flag: str, options: list[str]) -> dict[str, str]:
    """The values of an option that is given as NAME=VALUE, any number of times."""
    values = {}
    for option in options:
        name, sep, value = option.partition("=")
        if not sep:
            raise UsageError(f"`{flag} {option}` is not understood.", "Write it as NAME=VALUE.")
        values[name.strip()] = value.strip()
    return values


def rules_of(leads: str | None, leaves: str | None, fallback: list[str] | None) -> ModelRules | None:
    """Rules for models from the command line; they take the place of a scenario's."""
    from megagraph.model_rules import ModelRules

    if not (leads or leaves or fallback):
        return None
    return ModelRules(leads=leads or "", leaves=leaves or "", fallback=tuple(fallback or ()))


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))
