"""What is silently wrong elsewhere: each test shows the wrong recipe fail on a case where ours is right."""

import subprocess

import numpy as np
import pytest
import torch
from tests.curvature.cases import CASES, Case, apart, normal, squares, stirred
from torch import nn
from torch.func import functional_call, jacrev, jvp
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.curvature.density import spectral_density
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.operator import Matrix
from thalweg.errors import ResolutionError

torchscript = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
WRONG = 1e-3


def layer_norm():
    """Affine LayerNorms whose inputs have parameters before them, in float64."""
    model = stirred(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6))).double()
    x, y = normal(8, 6, seed=1).double(), normal(8, 6, seed=2).double()
    return Case(model, lambda m, b: ((m(b[0]) - b[1]) ** 4).mean(), [(x, y)])


def total(case):
    return lambda parts: case.loss_fn(lambda x: functional_call(case.model, parts, (x,)), case.batches[0])


def flat(parts):
    return torch.cat([part.reshape(-1) for part in parts.values()])


def ours(case):
    return Hessian(*case.given) @ case.direction()


def by_jvp_of_jacrev(case):
    parts = {name: part.detach() for name, part in case.model.named_parameters()}
    sizes = [part.numel() for part in parts.values()]
    split = zip(parts.items(), case.direction().split(sizes), strict=True)
    tangents = {name: piece.view(part.shape) for (name, part), piece in split}
    return flat(jvp(jacrev(total(case)), (parts,), (tangents,))[1])


def by_torch_func_hessian(case):
    parts = {name: part.detach() for name, part in case.model.named_parameters()}
    rows = torch.func.hessian(total(case))(parts)
    blocks = [[rows[a][b].reshape(parts[a].numel(), -1) for b in parts] for a in parts]
    return torch.cat([torch.cat(row, 1) for row in blocks]) @ case.direction()


def by_curvlinops(case):
    curvlinops = pytest.importorskip("curvlinops")

    class Loss(nn.Module):
        reduction = "mean"

        def forward(self, prediction, target):
            return ((prediction - target) ** 4).mean()

    parameters = dict(case.model.named_parameters())
    try:
        operator = curvlinops.HessianLinearOperator(case.model, Loss(), parameters, case.batches, check_deterministic=False)
    except (TypeError, AttributeError, ValueError):
        operator = curvlinops.HessianLinearOperator(
            case.model, Loss(), list(parameters.values()), case.batches, check_deterministic=False
        )
    return operator @ case.direction()


@torchscript
@pytest.mark.parametrize("rival", [by_jvp_of_jacrev, by_torch_func_hessian, by_curvlinops])
def test_layer_norm(rival):
    case = layer_norm()
    truth = case.product(case.direction())
    assert apart(rival(case).detach(), truth) > WRONG
    assert apart(ours(case), truth) < 1e-9


@pytest.fixture(scope="module")
def model_with_outliers():
    model = stirred(nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 4))).double()
    case = Case(model, squares, [(normal(64, 8, seed=1).double(), normal(64, 4, seed=2).double())])
    hessian = Hessian(*case.given)
    return case, hessian, torch.linalg.eigvalsh(hessian @ torch.eye(hessian.dim, dtype=torch.float64)).flip(0)


@torchscript
def test_lanczos_ghosts(model_with_outliers):
    rival = pytest.importorskip("hessian_eigenthings")
    case, hessian, truth = model_with_outliers
    operator = rival.HessianOperator(case.model, case.batches, case.loss_fn)
    theirs = rival.lanczos(operator, k=10, max_iter=300, tol=1e-12, which="LA", seed=0).eigenvalues
    size = float(truth[0])
    distinct = lambda values: int((np.abs(np.diff(np.sort(np.asarray(values)))) > 1e-6 * size).sum()) + 1  # noqa: E731
    assert distinct(truth[:10]) == 10
    assert distinct(theirs) < 10
    found = eigenpairs(hessian, 10, "largest").values
    assert torch.allclose(found, truth[:10], rtol=0, atol=1e-10 * size)


def test_a_river_below_the_resolution_of_quadrature_is_refused_not_zero():
    rng = np.random.default_rng(0)
    spectrum = np.concatenate([np.exp(rng.uniform(-14, -2, 380)) * rng.choice([1, 1, -1], 380), np.geomspace(0.2, 5, 20)])
    density = spectral_density(Matrix(torch.diag(torch.from_numpy(spectrum))), steps=20)
    naive = float((density.weights * (density.nodes.abs() <= 1e-3)).sum(1).mean())
    assert abs(naive - (abs(spectrum) <= 1e-3).mean()) > 0.1
    with pytest.raises(ResolutionError, match=r"mass: given a window of width 0\.002 inside of the spectrum, expected at least"):
        density.mass(-1e-3, 1e-3)


def test_attention_with_the_default_kernel_has_no_second_derivative_elsewhere():
    case = CASES["gpt, tied, 2 loops"]()
    parameters = list(case.model.parameters())
    double_backward = lambda: torch.autograd.grad(  # noqa: E731
        sum(g.sum() for g in torch.autograd.grad(case.loss_fn(case.model, case.batches[0]), parameters, create_graph=True)),
        parameters,
    )
    with pytest.raises(RuntimeError, match="derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not impl"):
        double_backward()
    with sdpa_kernel(SDPBackend.MATH):
        double_backward()
    for method in ("recorded", "rebuilt"):
        hessian = Hessian(*case.given, dtype=torch.float64, method=method)
        assert apart(hessian @ case.direction(), case.product(case.direction())) < 1e-7


def test_ragged_batches_weigh_by_what_counts():
    case = CASES["ragged"]()
    biggest = case.batches[0].shape[1]
    padded = [functional.pad(tokens, (0, biggest - tokens.shape[1])) for tokens in case.batches]  # token 0 does not count as target
    one = Case(case.model, case.loss_fn, [torch.cat(padded)])

    def mean_of_one(model, tokens):
        loss, count = case.loss_fn(model, tokens)
        return loss / count

    alike = [Hessian(mean_of_one, case.model, [tokens], dtype=torch.float64) @ case.direction() for tokens in case.batches]
    truth = one.product(one.direction())
    assert apart(sum(alike) / len(alike), truth) > 0.01
    assert apart(Hessian(*case.given, dtype=torch.float64) @ case.direction(), truth) < 1e-7
    assert apart(Hessian(*one.given, dtype=torch.float64) @ case.direction(), truth) < 1e-7


TWO = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
from tests.curvature.cases import ragged
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.eigenpairs import eigenpairs
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
case = ragged()
model = case.model
if world == 2:
    dist.init_process_group("gloo", init_method="file://" + folder + "/store", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(model)
mine = case.batches if world == 1 else case.batches[:2] if rank == 0 else case.batches[2:]
hessian = Hessian(case.loss_fn, model, mine, dtype=torch.float64)
pairs = eigenpairs(hessian, 3)
found = [hessian @ case.direction(), hessian.gradient, torch.tensor(hessian.loss), pairs.values, pairs.vectors.flatten()]
torch.save(found, f"{folder}/{world}-{rank}.pt")
if world == 2:
    dist.barrier()
    os._exit(0)  # gloo's threads sometimes abort when they are taken down
"""


@pytest.mark.slow
def test_two_processes_with_half_the_batches_each_are_one_with_all(python, tmp_path):
    started = [
        subprocess.Popen([python, "-W", "ignore", "-c", TWO, str(rank), str(world), str(tmp_path)])
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert max(apart(a, b) for a, b in zip(first[:4], alone[:4], strict=True)) < 1e-12
    assert apart(first[4], alone[4]) < 1e-7


def test_a_compiled_model_is_unwrapped():
    case = CASES["MLP"]()
    compiled = torch.compile(case.model)
    assert torch.equal(Hessian(case.loss_fn, compiled, case.batches) @ case.direction(), ours(case))


def test_a_data_parallel_model_is_unwrapped():
    case = CASES["MLP"]()
    assert torch.equal(Hessian(case.loss_fn, nn.DataParallel(case.model), case.batches) @ case.direction(), ours(case))
