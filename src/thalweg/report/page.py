"""What every page shares: templates, figures embedded in the page, and numbers as text."""

from __future__ import annotations

import base64
import io
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from thalweg.errors import plural
from thalweg.intervals import MOST_SEEDS, NO_SEEDS
from thalweg.records.run import DECISIONS, Cell, Verdict
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

_UNITS = {
    "GFLOP": "billion floating-point operations, counted, forward and backward",
    "TFLOP": "1,000 billion floating-point operations, counted, forward and backward",
    "FLOPs": "floating-point operations, counted, forward and backward",
    "nats": "unit of the loss, the mean of -log p of the right token with the natural logarithm; 1 nat is 1.44 bits",
    "bits": "unit of the loss, the same with the logarithm to base 2",
    "points": "percentage points of accuracy",
}
"""Unit -> what it means."""


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


def amount(value: float) -> str:
    """A count or an amount without an exponent.

    Example:
        >>> amount(52.7), amount(5000.0), amount(1e6)
        ('52.7', '5,000', '1,000,000')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def show(cell: Cell) -> str:
    """A mean with its interval in brackets, where it has one, as text."""
    if cell.low is None or cell.high is None:
        return number(cell.mean)
    return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"


def seeds_words(needed: int, what: str = "it") -> str:
    """How many seeds would decide an undecided comparison, as a clause; empty for 0, where it is not known.

    Args:
        needed: number of seeds, or `NO_SEEDS`.
        what: is decided.

    Example:
        >>> seeds_words(12), seeds_words(1001)
        ('about 12 seeds would decide it at the spread seen', 'more than 1,000 seeds would be needed at the spread seen')
        >>> seeds_words(NO_SEEDS)
        'more seeds would not decide it'
    """
    if needed == NO_SEEDS:
        return f"more seeds would not decide {what}"
    if not needed:
        return ""
    if needed > MOST_SEEDS:
        return f"more than {MOST_SEEDS:,} seeds would be needed at the spread seen"
    return f"about {needed} seeds would decide {what} at the spread seen"


def first_number(verdict: Verdict) -> str:
    """The first number of a verdict, and how many seeds would decide it, as a phrase; empty where neither is known."""
    name, cell = next(iter(verdict.numbers.items()), ("", None))
    number_text = "" if cell is None else f"{name} {show(cell)}"
    return "; ".join(filter(None, (number_text, seeds_words(verdict.seeds_needed))))


def units_in(text: str) -> dict[str, str]:
    """The units that a text names, each with its meaning.

    Example:
        >>> list(units_in("loss at 53 GFLOP (nats), drop (points)"))
        ['GFLOP', 'nats', 'points']
    """
    words = set(re.findall(r"\w+", text))
    return {unit: meaning for unit, meaning in _UNITS.items() if unit in words}


PAGES.globals |= {
    "units_in": units_in,
    "show": show,
    "number": number,
    "first": NUMBERS,
    "seeds_words": seeds_words,
    "plural": plural,
    "decisions": DECISIONS,
}
