"""Work whose process is ended from outside, as by a kernel that is short of memory; elsewhere it is done."""

import os
import signal
from multiprocessing import parent_process


def here() -> int:
    """Return the process that this is, unless another one began it."""
    if parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()
