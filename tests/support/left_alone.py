"""A process that is ended while, or after, another one works for it; both have its standard output.

    python left_alone.py SIGNAL BUSY GROUP MARK

SIGNAL: its number, sent once the other works. BUSY: the seconds that it works. GROUP: 1 to send it to both, as Ctrl-C.
MARK: a file that is made once the other works.
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from rlscaler_sim.aside import aside


def work(mark: Path, busy: float) -> None:
    """Leave a mark, and be busy."""
    mark.touch()
    time.sleep(busy)


def main() -> None:
    """Begin the work, and send the signal a little later."""
    number, busy, group, mark = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "1", Path(sys.argv[4])
    # What was begun in the background of a shell that has no jobs ignores Ctrl-C, and all that it begins.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.cpu_count = lambda: 2
    with aside(long=True) as begin:
        answer = begin(partial(work, mark, busy))
        while not mark.exists():
            time.sleep(0.01)
        if not busy:
            answer()
        os.kill(0 if group else os.getpid(), number)
        time.sleep(60)


if __name__ == "__main__":
    main()
