"""Trains the policy `learned` and says what it is worth on load of sources that it was not trained on.

    learned_policy.py --traces FOLDER --work runs/learned --results learned.json --output learned.rlz

Source families are held out in the folds of `rlscaler tune`: for each, networks are trained by analytic policy
gradient on the load of the others alone and scored on those held out, by the functions of `rlscaler evaluate`, beside
the tuned rule (whose constants are of the same fold) and the HPA tuned on that very trace. The policy that is written
at last is trained on all, and its manifest carries the scores of the folds. What is done is kept in --work; the same
command goes on there.
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlscaler import artifact
from rlscaler.artifact import Artifact
from rlscaler.cli import version_of
from rlscaler.errors import UserError
from rlscaler.files import require_writable, write_text_atomically
from rlscaler_sim.contenders import OWN, standard_settings
from rlscaler_sim.evaluation import Scored, evaluate, standard_world, summary
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE, Contender
from rlscaler_sim.score_statistics import interval
from rlscaler_sim.trace import Trace, TraceError, events_per_bucket, family, read_trace, trace_files
from rlscaler_sim.tuner import folds_of
from rlscaler_training import apg, ensemble, runs
from rlscaler_training.corpus import Corpus, corpus
from rlscaler_training.devices import Device
from rlscaler_training.learner import Progress, Task
from rlscaler_training.loads import Pools

NAME, RULE = "learned", "growth-quantile"
RULES = (REFERENCE, OWN, RULE, CLAIRVOYANT)
ALL = "all"
SEED = 2_000
"""Seed of the training load, above those of evaluations."""
log = logging.getLogger("learned_policy")


def options() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True, help="folder of recorded load")
    parser.add_argument("--work", type=Path, required=True, help="folder where what is done is kept")
    parser.add_argument("--results", type=Path, required=True, help="JSON file of scores to write")
    parser.add_argument("--output", type=Path, help="artifact to write, trained on all (default: none)")
    parser.add_argument("--steps", type=int, default=1500, help="gradient steps of each network (default: 1500)")
    parser.add_argument("--networks", type=int, default=2, help="networks that are averaged (default: 2)")
    parser.add_argument("--days", type=float, default=3.0, help="of each load trained on, at most (default: 3)")
    parser.add_argument("--draws", type=int, default=2, help="of each trace, trained on (default: 2)")
    parser.add_argument("--made-up", type=int, default=35, help="loads that are not recorded (default: 35)")
    parser.add_argument("--seeds", type=int, default=2, help="draws of noise that are scored (default: 2)")
    parser.add_argument("--for", type=float, default=4.0, dest="score_days", help="days scored (default: 4)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that score (default: 1)")
    asked = parser.parse_args()
    for name, least in (("steps", 1), ("networks", 1), ("draws", 1), ("made_up", 1), ("seeds", 1), ("jobs", 1)):
        if getattr(asked, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(asked, name)}; expected {least} or more")
    for name in ("days", "score_days"):
        if not 0.01 <= getattr(asked, name) <= 28.0:
            parser.error(f"{name.replace('_', ' ')} are {getattr(asked, name):g}; expected 0.01 to 28")
    return asked


def trained(material: Corpus, held_out: Sequence[str], folder: Path, asked: argparse.Namespace) -> Artifact:
    """Return the mean of networks trained on all load but that of the families held out, kept in the folder."""
    path = folder / "policy.rlz"
    if path.exists():
        return artifact.load(path)
    pool = material.without(held_out)
    settings = standard_settings()
    names = tuple(name for name in dict.fromkeys(material.families) if name not in held_out)
    pools = Pools(pool, material.sample(held_out), standard_world(settings), settings, names, names)
    provenance = {
        "command": _training(asked), "seed": SEED, "version": version_of("rlscaler"), "trained_on": list(names),
    }  # fmt: skip
    config = apg.Config(steps=asked.steps, batch=48, decisions=100, hidden=(64, 64), evaluate_every=asked.steps)
    networks = []
    for seed in range(asked.networks):
        kept = folder / f"network-{seed}.rlz"
        if not kept.exists():
            log.info("%s: trains network %d of %d", folder.name, seed + 1, asked.networks)
            again = folder / f"run-{seed}"
            shutil.rmtree(again, ignore_errors=True)
            run = runs.begin(again, "apg", config, {})
            task = Task(NAME, pools, run, Device("cpu", "device: cpu"), seed, provenance, report=_told)
            artifact.save(apg.learn(task, config).artifact, kept)
        networks.append(artifact.load(kept))
    relaxed = [each.manifest["scores"]["relaxed_score"] for each in networks]
    whole = ensemble.joined(
        networks, name=NAME, provenance=provenance | {"config": asdict(config), "networks": asked.networks},
        scores={"relaxed_score": float(np.mean(relaxed))},
    )  # fmt: skip
    artifact.save(whole, path)
    return whole


def _told(progress: Progress) -> None:
    log.info("  step %d of %d: %s", progress.step, progress.steps,
             ", ".join(f"{name} {value:.4f}" for name, value in progress.numbers.items()))  # fmt: skip


def scored(traces: Sequence[Trace], folder: Path, asked: argparse.Namespace) -> list[Scored]:
    """Return the scores of the folder's policy on the traces, kept in the folder."""
    path = folder / f"scores-{asked.seeds}-{asked.score_days:g}d.json"
    if not path.exists():
        log.info("%s: scores %d traces", folder.name, len(traces))
        found = evaluate(
            traces, [str(folder / "policy.rlz")], seeds=range(asked.seeds), duration=asked.score_days * 86400.0,
            settings=standard_settings(), rules=RULES, jobs=asked.jobs,
        )  # fmt: skip
        write_text_atomically(path, json.dumps([asdict(each) for each in found], indent=1) + "\n")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Scored(**{**row, "contenders": [Contender(**c) for c in row["contenders"]]}) for row in rows]


def results(found: Sequence[Scored], asked: argparse.Namespace) -> dict[str, Any]:
    """Return what is written: summaries, the paired difference to the rule, and the scores of each trace."""
    pairs = [(s, s.of(RULE).regret_own, s.of(NAME).regret_own) for s in found if s.headline]
    told = [(s, rule - own) for s, rule, own in pairs if rule is not None and own is not None]
    headline, gain = [s for s, _ in told], np.array([gained for _, gained in told])
    low, high = interval(gain, [s.family for s in headline], _mean, np.random.default_rng(0))
    return {
        "command": f"{_training(asked)} --seeds {asked.seeds} --for {asked.score_days:g}",
        "traces": len(found),
        "headline_traces": len(headline),
        "summary": summary(found),
        "regret_own_less_than_rule": {
            "rule": RULE, "mean": float(gain.mean()), "median": float(np.median(gain)), "interval_90": [low, high],
            "better_on": int((gain > 0).sum()),
        },
        "by_trace": [
            {"trace": s.trace, "family": s.family, "headline": s.headline, "lower_bound": s.lower_bound}
            | {c.name: {"score": c.score, "cost_ratio": c.cost_ratio, "violation_share": c.violation_share,
                        "regret": c.regret, "regret_own": c.regret_own} for c in s.contenders}
            for s in found
        ],
    }  # fmt: skip


def _training(asked: argparse.Namespace) -> str:
    """Return the part of the command that decides what is trained."""
    return (
        f"scripts/learned_policy.py --steps {asked.steps} --networks {asked.networks} --days {asked.days:g}"
        f" --draws {asked.draws} --made-up {asked.made_up}"
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def main() -> None:
    """Train, score, write."""
    asked = options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    try:
        asked.work.mkdir(parents=True, exist_ok=True)
        begun = asked.work / "command.txt"
        if begun.exists() and (before := begun.read_text(encoding="utf-8").strip()) != _training(asked):
            raise UserError(
                f"{asked.work}: was begun by {before}; go on with the same, or name another folder by --work"
            )
        write_text_atomically(begun, _training(asked) + "\n")
        for path in (asked.results, asked.output):
            if path is not None:
                require_writable(path)
        traces = [read_trace(file) for file in trace_files(asked.traces)]
        used = [trace for trace in traces if events_per_bucket(trace) >= 1.0]
        folds = folds_of([family(trace.name) for trace in used])
        names = [f"fold-{index + 1}" for index in range(len(folds))] + ([ALL] if asked.output else [])
        if not all((asked.work / name / "policy.rlz").exists() for name in names):
            log.info("prepares the load")
            material = corpus(used, folds, days=asked.days, draws=asked.draws, made_up=asked.made_up, seed=SEED)
            for name, held_out in zip(names, [*folds, []], strict=False):
                (asked.work / name).mkdir(exist_ok=True)
                trained(material, held_out, asked.work / name, asked)
        found: list[Scored] = []
        for index, held_out in enumerate(folds):
            # few traces have under an event a bucket; they are in no fold, and go with the first
            spare = [t for t in traces if t not in used] if index == 0 else []
            mine = [t for t in used if family(t.name) in held_out] + spare
            found += scored(mine, asked.work / names[index], asked)
        told = results(found, asked)
        write_text_atomically(asked.results, json.dumps(told, indent=1) + "\n")
        if asked.output:
            final = artifact.load(asked.work / ALL / "policy.rlz")
            scores = {"leave_family_out": {key: told[key] for key in ("headline_traces", "regret_own_less_than_rule")}}
            scores["leave_family_out"] |= {name: told["summary"][name] for name in (NAME, RULE)}
            manifest = {key: value for key, value in final.manifest.items() if key != "digest"}
            manifest["scores"] = {**manifest["scores"], **scores}
            artifact.save(Artifact(manifest=manifest, arrays=final.arrays), asked.output)
    except (UserError, TraceError) as error:
        sys.exit(f"learned_policy: {error}")
    own = told["summary"][NAME]
    difference = told["regret_own_less_than_rule"]
    print(f"regret_own on {told['headline_traces']} traces of families not trained on: median "
          f"{own['median_regret_own']:.2f}, mean {own['mean_regret_own']:.2f}, worst {own['worst_regret_own']:.2f}; "
          f"below the rule's by {difference['mean']:.3f}, 90 % interval {difference['interval_90'][0]:.3f} to "
          f"{difference['interval_90'][1]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
