import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")

import torch
from tests.integrations.architectures import PROMPT, made

import thalweg as tw
from thalweg.integrations.compilation import build_graphs, depths_of, graph_count
from thalweg.integrations.huggingface import loop

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BATCH = {"input_ids": PROMPT, "labels": PROMPT}


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def test_depths_of_a_schedule() -> None:
    assert depths_of(tw.Shift(stages=(1, 2, 6))) == [1, 2, 6]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_graphs_are_built_beforehand_and_a_ramp_needs_no_other(checkpointing: bool) -> None:
    model = made("llama", num_hidden_layers=2, use_cache=False).train()
    looped = loop(model, 0, 1)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    shift = tw.Shift(loops=2, criterion=tw.AtStep(2), onset=tw.Ramp(3))
    compiled = torch.compile(model, backend="eager")
    built = build_graphs(compiled, looped, shift, BATCH)
    assert list(built) == [1, 2]
    assert built[1] == 1
    assert built[2] > 1 if checkpointing else built[2] == 1
    assert all(p.grad is None for p in model.parameters())
    before, seen = graph_count(), []
    for _ in range(7):
        looped.set(shift.loops, shift.gains)
        loss = compiled(**BATCH).loss
        loss.backward()
        seen.append((loss.item(), model(**BATCH).loss.item(), shift.gains[-1]))
        shift.update(loss.item(), 1.0)
    assert graph_count() == before
    assert [gain for *_, gain in seen] == pytest.approx([1, 1, 0, 1 / 3, 2 / 3, 1, 1])
    for ours, eager, _ in seen:
        assert ours == pytest.approx(eager, rel=1e-5)
