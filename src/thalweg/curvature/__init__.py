"""Second derivatives of any loss: products, matrices, spectra and traces. Takes callables and never imports a model."""
