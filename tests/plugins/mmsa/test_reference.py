"""Whole updates agree with the same written out in plain loops: every loss, gradient and weight, target, copy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch as th
from support.batches import random_batch
from support.mmsa import ALL_OFF, build, garbage, spy, weights
from support.mmsa_loops import Loops
from support.settings import scheme_of

from components.episode_buffer import EpisodeBatch
from mmsa.learner import MMSALearner

ROOT = Path(__file__).parents[3]
LENGTHS, ENDS, BURN_IN = [4, 2, 3], [False, True, False], [2, 0, 1]
HOST = {"n_actions": 4, "episode_limit": 4, "target_update_interval_or_tau": 2, "lr": 0.01, "gamma": 0.9}
CLIPS = {"grad_norm_clip": 2.0, "sale.grad_norm_clip": 0.05}  # every group's bites
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "joint, copy, full": {
        "sale.scope": "joint", "imagination.target": "copy", "imagination.grad": "full", "obs_last_action": True,
    },
    "hidden, encode, copy": {
        "sale.input": "hidden", "imagination.zs": "encode", "imagination.target": "copy", "double_q": False,
        "td_lambda": 1.0,
    },
    "hidden, joint, all losses": {
        "sale.input": "hidden", "sale.scope": "joint", "loss_weights.continuation": 0.5, "loss_weights.reward": 2.0,
        "loss_weights.prior_reg": 0.3, "imagination.horizon": 1, "torch_threads": 2,
    },
    "no SALE": {
        "sale.enabled": False, "td_lambda": 0.0, "mixer_state": False, "imagination.grad": "none",
        "world_model.kl_balancing": False, "obs_agent_id": False,
    },
    "soft targets": {
        "target_update_interval_or_tau": 0.1, "sale.update_interval": 2, "imagination.target": "copy",
        "sale.normalise": False, "imagination.horizon": 5,
    },
    "few losses": {
        "loss_weights.recon": 0.0, "loss_weights.avail": 0.0, "loss_weights.reward": 0.0, "imagination.horizon": 0,
        "loss_weights.prior_recon_state": 0.0, "imagination.grad": "full", "hypernet_layers": 1,
    },
    "no world model": {"world_model.enabled": False, "double_q": False},
    "all off": ALL_OFF,
}  # fmt: skip


def batch_of(learner: MMSALearner, update: int) -> EpisodeBatch:
    """Masks are open at first, then close, also entirely; stretches have a burn-in from the second update on."""
    batch = random_batch(learner.args, LENGTHS, ENDS, update)
    if update:
        batch["avail_actions"][0, 2, 0] = 0
    else:
        batch["avail_actions"][:] = 1
    scheme, groups, preprocess = scheme_of(learner.args)
    data = {key: batch[key] for key in batch.scheme}
    if update:
        scheme["burn_in"] = {"vshape": (1,), "dtype": th.uint8}
        data["burn_in"] = (th.arange(5) < th.tensor(BURN_IN).unsqueeze(1)).to(th.uint8).unsqueeze(2)
    return garbage(EpisodeBatch(scheme, groups, len(LENGTHS), 5, data=data, preprocess=preprocess))


@pytest.mark.parametrize("name", SETTINGS)
def test_updates_are_those_of_the_loops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(**HOST | CLIPS | SETTINGS[name])
    if name == "default":  # log-variances beyond their range
        for key in ("post.2.weight", "prior_logvar.weight"):
            p = weights(learner)[f"online.model.{key}"]
            p.data[-p.shape[0] // 2 :] *= 200
    for key, p in weights(learner).items():
        if ".dec_avail.2." in key:
            p.data *= -20  # imagined masks close, and to preferred actions
    loops = Loops(dict(weights(learner)), learner.args)
    seen = spy(monkeypatch, learner, "_backward")
    shape = sum(LENGTHS) + len(LENGTHS), learner.args.n_agents * learner.cfg.world_model.latent_dim
    for update in range(3):
        batch = batch_of(learner, update)
        th.manual_seed(update)
        learner.train(batch, update, update)
        th.manual_seed(update)
        losses = loops.update(batch, [th.randn(shape), th.randn(shape)])

        weighted = seen[-1][0]
        assert weighted.keys() == losses.keys()
        for key, loss in losses.items():
            expected = pytest.approx(learner.weights[key] * loss.item(), rel=1e-5, abs=1e-6)
            assert weighted[key].item() == expected, (update, key)
        grads = {key: p.grad for key, p in weights(learner).items() if p.grad is not None}
        assert grads.keys() == loops.grads.keys(), update
        for key, grad in loops.grads.items():
            assert (grads[key] - grad).abs().max() <= 1e-4 * grad.abs().max() + 1e-7, (update, key)
        for key, p in weights(learner).items():
            assert (p - loops.w[key]).abs().max() < 1e-4, (update, key)


UPSTREAMS_LAYERS = """
import sys
sys.path[:0] = ["plugins", "src"]
sys.modules["modules.compiled"] = None  # its import fails, and the plugin takes what it has without the embedded host
import mmsa.kernels, torch
del sys.modules["modules.compiled"]
assert mmsa.kernels.Linear is torch.nn.Linear and mmsa.kernels.compiled is None
import pytest
raise SystemExit(pytest.main(sys.argv[1:]))
"""


def test_updates_are_those_of_the_loops_on_upstreams_layers() -> None:
    """Under an unedited EPyMARL, where trunk, roll-out encoder, SALE and decoders are made of torch's own layers."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "loops and (default or joint) and not upstreams"]
    command = [sys.executable, "-c", UPSTREAMS_LAYERS, *options, str(Path(__file__).relative_to(ROOT))]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
