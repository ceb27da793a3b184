"""Checks: what decides whether a piece of work is what it is said to be. Plain data; `inspection` carries them out.

A check is told from others by its keys, the same in Python, in `scenario.yaml` and in a tool's arguments:

    - file: report.md                     # it is there, and is no placeholder
    - {file: report.md, matches: '^# Result'}
    - {file: scores.json, schema: {type: object, required: [score]}}
    - {run: [main.py, --selftest], exit_code: 0, output: '\\d+ passed'}
    - backed: test_report.md              # its author has run what it speaks of, as it is now
    - {review: The README says how to start., files: [README.md]}
    - judge: check.py                     # of a scenario only
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, field_validator

from megagraph.errors import UsageError

MAX_EXPRESSION = 1000
"""Characters of a regular expression."""


class Check(BaseModel):
    """What all checks have. `Check.call` makes one of a Python function; the others are made by their classes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(default="", max_length=200)

    @staticmethod
    def call(function: Callable[[Mapping[str, str]], Any], name: str = "", seconds: float = 120) -> CallCheck:
        """A check by a function of yours, plain or `async`. It is given the run's files, by path.

        It returns whether they pass, or a pair of that and a detail; what it raises is a failure.
        """
        name = name or getattr(function, "__name__", type(function).__name__)
        return CallCheck(call=name, function=function, seconds=seconds)

    @property
    def label(self) -> str:
        """What it is called where nobody has given it a name."""
        return self.name or self._subject()

    @property
    def paths(self) -> tuple[str, ...]:
        """The files it is about. What was found holds until one of them is changed."""
        return ()

    def dump(self) -> dict[str, Any]:
        """The check as plain JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def _subject(self) -> str:
        raise NotImplementedError


class FileCheck(Check):
    """A file is there and is no placeholder."""

    file: str = Field(min_length=1)

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def _subject(self) -> str:
        return self.file


class MatchCheck(FileCheck):
    """Besides, its text matches a regular expression; `^` and `$` mean the ends of a line."""

    matches: str = Field(min_length=1, max_length=MAX_EXPRESSION)

    @field_validator("matches")
    @classmethod
    def _expression(cls, expression: str) -> str:
        return _compilable(expression)

    def _subject(self) -> str:
        return f"{self.file} matches {self.matches[:80]}"


class SchemaCheck(FileCheck):
    """Besides, the JSON or YAML in it fits a JSON Schema (draft 2020-12, without references to elsewhere)."""

    fits: dict[str, Any] = Field(alias="schema")

    @field_validator("fits")
    @classmethod
    def _schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"no JSON Schema: {error.message[:200]}") from None
        for expression in _patterns(schema):
            _compilable(expression)
        return schema

    def _subject(self) -> str:
        return f"{self.file} fits its schema"


class RunCheck(Check):
    """A program among the shared files ends with an exit code and prints what it should."""

    run: tuple[str, ...] = Field(min_length=1)
    exit_code: int = 0
    output: str = Field(default="", max_length=MAX_EXPRESSION)
    """A regular expression that what it prints must match."""
    contains: str = ""
    """A text that must be in what it prints."""
    stdin: str = ""
    seconds: float = Field(default=120, gt=0)
    """Wall time it may take."""

    @field_validator("output")
    @classmethod
    def _expression(cls, expression: str) -> str:
        return _compilable(expression)

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.run[0],)

    def _subject(self) -> str:
        return " ".join(self.run)


class BackedCheck(Check):
    """Who wrote this report has run a program, or read what it is about, since that was changed last."""

    backed: str = Field(min_length=1)

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.backed,)

    def _subject(self) -> str:
        return f"{self.backed} is backed"


class ReviewCheck(Check):
    """A model, asked whether the files meet these criteria, says yes and cites what it has run or read."""

    review: str = Field(min_length=1, max_length=8000)
    files: tuple[str, ...] = ()
    """The files it is about; without, all."""

    @property
    def paths(self) -> tuple[str, ...]:
        return self.files

    def _subject(self) -> str:
        return f"review: {' '.join(self.review.split())[:80]}"


class JudgeCheck(Check):
    """A Python file of the scenario, run in a copy of the files, prints a line of JSON for each of its verdicts."""

    judge: str = Field(min_length=1)
    seconds: float = Field(default=120, gt=0)
    """Wall time it may take."""

    def _subject(self) -> str:
        return Path(self.judge).stem


class CallCheck(Check):
    """A function of the program that uses the library. Only its name outlives the process: see `Check.call`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    called: str = Field(alias="call")
    function: Callable[[Mapping[str, str]], Any] | None = Field(default=None, exclude=True, repr=False)
    seconds: float = Field(default=120, gt=0)

    def _subject(self) -> str:
        return self.called


def _kind(value: Any) -> str | None:
    """Which class a check is of, by the keys it has."""
    keys = value if isinstance(value, Mapping) else getattr(value, "model_fields_set", ())
    if "file" in keys:
        return "schema" if {"schema", "fits"} & set(keys) else "matches" if "matches" in keys else "file"
    if "called" in keys:
        return "call"
    return next((key for key in ("run", "backed", "review", "judge", "call") if key in keys), None)


def _one_of(*kinds: str) -> Discriminator:
    return Discriminator(
        _kind,
        custom_error_type="check",
        custom_error_message=f"give one of {', '.join(f'`{kind}`' for kind in kinds)}",
    )


_AgentKinds: TypeAlias = (
    Annotated[FileCheck, Tag("file")]
    | Annotated[MatchCheck, Tag("matches")]
    | Annotated[SchemaCheck, Tag("schema")]
    | Annotated[RunCheck, Tag("run")]
    | Annotated[BackedCheck, Tag("backed")]
    | Annotated[ReviewCheck, Tag("review")]
)
_JudgeKind: TypeAlias = Annotated[JudgeCheck, Tag("judge")]

AgentCheck: TypeAlias = Annotated[_AgentKinds, _one_of("file", "run", "backed", "review")]
"""A check that a lead may ask for."""
ScenarioCheck: TypeAlias = Annotated[_AgentKinds | _JudgeKind, _one_of("file", "run", "backed", "review", "judge")]
"""A check of a scenario's."""
AnyCheck: TypeAlias = Annotated[
    _AgentKinds | _JudgeKind | Annotated[CallCheck, Tag("call")],
    _one_of("file", "run", "backed", "review", "judge", "call"),
]

_CHECKS: TypeAdapter[tuple[AnyCheck, ...]] = TypeAdapter(tuple[AnyCheck, ...])


def parse_checks(data: Sequence[Any]) -> tuple[Check, ...]:
    """Checks from their plain form; those that are made already stay as they are. Raises `UsageError` in one line."""
    try:
        return _CHECKS.validate_python(tuple(data))
    except ValidationError as error:
        found = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors()[:5])
        raise UsageError(f"the checks do not fit: {found}.") from error


def restored(stored: Sequence[Any], given: Sequence[Check]) -> tuple[Check, ...]:
    """The checks of an earlier process, with the functions that are given again, and what is given besides."""
    known = {check.label: check for check in given}
    checks = [known.pop(check.label, check) for check in parse_checks(stored)]
    return (*checks, *known.values())


def _compilable(expression: str) -> str:
    try:
        regex.compile(expression)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{expression[:80]!r} is not a regular expression: {error}") from None
    return expression


def _patterns(schema: Any) -> Iterator[str]:
    """The regular expressions in a schema. Raises `ValueError` for what cannot be bounded in time or place."""
    if isinstance(schema, list):
        for item in schema:
            yield from _patterns(item)
    elif isinstance(schema, Mapping):
        if "patternProperties" in schema:
            raise ValueError("`patternProperties` is not supported: use `properties` or `additionalProperties`")
        if isinstance(reference := schema.get("$ref"), str) and not reference.startswith("#"):
            raise ValueError(f"`$ref` to {reference[:80]!r}: only references within the schema (`#…`) are supported")
        if isinstance(pattern := schema.get("pattern"), str):
            yield pattern
        for value in schema.values():
            yield from _patterns(value)
