"""The landscape of a model that is not ours, along a training loop that is not ours: one probe, a dozen points.

A small convolutional network learns to tell stripes from checks. Its spectra are
exact; a large one goes matrix-free by the same calls.
"""

import torch
from torch import nn

import thalweg as tw


def pictures(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes (0) and checks (1) of 8 x 8 with noise."""
    labels = torch.randint(2, (count,), generator=generator)
    place = torch.arange(8)
    stripes = (place % 2).expand(8, 8).float()
    checks = ((place.unsqueeze(1) + place) % 2).float()
    clean = torch.where(labels.view(-1, 1, 1).bool(), checks, stripes)
    return (clean + torch.randn(count, 8, 8, generator=generator)).unsqueeze(1), labels


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def main(updates: int = 60) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    fixed = pictures(128, generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    probe = tw.LandscapeProbe(top=3)
    print(f"{'step':>5} {'loss':>7} {'largest':>8} {'entropy':>8} {'class':>14} {'cosine to the one before':>25}")
    for step in range(updates + 1):
        if step % (updates // 6) == 0:
            point = probe.measure(loss_fn, model, [fixed], step=step)
            cosine = f"{point.change.cosine.value:.3f}" if point.change else "-"
            name = point.split.name if point.split else "-"
            print(f"{step:5} {point.loss:7.4f} {point.largest[0]:8.3f} {point.entropy.value:8.3f} {name:>14} {cosine:>25}")
        optimizer.zero_grad()
        loss_fn(model, pictures(32, generator)).backward()
        optimizer.step()
    print(point.reason)


if __name__ == "__main__":
    main()
