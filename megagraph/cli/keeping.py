"""Commands that keep a home in order, and hand runs on."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megagraph.cli.options import Home, Json, RunId, app, open_home, print_json
from megagraph.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from megagraph.keeping.deleting import Gone
    from megagraph.keeping.pruning import Pruned

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and the bytes to be won.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOST_LINES = 20


@app.command()
def delete(
    run_ids: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Ids of runs, the beginnings of them, or `last`.")
    ],
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete runs with all they did. Their branches stay, with everything that they share with them."""
    with open_home(home) as mega:
        ids = [mega.home.find(run)["run"] for run in run_ids]
        gone = mega.delete(*ids, dry_run=True)
        if not dry_run:
            if _asks(yes, as_json):
                _print_runs(gone, "to be deleted")
                _confirm(f"Delete {_many(len(gone), 'run')}?")
            gone = mega.delete(*ids)
    if as_json:
        print_json([each.dump() for each in gone])
        return
    if dry_run:
        _print_runs(gone, "would be deleted")
    _print_bytes(sum(each.file_bytes for each in gone), sum(each.database_bytes for each in gone), dry_run=dry_run)


@app.command()
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="AGE", help="Runs in which nothing happened for so long: 30d, 12h, 90m, 2w."
        ),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", min=0, help="Runs that are not among the newest N.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Runs that stand so, such as failed. Repeatable.")
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Do not delete: of runs that are done, drop what only branching needs."),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete the runs that all the options hold for, and what killed processes have left.

    Without options no run is deleted. Runs that are at work stay.
    """
    age = None if older_than is None else parse_age(older_than)
    with open_home(home) as mega:

        def work(dry_run: bool) -> Pruned:
            return mega.prune(older_than=age, keep=keep, status=status or (), checkpoints=checkpoints, dry_run=dry_run)

        pruned = work(dry_run=True)
        some = pruned.deleted or pruned.trimmed or pruned.leftovers
        if some and not dry_run:
            if _asks(yes, as_json):
                _print_pruned(pruned, "to be")
                _confirm("Go on?")
            pruned = work(dry_run=False)
    if as_json:
        print_json({**pruned.dump(), "dry_run": dry_run})
        return
    if dry_run:
        _print_pruned(pruned, "would be")
    for run in pruned.busy:
        print(f"left out: run {run[:8]} is at work")
    if some:
        _print_bytes(pruned.file_bytes, pruned.database_bytes, dry_run=dry_run)
    else:
        print("Nothing to prune.")


@app.command()
def vacuum(dry_run: DryRun = False, yes: Yes = False, home: Home = None, as_json: Json = False) -> None:
    """Give the space of what was deleted back to the disk. Waits for nobody: no run may be at work."""
    with open_home(home) as mega:
        if not dry_run and _asks(yes, as_json):
            _confirm("Write the database and the files of all runs anew?")
        done = mega.vacuum(dry_run=dry_run)
    if as_json:
        print_json(done.dump())
        return
    print(f"database: {done.database_before:,} bytes, {'about ' if dry_run else ''}{done.database_after:,} after it")
    print(f"files:    {done.files_before:,} bytes, {done.files_after:,} after it")
    print(f"{'To be won' if dry_run else 'Won'}: {done.bytes:,} bytes")


@app.command()
def export(
    run_id: RunId,
    out: Annotated[Path, typer.Option("-o", "--out", dir_okay=False, help="The zip file to write.")],
    family: Annotated[bool, typer.Option("--family", help="Its branches too, and theirs.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a whole run to one file, with which others can look at it, go on with it and branch it."""
    from megagraph.keeping.archive import save

    with open_home(home) as mega:
        runs = save(mega.home, mega.home.find(run_id)["run"], out, family=family, overwrite=overwrite)
    size = out.stat().st_size
    if as_json:
        print_json({"run": runs[0], "runs": runs, "file": str(out), "bytes": size})
        return
    others = f" with {_many(len(runs) - 1, 'branch')}" if len(runs) > 1 else ""
    print(f"run {runs[0]}{others} written to {out}, {size:,} bytes")
    print("It holds everything that was said and written in it: look at it before you hand it on.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` has written.")],
    scenario: Annotated[
        Path | None,
        typer.Option("--scenario", exists=True, file_okay=False, help="The folder of its scenario on this machine."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take in an exported run: all of it, or nothing. It gets a new id where its own is taken."""
    from megagraph.display import home_option, program
    from megagraph.keeping.loading import load
    from megagraph.mega import MegaGraph

    with MegaGraph(home=home) as mega:
        loaded = load(mega.home, file, scenario=scenario)
        path = mega.home.path
    if as_json:
        print_json(loaded.dump())
        return
    print(f"run {loaded.run}")
    others = [f"{old[:8]} → {new[:8]}" for old, new in loaded.runs.items() if old != new]
    if others:
        print(f"New ids, since those were taken: {', '.join(others)}")
    for note in loaded.notes:
        print(note)
    print(f"Look at it with: {program()} show {loaded.run[:8]}{home_option(path)}")


def parse_age(text: str) -> timedelta:
    """Raises `UsageError` for what is no length of time."""
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if found is None:
        raise UsageError(f"`--older-than {text}` is not understood.", "Write a number and a unit: 30d, 12h, 90m or 2w.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _asks(yes: bool, as_json: bool) -> bool:
    """Whether a person has to be asked. Raises `UsageError` where nobody can be."""
    if not yes and (as_json or not sys.stdin.isatty()):
        raise UsageError("nobody can be asked whether that is meant.", "Say --yes, or --dry-run to look first.")
    return not yes


def _confirm(question: str) -> None:
    """Leave the program where the answer is not yes."""
    if not typer.confirm(question):
        print("Nothing was changed.")
        raise SystemExit(1)


def _print_pruned(pruned: Pruned, when: str) -> None:
    _print_runs(pruned.deleted, f"{when} deleted")
    _print_runs(pruned.trimmed, f"{when} trimmed (no history and no branches then)")
    for leftover in pruned.leftovers[:_MOST_LINES]:
        print(f"leftover {leftover.kind}, {when} removed: {leftover.path}  ({leftover.bytes:,} bytes)")
    if len(pruned.leftovers) > _MOST_LINES:
        print(f"… and {len(pruned.leftovers) - _MOST_LINES} other leftovers")


def _print_runs(runs: Sequence[Gone], what: str) -> None:
    from megagraph.view import one_line

    for gone in runs[:_MOST_LINES]:
        size = f"{gone.database_bytes + gone.file_bytes:,} bytes{', files shared with its family stay' * gone.shared}"
        print(f"{what}: {gone.run[:8]}  {gone.status}  {one_line(gone.goal, 60)}  ({size})")
    if len(runs) > _MOST_LINES:
        print(f"… and {len(runs) - _MOST_LINES} other runs")


def _print_bytes(files: int, database: int, *, dry_run: bool) -> None:
    if dry_run:
        print(f"To be won: {files:,} bytes of files, and about {database:,} in the database.")
    else:
        print(f"Won: {files:,} bytes of files, and about {database:,} in the database.")
        print("`megagraph vacuum` gives those in the database, and files that were shared, back to the disk.")


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('ch') else 's'}"
