"""What holds for every environment of the registry, alone and as a vector."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import envs
from utils import hosts

ROOT = Path(__file__).resolve().parents[2]
# Config -> env_args of a task that is quick to play.
CASES: dict[str, dict[str, Any]] = {
    "gymma": {"key": "Foraging-5x5-2p-2f-v3"},
    "rware": {"key": "rware-tiny-2ag-v2", "time_limit": 12},
    "mpe": {"key": "pz-mpe-simple-speaker-listener-v4"},
    "vmas": {"key": "mpe/simple_speaker_listener", "time_limit": 12},
    "mamujoco": {"key": "Hopper-3x1", "time_limit": 12},
    "matrix": {"key": "two_step"},
    "my_env": {"n_agents": 3, "time_limit": 12},
    "smax": {"map_name": "3m", "time_limit": 12},
    "sc2v2": {"map_name": "zerg_5_vs_5", "backend": "smax", "time_limit": 12},
}
PACKAGES = {
    "rware": ("rware",),
    "mpe": ("mpe2",),
    "vmas": ("vmas", "gym"),
    "mamujoco": ("mujoco", "gymnasium_robotics"),
}
ENV = {"rware": "gymma", "mpe": "gymma"}  # names in the registry, where they are not the config's
OWN = {"my_env": ROOT / "examples" / "my_env.py"}  # from outside the tree: what users copy keeps the contract, too
for path in OWN.values():
    hosts.register_environment(str(path))
RANDOM = [name for name in CASES if name != "matrix"]


def installed(name: str) -> Any:
    """The name as a test's parameter, skipped where its package is missing."""
    missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    reason = f"needs {' and '.join(missing)}: pip install -e '.[{name.removeprefix('ma')}]'"
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=reason))


ALL = [installed(name) for name in CASES]


def build(name: str, **changes: Any) -> envs.MultiAgentEnv:
    arguments: dict[str, Any] = {"seed": 3, "common_reward": True, "reward_scalarisation": "sum"}
    return envs.REGISTRY[ENV.get(name, name)](**(CASES[name] | arguments | changes))


def episode(env: envs.MultiAgentEnv, seed: int = 0) -> list[Any]:
    """One episode of random available actions: what was seen, flattened for comparison."""
    rng, seen = np.random.default_rng(seed), []
    obs, _ = env.reset()
    while True:
        masks = np.array(env.get_avail_actions())
        seen.append((np.array(obs), env.get_state(), masks))
        obs, reward, terminated, truncated, info = env.step([int(rng.choice(np.flatnonzero(m))) for m in masks])
        seen.append((np.array(obs), env.get_state(), np.array(reward), terminated, truncated))
        if terminated or truncated:
            return seen


def equal(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        all(np.array_equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(first, second, strict=True)
    )


def test_every_environment_is_covered() -> None:
    ours = set(CASES) - set(OWN)
    assert {ENV.get(name, name) for name in CASES} == set(envs.REGISTRY) == set(envs.ARGS)
    assert ours == {entry.config for entry in envs.describe()}
    assert ours == {path.stem for path in (ROOT / "config" / "envs").glob("*.yaml")}


@pytest.mark.parametrize("name", ALL)
def test_shapes_types_and_masks(name: str) -> None:
    env = build(name)
    info = env.get_env_info()
    n, a = info["n_agents"], info["n_actions"]
    observations, extra = env.reset()
    assert isinstance(extra, dict) and len(observations) == n and env.backend
    for _ in range(info["episode_limit"]):
        for agent, obs in enumerate(env.get_obs()):
            assert obs.shape == (info["obs_shape"],) and obs.dtype == np.float32 and np.isfinite(obs).all()
            assert np.array_equal(obs, env.get_obs_agent(agent)) and np.array_equal(obs, observations[agent])
        assert env.get_state().shape == (info["state_shape"],) and env.get_state().dtype == np.float32
        masks = np.array(env.get_avail_actions())
        assert masks.shape == (n, a) and set(np.unique(masks)) <= {0, 1} and masks.any(axis=1).all()
        observations, reward, terminated, truncated, info_t = env.step([int(m.argmax()) for m in masks])
        assert isinstance(reward, float) and isinstance(terminated, bool) and isinstance(truncated, bool)
        assert not (terminated and truncated) and isinstance(info_t, dict)
        if terminated or truncated:
            break
    assert terminated or truncated, "the episode went on beyond episode_limit"
    env.close()
    env.close()


@pytest.mark.parametrize("name", ALL)
def test_individual_rewards(name: str) -> None:
    env = build(name, common_reward=False)
    env.reset()
    _, reward, *_ = env.step([int(np.argmax(m)) for m in env.get_avail_actions()])
    assert len(reward) == env.n_agents and all(isinstance(r, float) for r in reward)


@pytest.mark.parametrize("name", ALL)
def test_seeds(name: str) -> None:
    first, second, other = build(name), build(name), build(name, seed=4)
    a = [episode(first, seed=i) for i in range(3)]
    b = [episode(second, seed=i) for i in range(3)]
    assert all(equal(x, y) for x, y in zip(a, b, strict=True)), "the same seed gave different episodes"
    if name != "matrix":  # nothing is random there
        assert not equal(a[0], episode(other, seed=0)), "another seed gave the same episode"
        starts = [e[0][1] for e in a]
        assert not all(np.array_equal(starts[0], s) for s in starts[1:]), "every episode starts alike"
    first.seed(3)
    assert equal(episode(first), a[0]), "seed() did not start the stream anew"
    reset_state = [first.reset(seed=9)[0] for _ in range(3)]
    assert all(np.array_equal(reset_state[0], s) for s in reset_state), "reset(seed) does not repeat"


@pytest.mark.parametrize("name", ALL)
def test_copies_share_no_state(name: str) -> None:
    first, second = build(name), build(name)
    first.reset()
    second.reset()
    before = [o.copy() for o in first.get_obs()], first.get_state().copy()
    held = first.get_obs()
    episode(second)
    episode(second)
    assert np.array_equal(first.get_obs(), before[0]) and np.array_equal(first.get_state(), before[1])
    first.step([int(np.argmax(m)) for m in first.get_avail_actions()])
    assert np.array_equal(held, before[0]), "an observation changed after it was handed out"


@pytest.mark.parametrize("name", ALL)
def test_vector(name: str, make: Any, play: Any) -> None:
    first, second = (make(ENV.get(name, name), 3, **CASES[name]) for _ in range(2))
    e, n, a = 3, first.n_agents, first.n_actions
    for array, shape, dtype in (
        (first.obs, (e, n, first.obs_size), np.float32),
        (first.state, (e, first.state_size), np.float32),
        (first.avail_actions, (e, n, a), np.uint8),
        (first.reward, (e,), np.float32),
        (first.terminated, (e,), np.bool_),
        (first.truncated, (e,), np.bool_),
    ):
        assert array.shape == shape and array.dtype == dtype
    trace = play(first, episodes=2)
    assert equal(trace, play(second, episodes=2)), "the same seed gave different episodes"
    if name != "matrix":
        other = make(ENV.get(name, name), 3, seed=2, **CASES[name])
        assert not np.array_equal(trace[0][1], play(other)[0][1]), "another seed gave the same episode"
    assert all(step[2].any(axis=-1).all() for step in trace)
    assert first.backend and first.info["backend"] == first.backend
    assert first.get_env_info()["episode_limit"] == first.episode_limit
    first.close()
    first.close()


@pytest.mark.parametrize("name", ALL)
def test_vector_environments_do_not_depend_on_their_number(name: str, make: Any) -> None:
    many, few = (make(ENV.get(name, name), n, **CASES[name]) for n in (3, 1))
    for _ in range(2):
        many.reset()
        few.reset()
        assert np.array_equal(many.obs[0], few.obs[0]) and np.array_equal(many.state[0], few.state[0])
        if name != "matrix":
            assert not np.array_equal(many.state[0], many.state[1])
        many.step(many.avail_actions.argmax(-1), np.array([True, False, True]))


@pytest.mark.parametrize("name", ALL)
def test_an_episode_is_the_same_whatever_was_played_before(name: str, make: Any, play: Any) -> None:
    """What exact resume needs: a fresh vector environment goes on where another one stood, by the episode's number."""
    used, fresh = (make(ENV.get(name, name), 3, **CASES[name]) for _ in range(2))
    earlier = [play(used, seed=seed) for seed in range(3)]
    assert used.episode == 3
    fresh.episode = 3
    fourth = play(used)
    assert equal(fourth, play(fresh)) and used.episode == fresh.episode == 4
    if name != "matrix":
        assert not any(np.array_equal(fourth[0][1], before[0][1]) for before in earlier), "an episode came again"


@pytest.mark.parametrize("name", ALL)
def test_inactive_rows_stay(name: str, make: Any) -> None:
    vector = make(ENV.get(name, name), 3, common_reward=False, **CASES[name])
    assert vector.reward.shape == (3, vector.n_agents)
    vector.reset()
    arrays = (vector.obs, vector.state, vector.avail_actions, vector.reward, vector.terminated, vector.truncated)
    for array in arrays:
        array[1] = 1
    vector.step(vector.avail_actions.argmax(-1), np.array([True, False, True]))
    assert all((array[1] == 1).all() for array in arrays)


@pytest.mark.parametrize("name", [installed(name) for name in RANDOM if name not in ("smax", "sc2v2")])
def test_a_time_limit_is_no_end_of_the_task(name: str) -> None:
    # SMAX, which would compile for seconds: test_smax.py
    env = build(name, time_limit=3)
    assert env.episode_limit == 3
    for _ in range(2):
        env.reset()
        ends = [env.step([int(np.argmax(m)) for m in env.get_avail_actions()])[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)], "not truncated at its limit"


@pytest.mark.parametrize("name", ALL)
def test_configs_fit_the_models(name: str) -> None:
    path = OWN[name].with_suffix(".yaml") if name in OWN else ROOT / "config" / "envs" / f"{name}.yaml"
    config = yaml.safe_load(path.read_text())
    assert config["env"] == ENV.get(name, name)
    arguments = config["env_args"] | ({"key": "Foraging-8x8-2p-3f-v3"} if name == "gymma" else {})
    assert set(envs.ARGS[config["env"]](**arguments).model_dump()) == set(config["env_args"]), "keys differ"


def test_unknown_environment(make: Any) -> None:
    with pytest.raises(ValueError, match="gymma"):
        make("gyma")


def test_import_is_light() -> None:
    heavy = ("torch", "jax", "jaxmarl", "gymnasium", "lbforaging", "mujoco", "vmas", "gym", "pettingzoo", "mpe2")
    code = f"import sys, envs; envs.describe(); print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert out.stdout.strip() == "[]"


def test_no_warning_from_a_named_backend() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("sc2v2").close()
