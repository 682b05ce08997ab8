"""Kinds of inputs on which curvature was once wrong, or refused for a wrong reason: right, or refused in one line that helps.

Each small function builds a loss, a model and batches; where the loss itself cannot be differenced (weights that were captured
before), it gives another loss with the same Hessian. The table says the kind and what may come of it, see `Verdict.is_as`.
"""

import collections
import contextlib
import copy
import functools
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from tests.curvature.cases import normal, stirred
from tests.curvature.cases import whole as integers
from tests.curvature.oracle import Verdict, by_differences, verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import thalweg as tw
from thalweg.curvature.trace import trace
from thalweg.errors import ThalwegError
from thalweg.landscape.slices import Slices

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
WAYS = {"Hessian 32": torch.float32, "Hessian 64": torch.float64, "dense 64": torch.float64, "probe 32": torch.float32}
X, Y, LABELS = normal(8, 3, seed=1), normal(8, 2, seed=2), integers(2, 8, seed=3)
EITHER = "right | refused: "


@dataclass(frozen=True)
class Given:
    """What `Hessian` gets, and a loss, model and batches with the same Hessian where differences of its own are none."""

    loss: Any
    model: Any
    batches: Any = field(default_factory=lambda: [(X, Y)])
    same: Any = None
    """A `Given`, or the matrix itself."""
    params: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    step: float = 1e-3
    train: bool = False

    @property
    def truth(self) -> Tensor:
        if isinstance(self.same, Tensor):
            return self.same
        of = self.same or self
        chosen = (lambda name: True) if self.params is None else (lambda name: name.startswith(self.params.rstrip("*")))
        return by_differences(of.loss, of.model, of.batches, of.step, chosen=chosen, train=self.train)


@dataclass(frozen=True)
class Fault:
    """One member of a kind."""

    name: str
    build: Callable[[], Given]
    kind: int
    expected: str = "right"
    ways: Sequence[str] = tuple(WAYS)
    tolerance: float | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


FAULTS: list[Fault] = []


def one(*given: Any, **named: Any) -> None:
    """Put a member into the table; arguments as for `Fault`."""
    FAULTS.append(Fault(*given, **named))


def fault(*given: Any, **named: Any) -> Callable[[Callable[[], Given]], Callable[[], Given]]:
    """The same for a function, whose name is the member's."""

    def keep(build: Callable[[], Given]) -> Callable[[], Given]:
        one(build.__name__.replace("_", " "), build, *given, **named)
        return build

    return keep


@functools.cache
def truth_of(build: Callable[[], Given]) -> Tensor:
    return build().truth


def attempted(given: Given, way: str) -> Tensor:
    """The matrix, or what the probe gives of it."""
    first, dtype = (given.loss, given.model, given.batches), WAYS[way]
    torch.manual_seed(0)
    if way.startswith("probe"):
        probe = tw.LandscapeProbe(top=1, forms=0, dtype=dtype)
        record = probe.measure(*first, params=given.params, **given.options)
        return torch.tensor([record.trace.value, record.largest[0]])
    if way.startswith("dense"):
        return tw.dense_hessian(*first, given.params, dtype, **given.options).matrix
    return whole(tw.Hessian(*first, given.params, dtype, **given.options))


def squared(m: Any, b: Any) -> Tensor:
    return (m(b[0]) - b[1]).square().mean()


def summed(m: Any, b: Any) -> tuple[Tensor, int]:
    """Cross-entropy as a sum, and the number of targets."""
    return F.cross_entropy(m(b[0]), b[1], reduction="sum"), len(b[1])


def mlp(inputs: int = 3, outputs: int = 2) -> nn.Sequential:
    """20 weights as it comes."""
    return stirred(nn.Sequential(nn.Linear(inputs, 3), nn.Tanh(), nn.Linear(3, outputs)), 0.6)


def many(size: int = 8, *shape: int) -> Tensor:
    """Inputs for more samples than one piece of a batch holds."""
    return normal(size, *shape, seed=4)


class Net(nn.Module):
    """Modules by name, and a forward function that is handed over."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Any) -> Tensor:
        return self.run(self, *inputs)


def net(forward: Callable[..., Tensor], **modules: Any) -> Net:
    """With weights drawn anew, single numbers excepted."""
    made = Net(forward, **modules)
    with torch.no_grad():
        for seed, weight in enumerate(p for p in made.parameters() if p.dim() and not p.is_complex()):
            weight.copy_(0.6 * normal(*weight.shape, seed=seed) + (1.0 if weight.dim() == 1 else 0.0))
    return made


# Kind 1: the loss depends on weights that were captured before the call.
CAPTURED = "right | refused: weight"


def penalized(weights: Callable[[nn.Module], Any]) -> Given:
    """Squares of weights that were captured, against a penalty on the model's own."""
    model = mlp()
    kept = list(weights(model))
    own = lambda m, b: squared(m, b) + 0.1 * sum(p.square().sum() for p in m.parameters())  # noqa: E731
    return Given(lambda m, b: squared(m, b) + 0.1 * sum(p.square().sum() for p in kept), model, same=Given(own, model))


one("a penalty over a list of parameters", lambda: penalized(lambda m: m.parameters()), 1, CAPTURED)
one(
    "a penalty over the groups of an optimizer",
    lambda: penalized(lambda m: torch.optim.SGD(m.parameters(), lr=0.1).param_groups[0]["params"]),
    1,
    CAPTURED,
)
one("a penalty over a dict of names", lambda: penalized(lambda m: dict(m.named_parameters()).values()), 1, CAPTURED)
one("a penalty over views that were taken before", lambda: penalized(lambda m: [p.view(-1) for p in m.parameters()]), 1, CAPTURED)
one("a penalty over weights flattened before", lambda: penalized(lambda m: [p[None] for p in m.parameters()]), 1, CAPTURED)


@fault(1, CAPTURED)
def one_captured_weight_in_the_middle_of_the_model():
    model = mlp()
    weight = model[2].weight
    loss = lambda m, b: (F.linear(m[1](m[0](b[0])), weight, m[2].bias) - b[1]).square().mean()  # noqa: E731
    return Given(loss, model, same=Given(squared, model))


@fault(1, CAPTURED)
def elastic_weight_consolidation_with_kept_parameters():
    model = mlp()
    pairs = [(p, p.detach() + 0.1, p.detach().square()) for p in model.parameters()]
    own = lambda m, b: (  # noqa: E731
        squared(m, b)
        + sum((f.to(p) * (p - old.to(p)).square()).sum() for p, (_, old, f) in zip(m.parameters(), pairs, strict=True))
    )
    kept = lambda m, b: squared(m, b) + sum((f.to(p) * (p - old.to(p)).square()).sum() for p, old, f in pairs)  # noqa: E731
    return Given(kept, model, same=Given(own, model))


def tied_by_a_list(dtype: torch.dtype, listed: bool) -> Given:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.l = nn.Embedding(4, 3), nn.Linear(3, 3)
            self.head = [self.e.weight]

        def forward(self, i: Tensor) -> Tensor:
            return F.linear(torch.tanh(self.l(self.e(i))), self.head[0] if listed else self.e.weight)

    ids = integers(4, 8, seed=5)
    loss = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    same = tied_by_a_list(dtype, False) if listed else None
    return Given(loss, stirred(Tied(), 0.6).to(dtype), [(ids, ids.roll(1))], same=same)


one("a head tied through a list", lambda: tied_by_a_list(torch.float32, True), 1, CAPTURED, ways=["Hessian 32", "dense 64"])
one(
    "a head tied through a list in float64",
    lambda: tied_by_a_list(torch.float64, True),
    1,
    CAPTURED,
    ways=["Hessian 64", "dense 64"],
)


@fault(1)
def the_model_itself_from_outside():
    model = mlp()
    return Given(lambda m, b: squared(model, b), model, same=Given(squared, model))


@fault(1)
def a_teacher_that_still_trains_is_a_constant():
    model, teacher = mlp(), stirred(mlp(), 0.4)
    teachers = {torch.float32: teacher, torch.float64: copy.deepcopy(teacher).double()}
    return Given(lambda m, b: (m(b[0]) - teachers[b[0].dtype](b[0])).square().mean(), model)


@fault(1)
def captured_weights_that_are_not_chosen_are_constants():
    model = mlp()
    kept = model[0].weight
    loss = lambda m, b: squared(m, b) + m[2].weight.square().sum() * kept.square().sum().to(b[0])  # noqa: E731
    return Given(loss, model, params="2.*")


# Kind 2: the second value of (total, count) is not a count.
COUNT = "refused: count"


one("the outputs in place of a count", lambda: Given(lambda m, b: (squared(m, b), m(b[0])), mlp(), same=torch.eye(20)), 2, COUNT)
one(
    "another loss in place of a count",
    lambda: Given(lambda m, b: (squared(m, b), m(b[0]).square().mean()), mlp(), same=torch.eye(20)),
    2,
    COUNT,
)
one(
    "a dict of numbers in place of a count",
    lambda: Given(lambda m, b: (squared(m, b), {"mse": 1.0}), mlp(), same=torch.eye(20)),
    2,
    COUNT,
)
one("a count for every sample", lambda: Given(lambda m, b: (squared(m, b), torch.ones(8)), mlp(), same=torch.eye(20)), 2, COUNT)
one("a count that is text", lambda: Given(lambda m, b: (squared(m, b), "8"), mlp(), same=torch.eye(20)), 2, COUNT)
one("a count that is nan", lambda: Given(lambda m, b: (squared(m, b), float("nan")), mlp(), same=torch.eye(20)), 2, COUNT)
one("nothing in place of a count", lambda: Given(lambda m, b: (squared(m, b), None), mlp(), same=Given(squared, mlp())), 2, EITHER)
one(
    "a list of total and count",
    lambda: Given(lambda m, b: list(summed(m, b)), mlp(), [(X, LABELS)], same=Given(summed, mlp(), [(X, LABELS)])),
    2,
    EITHER,
)
one(
    "a count as a tensor of whole numbers",
    lambda: Given(lambda m, b: (summed(m, b)[0], (b[1] >= 0).sum()), mlp(), [(X, LABELS)]),
    2,
)
one("a count of numpy", lambda: Given(lambda m, b: (summed(m, b)[0], np.int64(8)), mlp(), [(X, LABELS)]), 2)


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


one("the head of a model that merges on eval", lambda: Given(squared, merging(), params="2.*"), 3)
one("all of a model that merges on eval", lambda: Given(squared, merging()), 3)


@fault(3)
def a_module_whose_train_must_not_be_called():
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> "Stubborn":
            raise AssertionError("train() was called")

    return Given(squared, stirred(nn.Sequential(Stubborn(3, 3), nn.Tanh(), nn.Linear(3, 2)), 0.6))


one("batch norm in evaluation", lambda: Given(squared, normed()), 3)
one("batch norm in training", lambda: Given(squared, normed(), options={"mode": "train"}, train=True), 3)
one(
    "batch norm without running statistics",
    lambda: Given(
        squared, stirred(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)), 0.6)
    ),
    3,
)


@fault(3)
def instance_norm_that_tracks_in_training():
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten())
    loss = lambda m, b: (m(b[0])[:, :2] - b[1]).square().mean()  # noqa: E731
    return Given(loss, stirred(model, 0.6), options={"mode": "train"}, train=True)


one(
    "dropout that drops nothing in training",
    lambda: Given(
        squared, stirred(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.Linear(3, 2)), 0.6), options={"mode": "train"}
    ),
    3,
)


@fault(3)
def dropout_in_evaluation():
    return Given(squared, stirred(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)), 0.6))


RANDOM = "refused: random"


@fault(3, "refused: dropout")
def dropout_in_training():
    model = stirred(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)), 0.6)
    return Given(squared, model, options={"mode": "train"}, same=torch.eye(20))


@fault(3, RANDOM)
def noise_in_training():
    model = net(lambda m, x: m.b(m.a(x) + torch.randn_like(x) * m.training), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    return Given(squared, model, options={"mode": "train"}, same=torch.eye(20))


@fault(3, RANDOM)
def stochastic_depth_in_training():
    model = net(
        lambda m, x: m.b(x + m.a(x) * float(torch.rand(()) > 0.5) if m.training else m.a(x)), a=nn.Linear(3, 3), b=nn.Linear(3, 2)
    )
    return Given(squared, model, options={"mode": "train"}, same=torch.eye(20))


def normed() -> nn.Module:
    model = stirred(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)), 0.6)
    model[1].running_mean.copy_(normal(3, seed=6))
    return model


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
    found = tw.GaussNewton(outputs, normed(), [(X, LABELS)], **head, mode="train")
    assert verdict(lambda: whole(found), truth, 1e-5).word == "right"


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


# Kind 4: what is computed again in the backward pass, when the model's own weights are back.
def again(run: Callable[..., Tensor]) -> Given:
    return Given(lambda m, b: (run(m, b[0]) - b[1]).square().mean(), mlp(), same=Given(squared, mlp()))


@fault(4)
def a_checkpointed_block():
    return again(lambda m, x: m[2](checkpoint(lambda t: m[1](m[0](t)), x, use_reentrant=False)))


@fault(4)
def a_checkpointed_model():
    return again(lambda m, x: checkpoint(m, x, use_reentrant=False))


one("a checkpointed sequence", lambda: again(lambda m, x: checkpoint_sequential(m, 2, x, use_reentrant=False)), 4)


@fault(4)
def checkpoints_in_checkpoints():
    inner = lambda m, t: checkpoint(m[0], t, use_reentrant=False)  # noqa: E731
    return again(lambda m, x: m[2](checkpoint(lambda t: m[1](inner(m, t)), x, use_reentrant=False)))


one(
    "a checkpoint without kept random state",
    lambda: again(lambda m, x: checkpoint(m, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none")),
    4,
)


@fault(4)
def saved_on_the_cpu():
    def run(m: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return m(x)

    return again(run)


@fault(4, EITHER)
def a_reversible_block_that_computes_again_with_the_models_weights():
    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, module: nn.Module, *weights: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.module = module
            with torch.no_grad():
                return module(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            x = ctx.saved_tensors[0].detach().requires_grad_(True)
            with torch.enable_grad():
                y = ctx.module(x)
            parts = torch.autograd.grad(y, [x, *ctx.module.parameters()], g)
            return parts[0], None, *parts[1:]

    return again(lambda m, x: m[2](Again.apply(x, m[:2], *m[:2].parameters())))


@pytest.mark.parametrize("method", ["rebuilt", "recorded", "differences"])
def test_checkpointed_products_are_right_or_refused_in_every_method(method):
    given = a_checkpointed_block()
    truth = truth_of(a_checkpointed_block)
    attempt = lambda: whole(tw.Hessian(given.loss, given.model.double(), given.batches, method=method))  # noqa: E731
    assert verdict(attempt, truth, 1e-6).is_as(EITHER if method == "recorded" else "right")


@pytest.mark.parametrize("build", [a_checkpointed_block, a_checkpointed_model, saved_on_the_cpu])
def test_an_operator_stays_when_the_model_is_trained_on(build):
    given = build()
    hessian = tw.Hessian(given.loss, given.model, given.batches, check=False)
    before = whole(hessian)
    with torch.no_grad():
        for p in given.model.parameters():
            p.add_(0.5)
    assert torch.equal(whole(hessian), before)


# Kind 5: checks that are missing or let everything pass. The gradient below is not that of a loss, or its derivative is wrong.
WRONG = "refused: "


class Cube(torch.autograd.Function):
    """A custom function that forgets that its derivative depends on the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3 * ctx.saved_tensors[0].detach() ** 2


class Reversed(torch.autograd.Function):
    """The identity, the gradient turned round, as for adversarial domains."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


def scaled(loss: Any, scale: float) -> Given:
    return Given(lambda m, b: scale * loss(m, b), mlp(), same=torch.eye(20))


def through(bend: Callable[[Tensor], Tensor], scale: float = 1.0) -> Given:
    """Something between the layers."""
    return scaled(lambda m, b: (m[2](bend(m[0](b[0]))) - b[1]).square().mean(), scale)


one("a wrong second derivative", lambda: through(Cube.apply), 5, WRONG)
one("a wrong second derivative of a small loss", lambda: through(Cube.apply, 1e-7), 5, WRONG)
one("a wrong second derivative of a tiny loss", lambda: through(Cube.apply, 1e-12), 5, WRONG)


@fault(5, WRONG)
def a_wrong_second_derivative_beside_kinks():
    return through(lambda h: F.relu(Cube.apply(h)))


@fault(5, WRONG)
def a_head_on_detached_features():
    return scaled(lambda m, b: squared(m, b) + (m[2](m[1](m[0](b[0])).detach()) + b[1]).square().mean(), 1.0)


one(
    "a head on detached features of a small loss",
    lambda: scaled(lambda m, b: squared(m, b) + (m[2](m[1](m[0](b[0])).detach()) + b[1]).square().mean(), 1e-8),
    5,
    WRONG,
)
one("a straight through sign", lambda: through(lambda h: h + (torch.sign(h) - h).detach()), 5, WRONG)
one("straight through rounding as for quantisation", lambda: through(lambda h: h + ((4 * h).round() / 4 - h).detach()), 5, WRONG)


@fault(5, WRONG)
def a_stopped_gradient_on_the_other_branch():
    def loss(m: nn.Module, b: Any) -> Tensor:
        p, z = m(b[0]), m(b[0].flip(1)).detach()
        return -F.cosine_similarity(p, z).mean()

    return scaled(loss, 1.0)


one("a gradient turned round", lambda: through(lambda h: Reversed.apply(torch.tanh(h))), 5, WRONG)


@fault(5, WRONG)
def a_policy_gradient_with_a_detached_reward():
    def loss(m: nn.Module, b: Any) -> Tensor:
        chance = m(b[0]).log_softmax(-1)
        return -(chance[:, 0] * chance[:, 1].exp().detach()).mean()

    return scaled(loss, 1.0)


one(
    "a loss normed by its own detached size",
    lambda: scaled(lambda m, b: squared(m, b) / squared(m, b).detach() + 0.1 * m(b[0]).square().mean(), 1.0),
    5,
    WRONG,
)


@fault(5, "refused: differ")
def functional_dropout():
    return through(lambda h: F.dropout(h, 0.5))


@fault(5, "refused: differ")
def functional_dropout_beside_kinks():
    return through(lambda h: F.dropout(F.relu(h), 0.5), 1e-8)


one(
    "noise on the inputs",
    lambda: scaled(lambda m, b: squared(m, (b[0] + 0.1 * torch.randn_like(b[0]), b[1])), 1.0),
    5,
    "refused: differ",
)


@fault(5, "right | refused: ", ways=["Hessian 64", "dense 64", "probe 32"])
def weight_norm_and_a_kink():
    torch.manual_seed(1)
    return Given(squared, nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 2)), step=1e-5)


def one_step() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        z, e = x.new_zeros(len(x), 3), m.i(x)
        with torch.no_grad():
            for _ in range(3):
                z = torch.relu(m.f(z) + e)
        return m.o(torch.relu(m.f(z) + e))

    return net(run, i=nn.Linear(3, 3), f=nn.Linear(3, 3), o=nn.Linear(3, 2))


@fault(5, WRONG)
def a_gradient_of_the_last_step_only():
    return Given(squared, one_step(), same=torch.eye(32))


MATRIX_FREE = [
    weight_norm_and_a_kink,
    a_gradient_of_the_last_step_only,
    functional_dropout_beside_kinks,
    a_wrong_second_derivative_beside_kinks,
]


@pytest.mark.parametrize("build", MATRIX_FREE, ids=lambda build: build.__name__)
def test_a_matrix_free_probe_refuses_them_too(build):
    given = build()
    probe = tw.LandscapeProbe(top=2, forms=0, method="matrix-free", dtype=torch.float64)
    with pytest.raises(ThalwegError, match=r"derivative|differ|symmetric|gradient"):
        probe.measure(given.loss, given.model, given.batches)


def test_slices_refuse_a_random_loss():
    with pytest.raises(ThalwegError, match=r"random|differ"):
        Slices(functional_dropout().loss, mlp(), [(X, Y)]).line(torch.ones(20), [0.0, 0.1])


def test_the_gauss_newton_matrix_of_detached_logits_is_refused():
    outputs = lambda m, b: (1e-3 * (m(b[0]) + m(b[0].flip(1)).detach()), b[1])  # noqa: E731
    with pytest.raises(ThalwegError, match="differ"):
        tw.GaussNewton(outputs, mlp(), [(X, LABELS)])


# Kind 6: checks that are too strict. All of these are right.
class InFloat32(nn.Module):
    """A norm that computes in float32 whatever it is given, in one of the ways that people write."""

    def __init__(self, down: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.down = nn.Parameter(torch.ones(3)), down

    def forward(self, h: Tensor) -> Tensor:
        low = self.down(h)
        return self.weight * (low * torch.rsqrt(low.square().mean(-1, keepdim=True) + 1e-6)).to(h.dtype)


DOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda h: h.float(),
    "to": lambda h: h.to(torch.float32),
    "to by name": lambda h: h.to(dtype=torch.float32),
    "type": lambda h: h.type(torch.float32),
    "type by name": lambda h: h.type("torch.FloatTensor"),
    "to another": lambda h: h.to(torch.ones(1)),
    "type_as": lambda h: h.type_as(torch.ones(1)),
    "a constant": lambda h: h.float() * torch.tensor([1.5], dtype=torch.float32),
}


def normed_in(down: Callable[[Tensor], Tensor]) -> nn.Module:
    return stirred(nn.Sequential(nn.Linear(3, 3), InFloat32(down), nn.Tanh(), nn.Linear(3, 2)), 0.6)


def in_float32(name: str) -> Given:
    kept = (lambda h: h * 1.5) if name == "a constant" else (lambda h: h)
    return Given(squared, normed_in(DOWN[name]), same=Given(squared, normed_in(kept)))


for name in DOWN:
    one(f"a norm in float32 by {name}", functools.partial(in_float32, name), 6, tolerance=1e-5)


@fault(6, tolerance=1e-5)
def logits_in_float32():
    plain = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    cast = lambda m, b: F.cross_entropy(m(b[0]).float(), b[1])  # noqa: E731
    return Given(cast, mlp(), [(X, LABELS)], same=Given(plain, mlp(), [(X, LABELS)]))


@fault(6, tolerance=1e-5)
def a_softmax_in_float32():
    attend = lambda h: h.softmax(-1, dtype=torch.float32).to(h.dtype) * h  # noqa: E731
    kept = lambda h: h.softmax(-1) * h  # noqa: E731
    of = lambda bend: lambda m, b: (m[2](bend(m[0](b[0]))) - b[1]).square().mean()  # noqa: E731
    return Given(of(attend), mlp(), same=Given(of(kept), mlp()))


@fault(6, tolerance=1e-5)
def rotary_angles_in_float32():
    angles = lambda x: (torch.arange(len(x), dtype=torch.float32, device=x.device)[:, None] / 7).cos()  # noqa: E731
    return Given(
        lambda m, b: ((m(b[0]).float() * angles(b[0])).to(b[0].dtype) - b[1]).square().mean(),
        mlp(),
        same=Given(
            lambda m, b: (m(b[0]) * (torch.arange(8, dtype=torch.float64)[:, None] / 7).cos() - b[1]).square().mean(), mlp()
        ),
    )


one(
    "a layer in half precision",
    lambda: Given(lambda m, b: (m(b[0]).bfloat16().to(b[0].dtype) - b[1]).square().mean(), mlp(), same=Given(squared, mlp())),
    6,
    "right | refused: half | refused: float16 | refused: bfloat16 | refused: precision",
    tolerance=1e-5,
)


@fault(6, "right | refused: autocast", tolerance=1e-5)
def autocast():
    def loss(m: nn.Module, b: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = m(b[0])
        return (out.float() - b[1]).square().mean()

    return Given(loss, mlp(), same=Given(squared, mlp()))  # autocast leaves float64 alone


class Sized(nn.Module):
    """Weights of a size, that the loss takes in units of that size."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.w, self.size = nn.Parameter(torch.linspace(-1, 1, 5).double() * size), size

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.w / self.size * x).sum(1)


def of_size(size: float) -> Given:
    return Given(lambda m, b: m(b).square().mean(), Sized(size), [normal(8, 5, seed=7).double()], step=1e-3 * size)


one("weights of size 1e minus 6", lambda: of_size(1e-6), 6, ways=["Hessian 64", "dense 64"])
one("weights of size 1e minus 8", lambda: of_size(1e-8), 6, ways=["Hessian 64", "dense 64"])
one("weights of size 1e6", lambda: of_size(1e6), 6, ways=["Hessian 64", "dense 64"])


@fault(6, tolerance=1e-5)
def one_weight_of_3e6_beside_a_net():
    model = net(lambda m, x: m.n(x) * torch.log1p(m.t / 1e6), t=nn.Parameter(torch.zeros(1)), n=mlp())
    with torch.no_grad():
        model.t.fill_(3e6)
    scale = torch.ones(21, dtype=torch.float64)
    scale[0] = 1e6  # in units of 1e6, where differences are good: the weight comes first
    small = net(lambda m, x: m.n(x) * torch.log1p(m.t), t=nn.Parameter(torch.zeros(1)), n=mlp())
    with torch.no_grad():
        small.t.fill_(3.0)
    truth = by_differences(squared, small, [(X, Y)]) / scale / scale[:, None]
    return Given(squared, model, same=truth)


one("a loss in large units", lambda: Given(lambda m, b: 1e12 * squared(m, b), mlp()), 6)
one("a loss in small units", lambda: Given(lambda m, b: 1e-12 * squared(m, b), mlp()), 6)


@fault(6)
def a_loss_that_is_met():
    model = mlp()
    met = {torch.float32: model(X).detach(), torch.float64: copy.deepcopy(model).double()(X.double()).detach()}
    return Given(lambda m, b: (m(b[0]) - met[b[0].dtype]).square().mean(), model)


one(
    "a loss that bends fast",
    lambda: Given(lambda m, b: torch.sin(300 * m(b[0])).square().mean(), mlp(), step=1e-5),
    6,
    ways=["Hessian 64", "dense 64"],
)
one(
    "a linear loss has no curvature",
    lambda: Given(lambda m, b: m(b[0]).mean(), stirred(nn.Linear(3, 2), 0.6), same=torch.zeros(8, 8, dtype=torch.float64)),
    6,
    ways=["Hessian 32", "Hessian 64", "dense 64"],
)


@fault(6)
def all_weights_zero():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return Given(lambda m, b: F.cross_entropy(m(b[0]), b[1]), model, [(X, LABELS)])


# Kind 7: what products can do, the whole matrix and the probe can too (see also test_operations.py).
def recurrent(kind: Any) -> Given:
    model = net(lambda m, x: m.o(m.r(x)[0]), r=kind(1, 2, batch_first=True), o=nn.Linear(2, 1))
    return Given(squared, model, [(normal(3, 4, 1, seed=1), normal(3, 4, 1, seed=2))])


one("an lstm", lambda: recurrent(nn.LSTM), 7)
one("a gru", lambda: recurrent(nn.GRU), 7)
one("an rnn", lambda: recurrent(nn.RNN), 7)


@fault(7)
def a_hook_on_the_backward_pass():
    model = mlp()
    model[0].register_full_backward_hook(lambda *given: None)
    return Given(squared, model, same=Given(squared, mlp()))


@fault(7)
def a_hook_on_an_output():
    seen: list[Tensor] = []

    def loss(m: nn.Module, b: Any) -> Tensor:
        h = m(b[0])
        if h.requires_grad:
            h.register_hook(lambda g: seen.append(g))
        return (h - b[1]).square().mean()

    return Given(loss, mlp(), same=Given(squared, mlp()))


@fault(7)
def a_loss_of_the_derivative_by_the_inputs():
    def loss(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        u = m(t)[:, :1]
        return (torch.autograd.grad(u.sum(), t, create_graph=True)[0][:, :1] + u).square().mean()

    return Given(loss, mlp())


@fault(7)
def a_penalty_on_the_gradient_of_the_inputs():
    def loss(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        slope = torch.autograd.grad(squared(m, (t, b[1])), t, create_graph=True)[0]
        return squared(m, b) + slope.square().sum()

    return Given(loss, mlp())


@fault(7)
def rows_written_in_place():
    def run(m: Any, x: Tensor) -> Tensor:
        h, o = m.a(x), torch.zeros(len(x), 3).to(x)
        o[:, :1] = h[:, :1].tanh()
        o[:, 1:] = h[:, 1:].sin()
        return m.b(o)

    return Given(squared, net(run, a=nn.Linear(3, 3), b=nn.Linear(3, 2)))


@fault(7)
def a_scan_that_writes_its_states():
    def run(m: Any, x: Tensor) -> Tensor:
        states = x.new_zeros(x.shape[0], x.shape[1], 2)
        state = x.new_zeros(x.shape[0], 2)
        for t in range(x.shape[1]):
            state = torch.sigmoid(m.a(x[:, t])) * state + m.b(x[:, t])
            states[:, t] = state
        return m.o(states)

    model = net(run, a=nn.Linear(1, 2), b=nn.Linear(1, 2), o=nn.Linear(2, 1))
    return Given(squared, model, [(normal(3, 4, 1, seed=1), normal(3, 4, 1, seed=2))])


@fault(7)
def a_fourier_layer():
    def run(m: Any, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * torch.complex(m.re, m.im), 4).tanh()

    model = net(run, re=nn.Parameter(torch.zeros(3)), im=nn.Parameter(torch.zeros(3)))
    return Given(squared, model, [(normal(5, 4, seed=1), normal(5, 4, seed=2))])


@fault(7)
def batch_norm_put_into_training_by_the_loss():
    def loss(m: nn.Module, b: Any) -> Tensor:
        m.train()
        return squared(m, b)

    return Given(loss, normed(), train=True)


@fault(7)
def a_spatial_transformer():
    def run(m: Any, x: Tensor) -> Tensor:
        grid = F.affine_grid(m.theta.expand(len(x), 2, 3), [len(x), 1, 3, 3], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False).flatten(1) * m.gain

    model = net(run, theta=nn.Parameter(torch.zeros(1, 2, 3)), gain=nn.Parameter(torch.zeros(9)))
    return Given(squared, model, [(normal(2, 1, 3, 3, seed=1), normal(2, 9, seed=2))], step=1e-4)


# Kind 8: shapes of parameters.
@fault(8)
def a_learned_scale_of_the_logits():
    run = lambda m, x, y: m.scale.exp() * F.normalize(m.a(x), dim=-1) @ F.normalize(m.b(y), dim=-1).T  # noqa: E731
    model = net(run, a=nn.Linear(3, 3), b=nn.Linear(2, 3), scale=nn.Parameter(torch.tensor(1.2)))
    return Given(lambda m, b: F.cross_entropy(m(*b), torch.arange(len(b[0]))), model)


one(
    "a parameter without entries",
    lambda: Given(squared, net(lambda m, x: torch.tanh(m.a(x)) + m.z.sum(), a=nn.Linear(3, 2), z=nn.Parameter(torch.zeros(0)))),
    8,
)


@fault(8)
def a_matrix_without_rows():
    run = lambda m, x: torch.tanh(m.a(x)) + (m.z @ x.T).sum()  # noqa: E731
    return Given(squared, net(run, a=nn.Linear(3, 2), z=nn.Parameter(torch.zeros(0, 3))))


one(
    "one scalar alone",
    lambda: Given(
        lambda m, b: (torch.sin(m.t * b[0]) - b[1][:, :1]).square().mean(),
        net(lambda m, x: x, t=nn.Parameter(torch.tensor(0.5))),
    ),
    8,
)


@fault(8)
def only_scalars():
    model = net(lambda m, x: torch.sin(m.t * x) * m.s.exp(), t=nn.Parameter(torch.tensor(0.5)), s=nn.Parameter(torch.tensor(0.2)))
    return Given(lambda m, b: (m(b[0]) - b[1][:, :1]).square().mean(), model)


@fault(8)
def a_scalar_that_is_chosen():
    model = net(lambda m, x: torch.tanh(m.a(x)) * m.t.exp(), a=nn.Linear(3, 2), t=nn.Parameter(torch.tensor(0.5)))
    return Given(squared, model, params="t*")


@fault(8)
def dimensions_of_one():
    run = lambda m, x: torch.tanh(m.w * x[:, None, None]).sum((1, 2)) + m.v  # noqa: E731
    return Given(
        lambda m, b: m(b[0]).square().mean(), net(run, w=nn.Parameter(torch.zeros(1, 1, 1)), v=nn.Parameter(torch.zeros(1, 3)))
    )


# Kind 9: pieces of a batch break the loss.
@fault(9)
def a_graph_as_one_batch():
    adjacency = torch.eye(70) / 2 + normal(70, 70, seed=8).abs() / 70
    model = net(lambda m, x, a: a @ m.b(torch.tanh(a @ m.a(x))), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    loss = lambda m, b: (F.cross_entropy(m(b[0], b[2]), b[1], reduction="sum"), len(b[1]))  # noqa: E731
    return Given(loss, model, [(many(70, 3), integers(2, 70), adjacency)])


@fault(9)
def edges_as_many_as_nodes():
    def run(m: Any, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return m.b(torch.zeros(70, 3).to(x).index_add(0, end, torch.tanh(m.a(x))[start]))

    model = net(run, a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    loss = lambda m, b: (F.cross_entropy(m(b[0], b[2], b[3]), b[1], reduction="sum"), len(b[1]))  # noqa: E731
    return Given(loss, model, [(many(70, 3), integers(2, 70), integers(70, 70, seed=1), integers(70, 70, seed=2))])


@fault(9)
def a_batch_term_without_gradient_here():
    model = nn.ParameterDict({"w": torch.zeros(3), "v": torch.ones(3)})
    loss = lambda m, b: ((b @ m["v"] - 1).square().sum() + (b @ m["w"]).sum().square(), len(b))  # noqa: E731
    return Given(loss, model, [many(150, 3)])


@fault(9)
def a_batch_term_in_two_weights_that_are_zero():
    model = nn.ParameterDict({"w": torch.zeros(2), "v": torch.ones(3)})
    loss = lambda m, b: ((b @ m["v"] - 1).square().sum() + b.sum().square() * m["w"].prod(), len(b))  # noqa: E731
    return Given(loss, model, [many(150, 3)])


@fault(9)
def a_contrastive_loss():
    def loss(m: nn.Module, b: Any) -> tuple[Tensor, int]:
        h = F.normalize(m(b[0]), dim=-1)
        return F.cross_entropy(h @ h.flip(0).T, torch.arange(len(h)), reduction="sum"), len(h)

    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@fault(9)
def a_size_that_is_written_into_the_loss():
    loss = lambda m, b: (F.cross_entropy(m(b[0]).view(35, 2, 2).flatten(0, 1), b[1], reduction="sum"), 70)  # noqa: E731
    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@fault(9)
def a_statistic_of_the_batch():
    loss = lambda m, b: summed(m, (b[0] - b[0].mean(0), b[1]))  # noqa: E731
    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@fault(9)
def nothing_counts_in_the_first_piece():
    labels = integers(2, 130)
    labels[:64] = -100

    def loss(m: nn.Module, b: Any) -> tuple[Tensor, Tensor]:
        kept = (b[1] != -100).sum()
        return F.cross_entropy(m(b[0]), b[1]) * kept, kept

    return Given(loss, mlp(), [(many(130, 3), labels)])


@fault(9)
def weights_of_classes_as_many_as_samples():
    model = stirred(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 66, bias=False)), 0.6)
    with_weights = lambda m, b: (F.cross_entropy(m(b[0]), b[1], weight=b[2].exp(), reduction="sum"), len(b[1]))  # noqa: E731
    head = Given(with_weights, model, [(many(66, 3), integers(66, 66), normal(66, seed=3))], params="0.*")
    return head


@fault(9)
def a_balance_of_experts():
    def loss(m: nn.Module, b: Any) -> tuple[Tensor, int]:
        out = m(b[0])
        share = out.softmax(-1).mean(0)
        return F.cross_entropy(out, b[1], reduction="sum") + 10 * len(out) * share.square().sum(), len(out)

    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@fault(9, ways=["Hessian 64", "dense 64"])
def time_comes_first():
    model = net(lambda m, x: m.o(m.r(x)[0]), r=nn.RNN(1, 2), o=nn.Linear(2, 1))
    loss = lambda m, b: ((m(b[0]) - b[1]).square().sum(), b[1].numel())  # noqa: E731
    return Given(loss, model, [(normal(70, 1, 1, seed=1), normal(70, 1, 1, seed=2))])


# Kind 10: arithmetic while scalings are joined.
def bent(bend: Callable[[Tensor, Any], Tensor], *more: Any) -> Given:
    """Something that scales between the layers, by constants of the batch."""
    loss = lambda m, b: (m[2](torch.tanh(bend(m[0](b[0]), b))) - b[1]).square().mean()  # noqa: E731
    return Given(loss, mlp(), [(X, Y, *more)])


LENGTHS = integers(7, 8, 1, seed=9) + 3


@fault(10)
def a_mean_by_lengths():
    return bent(lambda h, b: h / b[2], LENGTHS)


one("a mean by lengths of one number", lambda: bent(lambda h, b: h / b[2], torch.tensor(7)), 10)


@fault(10)
def a_mean_over_a_mask_of_flags():
    mask = integers(2, 8, 3, seed=9) == 1
    return bent(lambda h, b: h * b[2] / b[2].sum().clamp(min=1), mask)


@fault(10)
def a_sum_over_two_masks_of_flags():
    mask = integers(2, 8, 3, seed=9) == 1
    return bent(lambda h, b: (h * h) * b[2] + (h * h) * b[3] + h, mask, mask.roll(1, 0) | mask)


one(
    "scaled twice by bytes",
    lambda: bent(
        lambda h, b: h * b[2] * b[3] / 4e4, torch.tensor([200], dtype=torch.uint8), torch.tensor([201], dtype=torch.uint8)
    ),
    10,
)
one(
    "scaled twice by large whole numbers",
    lambda: bent(lambda h, b: h * b[2] * b[3] / 1e20, torch.tensor([10**10]), torch.tensor([10**10])),
    10,
)
one("divided by bytes", lambda: bent(lambda h, b: h / b[2] - h * b[2] / 100, torch.tensor([[3], [7]] * 4, dtype=torch.uint8)), 10)
one("divided by a constant of its own precision", lambda: bent(lambda h, b: h / torch.tensor(0.7)), 10)
one(
    "scaled twice by constants of their own precision",
    lambda: bent(lambda h, b: h * torch.tensor(0.7) * torch.tensor(1.3) - h * torch.tensor(0.1)),
    10,
)
one("a mean over what is not nan", lambda: bent(lambda h, b: h - h.nanmean(0)), 10)
one("whole numbers as exponents", lambda: bent(lambda h, b: h ** b[2] / 3, integers(3, 8, 1, seed=9)), 10)


class Phase(nn.Module):
    """Through complex numbers, real in and out."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.l, self.bend = nn.Linear(3, 2), bend

    def forward(self, x: Tensor) -> Tensor:
        z = self.bend(self.l(x))
        return z.real + 0.5 * z.imag


COMPLEX: dict[str, Callable[[Tensor], Tensor]] = {
    "exp of 1j": lambda p: torch.exp(1j * p),
    "polar": lambda p: torch.polar(p.abs() + 1, p),
    "times 1j": lambda p: torch.complex(p, p.sin()) * 1j * p,
    "a square": lambda p: torch.complex(p, p.sin()) ** 2,
    "a quotient by 1j": lambda p: torch.complex(p, p.sin()) / (2 + 3j) - 1j,
    "a constant phase": lambda p: p * torch.exp(torch.tensor(0.7j, dtype=torch.complex128)).to(torch.complex(p, p).dtype),
    "rotary": lambda p: (
        torch.view_as_complex(p.view(-1, 1, 2)) * torch.polar(torch.ones(1), torch.full((1,), 0.3)).to(torch.complex(p, p).dtype)
    ),
    "a spectrum": lambda p: torch.fft.fft(p, dim=0) * 1j,
}


def complex_numbers(name: str) -> Given:
    return Given(lambda m, b: m(b[0]).square().mean() + (m(b[0]) - 0.3).mean(), stirred(Phase(COMPLEX[name]), 0.6))


for name in COMPLEX:
    one(f"complex numbers by {name}", functools.partial(complex_numbers, name), 10)


def test_whole_divisors_in_a_default_of_half_precision():
    given, truth = a_mean_by_lengths(), truth_of(a_mean_by_lengths)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = verdict(lambda: whole(tw.Hessian(given.loss, given.model, given.batches)), truth, 1e-5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.word == "right", found


def test_whole_divisors_lose_nothing_in_float64():
    given, real = a_mean_by_lengths(), a_mean_by_lengths()
    x, y, n = real.batches[0]
    exact = whole(tw.Hessian(real.loss, real.model, [(x, y, n.double())], dtype=torch.float64, method="rebuilt"))
    assert verdict(lambda: attempted(given, "Hessian 64"), exact, 1e-14).word == "right"
    assert verdict(lambda: attempted(given, "dense 64"), exact, 1e-14).word == "right"


# Kind 11: instruments of ours meet the user's.
ADJACENCY = (normal(8, 8, seed=10).abs() * (normal(8, 8, seed=11) > 0.3)) + torch.eye(8)


def convolved(mm: Callable[[Tensor, Tensor], Tensor], adjacency: Tensor) -> Given:
    of = lambda mm: lambda m, b: (mm(b[2], m[2](m[1](mm(b[2], m[0](b[0]))))) - b[1]).square().mean()  # noqa: E731
    return Given(of(mm), mlp(), [(X, Y, adjacency)], same=Given(of(torch.mm), mlp(), [(X, Y, ADJACENCY)], step=3e-4))


one("a sparse graph", lambda: convolved(torch.sparse.mm, ADJACENCY.to_sparse()), 11)
one("a sparse graph in rows", lambda: convolved(torch.sparse.mm, ADJACENCY.to_sparse_csr()), 11)
one("a sparse graph by the operator", lambda: convolved(lambda a, h: a @ h, ADJACENCY.to_sparse()), 11)


@fault(11)
def a_derivative_by_functions():
    def inner(m: nn.Module, b: Any) -> Tensor:
        d = torch.func.vmap(torch.func.grad(lambda t: m(t)[0]))(b[0])
        return (d[:, 0] + m(b[0])[:, 0]).square().mean() + m(b[0])[:, 1].square().mean()

    def plain(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        u = m(t)
        d = torch.autograd.grad(u[:, 0].sum(), t, create_graph=True)[0]
        return (d[:, 0] + u[:, 0]).square().mean() + u[:, 1].square().mean()

    return Given(inner, mlp(), same=Given(plain, mlp()))


@fault(11)
def a_laplacian_by_functions():
    def laplacian(m: nn.Module, b: Any) -> Tensor:
        bends = torch.vmap(lambda t: torch.func.jacfwd(torch.func.jacrev(lambda s: m(s)[0]))(t).trace())(b[0])
        return (bends + m(b[0]).sum(1)).square().mean()

    def by_hand(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        slope = torch.autograd.grad(m(t)[:, 0].sum(), t, create_graph=True)[0]
        bends = [torch.autograd.grad(slope[:, i].sum(), t, create_graph=True)[0][:, i] for i in range(3)]
        return (sum(bends) + m(b[0]).sum(1)).square().mean()

    return Given(laplacian, mlp(), same=Given(by_hand, mlp()))


@fault(11)
def an_adaptation_step_by_functions():
    def adapted(m: nn.Module, b: Any) -> Tensor:
        weights = dict(m.named_parameters())
        inner = lambda w: (torch.func.functional_call(m, w, (b[0][:4],)) - b[1][:4]).square().mean()  # noqa: E731
        steps = torch.func.grad(inner)(weights)
        moved = {name: w - 0.1 * steps[name] for name, w in weights.items()}
        return (torch.func.functional_call(m, moved, (b[0][4:],)) - b[1][4:]).square().mean()

    def by_hand(m: nn.Module, b: Any) -> Tensor:
        weights = dict(m.named_parameters())
        steps = torch.autograd.grad(squared(m, (b[0][:4], b[1][:4])), list(weights.values()), create_graph=True)
        w0, b0, w1, b1 = (w - 0.1 * step for w, step in zip(weights.values(), steps, strict=True))
        return (torch.tanh(b[0][4:] @ w0.T + b0) @ w1.T + b1 - b[1][4:]).square().mean()

    return Given(adapted, mlp(), same=Given(by_hand, mlp()))


@fault(11)
def a_jagged_batch():
    parts = [normal(2, 3, seed=1), normal(4, 3, seed=2)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged)
    plain = Given(lambda m, b: (m(b[0]) - 0.3).square().mean(), mlp(), [(torch.cat(parts),)])
    return Given(lambda m, b: (m(b).values() - 0.3).square().mean(), mlp(), [nested], same=plain)


@fault(11)
def hooks_of_the_users_on_what_is_saved():
    def loss(m: nn.Module, b: Any) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            return squared(m, b)

    return Given(loss, mlp(), same=Given(squared, mlp()))


@fault(11)
def sparse_gradients():
    model = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, sparse=True), l=nn.Linear(3, 2))
    return Given(squared, model, [(integers(4, 8, seed=1), Y)])


@fault(11)
def sparse_gradients_and_padding():
    model = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, sparse=True, padding_idx=0), l=nn.Linear(3, 2))
    return Given(squared, model, [(1 + integers(3, 8, seed=1), Y)])


@fault(11, "refused: ")
def a_padding_row_that_is_read_but_has_no_gradient():
    model = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, padding_idx=0), l=nn.Linear(3, 2))
    return Given(squared, model, [(integers(4, 8, seed=1), Y)], same=torch.eye(20))


@fault(11, "right | refused: max_norm")
def an_embedding_that_writes_its_weights():
    def model(**options: Any) -> nn.Module:
        made = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, **options), l=nn.Linear(3, 2))
        with torch.no_grad():
            made.e.weight.copy_(F.normalize(made.e.weight, dim=1) * 0.4)
        return made

    batch = [(integers(4, 8, seed=1), Y)]
    return Given(squared, model(max_norm=0.5), batch, same=Given(squared, model(), batch))


CONTEXTS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "a default device": lambda: torch.device("cpu"),
    "counted operations": lambda: __import__("torch.utils.flop_counter", fromlist=["x"]).FlopCounterMode(display=False),
    "hooks on what is saved": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    "a profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("way", WAYS)
def test_inside_of_a_context_it_is_right_or_refused_by_its_name(context, way):
    truth, given = truth_of(dropout_in_evaluation), dropout_in_evaluation()
    with CONTEXTS[context]():
        found = verdict(lambda: attempted(given, way), as_seen(truth, way), 1e-5)
    assert found.is_as(f"right | refused: {context}"), found


# Kind 12: batches in containers and buffers of every kind.
BATCH = "right | refused: batch"


@dataclass
class Sample:
    x: Any
    y: Any


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


class Holder:
    """A class of the user's."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


class Moving(Holder):
    """One that knows how to be moved, as batches of graphs do."""

    def to(self, *given: Any, **named: Any) -> "Moving":
        return Moving(self.x.to(*given, **named), self.y.to(*given, **named))


Pair = collections.namedtuple("Pair", "x y")
by_key = lambda m, b: squared(m, (b["x"], b["y"]))  # noqa: E731
by_name = lambda m, b: squared(m, (b.x, b.y))  # noqa: E731
tensors = lambda b: (torch.from_numpy(b[0]), torch.from_numpy(b[1]))  # noqa: E731
BATCHES: dict[str, tuple[Any, Any]] = {
    "a dataclass": (by_name, Sample(X, Y)),
    "a frozen dataclass": (by_name, Frozen(X, Y)),
    "a named tuple": (by_name, Pair(X, Y)),
    "a class of ones own": (by_name, Holder(X, Y)),
    "a class that moves": (by_name, Moving(X, Y)),
    "a namespace": (by_name, types.SimpleNamespace(x=X, y=Y)),
    "a user dict": (by_key, collections.UserDict(x=X, y=Y)),
    "an ordered dict": (by_key, collections.OrderedDict(x=X, y=Y)),
    "a default dict": (by_key, collections.defaultdict(list, x=X, y=Y)),
    "a proxy of a dict": (by_key, types.MappingProxyType({"x": X, "y": Y})),
    "a chain of dicts": (by_key, collections.ChainMap({"x": X}, {"y": Y})),
    "a user dict in a list": (lambda m, b: by_key(m, b[0]), [collections.UserDict(x=X, y=Y)]),
    "a dataclass in a dict": (lambda m, b: by_name(m, b["in"]), {"in": Sample(X, Y)}),
    "a user list": (squared, collections.UserList([X, Y])),
    "a deque": (squared, collections.deque([X, Y])),
    "arrays": (lambda m, b: squared(m, tensors(b)), (X.numpy(), Y.numpy())),
    "arrays in a dict": (lambda m, b: squared(m, tensors((b["x"], b["y"]))), {"x": X.numpy(), "y": Y.numpy()}),
    "inputs that need gradients": (squared, (X.clone().requires_grad_(True), Y)),
}


def held(name: str) -> Given:
    return Given(BATCHES[name][0], mlp(), [BATCHES[name][1]], same=Given(squared, mlp()))


for name in BATCHES:
    one(name, functools.partial(held, name), 12, BATCH)


@fault(12, "refused: different shapes")
def ragged_user_dicts_under_a_bare_mean():
    batches = [collections.UserDict(x=X, y=Y), collections.UserDict(x=X[:3], y=Y[:3])]
    return Given(by_key, mlp(), batches, same=torch.eye(20))


one(
    "ragged dataclasses under a bare mean",
    lambda: Given(by_name, mlp(), [Sample(X, Y), Sample(X[:3], Y[:3])], same=torch.eye(20)),
    12,
    "refused: different shapes | refused: batch",
)


@fault(12, BATCH)
def many_samples_in_a_user_dict():
    x, y = many(70, 3), integers(2, 70)
    loss = lambda m, b: summed(m, (b[0]["x"], b[1]))  # noqa: E731
    return Given(loss, mlp(), [(collections.UserDict(x=x), y)], same=Given(summed, mlp(), [(x, y)]))


def through_one_buffer(hand: Callable[[Tensor, Tensor], Any]) -> Iterator[Any]:
    buffer, labels = torch.empty(4, 3), torch.empty(4, 2)
    for start in (0, 4):
        buffer.copy_(X[start : start + 4])
        labels.copy_(Y[start : start + 4])
        yield hand(buffer, labels)


one(
    "one buffer for all batches",
    lambda: Given(squared, mlp(), through_one_buffer(lambda x, y: (x, y)), same=Given(squared, mlp())),
    12,
    BATCH,
)
one(
    "views of one buffer",
    lambda: Given(squared, mlp(), through_one_buffer(lambda x, y: (x.view(4, 3), y[:])), same=Given(squared, mlp())),
    12,
    BATCH,
)
one(
    "one buffer in dicts",
    lambda: Given(by_key, mlp(), through_one_buffer(lambda x, y: {"x": x, "y": y}), same=Given(squared, mlp())),
    12,
    BATCH,
)


@fault(12, BATCH)
def one_buffer_of_arrays():
    hand = lambda x, y: (x.numpy(), y.numpy())  # noqa: E731
    return Given(lambda m, b: squared(m, tensors(b)), mlp(), through_one_buffer(hand), same=Given(squared, mlp()))


@fault(12, BATCH)
def one_dict_that_is_filled_again():
    def batches() -> Iterator[Any]:
        kept: dict[str, Tensor] = {}
        for start in (0, 4):
            kept["x"], kept["y"] = X[start : start + 4], Y[start : start + 4]
            yield kept

    return Given(by_key, mlp(), batches(), same=Given(squared, mlp()))


@pytest.mark.parametrize("method", ["recorded", "rebuilt", "differences"])
def test_an_operator_stays_when_its_batch_is_overwritten(method):
    x, model = X.clone(), mlp().double()
    hessian = tw.Hessian(squared, model, [(x.double() if method == "recorded" else x, Y)], method=method)
    before = whole(hessian)
    x.zero_()
    assert torch.equal(whole(hessian), before)


# Kind 13: the Gauss-Newton matrix with classes at minus infinity, and NaN.
def classes() -> nn.Module:
    return mlp(3, 3)


def truth_of_classes(keep: Callable[[Tensor], Tensor] = lambda x: x, labels: Any = None) -> Tensor:
    """The Hessian of the head, which is linear in the logits: the Gauss-Newton matrix of the head."""
    y = integers(3, 8, seed=3) if labels is None else labels
    loss = lambda m, b: F.cross_entropy(keep(m(b[0])), b[1])  # noqa: E731
    return by_differences(loss, classes(), [(X, y)], chosen=lambda name: name.startswith("2."))


def newton(outputs: Any, dtype: torch.dtype, batch: Any = None) -> Tensor:
    batch = batch or (X, integers(3, 8, seed=3))
    return whole(tw.GaussNewton(outputs, classes(), [batch], "2.*", dtype))


def padded(m: nn.Module, b: Any) -> tuple[Tensor, Tensor]:
    logits = m(b[0])
    return torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1), b[1]


LEGAL = F.one_hot(integers(3, 8, seed=3), 3).bool() | (normal(8, 3, seed=12) > 0)


def legal(m: nn.Module, b: Any) -> tuple[Tensor, Tensor]:
    return m(b[0]).masked_fill(~LEGAL, -torch.inf), b[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("outputs", "keep"), [(padded, lambda x: x), (legal, lambda x: x.masked_fill(~LEGAL, -torch.inf))], ids=["padded", "legal"]
)
def test_gauss_newton_with_impossible_classes(outputs, keep, dtype):
    found = verdict(lambda: newton(outputs, dtype), truth_of_classes(keep), 1e-5)
    assert found.word == "right", found


def test_gauss_newton_where_only_one_class_is_possible():
    only = lambda m, b: (m(b[0]).masked_fill(~F.one_hot(b[1], 3).bool(), -torch.inf), b[1])  # noqa: E731
    found = verdict(lambda: newton(only, torch.float64), torch.zeros(12, 12, dtype=torch.float64), 1e-12)
    assert found.word == "right", found


def test_gauss_newton_of_logits_in_half_precision_is_near_or_refused():
    found = verdict(lambda: newton(lambda m, b: (m(b[0]).bfloat16(), b[1]), torch.float32), truth_of_classes(), 3e-2)
    assert found.is_as("right | refused: bfloat16 | refused: precision | refused: half"), found


def test_gauss_newton_with_an_impossible_target_is_refused():
    with pytest.raises(ThalwegError, match="inf"):
        newton(lambda m, b: (m(b[0]).masked_fill(F.one_hot(b[1], 3).bool(), -torch.inf), b[1]), torch.float64)


def test_gauss_newton_with_nan_where_nothing_counts_is_right_or_refused():
    labels = integers(3, 8, seed=3)
    labels[0] = -100
    rows = torch.ones(8, 1)
    rows[0] = torch.nan
    outputs = lambda m, b: (m(b[0]) * rows.to(b[0]), b[1])  # noqa: E731
    found = verdict(lambda: newton(outputs, torch.float64, (X, labels)), truth_of_classes(labels=labels), 1e-5)
    assert found.is_as(EITHER), found


@pytest.mark.parametrize("way", WAYS)
def test_a_finite_loss_with_a_gradient_that_is_nan_is_refused_as_that(way):
    loss = lambda m, b: squared(m, b) + m(b[0]).mul(0).abs().sqrt().sum()  # noqa: E731
    with pytest.raises(ThalwegError, match=r"(?i)gradient.*(nan|finite)|(nan|finite).*gradient"):
        attempted(Given(loss, mlp()), way)


@pytest.mark.parametrize("way", WAYS)
def test_a_second_derivative_that_is_nan_is_refused(way):
    class Blunt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * 2 * ctx.saved_tensors[0] + 0 * (ctx.saved_tensors[0] * 0).sqrt()

    loss = lambda m, b: (Blunt.apply(m(b[0])) - b[1]).square().mean()  # noqa: E731
    with pytest.raises(ThalwegError, match=r"(?i)nan|finite"):
        attempted(Given(loss, mlp()), way)


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


one("the head of an encoder", lambda: Given(over_all, encoder(), [SEQUENCES], params="o.*"), 14)
one("the head of an encoder over what counts", lambda: Given(over_what_counts, encoder(), [SEQUENCES], params="o.*"), 14)


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
    found = verdict(
        lambda: attempted(Given(squared, mlp(), [batch]), way), as_seen(truth_of(the_model_itself_from_outside), way), 1e-5
    )
    assert found.is_as(INFERENCE), found


@pytest.mark.parametrize("way", WAYS)
def test_weights_made_in_inference_mode(way):
    with torch.inference_mode():
        model = mlp()
    found = verdict(lambda: attempted(Given(squared, model), way), as_seen(truth_of(the_model_itself_from_outside), way), 1e-5)
    assert found.is_as(INFERENCE), found


@pytest.mark.parametrize("way", WAYS)
def test_under_autocast(way):
    truth = as_seen(truth_of(the_model_itself_from_outside), way)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = verdict(lambda: attempted(Given(squared, mlp()), way), truth, 1e-5)
    assert found.is_as("right | refused: autocast"), found


# Kind 15: messages that say what to do.
def test_a_lazy_layer_is_told_to_be_run_once():
    with pytest.raises(ThalwegError, match=r"(?i)lazy|run the model once|uninitialized"):
        tw.Hessian(squared, nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), [(X, Y)])


def test_a_name_with_brackets_is_a_name():
    model = nn.ModuleDict({"conv[3x3]": nn.Linear(3, 2), "other": nn.Linear(3, 2)})
    hessian = tw.Hessian(lambda m, b: squared(m["conv[3x3]"], b), model, [(X, Y)], params="conv[3x3].weight")
    assert hessian.layout.names == ("conv[3x3].weight",)


@pytest.mark.parametrize("params", ["conv[3x3].*", ["conv[3x3].weight", "conv[3x3].bias"]])
def test_a_pattern_with_brackets_in_a_name(params):
    model = nn.ModuleDict({"conv[3x3]": nn.Linear(3, 2), "other": nn.Linear(3, 2)})
    hessian = tw.Hessian(lambda m, b: squared(m["conv[3x3]"], b), model, [(X, Y)], params=params)
    assert hessian.layout.names == ("conv[3x3].weight", "conv[3x3].bias")


MESSAGES: dict[str, tuple[Callable[[], Any], str]] = {
    "a reentrant checkpoint": (
        lambda: tw.Hessian(
            lambda m, b: (m[2](checkpoint(m[:2], b[0], use_reentrant=True)) - b[1]).square().mean(), mlp(), [(X, Y)]
        ),
        "checkpoint.*use_reentrant",
    ),
    "a gradient of the last step": (lambda: tw.Hessian(squared, one_step(), [(X, Y)]), "no_grad|detach"),
    "detached features": (lambda: attempted(a_head_on_detached_features(), "Hessian 64"), "no_grad|detach|derivative"),
    "one batch that is a tuple": (lambda: tw.Hessian(squared, mlp(), (X, Y)), r"\[batch\]|\[\(x, y\)\]"),
    "one batch that is a dict": (lambda: tw.Hessian(by_key, mlp(), {"x": X, "y": Y}), r"\[batch\]"),
    "one batch that is a user dict": (lambda: tw.Hessian(by_key, mlp(), collections.UserDict(x=X, y=Y)), r"\[batch\]"),
    "no batches": (lambda: tw.Hessian(squared, mlp(), None), "batches"),
    "weights of another model": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params=list(mlp().parameters())), "params.*name"),
    "a module as params": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params=mlp()), "params.*name"),
    "a number as params": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params=3), "params.*name"),
    "a misspelt name": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params="0.weigth"), "did you mean '0.weight'"),
    "loss and model swapped": (lambda: tw.Hessian(mlp(), squared, [(X, Y)]), "model"),
    "no model": (lambda: tw.Hessian(squared, None, [(X, Y)]), "model"),
    "a dtype as text": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], dtype="float64"), r"dtype.*torch\.float64"),
    "half precision": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], dtype=torch.bfloat16), r"dtype.*torch\.float32"),
    "a misspelt method": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], method="recoded"), "method.*recorded"),
    "a loss that is a number": (lambda: tw.Hessian(lambda m, b: squared(m, b).item(), mlp(), [(X, Y)]), "loss_fn.*float"),
    "a loss of every sample": (lambda: tw.Hessian(lambda m, b: (m(b[0]) - b[1]).square(), mlp(), [(X, Y)]), "loss_fn.*shape"),
    "a loss in a dict": (lambda: tw.Hessian(lambda m, b: {"loss": squared(m, b)}, mlp(), [(X, Y)]), "loss_fn.*dict"),
    "a loss of nothing": (lambda: tw.Hessian(lambda m, b: None, mlp(), [(X, Y)]), "loss_fn.*NoneType"),
    "a detached loss": (lambda: tw.Hessian(lambda m, b: squared(m, b).detach(), mlp(), [(X, Y)]), "no graph"),
    "complex weights": (
        lambda: tw.Hessian(
            lambda m, b: m.w.abs().sum(), net(lambda m, x: x, w=nn.Parameter(torch.ones(2, dtype=torch.complex64))), [X]
        ),
        "complex",
    ),
    "targets of another shape": (
        lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1][:3]), classes(), [(X, LABELS)]),
        "logits.*targets",
    ),
    "a direction of another length": (lambda: tw.Hessian(squared, mlp(), [(X, Y)]) @ torch.ones(3), "vectors.*20"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_says_what_to_do_about(name):
    attempt, words = MESSAGES[name]
    with pytest.raises(ThalwegError, match=f"(?is){words}") as caught:
        attempt()
    assert "\n" not in str(caught.value)


# Kind 19: differences of the gradient across kinks.
KINKED: dict[str, nn.Module] = {
    "ReLU": nn.ReLU(),
    "LeakyReLU": nn.LeakyReLU(0.2),
    "Hardtanh": nn.Hardtanh(-0.3, 0.3),
    "maxout": Net(lambda m, h: torch.maximum(h, h.roll(1, 1))),
    "abs": Net(lambda m, h: h.abs()),
    "largest first": Net(lambda m, h: h.sort(1).values),
}


@pytest.mark.parametrize("kink", KINKED)
def test_differences_across_kinks_are_right_or_refused(kink):
    model = stirred(nn.Sequential(nn.Linear(6, 4), KINKED[kink], nn.Linear(4, 2)), 0.6).double()
    batch = [(normal(200, 6, seed=1).double() / 30, normal(200, 2, seed=2).double())]
    truth = by_differences(squared, model, batch, 1e-8)
    found = verdict(lambda: whole(tw.Hessian(squared, model, batch, method="differences")), truth, 1e-2)
    assert found.is_as("right | refused: kink"), found


def test_differences_of_a_smooth_loss_are_right():
    found = verdict(
        lambda: whole(tw.Hessian(squared, mlp().double(), [(X, Y)], method="differences")),
        truth_of(the_model_itself_from_outside),
        1e-6,
    )
    assert found.word == "right", found


# Kind 20: types of other tools are taken, or refused by name.
def loss_of_classes(m: Any, b: Any) -> Tensor:
    return F.cross_entropy(m(b[0]), b[1])


OPERATOR = functools.cache(lambda: tw.Hessian(squared, mlp(), [(X, Y)]))
FOREIGN: dict[str, Callable[[], Any]] = {
    "a vector of numpy": lambda: OPERATOR() @ np.ones(20),
    "a matrix of numpy": lambda: OPERATOR() @ np.ones((20, 2)),
    "a list of numbers": lambda: OPERATOR() @ ([1.0] * 20),
    "a list of tensors": lambda: OPERATOR() @ [torch.ones_like(p) for p in mlp().parameters()],
    "a dict of tensors": lambda: OPERATOR() @ {name: torch.ones_like(p) for name, p in mlp().named_parameters()},
    "a vector of whole numbers": lambda: OPERATOR() @ torch.ones(20, dtype=torch.long),
    "a complex vector": lambda: OPERATOR() @ torch.ones(20, dtype=torch.complex64),
    "a sparse vector": lambda: OPERATOR() @ torch.ones(20).to_sparse(),
    "a number": lambda: OPERATOR() @ 2.0,
    "eigenpairs of a matrix of numpy": lambda: tw.eigenpairs(np.eye(4), k=1),
    "eigenpairs of whole numbers": lambda: tw.eigenpairs(torch.eye(4, dtype=torch.long), k=1),
    "eigenpairs of scipy's operator": lambda: tw.eigenpairs(scipy.sparse.linalg.aslinearoperator(np.eye(4)), k=1),
    "eigenpairs of scipy's sparse matrix": lambda: tw.eigenpairs(scipy.sparse.eye(4, format="csr"), k=1),
    "eigenpairs of a sparse tensor": lambda: tw.eigenpairs(torch.eye(4).to_sparse(), k=1),
    "eigenpairs of a function": lambda: tw.eigenpairs(lambda v: 2 * v, k=1),
    "eigenpairs of a list of lists": lambda: tw.eigenpairs([[1.0, 0.0], [0.0, 2.0]], k=1),
    "eigenpairs of nothing": lambda: tw.eigenpairs(None, k=1),
    "a trace of numpy": lambda: trace(np.eye(4)),
    "a density of numpy": lambda: tw.spectral_density(np.eye(4)),
    "the operator for scipy": lambda: scipy.sparse.linalg.aslinearoperator(OPERATOR()),
    "a function as model": lambda: tw.Hessian(squared, lambda x: x, [(X, Y)]),
    "a method as model": lambda: tw.Hessian(squared, mlp().forward, [(X, Y)]),
    "a list of weights as model": lambda: tw.Hessian(squared, list(mlp().parameters()), [(X, Y)]),
    "a class as model": lambda: tw.Hessian(squared, nn.Linear, [(X, Y)]),
    "label -1": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, LABELS - 1)]),
    "labels above the classes": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, LABELS + 5)]),
    "labels that are real numbers": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, LABELS.float())]),
    "labels that are shares": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, torch.ones(8, 3) / 3)]),
    "outputs that are logits alone": lambda: tw.GaussNewton(lambda m, b: m(b[0]), classes(), [(X, LABELS)]),
    "a loss of outputs and targets": lambda: tw.Hessian(nn.MSELoss(), mlp(), [(X, Y)]),
    "a data set in place of batches": lambda: tw.Hessian(squared, mlp(), torch.utils.data.TensorDataset(X, Y)),
    "a pair in place of batches": lambda: tw.Hessian(squared, mlp(), (X, Y)),
    "an array in place of batches": lambda: tw.Hessian(squared, mlp(), X.numpy()),
    "a sum of operators": lambda: OPERATOR() + OPERATOR(),
    "a multiple": lambda: 2.0 * OPERATOR(),
    "the negative": lambda: -OPERATOR(),
    "the shape": lambda: OPERATOR().shape,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_other_tools_take_is_taken_or_refused_by_name(name):
    found = verdict(lambda: (FOREIGN[name](), torch.zeros(1))[1], torch.zeros(1), 1.0)
    assert found.is_as(EITHER), found


def test_what_is_taken_from_other_tools_is_right():
    hessian, ones = OPERATOR(), torch.ones(20)
    truth = (hessian @ ones).double()
    for name in ("a vector of numpy", "a list of tensors", "a dict of tensors"):
        try:
            found = FOREIGN[name]()
        except ThalwegError:
            continue
        parts = found.values() if isinstance(found, dict) else found if isinstance(found, list) else [torch.as_tensor(found)]
        assert torch.allclose(torch.cat([torch.as_tensor(part).reshape(-1) for part in parts]).double(), truth, rtol=1e-5)


@fault(20)
def a_loader_of_data():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=4)
    return Given(squared, mlp(), loader, same=Given(squared, mlp()))


one("a model in a wrapper for data parallelism", lambda: Given(squared, nn.DataParallel(mlp()), same=Given(squared, mlp())), 20)


@fault(20)
def an_averaged_model():
    model = torch.optim.swa_utils.AveragedModel(mlp())
    return Given(squared, model)


@fault(20)
def a_loss_that_is_a_partial_function():
    weighed = lambda m, b, scale: scale * squared(m, b)  # noqa: E731
    return Given(functools.partial(weighed, scale=2.0), mlp())


def as_seen(truth: Tensor, way: str) -> Tensor:
    """The matrix, or its trace and largest eigenvalue, as the way gives them."""
    return torch.stack([truth.trace(), torch.linalg.eigvalsh(truth)[-1]]) if way.startswith("probe") else truth


@pytest.mark.parametrize(("fault", "way"), [(fault, way) for fault in FAULTS for way in fault.ways], ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    found = seen(fault, way)
    assert found.is_as(fault.expected), found


def seen(fault: Fault, way: str) -> Verdict:
    truth = as_seen(truth_of(fault.build), way)
    return verdict(lambda: attempted(fault.build(), way), truth, fault.tolerance or TOLERANCE[WAYS[way]])


def main(words: list[str]) -> None:
    """Print the table, or the lines whose names hold one of the words."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for fault in (fault for fault in FAULTS if not words or any(word in str(fault) for word in words)):
        found = {way: seen(fault, way) for way in fault.ways}
        cells = "".join(f"{one.told if one.word == 'right' else one.word:>11}" for one in found.values())
        print(
            f"{fault!s:60}{cells}" + ("" if all(one.is_as(fault.expected) for one in found.values()) else f"  <-- {fault.expected}")
        )
        for message in dict.fromkeys(f"{one.word}, {one.told}" for one in found.values() if one.word != "right"):
            print(f"      {message[:220]}")


if __name__ == "__main__":
    main(sys.argv[1:])
