"""The agent network: QMIX's recurrent trunk, and a head that reads SALE's embeddings (TD7's critic).

    h_t     = GRU(ReLU(Linear(x_t)))
    Q(., a) = q2(ELU(q1[AvgL1Norm(phi(h)); zs] + W zsa(a) + w_a)) + direct(h)_a

Shapes: M rows of single agents, R rows of whole teams, N agents, A actions, I inputs, H hidden, Z embedding, F features
of g, B episodes, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import NamedTuple

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MMSAConfig
from .kernels import Linear, compiled, elu, playing, unroll_gru
from .loops import every_value
from .returns import Rows
from .sale import SALE, ActionEncoder, Array, avg_l1_norm

UNAVAILABLE = -1e7  # finite: -inf times a weight of 0 would be NaN in the mixer
CHUNK = 16384  # (row, action) pairs evaluated at once: some 4 MB for each of their intermediates


class Trunk(nn.Module):
    """x -> h. Training unrolls whole sequences in one call, acting takes single steps; both use the same weights."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc = Linear(input_dim, hidden_dim)
        self.rnn = nn.GRU(hidden_dim, hidden_dim)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """x (M, I), h (M, H) -> next h (M, H)."""
        return th.gru_cell(F.relu(self.fc(x)), h, *self.rnn.all_weights[0])

    def unroll(self, x: Tensor, rows: Rows) -> Tensor:
        """x (R, N, I), packed -> h (R, N, H), from h = 0 at the start of each sequence."""
        (n_episodes, n_steps), n_agents = rows.shape, x.shape[1]
        features = F.relu(self.fc(x)).flatten(1)  # (R, N H)
        sequence = features.new_zeros(n_steps * n_episodes, features.shape[1]).index_copy(0, rows.time_major, features)
        h = unroll_gru(self.rnn, sequence.view(n_steps, n_episodes * n_agents, -1))  # (T, B N, H)
        return h.reshape(n_steps * n_episodes, -1).index_select(0, rows.time_major).view(len(rows), n_agents, -1)


class Folded(NamedTuple):
    """What evaluating every action takes from a head and g, adjoining linear layers made one. Stale once they learn.

    A weight has a row for each input; `loops.every_value` takes them in this order.
    """

    from_h: Tensor  # direct and phi side by side: (H, A + width)
    h_bias: Tensor  # (A + width,)
    from_zs: Tensor  # g's first layer and q1, their parts that read zs: (Z, F + width)
    zs_bias: Tensor  # (F + width,)
    from_phi: Tensor  # q1's part that reads phi (width, width)
    action: Tensor  # g's first layer, its part that reads the action (A, F)
    mid: Tensor  # g's second layer (F, F)
    mid_bias: Tensor  # (F,)
    out: Tensor  # g's last layer times W (F, width)
    offset: Tensor  # w_a, and the last layer's bias times W: (A, width)
    q2: Tensor  # (width,)
    q2_bias: Tensor  # (1,)


class Head(nn.Module):
    """h, zs and zsa(a) -> Q(., a). Without SALE only the linear part `direct` is left, which makes the agent QMIX's."""

    def __init__(self, hidden_dim: int, n_actions: int, cfg: MMSAConfig) -> None:
        super().__init__()
        self.direct = Linear(hidden_dim, n_actions)
        self.embedded = cfg.sale.enabled
        if self.embedded:
            width, dim = cfg.head.hidden_dim, cfg.sale.dim
            self.phi = Linear(hidden_dim, width)
            self.q1 = Linear(width + dim, width)
            self.zsa = Linear(dim, width, bias=False)  # W
            self.action = Linear(n_actions, width, bias=False)  # column a is w_a
            self.q2 = Linear(width, 1)
            # Normalised features are large: values of -1 and less at the start teach to end soon.
            if cfg.head.zero_init:
                nn.init.zeros_(self.q2.weight)
                nn.init.zeros_(self.q2.bias)
            self.normalised = cfg.sale.normalise
            self.normalise = avg_l1_norm if self.normalised else nn.Identity()

    def _state_part(self, h: Tensor, zs: Tensor) -> Tensor:
        return self.q1(th.cat([self.normalise(self.phi(h)), zs], dim=-1))

    def chosen(self, h: Tensor, actions: Tensor, zs: Tensor | None, zsa: Tensor | None) -> Tensor:
        """Q of one action in each row: h (M, H), actions (M,), zs and zsa (M, Z) -> (M,)."""
        q = self.direct(h).gather(1, actions.unsqueeze(1)).squeeze(1)
        if not self.embedded:
            return q
        assert zs is not None and zsa is not None
        x = self._state_part(h, zs) + self.zsa(zsa) + F.embedding(actions, self.action.weight.t())
        return q + self.q2(elu(x)).squeeze(1)

    @th.no_grad()
    def fold(self, g: ActionEncoder) -> Folded:
        """g's last layer and W are both linear: one matrix product. Layers that read the same are one, too."""
        width = self.phi.out_features
        from_phi, from_zs = self.q1.weight.split((width, g.dim), 1)
        first, action = g.first_layer()
        folded = Folded(
            from_h=th.cat([self.direct.weight, self.phi.weight]).t(),
            h_bias=th.cat([self.direct.bias, self.phi.bias]),
            from_zs=th.cat([first, from_zs]).t(),
            zs_bias=th.cat([g.inp.bias, self.q1.bias]),
            from_phi=from_phi.t(),
            action=action,
            mid=g.mid.weight.t(),
            mid_bias=g.mid.bias,
            out=(self.zsa.weight @ g.out.weight).t(),
            offset=self.action.weight.t() + self.zsa.weight @ g.out.bias,
            q2=self.q2.weight[0],
            q2_bias=self.q2.bias,
        )
        return Folded(*(weight.clone(memory_format=th.contiguous_format) for weight in folded))

    @th.no_grad()
    def all_actions(self, h: Tensor, zs: Tensor | None, folded: Folded | None) -> tuple[Tensor, Tensor | None]:
        """Q of every action, and the features of g whose last layer gives any action's zsa: (M, A), (M, A, F)."""
        if not self.embedded:
            return self.direct(h), None
        assert zs is not None and folded is not None
        if compiled is not None and compiled.runs(h):
            q, features = every_value(h.numpy(), zs.numpy(), self.normalised, *(weight.numpy() for weight in folded))
            return th.from_numpy(q), th.from_numpy(features)
        w = folded
        n_actions, n_features = w.action.shape
        direct, phi = th.addmm(w.h_bias, h, w.from_h).split((n_actions, len(w.q2)), 1)
        first, state = th.addmm(w.zs_bias, zs, w.from_zs).split((n_features, len(w.q2)), 1)
        state = state + self.normalise(phi) @ w.from_phi
        features = F.elu_(first.unsqueeze(1) + w.action)
        features = F.elu_(features @ w.mid + w.mid_bias)
        x = features @ w.out + state.unsqueeze(1) + w.offset
        return direct + (F.elu_(x) @ w.q2 + w.q2_bias), features

    def player(self, sale: SALE | None) -> Callable[[Array, Array], Array]:
        """`all_actions` for acting, by the weights of this moment: what SALE reads (M, I), h (M, H) -> Q (M, A)."""
        if sale is None:
            direct = playing.affine(self.direct.weight, self.direct.bias)
            return lambda _, h: direct(h)
        encode, weights = sale.player(), [weight.numpy() for weight in self.fold(sale.g)]

        def values(x: Array, h: Array) -> Array:
            q, _ = every_value(h, encode(x), self.normalised, *weights)
            return q

        return values


class Choice(NamedTuple):
    """Greedy actions (M,) and their zsa (M, Z); `taken_zsa` (M, Z) belongs to the actions that were asked about."""

    actions: Tensor
    zsa: Tensor | None
    taken_zsa: Tensor | None


def joined(parts: Iterable[Choice]) -> Choice:
    """The choices of consecutive rows as one."""
    fields = zip(*parts, strict=True)
    actions, zsa, taken_zsa = (None if any(x is None for x in field) else th.cat(field) for field in fields)
    assert actions is not None
    return Choice(actions, zsa, taken_zsa)


class MMSAAgent(nn.Module):
    """Trunk, head, and the copy of SALE that feeds the head.

    On the acting network that copy is `fixed`, on its target network `fixed_target`; no loss of this network reaches
    it. It meets the host's contract for agents, where inputs are [obs; last action; agent id].
    """

    def __init__(self, input_shape: int, args: SimpleNamespace) -> None:
        super().__init__()
        cfg = MMSAConfig.from_args(args)
        self.hidden_dim, self.n_actions = args.hidden_dim, args.n_actions
        self.obs_dim = input_shape - args.obs_last_action * args.n_actions - args.obs_agent_id * args.n_agents
        self.reads_hidden = cfg.sale.input == "hidden"
        self.trunk = Trunk(input_shape, args.hidden_dim)
        self.head = Head(args.hidden_dim, args.n_actions, cfg)
        self.sale: SALE | None = None
        if cfg.sale.enabled:
            sale_input = args.hidden_dim if self.reads_hidden else self.obs_dim
            self.sale = SALE(sale_input, args.n_agents, args.n_actions, cfg.sale).requires_grad_(False)

    def init_hidden(self) -> Tensor:
        """(1, H)."""
        return self.trunk.fc.weight.new_zeros(1, self.hidden_dim)

    def fold(self) -> Folded | None:
        """For `forward`, as long as no weight changes; None without SALE."""
        return None if self.sale is None else self.head.fold(self.sale.g)

    def forward(self, inputs: Tensor, hidden: Tensor, folded: Folded | None = None) -> tuple[Tensor, Tensor]:
        """Acting: inputs (M, I), hidden (M, H) -> Q of all actions (M, A), next hidden (M, H)."""
        h = self.trunk.step(inputs, hidden.reshape(-1, self.hidden_dim))
        zs = self.zs(inputs[..., : self.obs_dim], h)
        q, _ = self.head.all_actions(h, zs, folded or self.fold())
        return q, h

    def player(self) -> Callable[[Array, Array], tuple[Array, Array]]:
        """`forward` in compiled loops, for acting on the CPU as long as no weight changes; of the embedded host."""
        fc = playing.affine(self.trunk.fc.weight, self.trunk.fc.bias, compiled.affine_relu)
        cell, values = playing.gru_cell(self.trunk.rnn), self.head.player(self.sale)

        def step(x: Array, h: Array) -> tuple[Array, Array]:
            h = cell(fc(x), h)
            return values(h if self.reads_hidden else x[:, : self.obs_dim].copy(), h), h

        return step

    def zs(self, obs: Tensor, h: Tensor) -> Tensor | None:
        """zs by this network's copy of SALE, without gradient: obs (..., O), h (..., H) -> (..., Z); None without."""
        if self.sale is None:
            return None
        with th.no_grad():
            return self.sale.zs(h if self.reads_hidden else obs)

    @th.no_grad()
    def greedy(self, h: Tensor, zs: Tensor | None, avail: Tensor | None, taken: Tensor | None = None) -> Choice:
        """Best available action of each row, by this network and its copy of SALE.

        h (M, H), zs (M, Z), avail (M, A) bool (None: everything), taken (M,): actions whose zsa is wanted besides.
        A row with nothing available gets action 0, the no-op.
        """
        size, folded = max(1, CHUNK // self.n_actions), self.fold()
        slices = [slice(i, i + size) for i in range(0, h.shape[0], size)]
        return joined(self._greedy(rows, h, zs, avail, taken, folded) for rows in slices)

    def _greedy(
        self,
        rows: slice,
        h: Tensor,
        zs: Tensor | None,
        avail: Tensor | None,
        taken: Tensor | None,
        folded: Folded | None,
    ) -> Choice:
        q, features = self.head.all_actions(h[rows], None if zs is None else zs[rows], folded)
        best = q.argmax(1) if avail is None else masked_argmax(q, avail[rows])
        if features is None or self.sale is None:
            return Choice(best, None, None)
        g = self.sale.g
        first = th.arange(0, best.shape[0] * self.n_actions, self.n_actions, device=best.device)  # rows' first actions
        flat = features.flatten(0, 1)
        taken_zsa = None if taken is None else g.out(flat.index_select(0, first + taken[rows]))
        return Choice(best, g.out(flat.index_select(0, first + best)), taken_zsa)


def masked_argmax(q: Tensor, avail: Tensor) -> Tensor:
    """The best available action: q (..., A), avail (..., A) bool -> (...); 0, the no-op, where nothing is available."""
    best = q.masked_fill(~avail, UNAVAILABLE).argmax(-1)
    return best * avail.any(-1)
