"""Random play, the sizes of states, and what a new mixer makes of them, on the paper's four foraging tasks."""

from types import SimpleNamespace

import numpy as np
import torch as th

from envs.gymma import GymmaEnv
from modules.mixers.qmix import QMixer
from runners.episode_runner import scaled

EPISODES, STATES = 600, 2000


def random_play(env: GymmaEnv, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """The mean return of actions drawn from those that are open, and the states (all agents' observations) met."""
    states, total = [], 0.0
    for _ in range(EPISODES):
        env.reset()
        over = False
        while not over:
            states.append(np.concatenate(env.get_obs()))
            actions = [rng.choice(np.flatnonzero(mask)) for mask in env.get_avail_actions()]
            _, reward, terminated, truncated, _ = env.step(actions)
            total, over = total + reward, terminated or truncated
    return total / EPISODES, np.array(states[:STATES])


def main() -> None:
    th.manual_seed(0)
    for key in ("2s-8x8-2p-2f-coop", "2s-10x10-3p-3f", "10x10-4p-3f", "10x10-3p-5f"):
        rng = np.random.default_rng(0)
        env = GymmaEnv(f"Foraging-{key}-v3", seed=0)
        play, states = random_play(env, rng)
        masked, _ = random_play(GymmaEnv(f"Foraging-{key}-v3", action_masks=True, seed=0), rng)
        sizes = SimpleNamespace(state_shape=states.shape[1], n_agents=env.n_agents)
        sizes.mixing_embed_dim, sizes.hypernet_layers, sizes.hypernet_embed = 32, 2, 64
        mixer, seen = QMixer(sizes), [th.from_numpy(x) for x in (states, scaled(states))]
        values = th.zeros(STATES, env.n_agents), th.ones(STATES, env.n_agents)
        with th.no_grad():
            zero, one = ([mixer(value, x).mean() for x in seen] for value in values)
        print(
            f"{key}: random play {play:.3f}, with masks {masked:.3f}; mean size of the state "
            f"{np.abs(states).mean():.1f}; of a new mixer, Q_tot {zero[0]:.1f} where all agents' values are 0, "
            f"{one[0] - zero[0]:.1f} more where they are 1; "
            f"with scale_inputs {zero[1]:.1f}, {one[1] - zero[1]:.1f} more"
        )


if __name__ == "__main__":
    main()
