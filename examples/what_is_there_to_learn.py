"""Describe the Markov language without any model: the information content of its sequences, and the best reachable scores.

The best predictor knows the source. Its accuracy and cross-entropy bound those of every model, separately for sequences with low
and with high information content.
"""

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg.data.markov import long_tail

source = tw.MarkovLanguage(vocabulary=16, order=2, seed=3)
tokens = source.sample(4000, length=12, seed=0)
bits = source.information(tokens)
tail = long_tail(bits)
print(f"information: mean {tail.mean:.2f} bits, skewness {tail.skewness:.2f}; top quarter holds {tail.top_quarter_share:.0%}")
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.hist(bits, bins=40, range=(bits.min(), bits.max()), color="lightgray", label="all sequences")
quarters = {"low": bits <= np.quantile(bits, 0.25), "high": bits >= np.quantile(bits, 0.75)}
for name, rows in quarters.items():
    best = source.bayes(tokens[rows])
    print(f"{name}: Bayes accuracy {best.accuracy.mean():.3f}, cross-entropy {best.loss.mean():.3f} nats")
    axes.hist(
        bits[rows], bins=40, range=(bits.min(), bits.max()), label=f"{name} quarter, Bayes accuracy {best.accuracy.mean():.2f}"
    )
axes.set(xlabel="information content of a sequence (bits)", ylabel="sequences")
axes.legend()
figure.savefig("what_is_there_to_learn.png")
