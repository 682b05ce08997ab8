"""Plans on disk that name what does not exist: one line that names the file, no traceback."""

import json
from pathlib import Path

import pytest

from thalweg import cli

SEEDS = [0, 1, 2]
STUDY = {"task": "markov", "preset": "quick", "arms": ["single"], "seeds": SEEDS}
SWEEP = {"task": "markov", "preset": "quick", "loops": 6, "groups": ["scp"], "seeds": SEEDS}
TASKS = {"preset": "quick", "tasks": ["parity"], "arms": ["looped"], "seeds": SEEDS}
FRONTIER = {
    "source": "markov",
    "preset": "quick",
    "loops": 6,
    "arms": ["staged"],
    "budgets": [1.0],
    "rates": [1e-3],
    "curricula": [[0.0, 0.0]],
    "tuning_seeds": [9],
    "seeds": SEEDS,
}


@pytest.mark.parametrize(
    ("name", "plan", "change", "said"),
    [
        ("study.json", STUDY, {"arms": ["single", "loopd"]}, "unknown arm 'loopd'; did you mean 'looped'?"),
        ("study.json", STUDY, {"preset": "quik"}, "unknown preset 'quik'; did you mean 'quick'?"),
        ("study.json", STUDY, {"preset": "large"}, "expected one that markov has: quick, paper"),
        ("sweep.json", SWEEP, {"groups": ["spc"]}, "unknown group 'spc'; did you mean 'scp'?"),
        ("sweep.json", SWEEP, {"loops": 1}, "expected at least 2 passes"),
        ("tasks.json", TASKS, {"arms": ["loopd"]}, "unknown arm 'loopd'"),
        ("tasks.json", TASKS, {"tasks": ["party"]}, "unknown task 'party'; did you mean 'parity'?"),
        ("frontier.json", FRONTIER, {"arms": ["stagd"]}, "unknown arm 'stagd'; did you mean 'staged'?"),
        ("frontier.json", FRONTIER, {"preset": "huge"}, "unknown preset 'huge'"),
    ],
)
def test_a_plan_with_an_unknown_name_is_damaged(
    name: str, plan: dict, change: dict, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(json.dumps(plan | change))
    assert cli.call(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"damaged record {tmp_path / name}" in error
    assert said in error
    assert error.count("\n") == 1
