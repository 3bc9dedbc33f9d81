"""SMACv2 on StarCraft II. The game is not here: a stand-in for the package (standin/), and, where the package smacv2 is
installed, the package itself with a stand-in for the game's end of the wire (starcraft_game.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_contract as contract
from support.processes import children, gone

import envs
from envs import sc2v2, smacv2
from envs.vector import SerialVectorEnv
from envs.workers import EnvWorkerError, WorkerVectorEnv

STANDIN = Path(__file__).parent / "standin"
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("smacv2") is None, reason="needs the package smacv2: pip install -r requirements-sc2.txt"
)
# Map -> observation, state, actions; what the package itself says (test_the_package_says_the_same).
SIZES = {
    "protoss_5_vs_5": (92, 130, 11),
    "protoss_10_vs_10": (182, 310, 16),
    "protoss_10_vs_11": (191, 327, 17),
    "protoss_20_vs_20": (362, 820, 26),
    "protoss_20_vs_23": (389, 901, 29),
    "terran_5_vs_5": (82, 120, 11),
    "terran_10_vs_10": (162, 290, 16),
    "terran_10_vs_11": (170, 306, 17),
    "terran_20_vs_20": (322, 780, 26),
    "terran_20_vs_23": (346, 858, 29),
    "zerg_5_vs_5": (82, 120, 11),
    "zerg_10_vs_10": (162, 290, 16),
    "zerg_10_vs_11": (170, 306, 17),
    "zerg_20_vs_20": (322, 780, 26),
    "zerg_20_vs_23": (346, 858, 29),
}
CONTRACT = (
    contract.test_shapes_types_and_masks,
    contract.test_individual_rewards,
    contract.test_seeds,
    contract.test_copies_share_no_state,
    contract.test_a_time_limit_is_no_end_of_the_task,
)
VECTOR_CONTRACT = (contract.test_vector_environments_do_not_depend_on_their_number, contract.test_inactive_rows_stay)


@pytest.fixture
def game_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like StarCraft II with its maps."""
    binary = tmp_path / "Versions" / "Base75689" / "SC2_x64"
    map_file = tmp_path / "Maps" / smacv2.MAP_FILE
    for path in (binary, map_file):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no game")
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def standin(game_files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in package in the place of a real one; its class of battles. No process may be left at the end."""
    ours = ("smacv2", "pysc2", "s2clientprotocol")
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ours}
    for name in kept:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.delenv("STANDIN_KILLS", raising=False)
    import smacv2 as package

    assert Path(str(package.__file__)).parent.parent == STANDIN
    try:
        yield package
        assert not [p for p in package.Process.started if p.running], "a game process was left behind"
    finally:
        for process in package.Process.started:
            process.close()
        for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
            del sys.modules[name]
        sys.modules.update(kept)


@pytest.fixture
def as_contract_case(monkeypatch: pytest.MonkeyPatch) -> str:
    """A case of test_contract.py's functions."""
    arguments = {"map_name": "zerg_5_vs_5", "backend": "starcraft2", "time_limit": 12}
    monkeypatch.setitem(contract.CASES, "starcraft2", arguments)
    monkeypatch.setitem(contract.ENV, "starcraft2", "sc2v2")
    return "starcraft2"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[smacv2.SmacV2Env]]:
    """Every environment that the test makes, closed at its end."""
    made: list[smacv2.SmacV2Env] = []
    begin = smacv2.SmacV2Env.__init__

    def noted(self: smacv2.SmacV2Env, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        begin(self, *args, **kwargs)

    monkeypatch.setattr(smacv2.SmacV2Env, "__init__", noted)
    yield made
    for env in made:
        env.close()


def last_available(env: smacv2.SmacV2Env) -> list[int]:
    return [int(np.flatnonzero(mask)[-1]) for mask in env.get_avail_actions()]


def play(env: smacv2.SmacV2Env, stop: int = 10**6) -> tuple[list[float], dict]:
    """Rewards and last info of one episode, or of its first `stop` steps."""
    rewards: list[float] = []
    info: dict[str, Any] = {}
    env.reset()
    while len(rewards) < stop:
        _, reward, terminated, truncated, info = env.step(last_available(env))
        rewards.append(reward)
        if terminated or truncated:
            break
    return rewards, info


def vector(n: int, standing: Any, workers: int = 0, timeout: float | None = None, **changes: Any) -> Any:
    arguments = {"map_name": "zerg_5_vs_5", "backend": "starcraft2"} | changes
    factories = [partial(sc2v2.make_env, **arguments, seed=i) for i in range(n)]
    return WorkerVectorEnv(factories, workers, timeout=timeout) if workers else SerialVectorEnv(factories)


# --- with the stand-in for the package ---
def test_sizes_of_all_maps(standin: Any) -> None:
    assert set(SIZES) == set(sc2v2.MAPS) and len(SIZES) == 15
    for name, (obs, state, actions) in SIZES.items():
        env = sc2v2.make_env(name, "starcraft2", seed=1)
        info = env.get_env_info()
        assert (info["obs_shape"], info["state_shape"], info["n_actions"]) == (obs, state, actions), name
        assert info["n_agents"] == int(name.split("_")[1]) and info["episode_limit"] == 200
    assert not standin.Process.started, "sizes need no game"


def test_generators_of_a_map() -> None:
    terran, protoss = smacv2.capability_config("terran_10_vs_11"), smacv2.capability_config("protoss_5_vs_5")
    assert (terran["n_units"], terran["n_enemies"]) == (10, 11)
    assert dict(zip(terran["team_gen"]["unit_types"], terran["team_gen"]["weights"], strict=True)) == {
        "marine": 0.45, "marauder": 0.45, "medivac": 0.1,
    }  # fmt: skip
    assert terran["team_gen"]["exception_unit_types"] == ["medivac"]
    assert protoss["team_gen"]["exception_unit_types"] == []
    assert smacv2.capability_config("zerg_5_vs_5")["team_gen"]["exception_unit_types"] == ["baneling"]
    assert terran["start_positions"] == {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(check: Any, standin: Any, as_contract_case: str, built: list[Any]) -> None:
    check(as_contract_case)


@pytest.mark.parametrize("check", VECTOR_CONTRACT, ids=lambda check: check.__name__)
def test_contract_of_the_vector(check: Any, standin: Any, as_contract_case: str, make: Any) -> None:
    check(as_contract_case, make)


def test_contract_of_episodes(standin: Any, as_contract_case: str, make: Any, play: Any) -> None:  # noqa: F811
    contract.test_vector(as_contract_case, make, play)


def test_global_generators_are_left_alone(standin: Any, built: list[Any]) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    play(env)
    assert (random.random(), np.random.random()) == expected


def test_global_generators_change_nothing(standin: Any, built: list[Any]) -> None:
    seen = []
    for other in (1, 2):
        random.seed(other)
        env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
        play(env, 2)
        seen.append(np.array(env.get_obs()))
    assert np.array_equal(seen[0], seen[1])


def test_draws_of_a_battle_go_on_from_step_to_step(standin: Any, built: list[Any]) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    env.reset()
    drawn = []
    for _ in range(2):
        with env._own_random():
            drawn.append((random.random(), np.random.random()))
    (python, numpy), (next_python, next_numpy) = drawn
    assert python != next_python and numpy != next_numpy


def test_battle_won_and_counts_in_the_last_info(standin: Any, built: list[Any]) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    _, info = play(env)
    assert set(info) == {"battle_won", "dead_allies", "dead_enemies", "sc2_restarts"}
    assert info["dead_allies"] == 5 and not info["battle_won"] and info["sc2_restarts"] == 0
    assert env.backend == "StarCraft II Base75689 (smacv2 without a version)" or "smacv2 1" in env.backend


def test_the_reward_has_the_scale_of_the_mean_team(standin: Any, built: list[Any]) -> None:
    """One for all battles and processes: a run that is resumed, or whose game was restarted, goes on with it."""
    scale = 5 * (10 + 0.45 * 35 + 0.45 * 80 + 0.1 * 30) + 200
    for seed in (1, 2):
        env = smacv2.SmacV2Env("zerg_5_vs_5", seed=seed)
        play(env)
        first = env._battle.env
        own = 5 * 10 + 200 + sum(unit.health_max for unit in first.enemies.values())
        assert first.max_reward == pytest.approx(scale) != own
    first._sc2_proc.popen.kill()
    first._sc2_proc.popen.wait()
    with pytest.warns(RuntimeWarning):
        env.reset()
    assert env._battle.env is not first and env._battle.env.max_reward == pytest.approx(scale)
    assert len(standin.Process.started) == 3, "a reset started another process"


def test_a_lost_battle_does_not_change_the_next(standin: Any, built: list[Any]) -> None:
    def battle(env: Any, seed: int) -> Any:
        env.new_episode(seed)
        return env._battle.env.types, env._battle.env.places.tolist()

    whole, lost = (smacv2.SmacV2Env("protoss_5_vs_5", seed=1) for _ in range(2))
    expected = [battle(whole, seed) for seed in (11, 12)]
    assert battle(lost, 11) == expected[0] and expected[0] != expected[1]
    lost._battle.env._sc2_proc.popen.kill()
    lost._battle.env._sc2_proc.popen.wait()
    with pytest.warns(RuntimeWarning):
        assert lost.step(last_available(lost))[-1] == {envs.EPISODE_LOST: True}
    assert battle(lost, 12) == expected[1]


def test_unavailable_actions_and_a_step_too_many(standin: Any, built: list[Any]) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    with pytest.raises(envs.EnvContractError, match="reset"):
        env.step([1] * 5)
    with pytest.raises(envs.EnvContractError, match="replay"):
        env.save_replay()
    env.reset()
    for wrong in (0, 11, -1):
        with pytest.raises(envs.EnvContractError, match=f"action {wrong} is not available to agent 1"):
            env.step([1, wrong, 1, 1, 1])
    play(env)
    with pytest.raises(envs.EnvContractError, match="reset"):
        env.step([0] * 5)
    env.save_replay()
    assert len(standin.StarCraft2Env.saved) == 1


# --- a game that fails ---
def test_a_battle_whose_game_dies_is_marked_and_the_next_is_whole(standin: Any, built: list[Any]) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    play(env, 3)
    first = standin.Process.started[0]
    first.popen.kill()
    first.popen.wait()
    before = np.array(env.get_obs()), env.get_state()
    with pytest.warns(RuntimeWarning, match="thrown away.*1 in a row, the run stops at 5"):
        obs, reward, terminated, truncated, info = env.step(last_available(env))
    assert (reward, terminated, truncated, info) == (0.0, False, True, {envs.EPISODE_LOST: True})
    assert np.array_equal(obs, before[0]) and np.array_equal(env.get_state(), before[1])
    rewards, info = play(env)
    assert info["sc2_restarts"] == 1 and info["dead_allies"] == 5 and len(rewards) > 3
    assert len(standin.Process.started) == 2 and first.closed
    assert play(env)[1]["sc2_restarts"] == 1


def test_a_game_that_dies_in_reset_is_replaced_there(
    standin: Any, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_KILLS", "1,2")
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    with pytest.warns(RuntimeWarning):
        rewards, info = play(env)
    assert info["sc2_restarts"] == 2 and len(rewards) >= 10 and len(standin.Process.started) == 3


def test_a_new_game_gets_new_numbers_which_the_seed_decides(
    standin: Any, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def states() -> list[np.ndarray]:
        standin.StarCraft2Env.requests = 0
        env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = []
            for _ in range(2):
                play(env, 1)
                seen.append(env.get_state())
        env.close()
        return seen

    monkeypatch.setenv("STANDIN_KILLS", "3")  # the second reset
    first, second = states(), states()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], first[1]), "the new process repeats the old one's battles"


@pytest.mark.parametrize("where", ["reset", "step"])
def test_failing_again_and_again_ends_the_run(
    where: str, standin: Any, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a reset and a step are two requests: kill before every one, or before every second one
    monkeypatch.setenv("STANDIN_KILLS", "all" if where == "reset" else ",".join(map(str, range(2, 40, 2))))
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    lost = 0
    with warnings.catch_warnings(), pytest.raises(smacv2.LostGameError, match="in 5 battles of zerg_5_vs_5 in a row"):
        warnings.simplefilter("ignore")
        for _ in range(20):
            lost += envs.EPISODE_LOST in play(env)[1]
    assert lost == (4 if where == "step" else 0) and len(standin.Process.started) == 5


def test_a_whole_battle_starts_the_count_anew(standin: Any, built: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1, time_limit=2)  # a reset and two steps
    kills, request = [], 1
    for _ in range(3):
        for _ in range(4):
            kills.append(request + 1)
            request += 2  # a reset, a step that fails
        request += 3  # a whole one
    monkeypatch.setenv("STANDIN_KILLS", ",".join(map(str, kills)))
    with pytest.warns(RuntimeWarning):
        infos = [play(env)[1] for _ in range(15)]
    assert [envs.EPISODE_LOST in info for info in infos] == ([True] * 4 + [False]) * 3
    assert [info["sc2_restarts"] for info in infos if "sc2_restarts" in info] == [4, 8, 12]


@pytest.mark.parametrize("workers", [0, 2])
def test_vector_env_reports_the_lost_battle(
    workers: int, standin: Any, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_KILLS", "5")  # in process the fifth request of all, else of each worker
    with vector(2, standin, workers) as both, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both.reset()
        active, ended = np.ones(2, bool), {}
        while active.any():
            for i, info in both.step(both.avail_actions.argmax(-1), active):
                ended[i], active[i] = info, False
        lost = [i for i in ended if ended[i].get(envs.EPISODE_LOST)]
        assert lost == ([0] if not workers else [0, 1])
        assert both.truncated[lost].all() and not both.terminated[lost].any()
        both.reset()
        assert both.avail_actions.any(axis=-1).all()


def test_a_worker_says_why_it_stopped(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_KILLS", "all")
    with vector(2, standin, 2) as both, pytest.raises(EnvWorkerError, match="LostGameError: StarCraft II failed in 5"):
        both.reset()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_worker_that_is_lost_leaves_no_game_behind(hangs: bool, standin: Any) -> None:
    with vector(1, standin, 1, timeout=2.0 if hangs else None) as one:
        one.reset()
        (worker,) = one.worker_pids
        (game,) = children(worker)
        os.kill(worker, signal.SIGSTOP if hangs else signal.SIGKILL)
        with pytest.warns(RuntimeWarning, match="gave no answer" if hangs else "SIGKILL"):
            assert one.step(one.avail_actions.argmax(-1), np.ones(1, bool)) == [(0, {envs.EPISODE_LOST: 1.0})]
        assert gone(game)
        one.reset()
        (game,) = children(one.worker_pids[0])
    assert gone(game)


def test_closed_and_opened_again(standin: Any, built: list[Any]) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=1)
    play(env, 2)
    env.close()
    env.close()
    assert [p.running for p in standin.Process.started] == [False]
    play(env, 2)


@pytest.mark.parametrize("options", [["runner=episode"], ["runner=parallel", "batch_size_run=2", "env_workers=2"]])
def test_a_run_outlives_its_games(options: list[str], standin: Any, game_files: Path, tmp_path: Path) -> None:
    """The command line; in each process that has battles the game dies twice."""
    words = [
        "seed=1", "use_cuda=false", "t_max=300", "batch_size=4", "buffer_size=50", "hidden_dim=16", "save_model=false",
        "test_interval=200", "test_nepisode=2", "runner_log_interval=1", "learner_log_interval=1",
        "env_args.map_name=terran_5_vs_5", "env_args.backend=starcraft2", f"local_results_path={tmp_path / 'results'}",
    ]  # fmt: skip
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "src" / "main.py"), "--config=vdn", "--env-config=sc2v2", "with", *words, *options],
        env=os.environ | {"PYTHONPATH": str(STANDIN), "STANDIN_KILLS": "45,60"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results" / "sacred" / "vdn").iterdir()
    assert folder.name == "terran_5_vs_5", "named like a result of SMAX"
    info = json.loads((folder / "1" / "info.json").read_text())
    assert info["backend"].startswith("StarCraft II Base75689") and "SMAX" not in info["backend"]
    metrics = json.loads((folder / "1" / "metrics.json").read_text())
    assert max(metrics["sc2_restarts_mean"]["values"]) == 2 and "battle_won_mean" in metrics
    assert min(metrics["ep_length_mean"]["values"]) >= 8, "a cut-off battle was counted"
    assert "episode_lost_mean" not in metrics and all(map(np.isfinite, metrics["loss"]["values"]))


# --- with the package ---
@pytest.fixture
def no_game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    return tmp_path


def scenarios(env: smacv2.SmacV2Env, n: int = 3) -> list[Any]:
    """What the generators give for the first n battles: teams and places."""
    drawn = []
    for _ in range(n):
        env._seed_battle(smacv2._drawn(env._battles))
        with env._own_random():
            made: dict[str, Any] = {}
            for distribution in env._battle.env_key_to_distribution_map.values():
                made |= distribution.generate()
            places = [made[f"{side}_start_positions"]["item"].tolist() for side in ("ally", "enemy")]
            drawn.append(
                ([*map(str, made["team_gen"]["ally_team"])], [*map(str, made["team_gen"]["enemy_team"])], places)
            )
    return drawn


@needs_package
def test_the_package_says_the_same(no_game: Path) -> None:
    for name, (obs, state, actions) in SIZES.items():
        info = smacv2.SmacV2Env(name, seed=1).get_env_info()
        assert (info["obs_shape"], info["state_shape"], info["n_actions"]) == (obs, state, actions), name
        assert info["n_agents"] == int(name.split("_")[1]) and info["episode_limit"] == 200


@needs_package
@pytest.mark.parametrize("name", ["protoss_5_vs_5", "terran_10_vs_11", "zerg_20_vs_23"])
def test_the_seed_decides_teams_and_places(name: str, no_game: Path) -> None:
    same = []
    for other in (1, 2):  # whatever state the global generators are in
        random.seed(other)
        np.random.seed(other)
        same.append(smacv2.SmacV2Env(name, seed=3))
    first, second = (scenarios(env, 20) for env in same)
    assert first == second and same[0]._battle.env.seed() == same[1]._battle.env.seed()
    third = smacv2.SmacV2Env(name, seed=4)
    other_scenarios = scenarios(third, 20)
    assert third._battle.env.seed() != same[0]._battle.env.seed()
    assert all(a[0] != b[0] or a[2] != b[2] for a, b in zip(first, other_scenarios, strict=True))
    assert len({str(scenario) for scenario in first}) == 20, "every battle is alike"
    units = {unit for team, *_ in first for unit in team}
    assert units == set(smacv2.RACES[name.partition("_")[0]])
    surrounded = [len(set(map(tuple, places[0]))) == 1 for *_, places in first]
    assert any(surrounded) and not all(surrounded)


@needs_package
def test_no_generator_is_forgotten(no_game: Path) -> None:
    """Every generator within the package's distributions is replaced, each by one of its own."""

    def found(thing: Any, seen: set[int]) -> list[np.random.Generator]:
        if isinstance(thing, np.random.Generator):
            return [thing]
        if id(thing) in seen or not hasattr(thing, "__dict__"):
            return []
        seen.add(id(thing))
        return [g for value in vars(thing).values() for g in found(value, seen)]

    numbers = []
    for _ in range(2):
        env = smacv2.SmacV2Env("zerg_20_vs_23", seed=3)
        env._seed_battle(7)
        battle = env._battle
        generators = [g for d in battle.env_key_to_distribution_map.values() for g in found(d, set())]
        assert len(generators) == 5
        numbers.append([g.random() for g in generators])
    assert numbers[0] == numbers[1] and len(set(numbers[0])) == 5


@needs_package
def test_reset_without_the_game_names_what_is_missing(no_game: Path) -> None:
    env = smacv2.SmacV2Env("protoss_5_vs_5", seed=1)
    with pytest.raises(envs.MissingBackendError, match="protoss_5_vs_5 needs StarCraft II, missing") as error:
        env.reset()
    message = str(error.value)
    assert all(word in message for word in ("SC2_x64", str(no_game), "install_sc2.sh", "32x32_flat.SC2Map"))
    assert "the package" not in message


@pytest.fixture
def game(game_files: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package itself; the far end of its wire is played by starcraft_game.Game."""
    import starcraft_game
    from smacv2.env.starcraft2 import starcraft2

    monkeypatch.setattr(starcraft2.run_configs, "get", starcraft_game.RunConfig)
    monkeypatch.setattr(starcraft_game.Game, "started", [])
    return starcraft_game.Game


@needs_package
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract_of_the_package(check: Any, game: Any, as_contract_case: str, built: list[Any]) -> None:
    check(as_contract_case)


@needs_package
@pytest.mark.parametrize("name", sc2v2.MAPS)
def test_a_battle_through_the_package(name: str, game: Any, built: list[Any]) -> None:
    env = smacv2.SmacV2Env(name, seed=3)
    assert all(np.isfinite(obs).all() for obs in env.reset()[0])
    (field,) = game.started
    team, enemies, (own, theirs) = scenarios(smacv2.SmacV2Env(name, seed=3), 1)[0]
    ordered = [tuple(np.float32(place)) for place in own + theirs]
    assert [(unit.pos.x, unit.pos.y) for unit in field.ordered] == ordered, "not where the generators put them"
    assert len(team) == env.n_agents and [unit.owner for unit in field.ordered] == [1] * len(team) + [2] * len(enemies)
    rewards, info = play(env)
    assert len(game.started) == 1 and info["sc2_restarts"] == 0 and max(rewards) > 0
    fighters = env.n_agents - team.count("medivac")  # medivacs alone have lost
    assert info["dead_allies"] >= fighters or info["battle_won"] or len(rewards) == 200


@needs_package
@pytest.mark.parametrize("error", ["ProtocolError", "ConnectionError"])
def test_the_package_does_not_hide_a_failure(error: str, game: Any, built: list[Any]) -> None:
    from pysc2.lib import protocol

    env = smacv2.SmacV2Env("terran_5_vs_5", seed=3)
    play(env, 2)
    scale = env._battle.env.max_reward
    game.started[0].error = getattr(protocol, error)("the game is gone")
    with pytest.warns(RuntimeWarning, match="the game is gone|the connection"):
        *_, truncated, info = env.step(last_available(env))
    assert truncated and info == {envs.EPISODE_LOST: True}
    assert game.started[0].closed == 1
    rewards, info = play(env)
    assert info["sc2_restarts"] == 1 and len(game.started) == 2 and len(rewards) > 2
    assert env._battle.env.max_reward == scale
    assert game.started[0].seed != game.started[1].seed
    game.started[1].error = protocol.ConnectionError("again")
    with pytest.warns(RuntimeWarning):
        env.reset()
    assert len(game.started) == 3 and all(np.isfinite(obs).all() for obs in env.get_obs())


@needs_package
def test_the_package_saves_the_replay(game: Any, game_files: Path, built: list[Any]) -> None:
    env = smacv2.SmacV2Env("zerg_5_vs_5", seed=3)
    play(env, 2)
    env.save_replay()
    (path,) = (game_files / "Replays").glob("*.SC2Replay")
    assert path.read_bytes() == b"a replay" and os.path.basename(path).startswith("10gen_zerg")
