"""Sections of a study's page: nothing is lost and nothing is shown twice."""

from thalweg.experiments.paper.claims import CLAIMS
from thalweg.records.run import Verdict
from thalweg.report.paper.sections import TOPICS, sections


def told(claim: str, topic: str, verdict: str = "supported") -> Verdict:
    return Verdict(claim, verdict, "a test", {}, topic)  # type: ignore[arg-type]


def test_every_verdict_figure_and_chart_is_in_one_section() -> None:
    verdicts = [told("a", "cost"), told("b", "samples"), told("c", ""), told("d", "unheard of")]
    figures = ["switches", "mine", "landscape"]
    found = sections(verdicts, figures, ["planes", "curves"])
    assert sorted(one.claim for section in found for one in section.verdicts) == ["a", "b", "c", "d"]
    assert sorted(name for section in found for name in section.figures) == sorted(figures)
    assert sorted(name for section in found for name in section.charts) == ["curves", "planes"]
    assert [section.topic.name for section in found] == ["samples", "cost", "spectra", "valleys", ""]
    assert ([v.claim for v in found[-1].verdicts], found[-1].figures) == (["c", "d"], ("mine",))


def test_sections_without_anything_are_left_out() -> None:
    assert sections([], [], []) == []


def test_counts_leave_out_what_no_claim_is() -> None:
    (one,) = sections([told("a", "cost"), told("b", "cost", "undecided"), told("c", "cost")], [], [])
    assert one.counts == {"supported": 2, "undecided": 1}


def test_every_claim_of_the_study_has_a_section_that_says_what_speaks_against_it() -> None:
    named = {topic.name: topic for topic in TOPICS}
    assert set(CLAIMS) <= set(named)
    assert all(len(topic.threats) > 60 for topic in TOPICS)
    placed = [name for topic in TOPICS for name in topic.figures]
    assert len(placed) == len(set(placed))
