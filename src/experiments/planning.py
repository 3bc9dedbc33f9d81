"""Experiment files: algorithms x tasks x seeds, checked and composed into runs before anything is written."""

from __future__ import annotations

import copy
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from utils import config
from utils.config import (
    ConfigError,
    compose,
    describe,
    find,
    load_yaml,
    nearest,
    require_environment,
    shown_path,
    shown_value,
    written_value,
)
from utils.schema import MAX_SEED, AboveZero, Positive, unread

# names a folder, a curve and a table's row
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9 _.,=+()\-]*[A-Za-z0-9)])?$", max_length=120)]
ELSEWHERE = {  # keys that no override may set -> where they are set
    "seed": "list it in seeds",
    "label": "it is the algorithm's name in the file",
    "local_results_path": "choose the folder with --out",
}
PART = ("algorithms", "tasks", "seeds")  # keys of an experiment, and options that choose among them
M = TypeVar("M", bound=BaseModel)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Algorithm(_Strict):
    """A config file of config/algs and what is changed in it; `steps_per_second` (of one run) serves estimates only."""

    config: str
    overrides: dict[str, Any] = {}
    steps_per_second: AboveZero | None = None


class Task(_Strict):
    """A config file of config/envs and what is changed in it."""

    env_config: str
    overrides: dict[str, Any] = {}


class Experiment(_Strict):
    """Every algorithm on every task with every seed. Later overrides win: all runs', the task's, the algorithm's.

    The report compares each `reference`, by default MMSA or else the first one, with each other algorithm. Published
    runs of the experiments `runs_of` count as this one's where algorithm, task, seed and configuration are the same.
    """

    algorithms: dict[Label, Algorithm] = Field(min_length=1)
    tasks: dict[Label, Task] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, le=MAX_SEED)]] = Field(min_length=1)
    t_max: Positive
    overrides: dict[str, Any] = {}
    reference: Annotated[list[str], BeforeValidator(_listed)] = Field([], validate_default=True)  # a name or several
    runs_of: list[str] = []

    @field_validator("reference")
    @classmethod
    def _reference_is_there(cls, reference: list[str], info: ValidationInfo) -> list[str]:
        there = list(info.data.get("algorithms", ()))  # nothing where they are wrong, which is said already
        for name in reference if there else ():
            if name not in there:
                raise ValueError(f"no algorithm is called {name!r}{nearest(name, there)}; there are {', '.join(there)}")
        return reference or [name for name in there if name.lower() == "mmsa"] or there[:1]

    @field_validator("algorithms", "tasks")
    @classmethod
    def _folders_differ(cls, named: dict[str, Any]) -> dict[str, Any]:
        seen: dict[str, str] = {}
        for name in named:  # a file system may ignore case
            if other := seen.get(folder_name(name).lower()):
                raise ValueError(f"the names {other!r} and {name!r} would share a folder")
            seen[folder_name(name).lower()] = name
        return named

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: list[int]) -> list[int]:
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"there twice: {', '.join(map(str, twice))}; each seed is run once")
        return seeds


@dataclass(frozen=True)
class Loaded:
    """An experiment with its file, and that one's first comment line. `searched`: keys that a search varies.

    `part`: the options that have left only a part of it; "" where it is the whole.
    """

    path: Path
    title: str
    experiment: Experiment
    searched: tuple[str, ...] = ()
    part: str = ""

    def __str__(self) -> str:
        return f"{self.name}, part {self.part}" if self.part else self.name

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def source(self) -> str:
        """The file, as messages name it."""
        return shown_path(self.path)

    @property
    def published(self) -> Path:
        """The repository's folder for its published runs and the report on them."""
        return published_folder(self.name)

    @property
    def namesake(self) -> Path | None:
        """Another file, of this repository, whose published runs have the same folder."""
        others = (config.ROOT / "config" / kind / f"{self.name}.yaml" for kind in ("experiments", "searches"))
        return next((file for file in others if file.is_file() and not file.samefile(self.path)), None)


def published_folder(name: str) -> Path:
    return config.ROOT / "results" / name


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the plan. `words`: what follows main.py on its command line. `config`: what that composes to.

    `folder` is where it is recorded, `published` where the repository keeps it once it is published, `shared` where it
    keeps those of the experiments that this one takes runs of.
    """

    algorithm: str
    task: str
    seed: int
    folder: Path
    published: Path
    config: dict[str, Any] = field(repr=False)
    words: tuple[str, ...] = field(repr=False)
    steps_per_second: float | None = None
    shared: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.algorithm} on {self.task}, seed {self.seed}"

    @property
    def threads(self) -> int:
        """Cores that it can keep busy."""
        return sum(int(self.config[key]) for key in ("torch_threads", "env_workers", "pipeline"))


# --- Files ---
def file_of(kind: str, name: str) -> Path:
    """The file NAME.yaml in config/<kind>, or the file of a path; ConfigError lists what there is."""
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        if not Path(name).is_file():
            raise ConfigError(f"{name}: there is no such file")
        return Path(name)
    files = {path.stem: path for path in sorted((config.ROOT / "config" / kind).glob("*.yaml"))}
    if name not in files:
        there = f"available: {', '.join(files) or 'none'}; or give a path that ends in .yaml"
        raise ConfigError(f"{name}: there is no such file in config/{kind}{nearest(name, files)}; {there}")
    return files[name]


def load_experiment(name: str) -> Loaded:
    """The experiment of this name or path, its keys and types checked."""
    path = file_of("experiments", name)
    source = shown_path(path)
    experiment = read(Experiment, load_yaml(path), source, {"algorithms": Algorithm, "tasks": Task})
    return Loaded(path, describe(path), experiment)


def read(model: type[M], values: Mapping[str, Any], source: str, inner: Mapping[str, type[BaseModel]]) -> M:
    """The values as the model; ConfigError names each key that does not fit, its value and the cure.

    :param inner: key -> model of each of the named entries under it.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as errors:
        problems = []
        for error in errors.errors(include_url=False):
            path = [str(part) for part in error["loc"] if part != "[key]"]
            if not path:  # of several keys together; the message names them
                problems.append(f"{source}: {said_of(error)}")
                continue
            parent = model if len(path) == 1 else inner.get(path[0])
            said = said_of(error)
            if error["type"] == "extra_forbidden" and parent is not None:
                names = list(parent.model_fields)
                said = f"unknown key{nearest(path[-1], names)}; there are {', '.join(names)}"
            elif error["type"] == "missing":
                problems.append(f"{source}: {'.'.join(path)} is missing")
                continue
            elif "[key]" in error["loc"]:
                said = "a name is of letters, digits, spaces and _ . , = + ( ) -, 120 at most: it names a folder"
            problems.append(f"{source}: {'.'.join(path)} = {shown_value(error['input'])}: {said}")
        raise ConfigError(problems) from None


FORMS = {  # pydantic's types of errors that it words in Python's terms
    "dict_type": "must be a mapping, as {{NAME: ...}}",
    "model_type": "must be a mapping of keys to values",
    "list_type": "must be a list, as [a, b]",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have {max_length} entries at most",
}


def said_of(error: ErrorDetails) -> str:
    """pydantic's message, to stand after a key and its value."""
    if error["type"] in FORMS:
        return FORMS[error["type"]].format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Value error, ").replace("Input should", "must")


def words_of(overrides: Mapping[str, Any], source: str = "") -> list[str]:
    """The overrides as main.py's command line takes them: key=value."""
    words = []
    for key, value in overrides.items():
        try:
            words.append(f"{key}={written_value(value)}")
        except ValueError as error:
            raise ConfigError(f"{key} = {shown_value(value)} ({source}): {error}") from None
    return words


# --- The plan ---
def part_of(loaded: Loaded, chosen: Mapping[str, Sequence[str] | None]) -> Loaded:
    """The experiment with the chosen algorithms, tasks and seeds alone, in the order of its file.

    :param chosen: for each key of PART the names that are wanted; None: all of them.
    :raises ConfigError: for each name that is not in the file.
    """
    problems, kept = [], {}
    for key, wanted in chosen.items():
        there = getattr(loaded.experiment, key)
        names = [str(name) for name in there]
        if wanted is None:
            continue
        problems += [
            f"--{key} {name}: there is none of this name in {loaded.source}{nearest(name, names)}; "
            f"there are {', '.join(names)}"
            + "; several with spaces between them"
            * (key == "seeds" and not name.isdigit())
            for name in wanted
            if name not in names
        ]
        own = [name for name in there if str(name) in wanted]
        kept[key] = {name: there[name] for name in own} if isinstance(there, dict) else own
    if problems:
        raise ConfigError(problems)
    part = shlex.join(word for key in kept for word in (f"--{key}", *map(str, kept[key])))
    return replace(loaded, experiment=loaded.experiment.model_copy(update=kept), part=part)


def plan(loaded: Loaded, out: Path, words: Sequence[str] = ()) -> list[Run]:
    """Every run of the experiment, by seed, then task, then algorithm, so that a part of it compares already.

    :param words: key=value of the command line, for all runs.
    :raises ConfigError: with all that is wrong in any of the runs. Nothing is written.
    """
    experiment, source = loaded.experiment, loaded.source
    _check_names(experiment, source, words)
    problems: dict[str, list[str]] = {}  # problem -> the pairs that have it
    runs: dict[tuple[str, str], list[Run]] = {}
    for (task_name, task), (name, algorithm) in product(experiment.tasks.items(), experiment.algorithms.items()):
        pair = f"{name} on {task_name}"
        try:
            runs[task_name, name] = _runs_of(loaded, (name, algorithm), (task_name, task), out, words)
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(pair)
    if problems:
        n_pairs = len(experiment.tasks) * len(experiment.algorithms)
        raise ConfigError(f"{problem} ({_where(pairs, n_pairs)})" for problem, pairs in problems.items())
    return list(chain.from_iterable(zip(*runs.values(), strict=True)))


def _check_names(experiment: Experiment, source: str, words: Sequence[str]) -> None:
    """Config files that are there, and no override of what the plan itself sets."""
    problems = []
    for name in experiment.runs_of:
        try:
            file_of("experiments", name)
        except ConfigError as error:
            problems += [f"{source}: runs_of: {problem}" for problem in error.problems]
    layers = [("", experiment.overrides)]
    for key, kind, part in (("algorithms", "algs", "config"), ("tasks", "envs", "env_config")):
        for label, entry in getattr(experiment, key).items():
            layers.append((f"{key}.{label}.", entry.overrides))
            name = getattr(entry, part)
            try:
                find(kind, name)
            except ConfigError as error:
                said = error.problems[0].partition(": ")[2] or error.problems[0]
                problems.append(f"{source}: {key}.{label}.{part} = {name!r}: {said}")
    for prefix, overrides in layers:
        problems += [
            f"{source}: {prefix}overrides.{key} = {shown_value(value)}: not to be set here; {ELSEWHERE[key.strip()]}"
            for key, value in overrides.items()
            if key.strip() in ELSEWHERE
        ]
    for word in words:
        key = word.partition("=")[0].strip()
        if key in ELSEWHERE:
            problems.append(f"{word} ({config.COMMAND_LINE}): not to be set here; {ELSEWHERE[key]}")
    if problems:
        raise ConfigError(problems)


def _runs_of(
    loaded: Loaded,
    named_algorithm: tuple[str, Algorithm],
    named_task: tuple[str, Task],
    out: Path,
    words: Sequence[str],
) -> list[Run]:
    """The runs of one algorithm on one task: a seed changes nothing but itself, so that one composition serves all."""
    experiment, source = loaded.experiment, loaded.source
    (name, algorithm), (task_name, task) = named_algorithm, named_task
    layers = ({"t_max": experiment.t_max}, experiment.overrides, task.overrides, algorithm.overrides)
    given = list(chain.from_iterable(words_of(layer, source) for layer in layers))
    whole = compose(algorithm.config, task.env_config, words, file=source, file_overrides=given)
    require_environment(whole)
    idle = unread(whole)
    if problems := [
        f"{source}: {key} = {shown_value(value)} of {name} changes nothing: {idle[key]}; leave it out"
        for key, value in algorithm.overrides.items()
        if key in idle
    ]:
        raise ConfigError(problems)
    others = [published_folder(file_of("experiments", other).stem) for other in experiment.runs_of]
    runs = []
    for seed in experiment.seeds:
        inner = Path("runs", folder_name(name), folder_name(task_name), f"seed{seed}")
        folder, published = out / inner, loaded.published / inner
        shared = tuple(other / inner for other in others)
        own = {"seed": seed, "label": name, "local_results_path": str(folder)}
        line = [f"--config={algorithm.config}", f"--env-config={task.env_config}", "with", *given, *words]
        composed = copy.deepcopy(whole) | own
        line += words_of(own)
        runs.append(
            Run(name, task_name, seed, folder, published, composed, tuple(line), algorithm.steps_per_second, shared)
        )
    return runs


def _where(pairs: Sequence[str], n_pairs: int) -> str:
    if len(pairs) == n_pairs > 1:
        return "in all runs"
    return f"in {pairs[0]}" + (f" and {len(pairs) - 1} more" if len(pairs) > 1 else "")


def folder_name(label: str) -> str:
    """What the folder of an algorithm or a task is called."""
    return re.sub(r"\s+", "_", label)


def default_jobs(runs: Iterable[Run], cores: int | None = None) -> int:
    """How many of the runs fit on so many cores (by default those that this process may use) at once."""
    return max(1, (cores or usable_cores()) // max(run.threads for run in runs))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
