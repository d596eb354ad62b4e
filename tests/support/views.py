"""Views of workloads as policies get them, with everything in them to be given by name."""

from typing import Any

import numpy as np

from rlscaler.policy import View

NAN = float("nan")


def make_view(xp: Any = np, n: Any = 1, **given: Any) -> View:
    """Return a view of n workloads of the standard world; any setting, reading or feature can be given."""

    def take(names: dict[str, float]) -> dict[str, Any]:
        return {
            name: xp.asarray(np.array(np.broadcast_to(np.asarray(given.pop(name, value), np.float64), (n,))))
            for name, value in names.items()
        }

    options = take({
        "min_replicas": 1, "max_replicas": 100, "interval": 15, "lag": 15, "startup": 60,
        "capacity_per_replica": 10, "concurrency": 1, "latency": 0.5, "price": 20,
    })  # fmt: skip
    readings = take({"time": 0, "load": NAN, "backlog": NAN, "utilization": NAN, "ready": NAN})
    current = take({"current": 10})["current"]
    demand = readings["load"] / options["capacity_per_replica"]
    ahead = np.array(np.broadcast_to(np.asarray(given.pop("ahead", 0.0), np.float32), (n, 8)))
    features = take({"noise_5m": 0.1, "noise_1h": 0.1})
    features = {k: xp.asarray(v, dtype=xp.float32) for k, v in (features | {"level": demand}).items()}
    features["ahead"] = xp.asarray(ahead)
    assert not given, f"no such setting, reading or feature: {sorted(given)}"
    return View(xp=xp, settings=options, snapshot=readings, features=features, demand=demand, current=current)


def run(rule: Any, views: list[View], state: Any = None) -> np.ndarray:
    """Return the proposals of successive views, (steps, n)."""
    state = rule.state(views[0].demand.shape[0]) if state is None else state
    out = []
    for view in views:
        proposal, state = rule.propose(view, state)
        out.append(np.asarray(proposal.replicas))
    return np.stack(out)


def random_views(xp: Any, seed: int, steps: int, n: int, rows: Any = slice(None), **fixed: Any) -> list[View]:
    """Return successive views of n workloads with random readings, some unknown, of the picked `rows`."""
    rng = np.random.default_rng(seed)
    count = len(np.arange(n)[rows])
    views = []
    for step in range(steps):
        load = rng.gamma(2.0, 60.0, n)
        load[rng.random(n) < 0.15] = NAN
        load[rng.random(n) < 0.05] = 0.0
        backlog = np.where(rng.random(n) < 0.5, NAN, rng.gamma(0.5, 30.0, n))
        more = {"current": np.round(rng.uniform(0, 60, n)), "ready": np.round(rng.uniform(0, 60, n))}
        more |= {
            "utilization": np.where(rng.random(n) < 0.7, NAN, rng.random(n)),
            "ahead": rng.normal(0, 0.2, (n, 8)),
        }
        readings = {"load": load, "backlog": backlog} | more | fixed
        picked = {k: np.asarray(v)[rows] if np.ndim(v) else v for k, v in readings.items()}
        views.append(make_view(xp, count, time=15.0 * step, **picked))
    return views
