"""Search files: one algorithm, some of its keys with several values; each combination is an algorithm of a plan."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice, product
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from experiments.planning import Algorithm, Experiment, Label, Loaded, Task, _Strict, file_of, read, said_of, words_of
from utils.commands import flat
from utils.config import ConfigError, compose, describe, load_yaml, shown_path
from utils.schema import MAX_SEED, Positive

Number = int | float
MAX_POINTS = 10_000
EITHER = "target_update_interval_or_tau"  # a whole number of updates above 1, or a rate up to 1
LARGEST = 1e300  # of a bound; the width of a range is a number, too
LONGEST = 100  # letters of a point's name; longer ones are cut and get a hash


class Range(_Strict):
    """Numbers between two bounds: evenly, or evenly in their logarithm. Whole numbers where both bounds are whole, and
    the key has no fraction in the configuration that is searched around."""

    uniform: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None
    log_uniform: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Range:
        if (self.uniform is None) == (self.log_uniform is None):
            raise ValueError("either uniform: [low, high] or log_uniform: [low, high] is wanted")
        low, high = self.bounds
        if not (-LARGEST < low < high < LARGEST):
            raise ValueError(
                f"the first bound must be below the second, these are {low} and {high} (within {LARGEST:g} both)"
            )
        if self.log_uniform is not None and low <= 0:
            raise ValueError(f"log_uniform: the bounds must be above 0, the first is {low}")
        return self

    def in_fractions(self) -> Range:
        """The same between bounds that are no whole numbers."""
        form = "uniform" if self.uniform else "log_uniform"
        return self.model_copy(update={form: [float(bound) for bound in self.bounds]})

    @property
    def bounds(self) -> tuple[Number, Number]:
        low, high = self.uniform or self.log_uniform or (0, 0)
        return low, high

    def draw(self, rng: random.Random) -> Number:
        """One value; where it is no whole number, of four digits, or in a narrow range of a thousandth of its width."""
        low, high = self.bounds
        whole = isinstance(low, int) and isinstance(high, int)
        if self.log_uniform is not None:
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        elif whole:
            return rng.randint(int(low), int(high))
        else:
            value = rng.uniform(low, high)
        width = high - low
        if whole:
            value = round(value)
        elif 2 * width < max(abs(low), abs(high)):
            value = round(value, 3 - math.floor(math.log10(width)))
        else:
            value = float(f"{value:.4g}")
        return min(max(value, low), high)


class Search(_Strict):
    """A grid over `keys`, or with `samples` that many random points, which `search_seed` decides.

    keys: key of the configuration -> a list of values, or a range (random search only).
    """

    algorithm: Algorithm
    tasks: dict[Label, Task] = Field(min_length=1)
    keys: dict[str, list[Any] | Range] = Field(min_length=1)
    samples: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None
    search_seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    seeds: list[int] = Field(min_length=1)
    t_max: Positive
    overrides: dict[str, Any] = {}

    @field_validator("keys", mode="before")
    @classmethod
    def _lists_or_ranges(cls, keys: Any) -> Any:
        """One message a key, not one for each of the forms that it does not have."""
        if not isinstance(keys, dict):
            return keys
        for key, values in keys.items():
            if isinstance(values, dict) and values and set(values) <= {"uniform", "log_uniform"}:
                try:
                    Range.model_validate(values)
                except ValidationError as error:
                    raise ValueError(f"{key} = {values}: {said_of(error.errors(include_url=False)[0])}") from None
                continue
            if not isinstance(values, list) or not values:
                raise ValueError(
                    f"{key}: a list of values, {{uniform: [low, high]}} or {{log_uniform: [...]}} is wanted"
                )
            typed = [(isinstance(value, bool), value) for value in values]  # to Python, true is 1
            if any(typed.count(value) > 1 for value in typed):
                raise ValueError(f"{key}: a value is there twice")
        return keys

    @model_validator(mode="after")
    def _ranges_need_samples(self) -> Search:
        ranges = [key for key, values in self.keys.items() if isinstance(values, Range)]
        if ranges and self.samples is None:
            raise ValueError(f"samples is missing: how many points to draw, since {ranges[0]} is a range and no list")
        for key in self.keys:
            if key in self.algorithm.overrides:
                raise ValueError(f"{key} is searched over and also in algorithm.overrides; it can be in one of them")
        if self.samples is None and math.prod(len(list_) for _, list_ in self.lists) > MAX_POINTS:
            raise ValueError(f"more than {MAX_POINTS:,} combinations; give samples to draw some of them")
        return self

    @property
    def lists(self) -> list[tuple[str, list[Any]]]:
        return [(key, values) for key, values in self.keys.items() if isinstance(values, list)]

    def points(self) -> list[dict[str, Any]]:
        """What each point sets. The first n of a random search stay the same when `samples` grows."""
        if self.samples is None:
            return self._grid()
        return list(islice(self._different(), self.samples))

    def _grid(self) -> list[dict[str, Any]]:
        return [dict(zip(self.keys, values, strict=True)) for values in product(*(v for _, v in self.lists))]

    def _different(self) -> Iterator[dict[str, Any]]:
        """Random points, none twice; where none has been new for long, what is left of lists, and the end."""
        rng = random.Random(self.search_seed)
        seen: set[str] = set()
        misses = 0
        while misses < 1000:
            point = {
                key: values.draw(rng) if isinstance(values, Range) else rng.choice(values)
                for key, values in self.keys.items()
            }
            misses = misses + 1 if repr(point) in seen else 0
            if not misses:
                seen.add(repr(point))
                yield point
        if len(self.lists) == len(self.keys):
            left = [point for point in self._grid() if repr(point) not in seen]
            rng.shuffle(left)
            yield from left


def name_of(point: dict[str, Any]) -> str:
    """The point in words that may name a folder: lr=0.001, sale.dim=32."""
    text = ", ".join(f"{key}={value}" for key, value in point.items())
    name = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in " _.,=+()-") else "_" for letter in text
    )
    name = name.strip(" _.,=+()-")
    if name == text and len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9].rstrip()} {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def load_search(name: str) -> Loaded:
    """The search of this name or path as an experiment, each point an algorithm of it."""
    path = file_of("searches", name)
    source = shown_path(path)
    search = read(Search, load_yaml(path), source, {"algorithm": Algorithm, "tasks": Task})
    search = search.model_copy(update={"keys": _fitting(search, source)})
    base, points = search.algorithm, search.points()
    algorithms = {name_of(point): base.model_dump() | {"overrides": {**base.overrides, **point}} for point in points}
    if len(algorithms) < len(points):
        twice = next(name for name, n in Counter(map(name_of, points)).items() if n > 1)
        raise ConfigError(f"{source}: two points are called {twice}; values of a key must differ when they are written")
    values = {
        "algorithms": algorithms,
        "tasks": {label: task.model_dump() for label, task in search.tasks.items()},
        **{key: getattr(search, key) for key in ("seeds", "t_max", "overrides")},
    }
    experiment = read(Experiment, values, source, {"algorithms": Algorithm, "tasks": Task})
    experiment = experiment.model_copy(update={"reference": []})  # no point is compared with each other one
    text = describe(path)
    if search.samples and len(points) < search.samples:
        text += f" ({len(points)} points differ, of {search.samples} samples)"
    return Loaded(path, text, experiment, tuple(search.keys))


def _fitting(search: Search, source: str) -> dict[str, list[Any] | Range]:
    """The keys; a range of a key that has a fraction now is one of fractions, whatever its bounds look like."""
    task = next(iter(search.tasks.values()))
    try:
        given = words_of({**search.overrides, **task.overrides, **search.algorithm.overrides}, source)
        now = dict(flat(compose(search.algorithm.config, task.env_config, given)))
    except ConfigError:  # the plan says what is wrong
        return search.keys

    def fitting(key: str, values: list[Any] | Range) -> list[Any] | Range:
        if isinstance(values, list) or not isinstance(now.get(key), float):
            return values
        return values if key == EITHER and values.bounds[1] > 1 else values.in_fractions()

    return {key: fitting(key, values) for key, values in search.keys.items()}
