from dataclasses import replace

import pytest

from thalweg.errors import BadInputError
from thalweg.models.cost import cost
from thalweg.train.assemble import fewest_weights
from thalweg.train.config import RunConfig
from thalweg.train.rank_costs import measured_rate, print_plan, rank_costs

NET = {"rate": 1e9, "bandwidth": 1e6, "latency": 1e-3}


def test_one_rank_sends_nothing_and_makes_all_operations(tiny: RunConfig) -> None:
    last = rank_costs(tiny, 1, **NET)[-1]
    assert (last.sent, last.network_seconds, last.efficiency) == (0, 0.0, 1.0)
    assert last.flops == cost(tiny.model, 16, 11, 3).training_step == last.compute_seconds * 1e9


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_bytes_and_messages_are_those_of_rings(tiny: RunConfig, parallel) -> None:
    costs = rank_costs(tiny, 4, **NET, parallel=parallel)[0]
    assert costs.sent == 2 * 3 * 4 * fewest_weights(tiny.model) // 4
    assert costs.network_seconds == pytest.approx(costs.sent / 1e6 + 2 * 3 * 1e-3)


def test_a_block_of_several_is_gathered_in_every_pass_forward_and_backward(tiny: RunConfig) -> None:
    deep = replace(tiny, model=replace(tiny.model, layers=5, coda=1))
    one, three = rank_costs(deep, 4, **NET, parallel="fsdp")
    block = 2 * 8**2
    assert one.sent == (4 - 1) * 4 * (2 * fewest_weights(deep.model) + (5 + 1) * block) // 4
    assert three.sent - one.sent == (4 - 1) * 4 * (2 * 2 * 5 * block) // 4
    calls = 2 * (1 + 5 + 1) + 5 + 1
    assert one.network_seconds == pytest.approx(one.sent / 1e6 + calls * 3 * 1e-3)


def test_sharding_saves_memory_where_there_are_many_ranks(tiny: RunConfig) -> None:
    large = replace(tiny, model=replace(tiny.model, width=4096, layers=50))
    whole, sharded = ([costs.memory for costs in rank_costs(large, 16, **NET, parallel=kind)] for kind in ("ddp", "fsdp"))
    assert sharded[0] < 0.15 * whole[0]  # with one pass, little more than a sixteenth
    assert 0.25 * whole[1] < sharded[1] < 0.4 * whole[1]  # with several, the whole gradient comes on top


def test_more_ranks_than_samples_are_refused(tiny: RunConfig) -> None:
    with pytest.raises(BadInputError, match=r"training\.batch: given 16, expected at least one sample for each of the 17 ranks"):
        rank_costs(tiny, 17, **NET)


def test_a_rate_is_measured_without_writing_anything(tiny: RunConfig, tmp_path) -> None:
    assert measured_rate(tiny, tmp_path) > 1e5
    assert list(tmp_path.iterdir()) == []


def test_the_table_says_what_was_measured(tiny: RunConfig, capsys: pytest.CaptureFixture) -> None:
    print_plan(tiny, 2, 1e9, 1e6, 1e-3, as_json=False)
    assert "1e+09 operations/s a rank (as given)" in capsys.readouterr().out
