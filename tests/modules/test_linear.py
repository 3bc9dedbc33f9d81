"""The loops' products against torch's own in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch as th
from torch.nn import functional as F

from modules import compiled
from modules import linear as module
from modules.linear import MIN_WORK, Linear, linear, weight_gradient

ROWS = 4096
SIZES = [(64, 64), (30, 128), (128, 30), (400, 1), (7, 64)]  # (K, O)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops' products, on processors where MKL's would be taken, too."""
    monkeypatch.setattr(module, "SLOW_MKL", True)


def case(k: int, o: int, lead: tuple[int, ...], bias: bool) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
    g = th.Generator().manual_seed(0)
    x, w, b = th.randn(*lead, k, generator=g), th.randn(o, k, generator=g), th.randn(o, generator=g)
    return x, w, b if bias else None


@pytest.mark.usefixtures("loops")
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


@pytest.mark.usefixtures("loops")
def test_operands_that_are_no_blocks_of_memory() -> None:
    x, w, b = case(100, 128, (ROWS,), True)
    for own, weight in ((x.t().contiguous().t(), w), (x[:, :64], w[:, 30:94]), (x[::2], w[::2, :])):
        width = weight.shape[0]
        assert own.shape[0] * own.shape[1] * width >= MIN_WORK
        wanted = F.linear(own.double(), weight.double(), b.double()[:width])
        th.testing.assert_close(linear(own, weight, b[:width]).double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(("k", "o"), SIZES)
def test_gradient_of_a_weight(k: int, o: int) -> None:
    x, _, _ = case(k, o, (ROWS,), False)
    grad = th.randn(ROWS, o, generator=th.Generator().manual_seed(2))
    wanted = grad.double().t() @ x.double()
    th.testing.assert_close(weight_gradient(grad, x).double(), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("loops")
def test_a_vector_is_torchs() -> None:
    layer = Linear(1024, 1024)
    layer(th.ones(1024)).sum().backward()
    assert layer.weight.grad is not None and th.equal(layer.weight.grad, th.ones(1024, 1024))


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_small_products_and_other_types_are_torchs(dtype: th.dtype) -> None:
    layer = Linear(5, 3).to(dtype)
    x = th.randn(4, 5, dtype=dtype)
    assert th.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert type(layer(x).grad_fn).__name__ == "AddmmBackward0"


def test_the_loops_are_amds_with_avx512() -> None:
    """There MKL takes AVX2; without AVX-512 its calls cost less than theirs."""
    amd = Path("/proc/cpuinfo").exists() and "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    assert module.SLOW_MKL == (amd and th.backends.cpu.get_cpu_capability() == "AVX512")


@pytest.mark.parametrize("rows", [0, 1, 127, 128, 129, 1000])
@pytest.mark.parametrize(("k", "o"), [(64, 64), (3, 5), (300, 400), (1200, 1000)])
def test_products_in_blocks(rows: int, k: int, o: int) -> None:
    """Whatever the number of rows and the size of a block, which is a row where the matrix is large."""
    x, w, b = (t.numpy() for t in case(k, o, (rows,), True) if t is not None)
    w = np.ascontiguousarray(w.T)
    exact = x.astype(np.float64) @ w
    out = np.full((rows, o), np.nan, np.float32)
    compiled.product(x, w, out)
    np.testing.assert_allclose(out, exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(compiled.affine(x, w, b), exact + b, rtol=1e-4, atol=1e-4)
    grad = np.random.default_rng(0).standard_normal((rows, o), np.float32)
    np.testing.assert_allclose(compiled.product_gradient(x, grad), x.T.astype(np.float64) @ grad, rtol=1e-4, atol=1e-3)
