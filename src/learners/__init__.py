from __future__ import annotations

from typing import Any

from learners.ppo_learner import PPOLearner
from learners.q_learner import QLearner

# name -> class(mac, scheme, logger, args)
REGISTRY: dict[str, Any] = {"q_learner": QLearner, "ppo_learner": PPOLearner}
