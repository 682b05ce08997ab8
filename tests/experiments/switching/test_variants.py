from dataclasses import replace

import pytest

from thalweg.errors import BadInputError
from thalweg.experiments.switching.definition import slug
from thalweg.experiments.switching.variants import GROUPS, LOOPS, fires_at, recipe_of, references, sweep_of, switching, variants_of
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.shift.onset import Hard, Ramp
from thalweg.storage import read_journal
from thalweg.train.config import ShiftConfig
from thalweg.train.trainer import train


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("task", LOOPS)
@pytest.mark.parametrize("loops", [2, 3, 4, 6, 12])
def test_every_way_has_a_name_and_a_folder_of_its_own_and_a_config_of_its_own(task, preset, loops):
    variants = variants_of(sweep_of(task, preset, loops))
    names = [variant.name for variant in variants]
    assert len(set(names)) == len({slug(name) for name in names}) == len(variants)
    made = [variant.config for variant in variants if variant.config is not None]
    assert all(a != b for index, a in enumerate(made) for b in made[:index])
    assert all((variant.config is None) == (variant.criterion is not None) == (variant.group == "scp") for variant in variants)


def test_all_ways_share_data_model_optimizer_and_length():
    sweep = sweep_of("markov", "paper")
    base = recipe_of(sweep).base
    for variant in variants_of(sweep):
        if variant.config is not None and variant.group != "model" and variant.name != "shift-short":
            assert replace(variant.config, shift=base.shift, arm=base.arm) == base


def test_the_groups_that_are_asked_for_are_made_and_the_references_always():
    assert {variant.group for variant in variants_of(sweep_of("markov", "quick", groups=("share", "safety")))} == {
        "reference",
        "share",
        "safety",
    }
    assert {variant.group for variant in variants_of(sweep_of("markov", "quick", groups=()))} == {"reference"}
    assert {variant.group for variant in variants_of(sweep_of("markov", "quick"))} == {"reference", *GROUPS}


def test_the_papers_shift_has_two_stages_and_a_hard_onset():
    recipe = recipe_of(sweep_of("markov", "paper"))
    found = {variant.name: variant.config.shift for variant in references(recipe) if variant.config is not None}
    ramp = Ramp(480, order="in turn")
    assert found["shift"] == ShiftConfig((1, 6), AtStep(1), ramp)
    assert found["shift-scp"] == ShiftConfig((1, 6), recipe.criterion, ramp)
    assert found["shift-hard"] == ShiftConfig((1, 6), recipe.criterion, Hard())


@pytest.mark.parametrize(("loops", "ladders"), [(3, {(1, 2, 3)}), (6, {(1, 3, 6), (1, 2, 4, 6)}), (2, set())])
def test_ladders_have_more_than_two_stages(loops, ladders):
    variants = variants_of(sweep_of("markov", "quick", loops, ("stages",)))
    assert {variant.config.shift.stages for variant in variants if variant.name.startswith("ladder")} == ladders


def test_a_deep_sweep_trains_a_model_that_stays_stable():
    plain, deep = (recipe_of(sweep_of("markov", "quick", loops)).base.model for loops in (7, 8))
    assert (plain.learned_gains, plain.loop_norm, plain.residual_loops) == (0, False, 1)
    assert deep == plain.for_loops(8)


def test_the_short_run_has_45_percent_of_the_updates_and_all_else_in_proportion():
    found = {variant.name: variant.config for variant in references(recipe_of(sweep_of("text", "paper")))}
    short, whole = found["shift-short"], found["shift"]
    assert (short.training.steps, short.training.evaluate_every, short.shift.onset) == (450, 9, Ramp(90, order="in turn"))
    same = replace(short.training, steps=1000, evaluate_every=20)
    assert replace(short, training=same, shift=replace(short.shift, onset=Ramp(200, order="in turn"))) == whole


def test_the_default_lies_on_the_grid():
    for preset in ("quick", "paper"):
        sweep = sweep_of("markov", preset)
        rule, grid = recipe_of(sweep).criterion, sweep.grid
        assert rule.delta_loss in grid.delta_loss
        assert rule.delta_grad in grid.delta_grad
        assert rule.patience in grid.patience


@pytest.mark.parametrize("stages", [(1, 3), (1, 2, 4)])
def test_a_setting_that_is_replayed_has_the_weights_of_a_run_under_it(tmp_path, tiny, stages):
    """Single's journal tells when the setting fires; the run that switches there is the run under the setting, bit for bit."""
    rule = Plateau(delta_loss=0.05, delta_grad=9.0, patience=1, window=4)
    settings = replace(tiny.training, log_every=1)
    tiny = replace(tiny, training=settings)
    train(replace(tiny, shift=replace(tiny.shift, stages=(1,))), tmp_path / "single")
    lines = [line for line in read_journal(tmp_path / "single" / "metrics.jsonl") if line["type"] == "step"]
    step = fires_at(rule, [(line["step"], line["loss"], line["grad_norm"]) for line in lines])
    assert step is not None
    under = replace(tiny.shift, stages=stages, onset=Ramp(3), criterion=rule)
    live = train(replace(tiny, shift=under), tmp_path / "live")
    rules = (AtStep(step), *(rule,) * (len(stages) - 2))
    replayed = train(replace(tiny, shift=replace(under, criteria=rules)), tmp_path / "replayed")
    assert live.switches[0].step == replayed.switches[0].step == step
    assert [s.step for s in live.switches] == [s.step for s in replayed.switches]
    assert live.weights_sha256 == replayed.weights_sha256


def test_a_criterion_that_never_fires_has_no_step():
    assert fires_at(Plateau(0.01, 0.1, 1, 1), [(step, 1 / step, 1.0) for step in range(1, 30)]) is None


def test_another_rule_is_that_of_the_switch():
    recipe = recipe_of(sweep_of("markov", "paper"))
    assert switching(recipe, AtStep(7)).shift == ShiftConfig((1, 6), AtStep(7), recipe.ramp)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"task": "markof"}, "unknown sweep 'markof'.*markov"),
        ({"preset": "papr"}, "unknown preset 'papr'.*paper"),
        ({"groups": ("scp", "onsets")}, "unknown group 'onsets'.*onset"),
        ({"text": "a.txt"}, "--text: given 'a.txt', expected to go with the sweep of `text`"),
        ({"seeds": -1}, "--seeds: given -1, expected a whole number of at least 1"),
        ({"loops": 1}, "--loops: given 1, expected at least 2 passes"),
    ],
)
def test_what_makes_no_sweep_is_refused_in_one_line(asked, message):
    with pytest.raises(BadInputError, match=message):
        sweep_of(**({"task": "markov", "preset": "quick"} | asked))
