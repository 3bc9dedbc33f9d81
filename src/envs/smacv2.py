"""SMACv2 on StarCraft II itself: the package smacv2 behind this project's contract, one game process a battle.

What is done here from outside the package:
- Its scenario generators, the order of its teams and the order in which it observes come from unseeded or global
  generators: each environment has its own, made from its seed, and so has the game process.
- A game process that fails is never hidden: the package would hand over half a battle as a whole one. Here the last
  `step` says EPISODE_LOST, whoever collects episodes throws that one away, and the next `reset` starts a new process.
- The time limit is `truncated` (in the package it looks like a defeat).
- The scale of the reward is that of the map's mean team. In the package it is that of the first battle of each process,
  another one after every restart and in every process, with an enemy counted twice that is slow to appear.
The team's reward is the same for every agent: with common_reward as it is, else each agent receives it.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import random
import signal
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .multiagentenv import EPISODE_LOST, EnvContractError, MissingBackendError, MultiAgentEnv

# Unit types of each race; two common ones and a rare one, drawn with WEIGHTS.
RACES = {
    "protoss": ("stalker", "zealot", "colossus"),
    "terran": ("marine", "marauder", "medivac"),
    "zerg": ("zergling", "hydralisk", "baneling"),
}
WEIGHTS = (0.45, 0.45, 0.1)
# With shields, of the common ones as in jaxmarl's SMAX. Not read from the game: they set the scale of rewards alone.
HEALTH = {
    "stalker": 160, "zealot": 150, "colossus": 350, "marine": 45, "marauder": 125, "medivac": 150,
    "zergling": 35, "hydralisk": 80, "baneling": 30,
}  # fmt: skip
NOT_ALONE = ("medivac", "baneling")  # no team consists of these only
SIZES = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
MAPS = tuple(f"{race}_{allies}_vs_{enemies}" for race in RACES for allies, enemies in SIZES)
MAP_SIDE = 32
MAP_FILE = Path("SMAC_Maps") / "32x32_flat.SC2Map"  # of all fifteen, under Maps
MOST_LOST = 5  # battles lost in a row to a failing game before the run stops

REQUIREMENTS = "requirements-sc2.txt"
_INSTALL = (
    f"python3 -m venv .venv-sc2 && .venv-sc2/bin/pip install -r {REQUIREMENTS} && "
    ".venv-sc2/bin/pip install --no-deps -e ., and run with .venv-sc2/bin/python (an environment of its own: smacv2 "
    "needs protobuf < 3.21, other packages here a newer one)"
)


class LostGameError(RuntimeError):
    """StarCraft II failed in several battles in a row, none of them whole in between."""


class _GameFailed(Exception):
    """The package wants to restart the game process and go on as if nothing had happened."""


class _Package(NamedTuple):
    """What is used of smacv2 and pysc2."""

    wrapper: Any  # class: battle and scenario generators
    distribution: type  # base class of the generators
    failures: tuple[type[Exception], ...]  # how a game process fails


def game_folder() -> Path:
    """Where StarCraft II is looked for: SC2PATH, else ~/StarCraftII."""
    return Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()


def game_builds() -> list[str]:
    """`Base75689` and the like: the builds of the game that are installed, the newest last."""
    return sorted(path.parent.name for path in game_folder().glob("Versions/Base*/SC2_x64"))


def missing_pieces() -> list[str]:
    """What StarCraft II battles lack on this machine, each piece with its cure; empty where they could be fought."""
    pieces = []
    absent = [name for name in ("smacv2", "pysc2", "s2clientprotocol") if importlib.util.find_spec(name) is None]
    if absent:
        pieces.append(f"the package {' and '.join(absent)}: {_INSTALL}")
    else:
        try:
            _package()
        except MissingBackendError as error:
            pieces.append(str(error))
    root, where = game_folder(), os.environ.get("SC2PATH")
    said = f"SC2PATH={where}" if where else f"SC2PATH is not set, and the default is {root}"
    cure = "ACCEPT_SC2_EULA=yes docker/install_sc2.sh FOLDER, then set SC2PATH to that folder"
    if not game_builds():
        pieces.append(f"StarCraft II: no Versions/Base*/SC2_x64 in its folder ({said}). {cure}")
    if not (root / "Maps" / MAP_FILE).is_file():
        pieces.append(f"the SMAC maps: no {MAP_FILE} under {root / 'Maps'}. {cure}")
    return pieces


def backend_name() -> str:
    """`StarCraft II Base75689 (smacv2 1.0.0)`: build of the game, version of the package."""
    try:
        number = version("smacv2")
    except PackageNotFoundError:
        number = "without a version"
    builds = game_builds()
    return f"StarCraft II {builds[-1] if builds else 'not installed'} (smacv2 {number})"


def _package() -> _Package:
    """smacv2's parts; MissingBackendError where it cannot be imported."""
    try:
        from pysc2.lib import protocol, remote_controller, sc_process
        from smacv2.env.starcraft2 import distributions, starcraft2, wrapper
    except Exception as error:  # a protobuf that is too new raises a TypeError
        said = str(error).strip().partition("\n")[0]
        raise MissingBackendError(f"the package smacv2 cannot be imported ({said}): {_INSTALL}") from error
    return _Package(
        wrapper.StarCraftCapabilityEnvWrapper,
        distributions.Distribution,
        (
            _GameFailed,
            protocol.ConnectionError,
            protocol.ProtocolError,
            remote_controller.ConnectError,
            remote_controller.RequestError,
            sc_process.SC2LaunchError,
            starcraft2.CannotResetException,  # units were ordered and did not appear
        ),
    )


def capability_config(map_name: str) -> dict[str, Any]:
    """The scenario generators of a map: random teams, which surround or face each other with equal probability."""
    race, allies, _, enemies = map_name.split("_")
    units = RACES[race]
    team: dict[str, Any] = {
        "dist_type": "weighted_teams",
        "unit_types": list(units),
        "weights": list(WEIGHTS),
        "exception_unit_types": [unit for unit in units if unit in NOT_ALONE],
        "observe": True,
    }
    places = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": MAP_SIDE, "map_y": MAP_SIDE}
    return {"n_units": int(allies), "n_enemies": int(enemies), "team_gen": team, "start_positions": places}


def _fail(*_: Any) -> NoReturn:
    raise _GameFailed("the connection to StarCraft II failed")


def _seed_generators(distribution: Any, base: type, seeds: np.random.SeedSequence) -> None:
    """Puts a generator of our own in the place of each one of this distribution and of those that it is made of."""
    for name, value in sorted(vars(distribution).items()):
        if isinstance(value, np.random.Generator):
            setattr(distribution, name, np.random.default_rng(seeds.spawn(1)[0]))
        elif isinstance(value, base):
            _seed_generators(value, base, seeds)


class SmacV2Env(MultiAgentEnv):
    """One battle of SMACv2 in a StarCraft II process of its own, which the first `reset` starts.

    The constructor needs the package, not the game. time_limit: steps until truncation, None for the package's 200.
    The final info has battle_won, dead_allies, dead_enemies, and sc2_restarts: how often this environment's game has
    been restarted so far because it failed.
    """

    _python: Any  # states of this environment's own generators, see _own_random
    _numpy: Any
    _battle: Any = None  # the package's, None where its game has failed or was closed

    def __init__(
        self, map_name: str, time_limit: int | None = None, seed: int | None = None, common_reward: bool = True
    ) -> None:
        self.name, self._common = map_name, common_reward
        self._package, self._time_limit = _package(), time_limit
        self._restarts = self._lost = 0
        self._race = map_name.partition("_")[0]
        self._anew(seed)
        sizes = self._battle.get_env_info()
        self.n_agents, self.episode_limit = int(sizes["n_agents"]), self._battle.env.episode_limit
        self._sizes = tuple(int(sizes[key]) for key in ("obs_shape", "state_shape", "n_actions"))
        self.backend = backend_name()
        self.info = {"episode_limit": self.episode_limit}

    # -- the game process --------------------------------------------------------------------------------------------
    def _anew(self, seed: int | None) -> None:
        """Random streams from their start, of processes and of battles, and a battle that has not begun."""
        self._processes, self._battles = np.random.SeedSequence(seed).spawn(2)
        self._prepare()

    def _prepare(self) -> None:
        """A new battle, whose process has the stream's next seed and starts with the first reset."""
        self._end_game()
        battle = self._package.wrapper(
            capability_config=copy.deepcopy(capability_config(self.name)),
            map_name=f"10gen_{self._race}",
            seed=_drawn(self._processes),
            use_unit_ranges=True,  # each unit's own range, and at least 2
            min_attack_range=2,
            obs_own_pos=True,
            continuing_episode=True,  # the info tells the time limit from a defeat
        )
        battle.env.full_restart = _fail  # the package's own would go on with another battle's units
        if self._time_limit is not None:
            battle.env.episode_limit = self._time_limit
        self._battle = battle

    def _end_game(self) -> None:
        battle, self._battle = self._battle, None
        self._begun = self._playing = False
        if battle is None or battle.env._sc2_proc is None:
            return
        with contextlib.suppress(Exception):  # it may be half dead
            battle.close()
        _kill(battle.env._sc2_proc)
        battle.env._sc2_proc = None

    @contextlib.contextmanager
    def _own_random(self) -> Iterator[None]:
        """Within it, the global generators of Python and NumPy, which the package uses, are this environment's."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)

    def _failed(self, error: Exception) -> None:
        """Counts a battle that the game did not bring to its end; LostGameError where it is one too many in a row."""
        self._lost += 1
        self._end_game()
        if self._lost >= MOST_LOST:
            raise LostGameError(
                f"StarCraft II failed in {self._lost} battles of {self.name} in a row; the last time: "
                f"{type(error).__name__}: {error}. See whether the game starts by itself "
                f"({game_folder() / 'Versions'}), and whether memory and /tmp suffice for the number of battles."
            ) from error
        self._restarts += 1
        warnings.warn(
            f"StarCraft II failed ({type(error).__name__}: {error}); the battle of {self.name} is thrown away and the "
            f"game restarted ({self._lost} in a row, the run stops at {MOST_LOST})",
            RuntimeWarning,
            stacklevel=3,
        )

    # -- the contract ------------------------------------------------------------------------------------------------
    def seed(self, seed: int | None = None) -> int | None:
        """Starts the random stream anew: the game, which cannot be seeded while it runs, is started again."""
        if seed is not None:
            self._anew(seed)
        return seed

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        """A battle of the next seed of this environment's stream; see `new_episode`."""
        self.seed(seed)
        return self.new_episode(_drawn(self._battles))

    def new_episode(self, seed: int) -> tuple[list[np.ndarray], dict]:
        """Starts a battle, and the game where it does not run. MissingBackendError where it is not installed.

        Seeds teams, places and the order of observing, but not the game, which would have to be started anew.
        """
        if not self._begun and (pieces := missing_pieces()):
            raise MissingBackendError(f"{self.name} needs StarCraft II, missing:\n{listed(pieces)}")
        while True:
            if self._battle is None:
                self._prepare()
            try:
                self._seed_battle(seed)
                with self._own_random():
                    self._start()
                    self._observe()
                break
            except self._package.failures as error:
                self._failed(error)
        self._playing = True
        return self.get_obs(), {}

    def _seed_battle(self, seed: int) -> None:
        """Seeds what the package draws, anew for each battle: teams and places do not depend on how others went."""
        generators, shuffles = np.random.SeedSequence(seed).spawn(2)
        for distribution in self._battle.env_key_to_distribution_map.values():
            _seed_generators(distribution, self._package.distribution, generators)
        numbers = shuffles.generate_state(2)
        self._python = random.Random(int(numbers[0])).getstate()
        self._numpy = np.random.RandomState(numbers[1]).get_state()

    def _start(self) -> None:
        scenario: dict[str, Any] = {}
        for distribution in self._battle.env_key_to_distribution_map.values():
            scenario |= distribution.generate()
        game = self._battle.env
        game.reset(scenario)
        if self._begun:
            return
        health = float(np.dot(WEIGHTS, [HEALTH[unit] for unit in RACES[self._race]]))
        game.max_reward = game.n_enemies * (game.reward_death_value + health) + game.reward_win
        game._episode_count = max(1, game._episode_count)  # at 0, the next reset would start a second process
        self._begun = True

    def _observe(self) -> None:
        """Asks once: the package's answer depends on what it was asked before."""
        self._obs = np.asarray(self._battle.get_obs(), np.float32)
        self._state = np.asarray(self._battle.get_state(), np.float32)
        self._avail = np.asarray(self._battle.get_avail_actions(), np.uint8)

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        if not self._playing:
            raise EnvContractError(f"{self.name}: step() without a battle; call reset() first")
        chosen = [int(action) for action in actions]
        for agent, action in enumerate(chosen):
            if not (0 <= action < self._avail.shape[1] and self._avail[agent, action]):
                raise EnvContractError(f"{self.name}: action {action} is not available to agent {agent}")
        try:
            with self._own_random():
                reward, over, info = self._battle.step(chosen)
                self._observe()
        except self._package.failures as error:
            self._failed(error)
            return self.get_obs(), self._rewards(0.0), False, True, {EPISODE_LOST: True}
        truncated = bool(over and info.pop("episode_limit", False))
        if over:
            self._lost, self._playing = 0, False
        info = {**info, "sc2_restarts": self._restarts}
        return self.get_obs(), self._rewards(reward), bool(over) and not truncated, truncated, info

    def _rewards(self, reward: float) -> float | list[float]:
        return float(reward) if self._common else [float(reward)] * self.n_agents

    def get_obs(self) -> list[np.ndarray]:
        return list(self._obs.copy())

    def get_obs_size(self) -> int:
        return self._sizes[0]

    def get_state(self) -> np.ndarray:
        return self._state.copy()

    def get_state_size(self) -> int:
        return self._sizes[1]

    def get_total_actions(self) -> int:
        return self._sizes[2]

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        return self._avail[agent_id].tolist()

    def fill(self, obs: np.ndarray, state: np.ndarray, avail: np.ndarray) -> None:
        obs[:], state[:], avail[:] = self._obs, self._state, self._avail

    def save_replay(self) -> None:
        """Saves the game so far under StarCraft II's folder Replays; EnvContractError where none is running."""
        if not self._begun:
            raise EnvContractError(f"{self.name}: there is no battle to save a replay of; call reset() first")
        self._battle.save_replay()

    def close(self) -> None:
        self._end_game()


def _drawn(seeds: np.random.SeedSequence) -> int:
    """The next 32 bits of the stream."""
    return int(seeds.spawn(1)[0].generate_state(1)[0])


def _kill(process: Any) -> None:
    """Ends pysc2's process (or None) where it is still running."""
    with contextlib.suppress(Exception):
        if process.running:
            os.kill(process.pid, signal.SIGKILL)


def listed(pieces: Sequence[str]) -> str:
    return "\n".join(f"  - {piece}" for piece in pieces)
