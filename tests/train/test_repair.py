"""A run whose records are damaged beside intact checkpoints goes on, ends with the same weights, and says what was lost."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError, ThalwegError
from thalweg.records.run import read_run
from thalweg.shift.criterion import AtStep
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Hard
from thalweg.storage import read_journal
from thalweg.train.callbacks import Callback, StepFacts
from thalweg.train.checkpoint import checkpoints, read_facts
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, config_text
from thalweg.train.repair import read_whole
from thalweg.train.run_folder import config_in
from thalweg.train.trainer import train


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, facts: StepFacts) -> None:
        if facts.step == self.step:
            raise KeyboardInterrupt


class At(Callback):
    """Does something after one update."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act = step, act

    def on_step(self, facts: StepFacts) -> None:
        if facts.step == self.step:
            self.act()


@pytest.fixture
def whole(tmp_path: Path, tiny: RunConfig) -> str:
    return train(tiny, tmp_path / "whole").weights_sha256


@pytest.fixture
def cut(tmp_path: Path, tiny: RunConfig) -> Path:
    """A run that was killed after update 30; its newest checkpoint is of update 28."""
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "cut", [StopAt(30)])
    return tmp_path / "cut"


def lines_of(run: Path) -> list[bytes]:
    return (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)


def with_line(run: Path, number: int, line: bytes) -> None:
    lines = lines_of(run)
    lines[number] = line
    (run / "metrics.jsonl").write_bytes(b"".join(lines))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda run: (run / "metrics.jsonl").unlink(),
        "it is missing.*0 of 9 records are intact, 3 of 3 evaluations are lost",
    ),
    "empty": (lambda run: (run / "metrics.jsonl").write_bytes(b""), r"it has 0 bytes, .* 3 of 3 evaluations are lost"),
    "short": (lambda run: (run / "metrics.jsonl").write_bytes(b"".join(lines_of(run)[:3]) + b'{"ty'), "3 of 9 records are intact"),
    "noise": (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n" * 900), "0 of 9 records are intact"),
    "a line": (lambda run: with_line(run, 4, b"[]\n"), "8 of 9 records are intact"),
    "a digit": (lambda run: with_line(run, 1, lines_of(run)[1].replace(b"e", b"f", 1)), "8 of 9 records are intact"),
    "a line lost": (lambda run: with_line(run, 0, b""), "8 of 9 records are intact, 1 of 3 evaluations are lost"),
    "deep": (lambda run: with_line(run, 4, b"[" * 5000 + b"\n"), "8 of 9 records are intact"),
    "a folder": (lambda run: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()), "is a folder.*kept as"),
    "a link": (lambda run: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").symlink_to("x")), "No such file.*kept as"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_journal_costs_no_run_and_is_told_in_one_line(cut: Path, whole: str, tiny: RunConfig, how: str) -> None:
    damage, message = DAMAGES[how]
    damage(cut)
    with pytest.warns(DamagedRecordWarning, match=message) as told:
        assert train(tiny, cut).weights_sha256 == whole
    assert len(told) == 1
    assert "the run goes on after update 28" in str(told[0].message)


@pytest.mark.parametrize("how", DAMAGES)
def test_every_intact_line_is_kept_and_the_damaged_file_too(cut: Path, tiny: RunConfig, how: str) -> None:
    before = lines_of(cut)[:9]
    DAMAGES[how][0](cut)
    after = [line for line in lines_of(cut) if line in before] if (cut / "metrics.jsonl").is_file() else []
    with pytest.warns(DamagedRecordWarning, match="damaged record"):
        train(tiny, cut)
    assert set(after) <= set(lines_of(cut))
    assert (how == "missing") != bool(list(cut.glob("metrics.jsonl.damaged*")))


def test_the_switch_is_written_again(cut: Path, tiny: RunConfig, tmp_path: Path, whole: str) -> None:
    (cut / "metrics.jsonl").unlink()
    with pytest.warns(DamagedRecordWarning, match="it is missing"):
        train(tiny, cut)
    switches = [run.switches[0] for run in (read_run(cut), read_run(tmp_path / "whole"))]
    assert replace(switches[0], seconds=0) == replace(switches[1], seconds=0)


def test_scores_of_the_last_update_that_are_lost_are_made_again(tmp_path: Path, tiny: RunConfig) -> None:
    first = train(tiny, tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    with pytest.warns(DamagedRecordWarning, match="5 of 5 evaluations are lost"):
        again = train(tiny, tmp_path)
    assert (again.final, again.weights_sha256, again.evaluations) == (first.final, first.weights_sha256, 5)


def test_a_lost_retreat_leaves_out_what_its_try_scored(tmp_path: Path, tiny: RunConfig) -> None:
    net = SafetyNet(tries=2, bound=0.001, within=4, window=2)
    config = replace(
        tiny, shift=ShiftConfig((1, 3), AtStep(16), Hard(), Handover(rate=1e-3), net), optimizer=OptimizerConfig(rate=0.1)
    )
    config = replace(config, training=replace(config.training, evaluate_every=2, checkpoint_every=2))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, [StopAt(35)])
    whole = read_run(tmp_path)
    assert whole.retreats
    lines = [line for line in lines_of(tmp_path) if b'"retreat"' not in line]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    with pytest.warns(DamagedRecordWarning, match="damaged record"), pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, [StopAt(35)])
    found = read_run(tmp_path)
    assert found.retreats == whole.retreats
    assert {e.step: e.scores for e in found.evaluations}.items() <= {e.step: e.scores for e in whole.evaluations}.items()


def test_a_complete_run_with_a_changed_journal_is_named_and_not_read(tmp_path: Path, tiny: RunConfig) -> None:
    train(tiny, tmp_path)
    assert read_whole(tmp_path).summary is not None
    with_line(tmp_path, 1, lines_of(tmp_path)[1].replace(b"1", b"2", 1))
    with pytest.warns(DamagedRecordWarning, match=r"lines of it are not as they were written.*its summary and weights are intact"):
        train(tiny, tmp_path)
    with pytest.raises(DamagedFileError, match=r"metrics\.jsonl: lines of it are not as they were written; remove"):
        read_whole(tmp_path)


@pytest.mark.parametrize("field", ["seconds", "flops", "evaluations", "switches", "data", "ceilings"])
def test_a_summary_that_is_not_what_the_checkpoint_knows_is_made_again(tmp_path: Path, tiny: RunConfig, field: str) -> None:
    first = train(tiny, tmp_path)
    path = tmp_path / "summary.json"
    value = json.loads(path.read_text())
    other = {"switches": [], "data": {}, "ceilings": {}}.get(field, 3)
    path.write_text(json.dumps(value | {field: other}))
    with pytest.raises(DamagedFileError, match=f"{field} differs from that of the last checkpoint"):
        read_whole(tmp_path)
    with pytest.warns(DamagedRecordWarning, match=f"{field} differs from that of the last checkpoint"):
        assert getattr(train(tiny, tmp_path), field) == getattr(first, field)


CONFIGS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(path.read_text().partition("[optimizer]")[0]),
    "noise": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda path: path.write_text("a = " + "[" * 5000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("how", CONFIGS)
def test_a_damaged_config_is_written_anew_from_the_command_and_the_checkpoints(
    cut: Path, whole: str, tiny: RunConfig, how: str
) -> None:
    CONFIGS[how](cut / "config.toml")
    with pytest.warns(DamagedRecordWarning, match=r"config\.toml .*it was written anew"):
        assert train(tiny, cut).weights_sha256 == whole
    assert (cut / "config.toml").read_text() == config_text(tiny)


@pytest.mark.parametrize("how", CONFIGS)
def test_a_damaged_config_is_known_from_the_checkpoints(cut: Path, tiny: RunConfig, how: str) -> None:
    CONFIGS[how](cut / "config.toml")
    with pytest.warns(DamagedRecordWarning, match="the config is taken from"):
        assert config_in(cut) == tiny


def test_another_config_does_not_take_over_a_folder_whose_own_is_damaged(cut: Path, tiny: RunConfig) -> None:
    (cut / "config.toml").write_text("")
    with pytest.raises(FolderError, match="no checkpoint tells whose folder it is"):
        train(replace(tiny, seed=5), cut)


def test_a_run_goes_on_from_its_snapshots_when_no_checkpoint_is_left(tmp_path: Path, tiny: RunConfig) -> None:
    config = replace(tiny, training=replace(tiny.training, snapshots=5))
    whole = train(config, tmp_path / "whole").weights_sha256
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", [StopAt(30)])
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    begun: list[int] = []

    class Begin(Callback):
        def on_begin(self, step: int, steps: int) -> None:
            begun.append(step)

    assert train(config, tmp_path / "cut", [Begin()]).weights_sha256 == whole
    assert begun[0] > 0


def test_a_checkpoint_of_another_run_is_not_gone_on_from(cut: Path, whole: str, tiny: RunConfig, tmp_path: Path) -> None:
    train(replace(tiny, seed=9), tmp_path / "other")
    last = checkpoints(tmp_path / "other" / "checkpoints")[-1]
    shutil.copy(last, cut / "checkpoints" / last.name)
    with pytest.warns(UserWarning, match="made with another config; an older one is tried"):
        assert train(tiny, cut).weights_sha256 == whole


def test_one_flipped_digit_in_a_checkpoint_s_header_is_noticed(cut: Path) -> None:
    path = checkpoints(cut / "checkpoints")[-1]
    path.write_bytes(path.read_bytes().replace(b'evaluations\\": 3', b'evaluations\\": 2'))
    with pytest.raises(DamagedFileError, match="its header does not match the hash"):
        read_facts(path)


def test_a_journal_whose_checkpoints_are_gone_is_kept_when_the_run_begins_again(cut: Path, whole: str, tiny: RunConfig) -> None:
    shutil.rmtree(cut / "checkpoints")
    with pytest.warns(DamagedRecordWarning, match=r"no checkpoint is left of the 30 updates .* kept as metrics.jsonl.damaged"):
        assert train(tiny, cut).weights_sha256 == whole
    assert read_journal(cut / "metrics.jsonl.damaged")


@pytest.mark.parametrize("gone", ["metrics.jsonl", "config.toml", "checkpoints"])
def test_a_file_that_is_removed_while_a_run_goes_on_stops_it(tmp_path: Path, tiny: RunConfig, gone: str) -> None:
    path = tmp_path / "run" / gone
    with pytest.raises(ThalwegError, match=rf"{gone} was removed"):
        train(tiny, tmp_path / "run", [At(16, lambda: shutil.rmtree(path) if path.is_dir() else path.unlink())])
    assert not path.exists()


def test_bad_input_after_the_first_checkpoint_counts_as_failed_and_keeps_the_run(tmp_path: Path, tiny: RunConfig) -> None:
    def refuse() -> None:
        raise BadInputError("not this")

    for step, code in ((3, 2), (20, 1)):
        with pytest.raises(BadInputError, match="not this") as caught:
            train(tiny, tmp_path / str(step), [At(step, refuse)])
        assert (caught.value.exit_code, (tmp_path / str(step)).exists()) == (code, code == 1)
