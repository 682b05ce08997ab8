import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import signal, sys, time
from pathlib import Path
from thalweg.processes import LocalProcess
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
child = LocalProcess([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]), dict(__import__("os").environ), False)
print(child._process.pid, flush=True)
time.sleep(600)
"""
CHILD = """
import signal, time
from thalweg import processes
processes.ENDING_SECONDS = 0.5
signal.signal(signal.SIGTERM, signal.{})
processes.end_with_parent()
print("watching", file=__import__("sys").stderr, flush=True)
time.sleep(600)
"""


def is_there(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("handled", ["SIG_DFL", "SIG_IGN"])
def test_a_child_ends_when_its_parent_is_gone_however_it_ended(tmp_path: Path, how: signal.Signals, handled: str) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD.format(handled), str(log)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as said:
        child = int(said.readline())
    began = time.monotonic()
    while "watching" not in (log.read_text() if log.exists() else "") and time.monotonic() - began < 60:
        time.sleep(0.05)
    assert is_there(child)
    os.kill(parent.pid, how)
    parent.wait(timeout=30)
    began = time.monotonic()
    while is_there(child) and time.monotonic() - began < 30:
        time.sleep(0.05)
    assert not is_there(child)


def test_a_process_that_nobody_started_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg import processes

    monkeypatch.setattr(processes.threading, "Thread", None)
    monkeypatch.delenv(processes.PARENT, raising=False)
    processes.end_with_parent()
    monkeypatch.setenv(processes.PARENT, "not a number")
    processes.end_with_parent()
