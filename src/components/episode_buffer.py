"""Episodes as tensors: what the runner writes, what a learner reads, and the replay buffer between the two.

Shapes: B episodes, T steps (the last index of an episode holds only its bootstrap observation), N agents, A actions.
A scheme maps a field's name to {"vshape": int or tuple, "dtype"?: float32, "group"?: name}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from torch.nn.utils.rnn import pad_sequence

from components.episode_store import EpisodeStore, RowLayout
from components.running_stats import RunningStats
from components.transforms import Transform

Scheme = Mapping[str, Mapping[str, Any]]
Preprocess = Mapping[str, tuple[str, Sequence[Transform]]]
Index = slice | int | Sequence[int] | np.ndarray | th.Tensor


def complete_scheme(scheme: Scheme, preprocess: Preprocess) -> dict[str, dict[str, Any]]:
    """A copy of the scheme with `filled` and the derived fields of `preprocess` in it."""
    full = {key: dict(field) for key, field in scheme.items()}
    full.setdefault("filled", {"vshape": (1,), "dtype": th.long})
    for source, (name, transforms) in preprocess.items():
        if source not in full:
            raise KeyError(f"preprocess names the field {source!r}, which the scheme does not have")
        vshape, dtype = _vshape(full[source]), full[source].get("dtype", th.float32)
        for transform in transforms:
            vshape, dtype = transform.infer_output_info(vshape, dtype)
        full[name] = {**full[source], "vshape": vshape, "dtype": dtype}
    return full


def _vshape(field: Mapping[str, Any]) -> tuple[int, ...]:
    vshape = field["vshape"]
    return (vshape,) if isinstance(vshape, int) else tuple(vshape)


def _shape(field: Mapping[str, Any], groups: Mapping[str, int]) -> tuple[int, ...]:
    group = field.get("group")
    return _vshape(field) if group is None else (groups[group], *_vshape(field))


def _as_index(index: Index, size: int) -> slice | th.Tensor:
    if isinstance(index, slice):
        return index
    if isinstance(index, (int, np.integer)):
        if not -size <= index < size:
            raise IndexError(f"index {index} is out of range for size {size}")
        start = int(index) % size
        return slice(start, start + 1)
    numbers = th.as_tensor(index)
    if numbers.dtype == th.bool:
        raise IndexError("episodes are indexed by numbers, not by a mask: give its nonzero()")
    return numbers.long()


class EpisodeBatch:
    """B episodes of at most T steps; every field is one tensor, (B, T, ...).

    `batch["obs"]` is the tensor itself. Derived fields (`preprocess`, e.g. actions_onehot) are computed when read and
    never stored. `batch["obs", "reward"]` and `batch[episodes, steps]` are EpisodeBatches; an int index keeps its
    dimension with length 1; slices share memory with the batch, lists and index tensors copy.
    """

    def __init__(
        self,
        scheme: Scheme,
        groups: Mapping[str, int],
        batch_size: int,
        max_seq_length: int,
        data: dict[str, th.Tensor] | None = None,
        preprocess: Preprocess | None = None,
        device: str = "cpu",
    ) -> None:
        self.preprocess = dict(preprocess or {})
        self.scheme = complete_scheme(scheme, self.preprocess)
        self.groups = groups
        self.batch_size = batch_size
        self.max_seq_length = max_seq_length
        self.device = device
        self._derived = {name: (source, transforms) for source, (name, transforms) in self.preprocess.items()}
        self._data = self._allocate() if data is None else data
        self._views: dict[str, np.ndarray] = {}

    def _allocate(self) -> dict[str, th.Tensor]:
        data = {}
        for key, field in self.scheme.items():
            if key in self._derived:
                continue
            shape = (self.batch_size, self.max_seq_length, *_shape(field, self.groups))
            data[key] = th.zeros(shape, dtype=field.get("dtype", th.float32), device=self.device)
        return data

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            tensor = self._data.get(item)
            return self._derive(item) if tensor is None else tensor
        if isinstance(item, tuple) and all(isinstance(key, str) for key in item):
            data = {key: self[key] for key in item}
            scheme = {key: self.scheme[key] for key in item}
            return EpisodeBatch(
                scheme, self.groups, self.batch_size, self.max_seq_length, data=data, device=self.device
            )
        return self._cut(*item) if isinstance(item, tuple) else self._cut(item)

    def _derive(self, key: str) -> th.Tensor:
        if key not in self._derived:
            raise KeyError(f"the batch has no field {key!r}; it has {', '.join(sorted({*self._data, *self._derived}))}")
        source, transforms = self._derived[key]
        tensor = self._data[source]
        for transform in transforms:
            tensor = transform.transform(tensor)
        return tensor

    def _cut(self, bs: Index, ts: Index = slice(None)) -> EpisodeBatch:
        rows, steps = self._indices(bs, ts)
        data = {key: tensor[rows][:, steps] for key, tensor in self._data.items()}
        n_rows = len(range(*rows.indices(self.batch_size))) if isinstance(rows, slice) else len(rows)
        n_steps = len(range(*steps.indices(self.max_seq_length)))
        return EpisodeBatch(
            self.scheme, self.groups, n_rows, n_steps, data=data, preprocess=self.preprocess, device=self.device
        )

    def _indices(self, bs: Index, ts: Index) -> tuple[slice | th.Tensor, slice]:
        steps = _as_index(ts, self.max_seq_length)
        if not isinstance(steps, slice):
            raise IndexError("steps are indexed by an int or a slice, not by a list")
        return _as_index(bs, self.batch_size), steps

    def update(
        self, data: Mapping[str, Any], bs: Index = slice(None), ts: Index = slice(None), mark_filled: bool = True
    ) -> None:
        """Writes values (tensors, arrays or nested lists) at [bs, ts] and marks these steps as filled.

        A value may leave out or add dimensions of length 1; any other difference of shape is a ValueError.
        """
        rows, steps = self._indices(bs, ts)
        for key, value in data.items():
            if key not in self._data:
                raise KeyError(f"the batch stores no field {key!r}; it stores {', '.join(sorted(self._data))}")
            target = self._data[key]
            where = rows, steps
            if not isinstance(value, th.Tensor):
                value = th.as_tensor(np.asarray(value))
            shape = target[where].shape
            if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
                raise ValueError(f"{key}: a value of shape {tuple(value.shape)} does not fit {tuple(shape)}")
            target[where] = value.to(device=target.device, dtype=target.dtype).reshape(shape)
        if mark_filled:
            self._data["filled"][rows, steps] = 1

    def numpy(self, key: str) -> np.ndarray:
        """A stored field as a numpy array that shares its memory; of a batch on a GPU, a copy."""
        if self.device != "cpu":
            return self._data[key].numpy(force=True)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._data[key].numpy()
        return view

    def to(self, device: str) -> EpisodeBatch:
        """Moves every field to the device, in place; returns itself."""
        if th.device(device) != th.device(self.device):
            self._data = {key: tensor.to(device) for key, tensor in self._data.items()}
            self._views = {}
            self.device = device
        return self

    def share_memory(self) -> EpisodeBatch:
        """Moves every field to memory that processes share; returns itself."""
        for tensor in self._data.values():
            tensor.share_memory_()
        self._views = {}
        return self

    def max_t_filled(self) -> int:
        """Number of filled steps of the longest episode."""
        return int(self._data["filled"].sum(1).max())

    def __repr__(self) -> str:
        fields = ", ".join(self.scheme)
        return f"EpisodeBatch({self.batch_size} episodes, {self.max_seq_length} steps, {self.device}: {fields})"


class ReplayBuffer:
    """The last `buffer_size` episodes, each kept at its true length, the oldest replaced first.

    Actions are kept in the smallest integer type, masks as bytes; `sample` pads the drawn episodes to the longest.

    seed: of the buffer's own random stream. standardise_rewards: sampled rewards have mean 0 and deviation 1 over all
    rewards ever inserted, each counted once; the scheme then says so (scheme["reward"]["standardised"]).
    sequence_length, burn_in: see `sample`.
    """

    def __init__(
        self,
        scheme: Scheme,
        groups: Mapping[str, int],
        buffer_size: int,
        max_seq_length: int,
        preprocess: Preprocess | None = None,
        device: str = "cpu",
        *,
        seed: int | None = None,
        standardise_rewards: bool = False,
        sequence_length: int | None = None,
        burn_in: int = 0,
    ) -> None:
        self.preprocess = dict(preprocess or {})
        self.scheme = complete_scheme(scheme, self.preprocess)
        self.groups = groups
        self.buffer_size = buffer_size
        self.max_seq_length = max_seq_length
        self.device = device
        self.sequence_length = sequence_length
        self.burn_in = burn_in
        derived = {name for name, _ in self.preprocess.values()}
        stored = [key for key in self.scheme if key not in derived | {"filled"}]
        self._layout = RowLayout({key: (_shape(self.scheme[key], groups), self._storage_dtype(key)) for key in stored})
        self.reward_stats: RunningStats | None = None
        if standardise_rewards:
            self.scheme["reward"]["standardised"] = True
            self.reward_stats = RunningStats(_vshape(self.scheme["reward"]), device)
        if sequence_length is not None:
            self.scheme["burn_in"] = {"vshape": (1,), "dtype": th.uint8}
        self.inserted = 0  # episodes ever: number k has slot k % buffer_size
        self._lengths: list[int] = []  # filled steps of each slot's episode, the bootstrap observation included
        self._store = EpisodeStore(buffer_size)
        self._rng = np.random.default_rng(seed)
        self.nbytes = 0  # of the episodes held now

    def _storage_dtype(self, key: str) -> th.dtype:
        if key == "actions" and "avail_actions" in self.scheme:
            n_actions = _vshape(self.scheme["avail_actions"])[-1]
            return th.uint8 if n_actions <= 256 else th.int16 if n_actions <= 2**15 else th.int32
        if key == "avail_actions":
            return th.uint8
        return self.scheme[key].get("dtype", th.float32)

    @property
    def episodes_in_buffer(self) -> int:
        return len(self._lengths)

    @property
    def capacity_bytes(self) -> int:
        """Its size with all episodes at full length; half forgotten blocks may add 2 % (see EpisodeStore)."""
        return self.max_seq_length * self._layout.width * self.buffer_size

    def _keep(self, number: int, rows: th.Tensor) -> None:
        """An episode's rows of bytes (length, width)."""
        slot, length = number % self.buffer_size, len(rows)
        if slot == len(self._lengths):
            self._lengths.append(0)
        self.nbytes += (length - self._lengths[slot]) * self._layout.width
        self._lengths[slot] = length
        self._store.put(number, rows, self.oldest)

    def insert_episode_batch(self, batch: EpisodeBatch) -> None:
        """Copies the batch's episodes; one without a transition (fewer than two filled steps) is passed over."""
        for b, length in enumerate(batch["filled"].sum(1).flatten().tolist()):
            if length >= 2:
                self._insert(batch, b, length)

    def _insert(self, batch: EpisodeBatch, b: int, length: int) -> None:
        values = {key: batch[key][b, :length].to(self.device) for key in self._layout.fields}
        if self.reward_stats is not None:
            self.reward_stats.update(values["reward"][:-1])
        self.inserted += 1
        self._keep(self.inserted - 1, self._layout.pack(values))

    def can_sample(self, batch_size: int) -> bool:
        return len(self._lengths) >= batch_size

    def sample(self, batch_size: int) -> EpisodeBatch:
        """Draws episodes uniformly, none twice, padded with zeros to the longest of them.

        With `sequence_length` a stretch of each: its transitions count in the loss, and up to `burn_in` steps before
        them only rebuild the hidden state (field `burn_in`). Each transition of an episode is equally likely to be in
        the stretch, so stretches at an episode's ends are shorter: of one that is a little longer than a stretch half
        is drawn in the mean, of one that is no longer the whole.
        """
        if not self.can_sample(batch_size):
            raise ValueError(f"{batch_size} episodes asked of a buffer that holds {len(self._lengths)}")
        ids = self._rng.choice(len(self._lengths), batch_size, replace=False)
        spans = [self._span(self._lengths[i]) for i in ids]
        lengths = th.tensor([stop - start for start, _, stop in spans], device=self.device).view(-1, 1, 1)
        size = self.buffer_size
        numbers = [slot + (self.inserted - 1 - slot) // size * size for slot in ids.tolist()]
        rows = [self._store.rows(number, start, stop) for number, (start, _, stop) in zip(numbers, spans, strict=True)]
        fields = self._layout.unpack(pad_sequence(rows, batch_first=True))
        data = {key: values.to(self.scheme[key].get("dtype", th.float32)) for key, values in fields.items()}
        n_steps = data["terminated"].shape[1]
        steps = th.arange(n_steps, device=self.device).view(1, -1, 1)
        data["filled"] = (steps < lengths).long()
        if self.reward_stats is not None:
            data["reward"] = self.reward_stats.normalise(data["reward"]) * (steps < lengths - 1)
        if self.sequence_length is not None:
            first = th.tensor([first - start for start, first, _ in spans], device=self.device).view(-1, 1, 1)
            data["burn_in"] = (steps < first).to(th.uint8)
        return EpisodeBatch(
            self.scheme, self.groups, batch_size, n_steps, data=data, preprocess=self.preprocess, device=self.device
        )

    def _span(self, length: int) -> tuple[int, int, int]:
        """(first row, first row in the loss, end) of an episode with `length` filled rows."""
        n, size = length - 1, self.sequence_length
        if size is None or n <= size:
            return 0, 0, length
        at = int(self._rng.integers(1 - size, n))  # a window over the transitions 0..n-1, overhanging at both ends
        first, stop = max(at, 0), min(at + size, n)
        return max(first - self.burn_in, 0), first, stop + 1

    # -- saving and restoring: everything but the episodes in one dict, the episodes in pieces --
    def state_dict(self) -> dict[str, Any]:
        stats = None if self.reward_stats is None else self.reward_stats.state_dict()
        return {"inserted": self.inserted, "rng": self._rng.bit_generator.state, "reward_stats": stats}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Empties the buffer; `load_piece` then brings the last `buffer_size` of its episodes back."""
        self.inserted = int(state["inserted"])
        self._rng.bit_generator.state = state["rng"]
        if self.reward_stats is not None:
            self.reward_stats.load_state_dict(state["reward_stats"])
        self._lengths, self.nbytes = [0] * min(self.inserted, self.buffer_size), 0
        self._store.clear()

    @property
    def oldest(self) -> int:
        """Number of the oldest episode held; the newest one's is `inserted` - 1."""
        return self.inserted - len(self._lengths)

    def pieces(self, first: int, max_bytes: int) -> Iterator[dict[str, Any]]:
        """The episodes from number `first` (or the oldest held) on, in order, in pieces of about max_bytes at most.

        A piece is {"first": number of its first episode, "lengths": [filled steps], "fields": {key: tensor}}; a tensor
        has the episodes' rows one after another. It is on the CPU.
        """
        first = max(first, self.oldest)
        while first < self.inserted:
            last, size = first, 0
            while last < self.inserted and (last == first or size < max_bytes):
                size += self._lengths[last % self.buffer_size] * self._layout.width
                last += 1
            numbers = range(first, last)
            lengths = [self._lengths[number % self.buffer_size] for number in numbers]
            rows = [self._store.rows(number, 0, n) for number, n in zip(numbers, lengths, strict=True)]
            fields = self._layout.unpack(th.cat(rows))
            yield {"first": first, "lengths": lengths, "fields": {key: values.cpu() for key, values in fields.items()}}
            first = last

    def load_piece(self, piece: Mapping[str, Any]) -> None:
        """Brings the episodes of a piece back, of those that the buffer holds. ValueError where they do not fit."""
        first, lengths, fields = piece["first"], piece["lengths"], piece["fields"]
        expected = self._layout.fields
        if fields.keys() != expected.keys():
            raise ValueError(f"the episodes have the fields {', '.join(fields)}, not {', '.join(expected)}")
        if not all(2 <= length <= self.max_seq_length for length in lengths):
            raise ValueError(f"an episode has 2 to {self.max_seq_length} steps, not {min(lengths)} to {max(lengths)}")
        for key, (row, dtype) in expected.items():
            shape = (sum(lengths), *row)
            if tuple(fields[key].shape) != shape or fields[key].dtype != dtype:
                raise ValueError(f"{key}: {tuple(fields[key].shape)} {fields[key].dtype}, expected {shape} {dtype}")
        for number, rows in enumerate(self._layout.pack(fields).to(self.device).split(lengths), first):
            if self.oldest <= number < self.inserted and not self._lengths[number % self.buffer_size]:
                self._keep(number, rows.clone())

    @property
    def complete(self) -> bool:
        """Whether every episode that the buffer counts is there: false between load_state_dict and the last piece."""
        return all(self._lengths)

    def __repr__(self) -> str:
        return f"ReplayBuffer({len(self._lengths)} of {self.buffer_size} episodes, {self.nbytes / 2**20:.1f} MiB)"
