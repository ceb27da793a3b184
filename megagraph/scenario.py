"""A scenario: a goal with its limits and checks, and perhaps a rehearsal, in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from megagraph.errors import UsageError
from megagraph.limits import Limits
from megagraph.rehearsal import Script, load_script
from megagraph.programs.sandbox import ProgramLimits


class CheckSpec(BaseModel):
    """One entry of `checks`: either a judge, a program of the scenario's that prints one JSON line per check, or
    a program among the delivered files that must exit with 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: str = ""
    """A Python file of the scenario, run in a copy of the delivered files, given that folder."""
    run: tuple[str, ...] = ()
    """A program among the delivered files, with its arguments."""
    name: str = ""
    seconds: float = Field(default=120, gt=0)
    """Wall time it may take."""

    @model_validator(mode="after")
    def _one_of(self) -> CheckSpec:
        if bool(self.judge) == bool(self.run):
            raise ValueError("give either `judge` or `run`")
        return self


class _File(BaseModel):
    """`scenario.yaml`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str = ""
    goal: str = ""
    goal_file: str = ""
    limits: dict[str, Any] = {}
    programs: dict[str, Any] = {}
    checks: list[CheckSpec] = []
    rehearsal: str = ""
    play: str = ""


@dataclass(frozen=True)
class Scenario:
    """What a run starts from. A bare goal is a scenario without a folder."""

    goal: str
    name: str = ""
    title: str = ""
    folder: Path | None = None
    limits: Limits = field(default_factory=Limits)
    programs: ProgramLimits = field(default_factory=ProgramLimits)
    checks: tuple[CheckSpec, ...] = ()
    rehearsal: str = ""
    play: str = ""
    """The command with which a person uses what was made, in its folder."""

    def script(self) -> Script | None:
        """The rehearsal, if there is one."""
        return load_script(self.folder / self.rehearsal) if self.folder and self.rehearsal else None


def find_scenario(name: str) -> Scenario | None:
    """The scenario in the folder `name`, or the one of that name that is shipped; None if there is neither."""
    for folder in (Path(name), *(folder / name for folder in scenario_folders())):
        if (folder / "scenario.yaml").is_file():
            return load_scenario(folder)
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


def load_scenario(folder: Path) -> Scenario:
    """Read `scenario.yaml`. Raises `UsageError` in one line naming what does not fit."""
    path = folder / "scenario.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        file = _File.model_validate(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())[:300]}") from error
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors()[:5])
        raise UsageError(f"{path} does not fit: {problems}.") from error
    if bool(file.goal) == bool(file.goal_file):
        raise UsageError(f"{path}: give either `goal` or `goal_file`.")
    if missing := [name for name in _named_files(file) if not (folder / name).is_file()]:
        raise UsageError(f"{path} names files that are not there: {', '.join(missing)}.")
    try:
        programs = ProgramLimits.model_validate(file.programs)
    except ValidationError as error:
        raise UsageError(f"{path}: `programs` does not fit: {error.errors()[0]['msg']}.") from error
    return Scenario(
        goal=file.goal or (folder / file.goal_file).read_text(encoding="utf-8"),
        name=file.name,
        title=file.title,
        folder=folder.absolute(),
        limits=Limits.parse(file.limits),
        programs=programs,
        checks=tuple(file.checks),
        rehearsal=file.rehearsal,
        play=file.play,
    )


def _named_files(file: _File) -> list[str]:
    return [name for name in (file.goal_file, file.rehearsal, *(check.judge for check in file.checks)) if name]
