"""The figure of the frontier: what its bars hold, what its alt text tells, which points make the lower envelope."""

import numpy as np
import pytest
import scipy.stats

from thalweg.report.frontier.figures import at_common_seeds, bars, frontier_alt, frontier_figure

NAMES = {"a": "one", "b": "two", "c": "three"}


def curves(shared: float, noise: float = 0.0) -> dict:
    """Two arms, 20 % apart at every seed and budget; ``shared`` is what both arms of a seed have in common."""
    draws = np.random.default_rng(0).normal(size=(2, 5))
    common = np.random.default_rng(1).normal(size=5)
    return {
        arm: {
            seed: [(budget, height / budget * np.exp(shared * common[seed] + noise * draws[index, seed])) for budget in (1e9, 2e9)]
            for seed in range(5)
        }
        for index, (arm, height) in enumerate((("a", 1.0), ("b", 1.2)))
    }


def test_what_the_arms_of_a_seed_share_is_not_in_the_bars() -> None:
    raw = curves(shared=0.5)
    for low, high in bars(raw["a"], raw["b"]):
        assert high / low == pytest.approx(1.0)


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.2, 0.5])
def test_a_bar_has_the_width_of_the_paired_interval_and_reaches_the_other_arm_where_that_holds_one(noise: float) -> None:
    raw = curves(shared=0.5, noise=noise)
    gaps = [np.log(raw["b"][seed][0][1] / raw["a"][seed][0][1]) for seed in range(5)]
    oracle = scipy.stats.t.interval(0.95, 4, np.mean(gaps), np.std(gaps, ddof=1) / np.sqrt(5))
    low, high = bars(raw["b"], raw["a"])[0]
    own, other = (np.exp(np.mean([np.log(raw[arm][seed][0][1]) for seed in range(5)])) for arm in ("b", "a"))
    assert (low, high) == pytest.approx(own * np.exp(np.array(oracle) - np.mean(gaps)))
    assert (low <= other <= high) == (oracle[0] <= 0 <= oracle[1])


def test_no_bars_for_other_seeds_or_a_single_one() -> None:
    raw = curves(0.1, noise=0.1)
    assert bars({0: raw["a"][0]}, {0: raw["b"][0]}) == []
    assert bars(raw["a"], {seed: raw["b"][seed] for seed in range(4)}) == []
    assert bars(raw["a"], {}) == []


def test_lines_are_drawn_at_the_seeds_that_all_arms_have() -> None:
    raw = curves(0.1)
    fewer = {seed: raw["b"][seed] for seed in (1, 3)}
    kept = at_common_seeds({"a": raw["a"], "b": fewer, "c": {}})
    assert kept == {"a": {seed: raw["a"][seed] for seed in (1, 3)}, "b": fewer}
    apart = {"a": {0: raw["a"][0]}, "b": {1: raw["b"][1]}}
    assert at_common_seeds(apart) == apart


def test_the_alt_text_names_the_best_and_the_worst() -> None:
    text = frontier_alt(curves(0.1), NAMES, "loss")
    assert "one lies lowest and two highest" in text
    assert frontier_alt({"a": {}}, NAMES, "loss") == "An empty figure: no arm has a complete curve yet."


def test_every_arm_is_in_the_legend() -> None:
    figure = frontier_figure(curves(0.1), NAMES, "a", "b", "held-out loss")
    assert figure.axes[0].get_ylabel() == "held-out loss (nats)"
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "lowest of all"]


def test_only_arms_beside_the_best_constant_depth_have_bars() -> None:
    assert len(frontier_figure(curves(0.1, 0.1), NAMES, "a", "b", "held-out loss").axes[0].containers) == 1
    assert not frontier_figure(curves(0.1, 0.1), NAMES, "a", "", "held-out loss").axes[0].containers
