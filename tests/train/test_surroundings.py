"""What else the machine does while a run trains, from counters that are planted."""

from pathlib import Path

import pytest

from thalweg.train.surroundings import Watch


def counters(folder: Path, waited: int, ticks: str) -> Path:
    (folder / "thread-self").mkdir(exist_ok=True)
    (folder / "thread-self" / "schedstat").write_text(f"5 {waited} 7\n")
    (folder / "stat").write_text(f"cpu  {ticks}\ncpu0 1 2 3\n")
    return folder


def test_waiting_and_steal_are_shares_of_what_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((100.0, 104.0))
    monkeypatch.setattr("thalweg.train.surroundings.time.monotonic", lambda: next(now))
    watch = Watch(counters(tmp_path, 10_000_000_000, "100 0 0 100 0 0 0 10 999 999"))
    counters(tmp_path, 11_000_000_000, "400 0 100 300 0 0 0 110 999 999")
    around = watch.read()
    assert around is not None
    assert around.waiting == pytest.approx(0.25)  # 1 s of 4 s
    assert around.steal == pytest.approx(100 / 700)  # guest time, the last two numbers, is part of user time


@pytest.mark.parametrize("broken", ["", "5\n", "a b c\n"])
def test_a_system_without_the_counters_gives_nothing(tmp_path: Path, broken: str) -> None:
    watch = Watch(counters(tmp_path, 0, "1 2 3 4 5 6 7 8"))
    (tmp_path / "thread-self" / "schedstat").write_text(broken)
    assert watch.read() is None
    assert Watch(tmp_path / "missing").read() is None
