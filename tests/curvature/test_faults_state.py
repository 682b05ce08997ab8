"""What a loss, a module or an operator does on the side: it counts, is restored, or is refused."""

from collections.abc import MutableMapping
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.nn import functional

from thalweg.curvature import memory
from thalweg.curvature.containers import cast, map_tensors
from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.functionals import trace_function
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.operator import FromFunction, Matrix
from thalweg.curvature.solve import solve
from thalweg.errors import BadInputError, KinkWarning, NonFiniteError, NotSymmetricError

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


def squared(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


class Sparse(nn.Module):
    """A layer whose own attribute is called ``sparse``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.sparse = nn.Linear(3, 2), True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.layer(x)
        return made * torch.tensor([1.0, 0.0], dtype=made.dtype) if self.sparse else made


def test_a_modules_own_attribute_sparse_is_left_alone() -> None:
    model = Sparse()
    assert Hessian(squared, model, [X], params="layer.*").loss == pytest.approx(squared(model, X).item(), rel=1e-6)


class Caching(nn.Module):
    """Registers a buffer in its forward pass, as caches of rotary positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "cache"):
            self.register_buffer("cache", torch.ones(3).to(x.dtype), persistent=False)
        return self.layer(x * self.cache)


def test_a_buffer_that_a_forward_pass_registers_does_not_stay() -> None:
    model = Caching()
    Hessian(squared, model, [X], dtype=torch.float64)
    assert "cache" not in dict(model.named_buffers())
    assert not model._non_persistent_buffers_set
    assert model(X).dtype == torch.float32


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.layer(x)
        return functional.relu(made) if x.sum() > 0 else torch.tanh(made)


def test_a_kink_in_the_second_batch_alone_is_named() -> None:
    with pytest.warns(KinkWarning, match="relu"):
        assert Hessian(squared, Branching(), [-X.abs(), X.abs()], dtype=torch.float64).objective.kinks == ("relu",)


def test_a_loss_that_reads_which_weights_require_gradients() -> None:
    def penalised(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return squared(model, batch) + sum(weight.square().sum() for weight in model.parameters() if weight.requires_grad)

    model = small()
    with pytest.raises(
        BadInputError, match=r"while the weights that params= leaves out require gradients.*requires_grad_\(False\)"
    ):
        Hessian(penalised, model, [X], params="0.weight")
    assert Hessian(penalised, model, [X]).loss == pytest.approx(penalised(model, X).item(), rel=1e-6)
    for weight in (model[0].bias, *model[2].parameters()):
        weight.requires_grad_(False)
    assert Hessian(penalised, model, [X], params="0.weight").loss == pytest.approx(penalised(model, X).item(), rel=1e-6)


class Shared(MutableMapping):
    """A mapping whose copies share what they hold."""

    def __init__(self, store: dict) -> None:
        self.store = store

    def __getitem__(self, key): return self.store[key]  # fmt: skip

    def __setitem__(self, key, value): self.store[key] = value  # fmt: skip

    def __delitem__(self, key): del self.store[key]  # fmt: skip

    def __iter__(self): return iter(self.store)  # fmt: skip

    def __len__(self): return len(self.store)  # fmt: skip


def test_a_mapping_whose_copies_share_their_store_is_not_written_to() -> None:
    given, x = Shared({"x": X}), X
    try:
        made = map_tensors(lambda tensor: cast(tensor, torch.float64), given)
    except BadInputError:
        made = None
    assert given["x"] is x
    assert made is None or made["x"].dtype == torch.float64


def test_a_seed_of_numpy() -> None:
    dropped = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    losses = [Hessian(squared, dropped, [X], mode="train", seed=seed).loss for seed in (3, np.int64(3))]
    assert losses[0] == losses[1]


def test_progress_that_raises_ends_the_computation() -> None:
    def stop(done: int, total: int) -> None:
        raise TimeoutError("stop now")

    with pytest.raises(TimeoutError, match="stop now"):
        dense_hessian(squared, small(), [X], progress=stop)


def test_a_block_takes_rows_and_columns() -> None:
    dense = dense_hessian(squared, small(), [X])
    assert dense["0.weight", "0.bias"].shape == (12, 4)
    with pytest.raises(BadInputError, match="two choices of parameters, rows and columns"):
        dense["0.weight"]


def test_a_product_that_the_vectors_dtype_cannot_hold_is_refused() -> None:
    matrix = Matrix(torch.diag(torch.tensor([1e5, 1.0], dtype=torch.float64)))
    assert (matrix @ torch.ones(2)).tolist() == [1e5, 1.0]
    with pytest.raises(NonFiniteError, match=r"in torch\.float16"):
        matrix @ torch.ones(2, dtype=torch.float16)


@pytest.mark.parametrize("scale", [1e-24, 1.0, 1e25])
def test_symmetry_is_judged_at_any_scale(scale: float) -> None:
    with pytest.raises(NotSymmetricError):
        Matrix(torch.tensor([[1.0, 2.0], [0.0, 1.0]]) * scale)
    assert (Matrix(torch.tensor([[1.0, 2.0], [2.0, 1.0]]) * scale) @ torch.tensor([1.0, 0.0])).tolist() == pytest.approx(
        [scale, 2 * scale]
    )


def test_a_slight_asymmetry_of_a_large_operator_is_seen() -> None:
    turned = lambda share: lambda v: v + share * (v.roll(1) - v.roll(-1))  # noqa: E731
    with pytest.raises(NotSymmetricError):
        FromFunction(turned(0.02), 400_000, torch.float32)
    FromFunction(turned(0.0), np.int64(400_000), torch.float32)
    FromFunction(lambda v: (v.float() * torch.linspace(1, 2, 400_000)).double(), 400_000)  # which computes in float32


def test_complex_products_are_refused() -> None:
    with pytest.raises(BadInputError, match="complex products"):
        eigenpairs(scipy.sparse.csr_matrix(np.array([[1, 1j], [-1j, 1]])), k=2)


def test_a_matrix_that_requires_gradients_and_arrays_in_other_byte_orders() -> None:
    matrix = Matrix(torch.diag(torch.tensor([1.0, 3.0])).requires_grad_())
    assert eigenpairs(matrix, k=1).values.tolist() == pytest.approx([3.0])
    assert (matrix @ np.ones(2, dtype=">f8")).tolist() == [1.0, 3.0]
    with pytest.raises(BadInputError, match="of at most 64 bits"):
        matrix @ np.ones(2, dtype=np.longdouble)


def test_a_right_side_of_integers_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"right side: given torch.int64, expected float32 or float64"):
        solve(torch.diag(torch.tensor([2.0, 4.0], dtype=torch.float64)), torch.tensor([1, 2]))


def test_eigenvalues_are_counted_by_a_condition() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, 3.0, 5.0], dtype=torch.float64))
    assert trace_function(matrix, lambda x: x > 2, steps=4, probes=400).value == pytest.approx(2, abs=0.4)


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    group = tmp_path / "slice" / "job"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/slice/job\n")
    for folder, most, used in ((group, "max", 700), (group.parent, "1000", 900)):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 300\n")
    assert memory._groups(tmp_path, tmp_path / "own") == [(1000, 600)]
    first = tmp_path / "memory" / "job"
    first.mkdir(parents=True)
    (tmp_path / "own").write_text("4:cpu,memory:/job\n2:pids:/job\n")
    (first / "memory.limit_in_bytes").write_text("2000\n")
    (first / "memory.usage_in_bytes").write_text("500\n")
    (first / "memory.stat").write_text("total_inactive_file 100\n")
    assert memory._groups(tmp_path, tmp_path / "own") == [(2000, 400)]
    assert memory._groups(tmp_path, tmp_path / "none") == []
