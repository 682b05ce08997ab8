"""Ranks that torchrun starts again share a store with the ranks that it killed."""

from threading import Thread

import pytest
from torch import distributed as dist

from thalweg.train.group import unused_keys

WORLD = 3


def prefixes(store: dist.Store, world: int = WORLD) -> list[str]:
    """A value that each of ``world`` ranks reads below the keys that they agreed on, where each wrote its own number."""
    found: list[str] = [""] * world

    def rank(number: int) -> None:
        keys = unused_keys(store, number, world, seconds=20)
        keys.set(str(number), str(number))
        keys.wait([str(other) for other in range(world)])
        found[number] = ",".join(keys.get(str(other)).decode() for other in range(world))

    threads = [Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_ranks_agree_on_keys_again_and_again_and_with_other_numbers_of_ranks() -> None:
    store = dist.HashStore()
    for world in (3, 3, 2, 4):
        assert prefixes(store, world) == [",".join(map(str, range(world)))] * world


def test_what_killed_ranks_left_in_the_store_is_not_read() -> None:
    store = dist.HashStore()
    for other in range(1, WORLD):  # killed after they had asked, before they were answered
        store.set(f"thalweg/asks/{other}", f"killed{other}")
    assert prefixes(store) == ["0,1,2"] * WORLD
    first = unused_keys(store, 0, 1, 1)
    first.set("address", "of a killed rank")
    assert not unused_keys(store, 0, 1, 1).check(["address"])


def test_rank_0_names_the_ranks_that_do_not_come() -> None:
    with pytest.raises(RuntimeError, match="timed out: no sign of rank 1, 2"):
        unused_keys(dist.HashStore(), 0, WORLD, seconds=0.05)
