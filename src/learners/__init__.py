from __future__ import annotations

from typing import Any

from learners.q_learner import QLearner

REGISTRY: dict[str, Any] = {"q_learner": QLearner}  # name -> class(mac, scheme, logger, args)
