"""The configuration: default <- environment <- algorithm <- command line, merged, and checked before a run begins."""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import importlib
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from utils import hosts
from utils.schema import HostConfig, cross_checks

ROOT = hosts.ROOT
COMMAND_LINE = "the command line"
MAX_BYTES = 2**20  # of one YAML file
FILES = ("plugin", "env_module")  # keys that may name a Python file
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_LEAVE_OUT = "leave it out, or declare it in the Config of a plugin whose code reads it"
# Keys of upstream's own files that there are not here, and what takes their place
UPSTREAM = {
    "add_value_last_step": f"returns always bootstrap where an episode is cut off; {_LEAVE_OUT}",
    "hypergroup": "compare.py --search tells its points apart itself; leave it out, or use label",
    "optim_alpha": f"the optimiser is Adam; {_LEAVE_OUT}",
    "optim_eps": f"the optimiser is Adam; {_LEAVE_OUT}",
    "repeat_id": "seed tells repetitions apart; leave it out",
    "save_replay": "--watch RUN plays and films saved networks",
    "wandb_save_model": "record_checkpoint=True keeps the networks with the run's record",
    "env_args.pretrained_wrapper": "upstream's trained opponents are in its checkout (--epymarl); leave it out",
}
# Its algorithms and environments that there are not here, likewise; agents that share nothing (iql_ns): see _instead
UPSTREAM_FILES = dict.fromkeys(
    ("coma", "coma_ns", "ia2c", "ia2c_ns", "maddpg", "maddpg_ns", "pac_ns", "pac_dcg_ns"),
    "upstream's own runs in its checkout, with --epymarl PATH",
) | dict.fromkeys(
    ("sc2", "sc2_beta", "smaclite"),
    "--env-config=smax has SMAC's maps (3m, 2s3z, ...) in SMAX (not StarCraft II); upstream's own: --epymarl PATH",
)
T = TypeVar("T")
Path_ = tuple[str, ...]  # of a key: env_args.map_name is ("env_args", "map_name")


class ConfigError(Exception):
    """What is wrong with a configuration, all of it: one line a problem."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Parser(argparse.ArgumentParser):
    """A command line whose errors are those of a configuration: whoever prints them takes passwords out.

    In --out=~/runs ~ is the home folder, too: a shell says so only where a word begins with it.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_at_home(word) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        unknown = re.findall(r"(?<!\S)--[\w-]+", message) if message.startswith("unrecognized") else []
        hints = "".join(nearest(option, self._option_string_actions) for option in unknown)
        raise ConfigError(f"{message}{hints}; {self.prog} --help explains")


def _at_home(word: str) -> str:
    option, sign, value = word.partition("=")
    return option + sign + expanduser(value) if option.startswith("--") else word


# --- YAML files ---
class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, and reads numbers as people do: YAML 1.1 takes 010 for 8, 1:30 for 90
    and 2026-02-28 for a date (here they are words), and 1e-3 for a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            word = isinstance(key, str)
            if not word or key in seen:
                problem = f"the key {key!r} is {'there twice' if word else 'no word'}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in (_INT, _FLOAT, _DATE)]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in (
    (_INT, r"^[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    (_FLOAT, r"^[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9_]+|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?$"),
    (_FLOAT, r"^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+0123456789."))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. ConfigError names the file, and the line where there is one."""
    shown = shown_path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{shown}: larger than {MAX_BYTES} bytes, this is no configuration file")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{shown}{line}: {error.problem or error.context}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # no UTF-8; !!int x; [[[[...
        raise ConfigError(f"{shown}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{shown}: a mapping of keys to values is wanted, this is a {type(content).__name__}")
    return content


def available(kind: str) -> dict[str, Path]:
    """The config files of a kind, "algs" or "envs": name -> path. Those of the plugins in this tree are among them."""
    folders = [ROOT / "config" / kind]
    if kind == "algs":
        folders += sorted(ROOT.glob("plugins/*/config"))
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def describe(path: Path) -> str:
    """The explanation of a config file: its first comment line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
    return ""


def find(kind: str, name: str | None) -> Path:
    """The config file of that name, or the user's own YAML file itself; ConfigError lists what there is."""
    option, thing = ("--config", "algorithm") if kind == "algs" else ("--env-config", "environment")
    files = available(kind)
    there = f"available: {', '.join(files) or 'none'}"
    if not name:
        raise ConfigError(f"{option} is missing: it names the {thing}; {there}")
    own = name.endswith(".yaml")
    if own and os.path.isfile(name):
        return Path(name).resolve()
    if own or not _NAME.fullmatch(name):
        wanted = "there is no such file" if own else "a name without path, or a path that ends in .yaml, is wanted"
        raise ConfigError(f"{option}={name}: {wanted}; {there}")
    if name not in files:
        raise ConfigError(f"{option}={name}: there is no such {thing}{_instead(name, files)}; {there}")
    return files[name]


def _instead(name: str, files: Mapping[str, Path]) -> str:
    """What to take in the place of a file that there is not."""
    shared = name.removesuffix("_ns")
    if name in UPSTREAM_FILES:
        return f"; {UPSTREAM_FILES[name]}"
    if shared == name or shared not in files:
        return nearest(name, files)
    critic = load_yaml(files[shared]).get("critic_type")
    words = f"agent=rnn_ns obs_agent_id=False{f' critic_type={critic}_ns' if critic else ''}"
    return f"; agents that share no parameters: --config={shared} with {words}"


# --- Command line ---
def parse_override(text: str, source: str = COMMAND_LINE) -> tuple[Path_, Any]:
    """`a.b=value` as (("a", "b"), value). The first "=" separates; the value is a Python literal, YAML or a string."""
    key, separator, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not separator or not all(path):
        raise ConfigError(f"{text!r} ({source}): key=value is wanted, as in t_max=100000 or env_args.map_name=3m")
    return path, parse_value(value)


def parse_value(text: str) -> Any:
    """A value of the command line: True or true, None or null, 1e-3, [1, 2], {"a": 1}; everything else is a string."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return _plain(ast.literal_eval(text.strip()))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        value = _plain(yaml.load(text, Loader=_Loader))
    except (ValueError, TypeError, yaml.YAMLError, RecursionError):
        return text
    if value is None:  # also what YAML makes of a mere comment
        return None if text.strip().lower() in ("null", "~") else text
    return text if isinstance(value, str) else value


def written_value(value: Any) -> str:
    """The inverse of `parse_value`; ValueError where there is none, as of bytes."""
    for write in (str, repr, _as_yaml):
        text = write(value)
        if repr(parse_value(text)) == repr(value):
            return text
    raise ValueError("a number, a word, true, false, null, a list or a mapping is wanted")


def _as_yaml(value: Any) -> str:
    """In one line; it has a word for infinity, which Python's literals lack."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).split("\n")[0]


def _plain(value: Any) -> Any:
    """The value as JSON types, tuples as lists; ValueError for others (sets, bytes)."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise ValueError(f"{value!r} is no plain value")


# --- Composition ---
def compose(
    algorithm: str | None,
    environment: str | None,
    overrides: Sequence[str] = (),
    *,
    file: str = "",
    file_overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The whole checked configuration of a run; its plugin, if any, is imported and registered.

    :param file_overrides: of an experiment's `file`; they come before those of the command line.
    :raises ConfigError: with all problems, each naming the key, its value and the nearest valid name or the range.
    """
    problems: list[str] = []
    config: dict[str, Any] = {}
    sources: dict[Path_, str] = {}
    for kind, name in (("", "default"), ("envs", environment), ("algs", algorithm)):
        layer = _attempt(problems, _layer, kind, name)
        if layer is not None:
            path, content = layer
            if kind == "algs" and "name" not in content:
                problems.append(
                    f"{shown_path(path)}: name is missing: what the algorithm is called in records and reports"
                )
            _merge(config, content, shown_path(path), sources)
    complete = not problems
    for texts, source in ((file_overrides, file), (overrides, COMMAND_LINE)):
        for text in texts:
            _attempt(problems, _override, config, text, sources, source)
    if not complete:  # which keys there are is known only with all files
        raise ConfigError(problems)
    checked, wrong = check(config, sources)
    if problems or wrong:
        raise ConfigError(problems + wrong)
    return checked


def replaced(
    config: Mapping[str, Any], overrides: Sequence[str], source: str
) -> tuple[dict[str, Any], dict[Path_, str]]:
    """A configuration that came from `source` with the command line's values laid over it, and where each value came
    from. Nothing is checked, and nothing that it names is imported."""
    changed, problems = copy.deepcopy(dict(config)), list[str]()
    sources: dict[Path_, str] = {(key,): source for key in config}
    for text in overrides:
        _attempt(problems, _override, changed, text, sources, COMMAND_LINE)
    if problems:
        raise ConfigError(problems)
    return changed, sources


def complete(config: dict[str, Any], sources: Mapping[Path_, str]) -> dict[str, Any]:
    """A whole configuration, checked as `compose` does. ConfigError with all problems."""
    checked, wrong = check(config, sources)
    if wrong:
        raise ConfigError(wrong)
    return checked


def check(config: dict[str, Any], sources: Mapping[Path_, str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """The configuration with its models' defaults filled in (incomplete where it is wrong), and all that is wrong."""
    report = _Report(config, sources or {})
    host = {key: value for key, value in config.items() if key in HostConfig.model_fields}
    extra = {key: value for key, value in config.items() if key not in HostConfig.model_fields}
    checked = report.validate(HostConfig, host)
    plugin, registered = _register(config, report)
    plugin_config: type[BaseModel] | None = plugin.Config if plugin is not None else None
    env_args = _env_model(config.get("env"))
    models = (((), HostConfig), ((), plugin_config), (("env_args",), env_args))
    report.valid = sorted(
        {".".join((*prefix, *path)) for prefix, model in models if model is not None for path in _model_paths(model)}
    )
    if plugin_config is not None:
        of_both = {key: config[key] for key in plugin_config.model_fields if key in host}  # may narrow the host's keys
        checked |= report.validate(plugin_config, extra | of_both)
    elif registered:
        for key, value in extra.items():
            report.add_unknown((key,), value)
    if env_args is not None and isinstance(config.get("env_args"), dict):
        checked["env_args"] = report.validate(env_args, config["env_args"], ("env_args",))
    if not report.problems:
        _check_together(checked, plugin, report)
    return checked, list(report.problems.values())


def _register(config: Mapping[str, Any], report: _Report) -> tuple[ModuleType | None, bool]:
    """Fills the registries with what the plugin and the environment's module have: the plugin, and False where it could
    not be, so that nobody knows its keys."""
    plugin, registered = None, config.get("plugin") != ""
    if isinstance(config.get("plugin"), str) and config["plugin"]:
        try:
            plugin = hosts.import_plugin(config["plugin"])
            hosts.register_plugin(config["plugin"])
        except hosts.PluginError as error:
            report.add(("plugin",), str(error))
            registered = False
    if isinstance(config.get("env_module"), str) and config["env_module"]:
        try:
            hosts.register_environment(config["env_module"])
        except hosts.PluginError as error:
            report.add(("env_module",), str(error))
    return plugin, registered


def _check_together(config: dict[str, Any], plugin: ModuleType | None, report: _Report) -> None:
    """Names in registries, and what only several keys together show, of a configuration whose keys are all right."""
    for key in hosts.REGISTRIES:
        names = hosts.names(key)
        if config[key] is not None and config[key] not in names:
            close = nearest(config[key], names)
            report.add((key,), f"there is no such {key}{close}; available: {', '.join(names)}")
    for key, problem in cross_checks(config).items():
        report.add((key,), problem)
    if plugin is not None and hasattr(plugin, "check"):
        try:
            plugin.check(config)
        except ValueError as error:
            report.problems[("plugin", "check")] = str(error)
    if config["use_cuda"] is True and not importlib.import_module("torch").cuda.is_available():
        report.add(("use_cuda",), "torch finds no CUDA device; use_cuda=auto or use_cuda=false runs on the CPU")


class _Report:
    """Collects the problems of a configuration: one a key, each with the value and the place that set it."""

    def __init__(self, config: Mapping[str, Any], sources: Mapping[Path_, str]) -> None:
        self.config, self.sources = config, sources
        self.problems: dict[Path_, str] = {}
        self.valid: list[str] = []  # dotted names of all keys

    def add(self, path: Path_, problem: str) -> None:
        value: Any = self.config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        places = [self.sources[path[:n]] for n in range(1, len(path) + 1) if path[:n] in self.sources]
        if isinstance(value, Mapping):  # what was last laid over it
            places += [place for key, place in self.sources.items() if key[: len(path)] == path]
        source = places[-1] if places else ""
        self.problems[path] = f"{'.'.join(path)} = {shown_value(value)}{f' ({source})' if source else ''}: {problem}"

    def add_unknown(self, path: Path_, value: Any) -> None:
        """An unknown key; where its inner keys were given one by one, each of these, as it was given."""
        if path not in self.sources and isinstance(value, Mapping) and value:
            for key, inner in value.items():
                self.add_unknown((*path, key), inner)
            return
        same = [valid for valid in self.valid if valid.split(".")[-1] == path[-1]]
        name = ".".join(path)
        group = f"{path[0]}." if len(path) > 1 and path[0] in self.valid else ""  # in a group its own keys are near
        inner = name.removeprefix(group)
        near = nearest(inner, [key.removeprefix(group) for key in self.valid if key.startswith(group)], group)
        if not near and group == "env_args." and "env_args.make" in self.valid:
            near = f"; env_args.make.{inner}={value} passes it to the environment's constructor"
        close = nearest(name, same) or (f"; did you mean {same[0]}?" if same else near)
        others = (one for one in available("algs").items() if shown_path(one[1]) not in self.sources.values())
        owner = next((name for name, file in others if path[0] in (_attempt([], load_yaml, file) or ())), "")
        hint = f"; it belongs to --config={owner}" if owner and path[0] not in self.valid else close
        hint = f"; {UPSTREAM[name]}" if name in UPSTREAM else hint
        self.add(path, "unknown key" + hint)

    def validate(self, model: type[BaseModel], values: Mapping[str, Any], prefix: Path_ = ()) -> dict[str, Any]:
        """The values by the model, with its defaults; what does not fit is added to the problems."""
        try:
            # A model that says nothing of further keys would leave them out in silence.
            extra: Literal["forbid"] | None = None if "extra" in model.model_config else "forbid"
            return model.model_validate(dict(values), extra=extra).model_dump()
        except ValidationError as errors:
            schema = _schema(model)
            for error in errors.errors(include_url=False):
                path = _key_path(values, error["loc"])
                if error["type"] == "extra_forbidden":
                    self.add_unknown((*prefix, *path), error["input"])
                elif error["type"] == "missing":
                    self.add((*prefix, *path), "missing; its value must be " + (_allowed(schema, path) or "given"))
                else:
                    own = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
                    allowed = "" if error["type"] in ("value_error", "assertion_error") else _allowed(schema, path)
                    problem = f"must be {allowed}" if allowed else own.replace("Input should", "must")
                    if (
                        error["type"] == "int_type"
                        and isinstance(error["input"], float)
                        and error["input"].is_integer()
                    ):
                        problem += f", written without fraction or exponent: {int(error['input'])}"
                    if path or prefix:
                        self.add((*prefix, *path), problem)
                    else:  # of several keys together; the message names them
                        self.problems[(model.__name__,)] = problem
            return {}


# --- Helpers ---
def _attempt(problems: list[str], action: Callable[..., T], *args: Any) -> T | None:
    """The action's result; where it raises ConfigError its problems are collected instead."""
    try:
        return action(*args)
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _layer(kind: str, name: str | None) -> tuple[Path, dict[str, Any]]:
    path = find(kind, name) if kind else ROOT / "config" / f"{name}.yaml"
    return path, load_layer(path)


def load_layer(path: Path) -> dict[str, Any]:
    """What a configuration file lays over those before it."""
    content = load_yaml(path)
    for key in FILES:
        name = content.get(key)
        if isinstance(name, str) and name.endswith(".py"):  # a file beside the YAML, wherever the run is started
            content[key] = shown_path(path.parent / name)  # the same in every checkout
    return content


def _merge(
    config: dict[str, Any], layer: Mapping[str, Any], source: str, sources: dict[Path_, str], prefix: Path_ = ()
) -> None:
    """Lay `layer` over `config` in place, mappings key by key, and note where each value came from."""
    for key, value in layer.items():
        path = (*prefix, key)
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _merge(config[key], value, source, sources, path)
        else:
            config[key] = value
            sources[path] = source


def _override(config: dict[str, Any], text: str, sources: dict[Path_, str], source: str) -> None:
    path, value = parse_override(text, source)
    if len(path) == 1 and path[0] in FILES and isinstance(value, str) and value.endswith(".py"):
        value = shown_path(hosts.file_of(value).absolute())  # found again from any working directory
    parent = config
    for depth, key in enumerate(path[:-1], start=1):
        inner = parent.setdefault(key, {})
        if not isinstance(inner, dict):
            name = ".".join(path[:depth])
            raise ConfigError(f"{text} ({source}): {name} = {inner!r} holds no further keys")
        parent = inner
    _merge(parent, {path[-1]: value}, source, sources, path[:-1])


def require_environment(config: Mapping[str, Any]) -> None:
    """ConfigError where the environment of this configuration cannot run here. Nothing is written."""
    envs = importlib.import_module("envs")
    try:
        envs.require(config)
    except (envs.MissingBackendError, envs.EnvContractError, ValueError) as error:
        raise ConfigError(str(error)) from None


def _env_model(env: Any) -> type[BaseModel] | None:
    """The model of the environment's arguments, where it has one."""
    models: Mapping[str, type[BaseModel]] = importlib.import_module("envs").ARGS
    return models.get(env) if isinstance(env, str) else None


def _model_paths(model: type[BaseModel]) -> Iterator[Path_]:
    """The paths of all keys of a model, groups and what is in them."""
    for key, field in model.model_fields.items():
        yield (key,)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((key, *rest) for rest in _model_paths(field.annotation))


def _key_path(values: Any, loc: tuple[int | str, ...]) -> Path_:
    """The keys at the start of a pydantic location; what follows them names branches of a union."""
    path: list[str] = []
    for part in loc:
        if not isinstance(values, Mapping) or not isinstance(part, str):
            break
        path.append(part)
        values = values.get(part)
    return tuple(path)


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    try:
        return model.model_json_schema()
    except Exception:  # a model with types that JSON schema has no words for: messages do without the range
        return {}


def _allowed(schema: Mapping[str, Any], path: Path_) -> str:
    """In words, which values the key at `path` takes: "a number from 0 to 1"."""
    definitions = schema.get("$defs", {})
    node: Mapping[str, Any] = schema
    for key in path:
        node = node.get("properties", {}).get(key, {})
        while "$ref" in node:
            node = definitions.get(node["$ref"].rsplit("/", 1)[-1], {})
    return _words(node) if path else ""


def _words(node: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(filter(None, map(_words, node["anyOf"])))
    if "const" in node:
        return repr(node["const"])
    if "enum" in node:
        return " or ".join(map(repr, node["enum"]))
    if "pattern" in node and "description" in node:
        return str(node["description"])
    kinds = {
        "integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a word",
        "array": "a list", "object": "a mapping of keys to values", "null": "null",
    }  # fmt: skip
    text = kinds.get(node.get("type", ""), "")
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f"{text} from {low:g} to {high:g}" if node["type"] == "number" else f"{text} from {low} to {high}"
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " ".join([text, *(f"{sign} {node[limit]:g}" for limit, sign in limits.items() if limit in node)])


def nearest(name: str, names: Iterable[str], group: str = "") -> str:
    """In words, the one of the names that may be meant, with its group before it; "" where none is near."""
    lower = {one.lower(): one for one in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {group}{lower[close[0]]}?" if close else ""


def shown_value(value: Any) -> str:
    """The value as messages have it, its end left out where it is long."""
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."


def shown_path(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
