from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from support.batches import random_batch
from support.settings import args, scheme_of

from components.episode_buffer import complete_scheme
from controllers import REGISTRY
from controllers.basic_controller import BasicMAC, log_policy, unroll

LENGTHS, ENDS = [6, 4, 5, 6], [True] * 4


def build(seed: int = 0, name: str = "basic_mac", **changes: Any) -> tuple[Any, Any]:
    a = args(hidden_dim=16, **changes)
    scheme, groups, preprocess = scheme_of(a)
    th.manual_seed(seed)
    return REGISTRY[name](complete_scheme(scheme, preprocess), groups, a), a


@pytest.mark.parametrize("obs_last_action", [False, True])
@pytest.mark.parametrize("obs_agent_id", [False, True])
@pytest.mark.parametrize("name", ["basic_mac", "non_shared_mac"])
def test_unroll_equals_step_by_step(name: str, obs_agent_id: bool, obs_last_action: bool) -> None:
    agent = "rnn" if name == "basic_mac" else "rnn_ns"
    mac, a = build(name=name, agent=agent, obs_agent_id=obs_agent_id, obs_last_action=obs_last_action)
    batch = random_batch(a, LENGTHS, ENDS)
    q = mac.unroll(batch)
    mac.init_hidden(4)
    for t in range(batch.max_seq_length):
        step = mac.forward(batch, t)
        assert step.shape == (4, 3, 5)
        th.testing.assert_close(step, q[:, t], rtol=1e-5, atol=1e-6)
    assert mac.hidden_states.shape == (12, 16)


def test_hidden_states_are_stacked_by_a_learner_as_upstreams_are() -> None:
    """QTRAN's learner reads mac.hidden_states after each forward, as rows of agents."""
    mac, a = build(agent="rnn")
    batch = random_batch(a, LENGTHS, ENDS)
    mac.init_hidden(4)
    seen = []
    for t in range(batch.max_seq_length):
        mac.forward(batch, t)
        seen.append(mac.hidden_states)
    rows = th.stack(seen, 1).unflatten(0, (4, 3))  # (B, N, T, H)
    inputs = mac.inputs(batch).transpose(1, 2)  # (B, N, T, I)
    for b in range(4):
        for n in range(3):
            hidden = mac.agent.init_hidden()
            for t in range(batch.max_seq_length):
                _, hidden = mac.agent(inputs[b, n, t : t + 1], hidden)
                th.testing.assert_close(rows[b, n, t], hidden.view(-1), rtol=1e-5, atol=1e-6)


def test_inputs_are_observation_last_action_and_number() -> None:
    mac, a = build(obs_last_action=True)
    batch = random_batch(a, LENGTHS, ENDS)
    x = mac.inputs(batch)
    assert x.shape == (4, 7, 3, 6 + 5 + 3)
    assert th.equal(x[..., :6], batch["obs"])
    assert not x[:, 0, :, 6:11].any() and th.equal(x[:, 1:, :, 6:11], batch["actions_onehot"][:, :-1])
    assert th.equal(x[2, 3, :, 11:], th.eye(3))


def test_actions_are_greedy_in_the_values_of_the_unroll() -> None:
    mac, a = build(obs_last_action=True)
    batch = random_batch(a, LENGTHS, ENDS)
    best = mac.unroll(batch).masked_fill(batch["avail_actions"] == 0, -th.inf).argmax(-1)
    mac.init_hidden(4)
    for t in range(4):
        actions = mac.select_actions(batch, t, 0, test_mode=True)
        assert actions.dtype == th.int64 and th.equal(actions, best[:, t])


def test_only_active_environments_are_computed() -> None:
    mac, a = build(obs_last_action=True)
    batch = random_batch(a, LENGTHS, ENDS)
    best = mac.unroll(batch).masked_fill(batch["avail_actions"] == 0, -th.inf).argmax(-1)
    rows = []
    player = mac.agent.player()
    mac.agent.player = lambda: lambda x, h: (rows.append(len(x)), player(x, h))[1]
    mac.init_hidden(4)
    for t, active in enumerate(([0, 1, 2, 3], [0, 1, 3], [1, 3], [3])):
        bs: Any = slice(None) if len(active) == 4 else th.tensor(active)
        before = mac.hidden_states.clone()
        actions = mac.select_actions(batch, t, 0, bs=bs, test_mode=True)
        assert th.equal(actions, best[active, t])
        idle = [i for i in range(4) if i not in active]
        assert th.equal(mac.hidden_states[idle], before[idle])
    assert rows == [12, 9, 6, 3]


@pytest.mark.parametrize("policy", [False, True])
@pytest.mark.parametrize("use_rnn", [False, True])
@pytest.mark.parametrize("name", ["basic_mac", "non_shared_mac"])
def test_playing_in_compiled_loops_is_playing_in_torch(
    name: str, use_rnn: bool, policy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: Any = {"agent_output_type": "pi_logits", "action_selector": "multinomial"} if policy else {}
    agent = "rnn" if name == "basic_mac" else "rnn_ns"
    mac, a = build(name=name, agent=agent, use_rnn=use_rnn, obs_last_action=True, **changes)
    batch = random_batch(a, LENGTHS, ENDS)
    seen: list[Any] = []
    mac.action_selector.choose = lambda outputs, avail, *_, **__: (seen.append((outputs, avail)), outputs.argmax(-1))[1]
    for runs in (True, False):
        monkeypatch.setattr("modules.compiled.runs", lambda x, runs=runs: runs)
        mac.init_hidden(4)
        assert (mac._player is not None) == runs
        for t, active in enumerate(([0, 1, 2, 3], [0, 1, 3], [3])):
            mac.select_actions(batch, t, 0, bs=slice(None) if len(active) == 4 else th.tensor(active))
        seen.append(mac.hidden_states.numpy())
    for ours, torchs in zip(seen[:3], seen[4:7], strict=True):
        np.testing.assert_allclose(ours[0], torchs[0], rtol=1e-5, atol=1e-6)
        assert np.array_equal(ours[1], torchs[1])
    np.testing.assert_allclose(seen[3], seen[7], rtol=1e-5, atol=1e-6)


def test_agents_and_controllers_of_others_play_by_their_own_steps() -> None:
    mac, a = build()
    batch = random_batch(a, LENGTHS, ENDS)
    worst = mac.unroll(batch).masked_fill(batch["avail_actions"] == 0, th.inf).argmin(-1)

    class Contrary(type(mac.agent)):  # type: ignore[misc]
        def forward(self, x: th.Tensor, h: th.Tensor) -> Any:
            q, h = super().forward(x, h)
            return -q, h

    class Bare:
        init_hidden, __call__ = mac.agent.init_hidden, staticmethod(lambda x, h: Contrary.forward(mac_agent, x, h))

    class ContraryMAC(type(mac)):  # type: ignore[misc]
        def _step(self, *what: Any) -> th.Tensor:
            return -super()._step(*what)

    mac_agent = copy.deepcopy(mac.agent)
    mac_agent.__class__ = Contrary
    for change in ({"agent": mac_agent}, {"agent": Bare()}, {"__class__": ContraryMAC}):
        other = copy.copy(mac)
        for name, value in change.items():
            setattr(other, name, value)
        other.init_hidden(4)
        for t in range(3):
            assert th.equal(other.select_actions(batch, t, 0, test_mode=True), worst[:, t])


def test_agents_of_others_are_trained_by_their_own_steps() -> None:
    mac, a = build(obs_last_action=True)
    batch = random_batch(a, LENGTHS, ENDS)

    class Doubled(type(mac.agent)):  # type: ignore[misc]
        def forward(self, x: th.Tensor, h: th.Tensor) -> Any:
            q, h = super().forward(x, h)
            return 2 * q, h

    class Bare(th.nn.Module):  # upstream's contract
        def __init__(self, agent: Any) -> None:
            super().__init__()
            self.inner, self.init_hidden = agent, agent.init_hidden

        def forward(self, x: th.Tensor, h: th.Tensor) -> Any:
            return self.inner(x, h)

    agent, q = mac.agent, mac.unroll(batch).detach()
    mac.agent = Bare(agent)
    th.testing.assert_close(mac.unroll(batch).detach(), q, rtol=1e-5, atol=1e-6)
    mac.unroll(batch).sum().backward()
    assert all(p.grad is not None for p in mac.parameters())
    agent.__class__ = Doubled
    mac.agent = agent
    th.testing.assert_close(mac.unroll(batch).detach(), 2 * q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", [False, True])
@pytest.mark.parametrize("change", ["forward", "_build_inputs", "_get_input_shape"])
def test_controllers_of_others_act_and_learn_as_they_say(change: str, policy: bool) -> None:
    """Subclasses as they are written for upstream: what forward returns decides the action, and is what is trained."""

    class Theirs(BasicMAC):
        if change == "forward":

            def forward(self, ep_batch: Any, t: int, test_mode: bool = False) -> th.Tensor:
                inputs = self._build_inputs(ep_batch, t)
                outputs, self.hidden_states = self.agent(inputs, self.hidden_states)  # (B*N, H) from the first step on
                outputs = -outputs.view(ep_batch.batch_size, self.n_agents, -1)
                return outputs.softmax(-1) if policy else outputs

        if change != "forward":

            def _build_inputs(self, batch: Any, t: int) -> th.Tensor:  # type: ignore[override]
                inputs = super()._build_inputs(batch, t)
                if change == "_build_inputs":
                    return -inputs
                return th.cat([inputs, th.full((len(inputs), 1), float(t))], 1)

        if change == "_get_input_shape":

            def _get_input_shape(self, scheme: Any) -> int:
                return super()._get_input_shape(scheme) + 1

    changes: Any = {"agent_output_type": "pi_logits", "action_selector": "soft_policies"} if policy else {}
    a = args(hidden_dim=16, obs_last_action=True, **changes)
    scheme, groups, preprocess = scheme_of(a)
    mac = Theirs(complete_scheme(scheme, preprocess), groups, a)
    batch = random_batch(a, LENGTHS, ENDS)
    mac.init_hidden(4)
    outputs = th.stack([mac.forward(batch, t) for t in range(batch.max_seq_length)], 1).detach()
    trained = log_policy(mac, batch).exp() if policy else unroll(mac, batch)
    th.testing.assert_close(trained.detach(), outputs, rtol=1e-5, atol=1e-6)
    trained[..., 0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in mac.parameters())
    mac.init_hidden(4)
    seen: list[Any] = []
    mac.action_selector.choose = lambda outputs, *_, **__: (seen.append(outputs), outputs.argmax(-1))[1]
    for t, active in enumerate(([0, 1, 2, 3], [0, 1, 3], [3])):
        mac.select_actions(batch, t, 0, bs=slice(None) if len(active) == 4 else th.tensor(active))
        np.testing.assert_allclose(seen[t], outputs[active, t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("agent", "rows"), [("rnn", 1), ("rnn_ns", 3)])
def test_a_controller_with_upstreams_contract_alone_is_trained_by_its_forward(agent: str, rows: int) -> None:
    mac, a = build(agent=agent, obs_last_action=True)
    batch = random_batch(a, LENGTHS, ENDS)

    class Contract:
        def init_hidden(self, batch_size: int) -> None:
            """As upstream's: agents with a network each have a row each."""
            assert mac.agent.init_hidden().shape == (rows, 16)
            self.hidden_states = mac.agent.init_hidden().unsqueeze(0).expand(batch_size, -1 if rows > 1 else 3, -1)

        def forward(self, ep_batch: Any, t: int, test_mode: bool = False) -> th.Tensor:
            q, self.hidden_states = mac.agent(mac._build_inputs(ep_batch, t), self.hidden_states)
            return q.view(4, 3, -1)

    th.testing.assert_close(unroll(Contract(), batch), mac.unroll(batch), rtol=1e-5, atol=1e-6)


def test_a_selector_with_upstreams_form_alone() -> None:
    mac, a = build()

    class Last:
        def select_action(self, agent_inputs: th.Tensor, avail_actions: th.Tensor, t_env: int, test_mode: bool) -> Any:
            assert agent_inputs.shape == (4, 3, 5) and t_env == 7 and test_mode
            return 4 - avail_actions.flip(-1).argmax(-1)

    mac.action_selector = Last()
    batch = random_batch(a, LENGTHS, ENDS)
    mac.init_hidden(4)
    actions = mac.select_actions(batch, 0, 7, test_mode=True)
    last = [[max(a for a in range(5) if mask[a]) for mask in masks] for masks in batch["avail_actions"][:, 0].tolist()]
    assert actions.tolist() == last


def test_playing_follows_the_weights_of_the_moment() -> None:
    mac, a = build()
    other, _ = build(seed=5)
    batch = random_batch(a, LENGTHS, ENDS)
    best = other.unroll(batch).masked_fill(batch["avail_actions"] == 0, -th.inf).argmax(-1)
    mac.init_hidden(4)
    mac.load_state(other)
    assert th.equal(mac.select_actions(batch, 0, 0, test_mode=True), best[:, 0])


def test_a_rollout_is_repeated_by_torchs_seed() -> None:
    mac, a = build(epsilon_start=1.0, epsilon_finish=1.0)
    batch = random_batch(a, LENGTHS, ENDS)

    def rollout() -> list[Any]:
        mac.init_hidden(4)
        return [mac.select_actions(batch, t, 0).tolist() for t in range(5)]

    first = (th.manual_seed(3), rollout())[1]
    second = rollout()
    assert first != second and (th.manual_seed(3), rollout())[1] == first and len({str(chosen) for chosen in first}) > 1


def test_policies_are_probabilities_over_available_actions() -> None:
    mac, a = build(agent_output_type="pi_logits", action_selector="multinomial")
    batch = random_batch(a, LENGTHS, ENDS)
    mac.init_hidden(4)
    p = mac.forward(batch, 0)
    th.testing.assert_close(p.sum(-1), th.ones(4, 3))
    assert not p[batch["avail_actions"][:, 0] == 0].any()
    th.testing.assert_close(mac.log_policy(batch).exp()[:, 0], p)
    mac, _ = build(agent_output_type="pi_logits", mask_before_softmax=False)
    mac.init_hidden(4)
    assert (mac.forward(batch, 0) > 0).all()


def test_acting_leaves_no_graph_and_training_has_one() -> None:
    mac, a = build()
    batch = random_batch(a, LENGTHS, ENDS)
    mac.init_hidden(4)
    assert not mac.select_actions(batch, 0, 0).requires_grad
    assert mac.unroll(batch).requires_grad
    mac.init_hidden(4)  # a learner may go on step by step after acting
    mac.forward(batch, 0).sum().backward()


def test_a_deep_copy_is_independent() -> None:
    mac, a = build()
    batch = random_batch(a, LENGTHS, ENDS)
    mac.init_hidden(4)
    mac.select_actions(batch, 0, 0)
    other = copy.deepcopy(mac)
    th.testing.assert_close(other.unroll(batch), mac.unroll(batch))
    for p in mac.parameters():
        p.data += 1
    assert not th.allclose(other.unroll(batch), mac.unroll(batch))
    other.load_state(mac)
    th.testing.assert_close(other.unroll(batch), mac.unroll(batch))


def test_saving_and_loading(tmp_path: Path) -> None:
    mac, a = build()
    mac.save_models(tmp_path)
    other, _ = build(seed=5)
    other.load_models(str(tmp_path))
    batch = random_batch(a, LENGTHS, ENDS)
    assert th.equal(mac.unroll(batch), other.unroll(batch))


@pytest.mark.usefixtures("gpu")
def test_acting_on_cuda_from_a_batch_on_the_cpu() -> None:
    mac, a = build(obs_last_action=True)
    batch = random_batch(a, LENGTHS, ENDS)
    best = mac.unroll(batch).masked_fill(batch["avail_actions"] == 0, -th.inf).argmax(-1)
    mac.cuda()
    mac.init_hidden(4)
    assert th.equal(mac.select_actions(batch, 0, 0, test_mode=True).cpu(), best[:, 0])
    bs = th.tensor([1, 3])
    assert th.equal(mac.select_actions(batch, 1, 0, bs=bs, test_mode=True).cpu(), best[bs, 1])
