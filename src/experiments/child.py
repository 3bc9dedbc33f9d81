"""Start of a run's process: it is made to die with the process that started it, and then becomes the run.

python child.py PARENT_PID COMMAND... It is a script of its own since code between fork and exec is unsafe where the
parent has threads. Open files are kept, the lock of the run's folder among them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":  # elsewhere the run goes on by itself, and its lock keeps others from starting it again
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it starts in the background ignore it,
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # and a Ray worker blocks it; both would be inherited
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
