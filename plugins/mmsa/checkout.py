"""A checkout of upstream EPyMARL: which one it is, and the configuration that its YAML files, ours and the words of the
command line make together.
"""

from __future__ import annotations

import ast
import copy
import difflib
import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .config import MMSAConfig, Positive, check

HERE = Path(__file__).resolve().parent
VARIABLE = "EPYMARL_PATH"
SOURCE = "https://github.com/uoe-agents/epymarl"
MAX_SEED = 2**32 - 1
# Every checkout has these; the first ones that older trees lack came with the port to Gymnasium.
GYMNASIUM_PORT = ("src/envs/gymma.py", "src/envs/wrappers.py")
FILES = ("src/run.py", "src/config/default.yaml", "src/config/algs", "src/config/envs")
# Keys of the embedded host with the one value that says what upstream does; td_lambda is MMSA's own there.
ONLY: dict[str, tuple[Any, str]] = {
    "env_steps_per_update": ("episode", "it makes one update for each rollout of batch_size_run episodes"),
    "sequence_length": (None, "it learns from whole episodes"),
    "burn_in": (0, "it learns from whole episodes"),
    "td_lambda": (0, "its targets are one-step"),
    "scale_inputs": (False, "it learns from inputs as they are"),
    "env_args.action_masks": (False, "it leaves every action of Level-Based Foraging open"),
}
# Ranges of the host's keys, which it does not check: it would learn wrongly without a word, or end in a traceback.
RANGES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        Annotated[float, Field(ge=0, le=1)],
        ("gamma", "td_lambda", "epsilon_start", "epsilon_finish", "evaluation_epsilon"),
    ),
    (
        Positive,
        ("t_max", "test_interval", "lr", "grad_norm_clip", "target_update_interval_or_tau", "epsilon_anneal_time"),
    ),
    (
        Annotated[int, Field(ge=1)],
        ("test_nepisode", "batch_size_run", "batch_size", "buffer_size")
        + ("hidden_dim", "mixing_embed_dim", "hypernet_embed"),
    ),
    (Literal[1, 2], ("hypernet_layers",)),
)
# What MMSA reads of the checkout's own default.yaml.
KEYS = ("hidden_dim", "lr", "gamma", "grad_norm_clip", "learner_log_interval", "use_cuda")


class UpstreamError(Exception):
    """The checkout or the configuration cannot be used. The message names what is wrong, and the cure."""


class Checkout(NamedTuple):
    """An EPyMARL checkout. `commit`: of git, with ", changed" where tracked files differ; "" where git says nothing."""

    path: Path
    commit: str

    @property
    def config(self) -> Path:
        return self.path / "src" / "config"

    def __str__(self) -> str:
        return f"upstream EPyMARL {self.commit or '(commit unknown)'} at {self.path}"


# --- the checkout ---
def find_checkout(path: str | None) -> Checkout:
    """The checkout at `path`, else the one that the working directory is in the root of, else EPYMARL_PATH's.

    Raises UpstreamError where there is none, where it is no EPyMARL, or one from before the port to Gymnasium.
    """
    cwd, named = Path.cwd(), os.environ.get(VARIABLE, "")
    if path is None:
        path = str(cwd) if not lacking(cwd, FILES) else named
    if not path:
        raise UpstreamError(
            f"no EPyMARL checkout is named: --epymarl PATH, or {VARIABLE}, or start in its folder; git clone {SOURCE}"
        )
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise UpstreamError(f"{root}: there is no such folder; name a checkout of {SOURCE}")
    if missing := lacking(root, FILES):
        raise UpstreamError(f"{root} is no checkout of EPyMARL: {missing[0]} is missing; git clone {SOURCE}")
    if missing := lacking(root, GYMNASIUM_PORT):
        raise UpstreamError(
            f"{root} is older than EPyMARL's port to Gymnasium: {missing[0]} is missing; "
            "version 2.0.0 (July 2024) or later is needed, cbc38c0 is tested"
        )
    return Checkout(root, commit_of(root, "src/run.py"))


def lacking(root: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if not (root / name).exists()]


def commit_of(folder: Path, file: str) -> str:
    """Short commit of the repository that has `file` of this folder under version control, ", changed" or ""."""
    if not _git(folder, "ls-files", "--", file):
        return ""
    commit = _git(folder, "rev-parse", "--short=7", "HEAD")
    return commit + (", changed" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else "")


def _git(folder: Path, *words: str) -> str:
    """Git's answer, "" where it has none. It writes nothing, not even its index."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --- the configuration ---
def algorithms(checkout: Checkout) -> dict[str, Path]:
    """Name -> file: the checkout's own, and the plugin's, which come first."""
    own = {path.stem: path for path in sorted((checkout.config / "algs").glob("*.yaml"))}
    return own | {path.stem: path for path in sorted((HERE / "config").glob("*.yaml"))}


def environments(checkout: Checkout) -> dict[str, Path]:
    return {path.stem: path for path in sorted((checkout.config / "envs").glob("*.yaml"))}


def compose(checkout: Checkout, algorithm: str | None, environment: str | None, words: Sequence[str]) -> dict[str, Any]:
    """The whole configuration: the checkout's default.yaml, environment, algorithm, then `words` (key=value).

    For MMSA, upstream.yaml comes before the algorithm's file. Raises UpstreamError naming the key, the value and the
    cure: for unknown keys, other types than the files have, and what upstream cannot do.
    """
    algorithm_file = _named("--config", algorithm, algorithms(checkout))
    files = [checkout.config / "default.yaml", _named("--env-config", environment, environments(checkout))]
    is_mmsa = _load(algorithm_file).get("plugin") == __package__
    config: dict[str, Any] = {}
    for file in [*files, *([HERE / "upstream.yaml"] if is_mmsa else []), algorithm_file]:
        _merge(config, _load(file))
    config.setdefault("seed", None)
    own = [*(checkout.config / "algs").glob("*.yaml"), *environments(checkout).values()]
    known = {key for path in own for key in _load(path)} | config.keys()
    for word in words:
        _override(config, word, known, is_mmsa)
    n_episodes = config.get("batch_size_run", 1)
    if n_episodes != 1 and any(word.startswith("env_steps_per_update=") for word in words):
        raise UpstreamError(
            f"env_steps_per_update=episode: upstream does {ONLY['env_steps_per_update'][1]}, here {n_episodes}; "
            "leave it out, or set batch_size_run=1"
        )
    if is_mmsa:
        if gone := [key for key in KEYS if key not in config]:
            raise UpstreamError(
                f"{checkout.config / 'default.yaml'}: {gone[0]} is missing, which MMSA reads; it was made for cbc38c0"
            )
        _check_mmsa(config)
    _check_host(config)
    return config


def _named(option: str, name: str | None, files: Mapping[str, Path]) -> Path:
    if name is None or name not in files:
        none = f"{option}={name}: the checkout's src/config has no file of this name, and no path is taken"
        wrong = f"{option} is missing" if name is None else none
        raise UpstreamError(f"{wrong}{nearest(name or '', files)}; available: {', '.join(sorted(files))}")
    return files[name]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UpstreamError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UpstreamError(f"{path}: a mapping of keys to values is wanted")
    return content


def _merge(config: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = copy.deepcopy(value)


def _override(config: dict[str, Any], word: str, known: set[str], is_mmsa: bool) -> None:
    """Lay one `a.b=value` over the configuration."""
    name, separator, text = word.partition("=")
    path = name.split(".")
    if not separator or not all(path):
        raise UpstreamError(f"{word!r}: key=value is wanted after with, as in t_max=100000")
    if path[0] not in known and name not in ONLY:
        raise UpstreamError(f"{word}: no file of this checkout has the key {path[0]}{nearest(path[0], known)}")
    _lay(config, path, parse_value(text), is_mmsa)


def _lay(config: dict[str, Any], path: list[str], value: Any, is_mmsa: bool) -> None:
    """Of a mapping each key, where the configuration has a mapping, whose other keys stay as they are."""
    *groups, key = path
    name = ".".join(path)
    if name in ONLY and not (name == "td_lambda" and is_mmsa):
        allowed, what = ONLY[name]
        if value != allowed:
            raise UpstreamError(
                f"{name}={value}: upstream has no {name}, {what}; leave it out or write {name}={allowed}, "
                "or run without --epymarl"
            )
        return
    parent: Any = config
    for group in groups:
        parent = parent.setdefault(group, {})
        if not isinstance(parent, dict):
            raise UpstreamError(f"{name}={value}: {group} = {parent!r} holds no further keys")
    if not _same_kind(parent.get(key), value):
        raise UpstreamError(f"{name}={value}: {_kind(parent[key])} is wanted, as {parent[key]!r} in the files")
    if not isinstance(parent.get(key), dict):
        parent[key] = value
        return
    for inner, each in value.items():
        _lay(config, [*path, str(inner)], each, is_mmsa)


def parse_value(text: str) -> Any:
    """A Python literal, or true, false, null as YAML has them; everything else is a string."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False, "null": None}.get(text.strip().lower(), text)


def _kind(value: Any) -> str:
    kinds = {bool: "True or False", int: "a number", float: "a number", str: "a word", dict: "a mapping"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _same_kind(old: Any, new: Any) -> bool:
    """Whether a value may take another one's place: whole numbers that of others, None that of None or a word."""
    return old is None or (new is None and isinstance(old, str)) or _kind(old) == _kind(new)


def nearest(name: str, names: Mapping[str, Any] | set[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _check_mmsa(config: Mapping[str, Any]) -> None:
    try:
        MMSAConfig(**{name: config[name] for name in MMSAConfig.model_fields})
        check(config)
    except ValidationError as errors:
        raise UpstreamError("; ".join(_said(error) for error in errors.errors(include_url=False))) from None
    except ValueError as error:
        raise UpstreamError(str(error)) from None


def _said(error: ErrorDetails) -> str:
    """Key, value and cure of one of pydantic's errors."""
    *groups, key = map(str, error["loc"]) if error["loc"] else [""]
    message = _must(error)
    if not key:  # of several keys together; the message names them
        return message
    name = ".".join((*groups, key))
    if error["type"] == "extra_forbidden":
        group: Any = MMSAConfig.model_fields[groups[0]].annotation
        return f"{name}: unknown key{nearest(name, {'.'.join((*groups, one)) for one in group.model_fields})}"
    return f"{name}={error['input']!r}: {message}"


def _must(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Value error, ").replace("Input should", "must")


def _check_ranges(config: Mapping[str, Any]) -> None:
    for kind, keys in RANGES:
        for key in keys:
            try:
                if config.get(key) is not None:
                    TypeAdapter(kind).validate_python(config[key], strict=True)
            except ValidationError as wrong:
                raise UpstreamError(f"{key}={config[key]}: {_must(wrong.errors()[0])}") from None
    interval = config.get("target_update_interval_or_tau") or 1
    if interval > 1 and interval != int(interval):
        raise UpstreamError(
            f"target_update_interval_or_tau={interval}: a whole number of updates, or a share from 0 to 1 is wanted"
        )


def _check_host(config: Mapping[str, Any]) -> None:
    seed, path = config["seed"], config.get("checkpoint_path")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed <= MAX_SEED):
        raise UpstreamError(f"seed={seed!r}: a whole number from 0 to {MAX_SEED} is wanted")
    _check_ranges(config)
    if config.get("runner") == "episode" and config.get("batch_size_run", 1) != 1:
        raise UpstreamError(
            f"batch_size_run={config['batch_size_run']}: runner=episode has one environment; set runner=parallel"
        )
    if not config.get("evaluate") and config.get("batch_size", 1) > config.get("buffer_size", math.inf):
        raise UpstreamError(
            f"batch_size={config['batch_size']} is more than buffer_size={config['buffer_size']} episodes: "
            "learning would never begin"
        )
    if not config.get("name"):
        raise UpstreamError("name is missing: the algorithm's file has to name it")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", str(config["name"])):
        raise UpstreamError(
            f"name={config['name']!r}: it names the record's folder: letters, digits and _ . - are wanted"
        )
    if not config.get("local_results_path"):
        raise UpstreamError(
            "local_results_path is missing: it names the results' folder, as in local_results_path=results"
        )
    if config.get("use_wandb") and not (config.get("wandb_team") and config.get("wandb_project")):
        raise UpstreamError("use_wandb=True needs wandb_team and wandb_project")
    if task_of(config) is None:
        if "map_name" in (config.get("env_args") or {}):
            raise UpstreamError("env_args.map_name is missing: it names the map")
        raise UpstreamError("env_args.key is missing: it names the task, as in env_args.key=Foraging-8x8-2p-3f-v3")
    # upstream would end without a word, or in a traceback
    saved = "mmsa.th" if config.get("plugin") == __package__ else "agent.th"
    if path and not any(each.parent.name.isdigit() for each in Path(path).glob(f"*/{saved}")):
        raise UpstreamError(
            f"checkpoint_path={path}: no folder of saved networks (named after a step, with {saved} in it) is there"
        )
    if config.get("evaluate") and not path:
        raise UpstreamError("evaluate=True needs checkpoint_path: the folder of the networks to load")


def task_of(config: Mapping[str, Any]) -> str | None:
    """The map or the key, as upstream looks for it."""
    env_args = config.get("env_args") or {}
    return env_args.get("map_name") or env_args.get("key")
