"""MMSA's own compiled loops, for the CPU of the embedded host: AvgL1Norm, and a head's values of every action.

The equations are `sale.avg_l1_norm`'s and `agent.Head`'s. Without the host's compiled loops these are None.
Shapes: M rows, D their width, A actions, F features of g.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels import compiled

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK = 32  # rows that go through all layers at once, at most: what lies between two layers stays in the cache
EPS = np.float32(1e-8)  # the least mean that AvgL1Norm divides by
_1 = np.float32(1)


def _norm(x: Array, out: Array) -> None:
    """AvgL1Norm of the rows of x (M, D), which may be out."""
    for m in range(len(x)):
        row, to = x[m], out[m]
        size = np.float32(0)
        for i in range(len(row)):
            size += abs(row[i])
        scale = _1 / max(size / np.float32(len(row)), EPS)
        for i in range(len(row)):
            to[i] = row[i] * scale


def _norm_gradient(x: Array, grad: Array, out: Array) -> None:
    """The gradient of AvgL1Norm at x, from grad at its value: with a = mean|x|, g / a - sign(x) mean(g x) / a^2."""
    for m in range(len(x)):
        row, at_value, to = x[m], grad[m], out[m]
        size, moment, width = np.float32(0), np.float32(0), np.float32(len(row))
        for i in range(len(row)):
            size += abs(row[i])
            moment += at_value[i] * row[i]
        scale = _1 / max(size / width, EPS)
        moment = moment / width * scale * scale if size / width >= EPS else np.float32(0)
        for i in range(len(row)):
            to[i] = at_value[i] * scale - (moment if row[i] > 0 else (-moment if row[i] < 0 else np.float32(0)))


def _every_value(
    h: Array, zs: Array, normalise: bool, from_h: Array, h_bias: Array, from_zs: Array, zs_bias: Array, from_phi: Array,
    action: Array, mid: Array, mid_bias: Array, out: Array, offset: Array, q2: Array, q2_bias: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """h (M, H), zs (M, Z), whether phi is normalised, and a head's `Folded` -> Q (M, A), and g's features (M, A, F)."""
    n_rows, (n_actions, n_features), width = len(h), action.shape, len(q2)
    q, features = np.empty((n_rows, n_actions), np.float32), np.empty((n_rows * n_actions, n_features), np.float32)
    size = max(1, min(BLOCK, small // (n_features * max(n_features, width) * n_actions)))
    of_h = np.empty((size, n_actions + width), np.float32)
    of_zs = np.empty((size, n_features + width), np.float32)
    phi, state = np.empty((size, width), np.float32), np.empty((size, width), np.float32)
    first = np.empty((size * n_actions, n_features), np.float32)
    last = np.empty((size * n_actions, width), np.float32)
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        n = stop - start
        np.dot(h[start:stop], from_h, of_h[:n])
        np.dot(zs[start:stop], from_zs, of_zs[:n])
        for m in range(n):
            row, to = of_h[m, n_actions:], phi[m]
            for i in range(width):
                to[i] = row[i] + h_bias[n_actions + i]
        if normalise:
            norm(phi[:n], phi[:n])
        np.dot(phi[:n], from_phi, state[:n])
        for m in range(n):
            row = of_zs[m, :n_features]
            for a in range(n_actions):
                to, shift = first[m * n_actions + a], action[a]
                for i in range(n_features):
                    to[i] = elu(row[i] + zs_bias[i] + shift[i])
        block = features[start * n_actions : stop * n_actions]
        np.dot(first[: n * n_actions], mid, block)
        for k in range(n * n_actions):
            to = block[k]
            for i in range(n_features):
                to[i] = elu(to[i] + mid_bias[i])
        np.dot(block, out, last[: n * n_actions])
        for m in range(n):
            row, to = of_zs[m, n_features:], state[m]
            for i in range(width):
                to[i] += row[i] + zs_bias[n_features + i]
            for a in range(n_actions):
                top, shift = last[m * n_actions + a], offset[a]
                value = np.float32(0)
                for i in range(width):
                    value += q2[i] * elu(top[i] + to[i] + shift[i])
                q[start + m, a] = value + q2_bias[0] + of_h[m, a] + h_bias[a]
    return q, features.reshape(n_rows, n_actions, n_features)


elu: Any = compiled and compiled.elu
small: Any = compiled and compiled.SMALL
norm: Any = compiled and compiled.loop(_norm)
norm_gradient: Any = compiled and compiled.loop(_norm_gradient)
every_value: Any = compiled and compiled.loop(_every_value)
