"""What the command lines share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from utils.config import ConfigError
from utils.mongo import hide
from utils.needed import missing


def overrides(words: Sequence[str]) -> list[str]:
    """What follows `with`; ConfigError for words before it."""
    before = list(words[: words.index("with")] if "with" in words else words)
    if before:
        hint = f"write: with {' '.join(before)}" if all("=" in word for word in before) else "only options may be there"
        raise ConfigError(f"{' '.join(before)!r} on the command line is not preceded by the word with; {hint}")
    return [word for word in words if word != "with"]


def require_writable(folder: Path, named: str) -> Path:
    """The folder, or the nearest one above it that is there; ConfigError where nothing can be written in it.

    :param named: the option or key that names the folder, with its value.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{named}: {there} is no writable folder")
    return there


def refuse(error: ConfigError) -> int:
    """Prints the problems, without passwords; the exit status."""
    problems = error.problems
    message = problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems", *problems])
    print(f"error: {hide(message)}", file=sys.stderr)
    return 2


def leave(main: Callable[[], int]) -> NoReturn:
    """Ends the process with main's exit status; where nobody reads what it prints any longer (main.py --list | head)
    without a word, and if that was all, with the status of a process that SIGPIPE ended."""
    unread = 128 + signal.SIGPIPE
    try:
        status = main()
    except BrokenPipeError:
        status = unread
    except ModuleNotFoundError as error:
        print(missing(error), file=sys.stderr)
        status = 1
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or unread
    sys.exit(status)
