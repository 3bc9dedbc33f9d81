from __future__ import annotations

from typing import Any

REGISTRY: dict[str, Any] = {}  # filled by plugins
