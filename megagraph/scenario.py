"""A scenario: a goal with its limits and checks, and perhaps a rehearsal, in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from megagraph.approvals import Approve
from megagraph.checks import Check, JudgeCheck, ScenarioCheck
from megagraph.errors import UsageError
from megagraph.guards import Guards
from megagraph.limits import Limits
from megagraph.model_rules import ModelRules
from megagraph.parameters import Parameter, Value, fill, settle
from megagraph.prices import Prices, parse_prices
from megagraph.programs.sandbox import ProgramLimits
from megagraph.rehearsal import Script, load_script


class _File(BaseModel):
    """`scenario.yaml`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str = ""
    goal: str = ""
    goal_file: str = ""
    parameters: dict[str, Parameter] = {}
    limits: dict[str, Any] = {}
    programs: dict[str, Any] = {}
    guards: dict[str, Any] = {}
    prices: dict[str, Any] = {}
    models: dict[str, Any] = {}
    approve: list[str] | str = []
    mcp: dict[str, Any] | str = ""
    checks: list[ScenarioCheck] = []
    rehearsal: str = ""
    play: str = ""


@dataclass(frozen=True)
class Scenario:
    """What a run starts from. A bare goal is a scenario without a folder."""

    goal: str
    name: str = ""
    title: str = ""
    folder: Path | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """What it declares as settable, with the values that hold."""
    limits: Limits = field(default_factory=Limits)
    programs: ProgramLimits = field(default_factory=ProgramLimits)
    guards: Guards = field(default_factory=Guards)
    prices: Prices = field(default_factory=dict)
    models: ModelRules = field(default_factory=ModelRules)
    """Which agent is answered by which model, where the caller names none."""
    approve: Approve = field(default_factory=Approve)
    """What a person wants to be asked about, where the caller says nothing."""
    mcp: Path | Mapping[str, Any] | None = None
    """MCP servers: a file, or what one holds."""
    checks: tuple[Check, ...] = ()
    """What decides what the result is worth, when the boss has handed it in."""
    rehearsal: str = ""
    play: str = ""
    """The command with which a person uses what was made, in its folder."""

    def with_(self, **values: Any) -> Scenario:
        """The scenario with other values of its parameters, read from its folder again.

        Raises `UsageError` where there is no such parameter, or the value does not fit.
        """
        if self.folder is None:
            if values:
                raise UsageError("a goal in words has no parameters.", "Name a scenario that declares some.")
            return self
        return load_scenario(self.folder, {**self.parameters, **values})

    def script(self) -> Script | None:
        """The rehearsal, if there is one. Raises `UsageError` where it cannot be loaded."""
        if self.folder is None or not self.rehearsal:
            return None
        path = self.folder / self.rehearsal
        try:
            return load_script(path, self.parameters)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            # The rehearsal is a program of the user's: anything may come out of it.
            raise UsageError(f"the rehearsal {path} cannot be loaded ({type(error).__name__}: {error}).") from error


def find_scenario(name: str, parameters: Mapping[str, Any] | None = None) -> Scenario | None:
    """The scenario in the folder `name`, or the one of that name that is shipped; None if there is neither.

    `parameters` are values for those that it declares.
    """
    for folder in (Path(name), *(folder / name for folder in scenario_folders())):
        if _is_file(folder / "scenario.yaml"):
            return load_scenario(folder, parameters)
    return None


def scenario_folders() -> Iterator[Path]:
    """Where shipped scenarios lie: in an installed package, or in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "scenarios", package.parent / "scenarios"):
        if folder.is_dir():
            yield folder


def shipped_scenarios() -> list[str]:
    """The names of the shipped scenarios."""
    return sorted({path.parent.name for folder in scenario_folders() for path in folder.glob("*/scenario.yaml")})


def load_scenario(folder: Path, parameters: Mapping[str, Any] | None = None) -> Scenario:
    """Read `scenario.yaml`, with these values of its parameters.

    Raises `UsageError` in one line naming what does not fit.
    """
    path = folder / "scenario.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise UsageError(f"{path} does not fit: it must hold fields such as `name` and `goal`.")
        file = _File.model_validate(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())[:300]}") from error
    except ValidationError as error:
        raise UsageError(f"{path} does not fit: {_problems(error)}.", f"Known fields: {_known(_File)}.") from error
    if bool(file.goal) == bool(file.goal_file):
        raise UsageError(f"{path}: give either `goal` or `goal_file`.")
    if missing := [name for name in _named_files(file) if not (folder / name).is_file()]:
        raise UsageError(f"{path} names files that are not there: {', '.join(missing)}.")
    try:
        goal = file.goal or (folder / file.goal_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the goal {folder / file.goal_file} cannot be read ({error}).") from error
    if not goal.strip():
        raise UsageError(f"{path}: the goal is empty.", "Say what is to be reached.")
    own: list[Any] = [goal, file.limits, file.programs]
    try:
        values = settle(file.parameters, parameters or {})
        goal, own_limits, own_programs = fill(own, values) if values else own
        limits, prices = Limits.parse(own_limits), parse_prices(file.prices)
        models, approve = ModelRules.parse(file.models), Approve.parse(file.approve)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error
    try:
        programs = ProgramLimits.model_validate(own_programs)
    except ValidationError as error:
        known = _known(ProgramLimits)
        raise UsageError(f"{path}: `programs` does not fit: {_problems(error)}.", f"Known: {known}.") from error
    try:
        guards = Guards.model_validate(file.guards)
    except ValidationError as error:
        raise UsageError(f"{path}: `guards` does not fit: {_problems(error)}.", f"Known: {_known(Guards)}.") from error
    return Scenario(
        goal=goal,
        name=file.name,
        title=file.title,
        folder=folder.absolute(),
        parameters=values,
        limits=limits,
        programs=programs,
        guards=guards,
        prices=prices,
        models=models,
        approve=approve,
        mcp=folder.absolute() / file.mcp if isinstance(file.mcp, str) and file.mcp else file.mcp or None,
        checks=tuple(file.checks),
        rehearsal=file.rehearsal,
        play=file.play,
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A goal in words can be longer than a path may be.
        return False


def _problems(error: ValidationError) -> str:
    # Of a check's place the last part but one is its kind, which it shows by itself.
    places = [".".join(str(part) for part, _ in groupby(e["loc"])) for e in error.errors()[:5]]
    problems = [f"`{place}`: {e['msg'].lower()}" for place, e in zip(places, error.errors(), strict=False)]
    return "; ".join(problems).replace("valid tuple", "list")


def _known(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _named_files(file: _File) -> list[str]:
    judges = [check.judge for check in file.checks if isinstance(check, JudgeCheck)]
    mcp = file.mcp if isinstance(file.mcp, str) else ""
    return [name for name in (file.goal_file, file.rehearsal, mcp, *judges) if name]
