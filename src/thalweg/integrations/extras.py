"""Optional packages: one line says which extra to install where a package is missing."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from thalweg.errors import MissingExtraError


def require_extra(extra: str, *modules: str) -> Any:
    """Import the first of some modules that is installed.

    Args:
        extra: extra of thalweg that installs it.
        modules: names of modules, in order of preference.
    Returns:
        The module.
    Raises:
        MissingExtraError: none of them is installed.
    Example:
        >>> require_extra("hf", "no_such_module")
        Traceback (most recent call last):
        ...
        thalweg.errors.MissingExtraError: no_such_module is not installed; run: pip install 'thalweg[hf]'
    """
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return importlib.import_module(name)
    raise MissingExtraError(f"{' or '.join(modules)} is not installed; run: pip install 'thalweg[{extra}]'")
