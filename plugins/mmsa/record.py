"""Sacred's record of a run in a checkout, without its weakness: Sacred drops an observer at the first write that fails,
says no more of it, and the run ends as COMPLETED.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten


class Record(FileStorageObserver):
    """Files are written whole or not at all; one that could not be is written with the next.

    unwritten: name -> content of those that are behind; empty at the end where the record is complete.
    """

    def __init__(self, folder: Path, log: logging.Logger) -> None:
        super().__init__(folder)
        self.log = log
        self.metrics: dict[str, dict[str, list[Any]]] = {}
        self.unwritten: dict[str, Any] = {}

    def save_json(self, obj: Any, filename: str) -> None:
        self.unwritten[filename] = obj
        for name, content in list(self.unwritten.items()):
            path = Path(str(self.dir)) / name
            try:
                part = path.with_suffix(".part")
                part.write_text(json.dumps(flatten(dict(content)), sort_keys=True, indent=2))  # training adds to info
                os.replace(part, path)
                del self.unwritten[name]
            except OSError as error:
                self.log.warning("%s is not written, it is tried again: %s", path, error)

    def save_cout(self) -> None:
        with suppress(OSError):
            super().save_cout()

    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, list[Any]]], info: Any) -> None:
        for name, new in metrics_by_name.items():
            series = self.metrics.setdefault(name, {"steps": [], "values": [], "timestamps": []})
            series["steps"] += new["steps"]
            series["values"] += new["values"]
            series["timestamps"] += [time.isoformat() for time in new["timestamps"]]
        self.save_json(self.metrics, "metrics.json")
