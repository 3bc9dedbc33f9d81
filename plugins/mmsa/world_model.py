"""The world model: two VAEs over the agents' hidden states (MBVD, Xu et al., NeurIPS 2022), with SALE added.

    posterior  q(s_t | h_t, zs_t)                     what the team's latent state is, given what the agents have seen
    prior      p(s_t | s_{t-1}, a_{t-1}, zsa_{t-1})   what it is expected to be; rolls latent states forward

Shapes: R rows of whole teams in the order (episode, step), N agents, A actions, H hidden, Z embedding, D latent
width of an agent.
"""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LossWeights, WorldModelConfig
from .kernels import Linear, tanh
from .returns import Rows

LOGVAR_RANGE = (-10.0, 4.0)
LEARNT = 0.9  # share of a soft copy's weights from after masks were first closed, from which its decoder is asked
LOSSES = (
    "kl", "prior_reg", "recon", "prior_recon_state", "prior_recon_action", "avail", "reward", "continuation",
)  # fmt: skip
DECODED = LOSSES[2:]  # those that have a decoder


class Gaussian(NamedTuple):
    """A diagonal Gaussian by its mean and log-variance, both (R, N, D)."""

    mean: Tensor
    logvar: Tensor

    def sample(self) -> Tensor:
        """Reparametrised: gradients reach both parameters."""
        return self.mean + th.randn_like(self.mean) * (0.5 * self.logvar).exp()

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.logvar.detach())


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in float32, element by element: (R, N, D)."""
    q_mean, q_logvar, p_mean, p_logvar = (x.float() for x in (*q, *p))
    spread = q_logvar - p_logvar
    return 0.5 * (spread.exp() + (q_mean - p_mean) ** 2 * (-p_logvar).exp() - 1.0 - spread)


def balanced_kl(q: Gaussian, p: Gaussian, alpha: float) -> Tensor:
    """alpha KL(sg(q) || p) + (1 - alpha) KL(q || sg(p)) (DreamerV2): the plain KL in value, with shared gradients."""
    return alpha * kl_divergence(q.detach(), p) + (1.0 - alpha) * kl_divergence(q, p.detach())


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|) (DreamerV3): keeps targets of unknown scale in reach."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def _before(x: Tensor) -> Tensor:
    """Each row's predecessor; the first row, which has none and is masked like the first of any episode, stays."""
    return th.cat([x[:1], x[:-1]])


def _mlp(inp: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(Linear(inp, hidden), nn.ReLU(), Linear(hidden, out))


class WorldModel(nn.Module):
    """Posterior, prior and decoders. Agents share the posterior and the decoders of their own latents; the prior
    sees all agents side by side.
    """

    # (), 1 once a valid row had an unavailable action; of a soft copy the share of its weights from after that
    avail_seen: Tensor

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        hidden_dim: int,
        zs_dim: int,
        cfg: WorldModelConfig,
        weights: LossWeights,
    ) -> None:
        """`hidden_dim`: width of the agents' hidden states; `zs_dim`: width of SALE's embeddings, 0 without SALE."""
        super().__init__()
        self.n_agents, self.n_actions, self.dim = n_agents, n_actions, cfg.latent_dim
        self.weights = {name: getattr(weights, name) for name in LOSSES}
        self.cfg = cfg
        width, joint = cfg.hidden_dim, n_agents * cfg.latent_dim

        self.post = _mlp(hidden_dim + zs_dim, width, 2 * cfg.latent_dim)
        self.enc_s = Linear(joint, cfg.state_embed_dim)
        self.enc_a = nn.Embedding(n_actions, cfg.action_embed_dim)
        self.enc_z = Linear(zs_dim, cfg.zsa_embed_dim, bias=False) if zs_dim else None
        per_agent = cfg.action_embed_dim + (cfg.zsa_embed_dim if zs_dim else 0)
        self.trans = nn.Sequential(
            Linear(cfg.state_embed_dim + n_agents * per_agent, width), nn.ReLU(),
            Linear(width, width), nn.ReLU(),
        )  # fmt: skip
        self.prior_mean = Linear(width, joint)
        self.prior_logvar = Linear(width, joint)

        on = self.weights
        self.dec_h = _mlp(cfg.latent_dim, width, hidden_dim) if on["recon"] else None
        self.dec_avail = _mlp(cfg.latent_dim, width, n_actions) if on["avail"] else None
        self.dec_prev_state = _mlp(joint, width, joint) if on["prior_recon_state"] else None
        self.dec_prev_action = _mlp(joint, width, n_agents * n_actions) if on["prior_recon_action"] else None
        self.dec_reward = _mlp(joint, width, 1) if on["reward"] else None
        self.dec_continue = _mlp(joint, width, 1) if on["continuation"] else None
        # Until a mask was closed the decoder of masks learns nothing, and nothing asks it.
        self.register_buffer("avail_seen", th.zeros(()))

    def see(self, avail: Tensor) -> None:
        """Notes an unavailable action in valid rows (R, N, A): from then on masks are learned and asked for."""
        if self.dec_avail is not None and not self.avail_seen and not avail.all():
            self.avail_seen.fill_(1.0)

    def posterior(self, h: Tensor, zs: Tensor | None) -> Gaussian:
        """h (R, N, H), zs (R, N, Z) -> q(s | h, zs)."""
        mean, logvar = self.post(h if zs is None else th.cat([h, zs], dim=-1)).chunk(2, dim=-1)
        return Gaussian(mean, logvar.clamp(*LOGVAR_RANGE))

    def _transition(self, s: Tensor, actions: Tensor, zsa: Tensor | None, first: Tensor | None = None) -> Tensor:
        """The prior's features. `first` (R,): rows whose inputs all count as zero, since nothing came before them."""
        inputs = [F.relu(self.enc_s(s.flatten(1))), self.enc_a(actions).flatten(1)]
        if self.enc_z is not None and zsa is not None:
            inputs.append(F.relu(self.enc_z(zsa)).flatten(1))
        joined = th.cat(inputs, dim=1)
        if first is not None:
            joined = joined.masked_fill(first.unsqueeze(1), 0.0)
        return self.trans(joined)

    def prior(self, s: Tensor, actions: Tensor, zsa: Tensor | None, first: Tensor | None = None) -> Gaussian:
        """s (R, N, D), actions (R, N), zsa (R, N, Z) of the step before -> p(s' | s, a, zsa)."""
        x = self._transition(s, actions, zsa, first)
        logvar = self.prior_logvar(x).clamp(*LOGVAR_RANGE)
        return Gaussian(self.prior_mean(x).view_as(s), logvar.view_as(s))

    def next_mean(self, s: Tensor, actions: Tensor, zsa: Tensor | None) -> Tensor:
        """One imagined step: the prior's mean, (R, N, D)."""
        return self.prior_mean(self._transition(s, actions, zsa)).view_as(s)

    def decode_hidden(self, s: Tensor) -> Tensor:
        """s (R, N, D) -> the agents' hidden states (R, N, H), in (-1, 1) as a GRU's are."""
        assert self.dec_h is not None, "loss_weights.recon is 0"
        return tanh(self.dec_h(s))

    def decode_avail(self, s: Tensor) -> Tensor | None:
        """s (R, N, D) -> available actions (R, N, A) bool. None: all count as available, since no mask was ever
        closed, no decoder learns them, or a soft copy's is from before for a tenth or more.
        """
        if self.dec_avail is None or self.avail_seen < LEARNT:
            return None
        return self.dec_avail(s) >= 0.0

    def losses(
        self,
        posterior: Gaussian,
        rows: Rows,
        h: Tensor,
        actions: Tensor,
        zsa: Tensor | None,
        avail: Tensor,
        reward: Tensor,
        terminated: Tensor,
    ) -> dict[str, Tensor]:
        """Every loss with a weight above 0, unweighted, by name.

        KLs and squared errors are summed over an agent's features and averaged over agents and valid rows, the
        terminal observation included.

        Args:
            posterior: of the R valid rows. h: (R, N, H), the target trunk's hidden states.
            actions: (R, N), those taken; zsa: (R, N, Z), theirs.
            avail: (R, N, A) bool. reward, terminated: (R,), of the step that starts at the row.
        """
        prev, n = rows.trained_with_prev - 1, self.n_agents
        sample = posterior.sample()
        prior = self.prior(_before(sample), _before(actions), None if zsa is None else _before(zsa), rows.first)

        def over_rows(x: Tensor) -> Tensor:
            x = rows.only_trained(x)
            return x.sum() / (x.shape[0] * n)

        out: dict[str, Tensor] = {}
        on = self.weights
        if on["kl"]:
            balanced = self.cfg.kl_balancing
            kl = balanced_kl(posterior, prior, self.cfg.alpha) if balanced else kl_divergence(posterior, prior)
            out["kl"] = over_rows(kl)
        if on["prior_reg"]:
            standard = Gaussian(th.zeros_like(prior.mean), th.zeros_like(prior.logvar))
            out["prior_reg"] = over_rows(kl_divergence(prior, standard))
        if on["recon"]:
            out["recon"] = over_rows((self.decode_hidden(sample) - h) ** 2)
        if self.dec_avail is not None:
            if self.avail_seen:
                logits = self.dec_avail(sample)
                possible = avail.to(logits.dtype)
                out["avail"] = over_rows(F.binary_cross_entropy_with_logits(logits, possible, reduction="none"))
            else:
                out["avail"] = sample.new_zeros(())

        # What the prior's sample must remember of the step that led to it
        imagined = prior.sample().index_select(0, prev + 1).flatten(1)
        if self.dec_prev_state is not None:
            target = sample.detach().index_select(0, prev).flatten(1)
            out["prior_recon_state"] = F.mse_loss(self.dec_prev_state(imagined), target) * self.dim
        if self.dec_prev_action is not None:
            logits = self.dec_prev_action(imagined).unflatten(1, (n, self.n_actions))
            out["prior_recon_action"] = F.cross_entropy(logits.flatten(0, 1), actions.index_select(0, prev).flatten())
        if self.dec_reward is not None:
            out["reward"] = F.mse_loss(self.dec_reward(imagined).squeeze(1), symlog(reward.index_select(0, prev)))
        if self.dec_continue is not None:
            going_on = 1.0 - terminated.index_select(0, prev)
            out["continuation"] = F.binary_cross_entropy_with_logits(self.dec_continue(imagined).squeeze(1), going_on)
        return out
