"""When something is due: at multiples of an interval, and updates in proportion to the experience collected."""

from __future__ import annotations

from typing import Any


class Every:
    """True once t has reached another multiple of `interval`; with `at_once`, at the first call, too."""

    def __init__(self, interval: int, at_once: bool = False) -> None:
        self.interval = interval
        self.last: int | None = None if at_once else 0  # when it was done last

    def __call__(self, t: int) -> bool:
        if not self.due(t):
            return False
        self.done(t)
        return True

    def due(self, t: int) -> bool:
        """What a call would say, without counting it."""
        return self.last is None or t // self.interval > self.last // self.interval

    def done(self, t: int) -> None:
        """Counts what was due at t."""
        self.last = t

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The interval may be another one now; what it makes due is due at once."""
        self.last = state["last"]


class UpdateSchedule:
    """How many updates the experience collected so far pays for, whatever the size of the rollouts it came in.

    env_steps_per_update: an int k for floor(steps / k) updates in all, where steps are those collected since the buffer
    could first be sampled; or "episode" for one update for each episode; or "batch" for one update for each batch_size
    episodes, which are then new (on-policy).
    """

    def __init__(self, env_steps_per_update: int | str, batch_size: int) -> None:
        self.every = env_steps_per_update
        self.batch_size = batch_size
        self.episodes = 0  # not yet trained on, where batches are to be new
        self.ready = False
        self.steps = 0  # not yet paid for

    def due(self, steps: int, episodes: int, can_sample: bool) -> int:
        """Updates due after a rollout of so many steps and episodes; call it once for each rollout."""
        if self.every == "batch":
            self.episodes += episodes
            updates, self.episodes = divmod(self.episodes, self.batch_size)
            return updates
        if not can_sample:
            return 0
        if isinstance(self.every, str):
            return episodes
        if self.ready:
            self.steps += steps
        self.ready = True
        updates, self.steps = divmod(self.steps, self.every)
        return updates

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.episodes, "ready": self.ready, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes, self.steps = int(state["episodes"]), int(state["steps"])
        self.ready = bool(state["ready"])

    def __str__(self) -> str:
        if self.every == "batch":
            return f"one update for every {self.batch_size} episodes, which are new"
        if isinstance(self.every, str):
            return "one update for each episode"
        return f"one update for every {self.every} environment steps"
