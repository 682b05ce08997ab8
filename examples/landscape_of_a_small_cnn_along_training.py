"""Measure the loss landscape of your own model along your own training loop.

A small convolutional network learns to distinguish stripes from checks. `thalweg.LandscapeProbe` measures the curvature at seven
points of its training. The spectra of this small model are exact; for a large model the same calls compute them matrix-free.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import thalweg as tw


def pictures(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noisy images ``(count, 1, 8, 8)`` of stripes (label 0) and checks (label 1)."""
    labels = torch.randint(2, (count,), generator=generator)
    column = torch.arange(8)
    stripes = (column % 2).expand(8, 8).float()
    checks = ((column.unsqueeze(1) + column) % 2).float()
    clean = torch.where(labels.view(-1, 1, 1).bool(), checks, stripes)
    return (clean + torch.randn(count, 8, 8, generator=generator)).unsqueeze(1), labels


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Compute the mean loss of one batch: all that the probe needs to know about the model."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def main(updates: int = 60) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    fixed = pictures(128, generator)  # the landscape is measured on the same data throughout
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    probe = tw.LandscapeProbe(top=3)
    # Loss, largest eigenvalue, matrix entropy, class of the valley, cosine with the Hessian of the previous point.
    print(f"{'step':>5} {'loss':>7} {'largest':>8} {'entropy':>8} {'class':>14} {'cosine to previous':>25}")
    records = []
    for step in range(updates + 1):
        if step % (updates // 6) == 0:
            record = probe.measure(loss_fn, model, [fixed], step=step)
            records.append(record)
            cosine = f"{record.change.cosine.value:.3f}" if record.change else "-"
            name = record.split.name if record.split else "-"
            print(f"{step:5} {record.loss:7.4f} {record.largest[0]:8.3f} {record.entropy.value:8.3f} {name:>14} {cosine:>25}")
        optimizer.zero_grad()
        loss_fn(model, pictures(32, generator)).backward()
        optimizer.step()
    print(record.reason)

    figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    steps = [record.step for record in records]
    for axes, name, values in (
        (panels[0], "loss (nats)", [record.loss for record in records]),
        (panels[1], "largest eigenvalue", [record.largest[0] for record in records]),
        (panels[2], "matrix entropy (nats)", [record.entropy.value for record in records]),
    ):
        axes.plot(steps, values, "o-")
        axes.set(xlabel="update", title=name)
    figure.savefig("landscape_of_a_small_cnn_along_training.png")


if __name__ == "__main__":
    main()
