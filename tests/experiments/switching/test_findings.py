"""The first screen of a sweep, from its verdicts."""

from thalweg.experiments.switching.findings import first_screen
from thalweg.records.run import Cell, Verdict


def test_the_main_answers_stand_with_their_first_number_and_the_seeds_that_would_decide_them() -> None:
    verdicts = [
        Verdict("Is it good?", "yes", numbers={"loss": Cell(0.5, 0.4, 0.6, 3), "time": Cell(1.0)}),
        Verdict("Is it better?", "no difference was found", numbers={"gap": Cell(0.1)}, seeds_needed=12),
        Verdict("And this?", "no run has switched"),
        *(Verdict(f"Question {k}?", "yes") for k in range(4)),
    ]
    found = first_screen(verdicts, "markov", 3)
    assert found.found == (
        "Is it good? Yes (loss 0.5 [0.4, 0.6]).",
        "Is it better? No difference was found (gap 0.1; about 12 seeds would decide it at the spread seen).",
        "And this? No run has switched.",
        "Question 0? Yes.",
    )
    assert "At least" not in found.sure
    assert found.advice.endswith("run thalweg frontier markov.")


def test_few_seeds_are_said() -> None:
    found = first_screen([], "text", 2)
    assert (
        "means over 2 seeds, paired; a 95 % interval stands in brackets. At least 3 seeds are needed for any answer." in found.sure
    )
    assert "on one text and" in found.sure
    assert found.found == ()
