import os
import socket
from pathlib import Path

import pytest

from thalweg.errors import BadInputError
from thalweg.train.group import joined, refuse_differences, refuse_several, started_ranks


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables of rank 0 of 2, whose partner never comes."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def test_a_single_process_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "0", "1"):
        monkeypatch.setenv("WORLD_SIZE", value)
        with joined(1.0):
            assert started_ranks() == 1


def test_a_world_size_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(BadInputError, match="WORLD_SIZE: given 'two', expected a whole number"):
        started_ranks()


def test_a_missing_address_is_named(started: pytest.MonkeyPatch) -> None:
    started.delenv("MASTER_ADDR")
    with pytest.raises(BadInputError, match="WORLD_SIZE is 2, expected MASTER_ADDR to be set too"), joined(1.0):
        pass


def test_a_rank_that_never_comes_is_waited_for_as_long_as_was_said(started: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match=r"rank 0 waited 1 s at localhost:\d+, and not all 2 ranks came"), joined(1.0):
        pass


def test_a_port_in_use_is_named(started: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        started.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(BadInputError, match="is in use; give torchrun another --master-port"), joined(1.0):
            pass


def test_a_command_for_one_process_is_refused_once(started: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="landscape: given 2 ranks, expected one process") as told:
        refuse_several("landscape")
    started.setenv("RANK", "1")
    with pytest.raises(BadInputError) as silent:
        refuse_several("landscape")
    assert (told.value.told_elsewhere, silent.value.told_elsewhere) == (False, True)


def test_one_process_has_no_differences(tmp_path: Path) -> None:
    refuse_differences({"seed": 0, "--out": str(tmp_path), "pid": os.getpid()})
