"""The exploration rate as a function of the environment step."""

from __future__ import annotations

import math


class DecayThenFlatSchedule:
    """From `start` to `finish` within `time_length` environment steps, then flat.

    `linear` goes straight; `exp` goes as start * (finish / start) ** (t / time_length), where both must be positive.
    A time_length of 0 is flat at `finish` from the first step.
    """

    def __init__(self, start: float, finish: float, time_length: int, decay: str = "linear") -> None:
        if decay not in ("linear", "exp"):
            raise ValueError(f"decay must be 'linear' or 'exp', not {decay!r}")
        if decay == "exp" and min(start, finish) <= 0:
            raise ValueError(f"an exponential decay needs a positive start and finish, not {start} and {finish}")
        self.start, self.finish, self.time_length, self.decay = start, finish, time_length, decay

    def eval(self, t: int) -> float:
        if t >= self.time_length:
            return self.finish
        share = max(t, 0) / self.time_length
        if self.decay == "linear":
            return self.start + share * (self.finish - self.start)
        return self.start * math.exp(share * math.log(self.finish / self.start))
