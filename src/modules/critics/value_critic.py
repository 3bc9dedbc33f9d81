"""State values for actor-critic methods: of the team's state (central) or of each agent's own observation.

Shapes: B episodes, T steps, N agents, I input size, S state size, O observation size, A actions.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

from components.episode_buffer import EpisodeBatch, Scheme
from modules.linear import Linear


class ValueCritic(nn.Module):
    """Two hidden ReLU layers; a value for each agent, whose number is an input.

    central: reads the state, with obs_individual_obs all agents' observations, too, and with obs_last_action all their
    last actions (MAPPO: Yu et al., NeurIPS 2022). Otherwise an agent's own observation (IPPO).
    shared: one network for all agents, or one for each.
    """

    def __init__(self, scheme: Scheme, args: SimpleNamespace, central: bool, shared: bool) -> None:
        super().__init__()
        self.args, self.central, self.n_agents = args, central, args.n_agents
        size = self._input_shape(scheme)

        def network() -> nn.Module:
            return nn.Sequential(
                Linear(size, args.hidden_dim), nn.ReLU(),
                Linear(args.hidden_dim, args.hidden_dim), nn.ReLU(),
                Linear(args.hidden_dim, 1),
            )  # fmt: skip

        self.members: Any = nn.ModuleList(network() for _ in range(1 if shared else args.n_agents))

    def forward(self, batch: EpisodeBatch) -> th.Tensor:
        """Values at every step, (B, T, N)."""
        inputs = self.inputs(batch)
        if len(self.members) == 1:
            return self.members[0](inputs).squeeze(-1)
        return th.cat([member(inputs[:, :, i]) for i, member in enumerate(self.members)], -1)

    def inputs(self, batch: EpisodeBatch) -> th.Tensor:
        """(B, T, N, I)."""
        obs = batch["obs"]
        ids = th.eye(self.n_agents, device=obs.device).expand(*obs.shape[:2], -1, -1)
        if not self.central:
            return th.cat([obs, ids], -1)
        joint = [batch["state"]]  # (B, T, ...): the same for all agents
        if self.args.obs_individual_obs:
            joint.append(obs.flatten(2))
        if self.args.obs_last_action:
            joint.append(F.pad(batch["actions_onehot"][:, :-1], (0, 0, 0, 0, 1, 0)).flatten(2))
        return th.cat([*(part.unsqueeze(2).expand(-1, -1, self.n_agents, -1) for part in joint), ids], -1)

    def _input_shape(self, scheme: Scheme) -> int:
        size, obs = self.n_agents, scheme["obs"]["vshape"]
        if not self.central:
            return size + obs
        size += scheme["state"]["vshape"]
        size += self.n_agents * obs if self.args.obs_individual_obs else 0
        return size + (self.n_agents * self.args.n_actions if self.args.obs_last_action else 0)
