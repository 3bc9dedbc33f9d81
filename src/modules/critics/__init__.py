from __future__ import annotations

from functools import partial
from typing import Any

from modules.critics.value_critic import ValueCritic

# name -> class(scheme, args); cv: central, from the state; ac: from an agent's own observation; _ns: one for each agent
REGISTRY: dict[str, Any] = {
    "cv_critic": partial(ValueCritic, central=True, shared=True),
    "cv_critic_ns": partial(ValueCritic, central=True, shared=False),
    "ac_critic": partial(ValueCritic, central=False, shared=True),
    "ac_critic_ns": partial(ValueCritic, central=False, shared=False),
}
