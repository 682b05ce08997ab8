"""The sections of a study's page: one question each, with the claims that belong to it, its figures, and what speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.records.run import Verdict


@dataclass(frozen=True)
class Topic:
    """One section."""

    name: str
    """As in `thalweg.records.run.Verdict.topic`."""
    question: str
    figures: tuple[str, ...]
    """Names of figures, in their order."""
    threats: str
    """What could make the answer wrong, or narrower than it sounds."""
    charts: tuple[str, ...] = ()
    """What can be handled here: curves, spectra, planes."""


TOPICS = (
    Topic(
        "overview",
        "What does the study say, claim by claim?",
        ("verdicts",),
        "A verdict is as good as its test, which stands under each claim below. Of thirty claims that are judged at the 5 % level "
        "one or two come out wrong by chance.",
    ),
    Topic(
        "samples",
        "Who keeps learning the hard sequences?",
        ("accuracy-by-stratum", "bits-over-training", "source", "long-tail"),
        "One source of sequences and one size of model. Where there are strata, they are cut on the training set by the true "
        "information content, which a real text does not tell. All arms share one learning rate: a rate tuned for each could "
        "change the order.",
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
        "Seconds are those of this machine, and other work on it disturbs them; counted operations do not change with the "
        "machine. A share depends on the quality that is asked for: here Looped's own at its end.",
    ),
    Topic(
        "spectra",
        "How do the spectra move?",
        ("landscape", "phases", "spectra", "ridges"),
        "Curvature is that of the mean loss on a fixed batch, not of the whole training set. Entropy and information depend on "
        "how eigenvalues near zero are counted. Breaks between phases are found by a test that does not see slow changes.",
        ("spectra",),
    ),
    Topic(
        "valleys",
        "Which valley does each arm train in?",
        ("valleys", "planes", "split", "threshold", "condition-numbers"),
        "U or V depends on the threshold between river and valley: see the sweep over it. A plane shows two of thousands of "
        "directions, and those of one arm are not those of another.",
        ("planes",),
    ),
    Topic(
        "motion",
        "Trapped on the floor, or hopping down the river?",
        ("hopping", "forces", "dominance"),
        "Replays are short windows of real training, at few places of a run. Forces are those of gradient descent from a run's "
        "weights, and the runs were trained with another optimizer. The theorems are about a quadratic model; the bounds on the"
        " real error say how far that goes.",
    ),
    Topic(
        "alignment",
        "Do one pass and many pull the same way?",
        ("alignment",),
        "Cosines in many dimensions are small by chance: it is their sign and their fall over training that tell something.",
    ),
    Topic(
        "lengths",
        "How far does it generalise in length?",
        ("lengths",),
        "The mix of easy and hard sequences shifts with the length, see the claim on it. Only models with rotary positions can "
        "be asked beyond their training length.",
    ),
)
_REST = Topic("", "Other answers", (), "")
"""Of claims and figures that no topic asks for."""


@dataclass(frozen=True)
class Section:
    """A topic of one study: what it has of it."""

    topic: Topic
    verdicts: tuple[Verdict, ...]
    figures: tuple[str, ...]
    charts: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> how many claims have it; without those that none has."""
        return {word: count for word, count in counted(self.verdicts).items() if count}


def counted(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Verdict -> how many claims have it."""
    words = ("supported", "contradicted", "undecided", "not measured")
    return {word: sum(one.verdict == word for one in verdicts) for word in words}


def sections(verdicts: Sequence[Verdict], figures: Sequence[str], charts: Sequence[str]) -> list[Section]:
    """Every verdict, figure and chart in the section that it belongs to, each once; sections that have nothing are left out."""
    named = {topic.name for topic in TOPICS}
    placed = {name for topic in TOPICS for name in topic.figures}
    found = []
    for topic in (*TOPICS, _REST):
        mine = tuple(one for one in verdicts if one.topic == topic.name or (topic is _REST and one.topic not in named))
        names = [name for name in (figures if topic is _REST else topic.figures) if name in figures]
        shown = tuple(name for name in names if topic is not _REST or name not in placed)
        handled = tuple(name for name in topic.charts if name in charts)
        if mine or shown or handled:
            found.append(Section(topic, mine, shown, handled))
    return found
