"""A real MCP server over standard input and output, with tools that work, fail, hang and die."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from mcp.server.fastmcp import FastMCP

server = FastMCP("helper", log_level="ERROR")
log = Path(sys.argv[1])


def note(text: str) -> None:
    with log.open("a") as file:
        file.write(f"{text}\n")


note(f"started {os.getpid()}")
count = 0


@server.tool()
def count_up(by: int = 1) -> str:
    """Add to a number that the session remembers."""
    global count
    count += by
    note(f"count_up {by}")
    return f"the count is {count}"


@server.tool()
def fail(why: str) -> str:
    """Fail."""
    raise ValueError(why)


@server.tool()
async def hang() -> str:
    """Answer too late."""
    import asyncio

    note("hang")
    await asyncio.sleep(60)
    return "too late"


@server.tool()
def die() -> str:
    """End the server."""
    note("die")
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        time.sleep(float(sys.argv[2]))
    server.run()
