"""The sources of data that a frontier can be measured on, by name."""

from __future__ import annotations

from thalweg.data.find_task import find_task, own
from thalweg.data.tasks import TASKS
from thalweg.errors import require_known
from thalweg.experiments.frontier.source import Source
from thalweg.experiments.frontier.task_source import TaskSource
from thalweg.experiments.frontier.token_sources import Ancestors, Markov, Pointers, Text

SOURCES: dict[str, Source] = {
    source.name: source for source in (Markov(), Pointers(), Ancestors(), Text(), *(TaskSource(task) for task in TASKS))
}

WITHOUT_STUDY = ("pointers", "ancestors")
"""Sources that a frontier alone learns from, so that no study has a recipe for them."""


def source_of(name: str) -> Source:
    """A source by its name, or the user's own task as ``module:attribute``.

    Raises:
        BadInputError: there is none.
    """
    if own(name):
        find_task(name)  # refused here, before anything else needs it
        return TaskSource(name)
    require_known("source", [name], tuple(SOURCES))
    return SOURCES[name]
