"""What all tests of curvature need."""

import warnings

with warnings.catch_warnings():
    # PyTorch's own first forward-mode derivative warns that its own TorchScript is deprecated.
    warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp  # noqa: F401
