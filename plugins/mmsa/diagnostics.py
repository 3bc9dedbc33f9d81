"""How far the world model can be trusted, and what the mixer makes of it.

Shapes: R valid steps of whole teams in the order (episode, step), N agents, H hidden, Z embedding, D latent, K horizon.
"""

from __future__ import annotations

import torch as th
from torch import Tensor

from .agent import MMSAAgent
from .imagination import RolloutEncoder, decide
from .mixer import MMSAMixer
from .returns import Rows
from .world_model import WorldModel, symexp

HORIZON = 10


@th.no_grad()
def open_loop(
    model: WorldModel,
    agent: MMSAAgent,
    rows: Rows,
    h: Tensor,
    zs: Tensor | None,
    actions: Tensor,
    reward: Tensor,
    preferred: Tensor,
    encode: bool = False,
    horizon: int = HORIZON,
) -> dict[str, float]:
    """Rolls the prior's mean `horizon` steps forward from every step, under the actions that were really taken.

    Args:
        h: (R, N, H), the target trunk's hidden states, which the model is trained to decode. zs: (R, N, Z) by the
            agent's copy of SALE. actions: (R, N), those taken. reward: (R,), of the step that starts at the row.
        preferred: (R, N), the actions that the agents prefer at the row. encode: as in `imagine`.

    Returns:
        For k = 1 .. horizon, as far as episodes reach: `open_loop_k`, mean squared error of the decoded hidden states
        after k steps, and `no_change_k`, that of predicting no change; `policy_k`, how often the action that an agent
        is imagined to prefer after k steps is the one that it prefers there. One step ahead, in the units that the
        model is trained in: `reward_imagined`, `reward_real` and, where both vary, their `reward_correlation`. What the
        model has no decoder for is left out.
    """
    sale, s = agent.sale, model.posterior(h, zs).mean
    episode = rows.first.long().cumsum(0)
    start = th.arange(len(rows), device=h.device)
    out: dict[str, float] = {}
    for k in range(1, (horizon if model.dec_h is not None else 1) + 1):
        # Rows whose k-th successor is a step of the same episode; they are a subset of those before.
        going_on = (start + k < len(rows)) & (episode[(start + k).clamp(max=len(rows) - 1)] == episode[start])
        if not going_on.any():
            break
        start, s = start[going_on], s[going_on]
        zs = None if zs is None else zs[going_on]
        taken, zsa = actions[start + k - 1], None
        if sale is not None and zs is not None:
            zsa = sale.g(zs.flatten(0, 1), taken.flatten()).view_as(zs)
            zsa = sale.dynamics(zs, taken, zsa)
        s = model.next_mean(s, taken, zsa)
        if model.dec_h is not None:
            now, then = h[start], h[start + k]
            imagined_h, zs, choice = decide(model, agent, s, zsa, encode)
            out[f"open_loop_{k}"] = (imagined_h - then).square().mean().item()
            out[f"no_change_{k}"] = (now - then).square().mean().item()
            out[f"policy_{k}"] = (choice.actions.view_as(taken) == preferred[start + k]).float().mean().item()
        if k == 1 and model.dec_reward is not None:
            imagined, real = symexp(model.dec_reward(s.flatten(1)).squeeze(1)), reward[start]
            out |= {"reward_imagined": imagined.mean().item(), "reward_real": real.mean().item()}
            if len(real) > 1 and imagined.std() > 0 and real.std() > 0:
                out["reward_correlation"] = th.corrcoef(th.stack([imagined, real]))[0, 1].item()
    return out


@th.no_grad()
def reliance(
    mixer: MMSAMixer,
    rollout: RolloutEncoder | None,
    q_taken: Tensor,
    state: Tensor | None,
    states: Tensor | None,
    goal: Tensor,
    src: Tensor,
) -> dict[str, float]:
    """What the mixer relies on: the squared TD error with a part of its context taken from another step, over the real.

    A part that it ignores gives 1 (permutation importance; Breiman, Machine Learning 2001). The permutation is the same
    for as many steps, so that nothing is drawn from the run's random numbers; steps of equal time don't stay together.

    Args:
        q_taken: (R, N), values of the actions taken. state: (R, G), None where the mixer does not see it.
        states: (K+1, R, N, D), the roll-outs' latent states, the present first; None without roll-outs.
        goal: (S,), what Q_tot of the rows `src` (S,), starts of transitions that enter losses, is trained towards.

    Returns:
        `td_other_state`, `td_other_rollout`, and `td_other_future`: the K imagined states alone; those that there are.
    """

    def error(state: Tensor | None, states: Tensor | None) -> float:
        parts = [] if state is None else [state]
        if rollout is not None and states is not None:
            parts.append(rollout(states))
        q_tot = mixer(q_taken, th.cat(parts, dim=1)).squeeze(1)
        return (q_tot.index_select(0, src) - goal).square().mean().item()

    other = th.randperm(len(q_taken), generator=th.Generator().manual_seed(0)).to(q_taken.device)
    others: dict[str, float] = {}
    if state is not None:
        others["td_other_state"] = error(state[other], states)
    if states is not None:
        others["td_other_rollout"] = error(state, states[:, other])
        if len(states) > 1:
            others["td_other_future"] = error(state, th.cat([states[:1], states[1:, other]]))
    real = max(error(state, states), 1e-12)
    return {name: other / real for name, other in others.items()}
