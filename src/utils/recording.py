"""The record of a run: Sacred's files, written in proportion to what was logged, and their delivery to MongoDB."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sacred.dependencies import get_digest
from sacred.observers import FileStorageObserver
from sacred.observers.base import RunObserver

from reports.runs import JOURNAL, commit_of, facts_of, read_metrics, resumptions
from utils.config import ConfigError
from utils.logging import record_lock
from utils.mongo import (
    ENDS,
    Address,
    Column,
    Snapshot,
    Store,
    connect,
    describe,
    document,
    files_of,
    parse_time,
    run_uid,
    without_tokens,
)

LOG = logging.getLogger("epymarl")
BEAT = 10.0  # seconds between two heartbeats
GROWTH = 1.5  # info.json and metrics.json are written again when they have so many times the points that they had

PAUSES = (1.0, 60.0)  # seconds between two attempts to reach MongoDB: the first, doubled up to the last
LAST_PATIENCE = 5.0  # seconds in which a run that has ended still tries, when MongoDB is away
UPLOAD_PATIENCE = 60.0  # seconds in which it delivers, when MongoDB is there


class Heartbeat:
    """Brings what was logged to the observers, every BEAT seconds within `with`, at its end, and when `beat` is called.

    In the place of Sacred's own (options={"--beat-interval": "0"}), which another beat could overtake.
    """

    def __init__(self, run: Any) -> None:
        self._run, self._lock, self._over = run, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def beat(self) -> None:
        with self._lock:
            self._run._emit_heartbeat()

    def _beat_on(self) -> None:
        while not self._over.wait(BEAT):
            self.beat()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self.beat()


class RunFolder(FileStorageObserver):
    """Sacred's files of a run, written while nobody changes what they record.

    Sacred's own observer writes every series again at each heartbeat: the bytes grow with the square of the run. Here a
    heartbeat appends its new points to a journal; info.json and metrics.json are written again when the run has GROWTH
    times as many points, and at its end, which also removes the journal. All writing together is then at most
    1 + GROWTH / (GROWTH - 1) times what the finished files hold, for the two files and the journal.

    While nothing can be written, as on a full disk, the run goes on, and what is missing is written later: `problem` is
    then the error, else None.
    """

    def __init__(self, basedir: Path) -> None:
        super().__init__(basedir)
        self.points = self.written_points = 0
        self.written_facts: dict[str, Any] = {}
        self.series: dict[str, dict[str, list[Any]]] = {}
        self.unwritten = False  # the journal lacks points
        self.problem: OSError | None = None
        self.said = False

    def started_event(self, ex_info: Any, *args: Any, **kwargs: Any) -> str:
        """ConfigError where the record cannot be begun, as on a full disk; no half of it is left."""
        try:
            return super().started_event(without_tokens({"experiment": ex_info})["experiment"], *args, **kwargs)
        except OSError as error:
            if self.dir is not None:
                shutil.rmtree(self.dir, ignore_errors=True)
                self.dir = None
            raise _unwritable(Path(self.basedir), error) from None

    def find_or_save(self, filename: str, store_dir: Path) -> Path:
        """The copy of a source file. All runs share it: it is whole, or it is written again."""
        path = Path(filename)
        kept = store_dir / f"{path.stem}_{get_digest(filename)}{path.suffix}"
        if not kept.exists() or kept.stat().st_size != path.stat().st_size:
            store_dir.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
            try:
                shutil.copyfile(path, part)
                os.replace(part, kept)
            finally:
                part.unlink(missing_ok=True)
        return kept

    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any]) -> None:
        """Appends the new points to the journal."""
        if not metrics_by_name:
            return
        with record_lock:
            self._append(metrics_by_name)

    def sync(self) -> None:
        """Waits until the points of all heartbeats are on disk; OSError where they are not."""
        with record_lock:
            if self.problem is not None:
                raise self.problem
            if self.path(JOURNAL).exists():
                with self.path(JOURNAL).open("rb") as file:
                    os.fsync(file.fileno())

    def _try(self, write: Callable[[], None]) -> bool:
        """Whether it could be written; says once where it could not."""
        try:
            write()
        except OSError as error:
            self.problem = error
            if not self.said:
                self.said = True
                LOG.warning("the record cannot be written (%s); the run goes on, the rest is written later", error)
            return False
        return True

    def _append(self, metrics_by_name: Mapping[str, Mapping[str, Any]]) -> None:
        new = {
            name: {
                "steps": entry["steps"],
                "values": entry["values"],
                "timestamps": [time.isoformat() for time in entry["timestamps"]],
            }
            for name, entry in metrics_by_name.items()
        }
        for name, entry in new.items():
            kept = self.series.setdefault(name, {"steps": [], "values": [], "timestamps": []})
            for key, values in entry.items():
                kept[key].extend(values)
            self.points += len(entry["steps"])
        self.unwritten = not self._try(lambda: self._write_journal(self.series if self.unwritten else new))

    def _write_journal(self, points: Mapping[str, Any]) -> None:
        """Appends a line to the journal, or writes it anew where it may end in half a line."""
        line = json.dumps(points) + "\n"
        if not self.unwritten:
            with self.path(JOURNAL).open("a", encoding="utf-8") as file:
                file.write(line)
        else:
            self.path(JOURNAL + ".part").write_text(line, encoding="utf-8")
            os.replace(self.path(JOURNAL + ".part"), self.path(JOURNAL))

    def heartbeat_event(self, info: Mapping[str, Any], captured_out: str, beat_time: Any, result: Any) -> None:
        with record_lock:
            self.info = info
            if self._try(lambda: self._save(info, captured_out, beat_time, result)) and not self.unwritten:
                self.problem = None

    def _save(self, info: Mapping[str, Any], captured_out: str, beat_time: Any, result: Any) -> None:
        facts = facts_of(info)
        due = facts != self.written_facts or self.points > GROWTH * self.written_points
        if self.unwritten:
            self._write_journal(self.series)
            self.unwritten = False
        super().heartbeat_event(info if due else {}, captured_out, beat_time, result)
        self.info = info
        if due:
            self.save_metrics()
            self.written_facts = facts

    def artifact_event(self, *args: Any, **kwargs: Any) -> None:
        try:
            with record_lock:  # a heartbeat writes run.json, too
                super().artifact_event(*args, **kwargs)
        except OSError as error:  # Sacred would call us no more
            LOG.warning("%s is not kept in the record: %s", args[0] if args else kwargs["name"], error)

    def completed_event(self, stop_time: datetime, result: Any) -> None:
        """A record that is not whole is one of a failed run, which goes on from its last checkpoint."""
        self.finish()
        if self.problem is None:
            self._try(lambda: super(RunFolder, self).completed_event(stop_time, result))
        if self.problem is not None:
            why = [f"the record is not complete: {self.problem}"]
            self._try(lambda: super(RunFolder, self).failed_event(stop_time, why))

    def interrupted_event(self, *args: Any, **kwargs: Any) -> None:
        self.finish()
        super().interrupted_event(*args, **kwargs)

    def failed_event(self, *args: Any, **kwargs: Any) -> None:
        if self.dir is not None:  # the record was begun
            self.finish()
            super().failed_event(*args, **kwargs)

    def finish(self) -> None:
        """Everything is written, and the journal of no use any more; where it cannot be, the journal is left."""
        with record_lock:
            if self._try(self._finish):
                self.problem = None

    def _finish(self) -> None:
        if self.info:
            self.save_json(self.info, "info.json")
        self.save_metrics()
        self.path(JOURNAL).unlink(missing_ok=True)

    def save_metrics(self) -> None:
        if self.series:
            self.path("metrics.json.part").write_text(json.dumps(self.series), encoding="utf-8")
            os.replace(self.path("metrics.json.part"), self.path("metrics.json"))
        self.written_points = self.points

    def save_json(self, obj: Any, filename: str) -> None:
        """Replaces the file as a whole: a reader never sees half of it."""
        super().save_json(obj, filename + ".part")
        os.replace(self.path(filename + ".part"), self.path(filename))

    def path(self, filename: str) -> Path:
        assert self.dir is not None
        return Path(self.dir) / filename


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"local_results_path: the record cannot be written in {folder}: {error.strerror}")


class ResumedFolder(RunFolder):
    """The files of a run that goes on. What it recorded after a checkpoint is left out: it comes again.

    points: how many each metric had then. changed: whether the configuration is another one now.
    """

    def __init__(self, folder: Path, points: Mapping[str, int], changed: bool) -> None:
        super().__init__(folder.parent)
        self.folder, self.changed = folder, changed
        try:
            recorded = {**(read_metrics(folder) or {})}
            cut = {name: _cut(entry, points[name]) for name, entry in recorded.items() if name in points}
        except Exception:  # a damaged file: what it held is missing
            cut = {}
        self.series |= cut
        self.points = sum(self.lengths.values())
        self.note: dict[str, Any] = {}  # of this start, in info["resumed"]
        self.missing = sum(points.values()) - self.points  # of a record that lost some
        if self.missing:
            self.note["missing"] = self.missing
        self.entry = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self.recorded_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        path = folder / "info.json"
        facts = facts_of(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        # `checkpoint` names a folder, in a record from elsewhere any of the reader's: run.run finds the networks
        self.known = {key: fact for key, fact in facts.items() if key != "checkpoint"}

    @property
    def lengths(self) -> dict[str, int]:
        """Points of each metric that the record has; of one that has lost some, fewer than at the checkpoint."""
        return {name: len(entry["steps"]) for name, entry in self.series.items()}

    def info_until_then(self, t_env: int) -> dict[str, Any]:
        """The run's info at the checkpoint, and that it was resumed; started_event adds the code and the processor."""
        info = dict(self.known)
        for name, entry in self.series.items():
            info |= {name: list(entry["values"]), f"{name}_T": list(entry["steps"])}
        self.note |= {
            "step": t_env,
            "stopped": self.entry.get("stop_time") or self.entry.get("heartbeat"),
            "resumed": datetime.now(UTC).replace(tzinfo=None).isoformat(),
            "host": socket.gethostname(),
        }
        return info | {"resumed": [*resumptions(self.known), self.note]}

    def started_event(
        self, ex_info: Any, command: Any, host_info: Any, start_time: Any, config: Any, meta_info: Any, _id: Any
    ) -> str:
        """Takes the folder over. Beginning, sources and machine stay those of the first start; this one is noted."""
        now = {**next(iter(ex_info.get("repositories") or ()), {}), **host_info}
        self.note |= {key: now[key] for key in ("commit", "dirty", "cpu") if key in now}
        began, goes_on = commit_of(self.entry.get("experiment")), commit_of(ex_info)
        if began and goes_on and began != goes_on:
            LOG.warning("the run began at commit %s and goes on at %s; its record and reports say so", began, goes_on)
        entry = {key: value for key, value in without_tokens(self.entry).items() if key not in ENDS}
        if self.changed:  # the run stays the same one
            entry["run_uid"] = run_uid(self.entry, self.recorded_config)
        self.dir, self.config, self.info = str(self.folder), config, {}
        self.run_entry = entry | {"status": "RUNNING", "artifacts": [], "resources": []}
        self.unwritten = True
        try:
            self._write_journal(self.series)
            self.unwritten = False
            self.save_metrics()
            if self.changed:
                self.save_json(config, "config.json")
            self.save_json(self.run_entry, "run.json")
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return self.folder.name


def _cut(entry: Mapping[str, Any], length: int) -> dict[str, list[Any]]:
    """The first points of a metric: as many of each of their parts."""
    parts = {key: list(entry[key])[:length] for key in ("steps", "values", "timestamps")}
    whole = min(map(len, parts.values()))
    return {key: values[:whole] for key, values in parts.items()}


class Delivery(RunObserver):
    """Brings what a RunFolder records to MongoDB, from a thread of its own.

    The training thread only leaves points in lists. While the server is away the run goes on; the thread says so once,
    tries again after growing pauses, and then delivers what is missing. What had no chance is in the files:
    `python src/track.py sync` uploads it.
    """

    priority = 10  # after the files, whose record is what is delivered

    def __init__(self, where: Address, files: RunFolder, log: logging.Logger) -> None:
        self.where, self.files, self.log = where, files, log
        self.columns: dict[str, Column] = {}
        self.facts: dict[str, Any] = {}
        self.cut: dict[str, int] | None = None  # points of each metric from which a resumed run goes on
        self.news, self.ending, self.given_up = threading.Event(), threading.Event(), threading.Event()
        self.away = self.said_away = self.said_back = self.delivered = False
        self.thread = threading.Thread(target=self._run, name="MongoDB", daemon=True)

    # --- Sacred's events, in the training thread or that of the heartbeat ---
    def started_event(self, *args: Any, **kwargs: Any) -> None:
        self.config = json.loads(self.files.path("config.json").read_text(encoding="utf-8"))
        self.snapshot = Snapshot(run_uid(self._entry(), self.config), {}, {})
        for name, entry in self.files.series.items():  # of a run that goes on
            times = [parse_time(time) for time in entry["timestamps"]]
            self.columns[name] = Column(list(entry["steps"]), list(entry["values"]), times)
        if isinstance(self.files, ResumedFolder):
            self.cut = {name: len(column.steps) for name, column in self.columns.items()}
        self.news.set()
        self.thread.start()

    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any]) -> None:
        for name, entry in metrics_by_name.items():
            column = self.columns.setdefault(name, Column([], [], []))
            column.values.extend(entry["values"])
            column.timestamps.extend(entry["timestamps"])
            column.steps.extend(entry["steps"])

    def heartbeat_event(self, info: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        with record_lock:
            self.facts = facts_of(info)
        self.news.set()

    def artifact_event(self, *args: Any, **kwargs: Any) -> None:
        self.news.set()

    def completed_event(self, *args: Any, **kwargs: Any) -> None:
        self.ending.set()
        self.news.set()

    interrupted_event = failed_event = completed_event

    def join(self) -> None:
        """Waits until everything is delivered, or there is no hope in reasonable time; says which of the two."""
        if not self.thread.is_alive() and not self.ending.is_set():
            return
        self.thread.join(UPLOAD_PATIENCE)
        self.given_up.set()
        if not self.delivered:
            self.log.warning(
                "not everything is in MongoDB (%s); when it is there: python src/track.py sync %s --mongo URL",
                self.where.shown,
                self.files.dir,
            )

    # --- the thread ---
    def _run(self) -> None:
        store: Store | None = None
        pause, longest = PAUSES
        ended: float | None = None
        while self.news.wait():
            self.news.clear()
            if ended is None and self.ending.is_set():
                ended, pause = time.monotonic(), PAUSES[0]
            try:
                if store is None:
                    store = Store(connect(self.where), self.where.database)
                if self.cut is not None:
                    store.cut(self.snapshot, self.cut)
                    self.cut = None
                store.save(self._snapshot())
            except Exception as error:  # whatever it is, the run goes on
                self._is_away(error)
                if ended is not None and time.monotonic() - ended > LAST_PATIENCE:
                    return
                if (self.ending if ended is None else self.given_up).wait(pause) and ended is not None:
                    return
                pause = min(2 * pause, longest)
                self.news.set()
            else:
                pause = PAUSES[0]
                self._is_there()
                if ended is not None:
                    self.delivered = True
                    return

    def _snapshot(self) -> Snapshot:
        with record_lock:
            entry, facts = self._entry(), self.facts
        now = self.snapshot  # the same one always: it remembers which files are stored
        now.document, now.metrics = document(entry, self.config, facts), dict(self.columns)
        now.sources, now.artifacts = files_of(self.files.path(""), entry)
        return now

    def _entry(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.files.run_entry, default=str))

    def _is_away(self, error: Exception) -> None:
        self.away = True
        if not self.said_away:
            self.said_away = True
            self.log.warning(
                "MongoDB is away (%s: %s). The run goes on, its record is in %s; what is missing is delivered when "
                "the server is back",
                self.where.shown,
                describe(error),
                self.files.dir,
            )

    def _is_there(self) -> None:
        if self.away and not self.said_back:
            self.said_back = True
            self.log.info("MongoDB is back, everything up to now is delivered; further pauses are not reported")
        self.away = False
