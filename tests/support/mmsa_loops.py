"""One MMSA update written out from its equations: loops over episodes, steps, agents and actions, in float64.

Slow and plain on purpose. It shares nothing with the plugin but the keys of its configuration and the names of its
weights (`support.mmsa.weights`): "sale" is SALE's online copy, "online.sale" the fixed, "target.sale" the fixed target.
What is switched off has width 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch as th
from torch import Tensor
from torch.nn import functional as F

from mmsa.config import MMSAConfig

Gaussian = tuple[Tensor, Tensor]  # mean and log-variance, all agents side by side
VALUE, MODEL, SALE = ("online.trunk.", "online.head.", "online.mixer.", "online.rollout."), "online.model.", "sale."
NOTHING = th.zeros(0, dtype=th.float64)
MODEL_LOSSES = "kl", "prior_reg", "recon", "prior_recon_state", "prior_recon_action", "avail", "reward", "continuation"


class Episode(NamedTuple):
    """The filled steps of an episode. Lists are by step, then by agent."""

    burnt: list[bool]  # steps that only rebuild the hidden state
    acts: list[list[int]]
    avail: list[list[list[bool]]]
    state: Tensor
    reward: Tensor
    done: Tensor
    h: dict[str, list[list[Tensor]]]  # by network: "online", "target"
    zs: dict[str, list[list[Tensor]]]  # by copy: "sale", "online.sale", "target.sale"
    noise: list[Tensor]  # (step, N D), what the posterior's and the prior's samples are drawn with


def mean(xs: list[Tensor]) -> Tensor:
    return sum(xs, NOTHING.sum()) / max(len(xs), 1)


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p), summed over dimensions."""
    (m, v), (n, w) = q, p
    return 0.5 * (w - v + (v.exp() + (m - n) ** 2) / w.exp() - 1).sum()


def bce(logits: Tensor, y: Tensor) -> Tensor:
    return -(y * F.logsigmoid(logits) + (1 - y) * F.logsigmoid(-logits)).sum()


def sg(q: Gaussian) -> Gaussian:
    return q[0].detach(), q[1].detach()


class Loops:
    """MMSA's weights by name, its optimiser and what it remembers, from the weights and arguments of a learner."""

    def __init__(self, weights: dict[str, Tensor], args: SimpleNamespace) -> None:
        trained = (*VALUE, MODEL, SALE)
        self.w = {n: w.detach().double().clone().requires_grad_(n.startswith(trained)) for n, w in weights.items()}
        self.args, self.cfg = args, MMSAConfig.from_args(args)
        self.agents, self.n_actions = range(args.n_agents), args.n_actions
        self.updates, self.steps = 0, dict.fromkeys(self.w, 0)
        self.moments = {n: (th.zeros_like(w), th.zeros_like(w)) for n, w in self.w.items()}
        self.grads: dict[str, Tensor] = {}
        self.masks_closed = {"online": 0.0, "target": 0.0}  # share of these networks' weights from after one was seen
        self.terms: dict[str, list[Tensor]] = {}

    # --- layers ---
    def linear(self, name: str, x: Tensor) -> Tensor:
        y = self.w[f"{name}.weight"] @ x
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def chain(self, name: str, x: Tensor, act: Callable[[Tensor], Tensor] = F.relu) -> Tensor:
        """Layers name.0, name.2, ... with an activation between them; or the one layer `name`."""
        layers = [name] if f"{name}.weight" in self.w else [f"{name}.{k}" for k in (0, 2, 4)]
        for k, layer in enumerate(x for x in layers if f"{x}.weight" in self.w):
            x = self.linear(layer, act(x) if k else x)
        return x

    def gru(self, name: str, x: Tensor, h: Tensor) -> Tensor:
        from_x = self.w[f"{name}.weight_ih_l0"] @ x + self.w[f"{name}.bias_ih_l0"]
        from_h = self.w[f"{name}.weight_hh_l0"] @ h + self.w[f"{name}.bias_hh_l0"]
        (rx, zx, nx), (rh, zh, nh) = from_x.chunk(3), from_h.chunk(3)
        z = th.sigmoid(zx + zh)
        return (1 - z) * th.tanh(nx + th.sigmoid(rx + rh) * nh) + z * h

    def one_hot(self, i: int, n: int) -> Tensor:
        return th.eye(n, dtype=th.float64)[i]

    # --- SALE ---
    def norm(self, z: Tensor) -> Tensor:
        return z / z.abs().mean().clamp(min=1e-8) if self.cfg.sale.normalise else z

    def f(self, copy: str, x: Tensor) -> Tensor:
        return self.norm(self.chain(f"{copy}.f", x, F.elu)) if self.cfg.sale.enabled else NOTHING

    def g(self, copy: str, zs: Tensor, a: int) -> Tensor:
        x = F.elu(self.linear(f"{copy}.g.inp", th.cat([zs, self.one_hot(a, self.n_actions)])))
        return self.linear(f"{copy}.g.out", F.elu(self.linear(f"{copy}.g.mid", x)))

    def g_joint(self, copy: str, zs: list[Tensor], acts: list[int]) -> Tensor:
        return self.chain(f"{copy}.g_joint.net", th.cat(zs + [self.one_hot(a, self.n_actions) for a in acts]), F.elu)

    @th.no_grad()
    def dynamics(self, copy: str, zs: list[Tensor], acts: list[int]) -> list[Tensor]:
        """What the world model is told of the agents' step."""
        if not self.cfg.sale.enabled:
            return []
        if self.cfg.sale.scope == "joint":
            return [self.norm(z) for z in self.g_joint(copy, zs, acts).chunk(len(zs))]
        return [self.g(copy, z, a) for z, a in zip(zs, acts, strict=True)]

    # --- agent and mixer, of the networks `side` ---
    def q(self, side: str, h: Tensor, zs: Tensor, a: int) -> Tensor:
        head, direct = f"{side}.head", self.linear(f"{side}.head.direct", h)[a]
        if not self.cfg.sale.enabled:
            return direct
        x = self.linear(f"{head}.q1", th.cat([self.norm(self.linear(f"{head}.phi", h)), zs]))
        x = x + self.linear(f"{head}.zsa", self.g(f"{side}.sale", zs, a)) + self.w[f"{head}.action.weight"][:, a]
        return self.linear(f"{head}.q2", F.elu(x))[0] + direct

    @th.no_grad()
    def best(self, side: str, h: list[Tensor], zs: list[Tensor], avail: list[list[bool]]) -> list[int]:
        """The agents' best available actions, the no-op 0 where there is none."""
        found = []
        for i in self.agents:
            values = {a: self.q(side, h[i], zs[i], a) for a in range(self.n_actions) if avail[i][a]}
            found.append(max(values, key=values.__getitem__, default=0))
        return found

    def q_tot(self, side: str, qs: list[Tensor], c: Tensor) -> Tensor:
        mixer = f"{side}.mixer"
        w1 = self.chain(f"{mixer}.hyper_w1", c).abs().chunk(len(qs))
        hidden = sum((q * w for q, w in zip(qs, w1, strict=True)), self.linear(f"{mixer}.hyper_b1", c))
        return self.chain(f"{mixer}.hyper_w2", c).abs() @ F.elu(hidden) + self.chain(f"{mixer}.value", c)[0]

    # --- world model and imagination, of the networks `side` ---
    def posterior(self, side: str, h: list[Tensor], zs: list[Tensor]) -> Gaussian:
        each = [self.chain(f"{side}.model.post", th.cat([h[i], zs[i]])).chunk(2) for i in self.agents]
        return th.cat([m for m, _ in each]), th.cat([v for _, v in each]).clamp(-10, 4)

    def prior(self, side: str, s: Tensor | None, acts: list[int], zsa: list[Tensor]) -> Gaussian:
        """After s and its actions; None: nothing came before, and all that the network reads is 0."""
        model = f"{side}.model"
        x = th.zeros_like(self.w[f"{model}.trans.0.weight"][0])
        if s is not None:
            parts = [F.relu(self.linear(f"{model}.enc_s", s))] + [self.w[f"{model}.enc_a.weight"][a] for a in acts]
            x = th.cat(parts + [F.relu(self.linear(f"{model}.enc_z", z)) for z in zsa])
        x = F.relu(self.chain(f"{model}.trans", x))
        return self.linear(f"{model}.prior_mean", x), self.linear(f"{model}.prior_logvar", x).clamp(-10, 4)

    def each(self, decoder: str, s: Tensor) -> list[Tensor]:
        """What is decoded from each agent's own latent."""
        return [self.chain(decoder, part) for part in s.chunk(len(self.agents))]

    def imagined(self, side: str, e: Episode, t: int) -> Tensor:
        """e_t: K greedy steps by these networks, read by the roll-out GRU from the last to the present."""
        cfg, sale, dec, avail = self.cfg.imagination, f"{side}.sale", f"{side}.model.dec_", e.avail[t]
        h, zs, zsa = e.h[side][t], e.zs[sale][t], list[Tensor]()
        states = [self.posterior(side, e.h["target"][t], zs)[0]]
        for k in range(cfg.horizon):
            if k:
                with th.no_grad():
                    h = [th.tanh(x) for x in self.each(f"{dec}h", states[-1])]
                    zs = [self.f(sale, x) for x in h] if cfg.zs == "encode" else [self.norm(z) for z in zsa] or zs
                    avail = [[True] * self.n_actions for _ in h]
                    if self.masks_closed[side] >= 0.9 and self.cfg.loss_weights.avail:
                        avail = [(logits >= 0).tolist() for logits in self.each(f"{dec}avail", states[-1])]
            acts = self.best(side, h, zs, avail)
            zsa = self.dynamics(sale, zs, acts)
            states.append(self.prior(side, states[-1], acts, zsa)[0])
        out = th.zeros(cfg.embed_dim, dtype=th.float64)
        for s in reversed(states):
            out = self.gru(f"{side}.rollout.rnn", s if cfg.grad == "full" else s.detach(), out)
        return out.detach() if cfg.grad == "none" else out

    # --- the terms that each loss is the mean of ---
    def episode(self, batch: Any, b: int, noise: list[Tensor]) -> Episode:
        n = int(batch["filled"][b].sum())
        data = {key: batch[key][b, :n].double() for key in ("obs", "state", "reward", "terminated")}
        burnt = batch["burn_in"][b, :n, 0].bool().tolist() if "burn_in" in batch.scheme else [False] * n
        acts, avail = batch["actions"][b, :n, :, 0].tolist(), batch["avail_actions"][b, :n].bool().tolist()
        h: dict[str, list[list[Tensor]]] = {"online": [], "target": []}
        for side, hs in h.items():
            before = [th.zeros(self.args.hidden_dim, dtype=th.float64) for _ in self.agents]
            for t in range(n):
                for i in self.agents:
                    x = [data["obs"][t, i]]
                    if self.args.obs_last_action:
                        x.append(self.one_hot(acts[t - 1][i], self.n_actions) * (t > 0))
                    if self.args.obs_agent_id:
                        x.append(self.one_hot(i, len(self.agents)))
                    inputs = F.relu(self.linear(f"{side}.trunk.fc", th.cat(x)))
                    before[i] = self.gru(f"{side}.trunk.rnn", inputs, before[i])
                hs.append(list(before))
        h["target"] = [[x.detach() for x in row] for row in h["target"]]
        zs = {}
        for copy, side in (("sale", "online"), ("online.sale", "online"), ("target.sale", "target")):
            seen = [[x.detach() for x in row] for row in h[side]] if self.cfg.sale.input == "hidden" else data["obs"]
            zs[copy] = [[self.f(copy, x) for x in row] for row in seen]
        reward, done = data["reward"][:, 0], data["terminated"][:, 0]
        return Episode(burnt, acts, avail, data["state"], reward, done, h, zs, noise)

    def sale_term(self, e: Episode, t: int) -> Tensor:
        now, then = e.zs["sale"][t], [z.detach() for z in e.zs["sale"][t + 1]]
        loss = mean([(self.g("sale", now[i], e.acts[t][i]) - then[i]).square().mean() for i in self.agents])
        if self.cfg.sale.scope == "local":
            return loss
        return loss + (self.g_joint("sale", now, e.acts[t]) - th.cat(then)).square().mean()

    def add_model_terms(self, e: Episode, t: int, before: Tensor | None) -> Tensor:
        """Adds to every loss whose mean step t enters; returns the posterior's sample, `before` being the last one."""
        n, dec = len(self.agents), "online.model.dec_"
        h, zs, acts = e.h["target"][t], e.zs["online.sale"], e.acts[t - 1]
        q = self.posterior("online", h, zs[t])
        p = self.prior("online", before, acts, self.dynamics("online.sale", zs[t - 1], acts))
        s, s_prior = (m + noise[t] * (0.5 * v).exp() for (m, v), noise in zip((q, p), e.noise, strict=True))

        def add(name: str, term: Callable[[], Tensor]) -> None:
            if name in self.terms:
                self.terms[name].append(term())

        def from_prior(name: str) -> Tensor:
            return self.chain(dec + name, s_prior)

        if not e.burnt[t]:
            share = self.cfg.world_model.alpha
            balanced = share * kl(sg(q), p) + (1 - share) * kl(q, sg(p))
            add("kl", lambda: (balanced if self.cfg.world_model.kl_balancing else kl(q, p)) / n)
            add("prior_reg", lambda: kl(p, (th.zeros_like(s), th.zeros_like(s))) / n)
            add("recon", lambda: (th.cat(self.each(dec + "h", s)).tanh() - th.cat(h)).square().sum() / n)
            if self.masks_closed["online"]:
                y = th.tensor(e.avail[t]).flatten().double()
                add("avail", lambda: bce(th.cat(self.each(dec + "avail", s)), y) / n)
        if before is not None and not e.burnt[t] and not e.burnt[t - 1]:
            r, before = e.reward[t - 1], before.detach()
            add("prior_recon_state", lambda: (from_prior("prev_state") - before).square().sum() / n)
            add("prior_recon_action", lambda: F.cross_entropy(from_prior("prev_action").view(n, -1), th.tensor(acts)))
            add("reward", lambda: (from_prior("reward")[0] - r.sign() * r.abs().log1p()).square())
            add("continuation", lambda: bce(from_prior("continue"), 1 - e.done[t - 1]))
        return s

    def td_terms(self, e: Episode) -> list[Tensor]:
        online, target, last, terms = e.h["online"], e.h["target"], len(e.acts) - 1, []
        e_t = e_hat = [NOTHING] * (last + 1)
        if self.cfg.world_model.enabled:
            e_t = e_hat = [self.imagined("online", e, t) for t in range(last + 1)]
            if self.cfg.imagination.target == "copy":
                e_hat = [self.imagined("target", e, t) for t in range(last + 1)]
        chooser = "online" if self.args.double_q else "target"
        state, g = (e.state if self.cfg.mixer_state else e.state[:, :0]), NOTHING.sum()
        for t in reversed(range(last)):
            with th.no_grad():
                u, zs = t + 1, e.zs["target.sale"][t + 1]
                best = self.best(chooser, e.h[chooser][u], e.zs[f"{chooser}.sale"][u], e.avail[u])
                qs = [self.q("target", target[u][i], zs[i], best[i]) for i in self.agents]
                v = self.q_tot("target", qs, th.cat([state[u], e_hat[u]]))
                share = self.args.td_lambda if u < last else 0
                g = e.reward[t] + self.args.gamma * (1 - e.done[t]) * ((1 - share) * v + share * g)
            if not e.burnt[t]:
                qs = [self.q("online", online[t][i], e.zs["online.sale"][t][i], e.acts[t][i]) for i in self.agents]
                terms.append((self.q_tot("online", qs, th.cat([state[t], e_t[t]])) - g) ** 2)
        return terms

    # --- one update ---
    def losses(self, batch: Any, noise: list[Tensor]) -> dict[str, Tensor]:
        """Every loss that is built, unweighted. noise: that of the posterior's and the prior's samples, (rows, N D)."""
        filled = batch["filled"][..., 0].bool()
        if not batch["avail_actions"][filled].all():
            self.masks_closed["online"] = 1.0
        off = (() if self.cfg.world_model.enabled else MODEL_LOSSES) + (() if self.cfg.sale.enabled else ("sale",))
        self.terms = {name: [] for name, weight in self.cfg.loss_weights if weight and name not in off}
        sizes = filled.sum(1).tolist()
        for b, rows in enumerate(zip(*(x.double().split(sizes) for x in noise), strict=True)):
            e, s = self.episode(batch, b, list(rows)), None
            self.terms["td"] += self.td_terms(e)
            for t in range(sizes[b]):
                if self.cfg.world_model.enabled:
                    s = self.add_model_terms(e, t, s)
                if self.cfg.sale.enabled and t + 1 < sizes[b] and not e.burnt[t]:
                    self.terms["sale"].append(self.sale_term(e, t))
        return {name: mean(terms) for name, terms in self.terms.items()}

    def update(self, batch: Any, noise: list[Tensor]) -> dict[str, Tensor]:
        """Returns the losses; `grads` then holds the gradients that Adam was given, where there are any."""
        losses = self.losses(batch, noise)
        trained = {name: w for name, w in self.w.items() if w.requires_grad}
        total = sum((getattr(self.cfg.loss_weights, name) * loss for name, loss in losses.items()), NOTHING.sum())
        found = th.autograd.grad(total, list(trained.values()), allow_unused=True)
        grads = {name: grad for name, grad in zip(trained, found, strict=True) if grad is not None}
        sale, (lr, clip) = self.cfg.sale, (self.args.lr, self.args.grad_norm_clip)
        self.grads = {}
        for group, rate, most in ((VALUE, lr, clip), (MODEL, lr, clip), (SALE, sale.lr, sale.grad_norm_clip)):
            mine = {name: grad for name, grad in grads.items() if name.startswith(group)}
            length = sum((grad.square().sum() for grad in mine.values()), NOTHING.sum()).sqrt().item()
            self.grads |= {name: grad * min(1, most / (length + 1e-6)) for name, grad in mine.items()}
            self.adam(mine, rate)
        self.updates += 1
        self.follow()
        return losses

    @th.no_grad()
    def adam(self, names: Iterable[str], lr: float) -> None:
        for name in names:
            self.steps[name] += 1
            (m, v), n, grad = self.moments[name], self.steps[name], self.grads[name]
            m += 0.1 * (grad - m)
            v += 0.001 * (grad**2 - v)
            self.w[name] -= lr * m / (1 - 0.9**n) / ((v / (1 - 0.999**n)).sqrt() + 1e-8)

    @th.no_grad()
    def follow(self) -> None:
        """Targets first, then SALE's copies."""
        rate, every = self.args.target_update_interval_or_tau, self.cfg.sale.update_interval
        tau = rate if rate <= 1 else self.updates % int(rate) == 0
        for name, w in self.w.items():
            if name.startswith("target.") and not name.startswith("target.sale."):
                w += tau * (self.w[name.replace("target", "online", 1)] - w)
        self.masks_closed["target"] += tau * (self.masks_closed["online"] - self.masks_closed["target"])
        if self.updates % (every or (int(rate) if rate > 1 else 200)) == 0:
            for name in [name for name in self.w if name.startswith(SALE)]:
                self.w[f"target.{name}"].copy_(self.w[f"online.{name}"])
                self.w[f"online.{name}"].copy_(self.w[name])
