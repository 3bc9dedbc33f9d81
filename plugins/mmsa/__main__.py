"""python -m mmsa --config=mmsa --env-config=gymma with env_args.key=...: MMSA in a checkout of upstream EPyMARL."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import yaml

from .checkout import VARIABLE, UpstreamError, algorithms, compose, environments, find_checkout, nearest
from .upstream import train


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.findall(r"(?<!\S)--[\w-]+", message) if message.startswith("unrecognized") else []
        hints = "".join(nearest(option, self._option_string_actions) for option in unknown)
        raise UpstreamError(f"{message}{hints}; python -m mmsa --help explains")


def parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m mmsa",
        description="Train MMSA, or one of EPyMARL's own algorithms, in an unedited checkout of EPyMARL.",
        epilog="example, in the checkout: python -m mmsa --config=mmsa --env-config=gymma with "
        "env_args.key=lbforaging:Foraging-8x8-2p-3f-v3 seed=1 t_max=200000",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="ALGORITHM", help="mmsa, or a file of the checkout's src/config/algs")
    parser.add_argument("--env-config", metavar="ENVIRONMENT", help="a file of the checkout's src/config/envs")
    parser.add_argument(
        "--epymarl", metavar="PATH", help=f"the checkout (default: the current folder if it is one, else {VARIABLE})"
    )
    parser.add_argument("--list", action="store_true", help="list algorithms and environments, then stop")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML, then stop")
    parser.add_argument("words", metavar="with key=value", nargs="*", help="values that replace the files' ones")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 failed, 2 wrong arguments, configuration or checkout, 130 or 143 by a signal."""
    try:
        options = parser().parse_intermixed_args(argv)
        checkout = find_checkout(options.epymarl)
        if options.list:
            return _say(
                f"{checkout}\n"
                f"algorithms (--config=)    {', '.join(sorted(algorithms(checkout)))}\n"
                f"environments (--env-config=)    {', '.join(sorted(environments(checkout)))}\n"
            )
        words = list(options.words)
        if words and words[0] != "with":
            raise UpstreamError(f"{words[0]!r} on the command line is not preceded by the word with")
        words = [word for word in words if word != "with"]
        config = compose(checkout, options.config, options.env_config, words)
        if options.print_config:
            return _say(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return train(checkout, config, (options.config, options.env_config), words)
    except KeyboardInterrupt:
        return 130
    except UpstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _say(text: str) -> int:
    """Prints it; the exit status, where nobody reads on (--list | head) that of a process that SIGPIPE ended."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again at its end
        return 128 + signal.SIGPIPE
    return 0


if __name__ == "__main__":
    sys.exit(main())
