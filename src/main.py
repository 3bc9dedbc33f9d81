"""The command line: python src/main.py --config=mmsa --env-config=sc2v2 with env_args.map_name=protoss_5_vs_5"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from utils.needed import missing

try:
    import yaml

    from utils.cli import leave, overrides, refuse
    from utils.config import ConfigError, Parser, available, compose, describe, require_environment
    from utils.mongo import DATABASE, LOCAL_MONGO, MONGO_VARIABLE, Address, address, hide
    from utils.schema import unread
except ModuleNotFoundError as error:
    sys.exit(missing(error))

UPSTREAM_VARIABLE = "EPYMARL_PATH"


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python src/main.py",
        description="Train a multi-agent algorithm on an environment.",
        epilog="example: python src/main.py --config=mmsa --env-config=sc2v2 with env_args.map_name=protoss_5_vs_5 "
        "seed=1 t_max=200000   (every key and what it does: config/default.yaml)",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="ALGORITHM", help="algorithm: a name in config/algs, or a path to a .yaml")
    parser.add_argument(
        "--env-config", metavar="ENVIRONMENT", help="environment: a name in config/envs, or a path to a .yaml"
    )
    parser.add_argument("--list", action="store_true", help="list algorithms, environments, maps and keys, then stop")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML, then stop")
    parser.add_argument(
        "--mongo",
        metavar="URL[/DB]",
        help=f"record the run in MongoDB, too; without a value {LOCAL_MONGO}, without a database {DATABASE}. "
        f"{MONGO_VARIABLE} does the same and is not seen in a list of processes",
    )
    parser.add_argument(
        "--epymarl",
        metavar="PATH",
        help="run in this checkout of upstream EPyMARL, which stays as it is, instead of our own core: mmsa or one of "
        f"its own algorithms; without a value in the checkout that {UPSTREAM_VARIABLE} names",
    )
    parser.add_argument(
        "--watch",
        metavar="RUN",
        help="play the saved networks of a run (the folder of its record, or of its networks) greedily and film it; "
        "with seed=, load_step=, env_args.time_limit= change what is played",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="continue an interrupted run (the folder of its record) from its last checkpoint; with t_max=N for "
        "longer. --resume=last, together with the arguments of a new run: continue the newest interrupted run with "
        "this configuration, or start a new one if there is none; one that is finished with this seed stays",
    )
    parser.add_argument("--out", metavar="FILE", help="the film of --watch: .gif or .mp4 (default: watch.gif in RUN)")
    parser.add_argument("--episodes", metavar="N", type=int, help="episodes that --watch plays (default: 1)")
    parser.add_argument(
        "--trust",
        metavar="NAME",
        action="append",
        help="a plugin or module beyond this checkout that the record of --watch or --resume may import",
    )
    parser.add_argument(
        "--check", action="store_true", help="show what can run on this machine, and how to install what is missing"
    )
    parser.add_argument("words", metavar="with key=value", nargs="*", help="values that replace the files' ones")
    return parser


def bare_options(argv: Sequence[str]) -> list[str]:
    """--mongo and --epymarl with their default attached, so that a word after a bare one is not taken for it."""
    defaults = {"--mongo": LOCAL_MONGO, "--epymarl": os.environ.get(UPSTREAM_VARIABLE, "")}
    words = list(argv)
    for index, word in enumerate(argv):
        following = "".join(argv[index + 1 : index + 2])
        if word in defaults and (following in ("", "with") or following.startswith("-")):
            words[index] = f"{word}={defaults[word]}"
    return words


def listing() -> str:
    """Algorithms and environments with their maps or keys, a line of explanation each."""
    lines = ["algorithms (--config=)"]
    lines += [f"  {name:<10} {describe(path)}" for name, path in available("algs").items()]
    lines += ["", "environments (--env-config=)"]
    entries = {entry.config: entry for entry in import_module("envs").describe()}
    for name, path in available("envs").items():
        entry = entries.get(name)
        lines.append(f"  {name:<10} {entry.text if entry else describe(path)}")
        if entry and entry.names:
            width = max(len(choice) for choice, _ in entry.names)
            lines.append(f"  {'':<10}   with env_args.{entry.argument}=")
            lines += [f"  {'':<10}     {choice:<{width}}  {text}".rstrip() for choice, text in entry.names]
    return "\n".join(lines)


def say_unread(config: Mapping[str, Any], words: Sequence[str]) -> None:
    """Warns of each word of the command line that changes nothing in this run."""
    from utils.logging import get_logger

    idle = unread(config)
    for word in words:
        if (key := word.partition("=")[0].strip()) in idle:
            get_logger().warning("%s changes nothing: %s", word, idle[key])


def train(config: dict[str, Any], files: tuple[str, str], mongo: Address | None = None, resumed: Any = None) -> int:
    """One recorded run; the exit status."""
    return _sacred_run().train(config, files, mongo, resumed)


def _sacred_run() -> ModuleType:
    """utils.sacred_run, whose imports take seconds."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # Sacred's, and of no use to the reader
    return import_module("utils.sacred_run")


def resume(options: argparse.Namespace, mongo: Address | None) -> int:
    """--resume RUN; the run's record is the configuration, so that no other can be named."""
    if options.config is not None or options.env_config is not None:
        raise ConfigError("--config, --env-config: with --resume only where it is --resume=last; RUN has its own")
    if options.print_config:
        raise ConfigError("--print-config: not with --resume RUN, whose configuration is in its config.json")
    resumed = import_module("utils.resume").prepare(options.resume, overrides(options.words), options.trust or ())
    return train(resumed.config, resumed.files, mongo, resumed)


def resume_last(config: dict[str, Any], options: argparse.Namespace, mongo: Address | None) -> int:
    """--resume=last: continues the newest interrupted run with this configuration, or starts a new one, unless there
    is a finished one with this seed."""
    from utils.logging import get_logger

    require_environment(config)
    folder = _sacred_run().results_folder(config)
    found, problems = import_module("utils.resume").last(folder, config, options.trust or ())
    if found is not None and not isinstance(found, Path):
        return train(found.config, found.files, mongo, found)
    for problem in problems:
        get_logger().warning("%s", problem)
    if found is not None:
        get_logger().info("%s is this run, finished: nothing to do (without --resume=last it is run again)", found)
        return 0
    get_logger().info("no interrupted run with this configuration can be continued: a new one is started")
    return train(config, (options.config, options.env_config), mongo)


def watch(options: argparse.Namespace) -> int:
    """--watch; the run's record is the configuration, so that no other can be named."""
    names = ("config", "env_config", "print_config", "mongo", "resume")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, False)]:
        raise ConfigError(f"{', '.join(given)}: not with --watch, which takes the run's own configuration")
    episodes = 1 if options.episodes is None else options.episodes
    player = import_module("utils.watch")
    return player.watch(options.watch, options.out, episodes, overrides(options.words), options.trust or ())


def upstream(options: argparse.Namespace) -> NoReturn:
    """--epymarl: this process becomes the plugin's own command line. Our src is not on its path, since both hosts
    call their modules the same."""
    names = ("watch", "resume", "out", "episodes", "trust", "mongo")
    if given := [f"--{name}" for name in names if getattr(options, name) is not None] + ["--check"] * options.check:
        raise ConfigError(f"{', '.join(given)}: not with --epymarl")
    if not options.epymarl:
        raise ConfigError(f"--epymarl without a value takes the checkout that {UPSTREAM_VARIABLE} names; it is not set")
    if os.environ.get(MONGO_VARIABLE):
        print(f"{MONGO_VARIABLE} is not read with --epymarl: track.py sync uploads the record", file=sys.stderr)
    command = [sys.executable, "-P", "-m", "mmsa", f"--epymarl={options.epymarl}"]
    command += [f"--config={options.config}"] if options.config is not None else []
    command += [f"--env-config={options.env_config}"] if options.env_config is not None else []
    command += [f"--{name}" for name in ("list", "print-config") if getattr(options, name.replace("-", "_"))]
    words = overrides(options.words)
    path = [str(Path(__file__).parents[1] / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    sys.stdout.flush()
    os.execve(sys.executable, [*command, *(["with", *words] if words else [])], environment)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 failed, 2 wrong arguments or configuration, 130 stopped by Ctrl-C."""
    try:
        options = parser().parse_intermixed_args(bare_options(sys.argv[1:] if argv is None else argv))
        sys.argv = [hide(word) for word in sys.argv]  # W&B, for one, records them
        if options.epymarl is not None:
            upstream(options)
        if options.list:
            print(listing())
            return 0
        if options.check:
            return import_module("utils.doctor").check()
        if options.watch is not None:
            return watch(options)
        only_watch = ["out", "episodes", *([] if options.resume is not None else ["trust"])]
        if lost := [f"--{name}" for name in only_watch if getattr(options, name) is not None]:
            raise ConfigError(f"{', '.join(lost)}: only with --watch{' or --resume' * (lost == ['--trust'])}")
        url = options.mongo if options.mongo is not None else os.environ.get(MONGO_VARIABLE, "")
        key = "--mongo" if options.mongo is not None else MONGO_VARIABLE
        mongo = address(url, key) if url or options.mongo is not None else None
        if options.resume is not None and options.resume != "last":
            return resume(options, mongo)
        words = overrides(options.words)
        config = compose(options.config, options.env_config, words)
        if options.print_config:
            print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
            return 0
        say_unread(config, words)
        if options.resume is not None:
            return resume_last(config, options, mongo)
        return train(config, (options.config, options.env_config), mongo)
    except KeyboardInterrupt:
        return 130
    except ConfigError as error:
        return refuse(error)


if __name__ == "__main__":
    leave(main)
