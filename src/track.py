"""Recorded runs: python src/track.py ls|show|best|rm|sync, from files (default: results/sacred) or MongoDB."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from utils.needed import missing

try:
    import yaml

    from reports import statistics
    from reports.grouping import METRICS
    from reports.runs import Damaged, RunRecord, facts_of, load_runs, numbers, read_files, time_of
    from utils.cli import leave, refuse
    from utils.config import ConfigError, Parser, nearest
    from utils.logging import number
    from utils.mongo import (
        MONGO_VARIABLE,
        Column,
        Snapshot,
        Store,
        address,
        connect,
        describe,
        document,
        files_of,
        hide,
        is_mongo,
        parse_time,
        run_uid,
    )
except ModuleNotFoundError as error:
    sys.exit(missing(error))

FOLDER = "results/sacred"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of a file system without them, where runs go on as well
SCORE = "mean of the last tenth"  # what `score` is
SILENT = timedelta(minutes=10)  # after which a run that is to go on is thought to be cut off
HEAD = ("status", "algorithm", "task", "seed", "steps", f"tests: {SCORE}", "started", "run")  # of `ls`


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python src/track.py", description="Runs that were recorded.")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "ls": "a line for each run",
        "show": "everything about one run",
        "best": f"the runs with the best scores: {SCORE} of the tests; none that tests a checkpoint",
        "rm": "delete runs for ever, after asking",
        "sync": "upload runs from files to MongoDB; what is there already stays as it is",
    }
    made = {name: commands.add_parser(name, help=text, description=text) for name, text in texts.items()}
    for name, command in made.items():
        several = "*" if name in ("ls", "best") else "+"
        command.add_argument(
            "runs",
            nargs=several,
            metavar="RUN",
            help="a folder, searched with all that is in it, or mongodb://host/DB, or mongodb://host/DB#ID for one run"
            + (f" (default: {FOLDER})" if several == "*" else ""),
        )
        for key in ("algorithm", "task", "status", "backend", "tag"):
            command.add_argument(f"--{key}", metavar="TEXT", help=f"only runs whose {key} contains this, in any case")
        command.add_argument("--seed", type=int, help="only runs of this seed")
    made["best"].add_argument("--metric", help=f"by default the first there is of {', '.join(METRICS)}")
    made["best"].add_argument("-n", type=from_one, default=10, help="so many runs of each task (default: 10)")
    made["rm"].add_argument("--yes", action="store_true", help="do not ask")
    made["sync"].add_argument("--mongo", metavar="URL[/DB]", help=f"where to (default: {MONGO_VARIABLE})")
    return parser


def from_one(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 is wanted")
    return int(text)


# --- choosing ---
def chosen(options: argparse.Namespace) -> list[RunRecord]:
    """The runs that the options name; ConfigError where there is none. Damaged records are named on standard error."""
    sources = options.runs or [FOLDER]
    parts = [divided(source) for source in sources]
    problems: list[str] = []
    found = load_runs(list(dict.fromkeys(base for base, _ in parts)), problems)
    stored = {base: f"{address(base, 'RUN').shown} run " for base, _ in parts if is_mongo(base)}
    named = {stored[base] + wanted for base, wanted in parts if wanted}
    whole = tuple(stored[base] for base, wanted in parts if base in stored and not wanted)
    runs = [run for run in found if not is_mongo(run.source) or run.source in named or run.source.startswith(whole)]
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    kept = [run for run in runs if fits(run, options)]
    if not kept:
        statuses, wanted, hint = sorted({run.status for run in runs}), options.status or "", ""
        if statuses and not any(wanted.lower() in status.lower() for status in statuses):
            hint = f"; their status is {' or '.join(statuses)}{nearest(wanted, statuses)}"
        raise ConfigError(f"{' '.join(map(hide, sources))}: none of {len(runs)} runs is as wanted{hint}")
    return kept


def divided(source: str) -> tuple[str, str]:
    """mongodb://host/DB#3 as the database and the run in it; "" where the source names no single run."""
    base, _, wanted = source.rpartition("#")  # a password may hold one, too
    return (base, wanted) if is_mongo(source) and re.fullmatch(r"\w+", wanted) else (source, "")


def fits(run: RunRecord, options: argparse.Namespace) -> bool:
    values = {
        "algorithm": f"{run.config.get('name', '')} {run.algorithm}",
        "task": run.task_name,
        "status": run.status,
        "backend": run.backend,
        "tag": " ".join([str(run.config.get("label") or ""), *run.tags]),
    }
    wanted = {key: getattr(options, key) for key in values}
    texts = all(text is None or text.lower() in values[key].lower() for key, text in wanted.items())
    return texts and (options.seed is None or options.seed == run.seed)


def score(run: RunRecord, metric: str | None = None) -> tuple[str, float] | None:
    """(metric, final score, as in a report on this run alone); None where the run has no such metric."""
    for name in (metric,) if metric else METRICS:
        if name in run.metrics and len(run.metrics[name].values):
            steps, values, _ = run.metrics[name]
            curves = statistics.align([(steps, values)], statistics.common_grid([steps]))
            return str(name), float(statistics.final_score(curves)[0])
    return None


# --- commands ---
def ls(runs: Sequence[RunRecord]) -> None:
    print(columns([HEAD, *(row(run) for run in runs)]))


def status_of(run: RunRecord) -> str:
    """Sacred's, which a run that was killed leaves at RUNNING; a run that goes on gives a sign every few seconds."""
    sign = time_of(run.heartbeat)
    now = datetime.now(UTC).replace(tzinfo=None)
    silent = run.status == "RUNNING" and sign is not None and now - sign > SILENT
    return f"RUNNING, silent since {run.heartbeat}" if silent else run.status


def row(run: RunRecord) -> list[str]:
    found = score(run)
    steps = max((series.steps[-1] for series in run.metrics.values() if len(series.steps)), default=0)
    shown = f"{found[0]} {number(found[1])}" if found else "-"
    seed = "-" if run.seed is None else str(run.seed)
    return [status_of(run), run.algorithm, run.task, seed, f"{steps:,.0f}", shown, run.started, run.source]


def columns(rows: Sequence[Sequence[str]]) -> str:
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _printable(text: str) -> str:
    """Of a record from elsewhere: no character that a terminal would obey."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def show(runs: Sequence[RunRecord]) -> None:
    for run in runs:
        facts: dict[str, Any] = {"run": run.source, "status": run.status, "algorithm": run.algorithm, "task": run.task}
        facts |= {"seed": run.seed, "tags": list(run.tags), "started": run.started, "stopped": run.stopped}
        facts |= {"last sign of life": run.heartbeat, "error": run.error, "commit": ", then ".join(run.commits)}
        facts |= {"command": run.command, "host": dict(run.host), "versions": dict(run.versions)}
        last = {
            key: f"{number(s.values[-1])} at step {s.steps[-1]:,.0f}" for key, s in run.metrics.items() if len(s.steps)
        }
        facts |= {"last values": last, "configuration": json.loads(json.dumps(run.config, default=str))}
        shown = {key: value for key, value in facts.items() if value not in ("", None, {}, [])}
        print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120))


def best(runs: Sequence[RunRecord], metric: str | None, n: int) -> None:
    tasks: dict[tuple[str, str], list[tuple[float, RunRecord]]] = {}
    for run in runs:
        if run.config.get("evaluate"):
            print(f"left out: {run.source}: it tests a checkpoint and learns nothing", file=sys.stderr)
        elif found := score(run, metric):
            tasks.setdefault((run.task, found[0]), []).append((found[1], run))
    if not tasks:
        near = nearest(metric, {name for run in runs for name in run.metrics}) if metric else ""
        raise ConfigError(f"none of these runs has {metric or ' or '.join(METRICS)}{near}")
    for (task, name), scored in sorted(tasks.items()):
        print(f"{task}: {name}, {SCORE}")
        top = sorted(scored, key=lambda one: -one[0] if not math.isnan(one[0]) else math.inf)[:n]
        seeds = [["  " + number(v), r.algorithm, f"seed {r.seed}", status_of(r), r.source] for v, r in top]
        print(columns(seeds))


def rm(runs: Sequence[RunRecord], sources: Sequence[str], yes: bool) -> int:
    ls(runs)
    if not yes:
        try:
            answer = input(f"delete {'this run' if len(runs) == 1 else f'these {len(runs)} runs'} for ever? (yes/no) ")
        except EOFError:
            answer = ""
        if answer.strip().lower() != "yes":
            print("nothing was deleted")
            return 1
    folders = [Path(run.source) for run in runs if not is_mongo(run.source)]
    for folder in folders:
        with not_going(folder, "nothing was deleted"):
            pass
    for deleted, folder in enumerate(folders):
        before = f"{deleted} of these {len(runs)} runs were deleted before it"
        with not_going(folder, before):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise ConfigError(f"{folder} cannot be deleted: {error.strerror or error}; {before}") from None
    for source in sources:
        if is_mongo(source):
            where = address(divided(source)[0], "RUN")
            mine = [run for run in runs if run.source.startswith(f"{where.shown} run ")]
            with database(where.url) as store:
                for run in mine:
                    store.remove(run.run_id)
    print(f"{len(runs)} deleted")
    return 0


@contextmanager
def not_going(folder: Path, done: str) -> Iterator[None]:
    """Inside, no process trains the run in this folder. ConfigError where one does; it says what was `done`, too."""
    from utils.checkpoints import CheckpointError, Checkpoints  # imports torch, which the other commands do without
    from utils.resume import CHECKPOINTS

    if not (folder / CHECKPOINTS).is_dir():
        yield
        return
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    try:
        checkpoints.lock()
    except CheckpointError as error:
        raise ConfigError(f"{error}: stop it first; {done}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise ConfigError(f"{folder}: whether a process has this run cannot be told: {error}; {done}") from None
    try:
        yield
    finally:
        checkpoints.unlock()


def sync(runs: Sequence[RunRecord], url: str) -> int:
    if wrong := [run.source for run in runs if is_mongo(run.source)]:
        raise ConfigError(f"{wrong[0]}: sync uploads folders; this is in a database")
    status = 0
    with database(url) as store:
        for run in runs:
            try:
                snapshot = snapshot_of(Path(run.source))
                new = store.save(snapshot)
            except (OSError, Damaged) as error:  # OSError: of a file that somebody else may not read
                print(f"left out: {run.source}: {error}", file=sys.stderr)
                status = 1
            else:
                print(f"{run.source}: run {store.ids[snapshot.uid]}, {new} new points", flush=True)
    return status


def snapshot_of(folder: Path) -> Snapshot:
    """The record in this folder, as it is to stand in a database; without damaged metrics, which `chosen` has named.

    :raises Damaged: where it cannot be read.
    """
    run, config, info, metrics = read_files(folder, [])
    columns: dict[str, Column] = {}
    for name, entry in metrics.items():
        try:
            steps, values, times = entry["steps"], numbers(entry["values"]), entry.get("timestamps") or []
            if len(steps) == len(values) and len(times) in (0, len(steps)):
                columns[name] = Column(steps, values, [parse_time(time) for time in times])
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    try:
        return Snapshot(run_uid(run, config), document(run, config, facts_of(info)), columns, *files_of(folder, run))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"this is no record of a run ({type(error).__name__}: {error})") from None


@contextmanager
def database(url: str) -> Iterator[Store]:
    """The database at this address. No error of the driver is passed on: it may quote the password."""
    where = address(url)
    client = connect(where)
    from bson.errors import BSONError
    from pymongo.errors import PyMongoError

    try:
        yield Store(client, where.database)
    except (PyMongoError, BSONError) as error:
        cure = (
            "is the server running, and may this user write? What was done stays; the same command goes on from there"
        )
        raise ConfigError(f"{where.shown}: {describe(error)}; {cure}") from None
    finally:
        client.close()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 nothing was deleted or a run was left out, 2 wrong arguments or no such run."""
    try:
        options = parser().parse_args(argv)
        if options.command == "sync":
            url = options.mongo or os.environ.get(MONGO_VARIABLE, "")
            if not url:
                raise ConfigError(f"where to? --mongo=mongodb://host/DB, or {MONGO_VARIABLE}")
            address(url, "--mongo" if options.mongo else MONGO_VARIABLE)
            return sync(chosen(options), url)
        elif options.command == "rm":
            return rm(chosen(options), options.runs, options.yes)
        elif options.command == "best":
            best(chosen(options), options.metric, options.n)
        else:
            {"ls": ls, "show": show}[options.command](chosen(options))
        return 0
    except ConfigError as error:
        return refuse(error)


if __name__ == "__main__":
    leave(main)
