"""A GRU over whole sequences, with its gradient written out: on a CPU about twice as fast as torch's nn.GRU.

Shapes: T steps, M sequences, I input width, H width. Gates in torch's order r, z, n:
    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)        h' = (1 - z) * n + z * h
torch's own loop makes some fifteen small tensors a step, and their gradients cost more than the arithmetic. Here a
step's gates are computed in place, and what the gradient needs besides the recurrence is computed for a block of steps
at once: as many as the processor's cache holds.
"""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn
from torch.autograd.function import once_differentiable

from modules.activations import tanh_
from modules.linear import linear, pays, weight_gradient

BLOCK = 2**17  # values of one gate in a block of steps


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
        b_hn = b_hh[2 * width :]
        per_step = zip(
            gates[..., : 2 * width].unbind(),
            gates[..., :width].unbind(),
            gates[..., width : 2 * width].unbind(),
            gates[..., 2 * width :].unbind(),
            new_h.unbind(),
            hs[:-1].unbind(),
            hs[1:].unbind(),
            strict=True,
        )
        large, w_hh_t = pays(hs[0], 3 * width), w_hh.t()
        from_h = x.new_empty(n_rows, 3 * width)
        rz_from_h, n_from_h = from_h.split((2 * width, width), 1)
        for rz, r, z, n, new, h, h_next in per_step:
            if large:
                rz_from_h, n_from_h = linear(h, w_hh).split((2 * width, width), 1)
            else:  # small products cost as much as the calls around them
                th.mm(h, w_hh_t, out=from_h)
            rz.add_(rz_from_h).sigmoid_()
            th.add(n_from_h, b_hn, out=new)
            tanh_(n.addcmul_(r, new))
            th.lerp(n, h, z, out=h_next)
        ctx.save_for_backward(x, w_ih, w_hh, gates, new_h, hs)
        ctx.last = last
        return hs[-1] if last else hs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: th.Tensor) -> tuple[th.Tensor | None, ...]:
        x, w_ih, w_hh, gates, new_h, hs = ctx.saved_tensors
        n_steps, n_rows, width = new_h.shape
        at_hidden = th.empty_like(gates)  # gradient at W_h h + b_h, of all gates
        at_input = th.empty_like(new_h)  # gradient at W_in x + b_in; of the other gates it is the one above
        block = max(1, BLOCK // (n_rows * width))
        large = pays(at_hidden[0], width)
        back = w_hh.t().contiguous() if large else w_hh
        one = x.new_ones(())
        dh = grad_h if ctx.last else grad_h[-1]
        for stop in range(n_steps, 0, -block):
            steps = slice(max(0, stop - block), stop)
            # Each gradient is that at h' times a factor which is known beforehand.
            r, z, n = gates[steps].chunk(3, -1)
            factor_r, factor_z, factor_n = at_hidden[steps].chunk(3, -1)
            not_z = 1 - z
            through_n = th.addcmul(one, n, n, value=-1, out=at_input[steps]).mul_(not_z)
            th.mul(through_n, r, out=factor_n)
            th.mul(factor_n, 1 - r, out=factor_r).mul_(new_h[steps])
            th.sub(hs[steps], n, out=factor_z).mul_(z).mul_(not_z)
            hidden, by_gate = at_hidden[steps].unbind(), at_hidden[steps].unflatten(-1, (3, width)).unbind()
            inputs, through_z = at_input[steps].unbind(), z.unbind()
            for i in range(len(hidden) - 1, -1, -1):
                by_gate[i].mul_(dh.unsqueeze(1))
                inputs[i].mul_(dh)
                if (t := steps.start + i) > 0:
                    dh = dh * through_z[i] if ctx.last else th.addcmul(grad_h[t - 1], dh, through_z[i])
                    if large:
                        dh.add_(linear(hidden[i], back))
                    else:
                        dh.addmm_(hidden[i], back)
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
    if x.device.type != "cpu":
        return gru(x)[0][-1] if last else gru(x)[0]
    return _Unroll.apply(x, *gru.all_weights[0], last)


def step_gru(gru: nn.GRU, x: th.Tensor, h: th.Tensor) -> th.Tensor:
    """One step of a one-layer nn.GRU: x (M, I), h (M, H) -> h (M, H)."""
    return th.gru_cell(x, h, *gru.all_weights[0])
