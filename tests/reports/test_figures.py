from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from reports.figures import learning_curve


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    return figures


def series(**values: list[float]) -> dict[str, Any]:
    return {**values, **{f"{key}_T": [1000 * i for i in range(len(value))] for key, value in values.items()}}


def test_learning_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    info = series(return_mean=[0, 1, 2], test_return_mean=[0, 2], battle_won_mean=[0, 0.5, 1])
    path = learning_curve(info, tmp_path / "curve.png", "mmsa on 3m", "SMAX (jaxmarl 0.2.0), not StarCraft II")
    assert path is not None and path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert figure.get_suptitle() == "mmsa on 3m\nSMAX (jaxmarl 0.2.0), not StarCraft II"
    returns, wins = figure.axes
    assert (returns.get_ylabel(), wins.get_ylabel()) == ("return", "win rate")
    assert [line.get_label() for line in returns.lines] == ["train", "test"]
    assert list(returns.lines[1].get_xdata()) == [0, 1000] and list(returns.lines[1].get_ydata()) == [0, 2]


def test_returns_alone(tmp_path: Path, drawn: list[Figure]) -> None:
    learning_curve(series(test_return_mean=[0.5]), tmp_path / "curve.png", "title")
    assert len(drawn[0].axes) == 1


def test_a_single_train_point_is_seen(tmp_path: Path, drawn: list[Figure]) -> None:
    """As in a run shorter than runner_log_interval."""
    learning_curve(series(return_mean=[1], test_return_mean=[0, 2]), tmp_path / "curve.png", "title")
    train, test = drawn[0].axes[0].lines
    assert (train.get_label(), train.get_marker(), test.get_marker()) == ("train", ".", ".")


def test_individual_rewards(tmp_path: Path, drawn: list[Figure]) -> None:
    learning_curve(
        series(test_total_return_mean=[0.5, 1], test_agent_0_return_mean=[1, 2]), tmp_path / "c.png", "title"
    )
    (axes,) = drawn[0].axes
    assert axes.get_ylabel() == "return of all agents" and list(axes.lines[0].get_ydata()) == [0.5, 1]


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert learning_curve({"backend": "x", "return_mean": []}, tmp_path / "curve.png", "title") is None
    assert list(tmp_path.iterdir()) == []
