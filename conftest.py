"""Files that pytest leaves out where a library that they import is missing; any other file that fails to import is an error."""

from importlib.util import find_spec

_NEEDS = {"src/thalweg/integrations/lightning.py": "lightning", "docs/docstrings.py": "griffe"}

collect_ignore = [file for file, library in _NEEDS.items() if find_spec(library) is None]
