"""Measure what workers on Ray do to trainings, and write docs/rollouts.json and docs/rollouts.md.

Usage: rollouts.py [--seeds N] [--work FOLDER] [--output FILE.json]

Each learner that can be rolled out for trains on the same draws with the same settings and steps, alone in one process,
with one worker, with two, and with two in lockstep: who steps the environments is all that differs. What was measured
is kept in FOLDER, a line for each training, so that the command goes on where it was cut off.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlscaler.files import write_text_atomically
from rlscaler_training import bdq, benchmark_runs, loads, ppo_fast, ray_cluster, runs
from rlscaler_training.devices import device
from rlscaler_training.learner import Task
from rlscaler_training.remote_rollouts import LIMITS, Workers

SCENARIO, HOURS = "spike", 2.0
"""A load on which a short training shows."""
LEARNERS: dict[str, tuple[Any, Any]] = {
    "ppo-fast": (ppo_fast, ppo_fast.Config(steps=120_000, envs=128, episode=60, horizon=16, evaluate_every=2)),
    "bdq": (bdq, bdq.Config(steps=40_000, envs=64, episode=60, warm_up=4_000, evaluate_every=2)),
}
WAYS: dict[str, tuple[int, bool]] = {
    "one process": (0, False), "1 worker": (1, False), "2 workers": (2, False), "2 workers, lockstep": (2, True),
}  # fmt: skip
"""How many workers, and whether they keep step."""


def trained(learner: str, way: str, seed: int, pools: loads.Pools, folder: Path) -> dict[str, Any]:
    """Return what a training came to; to be called within a cluster."""
    module, config = LEARNERS[learner]
    count, lockstep = WAYS[way]
    workers = Workers(count, None, lockstep, LIMITS[learner]) if count else None
    run = runs.begin(folder, learner, config, {})
    told: list[tuple[int, float]] = []
    task = Task(
        learner, pools, run, device("cpu"), seed, {}, workers=workers,
        report=lambda progress: told.append((progress.step, time.monotonic())),
    )  # fmt: skip
    begun = time.monotonic()
    outcome = module.learn(task, config)
    seconds = time.monotonic() - begun
    (first, at), (last, until) = told[0], told[-1]
    counts = {} if workers is None else asdict(workers.counts) | {"staleness": workers.counts.staleness}
    return {
        "learner": learner, "way": way, "seed": seed, "steps": outcome.steps, "seconds": seconds,
        "start": at - begun, "steps_per_s": (last - first) / (until - at),
        "score": outcome.artifact.manifest["scores"]["validation_score"], "counts": counts,
    }  # fmt: skip


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Return mean and its 95 % interval by bootstrap over the seeds."""
    array = np.array(list(values))
    rng = np.random.default_rng(0)
    means = array[rng.integers(len(array), size=(10_000, len(array)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(array.mean()), float(low), float(high)


def page(told: dict[str, Any]) -> str:
    """Return the page of what was measured."""
    machine, rows = told["machine"], told["rows"]
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# Rollouts on Ray, by training",
        "",
        f"`{told['command']}` (`make rollouts`), {len(seeds)} seeds, on {machine['processors']} processors "
        f"({machine['architecture']}, Python {machine['python']}, torch {machine['versions']['torch']}); other work on "
        f"the machine at the start: load {machine['load']:.1f}. Scenario `{SCENARIO}`, {HOURS:g} hours.",
        "",
        "Each row trains on the same draws with the same settings, as many steps of environments and as many gradient "
        "updates; rows differ in who steps the environments. `score` is the best validation score (lower is better), "
        "`against one process` the mean difference of the same seeds, both with 95% intervals over seeds.",
        "",
    ]
    for learner in LEARNERS:
        mine = [row for row in rows if row["learner"] == learner]
        alone = {row["seed"]: row for row in mine if row["way"] == "one process"}
        settings = ", ".join(f"{name} {value:,}" for name, value in told["settings"][learner].items())
        lines += [
            f"## {learner}", "", f"{settings}.", "",
            "| | score | against one process | start, s | steps/s | speed-up | stale | versions behind | dropped | "
            "replaced |",
            "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]  # fmt: skip
        for way, (count, _) in WAYS.items():
            found = [row for row in mine if row["way"] == way and row["seed"] in alone]
            if not found:
                continue
            score = "{:.3f} ({:.3f} to {:.3f})".format(*interval(row["score"] for row in found))
            against = ""
            if count:
                off = interval(row["score"] - alone[row["seed"]]["score"] for row in found)
                against = "{:+.3f} ({:+.3f} to {:+.3f})".format(*off)
            start, speed = (float(np.median([row[name] for row in found])) for name in ("start", "steps_per_s"))
            times = float(np.median([row["steps_per_s"] / alone[row["seed"]]["steps_per_s"] for row in found]))
            counts = [
                f"{np.mean([row['counts'].get(name, 0) for row in found]):,.{digits}f}"
                for name, digits in (("stale", 0), ("staleness", 1), ("dropped", 0), ("replaced", 0))
            ]
            busy = " (oversubscribed)" if count >= machine["processors"] and count else ""
            lines.append(f"| {way}{busy} | {score} | {against} | {start:.1f} | {speed:,.0f} | {times:.2f} | "
                         f"{' | '.join(counts)} |")  # fmt: skip
        lines.append("")
    if machine["load"] > machine["processors"]:
        lines.append(
            "- The machine was not at rest: scores are as ever, but `start`, `steps/s` and `speed-up` tell of "
            "what else was running as much as of the workers."
        )
    return "\n".join([
        *lines,
        "- `start` is the time until the first update, or the first episode of `bdq`: processes start and import torch "
        "there. `steps/s` and `speed-up` are of the rest, with all evaluations, which workers do not share. All three "
        "are medians over the seeds.",
        "- `oversubscribed`: the learner takes a processor of its own, so with as many workers as processors three "
        "processes share two; that says nothing of a machine that has them.",
        "- Without lockstep a chunk is made while the learner updates, by weights that are a version or two older. "
        "`ppo-fast` corrects for what its policy would not have done; `bdq` learns off its policy.",
        "",
    ])  # fmt: skip


def main() -> None:
    """Measure what is not there yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("out/rollouts"))
    parser.add_argument("--output", type=Path, default=Path("docs/rollouts.json"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    kept = given.work / "rows.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    there = {(row["learner"], row["way"], row["seed"]) for row in rows}
    left = [
        (learner, way, seed) for seed in range(given.seeds) for learner in LEARNERS for way in WAYS
        if (learner, way, seed) not in there
    ]  # fmt: skip
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    if left:
        with ray_cluster.cluster(2):
            for learner, way, seed in left:
                pools = loads.pools((SCENARIO,), None, HOURS, seed)
                folder = given.work / f"{learner}-{way.replace(' ', '-').replace(',', '')}-{seed}-{time.time_ns()}"
                row = trained(learner, way, seed, pools, folder)
                rows.append(row)
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    told = {
        "command": f"python scripts/rollouts.py --seeds {given.seeds}",
        "machine": benchmark_runs.machine() | {"load": load},
        "settings": {
            name: {each: getattr(config, each) for each in ("steps", "envs", "episode")}
            for name, (_, config) in LEARNERS.items()
        },
        "rows": rows,
    }
    write_text_atomically(given.output, json.dumps(told, indent=1) + "\n")
    write_text_atomically(given.output.with_suffix(".md"), page(told))


if __name__ == "__main__":
    main()
