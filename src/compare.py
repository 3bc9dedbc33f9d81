"""Runs an experiment or a search, and reports: python src/compare.py --experiment=quick"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.needed import missing

try:
    from rich.console import Console

    from experiments import forecast, records
    from experiments.attempts import LocalPool, Pool
    from experiments.planning import PART, Loaded, Run, default_jobs, load_experiment, part_of, plan
    from experiments.reporting import conclude, miscounted, publish, report, say, sources_of
    from experiments.scheduler import Overview, conduct
    from experiments.search import load_search
    from utils.cli import leave, overrides, refuse, require_writable
    from utils.commands import flat
    from utils.config import ConfigError, Parser, parse_override
    from utils.signals import ending
except ModuleNotFoundError as error:
    sys.exit(missing(error))


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
        "--reference",
        metavar="ALGORITHM",
        nargs="+",
        help="with --report RUNS: the algorithms or curves to compare with each other one (MMSA)",
    )
    for key in PART:
        text = f"only these {key} of the experiment or search; all parts together are the whole"
        parser.add_argument(f"--{key}", metavar=key[0].upper(), nargs="+", action="extend", help=text)
    parser.add_argument(
        "--publish",
        action="store_true",
        help="run nothing: copy what is finished, made small, to the repository's results/NAME/runs, where it counts "
        "as finished for everyone, and write the table and figures of all that counts there to results/NAME",
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
def run_all(loaded: Loaded, out: Path, runs: Sequence[Run], words: Sequence[str], pool: Pool, console: Console) -> int:
    """All runs and the report; the exit status."""
    overview = Overview(runs, str(loaded), console)
    try:
        outcome = conduct(runs, pool, overview)
    except KeyboardInterrupt:
        finished = sum(records.find(run).finished is not None for run in runs)
        rest = "the same command goes on, and with --report shows what there is"
        say(console, f"interrupted: {finished} of {len(runs)} runs are finished; {rest}")
        return 130
    failed = [f"failed twice: {run}: {text}" for run, text in outcome.failed.items()]
    retried = [(run, text) for run, text in outcome.retried.items() if run not in outcome.failed]
    failed += [f"crashed once, then finished: {run}: {text}" for run, text in retried]
    reported = conclude(loaded, out, runs, words, failed, console)
    return 1 if outcome.failed else reported


def report_only(options: argparse.Namespace) -> int:
    missing = [source for source in options.report if "://" not in source and not Path(source).is_dir()]
    if missing:
        raise ConfigError(f"--report {missing[0]}: there is no such folder")
    require_writable(Path(options.out), f"--out {options.out}")
    print(f"report: {report(options.report, Path(options.out), references=options.reference or ())}")
    return 0


def catch_signals() -> None:
    """Being ended, or the end of the terminal, is Ctrl-C too; not where nohup has the terminal's end ignored."""
    for number in ending():
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> NoReturn:
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # of one terminal's end the system and the shell both tell
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 all finished, 1 some failed or damaged, 2 wrong arguments or files, 130 interrupted."""
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
        if out.resolve() == loaded.published.resolve():
            raise ConfigError(f"--out {options.out}: there lie the published runs, which --publish alone writes")
        if options.report is not None:
            if not Path(sources_of(loaded, out, runs)[0]).is_dir():
                nothing = f"{out}: nothing of {loaded} was run there yet: leave --report out"
                raise ConfigError([nothing, *miscounted(runs)])
            return conclude(loaded, out, runs, words, (), console)
        pool = make_pool(options, runs)
        catch_signals()  # Ray sets its own
        if options.dry_run:
            show_plan(loaded, out, runs, pool.slots, console)
            pool.stop()
            return 0
        return run_all(loaded, out, runs, words, pool, console)
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
