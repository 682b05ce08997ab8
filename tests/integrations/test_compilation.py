from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")

import torch
from tests.integrations.architectures import PROMPT, made

import thalweg as tw
from thalweg.integrations.compilation import build_graphs, depths_of, graph_count
from thalweg.integrations.huggingface import LoopedLayers, loop

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BATCH = {"input_ids": PROMPT, "labels": PROMPT}


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def test_depths_of_a_schedule() -> None:
    assert depths_of(tw.Shift(stages=(1, 2, 6))) == [1, 2, 6]


def looped_model(checkpointing: bool = False, layers: int = 2) -> tuple[Any, LoopedLayers]:
    """A model whose first layer is looped."""
    model = made("llama", num_hidden_layers=layers, use_cache=False).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, loop(model, 0, 1)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("part", ["model", "layers"])
def test_a_stage_has_one_graph_and_a_ramp_needs_no_other(part: str, checkpointing: bool) -> None:
    (model, looped), (eager, plain) = looped_model(checkpointing), looped_model()
    eager.load_state_dict(model.state_dict())
    shift, counted = tw.Shift(loops=2, criterion=tw.AtStep(2), onset=tw.Ramp(3)), graph_count()
    if part == "model":
        compiled = torch.compile(model, backend="eager")
        assert build_graphs(compiled, looped, shift, BATCH) == {1: 1, 2: 1}
        assert all(p.grad is None for p in model.parameters())
    else:
        compiled = model
        for layer in model.model.layers:
            layer.compile(backend="eager")
    seen = []
    for _ in range(7):
        looped.set(shift.loops, shift.gains)
        plain.set(shift.loops, shift.gains)
        loss = compiled(**BATCH).loss
        loss.backward()
        seen.append((loss.item(), eager(**BATCH).loss.item(), shift.gains[-1]))
        shift.update(loss.item(), 1.0)
    assert graph_count() - counted == (2 if part == "model" else 1)
    assert [gain for *_, gain in seen] == pytest.approx([1, 1, 0, 1 / 3, 2 / 3, 1, 1])
    for ours, eager, _ in seen:
        assert ours == pytest.approx(eager, rel=1e-5)


def saved_bytes(checkpointing: bool, compiled: bool) -> int:
    """Bytes that a layer with three passes keeps between its forward and its backward pass, without its parameters."""
    model, looped = looped_model(checkpointing, layers=1)
    looped.set(3)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    call = torch.compile(model, backend="aot_eager") if compiled else model
    ids = PROMPT.repeat(32, 2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(ids, labels=ids).loss.backward()
    return sum(kept.values())


def test_checkpointed_passes_in_one_graph_keep_their_inputs_only() -> None:
    plain, checkpointed, compiled = saved_bytes(False, False), saved_bytes(True, False), saved_bytes(True, True)
    assert compiled < 1.2 * checkpointed < 0.4 * plain
