"""State-action learned embeddings (SALE; Fujimoto et al., TD7, NeurIPS 2023, arXiv 2306.02451), for several agents.

    zs     = AvgL1Norm(f(x))        zsa = g([zs; a])
    L_SALE = mean over transitions of (g(f(x_t), a_t) - sg f(x_{t+1}))^2

One f and one g serve all agents. With `scope: joint` a third network g_J predicts all agents' next embeddings at once.

Shapes: M rows of single agents, R rows of whole teams, N agents, A actions, F hidden width, Z embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .config import SaleConfig
from .kernels import ELU, Linear, compiled, elu, linear, playing
from .loops import EPS, norm, norm_gradient

Array = np.ndarray[Any, np.dtype[Any]]


def avg_l1_norm(x: Tensor) -> Tensor:
    """Divides by the mean absolute value over the last dimension, so that it becomes 1 (TD7, equation 3); 0 stays 0."""
    if compiled is not None and compiled.runs(x):
        return _AvgL1Norm.apply(x)
    return x / x.abs().mean(-1, keepdim=True).clamp(min=float(EPS))


class _AvgL1Norm(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        y = th.empty_like(x)
        norm(_rows(x), _rows(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        at_x = th.empty_like(x)
        norm_gradient(_rows(x), _rows(grad.contiguous()), _rows(at_x))
        return at_x


def _rows(x: Tensor) -> Array:
    return x.view(-1, x.shape[-1]).numpy()


class ActionEncoder(nn.Module):
    """g: [zs; one-hot action] -> zsa. A one-hot input only picks a column of weights: actions come as indices."""

    def __init__(self, n_actions: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.inp = Linear(dim + n_actions, hidden_dim)
        self.mid = Linear(hidden_dim, hidden_dim)
        self.out = Linear(hidden_dim, dim)
        self.dim = dim

    def forward(self, zs: Tensor, actions: Tensor) -> Tensor:
        """zs (M, Z), actions (M,) -> zsa (M, Z)."""
        state, action = self.first_layer()
        x = elu(linear(zs, state, self.inp.bias) + F.embedding(actions, action))
        return self.out(elu(self.mid(x)))

    def first_layer(self) -> tuple[Tensor, Tensor]:
        """The first layer's weights for the embedding (F, Z), and one row for each action (A, F)."""
        return self.inp.weight[:, : self.dim], self.inp.weight[:, self.dim :].t().contiguous()


class JointEncoder(nn.Module):
    """g_J: all agents' zs and one-hot actions -> all agents' next embeddings."""

    def __init__(self, n_agents: int, n_actions: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.net = nn.Sequential(
            Linear(n_agents * (dim + n_actions), hidden_dim), ELU(),
            Linear(hidden_dim, hidden_dim), ELU(),
            Linear(hidden_dim, n_agents * dim),
        )  # fmt: skip

    def forward(self, zs: Tensor, actions: Tensor) -> Tensor:
        """zs (R, N, Z), actions (R, N) -> (R, N, Z)."""
        one_hot = F.one_hot(actions, self.n_actions).to(zs.dtype)
        return self.net(th.cat([zs.flatten(1), one_hot.flatten(1)], dim=1)).view_as(zs)


class SALE(nn.Module):
    """One copy of the encoders f, g and, with `scope: joint`, g_J. The learner keeps three (see there)."""

    def __init__(self, input_dim: int, n_agents: int, n_actions: int, cfg: SaleConfig) -> None:
        super().__init__()
        width = cfg.hidden_dim
        self.f = nn.Sequential(
            Linear(input_dim, width), ELU(),
            Linear(width, width), ELU(),
            Linear(width, cfg.dim),
        )  # fmt: skip
        self.g = ActionEncoder(n_actions, cfg.dim, width)
        self.g_joint = (
            JointEncoder(n_agents, n_actions, cfg.dim, cfg.joint_hidden_dim) if cfg.scope == "joint" else None
        )
        self.normalised = cfg.normalise
        self.normalise = avg_l1_norm if self.normalised else nn.Identity()

    def zs(self, x: Tensor) -> Tensor:
        """x (..., I) -> state embedding (..., Z)."""
        return self.normalise(self.f(x))

    def player(self) -> Callable[[Array], Array]:
        """`zs` in compiled loops, by the parameters themselves."""
        linears = [layer for layer in self.f if isinstance(layer, nn.Linear)]
        loops = (compiled.affine_elu, compiled.affine_elu, compiled.affine)
        first, mid, last = (
            playing.affine(layer.weight, layer.bias, loop) for layer, loop in zip(linears, loops, strict=True)
        )

        def zs(x: Array) -> Array:
            y = last(mid(first(x)))
            if self.normalised:
                norm(y, y)
            return y

        return zs

    def dynamics(self, zs: Tensor, actions: Tensor, zsa: Tensor) -> Tensor:
        """What the world model is told of a step: zsa, or with `scope: joint` g_J's prediction, normalised per agent.

        zs, zsa (R, N, Z), actions (R, N) -> (R, N, Z).
        """
        return zsa if self.g_joint is None else self.normalise(self.g_joint(zs, actions))

    def loss(self, zs: Tensor, actions: Tensor, next_zs: Tensor) -> Tensor:
        """L_SALE over rows of transitions (TD7, equation 2): zs, next_zs (R, N, Z), actions (R, N) -> scalar."""
        target = next_zs.detach()
        loss = F.mse_loss(self.g(zs.flatten(0, 1), actions.flatten()).view_as(target), target)
        if self.g_joint is not None:
            loss = loss + F.mse_loss(self.g_joint(zs, actions), target)
        return loss
