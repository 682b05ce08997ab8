"""An extension of griffe, which reads docstrings for the site.

Ours have no blank line between their sections, and say ``Example`` where griffe knows ``Examples``.
"""

import re
from typing import Any

import griffe

_SECTION = re.compile(r"\n+( *)(Args|Attributes|Returns|Raises|Warns|Yields|Example|Source):(?=\s)")


class Sections(griffe.Extension):
    """Write the sections of docstrings as griffe reads them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Separate and rename the sections in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = (
                _SECTION.sub(r"\n\n\1\2:", "\n" + obj.docstring.value).replace("\nExample:\n", "\nExamples:\n").strip()
            )
