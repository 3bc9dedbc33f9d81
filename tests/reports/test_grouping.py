from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model
from support import sacred_runs as sr

import envs
from reports.grouping import Groups, group
from reports.runs import Planned, RunRecord, load_runs


@pytest.fixture
def lay(tmp_path: Path) -> Any:
    """Writes runs from (configuration, keyword arguments of sr.record), and reads them."""

    def lay(*runs: tuple[dict[str, Any], dict[str, Any]]) -> list[RunRecord]:
        for number, (config, given) in enumerate(runs):
            metrics = given.pop("metrics", sr.tests(1))
            sr.write(tmp_path / f"{number:02d}", sr.record(config, metrics, **given))
        return load_runs([str(tmp_path)])

    return lay


def names(groups: Groups) -> list[tuple[str, str, list[int | None]]]:
    return [
        (task.title, curve.name, [run.seed for run in curve.runs]) for task in groups.tasks for curve in task.curves
    ]


LBF = f"{sr.LBF}, lbforaging 2.0.0"


def test_seeds_are_one_curve(lay: Any) -> None:
    groups = group(lay(*((sr.configuration(seed=seed, local_results_path=f"r{seed}"), {}) for seed in (3, 1, 2))))
    assert names(groups) == [(LBF, "qmix", [1, 2, 3])] and not groups.left_out and not groups.notes


def test_runs_without_a_seed_repeat_none(lay: Any) -> None:
    assert names(group(lay(*((sr.configuration(seed=None), {}) for _ in range(2))))) == [(LBF, "qmix", [None, None])]


@pytest.mark.parametrize(("t_max", "whole"), [(1100, True), (1101, False)])
def test_a_run_is_whole_up_to_one_interval_after_its_last_test(lay: Any, t_max: int, whole: bool) -> None:
    """The last test is at step 1000, the interval 100."""
    groups = group(lay((sr.configuration(t_max=t_max), {"metrics": sr.tests(1, range(0, 1001, 100))})))
    assert [out.reason.split(":")[0] for out in groups.left_out] == ([] if whole else ["cut off"])


def test_other_configurations_are_other_curves(lay: Any) -> None:
    groups = group(
        lay(
            (sr.configuration(seed=1), {}),
            (sr.configuration(seed=2, lr=0.01), {}),
            (sr.configuration(seed=3, lr=0.01, deep__key=1), {}),
        )
    )
    assert names(groups) == [
        (LBF, "qmix deep.key=1 lr=0.01", [3]),
        (LBF, "qmix deep.key=absent lr=0.0005", [1]),
        (LBF, "qmix deep.key=absent lr=0.01", [2]),
    ]


def test_a_label_may_look_like_a_name_that_is_made(lay: Any) -> None:
    groups = group(
        lay(
            (sr.configuration(seed=1, label="Q", lr=0.1), {}),
            (sr.configuration(seed=2, label="Q", lr=0.2), {}),
            (sr.configuration(seed=1, label="Q lr=0.1", lr=0.3), {}),
        )
    )
    assert (
        names(groups)
        == [
            (LBF, "Q lr=0.1 (label Q lr=0.1)", [1]),
            (LBF, "Q lr=0.1 (label Q)", [1]),
            (LBF, "Q lr=0.2", [2]),
        ]
        and not groups.left_out
    )


def test_a_record_older_than_a_key_is_one_of_its_former_value(lay: Any) -> None:
    later: list[dict[str, Any]] = [{}, {"scale_inputs": False, "scale_state": False}, {"scale_inputs": True}]
    runs = lay(*((sr.configuration(seed=seed, **keys), {}) for seed, keys in enumerate(later)))
    assert names(group(runs[:2])) == [(LBF, "qmix", [0, 1])]
    assert names(group(runs)) == [(LBF, "qmix scale_inputs=false", [0, 1]), (LBF, "qmix scale_inputs=true", [2])]


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"env_args": {"key": sr.LBF, "action_masks": True}}, f"{LBF} env_args.action_masks=true"),
        (
            {"env_args": {"key": sr.LBF, "time_limit": 9, "make": {"players": 3}}},
            f"{LBF} env_args.make.players=3 env_args.time_limit=9",
        ),
        ({"common_reward": False}, f"{LBF} common_reward=false"),
        ({"env_args": {"key": sr.LBF, "time_limit": None, "make": {}}}, LBF),
    ],
    ids=str,
)
def test_what_is_not_as_usual_in_the_environment_is_in_the_title_of_every_run(
    lay: Any, change: dict[str, Any], title: str
) -> None:
    """Also where no other run differs, so that no report calls another task by the plain one's name."""
    runs = lay((sr.configuration(**change), {}), (sr.configuration(seed=2), {}))
    assert names(group(runs[:1])) == [(title, "qmix", [1])] and runs[0].task == title
    assert names(group(runs[1:])) == [(LBF, "qmix", [2])]


@pytest.mark.parametrize("key", ["size", "backend"])
def test_what_an_environment_of_ones_own_differs_in_is_in_both_titles(
    lay: Any, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """And they are called the same in a process that has imported it."""
    own = [{"env": "mine", "env_args": {"key": "k", key: value}} for value in (1, 2)]
    runs = lay(*((sr.configuration(**keys), {}) for keys in own))
    assert [title for title, _, _ in names(group(runs))] == [f"k, lbforaging 2.0.0 env_args.{key}={n}" for n in (1, 2)]
    monkeypatch.setitem(envs.ARGS, "mine", create_model("Mine", **{key: (int, 5)}))
    assert [run.task for run in load_runs([run.source for run in runs])] == ["k, lbforaging 2.0.0"] * 2


def test_a_curve_is_called_the_same_on_all_tasks(lay: Any) -> None:
    other = {"env_args": {"key": "other"}}
    runs = lay((sr.configuration(lr=1), {}), (sr.configuration(lr=2), {}), (sr.configuration(lr=1, **other), {}))
    assert [curve for _, curve, _ in names(group(runs))] == ["qmix lr=1", "qmix lr=2", "qmix lr=1"]


def upstreams(name: str = "mmsa", seed: int = 1, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run of an EPyMARL checkout: its gymma.yaml sets a limit that Foraging never comes to."""
    args = {"key": f"lbforaging:{sr.LBF}", "time_limit": 100, "pretrained_wrapper": None}
    config = sr.configuration(name, seed, env_args=args, label="default_label", optim_alpha=0.99, clip=10)
    return config | changes, {"host": "upstream EPyMARL cbc38c0 at /home/me/epymarl"}


def test_runs_of_both_hosts_are_curves_of_one_task(lay: Any) -> None:
    args = {"key": sr.LBF, "time_limit": None, "make": {}, "action_masks": False}
    ours = [sr.configuration("mmsa", seed, env_args=args, env_steps_per_update=50, clip=10.0) for seed in (1, 2)]
    qmix = sr.configuration(env_args=args, env_steps_per_update=50)
    groups = group(lay(*((config, {}) for config in (*ours, qmix)), upstreams(seed=1), upstreams(seed=2)))
    assert names(groups) == [
        (LBF, "mmsa host=EPyMARL cbc38c0", [1, 2]),
        (LBF, "mmsa host=embedded", [1, 2]),
        (LBF, "qmix host=embedded", [1]),
    ]


def test_what_tells_runs_of_one_host_apart_does_so_beside_the_other(lay: Any) -> None:
    """Also what the other one does not know, and what both have at other values; masks make another task."""
    ours = [sr.configuration("mmsa", env_steps_per_update=steps) for steps in (25, 50)]
    masks = sr.configuration("mmsa", env_steps_per_update=50, env_args__action_masks=True)
    groups = group(lay(*((config, {}) for config in (*ours, masks)), upstreams(lr=0.01)))
    mine, theirs = "env_steps_per_update={} host=embedded lr=0.0005", "env_steps_per_update=absent host=EPyMARL cbc38c0"
    assert names(groups) == [
        (LBF, f"mmsa {mine.format(25)}", [1]),
        (LBF, f"mmsa {mine.format(50)}", [1]),
        (LBF, f"mmsa {theirs} lr=0.01", [1]),
        (f"{LBF} env_args.action_masks=true", f"mmsa {mine.format(50)}", [1]),
    ]


@pytest.mark.parametrize("args", [{"pretrained_wrapper": "PretrainedTag"}, {"time_limit": 25}])
def test_an_environment_that_only_the_other_host_has_is_another_task(lay: Any, args: dict[str, Any]) -> None:
    config, given = upstreams()
    groups = group(lay((sr.configuration("mmsa"), {}), (config | {"env_args": config["env_args"] | args}, given)))
    assert len(groups.tasks) == 2


def test_algorithms_may_differ_in_their_keys(lay: Any) -> None:
    groups = group(lay((sr.configuration(), {}), (sr.configuration("mmsa", lr=1), {})))
    assert [curve for _, curve, _ in names(groups)] == ["mmsa", "qmix"]


@pytest.mark.parametrize(
    "change", [{"env_args__time_limit": 25}, {"common_reward": False}, {"reward_scalarisation": "mean"}]
)
def test_another_environment_is_another_task(lay: Any, change: dict[str, Any]) -> None:
    groups = group(lay((sr.configuration(), {}), (sr.configuration("vdn", **change), {})))
    assert len(groups.tasks) == 2 and all(len(task.curves) == 1 for task in groups.tasks)


def test_a_module_before_the_key_is_no_other_task(lay: Any) -> None:
    """As upstream's users write it; so planned, too."""
    prefixed = {"env_args": {"key": f"lbforaging:{sr.LBF}"}}
    runs = lay((sr.configuration(), {}), (sr.configuration("vdn", **prefixed), {}))
    assert names(group(runs)) == [(LBF, "qmix", [1]), (LBF, "vdn", [1])]
    assert group(runs, [Planned.of(run.config) for run in runs]).left_out == ()


@pytest.mark.parametrize(
    "backends",
    [("SMAX (jaxmarl 0.2.0)", "StarCraft II 4.10"), ("SMAX (jaxmarl 0.2.0)", "SMAX (jaxmarl 0.3.0)"), ("SMAX", "")],
)
def test_simulators_and_versions_never_share_a_curve(lay: Any, backends: tuple[str, str]) -> None:
    runs = lay(*((sr.configuration(env="sc2v2", seed=i), {"backend": backend}) for i, backend in enumerate(backends)))
    assert [len(task.curves[0].runs) for task in group(runs).tasks] == [1, 1]


@pytest.mark.parametrize(
    ("change", "given", "reason"),
    [
        ({}, {"status": "FAILED"}, "crashed: ValueError: a bad value"),
        ({}, {"status": "INTERRUPTED"}, "stopped by hand"),
        ({}, {"status": "RUNNING"}, "last sign of life: 2026-01-02T03:04:25"),
        ({}, {"status": "TIMEOUT"}, "status is TIMEOUT"),
        ({"t_max": 2000}, {}, "the last test is at step 1,000 of t_max=2,000"),
        ({"evaluate": True}, {}, "tests a checkpoint"),
        ({}, {"metrics": {"loss": ([0], [1])}}, "no test"),
        ({}, {"metrics": {"test_return_mean": ([0, 1000], [0, float("nan")])}}, "no finite number"),
    ],
)
def test_incomplete_runs_are_listed(lay: Any, change: dict[str, Any], given: dict[str, Any], reason: str) -> None:
    groups = group(lay((sr.configuration(), {}), (sr.configuration(seed=2, **change), given)))
    assert names(groups) == [(LBF, "qmix", [1])]
    (out,) = groups.left_out
    assert (out.algorithm, out.seed) == ("qmix", 2) and reason in out.reason and out.source.endswith("01")


def test_a_record_that_lost_tests_is_not_averaged(lay: Any) -> None:
    """Neither from its beginning nor in between; tests as far apart as rollouts are long are all there."""
    every, again = range(100, 1001, 100), "; to have it run again, remove its record"
    kept = {1: every, 2: range(400, 1001, 100), 3: (100, 200, 300, 800, 900, 1000), 4: (250, 510, 760, 1010), 5: every}
    losses: dict[int, dict[str, Any]] = {5: {"resumed": [{"missing": 1234}, {}]}}
    curves = {seed: {"test_return_mean": (list(steps), [0.5] * len(steps))} for seed, steps in kept.items()}
    runs = [(sr.configuration(seed=seed), {"metrics": curves[seed], **losses.get(seed, {})}) for seed in kept]
    late = (sr.configuration("vdn", 9, checkpoint_path="networks"), {"metrics": curves[2]})  # began at their step
    groups = group(lay(*runs, late))
    assert [out.reason for out in groups.left_out] == [
        f"its tests from step 0 to 400 are not there{again}",
        f"its tests from step 300 to 800 are not there{again}",
        f"1,234 points of its metrics were lost when it went on{again}",
    ]
    assert [seeds for _, _, seeds in names(groups)] == [[1, 4], [9]]


def test_a_repeated_seed_counts_once(lay: Any) -> None:
    later = sr.START + timedelta(days=1)
    groups = group(
        lay((sr.configuration(), {"start": later}), (sr.configuration(), {}), (sr.configuration(seed=2), {}))
    )
    ((_, _, seeds),) = names(groups)
    assert seeds == [1, 2] and groups.tasks[0].curves[0].runs[0].source.endswith("01")
    assert "repetition" in groups.left_out[0].reason and groups.left_out[0].source.endswith("00")


def test_win_rates_come_before_returns(lay: Any) -> None:
    wins = sr.tests(0.5, metric="test_battle_won_mean")
    groups = group(lay((sr.configuration(), {"metrics": wins | sr.tests(9)}), (sr.configuration(seed=2), {})))
    assert groups.tasks[0].metric == "test_battle_won_mean" and names(groups) == [(LBF, "qmix", [1])]
    assert "no test_battle_won_mean" in groups.left_out[0].reason


def test_lengths_versions_and_commits_are_noted(lay: Any) -> None:
    runs = lay(
        (sr.configuration(), {}),
        (sr.configuration(seed=2), {"versions": {"torch": "2.0"}}),
        (sr.configuration("vdn", t_max=1050), {}),
    )
    notes = "\n".join(group(runs).notes)
    assert "different versions of torch: 2.0: qmix; 2.13.0: qmix, vdn." in notes
    assert "lengths differ" in notes and "t_max=1,050: vdn" in notes and "commits" not in notes


def test_a_strange_configuration_of_somebody_elses_run_ends_no_report(lay: Any) -> None:
    strange: list[dict[str, Any]] = [{"t_max": "1000"}, {"t_max": None}, {"torch_threads": [1]}, {"t_max": [1]}]
    groups = group(lay(*((sr.configuration(f"a{i}", **keys), {}) for i, keys in enumerate(strange))))
    assert [curve for _, curve, _ in names(groups)] == ["a0", "a1", "a2", "a3"]
    assert any(
        "lengths differ (t_max=1000: a0; t_max=null: a1; t_max=1,000: a2; t_max=[1]: a3)" in n for n in groups.notes
    )


def test_algorithms_of_different_commits_are_noted(lay: Any) -> None:
    qmix, vdn = lay((sr.configuration(), {}), (sr.configuration("vdn"), {}))
    (note,) = group([qmix, dataclasses.replace(vdn, commit="f" * 40)]).notes
    assert note.endswith("the runs were made at different commits: 0123456789: qmix; ffffffffff: vdn.")


def test_a_run_that_went_on_at_another_commit_is_noted(lay: Any) -> None:
    note = {"host": "box", "commit": "f" * 40, "dirty": True}
    runs = lay((sr.configuration(), {"resumed": [note]}), (sr.configuration(seed=2), {"resumed": [{"host": "box"}]}))
    changed, apart, own = group(runs).notes
    assert "files differed from the commit" in changed and changed.endswith("of different code: qmix, seed 1.")
    assert apart.endswith("different commits: 0123456789: qmix; ffffffffff, changed: qmix.")
    assert own.endswith("qmix, seed 1, went on at another commit: 0123456789, then ffffffffff, changed.")


def test_a_run_that_went_on_at_another_machine_is_noted(lay: Any) -> None:
    runs = lay((sr.configuration(), {"resumed": [{"host": "box", "cpu": "another"}, {"cpu": "Some CPU"}, "damaged"]}))
    (note,) = group(runs).notes
    assert "machines, devices or threads differ" in note


def test_a_run_that_went_on_with_other_versions_is_noted(lay: Any) -> None:
    later = {
        "backend": "lbforaging 2.0.1",
        "device": "cuda",
        "versions": {"lbforaging": "2.0.1", "torch": "", "jax": 5},
    }
    runs = lay((sr.configuration(), {"resumed": [later, {"versions": "damaged"}, later]}))
    (note,) = group(runs).notes
    said = "backend lbforaging 2.0.1, device cuda, lbforaging 2.0.1, jax 5"
    assert note.endswith(f"qmix, seed 1, began otherwise and went on with {said}.")


# --- planned ---
def test_what_was_planned_is_asked_for(lay: Any) -> None:
    runs = lay(
        (sr.configuration(), {}),
        (sr.configuration(seed=2, lr=1), {}),
        (sr.configuration(seed=3), {"status": "FAILED"}),
        (sr.configuration("vdn"), {}),
    )
    groups = group(runs, [Planned.of(sr.configuration(seed=seed)) for seed in (1, 2, 3, 4)])
    assert names(groups) == [(LBF, "qmix", [1])]
    reasons = {(out.algorithm, out.seed, bool(out.source)): out.reason for out in groups.left_out}
    assert reasons["qmix", 2, True] == "another configuration than planned: lr is 1, the plan has 0.0005"
    assert "crashed" in reasons["qmix", 3, True] and reasons["vdn", 1, True] == "not planned in this experiment"
    assert "no run was recorded" in reasons["qmix", 4, False]
    assert {seed for _, seed, recorded in reasons if not recorded} == {2, 3, 4}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"torch_threads": 2}, "torch_threads is 2, the plan has 1"),
        ({"gone": 3}, "gone is 3, the plan does not have it"),
        ({"env_workers": 3}, ""),
        ({"scale_state": False}, ""),  # gone, and did nothing
        ({"scale_state": True}, "scale_state is True, the plan does not have it"),
        ({"scale_inputs": False}, ""),  # younger than the plan's record of the other one
        ({"scale_inputs": True}, "scale_inputs is True, the plan has False"),
        ({"env_args": {"key": sr.LBF, "action_masks": False}}, ""),
        ({"env_args": {"key": sr.LBF, "action_masks": True}}, "env_args.action_masks is True, the plan has False"),
    ],
)
def test_what_is_averaged_is_what_counts_as_finished(lay: Any, change: dict[str, Any], reason: str) -> None:
    config, plan = sr.configuration() | change, sr.configuration()
    groups = group(lay((config, {})), [Planned.of(plan)])
    said = [out.reason for out in groups.left_out if out.source]
    assert said == ([f"another configuration than planned: {reason}"] if reason else [])
