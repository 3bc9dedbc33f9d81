"""MMSA on Level-Based Foraging with a world model that makes no mistake: what could its roll-outs give at best?

python src/compare.py --experiment=exact_rollouts

As `env_module` this file puts into the mixer's roll-out, in place of latent states of the learned world model (which is
left out), what the game itself would do: from every real step K greedy steps of the agents as they are now. Of each it
shows the agents' observations, the team's reward, and whether the game goes on. All else is MMSA's.

The game's rules are loops compiled by numba, for thousands of positions at once; a test plays them beside lbforaging.
For them the environment `gymma` adds the board to the state; the learner takes it off again, so that the mixer sees the
state it always sees. world_model.latent_dim must be at least an observation's width and 2.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from torch import Tensor

import envs
import mmsa.learner
from envs.gymma import GymmaEnv
from mmsa.agent import Choice
from mmsa.learner import MMSALearner, Packed, Seen
from mmsa.returns import Rows
from mmsa.world_model import LOSSES, Gaussian
from modules.compiled import loop

NORTH, SOUTH, WEST, EAST, LOAD = 1, 2, 3, 4, 5
REWARD_SCALE = 5.0  # a food's share of the return beside cell numbers


class Rules:
    """The rules of one foraging task. A board (R, W) float32 has for each agent row, column and level, for each food
    the same (level 0: eaten), then the sum of all levels at the start, and the step.
    """

    def __init__(self, game: Any) -> None:
        """game: lbforaging's environment."""
        self.size, self.sight, self.limit = game.rows, game.sight, game._max_episode_steps
        self.n_agents, self.n_foods = len(game.players), game.max_num_food
        self.width = 3 * (self.n_agents + self.n_foods) + 2
        if game.rows != game.cols or game.penalty or not game._normalize_reward or game._grid_observation:
            raise ValueError("only foraging on square fields with shared-out rewards and no penalty is meant")

    def board(self, game: Any) -> np.ndarray:
        """(W,), where the game stands."""
        board = np.zeros(self.width, np.float32)
        players = [(*player.position, player.level) for player in game.players]
        foods = [(y, x, game.field[y, x]) for y, x in zip(*game.field.nonzero(), strict=True)]
        for i, thing in enumerate(players + foods):
            board[3 * i : 3 * i + 3] = thing
        board[-2:] = game._food_spawned, game.current_step
        return board

    def step(self, boards: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moves boards (R, W) on in place by actions (R, N); the team's rewards (R,), and whether games go on (R,)."""
        return _step(boards, actions, self.n_agents, self.size, self.limit)

    def observe(self, boards: np.ndarray) -> np.ndarray:
        """What the agents see: (R, N, O)."""
        return _observe(boards, self.n_agents, self.n_foods, self.sight)


@loop
def _food(foods, y, x, steps):
    """Which of foods (F, 3) that are left lies so many steps from a cell; -1: none."""
    for f in range(len(foods)):
        if foods[f, 2] > 0 and abs(foods[f, 0] - y) + abs(foods[f, 1] - x) == steps:
            return f
    return -1


@loop
def _step(boards, actions, n_agents, size, limit):
    n_rows, width = boards.shape
    rewards, on = np.zeros(n_rows, np.float32), np.zeros(n_rows, np.float32)
    goal, loads = np.zeros((n_agents, 2), np.float32), np.zeros(n_agents, np.int64)
    for r in range(n_rows):
        things = boards[r, : width - 2].copy().reshape(-1, 3)
        agents, foods = things[:n_agents], things[n_agents:]
        if foods[:, 2].sum() == 0 or boards[r, width - 1] >= limit:  # over before
            continue
        for i in range(n_agents):
            y, x, a = agents[i, 0], agents[i, 1], actions[r, i]
            goal[i, 0], goal[i, 1], loads[i] = y, x, -1
            if a == LOAD:
                loads[i] = _food(foods, y, x, 1)
            elif a > 0:
                y += (a == SOUTH) - (a == NORTH)
                x += (a == EAST) - (a == WEST)
                if 0 <= y < size and 0 <= x < size and _food(foods, y, x, 0) < 0:
                    goal[i, 0], goal[i, 1] = y, x
        for i in range(n_agents):  # nobody moves to where another one moves or stays
            alone = True
            for j in range(n_agents):
                alone = alone and (i == j or goal[i, 0] != goal[j, 0] or goal[i, 1] != goal[j, 1])
            if alone:
                agents[i, 0], agents[i, 1] = goal[i, 0], goal[i, 1]
        for f in range(len(foods)):
            strength = 0.0
            for i in range(n_agents):
                if loads[i] == f:
                    strength += agents[i, 2]
            if strength > 0 and strength >= foods[f, 2]:
                rewards[r] += foods[f, 2] / boards[r, width - 2]
                foods[f, 2] = 0
        boards[r, : width - 2] = things.reshape(-1)
        boards[r, width - 1] += 1
        on[r] = foods[:, 2].sum() > 0 and boards[r, width - 1] < limit
    return rewards, on


@loop
def _observe(boards, n_agents, n_foods, sight):
    n_rows, width = boards.shape
    obs = np.zeros((n_rows, n_agents, 3 * (n_foods + n_agents)), np.float32)
    for r in range(n_rows):
        things = boards[r, : width - 2].copy().reshape(-1, 3)
        for i in range(n_agents):
            # Cells are counted from the corner of what the agent sees, which the field's edge cuts off.
            top, left = max(things[i, 0] - sight, 0), max(things[i, 1] - sight, 0)
            seen = obs[r, i].reshape(-1, 3)
            seen[:, :2] = -1
            at = 0
            for f in range(n_agents, n_agents + n_foods):  # in the order of the field's cells, which they keep
                y, x, level = things[f]
                if level > 0 and abs(y - things[i, 0]) <= sight and abs(x - things[i, 1]) <= sight:
                    seen[at, 0], seen[at, 1], seen[at, 2] = y - top, x - left, level
                    at += 1
            at = n_foods + 1
            for j in range(n_agents):
                y, x, level = things[j]
                if j == i:
                    seen[n_foods, 0], seen[n_foods, 1], seen[n_foods, 2] = y - top, x - left, level
                elif y >= top and x >= left and y - top <= 2 * sight and x - left <= 2 * sight:
                    seen[at, 0], seen[at, 1], seen[at, 2] = y - top, x - left, level
                    at += 1
    return obs


class BoardEnv(GymmaEnv):
    """Foraging whose state has the board behind the joined observations."""

    def __init__(self, **env_args: Any) -> None:
        super().__init__(**env_args)
        self.rules = Rules(self._env.unwrapped)

    def get_state(self) -> np.ndarray:
        return np.concatenate([super().get_state(), self.rules.board(self._env.unwrapped)])

    def get_state_size(self) -> int:
        return super().get_state_size() + self.rules.width

    def fill(self, obs: np.ndarray, state: np.ndarray, avail: np.ndarray) -> None:
        super().fill(obs, state[: super().get_state_size()], avail)
        state[super().get_state_size() :] = self.rules.board(self._env.unwrapped)


class ExactMMSALearner(MMSALearner):
    """MMSA's learner with the game's own steps in place of imagined ones."""

    def __init__(self, mac: Any, scheme: dict[str, Any], logger: Any, args: SimpleNamespace) -> None:
        self.rules = Rules(GymmaEnv(**args.env_args)._env.unwrapped)
        args = copy.copy(args)
        args.state_shape -= self.rules.width
        super().__init__(mac, scheme, logger, args)
        latent_dim, needed = self.cfg.world_model.latent_dim, args.obs_shape + 2
        if latent_dim < needed:
            raise ValueError(f"world_model.latent_dim={latent_dim}: exact steps need {needed} or more on this task")
        if self.online.rollout is None or self.cfg.imagination.target != "online" or args.obs_last_action:
            raise ValueError("exact steps need world_model.enabled, imagination.target=online and no obs_last_action")
        if args.scale_inputs:
            raise ValueError("exact steps need scale_inputs=False: the game's rules read its own numbers")
        if args.env_args["action_masks"]:
            raise ValueError("exact steps need env_args.action_masks=False: nothing closes actions in them")
        self.online = self.online._replace(model=None)  # nothing asks it
        self.weights = {name: weight for name, weight in self.weights.items() if name not in LOSSES}

    def _pack(self, batch: Any, rows: Rows) -> Packed:
        data = super()._pack(batch, rows)
        state, self._boards = data.state.split([self.args.state_shape, self.rules.width], 1)
        return data._replace(state=state)

    @th.no_grad()
    def _imagined(
        self, seen: Seen, target_zs: Tensor | None, choice: Choice, posterior: Gaussian | None
    ) -> tuple[Tensor | None, Tensor | None]:
        agent, boards = self.mac.agent, self._boards.numpy().copy()
        obs, h = seen.data.obs, agent.trunk.unroll(seen.data.x, seen.rows)
        n_rows, n_agents = h.shape[:2]
        exact = obs.new_zeros(self.cfg.imagination.horizon + 1, n_rows, n_agents, self.cfg.world_model.latent_dim)
        width = obs.shape[2]
        exact[0, :, :, :width] = obs
        for k in range(1, len(exact)):
            rewards, on = self.rules.step(boards, choice.actions.view(n_rows, n_agents).numpy())
            obs = th.from_numpy(self.rules.observe(boards))
            exact[k, :, :, :width] = obs
            exact[k, :, :, width] = th.from_numpy(REWARD_SCALE * rewards).unsqueeze(1)
            exact[k, :, :, width + 1] = th.from_numpy(on).unsqueeze(1)
            if k + 1 < len(exact):
                h = agent.trunk.step(self.mac.inputs(obs, None).flatten(0, 1), h.flatten(0, 1)).view_as(h)
                zs = agent.zs(obs, h)
                choice = agent.greedy(h.flatten(0, 1), None if zs is None else zs.flatten(0, 1), None)
        return exact, None


def register() -> None:
    """Called by the host: from here on `gymma` is foraging with its board, and MMSA's learner the exact one."""
    from learners import REGISTRY

    envs.REGISTRY["gymma"] = BoardEnv
    mmsa.learner.MMSALearner = REGISTRY["mmsa_learner"] = ExactMMSALearner
