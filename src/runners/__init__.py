from __future__ import annotations

from typing import Any

from runners.episode_runner import EpisodeRunner

# One runner over a vector env: "parallel" is "episode" with batch_size_run above 1.
REGISTRY: dict[str, Any] = {"episode": EpisodeRunner, "parallel": EpisodeRunner}
