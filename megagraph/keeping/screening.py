"""Rows that come from elsewhere: are they what a run consists of, and can they do no harm?

LangGraph makes Python objects of its checkpoints by importing what they name. So they are looked through without
making any, and may name nothing but messages and LangGraph's own few types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, get_args

import ormsgpack

from megagraph.database import Database
from megagraph.journal import effects_of, load_answer, load_shortened
from megagraph.ledger import Ledger
from megagraph.limits import Limits
from megagraph.model_rules import ModelRules
from megagraph.packing import unpack
from megagraph.prices import parse_prices
from megagraph.session import Status
from megagraph.specs import BOSS, Report, Verdict

MOST_BYTES = 100_000_000
"""The size of one checkpoint, unpacked."""

_KINDS = ("null", "bytes", "bytearray", "msgpack")
_SNAPSHOT = 7
_CODES = (0, 1, 2, 4, 5)
"""LangGraph's marks for a value in full, and for what it makes by calling a class."""
_NAMED = frozenset(
    {
        ("langchain_core.messages.human", "HumanMessage"),
        ("langchain_core.messages.ai", "AIMessage"),
        ("langchain_core.messages.system", "SystemMessage"),
        ("langchain_core.messages.tool", "ToolMessage"),
        ("langchain_core.messages.modifier", "RemoveMessage"),
        ("langgraph.types", "Send"),
        ("langgraph.types", "Interrupt"),
        ("langgraph.types", "Command"),
        ("langgraph.types", "Overwrite"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("collections", "deque"),
        ("uuid", "UUID"),
    }
)
_SETTINGS = ("limits", "own_limits", "prices", "parameters", "checks", "approve", "tools", "trimmed")
"""Settings that mean the same anywhere; what is not known to, such as the programs of MCP servers, is left out."""

_SCENARIO = re.compile(r"[\w][\w .-]*|", re.ASCII)


def screen_run(database: Database, run: str) -> None:
    """Raise `ValueError`, or what else reading it raises, where a run of this database is not what it should be."""
    row = database.read("SELECT * FROM runs WHERE run = ?", (run,))[0]
    settings = json.loads(row["settings"])
    if row["status"] not in get_args(Status) or not isinstance(row["goal"], str):
        raise ValueError("a run stands like none does")
    if _SCENARIO.fullmatch(row["scenario"]) is None:
        raise ValueError("a scenario's name is a path")
    Limits.parse(settings["limits"])
    ModelRules.parse(settings.get("models", {}))
    parse_prices(settings.get("prices", {}))
    float(row["created"])
    float(row["seconds"] or 0)
    if row["report"]:
        Report.load(json.loads(row["report"]))
    json.loads(row["branch"] or "{}")
    for verdict in json.loads(row["verdicts"] or "[]"):
        Verdict(**verdict)
    _screen_ledger(database, Ledger(database, run))
    for table, shapes in (("checkpoints", (3, 4)), ("writes", (2,))):
        for (body,) in database.read(
            f"SELECT body FROM {table} WHERE namespace IN (SELECT id FROM namespaces WHERE thread_id = ?)", (run,)
        ):
            screen_body(body, shapes)


def _screen_ledger(database: Database, ledger: Ledger) -> None:
    if BOSS not in [spec.name for spec, _, _ in ledger.agents()]:
        raise ValueError("there is no boss")
    ledger.letters()
    ledger.events()
    ledger.evidence()
    ledger.questions()
    ledger.read_at()
    ledger.used_by()
    for row in database.read("SELECT heard, answer, shortened FROM calls WHERE run = ?", (ledger.run,)):
        if not all(isinstance(text, str) for text in json.loads(row["heard"])):
            raise ValueError("what was heard is no text")
        load_answer(json.loads(row["answer"]))
        load_shortened(row["shortened"])
    for row in database.read("SELECT args, effects FROM tool_calls WHERE run = ?", (ledger.run,)):
        if not all(isinstance(x, dict) for x in (json.loads(row["args"]), effects_of(row["effects"], MOST_BYTES))):
            raise ValueError("a tool call has no arguments")


def screen_body(body: bytes, shapes: Collection[int]) -> None:
    """Raise `ValueError` where a stored checkpoint, or what was written to one, may not be loaded."""
    content = ormsgpack.unpackb(unpack(body, MOST_BYTES))
    if not isinstance(content, list | tuple) or len(content) not in shapes:
        raise ValueError("a checkpoint is none")
    if len(content) > 2:
        type_, blob, described, *made = content
        if not isinstance(json.loads(described), dict):
            raise ValueError("a checkpoint is not described")
        if not all(isinstance(time, int | str) for time in made):
            raise ValueError("a checkpoint has no time")
        _screen_blob(type_, blob)
    else:
        for _, _, type_, blob in content[1]:
            _screen_blob(type_, blob)


def _screen_blob(type_: str, blob: bytes) -> None:
    if type_ not in _KINDS:
        raise ValueError(f"a checkpoint is written as {str(type_)[:40]!r}")
    if type_ == "msgpack":
        _look_through(blob)


def _look_through(data: bytes) -> Any:
    return ormsgpack.unpackb(data, ext_hook=_look_at, option=ormsgpack.OPT_NON_STR_KEYS)


def _look_at(code: int, data: bytes) -> None:
    """What LangGraph would make an object of. Its parts are looked through; none is made."""
    inner = _look_through(data)
    if code == _SNAPSHOT:
        return
    named = tuple(inner[:2])
    if code not in _CODES or named not in _NAMED:
        raise ValueError(f"a checkpoint names {'.'.join(map(str, named))[:80]}, which no run has")


def made_harmless(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run from elsewhere without what means something on this machine alone.

    Those are folders and servers: who names a server would be sent the key for it, or have its program started.
    """
    rules = ModelRules.parse(settings.get("models", {}))
    own = settings.get("own_models", {})
    return {
        **{name: value for name, value in settings.items() if name in _SETTINGS},
        "scenario": "",
        "base_url": "",
        "unsafe_programs": False,
        "models": {
            "leads": without_server(rules.leads),
            "leaves": without_server(rules.leaves),
            "agents": {name: without_server(model) for name, model in rules.agents.items()},
            "fallback": [without_server(model) for model in rules.fallback],
        },
        "own_models": {str(name): without_server(str(model)) for name, model in own.items()},
    }


def without_server(model: str) -> str:
    """A model's name without the server and the variable with the key that it names."""
    name, sep, options = model.partition("?")
    kept = [option for option in options.split("&") if option.partition("=")[0] not in ("base_url", "key")]
    return f"{name}?{'&'.join(kept)}" if sep and any(kept) else name
