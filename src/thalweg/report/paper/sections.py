"""The sections of a study's page: each has a question, claims, figures, and threats to the validity of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.records.run import DECISIONS, Verdict


@dataclass(frozen=True)
class Topic:
    """What a section of the page asks, and what belongs to it."""

    name: str
    """As in `thalweg.records.run.Verdict.topic`; empty for the last section, which takes what belongs to no other."""
    question: str
    figures: tuple[str, ...]
    """Names of figures, in their order."""
    threats: str
    """What could make the answer wrong, or less general than it sounds."""
    charts: tuple[str, ...] = ()
    """Names of interactive charts: curves, spectra, planes."""


TOPICS = (
    Topic(
        "overview",
        "What does the study say, claim by claim?",
        ("verdicts",),
        "A verdict is only as good as its test, which is given under each claim below. Of thirty claims that are judged at the 5 % "
        "level, one or two are wrong by chance.",
    ),
    Topic(
        "samples",
        "Who keeps learning the hard sequences?",
        ("accuracy-by-stratum", "bits-over-training", "source", "long-tail"),
        "There is one source of sequences and one size of model. Where there are strata, they are cut on the training set by the "
        "true information content, which is not known for real text. All arms share one learning rate; a rate tuned for each arm "
        "could change their order.",
        ("curves",),
    ),
    Topic(
        "controls",
        "Could something simpler explain it?",
        (),
        "A control can only refute the explanation that it was built for. Equal operations are counted, not measured, and give "
        "Single more updates on the same sequences.",
    ),
    Topic(
        "cost",
        "What does it cost, and what does SHIFT save?",
        ("loss-against-cost", "accuracy-against-cost", "step-time", "switches"),
        "Seconds depend on this machine, and other work on it disturbs them; counted operations do not depend on the machine. A "
        "share depends on the quality that must be reached: here Looped's own at its end.",
    ),
    Topic(
        "spectra",
        "How do the spectra move?",
        ("landscape", "phases", "spectra", "ridges"),
        "Curvature is that of the mean loss on a fixed batch, not on the whole training set. Entropy and information depend on how "
        "eigenvalues near zero are counted. Breaks between phases are found by a test that does not detect slow changes.",
        ("spectra",),
    ),
    Topic(
        "valleys",
        "Which valley does each arm train in?",
        ("valleys", "planes", "split", "threshold", "condition-numbers"),
        "U or V depends on the threshold between river and valley: see the sweep over thresholds. A plane shows two of thousands "
        "of directions, and the directions differ between arms.",
        ("planes",),
    ),
    Topic(
        "motion",
        "Trapped on the floor, or hopping down the river?",
        ("hopping", "forces", "dominance"),
        "Replays are short windows of real training, at few points of a run. Forces are those of gradient descent from a run's "
        "weights, but the runs were trained with another optimizer. The theorems are about a quadratic model; the bounds on the "
        "real error tell how far it is from the network.",
    ),
    Topic(
        "alignment",
        "Do one pass and many pull the same way?",
        ("alignment",),
        "Cosines in many dimensions are small by chance. Only their sign and their fall over training are informative.",
    ),
    Topic(
        "lengths",
        "How far does it generalise in length?",
        ("lengths",),
        "The mix of easy and hard sequences shifts with the length; see the claim on it. Only models with rotary positions can be "
        "scored beyond their training length.",
    ),
)
_OTHERS = Topic("", "Other answers", (), "")
"""The last section: claims and figures that belong to no topic."""


@dataclass(frozen=True)
class Section:
    """A section of one study's page: a topic, with those of its claims, figures and charts that the study has."""

    topic: Topic
    verdicts: tuple[Verdict, ...]
    figures: tuple[str, ...]
    charts: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> how many claims have it; verdicts of no claim are left out."""
        return {word: count for word, count in counted(self.verdicts).items() if count}


def counted(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Verdict -> how many claims have it, in a fixed order."""
    return {kind: sum(verdict.verdict == kind for verdict in verdicts) for kind in DECISIONS}


def sections(verdicts: Sequence[Verdict], figures: Sequence[str], charts: Sequence[str]) -> list[Section]:
    """Sort verdicts, figures and charts into the sections that they belong to, each into one; empty sections are left out.

    Args:
        verdicts: of the study.
        figures: names of the figures that were drawn.
        charts: names of the interactive charts that have data.
    """
    topics = {topic.name for topic in TOPICS}
    placed = {name for topic in TOPICS for name in topic.figures}
    filled = []
    for topic in TOPICS:
        claims = tuple(verdict for verdict in verdicts if verdict.topic == topic.name)
        shown = tuple(name for name in topic.figures if name in figures)
        filled.append(Section(topic, claims, shown, tuple(name for name in topic.charts if name in charts)))
    others = tuple(verdict for verdict in verdicts if verdict.topic not in topics)
    filled.append(Section(_OTHERS, others, tuple(name for name in figures if name not in placed), ()))
    return [section for section in filled if section.verdicts or section.figures or section.charts]
