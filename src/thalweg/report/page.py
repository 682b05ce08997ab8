"""What every page shares: templates, figures as addresses that need no file, numbers in words."""

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


HEAVY = 100_000
"""Bytes of an SVG above which the page holds pixels instead; SVG and PNG lie in ``figures/``."""
NUMBERS = 3
"""Numbers of a verdict that are shown at once."""


def data_address(figure: Drawn) -> str:
    """A figure as an address that needs no file."""
    kind, data = ("svg+xml", figure.svg) if len(figure.svg) <= HEAVY else ("webp", _as_webp(figure.png))
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def _as_webp(png: bytes) -> bytes:
    """The same pixels in about half the bytes."""
    from PIL import Image

    found = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(found, "WEBP", lossless=True, method=3)
    return found.getvalue()


def number(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def show(cell: Cell) -> str:
    """Mean and interval in words."""
    if cell.low is None or cell.high is None:
        return number(cell.mean)
    return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"
