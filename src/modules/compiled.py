"""Loops over float32 numbers, compiled by numba for the processor they run on. They don't hold Python's lock.

torch and numpy walk through memory once for each operation, and take 0.6 to 3 ns a value for an exponential; here
what is done to a value is done in one pass, with an exponential of some 0.2 ns (one AVX-512 core). Results equal
torch's to 2e-7. Arrays are contiguous, weights also transposed; others work, but are compiled anew and slower.

Shapes: T steps, M rows, H width of a GRU.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  # numba's products are scipy's: to be there when their threads are limited
import torch as th
from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")  # numpy's and scipy's products are small here: their threads would only wait

Array = np.ndarray[Any, np.dtype[Any]]
F = TypeVar("F", bound=Callable[..., Any])

_HERE = Path(__file__)


def _cache_folder(named: str) -> str:
    """Where compiled loops are kept: in the folder named by NUMBA_CACHE_DIR, else beside this file, else in ~/.cache.

    A loop of another file contains functions of this one, but numba compiles it anew only when its own file changes:
    hence a folder for each state of this file. "" where nothing can be written to.
    """
    state = hashlib.sha256(_HERE.read_bytes()).hexdigest()[:16]
    for place in (named, _HERE.parent / "__pycache__", Path("~/.cache/epymarl-mmsa").expanduser()):
        if place:
            folder = Path(place, state)
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                if os.access(folder, os.W_OK):
                    return str(folder)
    return ""


_CONFIG: Any = numba.config
_CONFIG.CACHE_DIR = _cache_folder(_CONFIG.CACHE_DIR)
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},  # sums in any order; NaN and infinity stay what they are
}


def loop(f: F) -> F:
    """Compiles f at its first call, and keeps the result for later processes."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(f)
    except RuntimeError:  # no folder that can be written to
        return numba.njit(**_OPTIONS)(f)


_of_a_number: Any = numba.njit(error_model="numpy", fastmath={"contract"})  # part of the loops; its terms stay in order


def runs(x: th.Tensor) -> bool:
    """Whether these loops can take x."""
    return x.dtype == th.float32 and x.device.type == "cpu"


_0, _1, _2 = np.float32(0), np.float32(1), np.float32(2)
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST, _MOST, _HALF = np.float32(-87.0), np.float32(88.0), np.float32(0.5)
_C3, _C4, _C5, _C6 = (np.float32(1 / n) for n in (6, 24, 120, 720))  # 1 / n! of the exponential's series
_BIAS, _UNIT = np.float32(127), np.float32(2**23)  # of a float32's exponent


@_of_a_number
def exp(x: Any) -> Any:
    """e^x = 2^k e^r with |r| <= ln 2 / 2, to 3e-7 of its value; x counts as at least -87 and at most 88."""
    x = _LEAST if x < _LEAST else (_MOST if x > _MOST else x)
    k = np.floor(x * _LOG2E + _HALF)
    r = x - k * _LN2_HIGH - k * _LN2_LOW
    series = _1 + r * (_1 + r * (_HALF + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    return series * np.int32((k + _BIAS) * _UNIT).view(np.float32)


@_of_a_number
def elu(x: Any) -> Any:
    return x if x > _0 else exp(x) - _1


@_of_a_number
def sigmoid(x: Any) -> Any:
    return _1 / (_1 + exp(-x))


@_of_a_number
def tanh(x: Any) -> Any:
    return _2 * sigmoid(_2 * x) - _1


@loop
def elu_each(x: Array, out: Array) -> None:
    """ELU of flat x."""
    for i in range(x.size):
        out[i] = elu(x[i])


@loop
def elu_each_gradient(y: Array, grad: Array, out: Array) -> None:
    """grad times ELU's derivative where its value is y: y + 1 = e^x below 0, else 1."""
    for i in range(y.size):
        out[i] = grad[i] if y[i] > _0 else grad[i] * (y[i] + _1)


@loop
def tanh_each(x: Array, out: Array) -> None:
    """tanh of flat x."""
    for i in range(x.size):
        out[i] = tanh(x[i])


@loop
def tanh_each_gradient(y: Array, grad: Array, out: Array) -> None:
    """grad times tanh's derivative where its value is y."""
    for i in range(y.size):
        out[i] = grad[i] * (_1 - y[i] * y[i])


SMALL = 1_000_000  # multiplications of a product up to which OpenBLAS, scipy's, works without copies of its operands


@_of_a_number
def block(inner: Any, outer: Any) -> Any:
    """How many rows of `inner` numbers to multiply at once by a matrix of `outer` columns."""
    return max(1, min(128, SMALL // (inner * outer)))


@loop
def product(x: Array, w: Array, out: Array) -> None:
    """Writes x w: x (M, I), w (I, O), out (M, O)."""
    size = block(*w.shape)
    for start in range(0, len(x), size):
        np.dot(x[start : start + size], w, out[start : start + size])


@loop
def product_gradient(x: Array, grad: Array) -> Array:
    """x^T grad, the gradient at w of `product` from that at its value: x (M, I), grad (M, O) -> (I, O)."""
    at_w = np.zeros((x.shape[1], grad.shape[1]), np.float32)
    part = np.empty_like(at_w)
    size = block(*at_w.shape)
    for start in range(0, len(x), size):
        np.dot(x[start : start + size].T, grad[start : start + size], part)
        at_w += part
    return at_w


@loop
def gru_gates(gate: Array, added: Array, b_hn: Array, new: Array, h: Array, next_h: Array) -> None:
    """One row's step; the equations are gru.py's.

    gate (3H,): on entry W_i x and the biases, of n without b_hn; on return r, z and n. added (3H,): W_h h.
    b_hn, h (H,). Written: new (H,), W_hn h + b_hn; next_h (H,).
    """
    width = len(h)
    for i in range(2 * width):
        gate[i] = sigmoid(gate[i] + added[i])
    for i in range(width):
        new[i] = added[2 * width + i] + b_hn[i]
        n = tanh(gate[2 * width + i] + gate[i] * new[i])
        gate[2 * width + i] = n
        next_h[i] = n + gate[width + i] * (h[i] - n)


@loop
def gru_unroll(gates: Array, w_hh: Array, b_hn: Array, new_h: Array, hs: Array) -> None:
    """A GRU's steps from hs[0], each by `gru_gates`.

    gates (T, M, 3H), w_hh (H, 3H) transposed, b_hn (H,), new_h (T, M, H), hs (T+1, M, H).
    """
    n_steps, n_rows, width = new_h.shape
    from_h = np.empty((n_rows, 3 * width), np.float32)
    for t in range(n_steps):
        product(hs[t], w_hh, from_h)
        for m in range(n_rows):
            gru_gates(gates[t, m], from_h[m], b_hn, new_h[t, m], hs[t, m], hs[t + 1, m])


@loop
def gru_gradient(
    gates: Array, w_hh: Array, new_h: Array, hs: Array, grad: Array, at_hidden: Array, at_input: Array
) -> None:
    """The gradient of `gru_unroll` at its gates.

    gates, new_h, hs: as it left them. w_hh (3H, H): not transposed. grad: at hs[1:], (T, M, H), or at the last alone,
    (1, M, H). Written: at_hidden (T, M, 3H), at W_h h + b_h; at_input (T, M, H), at W_in x + b_in.
    """
    n_steps, n_rows, width = new_h.shape
    at_h, through = grad[-1].copy(), np.empty((n_rows, width), np.float32)
    for t in range(n_steps - 1, -1, -1):
        for m in range(n_rows):
            gate, new, h, d = gates[t, m], new_h[t, m], hs[t, m], at_h[m]
            to_hidden, to_input = at_hidden[t, m], at_input[t, m]
            for i in range(width):
                r, z, n = gate[i], gate[width + i], gate[2 * width + i]
                at_n = d[i] * (_1 - z) * (_1 - n * n)
                to_hidden[i] = at_n * new[i] * r * (_1 - r)
                to_hidden[width + i] = d[i] * (h[i] - n) * z * (_1 - z)
                to_hidden[2 * width + i] = at_n * r
                to_input[i] = at_n
                d[i] *= z
        if t > 0:
            product(at_hidden[t], w_hh, through)
            at_h += through
            if len(grad) > 1:
                at_h += grad[t - 1]


@loop
def gru_step(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    """One step of M rows: x (M, I), h (M, H), weights transposed -> next h (M, H)."""
    n_rows, width = h.shape
    gates, from_h = np.dot(x, w_ih), np.dot(h, w_hh)
    new, next_h, both = np.empty(width, np.float32), np.empty((n_rows, width), np.float32), b_ih.copy()
    both[: 2 * width] += b_hh[: 2 * width]
    for m in range(n_rows):
        gate = gates[m]
        for i in range(3 * width):
            gate[i] += both[i]
        gru_gates(gate, from_h[m], b_hh[2 * width :], new, h[m], next_h[m])
    return next_h


@loop
def affine(x: Array, w: Array, b: Array) -> Array:
    """x (M, I), w (I, O), b (O,) -> x w + b (M, O)."""
    y = np.empty((len(x), len(b)), np.float32)
    size = block(*w.shape)
    for start in range(0, len(x), size):
        rows = y[start : start + size]
        np.dot(x[start : start + size], w, rows)
        for m in range(len(rows)):
            row = rows[m]
            for i in range(len(b)):
                row[i] += b[i]
    return y


@loop
def affine_relu(x: Array, w: Array, b: Array) -> Array:
    """ReLU of `affine`."""
    y = np.dot(x, w)
    for m in range(len(y)):
        row = y[m]
        for i in range(len(b)):
            row[i] = max(row[i] + b[i], _0)
    return y


@loop
def affine_elu(x: Array, w: Array, b: Array) -> Array:
    """ELU of `affine`."""
    y = np.dot(x, w)
    for m in range(len(y)):
        row = y[m]
        for i in range(len(b)):
            row[i] = elu(row[i] + b[i])
    return y
