"""Train looped transformers in stages, and measure the loss landscape they train in.

The public names below are imported when they are first used, so that ``import thalweg`` does not load PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.curvature.dense import dense_hessian
    from thalweg.curvature.density import spectral_density
    from thalweg.curvature.diagonal import diagonal
    from thalweg.curvature.eigenpairs import eigenpairs
    from thalweg.curvature.fisher import EmpiricalFisher
    from thalweg.curvature.gauss_newton import GaussNewton
    from thalweg.curvature.hessian import Hessian
    from thalweg.curvature.low_precision import LowPrecision
    from thalweg.curvature.solve import solve
    from thalweg.curvature.trace import trace
    from thalweg.data.find_task import check_task
    from thalweg.data.markov import MarkovLanguage
    from thalweg.data.task import Task
    from thalweg.data.task_data import TaskConfig, TaskData
    from thalweg.errors import BadInputError, ThalwegError
    from thalweg.experiments.user_experiment import OwnExperiment as Experiment
    from thalweg.landscape.layers import LayerProbe
    from thalweg.landscape.probe import LandscapeProbe
    from thalweg.models.config import ModelConfig
    from thalweg.models.cost import cost
    from thalweg.models.looped import LoopedTransformer
    from thalweg.ranks import alone
    from thalweg.records.run import Verdict
    from thalweg.report.landscape.plot import plot
    from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau
    from thalweg.shift.net import SafetyNet
    from thalweg.shift.onset import Handover, Hard, Ramp, Refine
    from thalweg.shift.schedule import Shift, doubling
    from thalweg.train.config import RunConfig
    from thalweg.train.trainer import train as train_run

_LAZY_IMPORTS = {
    "alone": "thalweg.ranks",
    "AtFraction": "thalweg.shift.criterion",
    "AtStep": "thalweg.shift.criterion",
    "BadInputError": "thalweg.errors",
    "EmpiricalFisher": "thalweg.curvature.fisher",
    "Verdict": "thalweg.records.run",
    "Experiment": "thalweg.experiments.user_experiment",
    "GaussNewton": "thalweg.curvature.gauss_newton",
    "Handover": "thalweg.shift.onset",
    "Hard": "thalweg.shift.onset",
    "Hessian": "thalweg.curvature.hessian",
    "LayerProbe": "thalweg.landscape.layers",
    "LandscapeProbe": "thalweg.landscape.probe",
    "LoopedTransformer": "thalweg.models.looped",
    "LowPrecision": "thalweg.curvature.low_precision",
    "LossBelow": "thalweg.shift.criterion",
    "MarkovLanguage": "thalweg.data.markov",
    "ModelConfig": "thalweg.models.config",
    "Plateau": "thalweg.shift.criterion",
    "Ramp": "thalweg.shift.onset",
    "Refine": "thalweg.shift.onset",
    "RunConfig": "thalweg.train.config",
    "SafetyNet": "thalweg.shift.net",
    "Shift": "thalweg.shift.schedule",
    "Task": "thalweg.data.task",
    "TaskConfig": "thalweg.data.task_data",
    "TaskData": "thalweg.data.task_data",
    "ThalwegError": "thalweg.errors",
    "check_task": "thalweg.data.find_task",
    "cost": "thalweg.models.cost",
    "dense_hessian": "thalweg.curvature.dense",
    "diagonal": "thalweg.curvature.diagonal",
    "doubling": "thalweg.shift.schedule",
    "eigenpairs": "thalweg.curvature.eigenpairs",
    "plot": "thalweg.report.landscape.plot",
    "solve": "thalweg.curvature.solve",
    "spectral_density": "thalweg.curvature.density",
    "trace": "thalweg.curvature.trace",
    "train_run": "thalweg.train.trainer",
}
"""Public name -> module that defines it."""
RENAMED = {"train_run": "train", "Experiment": "OwnExperiment"}
"""Public name -> its name in that module, where they differ: ``thalweg.train`` is a package, so that its function needs another."""

__all__ = [
    "alone",
    "Verdict",
    "AtFraction",
    "AtStep",
    "BadInputError",
    "EmpiricalFisher",
    "Experiment",
    "GaussNewton",
    "Handover",
    "Hard",
    "Hessian",
    "LandscapeProbe",
    "LayerProbe",
    "LoopedTransformer",
    "LossBelow",
    "LowPrecision",
    "MarkovLanguage",
    "ModelConfig",
    "Plateau",
    "Ramp",
    "Refine",
    "RunConfig",
    "SafetyNet",
    "Shift",
    "Task",
    "TaskConfig",
    "TaskData",
    "ThalwegError",
    "check_task",
    "cost",
    "dense_hessian",
    "diagonal",
    "doubling",
    "eigenpairs",
    "plot",
    "solve",
    "spectral_density",
    "trace",
    "train_run",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY_IMPORTS[name]), RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
