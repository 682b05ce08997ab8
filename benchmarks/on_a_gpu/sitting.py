"""What the scripts of this folder share: their options, and a command that is stopped after some minutes and goes on next time."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

THALWEG = (sys.executable, "-m", "thalweg")


def options_of(doc: str | None, out: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a script, from its docstring and the default of its folder."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="when to stop; what is done is kept")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--preset", default="gpu", choices=("gpu", "quick"), help="quick tries the script on a CPU")
    parser.add_argument("--seeds", type=int, default=0, help="those of the preset, if not given; more can be added later")
    parser.add_argument("--device", default="", help="cuda for the preset gpu and cpu for quick, if not given")
    options = parser.parse_args(arguments)
    options.device = options.device or ("cuda" if options.preset == "gpu" else "cpu")
    return options


def common(options: argparse.Namespace) -> list[str]:
    """The end of every command: device, one run at a time, and folder."""
    return ["--device", options.device, "--jobs", "1", "--out", str(options.out)]


def sit(command: Sequence[str], minutes: float) -> int:
    """Run a command of thalweg for at most some minutes; the exit code, which is 0 where it was stopped.

    It is interrupted as by Ctrl-C: it ends after what it is writing, and the same command goes on from there. A script that is
    started in the background ignores that signal, and so would its command, so it is told not to.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen([*THALWEG, *command])
    try:
        return running.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)
        running.wait()
        print(f"Stopped after {minutes:g} minutes; give the same command again to go on.")
        return 0
