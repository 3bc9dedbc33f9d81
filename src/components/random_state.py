"""The global random generators of a process, as a state that can be saved."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th


class RandomState:
    """Python's, numpy's, torch's, and those of the GPUs that there are. JAX has none: its keys are made from seeds."""

    def state_dict(self) -> dict[str, Any]:
        version, numbers, gauss = random.getstate()
        state: Any = np.random.get_state(legacy=False)
        return {
            "python": [version, list(numbers), gauss],
            "numpy": {**state, "state": {**state["state"], "key": state["state"]["key"].tolist()}},
            "torch": th.get_rng_state(),
            "cuda": th.cuda.get_rng_state_all() if th.cuda.is_initialized() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """GPUs beyond those of the saved state, or of this machine, are left as they are."""
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        words = state["numpy"]["state"]
        np.random.set_state({**state["numpy"], "state": {**words, "key": np.array(words["key"], np.uint32)}})
        th.set_rng_state(state["torch"])
        for device, numbers in enumerate(state["cuda"][: th.cuda.device_count()]):
            th.cuda.set_rng_state(numbers, device)
