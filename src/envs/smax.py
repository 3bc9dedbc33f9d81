"""SMAX: StarCraft-like battles in JAX (package jaxmarl), all environments of a run in one jitted call.

Where this differs from jaxmarl's own environment:
- Action 0 is the no-op: jaxmarl's "stop" (its action 4), the only one that a dead unit has, moved to the front. 1 to 4
  are the moves (its 0 to 3), then one attack for each enemy, as there.
- Nothing resets itself: an ended episode leaves its last observation, state and masks in the arrays.
- The time limit is exact and is `truncated` (jaxmarl flags it one step late, and like a defeat).
- `battle_won` in the final info is read from who is alive: all enemies dead and an ally left.
- The state is scaled to 0..1, as observations are: jaxmarl's has positions in map units, and cooldowns that go on
  falling below 0 for as long as a unit does not shoot (-16 was seen), which drown all else in a mixing network.
- Where enemies outnumber the random allies, the extra enemies' types are drawn too (jaxmarl drops that draw).
The team's reward (damage dealt, at most 1 in all, plus 1 for a win) is the same for every agent. With common_reward it
is the reward as it is, else each agent receives it: there is nothing to sum.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from . import drawing
from .multiagentenv import EnvContractError, MissingBackendError, nearest, silence
from .vector import Ended, SingleEnv, VectorEnv

UNITS = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")  # in jaxmarl's order
LISTING = (
    ("smacv2_5_units", "5 against 5, random types and positions (default)"),
    ("smacv2_10_units", "10 against 10, random types and positions"),
    ("smacv2_20_units", "20 against 20, random types and positions"),
    ("3m", "3 marines a side"),
    ("8m", "8 marines a side"),
    ("25m", "25 marines a side"),
    ("5m_vs_6m", "5 marines against 6"),
    ("10m_vs_11m", "10 marines against 11"),
    ("27m_vs_30m", "27 marines against 30"),
    ("2s3z", "2 stalkers and 3 zealots a side"),
    ("3s5z", "3 stalkers and 5 zealots a side"),
    ("3s5z_vs_3s6z", "3 stalkers and 5 zealots against 3 and 6"),
    ("3s_vs_5z", "3 stalkers against 5 zealots"),
    ("6h_vs_8z", "6 hydralisks against 8 zealots"),
)
MAPS = tuple(name for name, _ in LISTING)
DEFAULT_LIMIT = 100  # steps of half a second, jaxmarl's own


class SmaxArgs(BaseModel):
    """env_args of smax."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    map_name: str = "smacv2_5_units"
    time_limit: int | None = Field(None, ge=1)

    @field_validator("map_name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MAPS:
            raise ValueError(f"{name} is no SMAX scenario.{nearest(name, MAPS)}")
        return name


class Battle(NamedTuple):
    """What is fought: a scenario of jaxmarl's, or (map_name None) random teams of the given unit types."""

    map_name: str | None
    limit: int = DEFAULT_LIMIT
    n_allies: int = 0
    n_enemies: int = 0
    units: tuple[str, ...] = ()


class _Compiled(NamedTuple):
    dims: dict[str, int]
    arena: Any  # jaxmarl's environment
    keys: Callable[..., Any]  # seeds (E,) -> a random key for each environment
    start: Callable[..., Any]  # env keys, episode numbers (E,) -> carry, obs, state, avail
    step: Callable[..., Any]  # carry, actions (E,N) -> carry, obs, state, avail, reward, terminated, truncated, won


def backend_name() -> str:
    """`SMAX (jaxmarl 0.2.0)`; MissingBackendError where jaxmarl is not installed."""
    try:
        return f"SMAX (jaxmarl {version('jaxmarl')})"
    except ImportError as error:  # PackageNotFoundError is one
        raise MissingBackendError("SMAX needs the package jaxmarl: pip install jaxmarl six") from error


def _import_jax() -> tuple[Any, Any]:
    """jax and jaxmarl's SMAX module. The CPU is used unless JAX_PLATFORMS says otherwise: the GPU is for learning."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    backend_name()
    try:
        with silence():
            import jax
            from jaxmarl.environments import smax
    except ImportError as error:
        raise MissingBackendError(f"SMAX: jaxmarl cannot be imported ({error}): pip install jaxmarl six") from error
    return jax, smax


def require() -> None:
    """MissingBackendError where jaxmarl cannot be imported; imports it and jax."""
    _import_jax()


def _make_jaxmarl_env(battle: Battle) -> Any:
    jax, smax = _import_jax()
    if battle.map_name is not None:
        return smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(battle.map_name))
    kept = [UNITS.index(unit) for unit in battle.units]
    defaults = {name: p.default for name, p in inspect.signature(smax.SMAX.__init__).parameters.items()}
    if tuple(defaults["unit_type_names"]) != UNITS:
        raise EnvContractError(f"jaxmarl's unit types are {defaults['unit_type_names']}, expected {UNITS}")
    types = {}
    for name, default in defaults.items():
        if name.startswith("unit_type_"):
            types[name] = [default[i] for i in kept] if isinstance(default, list) else default[np.array(kept)]
    env = smax.HeuristicEnemySMAX(
        num_allies=battle.n_allies,
        num_enemies=battle.n_enemies,
        smacv2_position_generation=True,
        smacv2_unit_type_generation=True,
        **types,
    )
    if battle.n_enemies > battle.n_allies:
        env._env.unit_type_generator = _UnitTypes(jax, battle.n_allies, battle.n_enemies, len(kept))
    return env


class _UnitTypes:
    """Types drawn at random: enemies mirror the allies, those beyond their number are drawn too."""

    def __init__(self, jax: Any, n_allies: int, n_enemies: int, n_types: int) -> None:
        self.jax, self.n_allies, self.n_enemies, self.n_types = jax, n_allies, n_enemies, n_types

    def generate(self, key: Any) -> Any:
        drawn = self.jax.random.randint(key, (self.n_enemies,), 0, self.n_types).astype(np.uint8)
        return self.jax.numpy.concatenate([drawn[: self.n_allies], drawn])


@lru_cache(maxsize=16)
def _compile(battle: Battle) -> _Compiled:
    """The functions for one battle; jax compiles them at the first call for each number of environments (seconds)."""
    jax, _ = _import_jax()
    jnp = jax.numpy
    env = _make_jaxmarl_env(battle)
    agents, n_allies = list(env.agents), env.num_allies
    noop = env.num_movement_actions - 1  # jaxmarl's "stop"
    n_actions = env.num_ally_actions
    theirs = np.array([noop, *(a for a in range(n_actions) if a != noop)], np.int32)  # our action -> jaxmarl's

    arena = env._env
    n_units, n_features = arena.num_agents, len(arena.own_features)

    def scaled(world: Any, units: Any) -> Any:
        """jaxmarl's state of all units (health, position, cooldown, type; team; type again), every number in 0..1."""
        features = world[: n_units * n_features].reshape(n_units, n_features)
        cooldown = units.unit_weapon_cooldowns / arena.unit_type_weapon_cooldowns[units.unit_types]
        features = features.at[:, 1:3].divide(jnp.array([arena.map_width, arena.map_height]))
        features = features.at[:, 3].set(jnp.clip(cooldown, 0.0, 1.0) * units.unit_alive)
        team, kind = world[n_units * n_features :].reshape(2, n_units)
        return jnp.concatenate([features.ravel(), team, kind / max(1, arena.unit_type_bits - 1)])

    def view(obs: dict[str, Any], state: Any) -> tuple[Any, Any, Any]:
        avail = env.get_avail_actions(state)
        masks = jnp.stack([avail[a] for a in agents])[:, theirs]
        return jnp.stack([obs[a] for a in agents]), scaled(obs["world_state"], state.state), masks.astype(jnp.uint8)

    def settled(state: Any) -> Any:
        """The state with the types that a step returns; else the step would be compiled twice."""
        return jax.tree.map(lambda x: jnp.asarray(x, dtype=x.dtype), state)

    def start_one(env_key: Any, episode: Any) -> Any:
        key = jax.random.fold_in(env_key, episode)
        obs, state = env.reset(jax.random.fold_in(key, 0))
        return (key, settled(state)), *view(obs, state)

    def step_one(carry: Any, actions: Any) -> Any:
        key, state = carry
        chosen = jnp.asarray(theirs)[actions]
        t = state.state.step + 1
        obs, state, rewards, _, _ = env.step_env(
            jax.random.fold_in(key, t), state, {a: chosen[i] for i, a in enumerate(agents)}
        )
        alive = state.state.unit_alive
        ally_left, enemy_left = alive[:n_allies].any(), alive[n_allies:].any()
        terminated = ~(ally_left & enemy_left)
        truncated = ~terminated & (state.state.step >= battle.limit)
        won = ally_left & ~enemy_left
        return (key, settled(state)), *view(obs, state), rewards[agents[0]], terminated, truncated, won

    dims = {
        "n_agents": len(agents),
        "n_actions": n_actions,
        "obs_shape": int(env._env.obs_size),
        "state_shape": int(env._env.state_size),
        "episode_limit": battle.limit,
    }
    return _Compiled(
        dims,
        arena,
        jax.jit(jax.vmap(jax.random.key)),
        jax.jit(jax.vmap(start_one)),
        jax.jit(jax.vmap(step_one)),
    )


class SmaxVectorEnv(VectorEnv):
    """E battles stepped by one jitted function. Environment i depends on its seed and actions only, not on E."""

    def __init__(
        self,
        battle: Battle,
        seeds: Sequence[int],
        common_reward: bool = True,
        backend: str | None = None,
        note: str = "",
    ) -> None:
        self.backend = backend or backend_name()
        self._functions = _compile(battle)
        super().__init__(self._functions.dims, len(seeds), common_reward)
        self.banner = note
        self.info = {"backend": self.backend, "backend_note": note, "episode_limit": battle.limit}
        self._seeds = np.asarray(seeds, np.uint32)
        self._keys = self._functions.keys(self._seeds)
        self._first = np.zeros(len(seeds), np.int64)  # number of the first episode of each environment's stream
        self._carry: Any = None

    def seed(self, env: int, seed: int) -> None:
        """Starts the random stream of one environment anew, from its next episode on."""
        which = np.arange(self.n_envs) == env
        self._seeds = np.where(which, seed, self._seeds).astype(np.uint32)  # new arrays: jax may still be reading
        self._first = np.where(which, self.episode, self._first)
        self._keys = self._functions.keys(self._seeds)

    def reset(self) -> None:
        episodes = (self.episode - self._first).astype(np.uint32)
        self._carry, obs, state, avail = self._functions.start(self._keys, episodes)
        self.episode += 1
        self.obs[:], self.state[:], self.avail_actions[:] = np.asarray(obs), np.asarray(state), np.asarray(avail)
        self.reward[:], self.terminated[:], self.truncated[:] = 0.0, False, False

    def step(self, actions: np.ndarray, active: np.ndarray) -> Ended:
        if self._carry is None:
            raise EnvContractError("SMAX: step() before reset()")
        if ((actions < 0) | (actions >= self.n_actions))[active].any():
            raise EnvContractError(f"SMAX: an action is not in 0..{self.n_actions - 1}")
        self._carry, *out = self._functions.step(self._carry, actions.astype(np.int32))
        obs, state, avail, reward, terminated, truncated, won = (np.asarray(x) for x in out)
        if not self.common_reward:
            reward = np.broadcast_to(reward[:, None], self.reward.shape)
        if np.isnan(reward[active]).any():
            bad = np.flatnonzero(active & np.isnan(reward).reshape(self.n_envs, -1).any(axis=1)).tolist()
            raise EnvContractError(f"SMAX: the reward of environment(s) {bad} is not a number")
        rows = slice(None) if active.all() else active
        for mine, new in (
            (self.obs, obs),
            (self.state, state),
            (self.avail_actions, avail),
            (self.reward, reward),
            (self.terminated, terminated),
            (self.truncated, truncated),
        ):
            mine[rows] = new[rows]
        ended = np.flatnonzero(active & (terminated | truncated)).tolist()
        return [(i, {"battle_won": float(won[i])}) for i in ended]

    def render(self) -> np.ndarray:
        if self._carry is None:
            raise EnvContractError("SMAX: render() before reset()")
        arena, units = self._functions.arena, self._carry[1].state
        n, moves = arena.num_allies, arena.num_movement_actions
        of_units = units.unit_types, units.unit_alive, units.unit_health
        types, alive, health = (np.asarray(x[0]) for x in of_units)  # (U,) each
        letters = dict(zip(arena.unit_type_shorthands, arena.unit_type_names, strict=True))
        there = [letter for i, letter in enumerate(letters) if i in types]
        shots = []
        for who, action in enumerate(np.asarray(units.prev_attack_actions[0]).tolist()):
            if alive[who] and action >= moves:  # enemies count their targets backwards
                shots.append((who, action - moves + n if who < n else n - 1 - (action - moves)))
        return drawing.battle(
            np.asarray(units.unit_positions[0]),
            np.where(alive, health / np.asarray(arena.unit_type_health)[types], 0.0),
            np.asarray(arena.unit_type_radiuses)[types],
            [arena.unit_type_shorthands[kind] for kind in types],
            n,
            shots,
            (arena.map_width, arena.map_height),
            "SMAX, not StarCraft II · " + ", ".join(f"{letter} {letters[letter]}" for letter in there),
        )

    def close(self) -> None:
        super().close()
        self._carry = None


class SmaxBattleEnv(SingleEnv):
    """One battle behind the contract of a single environment."""

    def __init__(
        self,
        battle: Battle,
        seed: int | None = None,
        common_reward: bool = True,
        backend: str | None = None,
        note: str = "",
    ) -> None:
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        name = battle.map_name or f"{battle.n_allies}_vs_{battle.n_enemies} of {', '.join(battle.units)}"
        super().__init__(SmaxVectorEnv(battle, [seed], common_reward, backend, note), name)


class SmaxEnv(SmaxBattleEnv):
    """One of SMAX's own scenarios. time_limit: steps until truncation, None for 100."""

    def __init__(
        self,
        map_name: str = "smacv2_5_units",
        time_limit: int | None = None,
        seed: int | None = None,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
    ) -> None:
        super().__init__(scenario(map_name, time_limit), seed, common_reward)


def scenario(map_name: str = "smacv2_5_units", time_limit: int | None = None) -> Battle:
    """The battle of a scenario's name; ValueError with the nearest names where there is none."""
    args = SmaxArgs(map_name=map_name, time_limit=time_limit)
    return Battle(args.map_name, args.time_limit or DEFAULT_LIMIT)


def make_batched(
    env_args: dict[str, Any], seeds: list[int], common_reward: bool, reward_scalarisation: str
) -> SmaxVectorEnv:
    """All environments of a run at once; the reward is the team's, so that its sum or mean is no question."""
    return SmaxVectorEnv(scenario(**env_args), seeds, common_reward)
