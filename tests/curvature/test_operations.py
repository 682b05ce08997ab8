"""Curvature through PyTorch's differentiable operations, one after the other, against differences of plain gradients.

Every line of the table is a function of one or a few weights (and constant data) that the operation takes part in. What it
gets is the sine of the weights, so that second derivatives pass through it also where it is linear.

``python tests/curvature/test_operations.py`` prints the table.
"""

import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script

import pytest
import torch
from tests.curvature.cases import normal, stirred
from tests.curvature.oracle import TOLERANCE, Verdict, by_differences, verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, rnn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import thalweg as tw

L = torch.linalg
I = torch.tensor  # noqa: E741
NO_SECOND = "refused: has no second derivative"
"""PyTorch has none for the operation; every way says so."""
WRONG_THERE = "right | refused: "
"""PyTorch's own second derivative is wrong: what is not mended has to be refused."""


@dataclass(frozen=True)
class Operation:
    """One line of the table."""

    name: str
    function: Callable[..., Any]
    """Of the weights, then of the data."""
    weights: tuple[tuple[int, ...], ...] = ((5,),)
    data: tuple[tuple[int, ...], ...] = ()
    module: Callable[[], nn.Module] | None = None
    """A module with weights of its own: then the function's first argument in place of the weights."""
    expected: str = "right"
    """See `Verdict.is_as`; the same for every way."""
    step: float = 1e-3
    """Of the differences; shorter where high derivatives are large."""

    def __str__(self) -> str:
        return self.name

    def model(self) -> nn.Module:
        """The weights as a module, drawn anew."""
        if self.module is None:
            return with_values(nn.ParameterList([nn.Parameter(torch.empty(shape)) for shape in self.weights]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self.module()
        return made if parametrize.is_parametrized(made) else stirred(made, 0.5)

    def batches(self) -> list[Any]:
        return [[normal(*shape, seed=50 + i) for i, shape in enumerate(self.data)]]

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        """Mean squares of what comes out against fixed targets."""
        weights = [model] if self.module else [weight.sin() for weight in model]
        return score(self.function(*weights, *batch))


def with_values(weights: nn.ParameterList) -> nn.ParameterList:
    """Weights whose sines lie apart from each other, from 0 and from 1."""
    with torch.no_grad():
        for seed, weight in enumerate(weights):
            order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
            places = 0.02 * seed + (torch.linspace(0.15, 1.15, weight.numel()) if weight.numel() > 1 else torch.tensor([0.6]))
            sign = torch.where(torch.arange(weight.numel()) % 2 == 0, 1.0, -1.0)
            weight.copy_((places * sign)[order].view(weight.shape))
    return weights


def score(given: Any) -> Tensor:
    """A scalar that bends in everything given."""
    total: Any = 0.0
    for leaf in pytree.tree_leaves(given):
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            continue
        real = torch.stack([leaf.real, leaf.imag]) if leaf.is_complex() else leaf
        target = torch.linspace(-0.5, 0.7, real.numel(), dtype=real.dtype).view(real.shape)
        total = total + (real - target).square().mean()
    return total


def like(x: Tensor, *values: float) -> Tensor:
    """Constants in the arithmetic of a tensor."""
    return torch.tensor(values, dtype=x.dtype)


def spd(a: Tensor) -> Tensor:
    """A symmetric positive definite matrix."""
    return a @ a.mT + torch.eye(len(a), dtype=a.dtype)


def square(a: Tensor) -> Tensor:
    """A square matrix far from singular."""
    return a + 2 * torch.eye(len(a), dtype=a.dtype)


def into(x: Tensor, write: Callable[[Tensor], Any]) -> Tensor:
    """What an operation in place leaves in a copy."""
    kept = x.clone()
    write(kept)
    return kept


def set_item(place: Any, value: Any) -> Callable[[Tensor], None]:
    """``tensor[place] = value`` as a function."""
    return lambda tensor: tensor.__setitem__(place, value)


class OldCube(torch.autograd.Function):
    """A custom function in the old style, with a derivative that can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3 * ctx.saved_tensors[0] ** 2


class NewCube(torch.autograd.Function):
    """The same in the new style."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3 * ctx.saved_tensors[0] ** 2


class DetachedCube(OldCube):
    """A custom function whose derivative forgets that it depends on the input: its second derivative is wrong."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3 * ctx.saved_tensors[0].detach() ** 2


class Symmetric(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


def parametrized(make: Callable[[nn.Linear], nn.Module]) -> Callable[[], nn.Module]:
    """A linear layer under a parametrization."""
    return lambda: make(stirred(nn.Linear(3, 3, bias=False), 0.5))


def penalized(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A physics-informed loss by autograd: the derivative with respect to the input enters."""
    t = x.detach().clone().requires_grad_(True)
    u = net(t)
    return u, torch.autograd.grad(u.sum(), t, create_graph=True)[0]


def spline(x: Tensor) -> Tensor:
    return F.grid_sample(x.view(1, 1, 2, 4), torch.linspace(-0.8, 0.7, 12, dtype=x.dtype).view(1, 3, 2, 2), align_corners=False)


def grid(x: Tensor, data: Tensor, **options: Any) -> Tensor:
    return F.grid_sample(data, 0.7 * x.view(1, 2, 2, 2), align_corners=False, **options)


def jagged(x: Tensor, data: Tensor) -> Tensor:
    parts = torch.nested.nested_tensor_from_jagged(data, offsets=I([0, 1, 4]))
    return torch.nested.nested_tensor_from_jagged((parts * 2).values() @ x, offsets=I([0, 1, 4])).sin().values()


def sparse_values(x: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(I([[0, 1, 1, 2, 3], [1, 0, 2, 2, 0]]), x, (4, 3))


EDGES = ((0.0, 1.0, 0.5), (0.3, 0.0, 0.0), (0.0, 0.7, 0.2))


def edges(x: Tensor) -> Tensor:
    return torch.tensor(EDGES, dtype=x.dtype)


def ctc(x: Tensor) -> Tensor:
    return F.ctc_loss(x.view(4, 1, 3).log_softmax(-1), I([[1, 2]]), I([4]), I([2]))


def gumbel(x: Tensor, data: Tensor) -> Tensor:
    return ((x - (-data.sigmoid().log()).log()) / 0.7).softmax(-1)


def packed(net: nn.Module, x: Tensor) -> Tensor:
    return net(rnn.pack_padded_sequence(x, I([3, 2]), batch_first=True))[0].data


def fourier(x: Tensor) -> Tensor:
    return torch.stft(x.repeat(4), 4, hop_length=2, window=torch.hann_window(4, dtype=x.dtype), return_complex=True)


def back(x: Tensor) -> Tensor:
    z = torch.complex(x.view(3, 4), x.view(3, 4).cos())
    return torch.istft(z, 4, hop_length=2, window=torch.hann_window(4, dtype=x.dtype))


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.exp()


def newton(x: Tensor) -> Tensor:
    root = torch.ones_like(x)
    for _ in range(4):
        root = (root + x / root) / 2
    return root


@functools.cache
def compiled_function() -> Callable[[Tensor], Tensor]:
    return torch.compile(lambda t: t.exp() * t.sin(), backend="aot_eager")


def compiled(x: Tensor) -> Tensor:
    return compiled_function()(x)


Op = Operation
W23, W33, W3, M = ((2, 3),), ((3, 3),), ((3,),), ((2, 4),)
ACTIVATIONS = [
    Op("relu", lambda x: F.relu(x) * x),
    Op("relu6", lambda x: F.relu6(8 * x)),
    Op("leaky_relu", lambda x: F.leaky_relu(x, 0.1)),
    Op("prelu", lambda x, a: F.prelu(x, a), ((5,), (1,))),
    Op("rrelu", lambda x: F.rrelu(x, training=False)),
    Op("elu", F.elu),
    Op("selu", F.selu),
    Op("celu", lambda x: F.celu(x, 0.7)),
    Op("gelu", F.gelu),
    Op("gelu tanh", lambda x: F.gelu(x, approximate="tanh")),
    Op("silu", F.silu),
    Op("mish", F.mish),
    Op("softplus", lambda x: F.softplus(x, 2.0, 1.0)),
    Op("softsign", F.softsign),
    Op("tanh", torch.tanh),
    Op("sigmoid", torch.sigmoid),
    Op("logsigmoid", F.logsigmoid),
    Op("hardswish", lambda x: F.hardswish(4 * x)),
    Op("hardsigmoid", lambda x: F.hardsigmoid(4 * x), expected=NO_SECOND),
    Op("hardtanh", lambda x: F.hardtanh(2 * x)),
    Op("tanhshrink", F.tanhshrink),
    Op("softshrink", F.softshrink),
    Op("hardshrink", F.hardshrink),
    Op("threshold", lambda x: F.threshold(x, 0.2, 0.1)),
    Op("glu", lambda x: F.glu(x), ((6,),)),
    Op("softmax", lambda x: x.softmax(-1), W23),
    Op("softmin", lambda x: F.softmin(x, -1), W23),
    Op("log_softmax", lambda x: x.log_softmax(-1), W23),
    Op("gumbel softmax", gumbel, ((4,),), ((4,),)),
]
NORMS = [
    Op("layer_norm", lambda x, g, b: F.layer_norm(x, (3,), g, b), ((2, 3), (3,), (3,))),
    Op("rms_norm", lambda x, g: F.rms_norm(x, (3,), g), ((2, 3), (3,))),
    Op("group_norm", lambda x, g, b: F.group_norm(x.view(1, 4, 2), 2, g, b), ((8,), (4,), (4,))),
    Op("instance_norm", lambda x: F.instance_norm(x.view(1, 2, 4)), ((8,),)),
    Op("batch_norm in training", lambda x, g: F.batch_norm(x, None, None, g, training=True), ((4, 2), (2,))),
    Op("BatchNorm in evaluation", lambda m, x: m(x), module=lambda: nn.BatchNorm1d(3), data=((4, 3),)),
    Op("batch_norm in evaluation", lambda x, g, m, v: F.batch_norm(x, m, v.exp(), g), ((4, 2), (2,)), ((2,), (2,))),
    Op("local_response_norm", lambda x: F.local_response_norm(x.view(1, 4, 2), 3), ((8,),)),
    Op("normalize", lambda x: F.normalize(x, dim=-1), W23),
    Op("weight_norm", lambda m, x: m(x), module=parametrized(parametrizations.weight_norm), data=((4, 3),), expected=WRONG_THERE),
    Op("spectral_norm", lambda m, x: m(x), module=parametrized(parametrizations.spectral_norm), data=((4, 3),)),
    Op("orthogonal", lambda m, x: m(x), module=parametrized(parametrizations.orthogonal), data=((4, 3),)),
    Op(
        "parametrized as symmetric",
        lambda m, x: m(x),
        module=parametrized(lambda m: parametrize.register_parametrization(m, "weight", Symmetric())),
        data=((4, 3),),
    ),
]
LOSSES = [
    Op("mse_loss", lambda x, y: F.mse_loss(x, y), data=((5,),)),
    Op("l1_loss", lambda x, y: F.l1_loss(x, y), data=((5,),)),
    Op("smooth_l1_loss", lambda x, y: F.smooth_l1_loss(x, y), data=((5,),)),
    Op("huber_loss", lambda x, y: F.huber_loss(x, y, delta=0.5), data=((5,),)),
    Op("cross_entropy", lambda x: F.cross_entropy(x, I([1, 2])), W23),
    Op("cross_entropy, smoothed", lambda x: F.cross_entropy(x, I([1, 2]), label_smoothing=0.1), W23),
    Op("cross_entropy, ignored", lambda x: F.cross_entropy(x, I([1, -100])), W23),
    Op("cross_entropy, weighted", lambda x, y: F.cross_entropy(x, I([1, 2]), weight=y.exp()), W23, W3),
    Op("cross_entropy, soft targets", lambda x, y: F.cross_entropy(x, y.softmax(-1)), W23, W23),
    Op("nll_loss", lambda x: F.nll_loss(x.log_softmax(-1), I([0, 2])), W23),
    Op("nll_loss of images", lambda x: F.nll_loss(x.view(1, 2, 2, 2).log_softmax(1), I([[[0, 1], [1, 0]]])), ((8,),)),
    Op("kl_div", lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"), W23, W23),
    Op("kl_div, both", lambda x, y: F.kl_div(x.log_softmax(-1), y.log_softmax(-1), log_target=True), (*W23, *W23)),
    Op("binary_cross_entropy", lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), data=((5,),)),
    Op("bce with logits", lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid(), pos_weight=y.exp()), data=((5,),)),
    Op("poisson_nll_loss", lambda x, y: F.poisson_nll_loss(x, y.exp()), data=((5,),)),
    Op("gaussian_nll_loss", lambda x, v, y: F.gaussian_nll_loss(x, y, v.exp()), ((4,), (4,)), ((4,),)),
    Op("hinge_embedding_loss", lambda x: F.hinge_embedding_loss(x.exp(), I([1, -1, 1, -1, -1]))),
    Op("margin_ranking_loss", lambda x, y: F.margin_ranking_loss(x, y, I([1, -1, 1])), (*W3, *W3)),
    Op("cosine_embedding_loss", lambda x, y: F.cosine_embedding_loss(x, y, I([1, -1])), (*W23, *W23)),
    Op("triplet_margin_loss", lambda x, y, z: F.triplet_margin_loss(x, y, z), (*W23, *W23), W23),
    Op("multi_margin_loss", lambda x: F.multi_margin_loss(x, I([0, 2])), W23, expected=NO_SECOND),
    Op("multilabel_margin_loss", lambda x: F.multilabel_margin_loss(x, I([[2, 0, -1], [1, -1, -1]])), W23, expected=NO_SECOND),
    Op("multilabel_soft_margin_loss", lambda x, y: F.multilabel_soft_margin_loss(x, (y > 0).to(y)), W23, W23),
    Op("soft_margin_loss", lambda x, y: F.soft_margin_loss(x, y.sign()), data=((5,),)),
    Op("ctc_loss", ctc, ((12,),), expected=NO_SECOND),
]
ATTENTION = [
    Op("sdpa", F.scaled_dot_product_attention, ((1, 1, 2, 2), (1, 1, 2, 2), (1, 1, 2, 2))),
    Op("sdpa, causal", lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True), ((1, 1, 3, 2), (1, 1, 3, 2))),
    Op("sdpa, mask", lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m > 0), ((1, 2, 3, 2),), ((3, 3),)),
    Op("sdpa, bias", lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), ((1, 2, 3, 2),), ((3, 3),)),
    Op(
        "sdpa, grouped",
        lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
        ((1, 4, 2, 1), (1, 2, 2, 1)),
    ),
    Op("MultiheadAttention", lambda m, x: m(x, x, x), module=lambda: nn.MultiheadAttention(2, 2, bias=False), data=((3, 1, 2),)),
    Op(
        "MultiheadAttention, no weights",
        lambda m, x: m(x, x, x, need_weights=False),
        module=lambda: nn.MultiheadAttention(2, 1, batch_first=True),
        data=((1, 3, 2),),
    ),
    Op(
        "TransformerEncoderLayer",
        lambda m, x: m(x),
        module=lambda: nn.TransformerEncoderLayer(3, 1, 1, batch_first=True, activation="gelu", bias=False),
        data=((2, 3, 3),),
        step=3e-4,
    ),
    Op(
        "TransformerDecoderLayer",
        lambda m, x: m(x, x.flip(0)),
        module=lambda: nn.TransformerDecoderLayer(2, 1, 1, batch_first=True, activation="gelu", bias=False),
        data=((2, 3, 2),),
    ),
]
CONVOLUTIONS = [
    Op("linear", lambda w, b, x: F.linear(x, w, b), ((2, 3), (2,)), ((4, 3),)),
    Op("bilinear", lambda w, x, y: F.bilinear(x, y, w), ((2, 2, 2),), ((3, 2), (3, 2))),
    Op("conv1d", lambda w, b, x: F.conv1d(x, w, b), ((2, 1, 3), (2,)), ((2, 1, 6),)),
    Op("conv1d of weights", lambda w, x: F.conv1d(x.view(1, 1, 6), w), ((1, 1, 3), (6,))),
    Op("conv2d", lambda w, b, x: F.conv2d(x, w, b, stride=2, padding=1), ((1, 2, 2, 2), (1,)), ((1, 2, 4, 3),)),
    Op("conv2d, groups", lambda w, x: F.conv2d(x, w, groups=2, padding="same"), ((2, 1, 2, 2),), ((1, 2, 3, 3),)),
    Op("conv2d, dilated", lambda w, x: F.conv2d(x, w, dilation=2), ((1, 1, 2, 2),), ((1, 1, 4, 4),)),
    Op("conv3d", lambda w, x: F.conv3d(x, w), ((1, 1, 2, 2, 2),), ((1, 1, 3, 3, 2),)),
    Op("conv_transpose1d", lambda w, x: F.conv_transpose1d(x, w, stride=2), ((1, 2, 3),), ((1, 1, 4),)),
    Op("conv_transpose2d", lambda w, x: F.conv_transpose2d(x, w, padding=1), ((1, 2, 2, 2),), ((1, 1, 3, 3),)),
    Op("conv_transpose3d", lambda w, x: F.conv_transpose3d(x, w), ((1, 1, 2, 2, 2),), ((1, 1, 2, 2, 2),)),
    Op(
        "Conv1d, circular",
        lambda m, x: m(x),
        module=lambda: nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"),
        data=((1, 1, 5),),
    ),
    Op("unfold", lambda x: F.unfold(x.view(1, 1, 3, 4), 2), ((12,),)),
    Op("fold", lambda x: F.fold(x.view(1, 4, 3), (2, 4), 2), ((12,),)),
]
POOLING = [
    Op("max_pool1d", lambda x: F.max_pool1d(x.view(1, 1, 8), 2), ((8,),)),
    Op("max_pool2d", lambda x: F.max_pool2d(x.view(1, 1, 3, 4), 2, padding=1), ((12,),)),
    Op("max_pool3d", lambda x: F.max_pool3d(x.view(1, 1, 2, 2, 3), 2), ((12,),)),
    Op("avg_pool1d", lambda x: F.avg_pool1d(x.view(1, 1, 8), 2), ((8,),)),
    Op("avg_pool2d", lambda x: F.avg_pool2d(x.view(1, 1, 3, 4), 2), ((12,),)),
    Op("avg_pool3d", lambda x: F.avg_pool3d(x.view(1, 1, 2, 2, 3), 2), ((12,),)),
    Op("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x.view(1, 1, 8), 3), ((8,),)),
    Op("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x.view(1, 1, 3, 4), 2), ((12,),)),
    Op("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x.view(1, 1, 2, 2, 3), 2), ((12,),)),
    Op("adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x.view(1, 1, 8), 3), ((8,),)),
    Op("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x.view(1, 1, 3, 4), 2), ((12,),)),
    Op("lp_pool1d", lambda x: F.lp_pool1d(x.view(1, 1, 8), 2.0, 2), ((8,),)),
    Op(
        "fractional_max_pool2d",
        lambda x, u: F.fractional_max_pool2d(x.view(1, 1, 3, 4), 2, output_size=2, _random_samples=u.sigmoid()),
        ((12,),),
        ((1, 1, 2),),
    ),
    Op(
        "max_unpool1d",
        lambda x: F.max_unpool1d(*F.max_pool1d(x.view(1, 1, 8), 2, return_indices=True), 2),
        ((8,),),
    ),
]
RECURRENT = [
    Op("RNNCell", lambda m, x: m(x), module=lambda: nn.RNNCell(2, 2), data=((3, 2),)),
    Op("LSTMCell", lambda m, x: m(x), module=lambda: nn.LSTMCell(1, 1), data=((3, 1),)),
    Op("GRUCell", lambda m, x: m(x), module=lambda: nn.GRUCell(1, 1), data=((3, 1),)),
    Op("RNN tanh", lambda m, x: m(x), module=lambda: nn.RNN(1, 2), data=((3, 2, 1),)),
    Op("RNN relu", lambda m, x: m(x), module=lambda: nn.RNN(1, 2, nonlinearity="relu"), data=((3, 2, 1),)),
    Op("LSTM", lambda m, x: m(x), module=lambda: nn.LSTM(1, 1), data=((3, 2, 1),)),
    Op("LSTM, projected", lambda m, x: m(x), module=lambda: nn.LSTM(1, 2, proj_size=1, bias=False), data=((3, 2, 1),)),
    Op("LSTM, both ways", lambda m, x: m(x), module=lambda: nn.LSTM(1, 1, bidirectional=True, bias=False), data=((3, 2, 1),)),
    Op("GRU", lambda m, x: m(x), module=lambda: nn.GRU(1, 1, batch_first=True), data=((3, 2, 1),)),
    Op("GRU, packed", packed, module=lambda: nn.GRU(1, 1, batch_first=True), data=((2, 3, 1),)),
]
EMBEDDINGS = [
    Op("embedding", lambda w: F.embedding(I([0, 2, 2, 3]), w), ((4, 3),)),
    Op("embedding, padded", lambda w: F.embedding(I([0, 2, 2, 3]), w, padding_idx=0), ((4, 3),)),
    Op("Embedding, sparse", lambda m: m(I([0, 2, 2])).sin(), module=lambda: nn.Embedding(3, 2, sparse=True)),
    Op("embedding_bag, sum", lambda w: F.embedding_bag(I([[0, 2], [2, 3]]), w, mode="sum"), ((4, 3),), expected=NO_SECOND),
    Op("embedding_bag, mean", lambda w: F.embedding_bag(I([0, 2, 2, 3]), w, I([0, 3]), mode="mean"), ((4, 3),), expected=NO_SECOND),
    Op("embedding_bag, max", lambda w: F.embedding_bag(I([[0, 2], [1, 3]]), w, mode="max"), ((4, 3),), expected=NO_SECOND),
    Op(
        "embedding_bag, weighted",
        lambda w, a: F.embedding_bag(I([[0, 2], [2, 3]]), w, mode="sum", per_sample_weights=a),
        ((4, 2), (2, 2)),
        expected=NO_SECOND,
    ),
]
LINEAR_ALGEBRA = [
    Op("cholesky", lambda a: L.cholesky(spd(a)), W33),
    Op("cholesky_solve", lambda a, b: torch.cholesky_solve(b, L.cholesky(spd(a))), ((3, 3), (3, 1))),
    Op("cholesky_inverse", lambda a: torch.cholesky_inverse(L.cholesky(spd(a))), W33),
    Op("qr", lambda a: L.qr(square(a)), W33),
    Op("svdvals", lambda a: L.svdvals(square(a)), W33),
    Op("svd", lambda a: (lambda u, s, v: (u * s.exp()) @ v)(*L.svd(square(a))), W33),
    Op("eigvalsh", lambda a: L.eigvalsh(spd(a)), W33),
    Op("eigh", lambda a: (lambda e, v: (v * e.sin()) @ v.mT)(*L.eigh(spd(a))), W33),
    Op("eigvals", lambda a: L.eigvals(square(a)).abs(), W33),
    Op("eig", lambda a: (lambda e, v: ((v * e.exp()) @ L.inv(v)).real)(*L.eig(square(a))), W33),
    Op("solve", lambda a, b: L.solve(square(a), b), ((3, 3), (3,))),
    Op("solve_triangular", lambda a, b: L.solve_triangular(square(a).tril(), b, upper=False), ((3, 3), (3, 1))),
    Op("inv", lambda a: L.inv(square(a)), W33),
    Op("inv_ex", lambda a: L.inv_ex(square(a)).inverse, W33),
    Op("det", lambda a: L.det(square(a)), W33),
    Op("slogdet", lambda a: L.slogdet(square(a)), W33),
    Op("logdet", lambda a: torch.logdet(spd(a)), W33),
    Op("lstsq", lambda a, b: L.lstsq(a, b).solution, ((3, 2), (3, 1))),
    Op("pinv", lambda a: L.pinv(a), ((3, 2),)),
    Op("pinv, hermitian", lambda a: L.pinv(spd(a), hermitian=True), W33),
    Op("matrix_exp", torch.matrix_exp, W33),
    Op("matrix_power", lambda a: L.matrix_power(a, 3), W33),
    Op("lu", lambda a: L.lu(square(a))[1:], W33),
    Op("lu_solve", lambda a, b: L.lu_solve(*L.lu_factor(square(a)), b), ((3, 3), (3, 1))),
    Op("householder_product", L.householder_product, ((3, 2), (2,))),
    Op("tensorsolve", lambda a, b: L.tensorsolve(square(a.view(4, 4)).view(2, 2, 4), b), ((16,), (2, 2))),
    Op("multi_dot", lambda a, b, c: L.multi_dot([a, b, c]), ((1, 2), (2, 3), (3, 1))),
    Op("cross", L.cross, (*W3, *W3)),
    Op("vander", L.vander, W3),
    Op("norm, Frobenius", lambda a: L.norm(a), W23),
    Op("norm, nuclear", lambda a: L.norm(square(a), "nuc"), W33),
    Op("norm, spectral", lambda a: L.norm(a, 2), W33),
    Op("norm, columns", lambda a: L.norm(a, 1), W33),
    Op("vector_norm, 3", lambda a: L.vector_norm(a, 3.0)),
    Op("vector_norm, infinity", lambda a: L.vector_norm(a, float("inf"))),
    Op("renorm", lambda a: torch.renorm(a, 2, 0, 0.8), W23),
    Op("dist", lambda a, b: torch.dist(a, b, 3.0), (*W3, *W3)),
    Op("cdist", lambda a, b: torch.cdist(a, b), ((2, 2), (3, 2)), expected=NO_SECOND),
    Op("cdist, absolute", lambda a, b: torch.cdist(a, b, p=1.0), ((2, 2), (3, 2)), expected=NO_SECOND),
    Op("pdist", F.pdist, ((3, 2),), expected=NO_SECOND),
    Op("pairwise_distance", F.pairwise_distance, (*W23, *W23)),
    Op("cosine_similarity", F.cosine_similarity, (*W23, *W23)),
    Op("cov", torch.cov, ((2, 4),)),
    Op("corrcoef", torch.corrcoef, ((2, 4),)),
    Op("trace", lambda a: (a @ a).trace(), W33),
    Op("einsum", lambda a, b: torch.einsum("ij,kj,k->ik", a, b, b[:, 0]), (*W23, *W23)),
    Op("einsum, diagonal", lambda a: torch.einsum("ii,ij->j", a, a), W33),
    Op("bmm", lambda a, b: torch.bmm(a, b), ((2, 1, 2), (2, 2, 2))),
    Op("baddbmm", lambda a, b: torch.baddbmm(a, b, b, beta=0.5, alpha=2.0), ((1, 2, 2), (2, 2, 2))),
    Op("addmm", lambda a, b: torch.addmm(a, b, b, beta=0.5, alpha=2.0), ((2,), (2, 2))),
    Op("addr", lambda a, b: torch.addr(b, a, a), ((2,), (2, 2))),
    Op("tensordot", lambda a, b: torch.tensordot(a, b, dims=([1, 0], [0, 1])), ((2, 3), (3, 2, 1))),
    Op("kron", torch.kron, ((2, 2), (2, 2))),
    Op("outer", torch.outer, ((2,), (3,))),
    Op("block_diag", lambda a, b: torch.block_diag(a @ a, b), ((2, 2), (1, 2))),
]
FOURIER_AND_COMPLEX = [
    Op("fft", torch.fft.fft),
    Op("ifft", torch.fft.ifft),
    Op("rfft", torch.fft.rfft),
    Op("irfft", lambda x: torch.fft.irfft(torch.complex(x, x.cos()), 7)),
    Op("hfft", lambda x: torch.fft.hfft(torch.complex(x, x.cos()), 7)),
    Op("rfft2", torch.fft.rfft2, W23),
    Op("fftn", torch.fft.fftn, ((2, 2, 2),)),
    Op("fftshift", lambda x: torch.fft.fftshift(x)),
    Op("fft convolution", lambda x, y: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(y), 5), ((5,), (5,))),
    Op("stft", fourier, ((3,),)),
    Op("istft", back, ((12,),)),
    Op("complex", lambda x: torch.complex(x, x.cos()).square()),
    Op("exp of 1j", lambda x: torch.exp(1j * x)),
    Op("times 1j", lambda x: torch.complex(x, x.cos()) * 1j * x),
    Op("polar", lambda x: torch.polar(x.abs() + 1, x)),
    Op("view_as_complex", lambda x: torch.view_as_complex(x).square(), ((3, 2),)),
    Op("angle", lambda x: torch.complex(x, x.cos()).angle()),
    Op("abs of complex", lambda x: torch.complex(x, x.cos()).abs()),
    Op("conj", lambda x: torch.complex(x, x.cos()).conj() * torch.complex(x.cos(), x)),
    Op("sgn of complex", lambda x: torch.complex(x, x.cos()).sgn()),
    Op("complex matmul", lambda a, b: torch.complex(a, b) @ torch.complex(b, a), ((2, 2), (2, 2))),
    Op("complex solve", lambda a, b: L.solve(torch.complex(square(a), b), torch.complex(b, a)), ((2, 2), (2, 2))),
    Op("rotary by complex numbers", lambda x, t: torch.view_as_complex(x) * torch.polar(torch.ones_like(t), t), ((3, 2),), W3),
]
REDUCTIONS = [
    Op("sort", lambda x: x.sort().values),
    Op("msort", torch.msort),
    Op("topk", lambda x: x.topk(2).values),
    Op("kthvalue", lambda x: x.kthvalue(2).values),
    Op("median", lambda x: x.median(dim=0).values),
    Op("quantile", lambda x: x.quantile(0.3)),
    Op("max", lambda x: x.max()),
    Op("min of a dimension", lambda x: x.min(1).values, W23),
    Op("amax", lambda x: x.amax(1), W23),
    Op("aminmax", lambda x: x.aminmax()),
    Op("maximum", torch.maximum, (*W3, *W3)),
    Op("fmin", torch.fmin, (*W3, *W3)),
    Op("cummax", lambda x: x.cummax(0).values),
    Op("cummin", lambda x: x.cummin(0).values),
    Op("cumsum", lambda x: x.cumsum(0)),
    Op("cumprod", lambda x: x.cumprod(0)),
    Op("logcumsumexp", lambda x: x.logcumsumexp(0)),
    Op("logsumexp", lambda x: x.logsumexp(1), W23),
    Op("prod", lambda x: x.prod()),
    Op("prod of a dimension", lambda x: x.prod(1), W23),
    Op("prod with a zero", lambda x: torch.cat([x, x[:1] * 0]).prod() + x.prod()),
    Op("std", lambda x: x.std()),
    Op("var_mean", lambda x: torch.var_mean(x, 1), W23),
    Op("mean", lambda x: x.mean(1), W23),
    Op("nansum", lambda x: x.nansum(1), W23),
    Op("nanmean", lambda x: x.nanmean(1), W23),
    Op("trapezoid", lambda x: torch.trapezoid(x.exp(), x)),
    Op("diff", lambda x: x.diff()),
    Op("gradient", lambda x: torch.gradient(x)[0]),
    Op("norm", lambda x: x.norm(dim=1), W23),
    Op("segment_reduce", lambda x: torch.segment_reduce(x, "sum", lengths=I([2, 3])), expected=NO_SECOND),
    Op("segment_reduce, mean", lambda x: torch.segment_reduce(x, "mean", lengths=I([2, 3])), expected=NO_SECOND),
]
INDEXING = [
    Op("gather", lambda x: x.gather(1, I([[0, 2], [1, 1]])), W23),
    Op("scatter", lambda x, y: x.scatter(1, I([[0, 2], [1, 0]]), y), ((2, 3), (2, 2))),
    Op("scatter_add", lambda x, y: x.scatter_add(1, I([[0, 0], [1, 0]]), y), ((2, 3), (2, 2))),
    Op("scatter_reduce, product", lambda x, y: x.scatter_reduce(0, I([0, 0, 2]), y, "prod"), (*W3, *W3)),
    Op("scatter_reduce, mean", lambda x, y: x.scatter_reduce(0, I([0, 0, 2]), y, "mean"), (*W3, *W3)),
    Op("scatter_reduce, largest", lambda x, y: x.scatter_reduce(0, I([0, 0, 2]), y, "amax"), (*W3, *W3)),
    Op("index_select", lambda x: x.index_select(0, I([1, 1, 3]))),
    Op("index_add", lambda x, y: x.index_add(0, I([0, 0, 2]), y, alpha=2), (*W3, *W3)),
    Op("index_copy", lambda x, y: x.index_copy(0, I([2, 0, 1]), y), (*W3, *W3)),
    Op("index_put", lambda x, y: x.index_put((I([1, 4, 0]),), y), ((5,), (3,))),
    Op("index_put, added", lambda x, y: x.index_put((I([1, 1, 0]),), y, accumulate=True), ((5,), (3,))),
    Op("index_fill", lambda x, y: x.index_fill(0, I([1, 3]), y[0]), ((5,), (1,))),
    Op("index_reduce", lambda x, y: x.index_reduce(0, I([0, 0, 2]), y, "mean"), (*W3, *W3)),
    Op("masked_fill", lambda x, y: x.masked_fill(y > 0, 0.3), data=((5,),)),
    Op("masked_select", lambda x, y: x.masked_select(y > 0), data=((5,),)),
    Op("masked_scatter", lambda x, y: x.masked_scatter(I([True, False, True]), y), (*W3, *W3)),
    Op("where", lambda x, y, z: torch.where(z > 0, x, y), ((5,), (5,)), ((5,),)),
    Op("take", lambda x: x.take(I([0, 5, 5])), W23),
    Op("put", lambda x, y: x.put(I([0, 5, 2]), y), ((2, 3), (3,))),
    Op("take_along_dim", lambda x: x.take_along_dim(I([[0, 2], [1, 1]]), 1), W23),
    Op("by indices", lambda x: x[I([0, 1, 1]), I([2, 0, 0])], W23),
    Op("by a mask", lambda x, y: x[y > 0], data=((5,),)),
    Op("select_scatter", lambda x, y: x.select_scatter(y, 0, 1), ((2, 3), (3,))),
    Op("slice_scatter", lambda x, y: x.slice_scatter(y, 0, 1, 3), ((5,), (2,))),
    Op("diagonal_scatter", lambda x, y: x.diagonal_scatter(y), ((3, 3), (3,))),
    Op("repeat_interleave", lambda x: x.repeat_interleave(I([1, 0, 2, 1, 1]))),
    Op("searchsorted and lerp", lambda x: torch.lerp(x[:-1], x[1:], x[:-1].sigmoid())),
]
SHAPES = [
    Op("stack", lambda x, y: torch.stack([x, y, x * y]), (*W3, *W3)),
    Op("cat", lambda x, y: torch.cat([x, y, x * y]), (*W3, *W3)),
    Op("hstack and chunk", lambda x, y: [p * p for p in torch.hstack([x, y]).chunk(3)], (*W3, *W3)),
    Op("split and unbind", lambda x: [p.prod() for p in x.unbind(1)] + [p.sin() for p in x.split([1, 2], 1)], W23),
    Op("roll", lambda x: x.roll(2) * x),
    Op("flip", lambda x: x.flip(0) * x),
    Op("rot90", lambda x: torch.rot90(x) @ x, W33),
    Op("tile and repeat", lambda x: x.tile(2) * x.repeat(2)),
    Op("expand", lambda x: (x.unsqueeze(1).expand(5, 3) * x[:3]).sum(0)),
    Op("permute", lambda x: x.permute(2, 0, 1).reshape(4, 2).sin(), ((2, 2, 2),)),
    Op("movedim", lambda x: x.movedim(0, 2).flatten(1).exp(), ((2, 2, 2),)),
    Op("Tensor.unfold", lambda x: x.unfold(0, 3, 1).prod(1)),
    Op("as_strided", lambda x: x.as_strided((2, 3), (1, 1)).exp()),
    Op("diagonal", lambda x: x.diagonal() * x[0], W33),
    Op("diag_embed", lambda x: torch.diag_embed(x) @ x, W3),
    Op("tril and triu", lambda x: x.tril() @ x.triu(1), W33),
    Op("pixel_shuffle", lambda x: F.pixel_shuffle(x.view(1, 4, 1, 2), 2) ** 2, ((8,),)),
    Op("pixel_unshuffle", lambda x: F.pixel_unshuffle(x.view(1, 1, 2, 4), 2), ((8,),)),
    Op("channel_shuffle", lambda x: F.channel_shuffle(x.view(1, 4, 2), 2), ((8,),)),
    Op("pad", lambda x: F.pad(x, (1, 2), value=0.3)),
    Op("pad, reflect", lambda x: F.pad(x.view(1, 5), (2, 1), mode="reflect")),
    Op("pad, replicate", lambda x: F.pad(x.view(1, 5), (2, 1), mode="replicate")),
    Op("pad, circular", lambda x: F.pad(x.view(1, 5), (2, 1), mode="circular")),
    Op("meshgrid", lambda x: (lambda a, b: a * b.exp())(*torch.meshgrid(x, x, indexing="ij")), W3),
    Op("cartesian_prod", lambda x: torch.cartesian_prod(x, x).prod(1), W3),
    Op("combinations", lambda x: torch.combinations(x).prod(1)),
    Op("interpolate, nearest", lambda x: F.interpolate(x.view(1, 1, 5), 8)),
    Op("interpolate, linear", lambda x: F.interpolate(x.view(1, 1, 5), 8, mode="linear")),
    Op("interpolate, bilinear", lambda x: F.interpolate(x.view(1, 1, 2, 4), (3, 5), mode="bilinear"), ((8,),)),
    Op("interpolate, bicubic", lambda x: F.interpolate(x.view(1, 1, 2, 4), (3, 5), mode="bicubic"), ((8,),)),
    Op("interpolate, trilinear", lambda x: F.interpolate(x.view(1, 1, 2, 2, 2), (3, 3, 2), mode="trilinear"), ((8,),)),
    Op("interpolate, area", lambda x: F.interpolate(x.view(1, 1, 2, 4), (2, 3), mode="area"), ((8,),)),
    Op(
        "interpolate, antialiased",
        lambda x: F.interpolate(x.view(1, 1, 2, 4), (2, 3), mode="bilinear", antialias=True),
        ((8,),),
    ),
    Op("grid_sample of weights", spline, ((8,),)),
    Op("grid_sample at weights", grid, ((8,),), ((1, 1, 4, 4),), step=1e-4),
    Op("grid_sample, bicubic", lambda x, y: grid(x, y, mode="bicubic"), ((8,),), ((1, 1, 4, 4),), step=1e-4),
    Op("affine_grid", lambda x: F.affine_grid(x.view(1, 2, 3), [1, 1, 2, 2], align_corners=False), W23),
]
SPECIAL = [
    Op("exp", torch.exp),
    Op("exp2", torch.exp2),
    Op("expm1", torch.expm1),
    Op("log", lambda x: (x + 2).log()),
    Op("log1p", torch.log1p),
    Op("log2 and log10", lambda x: [(x + 2).log2(), (x + 2).log10()]),
    Op("sqrt", lambda x: (x + 2).sqrt()),
    Op("rsqrt", lambda x: (x + 2).rsqrt()),
    Op("reciprocal", torch.reciprocal, step=1e-4),
    Op("pow", lambda x: (x + 2) ** 2.5),
    Op("pow by weights", lambda x, y: (x + 2) ** y, (*W3, *W3)),
    Op("number to weights", lambda x: 2.0**x),
    Op("sin, cos, tan", lambda x: [x.sin(), x.cos(), x.tan()]),
    Op("asin, acos, atan", lambda x: [x.asin(), x.acos(), x.atan()]),
    Op("sinh, cosh", lambda x: [x.sinh(), x.cosh()]),
    Op("asinh, acosh, atanh", lambda x: [x.asinh(), (x + 3).acosh(), x.atanh()]),
    Op("atan2", torch.atan2, (*W3, *W3)),
    Op("hypot", torch.hypot, (*W3, *W3)),
    Op("logaddexp", torch.logaddexp, (*W3, *W3)),
    Op("logaddexp2", torch.logaddexp2, (*W3, *W3)),
    Op("erf", torch.erf),
    Op("erfc", torch.erfc),
    Op("erfcx", torch.special.erfcx),
    Op("erfinv", torch.erfinv),
    Op("ndtr", torch.special.ndtr),
    Op("ndtri", lambda x: torch.special.ndtri(x.sigmoid())),
    Op("log_ndtr", torch.special.log_ndtr),
    Op("lgamma", lambda x: (x + 2).lgamma()),
    Op("digamma", lambda x: (x + 2).digamma()),
    Op("polygamma", lambda x: torch.polygamma(1, x + 2)),
    Op("mvlgamma", lambda x: torch.mvlgamma(x + 3, 2)),
    Op("gammainc of the argument", lambda x, y: torch.special.gammainc(y.exp(), x + 2), data=((5,),)),
    Op("gammaincc of the argument", lambda x, y: torch.special.gammaincc(y.exp(), x + 2), data=((5,),)),
    Op("i0", torch.i0),
    Op("i0e", torch.special.i0e),
    Op("i1", torch.special.i1),
    Op("i1e", torch.special.i1e),
    Op("xlogy", lambda x, y: torch.xlogy(x, y + 2), (*W3, *W3)),
    Op("xlog1py", lambda x, y: torch.special.xlog1py(x, y), (*W3, *W3)),
    Op("entr", lambda x: torch.special.entr(x + 2)),
    Op("sinc", torch.sinc),
    Op("logit", lambda x: (0.4 * x + 0.5).logit()),
    Op("abs", lambda x: x.abs()),
    Op("sign", lambda x: x.sign() * x**2),
    Op("clamp", lambda x: x.clamp(-0.5, 0.5) * x),
    Op("clamp by weights", lambda x, y: x.clamp(max=y), (*W3, *W3)),
    Op("fmod", lambda x: (3 * x).fmod(1.0)),
    Op("remainder by weights", lambda x, y: (3 * x).remainder(y), (*W3, *W3), step=1e-4),
    Op("frac", lambda x: (3 * x).frac()),
    Op("copysign", lambda x, y: x.copysign(y), data=((5,),)),
    Op("nan_to_num", lambda x: x.nan_to_num()),
    Op("lerp by weights", torch.lerp, (*W3, *W3, *W3)),
    Op("addcmul", lambda x, y: torch.addcmul(x, y, y, value=0.5), (*W3, *W3)),
    Op("addcdiv", lambda x, y: torch.addcdiv(x, x, y, value=0.5), (*W3, *W3), step=1e-4),
    Op("divided by whole numbers", lambda x: (x * x).sum() / I([3, 7])),
    Op("times a flag", lambda x: x * x * (x > 0)),
]
IN_PLACE = [
    Op("add_ and mul_", lambda x: into(x, lambda t: t.add_(x).mul_(x))),
    Op("sub_ and div_", lambda x: into(x, lambda t: t.sub_(1).div_(x)), step=1e-4),
    Op("exp_", lambda x: into(x, lambda t: t.exp_())),
    Op("relu_", lambda x: F.relu(x * 1, inplace=True)),
    Op("clamp_", lambda x: into(x, lambda t: t.clamp_(-0.3, 0.7))),
    Op("masked_fill_", lambda x: into(x, lambda t: t.masked_fill_(t > 0.3, 0.1))),
    Op("fill_diagonal_", lambda x: into(x, lambda t: t.fill_diagonal_(0.5)), W33),
    Op("zero_", lambda x: into(x, lambda t: t[1:].zero_()) * x),
    Op("copy_", lambda x: into(x, lambda t: t[:2].copy_(x[2:4] ** 2))),
    Op("scatter_", lambda x, y: into(x, lambda t: t.scatter_(0, I([1, 4, 0]), y)), ((5,), (3,))),
    Op("index_add_", lambda x, y: into(x, lambda t: t.index_add_(0, I([1, 1, 0]), y)), ((5,), (3,))),
    Op("a slice set", lambda x: into(x, set_item(slice(1, 3), x[:2].exp()))),
    Op("indices set", lambda x: into(x, set_item(I([4, 0]), x[1:3].tanh()))),
    Op("a mask set", lambda x: into(x, set_item(I([True, False, False, True, False]), 0.2)) * x),
    Op("slices of zeros set", lambda x: into(torch.zeros_like(x), set_item(slice(0, 3), x[:3].exp()))),
    Op("columns added to", lambda x: into(x, lambda t: t[:, 0].add_(t[:, 1])), W23),
    Op("a state updated in steps", lambda x: into(x, lambda t: [t[i].add_(t[i - 1]) for i in range(1, 5)]) ** 2),
    Op("added to a leaf's view", lambda x: x.view(5).clone().unsqueeze(0).add_(x).squeeze(0) ** 2),
]
SPARSE = [
    Op("sparse mm, COO", lambda x: torch.sparse.mm(edges(x).to_sparse(), x), ((3, 2),)),
    Op("sparse mm, CSR", lambda x: torch.sparse.mm(edges(x).to_sparse_csr(), x), ((3, 2),)),
    Op("sparse addmm", lambda x, y: torch.sparse.addmm(y, edges(x).to_sparse(), x), ((3, 2), (3, 2))),
    Op("sparse batch", lambda x, y: torch.sparse.mm(y.to_sparse(), x), ((3, 2),), ((3, 3),)),
    Op("sparse values", lambda x: sparse_values(x).to_dense(), expected=WRONG_THERE),
    Op("sparse values times dense", lambda x, y: torch.sparse.mm(sparse_values(x), y), ((5,), (3, 2)), expected=WRONG_THERE),
    Op("sparse sum", lambda x: torch.sparse.sum(sparse_values(x), 1).to_dense(), expected=WRONG_THERE),
    Op("sparse softmax", lambda x: torch.sparse.softmax(sparse_values(x), 1).to_dense(), expected=WRONG_THERE),
    Op("to_sparse", lambda x: x.to_sparse().coalesce().values().square(), W23),
    Op("nested, jagged", jagged, ((3, 2),), ((4, 3),), expected="right | " + NO_SECOND),
]
PROGRAMS = [
    Op(
        "autograd.grad inside", penalized, module=lambda: nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)), data=((4, 1),)
    ),
    Op("func.grad inside", lambda x, y: torch.func.grad(lambda t: (t * x).sin().sum())(y), data=((5,),)),
    Op("func.vmap inside", lambda x, y: torch.func.vmap(lambda t: (t * x).exp().sum())(y), ((3,),), ((4, 3),)),
    Op("func.vmap of grad inside", lambda x, y: torch.vmap(torch.func.grad(lambda t: (t * x).exp().sum()))(y), W3, ((4, 3),)),
    Op("func.jvp inside", lambda x, y: torch.func.jvp(lambda t: (t * x).exp(), (y,), (y,)), W3, W3),
    Op("func.vjp inside", lambda x, y: torch.func.vjp(lambda t: (t * x).exp(), y)[1](y), W3, W3),
    Op("func.jacrev inside", lambda x, y: torch.func.jacrev(lambda t: (t * x).exp())(y), W3, W3),
    Op("func.jacfwd inside", lambda x, y: torch.func.jacfwd(lambda t: (t * x).exp())(y), W3, W3),
    Op("func.hessian inside", lambda x, y: torch.func.hessian(lambda t: (t * x).exp().prod())(y), W3, W3),
    Op("an inner step of training", lambda x, y: x - 0.1 * torch.func.grad(lambda t: ((t * y).tanh() ** 2).sum())(x), W3, W3),
    Op("checkpoint", lambda x: checkpoint(lambda t: t.exp() * t, x, use_reentrant=False)),
    Op(
        "checkpoint of layers",
        lambda m, x: checkpoint(m, x, use_reentrant=False),
        module=lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)),
        data=((4, 2),),
    ),
    Op(
        "checkpoint_sequential",
        lambda m, x: checkpoint_sequential(m, 2, x, use_reentrant=False),
        module=lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)),
        data=((4, 2),),
    ),
    Op("custom function, old style", OldCube.apply),
    Op("custom function, new style", NewCube.apply),
    Op("custom function, wrong", DetachedCube.apply, expected="refused: derivative"),
    Op("no_grad inside", lambda x: x * without_gradient(x.roll(1)), expected="refused: "),
    Op("a loop until it is small", lambda x: newton(x + 2)),
    Op("a branch on a value", lambda x: x.exp() if float(x[0].detach()) < 5 else x),
    Op(
        "torch.cond",
        lambda x: torch.cond(x.sum() > 9, lambda t: t.sin(), lambda t: t.exp() * t, (x,)),
        expected="right | refused: ",
    ),
    Op("compiled function", compiled),
    Op("Normal", lambda x, y: torch.distributions.Normal(x, y.exp()).log_prob(I(0.3)), (*W3, *W3)),
    Op("Categorical", lambda x: torch.distributions.Categorical(logits=x).entropy(), W23),
    Op("Gamma", lambda x, y: torch.distributions.Gamma(x.exp(), y.exp()).log_prob(I(0.7)), (*W3, *W3)),
    Op("Beta", lambda x, y: torch.distributions.Beta(x.exp(), y.exp()).log_prob(I(0.3)), (*W3, *W3)),
    Op("Dirichlet", lambda x, y: torch.distributions.Dirichlet(x.exp()).log_prob(y.softmax(-1)), W3, W3),
    Op("StudentT", lambda x, y: torch.distributions.StudentT(x.exp() + 1, y).log_prob(I(0.3)), (*W3, *W3)),
    Op(
        "MultivariateNormal",
        lambda x, a: torch.distributions.MultivariateNormal(x, spd(a)).log_prob(torch.zeros_like(x)),
        ((2,), (2, 2)),
    ),
    Op(
        "kl_divergence",
        lambda x, y: torch.distributions.kl_divergence(
            torch.distributions.Normal(x, y.exp()), torch.distributions.Normal(y, x.exp())
        ),
        (*W3, *W3),
    ),
]


TABLE = [
    *ACTIVATIONS,
    *NORMS,
    *LOSSES,
    *ATTENTION,
    *CONVOLUTIONS,
    *POOLING,
    *RECURRENT,
    *EMBEDDINGS,
    *LINEAR_ALGEBRA,
    *FOURIER_AND_COMPLEX,
    *REDUCTIONS,
    *INDEXING,
    *SHAPES,
    *SPECIAL,
    *IN_PLACE,
    *SPARSE,
    *PROGRAMS,
]
PROBED = (
    *(
        "gelu",
        "layer_norm",
        "sdpa",
        "conv2d",
        "LSTM",
        "embedding",
        "eigh",
        "rfft",
        "sort",
        "scatter",
        "a slice set",
        "sparse batch",
    ),
    *("func.grad inside", "checkpoint of layers", "custom function, old style", "times 1j", "nanmean", "autograd.grad inside"),
)
"""Lines that `LandscapeProbe` is asked for too."""
HESSIAN, DENSE = "Hessian", "dense_hessian"
DTYPES = (torch.float32, torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations


@functools.cache
def truth_of(case: Operation) -> Tensor:
    """The Hessian of one line of the table, by differences."""
    return by_differences(case.loss, case.model(), case.batches(), case.step)


def attempted(case: Operation, way: str, dtype: torch.dtype) -> Tensor:
    """The matrix in one of the two ways."""
    given = case.loss, case.model(), case.batches()
    return whole(tw.Hessian(*given, dtype=dtype)) if way == HESSIAN else tw.dense_hessian(*given, dtype=dtype).matrix


def seen(case: Operation, way: str, dtype: torch.dtype) -> Verdict:
    return verdict(lambda: attempted(case, way, dtype), truth_of(case), TOLERANCE[dtype])


def test_every_line_of_the_table_has_a_name_of_its_own_and_bends():
    assert len({case.name for case in TABLE}) == len(TABLE) >= 300
    assert min(float(truth_of(case).norm()) for case in TABLE) > 1e-2


@pytest.mark.parametrize("way", [HESSIAN, DENSE])
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_through_every_operation_curvature_is_as_the_table_says(case, way):
    found = {dtype: seen(case, way, dtype) for dtype in DTYPES}
    assert all(one.is_as(case.expected) for one in found.values()), found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in TABLE if case.name in PROBED], ids=str)
def test_a_probe_sees_the_same_curvature(case, dtype):
    truth, size = truth_of(case), float(truth_of(case).norm())
    record = tw.LandscapeProbe(top=1, forms=0, dtype=dtype).measure(case.loss, case.model(), case.batches())
    assert record.trace.value == pytest.approx(float(truth.trace()), rel=0, abs=len(truth) ** 0.5 * TOLERANCE[dtype] * size)
    assert record.largest[0] == pytest.approx(float(L.eigvalsh(truth)[-1]), rel=0, abs=TOLERANCE[dtype] * size)


def main(words: list[str]) -> None:
    """Print the table, or the lines whose names hold one of the words."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ways = [(way, dtype) for way in (HESSIAN, DENSE) for dtype in DTYPES]
    print(f"{'operation':32}" + "".join(f"{way + ' ' + str(dtype)[-2:]:>17}" for way, dtype in ways))
    for case in (case for case in TABLE if not words or any(word in case.name for word in words)):
        found = [seen(case, way, dtype) for way, dtype in ways]
        cells = "".join(
            f"{one.detail if one.word == 'right' else one.word + ' ' + one.detail[:5] * (one.word == 'wrong'):>17}" for one in found
        )
        print(
            f"{case.name:32}{cells}" + ("" if all(one.is_as(case.expected) for one in found) else f"  <-- expected {case.expected}")
        )
        for message in dict.fromkeys(one.detail for one in found if one.word in ("refused", "raw error")):
            print(f"      {message[:220]}")


if __name__ == "__main__":
    main(sys.argv[1:])
