from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch as th
from support.batches import random_batch, standardised_error, with_garbage
from support.settings import RecordingLogger, args, scheme_of

from components.episode_buffer import EpisodeBatch, complete_scheme
from controllers.basic_controller import BasicMAC
from learners import REGISTRY
from learners.q_learner import QLearner
from learners.returns import transition_mask

LENGTHS, ENDS = [6, 4, 1, 3], [False, True, True, False]


def build(seed: int = 0, **changes: Any) -> tuple[QLearner, RecordingLogger, Any]:
    a = args(**({"learner_log_interval": 1, "hidden_dim": 16} | changes))
    scheme, groups, preprocess = scheme_of(a)
    th.manual_seed(seed)
    mac = BasicMAC(complete_scheme(scheme, preprocess), groups, a)
    logger = RecordingLogger()
    return QLearner(mac, scheme, logger, a), logger, a


def gradients(learner: QLearner) -> list[th.Tensor]:
    return [p.grad.clone() for p in learner.params]


def test_registry() -> None:
    assert REGISTRY["q_learner"] is QLearner


@pytest.mark.parametrize("mixer", [None, "vdn", "qmix"])
@pytest.mark.parametrize("use_rnn", [True, False])
@pytest.mark.parametrize("agent", ["rnn", "rnn_ns"])
def test_loss_is_that_of_a_plain_loop(mixer: str | None, use_rnn: bool, agent: str) -> None:
    """Values step by step through `forward`, targets one by one, for every algorithm."""
    learner, logger, a = build(mixer=mixer, use_rnn=use_rnn, agent=agent, obs_last_action=True)
    for p in learner.target_mac.parameters():
        p.data += 0.1 * th.randn_like(p)
    batch = random_batch(a, LENGTHS, ENDS)

    def values(mac: Any) -> th.Tensor:
        mac.init_hidden(batch.batch_size)
        return th.stack([mac.forward(batch, t) for t in range(batch.max_seq_length)], 1)

    with th.no_grad():
        q, target_q = values(learner.mac), values(learner.target_mac)
        errors = []
        for b, length in enumerate(LENGTHS):
            best = []
            for t in range(length + 1):
                allowed = q[b, t].masked_fill(batch["avail_actions"][b, t] == 0, -math.inf)
                best.append(target_q[b, t].gather(-1, allowed.argmax(-1, keepdim=True)).squeeze(-1))
            v = th.stack(best)[None]  # (1, length + 1, N)
            taken = q[b, : length + 1].gather(-1, batch["actions"][b, : length + 1]).squeeze(-1)[None]
            if mixer is not None:
                states = batch["state"][b : b + 1, : length + 1]
                v, taken = learner.target_mixer(v, states), learner.mixer(taken, states)
            g = v[0, length]
            for t in reversed(range(length)):
                end = batch["terminated"][b, t].item()
                ahead = (1 - a.td_lambda) * v[0, t + 1] + a.td_lambda * g if t < length - 1 else v[0, t + 1]
                g = batch["reward"][b, t] + a.gamma * (1 - end) * ahead
                errors.append(taken[0, t] - g)
    expected = th.stack(errors).square().mean().item()
    learner.train(batch, 10, 1)
    assert logger.stats["loss"][-1][1] == pytest.approx(expected, rel=1e-4)
    assert logger.stats["td_error_abs"][-1][1] == pytest.approx(th.stack(errors).abs().mean().item(), rel=1e-4)


@pytest.mark.parametrize("mixer", [None, "qmix"])
@pytest.mark.parametrize("standardise_returns", [False, True])
def test_padded_steps_do_not_matter(mixer: str | None, standardise_returns: bool) -> None:
    results = []
    for change in (lambda batch: batch, with_garbage):
        learner, logger, a = build(mixer=mixer, standardise_returns=standardise_returns, obs_last_action=True)
        batch = change(random_batch(a, LENGTHS, ENDS))
        learner.train(batch, 10, 1)
        results.append((logger.stats, gradients(learner)))
    (stats, grads), (other_stats, other_grads) = results
    assert stats.keys() == other_stats.keys()
    for key in stats:
        assert stats[key][0][1] == pytest.approx(other_stats[key][0][1], rel=1e-6)
    for one, other in zip(grads, other_grads, strict=True):
        th.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def burnt_in(a: Any) -> EpisodeBatch:
    """A batch the first two steps of whose first episode only rebuild the hidden state."""
    plain = random_batch(a, LENGTHS, ENDS)
    scheme = plain.scheme | {"burn_in": {"vshape": (1,), "dtype": th.uint8}}
    fields = {key: plain[key] for key in scheme if key not in ("burn_in", "actions_onehot")}
    fields["burn_in"] = th.zeros_like(plain["terminated"])
    fields["burn_in"][0, :2] = 1
    return EpisodeBatch(scheme, plain.groups, 4, plain.max_seq_length, data=fields, preprocess=plain.preprocess)


def test_burn_in_steps_are_left_out_of_the_loss() -> None:
    learner, logger, a = build(mixer="qmix", td_lambda=0.0)
    batch = burnt_in(a)
    paid = batch["reward"].clone()
    # The reward of a step in the burn-in does not matter, that of the first step after it does.
    losses = []
    for step, bonus in ((0, 0.0), (1, 7.0), (2, 7.0)):
        learner, logger, _ = build(mixer="qmix", td_lambda=0.0)
        batch["reward"].copy_(paid)
        batch["reward"][0, step] += bonus
        learner.train(batch, 10, 1)
        losses.append(logger.stats["loss"][-1][1])
    assert losses[0] == losses[1] != losses[2]


def test_individual_rewards_reach_their_own_agents() -> None:
    learner, _, a = build(mixer=None, common_reward=False, td_lambda=0.0, agent="rnn_ns")
    batch = random_batch(a, LENGTHS, ENDS)
    learner.train(batch, 10, 1)
    before = gradients(learner)
    learner, _, _ = build(mixer=None, common_reward=False, td_lambda=0.0, agent="rnn_ns", grad_norm_clip=1e9)
    batch["reward"][..., 1] += 5
    learner.train(batch, 10, 1)
    per_agent = len(before) // a.n_agents
    for i in range(a.n_agents):
        pairs = zip(before[i * per_agent : (i + 1) * per_agent], gradients(learner)[i * per_agent :], strict=False)
        same = all(th.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in pairs)
        assert same == (i != 1)


def test_a_mixer_refuses_individual_rewards() -> None:
    with pytest.raises(ValueError, match="mixer.*common_reward"):
        build(mixer="qmix", common_reward=False)


def test_an_unknown_mixer_is_named() -> None:
    with pytest.raises(ValueError, match="qmixx.*qmix"):
        build(mixer="qmixx")


def same(one: Any, other: Any) -> bool:
    return all(th.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_hard_targets_follow_every_interval() -> None:
    learner, _, a = build(mixer="qmix", target_update_interval_or_tau=3, lr=0.01)
    batch = random_batch(a, LENGTHS, ENDS)
    equal = []
    for _ in range(6):
        learner.train(batch, 10, 1)
        equal.append(same(learner.mac, learner.target_mac) and same(learner.mixer, learner.target_mixer))
    assert equal == [False, False, True, False, False, True]


def test_soft_targets_move_by_tau() -> None:
    learner, _, a = build(mixer="qmix", target_update_interval_or_tau=0.25, lr=0.01)
    before = [p.clone() for m in (learner.target_mac, learner.target_mixer) for p in m.parameters()]
    learner.train(random_batch(a, LENGTHS, ENDS), 10, 1)
    after = [p for m in (learner.target_mac, learner.target_mixer) for p in m.parameters()]
    for old, online, new in zip(before, learner.params, after, strict=True):
        th.testing.assert_close(new, 0.75 * old + 0.25 * online)
        assert not new.requires_grad or new.grad is None


def test_targets_get_no_gradient() -> None:
    learner, _, a = build(mixer="qmix")
    learner.train(random_batch(a, LENGTHS, ENDS), 10, 1)
    assert all(p.grad is None for m in (learner.target_mac, learner.target_mixer) for p in m.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.params)


@pytest.mark.parametrize(("mixer", "columns"), [(None, 3), ("vdn", 1)])
def test_standardised_returns(mixer: str | None, columns: int) -> None:
    learner, _, a = build(mixer=mixer, standardise_returns=True, td_lambda=0.0, gamma=0.0)
    batch = random_batch(a, LENGTHS, ENDS)
    learner.train(batch, 10, 1)
    # Without a future the targets are the rewards: their statistics over the real transitions.
    rewards = batch["reward"][:, :-1][transition_mask(batch["filled"]).bool().expand(-1, -1, 1)]
    assert len(rewards) == sum(LENGTHS) == learner.return_stats.count
    assert learner.return_stats.mean.shape == (columns,)
    assert learner.return_stats.mean.tolist() == pytest.approx([rewards.mean().item()] * columns)
    assert learner.return_stats.var.tolist() == pytest.approx([rewards.var(unbiased=False).item()] * columns, rel=1e-5)


def test_returns_of_a_burn_in_are_not_in_their_statistics() -> None:
    learner, _, a = build(mixer="vdn", standardise_returns=True, td_lambda=0.0, gamma=0.0)
    batch = burnt_in(a)
    learner.train(batch, 10, 1)
    rewards = th.cat([batch["reward"][b, 2 * (b == 0) : length] for b, length in enumerate(LENGTHS)])
    assert learner.return_stats.count == len(rewards) == sum(LENGTHS) - 2
    assert learner.return_stats.mean.item() == pytest.approx(rewards.mean().item())


@pytest.mark.parametrize(("mixer", "columns"), [(None, 3), ("vdn", 1)])
def test_standardised_values_count_in_the_returns_units(mixer: str | None, columns: int) -> None:
    """One-step targets one by one: values are those of the statistics before, errors of the statistics after."""
    learner, logger, a = build(mixer=mixer, standardise_returns=True, td_lambda=0.0)
    earlier = 50 + 7 * th.randn(100, columns)
    learner.return_stats.update(earlier)
    batch = random_batch(a, LENGTHS, ENDS)
    taken, targets = [], []
    with th.no_grad():
        q = learner.mac.unroll(batch)  # the targets' networks are still the same
        for b, length in enumerate(LENGTHS):
            for t in range(length):
                best = q[b, t + 1].masked_fill(batch["avail_actions"][b, t + 1] == 0, -math.inf).amax(-1)
                chosen = q[b, t].gather(-1, batch["actions"][b, t]).squeeze(-1)
                if mixer is not None:
                    best, chosen = best.sum(-1, keepdim=True), chosen.sum(-1, keepdim=True)
                ahead = best * earlier.std(0, correction=0) + earlier.mean(0)
                taken.append(chosen)
                targets.append(batch["reward"][b, t] + a.gamma * (1 - batch["terminated"][b, t].item()) * ahead)
    expected = standardised_error(earlier, th.stack(targets), th.stack(taken))
    learner.train(batch, 10, 1)
    assert logger.stats["loss"][-1][1] == pytest.approx(expected, rel=1e-4)


def test_metrics_come_at_the_interval() -> None:
    learner, logger, a = build(mixer="vdn", learner_log_interval=100)
    batch = random_batch(a, LENGTHS, ENDS)
    for t in (5, 50, 104, 105, 200, 204, 206):
        learner.train(batch, t, 1)
    assert [t for t, _ in logger.stats["loss"]] == [5, 105, 206]
    assert set(logger.stats) == {"loss", "grad_norm", "td_error_abs", "q_taken_mean", "target_mean"}


def test_gradient_is_clipped_and_its_norm_logged_before() -> None:
    learner, logger, a = build(mixer="vdn", grad_norm_clip=1e-3)
    learner.train(random_batch(a, LENGTHS, ENDS), 10, 1)
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in learner.params))
    assert norm == pytest.approx(1e-3, rel=1e-3) and logger.stats["grad_norm"][0][1] > 1e-2


def test_learns_a_fixed_batch() -> None:
    learner, logger, a = build(mixer="qmix", lr=0.005, gamma=0.5)
    batch = random_batch(a, [6] * 8, [True] * 8)
    for t in range(150):
        learner.train(batch, 10 * t, 1)
    losses = [v for _, v in logger.stats["loss"]]
    assert losses[-1] < losses[0] / 10


def test_saved_and_loaded_learners_go_on_alike(tmp_path: Path) -> None:
    changes = {"mixer": "qmix", "standardise_returns": True, "target_update_interval_or_tau": 4}
    learner, _, a = build(**changes)
    batch = random_batch(a, LENGTHS, ENDS)
    for _ in range(3):
        learner.train(batch, 10, 1)
    learner.save_models(tmp_path)
    assert {"agent.th", "mixer.th", "opt.th"} < {path.name for path in tmp_path.iterdir()}
    other, _, _ = build(seed=99, **changes)
    other.load_models(tmp_path)
    for each in (learner, other):
        each.train(batch, 10, 1)
        each.train(batch, 10, 1)
    assert same(learner.mac, other.mac) and same(learner.mixer, other.mixer)
    assert same(learner.target_mac, other.target_mac) and same(learner.target_mixer, other.target_mixer)


class Talking(BasicMAC):
    """Agents that hear something of each other: a network beside theirs."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.talk = th.nn.Linear(6, 6)

    def _build_inputs(self, batch: EpisodeBatch, t: int, bs: Any = slice(None)) -> th.Tensor:
        inputs = super()._build_inputs(batch, t, bs)
        heard = self.talk(batch["obs"][bs, t].mean(1, keepdim=True)).expand(-1, self.n_agents, -1)
        return th.cat([inputs[:, :6] + heard.flatten(0, 1), inputs[:, 6:]], 1)

    def parameters(self) -> Any:
        return [*self.agent.parameters(), *self.talk.parameters()]

    def load_state(self, other: Any) -> None:
        super().load_state(other)
        self.talk.load_state_dict(other.talk.state_dict())


def test_a_checkpoint_has_all_networks_of_a_controller_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "BasicMAC", Talking)
    learner, _, a = build()
    batch = random_batch(a, LENGTHS, ENDS)
    learner.train(batch, 10, 1)
    other, _, _ = build(seed=99)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for each in (learner, other):
        each.train(batch, 10, 1)
    assert all(th.equal(mine, its) for mine, its in zip(learner.params, other.params, strict=True))
    assert th.equal(learner.target_mac.talk.weight, other.target_mac.talk.weight)


@pytest.mark.parametrize("saved", [True, False])
def test_values_of_another_scale_are_not_loaded(tmp_path: Path, saved: bool) -> None:
    build(standardise_returns=saved)[0].save_models(tmp_path)
    with pytest.raises(ValueError, match=f"standardise_returns={not saved}: .* set standardise_returns={saved}"):
        build(standardise_returns=not saved)[0].load_models(tmp_path)


def test_loaded_networks_learn_at_the_rate_of_this_run(tmp_path: Path) -> None:
    build(lr=0.1)[0].save_models(tmp_path)
    learner, _, _ = build(lr=0.2)
    learner.load_models(tmp_path)
    assert [group["lr"] for group in learner.optimiser.param_groups] == [0.2]


def test_a_loaded_file_cannot_run_code(tmp_path: Path) -> None:
    learner, _, _ = build()
    learner.save_models(tmp_path)
    th.save(Path("x"), tmp_path / "agent.th")  # any class is refused
    with pytest.raises(Exception, match="weights_only|WeightsUnpickler"):
        learner.load_models(tmp_path)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("mixer", [None, "qmix"])
def test_cuda_update_equals_cpu_update(mixer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.backends.cudnn, "allow_tf32", False)
    results = []
    for device in ("cpu", "cuda"):
        learner, logger, a = build(mixer=mixer)
        if device == "cuda":
            learner.cuda()
        learner.train(random_batch(a, LENGTHS, ENDS).to(device), 10, 1)
        results.append((logger.stats["loss"][0][1], [p.grad.cpu() for p in learner.params]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
