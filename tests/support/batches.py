"""Random batches of episodes with every kind of end, for tests."""

from __future__ import annotations

from types import SimpleNamespace

import torch as th
from support.settings import scheme_of

from components.episode_buffer import EpisodeBatch


def random_batch(
    a: SimpleNamespace, lengths: list[int], ends: list[bool], seed: int = 0, n_steps: int | None = None
) -> EpisodeBatch:
    """Episodes of so many transitions (1 to episode_limit), with a real end where `ends` is true, else truncated.

    Observations, states and rewards are normal, masks random with at least one action; what is padding is zero.
    """
    g = th.Generator().manual_seed(seed)
    scheme, groups, preprocess = scheme_of(a)
    n_steps = n_steps or max(lengths) + 1
    batch = EpisodeBatch(scheme, groups, len(lengths), n_steps, preprocess=preprocess)
    for b, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        rows = length + 1
        avail = (th.rand(rows, a.n_agents, a.n_actions, generator=g) < 0.6).to(th.uint8)
        avail[..., 1] = 1
        actions = (th.rand(rows, a.n_agents, a.n_actions, generator=g) * avail).argmax(-1, keepdim=True)
        terminated = th.zeros(rows, 1)
        terminated[length - 1] = float(end)
        reward = th.randn(rows, batch["reward"].shape[-1], generator=g)
        reward[length], actions[length] = 0, 0
        data = {
            "state": th.randn(rows, a.state_shape, generator=g),
            "obs": th.randn(rows, a.n_agents, a.obs_shape, generator=g),
            "actions": actions,
            "avail_actions": avail,
            "reward": reward,
            "terminated": terminated,
        }
        batch.update(data, b, slice(0, rows))
    return batch


def standardised_error(earlier: th.Tensor, returns: th.Tensor, values: th.Tensor) -> float:
    """Mean squared distance of values from returns, standardised by all that was seen: `earlier` ones and these."""
    seen = th.cat([earlier, returns])
    return (values - (returns - seen.mean(0)) / seen.std(0, correction=0)).square().mean().item()


def with_garbage(batch: EpisodeBatch, seed: int = 5) -> EpisodeBatch:
    """A copy whose padded steps hold large random numbers and random flags."""
    g = th.Generator().manual_seed(seed)
    copy = batch[list(range(batch.batch_size)), :]
    padding = copy["filled"][..., 0] == 0
    for key in ("state", "obs", "reward"):
        noise = 100 * th.randn(copy[key].shape, generator=g)
        copy[key][padding] = noise[padding]
    n_actions = copy["avail_actions"].shape[-1]
    for key, high in (("actions", n_actions), ("avail_actions", 2), ("terminated", 2)):
        noise = th.randint(0, high, copy[key].shape, generator=g).to(copy[key].dtype)
        copy[key][padding] = noise[padding]
    return copy
