"""Makes the helpers in tests/support importable: `from support.dummy_env import DummyVectorEnv`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch as th

sys.path.append(str(Path(__file__).parent))
th.set_num_threads(1)  # as in a run; small tensors gain nothing from more


@pytest.fixture
def gpu() -> Iterator[None]:
    """Tensors can be moved to "cuda": to a real GPU, or to one that is pretended (support/pretend_gpu.py)."""
    from support.pretend_gpu import pretended_gpu

    with nullcontext() if th.cuda.is_available() else pretended_gpu():
        yield
