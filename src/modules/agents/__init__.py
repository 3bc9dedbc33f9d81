from __future__ import annotations

from functools import partial
from typing import Any

from modules.agents.rnn_agent import AgentGroup

# name -> class(input_shape, args)
REGISTRY: dict[str, Any] = {
    "rnn": partial(AgentGroup, shared=True),
    "rnn_ns": partial(AgentGroup, shared=False),
}
