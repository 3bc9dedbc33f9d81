"""Writes tests/learners/data/upstream_q_learner.json and upstream_ppo_learner.json: what an EPyMARL checkout's own
learners make of the inputs of tests/support/reference_case.py.

    EPYMARL_PATH=/path/to/epymarl python tests/tools/upstream_reference.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch as th

TESTS = Path(__file__).parents[1]
UPSTREAM = Path(os.environ["EPYMARL_PATH"])
sys.path[:0] = [str(UPSTREAM / "src"), str(TESTS)]
sys.modules["smaclite"] = types.ModuleType("smaclite")  # imported by upstream, on no package registry

from support import reference_case  # noqa: E402

from components.episode_buffer import EpisodeBatch  # noqa: E402
from components.transforms import OneHot  # noqa: E402
from controllers import REGISTRY as MACS  # noqa: E402
from learners.ppo_learner import PPOLearner  # noqa: E402
from learners.q_learner import QLearner  # noqa: E402

# Upstream's names of parameters -> ours, applied in this order
RENAMED = (
    ("hyper_w_1", "weights_in"),
    ("hyper_w_final", "weights_out"),
    ("hyper_b_1", "bias_in"),
    ("V.", "value."),
    ("agents.", "members."),
    ("weight_ih", "weight_ih_l0"),
    ("weight_hh", "weight_hh_l0"),
    ("bias_ih", "bias_ih_l0"),
    ("bias_hh", "bias_hh_l0"),
)
CRITIC_RENAMED = {"fc1": "members.0.0", "fc2": "members.0.2", "fc3": "members.0.4"}


def our_name(name: str, shared_agent: bool | None) -> str:
    """`shared_agent`: None for a critic."""
    if shared_agent is None:
        layer, _, rest = name.partition(".")
        return f"{CRITIC_RENAMED[layer]}.{rest}"
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return f"members.0.{name}" if shared_agent else name


def set_weights(module: th.nn.Module, salt: str, shared_agent: bool | None) -> None:
    state = module.state_dict()
    names = {our_name(key, shared_agent): key for key in state}
    filled = reference_case.fill_weights({ours: state[theirs] for ours, theirs in names.items()}, salt)
    module.load_state_dict({names[ours]: value for ours, value in filled.items()})


class Notes:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def log_stat(self, key: str, value: float, t: int) -> None:
        self.values[key] = float(value)


def reference(case: str) -> dict[str, object]:
    args = reference_case.args_of(case)
    shared = args.agent == "rnn"
    scheme = {
        "state": {"vshape": args.state_shape},
        "obs": {"vshape": args.obs_shape, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": th.long},
        "avail_actions": {"vshape": (args.n_actions,), "group": "agents", "dtype": th.int},
        "reward": {"vshape": (1 if args.common_reward else args.n_agents,)},
        "terminated": {"vshape": (1,), "dtype": th.uint8},
    }
    one_hot = {"actions": ("actions_onehot", [OneHot(out_dim=args.n_actions)])}
    groups = {"agents": args.n_agents}
    batch = EpisodeBatch(scheme, groups, reference_case.N_EPISODES, reference_case.N_STEPS, preprocess=one_hot)
    fields = {key: th.tensor(value) for key, value in reference_case.fields(args).items()}
    filled = fields.pop("filled")
    batch.update({key: value.to(batch[key].dtype) for key, value in fields.items()})
    batch.data.transition_data["filled"] = filled.long()

    mac = MACS["basic_mac" if shared else "non_shared_mac"](batch.scheme, groups, args)
    notes = Notes()
    if case in reference_case.PPO_CASES:
        learner = PPOLearner(mac, batch.scheme, notes, args)
        set_weights(mac.agent, "online agent ", shared)
        set_weights(learner.old_mac.agent, "online agent ", shared)
        set_weights(learner.critic, "online critic ", None)
        set_weights(learner.target_critic, "target critic ", None)
        parts = {"agent": (mac.agent, shared), "critic": (learner.critic, None)}
    else:
        learner = QLearner(mac, batch.scheme, notes, args)
        for salt, agent, mixer in (
            ("online ", mac.agent, learner.mixer),
            ("target ", learner.target_mac.agent, learner.target_mixer if learner.mixer is not None else None),
        ):
            set_weights(agent, salt + "agent ", shared)
            if mixer is not None:
                set_weights(mixer, salt + "mixer ", False)
        parts = {"agent": (mac.agent, shared), "mixer": (learner.mixer, False)}
    learner.train(batch, t_env=10, episode_num=1)

    gradients = {}
    for part, (module, kind) in parts.items():
        for name, parameter in module.named_parameters() if module is not None else ():
            ours = our_name(name, kind)
            gradient = parameter.grad.double().flatten().numpy()
            first = [round(float(x), 9) for x in gradient[:8]]
            gradients[f"{part} {ours}"] = {"norm": float(np.linalg.norm(gradient)), "first": first}
    return {"metrics": notes.values, "gradients": gradients}


if __name__ == "__main__":
    commit = subprocess.run(["git", "-C", UPSTREAM, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    for name, cases in (
        ("upstream_q_learner.json", reference_case.CASES),
        ("upstream_ppo_learner.json", reference_case.PPO_CASES),
    ):
        result = {
            "source": "github.com/uoe-agents/epymarl",
            "commit": commit.stdout.strip(),
            "command": "EPYMARL_PATH=... python tests/tools/upstream_reference.py",
            "torch": th.__version__,
            "cases": {case: reference(case) for case in cases},
        }
        target = TESTS / "learners" / "data" / name
        target.parent.mkdir(exist_ok=True)
        text = re.sub(r"\[[^\]]*\]", lambda found: " ".join(found[0].split()), json.dumps(result, indent=1))
        target.write_text(text + "\n")
        print(f"{target}: {len(cases)} cases")
