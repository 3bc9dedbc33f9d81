"""Publishing a run: its record goes into the repository, without what belongs to a machine and no report reads."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.planning import Run
from experiments.records import Record, faults
from reports.report import SERIES
from reports.runs import Files, numbers, read_files, resumptions
from utils.commands import flat
from utils.config import ConfigError, shown_path
from utils.identity import RECORDING

FACTS = ("backend", "command", "cores", "device", "update_to_data", "versions")  # of info.json
# of each later start, in info.json; of FACTS what was different then
RESUMED = ("step", "stopped", "resumed", "commit", "dirty", "cpu", "backend", "cores", "device", "versions")
LEFT_OUT = RECORDING - {"label"}  # of the configuration and the command
DIGITS = 7  # of a series' values: what 32 bits hold


def publish_run(run: Run, record: Record) -> Path:
    """Copies the finished record to where the repository keeps the run; the new folder.

    :raises ConfigError: where the record is damaged, has no whole learning curve or names a path of this machine, and
        where the folder cannot be written.
    """
    if problems := faults(record):
        raise ConfigError(problems)
    slimmed = slim(read_files(record.folder, problems))
    if paths := dict(_paths(slimmed)):
        cure = "a path of this machine alone; move the file into this checkout, name it from there and run again"
        raise ConfigError(f"{key} = {path!r}: {cure}" for key, path in paths.items())
    files = slimmed._asdict()
    folder = run.published / record.folder.relative_to(run.folder)
    while (folder / "run.json").exists():  # of another configuration: it stays
        folder = folder.with_name(str(int(folder.name) + 1))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config", "info", "metrics", "run"):  # the last one makes it a record
            text = json.dumps(files[name], sort_keys=True, separators=(",", ":"))
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: the run cannot be written there: {error.strerror or error}") from None
    return folder


def slim(files: Files) -> Files:
    """What is published of a record: tests and what a report reads, the configuration, versions, commit, machine."""
    config = {key: value for key, value in files.config.items() if key not in LEFT_OUT}
    info = {key: files.info[key] for key in FACTS if key in files.info}
    if starts := resumptions(files.info):
        info["resumed"] = [_slim_start(note) for note in starts]
    if "command" in info:
        info["command"] = _slim_command(str(info["command"]))
    metrics = {
        name: _slim_series(name, series)
        for name, series in files.metrics.items()
        if name in SERIES or name.startswith("test_")
    }
    return Files(_slim_run(files.run), config, info, metrics)


def _paths(files: Files) -> Iterator[tuple[str, str]]:
    """(key, path) of the paths in the configuration and the command that lead out of this checkout."""
    words = (word.partition("=") for word in _words(str(files.info.get("command", ""))))
    for key, value in (*((key, value) for key, _, value in words), *flat(files.config)):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and (Path(one).is_absolute() or os.path.normpath(one).startswith("../")):
                yield key, one


def _slim_command(command: str) -> str:
    """The command without keys that are left out; files of this checkout are named from there."""
    words = [
        key + sign + (shown_path(Path(value)) if Path(value).is_absolute() else value)
        for key, sign, value in (word.partition("=") for word in _words(command))
        if key not in LEFT_OUT
    ]
    return shlex.join(words[:-1] if words[-1:] == ["with"] else words)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"command = {command!r} in the record's info.json cannot be read: {error}") from None


def _slim_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without paths, packages and environment. The machine's name becomes a mark that tells it from others."""
    host = run.get("host") or {}
    machine = {key: host[key] for key in ("cpu", "gpus", "python_version") if key in host}
    if host.get("os"):
        machine["os"] = host["os"][:1]
    if host.get("hostname"):
        machine["hostname"] = _mark(host["hostname"])
    repositories = (run.get("experiment") or {}).get("repositories") or []
    commits = [{key: one[key] for key in ("commit", "dirty") if key in one} for one in repositories[:1]]
    kept = {key: run[key] for key in ("status", "start_time", "stop_time") if key in run}
    return {**kept, "host": machine, "experiment": {"repositories": commits}}


def _slim_start(note: Mapping[str, Any]) -> dict[str, Any]:
    """When a run went on, by what code and where; the machine's name becomes a mark here, too."""
    kept = {key: note[key] for key in RESUMED if key in note}
    return kept | ({"host": _mark(note["host"])} if note.get("host") else {})


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _slim_series(name: str, series: Mapping[str, Any]) -> dict[str, Any]:
    """Only tests are drawn against time."""
    values = [float(f"{value:.{DIGITS}g}") for value in numbers(series["values"])]
    times = {"timestamps": series["timestamps"]} if name.startswith("test_") and "timestamps" in series else {}
    return {"steps": series["steps"], "values": values, **times}
