from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch as th

from utils import logging as ours
from utils.logging import Logger, get_logger, note_start, number, table


class Run:
    """Sacred's run, as far as the logger knows it."""

    def __init__(self, **config: Any) -> None:
        self.config, self.info, self.scalars = config, {}, []  # type: ignore[var-annotated]

    def log_scalar(self, key: str, value: float, t: int) -> None:
        self.scalars.append((key, value, t))


def test_record_has_upstreams_format() -> None:
    run = Run()
    logger = Logger(logging.getLogger("test"))
    logger.setup_sacred(run)
    logger.log_stat("loss", 0.5, 10)
    logger.log_stat("loss", 0.25, 20)
    logger.log_stat("hidden", 1, 20, to_sacred=False)
    assert run.info == {"loss": [0.5, 0.25], "loss_T": [10, 20]}
    assert run.scalars == [("loss", 0.5, 10), ("loss", 0.25, 20)]
    assert logger.stats["hidden"] == [(20, 1.0)]


def test_facts_of_the_first_start_stay(caplog: pytest.LogCaptureFixture) -> None:
    log, info = logging.getLogger("test"), dict[str, Any]()
    facts = {"versions": {"torch": "2.13.0", "vmas": "1.5"}, "device": "cpu", "make": (1, 2)}
    note_start(info, log, **facts)
    begun = json.loads(json.dumps(info))  # as the record gives it back
    info = begun | {"resumed": [{"step": 50}]}
    note_start(info, log, **facts)
    assert info == begun | {"resumed": [{"step": 50}]} and caplog.text == ""
    info["resumed"].append({"step": 70})
    note_start(info, log, versions={"torch": "2.14.0", "numpy": "2"}, device="cuda", make=(1, 2), cores=4)
    versions = {"torch": "2.14.0", "vmas": None, "numpy": "2"}
    assert info == begun | {"resumed": [{"step": 50}, {"step": 70, "versions": versions, "device": "cuda"}], "cores": 4}
    assert "torch was 2.13.0, is 2.14.0; vmas was 1.5, is absent; numpy was absent, is 2" in caplog.text
    assert "device was cpu, is cuda" in caplog.text


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.array(0.5), th.tensor(0.5), th.tensor([0.5], requires_grad=True)]
)
def test_values_become_floats(value: Any) -> None:
    logger = Logger(logging.getLogger("test"))
    logger.log_stat("x", value, np.int64(3))  # type: ignore[arg-type]
    ((t, stored),) = logger.stats["x"]
    assert (t, stored) == (3, 0.5) and type(stored) is float and type(t) is int


def test_values_with_several_elements_are_refused() -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        Logger(logging.getLogger("test")).log_stat("x", th.zeros(2), 0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "KEPT", 5)
    logger = Logger(logging.getLogger("test"))
    for t in range(100):
        logger.log_stat("x", t, t)
    assert len(logger.stats["x"]) < 10 and logger.stats["x"][-5:] == [(t, float(t)) for t in range(95, 100)]


def test_lines_name_a_simulator_that_could_be_mistaken(capsys: pytest.CaptureFixture[str]) -> None:
    logger = Logger(get_logger())
    logger.record_start(backend="SMAX (jaxmarl 0.2.0)")
    logger.log_stat("return_mean", 0.5, 10)
    logger.print_recent_stats()
    logger.console_logger.info("100 %")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[INFO")]
    assert len(lines) == 2 and all("[SMAX (jaxmarl 0.2.0), not StarCraft II]" in line for line in lines)
    assert get_logger() is logger.console_logger  # a new run begins without the name
    logger.console_logger.info("again")
    assert "SMAX" not in capsys.readouterr().err


def test_a_value_of_long_ago_is_shown_with_its_step(caplog: pytest.LogCaptureFixture) -> None:
    logger = Logger(logging.getLogger("test"))
    for key, t in (("loss", 36), ("grad_norm", 2600), ("old", 2599), ("test_return_mean", 2888), ("episode", 2800)):
        logger.log_stat(key, 0.5, t)
    caplog.set_level(logging.INFO)
    logger.print_recent_stats()
    words = caplog.text.split()
    assert [words[words.index(key) + 2] for key in ("loss", "old")] == ["@36", "@2,599"] and caplog.text.count("@") == 2


def test_table_is_aligned() -> None:
    numbers = {"loss": 0.5, "return_mean": 0.1234567, "epsilon": 10.0, "steps": 123456.0}
    values = {key: number(value) for key, value in numbers.items()}
    assert table(values, 80).splitlines() == [
        "  epsilon  10.00   return_mean  0.1235",
        "  loss    0.5000   steps       123,456",
    ]
    assert len(table(values, 30).splitlines()) == 4
    assert table({}, 80) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.12345, "0.1235"),
        (12.345, "12.35"),
        (123456.7, "123,457"),
        (1.2e-5, "1.2e-05"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_restored_logger_has_the_latest_values() -> None:
    logger, other = (Logger(logging.getLogger("test")) for _ in range(2))
    for t, value in ((10, 1.0), (20, 2.0)):
        logger.log_stat("loss", value, t)
    logger.points["loss"] = 2
    other.load_state_dict(logger.state_dict())
    assert other.stats == {"loss": [(20, 2.0)]} and other.latest() == {"loss": 2.0} and other.points == {"loss": 2}
