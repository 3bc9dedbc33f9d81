"""From an agent's outputs (B, N, A) to actions (B, N), int64. A row with nothing available gets the no-op, action 0."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch as th

from components.epsilon_schedules import DecayThenFlatSchedule


class EpsilonGreedyActionSelector:
    """The best available action by its value, or with probability epsilon any available one.

    `epsilon` is the rate used last in training. In test mode the rate is `evaluation_epsilon`; at 0 nothing random is
    drawn, so testing leaves the random stream of the training as it is.
    """

    def __init__(self, args: SimpleNamespace) -> None:
        self.schedule = DecayThenFlatSchedule(args.epsilon_start, args.epsilon_finish, args.epsilon_anneal_time)
        self.evaluation_epsilon = args.evaluation_epsilon
        self.epsilon = self.schedule.eval(0)

    def select_action(
        self, agent_inputs: th.Tensor, avail_actions: th.Tensor, t_env: int, test_mode: bool = False
    ) -> th.Tensor:
        if test_mode:
            epsilon = self.evaluation_epsilon
        else:
            epsilon = self.epsilon = self.schedule.eval(t_env)
        values = agent_inputs
        if epsilon > 0:
            # One uniform number an action: its argmax over the available ones is a uniform choice among them.
            noise = th.rand_like(values)
            explore = th.rand_like(values[..., :1]) < epsilon
            values = th.where(explore, noise, values)
        return values.masked_fill(avail_actions == 0, -th.inf).argmax(-1)


class MultinomialActionSelector:
    """Samples from probabilities; in test mode takes the most probable action where `test_greedy` is set."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.test_greedy = args.test_greedy

    def select_action(
        self, agent_inputs: th.Tensor, avail_actions: th.Tensor, t_env: int, test_mode: bool = False
    ) -> th.Tensor:
        probabilities = agent_inputs.masked_fill(avail_actions == 0, 0.0)
        if test_mode and self.test_greedy:
            return probabilities.argmax(-1)
        # The first of A exponential clocks with these rates rings at action a with probability p_a / sum(p).
        return (probabilities / th.empty_like(probabilities).exponential_()).argmax(-1)


class SoftPoliciesSelector(MultinomialActionSelector):
    """Samples from probabilities, in test mode too."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.test_greedy = False


REGISTRY: dict[str, Any] = {
    "epsilon_greedy": EpsilonGreedyActionSelector,
    "multinomial": MultinomialActionSelector,
    "soft_policies": SoftPoliciesSelector,
}
