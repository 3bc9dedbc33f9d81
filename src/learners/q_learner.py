"""Deep Q-learning for several agents: independent (IQL, mixer null), VDN and QMIX, with double Q and Q(lambda).

Shapes: B episodes, T steps (the last only to bootstrap), N agents, A actions; C is 1 with a mixer, else N.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch as th

from components.episode_buffer import EpisodeBatch, Scheme
from components.running_stats import RunningStats
from controllers.basic_controller import networks_of, unroll
from learners.learner import Learner
from learners.returns import q_lambda, transition_mask
from modules.mixers import REGISTRY as mixer_REGISTRY

_UNAVAILABLE = -1e7  # not -inf, which a mixer's zero weight would turn into NaN


class QLearner(Learner):
    def __init__(self, mac: Any, scheme: Scheme, logger: Any, args: SimpleNamespace) -> None:
        super().__init__(mac, logger, args)
        self.mixer: Any = None
        if args.mixer is not None:
            if not args.common_reward:
                raise ValueError(f"mixer: {args.mixer} needs common_reward: true (one reward for the whole team)")
            if args.mixer not in mixer_REGISTRY:
                raise ValueError(f"unknown mixer {args.mixer!r}; there are null, {', '.join(sorted(mixer_REGISTRY))}")
            self.mixer = mixer_REGISTRY[args.mixer](args)
        # A second copy of everything with weights gives the targets.
        self.target_mac = copy.deepcopy(mac)
        self.target_mixer = copy.deepcopy(self.mixer)
        self.params = list(mac.parameters()) + (list(self.mixer.parameters()) if self.mixer is not None else [])
        self.optimiser = th.optim.Adam(self.params, lr=args.lr, fused=True)
        self.return_stats = None
        if args.standardise_returns:
            self.return_stats = RunningStats((args.n_agents if self.mixer is None else 1,))

    def train(self, batch: EpisodeBatch, t_env: int, episode_num: int) -> None:
        """One optimisation step on a batch of episodes."""
        # 1. Values of the actions taken, and 2. their targets
        chosen, targets, mask = self.values(batch)

        # 3. Squared error over the transitions
        weight = mask.expand_as(chosen)
        td_error = (chosen - targets) * weight
        total = weight.sum()
        loss = td_error.square().sum() / total

        # 4. One optimisation step, then the targets
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = th.nn.utils.clip_grad_norm_(self.params, self.args.grad_norm_clip, foreach=True)
        if not self.guard({"td": loss}, {"agent and mixer": grad_norm}):
            return
        self.optimiser.step()
        self.training_steps += 1
        self._update_targets()

        # 5. Metrics
        if t_env - self.last_log_t >= self.args.learner_log_interval:
            self.last_log_t = t_env
            per_agent = total * self.args.n_agents  # as upstream, also without a mixer, where the total is over agents
            self.logger.log_stat("loss", loss.item(), t_env)
            self.logger.log_stat("grad_norm", grad_norm.item(), t_env)
            self.logger.log_stat("td_error_abs", (td_error.abs().sum() / total).item(), t_env)
            self.logger.log_stat("q_taken_mean", ((chosen * weight).sum() / per_agent).item(), t_env)
            self.logger.log_stat("target_mean", ((targets * weight).sum() / per_agent).item(), t_env)

    def values(self, batch: EpisodeBatch) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Values of the actions taken and their targets (B, T-1, C), and the mask (B, T-1, 1) of the transitions that
        are learnt from, those of a burn-in left out."""
        mask = learnt = transition_mask(batch["filled"])
        if "burn_in" in batch.scheme:
            learnt = mask * (1 - batch["burn_in"][:, :-1].float())
        q = unroll(self.mac, batch)  # (B, T, N, A)
        chosen = q[:, :-1].gather(3, batch["actions"][:, :-1]).squeeze(3)  # (B, T-1, N)
        if self.mixer is not None:
            chosen = self.mixer(chosen, batch["state"][:, :-1])
        with th.no_grad():
            targets = self._targets(batch, q, mask, learnt)
        return chosen, targets, learnt

    def _targets(self, batch: EpisodeBatch, q: th.Tensor, mask: th.Tensor, learnt: th.Tensor) -> th.Tensor:
        unavailable = batch["avail_actions"][:, 1:] == 0
        target_q = unroll(self.target_mac, batch)[:, 1:]  # (B, T-1, N, A)
        judge = q[:, 1:] if self.args.double_q else target_q
        best = judge.masked_fill(unavailable, _UNAVAILABLE).argmax(3, keepdim=True)
        values = target_q.gather(3, best).squeeze(3)  # (B, T-1, N)
        if self.target_mixer is not None:
            values = self.target_mixer(values, batch["state"][:, 1:])
        if self.return_stats is not None:
            values = self.return_stats.denormalise(values)
        targets = q_lambda(
            batch["reward"][:, :-1], batch["terminated"][:, :-1], values, mask, self.args.gamma, self.args.td_lambda
        )
        if self.return_stats is not None:
            self.return_stats.update(targets, learnt)
            targets = self.return_stats.normalise(targets)
        return targets

    def _update_targets(self) -> None:
        interval = self.args.target_update_interval_or_tau
        if interval > 1:  # hard: a copy every so many updates
            if self.training_steps % interval == 0:
                self.target_mac.load_state(self.mac)
                if self.mixer is not None:
                    self.target_mixer.load_state_dict(self.mixer.state_dict())
            return
        online, target = self.params, list(self.target_mac.parameters())
        if self.target_mixer is not None:
            target += list(self.target_mixer.parameters())
        with th.no_grad():
            th._foreach_lerp_(target, online, interval)

    def cuda(self) -> None:
        super().cuda()
        self.target_mac.cuda()

    def networks(self) -> dict[str, th.nn.Module]:
        targets = {f"target_{name}": network for name, network in networks_of(self.target_mac).items()}
        networks = networks_of(self.mac) | targets
        return networks if self.mixer is None else {**networks, "mixer": self.mixer, "target_mixer": self.target_mixer}
