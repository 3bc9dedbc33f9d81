"""The agents' network, with a GRU or feed-forward (`use_rnn`), shared by the agents or one for each.

Shapes: B episodes, T steps, N agents, I input size, H hidden_dim, A actions.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch as th
from torch import nn

from modules.agents.gru import step_gru, unroll_gru
from modules.agents.playing import Array, Player, affine, alternating, gru_cell
from modules.compiled import affine_relu
from modules.linear import Linear


class RNNAgent(nn.Module):
    """Linear, ReLU, GRU, Linear; without `use_rnn` a Linear and a ReLU stand in the GRU's place."""

    def __init__(self, input_shape: int, args: SimpleNamespace) -> None:
        super().__init__()
        hidden = args.hidden_dim
        self.fc1 = Linear(input_shape, hidden)
        self.rnn: nn.GRU | Linear = nn.GRU(hidden, hidden) if args.use_rnn else Linear(hidden, hidden)
        self.fc2 = Linear(hidden, args.n_actions)

    def forward(self, inputs: th.Tensor, h: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """One step: inputs (M, I), h (M, H) -> q (M, A), h (M, H)."""
        x = self.fc1(inputs).relu()
        rnn = self.rnn
        h = step_gru(rnn, x, h) if isinstance(rnn, nn.GRU) else rnn(x).relu()
        return self.fc2(h), h

    def player(self) -> Player:
        """`forward` in compiled loops, by the weights of this moment and of later ones; on the CPU only."""
        rnn = self.rnn
        fc1, fc2 = affine(self.fc1.weight, self.fc1.bias, affine_relu), affine(self.fc2.weight, self.fc2.bias)
        if isinstance(rnn, nn.GRU):
            cell = gru_cell(rnn)
        else:
            hidden = affine(rnn.weight, rnn.bias, affine_relu)
            cell = lambda x, _: hidden(x)  # noqa: E731

        def step(x: Array, h: Array) -> tuple[Array, Array]:
            h = cell(fc1(x), h)
            return fc2(h), h

        return step

    def unroll(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Whole sequences from h = 0: inputs (B, T, N, I) -> q (B, T, N, A), h (B, T, N, H)."""
        n_episodes, n_steps, n_agents, _ = inputs.shape
        x = self.fc1(inputs.transpose(0, 1)).relu().flatten(1, 2)  # (T, B*N, H): the layout in which a GRU is fastest
        rnn = self.rnn
        h = unroll_gru(rnn, x) if isinstance(rnn, nn.GRU) else rnn(x).relu()
        q = self.fc2(h)
        h = h.view(n_steps, n_episodes, n_agents, -1).transpose(0, 1)
        return q.view(n_steps, n_episodes, n_agents, -1).transpose(0, 1), h


class AgentGroup(nn.Module):
    """N agents with one network (`shared`) or with a network each; one code path, a list of 1 or N members."""

    def __init__(self, input_shape: int, args: SimpleNamespace, shared: bool = True) -> None:
        super().__init__()
        self.hidden_dim = args.hidden_dim
        self.members: Any = nn.ModuleList(RNNAgent(input_shape, args) for _ in range(1 if shared else args.n_agents))

    def init_hidden(self) -> th.Tensor:
        """(1, H) zeros on the network's device, or (N, H) of a network each."""
        return self.members[0].fc1.weight.new_zeros(len(self.members), self.hidden_dim)

    def forward(self, inputs: th.Tensor, h: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """One step: inputs (B*N, I), h (B*N, H) or (B, N, H) -> q (B*N, A), h (B*N, H); agents are the faster index."""
        n, h = len(self.members), h.reshape(-1, self.hidden_dim)
        if n == 1:
            return self.members[0](inputs, h)
        outputs = [member(inputs[i::n], h[i::n]) for i, member in enumerate(self.members)]
        q, h = (th.stack(part, 1).flatten(0, 1) for part in zip(*outputs, strict=True))
        return q, h

    def player(self) -> Player:
        """`forward` in compiled loops, by the weights of this moment and of later ones; on the CPU only."""
        players = [member.player() for member in self.members]
        return players[0] if len(players) == 1 else alternating(players)

    def unroll(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Whole sequences from h = 0: inputs (B, T, N, I) -> q (B, T, N, A), h (B, T, N, H)."""
        if len(self.members) == 1:
            return self.members[0].unroll(inputs)
        outputs = [member.unroll(inputs[:, :, i : i + 1]) for i, member in enumerate(self.members)]
        q, h = (th.cat(part, 2) for part in zip(*outputs, strict=True))
        return q, h
