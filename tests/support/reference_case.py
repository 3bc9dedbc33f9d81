"""Inputs of the comparison with upstream's learners, made from integers alone so that they never change."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th

N_EPISODES, N_STEPS = 4, 7
LENGTHS = (6, 4, 2, 1)  # transitions; the first ends at the time limit, the others are terminated and padded
SIZES = {"n_agents": 3, "n_actions": 5, "obs_shape": 6, "state_shape": 8}
SETTINGS: dict[str, Any] = {
    "agent": "rnn",
    "use_rnn": True,
    "hidden_dim": 16,
    "obs_agent_id": True,
    "obs_last_action": False,
    "agent_output_type": "q",
    "mixer": None,
    "mixing_embed_dim": 8,
    "hypernet_layers": 2,
    "hypernet_embed": 12,
    "double_q": True,
    "gamma": 0.95,
    "lr": 0.001,
    "grad_norm_clip": 1e9,
    "td_lambda": 0.0,
    "standardise_rewards": False,
    "standardise_returns": False,
    "target_update_interval_or_tau": 200,
    "learner_log_interval": 1,
    "action_selector": "epsilon_greedy",
    "epsilon_start": 1.0,
    "epsilon_finish": 0.05,
    "epsilon_anneal_time": 1000,
    "evaluation_epsilon": 0.0,
    "test_greedy": True,
    "common_reward": True,
    "use_cuda": False,
    "device": "cpu",
}
CASES: dict[str, dict[str, Any]] = {
    "iql": {},
    "iql, individual rewards": {"common_reward": False},
    "vdn": {"mixer": "vdn"},
    "vdn, own parameters": {"mixer": "vdn", "agent": "rnn_ns"},
    "qmix": {"mixer": "qmix"},
    "qmix, feed-forward, last action": {"mixer": "qmix", "use_rnn": False, "obs_last_action": True},
    "qmix, single q, one hypernet layer": {"mixer": "qmix", "double_q": False, "hypernet_layers": 1},
}
PPO_SETTINGS: dict[str, Any] = {
    "agent_output_type": "pi_logits",
    "action_selector": "soft_policies",
    "mask_before_softmax": True,
    "obs_individual_obs": False,
    "critic_type": "cv_critic",
    "q_nstep": 3,
    "epochs": 3,
    "eps_clip": 0.1,
    "entropy_coef": 0.05,
    "lr": 0.01,
    "target_update_interval_or_tau": 0.01,
    # Upstream's n-step returns are right for full-length episodes only, cut off (True) or terminated (False) there.
    "add_value_last_step": True,
}
PPO_CASES: dict[str, dict[str, Any]] = {
    "mappo, cut off": {},
    "mappo, terminated": {"add_value_last_step": False},
    "mappo, all observations, last action, feed-forward": {
        "obs_individual_obs": True,
        "obs_last_action": True,
        "use_rnn": False,
    },
    "mappo, individual rewards, one-step returns": {"common_reward": False, "q_nstep": 1},
    "ippo, last action, terminated": {
        "critic_type": "ac_critic",
        "obs_last_action": True,
        "add_value_last_step": False,
    },
    "ippo, own parameters": {"critic_type": "ac_critic", "agent": "rnn_ns"},
    "maa2c": {"epochs": 1},
}


def args_of(case: str) -> SimpleNamespace:
    if case in PPO_CASES:
        return SimpleNamespace(**(SETTINGS | PPO_SETTINGS | SIZES | PPO_CASES[case]))
    return SimpleNamespace(**(SETTINGS | SIZES | CASES[case]))


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1) that depend on the name and the place only: a hash of the place, in integer arithmetic."""
    places = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        places = (places ^ (places >> np.uint64(shift))) * np.uint64(factor)
    places ^= places >> np.uint64(31)
    return ((places >> np.uint64(40)).astype(np.float64) / 2.0**24).reshape(shape)


def fill_weights(state: dict[str, th.Tensor], salt: str) -> dict[str, th.Tensor]:
    """Weights for a state_dict, by its names and shapes."""
    return {key: th.tensor(uniform(salt + key, tuple(v.shape)) - 0.5, dtype=th.float32) for key, v in state.items()}


def fields(args: SimpleNamespace) -> dict[str, np.ndarray]:
    """The batch as arrays (B, T, ...). Padded steps hold numbers too: they must not matter."""
    lead = (N_EPISODES, N_STEPS)
    agents = (*lead, args.n_agents)
    avail = uniform("avail", (*agents, args.n_actions)) < 0.7
    avail[..., 0] = True
    actions = (uniform("actions", (*agents, args.n_actions)) * avail).argmax(-1)[..., None]
    terminated = np.zeros((*lead, 1), bool)
    filled = np.zeros((*lead, 1), bool)
    full = [(N_STEPS - 1, not getattr(args, "add_value_last_step", True))] * N_EPISODES
    ends = full if hasattr(args, "critic_type") else [(length, b > 0) for b, length in enumerate(LENGTHS)]
    for b, (length, end) in enumerate(ends):
        filled[b, : length + 1] = True
        terminated[b, length - 1] = end
    n_rewards = 1 if args.common_reward else args.n_agents
    return {
        "state": 2 * uniform("state", (*lead, args.state_shape)) - 1,
        "obs": 2 * uniform("obs", (*agents, args.obs_shape)) - 1,
        "actions": actions,
        "avail_actions": avail,
        "reward": 4 * uniform("reward", (*lead, n_rewards)) - 2,
        "terminated": terminated,
        "filled": filled,
    }
