"""The parameters of a scenario: what may be set for one run of it, and how they get into its texts.

In the goal and in the values of `limits` and `programs`, `${size}` stands for the value of the parameter `size`, and
`${min(100, size // 6)}` for what follows from it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from megagraph.errors import UsageError

Value: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr

_FIELD = re.compile(r"\$\{([^{}]+)\}")
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"min": min, "max": max, "round": round, "int": int}
_YES_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Parameter(BaseModel):
    """One entry of a scenario's `parameters`. Values are of the kind of its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: Value
    description: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[Value, ...] = ()

    @model_validator(mode="after")
    def _default_fits(self) -> Parameter:
        if problem := self.problem(self.default):
            raise ValueError(f"the default {problem}")
        return self

    def problem(self, value: Value) -> str:
        """What is wrong with a value of the right kind; empty if nothing is."""
        if self.choices and value not in self.choices:
            return "must be one of " + ", ".join(map(str, self.choices))
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.least is not None and not value >= self.least:
                return f"must be at least {self.least:g}"
            if self.most is not None and not value <= self.most:
                return f"must be at most {self.most:g}"
        return ""

    def read(self, given: Any) -> Value:
        """A value as it was given, on the command line or from Python. Raises `ValueError` saying what is needed."""
        kind = type(self.default)
        value = given
        if isinstance(given, str) and kind is not str:
            value = _read(given.strip(), kind)
        elif kind is float and type(given) is int:
            value = float(given)
        if type(value) is not kind:
            raise ValueError(f"must be {_KINDS[kind]}")
        if problem := self.problem(value):
            raise ValueError(problem)
        return value


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _read(text: str, kind: type) -> Any:
    try:
        return _YES_NO.get(text.lower()) if kind is bool else kind(text.replace(",", "") if kind is int else text)
    except ValueError:
        return None


def settle(declared: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Value]:
    """The value of every parameter: the one given, or its default. Raises `UsageError` for what does not fit."""
    known = "; ".join(f"{name} (default {p.default}): {p.description}" for name, p in declared.items())
    if unknown := [name for name in given if name not in declared]:
        hint = f"It has: {known}" if declared else "It has none."
        raise UsageError(f"the scenario has no parameter `{unknown[0][:60]}`.", hint)
    values = {name: parameter.default for name, parameter in declared.items()}
    for name, value in given.items():
        try:
            values[name] = declared[name].read(value)
        except ValueError as error:
            raise UsageError(f"the parameter `{name}={value}` does not fit: it {error}.", f"Known: {known}") from None
    return values


def fill(data: Any, values: Mapping[str, Value]) -> Any:
    """`data`, a text or a tree of lists and mappings, with every `${…}` in its texts replaced.

    A text that is nothing but one `${…}` becomes the value itself. Raises `UsageError` where one makes no sense.
    """
    if isinstance(data, dict):
        return {key: fill(value, values) for key, value in data.items()}
    if isinstance(data, list):
        return [fill(value, values) for value in data]
    if not isinstance(data, str):
        return data
    if whole := _FIELD.fullmatch(data.strip()):
        return _value(whole[1], values)
    return _FIELD.sub(lambda found: str(_value(found[1], values)), data)


def _value(expression: str, values: Mapping[str, Value]) -> Any:
    try:
        return _evaluate(ast.parse(expression.strip(), mode="eval").body, values)
    except (SyntaxError, TypeError, ArithmeticError, ValueError) as error:
        raise UsageError(
            f"`${{{expression}}}` makes no sense ({error}).",
            f"Parameters: {', '.join(values)}. Between them go numbers, + - * / // %, {', '.join(_FUNCTIONS)}.",
        ) from None


def _evaluate(node: ast.expr, values: Mapping[str, Value]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.Name(id=name):
            raise ValueError(f"there is no parameter {name}")
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_evaluate(left, values), _evaluate(right, values))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, values)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_evaluate(arg, values) for arg in args))
    raise ValueError("this cannot be computed")
