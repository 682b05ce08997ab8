"""Second-order facts about any loss: products, matrices, spectra, traces. Takes callables; never imports a model."""
