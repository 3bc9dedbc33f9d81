"""Proximal policy optimisation for several agents: MAPPO with a central critic, IPPO with each agent's own.

With one epoch the ratios are 1 and nothing is clipped: advantage actor-critic (MAA2C, IA2C).
Sources: PPO (Schulman et al., 2017, arXiv 1707.06347), MAPPO (Yu et al., NeurIPS 2022), IPPO (de Witt et al., 2020).

Shapes: B episodes, T steps (the last only to bootstrap), N agents, A actions.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch as th
from torch.nn.utils import clip_grad_norm_

from components.episode_buffer import EpisodeBatch, Scheme
from components.running_stats import RunningStats
from controllers.basic_controller import log_policy, networks_of
from learners.learner import Learner
from learners.returns import n_step, transition_mask
from modules.critics import REGISTRY as critic_REGISTRY


class PPOLearner(Learner):
    """Trains on episodes that the present policy has just played; each call of `train` makes `epochs` steps on them."""

    def __init__(self, mac: Any, scheme: Scheme, logger: Any, args: SimpleNamespace) -> None:
        super().__init__(mac, logger, args)
        if args.critic_type not in critic_REGISTRY:
            raise ValueError(
                f"unknown critic_type {args.critic_type!r}; there are {', '.join(sorted(critic_REGISTRY))}"
            )
        self.critic = critic_REGISTRY[args.critic_type](scheme, args)
        self.target_critic = copy.deepcopy(self.critic)
        self.agent_params, self.critic_params = list(mac.parameters()), list(self.critic.parameters())
        self.optimiser = th.optim.Adam([*self.agent_params, *self.critic_params], lr=args.lr, fused=True)
        self.return_stats = RunningStats((args.n_agents,)) if args.standardise_returns else None

    def train(self, batch: EpisodeBatch, t_env: int, episode_num: int) -> None:
        """`epochs` optimisation steps on a batch of fresh episodes."""
        args = self.args
        mask = transition_mask(batch["filled"])  # (B, T-1, 1)
        weight = mask.expand(-1, -1, args.n_agents)
        weight = weight / weight.sum()  # sums with it are means over agents and transitions
        played = batch[:, :-1]
        actions = played["actions"]

        # 1. n-step returns, by the target critic
        with th.no_grad():
            returns = self._returns(batch, mask)  # (B, T-1, N)

        old_log_pi: th.Tensor | None = None
        steps_before = self.training_steps
        for _ in range(args.epochs):
            # 2. Policy: the clipped surrogate, and the entropy
            log_probs = log_policy(self.mac, played)  # (B, T-1, N, A)
            probs = log_probs.exp()
            log_pi = log_probs.gather(3, actions).squeeze(3)  # (B, T-1, N)
            if old_log_pi is None:  # the policy that played is the one before the first step
                old_log_pi = log_pi.detach()
            values = self.critic(played)  # (B, T-1, N)
            td_error = returns - values
            advantage = td_error.detach()
            log_ratio = log_pi - old_log_pi
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - args.eps_clip, 1 + args.eps_clip)
            entropy = -(probs * log_probs).sum(-1)
            gain = th.min(ratio * advantage, clipped * advantage)
            pg_loss = -((gain + args.entropy_coef * entropy) * weight).sum()

            # 3. Critic: squared distance from the returns
            critic_loss = (td_error.square() * weight).sum()

            # 4. One step of both, each with a gradient clip of its own
            self.optimiser.zero_grad(set_to_none=True)
            (pg_loss + critic_loss).backward()
            agent_norm = clip_grad_norm_(self.agent_params, args.grad_norm_clip, foreach=True)
            critic_norm = clip_grad_norm_(self.critic_params, args.grad_norm_clip, foreach=True)
            losses = {"policy": pg_loss, "critic": critic_loss}
            taken = self.guard(losses, {"the policy": agent_norm, "the critic": critic_norm})
            if not taken:
                break
            self.optimiser.step()
            self.training_steps += 1
        self._update_target(steps_before)

        # 5. Metrics, of the last epoch
        if not taken or t_env - self.last_log_t < args.learner_log_interval:
            return
        self.last_log_t = t_env
        with th.no_grad():
            off = ratio - 1
            metrics = {
                "critic_loss": critic_loss,
                "critic_grad_norm": critic_norm,
                "td_error_abs": (td_error.abs() * weight).sum(),
                "q_taken_mean": (values * weight).sum(),
                "target_mean": (returns * weight).sum(),
                "advantage_mean": (advantage * weight).sum(),
                "pg_loss": pg_loss,
                "agent_grad_norm": agent_norm,
                "pi_max": (probs.amax(-1) * weight).sum(),
                "entropy": (entropy * weight).sum(),
                "clipped_share": ((off.abs() > args.eps_clip) * weight).sum(),
                "approx_kl": ((off - log_ratio) * weight).sum(),
            }
        for name, metric in metrics.items():
            self.logger.log_stat(name, metric.item(), t_env)

    def _returns(self, batch: EpisodeBatch, mask: th.Tensor) -> th.Tensor:
        values = self.target_critic(batch)  # (B, T, N)
        if self.return_stats is not None:
            values = self.return_stats.denormalise(values)
        rewards = batch["reward"][:, :-1].expand(-1, -1, self.args.n_agents)
        returns = n_step(rewards, batch["terminated"][:, :-1], values, mask, self.args.gamma, self.args.q_nstep)
        if self.return_stats is not None:
            self.return_stats.update(returns, mask)
            returns = self.return_stats.normalise(returns)
        return returns

    @th.no_grad()
    def _update_target(self, steps_before: int) -> None:
        """Moves the target critic, once a batch; not where the guard left out every epoch."""
        if self.training_steps == steps_before:
            return
        interval = self.args.target_update_interval_or_tau
        if interval > 1:  # hard: a copy every so many batches, in steps, since the guard may leave epochs out
            every = interval * self.args.epochs
            if self.training_steps // every > steps_before // every:
                self.target_critic.load_state_dict(self.critic.state_dict())
        else:
            th._foreach_lerp_(list(self.target_critic.parameters()), self.critic_params, interval)

    def networks(self) -> dict[str, th.nn.Module]:
        return {**networks_of(self.mac), "critic": self.critic, "target_critic": self.target_critic}
