"""Whether other work disturbed the seconds of runs: then seconds are shown with a note, and no ratio of them is made."""

from __future__ import annotations

from collections.abc import Iterable

from thalweg.errors import plural
from thalweg.experiments.metrics import Measure, Pairs
from thalweg.experiments.share import operations, seconds
from thalweg.experiments.words import listed
from thalweg.records.run import RunRecord, Surroundings

_MOST = 0.05
"""Share of the time that may be lost to other work before seconds count as disturbed."""
_TOLD = 0.01
"""Share of the time from which a kind of other work is named."""


def lost(around: Surroundings) -> float:
    """Share of a run's time that other work took: waiting for a core, and what the hypervisor took."""
    return around.waiting + around.steal


def is_disturbed(run: RunRecord) -> bool:
    """Whether other work took more than a twentieth of a run's time; False where it is not known."""
    around = run.summary.surroundings if run.summary else None
    return around is not None and lost(around) > _MOST


def costs_of(*groups: Pairs) -> dict[str, Measure]:
    """The costs by which runs can be compared: seconds, where no run was disturbed, and counted operations.

    Args:
        groups: seed -> run, of every arm that is compared.
    Returns:
        "seconds" and "operations", or "operations" alone.
    """
    disturbed = any(is_disturbed(run) for runs in groups for run in runs.values())
    return {"operations": operations} if disturbed else {"seconds": seconds, "operations": operations}


def disturbance(runs: Iterable[RunRecord]) -> str:
    """What other work some runs met, in two sentences; empty where no run was disturbed."""
    every = list(runs)
    met = [run.summary.surroundings for run in every if is_disturbed(run) and run.summary and run.summary.surroundings]
    if not met:
        return ""
    waiting, steal = (max(getattr(around, name) for around in met) for name in ("waiting", "steal"))
    busiest = max(met, key=lambda around: around.load)
    parts = [f"they waited for a core in up to {100 * waiting:.0f} % of their time"] if waiting >= _TOLD else []
    parts += [f"the host took up to {100 * steal:.0f} % of the machine"] if steal >= _TOLD else []
    parts.append(f"the load was up to {busiest.load:.1f} on {plural(busiest.cores, 'core')}")
    return (
        f"Other work ran beside {len(met)} of {plural(len(every), 'run')}: {listed(parts)}. Seconds are disturbed, so ratios of "
        "seconds are left out; losses and counted operations are not touched by it."
    )
