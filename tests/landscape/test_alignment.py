import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg import LoopedTransformer, ModelConfig
from thalweg.errors import BadInputError, NonFiniteError, ShapeMismatchError
from thalweg.landscape.alignment import GroupAlignment, gradient_alignment
from thalweg.theory import alignment as theory
from thalweg.theory.looped_attention import attention, gradients

EXACT = 1e-10


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def next_token(loops):
    def loss(m, tokens):
        return functional.cross_entropy(m(tokens[:, :-1], loops=loops).flatten(0, 1), tokens[:, 1:].flatten())

    return loss


def language(block="attention", attention="softmax"):
    config = ModelConfig(vocabulary=5, length=4, width=8, heads=2, block=block, attention=attention)
    model = LoopedTransformer(config, torch.Generator().manual_seed(0)).double()
    return model, [torch.randint(5, (6, 5), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]


def cosine(a, b):
    return float(a.flatten() @ b.flatten() / (a.norm() * b.norm()))


def by_autograd(model, loss, batch):
    """Gradients by name, of the module's own backward pass."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss(model, batch), parameters), strict=True))


class LinearLooped(nn.Module):
    """The theory's linear model as a module: tokens ``(S, d, n)`` to logits ``(S, C)``."""

    def __init__(self, weights):
        super().__init__()
        self.key, self.query, self.value, self.head = (nn.Parameter(part.clone()) for part in weights.parts().values())

    def forward(self, tokens, loops):
        here = tokens
        for _ in range(loops):
            here = here + self.value @ here @ here.mT @ self.key.T @ self.query @ here
        return here[:, :, -1] @ self.head.T


def linear_loss(loops):
    return lambda m, batch: functional.cross_entropy(m(batch[0], loops), batch[1])


@pytest.mark.parametrize("scale", [0.05, 0.4])
def test_the_linear_model_has_the_theory_s_exact_alignment(scale):
    weights = attention(*(scale * normal(*shape, seed=i) for i, shape in enumerate([(3, 4), (3, 4), (4, 4), (5, 4)])))
    tokens, classes = normal(20, 4, 3, seed=8), torch.randint(5, (20,), generator=torch.Generator().manual_seed(9))
    exact = theory.alignment(gradients(weights, tokens, classes, 3), gradients(weights, tokens, classes, 1))
    found = gradient_alignment(
        linear_loss(3), linear_loss(1), LinearLooped(weights), [(tokens[:10], classes[:10]), (tokens[10:], classes[10:])]
    )
    for name, one in exact.items():
        mine = found[name]
        # At scale 0.4 a sample is predicted with certainty: its gradient is zero, and it has no cosine.
        assert torch.allclose(mine.aligned.per_sample, one.per_sample, atol=1e-8, equal_nan=True)
        opposed = (one.per_sample < 0).sum() / one.per_sample.isfinite().sum()
        assert (mine.cosine, mine.ratio, mine.opposed) == pytest.approx((one.batch, one.ratio, float(opposed)), rel=1e-6)
        # The theory's gradients are sums over samples, these are means.
        assert mine.aligned.product == pytest.approx(one.product / 20**2, rel=1e-6)


def test_samples_may_all_agree_and_the_batch_oppose():
    one = lambda number: torch.tensor([[number]], dtype=torch.float64)  # noqa: E731
    weights = attention(one(1.0), one(0.746), one(0.155), torch.tensor([[2.01], [0.0]], dtype=torch.float64))
    tokens = torch.tensor([[[1.077, 1.187]], [[0.533, 0.321]]], dtype=torch.float64)
    found = gradient_alignment(linear_loss(2), linear_loss(1), LinearLooped(weights), [(tokens, torch.tensor([0, 1]))])["key"]
    assert found.cosines.tolist() == pytest.approx([1, 1])
    assert found.cosine == pytest.approx(-1)


@pytest.mark.parametrize(("block", "kind"), [("attention", "softmax"), ("attention", "linear"), ("gpt", "softmax")])
def test_a_transformer_s_samples_are_those_of_autograd_one_by_one(block, kind):
    model, batches = language(block, kind)
    found = gradient_alignment(next_token(3), next_token(1), model, batches)
    assert found.how.startswith("vmap over up to")
    samples = [batch[i : i + 1] for batch in batches for i in range(6)]
    pairs = [(by_autograd(model, next_token(3), sample), by_autograd(model, next_token(1), sample)) for sample in samples]
    for name in found.groups:
        if name in ("all", "blocks.0.attention.key.bias"):
            continue
        expected = [cosine(one[name], two[name]) for one, two in pairs]
        assert found[name].cosines.tolist() == pytest.approx(expected, abs=1e-8)


def test_batch_gradients_are_those_of_the_mean_loss():
    model, batches = language("gpt")
    found = gradient_alignment(next_token(3), next_token(1), model, batches)
    one, two = (by_autograd(model, next_token(loops), torch.cat(batches)) for loops in (3, 1))
    for name in ("embedding.weight", "blocks.0.attention.query.weight", "head.weight"):
        mine = found[name]
        expected = cosine(one[name], two[name]), float(one[name].norm() / two[name].norm()), float(two[name].norm())
        assert (mine.cosine, mine.ratio, mine.single_norm) == pytest.approx(expected, rel=1e-8)
    whole = [torch.cat([part.flatten() for part in parts.values()]) for parts in (one, two)]
    assert found["all"].cosine == pytest.approx(cosine(*whole), rel=1e-8)
    assert found.losses == pytest.approx(tuple(float(next_token(loops)(model, torch.cat(batches)).detach()) for loops in (3, 1)))


def test_one_loop_against_one_loop_is_one_throughout():
    model, batches = language()
    found = gradient_alignment(next_token(1), next_token(1), model, batches)
    for one in found.groups.values():
        assert (one.cosine, one.ratio) == pytest.approx((1, 1), abs=1e-12)
        assert (one.minimum, one.fifth_percentile, one.median, one.opposed) == pytest.approx((1, 1, 1, 0), abs=1e-12)
        assert one.counted == found.samples == 12


def test_samples_one_by_one_give_what_vmap_gives():
    model, batches = language()

    def stubborn(loops):
        return lambda m, tokens: next_token(loops)(m, tokens) * (1.0 if int(tokens.sum()) >= 0 else 0.0)

    slow, fast = (gradient_alignment(make(2), make(1), model, batches) for make in (stubborn, next_token))
    assert slow.how.startswith("one by one: vmap failed (")
    for name in fast.groups:
        assert torch.allclose(slow[name].aligned.per_sample, fast[name].aligned.per_sample, atol=EXACT)


def test_a_loss_that_differs_under_vmap_is_differentiated_one_by_one():
    model, batches = language()

    def two_faced(m, tokens):
        return next_token(2)(m, tokens) * (1.0 if torch._C._functorch.maybe_current_level() is None else 2.0)

    found = gradient_alignment(two_faced, next_token(1), model, batches)
    assert found.how.startswith("looped one by one: under vmap the first sample's gradient differs by")
    assert "; single vmap over up to" in found.how


def test_an_error_of_the_loss_itself_comes_out():
    model, batches = language()

    def picky(m, tokens):
        if len(tokens) == 1:
            raise RuntimeError("no single samples")
        return next_token(2)(m, tokens)

    with pytest.raises(RuntimeError, match="no single samples"):
        gradient_alignment(picky, next_token(1), model, batches)


def test_passes_of_any_size_give_the_same():
    model, batches = language()
    whole = gradient_alignment(next_token(2), next_token(1), model, batches)
    dim = sum(parameter.numel() for parameter in model.parameters())
    seen = []
    parts = gradient_alignment(
        next_token(2),
        next_token(1),
        model,
        batches,
        memory=100 * dim,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 2
    assert seen[-1] == (12, 12)
    assert torch.allclose(parts["all"].cosines, whole["all"].cosines, atol=EXACT)


def test_without_memory_for_two_samples_go_one_by_one():
    model, batches = language()
    found = gradient_alignment(next_token(2), next_token(1), model, batches, memory=1)
    assert found.how == "one by one: memory allows no two in a pass"
    whole = gradient_alignment(next_token(2), next_token(1), model, batches)
    assert torch.allclose(found["all"].cosines, whole["all"].cosines, atol=EXACT)


def test_groups_are_patterns_and_all_is_added():
    model, batches = language()
    found = gradient_alignment(
        next_token(2), next_token(1), model, batches, {"mixing": ["*query*", "*key*"], "head": "head.weight"}
    )
    assert list(found.groups) == ["mixing", "head", "all"]
    one, two = (by_autograd(model, next_token(loops), torch.cat(batches)) for loops in (2, 1))
    joined = [
        torch.cat([part.flatten() for name, part in parts.items() if "query" in name or "key" in name]) for parts in (one, two)
    ]
    assert found["mixing"].cosine == pytest.approx(cosine(*joined), rel=1e-8)


def test_only_chosen_parameters_are_in_all():
    model, batches = language()
    found = gradient_alignment(next_token(2), next_token(1), model, batches, params=["head.weight"])
    assert list(found.groups) == ["head.weight", "all"]
    assert torch.equal(found["all"].cosines, found["head.weight"].cosines)


def test_a_gradient_that_is_zero_up_to_rounding_has_no_cosine():
    model, batches = language("gpt")
    found = gradient_alignment(next_token(2), next_token(1), model, batches)["blocks.0.attention.key.bias"]
    assert found.counted == 0
    assert all(value != value for value in (found.cosine, found.ratio, found.minimum, found.median, found.opposed))
    assert found.transfer_rate(1.0) == 0


def test_samples_without_a_cosine_are_not_counted():
    model = nn.Linear(1, 1, bias=False).double()
    found = gradient_alignment(lambda m, x: m(x).mean(), lambda m, x: -m(x).mean(), model, [torch.tensor([[1.0], [0.0], [2.0]])])
    assert (found.samples, found["all"].counted, found["all"].opposed) == (3, 2, 1)


def test_quantiles_are_those_of_the_cosines():
    values = torch.cat([normal(40), torch.tensor([torch.nan])])
    group = GroupAlignment(theory.Aligned(values, 1.0, 1.0, 1.0), 1.0)
    sample = values[:40]
    assert (group.minimum, group.fifth_percentile, group.median) == pytest.approx(
        (float(sample.min()), float(sample.quantile(0.05)), float(sample.quantile(0.5)))
    )
    assert group.opposed == pytest.approx(float((sample < 0).double().mean()))


def test_counted_totals_weigh_batches_and_leave_cosines_as_they_are():
    model = nn.Linear(3, 2, bias=False).double()
    batches = [(normal(rows, 3, seed=rows), normal(rows, 2, seed=10 + rows)) for rows in (2, 5)]

    def loss(power):
        return lambda m, batch: ((m(batch[0]) - batch[1]).abs().pow(power).sum(), len(batch[0]))

    found = gradient_alignment(loss(4), loss(2), model, batches)
    joined = tuple(torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    one, two = (by_autograd(model, lambda m, b, p=p: loss(p)(m, b)[0] / 7, joined)["weight"] for p in (4, 2))
    assert found["weight"].aligned.product == pytest.approx(float((one * two).sum()), rel=EXACT)
    assert found.samples == 7


def test_nested_batches_with_other_things_in_them_are_cut():
    model = nn.Linear(3, 1, bias=False).double()
    batch = {"x": normal(4, 3), "options": (2.0, "name", None), "y": normal(4, seed=1)}

    def loss(power):
        return lambda m, b: b["options"][0] * (m(b["x"])[:, 0] - b["y"]).abs().pow(power).mean()

    found = gradient_alignment(loss(4), loss(2), model, [batch])
    residuals = (model(batch["x"])[:, 0] - batch["y"]).detach()
    # With one output both gradients are multiples of x with the residual's sign.
    assert found["weight"].cosines.tolist() == pytest.approx([1.0] * len(residuals))


def test_float32_and_dropout_are_accepted_and_the_mode_is_restored():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)).train()
    x = normal(5, 3).float()
    found = gradient_alignment(
        lambda m, x: m(x).square().mean(), lambda m, x: m(x).square().mean(), model, [x], dtype=torch.float32
    )
    assert found["all"].cosines.tolist() == pytest.approx([1.0] * 5, abs=1e-6)
    assert model[1].training


def test_an_iterator_of_batches_serves_both_losses():
    model, batches = language()
    assert gradient_alignment(next_token(2), next_token(1), model, iter(batches)).samples == 12


def test_a_single_step_below_the_transfer_rate_lowers_the_looped_loss():
    theta = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        theta.weight.copy_(torch.tensor([[1.0, 1.0]]))
    curvature, x = torch.tensor([1.0, 4.0]).double(), torch.ones(1, 1).double()
    looped = lambda m, x: (curvature * m.weight[0].square()).sum() / 2 * x.mean()  # noqa: E731
    single = lambda m, x: 3 * m.weight.sum() * x.mean()  # noqa: E731
    limit = gradient_alignment(looped, single, theta, [x])["all"].transfer_rate(4.0)
    # <g_T, g_1> = 3 (1 + 4), ||g_1||^2 = 18
    assert limit == pytest.approx(2 * 15 / (4 * 18))
    start, slope = theta.weight[0].detach(), torch.tensor([3.0, 3.0]).double()
    value = lambda rate: float((curvature * (start - rate * slope).square()).sum() / 2)  # noqa: E731
    assert value(0.999 * limit) < value(0.0)


def test_opposed_gradients_have_no_transfer_rate():
    model = nn.Linear(1, 1, bias=False).double()
    found = gradient_alignment(lambda m, x: m(x).mean(), lambda m, x: -m(x).mean(), model, [torch.ones(2, 1)])
    assert found["all"].transfer_rate(1.0) == 0


@pytest.mark.parametrize("smoothness", [0.0, -1.0, float("nan"), float("inf")])
def test_smoothness_must_be_positive(smoothness):
    with pytest.raises(BadInputError, match=r"smoothness: given .*, expected a positive number"):
        GroupAlignment(theory.Aligned(torch.ones(1), 1.0, 1.0, 1.0), 1.0).transfer_rate(smoothness)


def test_a_group_that_matches_nothing_is_refused():
    model, batches = language()
    with pytest.raises(BadInputError, match="unknown parameter '\\*quary\\*'"):
        gradient_alignment(next_token(2), next_token(1), model, batches, {"q": "*quary*"})


def test_a_group_called_all_is_refused():
    model, batches = language()
    with pytest.raises(BadInputError, match="groups: given 'all', expected another name"):
        gradient_alignment(next_token(2), next_token(1), model, batches, {"all": "head.weight"})


def test_tensors_without_a_common_first_dimension_are_refused():
    model = nn.Linear(3, 1).double()
    loss = lambda m, batch: (m(batch[0]) * batch[1]).mean()  # noqa: E731
    with pytest.raises(
        ShapeMismatchError, match=r"batch 0: given tensors of shapes \[\(4, 3\), \(1,\)\], expected all with one first"
    ):
        gradient_alignment(loss, loss, model, [(normal(4, 3), normal(1))])


def test_a_sample_in_which_nothing_counts_has_no_cosine():
    model, batches = language()
    batches[1][4, 1:] = 0

    def masked(loops):
        def loss(m, tokens):
            targets = torch.where(tokens[:, 1:] == 0, -100, tokens[:, 1:])
            total = functional.cross_entropy(m(tokens[:, :-1], loops=loops).flatten(0, 1), targets.flatten(), reduction="sum")
            return total, (targets != -100).sum()

        return loss

    found = gradient_alignment(masked(2), masked(1), model, batches)
    assert (found.samples, found["all"].counted) == (12, 11)
    assert found["all"].aligned.per_sample[10].isnan()


def test_a_sample_without_a_finite_gradient_is_named():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = normal(3, 2).abs()
    x[1] = torch.tensor([1.0, -1.0])
    rooted = lambda m, x: m(x).abs().mean() if len(x) > 1 else m(x).abs().sqrt().mean()  # noqa: E731
    with pytest.raises(NonFiniteError, match="sample 1 of batch 0: its gradient holds NaN or infinity"):
        gradient_alignment(rooted, rooted, model, [x])
