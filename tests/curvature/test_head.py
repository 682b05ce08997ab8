"""Products with the head and the cross-entropy in pieces equal those of the whole logits, in float64."""

import copy

import pytest
import torch
from tests.curvature.cases import normal, stirred, whole
from tests.curvature.oracle import Gradient
from torch import nn
from torch.nn import functional

from thalweg import LoopedTransformer, ModelConfig
from thalweg.curvature import head
from thalweg.curvature.gauss_newton import GaussNewton
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError

EXACT, DIFFERENCES = 1e-12, 1e-8
CLASSES, WIDTH = 23, 4


@pytest.fixture
def small_pieces(monkeypatch):
    """Two positions in a piece."""
    monkeypatch.setitem(head.PIECE, "cpu", 2 * CLASSES)


def ours(tied=False):
    shape = {"vocabulary": CLASSES, "length": 6, "width": WIDTH, "heads": 2, "expansion": 2, "block": "gpt"}
    return stirred(LoopedTransformer(ModelConfig(**shape, tied=tied)), 0.5)


def our_loss(model, tokens):
    return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def hugging_face():
    import transformers

    shape = {"vocab_size": CLASSES, "hidden_size": WIDTH, "intermediate_size": 6, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return stirred(transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads, **ends)))


def hugging_face_loss(model, tokens):
    return model(input_ids=tokens, labels=tokens.masked_fill(tokens == 3, -100)).loss


def shifted_loss(model, batch):
    """A head with a bias, the last position cut off by hand, targets that do not count, and a sum with its number."""
    logits, targets = model(batch[0])[..., :-1, :].contiguous().float(), batch[1][..., 1:].masked_fill(batch[1][..., 1:] == 3, -100)
    total = functional.cross_entropy(logits.view(-1, CLASSES), targets.reshape(-1), reduction="sum")
    return total, (targets != -100).sum()


TOKENS = [1 + whole(CLASSES - 1, 3, 6, seed=1), 1 + whole(CLASSES - 1, 3, 6, seed=2)]
"""Without token 0, the padding of Llama's embedding."""
CASES = {
    "ours": lambda: (our_loss, ours(), TOKENS),
    "ours, tied": lambda: (our_loss, ours(tied=True), TOKENS),
    "Llama's own loss": lambda: (hugging_face_loss, hugging_face(), TOKENS),
    "bias and shift": lambda: (
        shifted_loss,
        stirred(nn.Sequential(nn.Linear(3, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES))),
        [(normal(3, 6, 3, seed=i), tokens) for i, tokens in enumerate(TOKENS)],
    ),
}


@pytest.mark.parametrize("method", ["recorded", "rebuilt"])
@pytest.mark.parametrize("name", CASES)
def test_hessian_products_equal_those_of_the_whole_logits(name, method, monkeypatch):
    given = CASES[name]()
    options = {"dtype": torch.float64, "method": method}
    expected = Hessian(*given, **options)
    monkeypatch.setitem(head.PIECE, "cpu", 2 * CLASSES)
    found = Hessian(*given, **options)
    v = torch.randn(found.dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert "23 classes in pieces" in found.explain()
    assert "pieces" not in expected.explain()
    assert (found @ v - expected @ v).norm() < EXACT * (expected @ v).norm()
    assert abs(found.loss - expected.loss) < EXACT * expected.loss


@pytest.mark.parametrize("method", ["recorded", "rebuilt"])
@pytest.mark.parametrize("params", [None, lambda name, parameter: "head" not in name], ids=["all", "head frozen"])
def test_gauss_newton_products_equal_those_of_the_whole_logits(method, params, monkeypatch):
    outputs = lambda m, b: (m(b[:, :-1]), b[:, 1:].masked_fill(b[:, 1:] == 3, -100))  # noqa: E731
    given, options = (outputs, ours(), TOKENS, params), {"dtype": torch.float64, "method": method}
    expected = GaussNewton(*given, **options)
    monkeypatch.setitem(head.PIECE, "cpu", 2 * CLASSES)
    found = GaussNewton(*given, **options)
    v = torch.randn(found.dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert "23 classes in pieces" in found.explain()
    assert (found @ v - expected @ v).norm() < EXACT * (expected @ v).norm()


def test_products_equal_differences_of_the_plain_gradient(small_pieces):
    loss_fn, model, batches = CASES["ours"]()
    gradient = Gradient(loss_fn, model, batches)
    v = torch.randn(len(gradient.point), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = gradient.product(v / v.norm())
    found = Hessian(loss_fn, model, batches, dtype=torch.float64) @ (v / v.norm())
    assert (found - expected).norm() < DIFFERENCES * expected.norm()


def by_a_view(z):
    z.view(-1, CLASSES).mul_(3)
    return z


def before_the_change(z):
    """A copy of part of the logits, and then a change of the logits themselves."""
    part = z[:, :-1].reshape(-1, CLASSES)
    z.mul_(3)
    return part.view(len(z), -1, CLASSES)


def before_the_change_of_a_view(z):
    part = z.view(-1, CLASSES)
    z.mul_(3)
    return part.view(*z.shape)


def padded(z):
    z[..., CLASSES - 3 :] = -10.0
    return z


def looked_at(z):
    """An accuracy beside the loss."""
    with torch.no_grad():
        assert z.argmax(-1).float().mean() >= 0
    return z


def increased(z):
    same = z
    z += 1
    z *= 2
    return same


CHANGES = {
    "scaled in place": lambda z: z.div_(0.1),
    "masked in place": lambda z: z.masked_fill_(z > 0.5, -3.0),
    "rectified in place": lambda z: functional.relu(z, inplace=True),
    "by a view": by_a_view,
    "before the change": before_the_change,
    "before the change of a view": before_the_change_of_a_view,
    "padded classes": padded,
    "increased": increased,
    "looked at": looked_at,
    "compared": lambda z: z * (z >= 0) + abs(z).square() + 1.0 / (z.square() + 9.0),
    "asked for its type": lambda z: z if isinstance(z, torch.Tensor) else z[0],
}


@pytest.mark.filterwarnings("ignore::thalweg.errors.KinkWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_loss_does_to_its_logits_counts(name, monkeypatch):
    change, model = CHANGES[name], ours()

    def loss(model, tokens):
        logits = change(model(tokens[:, :-1]))
        return functional.cross_entropy(logits.reshape(-1, CLASSES), tokens[:, 1 : 1 + logits.shape[1]].reshape(-1))

    expected = Hessian(loss, model, TOKENS, dtype=torch.float64)
    monkeypatch.setitem(head.PIECE, "cpu", 2 * CLASSES)
    found = Hessian(loss, model, TOKENS, dtype=torch.float64)
    v = torch.randn(found.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert found.loss == pytest.approx(sum(loss(model.double(), tokens).item() for tokens in TOKENS) / len(TOKENS), rel=1e-12)
    assert (found @ v - expected @ v).norm() < EXACT * (expected @ v).norm()
    assert ("pieces" in found.explain()) == (name in ("before the change", "asked for its type", "looked at"))


def test_states_that_change_after_the_head_do_not_count(monkeypatch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, x):
            states = self.first(x)
            logits = self.head(states)
            states.mul_(5)
            return logits

    torch.manual_seed(0)
    model, x = Model().double(), normal(3, 6, 3, seed=1).double()
    loss = lambda m, b: functional.cross_entropy(m(b).flatten(0, 1), TOKENS[0].flatten())  # noqa: E731
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss(model, x), model.head.weight)  # PyTorch refuses its gradient, so do we
    monkeypatch.setitem(head.PIECE, "cpu", 2 * CLASSES)
    with pytest.raises(BadInputError, match="modified by an inplace operation"):
        Hessian(loss, model, [x])


USES = {
    "scaled": lambda z: z / 2 + 1,
    "capped": lambda z: 3 * torch.tanh(z / 3),
    "transposed": lambda z: z.transpose(1, 2).flatten(1, 2),
    "classes cut": lambda z: z[..., :5],
    "log softmax": lambda z: z.log_softmax(-1),
    "rows in a loop": lambda z: torch.stack([row.square() for row in z]),
    "mask": lambda z: z[torch.ones(3, 5, dtype=torch.bool)].exp(),
    "one position": lambda z: z[:, -1].sin(),
    "flat": lambda z: z.flatten(),
}


@pytest.mark.parametrize("name", USES)
def test_any_other_use_computes_the_logits(name, small_pieces):
    model, tokens = ours().double(), TOKENS[0][:, :-1]
    with head.HeadInPieces():
        delayed = model(tokens)
        assert type(delayed) is head.HeadLogits
        found = USES[name](delayed)
    assert (found - USES[name](model(tokens))).abs().max() < EXACT


def test_no_tensor_of_all_positions_and_classes_is_kept():
    """At 4,096 classes and 1,536 positions: memory that autograd keeps, and the constants of a recorded product."""
    config = ModelConfig(vocabulary=4096, length=48, width=8, heads=2, block="gpt")
    model, tokens = LoopedTransformer(config), whole(4096, 32, 49)
    logits = 4 * 32 * 48 * 4096
    found = Hessian(our_loss, copy.deepcopy(model), [tokens], check=False)
    kept = sum(program.bytes() for program in found.programs.values())
    print(f"logits {logits / 2**20:.0f} MiB, kept {kept / 2**20:.1f} MiB")
    assert found.objective.saved_bytes < 0.5 * logits
    assert 0 < kept < 0.5 * logits
