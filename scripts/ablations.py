"""Tells what the parts of the default policy are worth, beside what other learners make of the same load.

    ablations.py --traces FOLDER --work out/ablations --output docs/ablations.json

For each fold of source families (those of `rlscaler tune`) networks are trained on the load of the other families: by
the recipe of the default policy with all of the workload's past in sight, without any that is older than an hour, and
without what is usual at this time of the day and the week; then the other learners, each with the same seconds of
training. All are scored on the fold's own load, on the same draws as the shipped policy and the rules. What is trained
is kept in --work; the same command goes on there.
"""

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from default_policy import SEED, recipe

from rlscaler import artifact, tuned
from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler.files import require_writable, write_text_atomically
from rlscaler.mlp import MlpPolicy
from rlscaler.policies import SPARE_RULE
from rlscaler.tenured import tenured
from rlscaler_sim import evaluation
from rlscaler_sim.contenders import OWN, SHIPPED, standard_settings
from rlscaler_sim.contest import Entrant
from rlscaler_sim.evaluation import Scored, standard_world
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_sim.trace import Trace, TraceError, events_per_bucket, family, read_trace, since_first_load, trace_files
from rlscaler_sim.tuner import folds_of
from rlscaler_training import ablation_report as report
from rlscaler_training import apg, benchmark_learners, blinding, runs
from rlscaler_training.benchmark_learners import Watched
from rlscaler_training.blinding import Blinded
from rlscaler_training.corpus import SAMPLED, Corpus, corpus
from rlscaler_training.devices import Device
from rlscaler_training.learner import Task
from rlscaler_training.loads import Pools

RULES = (REFERENCE, OWN, SPARE_RULE, "tenure", CLAIRVOYANT)
"""Rules that are scored beside."""
ANEW = "anew"
VARIANTS: dict[str, tuple[str, ...]] = {
    ANEW: (),
    "no-history": blinding.PARTS[blinding.HISTORY],
    "no-profile": blinding.PARTS[blinding.PROFILE],
}
"""Fields that the networks trained here do not see; ANEW sees all, so that the others differ from it in that alone."""
LEARNERS = ("q-learning", "dqn", "ppo", "bdq")
TRAINED = "trained.json"
DAY = 86_400.0
log = logging.getLogger("ablations")


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True, help="folder of recorded load")
    parser.add_argument("--work", type=Path, required=True, help="folder where what is trained is kept")
    parser.add_argument("--output", type=Path, required=True, help="FILE.json for the figures; page and picture stand "
                        "beside it as FILE.md and FILE.png")  # fmt: skip
    parser.add_argument("--budget", type=float, default=15.0, help="seconds of training of each other learner, in its "
                        "usual pace (default: 15)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=1000, help="gradient steps of each network (default: 1000, half "
                        "of the shipped ones')")  # fmt: skip
    parser.add_argument("--days", type=float, default=2.0, help="of each load trained on, at most (default: 2)")
    parser.add_argument("--draws", type=int, default=1, help="of each trace, trained on (default: 1)")
    parser.add_argument("--made-up", type=int, default=20, help="loads that are not recorded (default: 20)")
    parser.add_argument("--for", dest="scored", type=float, default=2.0, help="days of each load scored, at most "
                        "(default: 2)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=1, help="draws of noise of each trace scored (default: 1)")
    asked = parser.parse_args(arguments)
    for name, least in (("steps", 1), ("draws", 1), ("made_up", 1), ("seeds", 1)):
        if getattr(asked, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(asked, name)}; expected {least} or more")
    for name, option in (("days", "--days"), ("scored", "--for")):
        if not 0.01 <= getattr(asked, name) <= 28.0:
            parser.error(f"{option} is {getattr(asked, name):g}; expected 0.01 to 28")
    if not 0.1 <= asked.budget <= DAY:
        parser.error(f"--budget is {asked.budget:g}; expected 0.1 to {DAY:g} seconds")
    return asked


@dataclass(frozen=True, slots=True)
class Fold:
    """Source families that are held out together, and where what is trained without them is kept."""

    held_out: tuple[str, ...]
    folder: Path

    @property
    def missing(self) -> list[str]:
        """What is not trained yet, of VARIANTS and LEARNERS."""
        return [name for name in (*VARIANTS, *LEARNERS) if not (self.folder / name / TRAINED).exists()]

    def made(self, name: str) -> Artifact:
        """Return what was trained."""
        return artifact.load(self.folder / name / runs.POLICY)

    def spent(self, name: str) -> dict[str, Any]:
        """Return the steps and seconds that it took."""
        told: dict[str, Any] = json.loads((self.folder / name / TRAINED).read_text(encoding="utf-8"))
        return told


@dataclass
class Load:
    """What is trained on, prepared where something is to be trained at all."""

    traces: Sequence[Trace]
    folds: Sequence[Sequence[str]]
    asked: argparse.Namespace

    @cached_property
    def corpus(self) -> Corpus:
        """The load that the default policy is trained on."""
        log.info("prepares the load")
        asked = self.asked
        return corpus(
            self.traces, self.folds, days=asked.days, draws=asked.draws, made_up=asked.made_up, seed=SEED
        )  # fmt: skip

    @cached_property
    def material(self) -> apg.Material:
        """The same as tensors."""
        return apg.material(self.corpus.pool, torch.device("cpu"))

    def of(self, fold: Fold) -> tuple[Pools, torch.Tensor]:
        """Return the load of all families but those held out, and where it stands in the whole, (M,) int64."""
        families = self.corpus.families
        names = tuple(name for name in dict.fromkeys(families) if name not in fold.held_out)
        settings = standard_settings()
        pools = Pools(
            self.corpus.without(fold.held_out), self.corpus.sample(fold.held_out), standard_world(settings), settings,
            names, names,
        )  # fmt: skip
        return pools, torch.tensor([index for index, name in enumerate(families) if name in names])


def trained(load: Load, fold: Fold) -> None:
    """Train what a fold does not have yet. Raises UserError."""
    missing = fold.missing
    if not missing:
        return
    pools, places = load.of(fold)
    for name in missing:
        log.info("%s: trains %s", fold.folder.name, name)
        began = time.perf_counter()
        folder = fold.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        if name in VARIANTS:
            train, judge = (blinding.blinded(apg.some(load.material, which), VARIANTS[name])
                            for which in (places, places[::SAMPLED]))  # fmt: skip
            steps = _network(pools, train, judge, folder, name, load.asked.steps)
        else:
            steps = benchmark_learners.trained(name, load.asked.budget, pools, SEED, folder).steps
        told = {"steps": steps, "seconds": round(time.perf_counter() - began, 1)}
        write_text_atomically(folder / TRAINED, json.dumps(told) + "\n")


def _network(
    pools: Pools, train: apg.Material, judge: apg.Material, folder: Path, name: str, steps: int
) -> int:  # fmt: skip
    """Train a network by the default policy's recipe, keep it, and return the decisions that it took."""
    config, hidden = recipe(steps), list(VARIANTS[name])
    run = runs.begin(folder, "apg", config, {"without": hidden})
    provenance = {"seed": SEED, "trained_on": list(pools.trained_on), "without": hidden}
    try:
        task = Task(f"learned-{name}", pools, run, Device("cpu", "device: cpu"), SEED, provenance)
        outcome = apg.learn(task, config, train, judge)
    finally:
        run.close()
    artifact.save(outcome.artifact, run.policy)
    shutil.rmtree(folder / runs.CHECKPOINTS, ignore_errors=True)
    return outcome.steps


def entrants(fold: Fold) -> tuple[list[Entrant], dict[str, Watched]]:
    """Return what was trained without a fold, behind the whole guard, and by name those that are watched."""
    settings, constants = standard_settings(), tuned.constants("tenure", fold.held_out[0])
    found, watched = [], {}
    for name, hidden in VARIANTS.items():
        made = fold.made(name)
        watched[f"learned-{name}"] = Watched(made)
        alone = Blinded(watched[f"learned-{name}"], hidden, f"learned-{name}")
        beside = tenured(Blinded(MlpPolicy(made), hidden, name), constants, name=f"default-{name}")
        found += [Entrant(each.name, each, settings) for each in (alone, beside)]
    for name in LEARNERS:
        watched[name] = Watched(fold.made(name))
        found.append(Entrant(name, watched[name], settings))
    return found, watched


def scored(fold: Fold, traces: Sequence[Trace], asked: argparse.Namespace) -> tuple[list[Scored], dict[str, Any]]:
    """Return the scores on the families that a fold holds out, and by learned policy what was seen of its choices."""
    mine = [trace for trace in traces if family(trace.name) in fold.held_out]
    others, watched = entrants(fold)
    found = evaluation.evaluate(
        [since_first_load(trace) for trace in mine], SHIPPED, seeds=range(asked.seeds), duration=asked.scored * DAY,
        settings=standard_settings(), rules=RULES, others=others,
    )  # fmt: skip
    told = {name: {"constant": each.constant, "outside": round(each.outside, 4)} for name, each in watched.items()}
    return found, told


def training(asked: argparse.Namespace) -> str:
    """Return the part of the command that decides what is trained."""
    return (
        f"scripts/ablations.py --budget {asked.budget:g} --steps {asked.steps} --days {asked.days:g}"
        f" --draws {asked.draws} --made-up {asked.made_up}"
    )


def made(asked: argparse.Namespace) -> dict[str, Any]:
    """Train what is not there, score all of it, and return what is kept. Raises UserError and TraceError."""
    asked.work.mkdir(parents=True, exist_ok=True)
    begun = asked.work / "command.txt"
    if begun.exists() and (before := begun.read_text(encoding="utf-8").strip()) != training(asked):
        raise UserError(f"{asked.work}: was begun by {before}; go on with the same, or name another folder by --work")
    write_text_atomically(begun, training(asked) + "\n")
    read = [read_trace(file) for file in trace_files(asked.traces)]
    traces = [trace for trace in read if events_per_bucket(trace) >= 1.0]
    groups = folds_of([family(trace.name) for trace in traces])
    if not all(groups):
        raise UserError(
            f"{asked.traces}: holds {sum(map(len, groups))} source families; expected {len(groups)} or more"
        )
    folds = [Fold(tuple(names), asked.work / f"fold-{index + 1}") for index, names in enumerate(groups)]
    load = Load(traces, groups, asked)
    for fold in folds:
        trained(load, fold)
    del load
    found: list[Scored] = []
    seen: list[dict[str, Any]] = []
    for fold in folds:
        log.info("%s: scores", fold.folder.name)
        scores, watched = scored(fold, traces, asked)
        found += scores
        seen.append(watched)
    learned = {
        name: {
            "training": [fold.spent(key) for fold in folds],
            "outside": [watched[name]["outside"] for watched in seen],
            "constant": [watched[name]["constant"] for watched in seen],
        }
        for name, key in [
            *((f"learned-{variant}", variant) for variant in VARIANTS),
            *((each, each) for each in LEARNERS),
        ]
    }
    facts = {
        "command": f"{training(asked)} --for {asked.scored:g} --seeds {asked.seeds} --traces FOLDER",
        "budget": asked.budget, "seeds": asked.seeds, "days": asked.scored,
        "folds": [list(fold.held_out) for fold in folds], "learned": learned,
    }  # fmt: skip
    return report.summary(found, facts)


def main() -> None:
    """Train, score and write."""
    asked = options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    try:
        for ending in report.ENDINGS:
            require_writable(asked.output.with_suffix(ending))
        told = made(asked)
        report.write(told, asked.output)
    except (UserError, TraceError, OSError) as error:
        sys.exit(f"ablations: {error}")
    print(report.markdown(told), end="")


if __name__ == "__main__":
    main()
