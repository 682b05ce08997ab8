"""Training on algorithmic tasks, and exact match after it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.data.task_data import IGNORED, TaskConfig, TaskData
from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.records.run import read_lengths, read_run
from thalweg.shift.criterion import AtStep, LossBelow
from thalweg.shift.onset import Hard, Ramp
from thalweg.survey.callback import along
from thalweg.survey.files import config_of
from thalweg.train.answers import answer_losses, exact, score_answers, score_length, sharpest_dip
from thalweg.train.assemble import make_model
from thalweg.train.callbacks import Callback
from thalweg.train.config import RunConfig, ShiftConfig, config_text, read_config
from thalweg.train.state import Run
from thalweg.train.step import TaskBatch, answer_loss, on_device
from thalweg.train.trainer import train

CPU = torch.device("cpu")


@pytest.fixture
def parity(tiny) -> RunConfig:
    """Two stages on parity, 40 updates."""
    data = TaskConfig("parity", longest=4, start=2, grow=20, samples=10, tested=(2, 6), tests=20)
    model = ModelConfig(vocabulary=3, width=8, heads=2, block="gpt", positions="none", injection=True)
    return replace(tiny, data=data, model=model, shift=ShiftConfig((1, 4), AtStep(12), Ramp(10, order="in turn")))


ALL = (1.0,) * 4
"""Gains of a last stage that has enough passes for length 4."""


class Planned(nn.Module):
    """Answers with a token that depends on the number of passes, with a confidence that does too."""

    def __init__(self, tokens: list[int], sure: list[float]) -> None:
        super().__init__()
        self.tokens, self.sure = tokens, sure

    def logits(self, tokens, loops):
        found = torch.zeros(*tokens.shape, 3)
        found[..., self.tokens[loops - 1]] = self.sure[loops - 1]
        return found

    def forward(self, tokens, loops, gains=None):
        return self.logits(tokens, loops)

    def unrolled(self, tokens, loops, gains):
        return (self.logits(tokens, count) for count in range(1, loops + 1))


def test_an_answer_is_right_when_every_asked_position_is():
    targets = torch.tensor([[IGNORED, 1, 2], [IGNORED, 1, 2], [IGNORED, IGNORED, 0]])
    said = torch.tensor([[0, 1, 2], [0, 1, 0], [2, 2, 0]])
    logits = nn.functional.one_hot(said, 3).float()
    assert exact(logits, targets).tolist() == [True, False, True]
    want = [
        nn.functional.cross_entropy(row[asked != IGNORED], asked[asked != IGNORED])
        for row, asked in zip(logits, targets, strict=True)
    ]
    torch.testing.assert_close(answer_losses(logits, targets), torch.stack(want).double())


def test_the_loss_is_of_the_answer_alone_after_the_passes_of_each_sample(parity):
    model, data = make_model(parity), TaskData(parity.data, 0)
    batch = on_device(data.batch(30, 16), CPU)
    assert isinstance(batch, TaskBatch)
    losses = []
    for row, loops in enumerate(batch.loops.clamp(max=3).tolist()):
        logits, targets = model(batch.inputs[row : row + 1], loops=loops)[0], batch.targets[row]
        losses.append(nn.functional.cross_entropy(logits[targets != IGNORED], targets[targets != IGNORED]))
    torch.testing.assert_close(answer_loss(model, batch, 3), torch.stack(losses).mean())  # parity: one position a sample


def test_surest_and_own_passes_are_told_apart():
    """Of lengths 4 the answer is 1 after 4 passes alone; the model is surest after 2, and is tried up to 6."""
    data = TaskData(TaskConfig("parity", longest=4, samples=2, tested=(4,)), 0)
    ones = float((data.at(4, 200).targets[:, -1] == 1).mean())
    found = score_length(Planned([0, 0, 0, 1, 0, 0], [1, 9, 1, 1, 1, 1]), data, CPU, 4, 200, ALL)
    assert found.accuracy == pytest.approx(ones)
    assert found.confident == found.confident_batch == pytest.approx(1 - ones)
    assert (found.loops, found.confident_loops, found.samples) == (4, 2, 200)
    assert found.by_loops == pytest.approx([1 - ones, 1 - ones, 1 - ones, ones, 1 - ones, 1 - ones])


def test_halting_at_the_sharpest_dip_passes_over_a_model_that_is_sure_from_the_first():
    """Surest after one pass, which has no neighbour on its left; the doubt dips at 4 passes, where the answer is right."""
    data = TaskData(TaskConfig("parity", longest=4, samples=2, tested=(4,)), 0)
    ones = float((data.at(4, 200).targets[:, -1] == 1).mean())
    found = score_length(Planned([0, 0, 0, 1, 0, 0], [40, 4, 3, 30, 4, 5]), data, CPU, 4, 200, ALL)
    assert found.confident == pytest.approx(1 - ones)
    assert found.dip == found.accuracy == pytest.approx(ones)


def test_the_sharpest_dip_is_relative_to_its_neighbours():
    assert sharpest_dip(torch.tensor([1.0, 0.3, 1.0, 0.2, 0.2])) == 1  # not the smallest
    assert sharpest_dip(torch.tensor([0.2, 0.1])) == 1
    assert sharpest_dip(torch.tensor([0.5])) == 0
    assert sharpest_dip(torch.tensor([0.5, 0.0, 0.4, 0.3])) == 1


def test_doubts_far_below_single_precision_are_told_apart():
    data = TaskData(TaskConfig("parity", longest=4, samples=2, tested=(4,)), 0)
    found = score_length(Planned([0, 1, 0, 1, 0, 0], [25, 30, 25, 28, 25, 25]), data, CPU, 4, 50, ALL)
    assert found.confident_loops == 2


def test_a_model_of_one_pass_has_no_more_at_any_length():
    data = TaskData(TaskConfig("parity", longest=4, samples=2), 0)
    found = score_length(Planned([1], [1.0]), data, CPU, 8, 50, (1.0,))
    assert (found.loops, len(found.by_loops)) == (1, 1)
    last = score_length(Planned([1] * 12, [1.0] * 12), data, CPU, 8, 50, ALL)  # the last stage: no cap
    assert (last.loops, len(last.by_loops)) == (8, 12)


def test_every_length_is_tried_with_as_many_passes_so_that_none_is_told_its_own():
    data = TaskData(TaskConfig("parity", longest=4, samples=2), 0)  # tested up to 8
    model = Planned([1] * 12, [1.0] * 12)
    assert [len(score_length(model, data, CPU, length, 5, ALL).by_loops) for length in (1, 4, 8)] == [12] * 3


def test_a_pass_that_still_grows_counts_in_tests_as_much_as_in_training(parity):
    model = make_model(parity)
    data = TaskData(parity.data, 0)
    with torch.no_grad():
        for weight in model.blocks.parameters():
            weight.mul_(8)  # so that passes differ
        faint, grown = (score_length(model, data, CPU, 4, 64, (1.0, 1.0, 1.0, last)).by_loops for last in (0.0, 1.0))
    assert faint[2] == faint[3] == faint[-1] == grown[2]  # passes of gain 0 change nothing, those beyond them neither
    assert len(set(grown[2:])) > 1


def test_scores_are_by_length_and_of_all():
    data = TaskData(TaskConfig("parity", longest=3, samples=40), 0)
    found = score_answers(Planned([1, 1, 1], [1.0] * 3), data.evaluation[0], CPU, 3, None)
    shares = {str(int(g.lengths[0])): float((g.targets[:, -1] == 1).mean()) for g in data.evaluation[0].groups}
    assert {name: score.accuracy for name, score in found.items()} == pytest.approx(
        shares | {"all": np.mean(list(shares.values()))}
    )


def test_a_run_counts_the_passes_of_each_sample(tmp_path, parity):
    looped = replace(parity, shift=ShiftConfig((4,)))
    done = train(looped, tmp_path / "run")
    data, total = TaskData(parity.data, 0), 0.0
    for step in range(40):
        made = data.batch(step, 16)
        rows, length = made.inputs.shape
        total += cost(parity.model, rows, length, float(made.loops.mean())).training_step
    assert done.flops == pytest.approx(total)


@pytest.mark.parametrize("onset", [Ramp(10), Ramp(10, order="in turn"), Hard()])
def test_a_ramp_changes_no_answer_at_the_switch_and_a_hard_onset_does(tmp_path, parity, onset):
    done = train(replace(parity, shift=replace(parity.shift, onset=onset)), tmp_path / "run")
    (switch,) = done.switches
    assert (switch.loops_before, switch.loops_after) == (1, 4)
    assert (switch.scores_before == switch.scores_after) == isinstance(onset, Ramp)


def test_an_interrupted_run_on_a_task_ends_with_the_same_weights(tmp_path, parity):
    whole = train(parity, tmp_path / "whole")

    class Stop:
        def on_step(self, facts):
            if facts.step == 17:  # inside the ramp
                raise KeyboardInterrupt

        def __getattr__(self, name):
            return lambda *given: None

    with pytest.raises(KeyboardInterrupt):
        train(parity, tmp_path / "halves", [Stop()])
    again = train(parity, tmp_path / "halves")
    assert again.weights_sha256 == whole.weights_sha256
    assert again.final == whole.final
    assert read_lengths(tmp_path / "halves") == read_lengths(tmp_path / "whole")
    assert [one.length for one in read_lengths(tmp_path / "whole")] == [2, 6]
    assert read_run(tmp_path / "whole").evaluations[-1].scores["held-out"].keys() == {"all", "1", "2", "3", "4"}


def test_parity_is_learned(tmp_path, parity):
    data = replace(parity.data, longest=3, start=3, grow=0)
    made = replace(parity, data=data, model=replace(parity.model, width=32), shift=ShiftConfig((3,)))
    made = replace(made, training=replace(made.training, steps=250, batch=32, checkpoint_every=1000))
    assert train(made, tmp_path / "run").final["held-out"]["all"].accuracy > 0.95


def test_a_config_with_a_task_survives_toml(tmp_path, parity):
    path = tmp_path / "run.toml"
    path.write_text(config_text(parity))
    assert read_config(path) == parity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"positions": "learned", "length": 6}}, "data.tested: given 6, expected lengths of at most 6 positions"),
        (
            {"model": {"learned_gains": 8}},
            "model.learned_gains: given 8, expected 0, or at least the 9 passes that are tried at the tested lengths",
        ),
        ({"training": {"compile": True}}, "training.compile: given True, expected false for a task"),
        ({"model": {"vocabulary": 4}}, "model.vocabulary: given 4, expected the data's 3 tokens"),
    ],
)
def test_what_cannot_be_asked_after_training_is_refused_before_it(parity, changes, message):
    with pytest.raises(BadInputError, match=message):
        replace(parity, **{part: replace(getattr(parity, part), **values) for part, values in changes.items()})


def test_a_landscape_of_a_task_is_refused_in_one_line(tmp_path, parity):
    (tmp_path / "config.toml").write_text(config_text(parity))
    with pytest.raises(BadInputError, match="given a run on a task, expected one on the Markov language or on text"):
        config_of(tmp_path)
    with pytest.raises(BadInputError, match="given a run on a task"):
        along(tmp_path, parity)


def test_a_record_of_lengths_that_is_damaged_is_named(tmp_path):
    (tmp_path / "lengths.json").write_text(json.dumps([{"length": 3}]))
    with pytest.raises(DamagedFileError, match=r"damaged record .*lengths\.json"):
        read_lengths(tmp_path)
    assert read_lengths(tmp_path / "nowhere") == ()


def test_lengths_of_a_run_follow_its_stages_and_a_resumed_run_is_the_same(parity, tmp_path):
    data = TaskConfig("parity", longest=4, start=2, lengths="stage", samples=10, tested=(4,), tests=20)
    config = replace(parity, data=data, shift=ShiftConfig((1, 2, 3, 4), LossBelow(0.01, 3, most=8), Hard()))
    seen = []

    class Watch(Callback):
        def on_step(self, facts):
            seen.append(facts.loops)

    class Stop(Callback):
        def on_step(self, facts):
            if facts.step == 21:
                raise KeyboardInterrupt

    whole = train(config, tmp_path / "whole", [Watch()])
    assert [switch.reason for switch in whole.switches] == ["8 updates were made in the stage"] * 3
    assert [switch.step for switch in whole.switches] == [8, 16, 24]
    assert seen == [1] * 8 + [2] * 8 + [3] * 8 + [4] * 16
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", [Stop()])
    assert train(config, tmp_path / "cut").weights_sha256 == whole.weights_sha256


def test_a_batch_has_the_lengths_of_the_stage(parity, tmp_path):
    data = replace(parity.data, lengths="stage", grow=0)
    run = Run(replace(parity, data=data), tmp_path)
    assert int(run.batch(3).loops.max()) == 1
    for _ in range(12):
        run.shift.update(1.0, 1.0)
    assert sorted(set(run.batch(3).loops.tolist())) == [1, 2, 3, 4]


@pytest.mark.parametrize("changes", [{"grow": 5}, {"loops": "fixed"}, {"loops": "random"}])
def test_lengths_of_the_stage_do_not_go_with_a_clock_or_other_passes(changes):
    with pytest.raises(BadInputError, match=r"data\.lengths: given 'stage', expected a maximum that grows with data\.grow, or"):
        TaskConfig("parity", **{"longest": 4, "lengths": "stage"} | changes)


@pytest.mark.parametrize("content", ["null", "[]", "{}", "[3]", "", None])
def test_damaged_lengths_of_a_complete_run_are_made_again(tmp_path: Path, parity: RunConfig, content: str | None) -> None:
    train(parity, tmp_path)
    path = tmp_path / "lengths.json"
    before = path.read_text()
    path.unlink()
    path.mkdir() if content is None else path.write_text(content)
    with pytest.warns(DamagedRecordWarning, match=r"lengths\.json.* made again from the last checkpoint"):
        train(parity, tmp_path)
    assert path.read_text() == before
