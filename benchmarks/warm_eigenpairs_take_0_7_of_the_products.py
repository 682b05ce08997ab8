"""Along 40 checkpoints of a run, eigenpairs that start from those before take 0.7 of the products of a cold start.

Runs: the paper's Single and Looped on its Markov language (`thalweg study markov`), 3,000 updates, 40 snapshots spread evenly over
the logarithm of the updates. At each one, on 256 training sequences, the ten eigenvalues of largest magnitude with residuals below
1e-5 of the largest:

* cold: from a random vector, with the second search for repeated eigenvalues;
* cold, no second search: the same without it;
* warm: from the pairs of the snapshot before (``after=``), where the second search is made only if that had repeated values.
  Leaving it out is nearly all that a warm start saves: the eigenvectors turn too far from one snapshot to the next.

Seconds are those of the searches; recording and checks are the same for all and are left out. "difference" is the largest distance
of a warm eigenvalue from the cold one of the same rank, "residual" the largest ``||H v - l v||`` with products in float64, over
the largest eigenvalue both.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import rivals
import timing  # before torch
import torch

from thalweg.curvature.eigenpairs import EigenPairs, eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.experiments.paper.recipes import plan, runs_of
from thalweg.survey.snapshot import read_snapshot
from thalweg.train.assemble import make_data, make_model
from thalweg.train.config import RunConfig
from thalweg.train.trainer import train

COUNT, TOLERANCE, SEQUENCES = 10, 1e-5, 256


@dataclass
class Totals:
    """What a way to the eigenpairs took over all checkpoints."""

    products: int = 0
    seconds: float = 0.0
    residual: float = 0.0
    each: list[int] = field(default_factory=list)

    def add(self, pairs: EigenPairs, seconds: float, residual: float) -> None:
        """Add one checkpoint."""
        self.products, self.seconds = self.products + pairs.products, self.seconds + seconds
        self.residual = max(self.residual, residual)
        self.each.append(pairs.products)


def along(config: RunConfig, folder: Path) -> tuple[dict[str, Totals], float, int]:
    """Train the run and search at every snapshot in all ways; the totals, the largest difference, and the number of snapshots."""
    train(config, folder)
    data, model = make_data(config), make_model(config)
    batch = torch.from_numpy(data.evaluation[0].tokens[:SEQUENCES])
    totals = {name: Totals() for name in ("cold", "cold, no second search", "warm")}
    before: EigenPairs | None = None
    difference, paths = 0.0, sorted((folder / "snapshots").glob("*.safetensors"))
    for number, path in enumerate(paths):
        snapshot = read_snapshot(path, config, model, batch)
        hessian = Hessian(snapshot.loss, model, [batch], check=number == 0)
        exact = Hessian(snapshot.loss, model, [batch], dtype=torch.float64, check=False)
        hessian @ torch.ones(hessian.dim)  # the first product of an operator tries more than one way
        found: dict[str, EigenPairs] = {}
        names = list(totals)
        for name in names[number % 3 :] + names[: number % 3]:
            options = {"cold": {}, "cold, no second search": {"verify": False}, "warm": {"after": before}}[name]
            started = time.perf_counter()
            found[name] = eigenpairs(hessian, COUNT, tolerance=TOLERANCE, **options)
            seconds = time.perf_counter() - started
            totals[name].add(found[name], seconds, rivals.true_residual(exact, found[name].values, found[name].vectors))
        before = found["warm"]
        distance = float((found["warm"].values - found["cold"].values).abs().max() / found["cold"].values.abs().max())
        difference = max(difference, distance)
    return totals, difference, len(paths)


def main() -> None:
    parser = timing.arguments(__doc__, rounds=1)
    parser.add_argument("--quick", action="store_true", help="400 updates and 8 snapshots, to try the script")
    parser.add_argument("--threads", type=int, default=2, help="threads of all searches")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps, count = (400, 8) if options.quick else (3000, 40)
    configs = runs_of(plan("markov", "paper"))
    print(f"torch {torch.__version__}, {options.threads} threads, {steps:,} updates, {SEQUENCES} sequences")
    rows, shares = [], {}
    for arm in ("single", "looped"):
        config = configs[f"{arm}-seed0"]
        config = replace(config, training=replace(config.training, steps=steps, snapshots=count, threads=options.threads))
        with tempfile.TemporaryDirectory() as folder:
            totals, difference, checkpoints = along(config, Path(folder))
        for name, total in totals.items():
            cold = totals["cold"]
            later = sum(total.each[1:]) / sum(cold.each[1:])  # the first search is cold in every way
            shares[arm, name] = later
            rows.append(
                [
                    f"{arm}, {name}",
                    str(checkpoints),
                    f"{total.products:,}",
                    f"{later:.2f}",
                    f"{total.seconds:.1f}",
                    f"{total.seconds / cold.seconds:.2f}",
                    f"{difference:.0e}" if name == "warm" else "",
                    f"{total.residual:.0e}",
                ]
            )
    headings = ["search", "checkpoints", "products", "/ cold", "seconds", "/ cold", "difference", "residual"]
    timing.print_table(headings, rows)
    print(
        f"\nproducts of warm searches over cold ones: single {shares['single', 'warm']:.2f}, looped {shares['looped', 'warm']:.2f} "
        f"(claim: 0.71); over cold ones without a second search: "
        f"single {shares['single', 'warm'] / shares['single', 'cold, no second search']:.2f}, "
        f"looped {shares['looped', 'warm'] / shares['looped', 'cold, no second search']:.2f}"
    )


if __name__ == "__main__":
    main()
