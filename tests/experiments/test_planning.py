"""Experiment and search files, their plans, and what counts as the same run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import envs
import learners
import mmsa.learner
from experiments.planning import PART, Loaded, Run, default_jobs, load_experiment, part_of, plan, words_of
from experiments.search import Range, Search, load_search, name_of
from utils import config, hosts, identity, resume
from utils.config import ConfigError, compose, parse_override

EXPERIMENTS = sorted((config.ROOT / "config" / "experiments").glob("*.yaml"))
SEARCHES = sorted((config.ROOT / "config" / "searches").glob("*.yaml"))
FILE = """# Two on two
algorithms:
  no memory: {config: vdn, overrides: {use_rnn: false, lr: 0.002}}
  IQL: {config: iql}
tasks:
  climbing: {env_config: matrix, overrides: {env_args.key: climbing, lr: 0.001, gamma: 0.5}}
  penalty: {env_config: matrix, overrides: {env_args: {key: penalty, k: -5.0}, t_max: 77}}
seeds: [3, 1]
t_max: 500
overrides: {use_cuda: false, gamma: 0.25, lr: 0.01}
"""
SEARCH = """# Some points
algorithm: {config: vdn, overrides: {use_rnn: false}}
tasks: {climbing: {env_config: matrix, overrides: {env_args.key: climbing}}}
keys:
  lr: {log_uniform: [0.0001, 0.1]}
  gamma: {uniform: [0.5, 1]}
  hidden_dim: {uniform: [8, 64]}
  td_lambda: [0.0, 0.3]
samples: 6
search_seed: 4
seeds: [1]
t_max: 100
"""
Files = Callable[..., Loaded]


@pytest.fixture(autouse=True)
def this_process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing a run registers what it names, and exact_rollouts puts its learner in the place of MMSA's."""
    for owner, name in ((envs, "REGISTRY"), (learners, "REGISTRY")):
        monkeypatch.setattr(owner, name, dict(getattr(owner, name)))
    monkeypatch.setattr(mmsa.learner, "MMSALearner", mmsa.learner.MMSALearner)
    monkeypatch.setattr(hosts, "_registered", set(hosts._registered))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Loads FILE (or SEARCH) with these replacements."""

    def load(*changes: tuple[str, str], search: bool = False) -> Loaded:
        text = SEARCH if search else FILE
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "two.yaml"
        path.write_text(text)
        return (load_search if search else load_experiment)(str(path))

    return load


def planned(loaded: Loaded, *words: str) -> list[Run]:
    return plan(loaded, Path("out"), words)


# --- plans ---
def test_every_algorithm_on_every_task_with_every_seed(files: Files) -> None:
    loaded = files()
    runs = planned(loaded)
    assert (loaded.name, loaded.title) == ("two", "Two on two")
    assert [(run.seed, run.task, run.algorithm) for run in runs] == [
        (seed, task, algorithm)
        for seed in (3, 1)
        for task in ("climbing", "penalty")
        for algorithm in ("no memory", "IQL")
    ]
    assert [str(run.folder) for run in runs[:2]] == ["out/runs/no_memory/climbing/seed3", "out/runs/IQL/climbing/seed3"]
    for run in runs:
        own = (run.config["seed"], run.config["label"], run.config["local_results_path"])
        assert own == (run.seed, run.algorithm, str(run.folder))


def test_later_overrides_win(files: Files) -> None:
    runs = {(run.algorithm, run.task): run.config for run in planned(files()) if run.seed == 1}
    assert {run["gamma"] for (_, task), run in runs.items() if task == "climbing"} == {0.5}
    assert {run["gamma"] for (_, task), run in runs.items() if task == "penalty"} == {0.25}
    lr = {pair: run["lr"] for pair, run in runs.items()}
    assert lr["no memory", "climbing"] == lr["no memory", "penalty"] == 0.002
    assert lr["IQL", "climbing"] == 0.001 and lr["IQL", "penalty"] == 0.01
    assert runs["IQL", "penalty"]["t_max"] == 77 and runs["IQL", "climbing"]["t_max"] == 500
    assert runs["IQL", "penalty"]["env_args"] == {"key": "penalty", "k": -5.0}
    assert {run.config["lr"] for run in planned(files(), "lr=0.5")} == {0.5}


@pytest.mark.parametrize(
    ("old", "new", "reference"),
    [
        ("IQL", "IQL", ["no memory"]),
        ("IQL:", "mmsa:", ["mmsa"]),
        ("t_max: 500", "t_max: 5\nreference: IQL", ["IQL"]),
        ("t_max: 500", "t_max: 5\nreference: [IQL, no memory]", ["IQL", "no memory"]),
    ],
)
def test_the_reference_is_mmsa_or_the_first_algorithm(files: Files, old: str, new: str, reference: list[str]) -> None:
    assert files((old, new)).experiment.reference == reference


def test_main_composes_the_same(files: Files) -> None:
    """The words of a run, on main.py's command line, give the planned configuration."""
    for run in planned(files(), "hidden_dim=8"):
        algorithm, environment, with_, *words = run.words
        assert with_ == "with"
        assert compose(algorithm.partition("=")[2], environment.partition("=")[2], words) == run.config


def test_parts_add_up(files: Files) -> None:
    """The same folders and configurations as in the whole, in its order, and others' environments are not asked for."""
    loaded = files()
    whole = {run.folder: run.config for run in planned(loaded)}
    for key, names in zip(PART, (["IQL", "no memory"], ["penalty", "climbing"], ["1", "3"]), strict=True):
        parts = [planned(part_of(loaded, {key: [name]})) for name in names]
        assert {run.folder: run.config for part in parts for run in part} == whole and len(parts[0]) == 4
        assert [run.folder for run in planned(part_of(loaded, {key: names}))] == list(whole)
    one = part_of(loaded, {"algorithms": ["no memory"], "tasks": None, "seeds": ["1"]})
    assert str(one) == "two, part --algorithms 'no memory' --seeds 1" and str(part_of(loaded, {"tasks": None})) == "two"
    assert [run.task for run in planned(one)] == ["climbing", "penalty"]
    broken = files(("key: penalty", "key: no such game"))
    assert len(planned(part_of(broken, {"tasks": ["climbing"]}))) == 4


def test_a_part_that_is_not_there(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        part_of(files(), {"algorithms": ["IQL", "iqk"], "tasks": ["x"], "seeds": ["11", "1,3"]})
    assert caught.value.problems == [
        f"--algorithms iqk: there is none of this name in {tmp_path}/two.yaml; did you mean IQL?; "
        "there are no memory, IQL",
        f"--tasks x: there is none of this name in {tmp_path}/two.yaml; there are climbing, penalty",
        f"--seeds 11: there is none of this name in {tmp_path}/two.yaml; did you mean 1?; there are 3, 1",
        f"--seeds 1,3: there is none of this name in {tmp_path}/two.yaml; there are 3, 1; several with spaces "
        "between them",
    ]


@pytest.mark.parametrize(
    "value",
    [1, 1.0, 1e-7, True, None, "word", "", "1e-3", "true", "a b", [1, "x"], {"a": [None]}, math.inf, {"a": -math.inf}],
)
def test_values_survive_the_command_line(value: Any) -> None:
    (word,) = words_of({"key.inner": value})
    again = parse_override(word)
    assert again == (("key", "inner"), value) and type(again[1]) is type(value)


@pytest.mark.parametrize("second", ["runner: parallel, batch_size_run: 4, env_workers: 1", "pipeline: true"])
def test_a_run_knows_its_threads(files: Files, second: str) -> None:
    runs = planned(files(("overrides: {use_cuda", f"overrides: {{torch_threads: 2, {second}, use_cuda")))
    assert {run.threads for run in runs} == {3}
    assert [default_jobs(runs, cores) for cores in (1, 3, 8, 9)] == [1, 1, 2, 3]
    assert default_jobs(runs) >= 1
    mixed: list[Any] = [SimpleNamespace(threads=1), SimpleNamespace(threads=4)]
    assert default_jobs(mixed, 8) == 2, "the hungriest ones may be at work together"


# --- bad files ---
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds:", "seed:", "seed = [3, 1]: unknown key; did you mean seeds?"),
        ("seeds: [3, 1]\n", "", "two.yaml: seeds is missing"),
        ("IQL: {config:", "IQL: {confg:", "algorithms.IQL.confg = 'iql': unknown key; did you mean config?"),
        ("IQL: {config: iql}", "IQL: iql", "algorithms.IQL = 'iql': must be a mapping of keys to values"),
        ("seeds: [3, 1]", "seeds: 3", "seeds = 3: must be a list, as [a, b]"),
        ("config: iql", "config: iqk", "algorithms.IQL.config = 'iqk': there is no such algorithm; did you mean iql?"),
        ("env_config: matrix", "env_config: matrx", "tasks.climbing.env_config = 'matrx': there is no such"),
        ("t_max: 500", "t_max: 5e2", "t_max = 500.0: must be a valid integer"),
        ("t_max: 500", "t_max: 0", "t_max = 0: must be greater than or equal to 1"),
        ("t_max: 500", "t_max: 500\nreference: MAPPO", "no algorithm is called 'MAPPO'; there are no memory, IQL"),
        ("t_max: 500", "t_max: 500\nreference: IQK", "no algorithm is called 'IQK'; did you mean IQL?; there"),
        ("t_max: 500", "t_max: 500\nreference: [IQL, 3]", "reference.1 = 3: must be a valid string"),
        ("t_max: 500", "t_max: 500\nruns_of: [lfb]", "PATH: runs_of: lfb: there is no such file in"),
        ("seeds: [3, 1]", "seeds: [3, 1, 3]", "there twice: 3; each seed is run once"),
        ("seeds: [3, 1]", "seeds: [-1]", "seeds.0 = -1: must be greater than or equal to 0"),
        ("seeds: [3, 1]", "seeds: []", "seeds = []: must have 1 or more entries"),
        ("IQL:", "NO memory:", "the names 'no memory' and 'NO memory' would share a folder"),
        ("IQL:", "no_memory:", "the names 'no memory' and 'no_memory' would share a folder"),
        ("IQL:", "../IQL:", "it names a folder"),
        ("IQL:", "no memory:", "the key 'no memory' is there twice"),
        ("gamma: 0.5", "gama: 0.5", "(PATH): unknown key; did you mean gamma? (in no memory on climbing and 1 more)"),
        ("gamma: 0.25", "gamma: 2.5", "(PATH): must be a number from 0 to 1 (in no memory on penalty and 1 more)"),
        ("lr: 0.01}", "lr: 0.01, batch_size: x}", "batch_size = 'x' (PATH): must be a whole number >= 1 (in all runs)"),
        ("use_rnn: false", "use_rnn: maybe", "(PATH): must be true or false (in no memory on climbing and 1 more)"),
        ("key: climbing", "key: climb", "must be 'two_step' or 'climbing' or 'penalty'"),
        ("gamma: 0.25", "seed: 5", "overrides.seed = 5: not to be set here; list it in seeds"),
        ("gamma: 0.25", "'seed ': 5", "overrides.seed  = 5: not to be set here; list it in seeds"),
        ("use_rnn: false", "label: x", "algorithms.no memory.overrides.label = 'x': not to be set here"),
        ("gamma: 0.25", "gamma: !!binary aGk=", "gamma = b'hi' (PATH): a number, a word"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused(files: Files, tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(files((old, new)))
    said = "\n".join(caught.value.problems)
    assert message.replace("PATH", str(tmp_path / "two.yaml")) in said and str(tmp_path / "two.yaml") in said


def test_an_override_that_changes_nothing_is_refused(files: Files) -> None:
    """Of an algorithm, or of a search's points, which would all be one run; what is for all may serve some alone."""
    with pytest.raises(ConfigError) as caught:
        planned(files(("{config: iql}", "{config: iql, overrides: {epochs: 3, td_lambda: 0.5}}")))
    said = (
        "epochs = 3 of IQL changes nothing: only learner=ppo_learner reads it, and learner is q_learner; leave it out"
    )
    assert len(caught.value.problems) == 1 and said in caught.value.problems[0]
    assert planned(files(("lr: 0.01}", "lr: 0.01, epochs: 3}")))
    with pytest.raises(ConfigError, match="mixing_embed_dim = .* changes nothing: only mixer=qmix reads it"):
        planned(files(("td_lambda: [0.0, 0.3]", "mixing_embed_dim: [8, 16]"), search=True))


def test_all_problems_are_named_at_once(files: Files) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(files(("gamma: 0.25", "gamma: 2"), ("use_rnn: false", "use_rnn: 1")), "lr=-1")
    said = caught.value.problems
    assert len(said) == 3 and any("lr = -1 (the command line)" in problem for problem in said)


def test_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quik: there is no such file in config/experiments; did you mean quick?"):
        load_experiment("quik")
    with pytest.raises(ConfigError, match="there is no such file"):
        load_experiment(str(tmp_path / "x.yaml"))


# --- the files that are here ---
@pytest.mark.parametrize("path", EXPERIMENTS + SEARCHES, ids=lambda path: path.stem)
def test_shipped_files(path: Path) -> None:
    loaded = (load_experiment if path in EXPERIMENTS else load_search)(path.stem)
    assert loaded.title
    runs = planned(loaded)
    assert len(runs) == math.prod(
        map(len, (loaded.experiment.algorithms, loaded.experiment.tasks, loaded.experiment.seeds))
    )
    assert len({run.folder for run in runs}) == len(runs)


def test_the_shipped_comparisons() -> None:
    sizes = {}
    for path in EXPERIMENTS:
        experiment = load_experiment(path.stem).experiment
        sizes[path.stem] = tuple(map(len, (experiment.algorithms, experiment.tasks, experiment.seeds)))
        if path.stem in ("quick", "lbf", "smax"):
            assert not any(entry.overrides for entry in experiment.algorithms.values()), "all share their settings"
            assert {"mmsa", "qmix", "vdn"} <= {entry.config for entry in experiment.algorithms.values()}
    assert sizes["lbf"] == (4, 4, 5) and sizes["smax"] == (4, 2, 5)
    chosen_on = {
        seed for name in ("decisions", "shared", "shared_smax") for seed in load_experiment(name).experiment.seeds
    }
    for name in ("lbf", "smax", "ablations"):
        assert not chosen_on & set(load_experiment(name).experiment.seeds), (
            "judged on the runs that settled the settings"
        )
    assert sizes["ablations"][1:] == (2, 3) and sizes["quick"][2] == 3


def test_shipped_experiments_share_runs() -> None:
    """Where an experiment takes runs of another one, some of its own have the same settings."""
    sharing = [loaded for path in EXPERIMENTS if (loaded := load_experiment(path.stem)).experiment.runs_of]
    assert {loaded.name for loaded in sharing} >= {"ablations", "pipeline"}
    for loaded in sharing:
        for name in loaded.experiment.runs_of:
            others = {run.published: run for run in planned(load_experiment(name))}
            same = [(run, others[path]) for run in planned(loaded) for path in run.shared if path in others]
            assert same and all(not identity.differences(run.config, other.config) for run, other in same), loaded.name


@pytest.mark.parametrize("name", ["ablations", "decisions", "shared", "shared_smax", "mappo_tests"])
def test_each_variant_differs_from_the_default(name: str) -> None:
    loaded = load_experiment(name)
    first = next(iter(loaded.experiment.tasks))
    runs = [run for run in planned(loaded) if run.seed == loaded.experiment.seeds[0] and run.task == first]
    whole = next(run for run in runs if run.algorithm in ("MMSA", "QMIX", "MAPPO"))
    seen = [tuple(identity.differences(run.config, whole.config)) for run in runs]
    assert len(set(seen)) == len(seen) and sum(not changes for changes in seen) == 1


# --- searches ---
def test_a_random_search(files: Files) -> None:
    loaded = files(search=True)
    runs = planned(loaded)
    assert len(runs) == 6 and len({run.folder for run in runs}) == 6
    for run in runs:
        values = run.config
        assert 1e-4 <= values["lr"] <= 0.1 and 0.5 <= values["gamma"] <= 1 and values["td_lambda"] in (0.0, 0.3)
        assert 8 <= values["hidden_dim"] <= 64 and isinstance(values["hidden_dim"], int) and not values["use_rnn"]
        assert run.algorithm == name_of({key: values[key] for key in ("lr", "gamma", "hidden_dim", "td_lambda")})
    assert set(loaded.searched) == {"lr", "gamma", "hidden_dim", "td_lambda"} and loaded.experiment.reference == []


def test_the_search_seed_decides(files: Files) -> None:
    def names(*changes: tuple[str, str]) -> list[str]:
        return list(files(*changes, search=True).experiment.algorithms)

    assert names() == names() and names() != names(("search_seed: 4", "search_seed: 5"))
    more = names(("samples: 6", "samples: 9"))
    assert len(more) == 9 and more[:6] == names()


def test_log_uniform_is_even_in_the_logarithm() -> None:
    keys = {"lr": {"log_uniform": [1e-4, 1e-2]}}
    values = {"algorithm": {"config": "vdn"}, "tasks": {"a": {"env_config": "matrix"}}, "seeds": [1], "t_max": 1}
    points = Search.model_validate(values | {"keys": keys, "samples": 2000}).points()
    below = sum(point["lr"] < 1e-3 for point in points) / len(points)
    assert 0.45 < below < 0.55  # evenly without the logarithm: 0.09


def test_rounding_does_not_leave_the_bounds() -> None:
    for bounds in ([0.99991, 0.99999], [0.10001, 0.10004]):
        drawn = [Range(uniform=bounds).draw(random.Random(seed)) for seed in range(20)]
        assert all(bounds[0] <= value <= bounds[1] for value in drawn)


@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
@pytest.mark.parametrize("bounds", [[0.99991, 0.99999], [1000.5, 1000.9], [0.9, 0.99], [1e-5, 1.5e-5]])
def test_points_of_a_narrow_range_differ(kind: str, bounds: list[float]) -> None:
    drawn = {Range.model_validate({kind: bounds}).draw(random.Random(seed)) for seed in range(200)}
    assert len(drawn) > 180 and max(len(repr(value)) for value in drawn) < 12
    below = sum(value < (bounds[0] + bounds[1]) / 2 for value in drawn) / len(drawn)
    assert 0.4 < below < 0.65, "the bounds are drawn too often"


def test_a_key_with_a_fraction_is_searched_in_fractions(files: Files) -> None:
    """[0, 1] for a share means everything between; of a whole number it has two values."""
    keys = SEARCH[SEARCH.index("  lr:") : SEARCH.index("search_seed")]
    loaded = files((keys, "  td_lambda: {uniform: [0, 1]}\n  batch_size: {uniform: [8, 9]}\nsamples: 8\n"), search=True)
    points = [run.config for run in planned(loaded)]
    assert len({point["td_lambda"] for point in points}) == 8
    assert all(0 < point["td_lambda"] < 1 and point["batch_size"] in (8, 9) for point in points)


@pytest.mark.parametrize(("bounds", "whole"), [("[100, 400]", True), ("[0, 1]", False)])
def test_a_key_that_is_a_number_of_updates_or_a_rate(files: Files, bounds: str, whole: bool) -> None:
    keys = SEARCH[SEARCH.index("  lr:") : SEARCH.index("search_seed")]
    loaded = files((keys, f"  target_update_interval_or_tau: {{uniform: {bounds}}}\nsamples: 4\n"), search=True)
    drawn = [run.config["target_update_interval_or_tau"] for run in planned(loaded)]
    assert len(set(drawn)) == 4 and all((value == int(value)) == whole for value in drawn)


@pytest.mark.parametrize("bounds", ["[1, .inf]", f"[1, {10**400}]", "[-1.0e+308, 1.0e+308]", "[.nan, 1.0]", "[2, 1]"])
def test_bounds_that_are_none(files: Files, bounds: str) -> None:
    keys = SEARCH[SEARCH.index("  lr:") : SEARCH.index("search_seed")]
    with pytest.raises(ConfigError, match="lr = .*: the first bound must be below the second, these are .*within 1e"):
        files((keys, f"  lr: {{uniform: {bounds}}}\nsamples: 8\n"), search=True)


def test_samples_for_all_points_of_lists_take_all() -> None:
    """The draws alone leave some out: each is new too seldom at the end."""
    values = {"algorithm": {"config": "vdn"}, "tasks": {"a": {"env_config": "matrix"}}, "seeds": [1], "t_max": 1}
    keys = {"lr": [n / 1000 for n in range(1, 51)], "gamma": [n / 50 for n in range(40)]}
    fewer, all_ = (Search.model_validate(values | {"keys": keys, "samples": n}).points() for n in (90, 2000))
    assert len({tuple(point.values()) for point in all_}) == 2000 and all_[:90] == fewer


def test_a_grid(files: Files) -> None:
    keys = SEARCH[SEARCH.index("  lr:") : SEARCH.index("seeds")]
    loaded = files((keys, "  lr: [0.1, 0.2]\n  mixer: [vdn, null]\n"), search=True)
    assert list(loaded.experiment.algorithms) == [
        "lr=0.1, mixer=vdn", "lr=0.1, mixer=None", "lr=0.2, mixer=vdn", "lr=0.2, mixer=None"
    ]  # fmt: skip
    assert [run.config["mixer"] for run in planned(loaded)] == ["vdn", None] * 2


def test_points_that_would_have_one_name_are_refused(files: Files) -> None:
    keys = SEARCH[SEARCH.index("  lr:") : SEARCH.index("seeds")]
    with pytest.raises(ConfigError, match="two points are called mixer=None; values of a key must differ when"):
        files((keys, "  mixer: [vdn, null, 'None']\n"), search=True)
    loaded = files((keys, "  obs_agent_id: [true, false]\n  batch_size: [1, 2]\n"), search=True)
    assert len(loaded.experiment.algorithms) == 4


def test_lists_are_used_up(files: Files) -> None:
    keys = SEARCH[SEARCH.index("  lr:") : SEARCH.index("search_seed")]
    loaded = files((keys, "  lr: [0.1, 0.2]\nsamples: 50\n"), search=True)
    assert set(loaded.experiment.algorithms) == {"lr=0.1", "lr=0.2"}
    assert loaded.title.endswith(" (2 points differ, of 50 samples)")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples: 6\n", "", "samples is missing: how many points to draw, since lr is a range"),
        ("samples: 6", "samples: 0", "samples = 0: must be greater than or equal to 1"),
        ("[0.0001, 0.1]", "[0.1, 0.0001]", "the first bound must be below the second, these are 0.1 and 0.0001"),
        ("[0.0001, 0.1]", "[0, 0.1]", "log_uniform: the bounds must be above 0"),
        ("log_uniform", "loguniform", "lr: a list of values, {uniform: [low, high]}"),
        ("[0.0, 0.3]", "0.3", "td_lambda: a list of values"),
        ("[0.0, 0.3]", "[]", "td_lambda: a list of values"),
        ("[0.0, 0.3]", "[0.3, 0.3]", "td_lambda: a value is there twice"),
        ("[0.0, 0.3]", "[1, 1.0]", "td_lambda: a value is there twice"),
        ("use_rnn: false", "lr: 0.1", "lr is searched over and also in algorithm.overrides"),
        ("samples:", "sampels:", "unknown key; did you mean samples?"),
        ("hidden_dim:", "hiden_dim:", "unknown key; did you mean hidden_dim?"),
        ("[0.5, 1]", "[0.5, 2]", "must be a number from 0 to 1"),
    ],
)
def test_a_bad_search_is_refused(files: Files, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(files((old, new), search=True))
    assert all(message in problem for problem in caught.value.problems), caught.value.problems


def test_long_names_stay_apart() -> None:
    a, b = ({"x" * 90: "y", "z": value} for value in (1, 2))
    assert name_of(a) != name_of(b) and len(name_of(a)) <= 100
    assert name_of({"path": "a/b"}) != name_of({"path": "a_b"}), "letters that no folder may have"


# --- the same run? ---
def test_only_recording_may_differ() -> None:
    base = compose("vdn", "matrix", ["seed=1"])
    elsewhere = base | {
        "label": "x",
        "local_results_path": "y",
        "save_model": True,
        "log_interval": 5,
        "use_wandb": True,
    }
    assert identity.differences(elsewhere, base) == []
    assert identity.differences(base | {"seed": 2}, base) == ["seed is 2, the plan has 1"]
    assert identity.differences(base | {"env_args": {"key": "climbing", "k": -100.0}}, base) == [
        "env_args.key is 'climbing', the plan has 'two_step'"
    ]
    less = {key: value for key, value in base.items() if key != "gamma"}
    assert identity.differences(less, base) == ["gamma is not there, the plan has 0.99"]
    assert identity.differences(base, less) == ["gamma is 0.99, the plan does not have it"]
    assert identity.differences(base | {"other": None}, base) == ["other is None, the plan does not have it"]


def test_nothing_that_decides_a_result_is_ignored() -> None:
    """Whoever adds a key to one of these must have thought about it."""
    assert identity.RECORDING == {
        "label", "local_results_path", "log_interval", "runner_log_interval", "learner_log_interval", "save_model",
        "save_model_interval", "record_checkpoint", "use_tensorboard", "use_wandb", "wandb_mode", "wandb_project",
        "wandb_team", "checkpoint_interval", "keep_checkpoints", "keep_finished",
    }  # fmt: skip
    assert identity.NOT_LEARNT == identity.RECORDING | {"env_workers", "env_timeout"}
    machine = {"seed", "render", "torch_threads", "use_cuda", "buffer_cpu_only"}
    assert identity.NOT_COMPARED == identity.NOT_LEARNT | machine


def test_a_run_that_was_resumed_with_other_keys_is_the_planned_one() -> None:
    """Only a longer one is not."""
    base = compose("vdn", "matrix", ["seed=1"])
    for key in resume.MAY_CHANGE:
        assert bool(identity.differences(base | {key: "changed"}, base)) == (key == "t_max"), key
    assert identity.NOT_LEARNT - set(resume.MAY_CHANGE) == {"label", "local_results_path"}
