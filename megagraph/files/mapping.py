"""The shared files as a mapping from path to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from megagraph.files.workspace import Workspace

if TYPE_CHECKING:
    from megagraph.notebook.tables import Table


class Files(Mapping[str, str]):
    """The shared files of a run as they are now, or as they were in `version`: path to text.

    `read(path)` gives bytes.
    """

    def __init__(self, workspace: Workspace, version: str | None = None) -> None:
        self._workspace = workspace
        self._version = version

    def __getitem__(self, path: str) -> str:
        if path not in self._workspace.paths(self._version):
            raise KeyError(path)
        return self._workspace.read(path, self._version).text

    def __iter__(self) -> Iterator[str]:
        return iter(self._workspace.paths(self._version))

    def __len__(self) -> int:
        return len(self._workspace.paths(self._version))

    def read(self, path: str) -> bytes:
        """The bytes of a file, for those that are no text."""
        return self._workspace.read(path, self._version).content

    def table(self) -> Table:
        """The files as a table: path, bytes, and who changed each last."""
        from megagraph.notebook.tables import files

        return files(self._workspace, self._version)

    def __repr__(self) -> str:
        return f"<Files: {len(self):,}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
