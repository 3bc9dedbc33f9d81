"""A GRU over whole sequences, with its gradient written out: on a CPU nearly twice as fast as torch's nn.GRU.

Shapes: T steps, M sequences, I input width, H width. Gates in torch's order r, z, n:
    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)        h' = (1 - z) * n + z * h
torch's own loop makes some fifteen small tensors a step, and their gradients cost more than the arithmetic. Here the
recurrence is a compiled loop, and products that don't belong to it are made for all steps at once.
"""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn
from torch.autograd.function import once_differentiable

from modules import compiled
from modules.linear import linear, weight_gradient


class _Unroll(th.autograd.Function):
    """x (T, M, I) and the weights -> h (T, M, H), from h = 0; with `last` only that of the last step, (M, H)."""

    @staticmethod
    def forward(
        ctx: Any, x: th.Tensor, w_ih: th.Tensor, w_hh: th.Tensor, b_ih: th.Tensor, b_hh: th.Tensor, last: bool
    ) -> th.Tensor:
        n_steps, n_rows, width = x.shape[0], x.shape[1], w_hh.shape[1]
        bias = b_ih.clone()
        bias[: 2 * width] += b_hh[: 2 * width]
        gates = linear(x, w_ih, bias)  # (T, M, 3H), in the end r, z and n themselves
        new_h = x.new_empty(n_steps, n_rows, width)  # W_hn h + b_hn
        hs = x.new_empty(n_steps + 1, n_rows, width)
        hs[0] = 0
        operands = gates, w_hh.t().contiguous(), b_hh[2 * width :], new_h, hs
        compiled.gru_unroll(*(operand.numpy() for operand in operands))
        ctx.save_for_backward(x, w_ih, w_hh, gates, new_h, hs)
        ctx.last = last
        return hs[-1] if last else hs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: th.Tensor) -> tuple[th.Tensor | None, ...]:
        x, w_ih, w_hh, gates, new_h, hs = ctx.saved_tensors
        width = w_hh.shape[1]
        grad_h = grad_h.contiguous().unsqueeze(0) if ctx.last else grad_h.contiguous()
        at_hidden = th.empty_like(gates)  # gradient at W_h h + b_h, of all gates
        at_input = th.empty_like(new_h)  # gradient at W_in x + b_in; of the other gates it is the one above
        operands = gates, w_hh.contiguous(), new_h, hs, grad_h, at_hidden, at_input
        compiled.gru_gradient(*(operand.numpy() for operand in operands))
        flat = at_hidden.flatten(0, 1)
        grad_w_hh = weight_gradient(at_hidden[1:].flatten(0, 1), hs[1:-1].flatten(0, 1))  # h is 0 before the first step
        grad_b_hh = flat.sum(0)
        at_hidden[..., 2 * width :] = at_input
        grad_w_ih, grad_b_ih = weight_gradient(flat, x.flatten(0, 1)), flat.sum(0)
        grad_x = linear(at_hidden, w_ih.t()) if ctx.needs_input_grad[0] else None
        return grad_x, grad_w_ih, grad_w_hh, grad_b_ih, grad_b_hh, None


def unroll_gru(gru: nn.GRU, x: th.Tensor, last: bool = False) -> th.Tensor:
    """The hidden states (T, M, H) of a one-layer nn.GRU over x (T, M, I), from h = 0: gru(x)[0], on a CPU faster.

    last: only that of the last step, (M, H).
    """
    if compiled.runs(x):
        return _Unroll.apply(x, *gru.all_weights[0], last)
    return gru(x)[0][-1] if last else gru(x)[0]


def step_gru(gru: nn.GRU, x: th.Tensor, h: th.Tensor) -> th.Tensor:
    """One step of a one-layer nn.GRU: x (M, I), h (M, H) -> h (M, H)."""
    return th.gru_cell(x, h, *gru.all_weights[0])
