"""What a roll-out could tell MMSA's mixer of the return, in fresh episodes of a run that kept its last checkpoint.

python src/main.py --config=mmsa --env-config=gymma with env_args.key=KEY seed=1 t_max=200000 keep_finished=True
python benchmarks/imagination.py results/sacred/mmsa/TASK/ID

Its agents play on (epsilon_finish) without learning. From what the mixer sees at a step, a small network learns the
discounted return that followed; printed is the share of the variance that it explains in episodes it never saw, once
for each seed. In turn it is given imagined steps; in their place those of the same greedy roll-out in a copy of the
environment, which a world model without error would imagine; the real ones, which tell what chance decided, too; and
the agents' hidden states, of which all that is imagined is made. Then how far imagined steps come true.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch import Tensor, nn
from trained import configuration, load

FAR = 10  # steps of the long roll-out
TEST, CHECK = 1000, 500  # episodes that the share is measured in, and that say when to stop
PATIENCE = 8  # passes without progress in CHECK


class Foreseeing:
    """An environment in whose copies greedy agents play on from each of its steps.

    `seen`: an episode's states (T, S) as bytes -> the states (T, FAR, S) and rewards (T, FAR) that its copies come to,
    0 beyond their end.
    """

    def __init__(self, env: Any, mac: Any) -> None:
        self._env, self._mac, self._player = env, mac, mac.agent.player()
        self.seen: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self._steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def new_episode(self, seed: int) -> Any:
        self._h = np.zeros((self._env.n_agents, self._mac.agent.hidden_dim), np.float32)
        self._last = th.full((self._env.n_agents,), -1)
        return self._env.new_episode(seed)

    def step(self, actions: Any) -> Any:
        best, self._h = self._preferred(self._env, self._h, self._last)
        self._steps.append((self._state(self._env), *self._foresee(best)))
        self._last = th.as_tensor(np.array(actions))
        result = self._env.step(actions)
        if result[2] or result[3]:
            now, states, rewards = (np.stack(x) for x in zip(*self._steps, strict=True))
            self.seen[now.tobytes()] = (states, rewards)
            self._steps.clear()
        return result

    def _state(self, env: Any) -> np.ndarray:
        return np.array(env.get_state(), np.float32)

    def _preferred(self, env: Any, h: np.ndarray, last: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The agents' best available actions (N,), and their next hidden states (N, H)."""
        x = self._mac.inputs(th.from_numpy(np.stack(env.get_obs())).float(), last)
        q, h = self._player(x.numpy(), h)
        return np.where(np.array(env.get_avail_actions()) > 0, q, -np.inf).argmax(1), h

    def _foresee(self, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        env, h = copy.deepcopy(self._env), self._h
        states, rewards = np.zeros((FAR, self._env.get_state_size()), np.float32), np.zeros(FAR, np.float32)
        for k in range(FAR):
            _, rewards[k], terminated, truncated, _ = env.step(best.tolist())
            states[k] = self._state(env)
            if terminated or truncated:
                break
            best, h = self._preferred(env, h, th.from_numpy(best))
        return states, rewards


def played(folder: Path, n_episodes: int) -> tuple[Any, Any, Foreseeing]:
    """The run's learner, fresh episodes with rewards as the environment gave them, and what copies of it came to."""
    recorded = configuration(folder)
    if recorded.get("learner") != "mmsa_learner":
        raise SystemExit(f"{folder}: a run of {recorded.get('name')}, not of MMSA")
    if recorded["scale_inputs"]:
        raise SystemExit(f"{folder}: has scale_inputs=True, and a copy of the game shows its own numbers")
    args, runner, buffer, learner = load(folder, buffer_size=n_episodes, runner="episode", standardise_rewards=False)
    if learner.online.model is None or not {"recon", "reward"} <= learner.weights.keys():
        raise SystemExit(f"{folder}: imagines nothing: world_model.enabled, or the weight of recon or reward, was 0")
    step, runner.t_env = runner.t_env, max(runner.t_env, args.epsilon_anneal_time)  # exploration is over
    runner.env.envs[0] = foreseeing = Foreseeing(runner.env.envs[0], learner.mac)
    for _ in range(n_episodes):
        buffer.insert_episode_batch(runner.run())
    runner.close_env()
    batch = buffer.sample(n_episodes)
    mean = batch["reward"].sum(1).mean().item()
    print(f"{folder}: step {step}, {n_episodes} episodes, mean return {mean:.3f}")
    return learner, batch, foreseeing


def after(x: Tensor, episode: Tensor, k: int) -> Tensor:
    """x (R, ...) of the step k later, 0 beyond the episode's end. episode (R,): whose the rows are."""
    later = x.roll(-k, 0)
    same = episode.roll(-k) == episode
    same[len(x) - k :] = False
    return later * same.view(-1, *(1,) * (x.ndim - 1))


def returned(reward: Tensor, episode: Tensor, gamma: float) -> Tensor:
    """The discounted return (R,) from each step on of reward (R,). episode (R,): whose the rows are."""
    goal = th.zeros_like(reward)
    for _ in range(int(episode.bincount().max())):  # each pass reaches a step further back
        goal = reward + gamma * after(goal, episode, 1)
    return goal


def explained(x: Tensor, goal: Tensor, parts: tuple[Tensor, Tensor, Tensor], seed: int) -> float:
    """The share of goal's (R,) variance that a network of x (R, F) explains; parts: rows to learn from, check, test."""
    th.manual_seed(seed)
    learn, check, test = parts
    x = (x - x[learn].mean(0)) / x[learn].std(0).clamp(min=1e-3)
    net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimiser = th.optim.Adam(net.parameters())

    def error(rows: Tensor) -> Tensor:
        return (net(x[rows]).squeeze(1) - goal[rows]).square().mean()

    best, share, waited = float("inf"), 0.0, 0
    while waited < PATIENCE:
        for rows in learn[th.randperm(len(learn))].split(512):
            optimiser.zero_grad()
            error(rows).backward()
            optimiser.step()
        with th.no_grad():
            found = error(check).item()
            waited += 1
            if found < best:
                best, waited = found, 0
                share = 1 - (error(test) / goal[test].var()).item()
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run's record, with its checkpoints")
    parser.add_argument("--episodes", type=int, default=2000, help="to learn from")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    learner, batch, foreseeing = played(options.run, options.episodes + CHECK + TEST)

    from mmsa.agent import Choice
    from mmsa.diagnostics import open_loop
    from mmsa.imagination import imagine

    with th.no_grad():
        _, stats, seen = learner.losses(batch)
        model, agent, rows, data = learner.online.model, learner.mac.agent, seen.rows, seen.data
        s = model.posterior(seen.h, seen.zs).mean
        preferred = stats["preferred"].flatten()
        zsa = None if agent.sale is None else agent.sale.g(seen.zs.flatten(0, 1), preferred)
        cfg = learner.cfg.imagination
        encode = cfg.zs == "encode"
        first = Choice(preferred, zsa, None)
        states = imagine(model, agent, s, seen.zs, first, FAR, encode)
        latent = states.flatten(2)  # (FAR + 1, R, N D)
        reward = model.dec_reward(latent[1:]).squeeze(2).t()  # (R, FAR), symlog
    episode = rows.first.long().cumsum(0) - 1
    starts = th.zeros(len(rows), dtype=th.bool).index_fill(0, rows.src, True)  # rows at which a transition starts
    real = data.reward * starts
    goal = returned(real, episode, learner.args.gamma)
    near, n_episodes = cfg.horizon, int(episode[-1]) + 1
    told = [foreseeing.seen[data.state[starts & (episode == i)].numpy().tobytes()] for i in range(n_episodes)]
    exact_states = th.zeros(len(rows), FAR, data.state.shape[1])
    exact_rewards = th.zeros(len(rows), FAR)
    exact_states[starts], exact_rewards[starts] = (th.from_numpy(np.concatenate(x)) for x in zip(*told, strict=True))
    sees = [data.state, stats["q_taken"]]
    hidden = seen.h.flatten(1)
    ahead = th.stack([after(real, episode, k) for k in range(FAR)], 1)  # (R, FAR)
    nexts = [after(data.state, episode, k) for k in range(1, near + 1)]
    inputs = {
        "state, agents' values": sees,
        "+ present latent state": [*sees, latent[0]],
        f"+ {near} imagined states": [*sees, *latent[: near + 1]],
        f"+ {near} imagined rewards": [*sees, latent[0], reward[:, :near]],
        f"+ {FAR} imagined states and rewards": [*sees, *latent, reward],
        "+ hidden states": [*sees, hidden],
        f"+ hidden states, {near} imagined states": [*sees, hidden, *latent[: near + 1]],
        f"+ {near} exactly imagined states": [*sees, latent[0], exact_states[:, :near].flatten(1)],
        f"+ {near} exactly imagined rewards": [*sees, latent[0], exact_rewards[:, :near]],
        f"+ {FAR} exactly imagined rewards": [*sees, latent[0], exact_rewards],
        f"+ {near} real next states": [*sees, latent[0], *nexts],
        f"+ {near} real rewards": [*sees, latent[0], ahead[:, :near]],
        f"+ {FAR} real rewards": [*sees, latent[0], ahead],
    }
    bounds = (0, options.episodes, options.episodes + CHECK, options.episodes + CHECK + TEST)
    parts = tuple(
        (starts & (episode >= a) & (episode < b)).nonzero().squeeze(1) for a, b in zip(bounds, bounds[1:], strict=False)
    )
    print("\nshare of the return's variance that is explained")
    for name, tensors in inputs.items():
        x = th.cat(tensors, 1)
        print(f"  {name:38}", *(f"{explained(x, goal, parts, seed):.3f}" for seed in range(options.seeds)), flush=True)

    true = open_loop(model, agent, rows, seen.h, seen.zs, data.actions, data.reward, stats["preferred"], encode)
    steps = [k for k in range(1, FAR + 1) if f"open_loop_{k}" in true]  # no longer than the longest episode
    print("\nexactly imagined states: share that came true (the others: explored since)")
    for k in steps:
        came_true = (exact_states[:, k - 1] == after(data.state, episode, k)).all(1)
        print(f"  {k:2} {came_true[starts].float().mean():.2f}")
    print("\nimagined rewards: correlation with the real ones")
    for k in steps:
        print(f"  {k:2} {th.corrcoef(th.stack([reward[starts, k - 1], ahead[starts, k - 1]]))[0, 1]:.2f}")
    print("\nunder the actions taken: error of hidden states over that of no change, share of actions imagined rightly")
    for k in steps:
        error, still, right = (true[f"{name}_{k}"] for name in ("open_loop", "no_change", "policy"))
        print(f"  {k:2} {error / still:.2f} {right:.2f}")


if __name__ == "__main__":
    main()
