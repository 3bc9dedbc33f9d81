"""The exploration rate as a function of the environment step."""

from __future__ import annotations


class DecayThenFlatSchedule:
    """In a straight line from `start` to `finish` within `time_length` environment steps, then flat.

    A time_length of 0 is flat at `finish` from the first step.
    """

    def __init__(self, start: float, finish: float, time_length: int) -> None:
        self.start, self.finish, self.time_length = start, finish, time_length

    def eval(self, t: int) -> float:
        if t >= self.time_length:
            return self.finish
        return self.start + max(t, 0) / self.time_length * (self.finish - self.start)
