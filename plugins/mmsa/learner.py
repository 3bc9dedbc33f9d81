"""MMSA's learner: representation, world model, imagination and value in one update (arXiv 2602.12520).

Shapes: B episodes, T steps (the last index of an episode holds only its bootstrap observation), R valid steps, S
transitions, N agents, A actions, G global state, H hidden, Z embedding, D latent, E roll-out embedding, C mixer
context.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch as th
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from .agent import Choice, MMSAAgent, joined
from .beside import Beside
from .config import MMSAConfig, check
from .controller import MMSAController
from .diagnostics import open_loop, reliance
from .guard import Guard
from .imagination import imagine
from .networks import Group, Networks
from .returns import RewardStandardiser, Rows, q_lambda
from .sale import SALE
from .world_model import DECODED, Gaussian, WorldModel
from .world_model import LOSSES as WORLD_MODEL_LOSSES


class Packed(NamedTuple):
    """The valid steps of a batch: state (R, G), obs (R, N, O), x (R, N, I), actions (R, N),
    avail (R, N, A) bool, reward and terminated (R,).
    """

    state: Tensor
    obs: Tensor
    x: Tensor
    actions: Tensor
    avail: Tensor
    reward: Tensor
    terminated: Tensor


class Seen(NamedTuple):
    """What the world model was trained on: h (R, N, H) of the target trunk, zs (R, N, Z) fixed."""

    rows: Rows
    data: Packed
    h: Tensor
    zs: Tensor | None


class MMSALearner:
    """The host's learner contract: `train`, `cuda`, `save_models`, `load_models`, and to resume a run `state_dict` and
    `load_state_dict`.

    Three copies of SALE: `sale` (online, trained), `mac.agent.sale` (fixed: acts, and feeds Q and the world model) and
    `target.mac.agent.sale` (fixed_target: feeds the target Q).
    """

    def __init__(self, mac: MMSAController, scheme: dict[str, Any], logger: Any, args: SimpleNamespace) -> None:
        check(vars(args))
        self.args, self.logger, self.cfg = args, logger, MMSAConfig.from_args(args)
        cfg = self.cfg
        self.mac = mac
        self.online = Networks.build(mac, args, cfg)
        self.target = copy.deepcopy(self.online)
        if cfg.imagination.target == "online":  # one roll-out serves both mixers
            self.target = self.target._replace(model=None, rollout=None)
        self.sale: SALE | None = None
        if mac.agent.sale is not None:
            self.sale = copy.deepcopy(mac.agent.sale).requires_grad_(True)
        self.beside = Beside(1 if args.use_cuda else getattr(args, "torch_threads", 1))  # upstream has no such key
        self.apart = cfg.imagination.grad != "full"  # TD trains nothing that another loss trains

        self.groups = self._groups()
        self.optimiser = th.optim.Adam(
            [{"params": group.params, "lr": group.lr} for group in self.groups.values()], fused=True
        )
        absent: tuple[str, ...] = () if self.online.model is not None else WORLD_MODEL_LOSSES
        absent += () if self.sale is not None else ("sale",)
        weights = cfg.loss_weights.model_dump()
        self.weights = {name: weight for name, weight in weights.items() if weight and name not in absent}
        # A host that standardises rewards itself says so in the scheme.
        own = args.standardise_rewards and not scheme["reward"].get("standardised", False)
        self.standardise = RewardStandardiser() if own else None
        hard = args.target_update_interval_or_tau
        self.sale_interval = cfg.sale.update_interval or (int(hard) if hard > 1 else 200)
        self.training_steps = 0
        self.guard: Callable[[dict[str, Tensor], dict[str, Tensor]], bool] = Guard()  # or the host's own
        self.log_stats_t = -args.learner_log_interval - 1

    def _groups(self) -> dict[str, Group]:
        args, cfg, (mac, mixer, model, rollout) = self.args, self.cfg, self.online
        value = [mac.agent.trunk, mac.agent.head, mixer, *([rollout] if rollout is not None else [])]
        groups = {"value": Group.of(value, args.lr, args.grad_norm_clip)}
        if model is not None:
            groups["world_model"] = Group.of([model], args.lr, args.grad_norm_clip)
        if self.sale is not None:
            groups["sale"] = Group.of([self.sale], cfg.sale.lr, cfg.sale.grad_norm_clip)
        return groups

    def train(self, batch: Any, t_env: int, episode_num: int) -> None:
        """One update on a sampled batch of episodes. Logs every `learner_log_interval` environment steps."""
        losses, stats, seen = self.losses(batch)  # 1. best actions, 2. imagination, 3. model, 4. value
        assert losses.keys() == self.weights.keys(), (losses.keys(), self.weights.keys())
        weighted = {name: self.weights[name] * loss for name, loss in losses.items()}

        # 5. Gradients, and metrics of the networks that they are of
        self.optimiser.zero_grad()
        self._backward(weighted)
        norms = {name: clip_grad_norm_(own.params, own.clip, foreach=True) for name, own in self.groups.items()}
        if not self.guard(losses, norms):
            return
        if t_env - self.log_stats_t >= self.args.learner_log_interval:
            self._log(_total(weighted.values()), losses, norms, stats, seen, t_env)
            self.log_stats_t = t_env

        # 6. One optimisation step, then targets and encoder copies
        self.optimiser.step()
        self.training_steps += 1
        self.update_targets()

    def losses(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Seen]:
        """Every loss, unweighted, by name, and the detached tensors that the metrics are computed from."""
        online, target = self.online, self.target
        agent, target_agent = online.mac.agent, target.mac.agent
        rows = Rows(batch["filled"][..., 0], batch["burn_in"][..., 0] if "burn_in" in batch.scheme else None)
        data = self._pack(batch, rows)

        # 1. Hidden states and embeddings by both networks, and the best actions
        targets = self.beside(lambda: self._target_side(data, rows))
        h = agent.trunk.unroll(data.x, rows)  # (R, N, H)
        zs = agent.zs(data.obs, h.detach())  # (R, N, Z), fixed
        target_h, target_zs = targets()  # fixed_target
        choice = self._greedy(agent, h.detach(), zs, data.avail, data.actions)  # and zsa of the actions taken
        taken_zsa = None if choice.taken_zsa is None else choice.taken_zsa.view_as(_some(zs))
        preferred = choice.actions.view_as(data.actions)
        seen = Seen(rows, data, target_h, zs)

        # 2. Imagination: K greedy latent steps from every real one
        posterior: Gaussian | None = None
        if online.model is not None:
            online.model.see(data.avail)
            posterior = online.model.posterior(target_h, zs)
        states, target_states = self._imagined(seen, target_zs, choice, posterior)

        # 3. Representation and world model
        model = (self.beside if self.apart else Beside())(
            lambda: self._model_losses(seen, h.detach(), posterior, taken_zsa)
        )

        # 4. Value: mixed double-Q TD loss on [state; roll-out]
        context, next_context = self._contexts(data.state, states, target_states)  # (R, C)
        q_taken = agent.head.chosen(*_flat(h, data.actions, zs, taken_zsa))
        q_tot = online.mixer(q_taken.view_as(data.actions), context).squeeze(1)  # (R,), meaningful where a step follows
        with th.no_grad():
            if not self.args.double_q:
                choice = self._greedy(target_agent, target_h, target_zs, data.avail)
            flat_h, flat_zs, best = *_flat(target_h, target_zs), choice.actions
            best_zsa = None if target_agent.sale is None else target_agent.sale.g(flat_zs, best)
            q_best = target_agent.head.chosen(flat_h, best, flat_zs, best_zsa)
            value = target.mixer(q_best.view_as(data.actions), next_context).squeeze(1)  # (R,)
            src = rows.src
            reward, terminated, next_value = (
                rows.unpack_transitions(x) for x in (data.reward[src], data.terminated[src], value[src + 1])
            )
            returns = q_lambda(reward, terminated, rows.mask, next_value, self.args.gamma, self.args.td_lambda)
            goal = rows.pack_transitions(returns)[rows.src_trained]
        q_tot = q_tot.index_select(0, rows.trained_src)
        td = q_tot - goal

        losses, online_zs = model()
        losses["td"] = (td**2).mean()
        stats = {"td": td.detach(), "q_tot": q_tot.detach(), "goal": goal, "src": rows.trained_src}
        stats["q_taken"], stats["preferred"] = q_taken.view_as(data.actions).detach(), preferred
        if online_zs is not None:
            stats["zs"] = online_zs.detach()
        if states is not None:
            stats["states"] = states.detach()
        return losses, stats, seen

    def _target_side(self, data: Packed, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """The target trunk's hidden states (R, N, H), and their embeddings (R, N, Z) by fixed_target."""
        agent = self.target.mac.agent
        with th.no_grad():
            h = agent.trunk.unroll(data.x, rows)
        return h, agent.zs(data.obs, h)

    def _model_losses(
        self, seen: Seen, h: Tensor, posterior: Gaussian | None, taken_zsa: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The losses of SALE and of the world model, and the embeddings (R, N, Z) that SALE is learning.

        h (R, N, H): of the online trunk; taken_zsa (R, N, Z): of the actions taken, fixed.
        """
        losses: dict[str, Tensor] = {}
        rows, data, fixed = seen.rows, seen.data, self.mac.agent.sale
        zs: Tensor | None = None
        if self.sale is not None:  # it predicts its next embedding
            zs = self.sale.zs(h if self.cfg.sale.input == "hidden" else data.obs)
            src = rows.trained_src
            current, successor = zs.index_select(0, src), zs.index_select(0, src + 1)
            losses["sale"] = self.sale.loss(current, data.actions.index_select(0, src), successor)
        if self.online.model is not None:  # two VAEs over the agents' hidden states
            dynamics = None
            if fixed is not None:
                with th.no_grad():
                    dynamics = fixed.dynamics(_some(seen.zs), data.actions, _some(taken_zsa))
            losses |= self.online.model.losses(
                _some(posterior), rows, seen.h, data.actions, dynamics, data.avail, data.reward, data.terminated
            )
        return losses, zs

    def _backward(self, weighted: dict[str, Tensor]) -> None:
        """The gradient of the sum."""
        # `avail` alone trains nothing until a mask was closed
        others = [loss for name, loss in weighted.items() if name != "td" and loss.requires_grad]
        if not self.apart or not others:
            _total(weighted.values()).backward()
            return
        wait = self.beside(_total(others).backward)
        weighted["td"].backward()
        wait()

    def _pack(self, batch: Any, rows: Rows) -> Packed:
        actions = batch["actions"][..., 0]
        last = None
        if self.args.obs_last_action:
            last = th.cat([th.full_like(actions[:, :1], -1), actions[:, :-1]], dim=1)
            last = rows.pack(last)
        obs, reward = rows.pack(batch["obs"]), rows.pack(batch["reward"]).squeeze(1)
        if self.standardise is not None:
            reward = reward.index_copy(0, rows.src, self.standardise(reward[rows.src]))
        return Packed(
            state=rows.pack(batch["state"]),
            obs=obs,
            x=self.mac.inputs(obs, last),
            actions=rows.pack(actions),
            avail=rows.pack(batch["avail_actions"]) != 0,
            reward=reward,
            terminated=rows.pack(batch["terminated"]).squeeze(1).to(reward.dtype),
        )

    def _imagined(
        self, seen: Seen, target_zs: Tensor | None, choice: Choice, posterior: Gaussian | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Latent states of the online roll-out, and of the target's where it has one: (K+1, R, N, D)."""
        online, target, cfg = self.online, self.target, self.cfg.imagination
        if online.model is None or posterior is None:
            return None, None
        with th.set_grad_enabled(cfg.grad == "full"):
            states = self._rolled_out(online.model, online.mac.agent, posterior.mean, seen.zs, choice)
        if target.model is None:
            return states, None
        with th.no_grad():
            agent, model = target.mac.agent, target.model
            first = self._greedy(agent, seen.h, target_zs, seen.data.avail)
            s = model.posterior(seen.h, target_zs).mean
            return states, self._rolled_out(model, agent, s, target_zs, first)

    def _greedy(
        self, agent: MMSAAgent, h: Tensor, zs: Tensor | None, avail: Tensor, taken: Tensor | None = None
    ) -> Choice:
        """`MMSAAgent.greedy` of rows (R, N), half of them on either thread; its fields are (R N, ...)."""
        halves = [
            partial(agent.greedy, *_flat(*(None if x is None else x[rows] for x in (h, zs, avail, taken))))
            for rows in _halves(h)
        ]
        return joined(self.beside.share(halves))

    def _rolled_out(self, model: WorldModel, agent: MMSAAgent, s: Tensor, zs: Tensor | None, first: Choice) -> Tensor:
        """`imagine`, half of the rows on either thread where no gradient is to flow back in one order."""
        cfg, n_agents = self.cfg.imagination, s.shape[1]

        def half(rows: slice) -> Tensor:
            agents = slice(rows.start * n_agents, rows.stop * n_agents)
            begin = Choice(first.actions[agents], None if first.zsa is None else first.zsa[agents], None)
            now = None if zs is None else zs[rows]
            return imagine(model, agent, s[rows], now, begin, cfg.horizon, cfg.zs == "encode")

        parts = _halves(s) if self.apart else [slice(0, len(s))]
        return th.cat(self.beside.share([partial(half, rows) for rows in parts]), dim=1)

    def _contexts(self, state: Tensor, states: Tensor | None, target_states: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the mixer and the target mixer see at every valid row: c = [state; e], each (R, C)."""
        if states is None or self.online.rollout is None:
            return state, state
        with th.set_grad_enabled(self.cfg.imagination.grad != "none"):
            e = self.online.rollout(states)
        next_e = e.detach()
        if target_states is not None and self.target.rollout is not None:
            with th.no_grad():
                next_e = self.target.rollout(target_states)
        if not self.cfg.mixer_state:
            return e, next_e
        return th.cat([state, e], dim=1), th.cat([state, next_e], dim=1)

    @th.no_grad()
    def update_targets(self) -> None:
        """Target networks, which have no part of SALE, and its copies: fixed_target <- fixed <- online (as in TD7)."""
        rate = self.args.target_update_interval_or_tau
        online = self.online.parts()
        pairs = [(old, online[name]) for name, old in self.target.parts().items()]
        if rate > 1:
            if self.training_steps % rate == 0:
                for old, new in pairs:
                    old.load_state_dict(new.state_dict())
        else:
            for old, new in pairs:
                for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True):
                    a.lerp_(b, rate)
        if self.sale is not None and self.training_steps % self.sale_interval == 0:
            fixed, fixed_target = _some(self.mac.agent.sale), _some(self.target.mac.agent.sale)
            fixed_target.load_state_dict(fixed.state_dict())
            fixed.load_state_dict(self.sale.state_dict())

    @th.no_grad()
    def _log(
        self,
        total: Tensor,
        losses: dict[str, Tensor],
        norms: dict[str, Tensor],
        stats: dict[str, Tensor],
        seen: Seen,
        t_env: int,
    ) -> None:
        n = self.args.n_agents  # upstream divides the team's values by N
        metrics = {
            "loss": total,
            "grad_norm": norms["value"],
            "td_error_abs": stats["td"].abs().mean(),
            "q_taken_mean": stats["q_tot"].mean() / n,
            "target_mean": stats["goal"].mean() / n,
        }
        metrics |= {f"mmsa_loss_{name}": loss for name, loss in losses.items()}
        metrics |= {f"mmsa_grad_norm_{name}": norm for name, norm in norms.items() if name != "value"}
        if "zs" in stats:
            zs, src = stats["zs"], stats["src"]
            metrics["mmsa_zs_spread"] = zs.std(0).mean()
            still = ((zs[src + 1] - zs[src]) ** 2).mean()
            predictions = 1 if self.sale is None or self.sale.g_joint is None else 2  # that the loss is a sum of
            if still > 1e-12:  # as in a game of one step it is not, whose observation never changes
                metrics["mmsa_sale_over_no_change"] = losses["sale"] / (predictions * still)
        for name, metric in metrics.items():
            self.logger.log_stat(name, metric.item(), t_env)
        data, states, (mac, mixer, model, rollout) = seen.data, stats.get("states"), self.online
        state = data.state if self.cfg.mixer_state else None
        found = reliance(mixer, rollout, stats["q_taken"], state, states, stats["goal"], stats["src"])
        if model is not None:
            played = data.actions, data.reward, stats["preferred"], self.cfg.imagination.zs == "encode"
            found |= open_loop(model, mac.agent, seen.rows, seen.h, seen.zs, *played)
        for name, value in found.items():
            self.logger.log_stat(f"mmsa_{name}", value, t_env)

    def cuda(self) -> None:
        self.mac.cuda()
        self.target.mac.cuda()
        for networks in (self.online, self.target):
            for part in networks.parts().values():
                part.cuda()
        if self.sale is not None:
            self.sale.cuda()

    def save_models(self, path: str) -> None:
        """Writes agent.th (what acting needs) and mmsa.th (everything else that was learned) into the folder."""
        self.mac.save_models(path)
        th.save(self._learned(), Path(path) / "mmsa.th")

    def load_models(self, path: str) -> None:
        """Reads what save_models wrote. Raises FileNotFoundError, or RuntimeError where parts or shapes differ."""
        rates = [group["lr"] for group in self.optimiser.param_groups]  # of this run, whatever the other one had
        self._learn(th.load(Path(path) / "mmsa.th", map_location=self.args.device, weights_only=True), str(path))
        self.mac.load_models(path)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Everything: a learner that loads it goes on as this one would."""
        return {**self._learned(), "agent": self.mac.agent.state_dict(), "log_stats_t": self.log_stats_t}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._learn(state, "the saved state")
        self.mac.agent.load_state_dict(state["agent"])
        self.log_stats_t = state["log_stats_t"]

    def _learned(self) -> dict[str, Any]:
        """What was learned, but for the agent: trunk, head, and the copy of SALE that they act with."""
        return {
            "kind": self._kind(),
            "online": {name: part.state_dict() for name, part in self._beyond_the_agent().items()},
            "target": {name: part.state_dict() for name, part in self.target.parts().items()},
            "sale": None if self.sale is None else self.sale.state_dict(),
            "fixed_target": None if self.sale is None else _some(self.target.mac.agent.sale).state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "training_steps": self.training_steps,
            "standardise": None if self.standardise is None else self.standardise.state_dict(),
        }

    def _beyond_the_agent(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.online.parts().items() if name not in ("trunk", "head")}

    def _kind(self) -> dict[str, bool | str]:
        """What decides which networks there are and what they read of a real step; weights would not always tell."""
        cfg = self.cfg
        kind: dict[str, bool | str] = {
            "sale.enabled": cfg.sale.enabled,
            "world_model.enabled": cfg.world_model.enabled,
            "mixer_state": cfg.mixer_state,
            "obs_last_action": self.args.obs_last_action,
            "obs_agent_id": self.args.obs_agent_id,
        }
        if cfg.sale.enabled:
            kind |= {f"sale.{key}": getattr(cfg.sale, key) for key in ("input", "scope", "normalise")}
        if cfg.world_model.enabled:
            kind["imagination.target"] = cfg.imagination.target
            kind |= {f"loss_weights.{name} > 0": getattr(cfg.loss_weights, name) > 0 for name in DECODED}
        return kind

    def _learn(self, state: dict[str, Any], source: str) -> None:
        for key, now in self._kind().items():
            if (was := state["kind"].get(key, now)) != now:
                raise RuntimeError(
                    f"{source} was trained with {key}: {was}, this configuration has {now}: "
                    "load it with the configuration that it was trained with"
                )
        for saved, parts in (("online", self._beyond_the_agent()), ("target", self.target.parts())):
            for name, part in parts.items():
                part.load_state_dict(state[saved][name])
        if self.sale is not None:
            self.sale.load_state_dict(state["sale"])
            _some(self.target.mac.agent.sale).load_state_dict(state["fixed_target"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.training_steps = state["training_steps"]
        if self.standardise is not None and state["standardise"] is not None:  # another host may have done it
            self.standardise.load_state_dict(state["standardise"])


def _total(losses: Iterable[Tensor]) -> Tensor:
    return sum(losses, th.zeros(()))


def _some(x: Any) -> Any:
    assert x is not None
    return x


def _halves(x: Tensor) -> list[slice]:
    """Both halves of its rows, of one row or on a GPU the whole."""
    n_rows = len(x)
    middle = n_rows if x.is_cuda else n_rows - n_rows // 2
    return [rows for rows in (slice(0, middle), slice(middle, n_rows)) if rows.stop > rows.start]


def _flat(*tensors: Tensor | None) -> tuple[Any, ...]:
    """(R, N, ...) -> (R N, ...): one row for each agent."""
    return tuple(None if x is None else x.flatten(0, 1) for x in tensors)
