"""The agents' network in compiled loops, for playing on the CPU.

A step of a few environments has a few rows. torch takes some 8 us for each of its calls there, whatever their
arithmetic; a compiled layer (`modules.compiled`) takes 2. On a GPU, playing is torch's.

Shapes: M rows, I inputs, O outputs, H hidden width, A actions; b of B episodes, N agents.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from torch import nn

from components.episode_buffer import EpisodeBatch
from modules import compiled

Array = np.ndarray[Any, np.dtype[Any]]
Layer = Callable[..., Array]  # (M, I) -> (M, O)
Player = Callable[[Array, Array], tuple[Array, Array]]  # inputs (M, I), h (M, H) -> outputs (M, A), h (M, H)


def player_of(agent: Any, hidden: th.Tensor) -> Player | None:
    """The agent's player for episodes with these hidden states (B, N, H); None where torch is to play them.

    That is on a GPU, in another precision, and for agents of others, whose player does not go with their forward.
    """
    return agent.player() if compiled.runs(hidden) and goes_with_forward(agent, "player") else None


def goes_with_forward(module: Any, method: str, *parts: str) -> bool:
    """Whether the module's method does what `forward` does: not where it has none, nor where it inherits one beside a
    `forward`, or one of the `parts` that forward is made of, of its own."""
    names = {"forward", method, *parts}
    owner = next((cls for cls in type(module).__mro__ if names & vars(cls).keys()), object)
    return method in vars(owner)


def play(
    player: Player, batch: EpisodeBatch, t: int, bs: slice | Array, hidden: th.Tensor, args: SimpleNamespace
) -> Array:
    """One step of the episodes `bs` (all, or an index array): outputs (b, N, A). `hidden` (B, N, H) is written to."""
    obs = batch.numpy("obs")[bs, t]
    n_episodes, n_agents, obs_size = obs.shape
    n_rows, n_actions = n_episodes * n_agents, args.n_actions
    width = obs_size + args.obs_last_action * n_actions + args.obs_agent_id * n_agents
    inputs = np.zeros((n_episodes, n_agents, width), np.float32)
    inputs[..., :obs_size] = obs
    if args.obs_last_action and t > 0:
        last = batch.numpy("actions")[bs, t - 1].reshape(n_rows)
        inputs.reshape(n_rows, width)[np.arange(n_rows), obs_size + last] = 1
    if args.obs_agent_id:
        inputs[..., -n_agents:] = _ids(n_agents)
    states = hidden.numpy(force=True)
    outputs, new = player(inputs.reshape(n_rows, width), states[bs].reshape(n_rows, -1))
    states[bs] = new.reshape(n_episodes, n_agents, -1)
    return outputs.reshape(n_episodes, n_agents, -1)


@cache
def _ids(n_agents: int) -> Array:
    return np.eye(n_agents, dtype=np.float32)


def affine(weight: th.Tensor, bias: th.Tensor, loop: Layer = compiled.affine) -> Layer:
    """x -> x W^T + b, of the parameters themselves: what is learned later is seen, as long as they stay in place.

    loop: `compiled.affine`, or one with an activation behind it.
    """
    w, b = weight.detach().numpy().T, bias.detach().numpy()
    return lambda x: loop(x, w, b)


def gru_cell(gru: nn.GRU) -> Layer:
    """One step of a one-layer nn.GRU: x (M, I), h (M, H) -> h (M, H)."""
    w_ih, w_hh, b_ih, b_hh = (parameter.detach().numpy() for parameter in gru.all_weights[0])
    return lambda x, h: compiled.gru_step(x, h, w_ih.T, w_hh.T, b_ih, b_hh)


def alternating(players: list[Player]) -> Player:
    """One player for each of N agents: row i is agent (i mod N)'s."""
    n = len(players)

    def step(x: Array, h: Array) -> tuple[Array, Array]:
        parts = [player(x[i::n].copy(), h[i::n].copy()) for i, player in enumerate(players)]
        outputs, hidden = (np.stack(part, 1).reshape(len(x), -1) for part in zip(*parts, strict=True))
        return outputs, hidden

    return step


def softmax(x: Array) -> Array:
    """Over the last dimension."""
    x = np.exp(x - x.max(-1, keepdims=True))
    x /= x.sum(-1, keepdims=True)
    return x
