"""What a run records of where it was made."""

import subprocess
from pathlib import Path

import pytest

from thalweg.records import run


def test_the_commit_is_that_of_the_source_tree() -> None:
    tree = Path(run.__file__).parents[3]
    if not (tree / ".git").exists():
        pytest.skip("the package is not used from a git checkout")
    head = subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    recorded = run.commit().rstrip("+")
    assert len(recorded) == 12
    assert head.startswith(recorded)
