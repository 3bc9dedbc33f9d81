"""Which steps are transitions, and the returns over them. Shapes: B episodes, T steps, the last only to bootstrap."""

from __future__ import annotations

import torch as th
from torch.nn import functional as F


def transition_mask(filled: th.Tensor) -> th.Tensor:
    """filled (B, T, 1) -> m (B, T-1, 1), float: 1 where step t and its successor are both filled.

    The successor of an episode's last transition is its bootstrap observation, which is filled whether the episode
    terminated or was cut off by a time limit; the step after that is no transition.
    """
    filled = filled.float()
    return filled[:, :-1] * filled[:, 1:]


def q_lambda(
    rewards: th.Tensor, terminated: th.Tensor, next_values: th.Tensor, mask: th.Tensor, gamma: float, lam: float
) -> th.Tensor:
    """Peng's Q(lambda) returns, (B, T-1, C).

    G_t = r_t + gamma (1 - terminated_t) [(1 - lam m_{t+1}) V_{t+1} + lam m_{t+1} G_{t+1}], with m_{T-1} = 0: where the
    next step is no transition, the return bootstraps. lam = 0 is the one-step target.

    rewards (B, T-1, C or 1); terminated (B, T-1, 1); next_values (B, T-1, C), V of each successor; mask m (B, T-1, 1).
    """
    discount = gamma * (1 - terminated.to(rewards.dtype))
    if lam == 0:
        return rewards + discount * next_values
    follow = lam * th.cat([mask[:, 1:], th.zeros_like(mask[:, :1])], 1)  # lam m_{t+1}
    one_step = rewards + discount * (1 - follow) * next_values
    carry = (discount * follow).expand_as(one_step)
    returns = []
    g = th.zeros_like(one_step[:, 0])
    for constant, factor in zip(reversed(one_step.unbind(1)), reversed(carry.unbind(1)), strict=True):
        g = th.addcmul(constant, factor, g)
        returns.append(g)
    return th.stack(returns[::-1], 1)


def n_step(
    rewards: th.Tensor, terminated: th.Tensor, values: th.Tensor, mask: th.Tensor, gamma: float, n: int
) -> th.Tensor:
    """n-step returns, (B, T-1, C).

    G^1_t = r_t + gamma (1 - terminated_t) V_{t+1}
    G^n_t = r_t + gamma (1 - terminated_t) [m_{t+1} G^{n-1}_{t+1} + (1 - m_{t+1}) V_{t+1}], with m_{T-1} = 0: nothing is
    added past a termination, and where an episode is cut off the return bootstraps from its last observation.

    rewards (B, T-1, C or 1); terminated (B, T-1, 1); values (B, T, C), V of each step; mask m (B, T-1, 1).
    """
    discount = gamma * (1 - terminated.to(rewards.dtype))
    going_on = F.pad(mask[:, 1:], (0, 0, 0, 1)).bool()  # m_{t+1}
    after = values[:, 1:]
    returns = rewards + discount * after
    for _ in range(min(n, rewards.shape[1]) - 1):  # more change nothing
        returns = rewards + discount * th.where(going_on, F.pad(returns[:, 1:], (0, 0, 0, 1)), after)
    return returns
