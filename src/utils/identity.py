"""When two configurations are of the same run, and what tells them apart."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from utils.commands import flat
from utils.config import FILES
from utils.schema import as_today

# where, how and how often a run is recorded
RECORDING = {
    "label", "local_results_path", "log_interval", "runner_log_interval", "learner_log_interval",
    "checkpoint_interval", "keep_checkpoints", "keep_finished",
    "save_model", "save_model_interval", "record_checkpoint",
    "use_tensorboard", "use_wandb", "wandb_mode", "wandb_project", "wandb_team",
}  # fmt: skip
# Two runs that differ in nothing else are the same: an episode is the same in whichever process it is played.
NOT_LEARNT = RECORDING | {"env_workers", "env_timeout"}
# A seed, and threads and a GPU, which change the last digits, make another run, but no other curve.
NOT_COMPARED = NOT_LEARNT | {"seed", "render", "torch_threads", "use_cuda", "buffer_cpu_only"}


def differences(recorded: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    """How the recorded configuration differs from the planned one: "t_max is 1000, the plan has 2000"."""
    was, wanted = _as_json(recorded), _as_json(planned)
    return [
        f"{key} is {was[key]!r}, the plan has {wanted[key]!r}"
        if key in was and key in wanted
        else f"{key} is {was[key]!r}, the plan does not have it"
        if key in was
        else f"{key} is not there, the plan has {wanted[key]!r}"
        for key in _differing(was, wanted)
    ]


def changes(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of what `config` has and `other` has not, or otherwise, and what is learnt may depend on."""
    now, was = _as_json(config), _as_json(other)
    return {key: now[key] for key in _differing(was, now) if key in now}


def comparable(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys as they are called today; of a file of code beyond the checkout its name, wherever it lies."""
    for key, value in flat(as_today(config)):
        beyond = key in FILES and isinstance(value, str) and os.path.isabs(value)
        yield key, os.path.basename(value) if beyond else value


def _differing(was: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    missing = object()
    return [
        key
        for key in sorted(was.keys() | wanted.keys())
        if key.split(".")[0] not in NOT_LEARNT and was.get(key, missing) != wanted.get(key, missing)
    ]


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, as JSON knows the values."""
    return {key: json.loads(json.dumps(value, default=str)) for key, value in comparable(config)}
