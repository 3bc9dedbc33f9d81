"""QMIX (Rashid et al. 2018): a monotonic mix of the agents' values whose weights the global state decides.

Shapes: B episodes, T steps, N agents, S state size, M mixing_embed_dim.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch as th
from torch import nn
from torch.nn import functional as F

from modules.linear import Linear


class QMixer(nn.Module):
    """One hidden ELU layer of width M; hypernetworks make its weights (absolute values) and biases from the state."""

    def __init__(self, args: SimpleNamespace) -> None:
        super().__init__()
        n_states, self.width = args.state_shape, args.mixing_embed_dim
        if args.hypernet_layers not in (1, 2):
            raise ValueError(f"hypernet_layers must be 1 or 2, not {args.hypernet_layers}")

        def hypernet(n_out: int) -> nn.Module:
            if args.hypernet_layers == 1:
                return Linear(n_states, n_out)
            hidden = args.hypernet_embed
            return nn.Sequential(Linear(n_states, hidden), nn.ReLU(), Linear(hidden, n_out))

        self.weights_in = hypernet(args.n_agents * self.width)
        self.weights_out = hypernet(self.width)
        self.bias_in = Linear(n_states, self.width)
        self.value = nn.Sequential(Linear(n_states, self.width), nn.ReLU(), Linear(self.width, 1))

    def forward(self, agent_qs: th.Tensor, states: th.Tensor) -> th.Tensor:
        """agent_qs (B, T, N), states (B, T, S) -> Q_tot (B, T, 1)."""
        w_in = self.weights_in(states).abs().unflatten(-1, (-1, self.width))  # (B, T, N, M)
        hidden = F.elu((agent_qs.unsqueeze(-1) * w_in).sum(-2) + self.bias_in(states))  # (B, T, M)
        w_out = self.weights_out(states).abs()
        return (hidden * w_out).sum(-1, keepdim=True) + self.value(states)
