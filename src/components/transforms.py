"""Fields of a batch that are computed from another field when they are read."""

from __future__ import annotations

from typing import Protocol

import torch as th


class Transform(Protocol):
    def transform(self, tensor: th.Tensor) -> th.Tensor: ...

    def infer_output_info(self, vshape: tuple[int, ...], dtype: th.dtype) -> tuple[tuple[int, ...], th.dtype]: ...


class OneHot:
    """Indices (..., 1) of any integer dtype -> float32 (..., out_dim)."""

    def __init__(self, out_dim: int) -> None:
        self.out_dim = out_dim

    def transform(self, tensor: th.Tensor) -> th.Tensor:
        rows = th.zeros(*tensor.shape[:-1], self.out_dim, device=tensor.device)
        return rows.scatter_(-1, tensor.long(), 1.0)

    def infer_output_info(self, vshape: tuple[int, ...], dtype: th.dtype) -> tuple[tuple[int, ...], th.dtype]:
        return (self.out_dim,), th.float32
