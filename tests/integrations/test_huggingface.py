import copy
import pickle
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")

import torch
from tests.integrations.architectures import BASE, PROMPT, generated, gradients, logits, made, quiet
from torch import nn

from thalweg.errors import BadInputError
from thalweg.integrations.exits import Confidence, Fixed, SmallChange
from thalweg.integrations.huggingface import loop, looped_layers_of
from thalweg.integrations.updates import ShiftUpdates
from thalweg.shift.schedule import Shift

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def gpt2() -> Any:
    return made("gpt2", num_hidden_layers=4)


def test_gains_scale_the_step_of_a_pass() -> None:
    model = made("llama")
    states: list[torch.Tensor] = []
    model.model.layers[3].register_forward_pre_hook(lambda layer, args, kwargs: states.append(args[0]), with_kwargs=True)
    looped = loop(model, 1, 3)
    for loops, gains in ((1, None), (2, (1, 1)), (2, (1, 0.25))):
        looped.set(loops, gains)
        logits(model)
    one, two, quarter = states
    torch.testing.assert_close(quarter, one + 0.25 * (two - one))


def test_the_handle_tells_layers_passes_and_gains() -> None:
    looped = loop(gpt2(), 1, 3, loops=2)
    assert repr(looped) == "LoopedLayers(layers 1 to 2 of 4, loops=2, gains=(1, 1))"
    updates = repr(ShiftUpdates(Shift(loops=2), looped))
    assert updates.startswith("ShiftUpdates(Shift(stage 1 of 2 in (1, 2), ")
    assert updates.endswith("LoopedLayers(layers 1 to 2 of 4, loops=2, gains=(1, 1)))")


def test_injection_adds_the_states_that_entered_the_block() -> None:
    model = gpt2()
    looped = loop(model, 1, 3, loops=2, injection=True)
    seen: list[torch.Tensor] = []
    handle = model.transformer.h[1].register_forward_pre_hook(lambda layer, args, kwargs: seen.append(args[0]), with_kwargs=True)
    after = model.transformer.h[2].register_forward_hook(
        lambda layer, args, output: seen.append(output if torch.is_tensor(output) else output[0])
    )
    logits(model)
    handle.remove()
    after.remove()
    entry, first, second_input, _ = seen
    assert torch.equal(second_input, first + entry)
    assert looped.passes_made == 2


def test_norm_follows_every_further_pass() -> None:
    model = made("llama")
    looped = loop(model, 1, 3, loops=2, norm=True)
    states: list[torch.Tensor] = []
    model.model.layers[3].register_forward_pre_hook(lambda layer, args, kwargs: states.append(args[0]), with_kwargs=True)
    logits(model)
    torch.testing.assert_close(states[0].square().mean(-1), torch.ones(PROMPT.shape), rtol=1e-4, atol=0)
    assert [name for name, _ in model.named_parameters() if "thalweg" in name] == ["thalweg.norm.weight"]
    looped.remove()
    assert not any("thalweg" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(("kind", "count"), [("each", 2), ("shared", 1)])
def test_learned_gains_begin_at_their_start_and_learn(kind: Any, count: int) -> None:
    model, plain = made("llama"), made("llama")
    looped = loop(model, 1, 3, loops=3, learned_gains=kind, most_loops=3)
    assert torch.equal(logits(model), logits(plain))
    assert looped.pass_gains is not None
    assert looped.pass_gains.tolist() == [0.0] * count
    found = gradients(model, False)["thalweg.pass_gains"]
    assert (found != 0).all()


def test_learned_gains_multiply_the_given_ones() -> None:
    model, other = made("llama"), made("llama")
    loop(model, 1, 3, loops=2, gains=(1, 0.5), learned_gains="shared", gain_start=0.5)
    loop(other, 1, 3, loops=2, gains=(1, 0.25))
    assert torch.equal(logits(model), logits(other))


def test_learned_gains_have_a_gradient_while_they_are_not_used() -> None:
    model = made("llama")
    loop(model, 1, 3, learned_gains="each", most_loops=3, norm=True)
    found = gradients(model, False)
    assert found["thalweg.pass_gains"].tolist() == [0, 0]
    assert found["thalweg.norm.weight"].abs().max() == 0


def test_gradients_flow_through_the_last_passes_only() -> None:
    model, full = made("llama"), made("llama")
    loop(model, 1, 3, loops=3, backprop=1, injection=True)
    loop(full, 1, 3, loops=3, injection=True)
    assert torch.equal(logits(model), logits(full))
    cut, whole = gradients(model, False), gradients(full, False)
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(cut["model.layers.3.mlp.down_proj.weight"], whole["model.layers.3.mlp.down_proj.weight"])
    assert not torch.equal(cut[name], whole[name])
    assert "model.embed_tokens.weight" in cut


def test_truncation_without_injection_cuts_the_layers_before_the_block() -> None:
    model = made("llama")
    loop(model, 1, 3, loops=3, backprop=1)
    assert "model.layers.0.mlp.down_proj.weight" not in gradients(model, False)


def test_a_copy_is_looped_by_itself() -> None:
    model = made("llama")
    looped = loop(model, 1, 3, loops=3, learned_gains="shared", gain_start=1.0)
    three, copied = logits(model), copy.deepcopy(model)
    looped.remove()
    assert torch.equal(logits(copied), three)
    assert looped_layers_of(copied) is not looped


def test_remove_and_loop_again() -> None:
    model = made("llama")
    plain = logits(model)
    loop(model, 1, 3, loops=3, learned_gains="shared", gain_start=1.0).remove()
    assert torch.equal(logits(model), plain)
    loop(model, 0, 4, loops=2)
    assert not torch.equal(logits(model), plain)


def test_class_names_stay() -> None:
    model = made("llama")
    before = [type(module).__name__ for module in model.modules()]
    loop(model, 0, 2)
    assert [type(module).__name__ for module in model.modules()] == before
    assert len({type(layer) for layer in model.model.layers}) == 1  # one class for all, as FSDP wraps by class


def test_classifiers_of_decoders_can_be_looped() -> None:
    transformers = quiet()
    model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**BASE)).eval()
    plain = logits(model)
    looped = loop(model, 1, 3)
    assert torch.equal(logits(model), plain)
    looped.set(2)
    assert not torch.equal(logits(model), plain)


def test_adapter_before_and_after_looping() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    outputs = []
    for first in ("adapter", "loops"):
        model = made("llama")
        torch.manual_seed(1)
        if first == "loops":
            loop(model, 1, 3, loops=3)
        model = peft.get_peft_model(model, config).eval()
        if first == "adapter":
            loop(model, 1, 3, loops=3)
        outputs.append(logits(model))
    assert torch.equal(*outputs)


# Exit rules.


def test_fixed_exit_equals_as_many_loops() -> None:
    model = made("llama")
    looped = loop(model, 1, 3, loops=2)
    two = generated(model, use_cache=False)
    looped.set(5)
    looped.exit = Fixed(2)
    assert torch.equal(generated(model, use_cache=False), two)
    assert torch.equal(generated(model), two)
    assert looped.passes_made == 2


def test_exit_by_change_waits_for_the_slowest_sequence() -> None:
    model = made("llama")
    looped = loop(model, 1, 3, loops=8)
    made_passes = {}
    for share in (1e-6, 0.6, 1e5):
        looped.exit = SmallChange(share)
        logits(model)
        made_passes[share] = looped.passes_made
    assert made_passes[1e-6] == 8
    assert made_passes[1e5] == 1
    looped.exit = SmallChange(0.6)
    alone = []
    for row in PROMPT:
        model(row[None])
        alone.append(looped.passes_made)
    assert made_passes[0.6] == max(alone)


def test_exit_by_confidence() -> None:
    model = made("llama")
    looped = loop(model, 1, 3, loops=4)
    for probability, passes in ((1e-9, 1), (1.0, 4)):
        looped.exit = Confidence(probability)
        logits(model)
        assert looped.passes_made == passes
    looped.exit = Confidence(1e-9, least=3)
    logits(model)
    assert looped.passes_made == 3


class ByLength:
    """Three passes for a prompt, one for a single token."""

    def leaves(self, passes: int, before: torch.Tensor, after: torch.Tensor, read: Any) -> bool:
        return passes >= (3 if after.shape[1] > 1 else 1)


def test_generation_keeps_the_passes_that_its_first_call_chose() -> None:
    model = made("llama")
    looped = loop(model, 1, 3, loops=6)
    looped.exit = ByLength()
    cached = generated(model)
    looped.exit = None
    looped.set(3)
    assert torch.equal(cached, generated(model, use_cache=False))


def test_no_exit_in_training() -> None:
    model = made("llama")
    looped = loop(model, 1, 3, loops=3)
    looped.exit = Fixed(1)
    model.train()(PROMPT)
    assert looped.passes_made == 3


# What is refused, in one line each.


def refused(match: str) -> Any:
    return pytest.raises(BadInputError, match=f"^(?s:(?!.*\n).*{match}.*)$")


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertModel", "T5ForConditionalGeneration"])
def test_encoders_are_refused(name: str) -> None:
    transformers = quiet()
    small = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    t5 = {"vocab_size": 8, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(**t5) if "T5" in name else transformers.BertConfig(**small)
    with refused("expected a decoder with causal attention"):
        loop(getattr(transformers, name)(config), 0, 1)


def test_other_models_are_refused() -> None:
    with refused("given the class Linear, expected a decoder of transformers"):
        loop(nn.Linear(2, 2), 0, 1)


def test_own_cache_classes_are_refused() -> None:
    model = made("rwkv", intermediate_size=None, head_dim=None)
    looped = loop(model, 1, 3)
    logits(model, use_cache=True)
    looped.set(2)
    with refused("given list, expected a Cache of transformers"):
        logits(model, use_cache=True)
    logits(model, use_cache=False)


def test_states_of_four_dimensions_are_refused() -> None:
    more = {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "laurel_rank": 4}
    model = made("gemma3n_text", altup_num_inputs=2, activation_sparsity_pattern=None, **more)
    loop(model, 1, 3)
    with refused("states of three dimensions"):
        logits(model)


@pytest.mark.parametrize("span", [(0, 5), (2, 2), (3, 1), (-1, 2)])
def test_spans_that_do_not_fit_are_refused(span: tuple[int, int]) -> None:
    with refused("expected 0 <= first < last <= 4"):
        loop(gpt2(), *span)


def test_looping_twice_is_refused() -> None:
    model = gpt2()
    loop(model, 0, 1)
    with refused("expected a model that is not looped; call remove"):
        loop(model, 2, 3)


def test_a_refused_loop_leaves_the_model_as_it_was() -> None:
    model = gpt2()
    with refused("gains"):
        loop(model, 0, 1, loops=2, gains=(1,))
    loop(model, 0, 1)


def test_a_cache_begun_with_other_passes_is_refused() -> None:
    model = made("llama")
    looped = loop(model, 1, 3)
    for begun, then in (((1, None), (3, None)), ((3, None), (1, None)), ((3, None), (3, (1, 1, 0.5)))):
        looped.set(*begun)
        cache = model(PROMPT).past_key_values
        looped.set(*then)
        with refused(f"begun with {begun[0]} passes.* begin a new cache"):
            model(PROMPT[:, :1], past_key_values=cache)


def test_pickling_is_refused() -> None:
    model = gpt2()
    looped = loop(model, 0, 1)
    with refused("pickling of a looped model.* call remove"):
        pickle.dumps(model)
    looped.remove()
    assert pickle.dumps(model)


def test_loops_above_the_learned_gains_are_refused() -> None:
    looped = loop(gpt2(), 0, 1, learned_gains="each", most_loops=3)
    with refused("loops: given 4, expected at most most_loops, 3"):
        looped.set(4)
    with refused("most_loops"):
        loop(gpt2(), 0, 1, learned_gains="each")


@pytest.mark.parametrize(
    ("gains", "match"),
    [
        ((1, 1), "one number for each of the 3"),
        ((1, 1, float("nan")), "finite"),
        ((0.5, 1, 1), r"gains\[0\]: given 0.5, expected 1"),
    ],
)
def test_gains_that_do_not_fit_are_refused(gains: tuple[float, ...], match: str) -> None:
    looped = loop(gpt2(), 0, 1)
    with refused(match):
        looped.set(3, gains)


@pytest.mark.parametrize("loops", [0, 2.5, True, "2"])
def test_loops_that_are_no_count_are_refused(loops: Any) -> None:
    with refused("loops"):
        loop(gpt2(), 0, 1).set(loops)


def test_a_model_that_is_not_looped_has_no_handle() -> None:
    with refused("expected a looped model"):
        looped_layers_of(gpt2())


def test_a_layer_called_by_itself_is_refused() -> None:
    model = made("llama")
    loop(model, 1, 3, loops=2)
    with refused("call the whole model"):
        model.model.layers[2](torch.zeros(1, 2, 16))
