"""The model server of the tests in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]
MODEL = f"openai:scripted?context={10**9}"
"""The model that is served. A script is replayed over the whole conversation, so there is no end to its window."""


@contextmanager
def served(script: str, folder: Path, latency: str, seed: int = 0) -> Iterator[str]:
    """Serve the `script` that this source code defines; its URL. `latency` as `tests/model_server.py` takes it."""
    os.environ.setdefault("OPENAI_API_KEY", "benchmark")
    file = folder / "script.py"
    file.write_text(script)
    command = [sys.executable, str(_ROOT / "tests" / "model_server.py"), "--script", str(file)]
    command += ["--latency", latency, "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(_ROOT)})
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()
