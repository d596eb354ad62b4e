"""All that a report on training runs shows, gathered once: the page and the dashboard draw it.

Runs of one learner with the same settings are one group (see `run_curves`); each finished run's artifact takes part in
the evaluation under the run's name.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlscaler.policies import load_policy
from rlscaler_sim import contenders
from rlscaler_sim.palette import looks
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE, Contender, DryRun
from rlscaler_sim.run_record import described, log, proven, series
from rlscaler_training.run_compare import LEVEL, difference
from rlscaler_training.run_curves import Group, grouped
from rlscaler_training.run_record import INTERRUPTED, Record
from rlscaler_training.surfaces import Choice, Surface, surfaces, table_of
from rlscaler_training.trials import CLASSIC, Candidate, Progress, Trials, episode, tried, unservable

MOST = 8
"""Policies that are evaluated at most; more would make no readable page."""
DEFAULT = "growth-quantile"
"""The rule that learned policies correct, shown beside them."""
EPISODE, EPISODE_START, EPISODE_SECONDS = "working-day", 12 * 3600.0, 5 * 3600.0
"""What is replayed: the afternoon of a working day, with its flash crowd."""


@dataclass(frozen=True, slots=True)
class Summary:
    """groups: of all runs. candidates: names of the policies that were evaluated, best first. trials: on the classic
    patterns. surfaces: the rule's, then theirs. tables: of the tabular among them, name -> fields and states. replay:
    one episode, the best candidate under test. notes: what the reader must know. All but runs, groups and notes are
    None or empty where no run has a policy yet."""

    runs: tuple[Record, ...]
    groups: list[Group]
    candidates: tuple[str, ...]
    trials: Trials | None
    surfaces: list[Surface]
    tables: dict[str, tuple[list[str], list[Choice]]]
    replay: DryRun | None
    notes: list[str]

    @property
    def colours(self) -> dict[str, int]:
        """The palette's index of each group: that of its first policy in the episode, so that they agree."""
        mine = (
            dict(zip((c.name for c in self.replay.contenders), looks(self.replay), strict=True)) if self.replay else {}
        )
        free = [i for i in (0, 2, 3, 4, 5, 6) if i not in {mine[n].colour for n in self.candidates if n in mine}]
        found = {}
        for group in self.groups:
            own = [mine[name].colour for run in group.runs if (name := self.name_of(run)) in mine]
            found[group.label] = own[0] if own else free.pop(0) if free else 6
        return found

    def name_of(self, run: Record) -> str:
        """Return what a run is called here: by its folder, with the folder above where two have one name."""
        same = [other for other in self.runs if other.name == run.name]
        return run.name if len(same) == 1 else f"{run.folder.resolve().parent.name}/{run.name}"


def summarise(
    runs: Sequence[Record], *, draws: int, hours: float, scenario: str | None, progress: Progress | None = None
) -> Summary:
    """Return all that there is to show of the runs.

    draws: of each classic pattern, `hours` long. scenario: of the replayed episode, None: the afternoon of a working
    day. Raises UserError.
    """
    began = time.perf_counter()
    blank = Summary(tuple(runs), grouped(runs), (), None, [], {}, None, [])
    notes = []
    named = [(run, blank.name_of(run)) for run in runs]
    if waiting := [name for run, name in named if run.policy is None]:
        has = "has" if len(waiting) == 1 else "have"
        notes.append(f"{listed(waiting)} {has} no policy yet, so only the curves are shown")
    notes += [f"{name} was interrupted; go on with it by: {run.resumption}" for run, name in named
              if run.state == INTERRUPTED]  # fmt: skip
    ready = []
    for run, name in named:
        if run.policy is not None and (problem := unservable(run.policy)):
            notes.append(f"{name} is not evaluated: {problem}")
        elif run.policy is not None:
            ready.append(Candidate(name, run.policy))
    if len(ready) > MOST:
        notes.append(f"the first {MOST} of {len(ready)} policies are evaluated; name fewer runs to see the others")
        ready = ready[:MOST]
    if not ready:
        return Summary(blank.runs, blank.groups, (), None, [], {}, None, notes)
    found = tried(ready, (REFERENCE,), CLASSIC, draws=draws, seconds=3600.0 * hours, progress=progress)
    ready.sort(key=lambda candidate: found.mean(candidate.name))
    policies = [load_policy(candidate.policy) for candidate in ready]
    drawn = surfaces([load_policy(DEFAULT), *policies], contenders.standard_settings())
    renamed = [drawn[0]] + [Surface(c.name, s.headroom) for c, s in zip(ready, drawn[1:], strict=True)]
    tables = {c.name: table for c, p in zip(ready, policies, strict=True) if (table := table_of(p)) is not None}
    seconds, start = (EPISODE_SECONDS, EPISODE_START) if scenario is None else (3600.0 * hours, 0.0)
    replay = replayed(ready, scenario or EPISODE, seconds, start, progress, began)
    names = tuple(candidate.name for candidate in ready)
    return Summary(blank.runs, blank.groups, names, found, renamed, tables, replay, notes)


def replayed(
    candidates: Sequence[Candidate],
    scenario: str,
    seconds: float,
    start: float,
    progress: Progress | None = None,
    began: float | None = None,
) -> DryRun:
    """Return one episode as the dry-run's page shows it, the first candidate under test. Raises UserError."""
    began = time.perf_counter() if began is None else began
    found = episode(candidates, (REFERENCE,), scenario, seconds=seconds, start=start, progress=progress)
    return DryRun(
        resource="",
        trace=found.load.name,
        world=described(found.config, found.settings, 25.0, found.seed),
        policy=candidates[0].name,
        contenders=found.contenders,
        lower_bound=found.lower_bound if proven(found.config) else None,
        decisions=len(found.traced.decisions),
        elapsed_s=round(time.perf_counter() - began, 3),
        series=series(found.traced, float(found.settings.capacity_per_replica)),
        log=log(found.traced),
    )


def verdict(found: Summary) -> tuple[str, str, str]:
    """Return who is ahead in a few words, why in a sentence, and whether that is won, lost or even."""
    if found.trials is None and all(run.policy is not None for run in found.runs):
        return ("No policy to evaluate", "None of them can scale a workload; the curves show how they learned.", "even")
    if found.trials is None:
        return (
            "No policy to evaluate yet",
            "A run has one when it is finished; the curves show how far it came.",
            "even",
        )
    best, trials = found.candidates[0], found.trials
    apart = difference(trials, best, REFERENCE)
    why = (
        f"Mean score {trials.mean(best):.3f} over the classic patterns against {trials.mean(REFERENCE):.3f}: "
        f"{apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}], a {100 * LEVEL:.0f} % interval. The "
        f"clairvoyant, who knows the load beforehand, has {trials.mean(CLAIRVOYANT):.3f}."
    )
    if (count := len(found.candidates)) > 1:
        why += f" {best} is the best of {count} on these very draws, which flatters it a little."
    if apart.better is None:
        return f"It cannot be told whether {best} is better than {REFERENCE}", why, "even"
    won = apart.better == best
    ahead = apart.ahead if won else apart.behind
    whole = ahead == apart.scenarios
    where = f"on all {ahead} patterns" if whole else f"on average, and on {ahead} of {apart.scenarios} patterns"
    return f"{best} {'beats' if won else 'loses to'} {REFERENCE} {where}", why, "won" if won else "lost"


def best_figures(found: Summary) -> Contender | None:
    """Return the figures of the best policy as means over the classic patterns, None where there is none."""
    if found.trials is None:
        return None
    index = found.trials.names.index(found.candidates[0])
    rows = [each[index] for each in found.trials.contenders]
    regrets = [row.regret for row in rows if row.regret is not None]

    def mean(key: str) -> float:
        return float(np.mean([getattr(row, key) for row in rows]))

    return Contender(
        name=found.candidates[0], cost_ratio=mean("cost_ratio"), violation_share=mean("violation_share"),
        score=mean("score"), regret=float(np.mean(regrets)) if regrets else None, replica_hours=mean("replica_hours"),
        rescales=round(mean("rescales")), wait_p95_s=mean("wait_p95_s"),
        max_replicas=max(row.max_replicas for row in rows),
    )  # fmt: skip


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words: a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
