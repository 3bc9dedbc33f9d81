from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th

from components.random_state import RandomState


def test_what_was_drawn_next_is_drawn_again() -> None:
    """By each of the generators, which for normal numbers hold back the second one of a pair."""

    def draw() -> list[Any]:
        normal = [random.gauss(0, 1), np.random.standard_normal(), th.randn(()).item()]
        return [*normal, random.random(), np.random.random(), th.rand(()).item()]

    draw()
    state = RandomState().state_dict()
    drawn = [draw() for _ in range(2)]
    draw()
    RandomState().load_state_dict(state)
    assert [draw() for _ in range(2)] == drawn
