"""From an agent's outputs (B, N, A) to actions (B, N), int64. A row with nothing available gets the no-op, action 0.

Actions are chosen in numpy: they are for environments, on the CPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th

from components.epsilon_schedules import DecayThenFlatSchedule

Array = np.ndarray[Any, np.dtype[Any]]


class ActionSelector:
    """`choose` in numpy is what a selector does; `select_action` is upstream's form of it, for tensors.

    Random numbers come from a stream of the selector's own, which is cheaper than torch's where few are drawn at a
    time. `begin` ends it, and the next draw begins another with a seed from torch's: between two rollouts torch's
    generator is all there is to save.
    """

    _stream: np.random.Generator | None = None

    def begin(self) -> None:
        """Episodes begin."""
        self._stream = None

    @property
    def random(self) -> np.random.Generator:
        if self._stream is None:
            self._stream = np.random.default_rng(int(th.randint(2**62, ())))
        return self._stream

    def choose(self, outputs: Array, avail: Array, t_env: int, test_mode: bool = False) -> Array:
        """Outputs and masks (B, N, A) -> actions (B, N)."""
        raise NotImplementedError

    def select_action(
        self, agent_inputs: th.Tensor, avail_actions: th.Tensor, t_env: int, test_mode: bool = False
    ) -> th.Tensor:
        """On any device; the actions are on the CPU."""
        self.begin()  # who calls this may not know of it
        outputs, avail = agent_inputs.numpy(force=True), avail_actions.numpy(force=True)
        return th.from_numpy(self.choose(outputs, avail, t_env, test_mode))


class EpsilonGreedyActionSelector(ActionSelector):
    """The best available action by its value, or with probability epsilon any available one.

    `epsilon` is the rate used last in training. In test mode the rate is `evaluation_epsilon`; at 0 nothing random is
    drawn, so testing leaves the random stream of the training as it is.
    """

    def __init__(self, args: SimpleNamespace) -> None:
        self.schedule = DecayThenFlatSchedule(args.epsilon_start, args.epsilon_finish, args.epsilon_anneal_time)
        self.evaluation_epsilon = args.evaluation_epsilon
        self.epsilon = self.schedule.eval(0)

    def choose(self, outputs: Array, avail: Array, t_env: int, test_mode: bool = False) -> Array:
        if test_mode:
            epsilon = self.evaluation_epsilon
        else:
            epsilon = self.epsilon = self.schedule.eval(t_env)
        if epsilon > 0:
            # One uniform number an action: its argmax over the available ones is a uniform choice among them. And one
            # that decides whether to explore.
            draws = self.random.random((*outputs.shape[:-1], outputs.shape[-1] + 1), dtype=np.float32)
            outputs = np.where(draws[..., -1:] < epsilon, draws[..., :-1], outputs)
        return np.where(avail, outputs, -np.inf).argmax(-1)


class MultinomialActionSelector(ActionSelector):
    """Samples from probabilities; in test mode takes the most probable action where `test_greedy` is set."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.test_greedy = args.test_greedy

    def choose(self, outputs: Array, avail: Array, t_env: int, test_mode: bool = False) -> Array:
        rates = outputs
        if not (test_mode and self.test_greedy):
            # The first of A exponential clocks with these rates rings at action a with probability p_a / sum(p). A draw
            # may be 0.
            draws = self.random.standard_exponential(outputs.shape, dtype=np.float32)
            rates = outputs / np.maximum(draws, np.finfo(np.float32).tiny)
        return np.where(avail, rates, -1).argmax(-1)


class SoftPoliciesSelector(MultinomialActionSelector):
    """Samples from probabilities, in test mode too."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.test_greedy = False


REGISTRY: dict[str, Any] = {
    "epsilon_greedy": EpsilonGreedyActionSelector,
    "multinomial": MultinomialActionSelector,
    "soft_policies": SoftPoliciesSelector,
}
