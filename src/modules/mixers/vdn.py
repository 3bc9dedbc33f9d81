"""Value decomposition networks: the joint value is the sum of the agents' values (Sunehag et al. 2018)."""

from __future__ import annotations

from types import SimpleNamespace

import torch as th
from torch import nn


class VDNMixer(nn.Module):
    def __init__(self, args: SimpleNamespace | None = None) -> None:  # upstream's learners give none
        super().__init__()

    def forward(self, agent_qs: th.Tensor, states: th.Tensor) -> th.Tensor:
        """agent_qs (B, T, N), states unused -> (B, T, 1)."""
        return agent_qs.sum(-1, keepdim=True)
