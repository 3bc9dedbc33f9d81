"""Parts of an update that don't wait for each other, at the same time.

torch's own threads share out single operations; an update is made of a thousand short ones, and between any two of them
the threads wait for each other. Two threads that each follow their own part of the update meet a few times instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch as th

T = TypeVar("T")


class Beside:
    """`wait = beside(f)` starts f in a second thread; `wait()` gives its value or raises its error.

    With one thread f is called at once, and every value is the same to the bit. f keeps the caller's gradient mode.
    Only one of the two sides may draw random numbers.
    """

    def __init__(self, threads: int = 1) -> None:
        """`threads`: those that torch may use here, shared out to both sides."""
        self._pool: ThreadPoolExecutor | None = None
        if threads > 1:
            th.set_num_threads(threads // 2)
            self._pool = ThreadPoolExecutor(1, "mmsa-beside", initializer=th.set_num_threads, initargs=(threads // 2,))

    def __call__(self, f: Callable[[], T]) -> Callable[[], T]:
        if self._pool is None:
            value = f()
            return lambda: value
        with_gradient = th.is_grad_enabled()

        def call() -> T:
            with th.set_grad_enabled(with_gradient):
                return f()

        future = self._pool.submit(call)
        return lambda: call() if future.cancel() else future.result()  # not begun: sooner done here

    def share(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The values of all calls, of which every second one is made on the other side."""
        waits = [self(call) for call in calls[1::2]]
        own = [call() for call in calls[::2]]
        others = [wait() for wait in waits]
        return [(others if i % 2 else own)[i // 2] for i in range(len(calls))]
