"""Linear layers and GRU sequences: the embedded host's, which are faster on a CPU, where it is there; else torch's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Linear", "linear", "unroll_gru"]

Linear: Any
linear: Any
unroll_gru: Any
try:
    from modules.agents.gru import unroll_gru
    from modules.linear import Linear, linear
except ImportError:  # upstream EPyMARL, or no host at all
    Linear, linear = nn.Linear, F.linear

    def unroll_gru(gru: nn.GRU, x: Tensor) -> Tensor:
        """The hidden states (T, M, H) of a one-layer GRU over x (T, M, I), from h = 0."""
        return gru(x)[0]
