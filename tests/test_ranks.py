import subprocess

import pytest
import torch

from thalweg import ranks

PAIR = """
import datetime
import os
import sys
import time
import torch
import torch.distributed as dist
from thalweg import ranks
from thalweg.errors import BadInputError, LostRankError
me = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=me, world_size=2,
                        timeout=datetime.timedelta(seconds=2))
value = torch.tensor([1.0 + me, 10.0])
print(ranks.rank(), ranks.world(), ranks.total(value).tolist(), ranks.mean(value).tolist(), value.tolist())
try:
    with ranks.together():
        if me == 1:
            raise KeyError("mine")
except (KeyError, BadInputError) as error:
    print(type(error).__name__, error)
with ranks.together():
    print("both")
print(ranks.same(me), ranks.gathered(me))
with ranks.alone():
    print(ranks.rank(), ranks.world(), ranks.total(value).tolist())
ranks.JOIN_SECONDS = 1.0
ranks.meet("first")
sys.stdout.flush()
if me == 0:
    try:
        ranks.meet("a product")
    except LostRankError as error:
        print(error)
if me == 1:
    time.sleep(60)  # hangs
try:
    ranks.total(value)
except LostRankError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_one_process_is_rank_zero_of_one():
    assert (ranks.active(), ranks.rank(), ranks.world()) == (False, 0, 1)


def test_a_total_over_one_process_is_the_value():
    value = torch.ones(3)
    assert ranks.total(value) is ranks.mean(value) is value


def test_together_hands_on_the_error_of_one_process():
    with pytest.raises(KeyError, match="mine"), ranks.together():
        raise KeyError("mine")


def test_two_processes_sum_share_fail_and_miss_each_other(python, tmp_path):
    script = [python, "-W", "ignore", "-c", PAIR]
    started = [subprocess.Popen([*script, str(me), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True) for me in (0, 1)]
    first = started[0].communicate(timeout=60)[0].splitlines()
    started[1].kill()
    second = started[1].communicate(timeout=60)[0].splitlines()
    assert first == [
        "0 2 [3.0, 20.0] [1.5, 10.0] [1.0, 10.0]",
        "ElsewhereError rank 0: another rank refused its input; see its message",
        "both",
        "0 [0, 1]",
        "0 1 [1.0, 10.0]",
        "a product: rank 0 of 2 waited 1 s for the others; all ranks must do this together, or this one alone in a block "
        "`with thalweg.alone():`",
        "rank 0 of 2: rank 1 did not answer within the time limit; it hangs, or is too slow",
    ]
    assert second == [
        "1 2 [3.0, 20.0] [1.5, 10.0] [2.0, 10.0]",
        "KeyError 'mine'",
        "both",
        "0 [0, 1]",
        "0 1 [2.0, 10.0]",
    ]
