"""Linear layers whose float32 products are compiled loops' on AMD's processors with AVX-512.

torch sends float32 products on the CPU to MKL, which takes AVX-512 on Intel's processors alone. The loops' (scipy's
OpenBLAS, in blocks that stay in the cache) take it on AMD's, too; the results agree to rounding. What that is worth
depends on the processor: a tenth on Zen 4, whose AVX-512 works in two halves (benchmarks/README.md). Elsewhere
(another processor, GPU, other types, small products) this is torch.nn.functional.linear. Not torch's oneDNN: it
compiles code for each new number of rows, of which episodes of all lengths make many.
"""

from __future__ import annotations

from typing import Any

import torch as th
from llvmlite.binding import get_host_cpu_name
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modules import compiled

MIN_WORK = 1_000_000  # multiplications of a product below which torch's is no slower
# whether torch's products leave half of the processor unused; LLVM calls AMD's znver4 and the like
SLOW_MKL = th.backends.cpu.get_cpu_capability() == "AVX512" and get_host_cpu_name().startswith("znver")


def pays(x: Tensor, width: int) -> bool:
    """Whether the loop is the faster one for a product of x (..., K) that has `width` columns."""
    return SLOW_MKL and x.dim() > 1 and compiled.runs(x) and x.numel() * width >= MIN_WORK


def _rows(x: Tensor) -> compiled.Array:
    """x (..., K) as rows (M, K)."""
    return x.detach().contiguous().view(-1, x.shape[-1]).numpy()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (K, O), bias (O,) -> (..., O)."""
    rows, columns = _rows(x), _rows(weight)
    if bias is not None:
        y = th.from_numpy(compiled.affine(rows, columns, bias.detach().contiguous().numpy()))
    else:
        y = x.new_empty(len(rows), weight.shape[1])
        compiled.product(rows, columns, y.numpy())
    return y.view(*x.shape[:-1], weight.shape[1])


class _Linear(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _product(grad, weight) if for_x else None,
            weight_gradient(rows, x.flatten(0, -2)) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x, the gradient of a layer's weight: grad (M, O), x (M, K) -> (O, K)."""
    if not pays(x, grad.shape[1]):
        return grad.t() @ x
    return th.from_numpy(compiled.product_gradient(_rows(grad), _rows(x)))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (O, K), bias (O,) -> (..., O)."""
    if not pays(x, weight.shape[0]):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if th.is_grad_enabled() else _product(x, weight.t(), bias)


class Linear(nn.Linear):
    """nn.Linear with the product above; its parameters and their initialisation are the same."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
