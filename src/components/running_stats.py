"""Mean and variance of a stream of values, merged exactly, whatever the size of the pieces."""

from __future__ import annotations

from typing import Any

import torch as th

_SMALLEST_STD = 1e-6  # values that have all been equal are left at zero instead of divided by zero


class RunningStats:
    """Mean and (population) variance over everything ever passed to `update`, in float64.

    Before the first value: mean 0 and variance 1, so that normalise and denormalise change nothing.
    """

    def __init__(self, shape: tuple[int, ...] = (), device: str = "cpu") -> None:
        self.shape = tuple(shape)
        self.count = 0
        self.mean = th.zeros(self.shape, dtype=th.float64, device=device)
        self._squares = th.zeros_like(self.mean)  # sum of squared distances from the mean

    @property
    def var(self) -> th.Tensor:
        return self._squares / self.count if self.count else th.ones_like(self.mean)

    @property
    def std(self) -> th.Tensor:
        return self.var.sqrt().clamp(min=_SMALLEST_STD)

    def update(self, values: th.Tensor, mask: th.Tensor | None = None) -> None:
        """Adds values (..., *shape); with a mask of the leading shape (trailing ones allowed) only where it is set.

        Values that are not all finite are left out: they would be in the mean for ever.
        """
        rows = values.detach().to(self.mean).reshape(-1, *self.shape)
        if mask is not None:
            if mask.numel() != len(rows):
                raise ValueError(f"mask {tuple(mask.shape)} does not fit values {tuple(values.shape)}")
            rows = rows[mask.reshape(-1).bool()]
        n = len(rows)
        if n == 0:
            return
        mean = rows.mean(0)
        if not mean.isfinite().all():
            return
        delta = mean - self.mean
        total = self.count + n
        self._squares += (rows - mean).square().sum(0) + delta.square() * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def normalise(self, values: th.Tensor) -> th.Tensor:
        return (values - self.mean.to(values.dtype)) / self.std.to(values.dtype)

    def denormalise(self, values: th.Tensor) -> th.Tensor:
        return values * self.std.to(values.dtype) + self.mean.to(values.dtype)

    def to(self, device: str) -> RunningStats:
        self.mean, self._squares = self.mean.to(device), self._squares.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean.clone(), "squares": self._squares.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])
        self.mean.copy_(state["mean"])
        self._squares.copy_(state["squares"])
