"""When kube-controller-manager's HPA controller decided and wrote, to the microsecond, as its log says.

It looks back from the moment at which it decides, and counts a write from the moment at which it has landed. An outside
view of both is late by as much as the machine is busy, and windows and periods end in between. The lines come with
`ARGUMENT`; the controller takes the time after the first kind and before the second, and a machine that stands still
in between makes them lie far apart.
"""

import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

ARGUMENT = "--vmodule=horizontal=4"
"""Makes the controller log each decision."""

_LINE = re.compile(
    r'I(?P<time>\d{4} \d\d:\d\d:\d\d\.\d+) .*? horizontal\.go:\d+\] "(?:'
    r'(?P<proposed>Proposing desired replicas).* scaleTarget="\w+/(?P<target>[^"]+)"'
    r'|Successfully rescaled" HPA="(?P<hpa>[^"]+)"'
    r'|Decided not to scale" scaleTarget="\w+/(?P<left>[^"]+)")'
)


class Acts(NamedTuple):
    """What was logged of one HPA: when it went on from its metrics to a decision, and when it had carried that out.

    Monotonic seconds, in their order.
    """

    proposed: list[float]
    done: list[float]


def acts(log: Path) -> dict[str, Acts]:
    """Return what the controllers' log says of each HPA, by "NAMESPACE/NAME", which is also that of its target."""
    out: dict[str, Acts] = {}
    monotonic = time.monotonic() - time.time()
    with log.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if found := _LINE.match(line):
                known = out.setdefault(found["target"] or found["hpa"] or found["left"], Acts([], []))
                kind = known.proposed if found["proposed"] else known.done
                kind.append(_seconds(found["time"]) + monotonic)
    return out


def _seconds(text: str) -> float:
    """Return the Unix time of a line's head, which is local time and does not name the year."""
    now = datetime.now()
    moment = datetime.strptime(f"{now.year} {text}", "%Y %m%d %H:%M:%S.%f")
    if moment > now + timedelta(days=1):
        moment = moment.replace(year=now.year - 1)
    return moment.timestamp()
