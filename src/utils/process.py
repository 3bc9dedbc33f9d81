"""What every process of a run sets up before it computes."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch as th

from utils.allocator import keep_freed_memory


def prepare(args: SimpleNamespace) -> None:
    """Threads and memory of this process, and seeds of everything random in it."""
    th.set_num_threads(args.torch_threads)
    keep_freed_memory()
    th.backends.cudnn.allow_tf32 = False  # a GRU in full float32 on a GPU too
    random.seed(args.seed)
    np.random.seed(args.seed)
    th.manual_seed(args.seed)
