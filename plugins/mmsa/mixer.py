"""QMIX's monotonic mixing network (Rashid et al., ICML 2018), conditioned on c = [state; roll-out embedding]."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn
from torch.nn import functional as F

from .kernels import Linear


def _hypernet(layers: int, inp: int, hidden: int, out: int) -> nn.Module:
    if layers == 1:
        return Linear(inp, out)
    return nn.Sequential(Linear(inp, hidden), nn.ReLU(), Linear(hidden, out))


class MMSAMixer(nn.Module):
    """Q_tot = |w_2(c)| . ELU(|w_1(c)| . q + b_1(c)) + V(c), so that Q_tot rises with each agent's value.

    Reads the host keys mixing_embed_dim, hypernet_layers (1 or 2) and hypernet_embed, which it shares with QMIX.
    `context_dim`: width of c; the host's state alone where it is left out.
    """

    def __init__(self, args: SimpleNamespace, context_dim: int | None = None) -> None:
        super().__init__()
        self.n_agents, self.embed_dim = args.n_agents, args.mixing_embed_dim
        c = args.state_shape if context_dim is None else context_dim
        layers, hidden = args.hypernet_layers, args.hypernet_embed
        if layers not in (1, 2):
            raise ValueError(f"hypernet_layers = {layers!r}: must be 1 or 2")
        self.hyper_w1 = _hypernet(layers, c, hidden, self.n_agents * self.embed_dim)
        self.hyper_b1 = Linear(c, self.embed_dim)
        self.hyper_w2 = _hypernet(layers, c, hidden, self.embed_dim)
        self.value = nn.Sequential(Linear(c, self.embed_dim), nn.ReLU(), Linear(self.embed_dim, 1))

    def forward(self, agent_qs: Tensor, context: Tensor) -> Tensor:
        """agent_qs (..., N), context (..., C) -> Q_tot (..., 1)."""
        w1 = self.hyper_w1(context).abs().unflatten(-1, (self.n_agents, self.embed_dim))
        hidden = F.elu((agent_qs.unsqueeze(-1) * w1).sum(-2) + self.hyper_b1(context))
        return (hidden * self.hyper_w2(context).abs()).sum(-1, keepdim=True) + self.value(context)
