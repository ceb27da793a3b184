"""SVG pictures, made of a few shapes. They have no style sheet, which would reach the page around them."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

from rich.cells import set_cell_size

from megagraph.errors import UsageError
from megagraph.view import one_line

FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','Liberation Sans',sans-serif"
INK, SOFT, LINE, PAPER = "#1f2328", "#5d646e", "#e7e3db", "#ffffff"
STATES = {
    "thinking": "#4666d8",
    "acting": "#1f9e91",
    "waiting": "#d3cec4",
    "asking": "#d99200",
    "reported": "#7dbb8b",
    "done": "#a5cbae",
    "incomplete": "#dd7a2e",
    "failed": "#cf3d3d",
}
"""A colour for each state of an agent."""
INKS = STATES | {
    "waiting": SOFT,
    "asking": "#7a5600",
    "reported": "#1c6b3a",
    "done": "#1c6b3a",
    "incomplete": "#a34d0c",
}
"""The same for marks and words, dark enough to be read."""
MARKS = {
    "thinking": "●",
    "acting": "●",
    "waiting": "○",
    "asking": "?",
    "reported": "✓",
    "done": "✓",
    "incomplete": "!",
    "failed": "✗",
}
_NOT_XML = {0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}
SCALE = 0.92
"""Of a picture of 1000 units, which so fits beside the prompts of a notebook's page."""
_CELL = 0.56
"""How wide a character is, on an average, for its size."""


class Picture:
    """An SVG picture. A notebook shows it; `text` is its source, `save` writes it to a file."""

    def __init__(self, width: int, height: int, shapes: Iterable[str], label: str) -> None:
        self.text = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{SCALE * width:g}"'
            f' height="{SCALE * height:g}" style="max-width:100%;height:auto" role="img" aria-label="{escape(label)}"'
            f' font-family="{FONT}" font-size="12" fill="{INK}">'
            f'<rect width="{SCALE * width:g}" height="{height}" rx="6" fill="{PAPER}"/>{"".join(shapes)}</svg>'
        )
        self._label = label

    def save(self, path: Path | str) -> Path:
        """Write it to a file. Raises `UsageError` where that is not possible."""
        try:
            Path(path).write_text(self.text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the picture cannot be written: {error}.") from error
        return Path(path)

    def __repr__(self) -> str:
        return f"<Picture: {self._label}>"

    def _repr_svg_(self) -> str:
        return self.text


def escape(text: str, most: int = 240) -> str:
    """The beginning of the text on one line, as XML."""
    return html.escape(one_line(text, most)).translate(_NOT_XML)


def text(
    x: float,
    y: float,
    said: str,
    room: float = 0,
    *,
    fill: str = INK,
    size: float = 12,
    anchor: str = "",
    bold: bool = False,
) -> str:
    """A text, cut where it would be wider than `room`."""
    if room:
        said = fit(said, room, size)
    more = f' text-anchor="{anchor}"' if anchor else ""
    more += ' font-weight="600"' if bold else ""
    more += f' font-size="{size:g}"' if size != 12 else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}"{more}>{escape(said, 2000)}</text>'


def fit(said: str, room: float, size: float = 12) -> str:
    """The text, cut to about so many pixels."""
    said, cells = one_line(said, 2000), int(room / (size * _CELL))
    cut = set_cell_size(said, cells).rstrip()
    return said if cut == said or cells < 1 else set_cell_size(said, max(0, cells - 1)).rstrip() + "…"


def width_of(said: str, size: float = 12) -> float:
    """About how wide a text is."""
    from rich.cells import cell_len

    return cell_len(one_line(said, 2000)) * size * _CELL


def boxes(shapes: Iterable[tuple[float, float, float, float]], fill: str, opacity: float = 1) -> str:
    """Rectangles of one colour: x, y, width and height of each."""
    path = "".join(f"M{x:.1f} {y:g}h{w:.1f}v{h:g}h-{w:.1f}z" for x, y, w, h in shapes)
    more = f' fill-opacity="{opacity:.2g}"' if opacity < 1 else ""
    return f'<path fill="{fill}"{more} d="{path}"/>' if path else ""


def line(x1: float, y1: float, x2: float, y2: float, colour: str = LINE) -> str:
    return f'<path stroke="{colour}" fill="none" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def titled(title: str, shapes: str) -> str:
    """Shapes with words that appear over them."""
    return f"<g><title>{escape(title, 400)}</title>{shapes}</g>"
