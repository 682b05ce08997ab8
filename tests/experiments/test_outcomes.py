import math
from dataclasses import replace

import pytest
from scipy import stats

from thalweg.experiments.drop import drop, fluctuation, jump
from thalweg.experiments.outcomes import ideal, outcome_of
from thalweg.experiments.share import seconds, share_over_seeds, shares
from thalweg.experiments.switching.answers import at_equal_cost, smooth, smoothed_at, sooner, verdicts_of
from thalweg.experiments.switching.scp_region import region
from thalweg.experiments.switching.variants import Variant
from thalweg.records.experiment import Share
from thalweg.records.run import Cell, EvaluationRecord, RetreatRecord, RunRecord, Score, SwitchRecord
from thalweg.shift.criterion import Plateau


def scores(loss: float, accuracy: float = 0.5) -> dict:
    return {"held-out": {"all": Score(accuracy, loss)}}


def run(losses, seconds=10.0, loops=6, accuracies=None, switches=()) -> RunRecord:
    """Evaluations every 100 updates; the last one after all ``seconds``."""
    last = len(losses) - 1
    accuracies = accuracies or [0.5] * len(losses)
    records = [
        EvaluationRecord(100 * k, seconds * k / last, 1e9 * seconds * k / last, loops, scores(loss, accuracy))
        for k, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True))
    ]
    return RunRecord("r", tuple(records), tuple(switches), None)


def switch(step, before=(1.0, 0.5), after=(1.0, 0.5), depths=(1, 6)) -> SwitchRecord:
    return SwitchRecord(step, 0.0, 0.0, *depths, "because", scores(*before), scores(*after))


FALLING = [10 - k for k in range(11)]


def test_the_drop_is_from_the_best_before_to_the_worst_within_the_watch():
    accuracies = [0.1, 0.9, 0.4, 0.5, 0.3, 0.6, 0.7, 0.35, 0.05, 0.9, 0.9]
    found = run(FALLING, accuracies=accuracies, switches=[switch(320, (1.0, 0.45), (1.0, 0.44))])
    assert drop(found) == pytest.approx(100 * (0.9 - 0.3))  # 0.9 is among the last three before, 0.05 is after the watch


def test_of_several_switches_the_worst_counts():
    worse = switch(700, (1.0, 0.5), (1.4, 0.2), depths=(3, 6))
    found = run(FALLING, switches=[switch(320, (1.0, 0.5), (1.1, 0.45), depths=(1, 3)), worse])
    assert drop(found) == pytest.approx(30)
    assert jump(found) == pytest.approx(0.4)


def test_the_drop_sees_the_scores_at_the_switch_itself():
    found = run(FALLING, switches=[switch(320, (1.0, 0.62), (1.0, 0.11))])
    assert drop(found) == pytest.approx(51)


def test_a_fall_late_in_a_ramp_is_a_drop_too():
    accuracies = [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.65, 0.9, 0.9, 0.9]
    early = replace(switch(1, (1.0, 0.1), (1.0, 0.1)), onset=400)
    assert drop(run(FALLING, accuracies=accuracies, switches=[early])) == pytest.approx(15)
    assert drop(run(FALLING, accuracies=accuracies, switches=[replace(early, onset=200)])) == 0  # 0.65 is after the watch


def test_the_same_fluctuation_is_looked_for_without_a_switch():
    accuracies = [0.1, 0.9, 0.4, 0.5, 0.3, 0.6, 0.7, 0.35, 0.05, 0.9, 0.9]
    like = run(FALLING, switches=[switch(320), switch(900, depths=(3, 6))])
    assert fluctuation(run(FALLING, accuracies=accuracies), like) == pytest.approx(100 * (0.9 - 0.3))
    assert fluctuation(run(FALLING), run(FALLING)) is None


def test_where_nothing_falls_there_is_no_drop():
    found = run(FALLING, accuracies=[0.1 * k for k in range(11)], switches=[switch(500, (1.0, 0.5), (1.0, 0.52))])
    assert drop(found) == 0


def test_a_run_without_a_switch_has_no_drop_jump_or_ideal():
    assert drop(run(FALLING)) is jump(run(FALLING)) is ideal(run(FALLING), run(FALLING), run(FALLING)) is None


def test_the_jump_is_of_the_loss_with_the_same_weights():
    assert jump(run(FALLING, switches=[switch(100, (1.0, 0.5), (1.7, 0.5))])) == pytest.approx(0.7)


def test_shares_are_of_loopeds_cost_to_its_final_loss():
    looped, early = run(FALLING, 20.0), run([10 - 2 * k for k in range(11)], 20.0)
    # Smoothed over three points the first is at 10 - (k - 1), the second at 10 - 2 (k - 1): it meets 1 at k = 5.5.
    assert shares({0: looped, 1: early}, {0: looped, 1: looped}, lambda e: e.seconds) == {
        0: (1.0, True),
        1: (pytest.approx(0.55), True),
    }


def test_a_run_that_never_got_there_counts_with_all_it_spent():
    assert shares({3: run([10.0] * 11, 15.0)}, {3: run(FALLING, 20.0)}, lambda e: e.seconds) == {3: (0.75, False)}


def test_shares_over_seeds_are_a_geometric_mean_with_scipys_interval():
    values = [0.3, 0.4, 0.55, 0.42, 0.5]
    found = share_over_seeds([(value, True) for value in values])
    logs = [math.log(value) for value in values]
    low, high = stats.t.interval(0.95, 4, sum(logs) / 5, stats.sem(logs))
    assert (found.value, found.low, found.high) == pytest.approx(tuple(map(math.exp, (sum(logs) / 5, low, high))))
    assert (found.n, found.censored) == (5, 0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(0.5, True), (0.3, True), (1.1, False)], Share(0.5, 0.3, None, 3, 1)),
        ([(0.5, True), (0.9, False), (1.1, False)], Share(None, 0.5, None, 3, 2)),
        ([(0.5, True), (0.4, False), (0.6, True)], Share(None, 0.5, None, 3, 1)),  # what ended at 0.4 may lie anywhere above
        ([(0.5, True), (0.3, True), (0.4, True), (1.1, False)], Share(0.45, 0.3, None, 4, 1)),
        ([(0.5, True), (0.9, False)], Share(None, 0.5, None, 2, 1)),
        ([(0.9, False)], Share(None, None, None, 1, 1)),
        ([(0.4, True)], Share(pytest.approx(0.4), None, None, 1, 0)),
        ([], None),
    ],
)
def test_with_censored_runs_the_median_is_given_as_far_as_it_is_known(found, expected):
    assert share_over_seeds(found) == expected


def test_the_ideal_is_the_cost_of_the_same_updates():
    single, looped = run(FALLING, 5.0, loops=1), run(FALLING, 20.0)
    assert ideal(run(FALLING, switches=[switch(400)]), single, looped) == pytest.approx((400 * 5 + 600 * 20) / (1000 * 20))
    ladder = [switch(200, depths=(1, 3)), switch(600, depths=(3, 6))]
    three = 5 + (20 - 5) * 2 / 5
    expected = (200 * 5 + 400 * three + 400 * 20) / (1000 * 20)
    assert ideal(run(FALLING, switches=ladder), single, looped) == pytest.approx(expected)


def test_an_outcome_says_how_many_seeds_switched():
    looped = {0: run(FALLING, 20.0), 1: run(FALLING, 20.0)}
    runs = {0: run(FALLING, switches=[switch(300)]), 1: run(FALLING)}
    found = outcome_of("a", "share", {}, runs, {}, looped)
    assert (found.switched, found.switch_step) == (1, Cell(300.0, None, None, 1))
    assert found.difference.mean == 0
    assert found.ideal_flops == Cell(None)


def test_a_smoothed_curve_is_straight_between_its_points():
    line = run(FALLING)
    assert smoothed_at(line, 5.5, seconds) == pytest.approx(10 - 4.5)
    assert smoothed_at(line, 0.0, seconds) == smoothed_at(line, 2.0, seconds) == 9
    assert smoothed_at(line, 99.0, seconds) == 1


def test_losses_are_compared_at_the_end_of_the_shorter_run():
    slow, quick = run(FALLING, 20.0), run(FALLING, 10.0)
    # After 10 s the slow one is half way, at a smoothed 6, and the quick one at its end, at 1.
    assert at_equal_cost({0: slow}, {0: quick}, seconds).mean == pytest.approx(-5)


def planted(**finals: list[float]) -> dict:
    """Arm -> seed -> a run that falls straight from 10 to a final loss."""
    return {
        name: {seed: run([10 + (end - 10) * k / 10 for k in range(11)], 20.0) for seed, end in enumerate(ends)}
        for name, ends in finals.items()
    }


def test_the_goal_is_met_only_with_every_seed_and_the_upper_end():
    looped = planted(looped=[4.0, 4.1, 4.2])["looped"]
    fast = [run([10, 5, 4, 3, 2, *[1] * 6], 20.0), run([10, 5, 4, 3, 2, *[1] * 6], 20.0), run([10, 5, 4, 3, 2, *[1] * 6], 20.0)]
    assert sooner({"looped": looped, "shift": dict(enumerate(fast))}).verdict == "yes"
    assert sooner({"looped": looped, "shift": {**dict(enumerate(fast)), 2: run([9.0] * 11, 20.0)}}).verdict.startswith(
        "not in every"
    )
    assert sooner({"looped": looped, "shift": looped}).verdict.startswith("no: 1.00")


def test_a_drop_beyond_half_a_point_is_not_smooth():
    def arm(after: float) -> dict:
        return {seed: run(FALLING, switches=[switch(300, (1.0, 0.5), (1.0, after + 1e-5 * seed))]) for seed in range(3)}

    assert smooth({"shift": arm(0.498), "looped": {}}).verdict == "yes"
    assert smooth({"shift": arm(0.48), "looped": {}}).verdict.startswith("no: 2.0")
    shaking = {seed: run(FALLING, accuracies=[0.5] * 4 + [0.48] * 7) for seed in range(3)}
    still = {seed: run(FALLING, accuracies=[0.5] * 11) for seed in range(3)}
    assert smooth({"shift": arm(0.48), "looped": shaking}).verdict.endswith(
        "; but not shown to be more than Looped loses there without a switch"
    )
    assert not smooth({"shift": arm(0.48), "looped": still}).verdict.endswith("without a switch")


def test_the_region_holds_what_is_within_noise_of_the_best():
    grid = [
        Variant(f"{loss},{patience}", "scp", {"delta_loss": loss, "delta_grad": 0.1, "patience": patience})
        for loss in (0.01, 0.02, 0.05)
        for patience in (1, 2)
    ]
    base = [2.0, 2.3, 1.8, 2.1, 2.2]
    noise = [0.001, -0.001, 0.0005, -0.0005, 0.0]
    worse = {"0.05,1": 0.5, "0.05,2": 0.4}
    ends = {
        way.name: [b + worse.get(way.name, 0.0) + n * k for b, n in zip(base, noise, strict=True)] for k, way in enumerate(grid)
    }
    runs = planted(looped=[value + 1 for value in base], **ends)
    found = region(grid, runs, Plateau(0.02, 0.1, 1))
    assert found.verdict.startswith("4 of 6 settings (delta_loss 0.01 to 0.02, delta_grad 0.1 to 0.1, patience 1 to 2); ")
    assert found.verdict.endswith("the default is inside, with 2 of its 3 neighbours inside")
    assert "the default is outside" in region(grid, runs, Plateau(0.05, 0.1, 1)).verdict


def test_every_question_that_the_runs_can_answer_is_answered():
    runs = planted(single=[3.0] * 3, looped=[2.0, 2.1, 2.2], shift=[1.5, 1.7, 1.6], early=[1.0, 1.1, 1.2], other=[1.5, 1.7, 1.6])
    runs["shift-scp"] = runs["shift"]
    ways = [Variant("early", "share", {}), Variant("other", "onset", {})]
    questions = [one.claim for one in verdicts_of(ways, runs, Plateau())]
    assert len(questions) == 6
    answers = {one.claim: one.verdict for one in verdicts_of(ways, runs, Plateau())}
    assert answers["SCP against “early”, at equal wall-clock?"] == "“early” is better"
    assert answers["Is SHIFT as good as Looped after as many updates?"] == "yes, its final loss is lower"
    assert answers["Is another onset better than that of shift?"] == "no difference was found"


def test_another_way_is_compared_by_its_end_and_by_operations_to_the_target():
    runs = planted(looped=[2.0, 2.1, 2.2], shift=[1.5, 1.7, 1.6], slow=[1.4, 1.6, 1.5], never=[3.0, 3.1, 3.2])
    for seed, one in runs["shift"].items():
        runs["quick"] = runs.get("quick", {}) | {seed: run([e.scores["held-out"]["all"].loss for e in one.evaluations], 5.0 + seed)}
    found = verdicts_of([Variant(name, "onset", {}) for name in ("slow", "quick", "never")], runs, Plateau())[-1]
    lower, higher, fewer = found.verdict.split("; ")
    assert (lower, higher, fewer) == ("lower final loss: slow", "higher final loss: never", "fewer operations: slow, quick")
    costs = {name: cell for name, cell in found.numbers.items() if "operations" in name}
    assert set(costs) == {f"log operations to Looped's loss, {name} - shift" for name in ("slow", "quick")}  # never: it has none
    own = [one.evaluations[-1].flops for one in runs["shift"].values()]
    ratios = [math.log(1e9 * (5 + seed) / flops) for seed, flops in enumerate(own)]
    assert costs["log operations to Looped's loss, quick - shift"].mean == pytest.approx(sum(ratios) / 3)


def test_a_short_run_is_asked_whether_it_ends_as_low():
    runs = planted(looped=[2.0, 2.1, 2.2], short=[2.3, 2.5, 2.4])
    runs["shift-short"] = runs.pop("short")
    found = verdicts_of([], runs, Plateau())[0]
    assert found.claim.startswith("Is SHIFT as good as Looped after 45 % of its updates")
    assert found.verdict == "no, its final loss is higher"
    assert found.numbers["final loss, shift-short - looped"].mean == pytest.approx(0.9 * 0.3)  # mean of the last three of eleven


def test_a_net_is_asked_whether_it_mends_the_same_switch_without_it():
    runs = planted(hard=[3.0, 3.1, 3.3], caught=[2.0, 2.2, 2.1])
    back = RetreatRecord(500, 300, "rose", 1.0, 1e9)
    made = {seed: replace(one, retreats=(back,) * seed) for seed, one in runs["caught"].items()}
    found = verdicts_of([], {"shift-hard": runs["hard"], "hard, net": made}, Plateau())[-1]
    assert found.verdict == "shift-hard: 3 taken back, lower loss"


def test_where_the_best_in_loss_is_slow_and_the_fast_is_bad_no_setting_is_near_both():
    grid = [Variant(f"p{patience}", "scp", {"delta_loss": 0.1, "delta_grad": 0.1, "patience": patience}) for patience in (1, 2)]
    runs = planted(looped=[5.0] * 3, p2=[3.0] * 3)
    runs["p1"] = {seed: run([10.0] * 8 + [1.0] * 3, 20.0) for seed in range(3)}
    assert region(grid, runs, Plateau(0.1, 0.1, 1)).verdict == "no setting is near the best in both"


def test_seconds_that_were_disturbed_do_not_hide_what_operations_say():
    """The other way's seconds are twice as long at the same operations, which are the same as SCP's."""
    losses = [10 - k for k in range(11)]
    scp, slow = {}, {}
    for seed in range(3):
        scp[seed] = run([loss + 0.01 * seed for loss in losses], 10.0)
        records = tuple(replace(e, seconds=2 * e.seconds) for e in scp[seed].evaluations)
        slow[seed] = replace(scp[seed], evaluations=records)
    runs = {"shift-scp": scp, "shift": slow}
    found = verdicts_of([], runs, Plateau())[-1]
    assert found.verdict == "SCP is better; at equal operations no difference was found"
    assert found.numbers["loss at equal operations, shift - shift-scp"].mean == pytest.approx(0.0)
