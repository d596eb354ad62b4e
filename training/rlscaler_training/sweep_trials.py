"""The trials of a sweep on Ray Tune: drawn, trained side by side, the hopeless stopped early (ASHA), all resumable.

Every trial of a learner is a run of its own (SWEEP/trials/NNN) with checkpoints, so that whatever was cut off, a trial
or the whole sweep, goes on where it was. A trial's last word is its score on draws that nothing was chosen by.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.artifact import save
from rlscaler.errors import UserError
from rlscaler.files import unwritable, write_bytes_atomically, write_text_atomically
from rlscaler.policies import RULES
from rlscaler_training import devices, finishing, learner, loads, runs
from rlscaler_training.asked import begun, world_of
from rlscaler_training.commands import LEARNERS
from rlscaler_training.learner import Progress, Task
from rlscaler_training.ray_cluster import cluster
from rlscaler_training.run_record import REPORT, at_work
from rlscaler_training.sweeps import Choices, Space, Sweep, checked

PLAN, TRIALS, TUNE, STATE = "sweep.json", "trials", "tune", "experiment_state-*.json"
SHARE, SCORE = "share", "score"
WHOLE = 100
"""What `share` is at a trial's end: per cent of its own budget, which rungs are counted in."""
PARTS = 5
"""Stretches of load that a rule is tried on, one after the other, so that it can be stopped between them."""
ENVS, SCHEME = 64, "headroom"
"""Workloads of a stretch, and the action scheme whose batches rules are tried in (a rule does without)."""
OTHER = 7919
"""What is added to the seed for the draws on which the best is judged once more."""
SILENCE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment variables of Ray Tune: results are written here, and trials find files by the caller's folder."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial. drawn: its values. share: per cent of its budget that it had. score: J, NaN where none was measured.

    state: finished, stopped (by ASHA), failed, or unfinished. why: of one that failed.
    """

    number: int
    drawn: Mapping[str, Any]
    share: float
    score: float
    state: str
    why: str = ""


def prepared(sweep: Sweep, folder: Path) -> None:
    """Make a sweep's folder, or see that it holds this very sweep. Raises UserError."""
    path = folder / PLAN
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder}: holds other files; expected a new folder, or an empty one") from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        write_text_atomically(path, json.dumps(sweep.told(), indent=2) + "\n")
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; name another folder") from error
    told = sweep.told()
    if different := [name for name in told if told[name] != held.get(name)]:
        raise UserError(f"{folder}: holds a sweep with another {different[0]}; name another folder")


def require_load(sweep: Sweep) -> None:
    """See that what the sweep names to train on is there, which else each trial would fail for. Raises UserError."""
    sweep.asked()
    if sweep.scenarios or sweep.traces or sweep.validate:
        _pools(sweep)


def run(sweep: Sweep, folder: Path, address: str | None, tell: Tell) -> list[Trial]:
    """Try everything that is not tried yet, and return all trials, the defaults first.

    Raises UserError where Ray does not come up, and KeyboardInterrupt after a Ctrl-C, with everything kept.
    """
    with _quiet(), cluster(sweep.parallel, address):
        from ray import tune

        place = (folder / TUNE).resolve()
        if _is_kept(place):
            # resumed and not restarted, as Ray Tune gives a restarted trial a name without its number
            tuner = tune.Tuner.restore(str(place), _trainable(sweep, folder), resume_unfinished=True,
                                       resume_errored=True, param_space=_drawn(sweep.search))  # fmt: skip
        else:
            tuner = _tuner(sweep, folder, tell)
        grid = tuner.fit()
        trials = sorted((_told(grid[k]) for k in range(len(grid))), key=lambda each: each.number)
    if any(each.state == "unfinished" for each in trials) or len(trials) < sweep.trials:
        raise KeyboardInterrupt
    return trials


def _is_kept(place: Path) -> bool:
    """Tell whether Ray Tune can go on from its own state, which it keeps a moment after it begins and writes in place.

    Where it cannot it would try a single trial. Begun anew, the same is drawn, and trials go on where they were.
    """
    try:
        json.loads(max(place.glob(STATE)).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or the beginning of one
        return False
    return (place / "tuner.pkl").exists()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Tune from writing about itself where results are written."""
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)
    yield


def _tuner(sweep: Sweep, folder: Path, tell: Tell) -> Any:
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    grace = max(1, round(sweep.grace * WHOLE))
    first = {name: _held(value) for name, value in defaults(sweep).items()}
    return tune.Tuner(
        _trainable(sweep, folder),
        param_space=_drawn(sweep.search),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="min",
            num_samples=sweep.trials,
            max_concurrent_trials=sweep.parallel,
            scheduler=_scheduler(time_attr=SHARE, max_t=WHOLE, grace_period=grace, reduction_factor=sweep.reduction),
            search_alg=BasicVariantGenerator(points_to_evaluate=[first], random_state=sweep.seed),
        ),
        run_config=tune.RunConfig(name=TUNE, storage_path=str(folder.resolve()), verbose=0, callbacks=[_teller(tell)]),
    )


def _scheduler(**options: Any) -> Any:
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    class Rungs(ASHAScheduler):
        """ASHA that lets the defaults come to their end: the others are compared with them."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> Any:
            decision = super().on_trial_result(tune_controller, trial, result)
            return TrialScheduler.CONTINUE if _number(trial.trial_id) == 0 else decision

    return Rungs(**options)


def _trainable(sweep: Sweep, folder: Path) -> Any:
    from ray import tune

    return tune.with_resources(tune.with_parameters(_trial, told=sweep.told(), place=str(folder.resolve())), {"cpu": 1})


def _teller(tell: Tell) -> Any:
    from ray.tune import Callback

    class Teller(Callback):
        """Tells of each trial that came to an end."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            last = trial.last_result or {}
            tell(f"trial {_number(trial.trial_id)}: score {last.get(SCORE, math.nan):.4f} after "
                 f"{last.get(SHARE, 0)} % ({_words(trial.config)})")  # fmt: skip

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            tell(f"trial {_number(trial.trial_id)} failed ({_words(trial.config)})")

    return Teller()


def _words(drawn: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in drawn.items())  # fmt: skip


def _number(name: str) -> int:
    """Return which trial of a sweep it is, from Ray's name of it: SWEEP_00007."""
    return int(name.rsplit("_", 1)[1])


def _drawn(space: Space) -> dict[str, Any]:
    """Return the ranges as Ray Tune draws from them."""
    from ray import tune

    found: dict[str, Any] = {}
    for name, each in space.items():
        if isinstance(each, Choices):
            found[name] = tune.choice([_held(value) for value in each.values])
        elif each.whole:
            draw = tune.lograndint if each.log else tune.randint
            found[name] = draw(math.ceil(each.low), math.floor(each.high) + 1)
        else:
            found[name] = (tune.loguniform if each.log else tune.uniform)(each.low, each.high)
    return found


def _held(value: Any) -> Any:
    """Return a value as Ray Tune can hold it: a list as its JSON, for Tune takes lists apart."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _meant(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that Ray Tune held."""
    return {name: json.loads(value) if isinstance(value, str) and value.startswith("[") else value
            for name, value in held.items()}  # fmt: skip


def defaults(sweep: Sweep) -> dict[str, Any]:
    """Return what the searched settings are where nobody searches: the first trial."""
    if sweep.rule:
        return {name: RULES[sweep.rule].PARAMETERS[name].default for name in sweep.search}
    config = sweep.config({})
    values = {each.name: getattr(config, each.name) for each in fields(config)}
    return {name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in sweep.search}


def _trial(held: dict[str, Any], *, told: dict[str, Any], place: str) -> None:
    """Train or try one candidate, in a process of Ray's."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    sweep, drawn = _reread(told), _meant(held)
    number = _number(tune.get_context().get_trial_id())
    folder = Path(place) / TRIALS / f"{number:03d}"
    measured = _rule(sweep, drawn, tune.report) if sweep.rule else _learned(sweep, drawn, folder, tune.report)
    tune.report({SHARE: WHOLE, SCORE: measured})


def _reread(told: dict[str, Any]) -> Sweep:
    """Return the sweep that its folder tells of."""
    search = {
        name: {"choices": each["values"]} if "values" in each else {key: each[key] for key in ("low", "high", "log")}
        for name, each in told["search"].items()
    }
    return checked({name: value for name, value in {**told, "search": search}.items() if value != ""})


def _pools(sweep: Sweep) -> loads.Pools:
    pools = world_of(sweep.asked())
    assert isinstance(pools, loads.Pools), "no sweep is of the environment of earlier work"
    return pools


def _rule(sweep: Sweep, drawn: Mapping[str, Any], report: Callable[[dict[str, Any]], None]) -> float:
    """Return the score of a rule with these constants; reported after each stretch of training load."""
    pools = _pools(sweep)
    rule = RULES[sweep.rule](**sweep.constants(drawn))
    train, _, judge = loads.batches(pools, SCHEME, ENVS, finishing.EPISODE, sweep.seed)
    scores: list[float] = []
    for part in range(PARTS):
        scores.append(learner.scored(train, rule, finishing.EPISODE, sweep.seed + part).total)
        report({SHARE: (WHOLE - 1) * (part + 1) // PARTS, SCORE: float(np.mean(scores))})
    return learner.scored(judge, rule, finishing.EPISODE, sweep.seed + 2).total


def _learned(
    sweep: Sweep, drawn: Mapping[str, Any], folder: Path, report: Callable[[dict[str, Any]], None]
) -> float:  # fmt: skip
    """Return the score of what is learned with these settings; reported as often as the learner measures it."""
    if (folder / REPORT).exists():
        return float(json.loads((folder / REPORT).read_text(encoding="utf-8"))[SCORE])
    module = import_module(f"rlscaler_training.{LEARNERS[sweep.learner][0]}")
    config, asked, device = sweep.config(drawn), sweep.asked(), devices.device("cpu")
    pools = _pools(sweep)
    if hasattr(module, "require"):
        module.require(config, pools.inputs.names)
    there = (folder / runs.CONFIG).exists()
    record = runs.resume(folder) if there else begun(sweep.learner, config, asked, str(folder), device.why)
    told = {SHARE: 0}

    def heard(progress: Progress) -> None:
        score = progress.numbers.get(SCORE, math.nan)
        share = (WHOLE - 1) * progress.step // max(progress.steps, 1)
        if math.isfinite(score) and share > told[SHARE]:
            told[SHARE] = share
            report({SHARE: share, SCORE: float(score)})

    try:
        with at_work(folder):
            task = Task(asked.name, pools, record, device, sweep.seed, finishing.provenance(record, pools), heard)
            outcome = module.learn(task, config)
            score, rule = finishing.judged(pools, outcome.artifact, sweep.seed)
            lived = finishing.agreed(pools, outcome.artifact, sweep.seed)
            scores = {**outcome.artifact.manifest["scores"], **lived, **finishing.told(score, rule)}
            made = finishing.changed(outcome.artifact, scores=scores)
            digest = save(made, record.policy)
            record.finish({"algorithm": sweep.learner, "name": asked.name, "artifact": str(record.policy),
                           "digest": digest, SCORE: score.total, "cost": score.cost, "late": score.late,
                           "untrained_score": rule.total, "better": score.total < rule.total, "scores": scores,
                           "device": device.why, "steps": outcome.steps,
                           "seconds": round(record.seconds, 1)})  # fmt: skip
    finally:
        record.close()
    return score.total


def _told(result: Any) -> Trial:
    """Return a trial from Ray's result of it."""
    last = result.metrics or {}
    number, share = (
        _number(str(last["trial_id"])) if "trial_id" in last else _from_path(result.path),
        last.get(SHARE, 0),
    )
    if result.error is not None:
        state, why = "failed", str(result.error).strip().splitlines()[-1]
    elif share >= WHOLE:
        state, why = "finished", ""
    else:
        state, why = ("stopped" if last.get("done") else "unfinished"), ""
    return Trial(number, _meant(result.config or {}), float(share), float(last.get(SCORE, math.nan)), state, why)


def _from_path(path: str) -> int:
    """Return the number of a trial that never reported, from the name of its folder: trial_SWEEP_00007_..."""
    return int(Path(path).name.split("_")[2])


@dataclass(frozen=True, slots=True)
class Best:
    """The best finished trial. score, usual: J of it and of the defaults on draws of which nothing was chosen by.

    usual: NaN where the trial with the defaults did not finish.
    """

    trial: Trial
    score: float
    usual: float


def best(sweep: Sweep, folder: Path, trials: list[Trial]) -> Best:
    """Choose the best of the finished trials and judge it once more, beside the defaults.

    The best of many was lucky on the draws that it was chosen by. Raises UserError where none finished.
    """
    finished = [each for each in trials if each.state == "finished"]
    if not finished:
        why = next((each.why for each in trials if each.why), "all were stopped")
        raise UserError(f"no trial finished: {why}")
    chosen = min(finished, key=lambda each: each.score)
    usual = next((each for each in finished if each.number == 0), None)
    again = judge(sweep, folder)
    return Best(chosen, again(chosen), again(usual) if usual is not None else math.nan)


def judge(sweep: Sweep, folder: Path) -> Callable[[Trial], float]:
    """Return what scores a finished trial on other draws of the validation load."""
    from rlscaler.artifact import load

    seed = sweep.seed + OTHER
    pools = _pools(sweep)

    def again(trial: Trial) -> float:
        if sweep.rule:
            _, _, batch = loads.batches(pools, SCHEME, 1, finishing.EPISODE, seed)
            rule = RULES[sweep.rule](**sweep.constants(trial.drawn))
            return learner.scored(batch, rule, finishing.EPISODE, seed + 2).total
        artifact = load(policy_of(folder, trial))
        return finishing.judged(pools, artifact, seed)[0].total

    return again


def policy_of(folder: Path, trial: Trial) -> Path:
    """Return where the artifact of a finished trial of a learner is."""
    return folder / TRIALS / f"{trial.number:03d}" / runs.POLICY


def taken(folder: Path, sweep: Sweep, found: Best, out: Path | None) -> Path:
    """Write the best settings, and a copy of its artifact where it is a learner's; return the settings' file."""
    path = folder / "best.json"
    values = sweep.constants(found.trial.drawn) if sweep.rule else {**sweep.settings, **found.trial.drawn}
    write_text_atomically(path, json.dumps(values, indent=2) + "\n")
    if sweep.learner:
        for place in (folder / "best.rlz", *([out] if out else [])):
            write_bytes_atomically(place, policy_of(folder, found.trial).read_bytes())
    return path
