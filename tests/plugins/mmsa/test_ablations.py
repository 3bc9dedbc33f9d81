"""Every switch of the configuration trains, and a switch that is off leaves nothing of it behind."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch as th
from pydantic import BaseModel
from support.mmsa import ALL_OFF, batch_of, build, losses, plugin_keys, spy, values, weights

from mmsa.config import MMSAConfig
from mmsa.world_model import LOSSES

# What another value of a key needs besides.
NEEDS: dict[str, dict[str, Any]] = {
    "imagination.zs": {"sale.input": "hidden"},
    "loss_weights.recon": {"imagination.horizon": 1},
}
NEVER_ZERO = ("loss_weights.td", "loss_weights.sale")
HORIZONS = range(6)
SHARED: list[dict[str, Any]] = [  # host keys that change MMSA's path
    {"double_q": False},
    {"td_lambda": 0.0},
    {"obs_last_action": True},
    {"obs_agent_id": False},
    {"target_update_interval_or_tau": 0.01},
    {"hypernet_layers": 1},
    {"standardise_rewards": True},
    {"n_agents": 1},
]


def alternatives(model: type[BaseModel], config: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """For every switch and enumeration of the configuration the values that it does not have, and every weight at 0."""
    for key, field in model.model_fields.items():
        name, kind, value = prefix + key, field.annotation, config[key]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from alternatives(kind, value, f"{name}.")
        elif kind is bool:
            yield {name: not value}
        elif typing.get_origin(kind) is Literal:
            yield from ({name: other} | NEEDS.get(name, {}) for other in typing.get_args(kind) if other != value)
        elif prefix == "loss_weights." and name not in NEVER_ZERO:
            yield {name: 0.0 if value else 1.0} | NEEDS.get(name, {})
    if not prefix:
        yield from ({"imagination.horizon": k} for k in HORIZONS)


ABLATIONS = list(alternatives(MMSAConfig, plugin_keys()))
TOGETHER: list[dict[str, Any]] = [
    ALL_OFF,
    {"sale.enabled": False, "mixer_state": False},
    {"sale.scope": "joint", "imagination.target": "copy", "imagination.grad": "full"},
    {"sale.input": "hidden", "imagination.zs": "encode", "imagination.target": "copy"},
    {"sale.scope": "joint", "sale.input": "hidden", "imagination.zs": "encode", "sale.normalise": False},
    {f"loss_weights.{name}": 0.0 for name in LOSSES} | {"imagination.horizon": 1},
]


def test_the_list_is_complete() -> None:
    """Should the loop over the configuration miss something."""
    for wanted in (
        {"sale.enabled": False},
        {"sale.normalise": False},
        {"world_model.enabled": False},
        {"world_model.kl_balancing": False},
        {"mixer_state": False},
        {"sale.scope": "joint"},
        {"sale.input": "hidden"},
        {"imagination.grad": "full"},
        {"imagination.grad": "none"},
        {"imagination.target": "copy"},
        {"loss_weights.kl": 0.0},
        *({"imagination.horizon": k} for k in HORIZONS),
    ):
        assert wanted in ABLATIONS, wanted


@pytest.mark.parametrize("changes", [*ABLATIONS, *TOGETHER, *SHARED], ids=str)
def test_every_switch_trains(changes: dict[str, Any]) -> None:
    learner = build(
        **(changes | ({} if "target_update_interval_or_tau" in changes else {"target_update_interval_or_tau": 2}))
    )
    start = values(learner)
    for update in range(1, 4):
        learner.train(batch_of(learner, seed=update), update, update)
    now = values(learner)
    assert all(x.isfinite().all() for x in now.values())
    found = losses(learner, batch_of(learner))
    assert found.keys() == learner.weights.keys() and all(x.isfinite() for x in found.values())
    for part in ("online.trunk", "online.head", "online.mixer", "target.trunk", "target.mixer"):
        assert any(not th.equal(now[name], start[name]) for name in now if name.startswith(part)), part
    trained = {"sale": "sale.", "kl": "online.model."}
    for loss, prefix in trained.items():
        if loss in learner.weights:
            assert any(not th.equal(now[name], start[name]) for name in now if name.startswith(prefix)), loss


# --- what is off is gone ---
def parts(**changes: Any) -> set[str]:
    """The modules that hold parameters."""
    return {name.rpartition(".")[0] for name in weights(build(**changes))}


def test_without_sale_there_are_no_embeddings() -> None:
    learner = build(**{"sale.enabled": False})
    assert learner.sale is None and "sale" not in learner.weights and "sale" not in learner.groups
    names = {name.rpartition(".")[0] for name in weights(learner)}
    assert not any("sale" in name or "enc_z" in name for name in names)
    assert {name for name in names if ".head." in name} == {"online.head.direct", "target.head.direct"}
    full = parts()
    assert {"sale.g.inp", "online.head.q1", "online.model.enc_z", "target.sale.f.0"} <= full


def test_without_a_world_model_there_is_none_and_no_roll_out() -> None:
    learner = build(**{"world_model.enabled": False})
    assert learner.online.model is learner.online.rollout is learner.target.model is learner.target.rollout is None
    assert set(learner.weights) == {"td", "sale"} and set(learner.groups) == {"value", "sale"}
    assert not any(".model." in name or ".rollout." in name for name in weights(learner))
    assert learner.online.mixer.hyper_b1.in_features == learner.args.state_shape


@pytest.mark.parametrize(("state", "model"), [(True, True), (True, False), (False, True)])
def test_the_mixers_width_is_what_it_sees(state: bool, model: bool) -> None:
    learner = build(**{"mixer_state": state, "world_model.enabled": model})
    width = state * learner.args.state_shape + model * learner.cfg.imagination.embed_dim
    assert learner.online.mixer.hyper_b1.in_features == width


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("target", ["online", "copy"])
def test_as_many_steps_are_imagined_as_asked(monkeypatch: pytest.MonkeyPatch, horizon: int, target: str) -> None:
    learner = build(**{"imagination.horizon": horizon, "imagination.target": target})
    batch = batch_of(learner)
    online = spy(monkeypatch, learner.online.model, "next_mean")
    assert (learner.target.model is None) == (target == "online")
    copied = spy(monkeypatch, learner.target.model, "next_mean") if target == "copy" else []
    greedy = spy(monkeypatch, learner.mac.agent, "greedy")
    losses(learner, batch)
    steps = int(batch["filled"].sum())

    def rows(calls: list[Any]) -> int:  # the rows are shared out to several calls
        return sum(len(call[0]) for call in calls)

    assert rows(online) == horizon * steps and rows(copied) == (horizon * steps if target == "copy" else 0)
    # once at the present, then at each imagined step but the last
    assert rows(greedy) == max(horizon, 1) * steps * learner.args.n_agents


@pytest.mark.parametrize(
    ("kind", "chain", "rollout"), [("full", True, True), ("encoder", False, True), ("none", False, False)]
)
def test_no_graph_is_built_that_nothing_uses(kind: str, chain: bool, rollout: bool) -> None:
    learner = build(**{"imagination.grad": kind})
    seen = []
    learner.online.rollout.register_forward_hook(lambda module, inputs, e: seen.append((inputs[0], e)))
    losses(learner, batch_of(learner))
    ((states, e),) = seen
    assert (states.requires_grad, e.requires_grad) == (chain, rollout)


def test_local_scope_has_no_joint_encoder() -> None:
    assert not any("g_joint" in name for name in parts())
    assert any("g_joint" in name for name in parts(**{"sale.scope": "joint"}))


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_0_removes_the_loss(name: str) -> None:
    learner = build(**{f"loss_weights.{name}": 0.0}, **NEEDS.get(f"loss_weights.{name}", {}))
    found = losses(learner, batch_of(learner))
    assert name not in found and name not in learner.weights


def test_with_zero_init_the_values_start_as_qmix_s() -> None:
    """The embedded part of the head adds nothing at first, yet learns at once."""
    learner = build(**{"head.zero_init": True}, perturb=False)
    head = learner.mac.agent.head
    h, zs = th.randn(5, learner.args.hidden_dim), th.randn(5, learner.cfg.sale.dim)
    q, _ = head.all_actions(h, zs, learner.mac.agent.fold())
    th.testing.assert_close(q, head.direct(h))
    losses(learner, batch_of(learner))["td"].backward()
    assert head.q2.weight.grad.abs().max() > 0 and head.q2.bias.grad.abs().max() > 0
