"""What this machine and this installation are, for a bug report: versions, devices, threads, and what is missing.

The requirements are read from the metadata of the installed distribution, so that they are those of ``pyproject.toml``. Nothing
is imported but PyTorch, and a PyTorch that cannot be imported is one of the findings.
"""

from __future__ import annotations

import os
import platform
import shutil
import textwrap
import warnings
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

DEVELOPERS = frozenset({"test", "lint", "bench", "docs", "package"})
"""Extras that add nothing for a user."""
_ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "THALWEG_CACHE", "WORLD_SIZE")
"""Environment variables that change what thalweg does."""
_WIDTH = 100


@dataclass(frozen=True)
class Package:
    """A package that thalweg requires, and whether it is there."""

    name: str
    expected: str
    """Version specifier, such as ``>=2.6``; empty for any version."""
    installed: str | None
    """Installed version; None where the package is missing."""

    @property
    def problem(self) -> str | None:
        """One line that says what is wrong and what to run; None where nothing is."""
        needed = f"{self.name}{self.expected}"
        if self.installed is None:
            return f"{self.name} is not installed; run: pip install '{needed}'"
        if not Requirement(needed).specifier.contains(self.installed, prereleases=True):
            return f"{self.name} {self.installed} is installed, expected {self.expected}; run: pip install '{needed}'"
        return None


@dataclass(frozen=True)
class Device:
    """A device that PyTorch can train on."""

    name: str
    """Name that ``--device`` takes."""
    model: str
    gigabytes: float | None
    """Memory in GiB; None where it is not known."""

    def __str__(self) -> str:
        size = "" if self.gigabytes is None else f", {self.gigabytes:.1f} GiB"
        return f"{self.name} ({self.model}{size})"


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``thalweg doctor`` prints."""

    thalweg: str | None
    """Version; None where thalweg runs from its sources without being installed."""
    python: str
    system: str
    torch: str | None
    """Version of PyTorch; None where it cannot be imported."""
    cuda: str | None
    """CUDA or ROCm version that PyTorch was built with; None for a CPU build."""
    devices: tuple[Device, ...]
    cores: int
    """Processor cores that this process may use."""
    threads: int | None
    """Threads that PyTorch uses on the CPU."""
    compiler: str | None
    """C++ compiler that ``torch.compile`` finds on a CPU."""
    environment: dict[str, str]
    packages: tuple[Package, ...]
    extras: dict[str, tuple[Package, ...]]
    """Optional extra -> its packages."""
    problems: tuple[str, ...]
    """One line for everything that stops thalweg from working here."""


def diagnose() -> Diagnosis:
    """Examine the installation and the machine.

    Returns:
        The findings. Extras that are not installed are no problem; a missing or too old required package is one.
    """
    distribution = _distribution()
    required = [] if distribution is None else [Requirement(line) for line in distribution.requires or ()]
    packages = tuple(_package(one) for one in required if _applies(one))
    extras = {
        extra: tuple(_package(one) for one in required if not _applies(one) and _applies(one, extra))
        for extra in ([] if distribution is None else distribution.metadata.get_all("Provides-Extra") or [])
        if extra not in DEVELOPERS
    }
    problems = [line for package in packages if (line := package.problem)]
    if distribution is None:
        problems.append("thalweg runs from its sources and is not installed; run: pip install -e .")
    torch, cuda, threads, devices, found = _torch()
    return Diagnosis(
        thalweg=None if distribution is None else distribution.version,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=platform.platform(),
        torch=torch,
        cuda=cuda,
        devices=devices,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=threads,
        compiler=next((name for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name and shutil.which(name)), None),
        environment={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        packages=packages,
        extras=extras,
        problems=(*problems, *found),
    )


def describe(found: Diagnosis) -> list[str]:
    """The lines of ``thalweg doctor``: one screen of at most 100 columns, except where a name or a message is longer."""
    build = "" if found.torch is None else f" ({'CPU build' if found.cuda is None else f'built for CUDA {found.cuda}'})"
    rows = {
        "thalweg": found.thalweg or "not installed",
        "python": found.python,
        "system": found.system,
        "torch": f"{found.torch or 'cannot be imported'}{build}",
        "devices": ", ".join(map(str, found.devices)) or "unknown",
        "threads": f"{'unknown' if found.threads is None else found.threads} of PyTorch, on {found.cores} usable cores",
        "compiler": found.compiler or "none, so that --compile needs one: install g++ or set CXX",
        "environment": ", ".join(f"{name}={value}" for name, value in found.environment.items()) or "nothing set",
        "packages": ", ".join(map(_told, found.packages)) or "unknown",
    }
    lines = [line for label, text in rows.items() for line in _row(label, text)]
    for extra, packages in found.extras.items():
        missing = [package for package in packages if package.problem]
        state = f"not installed; pip install 'thalweg[{extra}]'" if missing else "installed"
        lines += _row(f"extra {extra}", f"{state}: {', '.join(map(_told, missing or packages))}")
    return [
        *lines,
        *(f"problem: {line}" for line in found.problems),
        *([] if found.problems else ["nothing that thalweg needs is missing"]),
    ]


def _told(package: Package) -> str:
    return f"{package.name} {package.installed or 'missing'}"


def _row(label: str, text: str) -> list[str]:
    """A label in a column of its own, and a text broken between words."""
    first, rest = f"{label:18}", " " * 18
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)


def _distribution() -> metadata.Distribution | None:
    try:
        return metadata.distribution("thalweg")
    except metadata.PackageNotFoundError:
        return None


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _package(requirement: Requirement) -> Package:
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        installed = None
    return Package(requirement.name, str(requirement.specifier), installed)


def _torch() -> tuple[str | None, str | None, int | None, tuple[Device, ...], list[str]]:
    """Version, CUDA version, threads and devices of PyTorch, and what it complains about when they are looked at."""
    try:
        import torch
    except Exception as error:  # a broken library raises OSError, a missing one ImportError, a mismatch anything
        return None, None, None, (), [f"torch cannot be imported: {' '.join(str(error).split())}"]
    devices = [Device("cpu", platform.processor() or platform.machine(), _memory())]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                about = torch.cuda.get_device_properties(index)
                devices.append(Device(f"cuda:{index}", about.name, about.total_memory / 2**30))
    if torch.backends.mps.is_available():
        devices.append(Device("mps", "Apple GPU", None))
    told = [f"torch: {' '.join(str(one.message).split())}" for one in caught]
    return torch.__version__, torch.version.cuda or torch.version.hip, torch.get_num_threads(), tuple(devices), told


def _memory() -> float | None:
    """Memory of the machine in GiB, where the system says it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return None
