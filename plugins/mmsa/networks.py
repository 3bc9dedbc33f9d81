"""The networks of a learner: one set that the TD loss trains, one that its targets are computed with."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from types import SimpleNamespace
from typing import NamedTuple

from torch import nn

from .config import MMSAConfig
from .controller import MMSAController
from .imagination import RolloutEncoder
from .mixer import MMSAMixer
from .world_model import WorldModel


class Networks(NamedTuple):
    """One set of what the TD loss trains and what its targets are computed with."""

    mac: MMSAController
    mixer: MMSAMixer
    model: WorldModel | None
    rollout: RolloutEncoder | None

    @classmethod
    def build(cls, mac: MMSAController, args: SimpleNamespace, cfg: MMSAConfig) -> Networks:
        """New ones for this controller, in the order that a seed's numbers are drawn in: model, roll-out, mixer."""
        model = rollout = None
        context_dim = args.state_shape if cfg.mixer_state else 0
        if cfg.world_model.enabled:
            zs_dim = cfg.sale.dim if cfg.sale.enabled else 0
            sizes = args.n_agents, args.n_actions, args.hidden_dim, zs_dim
            model = WorldModel(*sizes, cfg.world_model, cfg.loss_weights)
            rollout = RolloutEncoder(args.n_agents, cfg.world_model.latent_dim, cfg.imagination.embed_dim)
            context_dim += cfg.imagination.embed_dim
        return cls(mac, MMSAMixer(args, context_dim), model, rollout)

    def parts(self) -> dict[str, nn.Module]:
        """The networks that there are, by name."""
        agent = self.mac.agent
        parts = {"trunk": agent.trunk, "head": agent.head, "mixer": self.mixer, "model": self.model}
        return {name: part for name, part in (parts | {"rollout": self.rollout}).items() if part is not None}


class Group(NamedTuple):
    """What is trained with a learning rate and a gradient clip of its own, so that no group shrinks another's step."""

    params: list[nn.Parameter]
    lr: float
    clip: float

    @classmethod
    def of(cls, modules: Iterable[nn.Module], lr: float, clip: float) -> Group:
        return cls(list(chain(*(module.parameters() for module in modules))), lr, clip)
