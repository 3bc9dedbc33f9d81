"""Which steps of a batch count, and the Q(lambda) targets. Complete in itself: upstream EPyMARL has no counterpart.

Shapes: B episodes, T steps (an episode's last one holds only its bootstrap observation), R valid steps, S transitions.
"""

from __future__ import annotations

import torch as th
from torch import Tensor
from torch.nn import functional as F


class Rows:
    """The valid (episode, step) pairs of a padded batch, as row numbers of packed tensors.

    Whatever is not recurrent works on packed rows (R, ...) in the order (episode, step), so padding costs nothing
    and can leak nowhere.
    A transition exists where the successor's observation is filled; it then is the next packed row.

    Args:
        filled: (B, T), non-zero where the step holds an observation; an episode's filled steps are its first ones.
        burn_in: (B, T), non-zero on steps that only rebuild the hidden state and enter no loss; None: there are none.

    Attributes:
        mask: (B, T-1), m_t.
        first: (R,) bool, rows without a predecessor.
        src: (S,), the rows at which a transition starts; it ends at row src + 1.
        trained, trained_src, trained_with_prev: rows that enter losses; of these the starts of transitions, and those
            whose predecessor does so, too.
        src_trained: (S,) bool, which of the transitions enter losses.
    """

    def __init__(self, filled: Tensor, burn_in: Tensor | None = None) -> None:
        filled = filled != 0
        self.shape = n_episodes, n_steps = filled.shape
        self.mask = filled[:, :-1] & filled[:, 1:]
        flat = filled.flatten().nonzero().squeeze(1)  # (R,), batch-major
        self._flat, step = flat, flat % n_steps
        self.time_major = step * n_episodes + flat // n_steps  # (R,)
        self.first = step == 0
        starts = F.pad(self.mask, (0, 1)).flatten().index_select(0, flat)
        self.src = starts.nonzero().squeeze(1)
        self._src_flat = flat.index_select(0, self.src)
        counts = th.ones_like(self.first) if burn_in is None else burn_in.flatten().index_select(0, flat) == 0
        self.trained = counts.nonzero().squeeze(1)
        self.trained_src = self.src[counts[self.src]]
        with_prev = (~self.first).nonzero().squeeze(1)
        self.trained_with_prev = with_prev[counts[with_prev] & counts[with_prev - 1]]
        self.src_trained = counts.index_select(0, self.src)

    def __len__(self) -> int:
        return self._flat.numel()

    def only_trained(self, x: Tensor) -> Tensor:
        """The rows of x (R, ...) that enter losses."""
        return x if self.trained.numel() == len(self) else x.index_select(0, self.trained)

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (R, ...)."""
        return x.flatten(0, 1).index_select(0, self._flat)

    def unpack_transitions(self, x: Tensor) -> Tensor:
        """(S,) -> (B, T-1), zero where there is no transition."""
        n_episodes, n_steps = self.shape
        out = x.new_zeros(n_episodes * n_steps)
        out[self._src_flat] = x
        return out.view(n_episodes, n_steps)[:, :-1]

    def pack_transitions(self, x: Tensor) -> Tensor:
        """(B, T-1) -> (S,)."""
        n_episodes, n_steps = self.shape
        padded = th.cat([x, x.new_zeros(n_episodes, 1)], dim=1)
        return padded.flatten().index_select(0, self._src_flat)


def q_lambda(
    reward: Tensor, terminated: Tensor, mask: Tensor, next_value: Tensor, gamma: float, td_lambda: float
) -> Tensor:
    """Peng's Q(lambda), without importance weights: biased by exploration, so lambda is a key.

        G_t = r_t + gamma (1 - terminated_t) [(1 - lambda m_{t+1}) V_{t+1} + lambda m_{t+1} G_{t+1}],   m_{T-1} := 0

    Args:
        reward, terminated, mask, next_value: (B, T-1); next_value[:, t] is V_{t+1}, the value of t's successor.

    Returns:
        (B, T-1); what stands where the mask is 0 has no meaning. lambda 0 is the one-step target.
    """
    discount = gamma * (1.0 - terminated)
    if td_lambda == 0.0:
        return reward + discount * next_value
    follow = td_lambda * th.cat([mask[:, 1:], mask.new_zeros(mask.shape[0], 1)], dim=1).to(next_value.dtype)
    base = (reward + discount * (1.0 - follow) * next_value).unbind(1)
    decay = (discount * follow).unbind(1)
    returns = [base[-1]]
    for one_step, d in zip(base[-2::-1], decay[-2::-1], strict=True):
        returns.append(th.addcmul(one_step, d, returns[-1]))
    return th.stack(returns[::-1], dim=1)


class RewardStandardiser:
    """Running mean and deviation of valid rewards, for a host that does not standardise them itself, as upstream.

    Upstream's replay gives no way to tell new samples from old ones, so a replayed reward counts at every draw, as
    in its own learners; padding does not, nor what is no finite number.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.sq_dev = 0.0, 0.0, 0.0

    def __call__(self, reward: Tensor) -> Tensor:
        """reward (S,): valid rewards only -> standardised, same shape."""
        new = reward[reward.isfinite()].double()
        if not len(new):
            return reward
        n, mean = new.numel(), new.mean().item()
        delta, total = mean - self.mean, self.count + n
        self.sq_dev += ((new - mean) ** 2).sum().item() + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total
        std = (self.sq_dev / total) ** 0.5
        return (reward - self.mean) / (std if std > 0 else 1.0)

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "sq_dev": self.sq_dev}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.sq_dev = state["count"], state["mean"], state["sq_dev"]
