"""Makes the helpers in tests/support importable: `from support.dummy_env import DummyVectorEnv`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch as th

sys.path.append(str(Path(__file__).parent))
th.set_num_threads(1)  # as in a run; small tensors gain nothing from more
