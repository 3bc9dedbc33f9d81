"""What is said where a package is missing. Imports nothing that could be."""

from __future__ import annotations

import sys
import traceback


def missing(error: ModuleNotFoundError) -> str:
    """The package, who asks for it, and how it gets there."""
    asking = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    place = f" ({asking[-1].filename}, line {asking[-1].lineno})" if asking else ""
    return (
        f"error: the package {error.name} is not installed for {sys.executable}{place}; in this folder: source "
        ".venv/bin/activate, which make setup makes, or pip install -e ."
    )
