"""Open-loop predictions against a plain loop over episodes, steps and agents."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from support.mmsa import LENGTHS, batch_of, build

from mmsa.diagnostics import open_loop, reliance
from mmsa.learner import MMSALearner, Seen
from mmsa.world_model import symexp

Losses = tuple[dict[str, th.Tensor], dict[str, th.Tensor], Seen]


def measure(learner: MMSALearner, losses: Losses, horizon: int = 10) -> dict[str, float]:
    model = learner.online.model
    assert model is not None
    _, stats, (rows, data, h, zs) = losses
    actions = data.actions, data.reward, stats["preferred"]
    encode = learner.cfg.imagination.zs == "encode"
    return open_loop(model, learner.mac.agent, rows, h, zs, *actions, encode, horizon)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"sale.enabled": False}, {"sale.scope": "joint"}, {"sale.input": "hidden", "imagination.zs": "encode"}],
    ids=str,
)
def test_errors_are_those_of_a_plain_loop(changes: dict[str, object], masks: bool) -> None:
    learner = build(**({"head.zero_init": False} | changes))
    if learner.mac.agent.sale is not None:  # embeddings decide
        learner.mac.agent.head.q2.weight.data.mul_(100)
    losses = learner.losses(batch_of(learner))
    seen, preferred = losses[2], losses[1]["preferred"]
    model, agent = learner.online.model, learner.mac.agent
    model.avail_seen.fill_(masks)
    found = measure(learner, losses)
    errors: dict[str, list[float]] = {}
    imagined, real, row = [], [], 0
    with th.no_grad():
        for length in LENGTHS:  # an episode of so many transitions has one step more
            for t in range(length):
                at = row + t
                s = model.posterior(seen.h[at : at + 1], None if seen.zs is None else seen.zs[at : at + 1]).mean
                zs = None if seen.zs is None else seen.zs[at : at + 1]
                for k in range(1, length - t + 1):
                    taken, zsa = seen.data.actions[at + k - 1 : at + k], None
                    if zs is not None:
                        zsa = th.stack([agent.sale.g(zs[:, i], taken[:, i]) for i in range(zs.shape[1])], 1)
                        zsa = agent.sale.dynamics(zs, taken, zsa)
                    s = model.prior(s, taken, zsa).mean
                    if zs is not None:
                        encode = "imagination.zs" in changes
                        zs = agent.sale.zs(model.decode_hidden(s)) if encode else agent.sale.normalise(zsa)
                    then = seen.h[at + k]
                    errors.setdefault(f"open_loop_{k}", []).append(((model.decode_hidden(s)[0] - then) ** 2).mean())
                    errors.setdefault(f"no_change_{k}", []).append(((seen.h[at] - then) ** 2).mean())
                    agree = []
                    for i in range(taken.shape[1]):  # an agent's values, one action at a time
                        h = model.decode_hidden(s)[:, i]
                        q = []
                        for a in range(agent.n_actions):
                            if zs is None:
                                q.append(agent.head.chosen(h, th.tensor([a]), None, None).item())
                            else:
                                zsa_a = agent.sale.g(zs[:, i], th.tensor([a]))
                                q.append(agent.head.chosen(h, th.tensor([a]), zs[:, i], zsa_a).item())
                        open_ = model.dec_avail(s)[0, i] >= 0 if masks else th.ones(agent.n_actions, dtype=th.bool)
                        best = max((q[a], a) for a in range(agent.n_actions) if open_[a])[1] if open_.any() else 0
                        agree.append(best == preferred[at + k, i].item())
                    errors.setdefault(f"policy_{k}", []).append(np.mean(agree))
                    if k == 1:
                        imagined.append(symexp(model.dec_reward(s.flatten(1)))[0, 0].item())
                        real.append(seen.data.reward[at].item())
            row += length + 1
    expected = {name: np.mean(values) for name, values in errors.items()}
    expected |= {"reward_imagined": np.mean(imagined), "reward_real": np.mean(real)}
    expected["reward_correlation"] = np.corrcoef(imagined, real)[0, 1]
    assert set(expected) == set(found) and f"open_loop_{max(LENGTHS)}" in found
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_horizon_and_missing_decoders() -> None:
    learner = build(**{"loss_weights.recon": 0, "loss_weights.reward": 0, "imagination.horizon": 1})
    assert measure(learner, learner.losses(batch_of(learner))) == {}
    learner = build()
    found = measure(learner, learner.losses(batch_of(learner)), horizon=2)
    assert {name for name in found if "loop" in name} == {"open_loop_1", "open_loop_2"}


def test_rewards_that_never_change_correlate_with_nothing() -> None:
    learner = build()
    batch = batch_of(learner)
    batch["reward"].fill_(1.0)
    found = measure(learner, learner.losses(batch))
    assert "reward_imagined" in found and "reward_correlation" not in found


def test_they_are_of_the_networks_before_the_step() -> None:
    learner = build(target_update_interval_or_tau=1)
    batch = batch_of(learner)
    th.manual_seed(3)
    losses = learner.losses(batch)
    wanted = measure(learner, losses) | lean(learner, losses)
    th.manual_seed(3)
    learner.train(batch, 10, 1)
    for name, value in wanted.items():
        assert learner.logger.stats[f"mmsa_{name}"] == [(10, pytest.approx(value, rel=1e-5))], name


def test_they_are_logged_and_draw_nothing() -> None:
    learner = build()
    batch = batch_of(learner)
    losses = learner.losses(batch)
    state = th.get_rng_state()
    measure(learner, losses)
    assert th.equal(state, th.get_rng_state())
    learner.train(batch, 10, 1)
    logged = learner.logger.stats
    wanted = ("open_loop_1", "no_change_3", "policy_2", "reward_imagined", "reward_real")
    assert {f"mmsa_{name}" for name in wanted} <= set(logged)
    without = build(**{"world_model.enabled": False})
    without.train(batch_of(without), 10, 1)
    assert not [name for name in without.logger.stats if "open_loop" in name]


# --- what the mixer relies on ---
def lean(learner: MMSALearner, losses: Losses | None = None) -> dict[str, float]:
    _, stats, seen = losses or learner.losses(batch_of(learner))
    state = seen.data.state if learner.cfg.mixer_state else None
    networks = learner.online.mixer, learner.online.rollout
    return reliance(*networks, stats["q_taken"], state, stats.get("states"), stats["goal"], stats["src"])


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["state", "rollout", "future"]),
        ({"imagination.horizon": 0}, ["state", "rollout"]),
        ({"mixer_state": False}, ["rollout", "future"]),
        ({"world_model.enabled": False}, ["state"]),
    ],
    ids=str,
)
def test_the_parts_of_the_context_that_there_are(changes: dict[str, object], parts: list[str]) -> None:
    learner = build(**changes)
    assert set(lean(learner)) == {f"td_other_{part}" for part in parts}
    learner.train(batch_of(learner), 1, 1)
    assert {name for name in learner.logger.stats if "_td_other_" in name} == {f"mmsa_td_other_{p}" for p in parts}


@pytest.mark.parametrize("hidden", ["state", "rollout"])
def test_what_the_mixer_cannot_see_makes_no_difference(hidden: str) -> None:
    """Its weights for a part of the context are 0: another step's part changes nothing."""
    learner = build()
    n_state = learner.args.state_shape
    columns = slice(n_state) if hidden == "state" else slice(n_state, None)
    with th.no_grad():
        for weight in learner.online.mixer.parameters():
            if weight.ndim == 2 and weight.shape[1] == n_state + learner.cfg.imagination.embed_dim:
                weight[:, columns] = 0.0
    found = lean(learner)
    unseen = {"state"} if hidden == "state" else {"rollout", "future"}
    for part in ("state", "rollout", "future"):
        assert (found[f"td_other_{part}"] == pytest.approx(1.0, rel=1e-5)) == (part in unseen), part


@pytest.mark.parametrize("error", [1.0, 0.01])
def test_reliance_is_that_of_a_plain_loop(error: float) -> None:
    """error: the share of the TD error that is left."""
    learner = build()
    _, stats, seen = learner.losses(batch_of(learner))
    mixer, rollout = learner.online.mixer, learner.online.rollout
    state, states, q, src = seen.data.state, stats["states"], stats["q_taken"], stats["src"]
    goal = stats["q_tot"] + error * (stats["goal"] - stats["q_tot"])
    draws = th.get_rng_state()
    found = reliance(mixer, rollout, q, state, states, goal, src)
    assert th.equal(draws, th.get_rng_state())
    others = th.randperm(len(state), generator=th.Generator().manual_seed(0)).tolist()
    errors = dict.fromkeys(("real", "state", "rollout", "future"), 0.0)
    with th.no_grad():
        for target, row in zip(goal, src.tolist(), strict=True):
            other = others[row]
            for name in errors:
                own_state = state[other if name == "state" else row]
                present = states[0, other if name == "rollout" else row]
                future = states[1:, other if name in ("rollout", "future") else row]
                e = rollout(th.cat([present[None], future]).unsqueeze(1))[0]
                errors[name] += ((mixer(q[row], th.cat([own_state, e])) - target) ** 2).item()
    for name in ("state", "rollout", "future"):
        assert found[f"td_other_{name}"] == pytest.approx(errors[name] / errors["real"], rel=1e-4)


def test_reliance_where_there_is_no_error_at_all() -> None:
    learner = build()
    _, stats, seen = learner.losses(batch_of(learner))
    networks = learner.online.mixer, learner.online.rollout
    with th.no_grad():
        context = th.cat([seen.data.state, learner.online.rollout(stats["states"])], dim=1)
        goal = learner.online.mixer(stats["q_taken"], context).squeeze(1)[stats["src"]]
    found = reliance(*networks, stats["q_taken"], seen.data.state, stats["states"], goal, stats["src"])
    assert all(np.isfinite(value) for value in found.values())


def test_what_the_time_alone_decides_is_seen_where_all_episodes_are_as_long() -> None:
    time = th.arange(10.0).repeat(8)
    states = time.view(1, -1, 1, 1)
    found = reliance(lambda q, c: c, lambda s: s[0, :, 0], time.view(-1, 1), None, states, time + 1, th.arange(80))
    assert 8 < found["td_other_rollout"] < 30  # 1 + twice the variance of the time, 16.5
