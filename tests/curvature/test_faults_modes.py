"""Faults of the model's mode and of the contexts around a call."""

import contextlib
import copy
from typing import Any

import pytest
import torch
from tests.curvature.cases import normal, stirred
from tests.curvature.faults import (
    LABELS,
    WAYS,
    Faults,
    Given,
    X,
    Y,
    as_seen,
    attempted,
    dropout_in_evaluation,
    mlp,
    net,
    normed,
    outcome_of,
    plain_network,
    squared,
    truth_of,
)
from tests.curvature.oracle import by_differences, verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import thalweg as tw
from thalweg.errors import ThalwegError
from thalweg.landscape.slices import Slices

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
FAULTS = Faults()


# Kind 3: the mode. Modules that act on train() and eval() stay as they were; the caller chooses the mode.
class Merging(nn.Linear):
    """Low-rank weights that are merged in eval() and taken out in train()."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.A, self.B = nn.Parameter(torch.empty(1, inputs)), nn.Parameter(torch.empty(outputs, 1))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.B @ self.A).data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + (0 if self.merged else x @ self.A.T @ self.B.T)


def merging() -> nn.Module:
    return stirred(nn.Sequential(Merging(3, 3), nn.Tanh(), nn.Linear(3, 2)), 0.6)


FAULTS.add("the head of a model that merges on eval", lambda: Given(squared, merging(), params="2.*"), 3)
FAULTS.add("all of a model that merges on eval", lambda: Given(squared, merging()), 3)


@FAULTS.case(3)
def a_module_whose_train_must_not_be_called():
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> "Stubborn":
            raise AssertionError("train() was called")

    return Given(squared, stirred(nn.Sequential(Stubborn(3, 3), nn.Tanh(), nn.Linear(3, 2)), 0.6))


FAULTS.add("batch norm in evaluation", lambda: Given(squared, normed()), 3)
FAULTS.add("batch norm in training", lambda: Given(squared, normed(), options={"mode": "train"}, train=True), 3)
FAULTS.add(
    "batch norm without running statistics",
    lambda: Given(
        squared, stirred(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)), 0.6)
    ),
    3,
)


@FAULTS.case(3)
def instance_norm_that_tracks_in_training():
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten())
    loss = lambda m, b: (m(b[0])[:, :2] - b[1]).square().mean()  # noqa: E731
    return Given(loss, stirred(model, 0.6), options={"mode": "train"}, train=True)


FAULTS.add(
    "dropout that drops nothing in training",
    lambda: Given(
        squared, stirred(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.Linear(3, 2)), 0.6), options={"mode": "train"}
    ),
    3,
)


FAULTS.case(3)(dropout_in_evaluation)

RANDOM = "refused: random"


@FAULTS.case(3, "refused: dropout")
def dropout_in_training():
    model = stirred(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)), 0.6)
    return Given(squared, model, options={"mode": "train"}, same=torch.eye(20))


@FAULTS.case(3, RANDOM)
def noise_in_training():
    model = net(lambda m, x: m.b(m.a(x) + torch.randn_like(x) * m.training), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    return Given(squared, model, options={"mode": "train"}, same=torch.eye(20))


@FAULTS.case(3, RANDOM)
def stochastic_depth_in_training():
    model = net(
        lambda m, x: m.b(x + m.a(x) * float(torch.rand(()) > 0.5) if m.training else m.a(x)), a=nn.Linear(3, 3), b=nn.Linear(3, 2)
    )
    return Given(squared, model, options={"mode": "train"}, same=torch.eye(20))


def power_iterated() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(spectral_norm(stirred(nn.Linear(3, 3), 0.6)), nn.Tanh(), stirred(nn.Linear(3, 2), 0.6))


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a model holds, mode and attributes included."""
    held: dict[str, Any] = {f"{name} mode": module.training for name, module in model.named_modules()}
    held |= {f"{name} merged": module.merged for name, module in model.named_modules() if hasattr(module, "merged")}
    held |= {name: value.detach().clone() for name, value in model.state_dict().items()}
    return held | {f"{name} grad": p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("mode", [None, "eval", "train"])
@pytest.mark.parametrize("make", [merging, normed, power_iterated])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_bit_for_bit_as_it_was(make, mode, training):
    model, options = make().train(training), {} if mode is None else {"mode": mode}
    before = everything(model)
    for use in (
        lambda: whole(tw.Hessian(squared, model, [(X, Y)], **options)),
        lambda: tw.dense_hessian(squared, model, [(X, Y)], **options),
        lambda: tw.LandscapeProbe(top=1, forms=0).measure(squared, model, [(X, Y)], **options),
        lambda: Slices(squared, model, [(X, Y)], **options).line(torch.ones(20 if make is not normed else 26), [0.0, 0.1]),
        lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), model, [(X, LABELS)], **options),
    ):
        with contextlib.suppress(ThalwegError):
            use()
        after = everything(model)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], one) if isinstance(one, Tensor) else after[key] == one for key, one in before.items())


def test_explain_says_the_mode():
    model = normed()
    assert "eval" in tw.Hessian(squared, model, [(X, Y)]).explain()
    assert "train" in tw.Hessian(squared, model, [(X, Y)], mode="train").explain()


def test_the_loss_in_training_is_that_of_batch_statistics():
    model = normed()
    expected = float(squared(copy.deepcopy(model).train(), (X, Y)).detach())
    assert tw.Hessian(squared, model, [(X, Y)], mode="train").loss == pytest.approx(expected, rel=1e-6)
    line = Slices(squared, model, [(X, Y)], mode="train").line(torch.ones(26), [0.0])
    assert float(line.losses[0]) == pytest.approx(expected, rel=1e-6)
    record = tw.LandscapeProbe(top=1, forms=0).measure(squared, model, [(X, Y)], mode="train")
    assert record.loss == pytest.approx(expected, rel=1e-6)


def test_the_gauss_newton_matrix_in_training_is_that_of_batch_statistics():
    outputs = lambda m, b: (m(b[0]), b[1])  # noqa: E731
    head = {"params": "3.*"}  # linear in the head: the Hessian itself
    loss = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    truth = by_differences(loss, normed(), [(X, LABELS)], chosen=lambda name: name.startswith("3."), train=True)
    outcome = tw.GaussNewton(outputs, normed(), [(X, LABELS)], **head, mode="train")
    assert verdict(lambda: whole(outcome), truth, 1e-5).word == "right"


def test_a_seed_fixes_what_is_random_in_training():
    model = stirred(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)), 0.6)
    state = torch.get_rng_state()
    one, two, other = (tw.Hessian(squared, model, [(X, Y)], mode="train", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(whole(one), whole(two))
    assert not torch.equal(whole(one), whole(other))
    exact = tw.dense_hessian(squared, model, [(X, Y)], mode="train", seed=1).matrix
    assert verdict(lambda: whole(one), exact.double(), 1e-5).word == "right"


def test_another_mode_is_refused():
    with pytest.raises(ThalwegError, match=r"mode.*'training'"):
        tw.Hessian(squared, mlp(), [(X, Y)], mode="training")


# Kind 14: contexts around the call, and faster paths that PyTorch takes without gradients.
def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(2, 1, 2, batch_first=True, activation="gelu")
    return net(
        lambda m, x, pad: m.o(m.t(m.e(x), src_key_padding_mask=pad)),
        e=nn.Linear(3, 2),
        t=nn.TransformerEncoder(layer, 1),
        o=nn.Linear(2, 2),
    )


SEQUENCES = normal(4, 5, 3, seed=1), torch.arange(5)[None] >= torch.tensor([5, 3, 2, 4])[:, None], normal(4, 5, 2, seed=2)


def over_all(m: nn.Module, b: Any) -> Tensor:
    return (m(b[0], b[1]) - b[2]).square().mean()


def over_what_counts(m: nn.Module, b: Any) -> tuple[Tensor, int]:
    return (m(b[0], b[1]) - b[2]).square()[~b[1]].sum(), int((~b[1]).sum())


FAULTS.add("the head of an encoder", lambda: Given(over_all, encoder(), [SEQUENCES], params="o.*"), 14)
FAULTS.add("the head of an encoder over what counts", lambda: Given(over_what_counts, encoder(), [SEQUENCES], params="o.*"), 14)


@pytest.mark.parametrize("params", [None, "o.*"])
def test_a_slice_through_an_encoder_holds_its_loss(params):
    model = encoder()
    slices = Slices(over_all, model, [SEQUENCES], params)
    assert float(slices.line(torch.ones(slices.layout.dim), [0.0]).losses[0]) == pytest.approx(slices.loss, rel=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_slice_through_attention_without_weights_holds_its_loss():
    model = net(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(2, 1, batch_first=True))
    slices = Slices(lambda m, b: (m(b) - 1).square().mean(), model, [normal(3, 4, 2)])
    assert float(slices.line(torch.ones(slices.layout.dim), [0.0]).losses[0]) == pytest.approx(slices.loss, rel=1e-5)


INFERENCE = "right | refused: inference"


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_made_in_inference_mode(way):
    with torch.inference_mode():
        batch = X * 1, Y * 1
    outcome = verdict(lambda: attempted(Given(squared, mlp(), [batch]), way), as_seen(truth_of(plain_network), way), 1e-5)
    assert outcome.is_as(INFERENCE), outcome


@pytest.mark.parametrize("way", WAYS)
def test_weights_made_in_inference_mode(way):
    with torch.inference_mode():
        model = mlp()
    outcome = verdict(lambda: attempted(Given(squared, model), way), as_seen(truth_of(plain_network), way), 1e-5)
    assert outcome.is_as(INFERENCE), outcome


@pytest.mark.parametrize("way", WAYS)
def test_under_autocast(way):
    truth = as_seen(truth_of(plain_network), way)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = verdict(lambda: attempted(Given(squared, mlp()), way), truth, 1e-5)
    assert outcome.is_as("right | refused: autocast"), outcome


@pytest.mark.parametrize(("fault", "way"), FAULTS.attempts(), ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    outcome = outcome_of(fault, way)
    assert outcome.is_as(fault.expected), outcome
