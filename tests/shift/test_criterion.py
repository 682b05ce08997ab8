import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.errors import BadInputError
from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau

EIGHTHS = st.integers(1, 40).map(lambda n: n / 8)  # sums and halves of these are exact


def fired(rule, losses, grads=None):
    """The steps at which a rule that begins now gives a reason."""
    state, steps = rule.begin(), []
    grads = [1.0] * len(losses) if grads is None else grads
    for step, (loss, grad) in enumerate(zip(losses, grads, strict=True), start=1):
        state, reason = rule.observe(state, step, loss, grad)
        if reason is not None:
            steps.append(step)
    return steps


def fired_by_definition(rule, losses, grads):
    """The same from the whole history at once."""
    size, steps = rule.window, []
    ends = range(size, len(losses) + 1, size)
    loss, grad = ([sum(values[end - size : end]) / size for end in ends] for values in (losses, grads))
    holds = [
        (loss[i - 1] - loss[i]) / loss[i - 1] < rule.delta_loss and abs(grad[i] - grad[i - 1]) / grad[i - 1] < rule.delta_grad
        for i in range(1, len(loss))
    ]
    for i in range(rule.patience, len(holds) + 1):
        if all(holds[i - rule.patience : i]):
            steps.append((i + 1) * size)
    return steps


@given(
    values=st.lists(st.tuples(EIGHTHS, EIGHTHS), max_size=60),
    window=st.sampled_from([1, 2, 4]),
    patience=st.integers(1, 4),
    delta_loss=st.sampled_from([0.0, 0.03, 0.3]),
    delta_grad=st.sampled_from([0.1, 0.5, 3.0]),
)
@settings(max_examples=200, deadline=None)
def test_a_plateau_fires_exactly_when_both_hold_for_the_patience(values, window, patience, delta_loss, delta_grad):
    rule = Plateau(delta_loss, delta_grad, patience, window)
    losses, grads = [loss for loss, _ in values], [grad for _, grad in values]
    assert fired(rule, losses, grads) == fired_by_definition(rule, losses, grads)


@pytest.mark.parametrize(("patience", "window"), [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_a_constant_loss_fires_after_the_first_window_and_the_patience(patience, window):
    rule = Plateau(patience=patience, window=window)
    assert fired(rule, [1.0] * 40)[0] == (patience + 1) * window


def test_a_steadily_falling_loss_never_fires():
    assert fired(Plateau(delta_loss=0.01, patience=2, window=5), [0.99**step for step in range(400)]) == []


def test_a_loss_that_falls_slowly_enough_fires():
    assert fired(Plateau(delta_loss=0.01, patience=2, window=5), [0.999**step for step in range(400)])[0] == 15


def test_a_noisy_gradient_norm_blocks_a_flat_loss():
    assert fired(Plateau(delta_grad=0.1, patience=1, window=1), [1.0] * 50, [1.0, 1.2] * 25) == []


def test_noise_within_a_window_is_averaged_away():
    assert fired(Plateau(delta_grad=0.1, patience=1, window=2), [1.0] * 8, [1.0, 1.2] * 4) == [4, 6, 8]


def test_a_falling_gradient_norm_blocks_as_a_rising_one_does():
    assert fired(Plateau(delta_grad=0.1, patience=1, window=1), [1.0] * 9, [0.8**step for step in range(9)]) == []


def test_a_rising_loss_counts_as_a_plateau():
    assert fired(Plateau(patience=2, window=1), [1.0, 2.0, 4.0]) == [3]


def test_the_fall_is_relative_to_the_loss():
    falls = Plateau(delta_loss=0.1, patience=1, window=1)
    assert fired(falls, [100.0, 95.0]) == fired(falls, [1.0, 0.95]) == [2]


def test_one_check_that_fails_begins_the_patience_again():
    assert fired(Plateau(patience=3, window=1), [4.0, 4.0, 4.0, 1.0, 1.0, 1.0, 1.0]) == [7]


def test_a_loss_that_is_not_a_number_does_not_fire():
    assert fired(Plateau(patience=1, window=1), [float("nan")] * 5) == []


def test_a_plateau_says_why_it_fired():
    rule = Plateau(delta_loss=0.01, delta_grad=0.2, patience=1, window=2)
    state = rule.begin()
    for step, loss in enumerate([2.0, 2.0, 2.0, 2.0], start=1):
        state, reason = rule.observe(state, step, loss, 1.0)
    assert reason.startswith("SCP: for 1 checks of 2 updates the loss fell by less than 0.01 a check (last: fell by 0)")


def test_observing_leaves_the_old_state_as_it_was():
    rule = Plateau(window=1)
    before = rule.begin()
    rule.observe(before, 1, 1.0, 1.0)
    assert before == rule.begin()


@pytest.mark.parametrize("rule", [Plateau(window=3), AtStep(2), AtFraction(0.5, 4), LossBelow(0.2, 3)], ids=lambda rule: rule.kind)
def test_a_state_survives_the_way_through_json(rule):
    state = rule.begin()
    for step in range(1, 8):
        state, _ = rule.observe(state, step, 1.0 / step, 2.0)
        assert json.loads(json.dumps(state, allow_nan=False)) == state


@pytest.mark.parametrize("step", [1, 4, 7])
def test_at_step_fires_from_its_step_on(step):
    assert fired(AtStep(step), [1.0] * 8) == list(range(step, 9))


def test_at_step_says_why_it_fired():
    assert AtStep(3).observe({}, 3, 1.0, 1.0)[1] == "3 updates were made"


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.5, 0.7])
@pytest.mark.parametrize("total", [20, 100, 1000])
def test_at_fraction_fires_first_at_its_share_of_all_updates(share, total):
    assert fired(AtFraction(share, total), [1.0] * total)[0] == round(share * total)


def test_at_fraction_fires_at_the_next_update_when_the_share_is_no_whole_number():
    assert fired(AtFraction(0.5, 5), [1.0] * 5)[0] == 3


@pytest.mark.parametrize(("share", "total", "first"), [(0.07, 100, 7), (0.28, 50, 14), (0.55, 100, 55), (0.68, 5000, 3400)])
def test_at_fraction_fires_on_time_where_floating_point_rounds_up(share, total, first):
    assert fired(AtFraction(share, total), [1.0] * total)[0] == first


def test_at_fraction_says_why_it_fired():
    assert AtFraction(0.25, 8).observe({}, 2, 1.0, 1.0)[1] == "25 % of 8 updates were made"


@pytest.mark.parametrize(
    ("window", "most", "first"), [(1, 0, [2, 5, 6]), (2, 0, [5, 6]), (3, 0, [6]), (2, 3, [3, 4, 5, 6]), (4, 5, [5, 6])]
)
def test_loss_below_fires_when_the_mean_of_its_window_is_below_or_when_its_time_is_over(window, most, first):
    assert fired(LossBelow(0.5, window, most), [1.0, 0.4, 0.9, 0.8, 0.1, 0.1]) == first


def test_loss_below_takes_the_loss_itself_as_not_below():
    assert fired(LossBelow(0.5, 1), [0.5, 0.5]) == []


def test_loss_below_says_why_it_fired():
    assert LossBelow(0.5, 1).observe(LossBelow().begin(), 9, 0.25, 1.0)[1] == "the mean loss of 1 updates, 0.25, is below 0.5"
    assert LossBelow(0.5, 2, most=1).observe(LossBelow().begin(), 9, 0.25, 1.0)[1] == "1 updates were made in the stage"


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (LossBelow, {"loss": 0.0}, r"loss-below loss: given 0\.0, expected a positive number of nats"),
        (LossBelow, {"window": 0}, "loss-below window: given 0, expected a whole number of at least 1"),
        (LossBelow, {"most": -1}, "loss-below most: given -1, expected a number of updates of at least 0"),
        (Plateau, {"delta_loss": -0.1}, r"delta_loss: given -0\.1, expected a number of at least 0"),
        (Plateau, {"delta_grad": -0.1}, r"delta_grad: given -0\.1, expected a number of at least 0"),
        (Plateau, {"patience": 0}, "patience: given 0, expected a whole number of at least 1"),
        (Plateau, {"window": 0}, "window: given 0, expected a whole number of at least 1"),
        (AtStep, {"step": 0}, "step: given 0, expected a whole number of at least 1"),
        (AtFraction, {"share": 0.0}, r"share: given 0\.0, expected a share between 0 and 1"),
        (AtFraction, {"share": 1.0}, r"share: given 1\.0, expected a share between 0 and 1"),
        (AtFraction, {"total_steps": 0}, "total_steps: given 0, expected the number of updates of the whole run"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused(rule, arguments, message):
    with pytest.raises(BadInputError, match=message):
        rule(**arguments)


def alarm_rate(rule, fall, noise, updates, runs=300):
    """Share of noisy runs in which the rule fires; the loss falls by ``fall`` (relative) in each of its windows."""
    dice, fires = np.random.default_rng(0), 0
    for _ in range(runs):
        losses = np.exp(-fall * np.arange(updates) / rule.window) + noise * dice.standard_normal(updates)
        grads = 1 + 0.3 * dice.standard_normal(updates)
        fires += bool(fired(rule, losses.tolist(), grads.tolist()))
    return fires / runs


def test_on_flat_noise_scp_fires_and_on_a_clear_fall_it_does_not():
    rule = Plateau(delta_loss=0.02, delta_grad=0.5, patience=3, window=20)
    assert alarm_rate(rule, 0.0, 0.02, 400) > 0.99
    assert alarm_rate(rule, 0.04, 0.02, 400) < 0.01


def test_patience_and_windows_lower_the_false_alarms_of_a_slow_fall():
    """Half as much again as the threshold, under noise of a tenth: one check is often wrong, several in a row seldom."""
    rates = [alarm_rate(Plateau(0.02, 0.5, patience, window=20), 0.03, 0.1, 600) for patience in (1, 3, 5)]
    assert rates[0] > 0.9
    assert rates[0] > 2 * rates[1] > 8 * rates[2]
    assert alarm_rate(Plateau(0.02, 0.5, 1, window=20), 0.03, 0.1, 600) > alarm_rate(
        Plateau(0.08, 0.5, 1, window=80), 0.12, 0.1, 600
    )
