"""A small MMSA learner, batches with every kind of end and of garbage, and names for all its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th
import yaml
from support.batches import random_batch, with_garbage
from support.settings import RecordingLogger, scheme_of
from support.settings import args as host_args

from components.episode_buffer import EpisodeBatch, complete_scheme
from mmsa.controller import MMSAController
from mmsa.learner import MMSALearner

YAML = Path(__file__).parents[2] / "plugins" / "mmsa" / "config" / "mmsa.yaml"
LENGTHS, ENDS = (
    [6, 4, 1, 3, 1],
    [False, True, True, False, False],
)  # a full, two terminated, two truncated; two of one step
SMALL = {  # widths that all differ, so that a mix-up of dimensions fails
    "sale.dim": 7,
    "sale.hidden_dim": 11,
    "sale.joint_hidden_dim": 13,
    "head.hidden_dim": 10,
    "head.zero_init": False,  # else nothing of the head but its linear part shows at first
    "world_model.latent_dim": 3,
    "world_model.hidden_dim": 14,
    "world_model.state_embed_dim": 9,
    "world_model.action_embed_dim": 2,
    "world_model.zsa_embed_dim": 4,
    "imagination.embed_dim": 6,
}
HOST = {"hidden_dim": 12, "mixing_embed_dim": 5, "hypernet_embed": 8, "learner_log_interval": 1}
ALL_OFF = {"sale.enabled": False, "world_model.enabled": False}


def plugin_keys() -> dict[str, Any]:
    return yaml.safe_load(YAML.read_text())


def with_keys(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A deep copy in which dotted keys ("sale.dim") have these values; a key that is not there is an error."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        group = config
        for part in path:
            group = group[part]
        assert last in group, f"no such key: {key}"
        group[last] = value
    return config


def mmsa_args(**changes: Any) -> SimpleNamespace:
    """Defaults of host and plugin, small widths, and `changes` of either (sizes too; the plugin's keys dotted)."""
    plugin = plugin_keys()
    mine = {key: value for key, value in changes.items() if key.split(".")[0] in plugin and key != "name"}
    own = with_keys(plugin, SMALL | mine)
    hosts = ("name", "plugin", "learner", "mac", "agent", "mixer")
    args = host_args(**({k: own[k] for k in hosts} | HOST | {k: v for k, v in changes.items() if k not in mine}))
    vars(args).update({key: value for key, value in own.items() if key not in hosts})
    return args


def build(seed: int = 0, log: RecordingLogger | None = None, perturb: bool = True, **changes: Any) -> MMSALearner:
    """A learner on random weights. perturb: its target networks and copies of SALE differ from the online ones."""
    args = mmsa_args(**changes)
    scheme, groups, preprocess = scheme_of(args)
    th.manual_seed(seed)
    mac = MMSAController(complete_scheme(scheme, preprocess), groups, args)
    learner = MMSALearner(mac, scheme, log or RecordingLogger(), args)
    if perturb:
        with th.no_grad():
            for name, p in weights(learner).items():
                if not name.startswith("online.") or ".sale." in name:
                    p += 0.1 * th.randn_like(p)
    return learner


def batch_of(learner: MMSALearner, seed: int = 0, n_steps: int | None = None) -> EpisodeBatch:
    return random_batch(learner.args, LENGTHS, ENDS, seed, n_steps)


def weights(learner: MMSALearner) -> dict[str, th.nn.Parameter]:
    """Every parameter by a name: online.trunk.fc.weight, target.sale.f.0.bias, sale.g.inp.weight, ..."""
    parts: dict[str, Any] = {"sale": learner.sale}
    for side, networks in (("online", learner.online), ("target", learner.target)):
        agent = networks.mac.agent
        parts |= {
            f"{side}.trunk": agent.trunk,
            f"{side}.head": agent.head,
            f"{side}.sale": agent.sale,
            f"{side}.mixer": networks.mixer,
            f"{side}.model": networks.model,
            f"{side}.rollout": networks.rollout,
        }
    return {
        f"{part}.{name}": p
        for part, module in parts.items()
        if module is not None
        for name, p in module.named_parameters()
    }


def values(learner: MMSALearner) -> dict[str, th.Tensor]:
    return {name: p.detach().clone() for name, p in weights(learner).items()}


def losses(learner: MMSALearner, batch: EpisodeBatch, seed: int = 3) -> dict[str, th.Tensor]:
    """Unweighted, with the same noise at every call."""
    th.manual_seed(seed)
    return learner.losses(batch)[0]


def gradients(learner: MMSALearner, batch: EpisodeBatch, names: Iterable[str] | None = None) -> dict[str, th.Tensor]:
    """Gradient of the sum of these losses (all, weighted, where None) by parameter; only where it is not zero."""
    for p in weights(learner).values():
        p.grad = None
    found = losses(learner, batch)
    total = [learner.weights[n] * x for n, x in found.items()] if names is None else [found[n] for n in names]
    sum(total, th.zeros(())).backward()
    return {name: p.grad.clone() for name, p in weights(learner).items() if p.grad is not None and p.grad.any()}


def close(a: dict[str, th.Tensor], b: dict[str, th.Tensor], **tolerance: float) -> None:
    """The same names with the same tensors, to torch.testing's tolerance."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for name in a:
        th.testing.assert_close(a[name], b[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def garbage(batch: EpisodeBatch, nan: bool = False) -> EpisodeBatch:
    """Garbage wherever no loss may look: in padded steps, and besides the observation in bootstrap steps."""
    g = th.Generator().manual_seed(9)
    copied = with_garbage(batch)
    filled = batch["filled"][..., 0] != 0
    last = filled.clone()
    last[:, :-1] &= ~filled[:, 1:]
    copied["reward"][last] = 1e3 * th.randn(copied["reward"][last].shape, generator=g)
    copied["terminated"][last] = 1
    shape = copied["actions"][last].shape
    copied["actions"][last] = th.randint(0, batch["avail_actions"].shape[-1], shape, generator=g)
    if nan:
        for key in ("state", "obs"):
            copied[key][~filled] = th.nan
        copied["reward"][~filled | last] = th.nan
    return copied


def spy(monkeypatch: Any, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The arguments of every call of a method from now on."""
    calls: list[tuple[Any, ...]] = []
    real: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)
    return calls
