"""ELU and tanh in one compiled pass on the CPU, equal to torch's to 2e-7; elsewhere they are torch's."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modules import compiled


def _each(loop: Any, *operands: Tensor, out: Tensor) -> Tensor:
    """`loop` over tensors of one shape."""
    loop(*(x.contiguous().view(-1).numpy() for x in operands), out.view(-1).numpy())
    return out


class _Activation(th.autograd.Function):
    """y by a loop over x, whose gradient is a loop over y and the gradient at it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loop: Any, gradient: Any) -> Tensor:
        y = _each(loop, x, out=_like(x))
        ctx.save_for_backward(y)
        ctx.gradient = gradient
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return _each(ctx.gradient, y, grad, out=_like(y)), None, None


def _like(x: Tensor) -> Tensor:
    return th.empty_like(x, memory_format=th.contiguous_format)


def elu(x: Tensor) -> Tensor:
    """ELU with alpha 1, as torch.nn.functional.elu."""
    if not compiled.runs(x):
        return F.elu(x)
    return _Activation.apply(x, compiled.elu_each, compiled.elu_each_gradient)


class ELU(nn.Module):
    """`elu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return elu(x)


def tanh(x: Tensor) -> Tensor:
    """As torch.tanh."""
    if not compiled.runs(x):
        return x.tanh()
    return _Activation.apply(x, compiled.tanh_each, compiled.tanh_each_gradient)
