"""Open-loop predictions against a plain loop over episodes, steps and agents."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from support.mmsa import LENGTHS, batch_of, build

from mmsa.diagnostics import open_loop, symexp
from mmsa.learner import MMSALearner, Seen
from mmsa.world_model import symlog


def measure(learner: MMSALearner, seen: Seen, horizon: int = 10) -> dict[str, float]:
    model = learner.online.model
    assert model is not None
    rows, data, h, zs = seen
    return open_loop(model, learner.mac.agent, rows, h, zs, data.actions, data.reward, horizon)


@pytest.mark.parametrize("changes", [{}, {"sale.enabled": False}, {"sale.scope": "joint"}], ids=str)
def test_errors_are_those_of_a_plain_loop(changes: dict[str, object]) -> None:
    learner = build(**changes)
    seen = learner.losses(batch_of(learner))[2]
    model, agent = learner.online.model, learner.mac.agent
    found = measure(learner, seen)
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
                        zs = agent.sale.normalise(zsa)
                    s = model.prior(s, taken, zsa).mean
                    then = seen.h[at + k]
                    errors.setdefault(f"open_loop_{k}", []).append(((model.decode_hidden(s)[0] - then) ** 2).mean())
                    errors.setdefault(f"no_change_{k}", []).append(((seen.h[at] - then) ** 2).mean())
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
    assert measure(learner, learner.losses(batch_of(learner))[2]) == {}
    learner = build()
    found = measure(learner, learner.losses(batch_of(learner))[2], horizon=2)
    assert {name for name in found if "loop" in name} == {"open_loop_1", "open_loop_2"}


def test_they_are_logged_and_draw_nothing() -> None:
    learner = build()
    batch = batch_of(learner)
    seen = learner.losses(batch)[2]
    state = th.get_rng_state()
    measure(learner, seen)
    assert th.equal(state, th.get_rng_state())
    learner.train(batch, 10, 1)
    logged = learner.logger.stats
    assert {"mmsa_open_loop_1", "mmsa_no_change_3", "mmsa_reward_imagined", "mmsa_reward_real"} <= set(logged)
    without = build(**{"world_model.enabled": False})
    without.train(batch_of(without), 10, 1)
    assert not [name for name in without.logger.stats if "open_loop" in name]


def test_symexp_inverts_symlog() -> None:
    x = th.linspace(-5, 5, 31)
    th.testing.assert_close(symexp(symlog(x)), x)
