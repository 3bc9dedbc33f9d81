"""The contract that every environment keeps, and the errors that environments raise."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

# In the info of a truncated episode: the simulator broke down. The episode is no whole one and must not be used; the
# next reset starts another. ("episode_lost" would be what an environment says whose team was beaten.)
EPISODE_LOST = "simulator_broke_down"


class MissingBackendError(RuntimeError):
    """A package or program that an environment needs is missing; the message lists each piece with its cure."""


class EnvContractError(RuntimeError):
    """An environment broke the contract below: a wrong shape, an empty action mask, a reward that is not a number."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No output and no warnings; of jaxmarl neither, which puts sys.__stdout__ in the place of sys.stdout."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    before = {name: getattr(sys, name) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in names:
                setattr(sys, name, io.StringIO())
            yield
        finally:
            for name, stream in before.items():
                setattr(sys, name, stream)


def nearest(name: str, known: Sequence[str], n: int = 3) -> str:
    """`" Did you mean a, b?"` with the nearest known names, or an empty string where none is near."""
    lower = {k.lower(): k for k in known}
    near = get_close_matches(name.lower(), list(lower), n=n, cutoff=0.5)
    return f" Did you mean {', '.join(lower[k] for k in near)}?" if near else ""


class MultiAgentEnv:
    """One environment with N agents and discrete actions.

    A subclass sets `n_agents` and `episode_limit` and writes `reset`, `step`, `get_obs`, `get_obs_size` and
    `get_total_actions`; the rest has defaults for an environment without a state of its own and without masks.

    `terminated` is a real end of the task (no bootstrap), `truncated` a time limit; never both. A seed given to the
    constructor counts at the first `reset`, later resets go on in the same random stream; `reset(seed=s)` starts a
    stream anew. A run gives each episode a seed of its own: with it an episode must be the same whatever was played
    before, so that a resumed run repeats the one that was cut off.
    """

    n_agents: int
    episode_limit: int
    backend: str = ""  # what simulates, with its version, as recorded with every run
    banner: str = ""  # a warning that main prints in a box; empty: none
    info: dict[str, Any]  # more for the run record
    render_fps: int = 5  # pictures a second at which a film of it is easy to follow

    # -- to be written by each environment ---------------------------------------------------------------------------
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        """Starts an episode. Returns the N observations (O,) and an info dict."""
        raise NotImplementedError

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        """Takes N actions. Returns N observations, reward (float, or N floats without common reward), terminated,
        truncated and an info dict."""
        raise NotImplementedError

    def get_obs(self) -> list[np.ndarray]:
        """The N current observations, each (O,) float32."""
        raise NotImplementedError

    def get_obs_size(self) -> int:
        raise NotImplementedError

    def get_total_actions(self) -> int:
        """A: the largest number of actions that any agent has."""
        raise NotImplementedError

    # -- shared defaults ---------------------------------------------------------------------------------------------
    def new_episode(self, seed: int) -> tuple[list[np.ndarray], dict]:
        """`reset(seed=seed)`, as runs call it; an environment that is dear to seed anew does less here."""
        return self.reset(seed=seed)

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        return self.get_obs()[agent_id]

    def get_state(self) -> np.ndarray:
        """The state (S,) float32; by default the observations joined."""
        return np.concatenate(self.get_obs()).astype(np.float32, copy=False)

    def get_state_size(self) -> int:
        return self.n_agents * self.get_obs_size()

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """Mask (A,) of ones and zeros; at least one action is available."""
        return [1] * self.get_total_actions()

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(i) for i in range(self.n_agents)]

    def get_env_info(self) -> dict[str, int]:
        for key in ("n_agents", "episode_limit"):
            if not hasattr(self, key):
                raise EnvContractError(f"{type(self).__name__} has no {key}: its constructor must set it")
        return {
            "state_shape": self.get_state_size(),
            "obs_shape": self.get_obs_size(),
            "n_actions": self.get_total_actions(),
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def fill(self, obs: np.ndarray, state: np.ndarray, avail: np.ndarray) -> None:
        """Writes the current obs (N,O), state (S,) and mask (N,A) into the given arrays; fast environments override it.

        Masks that never change may be written at the start of an episode only.
        """
        seen, whole = np.asarray(self.get_obs()), self.get_state()
        if seen.shape != obs.shape or np.shape(whole) != state.shape:  # which an assignment would stretch to fit
            name = getattr(self, "name", type(self).__name__)
            raise EnvContractError(
                f"{name}: observations of shape {seen.shape} and a state of shape {np.shape(whole)}, "
                f"expected {obs.shape} and {state.shape}"
            )
        obs[:], state[:] = seen, whole
        avail[:] = self.get_avail_actions()

    def get_stats(self) -> dict[str, float]:
        return {}

    def seed(self, seed: int | None = None) -> int | None:
        """Sets the seed of the next `reset`."""
        raise NotImplementedError

    def render(self) -> Any:
        """A picture of the present state, (H, W, 3) uint8, drawn without a display. NotImplementedError where there is
        none."""
        raise NotImplementedError(f"{getattr(self, 'name', type(self).__name__)} has no pictures: it has no render()")

    def show(self) -> None:
        """Shows the present state in a window (the key `render`). By default what `render` does."""
        self.render()

    def save_replay(self) -> None:
        """Saves a replay where the simulator has such a thing; elsewhere does nothing."""

    def close(self) -> None:
        """Frees what the environment holds; twice is fine."""
