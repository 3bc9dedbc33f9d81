"""Our learners on the weights and the batch that upstream's was given: the same loss, metrics and gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from support import reference_case
from support.settings import RecordingLogger, scheme_of

from components.episode_buffer import EpisodeBatch
from controllers import REGISTRY as MACS
from learners.ppo_learner import PPOLearner
from learners.q_learner import QLearner

# Written by tests/tools/upstream_reference.py from the commit that is named in the file.
DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "upstream_q_learner.json").read_text())["cases"]
PPO_REFERENCE = json.loads((DATA / "upstream_ppo_learner.json").read_text())["cases"]


def parts(case: str) -> tuple[Any, EpisodeBatch, RecordingLogger, Any]:
    args = reference_case.args_of(case)
    scheme, groups, preprocess = scheme_of(args)
    batch = EpisodeBatch(scheme, groups, reference_case.N_EPISODES, reference_case.N_STEPS, preprocess=preprocess)
    fields = reference_case.fields(args)
    batch.update({key: value for key, value in fields.items() if key != "filled"}, mark_filled=False)
    batch["filled"][:] = th.tensor(fields["filled"])
    return args, batch, RecordingLogger(), MACS["basic_mac"](batch.scheme, groups, args)


def compare(expected: dict[str, Any], gradients: dict[str, th.Tensor], tolerance: float) -> None:
    assert gradients.keys() == expected["gradients"].keys()
    for name, gradient in gradients.items():
        known = expected["gradients"][name]
        flat = gradient.double().flatten().numpy()
        assert np.linalg.norm(flat) == pytest.approx(known["norm"], rel=tolerance, abs=1e-7), name
        np.testing.assert_allclose(flat[:8], known["first"], atol=tolerance * max(1.0, known["norm"]), err_msg=name)


@pytest.mark.parametrize("case", reference_case.CASES)
def test_loss_and_gradients_are_upstreams(case: str) -> None:
    args, batch, logger, mac = parts(case)
    learner = QLearner(mac, batch.scheme, logger, args)
    for salt, agent, mixer in (
        ("online ", mac.agent, learner.mixer),
        ("target ", learner.target_mac.agent, learner.target_mixer),
    ):
        agent.load_state_dict(reference_case.fill_weights(agent.state_dict(), salt + "agent "))
        if mixer is not None:
            mixer.load_state_dict(reference_case.fill_weights(mixer.state_dict(), salt + "mixer "))

    learner.train(batch, t_env=10, episode_num=1)

    expected = REFERENCE[case]
    metrics = {key: values[-1][1] for key, values in logger.stats.items()}
    assert metrics == pytest.approx(expected["metrics"], rel=1e-5, abs=1e-6)
    gradients = {f"agent {name}": p.grad for name, p in mac.agent.named_parameters()}
    if learner.mixer is not None:
        gradients |= {f"mixer {name}": p.grad for name, p in learner.mixer.named_parameters()}
    compare(expected, gradients, 1e-5)


@pytest.mark.parametrize("case", reference_case.PPO_CASES)
def test_ppo_after_several_epochs_is_upstreams(case: str) -> None:
    args, batch, logger, mac = parts(case)
    learner = PPOLearner(mac, batch.scheme, logger, args)
    for salt, module in (
        ("online agent ", mac.agent),
        ("online critic ", learner.critic),
        ("target critic ", learner.target_critic),
    ):
        module.load_state_dict(reference_case.fill_weights(module.state_dict(), salt))

    learner.train(batch, t_env=10, episode_num=1)

    expected = PPO_REFERENCE[case]
    metrics = {key: values[-1][1] for key, values in logger.stats.items() if key in expected["metrics"]}
    assert metrics == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-6)
    gradients = {f"agent {name}": p.grad for name, p in mac.agent.named_parameters()}
    gradients |= {f"critic {name}": p.grad for name, p in learner.critic.named_parameters()}
    compare(expected, gradients, 1e-4)  # Adam's steps between the epochs enlarge rounding
