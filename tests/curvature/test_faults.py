"""Print what comes of every member of the tables in ``test_faults_*.py``: ``python tests/curvature/test_faults.py [word ...]``.

The tests themselves are in those files.
"""

import importlib
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script

import torch
from tests.curvature.faults import Fault, outcome_of


def tables() -> list[Fault]:
    """The members of all tables, by kind."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("test_faults_*.py"))
    modules = [importlib.import_module(f"tests.curvature.{name}") for name in names]
    return sorted((fault for module in modules for fault in getattr(module, "FAULTS", ())), key=lambda fault: fault.kind)


def main(words: list[str]) -> None:
    """Print the tables, or the lines whose names hold one of the words."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for fault in (fault for fault in tables() if not words or any(word in str(fault) for word in words)):
        outcomes = [outcome_of(fault, way) for way in fault.ways]
        cells = "".join(f"{outcome.detail if outcome.word == 'right' else outcome.word:>11}" for outcome in outcomes)
        as_expected = all(outcome.is_as(fault.expected) for outcome in outcomes)
        print(f"{fault!s:60}{cells}" + ("" if as_expected else f"  <-- {fault.expected}"))
        for message in dict.fromkeys(f"{outcome.word}, {outcome.detail}" for outcome in outcomes if outcome.word != "right"):
            print(f"      {message[:220]}")


if __name__ == "__main__":
    main(sys.argv[1:])
