"""HorizontalPodAutoscalers and what they are told: a table of named cases, and more of them from a seed.

A series says what is true at each sync, so a case means the same at any speed. Windows and periods end as far from a
sync as can be: see `external_metrics`.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from external_metrics import REQUEST, Values

BEAT, SYNC = 1.4, 1.0
"""Seconds between the beats on which HPAs decide, and how long an HPA waits before it asks for the next one."""
SYNCS = 48
SECONDS = (2, 5, 6, 8, 9, 12)
"""Windows and periods: like the 15 s of the defaults, 0.4 s or more from any number of beats."""

PERCENT = (5, 30, 50, 100, 200)
CAPACITY = 100.0
"""Requests/s of a replica."""
TARGET, WAIT, UTILIZATION = 0.7, 0.5, 0.6
"""Targets of load (share of capacity), backlog (seconds of a replica's work) and memory (share of the request)."""
TOTAL = 100.0
"""Target of a metric whose total alone counts."""

Kind = Literal["load", "backlog", "utilization", "total"]


@dataclass(frozen=True, slots=True)
class HpaCase:
    """One HPA. start: replicas of its target before it looks. kind: load, or load and another metric, or a total alone.

    behavior: as it is written in an HPA and an RLScaler; {} = the defaults. series: a value for each sync.
    """

    name: str
    series: tuple[Values, ...]
    behavior: dict[str, Any] = field(default_factory=dict)
    start: int = 3
    low: int = 1
    high: int = 12
    kind: Kind = "load"

    def values(self, sync: int) -> Values:
        """Return what is true at a sync; the last for ever."""
        return self.series[min(sync, len(self.series) - 1)]

    def spans(self) -> set[float]:
        """Return the windows and periods of the behaviour, in seconds; those of the defaults where it names none."""
        both = [self.behavior.get(way, {}) for way in ("scaleUp", "scaleDown")]
        policies = [policy for rules in both for policy in rules.get("policies", [_pods(4, 15)])]
        windows = [
            rules.get("stabilizationWindowSeconds", default) for rules, default in zip(both, (0, 300), strict=True)
        ]
        return {*windows, *(policy["periodSeconds"] for policy in policies)} - {0}

    def deployment(self) -> dict[str, Any]:
        """Return the target: pods on a node of kwok's."""
        labels = {"app": self.name}
        container = {"name": "app", "image": "app", "resources": {"requests": {"memory": REQUEST}}}
        pod = {"nodeName": "node-0", "terminationGracePeriodSeconds": 0, "containers": [container]}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name},
            "spec": {
                "replicas": self.start,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }

    def hpa(self) -> dict[str, Any]:
        """Return the HorizontalPodAutoscaler."""
        if self.kind == "total":
            metrics = [self._external("load", {"type": "Value", "value": f"{TOTAL:g}"})]
        else:
            metrics = [self._external("load", _average(TARGET))]
        if self.kind == "backlog":
            metrics.append(self._external("backlog", _average(WAIT)))
        if self.kind == "utilization":
            target = {"type": "Utilization", "averageUtilization": round(100 * UTILIZATION)}
            metrics.append({"type": "Resource", "resource": {"name": "memory", "target": target}})
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": self.name},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name},
                "minReplicas": self.low,
                "maxReplicas": self.high,
                "metrics": metrics,
                "behavior": self.behavior,
            },
        }

    def _external(self, metric: str, target: dict[str, Any]) -> dict[str, Any]:
        return {"type": "External", "external": {"metric": {"name": f"{self.name}.{metric}"}, "target": target}}


def cases(seed: int, more: int) -> list[HpaCase]:
    """Return the named cases, and `more` of them made up."""
    return [*named(), *(made_up(random.Random(f"{seed} {number}"), f"made-up-{number}") for number in range(more))]


def named() -> list[HpaCase]:
    """Return the cases that each show one thing."""
    free = {"stabilizationWindowSeconds": 0, "policies": [_percent(900, 2)], "tolerance": "0"}
    still = free | {"stabilizationWindowSeconds": 6}
    two = {"policies": [_pods(2, 5)]}, {"policies": [_pods(1, 2)]}
    half = {"policies": [_percent(50, 6)]}, {"policies": [_percent(10, 2)]}
    least = (
        {"policies": [_pods(3, 5), _percent(100, 2)], "selectPolicy": "Min"},
        {"policies": [_pods(2, 2), _percent(50, 6)], "selectPolicy": "Min"},
    )
    waves = _loads(3, 3, 8, 8, 2, 8, *[3] * 8, 9, 3, 3, 9, 9, *[1] * 9, 6, 2, 6, 2, 6, 2, 2)
    steps = _loads(*[3] * 3, *[12] * 13, *[1] * 16, *[7] * 6, *[2] * 10)
    edge = _around(10, (1.0, 1.1, 1.1001, 1.0, 0.9, 0.8999, 1.25, 1.2501, 0.8, 0.7999, 1.0))
    own = _both(free | {"tolerance": "0.25"}, free | {"tolerance": "200m"})
    unknown = _loads(3, 3, None, None, 9, None, 2, None, *[None] * 8, 2, 2, *[None] * 6, 7, 7)
    waiting = (0, 0, 6, 6, 0.2, 0, 11, 4, 0, 0, 12, 1, 1, 1)
    halves = (
        (210, 100), (None, 100), (210, None), (560, None), (None, 450), (70, 100), (None, 100), (70, None),
        (None, None), (490, None), (490, 50), (None, 50), (140, 50),
    )  # fmt: skip
    shares = (0.6, 0.9, 0.9, 0.66, 0.661, 0.655, 0.3, 0.3, 0.54, 0.2, 0.7)
    totals = (100, 140, 140, 110, 111, 90, 89.9, 60, 60, 100, 300, 20, 100)
    return [
        HpaCase("defaults", _loads(*[3] * 4, *[12] * 20, *[1] * 24)),
        HpaCase("down-window", waves, {"scaleDown": {"stabilizationWindowSeconds": 5}}),
        HpaCase("up-window", waves, _both(still, free)),
        HpaCase("both-windows", waves, _both({"stabilizationWindowSeconds": 2}, still)),
        HpaCase("pods", steps, _both(free | two[0], free | two[1])),
        HpaCase("percent", steps, _both(free | half[0], free | half[1])),
        HpaCase("least-of-two", steps, _both(free | least[0], free | least[1])),
        HpaCase("most-of-two", steps, _both(free | {"policies": [_pods(1, 2), _percent(40, 9)]}, free)),
        HpaCase("never-down", steps, _both(free, free | {"selectPolicy": "Disabled"})),
        HpaCase("never-up", steps, _both(free | {"selectPolicy": "Disabled"}, free), start=8),
        HpaCase("default-tolerance", edge, {"scaleDown": free | {"tolerance": "0.1"}}, start=10, high=16),
        HpaCase("own-tolerances", edge, own, start=10, high=16),
        HpaCase("no-tolerance", _around(5, (1.0, 1.0001, 0.9999, 1.2, 1.0)), _both(free, free), start=5),
        HpaCase("narrow-bounds", steps, _both(free, free), low=3, high=6),
        HpaCase("fixed", steps, _both(free, free), start=5, low=5, high=5),
        HpaCase("above-its-bounds", steps, _both(free, free), start=12, high=6),
        HpaCase("below-its-bounds", steps, _both(still, still), start=1, low=4),
        HpaCase("switched-off", steps, start=0),
        HpaCase("to-zero-and-back", _loads(3, 3, *[0] * 7, 5, 5, *[0] * 8, 0.01, 2, 2), _both(free, free), low=0),
        HpaCase("gaps", unknown, _both(still, free)),
        HpaCase("unknown-at-first", _loads(*[None] * 3, 9, 9, *[2] * 12, 6, 6), _both(still, still), start=5),
        HpaCase(
            "two-metrics",
            tuple({"load": 70.0 * load, "backlog": 50.0 * waits} for load, waits in enumerate(waiting)),
            _both(free, still),
            kind="backlog",
        ),
        HpaCase(
            "one-of-two-unknown",
            tuple({"load": load, "backlog": waits} for load, waits in 3 * halves),
            _both({"stabilizationWindowSeconds": 2}, still),
            kind="backlog",
        ),
        HpaCase(
            "utilization",
            tuple({"load": 70.0, "utilization": share} for share in 4 * shares),
            {"scaleDown": {"stabilizationWindowSeconds": 5}},
            kind="utilization",
        ),
        HpaCase("total", tuple({"load": total} for total in 4 * totals), _both(free, free), kind="total"),
        HpaCase(
            "total-from-zero",
            tuple({"load": total} for total in 3 * (100, 0, 0, 5, 100, 100, 330, 100, 0, 101, 60, 60, None, 0, 1000)),
            _both(free, still),
            low=0,
            kind="total",
        ),
    ]


def made_up(rng: random.Random, name: str) -> HpaCase:
    """Return a case of chance: any behaviour, and load that jumps, drifts, spikes and is sometimes unknown."""
    low = rng.choice((0, 1, 1, 2, 4))
    high = rng.randint(max(low, 2), 12)
    load = rng.uniform(0, high)
    series: list[float | None] = []
    while len(series) < SYNCS:
        load = rng.choice((load, rng.uniform(0, 1.3 * high), load * rng.uniform(0.8, 1.25), 0.0))
        drift = rng.choice((0.0, 0.0, rng.uniform(-0.4, 0.4)))
        for step in range(rng.randint(1, 9)):
            noise = rng.choice((1.0, 1.0, rng.uniform(0.85, 1.15)))
            series.append(None if rng.random() < 0.03 else max(0.0, (load + step * drift) * noise))
    behavior = {way: _rules(rng) for way in ("scaleUp", "scaleDown") if rng.random() < 0.9}
    return HpaCase(name, _loads(*series[:SYNCS]), behavior, rng.randint(max(low, 1), high), low, high)


def _rules(rng: random.Random) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    if rng.random() < 0.9:
        rules["stabilizationWindowSeconds"] = rng.choice((0, *SECONDS))
    if rng.random() < 0.7:
        pods, percent = (
            _pods(rng.randint(1, 6), rng.choice(SECONDS)),
            _percent(rng.choice(PERCENT), rng.choice(SECONDS)),
        )
        rules["policies"] = rng.choice(([pods], [percent], [pods, percent]))
    if rng.random() < 0.5:
        rules["selectPolicy"] = rng.choice(("Max", "Min", "Min", "Disabled"))
    if rng.random() < 0.5:
        rules["tolerance"] = rng.choice(("0", "0.05", "0.1", "0.3"))
    return rules


def _both(up: dict[str, Any], down: dict[str, Any]) -> dict[str, Any]:
    return {"scaleUp": up, "scaleDown": down}


def _pods(value: int, seconds: int) -> dict[str, Any]:
    return {"type": "Pods", "value": value, "periodSeconds": seconds}


def _percent(value: int, seconds: int) -> dict[str, Any]:
    return {"type": "Percent", "value": value, "periodSeconds": seconds}


def _average(share: float) -> dict[str, Any]:
    return {"type": "AverageValue", "averageValue": f"{share * CAPACITY:g}"}


def _loads(*replicas: float | None) -> tuple[Values, ...]:
    """Return a series of the load that so many replicas serve at the target; None = unknown."""
    return tuple({"load": None if count is None else count * TARGET * CAPACITY} for count in replicas)


def _around(replicas: int, ratios: tuple[float, ...]) -> tuple[Values, ...]:
    """Return a series in which the load goes to a multiple of what `replicas` serve, and back, twice."""
    return _loads(*(replicas * value for ratio in 2 * ratios for value in (1.0, ratio)))
