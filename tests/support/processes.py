"""Which processes there are, by /proc."""

from __future__ import annotations

import time
from pathlib import Path


def _stat(pid: int) -> list[str]:
    """State, parent and more of a process; nothing where there is none, or where it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def alive(pid: int) -> bool:
    return bool(_stat(pid))


def children(pid: int) -> list[int]:
    """All processes below this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        if (fields := _stat(int(path.name))) and int(fields[1]) == pid:
            found += [int(path.name), *children(int(path.name))]
    return found


def gone(*pids: int, patience: float = 20.0) -> bool:
    """Whether they all end within so many seconds."""
    end = time.monotonic() + patience
    while any(map(alive, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
