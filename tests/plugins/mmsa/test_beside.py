"""Two sides of an update give what one after the other gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from support.mmsa import batch_of, build, weights

from mmsa import beside as module
from mmsa.beside import Beside


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Beside shares torch's threads out, for the whole process."""
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)


@pytest.fixture(params=[1, 2])
def beside(request: pytest.FixtureRequest, one_thread: None) -> Beside:
    return Beside(request.param)


def test_values_errors_and_gradient_mode(beside: Beside) -> None:
    assert beside(lambda: 7)() == 7
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0)()
    assert beside(th.is_grad_enabled)() is True
    with th.no_grad():
        assert beside(th.is_grad_enabled)() is False
    assert beside(th.is_grad_enabled)() is True


@pytest.mark.parametrize("n", range(6))
def test_shared_calls_keep_their_order(beside: Beside, n: int) -> None:
    assert beside.share([lambda i=i: i * i for i in range(n)]) == [i * i for i in range(n)]


def test_both_sides_work_at_the_same_time(one_thread: None) -> None:
    meet = threading.Barrier(2, timeout=20)
    assert len(set(Beside(2).share([lambda: (meet.wait(), threading.get_ident())[1]] * 2))) == 2
    here = threading.get_ident()
    assert Beside(1).share([threading.get_ident] * 2) == [here, here]


def test_torch_threads_are_shared_out(one_thread: None) -> None:
    for threads, each in ((2, 1), (3, 1), (4, 2)):
        both = Beside(threads).share([th.get_num_threads] * 2)
        assert both == [each, each]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"imagination.target": "copy", "sale.scope": "joint"},
        {"imagination.grad": "full"},
        {"sale.input": "hidden", "imagination.zs": "encode", "double_q": False},
        {"sale.enabled": False},
        {"world_model.enabled": False},
        {"world_model.enabled": False, "sale.enabled": False},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "defaults",
)
def test_updates_are_the_same_to_the_bit(
    changes: dict[str, Any], one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of them: weights and random stream, with one thread and with two."""
    seen: set[int] = set()
    original = Beside.__call__

    def spied(self: Beside, f: Any) -> Any:
        return original(self, lambda: (seen.add(threading.get_ident()), f())[1])

    monkeypatch.setattr(module.Beside, "__call__", spied)
    results = []
    for threads in (1, 2):
        seen.clear()
        learner = build(**changes, torch_threads=threads)
        batch = batch_of(learner)
        th.manual_seed(3)
        for step in range(10):
            learner.train(batch, step, step)
        results.append((weights(learner), th.rand(1)))
        assert threading.get_ident() in seen if threads == 1 else seen - {threading.get_ident()}
    (first, draw), (second, other_draw) = results
    assert th.equal(draw, other_draw)
    assert all(th.equal(first[name], second[name]) for name in first)
