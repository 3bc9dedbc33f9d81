"""What the runs of an experiment came to: how many are finished, the report on them, and what the repository keeps."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import records
from experiments.attempts import locked
from experiments.planning import Loaded, Run, plan
from utils import config, identity
from utils.config import ConfigError, nearest, shown_path
from utils.naming import suffix

PUBLISHED = (  # of a report
    "results.csv", "table.md", "figures/aggregate_*.png", "figures/curves_*.png", "figures/world_model_*.png",
)  # fmt: skip


def conclude(
    loaded: Loaded, out: Path, runs: Sequence[Run], words: Sequence[str], problems: Sequence[str], console: Console
) -> int:
    """Says how far the experiment is, and reports on what there is; 1 where there is no report, or a run that is
    finished has no whole record.

    The report of a part, or of what `words` make other runs than the file's own, has a folder of its own.
    """
    finished = [(run, record) for run in runs if (record := records.find(run).finished) is not None]
    damaged = [f"finished, but damaged: {run}: {fault}" for run, record in finished for fault in records.faults(record)]
    problems = [*problems, *miscounted(runs)]
    say(console, "\n".join([f"{loaded}: {len(finished)} of {len(runs)} runs are finished", *damaged, *problems]))
    try:
        changed = changes(loaded, out, runs, words)
    except ConfigError:  # the file alone is no plan, but with the words it was one
        changed = f"with {' '.join(words)}"
    variant = " ".join(filter(None, (f"part {loaded.part}" if loaded.part else "", changed)))
    place, title = of_variant(out / "report", loaded, variant)
    sources = sources_of(loaded, out, runs)
    try:
        out.mkdir(parents=True, exist_ok=True)  # it is not there where all runs are published ones
        with locked(out / "report.lock"):  # two at once would write into each other's files
            references, ranked = loaded.experiment.reference, bool(loaded.searched)
            page = report(sources, place, title, runs, problems, references, ranked=ranked)
        say(console, f"report: {page}")
        return 1 if damaged else 0
    except Exception as error:
        if isinstance(error, ConfigError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        if any(records.has_any(Path(source)) for source in sources):
            again = f"python src/compare.py --report {out}/runs --out DIR"
            say(console, f"the runs are recorded, but there is no report; {again}")
        return 1


def sources_of(loaded: Loaded, out: Path, runs: Sequence[Run]) -> list[str]:
    """Folders for the report: all that was run there, or that of the part; of published runs those that count."""
    folders = [run.folder for run in runs] if loaded.part else [out / "runs"]
    folders += [record.folder for run in runs if (record := records.published_only(run)) is not None]
    return [str(folder) for folder in folders if records.has_any(folder)] or [str(folders[0])]


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
    references: Sequence[str] = (),
    wall_clock: bool = True,
    ranked: bool = False,
) -> Path:
    """The page on these runs; those of `runs` that are missing are named there.

    Without such a plan the references must be among the algorithms that have runs, or their curves; MMSA where none is
    named.
    """
    from reports.report import write_report
    from reports.runs import Planned, load_runs

    damaged: list[str] = []
    loaded = load_runs(sources, damaged)
    planned = [Planned.of(run.config) for run in runs]
    if not planned:
        from reports.grouping import group

        curves = {curve.name: curve.algorithm for task in group(loaded).tasks for curve in task.curves}
        references = references_among(curves, {run.algorithm for run in loaded}, references)
    return write_report(
        loaded,
        out,
        title=title,
        planned=planned,
        references=references,
        problems=[*problems, *damaged],
        wall_clock=wall_clock,
        ranked=ranked,
    )


def publish(loaded: Loaded, out: Path, runs: Sequence[Run], words: Sequence[str], console: Console) -> int:
    """Copies what is finished into the repository and reports there on all that counts; 1 where a run is damaged.

    Where `words` make other runs than the file's own, their report has a folder of its own. Not against wall-clock:
    published runs are of several machines, which had other work besides.
    """
    from experiments.publish import publish_run

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
                published.append(publish_run(run, own))
                say(console, f"published: {shown_path(published[-1])}")
            elif there is not None:
                published.append(there.folder)
                problems += [f"published, but damaged: {run}: {fault}" for fault in records.faults(there)]
                if own is not None:
                    say(console, f"published before, left as it is: {shown_path(there.folder)}")
        except ConfigError as error:
            problems += [f"not published: {run}: {problem}" for problem in error.problems]
    if not published:
        nothing = (
            f"{out}: no run of {loaded.name} is finished there, and none is published: there is nothing to publish"
        )
        raise ConfigError([*(problems or [nothing]), *miscounted(runs)])
    place, title = of_variant(loaded.published, loaded, changes(loaded, out, runs, words))
    sources = [shown_path(folder) for folder in published]  # as results.csv has them
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(config.ROOT):
        references, ranked = loaded.experiment.reference, bool(loaded.searched)
        report(sources, Path(scratch), title, runs, references=references, wall_clock=False, ranked=ranked)
        try:
            place.mkdir(parents=True, exist_ok=True)  # it is not there where all runs are of another experiment
            for path in (path for pattern in PUBLISHED for path in place.glob(Path(pattern).name)):
                path.unlink()  # a figure of a task that is no longer there
            for path in (path for pattern in PUBLISHED for path in Path(scratch).glob(pattern)):
                shutil.copy(path, place)
        except OSError as error:
            raise ConfigError(f"{place}: the report cannot be written there: {error.strerror or error}") from None
    counted = f"{loaded}: {len(published)} of {len(runs)} runs are published"
    say(console, "\n".join([counted, *problems, *miscounted(runs), f"report: {shown_path(place)}"]))
    return 1 if problems else 0


def of_variant(place: Path, loaded: Loaded, variant: str) -> tuple[Path, str]:
    """The folder and the title of a report: below `place` where it is not on all of the file's own runs."""
    title = loaded.title or loaded.name
    return (place / folder_of(variant), f"{title} ({variant})") if variant else (place, title)


def changes(loaded: Loaded, out: Path, runs: Sequence[Run], words: Sequence[str]) -> str:
    """What the words change of what the file's own runs learn, as "with gamma=0.9 lr=0.25"; "" where nothing.

    :raises ConfigError: where the file without them is no plan.
    """
    changed: dict[str, Any] = {}
    for run, own in zip(runs, plan(loaded, out) if words else runs, strict=True):
        changed |= identity.changes(run.config, own.config)
    return f"with{suffix(changed)}" if changed else ""


def folder_of(text: str) -> str:
    """A folder's name of any text; of a long one its begin, and a mark that tells it from others."""
    name = re.sub(r"[^\w.=+\-]", "_", text)
    return name if len(name) <= 120 else f"{name[:111]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def references_among(curves: Mapping[str, str], algorithms: Collection[str], named: Sequence[str]) -> Sequence[str]:
    """The named algorithms or curves, or MMSA; ConfigError where a named one is not there, in any case of letters.

    :param curves: name -> algorithm, of complete runs.
    :param algorithms: of all runs.
    """
    from reports.scores import is_reference

    known = [*sorted(algorithms), *(name for name in sorted(curves) if name not in algorithms)]
    for name in named:
        if name.lower() not in map(str.lower, known):
            near = nearest(name, known)
            there = ", ".join(known)
            raise ConfigError(f"--reference {name}: no run's algorithm or curve is called so{near}; there are {there}")
    references = named or ["MMSA"]
    own = [sum(is_reference(*curve, name) for curve in curves.items()) for name in references]
    if len(curves) > 1 and not any(0 < count < len(curves) for count in own):
        why = f"all curves are of {references[0]}" if any(own) else "no run's algorithm is called MMSA"
        print(f"nothing is compared, since {why}: --reference takes one of {', '.join(curves if any(own) else known)}")
    return references


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
