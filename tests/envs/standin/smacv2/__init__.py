"""Stand-in for smacv2: its interface, its traps and its sizes, with a game that is a few random numbers.

Each battle has a real process (sleep), and none of its requests succeeds when that is dead. STANDIN_KILLS="3,7" in the
environment kills it before the third and the seventh request, counted over all battles of this Python process;
STANDIN_KILLS=all before each one.
"""

import os
import random
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
from pysc2.lib import protocol


def _module(name, **content):
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(content)
    return module


class Distribution:
    def __init__(self, config):
        self.config = config
        self.rng = np.random.default_rng()


class Team(Distribution):
    def generate(self):
        units = [str(u) for u in self.rng.choice(self.config["unit_types"], self.config["n_units"])]
        random.shuffle(units)
        return {"team_gen": {"ally_team": units, "enemy_team": units, "id": 0}}


class Places(Distribution):
    def __init__(self, config):
        super().__init__(config)
        self.inner = Distribution(config)

    def generate(self):
        item = self.rng.random((self.config["n_units"], 2)) + self.inner.rng.random((self.config["n_units"], 2))
        return {"ally_start_positions": {"item": item, "id": 0}}


class CannotResetException(Exception):
    pass


class Process:
    started: list = []

    def __init__(self):
        self.popen = subprocess.Popen(["sleep", "600"])
        self.closed = 0
        Process.started.append(self)

    @property
    def running(self):
        return self.popen.poll() is None

    @property
    def pid(self):
        return self.popen.pid

    def close(self):
        self.closed += 1
        self.popen.kill()
        self.popen.wait()


class StarCraft2Env:
    requests = 0
    saved: list = []

    def __init__(self, capability_config, map_name, seed, **options):
        assert set(options) == {"use_unit_ranges", "min_attack_range", "obs_own_pos", "continuing_episode"}, options
        self.options, self.seed_given, self.map_name = options, seed, map_name
        self.n_agents, self.n_enemies = capability_config["n_units"], capability_config["n_enemies"]
        self.shield = int("protoss" in map_name)
        self.episode_limit, self.reward_death_value, self.reward_win = 200, 10, 200
        self.max_reward = self.n_enemies * 10 + 200
        self.n_actions = 6 + self.n_enemies
        self._episode_count, self._sc2_proc = 0, None

    def get_env_info(self):
        n, m, s = self.n_agents, self.n_enemies, self.shield
        own = 2 * self.options["obs_own_pos"]
        return {
            "obs_shape": 4 + (m + n - 1) * (8 + s) + 4 + s + own,
            "state_shape": n * (7 + s) + m * (6 + s) + n * self.n_actions,
            "n_actions": self.n_actions,
            "n_agents": n,
            "episode_limit": 200,
        }

    def _launch(self):
        self._sc2_proc = Process()
        self.rng = np.random.default_rng(self.seed_given)

    def full_restart(self):
        self._sc2_proc.close()
        self._launch()

    def _request(self):
        StarCraft2Env.requests += 1
        plan = os.environ.get("STANDIN_KILLS", "")
        if plan == "all" or str(StarCraft2Env.requests) in plan.split(","):
            self._sc2_proc.popen.kill()
            self._sc2_proc.popen.wait()
        if not self._sc2_proc.running:
            raise protocol.ConnectionError("Connection already closed. SC2 probably crashed.")

    def reset(self, scenario):
        self.t = 0
        if self._episode_count == 0:
            self._launch()
        self.last = np.zeros((self.n_agents, self.n_actions))
        try:
            self._request()
            self.health = np.full(self.n_agents, 2.0)
            self.places = scenario["ally_start_positions"]["item"]
            self.types = scenario["team_gen"]["ally_team"]
            health = np.array([20.0 + i + len(self.types[i % len(self.types)]) for i in range(self.n_enemies)])
            self.enemies = {i: SimpleNamespace(health=h, health_max=h, shield_max=0) for i, h in enumerate(health)}
            if self._episode_count == 0:
                self.max_reward += 2 * health.sum()  # counted twice, as it can happen
        except protocol.ConnectionError:
            self.full_restart()
        return None, None

    def step(self, actions):
        try:
            self._request()
        except protocol.ConnectionError:
            self.full_restart()
            return 0, True, {}
        self.t += 1
        self.last = np.eye(self.n_actions)[actions]
        self.health[self.rng.integers(self.n_agents)] -= 1
        hit = self.enemies[int(self.rng.integers(self.n_enemies))]
        reward, hit.health = min(10.0, hit.health), max(0.0, hit.health - 10)
        dead = sum(unit.health == 0 for unit in self.enemies.values())
        info = {"battle_won": False, "dead_allies": int((self.health <= 0).sum()), "dead_enemies": dead}
        over = bool((self.health <= 0).all()) or dead == self.n_enemies
        if over:
            info["battle_won"] = dead == self.n_enemies
        elif self.t >= self.episode_limit:
            over = info["episode_limit"] = True
        self._episode_count += over
        return reward / (self.max_reward / 20), over, info

    def get_obs(self):
        order = list(range(self.n_agents))
        random.shuffle(order)  # what each one sees depends on it
        seen = np.concatenate([self.places, self.health[:, None], np.argsort(order)[:, None]], axis=1)
        kinds = np.array([[sum(map(ord, kind)) / 1000] for kind in self.types])
        size = self.get_env_info()["obs_shape"]
        return list(np.concatenate([seen, kinds, np.zeros((self.n_agents, size - 5))], axis=1))

    def get_state(self):
        state = np.zeros(self.get_env_info()["state_shape"])
        known = np.concatenate([self.health, [u.health for u in self.enemies.values()], self.places.ravel()])
        state[: len(known)] = known
        return state

    def get_avail_actions(self):
        return [[0] + [1] * (self.n_actions - 1) if h > 0 else [1] + [0] * (self.n_actions - 1) for h in self.health]

    def save_replay(self):
        StarCraft2Env.saved.append(self.t)

    def close(self):
        if self._sc2_proc:
            self._sc2_proc.close()


class StarCraftCapabilityEnvWrapper:
    def __init__(self, **arguments):
        config = arguments["capability_config"]
        for key in ("team_gen", "start_positions"):
            config[key] |= {"n_units": config["n_units"], "env_key": key}
        self.env_key_to_distribution_map = {
            "team_gen": Team(config["team_gen"]),
            "start_positions": Places(config["start_positions"]),
        }
        self.env = StarCraft2Env(**arguments)

    def __getattr__(self, name):
        return getattr(self.env, name)


env = _module("smacv2.env", __path__=[])
sc2 = _module("smacv2.env.starcraft2", __path__=[])
env.starcraft2 = sc2
sc2.distributions = _module("smacv2.env.starcraft2.distributions", Distribution=Distribution)
sc2.starcraft2 = _module("smacv2.env.starcraft2.starcraft2", CannotResetException=CannotResetException)
sc2.wrapper = _module(
    "smacv2.env.starcraft2.wrapper", StarCraftCapabilityEnvWrapper=StarCraftCapabilityEnvWrapper, Process=Process
)
