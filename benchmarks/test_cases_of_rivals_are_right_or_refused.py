"""What the tests of curvlinops and hessian-eigenthings ask for is right here, or refused in one line; the rivals beside it.

The cases are those of the two test suites (curvlinops: models, losses, reductions and data of its linear operators, vectors and
matrices in several forms, blocks, damped inverses, traces, diagonals, norms, loaders that change; hessian-eigenthings: closed forms
of regressions, parameter filters, averages, shapes, eigenvalues, traces and densities of random matrices), written anew. Every case
has an oracle that uses no code of the three: columns by double backward of PyTorch, closed forms, or the eigenvalues of a matrix.
Estimates have to lie within four of their standard errors. Everything is in float64, on one thread; it takes about a minute.

The last line counts the cases: right, refused in one line, not offered, wrong. The exit code is 1 if a case is wrong.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import warnings
from collections import Counter, UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import rivals
import timing
import torch
from torch import Tensor, nn
from torch.nn import functional

import thalweg as tw
from thalweg.curvature.functionals import trace_function
from thalweg.curvature.trace import frobenius
from thalweg.errors import ThalwegError

TOLERANCE = 1e-8
"""Largest relative distance of a product or an eigenvalue from its oracle."""
Batch = tuple[Any, Tensor]


class DictInput(nn.Module):
    """A network whose input is the entry "x" of a mapping."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: Any) -> Tensor:
        """Return the network's outputs."""
        return self.net(data["x"])


class ClassesSecond(nn.Module):
    """Logits ``(N, L, C)`` as ``(N, C, L)``, where PyTorch's cross-entropy wants the classes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs with the classes second."""
        return self.net(x).transpose(1, 2)


@dataclass
class Problem:
    """A model, a loss with a reduction, and batches of different sizes."""

    name: str
    model: nn.Module
    loss: str
    """ "cross-entropy", "squared-error" or "binary-cross-entropy"."""
    reduction: str
    batches: list[Batch]

    def criterion(self, reduction: str) -> nn.Module:
        """Build PyTorch's loss module."""
        kinds = {"cross-entropy": nn.CrossEntropyLoss, "squared-error": nn.MSELoss}
        return kinds.get(self.loss, nn.BCEWithLogitsLoss)(reduction=reduction)

    def total(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """Return the summed loss of a batch and the number of its terms."""
        return self.criterion("sum")(model(batch[0]), batch[1]), batch[1].numel()

    def outputs(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return outputs and targets, the classes last."""
        outputs = model(batch[0])
        moved = outputs.transpose(1, 2) if self.loss == "cross-entropy" and outputs.dim() == 3 else outputs
        return moved, batch[1]

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the losses of the single targets ``(N,)``, those of one target's outputs summed."""
        single = self.criterion("none")(model(batch[0]), batch[1])
        return single.flatten() if self.loss == "cross-entropy" else single.flatten(0, -2).sum(-1)

    @property
    def terms(self) -> int:
        """Number of terms of the loss over all batches."""
        return sum(batch[1].numel() for batch in self.batches)

    @property
    def scale(self) -> float:
        """What the mean of all terms is multiplied by: their number where they are summed."""
        return float(self.terms) if self.reduction == "sum" else 1.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters in the model's order."""
        return list(self.model.parameters())


def flat(parts: Any) -> Tensor:
    """Join tensors into one vector."""
    return torch.cat([part.reshape(-1) for part in parts])


def oracle_hessian(problem: Problem) -> Tensor:
    """Compute every column by double backward."""
    loss = sum(problem.total(problem.model, batch)[0] for batch in problem.batches) * (problem.scale / problem.terms)
    gradient = flat(torch.autograd.grad(loss, problem.parameters, create_graph=True))
    rows = [torch.autograd.grad(one, problem.parameters, retain_graph=True, materialize_grads=True) for one in gradient]
    return torch.stack([flat(row) for row in rows])


def rows_of(values: Tensor, problem: Problem) -> Tensor:
    """Compute the Jacobian of a vector by one backward pass for each entry."""
    return torch.stack([flat(torch.autograd.grad(one, problem.parameters, retain_graph=True)) for one in values])


def oracle_newton(problem: Problem) -> Tensor:
    """Compute ``sum J^T C J`` with C in closed form, target by target."""
    result = 0.0
    for batch in problem.batches:
        outputs = problem.outputs(problem.model, batch)[0].flatten(0, -2)
        for row in outputs:
            jacobian, shares = rows_of(row, problem), row.detach().softmax(0)
            ends = row.detach().sigmoid()
            curved = {
                "cross-entropy": torch.diag(shares) - torch.outer(shares, shares),
                "squared-error": 2 * torch.eye(len(row), dtype=row.dtype),
                "binary-cross-entropy": torch.diag(ends * (1 - ends)),
            }[problem.loss]
            result = result + jacobian.T @ curved @ jacobian
    return result * (problem.scale / problem.terms)


def oracle_fisher(problem: Problem) -> Tensor:
    """Compute the mean of ``g g^T`` over targets."""
    gradients = torch.cat([rows_of(problem.losses(problem.model, batch), problem) for batch in problem.batches])
    return gradients.T @ gradients / len(gradients)


def problems() -> Iterator[Problem]:
    """Yield the problems of curvlinops' operators: unequal batches, every loss, both reductions, dicts, sequences, images."""

    def net(*widths: int) -> nn.Module:
        return nn.Sequential(nn.Linear(widths[0], 5), nn.ReLU(), nn.Linear(5, widths[1])).double()

    def data(
        loss: str, sizes: tuple[int, ...], width: int, out: int, wrap: Any = lambda x, i: x, extra: tuple[int, ...] = ()
    ) -> Any:
        batches = []
        for number, size in enumerate(sizes):
            shape = (size, *extra)
            targets = {
                "cross-entropy": lambda shape=shape: torch.randint(out, shape),
                "squared-error": lambda shape=shape: torch.rand(*shape, out, dtype=torch.float64),
                "binary-cross-entropy": lambda shape=shape: torch.randint(2, (*shape, out)).double(),
            }[loss]()
            batches.append((wrap(torch.rand(*shape, width, dtype=torch.float64), number), targets))
        return batches

    named = lambda x, number: {"x": x} if number else UserDict({"x": x})  # noqa: E731
    for reduction in ("mean", "sum"):
        for loss, out in (("cross-entropy", 3), ("binary-cross-entropy", 1), ("binary-cross-entropy", 2), ("squared-error", 3)):
            yield Problem(f"{loss}, {out} outputs, {reduction}", net(10, out), loss, reduction, data(loss, (3, 4), 10, out))
            if out == 1:
                continue
            model = ClassesSecond(net(10, out)) if loss == "cross-entropy" else net(10, out)
            yield Problem(f"{loss}, sequences, {reduction}", model, loss, reduction, data(loss, (3, 4), 10, out, extra=(5,)))
    for loss, out in (("cross-entropy", 2), ("binary-cross-entropy", 1), ("squared-error", 2)):
        yield Problem(f"{loss}, dicts, mean", DictInput(net(10, out)), loss, "mean", data(loss, (3, 4), 10, out, named))
    images = [(torch.rand(5, 1, 8, 8, dtype=torch.float64), torch.randint(4, (5,))) for _ in range(2)]
    convolution = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)).double()
    yield Problem("cross-entropy, images, mean", convolution, "cross-entropy", "mean", images)
    shared = nn.Linear(6, 6)
    looped = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 3)).double()
    yield Problem("cross-entropy, shared weights, mean", looped, "cross-entropy", "mean", data("cross-entropy", (3, 4), 6, 3))
    normed = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).double()
    yield Problem("cross-entropy, LayerNorm, mean", normed, "cross-entropy", "mean", data("cross-entropy", (3, 4), 6, 3))


Attempt = Callable[[], "Tensor | float"]


@dataclass
class Case:
    """One thing that a test asks for."""

    group: str
    name: str
    ours: Attempt
    """Returns what has to equal the truth, or refuses."""
    truth: Tensor | None
    """None where a refusal is expected."""
    theirs: dict[str, Attempt]
    """Rival -> the same by the rival."""
    tolerance: float = TOLERANCE


def operator_cases(problem: Problem, kind: str) -> Iterator[Case]:
    """Yield products of an operator in every form, of its blocks and of its inverse, for one problem."""
    shapes = [parameter.shape for parameter in problem.parameters]
    names, sizes = [name for name, _ in problem.model.named_parameters()], [shape.numel() for shape in shapes]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    half, last = torch.arange(ends[len(sizes) // 2 - 1]), torch.arange(ends[-2], ends[-1])
    build, oracle = KINDS[kind]
    made, matrix = functools.cache(functools.partial(build, problem)), oracle(problem)
    dim = len(matrix)
    v, several = torch.randn(dim, dtype=torch.float64), torch.randn(dim, 3, dtype=torch.float64)
    parts = [part.view(shape) for part, shape in zip(v.split(sizes), shapes, strict=True)]
    shift = 1.0 + float(torch.linalg.eigvalsh(matrix).abs().max())
    forms: dict[str, tuple[Callable[[Any], Any], Tensor]] = {
        "vector": (lambda a: a @ v, matrix @ v),
        "matrix": (lambda a: a @ several, matrix @ several),
        "list of tensors": (lambda a: flat(a @ parts), matrix @ v),
        "numpy array": (lambda a: torch.from_numpy(a @ v.numpy()), matrix @ v),
        "scipy": (lambda a: torch.from_numpy(a.to_scipy() @ v.numpy()), matrix @ v),
        "scipy, adjoint": (lambda a: torch.from_numpy(a.to_scipy().H @ v.numpy()), matrix.T @ v),
        "block of half": (lambda a: a[names[: len(names) // 2]] @ v[half], matrix[half][:, half] @ v[half]),
        "block of one": (lambda a: a[names[-1]] @ v[last], matrix[last][:, last] @ v[last]),
        "damped inverse": (
            lambda a: tw.solve(a + shift, v, tolerance=1e-11).vector,
            torch.linalg.solve(matrix + shift * torch.eye(dim, dtype=torch.float64), v),
        ),
        "trace": (lambda a: torch.tensor(tw.trace(a, probes=2 * dim, method="xtrace").value, dtype=torch.float64), matrix.trace()),
        "diagonal": (lambda a: tw.diagonal(a, method="exact").values, matrix.diagonal()),
        "largest eigenvalue": (lambda a: tw.eigenpairs(a, 1).values.abs()[0], torch.linalg.eigvalsh(matrix).abs().max()),
    }
    for form, (attempt, truth) in forms.items():
        theirs = rival_products(problem, kind, v) if form == "vector" else {}
        yield Case(f"curvlinops, {kind}", f"{problem.name}: {form}", lambda run=attempt: run(made()), truth, theirs)


def build_hessian(problem: Problem) -> Any:
    """Build our Hessian in the problem's reduction."""
    return tw.Hessian(problem.total, problem.model, problem.batches) * problem.scale


def build_newton(problem: Problem) -> Any:
    """Build our Gauss-Newton matrix in the problem's reduction."""
    loss: Any = problem.loss
    return tw.GaussNewton(problem.outputs, problem.model, problem.batches, loss=loss) * problem.scale


def build_fisher(problem: Problem) -> Any:
    """Build our empirical Fisher matrix, a mean over targets."""
    return tw.EmpiricalFisher(problem.losses, problem.model, problem.batches)


KINDS = {
    "Hessian": (build_hessian, oracle_hessian),
    "Gauss-Newton": (build_newton, oracle_newton),
    "empirical Fisher": (build_fisher, oracle_fisher),
}
"""Operator -> ours, and its oracle."""


def rival_products(problem: Problem, kind: str, v: Tensor) -> dict[str, Attempt]:
    """Return the same product by the rivals that are installed; the empirical Fisher is compared for the losses alone."""
    found: dict[str, Attempt] = {}

    def curvlinops() -> Tensor:
        import curvlinops as library

        classes = {"Hessian": library.HessianLinearOperator, "Gauss-Newton": library.GGNLinearOperator}
        options = {"batch_size_fn": lambda x: len(x["x"])} if "dicts" in problem.name else {}
        model = copy.deepcopy(problem.model)
        criterion, parameters = problem.criterion(problem.reduction), list(model.parameters())
        return classes[kind](model, criterion, parameters, problem.batches, **options) @ v

    def eigenthings() -> Tensor:
        from hessian_eigenthings import HessianOperator

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            # It averages over batches of any size, so that a term's weight has to be that of the whole mean or sum.
            return problem.total(model, batch)[0] * (problem.scale * len(problem.batches) / problem.terms)

        return HessianOperator(copy.deepcopy(problem.model), problem.batches, loss).matvec(v)

    if kind != "empirical Fisher":
        found["curvlinops"] = curvlinops
    if kind == "Hessian":
        found["hessian-eigenthings"] = eigenthings
    return found


def matrix_cases() -> Iterator[Case]:
    """Yield estimates and eigenvalues of random matrices with known spectra."""
    basis = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64)).Q
    spectra = {
        "flat": torch.ones(100),
        "linear": torch.linspace(1, 100, 100),
        "falling fast": torch.logspace(2, -6, 100),
        "low rank": torch.cat([torch.linspace(5, 10, 10), torch.zeros(90)]),
        "indefinite": torch.linspace(-20, 50, 100),
        "repeated": torch.tensor([9.0, 9.0, 9.0, *torch.linspace(0, 1, 97).tolist()]),
    }
    for name, values in spectra.items():
        yield from spectrum_cases(name, values.double(), basis)


def spectrum_cases(name: str, values: Tensor, basis: Tensor) -> Iterator[Case]:
    """Yield estimates and eigenvalues of a matrix with these eigenvalues and eigenvectors."""
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    for method in ("hutchinson", "hutch++", "xtrace"):
        yield Case("traces", f"{name}, {method}", lambda m=method: estimated(tw.trace(matrix, 60, m)), values.sum(), {}, 0.0)
    yield Case("norms", name, lambda: estimated(frobenius(matrix, 60)), values.norm(), {}, 0.0)
    found = tw.diagonal(matrix, probes=60, method="probes")
    worst = float(((found.values - matrix.diagonal()).abs() / found.standard_errors.clamp(min=1e-12)).max())
    yield Case("diagonals", name, lambda worst=worst: torch.tensor(max(0.0, worst - 6.0)), torch.tensor(0.0), {})
    for which, order in (("largest", values.sort(descending=True).values), ("smallest", values.sort().values)):
        k = 5
        yield Case("eigenvalues", f"{name}, {k} {which}", lambda w=which: tw.eigenpairs(matrix, 5, w).values, order[:k], {})
    yield Case("eigenvalues", f"{name}, all", lambda: tw.eigenpairs(matrix, 100, "smallest").values, values.sort().values, {})
    logarithm = trace_function(matrix @ matrix, torch.log1p, steps=60, probes=20)
    yield Case("traces of functions", name, lambda one=logarithm: estimated(one), torch.log1p(values.square()).sum(), {}, 0.0)

    def half() -> Tensor:
        share, error = tw.spectral_density(matrix, steps=60, probes=20).mass(-torch.inf, float(values.median()) + 1e-9)
        return torch.tensor([share, error])

    share = (values <= values.median() + 1e-9).double().mean()
    yield Case("densities", f"{name}, mass below the median", half, share, {}, 0.0)


def estimated(estimate: Any) -> Tensor:
    """Return value and standard error of an estimate."""
    return torch.tensor([estimate.value, estimate.standard_error], dtype=torch.float64)


def regression_cases() -> Iterator[Case]:
    """Yield the closed forms of linear, logistic and softmax regression, filters and averages of hessian-eigenthings."""
    x = torch.randn(16, 5, dtype=torch.float64)
    for loss, out in (("squared-error", 1), ("binary-cross-entropy", 1), ("cross-entropy", 3)):
        model = nn.Linear(5, out, bias=False).double()
        targets = {"squared-error": torch.randn(16, 1).double(), "binary-cross-entropy": torch.randint(2, (16, 1)).double()}
        problem = Problem(loss, model, loss, "mean", [(x, targets.get(loss, torch.randint(3, (16,))))])
        outputs = model(x).detach()
        shares = outputs.softmax(1)
        class_blocks = torch.diag_embed(shares) - shares.unsqueeze(2) * shares.unsqueeze(1)
        spread = (outputs.sigmoid() * (1 - outputs.sigmoid()))[:, 0]
        closed = {
            "squared-error": 2 * x.T @ x / 16,
            "binary-cross-entropy": (x.T * spread) @ x / 16,
            "cross-entropy": torch.einsum("nab,ni,nj->aibj", class_blocks, x, x).reshape(5 * out, 5 * out) / 16,
        }[loss]
        v = torch.randn(5 * out, 5, dtype=torch.float64)
        for kind in ("Hessian", "Gauss-Newton"):
            product = lambda problem=problem, kind=kind, v=v: KINDS[kind][0](problem) @ v  # noqa: E731
            yield Case("regressions in closed form", f"{loss}, {kind}", product, closed @ v, {})
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    batches = [(torch.randn(4, 3).double(), torch.randn(4, 2).double()) for _ in range(2)]
    problem = Problem("two batches", model, "squared-error", "mean", batches)
    mean = lambda m, b: functional.mse_loss(m(b[0]), b[1])  # noqa: E731
    whole, v = oracle_hessian(problem), torch.randn(32, dtype=torch.float64)
    yield Case("filters and averages", "mean of two batches", lambda: tw.Hessian(mean, model, batches) @ v, whole @ v, {})
    for choice, span in (("2.weight", slice(20, 30)), ("2.*", slice(20, 32)), (["0.bias", "2.bias"], None)):
        at = torch.arange(32)[span] if span else torch.tensor([15, 16, 17, 18, 19, 30, 31])
        product = lambda choice=choice, at=at: tw.Hessian(mean, model, batches, choice) @ v[at]  # noqa: E731
        yield Case("filters and averages", f"params={choice!r}", product, whole[at][:, at] @ v[at], {})
    differences = lambda: tw.Hessian(mean, model, batches, method="differences") @ v  # noqa: E731
    yield Case("filters and averages", "differences of gradients", differences, whole @ v, {}, 1e-6)


def refused_cases() -> Iterator[Case]:
    """Yield what has to be refused: losses that change, wrong shapes and types, means over unequal batches, bad settings."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Dropout(), nn.Tanh(), nn.Linear(5, 2)).double()
    normed = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    mean = lambda m, b: functional.mse_loss(m(b[0]), b[1])  # noqa: E731
    batches = [(torch.randn(size, 3).double(), torch.randn(size, 2).double()) for size in (4, 4)]
    unequal = [batches[0], (batches[1][0][:3], batches[1][1][:3])]
    operator = tw.Hessian(mean, model, batches)
    empty: list[Any] = []
    attempts: dict[str, Callable[[], Any]] = {
        "dropout in training mode": lambda: tw.Hessian(mean, model, batches, mode="train"),
        "a bare mean over unequal batches": lambda: tw.Hessian(mean, model, unequal),
        "no batches": lambda: tw.Hessian(mean, model, empty),
        "a vector that is too long": lambda: operator @ torch.zeros(operator.dim + 1, dtype=torch.float64),
        "a vector of whole numbers": lambda: operator @ torch.zeros(operator.dim, dtype=torch.int64),
        "a list of wrong shapes": lambda: operator @ [torch.zeros(2), torch.zeros(3)],
        "a list of tensors and arrays": lambda: operator @ [torch.zeros(5, 3), torch.zeros(5).numpy()],
        "an operator of another size": lambda: operator + tw.Hessian(mean, normed, batches),
        "a parameter that does not exist": lambda: tw.Hessian(mean, model, batches, "7.weight"),
        "an inverse of an indefinite matrix": lambda: tw.solve(torch.diag(torch.tensor([1.0, -1.0])), torch.ones(2)),
        "a matrix that is not symmetric": lambda: tw.trace(torch.tensor([[1.0, 2.0], [0.0, 1.0]])),
        "no probes": lambda: tw.trace(torch.eye(3), probes=0),
        "one probe": lambda: tw.trace(torch.eye(3), probes=1, method="hutchinson"),
        "an unknown method": lambda: tw.trace(torch.eye(3), method="power"),
        "more eigenvalues than there are": lambda: tw.eigenpairs(torch.eye(3), 4),
        "an unknown end of the spectrum": lambda: tw.eigenpairs(torch.eye(3), 1, "LM"),
        "a mass below the resolution": lambda: tw.spectral_density(torch.diag(torch.linspace(0, 1, 99)), 5).mass(0.5, 0.501),
        "a concave loss": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), model, batches, loss=lambda o, y: -(o**2).mean()),
        "classes out of range": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), torch.full((4,), 9)), model, batches),
        "a mean loss for the empirical Fisher": lambda: tw.EmpiricalFisher(mean, model, batches),
        "a scipy solver without to_scipy": lambda: operator.matvec,
    }
    for name, attempt in attempts.items():
        yield Case("refused", name, attempt, None, {})
    # BatchNorm in evaluation mode and a shuffling loader, whose batches are read once, are no reason to refuse.
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batches[0]), batch_size=2, shuffle=True)
    drawn = Problem("loader", normed.eval(), "squared-error", "mean", [batches[0]])
    truth, v = oracle_hessian(drawn), torch.randn(42, dtype=torch.float64)
    yield Case("loaders", "BatchNorm, a shuffling loader", lambda: tw.Hessian(mean, normed, loader) @ v, truth @ v, {})


NOT_OFFERED = {
    "KFAC, EKFAC and their inverses": "curvlinops",
    "Fisher matrices from sampled labels": "curvlinops",
    "Jacobians as operators": "curvlinops",
    "inverses by Neumann series or LSMR": "curvlinops (scipy's LSMR takes to_scipy())",
    "a product with the next batch of a loader alone": "hessian-eigenthings",
    "operators over ranks with sharded weights": "hessian-eigenthings",
}
"""What the two suites test and thalweg does not have -> whose it is."""


def verdict(case: Case, attempt: Attempt) -> str:
    """Return "right", "refused", "wrong" or "error", with the distance or the message."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = torch.as_tensor(attempt())
        except ThalwegError as problem:
            return "refused" if "\n" not in str(problem) else f"error: {problem}"
        except Exception as problem:
            return f"error: {type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:60]}"
    if case.truth is None:
        return "wrong: not refused"
    truth = case.truth.double()
    if case.tolerance == 0.0:  # value and standard error
        apart, allowed = abs(float(found[0]) - float(truth)), 4 * float(found[1]) + 1e-9 * float(truth.abs())
        return "right" if apart <= allowed else f"wrong: {apart:.1e} off, {allowed:.1e} allowed"
    apart = float((found.double() - truth).norm()) / (float(truth.norm()) or 1.0)
    return "right" if apart <= case.tolerance else f"wrong: {apart:.0e}"


def cases() -> Iterator[Case]:
    """Yield all cases."""
    for problem in problems():
        for kind in KINDS:
            yield from operator_cases(problem, kind)
    yield from matrix_cases()
    yield from regression_cases()
    yield from refused_cases()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="print every case, not only those that are not right")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    installed = {"curvlinops": "curvlinops", "hessian-eigenthings": "hessian_eigenthings"}
    installed = {name for name, module in installed.items() if rivals.installed(module)}
    ours: dict[str, Counter[str]] = {}
    theirs: dict[str, Counter[str]] = {name: Counter() for name in sorted(installed)}
    for case in cases():
        found = verdict(case, case.ours)
        expected = "refused" if case.truth is None else "right"
        word = found if found in ("right", "refused") else "wrong"
        ours.setdefault(case.group, Counter())[word] += 1
        if options.all or found != expected:
            print(f"{case.group}: {case.name}: {found}" + ("" if found == expected else f" (expected: {expected})"))
        for name, attempt in case.theirs.items():
            if name in installed:
                answer = verdict(case, attempt)
                theirs[name][answer.partition(":")[0]] += 1
                if options.all or answer != "right":
                    print(f"    {name}, {case.group}: {case.name}: {answer}")
    words = ["right", "refused", "wrong"]
    timing.print_table(["cases", *words], [[group, *(str(count[word]) for word in words)] for group, count in ours.items()])
    for name, count in theirs.items():
        numbers = f"{count['right']} right, {count['wrong']} wrong, {count['error']} raised an error"
        print(f"{name} on the products that both have: {numbers}")
    print(f"not offered: {len(NOT_OFFERED)}: {'; '.join(NOT_OFFERED)}")
    total = sum(ours.values(), Counter())
    print(f"\n{total.total()} cases: {total['right']} right, {total['refused']} refused in one line, {total['wrong']} wrong")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
