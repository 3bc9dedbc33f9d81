"""What stands between a gradient that is no number and the weights, in a host that has nothing of the kind."""

from __future__ import annotations

import logging

import torch as th
from torch import Tensor

log = logging.getLogger(__name__)
PATIENCE = 10  # updates in a row that are left out before the run ends


class Guard:
    """Whether an update may be taken: losses, the norms of its gradients and their sum are finite numbers.

    Called with both by name. RuntimeError when PATIENCE updates in a row were refused: it would go on so to the end.
    """

    def __init__(self) -> None:
        self.in_a_row = 0

    def __call__(self, losses: dict[str, Tensor], norms: dict[str, Tensor]) -> bool:
        # A sum, since on a GPU the norm of parameters without a gradient is still the CPU's.
        if sum((*losses.values(), *norms.values()), th.zeros(())).isfinite():
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        wrong = ", ".join(name for name, loss in losses.items() if not loss.isfinite())
        gradients = ", ".join(name for name, norm in norms.items() if not norm.isfinite())
        wrong = wrong or (f"gradient of {gradients}" if gradients else "the sum of all losses and norms")
        said = f"no finite number in an update, which is left out: {wrong}"
        if self.in_a_row == PATIENCE:
            raise RuntimeError(f"{said}; the same in {PATIENCE} in a row; lr, grad_norm_clip and rewards are suspects")
        log.warning("%s", said)
        return False
