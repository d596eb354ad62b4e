"""What a server of policies says over HTTP: reading questions, writing answers, counting both. Nothing here is Ray.

Two forms of a question, and the answer in the same form: bytes (`rlscaler.served`) and JSON, which names each column
(`{"schema": "1", "numbers": {"demand": [4.2], ...}, "features": {"level": [4.0], ...}}`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rlscaler import served
from rlscaler.observation import SCHEMA
from rlscaler.served import CONTENT_TYPE, FEATURES, NUMBERS, READ, Answers, Rows, WireError
from rlscaler.settings import Settings, compiled
from rlscaler_training.serving import Shelved

JSON = "application/json"
MEGABYTE = 10**6
GONE = 499
"""How a question is counted whose caller did not wait for the answer; nobody is answered so."""
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Buckets of the time that a question takes here."""
BATCHES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Buckets of the rows of a pass."""
_NEEDED = ("demand", "current", "capacity_per_replica")
_DEFAULTS = {
    "objective_latency" if name == "latency" else name: float(value[0])
    for name, value in compiled(Settings(), 1).items()
    if name in ("min_replicas", "max_replicas", "interval", "lag", "startup", "price", "latency")
}


class HttpError(Exception):
    """An answer other than 200. message: one sentence."""

    def __init__(self, status: int, message: str) -> None:
        """Take the status and the sentence."""
        super().__init__(message)
        self.status, self.message = status, message


class Said(NamedTuple):
    """What goes back to a caller."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str]


class Limits(NamedTuple):
    """rows: of a pass, and of one question. wait: seconds for others to join a pass. queue: questions that may wait for
    an answer. bytes: of a body.
    """

    rows: int = 8192
    wait: float = 0.0
    queue: int = 64
    bytes: int = 16 * MEGABYTE


def question(content_type: str, body: bytes, limits: Limits) -> Rows:
    """Return the rows of a request's body. Raises HttpError."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (JSON, CONTENT_TYPE):
        raise HttpError(415, f"Content-Type is {kind or 'missing'!r}; expected {JSON} or {CONTENT_TYPE}")
    try:
        rows = from_json(body) if kind == JSON else served.asked(body, limits.bytes)
    except WireError as error:
        raise HttpError(400, str(error)) from error
    if len(rows) > limits.rows:
        raise HttpError(413, f"there are {len(rows)} rows; expected at most {limits.rows}: ask in several requests")
    return rows


def from_json(body: bytes) -> Rows:
    """Return the rows of a question in JSON. Raises WireError.

    Readings and features that are left out are unknown; settings are `Settings()`' own; null is unknown.
    """

    def constant(name: str) -> NoReturn:
        raise WireError(f"the body holds {name}; expected null where a number is unknown")

    try:
        found = json.loads(body, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise WireError(
            f"the body is no JSON ({str(error)[:80]}); expected an object with numbers and features"
        ) from error
    if not isinstance(found, dict) or set(found) - {"schema", "numbers", "features"}:
        raise WireError("the body is no question; expected an object with schema, numbers and features")
    require_schema(found.get("schema", SCHEMA))
    numbers, features = (_columns(found.get(key), key) for key in ("numbers", "features"))
    for name in _NEEDED:
        if name not in numbers:
            raise WireError(f"numbers.{name} is missing; expected a list with a number for each row")
    if "level" not in features:
        raise WireError("features.level is missing; expected a list with a number for each row")
    n = len(numbers["demand"])
    for key, columns in (("numbers", numbers), ("features", features)):
        for name, values in columns.items():
            if len(values) != n:
                raise WireError(f"{key}.{name} has {len(values)} numbers; expected {n}, as numbers.demand has")
    rows = Rows(np.full((n, len(FEATURES)), np.nan, np.float32), np.full((n, len(NUMBERS)), np.nan))
    for index, name in enumerate(NUMBERS):
        rows.numbers[:, index] = numbers.get(name, np.nan if name in (*_NEEDED, *READ) else _DEFAULTS[name])
    with np.errstate(over="ignore"):  # infinite then, and refused by its name
        for index, name in enumerate(FEATURES):
            rows.features[:, index] = features.get(name, np.nan)
    return served.require_rows(rows)


def require_schema(found: object) -> None:
    """Raise WireError where a caller's observation is of another schema."""
    if str(found) != SCHEMA:
        raise WireError(
            f"schema is {str(found)[:40]!r}; expected {SCHEMA!r}: run the caller's version of rlscaler here"
        )


def _columns(found: Any, key: str) -> dict[str, np.ndarray]:
    known = NUMBERS if key == "numbers" else FEATURES
    if not isinstance(found, dict):
        raise WireError(f"{key} is missing or no object; expected names and lists of numbers")
    columns = {}
    for name, values in found.items():
        if name not in known:
            raise WireError(f"{key}.{str(name)[:40]} is unknown; expected one of {', '.join(known)}")
        if not isinstance(values, list) or any(
            isinstance(value, bool) or not isinstance(value, (int, float, type(None))) for value in values
        ):
            raise WireError(f"{key}.{name} is no list of numbers; expected a number or null for each row")
        try:
            columns[name] = np.array([np.nan if value is None else float(value) for value in values], np.float64)
        except OverflowError as error:
            raise WireError(f"{key}.{name} holds a number beyond all bounds; expected one of 64 bits") from error
    return columns


def answer(answers: Answers, shelved: Shelved, content_type: str) -> Said:
    """Return the answer in the form of the question."""
    headers = {served.POLICY: shelved.name, served.DIGEST: shelved.digest, served.OBSERVED: shelved.schema}
    if content_type.partition(";")[0].strip().lower() == CONTENT_TYPE:
        return Said(200, served.reply(answers), CONTENT_TYPE, headers)
    told = about(shelved) | {
        "replicas": [None if np.isnan(value) else value for value in answers.replicas.tolist()],
        "patience": answers.patience.tolist(),
        "trained": answers.trained.tolist(),
    }
    return Said(200, _json(told), JSON, headers)


def about(shelved: Shelved) -> dict[str, Any]:
    """Return which policy it is, JSON-ready."""
    return {"policy": shelved.name, "digest": shelved.digest, "schema": shelved.schema}


def problem(error: HttpError) -> Said:
    """Return an answer other than 200; one that is too busy says when to come back."""
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    return Said(error.status, _json({"error": error.message}), JSON, headers)


def told(value: Any, status: int = 200) -> Said:
    """Return a value as JSON."""
    return Said(status, _json(value), JSON, {})


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"


@dataclass(slots=True)
class Tally:
    """What was asked of one replica. Several are added up, so that /metrics tells the whole whoever answers it."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    seconds: Counter[float] = field(default_factory=Counter)
    seconds_sum: float = 0.0
    batches: Counter[float] = field(default_factory=Counter)
    batches_sum: float = 0.0
    swaps: Counter[tuple[str, str]] = field(default_factory=Counter)
    served: set[tuple[str, str]] = field(default_factory=set)

    def asked(self, policy: str, status: int, rows: int, seconds: float) -> None:
        """Count a question. policy: "" where it came to none."""
        self.requests[policy, status] += 1
        self.rows[policy] += rows
        self.seconds[_bucket(seconds, SECONDS)] += 1
        self.seconds_sum += seconds

    def passed(self, rows: int) -> None:
        """Count a pass of so many rows."""
        self.batches[_bucket(rows, BATCHES)] += 1
        self.batches_sum += rows

    def add(self, other: "Tally") -> None:
        """Add what another replica counted."""
        for name in ("requests", "rows", "seconds", "batches", "swaps"):
            getattr(self, name).update(getattr(other, name))
        self.seconds_sum += other.seconds_sum
        self.batches_sum += other.batches_sum
        self.served |= other.served

    def collect(self) -> Iterable[Any]:
        """Yield the metrics, as prometheus_client asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "rlscaler_serve_requests", "Questions by policy and HTTP status.", labels=["policy", "status"]
        )
        for (policy, status), count in sorted(self.requests.items()):
            requests.add_metric([policy, str(status)], count)
        rows = CounterMetricFamily("rlscaler_serve_rows", "Workloads that were asked about.", labels=["policy"])
        for policy, count in sorted(self.rows.items()):
            rows.add_metric([policy], count)
        swaps = CounterMetricFamily(
            "rlscaler_serve_swaps", "New policies by what became of them.", labels=["policy", "result"]
        )
        for (policy, result), count in sorted(self.swaps.items()):
            swaps.add_metric([policy, result], count)
        policies = GaugeMetricFamily(
            "rlscaler_serve_policy", "Policies that are served: 1.", labels=["policy", "digest"]
        )
        for policy, digest in sorted(self.served):
            policies.add_metric([policy, digest], 1.0)
        seconds = HistogramMetricFamily("rlscaler_serve_seconds", "Time of a question in the replica.")
        seconds.add_metric([], _cumulated(self.seconds, SECONDS), self.seconds_sum)
        batches = HistogramMetricFamily("rlscaler_serve_batch_rows", "Rows of a pass through a network.")
        batches.add_metric([], _cumulated(self.batches, BATCHES), self.batches_sum)
        return [requests, rows, swaps, policies, seconds, batches]


def _bucket(value: float, bounds: tuple[float, ...]) -> float:
    return next((bound for bound in bounds if value <= bound), np.inf)


def _cumulated(counts: Counter[float], bounds: tuple[float, ...]) -> list[tuple[str, float]]:
    found, total = [], 0
    for bound in (*bounds, np.inf):
        total += counts[bound]
        found.append(("+Inf" if bound == np.inf else f"{bound:g}", float(total)))
    return found


def metrics(tally: Tally) -> Said:
    """Return the metrics as Prometheus reads them."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    class _Once:
        def collect(self) -> Iterable[Any]:
            return tally.collect()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once())
    return Said(200, generate_latest(registry), CONTENT_TYPE_LATEST, {})
