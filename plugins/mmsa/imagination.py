"""Imagined roll-outs: from every real step at once, K greedy steps in latent space (MBVD), with SALE inside.

    a_k      = argmax over available actions of the head; where imagination.policy is latent, of the world model's copy
               of the agents' policy at s_k for k > 0 (I2A, Racaniere et al., NeurIPS 2017)
    x_{k+1}  = the world model's transition from (s_k, a_k, zsa_k)
    s_{k+1}  = mean of the prior at x_{k+1}
    r_{k+1}  = its reward at x_{k+1}                 where imagination.reward is on; r_0 = 0
    zs_{k+1} = AvgL1Norm(zsa_k)                      SALE predicts its own next embedding (imagination.zs: predict)
    e_t      = GRU over ([s_K; r_K] .. [s_0; r_0])   backwards; conditions the mixer

Imagined steps enter no return and no TD target.
Shapes: R rows of whole teams, N agents, D latent, H hidden, Z embedding, E roll-out embedding, K horizon, L = N D, and
one more with imagined rewards.
"""

from __future__ import annotations

import torch as th
from torch import Tensor, nn

from .agent import Choice, MMSAAgent
from .kernels import unroll_gru
from .world_model import WorldModel


class RolloutEncoder(nn.Module):
    """e = last state of a GRU that reads the roll-out from its end to the present, so that the present is read last."""

    def __init__(self, step_dim: int, embed_dim: int) -> None:
        """`step_dim`: L."""
        super().__init__()
        self.rnn = nn.GRU(step_dim, embed_dim)

    def forward(self, steps: Tensor) -> Tensor:
        """steps (K+1, R, L), the present first -> (R, E)."""
        return unroll_gru(self.rnn, steps.flip(0), last=True)


def imagine(
    model: WorldModel,
    agent: MMSAAgent,
    s: Tensor,
    h: Tensor,
    zs: Tensor | None,
    first: Choice,
    horizon: int,
    *,
    latent_policy: bool = False,
    encode: bool = False,
    reward: bool = False,
) -> Tensor:
    """Rolls `horizon` greedy steps forward and returns what was imagined, (K+1, R, L), the present first.

    Gradients flow along the chain of latent states as far as the caller lets them; never through actions, hidden
    states, embeddings or rewards.

    Args:
        model: the world model; agent: the network that acts, with its copy of SALE.
        s: (R, N, D) present latent. h: (R, N, H). zs: (R, N, Z), None without SALE.
        first: greedy actions and zsa at the present, over the really available actions, for the rows (R N).
        latent_policy: imagined states' actions are those of the world model's policy, instead of the head's at decoded
            hidden states.
        encode: imagined embeddings are f of the decoded hidden state instead of SALE's own prediction.
        reward: the last of L is the symlog of the reward that the model expects of the step that led there.
    """
    n_rows, n_agents = h.shape[:2]
    sale, choice, states = agent.sale, first, [s]
    rewards = [s.new_zeros(n_rows)]
    for k in range(horizon):
        actions = choice.actions.view(n_rows, n_agents)
        with th.no_grad():
            zsa = None
            if sale is not None and zs is not None and choice.zsa is not None:
                zsa = sale.dynamics(zs, actions, choice.zsa.view_as(zs))
        x = model.transition(s, actions, zsa)
        s = model.next_mean(x)
        states.append(s)
        if reward:
            with th.no_grad():
                rewards.append(model.decode_reward(x))
        if k + 1 == horizon:
            break
        with th.no_grad():
            if encode or not latent_policy:
                h = model.decode_hidden(s)
            if sale is not None and zsa is not None:
                zs = sale.zs(h) if encode else sale.normalise(zsa)
            flat_zs = None if zs is None else zs.flatten(0, 1)
            if latent_policy:
                preferred = model.preferred(s).flatten()
                choice = Choice(preferred, None if sale is None else sale.g(flat_zs, preferred), None)
            else:
                avail = model.decode_avail(s)
                choice = agent.greedy(h.flatten(0, 1), flat_zs, None if avail is None else avail.flatten(0, 1))
    steps = th.stack(states).flatten(2)
    return th.cat([steps, th.stack(rewards).unsqueeze(2)], dim=2) if reward else steps
