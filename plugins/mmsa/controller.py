"""MMSA's multi-agent controller: builds the agents' inputs, carries their hidden states and picks their actions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from components.action_selectors import REGISTRY as SELECTORS

from .agent import Folded, MMSAAgent
from .config import check
from .kernels import playing


class MMSAController:
    """The host's MAC contract over one shared MMSAAgent.

    An agent's value depends on its own observation, last action, id and hidden state alone: no state, no world
    model, no other agent.
    Shapes: B episodes (or those picked by `bs`), N agents, A actions, O observation, I inputs, H hidden.
    """

    def __init__(self, scheme: dict[str, Any], groups: dict[str, int], args: SimpleNamespace) -> None:
        check(vars(args))
        self.args, self.n_agents, self.n_actions = args, args.n_agents, args.n_actions
        others = args.obs_last_action * args.n_actions + args.obs_agent_id * args.n_agents
        self.agent = MMSAAgent(scheme["obs"]["vshape"] + others, args)
        self.action_selector = SELECTORS[args.action_selector](args)
        self.hidden_states: Tensor | None = None  # (B, N, H), every episode's
        # For the episodes being played: the network in compiled loops, or in torch the head's weights
        self._player: Any = None
        self._folded: Folded | None = None
        self._ids = th.eye(self.n_agents)

    def inputs(self, obs: Tensor, last_actions: Tensor | None) -> Tensor:
        """[obs; last action; id]: obs (..., N, O), last_actions (..., N) long, -1 for none -> x (..., N, I)."""
        parts = [obs]
        if self.args.obs_last_action:
            assert last_actions is not None
            parts.append(F.one_hot(last_actions + 1, self.n_actions + 1)[..., 1:].to(obs.dtype))
        if self.args.obs_agent_id:
            if self._ids.device != obs.device:
                self._ids = self._ids.to(obs.device)
            parts.append(self._ids.expand(*obs.shape[:-1], self.n_agents))
        return th.cat(parts, dim=-1)

    def select_actions(
        self, ep_batch: Any, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False
    ) -> Tensor:
        """Actions (len(bs), N) long at step t_ep of the episodes `bs`; the others' hidden states stay as they are."""
        if self._player is not None:
            assert playing is not None
            rows = bs if isinstance(bs, slice) else np.asarray(bs)
            values = playing.play(self._player, ep_batch, t_ep, rows, self.hidden_states, self.args)
            avail = ep_batch.numpy("avail_actions")[rows, t_ep]
            return th.from_numpy(self.action_selector.choose(values, avail, t_env, test_mode=test_mode))
        with th.inference_mode():
            q = self._act(ep_batch, t_ep, bs)
            avail = ep_batch["avail_actions"][:, t_ep][bs].to(q.device)
            return self.action_selector.select_action(q, avail, t_env, test_mode=test_mode)

    @th.no_grad()
    def forward(self, ep_batch: Any, t: int, test_mode: bool = False) -> Tensor:
        """Q of every action at step t, (B, N, A). Moves the hidden states on by one step."""
        return self._act(ep_batch, t, slice(None))

    def _act(self, ep_batch: Any, t: int, bs: Any) -> Tensor:
        assert self.hidden_states is not None, "init_hidden comes before the first step of an episode"
        device = self.hidden_states.device
        obs = ep_batch["obs"][:, t][bs].to(device)
        last = None
        if self.args.obs_last_action:
            none = th.full(obs.shape[:2], -1, device=device)
            last = none if t == 0 else ep_batch["actions"][:, t - 1][bs].squeeze(-1).to(device)
        q, h = self.agent(self.inputs(obs, last).flatten(0, 1), self.hidden_states[bs].flatten(0, 1), self._folded)
        h = h.view(*obs.shape[:2], -1)
        if isinstance(bs, slice) and bs == slice(None):
            self.hidden_states = h
        else:
            self.hidden_states[bs] = h
        return q.view(*obs.shape[:2], -1)

    def init_hidden(self, batch_size: int) -> None:
        """Episodes begin. Until the next ones do, the head acts with the weights of now."""
        self.hidden_states = self.agent.init_hidden().new_zeros(batch_size, self.n_agents, self.agent.hidden_dim)
        self._player = None if playing is None else playing.player_of(self.agent, self.hidden_states)
        self._folded = self.agent.fold() if self._player is None else None
        if self._player is not None:
            self.action_selector.begin()

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the TD loss trains: trunk and head. The copy of SALE is moved by the learner alone."""
        yield from self.agent.trunk.parameters()
        yield from self.agent.head.parameters()

    def load_state(self, other: MMSAController) -> None:
        """Takes over trunk and head. SALE's copies rotate on their own, after this (README.md)."""
        self.agent.trunk.load_state_dict(other.agent.trunk.state_dict())
        self.agent.head.load_state_dict(other.agent.head.state_dict())

    def cuda(self) -> None:
        self.agent.cuda()

    def save_models(self, path: str) -> None:
        th.save(self.agent.state_dict(), Path(path) / "agent.th")

    def load_models(self, path: str) -> None:
        self.agent.load_state_dict(th.load(Path(path) / "agent.th", map_location=self.args.device, weights_only=True))
