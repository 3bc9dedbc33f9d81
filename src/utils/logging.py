"""Log lines, metrics and the record of a run."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from utils.naming import backend_note, task_name
from utils.progress import Progress
from utils.trackers import Tracker, open_trackers

KEPT = 1000  # values of each metric held in memory; the record has all of them
# held by who changes a run's info, and by who saves it: the heartbeat's thread does while training changes it
record_lock = threading.RLock()


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at the moment, so that lines appear above a live display."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def get_logger() -> logging.Logger:
    """The program's console logger: one line a message, on standard error."""
    logger = logging.getLogger("epymarl")
    if not logger.handlers:
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO)
        logger.propagate = False
    _name_backend(logger, "")
    return logger


def _name_backend(logger: logging.Logger, backend: str) -> None:
    """Let every line of the logger name the simulator, where it could be taken for another one."""
    name = f" [{backend}]" if backend else ""
    formatter = logging.Formatter(f"[%(levelname)s %(asctime)s]{name.replace('%', '%%')} %(message)s", "%H:%M:%S")
    for handler in logger.handlers:
        handler.setFormatter(formatter)


class Logger:
    """Metrics of a run, for the console, the live display and Sacred's record.

    `stats` maps each metric to its latest (step, value) pairs.
    """

    def __init__(self, console_logger: logging.Logger) -> None:
        self.console_logger = console_logger
        self.stats: dict[str, list[tuple[int, float]]] = {}
        self.points: Counter[str] = Counter()  # of each metric in Sacred's record
        self.backend = ""
        self.display: Progress | None = None
        self._run: Any = None
        self.trackers: Sequence[Tracker] = ()

    def setup_trackers(self, config: Mapping[str, Any], name: str, resumed_at: int | None = None) -> None:
        """Give metrics to TensorBoard and W&B, where the configuration asks for it, too. `name`: of the run there.

        :param resumed_at: the environment step from which a run that has this name already goes on.
        """
        self.trackers = open_trackers(config, name, self.console_logger, resumed_at)

    def setup_sacred(self, _run: Any) -> None:
        """Record metrics in this Sacred run from now on; its configuration describes the live display."""
        self._run = _run
        config = _run.config or {}
        if "t_max" in config and not config.get("evaluate"):
            title = f"{config.get('name', '')} on {task_name(config)}"
            self.display = Progress(config["t_max"], title, config.get("log_interval", 1), self.console_logger.info)

    def record(self, **entries: Any) -> None:
        """Facts of the run for its record."""
        if self._run is not None:
            with record_lock:
                self._run.info.update(entries)

    def record_start(self, *, backend: str, **facts: Any) -> None:
        """Facts of this start, see `note_start`; backend "SMAX (jaxmarl 0.2.0)" is then named in every line, too."""
        self.backend = backend_note(backend)
        if "smax" in self.backend.lower():
            _name_backend(self.console_logger, self.backend)
        if self.display is not None:
            self.display.backend = self.backend
        if self._run is not None:
            note_start(self._run.info, self.console_logger, backend=backend, **facts)

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Note the value (a number, or a tensor or array of one element) of metric `key` at environment step t."""
        number = float(value.item() if hasattr(value, "item") else value)
        t = int(t)
        history = self.stats.setdefault(key, [])
        history.append((t, number))
        if len(history) >= 2 * KEPT:
            del history[:-KEPT]
        if self._run is not None and to_sacred:
            with record_lock:
                self._run.info.setdefault(f"{key}_T", []).append(t)
                self._run.info.setdefault(key, []).append(number)
            self._run.log_scalar(key, number, t)
            self.points[key] += 1
        if self.trackers:
            self._track(lambda tracker: tracker.log(key, number, t))

    def _track(self, work: Callable[[Tracker], None]) -> None:
        """A tracker that fails, as on a full disk, is left out from then on: the run goes on."""
        for tracker in self.trackers:
            try:
                work(tracker)
            except Exception as error:
                self.trackers = [other for other in self.trackers if other is not tracker]
                name, kind = type(tracker).__name__, type(error).__name__
                self.console_logger.warning("%s: the run goes on without it: %s: %s", name, kind, error)

    def latest(self) -> dict[str, float]:
        """The last value of each metric."""
        return {key: history[-1][1] for key, history in self.stats.items()}

    def progress(self, t_env: int, episode: int) -> None:
        """Show how far the run is. Cheap: call it as often as you like, the display refreshes four times a second."""
        if self.display is not None:
            self.display.update(t_env, episode, self.latest)

    def print_recent_stats(self) -> None:
        """The last value of every metric, as a table in the log; with its step, where more than a tenth of the steps so
        far came after it."""
        last = {key: history[-1] for key, history in self.stats.items()}
        episode = last.pop("episode", (0, None))[1]
        t_env = max((history[-1][0] for history in self.stats.values()), default=0)
        head = f"step {t_env:,}" + ("" if episode is None else f" · episode {episode:,.0f}")
        if self.display is not None:
            self.display.update(t_env, int(episode or 0), self.latest, quiet=True)
            head = self.display.line(with_stats=False)
        cells = {key: number(value) + (f" @{t:,}" if t < 0.9 * t_env else "") for key, (t, value) in last.items()}
        self.console_logger.info("%s\n%s", head, table(cells))

    def flush(self) -> None:
        """Let TensorBoard and W&B have everything up to now."""
        self._track(lambda tracker: tracker.flush())

    def state_dict(self) -> dict[str, Any]:
        """The latest values, and how far the record is."""
        return {"latest": {key: list(history[-1]) for key, history in self.stats.items()}, "points": dict(self.points)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stats = {key: [(int(t), float(value))] for key, (t, value) in state["latest"].items()}
        self.points = Counter(state["points"])

    def finish(self) -> None:
        """Take the live display down, and close TensorBoard's and W&B's files. Twice is fine."""
        if self.display is not None:
            self.display.stop()
        self._track(lambda tracker: tracker.close())
        self.trackers = ()


def note_start(info: dict[str, Any], log: logging.Logger, **facts: Any) -> None:
    """Facts of a start, into the run's info. A resumed run's stay those of its first start; what is different now is
    said, and noted with this start in info["resumed"] (recording.ResumedFolder): of a mapping, the entries that are.
    """
    with record_lock:
        starts = info.get("resumed")
        for key, fact in json.loads(json.dumps(facts, default=str)).items():  # as the record gives them back
            was = info.setdefault(key, fact)
            if not starts or fact == was:
                continue
            if isinstance(fact, Mapping) and isinstance(was, Mapping):
                names = [name for name in {**was, **fact} if fact.get(name) != was.get(name)]
                starts[-1][key] = {name: fact.get(name) for name in names}
                said = [f"{name} was {was.get(name, 'absent')}, is {fact.get(name, 'absent')}" for name in names]
            else:
                starts[-1][key] = fact
                said = [f"{key} was {was}, is {fact}"]
            log.warning("the run goes on otherwise than it began, as its record says: %s", "; ".join(said))


def table(cells: Mapping[str, str], width: int | None = None) -> str:
    """Names and what is said of them in up to three aligned columns, in alphabetical order down the columns.

    :param width: of the lines, in letters; by default the terminal's.
    """
    entries = sorted(cells.items())
    width = width or shutil.get_terminal_size((120, 24)).columns
    for columns in (3, 2, 1):
        rows = math.ceil(len(entries) / columns)
        stacks = [entries[start : start + rows] for start in range(0, len(entries), rows or 1)]
        blocks = []
        for stack in stacks:
            left, right = (max(len(cell[side]) for cell in stack) for side in (0, 1))
            blocks.append([f"{key:<{left}} {shown:>{right}}" for key, shown in stack])
        lines = ["  " + "   ".join(block[row] for block in blocks if row < len(block)) for row in range(rows)]
        if max(map(len, lines), default=0) <= width:
            break
    return "\n".join(lines)


def number(value: float) -> str:
    """Four digits or so, readable: 0.1234, 12.35, 123,456, 1.2e-05."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.1e}"
