"""Speed, printed as ratios to a named peer of the same run and stored as JSON: `make bench`.

Machines are noisy and differ, so the absolute figures are those of one run on one machine; each is the median over
repetitions, in processor time of one core.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Snapshot, history
from rlscaler.action import HEADROOM
from rlscaler.files import write_text_atomically
from rlscaler_sim import contenders, evaluation, legacy, scenarios, world
from rlscaler_sim.batch import Batch
from rlscaler_sim.contest import play
from rlscaler_sim.load import generator, realise
from rlscaler_sim.pool import prepare

SIZES = (1, 16, 256, 4096, 65_536)
MAIN = 4096


def per_second(run: Callable[[], int], seconds: float) -> float:
    """Return things done in a second of processor time: the median of at least three repetitions."""
    run()
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - began < seconds:
        start = time.process_time()
        done = run()
        rates.append(done / max(time.process_time() - start, 1e-9))
    return float(np.median(rates))


def world_rate(n: int, seconds: float) -> float:
    """Return decision-steps/s of the standard world, draws and metrics included, at n environments."""
    params = world.compiled(evaluation.standard_world(contenders.standard_settings()), n)
    rng = np.random.default_rng(0)
    rates = rng.uniform(50.0, 250.0, size=n).astype(np.float32)
    orders = np.ceil(rates / 8.0)
    state = world.initial(params, orders)
    turns = max(2, min(200, 200_000 // n))

    def run() -> int:
        nonlocal state
        for turn in range(turns):
            drawn = world.draws(params, rng)
            state, _ = world.step(params, state, orders + turn % 3, rates, drawn)
            world.readings(params, state, 15.0 * turn)
        return turns * n

    return per_second(run, seconds)


def legacy_rate(seconds: float) -> float:
    """Return steps/s of the environment of earlier work, stepped one at a time through Gymnasium."""
    from rlscaler_sim.legacy_env import LegacyScalingEnv

    env = LegacyScalingEnv()
    env.reset(seed=0)

    def run() -> int:
        for step in range(2000):
            _, _, ended, cut, _ = env.step(np.int64(1 + step % 2 - (step % 3 == 0)))
            if ended or cut:
                env.reset(seed=step)
        return 2000

    return per_second(run, seconds)


def legacy_batch_rate(n: int, seconds: float) -> float:
    """Return steps/s of the same dynamics in batch."""
    state = legacy.start(n)
    actions = np.ones(n, np.int64)

    def run() -> int:
        nonlocal state
        for _ in range(20):
            state, _, _ = legacy.step(state, actions)
        return 20 * n

    return per_second(run, seconds)


def whole_rate(n: int, seconds: float) -> float:
    """Return decision-steps/s with observation, rule, guard and world; the features of the load are looked up."""
    settings = contenders.standard_settings()
    config = evaluation.standard_world(settings)
    source = scenarios.get("sinusoidal").source
    loads = [realise(source, duration=3600.0 * 3, rng=generator(str(k), k)) for k in range(4)]
    batch = Batch(prepare(loads, config, settings, 0), config, settings, HEADROOM, n, 240, 0)
    middle = np.full(n, HEADROOM.branches[0] // 2)
    turns = max(2, min(50, 100_000 // n))

    def run() -> int:
        for _ in range(turns):
            batch.step(middle)
        return turns * n

    return per_second(run, seconds)


def decide_times(n: int, ticks: int) -> np.ndarray:
    """Return milliseconds of wall time of single calls of `decide` with live history, after an hour of past."""
    scaler = Autoscaler("default", contenders.standard_settings(), n)
    rng = np.random.default_rng(0)
    took = []
    for tick in range(ticks + 20):
        load = 200.0 * np.exp(0.1 * rng.standard_normal(n))
        snapshot = Snapshot(time=15.0 * tick, load=load, backlog=0.0, ready=30, starting=0, desired=30)
        began = time.perf_counter()
        scaler.decide(snapshot)
        took.append(1e3 * (time.perf_counter() - began))
    return np.array(took[20:])


def clairvoyant_seconds() -> float:
    """Return seconds of processor time that the optimum of one day takes."""
    settings = contenders.standard_settings()
    config = evaluation.standard_world(settings)
    load = realise(scenarios.get("working-day").source, duration=86_400.0, rng=generator("bench", 0))
    known = evaluation.known_to_the_end([load], [0], config)
    start = time.process_time()
    evaluation.planned(known, [load], config, settings)
    return time.process_time() - start


def day_seconds() -> float:
    """Return seconds of processor time of a day with four contenders and the clairvoyant, as a dry-run has it."""
    settings = contenders.standard_settings()
    config = evaluation.standard_world(settings)
    load = realise(scenarios.get("working-day").source, duration=86_400.0, rng=generator("bench", 0))
    entrants = [contenders.entrant(name, settings) for name in ("growth-quantile", *contenders.USUAL)]
    start = time.process_time()
    entrants.append(evaluation.limit(evaluation.clairvoyant_plan([load], [0], config, settings), settings))
    play([load], entrants, config, settings, [0])
    return time.process_time() - start


def measure(seconds: float) -> dict[str, Any]:
    """Return all figures."""
    peer = legacy_rate(seconds)
    worlds = {n: world_rate(n, seconds) for n in SIZES}
    wholes = {n: whole_rate(n, seconds) for n in (256, MAIN)}
    decisions = {n: decide_times(n, ticks) for n, ticks in ((1, 400), (1000, 60), (5000, 25))}
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    return {
        "machine": machine | {"numpy": np.__version__},
        "peer": {"name": "legacy environment, one at a time through Gymnasium", "steps_per_s": peer},
        "legacy_batch_steps_per_s": legacy_batch_rate(MAIN, seconds),
        "world_steps_per_s": {str(n): rate for n, rate in worlds.items()},
        "world_over_peer": worlds[MAIN] / peer,
        "whole_steps_per_s": {str(n): rate for n, rate in wholes.items()},
        "whole_over_peer": wholes[MAIN] / peer,
        "decide_ms": {
            str(n): {"median": float(np.median(t)), "p99": float(np.percentile(t, 99))} for n, t in decisions.items()
        },
        "decide_1000_over_1000_times_1": float(np.median(decisions[1000]) / (1000 * np.median(decisions[1]))),
        "history_mb_of_5000": history.nbytes(history.state(1)) * 5000 / 1e6,
        "clairvoyant_day_s": clairvoyant_seconds(),
        "dry_run_day_s": day_seconds(),
    }


GOALS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("world, standard physics, N = 4,096", "5 M steps/s, goal 10 M",
     lambda r: f"{r['world_steps_per_s']['4096'] / 1e6:.2f} M/s"),
    ("  over the legacy environment in Gymnasium", "", lambda r: f"{r['world_over_peer']:.1f} x"),
    ("observation, rule, guard and world, N = 4,096", "0.3 M steps/s, goal 1 M",
     lambda r: f"{r['whole_steps_per_s']['4096'] / 1e6:.2f} M/s"),
    ("  over the legacy environment in Gymnasium", "", lambda r: f"{r['whole_over_peer']:.2f} x"),
    ("decide, N = 1, p99", "2 ms, goal 1 ms", lambda r: f"{r['decide_ms']['1']['p99']:.2f} ms"),
    ("decide, N = 1,000, median", "10 ms", lambda r: f"{r['decide_ms']['1000']['median']:.1f} ms"),
    ("  over 1,000 single decisions", "", lambda r: f"1 / {1 / r['decide_1000_over_1000_times_1']:.0f}"),
    ("decide, N = 5,000, median", "50 ms", lambda r: f"{r['decide_ms']['5000']['median']:.1f} ms"),
    ("history of 5,000 workloads", "200 MB", lambda r: f"{r['history_mb_of_5000']:.0f} MB"),
    ("clairvoyant optimum of a day", "1 s", lambda r: f"{r['clairvoyant_day_s']:.2f} s"),
    ("a day with four contenders and the clairvoyant", "10 s, goal 3 s", lambda r: f"{r['dry_run_day_s']:.1f} s"),
)  # fmt: skip
"""What is printed: the figure's name, what it should be, and its text."""


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="out/bench.json", help="where the figures go")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each figure")
    options = parser.parse_args()
    found = measure(options.seconds)
    width = max(len(name) for name, _, _ in GOALS)
    for name, goal, text in GOALS:
        print(f"{name:<{width}}  {text(found):>12}  {goal}")
    by_size = (f"{int(n):,}: {rate / 1e6:.2f} M/s" for n, rate in found["world_steps_per_s"].items())
    print("world by N:", ", ".join(by_size))
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(options.json, json.dumps(found, indent=2) + "\n")
    print(f"stored: {options.json}")


if __name__ == "__main__":
    main()
