import numpy as np
import pytest
import torch

from thalweg.data.batches import EvaluationSet
from thalweg.data.markov import MarkovLanguage
from thalweg.train import evaluate as module
from thalweg.train.evaluate import evaluate


class KnowsTheSource(torch.nn.Module):
    """Logits that are the true log-probabilities of a Markov source."""

    def __init__(self, source: MarkovLanguage) -> None:
        super().__init__()
        self.source = source

    def forward(self, tokens: torch.Tensor, loops: int, gains: object) -> torch.Tensor:
        padded = np.concatenate([tokens.numpy(), tokens.numpy()[:, -1:]], axis=1)
        logits = torch.zeros(*tokens.shape, self.source.vocabulary, dtype=torch.float64)
        rows = self.source.transitions.reshape(-1, self.source.vocabulary)[self.source.contexts(padded)]
        logits[:, self.source.order - 1 :] = torch.from_numpy(rows).log()
        return logits


@pytest.mark.parametrize("rows", [3, 512])
def test_a_model_that_knows_the_source_scores_exactly_the_bayes_ceiling(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    source = MarkovLanguage(vocabulary=6, order=2)
    tokens = source.sample(40, 9, seed=0)
    members = {"all": np.ones(40, dtype=bool), "some": np.arange(40) % 3 == 0}
    one = EvaluationSet("held-out", tokens, 2, members)
    scores = evaluate(KnowsTheSource(source), (one,), torch.device("cpu"), loops=1)["held-out"]
    for name, mask in members.items():
        best = source.bayes(tokens[mask])
        assert scores[name].accuracy == pytest.approx(best.accuracy.mean(), abs=1e-12)
        assert scores[name].loss == pytest.approx(best.loss.mean(), rel=1e-12)
