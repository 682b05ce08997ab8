from dataclasses import replace

import pytest

from thalweg.errors import BadInputError
from thalweg.experiments.paper.recipes import ARMS, PRESETS, TASKS, landscape_of, markov, plan, recipe_of, runs_of, text
from thalweg.models.cost import cost, parameters
from thalweg.models.looped import LoopedTransformer


@pytest.mark.parametrize(("task", "preset"), [(task, name) for name, preset in PRESETS.items() for task in preset.steps])
def test_every_preset_plans_every_arm_and_seed(task: str, preset: str) -> None:
    study = plan(task, preset)
    assert len(runs_of(study)) == len(PRESETS[preset].arms) * PRESETS[preset].seeds


def test_snapshots_are_kept_for_the_landscape_that_is_planned() -> None:
    study = plan("markov", "paper")
    for config in runs_of(study).values():
        measured = landscape_of(study, config.arm)
        assert measured is not None
        assert (config.training.snapshots, measured.loops) == (measured.checkpoints, 3)
    assert landscape_of(study, "looped").checkpoints >= 40  # type: ignore[union-attr]
    without = plan("markov", "paper", landscape=False)
    assert {config.training.snapshots for config in runs_of(without).values()} == {0}
    assert landscape_of(without, "looped") is None


def test_the_large_preset_has_a_million_parameters() -> None:
    config = runs_of(plan("text", "large"))["looped-seed0"]
    assert parameters(LoopedTransformer(config.model)) >= 1_000_000


def test_paper_preset_has_all_arms_over_five_seeds() -> None:
    study = plan("markov", "paper")
    assert (set(study.arms), len(study.seeds)) == (set(ARMS), 5)


@pytest.mark.parametrize("task", TASKS)
def test_arms_are_paired_by_seed_in_data_batches_and_initial_weights(task: str) -> None:
    runs = runs_of(plan(task, "paper"))
    for name, run in runs.items():
        partner = runs[f"single-seed{run.seed}"]
        assert (run.data, run.seed, run.training.batch) == (partner.data, partner.seed, partner.training.batch)
        if "rescaled" not in name:
            assert run.model == partner.model


def test_rescaled_single_follows_the_optimizer() -> None:
    recipe = markov(100)
    adam = ARMS["single-rescaled"](recipe)
    sgd = ARMS["single-rescaled"](replace(recipe, base=replace(recipe.base, optimizer=replace(recipe.base.optimizer, name="sgd"))))
    assert (adam.model.value_scale, adam.optimizer.value_rate) == (3, 3)
    assert (sgd.model.value_scale, sgd.optimizer.value_rate) == (3, 9)


def test_single_flops_spends_what_looped_spends() -> None:
    for recipe in (markov(3000), text(3000)):
        spent = {}
        for arm in ("looped", "single-flops"):
            run = ARMS[arm](recipe)
            one = cost(run.model, run.training.batch, run.data.length - 1, run.shift.stages[-1]).training_step
            spent[arm] = run.training.steps * one
        assert spent["single-flops"] == pytest.approx(spent["looped"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "markow", "preset": "quick"}, "unknown study 'markow'; did you mean 'markov'"),
        ({"task": "markov", "preset": "quik"}, "unknown preset 'quik'; did you mean 'quick'"),
        ({"task": "markov", "preset": "quick", "arms": ("lopped",)}, "unknown arm 'lopped'; did you mean 'looped'"),
        ({"task": "markov", "preset": "large"}, "--preset: given 'large', expected one that markov has: quick, paper"),
        ({"task": "markov", "preset": "quick", "seeds": -1}, "--seeds: given -1, expected a whole number"),
        ({"task": "markov", "preset": "quick", "text": "x"}, "--text: given 'x', expected to go with the study `text`"),
    ],
)
def test_what_does_not_exist_is_named_with_the_likely_meaning(arguments: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        plan(**arguments)


def test_text_path_reaches_the_runs() -> None:
    study = plan("text", "quick", text="/some/where")
    assert recipe_of(study).base.data.path == "/some/where"  # type: ignore[union-attr]
