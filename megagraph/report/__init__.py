"""A run as one HTML file: its agents in time, their mail, files, checks, cost and conversations; nothing is fetched."""

from __future__ import annotations

from megagraph.report.collect import collect
from megagraph.report.page import page, write

__all__ = ["collect", "page", "write"]
