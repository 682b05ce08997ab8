"""What else the machine does while a run trains, from counters that are planted."""

from dataclasses import asdict
from pathlib import Path

import pytest

from thalweg.train.state import Clock
from thalweg.train.surroundings import Seen, Watch


def counters(folder: Path, waited: int, ticks: str) -> Path:
    (folder / "thread-self").mkdir(exist_ok=True)
    (folder / "thread-self" / "schedstat").write_text(f"5 {waited} 7\n")
    (folder / "stat").write_text(f"cpu  {ticks}\ncpu0 1 2 3\n")
    return folder


def test_waiting_and_steal_are_those_since_the_last_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((100.0, 104.0, 105.0))
    monkeypatch.setattr("thalweg.train.surroundings.time.monotonic", lambda: next(now))
    watch = Watch(counters(tmp_path, 10_000_000_000, "100 0 0 100 0 0 0 10 999 999"))
    counters(tmp_path, 11_000_000_000, "400 0 100 300 0 0 0 110 999 999")
    seen = watch.read()
    assert seen is not None
    assert (seen.seconds, seen.waited) == (4.0, pytest.approx(1.0))
    assert seen.stolen == pytest.approx(4.0 * 100 / 700)  # guest time, the last two numbers, is part of user time
    again = watch.read()
    assert again is not None
    assert (again.seconds, again.waited, again.stolen) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("broken", ["", "5\n", "a b c\n"])
def test_a_system_without_the_counters_gives_nothing(tmp_path: Path, broken: str) -> None:
    watch = Watch(counters(tmp_path, 0, "1 2 3 4 5 6 7 8"))
    (tmp_path / "thread-self" / "schedstat").write_text(broken)
    assert watch.read() is None
    assert Watch(tmp_path / "missing").read() is None


class _Planted(Watch):
    def __init__(self, *seen: Seen | None) -> None:
        self.seen = iter(seen)

    def read(self) -> Seen | None:
        return next(self.seen)


def test_shares_are_over_all_sessions_of_a_run() -> None:
    clock = Clock()
    clock.look_around(_Planted(Seen(8.0, 4.0, 0.8, 3.0, 2)))
    resumed = Clock(**asdict(clock))
    resumed.look_around(_Planted(Seen(2.0, 0.0, 0.2, 5.0, 4)))
    around = resumed.surroundings
    assert around is not None
    assert (around.waiting, around.steal, around.load, around.cores) == (pytest.approx(0.4), pytest.approx(0.1), 5.0, 4)


def test_what_was_never_seen_is_not_told() -> None:
    clock = Clock()
    clock.look_around(_Planted(None))
    assert clock.surroundings is None
