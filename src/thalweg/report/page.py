"""What every page shares: templates, figures embedded in the page, and numbers as text."""

from __future__ import annotations

import base64
import io

from jinja2 import Environment, PackageLoader, StrictUndefined

from thalweg.records.run import Cell
from thalweg.report.figures import Drawn

PAGES = Environment(
    loader=PackageLoader("thalweg.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""The templates; they escape all text, and fail on a name that they are not given."""
HEAVY = 100_000
"""Most bytes of an SVG in a page; a larger figure is embedded as pixels, and both files lie in ``figures/``."""
NUMBERS = 3
"""Numbers of a verdict that are shown without unfolding."""


def data_address(figure: Drawn) -> str:
    """A figure as a ``data:`` address, which embeds it in the page: SVG, or lossless WebP where the SVG is too large."""
    kind, data = ("svg+xml", figure.svg) if len(figure.svg) <= HEAVY else ("webp", _as_webp(figure.png))
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def _as_webp(png: bytes) -> bytes:
    """The same pixels as lossless WebP, in about half the bytes."""
    from PIL import Image

    webp = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(webp, "WEBP", lossless=True, method=3)
    return webp.getvalue()


def number(value: float | None) -> str:
    """A number with four significant digits, or a dash where there is none."""
    return "-" if value is None else f"{value:.4g}"


def show(cell: Cell) -> str:
    """A mean with its interval in brackets, where it has one, as text."""
    if cell.low is None or cell.high is None:
        return number(cell.mean)
    return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"


PAGES.globals |= {"show": show, "number": number, "first": NUMBERS}
