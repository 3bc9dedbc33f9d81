from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch as th
from support.batches import random_batch, standardised_error, with_garbage
from support.settings import RecordingLogger, args, scheme_of

from components.episode_buffer import complete_scheme
from controllers.basic_controller import BasicMAC
from learners import REGISTRY
from learners.ppo_learner import PPOLearner
from learners.returns import transition_mask
from modules.critics import REGISTRY as CRITICS

LENGTHS, ENDS = [6, 4, 1, 3], [False, True, True, False]
POLICY = {"agent_output_type": "pi_logits", "action_selector": "soft_policies", "learner_log_interval": 1}


def build(seed: int = 0, **changes: Any) -> tuple[PPOLearner, RecordingLogger, Any]:
    a = args(**(POLICY | {"hidden_dim": 16} | changes))
    scheme, groups, preprocess = scheme_of(a)
    scheme = complete_scheme(scheme, preprocess)
    th.manual_seed(seed)
    logger = RecordingLogger()
    return PPOLearner(BasicMAC(scheme, groups, a), scheme, logger, a), logger, a


def gradients(learner: PPOLearner) -> list[th.Tensor]:
    return [p.grad.clone() for p in (*learner.agent_params, *learner.critic_params)]


def test_registry() -> None:
    assert REGISTRY["ppo_learner"] is PPOLearner


@pytest.mark.parametrize("critic_type", CRITICS)
@pytest.mark.parametrize("use_rnn", [True, False])
@pytest.mark.parametrize("agent", ["rnn", "rnn_ns"])
def test_first_epoch_is_that_of_a_plain_loop(critic_type: str, use_rnn: bool, agent: str) -> None:
    """Policies step by step through torch.distributions, returns one by one, every kind of end."""
    learner, logger, a = build(critic_type=critic_type, use_rnn=use_rnn, agent=agent, epochs=1, q_nstep=2)
    for p in learner.target_critic.parameters():
        p.data += 0.1 * th.randn_like(p)
    batch = random_batch(a, LENGTHS, ENDS)
    gains, errors, entropies = [], [], []
    with th.no_grad():
        v, target_v = learner.critic(batch), learner.target_critic(batch)
        learner.mac.init_hidden(batch.batch_size)
        policies = [
            th.distributions.Categorical(probs=learner.mac.forward(batch, t)) for t in range(batch.max_seq_length)
        ]
        for b, length in enumerate(LENGTHS):
            r, end = batch["reward"][b], batch["terminated"][b]
            for t in range(length):
                g = r[t].expand(a.n_agents).clone()
                if t + 1 == length:
                    g += a.gamma * (1 - end[t]) * target_v[b, t + 1]
                else:
                    last = t + 1 == length - 1
                    g += a.gamma * r[t + 1]
                    g += a.gamma**2 * (1 - end[t + 1] if last else 1.0) * target_v[b, t + 2]
                error = g - v[b, t]
                errors.append(error)
                gains.append(error)  # all ratios are 1
                entropies.append(policies[t].entropy()[b])
    gain, entropy = th.stack(gains).mean().item(), th.stack(entropies).mean().item()
    learner.train(batch, 10, 1)
    stats = {key: values[-1][1] for key, values in logger.stats.items()}
    assert stats["critic_loss"] == pytest.approx(th.stack(errors).square().mean().item(), rel=1e-4)
    assert stats["pg_loss"] == pytest.approx(-gain - a.entropy_coef * entropy, rel=1e-3, abs=1e-5)
    assert stats["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert stats["clipped_share"] == 0 and stats["approx_kl"] == pytest.approx(0.0, abs=1e-6)


def test_one_epoch_is_the_plain_policy_gradient() -> None:
    learner, _, a = build(epochs=1, entropy_coef=0.0, grad_norm_clip=1e9)
    batch = random_batch(a, LENGTHS, ENDS)
    with th.no_grad():
        mask = batch["filled"][:, :-1] * batch["filled"][:, 1:]
        advantage = learner._returns(batch, mask.float()) - learner.critic(batch)[:, :-1]
    log_pi = learner.mac.log_policy(batch)[:, :-1].gather(3, batch["actions"][:, :-1]).squeeze(3)
    weight = mask.expand_as(log_pi)
    expected = th.autograd.grad(-(log_pi * advantage * weight).sum() / weight.sum(), learner.agent_params)
    learner.train(batch, 10, 1)
    for p, g in zip(learner.agent_params, expected, strict=True):
        th.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)


def test_what_left_the_clip_range_gives_no_gradient() -> None:
    learner, logger, a = build(epochs=2, entropy_coef=0.0, eps_clip=1e-6, lr=0.1)
    batch = random_batch(a, LENGTHS, ENDS)
    learner.train(batch, 10, 1)
    # In the second epoch a ratio counts only where the first step moved it against its advantage.
    assert logger.stats["clipped_share"][-1][1] > 0.9
    free, free_logger, _ = build(epochs=2, entropy_coef=0.0, eps_clip=1e6, lr=0.1)
    free.train(batch, 10, 1)
    assert logger.stats["agent_grad_norm"][-1][1] < 0.9 * free_logger.stats["agent_grad_norm"][-1][1]
    assert free_logger.stats["clipped_share"][-1][1] == 0


def test_the_surrogate_of_a_later_epoch_is_that_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lesser of the two gains, which past the clip range is not always the clipped one."""
    learner, logger, a = build(epochs=2, entropy_coef=0.0, eps_clip=0.01, lr=0.1)
    batch = random_batch(a, LENGTHS, ENDS)
    policies, values = [], []
    log_policy = learner.mac.log_policy

    def watched(played: Any) -> th.Tensor:
        policies.append(log_policy(played))
        return policies[-1]

    monkeypatch.setattr(learner.mac, "log_policy", watched)
    learner.critic.register_forward_hook(lambda critic, inputs, output: values.append(output.detach()))
    with th.no_grad():
        returns = learner._returns(batch, transition_mask(batch["filled"]))
    learner.train(batch, 10, 1)
    (before, now), (_, v) = policies, values
    gains, clipped, free = [], 0, 0
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            for i in range(a.n_agents):
                action = batch["actions"][b, t, i, 0]
                ratio = (now[b, t, i, action] - before[b, t, i, action]).exp().item()
                advantage = (returns[b, t, i] - v[b, t, i]).item()
                if advantage > 0:
                    gains.append(min(ratio, 1.01) * advantage)
                    clipped, free = clipped + (ratio > 1.01), free + (ratio < 0.99)
                else:
                    gains.append(max(ratio, 0.99) * advantage)
                    clipped, free = clipped + (ratio < 0.99), free + (ratio > 1.01)
    assert clipped and free
    assert logger.stats["pg_loss"][-1][1] == pytest.approx(-sum(gains) / len(gains), rel=1e-4)


def test_standardised_values_count_in_the_returns_units() -> None:
    """One-step returns one by one: values are those of the statistics before, errors of the statistics after."""
    learner, logger, a = build(standardise_returns=True, q_nstep=1, epochs=1)
    earlier = 50 + 7 * th.randn(100, a.n_agents)
    learner.return_stats.update(earlier)
    batch = random_batch(a, LENGTHS, ENDS)
    values, returns = [], []
    with th.no_grad():
        v = learner.critic(batch)  # the target critic is still the same
        for b, length in enumerate(LENGTHS):
            for t in range(length):
                ahead = v[b, t + 1] * earlier.std(0, correction=0) + earlier.mean(0)
                values.append(v[b, t])
                returns.append(batch["reward"][b, t] + a.gamma * (1 - batch["terminated"][b, t].item()) * ahead)
    expected = standardised_error(earlier, th.stack(returns), th.stack(values))
    learner.train(batch, 10, 1)
    assert logger.stats["critic_loss"][-1][1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("standardise_returns", [False, True])
@pytest.mark.parametrize("critic_type", ["cv_critic", "ac_critic_ns"])
def test_padded_steps_do_not_matter(critic_type: str, standardise_returns: bool) -> None:
    results = []
    changes = {"obs_last_action": True, "obs_individual_obs": True, "standardise_returns": standardise_returns}
    for change in (lambda batch: batch, with_garbage):
        learner, logger, a = build(critic_type=critic_type, epochs=2, **changes)
        learner.train(change(random_batch(a, LENGTHS, ENDS)), 10, 1)
        results.append((logger.stats, gradients(learner)))
    (stats, grads), (other_stats, other_grads) = results
    for key in stats:
        assert stats[key][0][1] == pytest.approx(other_stats[key][0][1], rel=1e-4, abs=1e-6), key
    for one, other in zip(grads, other_grads, strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("critic_type", CRITICS)
def test_what_a_critic_reads(critic_type: str) -> None:
    learner, _, a = build(critic_type=critic_type)
    batch = random_batch(a, LENGTHS, ENDS)
    before = learner.critic(batch)
    assert before.shape == (4, 7, a.n_agents)
    batch["obs"][:, :, 0] += 1.0
    moved = [i for i in range(a.n_agents) if not th.equal(learner.critic(batch)[..., i], before[..., i])]
    assert moved == ([] if critic_type.startswith("cv") else [0])
    batch["state"][:] += 1.0
    assert (not th.equal(learner.critic(batch)[..., 1], before[..., 1])) == critic_type.startswith("cv")
    numbers = learner.critic.inputs(batch)[..., -a.n_agents :]
    assert th.equal(numbers, th.eye(a.n_agents).expand_as(numbers))  # else one network gives the team one value
    own = len(learner.critic.members)
    assert own == (a.n_agents if critic_type.endswith("_ns") else 1)


def test_a_central_critic_with_all_observations_and_last_actions() -> None:
    learner, _, a = build(critic_type="cv_critic", obs_individual_obs=True, obs_last_action=True)
    batch = random_batch(a, LENGTHS, ENDS)
    before = learner.critic(batch)
    batch["obs"][:, :, 2] += 1.0
    assert not th.equal(learner.critic(batch)[..., 0], before[..., 0])
    inputs = learner.critic.inputs(batch)
    last = inputs[:, :, 0, a.state_shape + a.n_agents * a.obs_shape : -a.n_agents]
    assert last[:, 0].abs().max() == 0
    assert th.equal(last[:, 1:], batch["actions_onehot"][:, :-1].flatten(2))


def test_the_policy_that_trains_is_the_one_that_acts() -> None:
    learner, _, a = build()
    batch = random_batch(a, LENGTHS, ENDS)
    learner.mac.init_hidden(batch.batch_size)
    acting = th.stack([learner.mac.forward(batch, t) for t in range(batch.max_seq_length)], 1)
    filled = batch["filled"][..., 0] == 1
    probs = learner.mac.log_policy(batch).exp()
    th.testing.assert_close(probs[filled], acting[filled], rtol=1e-4, atol=1e-6)
    assert probs[filled][batch["avail_actions"][filled] == 0].abs().max() == 0


def test_individual_rewards_reach_their_own_agents() -> None:
    changes = {"common_reward": False, "critic_type": "ac_critic_ns", "agent": "rnn_ns", "grad_norm_clip": 1e9}
    changes["epochs"] = 1
    results = []
    for bonus in (0.0, 5.0):
        learner, _, a = build(**changes)
        batch = random_batch(a, LENGTHS, ENDS)
        batch["reward"][..., 1] += bonus
        learner.train(batch, 10, 1)
        results.append([[p.grad.clone() for p in member.parameters()] for member in learner.critic.members])
    for i in range(a.n_agents):
        same = all(th.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in zip(*(r[i] for r in results), strict=True))
        assert same == (i != 1)


def test_target_critic_hard_and_soft() -> None:
    def same(learner: PPOLearner) -> bool:
        pairs = zip(learner.critic.parameters(), learner.target_critic.parameters(), strict=True)
        return all(th.equal(p, q) for p, q in pairs)

    hard, _, a = build(target_update_interval_or_tau=2, lr=0.01)
    batch = random_batch(a, LENGTHS, ENDS)
    equal = []
    for _ in range(4):
        hard.train(batch, 10, 1)
        equal.append(same(hard))
    assert equal == [False, True, False, True] and hard.training_steps == 4 * a.epochs
    soft, _, _ = build(target_update_interval_or_tau=0.25, lr=0.01)
    old = [p.clone() for p in soft.target_critic.parameters()]
    soft.train(batch, 10, 1)
    for was, now, online in zip(old, soft.target_critic.parameters(), soft.critic_params, strict=True):
        th.testing.assert_close(now, 0.75 * was + 0.25 * online)


def test_target_critic_where_the_guard_leaves_epochs_out() -> None:
    """The copy is due where `interval` batches' steps are taken, though no batch ends at just that number."""
    learner, _, a = build(target_update_interval_or_tau=2, epochs=4, lr=0.01)
    calls = iter([True, True, False] + [True] * 7 + [False, False])
    learner.guard = lambda losses, norms: next(calls)
    batch, moved = random_batch(a, LENGTHS, ENDS), []
    for _ in range(4):
        before = [p.clone() for p in learner.target_critic.parameters()]
        learner.train(batch, 10, 1)
        moved += [not all(map(th.equal, before, learner.target_critic.parameters()))]
    assert learner.training_steps == 9 and moved == [False, False, True, False]


def test_saved_and_loaded_learners_go_on_alike(tmp_path: Path) -> None:
    changes = {"standardise_returns": True, "target_update_interval_or_tau": 3}
    learner, _, a = build(**changes)
    batches = [random_batch(a, LENGTHS, ENDS, seed=s) for s in range(4)]
    for batch in batches[:2]:
        learner.train(batch, 10, 1)
    learner.save_models(tmp_path)
    other, _, _ = build(seed=9, **changes)
    other.load_models(tmp_path)
    for batch in batches[2:]:
        learner.train(batch, 20, 2)
        other.train(batch, 20, 2)
    for one, two in ((learner.mac.agent, other.mac.agent), (learner.target_critic, other.target_critic)):
        assert all(th.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert learner.training_steps == other.training_steps


def test_it_learns_which_action_pays() -> None:
    learner, logger, a = build(lr=0.01, hidden_dim=32, q_nstep=1)
    batch = random_batch(a, [6] * 8, [True] * 8)
    for seed in range(40):
        fresh = random_batch(a, [6] * 8, [True] * 8, seed=seed)
        with th.no_grad():
            probs = learner.mac.log_policy(fresh).exp()
        fresh["actions"][:] = th.distributions.Categorical(probs).sample().unsqueeze(-1)
        fresh["reward"][:] = (fresh["actions"] == 1).float().mean(2)
        learner.train(fresh, 10, 1)
    probability = learner.mac.log_policy(batch).exp()[..., 1].mean().item()
    assert probability > 0.9 and math.isfinite(logger.stats["pg_loss"][-1][1])


def test_an_unknown_critic_is_named() -> None:
    with pytest.raises(ValueError, match="cv_critik.*cv_critic"):
        build(critic_type="cv_critik")


@pytest.mark.usefixtures("gpu")
def test_cuda_update_equals_the_cpu_one() -> None:
    results = []
    for device in ("cpu", "cuda"):
        learner, logger, a = build()
        batch = random_batch(a, LENGTHS, ENDS)
        if device == "cuda":
            learner.cuda()
        learner.train(batch.to(device), 10, 1)
        results.append((logger.stats["critic_loss"][-1][1], [g.cpu() for g in gradients(learner)]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        th.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
