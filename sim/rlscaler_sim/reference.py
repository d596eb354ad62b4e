"""The world against references that follow every request: how far its formulas are off, as a table.

    python -m rlscaler_sim.reference          # about three minutes
    python -m rlscaler_sim.reference speed    # how fast both are

Three references, each slower and closer to a cluster than the one before: the M/M/c formulas (constant rate), the
exact Markov chain of the number in the system (rates and servers that change; its expectation has no sampling
error), and Ciw, a discrete-event simulator that knows nothing of either. All get the same rates, tick by tick.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from rlscaler_sim.queueing import erlang_c_exact
from rlscaler_sim.world import WorldConfig, compiled, draws, initial, step

CAPACITY = 10.0
SLO = 0.4
TICK = 3.0
_TICKS = 5
_TRUNCATED = 1e-7
"""Largest probability that the chain may have at its last state."""


@dataclass(frozen=True, slots=True)
class Case:
    """A load and its replicas.

    rates: (T,) requests/s of each tick of TICK seconds, T a multiple of 5. replicas: (T,) ready, changing every 5
    ticks at most. concurrency: of a replica. warm: ticks before the measurement, from an empty system.
    """

    name: str
    rates: np.ndarray
    replicas: np.ndarray
    concurrency: int = 1
    warm: int = 0

    @property
    def service_rate(self) -> float:
        """Requests/s that one server ends."""
        return CAPACITY / self.concurrency


@dataclass(frozen=True, slots=True)
class Measures:
    """What the requests met after the warm-up.

    late: share that waits over SLO. wait: mean seconds. busy: share of the servers in use. late_margin,
    wait_margin: half the width of the 95 % interval, 0 where nothing was sampled.
    """

    late: float
    wait: float
    busy: float = math.nan
    late_margin: float = 0.0
    wait_margin: float = 0.0


def steady(replicas: int, concurrency: int, load: float, ticks: int = 1000) -> Case:
    """Return Poisson arrivals of a constant rate, `load` of the capacity; measured when stationary."""
    name = f"steady {replicas} x {concurrency} at {load:.2f}"
    rates = np.full(ticks, load * replicas * CAPACITY)
    return Case(name, rates, np.full(ticks, replicas), concurrency, warm=ticks - 50)


def modulated(replicas: int, concurrency: int, load: float, seed: int, ticks: int = 400, fano: float = 2.0) -> Case:
    """Return arrivals of that Fano factor: the rate of each tick is log-normal and independent."""
    base = load * replicas * CAPACITY
    variance = math.log1p((fano - 1.0) / (base * TICK))
    normal = np.random.default_rng(seed).standard_normal(ticks)
    rates = base * np.exp(math.sqrt(variance) * normal - 0.5 * variance)
    name = f"Fano {fano:g}, {replicas} x {concurrency} at {load:.2f}"
    return Case(name, rates, np.full(ticks, replicas), concurrency, warm=20)


def stepped(replicas: int, concurrency: int, load: float, seconds: float = 60.0, ticks: int = 120) -> Case:
    """Return a step of the rate from 0.7 to `load` of the capacity; after `seconds` replicas for a load of 0.75."""
    rates = np.full(ticks, 0.7 * replicas * CAPACITY)
    rates[40:] = load * replicas * CAPACITY
    count = np.full(ticks, replicas)
    count[40 + round(seconds / TICK) :] = math.ceil(replicas * load / 0.75)
    return Case(f"step to {load:.2f}, {replicas} x {concurrency}", rates, count, concurrency, warm=30)


def by_world(cases: Sequence[Case]) -> list[Measures]:
    """Run the cases in one batch of the world; they need the same number of ticks."""
    lengths = {len(case.rates) for case in cases}
    if len(lengths) != 1 or next(iter(lengths)) % _TICKS:
        raise ValueError(f"cases of {sorted(lengths)} ticks; expected one length, a multiple of {_TICKS}")
    n, ticks = len(cases), next(iter(lengths))
    config = WorldConfig(
        capacity_per_replica=CAPACITY,
        concurrency=np.array([case.concurrency for case in cases]),
        slo_wait=SLO,
        fano=1.0,
        startup=0.0,
        interval=TICK * _TICKS,
    )
    params, rng = compiled(config, n), np.random.default_rng(0)
    rates = np.stack([case.rates for case in cases], axis=1)
    replicas = np.stack([case.replicas for case in cases], axis=1)
    warm = np.array([case.warm for case in cases])
    state = initial(params, replicas[0])
    late, wait, come, served, room = np.zeros((5, n))
    for at in range(0, ticks, _TICKS):
        state, out = step(params, state, replicas[at], rates[at : at + _TICKS], draws(params, rng))
        counts = at >= warm
        late += counts * out.late
        wait += counts * out.wait_seconds
        come += counts * out.arrivals
        served += counts * out.served
        room += counts * replicas[at] * CAPACITY * TICK * _TICKS
    return [Measures(late[i] / come[i], wait[i] / come[i], served[i] / room[i]) for i in range(n)]


def by_formula(case: Case) -> Measures:
    """Return the stationary M/M/c measures of a case of constant rate."""
    rate, servers = float(case.rates[0]), int(case.replicas[0]) * case.concurrency
    capacity = servers * case.service_rate
    delayed = float(erlang_c_exact(servers, rate / capacity))
    spare = capacity - rate
    return Measures(delayed * math.exp(-spare * SLO), delayed / spare, rate / capacity)


def by_chain(case: Case) -> Measures:
    """Solve the forward equations of the number in the system, by uniformisation.

    A request is late if it finds so many before it that more than SLO passes at the tick's capacity. The states end
    far beyond what a fluid would reach; raises ValueError where that was too early.
    """
    servers = case.replicas * case.concurrency
    capacity = servers * case.service_rate
    size = _states(case.rates * TICK, capacity * TICK) + int(servers.max())
    n = np.arange(size + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 6 * size + 6000)))])
    chance = np.zeros(size + 1)
    chance[0] = 1.0
    late = wait = busy = come = room = 0.0
    for tick, (rate, c, most) in enumerate(zip(case.rates, servers, capacity, strict=True)):
        chance, mean = _uniformised(chance, float(rate), np.minimum(n, c) * case.service_rate, float(most), logs)
        if chance[-1] > _TRUNCATED:
            raise ValueError(f"{case.name}: {size} states are too few for the Markov chain; shorten the overload")
        if tick < case.warm:
            continue
        ahead = np.maximum(n - c, 0)
        late += rate * float(mean @ np.where(n >= c, _poisson_below(most * SLO, logs)[ahead], 0.0))
        wait += float(mean @ ahead)
        busy += float(mean @ np.minimum(n, c))
        come += rate
        room += c
    return Measures(late / come, wait / come, busy / room)


def _states(come: np.ndarray, most: np.ndarray) -> int:
    """Return how many waiting requests the chain allows for, given arrivals and capacity (T,) of each tick."""
    backlog = peak = stretch = longest = 0.0
    for arrivals, served in zip(come, most, strict=True):
        backlog = max(0.0, backlog + arrivals - served)
        peak = max(peak, backlog)
        stretch = stretch + arrivals + served if arrivals > 0.95 * served else 0.0
        longest = max(longest, stretch)
    spare = max(1.0 - float(come.mean() / most.mean()), 0.02)
    return int(peak + 7.0 * math.sqrt(2.0 * peak + longest) + 25.0 / spare) + 200


def _uniformised(
    chance: np.ndarray, up: float, down: np.ndarray, most: float, logs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distribution after a tick, and its mean over the tick. down: (n,) rates; most: the largest."""
    total = up + most
    events = total * TICK
    last = int(events + 8.0 * math.sqrt(events) + 30)
    k = np.arange(last + 1)
    weight = np.exp(k * math.log(events) - events - logs[: last + 1])
    beyond = np.clip(1.0 - np.cumsum(weight), 0.0, 1.0) / events
    rise, fall = up / total, down / total
    stay = 1.0 - rise - fall
    stay[-1] += rise
    end, mean = np.zeros_like(chance), np.zeros_like(chance)
    part = np.empty_like(chance)
    for i in range(last + 1):
        np.multiply(chance, beyond[i], out=part)
        mean += part
        if weight[i] > 1e-17:
            np.multiply(chance, weight[i], out=part)
            end += part
        following = stay * chance
        np.multiply(chance[:-1], rise, out=part[1:])
        following[1:] += part[1:]
        np.multiply(chance[1:], fall[1:], out=part[:-1])
        following[:-1] += part[:-1]
        chance = following
    return end, mean


def _poisson_below(mean: float, logs: np.ndarray) -> np.ndarray:
    """Return P(Poisson(mean) <= k) for k = 0 .. len(logs) - 1."""
    if mean <= 0.0:
        return np.ones(len(logs))
    k = np.arange(len(logs))
    below: np.ndarray = np.minimum(np.cumsum(np.exp(k * math.log(mean) - mean - logs)), 1.0)
    return below


def by_requests(case: Case, runs: int, seed: int) -> Measures:
    """Simulate every request with Ciw, `runs` times with fresh arrivals of the same rates."""
    import ciw
    from ciw import dists

    rng = np.random.default_rng(seed)
    length = len(case.rates) * TICK
    changes = [*(np.flatnonzero(np.diff(case.replicas)) + 1).tolist(), len(case.rates)]
    starts = [0, *changes[:-1]]
    numbers = [int(case.replicas[start]) * case.concurrency for start in starts]
    ends = [change * TICK for change in changes[:-1]] + [length + 1e6]
    late, wait, count = np.zeros((3, runs))
    for run in range(runs):
        counts = rng.poisson(case.rates * TICK)
        begins = np.repeat(np.arange(len(counts)) * TICK, counts)
        times = np.sort(begins + rng.uniform(0.0, TICK, len(begins)))
        gaps = [*np.diff(times, prepend=0.0).tolist(), math.inf]
        network = ciw.create_network(
            arrival_distributions=[dists.Sequential(gaps)],
            service_distributions=[dists.Exponential(rate=case.service_rate)],
            number_of_servers=[
                ciw.Schedule(numbers_of_servers=numbers, shift_end_dates=ends) if len(numbers) > 1 else numbers[0]
            ],
        )
        ciw.seed(seed * 1000 + run)
        simulation = ciw.Simulation(network)
        simulation.simulate_until_max_time(length + 1e4)
        records = simulation.get_all_records()
        waits = np.array([r.waiting_time for r in records if r.arrival_date >= case.warm * TICK])
        late[run], wait[run], count[run] = (waits > SLO).sum(), waits.sum(), len(waits)
    return Measures(
        late=float(late.sum() / count.sum()),
        wait=float(wait.sum() / count.sum()),
        late_margin=_margin(late, count),
        wait_margin=_margin(wait, count),
    )


def _margin(total: np.ndarray, count: np.ndarray) -> float:
    """Return half the 95 % interval of the ratio of the sums over independent runs."""
    runs = len(count)
    rest = total - total.sum() / count.sum() * count
    student = 1.96 + 2.9 / (runs - 1)
    return float(student * rest.std(ddof=1) / (math.sqrt(runs) * count.mean()))


def late_tolerance(reference: Measures, exact: bool) -> float:
    """Return how far the share of late requests may be off: 2 % or 0.1 points for a constant rate (`exact`), 10 % or
    0.5 points otherwise, or the reference's own interval.
    """
    relative, points = (0.02, 0.001) if exact else (0.10, 0.005)
    return max(relative * reference.late, points, reference.late_margin)


MODULATED = (
    (1, 1, 0.6),
    (2, 1, 0.7),
    (5, 1, 0.8),
    (5, 1, 0.9),
    (10, 1, 0.85),
    (10, 1, 0.95),
    (25, 1, 0.9),
    (25, 1, 0.95),
    (25, 1, 0.97),
    (100, 1, 0.98),
    (5, 4, 0.8),
    (5, 4, 0.9),
    (25, 4, 0.95),
)
STEPS = ((2, 1, 1.3), (10, 1, 1.1), (10, 1, 1.3), (25, 1, 1.0), (25, 1, 1.05), (25, 1, 1.2), (5, 4, 1.2))
LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97)
SIZES = (1, 2, 5, 10, 25, 100)


def _row(case: Case, world: Measures, reference: Measures, exact: bool) -> str:
    off = world.late - reference.late
    ok = "yes" if abs(off) <= late_tolerance(reference, exact) else "NO"
    margin = f" ±{100 * reference.late_margin:.2f}" if reference.late_margin else ""
    return (
        f"| {case.name} | {100 * world.late:.2f} | {100 * reference.late:.2f}{margin} | {100 * off:+.2f} "
        f"| {1000 * world.wait:.1f} | {1000 * reference.wait:.1f} | {100 * (world.wait / reference.wait - 1):+.1f} "
        f"| {ok} |"
    )


def table() -> str:
    """Return the comparison as Markdown."""
    head = [
        "| case (replicas x concurrency) | late %, world | late %, reference | off by, points | wait ms, world "
        "| wait ms, reference | off by, % | within |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines = ["Constant rate against the M/M/c formulas, largest error of each load over sizes and concurrencies 1, 4:"]
    lines += ["", "| load | busy, points | wait, % (of 5 ms at least) | late, points |", "|---:|---:|---:|---:|"]
    for load in LOADS:
        cases = [steady(size, concurrency, load) for size in SIZES for concurrency in (1, 4)]
        worst = np.zeros(3)
        for case, world in zip(cases, by_world(cases), strict=True):
            formula = by_formula(case)
            wait = (world.wait - formula.wait) / max(formula.wait, 0.005)
            worst = np.maximum(
                worst, np.abs([100 * (world.busy - formula.busy), 100 * wait, 100 * (world.late - formula.late)])
            )
        lines.append(f"| {load:.2f} | {worst[0]:.3f} | {worst[1]:.2f} | {worst[2]:.3f} |")
    lines += ["", "Over-dispersed arrivals and steps against the exact Markov chain:", "", *head]
    for cases in ([modulated(*cell, seed=7) for cell in MODULATED], [stepped(*cell) for cell in STEPS]):
        for case, world in zip(cases, by_world(cases), strict=True):
            lines.append(_row(case, world, by_chain(case), exact=False))
    lines += ["", "Against Ciw, request by request:", "", *head]
    for case, runs in request_cases():
        exact = case.name.startswith("steady")
        lines.append(_row(case, by_world([case])[0], by_requests(case, runs, seed=1), exact))
    return "\n".join(lines)


def request_cases() -> list[tuple[Case, int]]:
    """Return the cases that are simulated request by request, each with its number of runs."""
    constant = [replace(steady(*cell, ticks=400), warm=100) for cell in ((2, 1, 0.7), (10, 1, 0.85), (5, 4, 0.8))]
    return [
        *((case, 8) for case in constant),
        (modulated(2, 1, 0.7, seed=3, ticks=400), 8),
        (modulated(10, 1, 0.9, seed=3, ticks=400), 6),
        (modulated(5, 4, 0.9, seed=3, ticks=400), 8),
        (stepped(10, 1, 1.2), 8),
        (stepped(25, 1, 1.05), 6),
    ]


def speed(sizes: Sequence[int] = (1, 4, 16, 64, 256, 1024, 4096, 8192, 16384, 65536)) -> str:
    """Return a table of decision-steps per second in the standard world, draws included, against Ciw's."""
    case = replace(steady(10, 1, 0.85, ticks=40), warm=0)
    begin = perf_counter()
    by_requests(case, 2, seed=1)
    peer = 2 * len(case.rates) / _TICKS / (perf_counter() - begin)
    lines = [f"Ciw, 10 replicas at a load of 0.85: {peer:.0f} decision-steps/s.", ""]
    lines += ["| environments | us a step | decision-steps/s | times Ciw |", "|---:|---:|---:|---:|"]
    for n in sizes:
        params, rng = compiled(WorldConfig(), n), np.random.default_rng(0)
        rates, replicas = np.full(n, 85.0, np.float32), np.full(n, 10.0, np.float32)
        state = initial(params, replicas)
        steps, best = max(5, 20_000 // (n + 100)), math.inf
        for _ in range(5):
            begin = perf_counter()
            for _ in range(steps):
                state, _ = step(params, state, replicas, rates, draws(params, rng))
            best = min(best, (perf_counter() - begin) / steps)
        lines.append(f"| {n:,} | {1e6 * best:,.0f} | {n / best:,.0f} | {n / best / peer:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(speed() if sys.argv[1:] == ["speed"] else table())
