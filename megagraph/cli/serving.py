"""The command that serves a home to other programs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from megagraph.cli.options import BaseUrl, Home, Model, Timeout, Unsafe, app
from megagraph.errors import UsageError

STUDIO = "https://smith.langchain.com"
"""Where the page of LangGraph Studio is. The browser gets it from there; the runs stay on this machine."""

_TELLING = ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY", "LANGSMITH_CONTROL_PLANE_API_KEY", "LANGGRAPH_CLOUD_LICENSE_KEY")
"""With one of these the server tells LangSmith how much it is used."""


@app.command()
def studio(
    home: Home = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Where to listen; 0 takes a free one.")] = 2024,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open Studio in a browser.")] = False,
    tracing: Annotated[
        bool, typer.Option("--tracing", help="Trace to LangSmith, as its variables in the environment say.")
    ] = False,
    studio_url: Annotated[str, typer.Option("--studio-url", help="Where Studio's page is.")] = STUDIO,
    model: Model = None,
    base_url: BaseUrl = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
) -> None:
    """Serve the runs of a home to LangGraph Studio, on this machine only.

    Every run is a thread and an assistant of LangGraph's dev server. Needs the extra `studio`.
    """
    if find_spec("langgraph_api") is None or find_spec("langgraph_runtime_inmem") is None:
        raise UsageError("LangGraph's dev server is not installed.", "Install it: `pip install 'megagraph[studio]'`.")
    port = _free(port)
    # The server reads its environment when it is imported.
    os.environ |= {"LANGGRAPH_NO_VERSION_CHECK": "true", "CORS_ALLOW_ORIGINS": studio_url.rstrip("/")}
    os.environ.setdefault("LOG_LEVEL", "WARNING")
    if not tracing:
        os.environ |= {"LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}
        for name in _TELLING:
            os.environ.pop(name, None)
    from langgraph_api.cli import run_server  # type: ignore[import-untyped]

    from megagraph.studio import server

    server.options = {
        "model": model,
        "home": home,
        "base_url": base_url,
        "timeout": timeout,
        "unsafe_programs": unsafe_programs,
    }
    # What cannot be served is told now, in one line.
    address, page = f"http://127.0.0.1:{port}", f"{studio_url.rstrip('/')}/studio/?baseUrl="
    print(f"Serving {server.served().home.path} at {address}", f"Studio: {page}{address}", sep="\n")
    print("Ctrl-C stops; a run that is at work then can be resumed.", flush=True)
    # Its own welcome says the same.
    logging.getLogger("langgraph_api.cli").setLevel("WARNING")
    # The server stops by itself at this signal, and then raises it again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with TemporaryDirectory(prefix="megagraph-studio-") as folder:
        # Where it stands, the server would read and write lists of its own, which may be those of another program.
        os.chdir(folder)
        run_server(
            port=port,
            graphs={server.GRAPH: f"{server.__name__}:make_graph"},
            http={"app": f"{server.__name__}:app"},
            n_jobs_per_worker=10,
            open_browser=not no_browser,
            studio_url=studio_url.rstrip("/"),
            disable_persistence=True,
            # The server makes an error of every call that blocks, also of those that take microseconds.
            allow_blocking=True,
        )


def _free(port: int) -> int:
    """The port, or a free one for 0. Raises `UsageError` where another program has it."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            raise UsageError(f"port {port} is taken.", "Name another one with --port, or 0 for any.") from None
        return int(tried.getsockname()[1])
