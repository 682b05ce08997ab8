"""Compute the Hessian of a small convolutional network: extreme eigenvalues, trace, spectral density, and the block of one layer.

The images are synthetic: the class is the quadrant that is brighter.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import thalweg as tw
from thalweg.curvature.trace import trace
from thalweg.errors import ResolutionError

torch.manual_seed(0)
# Data and training: four classes, 60 updates of Adam.
labels = torch.randint(4, (256,))
images = torch.randn(256, 1, 8, 8)
for index, label in enumerate(labels.tolist()):
    images[index, 0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 0.6
model = nn.Sequential(
    *(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(6, 12, 3, stride=2, padding=1), nn.GELU()),
    *(nn.Flatten(), nn.Linear(48, 4)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(60):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def loss_fn(model, batch):
    """Return the summed loss and the number of samples; thalweg computes the mean over all batches."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])


batches = list(zip(images.split(64), labels.split(64), strict=True))
hessian = tw.Hessian(loss_fn, model, batches)
print(hessian.explain())
print(f"loss {hessian.loss:.3f}; checked: {hessian.report}")

# Extreme eigenvalues and trace, by products with the Hessian.
top, bottom = tw.eigenpairs(hessian, 4, "largest"), tw.eigenpairs(hessian, 2, "smallest")
print(f"largest eigenvalues {top.values.numpy().round(3)}, smallest {bottom.values.numpy().round(3)}, {top.products} products")
estimate = trace(hessian)
print(f"trace {estimate.value:.3f} +- {estimate.standard_error:.3f} from {estimate.products} products")

# Spectral density. A window narrower than the resolution raises an error.
density = tw.spectral_density(hessian, steps=60, probes=8)
below, error = density.mass(-float("inf"), -density.resolution)
print(f"resolution {density.resolution:.3f}; share of eigenvalues below minus that: {below:.3f} +- {error:.3f}")
try:
    density.mass(-1e-3, 1e-3)
except ResolutionError as error:
    print("refused:", error)

# The block of one layer as a dense matrix, with all its eigenvalues.
exact = tw.dense_hessian(loss_fn, model, batches, params=["0.*", "2.*"])
values = torch.linalg.eigvalsh(exact["2.*", "2.*"].double())
near_zero, negative = (values.abs() <= 1e-3).double().mean(), (values < -1e-3).sum()
print(f"second layer, {len(values)} parameters, dense block ({exact.how}):")
print(f"  largest {values[-1]:.3f}; {near_zero:.0%} of its eigenvalues within 1e-3 of zero, {negative} below")

grid = torch.linspace(density.extremes[0] - 1, density.extremes[1] + 1, 400)
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.semilogy(grid, density.curve(grid))
axes.plot(top.values, [2e-4] * len(top.values), "v", label="largest eigenvalues")
axes.plot(bottom.values, [2e-4] * len(bottom.values), "^", label="smallest eigenvalues")
axes.set(xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(1e-4, None))
axes.legend()
figure.savefig("spectrum_of_a_small_cnn.png")
