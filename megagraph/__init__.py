"""megagraph: one goal, one boss, and an organisation of agents that grows itself. On LangGraph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    # Said here, since otherwise a missing module of Python's says it, and not what can be done.
    _WHY = "megagraph runs on Linux: on Windows, use it inside WSL."
    if sys.argv[0].endswith(("megagraph", "megagraph.exe", "-m")):
        raise SystemExit(f"megagraph: {_WHY}")
    raise ImportError(_WHY)

if TYPE_CHECKING:
    from megagraph.branches.edits import Edits, PlanEdit
    from megagraph.checks import (
        BackedCheck,
        Check,
        FileCheck,
        JudgeCheck,
        MatchCheck,
        ReviewCheck,
        RunCheck,
        SchemaCheck,
    )
    from megagraph.errors import MegagraphError
    from megagraph.events import Event
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph
    from megagraph.model_rules import ModelRules
    from megagraph.notebook.svg import Picture
    from megagraph.notebook.tables import Table
    from megagraph.outside_tools import OutsideTool
    from megagraph.run import Result, Run
    from megagraph.scenario import Scenario, find_scenario

__version__ = "0.1.0"
__all__ = [
    "BackedCheck",
    "Check",
    "Edits",
    "Event",
    "FileCheck",
    "JudgeCheck",
    "Limits",
    "MatchCheck",
    "MegaGraph",
    "MegagraphError",
    "ModelRules",
    "OutsideTool",
    "Picture",
    "PlanEdit",
    "Result",
    "ReviewCheck",
    "Run",
    "RunCheck",
    "Scenario",
    "SchemaCheck",
    "Table",
    "find_scenario",
]

_HOMES = {
    "BackedCheck": "checks",
    "Check": "checks",
    "FileCheck": "checks",
    "JudgeCheck": "checks",
    "MatchCheck": "checks",
    "ReviewCheck": "checks",
    "RunCheck": "checks",
    "SchemaCheck": "checks",
    "Limits": "limits",
    "MegaGraph": "mega",
    "find_scenario": "scenario",
    "Table": "notebook.tables",
    "Picture": "notebook.svg",
    "ModelRules": "model_rules",
    "Event": "events",
    "PlanEdit": "branches.edits",
    "Edits": "branches.edits",
    "MegagraphError": "errors",
    "OutsideTool": "outside_tools",
    "Result": "run",
    "Run": "run",
    "Scenario": "scenario",
}


def __getattr__(name: str) -> Any:
    # LangGraph and LangChain take most of a second to import: only for those who use them.
    if name in _HOMES:
        from importlib import import_module

        from megagraph.garbage import uncollected

        with uncollected():
            return getattr(import_module(f"megagraph.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
