"""Linear layers whose float32 products on the CPU are oneDNN's.

torch sends float32 products on x86 to MKL, which takes its AVX2 path on AMD processors. oneDNN, which is part of the
same torch, takes AVX-512 where the processor has it and then is about twice as fast; the results agree to rounding.
Elsewhere (a processor without AVX-512, where MKL's calls cost less; GPU, other types, small products, a torch without
the operator) this is torch.nn.functional.linear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

MIN_WORK = 1_000_000  # multiplications of a product below which the call, some 10 us, costs more than it saves


def _find_onednn() -> Any:
    """torch's operator, or None where this torch has none or another; it has no public name, so it is tried once."""
    try:
        operator = th.ops.mkldnn._linear_pointwise
        operator(th.ones(2, 3), th.ones(4, 3), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return operator


_onednn = _find_onednn() if th.backends.cpu.get_cpu_capability() == "AVX512" else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (O, K) -> (..., O). Operands are contiguous or transposed: others take slow reference code."""
    assert _onednn is not None
    return _onednn(x, weight, bias, "none", [], "")


def pays(x: Tensor, width: int) -> bool:
    """Whether oneDNN is the faster one for a product of x (..., K) that has `width` columns."""
    return _onednn is not None and x.numel() * width >= MIN_WORK and not x.is_cuda and x.dtype == th.float32


class _Linear(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        rows = grad.flatten(0, -2)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if for_x else None,
            weight_gradient(rows, x.flatten(0, -2)) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x, the gradient of a layer's weight: grad (M, O), x (M, K) -> (O, K)."""
    if not pays(x, grad.shape[1]):
        return grad.t() @ x
    # numpy's: oneDNN would copy an operand that is transposed
    return th.from_numpy(np.matmul(x.numpy().T, grad.numpy())).t()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (O, K), bias (O,) -> (..., O)."""
    if not pays(x, weight.shape[0]):
        return F.linear(x, weight, bias)
    product = _Linear.apply if th.is_grad_enabled() else _product
    return product(x.contiguous(), weight.contiguous(), bias)


class Linear(nn.Linear):
    """nn.Linear with the product above; its parameters and their initialisation are the same."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
