import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.records.landscape import LengthRecord
from thalweg.serialization import from_dict, to_dict
from thalweg.survey import length_scores as lengths
from thalweg.survey.length_scores import rows_at_once, score_lengths
from thalweg.train.assemble import make_data, make_model
from thalweg.train.config import RunConfig

MULTIPLES = (1, 2, 4, 8)
DATA = MarkovConfig(vocabulary=6, sequences=96, held_out=64)
LEARNED = 'learned positions end at 11 tokens; use model.positions="rotary"'


class KnowsTheSource(torch.nn.Module):
    """Logits that are the true log-probabilities, whatever the passes."""

    def __init__(self, data: MarkovData) -> None:
        super().__init__()
        self.transitions = torch.from_numpy(data.source.transitions).log()

    def forward(self, tokens: torch.Tensor, loops: int, gains: object) -> torch.Tensor:
        logits = self.transitions[tokens[:, :-1], tokens[:, 1:]]  # order 2: the token before and the one now
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


class Fixed(torch.nn.Module):
    """The same logits everywhere; remembers what it was asked for."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits, self.asked = torch.tensor(logits), []

    def forward(self, tokens: torch.Tensor, loops: int, gains: object) -> torch.Tensor:
        self.asked.append((tokens.shape, loops, gains))
        return self.logits.expand(*tokens.shape, -1)


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(data=DATA, model=ModelConfig(vocabulary=6, length=11, width=8, positions="rotary"))


@pytest.fixture
def data(config: RunConfig) -> MarkovData:
    found = make_data(config)
    assert isinstance(found, MarkovData)
    return found


@pytest.mark.parametrize("values", [1 << 24, 5000], ids=["one pass", "many passes"])
def test_a_model_that_knows_the_source_scores_the_ceilings_at_every_length(
    config: RunConfig, data: MarkovData, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "VALUES", values)
    for record in score_lengths(KnowsTheSource(data), config, data, 3, 7, MULTIPLES, count=100):
        assert list(record.scores) == list(record.ceilings) == ["low", "high", "all"]
        for name, score in record.scores.items():
            assert score.accuracy == pytest.approx(record.ceilings[name].accuracy, abs=1e-12)
            assert score.loss == pytest.approx(record.ceilings[name].loss, abs=1e-6)


def test_a_model_of_uniform_logits_loses_log_v_at_every_length(config: RunConfig, data: MarkovData) -> None:
    for record in score_lengths(Fixed([0.0] * 6), config, data, 1, 0, MULTIPLES, count=20):
        assert [score.loss for score in record.scores.values()] == pytest.approx([math.log(6)] * 3, rel=1e-6)


def test_accuracy_is_the_share_of_hits_of_the_stratum(config: RunConfig, data: MarkovData) -> None:
    """A model that always says 2 hits as often as there is a 2 to predict."""
    for record in score_lengths(Fixed([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), config, data, 1, 0, MULTIPLES, count=50):
        found = data.longer(record.multiple, 50).set
        expected = {name: (found.tokens[mask][:, 2:] == 2).mean() for name, mask in found.strata.items()}
        assert {name: score.accuracy for name, score in record.scores.items()} == pytest.approx(expected, rel=1e-12)


def test_records_say_where_when_and_on_what(config: RunConfig, data: MarkovData) -> None:
    records = score_lengths(Fixed([0.0] * 6), config, data, 3, 17, (4, 1), count=20)
    assert [(r.step, r.loops, r.multiple, r.length, r.sequences, r.error) for r in records] == [
        (17, 3, 4, 48, 20, ""),
        (17, 3, 1, 12, 20, ""),
    ]


def test_records_hold_the_mix_of_information_of_the_data(config: RunConfig, data: MarkovData) -> None:
    for record in score_lengths(Fixed([0.0] * 6), config, data, 1, 0, MULTIPLES, count=20):
        found = data.longer(record.multiple, 20)
        assert (record.bits_mean, record.bits_deviation) == (found.bits_mean, found.bits_deviation)
        assert record.shares == found.shares


def test_the_model_sees_all_but_the_last_token_with_passes_and_gains_as_given(config: RunConfig, data: MarkovData) -> None:
    model = Fixed([0.0] * 6)
    score_lengths(model, config, data, 2, 0, (2,), count=20, gains=[1.0, 0.5])
    assert model.asked == [((20, 23), 2, [1.0, 0.5])]


@pytest.mark.parametrize("positions", ["rotary", "none"])
def test_a_model_without_learned_positions_is_scored_at_eight_times_the_length(
    config: RunConfig, data: MarkovData, positions: str
) -> None:
    config = from_dict(RunConfig, to_dict(config) | {"model": to_dict(config.model) | {"positions": positions}})
    records = score_lengths(make_model(config), config, data, 3, 0, MULTIPLES, count=20)
    assert [r.error for r in records] == [""] * 4
    assert all(math.isfinite(score.loss) for r in records for score in r.scores.values())


def test_gains_change_the_score_of_a_real_model(config: RunConfig, data: MarkovData) -> None:
    model = make_model(config)
    alone, off, on = (
        score_lengths(model, config, data, loops, 0, (8,), count=20, gains=gains)[0].scores["all"].loss
        for loops, gains in ((1, None), (2, [1.0, 0.0]), (2, None))
    )
    assert alone == off != on


def test_learned_positions_give_one_clear_line_beyond_their_end(config: RunConfig, data: MarkovData) -> None:
    config = replace(config, model=replace(config.model, positions="learned"))
    records = score_lengths(make_model(config), config, data, 1, 0, MULTIPLES, count=20)
    assert [r.error for r in records] == ["", LEARNED, LEARNED, LEARNED]
    assert [list(r.scores) for r in records] == [["low", "high", "all"], [], [], []]


def test_a_length_that_is_not_scored_is_described_all_the_same(config: RunConfig, data: MarkovData) -> None:
    learned = replace(config, model=replace(config.model, positions="learned"))
    beyond, within = (score_lengths(make_model(c), c, data, 1, 0, (8,), count=20)[0] for c in (learned, config))
    assert replace(within, scores={}, error=LEARNED) == beyond


def test_learned_positions_are_used_to_their_very_end(config: RunConfig, data: MarkovData) -> None:
    for length, error in ((23, ""), (22, LEARNED.replace("11", "22"))):
        model = replace(config.model, positions="learned", length=length)
        made = replace(config, model=model)
        assert score_lengths(make_model(made), made, data, 1, 0, (2,), count=20)[0].error == error


def test_text_too_short_for_a_length_gives_one_clear_line_and_the_others_their_scores(tiny_text: RunConfig) -> None:
    config = replace(tiny_text, model=replace(tiny_text.model, positions="rotary"))
    data = make_data(config)
    short, long = score_lengths(make_model(config), config, data, 1, 0, (8, 1000), count=20)
    assert list(short.scores) == ["all"]
    assert (short.length, short.ceilings, short.bits_mean, short.shares) == (129, {}, None, {})
    assert (long.length, long.sequences, long.scores) == (16001, 0, {})
    assert "expected at least 16001 (1000 * (data.length - 1) + 1)" in long.error


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_gives_one_clear_line(config: RunConfig, data: MarkovData, bad: float) -> None:
    (record,) = score_lengths(Fixed([bad] + [0.0] * 5), config, data, 1, 0, (2,), count=20)
    assert (record.scores, record.error) == ({}, "the loss is not finite (low, high, all)")


def test_records_come_back_from_json_as_they_were(config: RunConfig, data: MarkovData) -> None:
    for record in score_lengths(make_model(config), config, data, 2, 5, MULTIPLES, count=20):
        assert from_dict(LengthRecord, json.loads(json.dumps(to_dict(record), allow_nan=False))) == record


def test_the_same_run_is_scored_the_same_twice(config: RunConfig) -> None:
    first, second = (score_lengths(make_model(config), config, make_data(config), 2, 5, MULTIPLES, count=20) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("values", [1, 2000, 1 << 24])
def test_passes_over_fewer_sequences_give_the_same_scores(
    config: RunConfig, data: MarkovData, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_lengths(make_model(config), config, data, 2, 5, (4,), count=20)[0].scores
    monkeypatch.setattr(lengths, "VALUES", values)
    parts = score_lengths(make_model(config), config, data, 2, 5, (4,), count=20)[0].scores
    for name, score in whole.items():
        assert (parts[name].accuracy, parts[name].loss) == pytest.approx((score.accuracy, score.loss), rel=1e-6)


@pytest.mark.parametrize("length", [12, 96, 768, 6144, 100_000])
def test_a_pass_holds_no_more_numbers_than_it_may_and_at_least_one_sequence(length: int) -> None:
    model = ModelConfig(vocabulary=256, heads=4)
    rows = rows_at_once(model, length)
    assert rows == 1 or rows * length * max(256, 4 * length) <= lengths.VALUES
    assert 1 <= rows <= 512


def test_long_sequences_go_through_the_model_a_few_at_a_time(
    config: RunConfig, data: MarkovData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "VALUES", 20_000)
    model = Fixed([0.0] * 6)
    score_lengths(model, config, data, 1, 0, (8,), count=20)
    assert [shape[0] for shape, _, _ in model.asked] == [2] * 10  # 20000 // (96 * 96)


def test_progress_is_told_length_by_length(config: RunConfig, data: MarkovData) -> None:
    told: list[tuple[int, int]] = []
    score_lengths(Fixed([0.0] * 6), config, data, 1, 0, MULTIPLES, count=8, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_scored_sequences_are_not_those_that_were_learned_from(config: RunConfig) -> None:
    """A model that has the training set by heart hits no more often on fresh sequences than the language lets it."""
    uniform = replace(DATA, simple=0.0, complex_sure=0.18, length=12)
    data = MarkovData(uniform, seed=0)
    known = {tuple(row) for row in data.tokens.tolist()}
    fresh = {tuple(row) for row in data.longer(1, 500).set.tokens.tolist()}
    assert len(fresh) == 500
    assert not known & fresh
    score = score_lengths(KnowsTheSource(data), replace(config, data=uniform), data, 1, 0, (1,), count=500)[0].scores["all"]
    expected = data.source.expected(12).accuracy.mean()
    assert abs(score.accuracy - expected) < 4.5 * math.sqrt(expected * (1 - expected) / 5000)


def test_longer_sequences_are_closer_to_one_another_in_information(config: RunConfig, data: MarkovData) -> None:
    spread = [r.bits_deviation for r in score_lengths(Fixed([0.0] * 6), config, data, 1, 0, MULTIPLES, count=500)]
    assert all(before > after for before, after in pairwise(np.array(spread)))


@pytest.mark.parametrize(
    ("multiples", "message"),
    [
        ((1, 0), r"multiples: given \[1, 0\], expected whole numbers of at least 1"),
        ((2, 1, 2), r"multiples: given \[2, 1, 2\], expected each multiple once"),
    ],
)
def test_multiples_that_repeat_or_are_below_one_are_refused(
    config: RunConfig, data: MarkovData, multiples: tuple[int, ...], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        score_lengths(Fixed([0.0] * 6), config, data, 1, 0, multiples)
