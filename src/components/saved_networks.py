"""Where saved networks lie: one folder for each step at which they were saved, <checkpoint_path>/<step>."""

from __future__ import annotations

import os
from pathlib import Path


def find_checkpoint(folder: str, load_step: int) -> Path:
    """The subfolder, named by its step, that is nearest to load_step, or the last one where load_step is 0.

    :raises FileNotFoundError: where there is no such folder, or none in it.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"there is no folder {root}")
    steps = {int(path.name): path for path in sorted(root.iterdir()) if path.is_dir() and path.name.isdecimal()}
    if not steps and (root / "run.json").is_file():
        raise FileNotFoundError(
            f"{root} is the record of a run; its networks are in models/NAME of its local_results_path, where "
            "save_model=True kept them, and NAME is the unique_token in its info.json"
        )
    if not steps:
        inside = f"; {root} looks like one of them, name the folder above" if root.name.isdecimal() else ""
        raise FileNotFoundError(f"{root} has no subfolder named by a step number, such as 50000{inside}")
    return steps[max(steps) if load_step == 0 else min(steps, key=lambda step: abs(step - load_step))]
