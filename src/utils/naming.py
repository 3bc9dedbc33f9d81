"""What runs are called: algorithm, task, simulator, and what tells variants of them apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from envs import ARGS, BUILT_IN, simulator_suffix
from utils.commands import flat
from utils.schema import as_today

NAMED_ELSEWHERE = {"map_name", "key", "backend"}  # of env_args: in a task's name, and in that of its simulator
REWARD = {"common_reward": True, "reward_scalarisation": "sum"}  # whose it is, and what else it may be made of


def algorithm_of(config: Mapping[str, Any]) -> str:
    """What a run's algorithm is called: the label, or the name where there is none (upstream: "default_label")."""
    label = config.get("label")
    return str(config["name"] if label in (None, "", "default_label") else label)


def task_name(config: Mapping[str, Any]) -> str:
    """What the run is about, within its environment: the map or the key, else the environment's name."""
    env_args = config.get("env_args") or {}
    return str(env_args.get("map_name") or env_args.get("key") or config.get("env", ""))


def task_of(config: Mapping[str, Any], backend: str = "") -> str:
    """What folders of results are called: the task, and "-SMAX" where that simulator stands in for StarCraft II.

    backend: what a recorded run was simulated by; "" for a run to come on this machine.
    """
    return task_name(config) + simulator_suffix(config, backend)


def task_folder(task: str) -> str:
    """What the folder of a task's runs is called: its name, without what no folder's name should have in it."""
    return re.sub(r"[^\w.:+\-]|^\.+", "_", task)


def backend_note(backend: str) -> str:
    """The backend as lines, tables and titles name it: SMAX looks like StarCraft II and is not."""
    said = "smax" not in backend.lower() or "not StarCraft II" in backend
    return backend if said else f"{backend}, not StarCraft II"


def variant_of(config: Mapping[str, Any]) -> str:
    """What is not at its default of the keys of one of our environments, as " env_args.time_limit=25": it makes another
    task of the same name. "" where all are, or nothing is known of the environment's.
    """
    env, args = str(config.get("env")), as_today(config).get("env_args")
    fields = ARGS[env].model_fields if env in BUILT_IN else {}
    known = {key: field.get_default() for key, field in fields.items() if key not in NAMED_ELSEWHERE}
    own = args if isinstance(args, Mapping) else {}
    unusual = {key: own[key] for key in own.keys() & known.keys() if shown(own[key]) != shown(known[key])}
    rewards = {key: config[key] for key, usual in REWARD.items() if config.get(key, usual) != usual}
    return suffix(dict(flat(unusual, "env_args.")) | rewards)


def suffix(values: Mapping[str, Any]) -> str:
    """ " key=value" for each, in the order of their names."""
    return "".join(f" {key}={shown(values[key])}" for key in sorted(values))


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
