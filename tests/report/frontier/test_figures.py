"""The figure of the frontier: what its bands hold, what its alt text tells, which points make the lower envelope."""

import numpy as np
import pytest

from thalweg.report.frontier.figures import frontier_alt, frontier_figure, without_seeds

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


def spread(made: dict, arm: str) -> float:
    return float(np.std([np.log(made[arm][seed][0][1]) for seed in range(5)], ddof=1))


def test_what_the_arms_of_a_seed_share_is_taken_out_of_the_bands_and_means_stay() -> None:
    raw = curves(shared=0.5)
    made = without_seeds(raw)
    assert spread(raw, "a") > 0.3
    assert spread(made, "a") < 1e-12
    for arm in raw:
        mean = np.mean([np.log(raw[arm][seed][0][1]) for seed in range(5)])
        assert np.mean([np.log(made[arm][seed][0][1]) for seed in range(5)]) == pytest.approx(mean)


def test_of_two_arms_each_band_has_the_spread_of_their_difference_over_root_two() -> None:
    raw = curves(shared=0.5, noise=0.1)
    differences = [np.log(raw["a"][seed][0][1] / raw["b"][seed][0][1]) for seed in range(5)]
    assert spread(without_seeds(raw), "a") == pytest.approx(np.std(differences, ddof=1) / np.sqrt(2))


def test_one_arm_is_left_as_it_is() -> None:
    raw = {"a": curves(0.5)["a"], "c": {}}
    assert without_seeds(raw) == {"a": raw["a"]}


def test_the_alt_text_names_the_best_and_the_worst() -> None:
    text = frontier_alt(curves(0.1), NAMES, "loss")
    assert "one lies lowest and two highest" in text
    assert frontier_alt({"a": {}}, NAMES, "loss") == "An empty figure: no arm has a complete curve yet."


def test_every_arm_is_in_the_legend() -> None:
    figure = frontier_figure(curves(0.1), NAMES, "a", "b", "held-out loss")
    assert figure.axes[0].get_ylabel() == "held-out loss (nats)"
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "lowest of all"]
