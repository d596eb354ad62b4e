"""A wall clock that a test sets for one process: a library, loaded before the C library, that shifts real time.

Monotonic and boot time, and with them every timeout of the process, stay as they are, as when a person or NTP sets the
clock of a machine.
"""

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift; /* seconds, written by the test while this runs */

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("STEPPED_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) shift = page;
    close(file);
}

int clock_gettime(clockid_t which, struct timespec *found) {
    int answer = syscall(SYS_clock_gettime, which, found);
    if (!answer && shift && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) found->tv_sec += *shift;
    return answer;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    struct timespec now;
    int answer = clock_gettime(CLOCK_REALTIME, &now);
    (void)zone;
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return answer;
}

time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
"""


def compiler() -> str | None:
    """Return the C compiler that makes the library, None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


class SteppedClock:
    """The wall clock of processes that are started with its `environment`.

    directory: takes the library; must exist. shift: seconds that it is ahead at the start. Raises CalledProcessError
    where the library cannot be made.
    """

    def __init__(self, directory: Path, shift: int = 0) -> None:
        """Make the library."""
        source, library, self._page = (directory / f"stepped_clock.{end}" for end in ("c", "so", "shift"))
        source.write_text(_SOURCE)
        subprocess.run(
            [compiler() or "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True
        )
        self._page.write_bytes(struct.pack("q", shift))
        self.shift = shift
        self.environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(self._page)}

    def step(self, seconds: int) -> None:
        """Set the clock forward, or back, in processes that run and in those that are started later."""
        self.shift += seconds
        with self._page.open("r+b") as file, mmap.mmap(file.fileno(), 8) as page:
            page[:] = struct.pack("q", self.shift)
