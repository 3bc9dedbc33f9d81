from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from support import sacred_runs as sr

from reports import scores as sc
from reports.grouping import group
from reports.plots import COLOURS
from reports.runs import Planned, RunRecord, load_runs
from utils.config import ConfigError

pytest.importorskip("rliable", reason="rliable is not installed: pip install -e '.[report]'")
from reports.report import write_report  # noqa: E402

TASKS = {"Foraging-a": 1.0, "Foraging-b": 0.5}
ENDS = {"mmsa": 0.8, "qmix": 0.4}


def lay(folder: Path, seeds: int = 4, **given: Any) -> list[RunRecord]:
    """MMSA and QMIX on two tasks; a run's curve is a straight line to ENDS * TASKS + 0.01 * seed."""
    number = 0
    for task, ease in TASKS.items():
        for name, end in ENDS.items():
            for seed in range(1, seeds + 1):
                metrics = sr.tests(end * ease + 0.01 * seed) | (sr.world_model() if name == "mmsa" else {})
                config = sr.configuration(name, seed, env_args={"key": task})
                sr.write(folder / f"{number:03d}", sr.record(config, metrics, **given))
                number += 1
    return load_runs([str(folder)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    folder = tmp_path_factory.mktemp("runs")
    runs = lay(folder / "sacred")
    broken = sr.configuration("mmsa", 9, env_args={"key": "Foraging-a"}, label="<b>MMSA</b> $x_")
    sr.write(folder / "sacred/broken", sr.record(broken, {}, status="FAILED"))
    runs = load_runs([str(folder / "sacred")])
    page = write_report(runs, folder / "out", title="A & B", problems=["folder/7: run.json is missing"])
    assert page == folder / "out/index.html"
    return folder / "out", runs


# --- files ---
def test_every_file_is_there(made: tuple[Path, list[RunRecord]]) -> None:
    out, _ = made
    figures = sorted(path.name for path in (out / "figures").iterdir())
    kinds = {path.split("_")[0] for path in figures}
    assert kinds == {"curves", "aggregate", "profile", "comparison", "world"}
    assert len([name for name in figures if name.endswith(".png")]) == len(figures) // 2 == 9
    assert all((out / "figures" / name).read_bytes()[:4] in (b"\x89PNG", b"%PDF") for name in figures)


def test_the_page_needs_nothing_else(made: tuple[Path, list[RunRecord]]) -> None:
    page = (made[0] / "index.html").read_text()
    own = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r'(src|href)="(?!#|figures/|table\.md|results\.csv|data:)', own) and "@import" not in own
    assert page.count("<svg") == 9 and "base64" not in page
    head, _, body = page.partition("<body>")
    assert "var(--ink)" in body and "--ink: #1b1f24" in head
    assert "#1b1f24" not in body, "ink that stays dark on a dark page"


def test_runs_of_upstream_whose_configuration_lacks_our_keys(tmp_path: Path) -> None:
    config = sr.configuration("qmix")
    config.pop("torch_threads", None)
    sr.write(tmp_path / "runs/1", sr.record(config, sr.tests(1)))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out")
    assert "qmix" in page.read_text() and " thread" not in page.read_text().split('id="runs"')[1].split("</details>")[0]


def test_tasks_of_another_metric_are_another_suite(tmp_path: Path) -> None:
    both = sr.tests(0.5, metric="test_battle_won_mean") | sr.tests(9)
    for key, metrics in (("a", both), ("b", sr.tests(1))):
        sr.write(tmp_path / key, sr.record(sr.configuration(env_args={"key": key}), metrics))
    tasks = [sc.score_task(task) for task in group(load_runs([str(tmp_path)])).tasks]
    assert [suite.metric for suite in sc.suites(tasks)] == ["test_battle_won_mean", "test_return_mean"]


def test_a_comparison_has_the_seeds_of_the_smaller_side(tmp_path: Path) -> None:
    for name, seed in (("mmsa", 1), ("mmsa", 2), ("qmix", 1)):
        sr.write(tmp_path / f"{name}{seed}", sr.record(sr.configuration(name, seed), sr.tests(1)))
    (task,) = group(load_runs([str(tmp_path)])).tasks
    (row,) = sc.comparisons(sc.score_task(task), "mmsa")
    assert row.area.runs == row.chance_final.runs == 1


def test_words_of_a_run_are_no_markup(made: tuple[Path, list[RunRecord]]) -> None:
    page = (made[0] / "index.html").read_text()
    assert "<b>MMSA" not in page and "&lt;b&gt;MMSA&lt;/b&gt; $x_" in page and "A &amp; B" in page


def test_words_of_averaged_runs_are_neither_markup_nor_paths_nor_formulas(tmp_path: Path) -> None:
    for number, label in enumerate(("<script>alert(1)</script> |", "../../x", r"mmsa $\frac{", "long " * 40)):
        config = sr.configuration("mmsa", label=label, env_args={"key": "<img src=x onerror=alert(1)>/../.."})
        sr.write(tmp_path / f"runs/{number}", sr.record(config, sr.tests(-5) | sr.world_model()))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out", title="</title>", references=["../../x"])
    assert (
        page.read_text().count("<script>") == 1
        and "<img" not in page.read_text()
        and "</title></title>" not in page.read_text()
    )
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "results.csv", "table.md", "figures"}
    table = (tmp_path / "out/table.md").read_text()
    assert "<" not in table and "&lt;script>alert(1)&lt;/script> \\|" in table and "-0.000" not in table


def test_what_the_page_says(made: tuple[Path, list[RunRecord]]) -> None:
    page = (made[0] / "index.html").read_text()
    assert "16 of 17 runs averaged" in page and "crashed: ValueError: a bad value" in page
    assert "folder/7: run.json is missing" in page and "No interval is drawn" not in page
    assert "Some CPU" in page and "torch 2.13.0" in page and "0123456789abcdef" in page
    assert "python src/main.py --config=mmsa --env-config=gymma with" in page
    assert page.count("<details id=") == 4
    assert set(re.findall(r'href="#(runs-[\d-]+)"', page)) == set(re.findall(r'<details id="(runs-[\d-]+)"', page))


def test_the_table_has_the_numbers(made: tuple[Path, list[RunRecord]]) -> None:
    """Seeds 1..4 end at 0.8 + 0.01 s: without the lowest and the highest 0.825, and half of it on the average."""
    table = (made[0] / "table.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| mmsa | 0.825 ["))
    assert "| 0.412 [" in row or "| 0.413 [" in row
    assert "4 (1, 2, 3, 4) | 1,000 |" in row
    assert "## 2 tasks together, lbforaging 2.0.0" in table and "crashed" in table
    assert "\nScores: interquartile mean over seeds" in table and "ratio of the areas' plain means" in table


def test_the_csv_has_every_test(made: tuple[Path, list[RunRecord]]) -> None:
    out, runs = made
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert len(rows) == 16 * 5 and {row["averaged"] for row in rows} == {"yes"}
    first = next(row for row in rows if row["curve"] == "mmsa" and row["step"] == "500" and row["seed"] == "2")
    assert (first["updates"], first["seconds"], first["metric"]) == ("50", "5.0", "test_return_mean")
    assert float(first["value"]) == pytest.approx(0.41) and first["task"] == "Foraging-a, lbforaging 2.0.0"


def test_the_csv_says_which_tests_are_averaged(tmp_path: Path) -> None:
    sr.write(tmp_path / "runs/1", sr.record(sr.configuration(), sr.tests(1)))
    sr.write(tmp_path / "runs/2", sr.record(sr.configuration(seed=2), sr.tests(1), status="RUNNING"))
    write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert {(row["seed"], row["averaged"], row["why_not"][:7]) for row in rows} == {
        ("1", "yes", ""),
        ("2", "no", "cut off"),
    }


def test_two_reports_of_the_same_runs_are_the_same(made: tuple[Path, list[RunRecord]], tmp_path: Path) -> None:
    out, runs = made
    write_report(runs[::-1], tmp_path, title="A & B")
    assert (tmp_path / "table.md").read_text() == (out / "table.md").read_text()
    assert (tmp_path / "results.csv").read_text() == (out / "results.csv").read_text()


def test_ranked_the_best_score_comes_first(tmp_path: Path) -> None:
    for number, (name, ends) in enumerate({"a": (0.1, 0.9), "b": (0.5, 0.5), "c": (0.9, 0.4)}.items()):
        for key, end in zip("xy", ends, strict=True):
            config = sr.configuration(name, env_args={"key": key})
            sr.write(tmp_path / f"runs/{number}{key}", sr.record(config, sr.tests(end)))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out", references=(), ranked=True).read_text()
    table = (tmp_path / "out/table.md").read_text()
    parts = {"x": "cba", "y": "abc", "2 tasks together": "cab"}  # the mean on both: 0.65, 0.5, 0.5
    for head, order in parts.items():
        section = table.partition(f"## {head}")[2].partition("## ")[0]
        assert "".join(re.findall(r"^\| ([abc]) ", section, re.M)) == order
        shown = page.partition(f"<h3>{head}")[2].partition("</table>")[0]
        assert "".join(re.findall(r"<tr><td>([abc])</td>", shown)) == order
    assert "best final score comes first" in page and "against the others" not in page


def test_a_point_with_fewer_seeds_is_not_the_first(tmp_path: Path) -> None:
    """Which of many has luck is told the sooner, the fewer seeds it has."""
    for name, seed, end in (("a", 1, 0.4), ("a", 2, 0.5), ("b", 1, 0.9), ("c", 1, 0.6), ("c", 2, 0.6)):
        sr.write(tmp_path / f"runs/{name}{seed}", sr.record(sr.configuration(name, seed), sr.tests(end)))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out", references=(), ranked=True).read_text()
    table = (tmp_path / "out/table.md").read_text()
    assert re.findall(r"^\| ([abc]) ", table, re.M) == ["c", "a", "b"]
    assert all("owes its place in part to luck" in text for text in (page, table))


def test_the_table_says_what_the_page_says(tmp_path: Path) -> None:
    """Which is published without the page."""
    for number, (name, key) in enumerate((("x", "a"), ("x", "a"), ("x", "b"), ("y", "a"), ("y", "b"), ("z", "a"))):
        files = sr.record(sr.configuration(name, number, env_args={"key": key}), sr.tests(0.5))
        files["run"]["experiment"]["repositories"][0]["dirty"] = number == 3
        sr.write(tmp_path / f"runs/{number}", files)
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out").read_text()
    table = (tmp_path / "out/table.md").read_text()
    for said in (
        "z is left out here: it was not run on b",
        "of x the first seeds of each task are taken",
        "may be of different code: y, seed 3.",
        "the runs were made at different commits",
    ):
        assert said in page and said in table, said


# --- what is drawn ---
@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Figure]:
    """The figure whose PNG has such a name."""
    figures: dict[str, Figure] = {}
    save = Figure.savefig

    def savefig(self: Figure, target: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(target, Path):
            figures[target.stem] = self
        if not isinstance(target, Path) or target.suffix == ".png":
            save(self, target, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return lambda start: next(figure for name, figure in figures.items() if name.startswith(start))


def test_curves_against_steps_updates_and_minutes(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    write_report(lay(tmp_path / "runs"), tmp_path / "out")
    figure = drawn("curves_Foraging-a")
    assert "lbforaging 2.0.0" in figure.get_suptitle()
    steps, updates, minutes = figure.axes
    assert [panel.get_xlabel() for panel in figure.axes] == list(sc.AXES.values())
    assert [panel.lines[0].get_xdata()[-1] for panel in figure.axes] == pytest.approx(
        [1000, 100, 1000 * sr.SECONDS / 60]
    )
    assert steps.lines[0].get_ydata()[-1] == pytest.approx(0.825) and len(steps.collections) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mmsa (4 seeds)", "qmix (4 seeds)"]


def test_a_fast_run_cuts_nothing_off(tmp_path: Path) -> None:
    """Every axis has the scores of all steps, each where the two runs were at that step on average."""
    fast, slow = lay(tmp_path, seeds=2)[:2]
    tests, updates = slow.metrics["test_return_mean"], slow.metrics["updates"]
    later = {"test_return_mean": tests._replace(seconds=3 * tests.seconds)}
    slow = replace(slow, metrics=later | {"updates": updates._replace(values=5 * updates.values)})
    drawn = sc.bands([[fast, slow]], "test_return_mean")
    for axis, end in {"steps": 1000, "updates": 300, "seconds": 2000 * sr.SECONDS / 60}.items():
        band = drawn[axis]
        assert band is not None and band.x == pytest.approx(np.linspace(0, end, 5)), axis
        assert band.mid == pytest.approx(np.linspace(0, 0.815, 5)), axis


def test_extremes_are_drawn(tmp_path: Path) -> None:
    """Tests that are not evenly spaced, as where each comes at the end of an episode."""
    metrics = {"test_return_mean": ([0, 130, 260, 390, 1000], [0, 0, -379, 0, 1])}
    sr.write(tmp_path / "1", sr.record(sr.configuration(), metrics))
    drawn = sc.bands([load_runs([str(tmp_path)])], "test_return_mean")["steps"]
    assert drawn is not None and drawn.x.tolist() == [0, 130, 260, 390, 1000] and drawn.mid.min() == -379


def test_where_no_time_is_known_nothing_is_drawn(tmp_path: Path) -> None:
    """Steps of which one run has none, and all but the last test before the first update."""
    one, other = lay(tmp_path, seeds=2)[:2]
    tests, updates = one.metrics["test_return_mean"], one.metrics["updates"]
    seconds = np.array([np.nan, *tests.seconds[1:]])
    updates = updates._replace(values=np.array([0.0, 0, 0, 7, 9]))
    one = replace(one, metrics={"test_return_mean": tests._replace(seconds=seconds), "updates": updates})
    against = sc.bands([[one]], "test_return_mean")["updates"]
    assert against is not None and against.x.tolist() == [0, 7, 9] and against.mid[0] == pytest.approx(0.405)
    minutes = sc.bands([[one, other]], "test_return_mean")["seconds"]
    assert minutes is not None and len(minutes.x) == 4 and minutes.mid[-1] == pytest.approx(0.815)
    lost = replace(other, metrics={"test_return_mean": tests._replace(seconds=np.full(5, np.nan))})
    assert [band is None for band in sc.bands([[one, lost]], "test_return_mean").values()] == [False, True, True]


def test_bars_end_where_their_intervals_end(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    write_report(lay(tmp_path / "runs", seeds=3), tmp_path / "out")
    bar = drawn("comparison_Foraging-a").axes[0].lines[0]
    assert bar.get_linewidth() == 7 and bar.get_solid_capstyle() == "butt"


def test_with_two_seeds_no_interval_is_drawn(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    write_report(lay(tmp_path / "runs", seeds=2), tmp_path / "out")
    for name in ("curves_Foraging-a", "aggregate", "profile"):
        assert not any(panel.collections for panel in drawn(name).axes), name
    page = (tmp_path / "out/index.html").read_text()
    assert "No interval is drawn for 4 of 4 curves" in page and "fewer than 3 seeds" in page
    assert "[" not in (tmp_path / "out/table.md").read_text().partition("## ")[2]


def test_bands_that_would_hide_the_lines_are_not_drawn(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    for number in range(30):
        config = sr.configuration("qmix", seed=number % 3, label=f"lr {number // 3}")
        sr.write(tmp_path / f"runs/{number}", sr.record(config, sr.tests(0.5)))
    write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out", references=["lr 5", "lr 2"])
    panel = drawn("curves").axes[0]
    assert len(panel.collections) == len(panel.lines) == 10
    *_, under, second, top = sorted(panel.lines, key=lambda line: line.get_zorder())
    assert under.get_zorder() < second.get_zorder() < top.get_zorder()
    assert (top.get_color(), second.get_color()) == COLOURS[:2], "the references are not on top"
    assert [text.get_text() for text in drawn("curves").legends[0].texts[:2]] == ["lr 5 (3 seeds)", "lr 2 (3 seeds)"]
    for seed in range(3):
        sr.write(tmp_path / f"runs/more{seed}", sr.record(sr.configuration("vdn", seed=seed), sr.tests(0.5)))
    write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "more")
    panel = drawn("curves").axes[0]
    assert len(panel.lines) == 11 and not panel.collections
    assert "not drawn where there are more than 10 curves" in (tmp_path / "more/index.html").read_text()


def test_without_updates_the_page_says_so(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    metrics = {"test_return_mean": sr.tests(1)["test_return_mean"]}
    sr.write(tmp_path / "runs/1", sr.record(sr.configuration(), metrics))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out")
    assert [panel.get_xlabel() for panel in drawn("curves").axes] == ["environment steps", "wall-clock, minutes"]
    assert "No curve is drawn against gradient updates" in page.read_text()
    sr.write(tmp_path / "runs/2", sr.record(sr.configuration("vdn"), sr.tests(1)))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out")
    assert len(drawn("curves").axes) == 3 and len(drawn("curves").axes[1].lines) == 1
    assert re.search(r"Without a curve against gradient updates.*: qmix\.", page.read_text())


def test_simulators_are_never_put_together(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    for number, backend in enumerate(("SMAX (jaxmarl 0.2.0)", "StarCraft II 4.10")):
        config = sr.configuration("mmsa", env="sc2v2", seed=number)
        sr.write(tmp_path / f"runs/{number}", sr.record(config, sr.tests(1), backend=backend))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out").read_text()
    assert "tasks together, " not in page
    titles = [drawn(f"curves_protoss_5_vs_5{name}").get_suptitle() for name in ("-SMAX_SMAX", "_StarCraft")]
    assert "not StarCraft II" in titles[0] and "SMAX (" not in titles[1]


# --- scores ---
def test_scores_cover_only_shared_steps(tmp_path: Path) -> None:
    long = sr.tests(2.0, (0, 500, 1000, 1500, 2000))
    sr.write(tmp_path / "1", sr.record(sr.configuration(t_max=2000, test_interval=500), long))
    sr.write(tmp_path / "2", sr.record(sr.configuration("vdn"), sr.tests(0.5)))
    (task,) = (sc.score_task(task) for task in group(load_runs([str(tmp_path)])).tasks)
    assert (task.grid[0], task.grid[-1]) == (0, 1000)
    assert [(score.name, score.final.value, score.area.value) for score in task.scores] == [
        ("qmix", pytest.approx(1.0), pytest.approx(0.5)),
        ("vdn", pytest.approx(0.5), pytest.approx(0.25)),
    ]


def test_a_suite_has_all_tasks_or_none(tmp_path: Path) -> None:
    runs = lay(tmp_path)
    sr.write(tmp_path / "x", sr.record(sr.configuration("vdn", env_args={"key": "Foraging-a"}), sr.tests(1)))
    (suite,) = sc.suites([sc.score_task(task) for task in group(load_runs([str(tmp_path)])).tasks])
    assert [score.name for score in suite.scores] == ["mmsa", "qmix"] and len(runs) == 16
    assert suite.missing == {"vdn": ["Foraging-b, lbforaging 2.0.0"]} and suite.scores[0].finals.shape == (4, 2)
    # of 0.81 .. 0.84 and 0.41 .. 0.44 the two lowest and the two highest are cut
    assert suite.scores[0].final.value == pytest.approx((0.43 + 0.44 + 0.81 + 0.82) / 4)
    band = suite.bands["mmsa"]["steps"]
    assert band is not None and band.low is not None and band.high is not None
    assert band.mid[-1] == pytest.approx(suite.scores[0].final.value)
    assert band.low[-1] < 0.625 < band.high[-1]
    minutes = suite.bands["qmix"]["seconds"]
    assert minutes is not None and minutes.x[-1] == pytest.approx(10 / 60)
    assert suite.scores[0].mean_area.value == pytest.approx((0.825 + 0.425) / 4)
    # however often a seed is drawn, half of the eight are from either task
    low, high = suite.scores[0].final.low, suite.scores[0].final.high
    assert low is not None and high is not None and 0.61 <= low < 0.625 < high <= 0.64
    # VDN is compared on the task that it was run on alone
    assert [(row.baseline, row.chance_final.value) for row in sc.comparisons(suite, "QMIX")] == [("mmsa", 0)]
    assert [row.baseline for row in sc.comparisons(suite.tasks[0], "QMIX")] == ["mmsa", "vdn"]


def test_tasks_that_no_curve_has_all_of_are_no_suite(tmp_path: Path) -> None:
    for name, key in (("mmsa", "Foraging-a"), ("qmix", "Foraging-b")):
        sr.write(tmp_path / "runs" / name, sr.record(sr.configuration(name, env_args={"key": key}), sr.tests(1)))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out").read_text()
    assert "tasks together, " not in page and "No curve has scores on all tasks" in page
    assert "tasks together, " not in (tmp_path / "out/table.md").read_text()
    kinds = {path.name.split("_")[0] for path in (tmp_path / "out/figures").iterdir()}
    assert kinds == {"curves"}


def test_returns_are_scaled_before_tasks_are_put_together(tmp_path: Path) -> None:
    for number, (key, name, end) in enumerate([("a", "x", -10), ("a", "y", -20), ("b", "x", 1), ("b", "y", 0.5)]):
        sr.write(tmp_path / f"{number}", sr.record(sr.configuration(name, env_args={"key": key}), sr.tests(end)))
    (suite,) = sc.suites([sc.score_task(task) for task in group(load_runs([str(tmp_path)])).tasks])
    assert suite.scales == ((-20, 0), (0, 1))
    rows = sc.comparisons(suite, "x")
    assert len(rows) == 1 and np.isnan(rows[0].area.value) and rows[0].chance_area.value == 1
    write_report(load_runs([str(tmp_path)]), tmp_path / "out", references=["x"])
    together = (tmp_path / "out/table.md").read_text().partition("## 2 tasks together")[2]
    assert "return in tests, scaled to 0..1 (`test_return_mean`)" in together and "-20.000 became 0" in together
    assert "There is no ratio of areas here" in together
    assert suite.scores[0].finals.tolist() == [[0.5, 1]] and suite.scores[1].finals.tolist() == [[0, 0.5]]
    band = suite.bands["x"]["steps"]
    assert band is not None and band.mid[[0, -1]].tolist() == [(1 + 0) / 2, (0.5 + 1) / 2]


def test_the_plain_mean_counts_the_easiest_and_the_hardest_task(tmp_path: Path) -> None:
    for key, end in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 1.0)):
        sr.write(tmp_path / key, sr.record(sr.configuration(env_args={"key": key}), sr.tests(end)))
    (suite,) = sc.suites([sc.score_task(task) for task in group(load_runs([str(tmp_path)])).tasks])
    (score,) = suite.scores
    assert score.final.value == pytest.approx(0.25) and score.area.value == pytest.approx(0.125)
    assert score.mean_area.value == pytest.approx(0.2)


def test_tests_against_updates(tmp_path: Path) -> None:
    """Of several before the first update the last one counts; what is after the last known update is left out."""
    metrics = {"test_return_mean": ([0, 100, 200, 300, 400], [1, 2, 3, 4, 5]), "updates": ([0, 100, 300], [0, 0, 20])}
    (run,) = load_runs([str(sr.write(tmp_path / "1", sr.record(sr.configuration(), metrics)))])
    band = sc.bands([[run]], "test_return_mean")["updates"]
    assert band is not None and (band.x.tolist(), band.mid.tolist()) == ([0, 10, 20], [2, 3, 4])


def test_a_comparison(tmp_path: Path) -> None:
    """Seeds 1..4 end at 0.8 + 0.01 s, QMIX's at 0.4 + 0.01 s, along straight lines from 0."""
    tasks = [sc.score_task(task) for task in group(lay(tmp_path)).tasks]
    (row,) = sc.comparisons(tasks[0], "mmsa")
    assert (row.reference, row.baseline) == ("mmsa", "qmix")
    assert row.area.value == pytest.approx(0.825 / 0.425) and row.area.low and row.area.high
    assert 0.815 / 0.435 < row.area.low < row.area.value < row.area.high < 0.835 / 0.415
    assert row.chance_area[:3] == row.chance_final[:3] == (1, 1, 1)
    assert row.level == pytest.approx(0.9 * 0.425) and row.limit == 1000
    assert (row.steps, row.baseline_steps) == pytest.approx((1000 * 0.9 * 0.425 / 0.825, 900))
    assert row.ratio.value == pytest.approx(0.425 / 0.825) and sc.steps_words(row).startswith("0.52 [0.5")
    assert sc.comparisons(tasks[0], "nobody") == []
    (other,) = sc.comparisons(tasks[0], "qmix")
    assert np.isinf(other.steps) and sc.steps_words(other) == f"> {1 / 0.9:.2f}"
    (suite,) = sc.suites(tasks)
    (row,) = sc.comparisons(suite, "MMSA")
    assert row.area.value == pytest.approx((0.825 + 0.425) / (0.425 + 0.225)), "tasks count alike"
    assert row.level == pytest.approx(0.9 * 0.325) and row.ratio.value == pytest.approx(0.325 / 0.625)


def test_who_is_faster_may_end_lower(tmp_path: Path) -> None:
    for number, (name, values) in enumerate((("mmsa", [0, 0, 1]), ("qmix", [0.6, 0.6, 0.6]))):
        metrics = {"test_return_mean": ([0, 500, 1000], values)}
        sr.write(tmp_path / f"{number}", sr.record(sr.configuration(name), metrics))
    (row,) = sc.comparisons(sc.score_task(group(load_runs([str(tmp_path)])).tasks[0]), "mmsa")
    assert row.area.value == pytest.approx(0.25 / 0.6)
    assert (row.chance_area.value, row.chance_final.value) == (0, 1)


def test_what_cannot_be_compared_is_no_number(tmp_path: Path) -> None:
    for number, (name, values) in enumerate((("mmsa", [0, 0.5, 1]), ("qmix", [0, 0, 0]))):
        for seed in (1, 2, 3):
            metrics = {"test_return_mean": ([0, 500, 1000], values)}
            sr.write(tmp_path / f"runs/{number}{seed}", sr.record(sr.configuration(name, seed), metrics))
    runs = load_runs([str(tmp_path / "runs")])
    (row,) = sc.comparisons(sc.score_task(group(runs).tasks[0]), "mmsa")
    assert np.isnan([row.area.value, row.level, row.steps, row.ratio.value]).all() and sc.steps_words(row) == "–"
    page = write_report(runs, tmp_path / "out").read_text()
    rows = page.partition('<h2 id="comparison">')[2].partition("<h2")[0].replace('data-v="nan"', "")
    assert "nan" not in rows and "not in 1,000" not in rows
    assert "| mmsa | qmix | – | 1.000 [1.000, 1.000] |" in (tmp_path / "out/table.md").read_text()


def test_several_references(tmp_path: Path) -> None:
    for name, end in (("mmsa", 0.5), ("qmix", 0.25), ("vdn", 1)):
        sr.write(tmp_path / name, sr.record(sr.configuration(name), sr.tests(end)))
    page = write_report(load_runs([str(tmp_path)]), tmp_path / "out", references=["VDN", "mmsa", "iql"]).read_text()
    heads = [page.index(f'<h2 id="comparison{n}">{name} against') for n, name in (("", "VDN"), (1, "mmsa"), (2, "iql"))]
    first, second, third = page[heads[0] : heads[1]], page[heads[1] : heads[2]], page[heads[2] :].partition("</p>")[0]
    assert "<tr><td>vdn</td><td>mmsa</td>" in first and "<tr><td>vdn</td><td>qmix</td>" in first
    assert "<tr><td>mmsa</td><td>qmix</td>" in second and "<tr><td>mmsa</td><td>vdn</td>" in second
    assert first.count("<tr><td>") == second.count("<tr><td>") == 2 and "No complete run is called iql" in third
    assert all(f'<a href="#comparison{n}">' in page for n in ("", 1, 2))
    table = (tmp_path / "out/table.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\w+) \| ([\d.]+) \|", table.partition("| against |")[2], re.M)
    assert [row[:2] for row in rows] == [("vdn", "mmsa"), ("vdn", "qmix"), ("mmsa", "qmix"), ("mmsa", "vdn")]
    assert rows[0][2] == "2.000" and rows[3][2] == "0.500"
    names = [path.name for path in (tmp_path / "out/figures").glob("comparison*.png")]
    assert len(names) == 2 and {name.rpartition("_")[2] for name in names} == {"VDN.png", "mmsa.png"}


def test_names_that_no_file_and_no_font_can_have(tmp_path: Path) -> None:
    for label in ("a\udc80b", "ẞ" * 130):
        config = sr.configuration("qmix", label=label, env_args={"key": "ẞ" * 130})
        sr.write(tmp_path / f"runs/{len(label)}", sr.record(config, sr.tests(0.5)))
    runs = load_runs([str(tmp_path / "runs")])
    write_report(runs, tmp_path / "out", references=["ẞ" * 130])
    assert "a\\udc80b" in (tmp_path / "out/table.md").read_text()
    assert list((tmp_path / "out/figures").glob("curves_ẞ*.png"))


def test_references_that_overlap(tmp_path: Path) -> None:
    for number, lr in enumerate((0.001, 0.002)):
        sr.write(tmp_path / f"{number}", sr.record(sr.configuration("qmix", lr=lr), sr.tests(lr)))
    sr.write(tmp_path / "2", sr.record(sr.configuration("vdn"), sr.tests(0.1)))
    named = ["QMIX", "qmix", "qmix lr=0.001"]
    page = write_report(load_runs([str(tmp_path)]), tmp_path / "out", references=named).read_text()
    assert "No complete run is called" not in page and page.count(" against the others</h2>") == 2
    table = (tmp_path / "out/table.md").read_text()
    rows = re.findall(r"^\| ([\w .=]+) \| ([\w .=]+) \| [\d.]+ \|", table.partition("| against |")[2], re.M)
    assert rows == [
        ("qmix lr=0.001", "vdn"), ("qmix lr=0.002", "vdn"),
        ("qmix lr=0.001", "qmix lr=0.002"), ("qmix lr=0.001", "vdn"),
    ]  # fmt: skip


def test_a_curve_that_gets_there_in_some_samples_only(tmp_path: Path) -> None:
    for number, (name, end) in enumerate((("mmsa", 1), ("mmsa", 1), ("mmsa", 0.2), *(("qmix", 0.75),) * 3)):
        sr.write(tmp_path / f"{number}", sr.record(sr.configuration(name, seed=number), sr.tests(end)))
    (row,) = sc.comparisons(sc.score_task(group(load_runs([str(tmp_path)])).tasks[0]), "mmsa")
    assert re.fullmatch(r"1\.02 \[0\.75, never\]", sc.steps_words(row)), sc.steps_words(row)


# --- world model ---
def test_the_world_model_is_shown(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    page = write_report(lay(tmp_path / "runs", seeds=3), tmp_path / "out").read_text()
    horizon, kl, *rest = drawn("world_model_Foraging-a").axes
    model, nothing = horizon.lines
    assert model.get_xdata().tolist() == list(range(1, 11))
    assert model.get_ydata() == pytest.approx([0.1 * k for k in range(1, 11)])
    assert nothing.get_ydata() == pytest.approx([0.3 * k for k in range(1, 11)]) and nothing.get_linestyle() == "--"
    assert kl.lines[0].get_ydata().tolist() == [3, 2, 1] and len(rest) == 7 and len(rest[3].lines) == 2
    section = page.partition('<h2 id="world-model">')[2].partition("<h2")[0]
    assert "open loop 10" in section and "reward correlation" in section and "qmix" not in section.partition("<svg")[0]


def test_a_world_model_of_many_curves(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    """With more than three, what no change errs is drawn for the first one, the reference, alone."""
    metrics = sr.tests(1) | sr.world_model() | {"mmsa_td_other_rollout": ([0, 1000], [1, 100])}
    for name in ("mmsa a", "mmsa b", "mmsa c", "mmsa"):
        sr.write(tmp_path / "runs" / name, sr.record(sr.configuration(name), metrics))
    write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out")
    horizon, *rest = drawn("world_model").axes
    first, dashed, *others = horizon.lines
    assert [line.get_linestyle() for line in others] == ["-", "-", "-"] and "of the first curve" in horizon.get_title()
    assert dashed.get_linestyle() == "--" and dashed.get_color() == first.get_color() == COLOURS[0]
    ratios = [panel.get_title() for panel in rest if panel.get_yscale() == "log"]
    assert [title.partition(" error ")[0] for title in ratios] == ["SALE", "TD"]


def test_whatever_is_there_of_the_world_model_is_shown(tmp_path: Path, drawn: Callable[[str], Figure]) -> None:
    metrics = sr.tests(1) | {"mmsa_loss_sale": ([0, 1000], [2, 1])}
    sr.write(tmp_path / "runs/1", sr.record(sr.configuration("mmsa"), metrics))
    write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out")
    assert [panel.get_title() for panel in drawn("world_model").axes] == ["SALE loss"]


# --- nothing to average ---
def test_a_report_of_nothing(tmp_path: Path) -> None:
    sr.write(tmp_path / "runs/1", sr.record(sr.configuration(), {}, status="FAILED"))
    runs = load_runs([str(tmp_path / "runs")])
    page = write_report(runs, tmp_path / "out", planned=[Planned.of(sr.configuration(seed=5))]).read_text()
    assert "nothing to average" in page and "0 of 1 runs averaged, 1 planned" in page and "no run was recorded" in page


def test_missing_runs_of_an_algorithm_are_one_line(tmp_path: Path) -> None:
    sr.write(tmp_path / "runs/1", sr.record(sr.configuration(), {}, status="FAILED"))
    planned = [Planned.of(sr.configuration(name, seed)) for seed in (1, 11, 12) for name in ("qmix", "vdn")]
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out", planned=planned).read_text()
    rows = [
        ("qmix", f"{sr.LBF}, lbforaging 2.0.0", "1", "crashed: ValueError: a bad value"),
        ("qmix", sr.LBF, "1", "missing: no complete run of this configuration"),
        ("vdn", sr.LBF, "1, 11, 12", "missing: no run was recorded"),
        ("qmix", sr.LBF, "11, 12", "missing: no run was recorded"),
    ]
    table = (tmp_path / "out/table.md").read_text().partition("## Not averaged")[2]
    assert table.splitlines()[4:] == [f"| {' | '.join(row)} |" for row in rows]
    section = page.partition('<h2 id="left-out">')[2].partition("</table>")[0]
    assert [tuple(re.findall(r"<td[^>]*>([^<]*)</td>", line))[:4] for line in section.split("<tr>")[2:]] == rows


def test_curves_that_share_no_steps(tmp_path: Path) -> None:
    sr.write(tmp_path / "runs/1", sr.record(sr.configuration(), sr.tests(1)))
    sr.write(tmp_path / "runs/2", sr.record(sr.configuration("vdn", t_max=3000), sr.tests(1, (2000, 3000))))
    page = write_report(load_runs([str(tmp_path / "runs")]), tmp_path / "out").read_text()
    assert "share no environment steps" in page


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.report.find_spec", lambda name: None if name == "rliable" else object())
    with pytest.raises(ConfigError, match=r"needs rliable: pip install -e '\.\[report\]'"):
        write_report([], tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report([], tmp_path / "file")


# --- in a browser ---
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def browser() -> Any:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no Chromium is installed (none of {', '.join(BROWSERS)})")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_the_page_in_chromium(made: tuple[Path, list[RunRecord]], browser: Any, tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="light", viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((made[0] / "index.html").as_uri())
    assert said == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1

    # tables sort: names upwards first, numbers downwards first
    table = page.locator("table.scores").first
    column = table.locator("tbody tr td:first-child")
    assert column.all_inner_texts() == ["mmsa", "qmix"]
    head = table.locator("thead th").nth(1)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending" and column.all_inner_texts() == ["mmsa", "qmix"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and column.all_inner_texts() == ["qmix", "mmsa"]

    # a number's link opens its runs
    link = table.locator("a").first
    details = page.locator(f"details{link.get_attribute('href')}")
    assert details.get_attribute("open") is None
    link.click()
    page.wait_for_function("document.querySelector('details:target')?.open")

    # light and dark
    colours = "[document.body, document.querySelector('svg text')].map((e) => getComputedStyle(e))"
    light = page.evaluate(f"{colours}.map((s, i) => i ? s.fill : s.backgroundColor)")
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(f"{colours}.map((s, i) => i ? s.fill : s.backgroundColor)")
    page.get_by_role("button", name="Light or dark").click()
    toggled = page.evaluate(f"{colours}.map((s, i) => i ? s.fill : s.backgroundColor)")
    assert light[0] != dark[0] and light[1] != dark[1] and toggled == light
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000 and said == []
