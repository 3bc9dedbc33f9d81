from __future__ import annotations

from typing import Any

from controllers.basic_controller import BasicMAC

# Whether the agents share parameters is decided by the agent (rnn, rnn_ns), so both names mean the same class.
REGISTRY: dict[str, Any] = {"basic_mac": BasicMAC, "non_shared_mac": BasicMAC}
