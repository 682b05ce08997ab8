"""The landscape of a run from its folder: complete, resumable, and equal to what the parts say by themselves."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thalweg import cli
from thalweg.data.markov_data import MarkovConfig
from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError
from thalweg.models.config import ModelConfig
from thalweg.records.landscape import LandscapePlan, RunLandscape, broken_arrays, plan_in, read_landscape
from thalweg.shift.criterion import AtStep
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Ramp
from thalweg.storage import read_journal
from thalweg.survey.callback import LandscapeCallback, along
from thalweg.survey.measurements import replay_starts
from thalweg.survey.snapshot import gauge_pairs, matrix_groups, read_snapshot
from thalweg.survey.survey import Survey, survey
from thalweg.train.assemble import make_data, make_model
from thalweg.train.callbacks import Callback
from thalweg.train.checkpoint import checkpoints, read_checkpoint
from thalweg.train.config import RunConfig, ShiftConfig, TrainingConfig
from thalweg.train.step import next_token_loss
from thalweg.train.trainer import train

PLAN = LandscapePlan(sequences=8, top=2, replays=1, window=20, lengths=(1, 2), force_steps=3)


@pytest.fixture(scope="module")
def rotary() -> RunConfig:
    settings = TrainingConfig(steps=60, batch=16, evaluate_every=10, checkpoint_every=7, log_every=5, device="cpu", threads=1)
    return RunConfig(
        data=MarkovConfig(sequences=96, held_out=64),
        model=ModelConfig(length=11, width=8, positions="rotary"),
        shift=ShiftConfig((1, 3), AtStep(12), Ramp(10)),
        training=replace(settings, snapshots=6),
    )


@pytest.fixture(scope="module")
def whole(rotary: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its landscape, not to be changed."""
    folder = tmp_path_factory.mktemp("survey") / "run"
    train(rotary, folder)
    survey(folder, PLAN)
    return folder


@pytest.fixture
def measured(whole: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "measured"))


@pytest.fixture
def made(measured: Path) -> Path:
    """The run alone."""
    shutil.rmtree(measured / "landscape")
    return measured


def landscape(run: Path) -> RunLandscape:
    found = read_landscape(run)
    assert found is not None
    return found


def without_seconds(found: RunLandscape) -> list:
    return [replace(point, seconds=0.0, reason="") for point in found.points] + [
        found.alignments,
        found.replays,
        found.lengths,
        found.slices,
    ]


@pytest.mark.slow
def test_every_part_of_the_plan_is_measured_at_the_steps_of_the_snapshots(whole: Path, rotary: RunConfig) -> None:
    found = landscape(whole)
    steps = list(rotary.training.snapshot_steps)
    assert [point.step for point in found.points] == [record.step for record in found.alignments] == steps
    assert [point.how for point in found.points] == ["exact"] * 6
    assert [point.loops for point in found.points] == [1 if step < 12 else 3 for step in steps]
    assert len(found.replays) == 1
    assert [record.multiple for record in found.lengths] == [1, 2]
    assert {record.name for record in found.slices} == {"trajectory", "eigenvectors", "river-valley", "random"}
    assert found.points[0].change is None
    assert [point.change.since for point in found.points[1:] if point.change] == steps[:-1]
    assert found.summary is not None
    assert found.summary.exact == 6
    assert set(found.summary.parts) >= {"spectra", "alignment", "replays", "lengths", "slices"}


@pytest.mark.slow
def test_the_end_agrees_with_the_training_loss_and_the_written_spectrum(whole: Path, rotary: RunConfig) -> None:
    found = landscape(whole)
    place = read_snapshot(checkpoints(whole / "snapshots")[-1], rotary, make_model(rotary), torch.from_numpy(first_rows(rotary)))
    loss = next_token_loss(place.model, place.batch, 3).item()
    last, values = found.points[-1], load_file(found.spectrum_path(60))["values"]
    assert last.loss == pytest.approx(loss, rel=1e-5)
    assert float(values.sum()) == pytest.approx(last.trace.value, rel=1e-6)
    assert last.largest[0] == pytest.approx(float(values.max()), rel=1e-6)
    planes = {record.name: load_file(found.folder / "slices" / f"{record.name}.safetensors") for record in found.slices}
    middle = planes["random"]["losses"][12, 12]
    assert float(middle) == pytest.approx(loss, rel=1e-5)
    assert planes["trajectory"]["path"].shape == (6, 2)
    assert float(planes["trajectory"]["path"][-1].norm()) == pytest.approx(0.0, abs=1e-6)


def first_rows(config: RunConfig):
    return make_data(config).evaluation[0].tokens[:8]


class StopMeasuring(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 11, 14])
def test_a_survey_stopped_anywhere_ends_like_one_that_was_not(made: Path, whole: Path, stop: int) -> None:
    def progress(done: int, total: int, part: str) -> None:
        if done == stop:
            raise StopMeasuring

    with pytest.raises(StopMeasuring):
        survey(made, PLAN, progress)
    with (made / "landscape" / "journal.jsonl").open("ab") as torn:
        torn.write(b'{"type": "point", "st')
    again = survey(made, PLAN)
    assert without_seconds(again) == without_seconds(landscape(whole))
    kinds = [
        (line["type"], line.get("step"), line.get("multiple"), line.get("name"))
        for line in read_journal(again.folder / "journal.jsonl")
    ]
    records = [kind for kind in kinds if kind[0] != "cost"]
    assert len(records) == len(set(records))


@pytest.mark.slow
def test_along_the_run_gives_what_comes_after_the_fact(whole: Path, rotary: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "along"
    train(rotary, folder, [LandscapeCallback(folder, PLAN)])
    found = landscape(folder)
    assert without_seconds(found) == without_seconds(landscape(whole))
    assert found.summary is not None
    ends = [read_checkpoint(checkpoints(run / "snapshots")[-1]).tensors for run in (folder, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


@pytest.mark.slow
def test_fewer_points_than_snapshots_are_the_same_ones_along_and_after(made: Path, rotary: RunConfig, tmp_path: Path) -> None:
    plan = replace(PLAN, checkpoints=3, alignment=False, replays=0, lengths=(), slices=False)
    train(rotary, tmp_path / "along", [LandscapeCallback(tmp_path / "along", plan)])
    steps = [[point.step for point in found.points] for found in (survey(made, plan), landscape(tmp_path / "along"))]
    snapshots = rotary.training.snapshot_steps
    assert steps[0] == steps[1] == [snapshots[0], snapshots[2], snapshots[5]]


def test_a_run_without_snapshots_is_measured_at_its_checkpoints(made: Path) -> None:
    shutil.rmtree(made / "snapshots")
    here = Survey(made, PLAN)
    assert here.selected_states() == checkpoints(made / "checkpoints")
    here.close()


def test_measuring_leaves_the_random_state_of_training_alone(rotary: RunConfig, made: Path) -> None:
    callback = LandscapeCallback(made, replace(PLAN, checkpoints=2, alignment=False))
    before = torch.get_rng_state()
    callback.on_snapshot(checkpoints(made / "snapshots")[0])
    assert callback.survey is not None
    callback.survey.close()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_along_a_run_that_was_stopped_and_resumed(whole: Path, rotary: RunConfig, tmp_path: Path) -> None:
    class StopAt(Callback):
        def on_step(self, facts) -> None:
            if facts.step == 30:
                raise KeyboardInterrupt

    folder = tmp_path / "along"
    with pytest.raises(KeyboardInterrupt):
        train(rotary, folder, [LandscapeCallback(folder, PLAN), StopAt()])
    train(rotary, folder, [LandscapeCallback(folder, PLAN)])
    assert without_seconds(landscape(folder)) == without_seconds(landscape(whole))


def test_without_snapshots_along_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training.snapshots: given 0, expected at least 2 for a landscape"):
        along(tmp_path, tiny)


def test_a_run_without_checkpoints_is_refused(tiny: RunConfig, made: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ("snapshots", "checkpoints"):
        for path in checkpoints(made / folder):
            path.unlink()
    assert cli.call(["landscape", str(made)]) == 2
    assert "no snapshots and no checkpoints in it; expected snapshots; train it with --set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoints", "40"], "asked for 40 checkpoints, it has 6"),
        (["--window", "3"], "window: given 3, expected at least 20 updates"),
        (["--dtype", "float16"], "dtype"),
        (["--sequences", "0"], "sequences: given 0"),
    ],
)
def test_bad_options_get_one_line(made: Path, options: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.call(["landscape", str(made), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"no config\.toml in it; expected the --out folder of `thalweg train`"):
        survey(tmp_path, PLAN)


@pytest.mark.slow
def test_another_plan_in_the_same_folder_is_refused_and_nothing_is_lost(measured: Path) -> None:
    before = (measured / "landscape" / "journal.jsonl").read_bytes()
    with pytest.raises(FolderError, match=r"begun with other options \(.* there, given .*\); give the same"):
        survey(measured, replace(PLAN, top=3))
    assert (measured / "landscape" / "journal.jsonl").read_bytes() == before


def test_an_unfinished_run_is_refused_with_what_to_do(made: Path) -> None:
    (made / "summary.json").unlink()
    here = Survey(made, PLAN)
    with pytest.raises(FolderError, match=r"training is not complete; finish it"):
        here.finish()
    here.close()


@pytest.mark.slow
def test_the_command_prints_a_table_and_json(made: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--sequences", "8", "--replays", "0", "--no-slices", "--lengths", "1"]
    assert cli.call(["landscape", str(made), *options]) == 0
    said = capsys.readouterr().out
    assert "entropy" in said
    assert "s for the landscape" in said
    assert cli.call(["landscape", str(made), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [point["step"] for point in values["points"]] == [point.step for point in landscape(made).points]


def test_replays_begin_where_a_whole_window_is_left() -> None:
    paths = [Path(f"step-{step:09d}.safetensors") for step in (0, 5, 20, 45, 80, 95, 100)]
    assert [path.stem[-3:] for path in replay_starts(paths, 3, 20, 100)] == ["020", "045", "080"]
    assert replay_starts(paths, 3, 100, 100) == []
    assert replay_starts(paths, 0, 20, 100) == []


def test_gauge_pairs_and_groups_name_every_matrix(tiny_text: RunConfig) -> None:
    names = [name for name, _ in make_model(tiny_text).named_parameters()]
    (pair,) = gauge_pairs(names)
    assert (pair.key, pair.query_bias) == ("blocks.0.attention.key.weight", "blocks.0.attention.query.bias")
    groups = matrix_groups(names)
    assert set(groups) == {"query", "key", "value", "output", "up", "down", "head", "embedding", "positions"}
    norms = {name for name in names if "norm" in name}
    assert {name for members in groups.values() for name in members} == set(names) - norms


def test_two_processes_cannot_measure_one_landscape(made: Path, rotary: RunConfig) -> None:
    """Along the run or after the fact: the folder has one writer."""
    first = Survey(made, PLAN)
    try:
        with pytest.raises(FolderError, match="another process"):
            survey(made, PLAN)
        callback = LandscapeCallback(made, PLAN)
        with pytest.raises(FolderError, match="another process"):
            callback.on_snapshot(checkpoints(made / "snapshots")[0])
    finally:
        first.close()
    Survey(made, PLAN).close()


def same_products(found: RunLandscape) -> tuple:
    """Points without their number of products, which counts those that chose how the first one is measured."""
    return tuple(replace(point, products=0) for point in found.points)


def first_of(folder: Path) -> Path:
    return min(folder.iterdir())


LOST: dict[str, tuple] = {
    "plan": (lambda at: (at / "plan.json").unlink(), r"plan\.json.*the plan is taken from the journal"),
    "summary": (lambda at: (at / "summary.json").write_text("[]"), "what is missing is measured again"),
    "journal line": (
        lambda at: (at / "journal.jsonl").write_bytes((at / "journal.jsonl").read_bytes().replace(b'"point"', b'"p\xffint"', 1)),
        "1 of its lines are damaged; .* records are kept, the rest is measured again",
    ),
    "spectrum flipped": (
        lambda at: first_of(at / "spectra").write_bytes(first_of(at / "spectra").read_bytes()[:-1] + b"\x7f"),
        "spectra at step 0 are measured again",
    ),
    "plane": (lambda at: first_of(at / "slices").write_bytes(b""), "slices at step 60 are measured again"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LOST)
def test_what_is_damaged_of_a_landscape_is_named_and_measured_again(measured: Path, whole: Path, what: str) -> None:
    damage, message = LOST[what]
    damage(measured / "landscape")
    with pytest.warns(DamagedRecordWarning) as told:
        again = survey(measured, PLAN)
    assert any(re.search(message, str(one.message)) for one in told), [str(one.message) for one in told]
    found, before = (without_seconds(replace(one, points=same_products(one))) for one in (again, landscape(whole)))
    assert found == before
    assert broken_arrays(again) == {}
    assert again.summary is not None


def test_a_journal_without_a_plan_is_not_measured_on(tmp_path: Path) -> None:
    lines = [{"type": "cost", "part": "spectra", "step": 0, "seconds": 1.0}]
    with pytest.raises(DamagedFileError, match=r"plan\.json.*nothing tells what was measured: move .* away"):
        plan_in(tmp_path, lines)


@pytest.mark.slow
def test_a_damaged_snapshot_is_named_and_left_out(made: Path, rotary: RunConfig) -> None:
    lost = checkpoints(made / "snapshots")[1]
    lost.write_bytes(b"x" * 99)
    with pytest.warns(DamagedRecordWarning, match="it is left out of the landscape"):
        found = survey(made, replace(PLAN, slices=False, replays=0, lengths=()))
    assert [point.step for point in found.points] == [s for s in rotary.training.snapshot_steps if f"{s:09d}" not in lost.name]


def test_more_sequences_than_there_are_get_one_line_and_leave_nothing(made: Path) -> None:
    with pytest.raises(BadInputError, match="sequences: given 97, expected at most the 96 training sequences that the run scores"):
        survey(made, replace(PLAN, sequences=97))
    assert not (made / "landscape").exists()


def test_where_a_switch_may_be_taken_back_all_snapshots_are_measured_at_the_end(rotary: RunConfig, tmp_path: Path) -> None:
    config = replace(rotary, shift=replace(rotary.shift, net=SafetyNet(tries=1)))
    late, soon = along(tmp_path / "a", config), along(tmp_path / "b", rotary)
    assert (late.late, soon.late) == (True, False)
    late.on_snapshot(tmp_path / "a" / "snapshots" / "step-0")
    assert late.survey is None
