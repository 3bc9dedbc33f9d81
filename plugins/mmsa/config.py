"""The keys that MMSA adds to the host's, typed and with their ranges. The values stand in `config/mmsa.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=4096)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Group(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SaleConfig(_Group):
    """State-action learned embeddings (TD7; README.md beside this file)."""

    enabled: bool
    input: Literal["obs", "hidden"]
    scope: Literal["local", "joint"]
    normalise: bool
    dim: Width
    hidden_dim: Width
    joint_hidden_dim: Width
    lr: Positive
    grad_norm_clip: Positive
    update_interval: Annotated[int, Field(ge=1)] | None


class HeadConfig(_Group):
    """The head that turns hidden state and embeddings into action values."""

    hidden_dim: Width
    zero_init: bool


class WorldModelConfig(_Group):
    """The two VAEs over the agents' hidden states."""

    enabled: bool
    latent_dim: Width
    hidden_dim: Width
    state_embed_dim: Width
    action_embed_dim: Width
    zsa_embed_dim: Width
    kl_balancing: bool
    alpha: Annotated[float, Field(ge=0, le=1)]


class ImaginationConfig(_Group):
    """Latent roll-outs that condition the mixer."""

    horizon: Annotated[int, Field(ge=0, le=20)]
    embed_dim: Width
    grad: Literal["encoder", "full", "none"]
    target: Literal["online", "copy"]
    zs: Literal["predict", "encode"]


class LossWeights(_Group):
    """One weight for each named loss; a weight of 0 builds neither the loss nor its decoder."""

    td: Positive
    kl: Weight
    prior_reg: Weight
    recon: Weight
    prior_recon_state: Weight
    prior_recon_action: Weight
    avail: Weight
    reward: Weight
    continuation: Weight
    sale: Positive  # to do without SALE: sale.enabled


class MMSAConfig(_Group):
    """All of MMSA's own keys."""

    sale: SaleConfig
    head: HeadConfig
    world_model: WorldModelConfig
    imagination: ImaginationConfig
    mixer_state: bool
    loss_weights: LossWeights

    @model_validator(mode="after")
    def _consistent(self) -> MMSAConfig:
        if self.imagination.zs == "encode" and (self.sale.input != "hidden" or not self.sale.enabled):
            raise ValueError(
                "imagination.zs=encode is f of the imagined hidden state: set sale.input=hidden and sale.enabled=True"
            )
        if self.sale.enabled and self.sale.scope == "joint" and not self.world_model.enabled:
            raise ValueError(
                "sale.scope=joint is for the world model alone, which world_model.enabled=False leaves out: "
                "set sale.scope=local or world_model.enabled=True"
            )
        if not (self.mixer_state or self.world_model.enabled):
            raise ValueError(
                "mixer_state=False and world_model.enabled=False leave the mixer blind: set one of them to True"
            )
        if self.world_model.enabled and self.imagination.horizon > 1 and not self.loss_weights.recon:
            raise ValueError(
                "loss_weights.recon=0 builds no decoder, which imagination.horizon > 1 asks: set horizon to 1 or 0"
            )
        return self

    @classmethod
    def from_args(cls, args: SimpleNamespace) -> MMSAConfig:
        """Picks MMSA's keys out of the host's argument bag. Raises pydantic's ValidationError (a ValueError)."""
        return cls(**{name: getattr(args, name) for name in cls.model_fields if hasattr(args, name)})


# Host keys that choose what MMSA brings itself or does in one way only, with that value, and why.
_FIXED: dict[str, tuple[Any, str]] = {
    "plugin": ("mmsa", "MMSA is this plugin's"),
    "learner": ("mmsa_learner", "MMSA brings its own learner"),
    "mac": ("mmsa_mac", "MMSA brings its own controller"),
    "agent": ("mmsa_agent", "MMSA brings its own network, which the agents share"),
    "mixer": ("mmsa_mixer", "MMSA brings its own mixer"),
    "common_reward": (True, "MMSA learns the value of the team's one reward"),
    "use_rnn": (True, "the world model learns from a GRU's hidden states"),
    "agent_output_type": ("q", "MMSA learns action values"),
    "action_selector": ("epsilon_greedy", "MMSA learns action values"),
    "standardise_returns": (False, "MMSA does not standardise returns"),
}


def check(config: Mapping[str, Any]) -> None:
    """Refuses host settings that MMSA does not support. Raises ValueError naming the key, the value and the cure."""
    for key, (value, reason) in _FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key}={config[key]}: {reason}; set {key}={value}, or use another algorithm")
