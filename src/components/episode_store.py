"""Where the replay buffer keeps its episodes: each at its true length, and with little besides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate

import torch as th


class RowLayout:
    """Fields side by side in rows of bytes, so that an episode is one tensor and not one for each field.

    fields: name -> (shape of a row, type).
    """

    def __init__(self, fields: Mapping[str, tuple[tuple[int, ...], th.dtype]]) -> None:
        self.fields = dict(fields)
        self._widths = [math.prod(shape) * dtype.itemsize for shape, dtype in self.fields.values()]
        self.width = sum(self._widths)

    def pack(self, values: Mapping[str, th.Tensor]) -> th.Tensor:
        """Each field's (T, ...), of any type that its values fit in -> (T, width) uint8."""
        parts = []
        for key, (_, dtype) in self.fields.items():
            parts.append(values[key].to(dtype).flatten(1).contiguous().view(th.uint8))
        return th.cat(parts, dim=1)

    def unpack(self, rows: th.Tensor) -> dict[str, th.Tensor]:
        """(..., width) -> each field's (..., shape); rows of zeros are zeros."""
        parts = rows.split(self._widths, dim=-1)
        return {
            key: part.clone(memory_format=th.contiguous_format).view(dtype).unflatten(-1, shape)
            for (key, (shape, dtype)), part in zip(self.fields.items(), parts, strict=True)
        }


class _Block:
    """Consecutive episodes: apart until all of them are there, then their rows one after another."""

    def __init__(self, first: int, size: int) -> None:
        self.first = first  # number of the first episode
        self.missing = size
        self.parts = [th.empty(0)] * size
        self.starts: list[int] = []  # first row of each episode
        self.rows = th.empty(0)

    def put(self, number: int, rows: th.Tensor) -> None:
        self.parts[number - self.first] = rows
        self.missing -= 1
        if not self.missing:
            self.starts = [0, *accumulate(len(part) for part in self.parts)]
            self.rows, self.parts = th.cat(self.parts), []


class EpisodeStore:
    """The rows of episodes by number, from 0 in the order in which they came; the oldest are forgotten.

    A tensor costs half a kilobyte besides what it holds, so a block of episodes becomes one as soon as all are there.
    Blocks are forgotten whole: up to 2 % more episodes are held than asked for.
    """

    def __init__(self, capacity: int) -> None:
        self._size = min(64, max(1, capacity // 50))
        self._blocks: dict[int, _Block] = {}

    def clear(self) -> None:
        self._blocks.clear()

    def put(self, number: int, rows: th.Tensor, oldest: int) -> None:
        """Keeps the rows (T, ...) of an episode whose number is new; `oldest`: the first number still asked for."""
        at = number // self._size
        block = self._blocks.get(at)
        if block is None:  # after a restart its first episodes may be too old to come
            first = max(at * self._size, oldest)
            block = self._blocks[at] = _Block(first, (at + 1) * self._size - first)
        block.put(number, rows)
        self._blocks.pop(oldest // self._size - 1, None)

    def rows(self, number: int, start: int, stop: int) -> th.Tensor:
        """Rows start to stop of the episode, which share memory with what is stored."""
        block = self._blocks[number // self._size]
        i = number - block.first
        if block.missing:
            return block.parts[i][start:stop]
        return block.rows[block.starts[i] + start : block.starts[i] + stop]
