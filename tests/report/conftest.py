import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up_records import make_summary, run

from thalweg.records.run import RunRecord, StudySummary

ARMS = {"single": 0.5, "looped": 0.8, "shift": 1.0, "shift-hard": 0.7, "single-rescaled": 0.6, "single-flops": 0.55}


@pytest.fixture
def runs() -> dict[str, RunRecord]:
    return {f"{arm}-seed{seed}": run(arm, seed, speed) for arm, speed in ARMS.items() for seed in range(3)}


@pytest.fixture
def summary(runs: dict[str, RunRecord]) -> StudySummary:
    return make_summary(runs)
