"""The runs of the benchmark, in a folder from which an interrupted one goes on.

    RUN/plan.json              the budget and the load: what may not change under way
    RUN/SETTING-SEED.jsonl     a line for each contender of that setting and seed
    RUN/SETTING-SEED/NAME/     what a learner left: configuration, metrics, artifact

All contenders of a setting and seed are a unit: they are trained one after the other and scored together, on the same
draws. A learner that was trained is not trained again; one that was cut off is trained anew.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rlscaler.cli import version_of
from rlscaler.errors import UserError
from rlscaler.files import write_text_atomically
from rlscaler_training import benchmark_legacy as legacy
from rlscaler_training.benchmark_arenas import RULES, Arena, Figures, classic, finite, randomised, scored, traces
from rlscaler_training.benchmark_learners import BUDGETS, Watched, kept, trained

SETTINGS = {
    "classic": "the six classic patterns, trained on other draws of them",
    "worlds": "randomised worlds, trained and scored in others of the same ranges",
    "traces": "recorded traces, trained on them and on wild variants of them (`benchmark_arenas.wild`); a third of the"
    " source families is scored on, and neither trained nor validated on",
    "legacy": "the environment of earlier work, its published trace",
}
"""The settings and what each is."""
LEGACY_RULES = (legacy.LIMIT, legacy.TUNED, "threshold", "constant", "churn", "random")
LIMIT = "clairvoyant"
REFERENCES = {"legacy": "threshold"}
"""The contender whose regret is 1, where it is not hpa-tuned."""
PLAN, TRAINED = "plan.json", "trained.json"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which libraries learn how many threads they may have."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run. contenders: learners and rules; those that regret is measured by always take part. seeds: of cheap
    learners and of rules. budget: seconds of each training. hours: of load by setting. traces: folder."""

    settings: tuple[str, ...]
    contenders: tuple[str, ...]
    seeds: int
    budget: float
    hours: dict[str, float]
    traces: str | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A setting and a seed, with the contenders that are not there yet."""

    setting: str
    seed: int
    contenders: tuple[str, ...]


def reference(setting: str) -> str:
    """Return the contender whose regret is 1 in a setting."""
    return REFERENCES.get(setting, "hpa-tuned")


def entrants(setting: str) -> tuple[str, ...]:
    """Return who can take part in a setting: learners, then rules."""
    if setting == "legacy":
        return (*legacy.LEARNERS, *LEGACY_RULES)
    return (*BUDGETS, *RULES)


def seeds_of(contender: str, seeds: int) -> int:
    """Return with how many seeds a contender is run: half of them, or three, where it is dear."""
    return max(min(seeds, 3), seeds // 2) if contender in BUDGETS and BUDGETS[contender].dear else seeds


def begun(plan: Plan, folder: Path) -> None:
    """Make the folder, or see that it is one of the same budget and load. Raises UserError where it is not."""
    fixed = {"budget": plan.budget, "hours": plan.hours, "traces": plan.traces, "version": version_of("rlscaler")}
    there = folder / PLAN
    if there.exists():
        held = json.loads(there.read_text(encoding="utf-8"))
        for name, value in fixed.items():
            if held.get(name) != value and not (name == "traces" and None in (held.get(name), value)):
                raise UserError(f"{folder}: was begun with {name} {held.get(name)}, not {value}; ask for the same, or "
                                "name another folder by --run")  # fmt: skip
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(there, json.dumps(fixed | {"machine": machine()}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Return where the figures are from."""
    names = ("rlscaler", "numpy", "torch", "stable-baselines3")
    return {
        "processors": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in names},
    }


def rows(folder: Path) -> list[Row]:
    """Return what is there, the last line of each setting, seed and contender; a cut line is left out."""
    found: dict[tuple[str, int, str], Row] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError):
                row = json.loads(line)
                found[row["setting"], row["seed"], row["contender"]] = row
    return list(found.values())


def units(plan: Plan, folder: Path) -> list[Unit]:
    """Return what is left to do, low seeds first, as these have the dear learners too."""
    there = {(row["setting"], row["seed"], row["contender"]) for row in rows(folder)}
    left = []
    for seed in range(plan.seeds):
        for setting in plan.settings:
            always = (LIMIT, reference(setting))
            asked = [name for name in entrants(setting) if name in (*plan.contenders, *always)]
            mine = tuple(name for name in asked
                         if seed < seeds_of(name, plan.seeds) and (setting, seed, name) not in there)  # fmt: skip
            if mine:
                left.append(Unit(setting, seed, mine))
    return left


# --- one unit


def played(plan: Plan, folder: Path, unit: Unit, tell: Callable[[str], None] = lambda _: None) -> None:
    """Train and score the contenders of a unit, and write their lines."""
    place = folder / f"{unit.setting}-{unit.seed}"
    for row in _legacy(plan, place, unit, tell) if unit.setting == "legacy" else _scored(plan, place, unit, tell):
        _append(place.with_suffix(".jsonl"), {"setting": unit.setting, "seed": unit.seed} | row)


def _append(path: Path, row: Row) -> None:
    """Write a line, after the end of one that was cut off."""
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\n" * cut + json.dumps(row) + "\n")


def arena(plan: Plan, setting: str, seed: int) -> Arena:
    """Return what a seed of a setting is trained and scored on. Raises UserError."""
    hours = plan.hours[setting]
    if setting == "classic":
        return classic(seed, hours)
    if setting == "worlds":
        return randomised(seed, hours)
    assert plan.traces is not None
    return traces(plan.traces, seed, hours)


def _scored(plan: Plan, place: Path, unit: Unit, tell: Callable[[str], None]) -> Iterator[Row]:
    there = arena(plan, unit.setting, unit.seed)
    told: dict[str, Row] = {}
    watched: dict[str, Watched] = {}
    for name in unit.contenders:
        if name in BUDGETS:
            tell(f"training {name}")
            told[name] = _trained(name, plan, there, unit.seed, place / name)
            if "failed" not in told[name]:
                watched[name] = Watched(kept(place / name))
    rules = [name for name in unit.contenders if name in RULES]
    found = scored(there, rules, watched, tell)
    for name in unit.contenders:
        row: Row = {"contender": name, "kind": "learner" if name in BUDGETS else "rule"} | told.get(name, {})
        if name in watched:
            row |= {"constant": watched[name].constant, "outside": round(watched[name].outside, 4)}
        yield row | _told(found.get(name, Figures()))


def _told(figures: Figures) -> Row:
    return {name: finite(values) for name, values in asdict(figures).items()}


def _trained(name: str, plan: Plan, there: Arena, seed: int, folder: Path) -> Row:
    """Train a learner unless it was; return what it took, or how it failed."""
    done = folder / TRAINED
    if done.exists():
        row: Row = json.loads(done.read_text(encoding="utf-8"))
        return row
    try:
        found = trained(name, plan.budget, there.pools, seed, folder)
        row = {"steps": found.steps, "seconds": round(found.seconds, 2), "cpu_seconds": round(found.cpu, 2)}
    except UserError as error:  # of one learner: the others go on
        row = {"failed": str(error)}
    write_text_atomically(done, json.dumps(row) + "\n")
    return row


def _legacy(plan: Plan, place: Path, unit: Unit, tell: Callable[[str], None]) -> Iterator[Row]:
    rules = legacy.rules(unit.seed)
    for name in unit.contenders:
        row: Row = {"contender": name, "kind": "learner" if name in legacy.LEARNERS else "rule", "cost": {}, "late": {}}
        if name in rules:
            yield row | {"score": {"sine-curve": -rules[name].value}}
            continue
        tell(f"training {name}")
        try:
            found = legacy.trained(name, plan.budget, unit.seed, place / name)
        except UserError as error:
            yield row | {"failed": str(error), "score": {}}
            continue
        spent = {"steps": found.steps, "seconds": round(found.seconds, 2), "cpu_seconds": round(found.cpu, 2)}
        yield row | spent | {"score": {"sine-curve": -found.episode.value}, "constant": found.episode.constant}


# --- all units


def run(plan: Plan, folder: Path, jobs: int, tell: Callable[[str], None]) -> None:
    """Run what is left of a plan, `jobs` units at once, each in a process of its own with one thread.

    Raises UserError; where it is interrupted, the same call goes on.
    """
    left = units(plan, folder)
    if jobs == 1:
        for number, unit in enumerate(left):
            label = f"[{number + 1}/{len(left)}] {unit.setting}, seed {unit.seed}"
            with one_thread():
                played(plan, folder, unit, lambda what, label=label: tell(f"{label}: {what}"))  # type: ignore[misc]
        return
    with _limited(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepared) as pool:
        waiting = {pool.submit(_timed, plan, folder, unit): unit for unit in left}
        done = 0
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    unit, seconds = waiting.pop(future), future.result()
                    done += 1
                    tell(f"[{done}/{len(left)}] {unit.setting}, seed {unit.seed}: {len(unit.contenders)} contenders "
                         f"in {seconds:.0f} s")  # fmt: skip
        except BrokenProcessPool as error:
            raise UserError("a process of the benchmark was killed, perhaps for want of memory; --jobs 1 needs less,"
                            " and the same command goes on with it") from error  # fmt: skip
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _timed(plan: Plan, folder: Path, unit: Unit) -> float:
    began = time.perf_counter()
    played(plan, folder, unit)
    return time.perf_counter() - began


@contextmanager
def _limited() -> Iterator[None]:
    """Let libraries in the processes that are started meanwhile have one thread each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _prepared() -> None:
    import torch

    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checked(names: Sequence[str], known: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the names in the order in which they are known. Raises UserError for one that is not."""
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{option} {unknown[0]}: expected one of {', '.join(known)}")
    return tuple(name for name in known if name in names)
