"""Faults of metrics: what a source or an exporter does, and what an operator should say of it."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from faulty_prometheus import Answer, Talk, drip, failure, hang, raw, reply, success
from load_exporter import Exporter
from shop import QUERY

BEFORE, AFTER = 60.0, 120.0
"""Requests/s of a workload before and after its fault; 10 a replica."""
TIMEOUT = 1.0
"""Seconds that a source with a fault has to answer."""


# --- faults of a source that a real Prometheus cannot be made to show


def answers(value: float) -> Answer:
    """Answer each query with one series, the past with none."""

    def answer(talk: Talk) -> None:
        kind = "matrix" if talk.request.path.endswith("query_range") else "vector"
        at = time.time() if talk.request.parameters["query"] == "time()" else value
        vector = [{"metric": {}, "value": [time.time(), repr(at)]}]
        reply(success(vector if kind == "vector" else [], kind))(talk)

    return answer


def late(talk: Talk) -> None:
    """Answer rightly, but only after the deadline."""
    if not talk.over.wait(2.0 * TIMEOUT):
        answers(BEFORE)(talk)


SERIES = {"metric": {"pod": "a"}, "value": [0, "60"]}
PAGE = "<!DOCTYPE html><html><body>Log in</body></html>"


class Fault(NamedTuple):
    """What a source answers, and what is said of it: the reason, what was found and what to do."""

    answer: Answer
    reason: str
    words: tuple[str, ...]


FAULTS = {
    "slow": Fault(late, "Timeout", ("gave no whole answer within 1 s", "raise its timeout")),
    "silent": Fault(hang, "Timeout", ("gave no whole answer within 1 s", "raise its timeout")),
    "dripping": Fault(
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{"), "Timeout", ("no whole answer", "raise its timeout")
    ),
    "closing": Fault(raw(b""), "Unreachable", ("closed the connection", "is it restarting?")),
    "breaking-off": Fault(
        raw(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"st'), "BadAnswer", ("broke off in the middle",)
    ),
    "other-json": Fault(reply({"up": True}), "BadAnswer", ("JSON that is no query result", "url lead to a Prometheus")),
    "wrong-types": Fault(reply(success([{"metric": {}, "value": "60"}])), "BadAnswer", ("JSON that is no query",)),
    "cut-json": Fault(reply('{"status": "succ'), "BadAnswer", ("no JSON, or cut short",)),
    "empty-body": Fault(reply(""), "BadAnswer", ("answers nothing",)),
    "web-page": Fault(reply(PAGE, kind="text/html"), "BadAnswer", ("a web page", "log-in page")),
    "status-401": Fault(reply("", 401), "Unauthorized", ("401", "set bearerTokenFile")),
    "status-403": Fault(reply("", 403), "Unauthorized", ("403", "set bearerTokenFile")),
    "status-404": Fault(reply("", 404), "BadAnswer", ("404", "is the path in url right?")),
    "status-429": Fault(reply("slow down", 429), "Overloaded", ("429", "slow down")),
    "status-500": Fault(reply("oh", 500), "ServerError", ("500", "its log says more")),
    "status-502": Fault(reply(PAGE, 502, kind="text/html"), "ServerError", ("502", "its log says more")),
    "status-503": Fault(reply("starting", 503), "Overloaded", ("503", "overloaded, starting or stopping")),
    "status-504": Fault(reply("", 504), "Timeout", ("504", "make the query cheaper")),
    "error-in-200": Fault(reply(failure("internal", "no chunks")), "ServerError", ("no chunks",)),
    "too-many-series": Fault(reply(success([SERIES] * 30)), "TooLarge", ("more than 20 series", "raise maxSeries")),
    "incomplete": Fault(
        reply(success([SERIES], warnings=["store is away"])), "BadAnswer", ("store is away", "acceptPartial")
    ),
}


# --- faults of the numbers, which a real Prometheus serves


class Number(NamedTuple):
    """What the exporter shows of a workload, and what is said of it. query: {name} is the workload's."""

    show: Callable[[Exporter, str], None]
    heal: Callable[[Exporter, str], None]
    reason: str
    words: tuple[str, ...]
    query: str = QUERY
    match: bool = True


def load(value: float) -> Callable[[Exporter, str], None]:
    return lambda exporter, name: exporter.set("load_rps", value, deployment=name)


def gone(exporter: Exporter, name: str) -> None:
    exporter.remove("load_rps", deployment=name)


def twice(exporter: Exporter, name: str) -> None:
    exporter.set("load_rps", 30.0, deployment=name, pod="b")


def once(exporter: Exporter, name: str) -> None:
    exporter.remove("load_rps", deployment=name, pod="b")
    exporter.set("load_rps", AFTER, deployment=name)


NUMBERS = {
    "nan": Number(load(math.nan), load(AFTER), "NotANumber", ("no finite number", "0 below")),
    "infinite": Number(load(math.inf), load(AFTER), "NotANumber", ("no finite number",)),
    "negative": Number(load(-5.0), load(AFTER), "NegativeValue", ("-5", "expected 0 or more")),
    "no-match": Number(gone, load(AFTER), "NoMatch", ('has deployment="no-match"', "deployment is there as")),
    "no-data": Number(
        gone, load(AFTER), "NoData", ("no series", "unknown, not 0"), 'load_rps{{deployment="{name}"}}', match=False
    ),
    "ambiguous": Number(twice, once, "AmbiguousSeries", ("2 series", "differ in pod", "sum by"), "load_rps"),
}

LOSSES: Mapping[str, tuple[dict[str, Any], Callable[[int], int]]] = {
    "hold": ({"action": "Hold"}, lambda before: before),
    "to-more": ({"action": "Replicas", "replicas": 30}, lambda before: 30),
    "to-fewer": ({"action": "Replicas", "replicas": 4}, lambda before: 4),
    "if-higher-more": ({"action": "ReplicasIfHigher", "replicas": 30}, lambda before: 30),
    "if-higher-fewer": ({"action": "ReplicasIfHigher", "replicas": 4}, lambda before: before),
    "if-lower-more": ({"action": "ReplicasIfLower", "replicas": 30}, lambda before: before),
    "if-lower-fewer": ({"action": "ReplicasIfLower", "replicas": 4}, lambda before: 4),
}
"""onMetricLoss, and the replicas after it by those before."""


class Mixed:
    """A source that answers one query, `light`, at once; all others wait while it is `stuck`."""

    def __init__(self) -> None:
        """Answer everything."""
        self.value, self.stuck = BEFORE, False

    def __call__(self, talk: Talk) -> None:
        """Answer a request."""
        if self.stuck and talk.request.parameters["query"] not in ("light", "time()"):
            hang(talk)
        else:
            answers(self.value)(talk)
