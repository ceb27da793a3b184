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
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph
    from megagraph.outside_tools import OutsideTool
    from megagraph.run import Result, Run
    from megagraph.scenario import Scenario

__version__ = "0.1.0"
__all__ = [
    "BackedCheck",
    "Check",
    "FileCheck",
    "JudgeCheck",
    "Limits",
    "MatchCheck",
    "MegaGraph",
    "MegagraphError",
    "OutsideTool",
    "Result",
    "ReviewCheck",
    "Run",
    "RunCheck",
    "Scenario",
    "SchemaCheck",
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

        return getattr(import_module(f"megagraph.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
