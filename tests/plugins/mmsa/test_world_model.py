"""The two VAEs: KL and its balance, every loss against a plain loop, and what a weight of 0 leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from support.mmsa import mmsa_args
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from mmsa import world_model
from mmsa.config import MMSAConfig
from mmsa.returns import Rows
from mmsa.world_model import LOSSES, Gaussian, WorldModel, balanced_kl, symexp, symlog

N, A, H, Z, D, T = 3, 5, 12, 7, 3, 6
LENGTHS = [6, 3, 2, 4]  # filled steps
DECODERS = {  # loss -> the decoder that only it needs
    "recon": "dec_h",
    "avail": "dec_avail",
    "prior_recon_state": "dec_prev_state",
    "prior_recon_action": "dec_prev_action",
    "reward": "dec_reward",
    "continuation": "dec_continue",
}


def make(zs_dim: int = Z, **changes: Any) -> WorldModel:
    changes = {"loss_weights.continuation": 1.0} | changes
    cfg = MMSAConfig.from_args(mmsa_args(**changes))
    th.manual_seed(1)
    return WorldModel(N, A, H, zs_dim, cfg.world_model, cfg.loss_weights)


def gaussian(*shape: int, seed: int = 0) -> Gaussian:
    g = th.Generator().manual_seed(seed)
    return Gaussian(*(th.randn(*shape, generator=g).requires_grad_() for _ in range(2)))


# --- KL ---
def normal(x: Gaussian) -> Normal:
    return Normal(x.mean, (0.5 * x.logvar).exp())


def test_kl_is_that_of_torch_distributions() -> None:
    q, p = gaussian(50, N, D, seed=1), gaussian(50, N, D, seed=2)
    expected = kl_divergence(normal(q), normal(p))
    th.testing.assert_close(world_model.kl_divergence(q, p), expected, atol=1e-5, rtol=1e-4)
    mine = th.autograd.grad(world_model.kl_divergence(q, p).sum(), [*q, *p])
    theirs = th.autograd.grad(expected.sum(), [*q, *p])
    for a, b in zip(mine, theirs, strict=True):
        th.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert world_model.kl_divergence(q, q).abs().max() < 1e-6


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_balanced_kl_is_the_plain_kl_with_shared_out_gradients(alpha: float) -> None:
    q, p = gaussian(50, N, D, seed=1), gaussian(50, N, D, seed=2)
    plain = kl_divergence(normal(q), normal(p))
    balanced = balanced_kl(q, p, alpha)
    th.testing.assert_close(balanced, plain, atol=1e-5, rtol=1e-4)
    full = th.autograd.grad(plain.sum(), [*q, *p])
    got = th.autograd.grad(balanced.sum(), [*q, *p])
    for share, a, b in zip((1 - alpha, 1 - alpha, alpha, alpha), got, full, strict=True):
        th.testing.assert_close(a, share * b, atol=1e-5, rtol=1e-4)


def test_kl_is_computed_in_float32() -> None:
    q, p = (Gaussian(x.mean.bfloat16(), x.logvar.bfloat16()) for x in (gaussian(4, N, D), gaussian(4, N, D, seed=1)))
    wanted = world_model.kl_divergence(*(Gaussian(x.mean.float(), x.logvar.float()) for x in (q, p)))
    th.testing.assert_close(world_model.kl_divergence(q, p), wanted, rtol=0, atol=0)


# --- distributions ---
def test_samples_have_their_mean_and_spread_and_pass_gradients() -> None:
    th.manual_seed(0)
    mean, logvar = th.tensor(2.0, requires_grad=True), th.tensor(-1.0, requires_grad=True)
    sample = Gaussian(mean.expand(40000), logvar.expand(40000)).sample()
    assert sample.mean().item() == pytest.approx(2.0, abs=0.02)
    assert sample.var().item() == pytest.approx(th.tensor(-1.0).exp().item(), rel=0.03)
    sample.square().mean().backward()  # d/dmean = 2 mean, d/dlogvar = variance
    assert mean.grad.item() == pytest.approx(4.0, rel=0.02)
    assert logvar.grad.item() == pytest.approx(th.tensor(-1.0).exp().item(), rel=0.1)


def test_log_variances_stay_in_range() -> None:
    model = make()
    with th.no_grad():
        for p in model.parameters():
            p *= 1e4
    h, zs, actions = th.randn(8, N, H), th.randn(8, N, Z), th.zeros(8, N, dtype=th.long)
    for x in (model.posterior(h, zs), model.prior(th.randn(8, N, D), actions, zs)):
        assert x.logvar.min() == -10 and x.logvar.max() == 4


def test_posteriors_are_each_agents_own_and_the_prior_sees_the_team() -> None:
    model = make()
    h, zs, s, actions = th.randn(8, N, H), th.randn(8, N, Z), th.randn(8, N, D), th.zeros(8, N, dtype=th.long)
    other_h, other_s = h.clone(), s.clone()
    other_h[:, 1] += 1
    other_s[:, 1] += 1
    changed = (model.posterior(other_h, zs).mean != model.posterior(h, zs).mean).any(-1)
    assert changed.tolist() == [[False, True, False]] * 8
    assert (model.prior(other_s, actions, zs).mean != model.prior(s, actions, zs).mean).any(-1).all()


def test_an_imagined_step_is_the_priors_mean() -> None:
    model = make()
    s, zs, actions = th.randn(8, N, D), th.randn(8, N, Z), th.randint(0, A, (8, N))
    th.testing.assert_close(model.next_mean(s, actions, zs), model.prior(s, actions, zs).mean)


def test_decoded_hidden_states_are_those_of_a_gru() -> None:
    model = make()
    h = model.decode_hidden(100 * th.randn(8, N, D))
    assert h.shape == (8, N, H) and h.abs().max() <= 1


def test_symlog() -> None:
    x = th.tensor([-10.0, -1.0, 0.0, 1.0, 10.0])
    th.testing.assert_close(symlog(x), x.sign() * (x.abs() + 1).log())
    assert th.equal(symlog(-x), -symlog(x))
    th.testing.assert_close(symexp(symlog(x)), x)


# --- losses ---
def data(rows: Rows, all_available: bool = False) -> dict[str, Any]:
    g = th.Generator().manual_seed(7)
    n = len(rows)
    avail = th.rand(n, N, A, generator=g) < 0.7
    return {
        "h": th.randn(n, N, H, generator=g).tanh(),
        "actions": th.randint(0, A, (n, N), generator=g),
        "zsa": th.randn(n, N, Z, generator=g),
        "avail": th.ones_like(avail) if all_available else avail,
        "reward": 5 * th.randn(n, generator=g),
        "terminated": (th.rand(n, generator=g) < 0.3).float(),
    }


def rows_of(lengths: list[int], burn_in: list[int] | None = None) -> Rows:
    steps = th.arange(T)
    filled = (steps < th.tensor(lengths)[:, None]).long()
    return Rows(filled, None if burn_in is None else (steps < th.tensor(burn_in)[:, None]).to(th.uint8))


def loss_dict(model: WorldModel, rows: Rows, **d: Any) -> dict[str, th.Tensor]:
    th.manual_seed(0)
    model.see(d["avail"])
    return model.losses(model.posterior(d["h"], d["zsa"]), rows, **d)


@pytest.mark.parametrize("balancing", [True, False])
def test_every_loss_is_that_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch, balancing: bool) -> None:
    """Without noise (a sample is its mean), row by row and agent by agent. Episodes are walked by their own lengths."""
    monkeypatch.setattr(Gaussian, "sample", lambda self: self.mean)
    model, rows = make(**{"world_model.kl_balancing": balancing}), rows_of(LENGTHS)
    d = data(rows)
    got = loss_dict(model, rows, **d)
    assert set(got) == set(LOSSES)

    q = model.posterior(d["h"], d["zsa"])
    sums = dict.fromkeys(LOSSES, 0.0)
    r = 0
    for length in LENGTHS:
        for t in range(length):
            if t == 0:
                width = model.trans[0].in_features
                x = model.trans(th.zeros(1, width))
                p_mean, p_logvar = model.prior_mean(x).view(N, D), model.prior_logvar(x).view(N, D).clamp(-10, 4)
            else:
                inputs = [F.relu(model.enc_s(q.mean[r - 1].flatten())), model.enc_a(d["actions"][r - 1]).flatten()]
                x = model.trans(th.cat([*inputs, F.relu(model.enc_z(d["zsa"][r - 1])).flatten()]))
                p_mean, p_logvar = model.prior_mean(x).view(N, D), model.prior_logvar(x).view(N, D).clamp(-10, 4)
            prior, post = Gaussian(p_mean, p_logvar), Gaussian(q.mean[r], q.logvar[r])
            sums["kl"] += kl_divergence(normal(post), normal(prior)).sum() / N
            sums["prior_reg"] += kl_divergence(normal(prior), Normal(0.0, 1.0)).sum() / N
            sums["recon"] += (model.dec_h(post.mean).tanh() - d["h"][r]).square().sum() / N
            chance = model.dec_avail(post.mean).sigmoid()
            sums["avail"] -= th.where(d["avail"][r], chance, 1 - chance).log().sum() / N
            if t:
                flat = p_mean.flatten()
                sums["prior_recon_state"] += (model.dec_prev_state(flat) - q.mean[r - 1].flatten()).square().sum() / N
                log_p = model.dec_prev_action(flat).view(N, A).log_softmax(-1)
                sums["prior_recon_action"] -= log_p[range(N), d["actions"][r - 1]].sum() / N
                sums["reward"] += (model.dec_reward(flat)[0] - symlog(d["reward"][r - 1])).square()
                chance = model.dec_continue(flat)[0].sigmoid()
                sums["continuation"] -= (chance if d["terminated"][r - 1] == 0 else 1 - chance).log()
            r += 1
    counts = dict.fromkeys(LOSSES, sum(LENGTHS))
    counts |= dict.fromkeys(("prior_recon_state", "prior_recon_action", "reward", "continuation"), sum(LENGTHS) - 4)
    for name in LOSSES:
        th.testing.assert_close(got[name], sums[name] / counts[name], atol=1e-5, rtol=1e-4, msg=name)


def test_which_weights_the_kl_trains() -> None:
    """alpha 1 leaves of the posterior's gradient what comes through s_{t-1}; alpha 0 leaves the prior none."""
    rows = rows_of([2, 2])
    for alpha, prior_trained in ((1.0, True), (0.0, False)):
        model = make(**{"world_model.alpha": alpha})
        loss_dict(model, rows, **data(rows))["kl"].backward()
        assert bool(model.prior_mean.weight.grad.any()) is prior_trained
        assert model.post[0].weight.grad.any()


def test_what_the_prior_must_remember_is_a_fixed_target() -> None:
    """With a prior that is deaf to s_{t-1}, nothing of prior_recon_state is left for the posterior."""
    model, rows = make(), rows_of(LENGTHS)
    with th.no_grad():
        model.enc_s.weight.zero_()
        model.enc_s.bias.fill_(-1.0)  # closes the ReLU
    loss_dict(model, rows, **data(rows))["prior_recon_state"].backward()
    assert model.prior_mean.weight.grad.any() and model.dec_prev_state[0].weight.grad.any()
    assert all(p.grad is None or not p.grad.any() for p in model.post.parameters())


def test_noise_is_drawn_from_the_posterior_and_the_prior() -> None:
    model, rows = make(), rows_of(LENGTHS)
    d = data(rows)
    first, second = loss_dict(model, rows, **d), loss_dict(model, rows, **d)
    assert all(th.equal(first[name], second[name]) for name in LOSSES)
    other = model.losses(model.posterior(d["h"], d["zsa"]), rows, **d)  # the generator has moved on
    assert all(not th.equal(first[name], other[name]) for name in LOSSES)


def test_the_reward_of_the_step_that_led_there() -> None:
    """The terminal observation's own reward, and a first step's predecessor in another episode, count nowhere."""
    model, rows = make(), rows_of(LENGTHS)
    d = data(rows)
    before = loss_dict(model, rows, **d)
    ends = th.tensor(LENGTHS).cumsum(0) - 1
    moved = d["reward"].clone()
    moved[ends] += 100
    actions = d["actions"].clone()
    actions[ends] = (actions[ends] + 1) % A
    after = loss_dict(model, rows, **(d | {"reward": moved, "actions": actions}))
    assert all(th.equal(before[name], after[name]) for name in LOSSES)
    moved[0] += 100
    assert not th.equal(loss_dict(model, rows, **(d | {"reward": moved}))["reward"], before["reward"])


# --- availability ---
def test_masks_are_learnt_once_one_was_seen() -> None:
    model, rows = make(), rows_of(LENGTHS)
    free, masked = data(rows, all_available=True), data(rows)
    s = th.randn(8, N, D)
    assert loss_dict(model, rows, **free)["avail"] == 0 and model.decode_avail(s) is None
    assert loss_dict(model, rows, **masked)["avail"] > 0 and model.decode_avail(s).dtype == th.bool
    assert loss_dict(model, rows, **free)["avail"] > 0  # remembered
    copy = make()
    copy.load_state_dict(model.state_dict())
    assert copy.decode_avail(s) is not None  # in checkpoints too
    assert th.equal(model.decode_avail(s), model.dec_avail(s) >= 0)


def test_a_single_unavailable_action_is_enough() -> None:
    model, rows = make(), rows_of(LENGTHS)
    d = data(rows, all_available=True)
    d["avail"][4, 1, 2] = False
    assert loss_dict(model, rows, **d)["avail"] > 0


# --- weights of 0 ---
@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_0_builds_neither_loss_nor_decoder(name: str) -> None:
    full, model, rows = make(), make(**{f"loss_weights.{name}": 0.0, "imagination.horizon": 1}), rows_of(LENGTHS)
    assert set(loss_dict(model, rows, **data(rows))) == set(LOSSES) - {name}
    gone = {key.partition(".")[0] for key in full.state_dict()} - {key.partition(".")[0] for key in model.state_dict()}
    assert gone == ({DECODERS[name]} if name in DECODERS else set())


def test_without_embeddings_none_is_read() -> None:
    model = make(zs_dim=0)
    assert model.enc_z is None and model.post[0].in_features == H
    posterior = model.posterior(th.randn(8, N, H), None)
    assert model.next_mean(posterior.mean, th.zeros(8, N, dtype=th.long), None).shape == (8, N, D)
