"""Imagined roll-outs: from every real step at once, K greedy steps in latent space (MBVD), with SALE inside.

    a_k      = argmax over available actions of the head
    s_{k+1}  = mean of the prior at (s_k, a_k, zsa_k)
    zs_{k+1} = AvgL1Norm(zsa_k)                      SALE predicts its own next embedding (imagination.zs: predict)
    e_t      = GRU over (s_K .. s_0), backwards      conditions the mixer

Imagined steps give no reward and no TD target.
Shapes: R rows of whole teams, N agents, D latent, H hidden, Z embedding, E roll-out embedding, K horizon.
"""

from __future__ import annotations

import torch as th
from torch import Tensor, nn

from .agent import Choice, MMSAAgent
from .kernels import unroll_gru
from .world_model import WorldModel


class RolloutEncoder(nn.Module):
    """e = last state of a GRU that reads the roll-out from its end to the present, so that the present is read last."""

    def __init__(self, n_agents: int, latent_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(n_agents * latent_dim, embed_dim)

    def forward(self, states: Tensor) -> Tensor:
        """states (K+1, R, N, D), the present first -> (R, E)."""
        return unroll_gru(self.rnn, states.flatten(2).flip(0), last=True)


@th.no_grad()
def decide(
    model: WorldModel, agent: MMSAAgent, s: Tensor, zsa: Tensor | None, encode: bool
) -> tuple[Tensor, Tensor | None, Choice]:
    """What the agents see at imagined states s (R, N, D), and do: h (R, N, H), zs (R, N, Z), greedy actions (R N,).

    zsa: (R, N, Z), the prediction that led there. encode: zs is f of h instead of it.
    """
    h, avail, zs = model.decode_hidden(s), model.decode_avail(s), None
    if agent.sale is not None and zsa is not None:
        zs = agent.sale.zs(h) if encode else agent.sale.normalise(zsa)
    choice = agent.greedy(
        h.flatten(0, 1),
        None if zs is None else zs.flatten(0, 1),
        None if avail is None else avail.flatten(0, 1),
    )
    return h, zs, choice


def imagine(
    model: WorldModel,
    agent: MMSAAgent,
    s: Tensor,
    zs: Tensor | None,
    first: Choice,
    horizon: int,
    encode: bool = False,
) -> Tensor:
    """Rolls `horizon` greedy steps forward and returns the latent states (K+1, R, N, D), the present first.

    Gradients flow along the chain of latent states as far as the caller lets them; never through actions, hidden
    states or embeddings.

    Args:
        model: the world model; agent: the network that acts, with its copy of SALE.
        s: (R, N, D) present latent. zs: (R, N, Z), None without SALE.
        first: greedy actions and zsa at the present, over the really available actions, for the rows (R N).
        encode: imagined embeddings are f of the decoded hidden state instead of SALE's own prediction.
    """
    sale, choice, states = agent.sale, first, [s]
    for k in range(horizon):
        actions, zsa = choice.actions.view(s.shape[:2]), None
        if sale is not None and zs is not None and choice.zsa is not None:
            with th.no_grad():
                zsa = sale.dynamics(zs, actions, choice.zsa.view_as(zs))
        s = model.next_mean(s, actions, zsa)
        states.append(s)
        if k + 1 < horizon:
            _, zs, choice = decide(model, agent, s, zsa, encode)
    return th.stack(states)
