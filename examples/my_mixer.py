"""Your own mixer in one file: copy this and my_mixer.yaml to wherever you like, change them, and run

    python src/main.py --config=path/to/my_mixer.yaml --env-config=matrix with env_args.key=climbing

It learns like VDN and QMIX, with everything else as they have it. A learner, a controller or an agent network is added
in the same way, to the registry of `learners`, `controllers` or `modules.agents`.

Here the team's value is a weighted sum of the agents' values: a network makes the weights, which are positive, from the
global state, so that what is best for an agent is best for the team; another one makes what is added to the sum.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch as th
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from modules import mixers


class Config(BaseModel):
    """The plugin's own keys: their types and ranges, and defaults for what the YAML leaves out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    mixer_width: int = Field(32, ge=1)


class MyMixer(nn.Module):
    """Q_tot = sum over agents of softplus(w_i(state)) q_i + b(state)."""

    def __init__(self, args: SimpleNamespace) -> None:
        """args has every key of the configuration, and the environment's sizes: n_agents, n_actions, state_shape."""
        super().__init__()

        def network(n_out: int) -> nn.Module:
            hidden = nn.Linear(args.state_shape, args.mixer_width)
            return nn.Sequential(hidden, nn.ReLU(), nn.Linear(args.mixer_width, n_out))

        self.weights, self.added = network(args.n_agents), network(1)

    def forward(self, agent_qs: th.Tensor, states: th.Tensor) -> th.Tensor:
        """agent_qs (B, T, N) and states (B, T, S) of B episodes, T steps, N agents -> Q_tot (B, T, 1)."""
        weights = nn.functional.softplus(self.weights(states))  # (B, T, N)
        return (weights * agent_qs).sum(-1, keepdim=True) + self.added(states)


def register() -> None:
    """Called by the host, which found this file as `plugin` in the YAML."""
    mixers.REGISTRY["my_mixer"] = MyMixer
