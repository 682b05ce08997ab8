"""Random matrices that are compared."""

import torch


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hessian(seed, dim=30):
    matrix = drawn(seed, dim, dim)
    return (matrix + matrix.T) / 2


def rotation(seed, dim=30):
    return torch.linalg.qr(drawn(seed, dim, dim))[0]


def rotated(matrix, q):
    found = q @ matrix @ q.T
    return (found + found.T) / 2
