"""The controller: decentralised, and step by step what training unrolls."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from support.batches import random_batch
from support.mmsa import ENDS, LENGTHS, mmsa_args
from support.settings import scheme_of

from components.episode_buffer import EpisodeBatch, complete_scheme
from mmsa.controller import MMSAController
from mmsa.returns import Rows


def make(**changes: Any) -> tuple[MMSAController, SimpleNamespace, EpisodeBatch]:
    args = mmsa_args(**changes)
    scheme, groups, preprocess = scheme_of(args)
    th.manual_seed(5)
    mac = MMSAController(complete_scheme(scheme, preprocess), groups, args)
    return mac, args, random_batch(args, LENGTHS, ENDS)


def step_by_step(mac: MMSAController, batch: EpisodeBatch) -> th.Tensor:
    """(B, T, N, A)."""
    mac.init_hidden(batch.batch_size)
    return th.stack([mac.forward(batch, t) for t in range(batch.max_seq_length)], 1)


SETTINGS = [
    {},
    {"obs_last_action": True},
    {"obs_last_action": True, "obs_agent_id": False},
    {"obs_agent_id": False, "sale.input": "hidden"},
    {"sale.enabled": False},
    {"sale.scope": "joint"},
]


@pytest.mark.parametrize("last_action", [True, False])
@pytest.mark.parametrize("agent_id", [True, False])
def test_inputs_are_observation_last_action_and_number(last_action: bool, agent_id: bool) -> None:
    mac, args, _ = make(obs_last_action=last_action, obs_agent_id=agent_id)
    obs, last = th.randn(2, 3, args.obs_shape), th.tensor([[-1, 0, 4], [2, -1, -1]])
    x = mac.inputs(obs, last)
    for b in range(2):
        for i in range(3):
            one_hot = [float(last[b, i] == a) for a in range(args.n_actions)]  # zeros where there was none
            number = [float(i == j) for j in range(3)]
            assert x[b, i].tolist() == obs[b, i].tolist() + last_action * one_hot + agent_id * number


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_acting_equals_the_unroll_of_training(changes: dict[str, Any]) -> None:
    mac, args, batch = make(**changes)
    rows = Rows(batch["filled"][..., 0])
    last = None
    if args.obs_last_action:
        last = batch["actions"][..., 0].roll(1, 1)
        last[:, 0] = -1
        last = rows.pack(last)
    obs = rows.pack(batch["obs"])
    h = mac.agent.trunk.unroll(mac.inputs(obs, last), rows).flatten(0, 1)
    zs = mac.agent.zs(obs.flatten(0, 1), h)
    q, _ = mac.agent.head.all_actions(h, zs, mac.agent.fold())
    stepped = rows.pack(step_by_step(mac, batch))
    th.testing.assert_close(q.view_as(stepped), stepped, atol=1e-5, rtol=1e-5)


def spied(mac: MMSAController, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The values (len(bs), N, A) that each step of `select_actions` chooses from, which is greedily."""
    values: list[np.ndarray] = []

    def choose(outputs: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        values.append(outputs)
        return outputs.argmax(-1)

    monkeypatch.setattr(mac.action_selector, "choose", choose)
    return values


@pytest.mark.parametrize("changes", [*SETTINGS, {"sale.normalise": False}], ids=str)
def test_playing_in_numpy_is_playing_in_torch(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mac, _, batch = make(**changes)
    values, seen = spied(mac, monkeypatch), []
    for host in ("ours", "another"):
        if host == "another":
            monkeypatch.setattr("mmsa.controller.playing", None)
        mac.init_hidden(batch.batch_size)
        assert (mac._player is None) == (host == "another")
        for t, active in enumerate((slice(None), th.tensor([0, 2, 3]), th.tensor([2]))):
            mac.select_actions(batch, t, 0, bs=active, test_mode=True)
        seen.append([*values, mac.hidden_states.numpy().copy()])
        values.clear()
    for ours, torchs in zip(*seen, strict=True):
        np.testing.assert_allclose(ours, torchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("host", ["ours", "another"])
def test_new_episodes_are_played_with_the_weights_of_now(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host == "another":  # or a GPU: the head's weights are folded once for all steps
        monkeypatch.setattr("mmsa.controller.playing", None)
    mac, _, batch = make()
    values = spied(mac, monkeypatch)

    def played() -> np.ndarray:
        mac.init_hidden(batch.batch_size)
        for t in range(3):
            mac.select_actions(batch, t, 0, test_mode=True)
        found = np.stack(values, 1)
        values.clear()
        return found

    before, trunk, sale, head = played(), mac.agent.trunk, mac.agent.sale, mac.agent.head
    for module in (trunk.fc, sale.f[0], sale.g.inp, sale.g.out, head.zsa, head.action):
        module.weight.data.mul_(2.0)
        after = played()
        assert not np.allclose(after, before)
        np.testing.assert_allclose(after, step_by_step(mac, batch)[:, :3], rtol=1e-5, atol=1e-5)
        before = after


@pytest.mark.parametrize("changes", [{}, {"obs_last_action": True, "sale.scope": "joint"}, {"sale.input": "hidden"}])
def test_an_agent_sees_only_what_is_its_own(changes: dict[str, Any]) -> None:
    mac, args, batch = make(**changes)
    before = step_by_step(mac, batch)
    for i in range(args.n_agents):
        moved = batch[list(range(batch.batch_size)), :]
        others = [j for j in range(args.n_agents) if j != i]
        moved["obs"][:, :, others] += 1
        moved["actions"][:, :, others] = (moved["actions"][:, :, others] + 1) % args.n_actions
        moved["avail_actions"][:, :, others] = 1 - moved["avail_actions"][:, :, others]
        moved["state"].fill_(th.nan)
        moved["reward"].fill_(th.nan)
        after = step_by_step(mac, moved)
        assert th.equal(after[:, :, i], before[:, :, i])
        assert (after[:, :, others] != before[:, :, others]).any(-1).all()


def test_an_agent_is_known_by_its_number_alone() -> None:
    for known in (True, False):
        mac, _, batch = make(obs_agent_id=known)
        batch["obs"][:] = batch["obs"][:, :, :1]
        q = step_by_step(mac, batch)
        assert th.allclose(q[:, :, 0], q[:, :, 1], atol=1e-5) is not known


@pytest.mark.parametrize("last_action", [True, False])
def test_only_the_active_episodes_move_on(last_action: bool) -> None:
    mac, _, batch = make(obs_last_action=last_action)
    mac.init_hidden(batch.batch_size)
    mac.forward(batch, 0)
    start = mac.hidden_states.clone()
    full_q = mac.forward(batch, 1)
    full = mac.hidden_states.clone()
    mac.hidden_states = start.clone()
    active = th.tensor([0, 3])
    actions = mac.select_actions(batch, 1, 0, bs=active, test_mode=True)
    assert actions.shape == (2, 3) and actions.dtype == th.long
    th.testing.assert_close(mac.hidden_states[active], full[active])
    assert th.equal(mac.hidden_states[[1, 2, 4]], start[[1, 2, 4]])
    expected = full_q.masked_fill(batch["avail_actions"][:, 1] == 0, -1e9).argmax(-1)
    assert th.equal(actions, expected[active])


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_actions_are_available(epsilon: float) -> None:
    mac, _, batch = make(epsilon_start=epsilon, epsilon_finish=epsilon)
    mac.init_hidden(batch.batch_size)
    actions = mac.select_actions(batch, 0, 0)
    assert batch["avail_actions"][:, 0].gather(-1, actions.unsqueeze(-1)).all()
    assert actions.shape == (batch.batch_size, 3) and not actions.requires_grad
    mac.init_hidden(batch.batch_size)
    greedy = mac.select_actions(batch, 0, 0, test_mode=True)
    assert th.equal(actions, greedy) is (epsilon == 0)


def test_trained_parameters_are_trunk_and_head() -> None:
    mac, _, _ = make()
    mine = {id(p) for p in mac.parameters()}
    wanted = {id(p) for m in (mac.agent.trunk, mac.agent.head) for p in m.parameters()}
    assert mine == wanted and not mine & {id(p) for p in mac.agent.sale.parameters()}


def test_load_state_leaves_sale_alone(tmp_path: Path) -> None:
    mac, _, batch = make()
    mac.init_hidden(2)
    other = copy.deepcopy(mac)
    with th.no_grad():
        for p in other.agent.parameters():
            p += 1
    sale = copy.deepcopy(mac.agent.sale.state_dict())
    mac.load_state(other)
    assert all(th.equal(a, b) for a, b in zip(mac.parameters(), other.parameters(), strict=True))
    assert all(th.equal(x, sale[name]) for name, x in mac.agent.sale.state_dict().items())

    other.save_models(str(tmp_path))
    mac.load_models(str(tmp_path))
    assert th.equal(step_by_step(mac, batch), step_by_step(other, batch))


def test_acting_before_init_hidden_is_refused() -> None:
    mac, _, batch = make()
    with pytest.raises(AssertionError, match="init_hidden"):
        mac.forward(batch, 0)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"common_reward": False}, ["common_reward=False", "set common_reward=True"]),
        ({"agent": "rnn_ns"}, ["agent=rnn_ns", "set agent=mmsa_agent"]),
        ({"agent": "rnn"}, ["agent=rnn", "set agent=mmsa_agent"]),
    ],
    ids=str,
)
def test_what_is_not_supported_is_named_with_its_cure(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        make(**changes)
    assert all(part in str(caught.value) for part in parts)
