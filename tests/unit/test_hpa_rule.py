"""What an HPA recommends: named cases, and equality with a plain restatement of the controller."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpa_oracle as oracle
from rlscaler.policy import Policy, View
from rlscaler.reasons import Reason
from rlscaler.rules.hpa import Hpa, Kind, Metric, desired_replicas

NAN = float("nan")


def asked(
    *metrics: Metric, current: float, ready: float = NAN, up: float = 0.1, down: float = 0.1
) -> tuple[float, bool]:
    """Return what one workload's metrics ask for."""
    rows = [np.array([float(x)]) for x in (current, ready, up, down)]
    arrays = [Metric(kind=m.kind, **{k: np.array([float(getattr(m, k))]) for k in FIELDS}) for m in metrics]
    replicas, held = desired_replicas(np, rows[0], rows[1], arrays, rows[2], rows[3])
    return float(replicas[0]), bool(held[0])


FIELDS = ("target", "total", "pods", "missing", "unready", "request")


def value(total: float, target: float = 10.0) -> Metric:
    return Metric(kind="Value", target=target, total=total)


def average(total: float, target: float = 10.0) -> Metric:
    return Metric(kind="AverageValue", target=target, total=total)


def cpu(*used: int, target: int = 50, missing: int = 0, unready: int = 0) -> Metric:
    """Return a utilisation: percent of its request that each ready pod uses."""
    total = 10.0 * sum(used)
    return Metric(kind="Utilization", target=target, total=total, pods=len(used), missing=missing, unready=unready)


def pods(*used: int, target: int = 1000, missing: int = 0, unready: int = 0) -> Metric:
    """Return a Pods metric: thousandths of each ready pod."""
    return Metric(kind="Pods", target=target, total=sum(used), pods=len(used), missing=missing, unready=unready)


# Named cases: what is given to `asked`, the replicas (NaN: an error, nothing happens), held by the tolerance.
CASES: dict[str, tuple[dict[str, Any], tuple[Metric, ...], float, bool]] = {
    "a value scales the ready pods, not the count": ({"current": 10, "ready": 4}, (value(20),), 8, False),
    "a value rounds up": ({"current": 3, "ready": 3}, (value(12.01),), 4, False),
    "a value at the upper end of the tolerance": ({"current": 10, "ready": 10}, (value(11),), 10, True),
    "a value beyond the upper end": ({"current": 10, "ready": 10}, (value(11.01),), 12, False),
    "a value at the lower end of the tolerance": ({"current": 10, "ready": 10}, (value(9),), 10, True),
    "a value below the lower end": ({"current": 10, "ready": 10}, (value(8.99),), 9, False),
    "the tolerance is on the ratio before rounding": ({"current": 1, "ready": 1}, (value(10.9),), 1, True),
    "a tolerance of its own up": ({"current": 10, "ready": 10, "up": 0.3}, (value(12.9),), 10, True),
    "no tolerance down": ({"current": 10, "ready": 9, "down": 0.0}, (value(9.5),), 9, False),
    "within the tolerance ready pods need not be known": ({"current": 10}, (value(10),), 10, True),
    "beyond it they must be": ({"current": 10}, (value(20),), NAN, False),
    "from zero a value knows neither tolerance nor ready pods": ({"current": 0}, (value(10),), 1, False),
    "from zero a value rounds up": ({"current": 0}, (value(31),), 4, False),
    "zero stays at zero without load": ({"current": 0}, (value(0),), 0, False),
    "to zero": ({"current": 3, "ready": 3}, (value(0),), 0, False),
    "a huge value stops at int32": ({"current": 10, "ready": 10}, (value(1e15),), 2**31 - 1, False),
    "an average does not look at ready pods": ({"current": 10, "ready": 1}, (average(200),), 20, False),
    "an average within the tolerance": ({"current": 10}, (average(110),), 10, True),
    "an average below it": ({"current": 10}, (average(89),), 9, False),
    "an average beyond it": ({"current": 10}, (average(111),), 12, False),
    "an average from zero": ({"current": 0}, (average(31),), 4, False),
    "an average from zero to zero": ({"current": 0}, (average(0),), 0, False),
    "the largest of several wins": ({"current": 5}, (average(60), average(90), average(20)), 9, False),
    "a held metric outbids a smaller one": ({"current": 5}, (average(20), average(52)), 5, True),
    "a larger one outbids a held metric": ({"current": 5}, (average(52), average(90)), 9, False),
    "an invalid metric stops a scale-down": ({"current": 5}, (average(NAN), average(20)), NAN, False),
    "an invalid metric stops no scale-up": ({"current": 5}, (average(NAN), average(90)), 9, False),
    "an invalid metric beside one that holds": ({"current": 5}, (average(50), average(NAN)), 5, True),
    "only invalid metrics": ({"current": 5}, (average(NAN), value(NAN)), NAN, False),
    "an unknown count": ({"current": NAN}, (average(90),), NAN, False),
    "utilisation up": ({"current": 3}, (cpu(80, 70, 90),), 5, False),
    "utilisation is cut to whole percent": ({"current": 3}, (cpu(55, 55, 57),), 3, True),
    "no pods with metrics is an error": ({"current": 3}, (cpu(missing=3),), NAN, False),
    "unready pods dampen a scale-up": ({"current": 3}, (cpu(100, 100, unready=1),), 4, False),
    "unready pods turn a scale-up around: held": ({"current": 4}, (cpu(60, 60, unready=2),), 4, True),
    "unready pods say nothing on the way down": ({"current": 4}, (cpu(10, 10, unready=2),), 1, False),
    "missing pods are full on the way down": ({"current": 4}, (cpu(10, 10, 10, missing=1),), 3, False),
    "missing pods turn a scale-down around: held": ({"current": 4}, (cpu(30, 30, missing=2),), 4, True),
    "missing pods are idle on the way up": ({"current": 4}, (cpu(100, 100, 100, missing=1),), 6, False),
    "above 100 percent missing pods are at the target": (
        {"current": 3}, (cpu(80, 80, target=150, missing=1),), 3, False),
    "exactly on target missing pods change nothing": ({"current": 3}, (cpu(50, 50, missing=1),), 3, True),
    "missing pods of a Pods metric are at the target": (
        {"current": 4}, (pods(200, 200, missing=2),), 3, False),
    "the mean of a Pods metric is cut to thousandths": (
        {"current": 3, "up": 0.0}, (pods(1000, 1000, 1002),), 3, True),
    "more pods than the count, on the way down: ready pods count": (
        {"current": 2}, (cpu(40, 40, 40, 40),), 4, False),
    "the count of pods would turn it around: held": (
        {"current": 2}, (cpu(20, 20, 20, 20, missing=1),), 2, True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_named_case(name: str) -> None:
    about, metrics, replicas, held = CASES[name]
    np.testing.assert_equal(asked(*metrics, **about), (replicas, held))


# Random workloads, many rows at once, against the restatement row by row.
def random_pods(rng: np.random.Generator, target: float, request: int, *, percent: bool) -> list[Any]:
    base = request * target / 100.0 if percent else target
    missing, unready = rng.choice([0.0, 0.0, 0.2, 0.5], 2)
    level = base * rng.choice([0.3, 0.8, 0.9, 1.0, 1.1, 1.2, 2.0])
    return [
        oracle.Pod(
            None if rng.random() < missing else int(level * rng.choice([1.0, 1.0, rng.uniform(0.5, 1.5)])),
            bool(rng.random() < unready),
            request,
        )
        for _ in range(rng.integers(0, 12))
    ]


def counted(sets: list[list[Any]], kind: Any, target: np.ndarray, request: np.ndarray) -> Metric:
    def count(pick: Any) -> np.ndarray:
        return np.array([float(sum(pick(pod) for pod in pods_)) for pods_ in sets])

    return Metric(
        kind=kind,
        target=target,
        request=request,
        total=count(lambda pod: 0 if pod.unready else pod.usage or 0),
        pods=count(lambda pod: not pod.unready and pod.usage is not None),
        missing=count(lambda pod: not pod.unready and pod.usage is None),
        unready=count(lambda pod: pod.unready),
    )


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_metrics_over_pods_ask_for_what_the_controller_asks_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 200
    current, ready = rng.integers(0, 14, n).astype(float), np.full(n, NAN)
    up, down = rng.choice([0.0, 0.1, 0.25], n), rng.choice([0.0, 0.1, 0.25, 1.0], n)
    request = rng.choice([100, 333, 1000, 1500], n)
    for kind, percent in (("Utilization", True), ("Pods", False)):
        target = rng.choice([10, 50, 80, 100, 150] if percent else [1, 7, 500, 33333], n)
        sets = [random_pods(rng, t, r, percent=percent) for t, r in zip(target, request, strict=True)]
        metric = counted(sets, kind, target.astype(float), request.astype(float))
        replicas, _ = desired_replicas(np, current, ready, [metric], up, down)
        for row in range(n):
            tolerances = oracle.Tolerances(up[row], down[row])
            expected = oracle.pods_replicas(
                int(current[row]), sets[row], int(target[row]), tolerances, utilization=percent
            )
            found = None if np.isnan(replicas[row]) else int(replicas[row])
            # a single metric is also subject to the rule for several: an error holds
            assert found == oracle.largest(int(current[row]), [expected]), f"{kind} of row {row}: {sets[row]}"


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_largest_of_any_metrics_is_the_controllers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, count = 200, 1 + int(rng.integers(3))
    current, ready = rng.integers(0, 30, n).astype(float), rng.integers(0, 30, n).astype(float)
    up, down = rng.choice([0.0, 0.1, 0.25], n), rng.choice([0.0, 0.1, 0.25], n)
    metrics: list[Metric] = []
    expected: list[list[int | None]] = [[] for _ in range(n)]
    for _ in range(count):
        kind: Kind = "Value" if rng.random() < 0.5 else "AverageValue"
        target = rng.choice([1, 10, 333, 10**6], n)
        per = np.where(rng.random(n) < 0.5, 1, np.maximum(current, 1))
        total = np.floor(target * per * rng.choice([0.0, 0.3, 0.9, 1.0, 1.1, 1.2, 5.0], n))
        total = np.where(rng.random(n) < 0.1, rng.choice([2.0**52, 1e15], n), total)
        total[rng.random(n) < 0.2] = NAN
        metrics.append(Metric(kind=kind, target=target.astype(float), total=total))
        for row in range(n):
            usage = total[row]
            tolerances = oracle.Tolerances(up[row], down[row])
            have = int(current[row])
            if np.isnan(usage):
                expected[row].append(None)
            elif kind == "Value":
                proposal = oracle.value_replicas(have, int(ready[row]), int(usage), int(target[row]), tolerances)
                expected[row].append(min(proposal, oracle.MAX_INT32))
            else:
                expected[row].append(oracle.average_value_replicas(have, int(usage), int(target[row]), tolerances))
    replicas, _ = desired_replicas(np, current, ready, metrics, up, down)
    for row in range(n):
        found = None if np.isnan(replicas[row]) else int(replicas[row])
        assert found == oracle.largest(int(current[row]), expected[row]), f"row {row}: {expected[row]}"


# The rule.
def make_view(xp: Any = np, n: int = 1, **readings: Any) -> View:
    """Return a view of n workloads of capacity 10 requests/s that stand at 10 replicas."""
    plain = {
        "capacity_per_replica": 10.0, "up_tolerance": 0.1, "down_tolerance": 0.1, "load": NAN, "backlog": NAN,
        "utilization": NAN, "ready": 10.0, "starting": 0.0, "current": 10.0, "time": 0.0, "interval": 15.0,
    } | readings  # fmt: skip
    arrays = {k: xp.asarray(np.array(np.broadcast_to(np.asarray(v, np.float64), (n,)))) for k, v in plain.items()}
    named = ("capacity_per_replica", "up_tolerance", "down_tolerance", "interval")
    return View(
        xp=xp,
        settings={k: arrays[k] for k in named},
        snapshot={k: v for k, v in arrays.items() if k not in named},
        features={},
        demand=arrays["load"] / arrays["capacity_per_replica"],
        current=arrays["current"],
    )


def proposed(rule: Hpa, **readings: Any) -> float:
    return float(rule.propose(make_view(**readings), rule.state(1))[0].replicas[0])


@pytest.mark.parametrize(
    ("rule", "readings", "replicas"),
    [
        pytest.param(Hpa(), {"load": 140}, 20, id="load over target"),
        pytest.param(Hpa(), {"load": 140.1}, 21, id="rounded up"),
        pytest.param(Hpa(0.55), {"load": 0.55 * 10 * 29}, 29, id="a multiple of the target stays one"),
        pytest.param(Hpa(), {"load": 77}, 10, id="within the tolerance"),
        pytest.param(Hpa(), {"load": 77, "up_tolerance": 0.05}, 11, id="the tolerance of the workload"),
        pytest.param(Hpa(tolerance=0.05), {"load": 77}, 11, id="a tolerance of its own"),
        pytest.param(Hpa(tolerance=0.0), {"load": 70}, 10, id="no tolerance, on target"),
        pytest.param(Hpa(), {"load": NAN}, NAN, id="unknown load"),
        pytest.param(Hpa(), {"load": 50, "capacity_per_replica": NAN}, NAN, id="unknown capacity"),
        pytest.param(Hpa(), {"load": 50, "current": NAN}, NAN, id="unknown count"),
        pytest.param(Hpa(), {"load": 0}, 0, id="no load"),
        pytest.param(Hpa(), {"load": 5, "current": 0}, 1, id="from zero"),
        pytest.param(Hpa(wait=5), {"load": 70, "backlog": 700}, 14, id="the backlog asks for more"),
        pytest.param(Hpa(wait=5), {"load": 140, "backlog": 100}, 20, id="the backlog asks for less"),
        pytest.param(Hpa(wait=5), {"load": 20}, NAN, id="an unknown backlog stops a scale-down"),
        pytest.param(Hpa(wait=5), {"load": 140}, 20, id="an unknown backlog stops no scale-up"),
        pytest.param(Hpa(utilization=0.5), {"load": 70, "utilization": 0.8}, 16, id="utilisation asks more"),
        pytest.param(
            Hpa(utilization=0.5), {"load": 70, "utilization": 0.8, "ready": 8, "starting": 2}, 13,
            id="starting replicas dampen it",
        ),
        pytest.param(Hpa(utilization=0.5), {"load": 20, "utilization": NAN}, NAN, id="unknown utilisation"),
    ],
)  # fmt: skip
def test_the_rule_proposes(rule: Hpa, readings: dict[str, float], replicas: float) -> None:
    np.testing.assert_equal(proposed(rule, **readings), replicas)


def test_the_rule_is_a_policy_that_says_what_it_did() -> None:
    rule = Hpa(name="hpa-tuned", hold=np.array([60.0, 0.0, 0.0]))
    assert isinstance(Hpa(), Policy)
    assert (Hpa().name, rule.name, rule.state(3)) == ("hpa", "hpa-tuned", {})
    proposal, _ = rule.propose(make_view(n=3, load=[77.0, 140.0, NAN]), {})
    assert proposal.reasons is not None
    assert proposal.patience is not None
    assert proposal.tolerated is not None
    assert proposal.reasons.tolist() == [int(Reason.WithinTolerance), 0, 0]
    assert proposal.patience.tolist() == [45.0, 0.0, 0.0], "as old as the window is forgotten"
    assert proposal.tolerated.tolist() == [True, True, False]
    assert Hpa().propose(make_view(load=1.0), {})[0].patience is None


def test_many_targets_at_once_propose_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    load, current = rng.uniform(0, 500, 64), np.round(rng.uniform(0, 60, 64))
    target, tolerance = rng.uniform(0.3, 0.95, 64), rng.uniform(0, 0.2, 64)
    together, _ = Hpa(target, tolerance=tolerance).propose(make_view(n=64, load=load, current=current), {})
    for row in range(64):
        alone = proposed(Hpa(target[row], tolerance=tolerance[row]), load=load[row], current=current[row])
        assert alone == together.replicas[row], f"row {row}"


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"target": 0.0}, "hpa: target is 0.0; expected a number above 0"),
        ({"target": NAN}, "hpa: target is nan; expected"),
        ({"tolerance": -0.1}, "hpa: tolerance is -0.1; expected a number of 0 or more"),
        ({"wait": np.ones((2, 2))}, "hpa: wait is"),
    ],
)
def test_a_constant_out_of_range_is_named(constants: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hpa(**constants)


def test_torch_proposes_the_same() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    import array_api_compat.torch as xp

    rng = np.random.default_rng(5)
    readings = {name: rng.uniform(0, scale, 500) for name, scale in (("load", 900), ("backlog", 900), ("ready", 60))}
    readings |= {"current": np.round(readings["ready"]), "utilization": rng.uniform(0, 1, 500)}
    for name in ("load", "backlog", "utilization"):
        readings[name][rng.random(500) < 0.2] = NAN
    rule = Hpa(0.7, wait=3.0, utilization=0.6, hold=30.0)
    mine, theirs = (rule.propose(make_view(space, 500, **readings), {})[0] for space in (xp, np))
    for name in ("replicas", "reasons", "patience", "tolerated"):
        np.testing.assert_array_equal(np.asarray(getattr(mine, name)), getattr(theirs, name), name)
    metric = Metric(kind="Value", target=10.0, total=xp.asarray(readings["load"]))
    ready, current = (xp.asarray(readings[name]) for name in ("ready", "current"))
    replicas, _ = desired_replicas(xp, current, ready, [metric], 0.1, 0.1)
    metric = Metric(kind="Value", target=10.0, total=readings["load"])
    expected, _ = desired_replicas(np, readings["current"], readings["ready"], [metric], 0.1, 0.1)
    np.testing.assert_array_equal(np.asarray(replicas), expected)
