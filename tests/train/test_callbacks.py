"""Lines of progress where there is no terminal."""

import time

import pytest

from thalweg.screen import Screen
from thalweg.train.callbacks import Tenths


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the monotonic clock says."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("steady", "left"),
    [(True, ["", ", about 45 s left", ", about 15 s left", ""]), (False, ["", "", "", ""])],
)
def test_the_time_left_is_counted_from_where_this_process_began(
    clock: list[float], capsys: pytest.CaptureFixture, steady: bool, left: list[str]
) -> None:
    tenths = Tenths(Screen(stderr=True))
    clock[0] = 1000.0  # prepared since then
    for share, seconds in ((0.5, 0.0), (0.52, 5.0), (0.7, 30.0), (0.95, 135.0), (0.99, 150.0), (1.0, 180.0)):
        clock[0] = 1000.0 + seconds
        tenths(share, f"{share:.0%}".replace("%", " %"), steady)
    told = ["50 %; 0 s so far", "70 %; 30 s so far", "95 %; 2 min 15 s so far", "100 %; 3 min so far"]
    assert capsys.readouterr().err.splitlines() == [line + more for line, more in zip(told, left, strict=True)]


def test_of_many_pieces_the_time_left_lies_between_that_by_work_and_that_by_pieces(
    clock: list[float], capsys: pytest.CaptureFixture
) -> None:
    tenths = Tenths(Screen(stderr=True), first=1)
    tenths(0.0, "nothing")
    clock[0] = 30.0
    tenths(0.3, "three of 36", rest=33 / 3)  # 70 s by work, 330 s by pieces
    assert capsys.readouterr().err == "three of 36; 30 s so far, about 2 min 32 s left\n"
