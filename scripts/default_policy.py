"""Trains the policy `default`, and the constants of the rule beside it, leaving source families out in turn.

    default_policy.py --traces FOLDER --work runs/default
    default_policy.py --work runs/default --scores docs/results.json

The first call makes, for each fold of `rlscaler tune` and then for all, on the load of the other families alone: the
constants of the own-history rule by gradient, networks by analytic policy gradient, and of both one artifact with
tenure. Those of the folds go where `rlscaler evaluate --policy default` takes them from, so that what it prints is of
load that was not trained on; the last one is what is shipped. The second call writes into its manifest what an
evaluation has found. What is done is kept in --work; the same command goes on there.
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

from rlscaler import artifact, tenured
from rlscaler.artifact import Artifact
from rlscaler.cli import version_of
from rlscaler.errors import UserError
from rlscaler.files import require_writable, write_text_atomically
from rlscaler.policies import DEFAULT, SPARE_RULE
from rlscaler.rules.tenure import Tenure
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.trace import TraceError, events_per_bucket, family, read_trace, trace_files
from rlscaler_sim.tuner import folds_of
from rlscaler_training import apg, ensemble, rule_gradient, runs
from rlscaler_training.corpus import Corpus, corpus
from rlscaler_training.devices import Device
from rlscaler_training.learner import Progress, Task
from rlscaler_training.loads import Pools

ROOT = Path(__file__).resolve().parents[1]
ALL = "all"
SEED = 2_000
"""Seed of the training load, above those of evaluations."""
TOLD = ("traces", *(f"{how}_{what}" for what in ("regret", "regret_own") for how in ("median", "mean", "worst")))
"""What the manifest tells of an evaluation."""
log = logging.getLogger("default_policy")


def options() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, help="folder of recorded load to train on")
    parser.add_argument("--work", type=Path, required=True, help="folder where what is done is kept")
    parser.add_argument("--scores", type=Path, help="results of an evaluation, to be told in the manifest")
    parser.add_argument("--output", type=Path, default=ROOT / "core/rlscaler/data", help="folder of the artifact and "
                        "of the tuned constants (default: the package's)")  # fmt: skip
    parser.add_argument("--folds", type=Path, default=ROOT / "sim/rlscaler_sim/data", help="folder of the folds' "
                        "artifacts (default: the package's)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=5000, help="gradient steps of each network (default: 5000)")
    parser.add_argument("--networks", type=int, default=1, help="networks that are averaged (default: 1)")
    parser.add_argument("--days", type=float, default=4.0, help="of each load trained on, at most (default: 4)")
    parser.add_argument("--draws", type=int, default=3, help="of each trace, trained on (default: 3)")
    parser.add_argument("--made-up", type=int, default=70, help="loads that are not recorded (default: 70)")
    asked = parser.parse_args()
    for name, least in (("steps", 1), ("networks", 1), ("draws", 1), ("made_up", 1)):
        if getattr(asked, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(asked, name)}; expected {least} or more")
    if not 0.01 <= asked.days <= 28.0:
        parser.error(f"--days is {asked.days:g}; expected 0.01 to 28")
    if (asked.traces is None) == (asked.scores is None):
        parser.error("expected one of --traces, to train, and --scores, to tell what an evaluation has found")
    return asked


def trained(
    material: Corpus, whole: apg.Material, held_out: Sequence[str], folder: Path, asked: argparse.Namespace
) -> Artifact:
    """Return a rule and networks made on all load but that of the families held out, kept in the folder."""
    path = folder / "policy.rlz"
    if path.exists():
        return artifact.load(path)
    families = material.families
    names = tuple(name for name in dict.fromkeys(families) if name not in held_out)
    mine = apg.some(whole, torch.tensor([i for i, name in enumerate(families) if name in names]))
    log.info("%s: tunes the rule", folder.name)
    constants = rule_gradient.fitted(mine, seed=SEED)
    settings = standard_settings()
    pools = Pools(
        material.without(held_out), material.sample(held_out), standard_world(settings), settings, names, names
    )
    provenance = {
        "command": _training(asked), "seed": SEED, "version": version_of("rlscaler"), "trained_on": list(names),
    }  # fmt: skip
    config = recipe(asked.steps)
    networks = []
    for seed in range(asked.networks):
        kept = folder / f"network-{seed}.rlz"
        if not kept.exists():
            log.info("%s: trains network %d of %d", folder.name, seed + 1, asked.networks)
            again = folder / f"run-{seed}"
            shutil.rmtree(again, ignore_errors=True)
            run = runs.begin(again, "apg", config, {})
            task = Task(DEFAULT, pools, run, Device("cpu", "device: cpu"), seed, provenance, report=_told)
            artifact.save(apg.learn(task, config, mine).artifact, kept)
        networks.append(artifact.load(kept))
    relaxed = [each.manifest["scores"]["relaxed_score"] for each in networks]
    joined = ensemble.joined(
        networks, name=DEFAULT, provenance=provenance | {"config": asdict(config), "networks": asked.networks},
        scores={"relaxed_score": float(np.mean(relaxed))},
    )  # fmt: skip
    made = with_tenure(joined, constants)
    write_text_atomically(folder / "constants.json", json.dumps(constants) + "\n")
    artifact.save(made, path)
    return made


def recipe(steps: int) -> apg.Config:
    """Return the settings of each network."""
    return apg.Config(steps=steps, batch=48, decisions=100, hidden=(64, 64), evaluate_every=steps)


def with_tenure(network: Artifact, constants: dict[str, float]) -> Artifact:
    """Return the artifact of a network that has to earn its say beside the rule with these constants."""
    manifest = {key: value for key, value in network.manifest.items() if key != "digest"}
    own = {name: value for name, value in constants.items() if name in Tenure.PARAMETERS}
    own |= {name: each.default for name, each in Tenure.PARAMETERS.items() if name not in own}
    manifest |= {"kind": tenured.KIND, "parameters": {**manifest["parameters"], "tenure": own}}
    return Artifact(manifest=manifest, arrays=network.arrays)


def _told(progress: Progress) -> None:
    log.info("  step %d of %d: %s", progress.step, progress.steps,
             ", ".join(f"{name} {value:.4f}" for name, value in progress.numbers.items()))  # fmt: skip


def tuned(table: dict[str, Any], found: dict[str, dict[str, float]], command: str) -> dict[str, Any]:
    """Return the table of tuned constants with those of the own-history rule in it. found: by fold, and of ALL."""
    provenance = table["provenance"] | {SPARE_RULE: {"command": command, "by": "gradient of the relaxed score"}}
    folds = [
        {**fold, "constants": fold["constants"] | {SPARE_RULE: found[f"fold-{index + 1}"]}}
        for index, fold in enumerate(table["folds"])
    ]
    constants = table["constants"] | {SPARE_RULE: found[ALL]}
    return {**table, "provenance": provenance, "constants": constants, "folds": folds}


def scored(made: Artifact, results: dict[str, Any]) -> Artifact:
    """Return the artifact with what an evaluation has found of it, and of the rule that it has to be better than."""
    told = {
        name: {key: round(row[key], 3) for key in TOLD if row.get(key) is not None}
        for name, row in results["summary"].items()
        if name in (DEFAULT, SPARE_RULE)
    }
    manifest = {key: value for key, value in made.manifest.items() if key != "digest"}
    manifest["scores"] = {**manifest["scores"], "leave_family_out": {"command": results["command"], **told}}
    manifest["provenance"] = {**manifest["provenance"], "version": version_of("rlscaler")}
    return Artifact(manifest=manifest, arrays=made.arrays)


def _training(asked: argparse.Namespace) -> str:
    """Return the part of the command that decides what is trained."""
    return (
        f"scripts/default_policy.py --steps {asked.steps} --networks {asked.networks} --days {asked.days:g}"
        f" --draws {asked.draws} --made-up {asked.made_up}"
    )


def train(asked: argparse.Namespace) -> None:
    """Make the folds' policies and the shipped one. Raises UserError and TraceError."""
    asked.work.mkdir(parents=True, exist_ok=True)
    begun = asked.work / "command.txt"
    if begun.exists() and (before := begun.read_text(encoding="utf-8").strip()) != _training(asked):
        raise UserError(f"{asked.work}: was begun by {before}; go on with the same, or name another folder by --work")
    write_text_atomically(begun, _training(asked) + "\n")
    table = asked.output / "tuned.json"
    for path in (table, asked.output / f"{DEFAULT}.rlz", asked.folds / f"{DEFAULT}-1.rlz"):
        require_writable(path)
    traces = [read_trace(file) for file in trace_files(asked.traces)]
    used = [trace for trace in traces if events_per_bucket(trace) >= 1.0]
    folds = folds_of([family(trace.name) for trace in used])
    names = [*(f"fold-{index + 1}" for index in range(len(folds))), ALL]
    if not all((asked.work / name / "policy.rlz").exists() for name in names):
        log.info("prepares the load")
        material = corpus(used, folds, days=asked.days, draws=asked.draws, made_up=asked.made_up, seed=SEED)
        whole = apg.material(material.pool, torch.device("cpu"))
        for name, held_out in zip(names, [*folds, []], strict=True):
            (asked.work / name).mkdir(exist_ok=True)
            trained(material, whole, held_out, asked.work / name, asked)
    constants = {name: json.loads((asked.work / name / "constants.json").read_text("utf-8")) for name in names}
    new = tuned(json.loads(table.read_text(encoding="utf-8")), constants, _training(asked))
    write_text_atomically(table, json.dumps(new, indent=1) + "\n")
    for index, name in enumerate(names[:-1]):
        artifact.save(artifact.load(asked.work / name / "policy.rlz"), asked.folds / f"{DEFAULT}-{index + 1}.rlz")
    artifact.save(artifact.load(asked.work / ALL / "policy.rlz"), asked.output / f"{DEFAULT}.rlz")


def main() -> None:
    """Train, or tell the scores."""
    asked = options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    try:
        if asked.traces is not None:
            train(asked)
        else:
            results = json.loads(asked.scores.read_text(encoding="utf-8"))
            made = artifact.load(asked.work / ALL / "policy.rlz")
            artifact.save(scored(made, results), asked.output / f"{DEFAULT}.rlz")
    except (UserError, TraceError, OSError) as error:
        sys.exit(f"default_policy: {error}")
    print(f"{asked.output / DEFAULT}.rlz: {artifact.load(asked.output / f'{DEFAULT}.rlz').manifest['digest']}")


if __name__ == "__main__":
    main()
