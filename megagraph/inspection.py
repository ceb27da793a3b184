"""Checks, carried out on one version of the files. Nothing they do reaches the files themselves."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import regex  # type: ignore[import-untyped]
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from megagraph.checks import (
    BackedCheck,
    CallCheck,
    Check,
    FileCheck,
    JudgeCheck,
    MatchCheck,
    ReviewCheck,
    RunCheck,
    SchemaCheck,
)
from megagraph.errors import ToolError
from megagraph.files.mapping import Files
from megagraph.files.workspace import Workspace
from megagraph.placeholders import placeholder
from megagraph.programs.process import Outcome, program_argv, run_program
from megagraph.programs.sandbox import ProgramLimits, Sandbox
from megagraph.specs import Verdict

MOST_DETAIL = 2000
"""Characters of what a check has to say."""
_SECONDS = 2.0
"""What one regular expression may take: one can be made to run for years."""
_JUDGE = "_judge"

Finding = tuple[bool, str]
"""Whether a check has passed, and what it has to say."""


@dataclass(frozen=True)
class Bench:
    """Where checks are carried out, and on what."""

    workspace: Workspace
    version: str
    sandbox: Sandbox | None
    programs: ProgramLimits
    scratch: Path
    backed: Callable[[str], Awaitable[Finding]]
    """Whether the author of a report has looked at what it is about."""
    review: Callable[[ReviewCheck, Bench], Awaitable[Finding]]
    folder: Path | None = None
    """The scenario's, where its judges are."""
    record: Callable[[Path], None] | None = None
    """Writes what a judge is told of the run into a folder."""
    most_seconds: float | None = None
    """What a program may take, whatever its check allows."""


async def carry_out(check: Check, bench: Bench) -> list[Verdict]:
    """The verdict of a check; of a judge, all that it gives. A check that cannot be carried out has not passed."""
    try:
        match check:
            case FileCheck():
                finding = await asyncio.to_thread(_file, check, bench)
            case RunCheck():
                finding = await _program(check, bench)
            case BackedCheck():
                finding = await bench.backed(check.backed)
            case ReviewCheck():
                finding = await bench.review(check, bench)
            case CallCheck():
                finding = await _call(check, bench)
            case JudgeCheck():
                return await _judge(check, bench)
            case _:
                raise AssertionError(check)
    except ToolError as error:
        finding = False, str(error)
    passed, detail = finding
    return [Verdict(check.label, passed, detail[-MOST_DETAIL:])]


# --- files ----------------------------------------------------------------------------------------------------


def _file(check: FileCheck, bench: Bench) -> Finding:
    read = bench.workspace.read(check.file, bench.version)
    if why := placeholder(read.path, read.content):
        return False, f"it is a placeholder: {why}"
    if isinstance(check, MatchCheck):
        found = _search(check.matches, read.text)
        return found, "" if found else "no match"
    if isinstance(check, SchemaCheck):
        return _fits(check.fits, _parsed(read.path, read.text))
    return True, ""


def _search(expression: str, text: str) -> bool:
    try:
        # `concurrent` lets other threads run meanwhile: one of them holds the event loop.
        found = regex.search(expression, text, regex.MULTILINE, timeout=_SECONDS, concurrent=True)
    except TimeoutError:
        raise ToolError(f"the regular expression took more than {_SECONDS:g} s; use a simpler one.") from None
    return found is not None


def _parsed(path: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if PurePosixPath(path).suffix in (".yaml", ".yml") else json.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "YAML" if isinstance(error, yaml.YAMLError) else "JSON"
        raise ToolError(f"it is no valid {kind}: {' '.join(str(error).split())[:300]}") from None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _search(pattern, instance):
        yield ValidationError(f"{instance[:80]!r} does not match {pattern!r}")


_Validator: type[Validator] = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


def _fits(schema: Mapping[str, Any], data: Any) -> Finding:
    # With a registry of its own it fetches nothing.
    try:
        error = best_match(_Validator(schema, registry=Registry()).iter_errors(data))
    except (Unresolvable, RecursionError) as problem:
        raise ToolError(f"the schema cannot be used: {problem}") from None
    return error is None, "" if error is None else f"{error.json_path}: {error.message}"


# --- programs -------------------------------------------------------------------------------------------------


async def _program(check: RunCheck, bench: Bench) -> Finding:
    outcome = await run_apart(bench, check.run[0], check.run[1:], check.stdin, check.seconds)
    printed, said = f"{outcome.stdout}\n{outcome.stderr}", outcome.text()[-MOST_DETAIL + 200 :]
    if outcome.exit_code != check.exit_code:
        return False, said if check.exit_code == 0 else f"expected exit code {check.exit_code}: {said}"
    if check.contains not in printed:
        return False, f"{check.contains[:80]!r} is not in its output: {said}"
    if check.output and not await asyncio.to_thread(_search, check.output, printed):
        return False, f"its output does not match {check.output[:80]!r}: {said}"
    return True, said


async def run_apart(
    bench: Bench, path: str, args: tuple[str, ...], stdin: str = "", seconds: float | None = None, judge: str = ""
) -> Outcome:
    """Run a program to its end on a copy of the files, of which nothing comes back. A judge is copied in first."""
    if bench.sandbox is None:
        raise ToolError("not judged: there is no sandbox to run programs in")
    limits = bench.programs
    seconds = min(filter(None, (seconds or limits.wall_seconds, bench.most_seconds)))
    limits = limits.model_copy(
        update={
            "wall_seconds": seconds,
            "cpu_seconds": max(limits.cpu_seconds, int(seconds * 4)),
            "output_kb": max(256, limits.output_kb),
        }
    )
    folder = await asyncio.to_thread(TemporaryDirectory[str], prefix="check-", dir=bench.scratch)
    try:
        tree = Path(folder.name) / "tree"
        await asyncio.to_thread(bench.workspace.materialise, tree, bench.version)
        if judge:
            await asyncio.to_thread(_seat, tree / path, Path(judge), bench)
        argv = program_argv(path, args, tree, limits)
        return await run_program(bench.sandbox, argv, tree, stdin=stdin.encode(), limits=limits)
    finally:
        await asyncio.to_thread(folder.cleanup)


def _seat(place: Path, judge: Path, bench: Bench) -> None:
    """Put a judge, and what it is told of the run, into a folder of its own, whatever the agents left there."""
    if place.parent.is_dir():
        shutil.rmtree(place.parent)
    else:
        place.parent.unlink(missing_ok=True)
    place.parent.mkdir()
    try:
        shutil.copy(judge, place)
    except OSError as error:
        raise ToolError(f"not judged: {judge} cannot be read ({error.strerror})") from None
    if bench.record is not None:
        bench.record(place.parent)


async def _judge(check: JudgeCheck, bench: Bench) -> list[Verdict]:
    if bench.folder is None:
        raise ToolError("not judged: a judge is a file of a scenario's folder, and there is none")
    judge = str(bench.folder / check.judge)
    outcome = await run_apart(bench, f"{_JUDGE}/check.py", (".",), "", check.seconds, judge)
    verdicts = [verdict for line in outcome.stdout.splitlines() if (verdict := _parse(line)) is not None]
    # A judge that was stopped, crashed, or found nothing to say, has not passed what it did not get to.
    failed = any(not verdict.passed for verdict in verdicts)
    finished = outcome.ended == "exited" and outcome.exit_code in (0, 1 if failed else 0)
    if not finished or not verdicts:
        why = "the judge did not finish: " + outcome.text()[-MOST_DETAIL:]
        verdicts.append(Verdict(check.label, False, why))
    return verdicts


def _parse(line: str) -> Verdict | None:
    try:
        data = json.loads(line)
        return Verdict(str(data["check"]), data["passed"] is True, str(data.get("detail", "")))
    except (ValueError, KeyError, TypeError):
        return None


# --- functions ------------------------------------------------------------------------------------------------


async def _call(check: CallCheck, bench: Bench) -> Finding:
    if check.function is None:
        return False, "not judged: its Python function is not here; give it again, as MegaGraph(checks=…)"
    files = Files(bench.workspace, bench.version)
    function = check.function

    async def called() -> Any:
        result = await asyncio.to_thread(function, files)
        return await result if inspect.isawaitable(result) else result

    try:
        result = await asyncio.wait_for(called(), check.seconds)
    except TimeoutError:
        return False, f"it took more than {check.seconds:g} s"
    except Exception as error:
        # A function of the user's: anything may come out of it.
        return False, f"{type(error).__name__}: {error}"
    passed, detail = result if isinstance(result, tuple) and len(result) == 2 else (result, "")
    if not isinstance(passed, bool):
        return False, f"it returned {result!r:.200}, and not True, False, or one of these with a detail"
    return passed, str(detail)
