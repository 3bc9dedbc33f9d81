"""What stands between a gradient that is no number and the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch as th

PATIENCE = 10  # updates in a row that are left out before the run stops


class NonFiniteError(RuntimeError):
    """Losses or gradients were no finite numbers, too often in a row; the message names them."""


class UpdateGuard:
    """Whether an update may be taken: its losses and the norms of its gradients are finite numbers.

    One that may not is left out, which leaves weights, optimiser and targets as they are. `skipped` counts them. A
    learner asks before its optimiser's step; the price is one number read from the device.
    """

    def __init__(self, log: Any = None, patience: int = PATIENCE) -> None:
        self.log, self.patience = log, patience
        self.skipped = self.in_a_row = 0

    def __call__(self, losses: Mapping[str, th.Tensor], norms: Mapping[str, th.Tensor]) -> bool:
        """Tensors of one element by name. Raises NonFiniteError after `patience` refusals in a row."""
        if math.isfinite(sum(x.detach() for x in (*losses.values(), *norms.values())).item()):  # type: ignore[union-attr]
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        wrong = [f"the loss {name}" for name, loss in losses.items() if not loss.isfinite()]
        wrong += [f"the gradient of {name}" for name, norm in norms.items() if not norm.isfinite()]
        said = f"{', '.join(wrong) or 'the sum of all losses'}: no finite number"
        if self.in_a_row >= self.patience:
            raise NonFiniteError(
                f"{said}, in {self.in_a_row} updates in a row; lr, grad_norm_clip and rewards are suspects"
            )
        if self.log is not None:
            self.log.warning("an update is left out, %d so far: %s", self.skipped, said)
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])
