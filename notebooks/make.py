"""Executes the notebooks, whose sources are the .py files beside this one, and writes them with their outputs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, write

FOLDER = Path(__file__).parent
SOURCES = sorted(path for path in FOLDER.glob("*.py") if path.name != "make.py")


def read(source: Path) -> NotebookNode:
    """The notebook of a source, not executed. Its cells have the same ids each time."""
    notebook = jupytext.read(source)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "jupytext": {"formats": "ipynb,py:percent"},
    }
    for n, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{n}", {}
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Execute it in a kernel of its own that works in `folder`. Raises what a cell raises."""
    client = NotebookClient(
        notebook, timeout=150, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def main(names: list[str]) -> None:
    for source in SOURCES:
        if names and source.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(read(source), Path(folder))
        target = source.with_suffix(".ipynb")
        write(notebook, target)
        print(f"{target.name}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
