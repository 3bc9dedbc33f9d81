"""Layers, activations and GRU sequences: the embedded host's, faster on a CPU, where they are there; else torch's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ELU", "Linear", "compiled", "elu", "linear", "playing", "tanh", "unroll_gru"]

ELU: Any
Linear: Any
elu: Any
linear: Any
tanh: Any
unroll_gru: Any
compiled: Any  # loops compiled by numba; None: torch does it all
playing: Any  # layers of them for acting; None: acting is torch's, too
try:
    from modules import compiled
    from modules.activations import ELU, elu, tanh
    from modules.agents import playing
    from modules.agents.gru import unroll_gru
    from modules.linear import Linear, linear
except ImportError:  # upstream EPyMARL, or no host at all
    ELU, elu, tanh = nn.ELU, F.elu, F.tanh
    Linear, linear, compiled, playing = nn.Linear, F.linear, None, None

    def unroll_gru(gru: nn.GRU, x: Tensor, last: bool = False) -> Tensor:
        """The hidden states (T, M, H) of a one-layer GRU over x (T, M, I), from h = 0; with `last` the last, (M, H)."""
        return gru(x)[0][-1] if last else gru(x)[0]
