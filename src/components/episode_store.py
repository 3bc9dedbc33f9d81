"""Where the replay buffer keeps its episodes: each at its true length, and with little besides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate

import torch as th

Episode = Mapping[str, th.Tensor]  # field -> its rows, one a step; of a constant field a single one


class _Block:
    """Consecutive episodes: apart until all of them are there, then their rows one after another."""

    def __init__(self, first: int, size: int) -> None:
        self.first = first  # number of the first episode
        self.missing = size
        self.parts: list[Episode] = [{}] * size
        self.starts: list[int] = []  # first step of each episode
        self.fields: dict[str, th.Tensor] = {}

    def put(self, number: int, episode: Episode, constant: Collection[str]) -> None:
        self.parts[number - self.first] = episode
        self.missing -= 1
        if not self.missing:
            step = next(key for key in episode if key not in constant)
            self.starts = [0, *accumulate(len(part[step]) for part in self.parts)]
            self.fields = {key: th.cat([part[key] for part in self.parts]) for key in episode}
            self.parts = []


class EpisodeStore:
    """Episodes by number, from 0 in the order in which they came, as many as the capacity; the oldest are forgotten.

    A tensor costs half a kilobyte besides what it holds, together a quarter of a short episode with six small fields.
    So a block of consecutive episodes becomes one tensor a field as soon as all are there. Blocks are forgotten whole:
    up to 2 % more episodes are held than asked for.
    """

    def __init__(self, capacity: int, constant: Collection[str]) -> None:
        """`constant`: the fields that have one row an episode."""
        self.capacity, self.constant = capacity, constant
        self._size = min(64, max(1, capacity // 50))
        self._blocks: dict[int, _Block] = {}

    def clear(self) -> None:
        self._blocks.clear()

    def put(self, number: int, episode: Episode, oldest: int) -> None:
        """Keeps the tensors of an episode whose number is new; `oldest`: the first number still asked for."""
        at = number // self._size
        block = self._blocks.get(at)
        if block is None:  # after a restart its first episodes may be too old to come
            first = max(at * self._size, oldest)
            block = self._blocks[at] = _Block(first, (at + 1) * self._size - first)
        block.put(number, episode, self.constant)
        self._blocks.pop(oldest // self._size - 1, None)

    def rows(self, number: int, key: str, start: int, stop: int) -> th.Tensor:
        """Steps start to stop of the episode, which share memory with what is stored; constant fields take 0 and 1."""
        block = self._blocks[number // self._size]
        i = number - block.first
        if block.missing:
            return block.parts[i][key][start:stop]
        offset = i if key in self.constant else block.starts[i]
        return block.fields[key][offset + start : offset + stop]
