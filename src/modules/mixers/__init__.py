from __future__ import annotations

from typing import Any

from modules.mixers.qmix import QMixer
from modules.mixers.vdn import VDNMixer

# name -> class(args); forward(agent_qs (B, T, N), states (B, T, S)) -> (B, T, 1)
REGISTRY: dict[str, Any] = {"qmix": QMixer, "vdn": VDNMixer}
