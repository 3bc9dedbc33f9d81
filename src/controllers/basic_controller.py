"""The multi-agent controller: builds each agent's own inputs, runs the agents and picks their actions.

Shapes: B episodes (b of them active), T steps, N agents, A actions, H hidden width, I input size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from torch.nn import functional as F

from components.action_selectors import REGISTRY as action_REGISTRY
from components.action_selectors import ActionSelector
from components.episode_buffer import EpisodeBatch, Scheme
from modules.agents import REGISTRY as agent_REGISTRY
from modules.agents.playing import Player, goes_with_forward, play, player_of, softmax

_ALL = slice(None)
STEP = ("_step", "_build_inputs")  # what forward is made of


def unroll(mac: Any, batch: EpisodeBatch) -> th.Tensor:
    """Any MAC's `unroll`: the agents' outputs (B, T, N, A). One of upstream's contract, or with a step of its own, goes
    step by step."""
    return mac.unroll(batch) if goes_with_forward(mac, "unroll", *STEP) else _step_by_step(mac, batch)


def log_policy(mac: Any, batch: EpisodeBatch) -> th.Tensor:
    """Any MAC's `log_policy`, (B, T, N, A); policies (pi_logits) only."""
    if any(goes_with_forward(mac, name, *STEP) for name in ("log_policy", "unroll")):
        return mac.log_policy(batch)
    return (_step_by_step(mac, batch) + 1e-10).log()  # 0 where an action is not available


def networks_of(mac: Any) -> dict[str, th.nn.Module]:
    """Everything with weights in any MAC, by the name of its attribute: its `agent`, and what a subclass has beside."""
    return {name: part for name, part in vars(mac).items() if isinstance(part, th.nn.Module)}


def weights_of(mac: Any) -> dict[str, th.Tensor]:
    """All tensors of any MAC's networks, by name."""
    networks = networks_of(mac).items()
    return {f"{name}.{key}": tensor for name, network in networks for key, tensor in network.state_dict().items()}


def _step_by_step(mac: Any, batch: EpisodeBatch) -> th.Tensor:
    mac.init_hidden(batch.batch_size)
    return th.stack([mac.forward(batch, t) for t in range(batch.max_seq_length)], 1)


class BasicMAC:
    """An agent's input is its observation, its last action (obs_last_action) and its number (obs_agent_id).

    The batch may be on another device than the agents: what a step needs is moved. A subclass may change `forward`,
    `_build_inputs`, `_get_input_shape` or `_build_agents`, as upstream's may: it then acts and learns step by step. One
    with networks beside `agent` has `parameters`, `load_state`, `cuda`, `save_models` and `load_models` of its own.
    """

    def __init__(self, scheme: Scheme, groups: Mapping[str, int], args: SimpleNamespace) -> None:
        self.args = args
        self.n_agents = args.n_agents
        self.n_actions = args.n_actions
        self.agent_output_type = args.agent_output_type
        self._build_agents(self._get_input_shape(scheme))
        self.action_selector = action_REGISTRY[args.action_selector](args)
        self.hidden_states: Any = None  # (B, N, H), of the episodes being acted in; after forward (B N, H)
        self.device = "cpu"
        self._ids = th.eye(self.n_agents)
        self._player: Player | None = None  # of the episodes being played; None: the agent plays in torch

    def select_actions(
        self, ep_batch: EpisodeBatch, t_ep: int, t_env: int, bs: Any = _ALL, test_mode: bool = False
    ) -> th.Tensor:
        """Actions (b, N), int64, of the episodes `bs` (all, or an index tensor); the others are not computed."""
        rows = bs if isinstance(bs, slice) else np.asarray(bs)
        avail = ep_batch.numpy("avail_actions")[rows, t_ep]
        if self._player is None:
            ours = goes_with_forward(self, *STEP)
            with th.inference_mode():
                step = self._step(ep_batch, t_ep, bs) if ours else self.forward(ep_batch, t_ep, test_mode=test_mode)[bs]
            outputs = step.numpy(force=True)
        else:
            outputs = play(self._player, ep_batch, t_ep, rows, self.hidden_states, self.args)
            if self.agent_output_type != "q":
                logits = np.where(avail, outputs, np.float32(-1e10)) if self.args.mask_before_softmax else outputs
                outputs = softmax(logits)
        selector = self.action_selector
        if isinstance(selector, ActionSelector):
            return th.from_numpy(selector.choose(outputs, avail, t_env, test_mode=test_mode))
        return selector.select_action(th.from_numpy(outputs), th.from_numpy(avail), t_env, test_mode=test_mode)

    def forward(self, ep_batch: EpisodeBatch, t: int, test_mode: bool = False) -> th.Tensor:
        """One step of all episodes: outputs (B, N, A); `hidden_states` moves on, and is then (B N, H), as learners of
        upstream read it (QTRAN)."""
        outputs = self._step(ep_batch, t, _ALL)
        self.hidden_states = self.hidden_states.flatten(0, 1)
        return outputs

    def unroll(self, batch: EpisodeBatch) -> th.Tensor:
        """All steps of all episodes, from the agent's initial hidden state: the agents' outputs (B, T, N, A)."""
        inputs = self.inputs(batch)
        if goes_with_forward(self.agent, "unroll"):
            return self.agent.unroll(inputs)[0]
        hidden = self.agent.init_hidden().expand(batch.batch_size, self.n_agents, -1).flatten(0, 1)
        steps = []
        for step in inputs.unbind(1):  # (B, N, I)
            outputs, hidden = self.agent(step.flatten(0, 1), hidden)
            steps.append(outputs.unflatten(0, (-1, self.n_agents)))
        return th.stack(steps, 1)

    def log_policy(self, batch: EpisodeBatch) -> th.Tensor:
        """Log-probabilities of all actions at all steps, (B, T, N, A); policies (pi_logits) only."""
        return self._logits(self.unroll(batch), batch["avail_actions"]).log_softmax(-1)

    def inputs(self, batch: EpisodeBatch) -> th.Tensor:
        """The agents' inputs at all steps, (B, T, N, I)."""
        obs = batch["obs"]
        parts = [obs]
        if self.args.obs_last_action:
            parts.append(F.pad(batch["actions_onehot"][:, :-1], (0, 0, 0, 0, 1, 0)))
        if self.args.obs_agent_id:
            parts.append(self._ids.expand(*obs.shape[:2], -1, -1))
        return th.cat(parts, -1) if len(parts) > 1 else obs

    def init_hidden(self, batch_size: int) -> None:
        self.hidden_states = self.agent.init_hidden().expand(batch_size, self.n_agents, -1).contiguous()
        if isinstance(self.action_selector, ActionSelector):  # others have upstream's select_action alone
            self.action_selector.begin()
        # A controller with a step of its own is not to be played by ours.
        ours = all(getattr(type(self), name) is getattr(BasicMAC, name) for name in ("forward", *STEP))
        self._player = player_of(self.agent, self.hidden_states) if ours else None

    def _step(self, batch: EpisodeBatch, t: int, bs: Any) -> th.Tensor:
        everyone = isinstance(bs, slice) and bs == _ALL
        states = self.hidden_states.view(-1, self.n_agents, self.hidden_states.shape[-1])
        hidden = states if everyone else states[bs]
        inputs = self._build_inputs(batch, t) if everyone else self._build_inputs(batch, t, bs)
        outputs, hidden = self.agent(inputs, hidden.flatten(0, 1))
        hidden = hidden.view(-1, self.n_agents, hidden.shape[-1])
        if everyone:
            self.hidden_states = hidden
        else:
            states[bs] = hidden
        outputs = outputs.view(len(hidden), self.n_agents, -1)
        if self.agent_output_type == "q":
            return outputs
        return self._logits(outputs, self._at(batch["avail_actions"], t, bs)).softmax(-1)

    def _build_inputs(self, batch: EpisodeBatch, t: int, bs: Any = _ALL) -> th.Tensor:
        """The agents' inputs at one step, (b*N, I)."""
        obs = self._at(batch["obs"], t, bs)
        parts = [obs]
        if self.args.obs_last_action:
            parts.append(self._last_actions(batch, t, bs, obs))
        if self.args.obs_agent_id:
            parts.append(self._ids.expand(len(obs), -1, -1))
        return (th.cat(parts, -1) if len(parts) > 1 else obs).flatten(0, 1)

    def _logits(self, outputs: th.Tensor, avail: th.Tensor) -> th.Tensor:
        return outputs.masked_fill(avail == 0, -1e10) if self.args.mask_before_softmax else outputs

    def _last_actions(self, batch: EpisodeBatch, t: int, bs: Any, obs: th.Tensor) -> th.Tensor:
        one_hot = obs.new_zeros(len(obs), self.n_agents, self.n_actions)
        return one_hot if t == 0 else one_hot.scatter_(-1, self._at(batch["actions"], t - 1, bs), 1.0)

    def _at(self, field: th.Tensor, t: int, bs: Any) -> th.Tensor:
        step = field.select(1, t)
        if not (isinstance(bs, slice) and bs == _ALL):
            step = step[bs]
        return step if self.device == "cpu" else step.to(self.device, non_blocking=True)

    def _build_agents(self, input_shape: int) -> None:
        self.agent = agent_REGISTRY[self.args.agent](input_shape, self.args)

    def _get_input_shape(self, scheme: Scheme) -> int:
        size = scheme["obs"]["vshape"]
        if self.args.obs_last_action:
            size += self.n_actions
        return size + self.n_agents if self.args.obs_agent_id else size

    def parameters(self) -> Iterator[th.nn.Parameter]:
        return self.agent.parameters()

    def load_state(self, other_mac: BasicMAC) -> None:
        self.agent.load_state_dict(other_mac.agent.state_dict())

    def cuda(self) -> None:
        self.agent.cuda()
        self.device = "cuda"
        self._ids = self._ids.cuda()

    def save_models(self, path: str | Path) -> None:
        th.save(self.agent.state_dict(), Path(path) / "agent.th")

    def load_models(self, path: str | Path) -> None:
        self.agent.load_state_dict(th.load(Path(path) / "agent.th", map_location=self.device, weights_only=True))
