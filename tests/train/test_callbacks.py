"""Lines of progress where there is no terminal."""

import time

import pytest

from thalweg.screen import Screen
from thalweg.train.callbacks import Tenths


def test_the_time_left_is_counted_from_where_this_process_began(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    now = iter([100.0, 110.0, 130.0, 140.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    tenths = Tenths(Screen(stderr=True))
    for share in (0.5, 0.52, 0.7, 0.99, 1.0):  # resumed at a half; 0.52 and 0.99 end no further tenth or the last one
        if share != 0.99:
            tenths(share, f"{share:.0%}")
    assert capsys.readouterr().err.splitlines() == ["50%; 10 s so far", "70%; 30 s so far, about 45 s left", "100%; 40 s so far"]
