import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.curvature.cases import normal, stirred

from thalweg.curvature import memory
from thalweg.curvature.gauss_newton import GaussNewton
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError, MemoryLimitError

PROGRAM = """
import sys, torch
from torch import nn
from thalweg.curvature.hessian import Hessian
limit = int(sys.argv[1]) or None
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 64))
batches = [(torch.randn(2048, 64), torch.randn(2048, 64)) for _ in range(12)]
loss_fn = lambda m, b: (m(b[0]) - b[1]).square().mean()
def peak():  # not ru_maxrss, which starts at the peak of the process that started this one
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
hessian = Hessian(loss_fn, model, batches[:1], memory=1, check=False)
hessian @ torch.ones(hessian.dim)
before = peak()
hessian = Hessian(loss_fn, model, batches, memory=limit, check=False)
product = hessian @ torch.ones(hessian.dim)
print(peak() - before, sum(p.bytes() for p in hessian.programs.values()), len(hessian.programs), float(product.norm()))
"""


def measured(limit):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(limit)], capture_output=True, text=True, timeout=300, check=True)
    growth, held, programs, norm = done.stdout.split()
    return int(growth), int(held), int(programs), float(norm)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_peak_memory_stays_under_the_limit():
    limit = 100 << 20
    growth, held, programs, norm = measured(limit)
    unlimited, everything, count, expected = measured(0)
    assert count == 12
    assert everything > limit
    assert unlimited > limit
    assert 0 < programs < 12
    assert held <= limit
    assert growth <= limit
    assert norm == pytest.approx(expected, rel=1e-5)


def test_more_than_allowed_is_refused_before_it_is_taken():
    memory.ensure(10, 10, "this", "do that")
    with pytest.raises(MemoryLimitError, match=r"^this: needs 2.0 GiB, the limit is 1.0 MiB; do that$"):
        memory.ensure(2 << 30, 1 << 20, "this", "do that")


def test_a_limit_must_be_positive():
    with pytest.raises(BadInputError, match="memory: given 0, expected a positive number of bytes"):
        memory.budget(0)


def test_without_a_limit_half_of_what_is_free():
    assert 0.3 * memory.free() < memory.budget(None) < 0.7 * memory.free()


def seen_by(loss_fn, sizes):
    """The loss, with the number of samples of every call noted."""

    def loss(model, batch):
        sizes.append(len(batch[0]))
        return loss_fn(model, batch)

    return loss


def rowwise(model, batch):
    return (model(batch[0]) - batch[1]).square().sum(), batch[1].numel()


def contrastive(model, batch):
    states = model(batch[0])
    return torch.nn.functional.cross_entropy(states @ states.T, torch.arange(len(states)), reduction="sum"), len(states)


def one_long_batch():
    model = stirred(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)))
    return model, [(normal(96, 3), normal(96, 2, seed=1))]


@pytest.mark.parametrize("kind", ["Hessian", "GaussNewton"])
def test_a_product_that_does_not_fit_is_made_of_pieces(kind):
    model, batches = one_long_batch()
    sizes: list[int] = []
    outputs = seen_by(lambda m, b: (m(b[0]), b[1]), sizes)

    def made(**options):
        if kind == "Hessian":
            return Hessian(seen_by(rowwise, sizes), model, batches, dtype=torch.float64, **options)
        return GaussNewton(outputs, model, batches, dtype=torch.float64, loss="squared-error", **options)

    whole = made()
    short = made(memory=4000)
    assert "so it is made of" in short.explain()
    v = normal(whole.dim).double()
    sizes.clear()
    product = short @ v
    assert max(sizes) < 96 / 2
    assert sum(sizes) >= 96
    assert float((product - whole @ v).norm()) < 1e-12 * float(product.norm())
    assert "so it is made of" not in whole.explain()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (contrastive, "does not add up over samples"),
        (lambda m, b: (m(b[0]) - b[1]).square().mean(), r"a bare mean, return \(total, "),
    ],
)
def test_a_loss_that_cannot_be_divided_stays_whole_and_says_so(loss, words):
    model, batches = one_long_batch()
    short = Hessian(loss, model, batches, dtype=torch.float64, memory=4000)
    assert re.search("and cannot be divided: .*" + words, short.explain())
    v = normal(short.dim).double()
    assert float((short @ v - Hessian(loss, model, batches, dtype=torch.float64) @ v).norm()) < 1e-12 * float((short @ v).norm())
