"""The monotonic mixer."""

from __future__ import annotations

import pytest
import torch as th
from support.mmsa import mmsa_args

from mmsa.mixer import MMSAMixer
from modules.mixers.qmix import QMixer

HOST_NAMES = {"hyper_w1": "weights_in", "hyper_w2": "weights_out", "hyper_b1": "bias_in", "value": "value"}


def as_hosts(state: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
    """The mixer's weights under the names of the host's QMixer."""
    return {HOST_NAMES[name.partition(".")[0]] + name[name.index(".") :]: x for name, x in state.items()}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_q_tot_rises_with_every_agents_value(layers: int, scale: float) -> None:
    for seed in range(5):
        th.manual_seed(seed)
        mixer = MMSAMixer(mmsa_args(hypernet_layers=layers), 9)
        with th.no_grad():
            for p in mixer.parameters():
                p.copy_(scale * th.randn_like(p))
        qs = (scale * th.randn(200, 3)).requires_grad_()
        mixer(qs, scale * th.randn(200, 9)).sum().backward()
        assert (qs.grad >= 0).all() and (qs.grad > 0).float().mean() > 0.5


@pytest.mark.parametrize("layers", [1, 2])
def test_equals_the_hosts_qmix_on_the_state_alone(layers: int) -> None:
    args = mmsa_args(hypernet_layers=layers)
    mixer, qmix = MMSAMixer(args), QMixer(args)
    qmix.load_state_dict(as_hosts(mixer.state_dict()))
    qs, states = th.randn(4, 6, args.n_agents), th.randn(4, 6, args.state_shape)
    assert mixer(qs, states).shape == (4, 6, 1)
    th.testing.assert_close(mixer(qs, states), qmix(qs, states))


def test_the_context_matters_and_has_its_own_width() -> None:
    mixer = MMSAMixer(mmsa_args(), 9)
    qs, context = th.randn(5, 3), th.randn(5, 9)
    moved = context.clone()
    moved[:, 8] += 1
    assert (mixer(qs, context) != mixer(qs, moved)).all()


def test_hypernetworks_of_another_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="hypernet_layers = 3"):
        MMSAMixer(mmsa_args(hypernet_layers=3))
