"""The plugin's keys: YAML and types agree, ranges hold, and what does not fit together is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from support.mmsa import YAML, mmsa_args, plugin_keys, with_keys

import mmsa
from mmsa.config import LossWeights, MMSAConfig, check
from mmsa.world_model import LOSSES
from utils import config as host
from utils.config import ConfigError, compose
from utils.schema import HostConfig

HOST_KEYS = {"name", "plugin", "learner", "mac", "agent", "mixer"}


def keys(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def model_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield prefix + key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from model_keys(field.annotation, f"{prefix}{key}.")


def own() -> dict[str, Any]:
    return {key: value for key, value in plugin_keys().items() if key not in HostConfig.model_fields}


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose("mmsa", "matrix", overrides)
    return caught.value.problems


def test_the_yaml_and_the_types_have_the_same_keys_in_the_same_order() -> None:
    assert list(keys(own())) == list(model_keys(MMSAConfig))
    assert set(plugin_keys()) - set(own()) == HOST_KEYS


def test_no_key_is_both_the_hosts_and_the_plugins() -> None:
    assert not set(MMSAConfig.model_fields) & set(HostConfig.model_fields)


def test_the_yamls_values_are_valid() -> None:
    assert MMSAConfig(**own()).model_dump() == own()


def test_the_yaml_is_there_once() -> None:
    assert host.find("algs", "mmsa").resolve() == YAML.resolve()
    link = host.ROOT / "config" / "algs" / "mmsa.yaml"
    assert not link.exists() or link.is_symlink()


def test_defaults_are_those_that_were_decided() -> None:
    """The paper's and ancestors', or what runs decided (plugins/mmsa/README.md)."""
    composed = compose("mmsa", "smax")
    wanted = {
        "imagination.horizon": 3, "world_model.alpha": 0.8, "hidden_dim": 64, "sale.dim": 64,
        "world_model.latent_dim": 16,
        "sale.hidden_dim": 64, "head.hidden_dim": 64, "world_model.action_embed_dim": 4,
        "world_model.zsa_embed_dim": 16,
        "world_model.state_embed_dim": 64, "world_model.hidden_dim": 64, "imagination.embed_dim": 32,
        "mixing_embed_dim": 32, "hypernet_embed": 64, "gamma": 0.99, "lr": 0.0005, "sale.lr": 0.0003,
        "grad_norm_clip": 10,
        "batch_size": 32, "buffer_size": 5000, "target_update_interval_or_tau": 200, "sale.update_interval": None,
        "td_lambda": 0.6, "epsilon_start": 1.0, "epsilon_finish": 0.05, "epsilon_anneal_time": 50000,
        "obs_agent_id": True, "obs_last_action": False, "loss_weights.prior_reg": 0.01,
        "loss_weights.continuation": 0.0,
        "sale.input": "obs", "sale.scope": "local", "imagination.grad": "encoder", "imagination.target": "online",
        "imagination.zs": "predict", "sale.enabled": True, "sale.normalise": True, "sale.joint_hidden_dim": 128,
        "sale.grad_norm_clip": 10, "head.zero_init": True, "world_model.enabled": True,
        "world_model.kl_balancing": True,
        "mixer_state": True, "loss_weights.td": 1, "loss_weights.kl": 1, "loss_weights.recon": 1,
        "loss_weights.prior_recon_state": 1, "loss_weights.prior_recon_action": 1, "loss_weights.avail": 1,
        "loss_weights.reward": 1, "loss_weights.sale": 1,
    }  # fmt: skip
    assert {key for key in keys(own()) if not isinstance(own().get(key), dict)} <= set(wanted), "one was not decided"
    for key, value in wanted.items():
        found: Any = composed
        for part in key.split("."):
            found = found[part]
        assert found == value, key


def test_the_algorithm_sets_none_of_the_keys_it_shares() -> None:
    ours, qmix = compose("mmsa", "matrix"), compose("qmix", "matrix")
    different = {key for key in HostConfig.model_fields if ours[key] != qmix[key]}
    assert different <= HOST_KEYS | {"seed"}


def test_weights_are_named_after_the_losses() -> None:
    assert set(LossWeights.model_fields) == {"td", "sale", *LOSSES}


@pytest.mark.parametrize("missing", ["sale", "mixer_state", "sale.dim", "loss_weights.kl"])
def test_every_key_is_needed(missing: str) -> None:
    config = own()
    group = config
    *path, last = missing.split(".")
    for part in path:
        group = group[part]
    del group[last]
    with pytest.raises(ValidationError, match=last):
        MMSAConfig(**config)
    with pytest.raises(ValidationError, match=last):
        MMSAConfig.from_args(SimpleNamespace(**config))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sale.dims=3", ["sale.dims = 3", "did you mean sale.dim?"]),
        ("sale.dim=0", ["sale.dim = 0", "from 1 to 4096"]),
        ("sale.dim=64.0", ["sale.dim = 64.0", "a whole number"]),
        ("sale.enabled=1", ["sale.enabled = 1", "true or false"]),
        ("sale.input=state", ["sale.input = 'state'", "'obs' or 'hidden'"]),
        ("sale.scope=global", ["sale.scope = 'global'", "'local' or 'joint'"]),
        ("sale.lr=0", ["sale.lr = 0"]),
        ("sale.update_interval=0", ["sale.update_interval = 0"]),
        ("world_model.alpha=1.1", ["world_model.alpha = 1.1", "from 0 to 1"]),
        ("imagination.horizon=-1", ["imagination.horizon = -1", "from 0 to 20"]),
        ("imagination.grad=half", ["imagination.grad = 'half'", "'encoder' or 'full' or 'none'"]),
        ("loss_weights.kl=-1", ["loss_weights.kl = -1"]),
        ("loss_weights.td=0", ["loss_weights.td = 0"]),
        ("loss_weights.sale=0", ["loss_weights.sale = 0"]),
        ("loss_weights.kl=1e400", ["loss_weights.kl = inf"]),
        ("sale.lr=1e400", ["sale.lr = inf"]),
        ("loss_weights.recon=0", ["loss_weights.recon=0", "set horizon to 1 or 0"]),
        ("horizon=2", ["horizon = 2", "did you mean imagination.horizon?"]),
        ("imagination.zs=encode", ["imagination.zs=encode", "sale.input=hidden"]),
    ],
)
def test_a_problem_names_key_value_and_cure(override: str, parts: list[str]) -> None:
    (problem,) = problems(override)
    assert all(part in problem for part in parts), problem


def test_what_does_not_fit_together() -> None:
    (problem,) = problems("mixer_state=false", "world_model.enabled=false")
    assert "mixer_state=False" in problem and "world_model.enabled=False" in problem and "set one" in problem
    (problem,) = problems("imagination.zs=encode", "sale.input=hidden", "sale.enabled=false")
    assert "sale.enabled=True" in problem
    (problem,) = problems("sale.scope=joint", "world_model.enabled=false")
    assert "sale.scope=joint" in problem and "set sale.scope=local or world_model.enabled=True" in problem
    compose("mmsa", "matrix", ["sale.scope=joint", "world_model.enabled=false", "sale.enabled=false"])


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("common_reward=false", ["common_reward=False", "set common_reward=True"]),
        ("agent=rnn_ns", ["agent=rnn_ns", "set agent=mmsa_agent"]),
        ("agent=rnn", ["agent=rnn", "set agent=mmsa_agent"]),
        ("mixer=qmix", ["mixer=qmix", "set mixer=mmsa_mixer"]),
        ("mac=basic_mac", ["mac=basic_mac", "set mac=mmsa_mac"]),
        ("learner=q_learner", ["learner=q_learner", "set learner=mmsa_learner"]),
        ("use_rnn=false", ["use_rnn=False", "set use_rnn=True"]),
        ("standardise_returns=true", ["standardise_returns=True", "set standardise_returns=False"]),
        ("agent_output_type=pi_logits", ["agent_output_type=pi_logits", "set agent_output_type=q"]),
        ("action_selector=multinomial", ["action_selector=multinomial", "set action_selector=epsilon_greedy"]),
    ],
)
def test_what_is_not_supported_is_refused_before_the_run(override: str, parts: list[str]) -> None:
    assert any(all(part in problem for part in parts) for problem in problems(override))


def test_check_passes_what_is_supported() -> None:
    check(vars(mmsa_args()))


def test_groups_are_frozen() -> None:
    config = mmsa.Config(**own())
    with pytest.raises(ValidationError):
        config.sale.dim = 3


def test_dotted_changes_know_their_keys() -> None:
    """Of this folder's own helper: a misspelt ablation would otherwise test the default."""
    with pytest.raises((AssertionError, KeyError)):
        with_keys(own(), {"sale.enable": False})
