"""Muon on the matrices of the blocks, AdamW on everything else: against PyTorch's own two optimizers, one model each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.errors import BadInputError
from thalweg.experiments.metrics import held_out_loss
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.records.run import read_run
from thalweg.survey.trajectory import record_updates
from thalweg.train.config import OptimizerConfig, RunConfig
from thalweg.train.muon import is_hidden_matrix
from thalweg.train.state import Run
from thalweg.train.step import make_optimizer
from thalweg.train.trainer import train

MODEL = ModelConfig(width=8, block="gpt", prelude=1, coda=1, learned_gains=3, gain_start=0.5)
TOKENS = torch.randint(16, (4, 11), generator=torch.Generator().manual_seed(0))


def backward(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    model(TOKENS, loops=2).square().mean().backward()


def test_three_steps_are_those_of_pytorchs_muon_and_adamw() -> None:
    ours, theirs = (LoopedTransformer(MODEL, torch.Generator().manual_seed(1)) for _ in range(2))
    optimizer = make_optimizer(OptimizerConfig(name="muon", rate=0.01, beta2=0.99), ours)
    hidden = [p for n, p in theirs.named_parameters() if is_hidden_matrix(n, p)]
    others = [p for n, p in theirs.named_parameters() if not is_hidden_matrix(n, p)]
    muon = torch.optim.Muon(hidden, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    # Muon rounds to bfloat16, which makes of the last bit of a gradient a step: AdamW has to be the same kernel.
    adamw = torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for _ in range(3):
        backward(ours)
        backward(theirs)
        for one in (optimizer, muon, adamw):
            one.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_only_matrices_of_blocks_are_muons() -> None:
    model = LoopedTransformer(MODEL)
    names = {name for name, parameter in model.named_parameters() if is_hidden_matrix(name, parameter)}
    assert {name.split(".")[0] for name in names} == {"prelude", "blocks", "coda"}
    assert len(names) == 3 * 6  # query, key, value, output, up, down
    assert not any("norm" in name or name.endswith("bias") for name in names)


def test_a_run_with_muon_learns(tmp_path: Path, tiny: RunConfig) -> None:
    config = replace(tiny, optimizer=replace(tiny.optimizer, name="muon", rate=1e-2))
    train(config, tmp_path)
    evaluations = read_run(tmp_path).evaluations
    assert held_out_loss(evaluations[-1]) < held_out_loss(evaluations[0])


def test_the_motion_along_a_run_with_muon_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    run = Run(replace(tiny, optimizer=OptimizerConfig(name="muon")), tmp_path)
    with pytest.raises(BadInputError, match=r'optimizer.name: given "muon", expected "adamw" or "sgd"'):
        record_updates(run, TOKENS, 4, None, None)


def test_without_muon_in_pytorch_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(BadInputError, match=r'optimizer.name: given "muon", expected "adamw"'):
        make_optimizer(OptimizerConfig(name="muon"), LoopedTransformer(MODEL))
