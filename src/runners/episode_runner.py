"""Runs whole episodes in E environments at once and keeps their statistics.

Shapes: E environments, T = episode_limit + 1 steps, N agents.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th

import envs
from components.episode_buffer import EpisodeBatch, Preprocess, Scheme

# Of metrics that are logged here, or by learners
OWN_NAMES = re.compile(r"return|total_return|agent_\d+_return|ep_length|q_taken|target|advantage|test_.*")


def scaled(x: np.ndarray) -> np.ndarray:
    """(..., X) -> the same, each row divided by its mean absolute value where that is above 1.

    Inputs of large numbers, as of cells, make new networks' outputs as large, and what a hypernetwork mixes many times
    larger (results/scale_inputs/README.md has how much, and what it does to learning).
    """
    return x / np.maximum(np.abs(x).mean(-1, keepdims=True), 1)


class EpisodeStats:
    """Returns and final infos of finished episodes until they are logged.

    What an info calls as a metric of ours is called is recorded as info_NAME.
    """

    def __init__(self) -> None:
        self.returns: list[np.ndarray] = []  # each () or, with individual rewards, (N,)
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, episode_return: np.ndarray, length: int, info: Mapping[str, Any]) -> None:
        self.returns.append(episode_return)
        self.values["ep_length"].append(length)
        for key, value in info.items():
            if isinstance(value, (Real, np.bool_)):
                name = str(key)  # 0, 1, ... of an info for each agent
                self.values[f"info_{name}" if OWN_NAMES.fullmatch(name) else name].append(float(value))

    def log(self, logger: Any, prefix: str, t_env: int) -> None:
        """Logs the means (and the deviation of the returns) under upstream's names, then starts anew."""
        returns = np.stack(self.returns)
        named = {"return": returns}
        if returns.ndim == 2:
            named = {f"agent_{i}_return": returns[:, i] for i in range(returns.shape[1])}
            named["total_return"] = returns.sum(1)
        for key, column in named.items():
            logger.log_stat(f"{prefix}{key}_mean", float(column.mean()), t_env)
            logger.log_stat(f"{prefix}{key}_std", float(column.std()), t_env)
        for key, values in self.values.items():
            logger.log_stat(f"{prefix}{key}_mean", float(np.mean(values)), t_env)
        self.clear()

    def clear(self) -> None:
        self.returns.clear()
        self.values.clear()

    def state_dict(self) -> dict[str, Any]:
        returns = th.from_numpy(np.stack(self.returns)) if self.returns else None
        return {"returns": returns, "values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clear()
        self.returns += [] if state["returns"] is None else list(state["returns"].numpy())
        for key, values in state["values"].items():
            self.values[key] += values


class EpisodeRunner:
    """`run` plays one episode in each environment and returns them as a batch, valid until the next `run`.

    `t_env` counts the training steps of the environments that were still running. The batch stays on the CPU.
    `before_step` is called before each step of the environments: what it raises ends the rollout. With
    `args.scale_inputs` the batch, by which agents act and learn, holds observations and states as `scaled` has them.
    """

    def __init__(self, args: SimpleNamespace, logger: Any) -> None:
        self.args = args
        self.logger = logger
        self.env = envs.make_vector_env(args)
        self.batch_size: int = self.env.n_envs
        self.episode_limit: int = self.env.episode_limit
        self.t_env = 0
        self.train_stats = EpisodeStats()
        self.test_stats = EpisodeStats()
        self._last_log_t: int | None = None
        self.before_step: Callable[[], None] = lambda: None

    def setup(
        self,
        scheme: Scheme,
        groups: Mapping[str, int],
        preprocess: Preprocess,
        mac: Any,
        batches: Sequence[EpisodeBatch] | None = None,
    ) -> None:
        """`batches` (made by new_batch; default: one) are written in turn by training runs."""
        self.mac = mac
        self.batches = batches or [self.new_batch(scheme, groups, preprocess)]
        self._written = (*scheme, "filled")  # the fields of a batch that runs write
        self._used = [0] * len(self.batches)  # steps of each batch that its last run wrote
        self._at = 0  # the batch of the next run

    def new_batch(self, scheme: Scheme, groups: Mapping[str, int], preprocess: Preprocess) -> EpisodeBatch:
        return EpisodeBatch(scheme, groups, self.batch_size, self.episode_limit + 1, preprocess=preprocess)

    def get_env_info(self) -> dict[str, int]:
        return self.env.get_env_info()

    def run(self, test_mode: bool = False) -> EpisodeBatch:
        """One episode in each environment; of the last test rollout only as many as test_nepisode still needs.

        An episode whose simulator broke down is thrown away, and its environment alone plays another.
        """
        wanted = np.ones(self.batch_size, dtype=bool)
        if test_mode:
            wanted[self.args.test_nepisode - len(self.test_stats.returns) :] = False
        at = self._at
        batch = self.batch = self.batches[at]
        fields = [batch.numpy(key) for key in self._written]
        for field in fields:
            field[:, : self._used[at]] = 0
        self._used[at] = 0
        lengths = np.zeros(self.batch_size, dtype=np.int64)
        infos: dict[int, dict[str, Any]] = {}
        self._play(wanted, lengths, infos, test_mode)
        while lost := [i for i, info in infos.items() if info.get(envs.EPISODE_LOST)]:
            for field in fields:
                field[lost, : self._used[at]] = 0
            wanted[:] = False
            wanted[lost] = True
            self._play(wanted, lengths, infos, test_mode)
        returns = batch.numpy("reward")[:, : self._used[at] - 1].sum(1, dtype=np.float64)
        self._check()
        self._record(lengths, infos, returns, test_mode)
        if not test_mode:
            self._at = (at + 1) % len(self.batches)
        return batch

    def _play(self, wanted: np.ndarray, lengths: np.ndarray, infos: dict[int, dict[str, Any]], test_mode: bool) -> None:
        """An episode in each of the wanted environments (E,): their rows of the batch, lengths and final infos."""
        env, batch, active = self.env, self.batch, wanted.copy()
        actions = np.zeros((self.batch_size, env.n_agents), dtype=np.int64)
        obs, state, avail = batch.numpy("obs"), batch.numpy("state"), batch.numpy("avail_actions")
        taken, reward = batch.numpy("actions"), batch.numpy("reward")
        terminated, filled = batch.numpy("terminated"), batch.numpy("filled")
        env_reward = env.reward.reshape(self.batch_size, -1)

        def see(live: Any, t: int) -> None:
            """What these environments show now is step t of their rows."""
            seen, whole = env.obs[live], env.state[live]
            obs[live, t], state[live, t] = (scaled(seen), scaled(whole)) if self.args.scale_inputs else (seen, whole)
            avail[live, t], filled[live, t] = env.avail_actions[live], 1

        env.reset()
        self.mac.init_hidden(batch_size=self.batch_size)
        live: Any = slice(None) if active.all() else np.flatnonzero(active)  # the environments still running
        t = 0
        while True:
            see(live, t)
            # A controller that is written for upstream's runner of one environment takes no bs.
            some = {} if isinstance(live, slice) else {"bs": th.from_numpy(live)}
            chosen = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, **some, test_mode=test_mode)
            actions[live] = chosen.cpu().numpy()
            self.before_step()
            taken[live, t, :, 0] = actions[live]
            ended = env.step(actions, active)
            reward[live, t] = env_reward[live]
            terminated[live, t, 0] = env.terminated[live]
            t += 1
            if test_mode and self.args.render:
                env.show()
            if ended:
                for i, info in ended:
                    see(i, t)  # to bootstrap from, of an episode that is over
                    active[i], lengths[i], infos[i] = False, t, info
                live = np.flatnonzero(active)
                if not len(live):
                    break
            if t >= self.episode_limit:
                still = np.flatnonzero(active)[0]
                raise envs.EnvContractError(
                    f"environment {still}, step {t}: the episode has no end although episode_limit = "
                    f"{self.episode_limit}: step() must say truncated there"
                )
        self._used[self._at] = max(self._used[self._at], t + 1)

    def _check(self) -> None:
        """EnvContractError for what is no finite number, or a mask without an action: nothing learns from it."""
        used = slice(self._used[self._at])
        for key in ("obs", "state", "reward"):
            values = self.batch.numpy(key)[:, used]
            if not np.isfinite(values.sum(dtype=np.float64)):
                i, t = (int(index[0]) for index in np.nonzero(~np.isfinite(values))[:2])
                raise envs.EnvContractError(f"environment {i}, step {t}: {key} holds {values[i, t]}, no finite numbers")
        helpless = self.batch.numpy("filled")[:, used] > self.batch.numpy("avail_actions")[:, used].any(-1)  # (E, T, N)
        helpless[:, 1:] &= self.batch.numpy("terminated")[:, used][:, :-1] == 0  # nobody acts after a real end
        if helpless.any():
            i, t, agent = np.argwhere(helpless)[0]
            cure = "one that can do nothing needs a no-op"
            raise envs.EnvContractError(f"environment {i}, step {t}: no action is available to agent {agent}; {cure}")

    def _record(self, lengths: np.ndarray, infos: Mapping[int, Mapping], returns: np.ndarray, test_mode: bool) -> None:
        stats = self.test_stats if test_mode else self.train_stats
        for i in sorted(infos):
            stats.add(returns[i, 0] if self.args.common_reward else returns[i], int(lengths[i]), infos[i])
        if test_mode:
            if len(stats.returns) >= self.args.test_nepisode:
                stats.log(self.logger, "test_", self.t_env)
            return
        self.t_env += int(lengths.sum())
        if self._last_log_t is None or self.t_env - self._last_log_t >= self.args.runner_log_interval:
            stats.log(self.logger, "", self.t_env)
            if hasattr(self.mac.action_selector, "epsilon"):
                self.logger.log_stat("epsilon", self.mac.action_selector.epsilon, self.t_env)
            self._last_log_t = self.t_env

    @contextmanager
    def unless_cut_short(self) -> Iterator[None]:
        """An error within leaves the runner, and the random stream of its actions, as they were before."""
        episode, draws = self.env.episode, th.get_rng_state()
        gpu_draws = th.cuda.get_rng_state() if self.args.device == "cuda" else None
        try:
            yield
        except BaseException:
            self.env.episode = episode
            self.test_stats.clear()
            self._forget_batches()
            th.set_rng_state(draws)
            if gpu_draws is not None:
                th.cuda.set_rng_state(gpu_draws)
            raise

    def _forget_batches(self) -> None:
        """Whatever they hold is cleared before they are written again."""
        self._used = [self.episode_limit + 1] * len(self.batches)

    def state_dict(self) -> dict[str, Any]:
        """Between two episodes; tests are over."""
        stats = self.train_stats.state_dict()
        return {"t_env": self.t_env, "episode": self.env.episode, "last_log_t": self._last_log_t, "train_stats": stats}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.t_env, self.env.episode, self._last_log_t = state["t_env"], state["episode"], state["last_log_t"]
        self.train_stats.load_state_dict(state["train_stats"])
        self.test_stats.clear()
        self._forget_batches()
        self._at = 1 % len(self.batches)  # the first is for whoever restores it

    def save_replay(self) -> None:
        self.env.save_replay()

    def close_env(self) -> None:
        self.env.close()
