"""Runs an experiment or a search, and reports: python src/compare.py --experiment=quick"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from experiments import forecast, records
from experiments.attempts import LocalPool, Pool, locked
from experiments.planning import PART, Loaded, Run, default_jobs, load_experiment, part_of, plan
from experiments.scheduler import Overview, conduct
from experiments.search import load_search
from utils import config, identity
from utils.cli import leave, overrides, refuse, require_writable
from utils.commands import flat
from utils.config import ConfigError, Parser, nearest, parse_override, shown_path
from utils.naming import suffix
from utils.signals import ending

PUBLISHED = (  # of a report
    "results.csv", "table.md", "figures/aggregate_*.png", "figures/curves_*.png", "figures/world_model_*.png",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python src/compare.py",
        description="Run algorithms on tasks over seeds, and report on them. The same command goes on with what was "
        "interrupted: finished runs are kept, the others go on from their last checkpoint. Published runs, those in "
        "the repository's results/NAME/runs, count as finished.",
        epilog="example: python src/compare.py --experiment=lbf with t_max=200000   (files: config/experiments, "
        "config/searches)",
        allow_abbrev=False,
    )
    parser.add_argument("--experiment", metavar="NAME", help="a file of config/experiments, or the path of one")
    parser.add_argument("--search", metavar="FILE", help="a file of config/searches, or the path of one")
    parser.add_argument(
        "--report",
        metavar="RUNS",
        nargs="*",
        help="run nothing, only report: on folders of runs or mongodb://..., or on what an --experiment has so far",
    )
    parser.add_argument(
        "--reference", metavar="ALGORITHM", help="with --report RUNS: the one to compare with each other one (MMSA)"
    )
    for key in PART:
        text = f"only these {key} of the experiment or search; all parts together are the whole"
        parser.add_argument(f"--{key}", metavar=key[0].upper(), nargs="+", action="extend", help=text)
    parser.add_argument(
        "--publish",
        action="store_true",
        help="run nothing: copy what is finished, made small, to the repository's results/NAME/runs, where it counts "
        "as finished for everyone, and write the table and figures of all that is there to results/NAME",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the runs and the report (results/experiments/NAME)")
    parser.add_argument("--jobs", metavar="N", type=int, help="runs at once (default: as many as the cores allow)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with the estimated time, then stop")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="send the runs to this Ray cluster: auto, HOST:PORT, ray://..."
    )
    parser.add_argument("words", metavar="with key=value", nargs="*", help="values that replace the file's in all runs")
    return parser


def check(options: argparse.Namespace) -> list[str]:
    """The overrides; ConfigError for options that do not go together."""
    _move_words(options)
    chosen = [f"--{name}" for name in ("experiment", "search") if getattr(options, name) is not None]
    if options.report or (options.report is not None and not chosen):
        chosen.append("--report RUNS" if options.report else "--report without RUNS")
    if len(chosen) != 1 or "--report without RUNS" in chosen:
        there = " and ".join(chosen) or "nothing"
        raise ConfigError(f"one of --experiment, --search and --report RUNS is wanted, {there} is given")
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: must be 1 or more")
    words = overrides(options.words)
    if options.report is not None or options.publish:
        _check_runs_nothing(options)
    if options.reference is not None and not options.report:
        raise ConfigError("--reference goes with --report RUNS alone; an experiment's file names its own: reference")
    return words


def _move_words(options: argparse.Namespace) -> None:
    """`--report with key=value`: what follows `with` are neither folders nor names."""
    for name in ("report", *PART):
        values = getattr(options, name) or []
        if "with" in values:
            at = values.index("with")
            setattr(options, name, values[:at])
            options.words = [*values[at:], *options.words]
        if name in PART and getattr(options, name) == []:
            raise ConfigError(f"--{name}: at least one is wanted")


def _check_runs_nothing(options: argparse.Namespace) -> None:
    """ConfigError for what does not go with --publish or --report."""
    if options.report is None:
        mode, why, refused = "--publish", "publishes all that is finished", [*PART]
    elif not options.report:
        mode, why, refused = "--report", "runs nothing", ["publish"]
    else:
        mode, why, refused = "--report RUNS", "knows no plan and runs nothing", ["publish", *PART, "words"]
    if given := [name for name in ("jobs", "ray", "dry_run", *refused) if getattr(options, name)]:
        what = "with key=value" if given[0] == "words" else f"--{given[0].replace('_', '-')}"
        raise ConfigError(f"{what} does not go with {mode}, which {why}")
    if options.report and options.out is None:
        raise ConfigError("--out is missing: the folder of the report")


def make_plan(options: argparse.Namespace, words: Sequence[str]) -> tuple[Loaded, Path, list[Run]]:
    loaded = load_experiment(options.experiment) if options.experiment is not None else load_search(options.search)
    for word in words:
        path, value = parse_override(word)
        keys = [key for key, _ in flat({".".join(path): value})]  # also those of a group: sale={lr: 0.1}
        for searched in loaded.searched:
            if any(f"{key}.".startswith(f"{searched}.") for key in keys):
                raise ConfigError(f"{word} (the command line): {loaded.source} searches over {searched}")
    loaded = part_of(loaded, {key: getattr(options, key) for key in PART})
    out = Path(options.out or Path("results", "experiments", loaded.name))
    return loaded, out, plan(loaded, out, words)


# --- The plan in words ---
def show_plan(loaded: Loaded, out: Path, runs: Sequence[Run], jobs: int, console: Console) -> None:
    """What there is and what is left to do, and how long that takes."""
    done = {run for run in runs if records.find(run).finished is not None}
    left = [run for run in runs if run not in done]
    published = sum(records.published_only(run) is not None for run in runs)
    speeds = forecast.speeds(runs)
    say(console, f"{loaded}: {loaded.title}" if loaded.title else str(loaded))
    console.print(forecast.table(runs, done, speeds), markup=False, highlight=False)
    counted = f"{len(done)} done" + (f" ({published} of them published)" if published else "")
    lines = [f"{len(runs)} runs, {counted}, {len(left)} to run, {jobs} at once, into {out}"]
    if left:
        lines.append(f"estimated time: {forecast.estimated_time(left, jobs, speeds)}")
    say(console, "\n".join([*lines, *miscounted(runs)]))


# --- Runs and report ---
def run_all(loaded: Loaded, out: Path, runs: Sequence[Run], pool: Pool, console: Console) -> int:
    """All runs and the report; the exit status."""
    overview = Overview(runs, str(loaded), console)
    try:
        outcome = conduct(runs, pool, overview)
    except KeyboardInterrupt:
        say(console, f"interrupted: {overview.line()}; the same command goes on, and with --report shows what there is")
        return 130
    failed = [f"failed twice: {run}: {text}" for run, text in outcome.failed.items()]
    retried = [(run, text) for run, text in outcome.retried.items() if run not in outcome.failed]
    failed += [f"crashed once, then finished: {run}: {text}" for run, text in retried]
    reported = conclude(loaded, out, runs, len(outcome.finished), failed, console)
    return 1 if outcome.failed else reported


def conclude(
    loaded: Loaded, out: Path, runs: Sequence[Run], finished: int, problems: Sequence[str], console: Console
) -> int:
    """Says how far the experiment is, and reports on what there is; 1 where there is no report."""
    problems = [*problems, *miscounted(runs)]
    say(console, "\n".join([f"{loaded}: {finished} of {len(runs)} runs are finished", *problems]))
    title = (loaded.title or loaded.name) + (f" (part: {loaded.part})" if loaded.part else "")
    sources = sources_of(loaded, out, runs)
    try:
        out.mkdir(parents=True, exist_ok=True)  # it is not there where all runs are published ones
        with locked(out / "report.lock"):  # two at once would write into each other's files
            reference, ranked = loaded.experiment.reference, bool(loaded.searched)
            page = report(sources, out / "report", title, runs, problems, reference, ranked=ranked)
        say(console, f"report: {page}")
        return 0
    except Exception as error:
        if isinstance(error, ConfigError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        say(
            console,
            f"the runs are recorded, but there is no report; python src/compare.py --report {out}/runs --out DIR",
        )
        return 1


def sources_of(loaded: Loaded, out: Path, runs: Sequence[Run]) -> list[str]:
    """Folders for the report: all that was run there, or that of the part; of published runs those that count."""
    folders = [run.folder for run in runs] if loaded.part else [out / "runs"]
    folders += [record.folder for run in runs if (record := records.published_only(run)) is not None]
    return [str(folder) for folder in folders if any(folder.rglob("run.json"))] or [str(folders[0])]


def miscounted(runs: Sequence[Run]) -> list[str]:
    """What the reader of the results must know besides failures: finished runs of another configuration."""
    problems = []
    for run in runs:
        for other in records.find(run).others:
            what = identity.differences(other.config, run.config) if other.config else ["config.json cannot be read"]
            more = f" and {len(what) - 2} more" if len(what) > 2 else ""
            problems.append(
                f"not counted, of another configuration: {shown_path(other.folder)}: {'; '.join(what[:2])}{more}"
            )
    return problems


def report(
    sources: Sequence[str],
    out: Path,
    title: str = "",
    runs: Sequence[Run] = (),
    problems: Sequence[str] = (),
    reference: str = "",
    wall_clock: bool = True,
    ranked: bool = False,
) -> Path:
    """The page on these runs; those of `runs` that are missing are named there.

    Without such a plan the reference must be among the algorithms that have runs, and is MMSA where none is named.
    """
    from reports.report import write_report
    from reports.runs import Planned, load_runs

    damaged: list[str] = []
    loaded = load_runs(sources, damaged)
    planned = [Planned.of(run.config) for run in runs]
    if not planned:
        reference = reference_among(sorted({run.algorithm for run in loaded}), reference)
    return write_report(
        loaded,
        out,
        title=title,
        planned=planned,
        reference=reference,
        problems=[*problems, *damaged],
        wall_clock=wall_clock,
        ranked=ranked,
    )


def publish(loaded: Loaded, out: Path, runs: Sequence[Run], words: Sequence[str], console: Console) -> int:
    """Copies what is finished into the repository and reports there on all that it has; 1 where a run is damaged.

    Where `words` make other runs than the file's own, their report has a folder of its own. Not against wall-clock:
    published runs are of several machines, which had other work besides.
    """
    from experiments.publish import publish as publish_one

    if loaded.namesake:
        raise ConfigError(
            f"{loaded.source}: --publish would write over the report of {shown_path(loaded.namesake)}, which has the "
            "same name; rename the file"
        )
    published: list[Path] = []
    problems: list[str] = []
    for run in runs:
        there, own = records.published(run).finished, records.here(run).finished
        try:
            if there is None and own is not None:
                published.append(publish_one(run, own))
                say(console, f"published: {shown_path(published[-1])}")
            elif there is not None:
                published.append(there.folder)
                if own is not None:
                    say(console, f"published before, left as it is: {shown_path(there.folder)}")
        except ConfigError as error:
            problems += [f"not published: {run}: {problem}" for problem in error.problems]
    if not published:
        nothing = (
            f"{out}: no run of {loaded.name} is finished there, and none is published: there is nothing to publish"
        )
        raise ConfigError([*(problems or [nothing]), *miscounted(runs)])
    place, title = loaded.published, loaded.title or loaded.name
    if changed := changes(loaded, out, runs, words):
        place, title = place / folder_of(changed), f"{title} ({changed})"
    sources = [shown_path(folder) for folder in published]  # as results.csv has them
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(config.ROOT):
        reference, ranked = loaded.experiment.reference, bool(loaded.searched)
        report(sources, Path(scratch), title, runs, reference=reference, wall_clock=False, ranked=ranked)
        try:
            place.mkdir(parents=True, exist_ok=True)  # it is not there where all runs are of another experiment
            for path in (path for pattern in PUBLISHED for path in Path(scratch).glob(pattern)):
                shutil.copy(path, place)
        except OSError as error:
            raise ConfigError(f"{place}: the report cannot be written there: {error.strerror or error}") from None
    counted = f"{loaded}: {len(published)} of {len(runs)} runs are published"
    say(console, "\n".join([counted, *problems, *miscounted(runs), f"report: {shown_path(place)}"]))
    return 1 if problems else 0


def changes(loaded: Loaded, out: Path, runs: Sequence[Run], words: Sequence[str]) -> str:
    """What the words change of what the file's own runs learn, as "with gamma=0.9 lr=0.25"; "" where nothing."""
    changed: dict[str, Any] = {}
    for run, own in zip(runs, plan(loaded, out) if words else runs, strict=True):
        changed |= identity.changes(run.config, own.config)
    return f"with{suffix(changed)}" if changed else ""


def folder_of(text: str) -> str:
    """A folder's name of any text; of a long one its begin, and a mark that tells it from others."""
    name = re.sub(r"[^\w.=+\-]", "_", text)
    return name if len(name) <= 120 else f"{name[:111]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def reference_among(algorithms: Sequence[str], named: str) -> str:
    """The named algorithm, or MMSA; ConfigError where the named one is not there, in any case of letters."""
    reference, there = named or "MMSA", ", ".join(algorithms)
    if reference.lower() not in map(str.lower, algorithms):
        if named:
            near = nearest(named, algorithms)
            raise ConfigError(f"--reference {named}: no run's algorithm is called so{near}; there are {there}")
        if len(algorithms) > 1:
            print(f"nothing is compared, since no run's algorithm is called MMSA: --reference takes one of {there}")
    return reference


def report_only(options: argparse.Namespace) -> int:
    missing = [source for source in options.report if "://" not in source and not Path(source).is_dir()]
    if missing:
        raise ConfigError(f"--report {missing[0]}: there is no such folder")
    require_writable(Path(options.out), f"--out {options.out}")
    print(f"report: {report(options.report, Path(options.out), reference=options.reference or '')}")
    return 0


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def catch_signals() -> None:
    """Being ended, or the end of the terminal, is Ctrl-C too; not where nohup has the terminal's end ignored."""
    for number in ending():
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> NoReturn:
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # of one terminal's end the system and the shell both tell
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 all finished, 1 some failed, 2 wrong arguments or files, 130 interrupted."""
    catch_signals()
    console = Console()
    if not console.is_terminal:  # a file's lines are as long as they are
        console = Console(width=240)
    try:
        options = parser().parse_intermixed_args(argv)
        words = check(options)
        if options.report:
            return report_only(options)
        loaded, out, runs = make_plan(options, words)
        if options.publish:
            return publish(loaded, out, runs, words, console)
        require_writable(out, f"--out {out}")
        if options.report is not None:
            if not Path(sources_of(loaded, out, runs)[0]).is_dir():
                nothing = f"{out}: nothing of {loaded} was run there yet: leave --report out"
                raise ConfigError([nothing, *miscounted(runs)])
            finished = sum(records.find(run).finished is not None for run in runs)
            return conclude(loaded, out, runs, finished, (), console)
        pool = make_pool(options, runs)
        catch_signals()  # Ray sets its own
        if options.dry_run:
            show_plan(loaded, out, runs, pool.slots, console)
            pool.stop()
            return 0
        return run_all(loaded, out, runs, pool, console)
    except ConfigError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return 130


def make_pool(options: argparse.Namespace, runs: Sequence[Run]) -> Pool:
    """This machine, or the Ray cluster."""
    if options.ray is None:
        return LocalPool(options.jobs or default_jobs(runs))
    from experiments.ray_pool import RayPool

    return RayPool(options.ray, max(run.threads for run in runs), options.jobs)


if __name__ == "__main__":
    leave(main)
