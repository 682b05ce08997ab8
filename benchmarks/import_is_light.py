"""Importing thalweg adds little time to importing torch, and `thalweg --help` does not import torch.

Fresh interpreters take turns: `import torch`; the same with `import thalweg`; the same with the model class accessed; then the
installed command `thalweg --help`, and an interpreter that does nothing. Every time is that of a whole process. Byte code is cached
for all, as for an installed package; the first round, which fills the caches, does not count.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import timing

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, thalweg": [sys.executable, "-c", "import torch, thalweg"],
    "... and thalweg.LoopedTransformer": [sys.executable, "-c", "import torch, thalweg; thalweg.LoopedTransformer"],
    "thalweg --help": [str(Path(sys.executable).parent / "thalweg"), "--help"],
}
HEAVY = """
import sys
from thalweg.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(",".join(name for name in ("torch", "numpy", "matplotlib") if name in sys.modules), file=sys.stderr)
"""


def runner(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)


def works(command: list[str]) -> bool:
    return subprocess.run(command, env=ENVIRONMENT, check=False, capture_output=True).returncode == 0


def main() -> None:
    options = timing.arguments(__doc__, rounds=15).parse_args()
    commands = {name: command for name, command in COMMANDS.items() if works(command)}
    times = timing.interleaved({n: runner(c) for n, c in commands.items()}, options.rounds, calls=1, warmup=1)
    timing.print_table(
        ["process", "seconds [lowest, highest]", "more than import torch"],
        [
            [name, timing.spread(values, unit=1), f"{difference(times, name):+.3f}" if "torch" in name else ""]
            for name, values in times.items()
        ],
    )
    for name in COMMANDS.keys() - commands.keys():
        print(f"not timed, because it fails: {name}")
    heavy = subprocess.run([sys.executable, "-c", HEAVY], env=ENVIRONMENT, check=True, capture_output=True, text=True)
    loaded = heavy.stderr.strip()
    print(f"of torch, numpy and matplotlib, --help imports: {loaded or 'none'}")
    added = max(difference(times, name) for name in times if "thalweg" in name and "help" not in name)
    print(
        f"\nseconds over import torch: {added:.3f} (claim: at most 0.1); "
        f"--help: {statistics.median(times['thalweg --help']):.3f} (claim: at most 0.5), "
        f"torch {'imported' if 'torch' in loaded.split(',') else 'not imported'}"
    )


def difference(times: timing.Times, name: str) -> float:
    """Return the median over rounds of the time beyond `import torch`, in seconds."""
    pairs = zip(times[name], times["import torch"], strict=True)
    return statistics.median(seconds - base for seconds, base in pairs)


if __name__ == "__main__":
    main()
