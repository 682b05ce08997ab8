import subprocess
import sys
from pathlib import Path

import pytest

SHORTER = {
    "layers_of_a_llama_along_training.py": ["10", "4"],
    "theorems_on_trained_models.py": ["60", "16"],
    "why_a_hard_switch_hurts.py": ["1", "10", "2"],
}
"""Arguments of examples whose own short trial takes more than half a minute."""
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs_and_says_something(path: Path, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, str(path), *SHORTER.get(path.name, [])], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout
    if not process.stdout.startswith("not run:"):
        assert (tmp_path / f"{path.stem}.png").stat().st_size > 5000
