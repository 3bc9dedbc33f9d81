"""oneDNN's products against torch's own in double precision."""

from __future__ import annotations

import pytest
import torch as th
from torch.nn import functional as F

from modules import linear as module
from modules.linear import MIN_WORK, Linear, linear, weight_gradient

ROWS = 4096
SIZES = [(64, 64), (30, 128), (128, 30), (400, 1), (7, 64)]  # (K, O)


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's products, on processors where MKL's would be taken, too."""
    if (operator := module._find_onednn()) is None:
        pytest.skip("this torch has no oneDNN operator")
    monkeypatch.setattr(module, "_onednn", operator)


def case(k: int, o: int, lead: tuple[int, ...], bias: bool) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
    g = th.Generator().manual_seed(0)
    x, w, b = th.randn(*lead, k, generator=g), th.randn(o, k, generator=g), th.randn(o, generator=g)
    return x, w, b if bias else None


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(ROWS,), (32, ROWS // 32)])
@pytest.mark.parametrize(("k", "o"), SIZES)
def test_value_and_gradients(k: int, o: int, lead: tuple[int, ...], bias: bool) -> None:
    assert ROWS * k * o >= MIN_WORK, "the fast path is not taken"
    given = [t.requires_grad_(True) for t in case(k, o, lead, bias) if t is not None]
    exact = [t.detach().double().requires_grad_(True) for t in given]
    y, wanted = linear(*given), F.linear(*exact)
    assert "Linear" in type(y.grad_fn).__name__ and y.grad_fn is not None
    at = th.randn(y.shape, generator=th.Generator().manual_seed(1))
    y.backward(at)
    wanted.backward(at.double())
    th.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-4)
    for own, reference in zip(given, exact, strict=True):
        assert own.grad is not None and reference.grad is not None
        scale = reference.grad.abs().max().item()
        th.testing.assert_close(own.grad.double(), reference.grad, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.usefixtures("onednn")
def test_operands_that_are_no_blocks_of_memory() -> None:
    x, w, b = case(100, 128, (ROWS,), True)
    for own, weight in ((x.t().contiguous().t(), w), (x[:, :64], w[:, 30:94]), (x[::2], w[::2, :])):
        width = weight.shape[0]
        assert own.shape[0] * own.shape[1] * width >= MIN_WORK
        wanted = F.linear(own.double(), weight.double(), b.double()[:width])
        th.testing.assert_close(linear(own, weight, b[:width]).double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize(("k", "o"), SIZES)
def test_gradient_of_a_weight(k: int, o: int) -> None:
    x, _, _ = case(k, o, (ROWS,), False)
    grad = th.randn(ROWS, o, generator=th.Generator().manual_seed(2))
    wanted = grad.double().t() @ x.double()
    th.testing.assert_close(weight_gradient(grad, x).double(), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_small_products_and_other_types_are_torchs(dtype: th.dtype) -> None:
    layer = Linear(5, 3).to(dtype)
    x = th.randn(4, 5, dtype=dtype)
    assert th.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert type(layer(x).grad_fn).__name__ == "AddmmBackward0"


def test_processors_without_avx512_keep_torchs_products() -> None:
    if th.backends.cpu.get_cpu_capability() != "AVX512":
        assert module._onednn is None
