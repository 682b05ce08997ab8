import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up_records import make_runs, make_summary

from thalweg.records.run import RunRecord, StudySummary


@pytest.fixture
def runs() -> dict[str, RunRecord]:
    return make_runs()


@pytest.fixture
def summary(runs: dict[str, RunRecord]) -> StudySummary:
    return make_summary(runs)
