"""A long load, played in stretches side by side: the same decisions and the same outcome as one after the other.

A month at 15 s is 172,800 decisions, and one at a time costs more in calls than in arithmetic. So the load is cut into
stretches that run as rows of one batch. Each begins some hours early, from a guess, and by its own beginning has nearly
always forgotten it. Nothing is left to that: where the state at a seam is not, to the bit and for all that is to come,
what the stretch before ends with (`seams`), the stretch is played again from there, until all seams fit. The first
stretch begins as the load does, so by induction all of it is as if it had been played in one piece.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings, hedge_over_time
from rlscaler.arrays import State
from rlscaler.autoscaler import Panel
from rlscaler.decisions import Decisions
from rlscaler.policy import Policy, View
from rlscaler.rows import Picked
from rlscaler.rules.tenure import Tenure
from rlscaler.settings import compiled
from rlscaler.tenured import Tenured
from rlscaler_sim import contenders, contest, seams, world
from rlscaler_sim.cast import Cast, Hpas, Several
from rlscaler_sim.contest import ContestError, Entrant, Schedule
from rlscaler_sim.load import Load
from rlscaler_sim.result import LATE_WEIGHT
from rlscaler_sim.told import Told, beforehand, worth_it
from rlscaler_sim.totals import WAIT_EDGES, Totals, Traced

ROWS, STRETCHES = 6144, 160
"""Rows (entrants x stretches) and stretches at most: more share the cost of a call, but begin early more often."""
WARM_UP = 3600.0
"""Seconds that a stretch begins early."""
SUMS = ("billed", "needed", "late", "arrivals")
COLUMNS = (*SUMS, "ready", "backlog")
DECIDED = ("time", "replicas", "proposal", "recommendation", "demand", "reasons")
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Found:
    """What came out of E entrants over T steps.

    sums: name -> (E,) float64 over the scored steps, of SUMS; waits: (edges, E). columns: name -> (E, T), of every
    step; decided: name -> (T,), the decisions of the entrant that is watched; observed: (T, fields). The last three
    are empty where nothing is kept.
    """

    sums: State
    waits: np.ndarray
    columns: State
    decided: State
    observed: np.ndarray


class _Stretches:
    """All rows of a contest over one load: entrant by entrant, the stretches of each together."""

    def __init__(
        self,
        told: Told,
        cast: Cast,
        config: world.WorldConfig,
        settings: Settings,
        start: float,
        *,
        unread: Sequence[str],
        waits: bool,
        watch: int | None,
        observe: bool,
        keep: bool,
    ) -> None:
        self.told, self.cast, self.unread = told, cast, unread
        self.watch, self.observe, self.keep = watch, observe, keep
        self.edges = WAIT_EDGES if waits else ()
        self.total = len(told.time)
        self.early = min(round(WARM_UP / float(settings.interval)), self.total // 8)
        self.lanes = max(2, min(STRETCHES, ROWS // cast.count, self.total // max(1, 2 * self.early)))
        self.steps = -(-self.total // self.lanes)
        self.lanes = -(-self.total // self.steps)
        self.rows = np.arange(cast.count * self.lanes)
        self.who, self.lane = self.rows // self.lanes, self.rows % self.lanes
        config = replace(config, interval=float(settings.interval))
        self.params = world.selected(world.compiled(config, cast.count, wait_edges=self.edges), self.who)
        self.scaler = Autoscaler(Panel(cast.members(self.who)), remembers=False)
        self.scaler.reserve(self.rows.size)
        for mine, theirs in cast.settings(self.who):
            self.scaler.add(mine.tolist(), theirs)
        self.facts = self.scaler.settings(self.rows)
        self.start = start
        self.state: State = {}
        self.sums: State = {name: np.zeros(self.rows.size) for name in SUMS}
        self.waits = np.zeros((len(self.edges), self.rows.size))
        self.columns: State = {}
        self.decided: State = {}
        self.observed = np.zeros((0, 0, 1), np.float32)

    def play(self, progress: Progress | None) -> Found:
        done, total = 0, self.early + self.steps

        def tell() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(min(done, total), total)

        low, high = (np.asarray(self.facts[name]) for name in ("min_replicas", "max_replicas"))
        level = self.told.features["level"][np.maximum(self.lane * self.steps - self.early, 0)].astype(np.float64)
        guess = np.where(np.isfinite(level), np.ceil(level / contest.START_TARGET), self.start)
        self.state = world.initial(self._params(self.rows), np.clip(guess, np.maximum(low, 1.0), high))
        self._count_from(self.rows, self.lane * self.steps - self.early)
        self._run(self.rows, -self.early, self.early, tell, scored=False)
        first = self.rows[self.lane == 0]
        self._put(self.state, first, world.initial(self._params(first), self.start))
        self.scaler.reset(first)
        begun, remembered = _copied(self.state), self.scaler.memory(self.rows)
        self._run(self.rows, 0, self.steps, tell)
        while True:
            rows = self._torn(begun, remembered)
            if not rows.size:
                break
            total += self.steps
            before = rows - 1
            moved, known = {n: a[..., before] for n, a in self.state.items()}, self.scaler.memory(before)
            for state, new in ((self.state, moved), (begun, moved)):
                self._put(state, rows, new)
            self.scaler.recall(rows, known)
            for part, state in known.items():
                for name, array in state.items():
                    remembered[part][name][rows] = array
            for values in self.sums.values():
                values[rows] = 0.0
            self.waits[:, rows] = 0.0
            self._run(rows, 0, self.steps, tell)
        return self._found()

    def _params(self, rows: np.ndarray) -> world.Params:
        return world.selected(self.params, rows)

    @staticmethod
    def _put(state: State, rows: np.ndarray, new: State) -> None:
        for name, array in new.items():
            state[name][..., rows] = array

    def _count_from(self, rows: np.ndarray, begin: np.ndarray) -> None:
        """Let policies that count their decisions have counted those before `begin`."""
        memory = self.scaler.memory(rows, ("policy",))
        for name, array in memory["policy"].items():
            if name.endswith("/step"):
                array[:] = np.maximum(begin, 0)
        self.scaler.recall(rows, memory)

    def _torn(self, begun: State, remembered: dict[str, State]) -> np.ndarray:
        """Return the rows that do not begin with what the stretch before them ends with.

        A stretch that began without any change of direction to remember, and made none, passes on the one before it:
        nothing in it depends on that.
        """
        later = self.rows[self.lane > 0]
        before = later - 1
        facts = {name: array[later] for name, array in self.facts.items()}
        time = self.told.time[np.minimum(self.lane[later] * self.steps, self.total - 1)]
        ended = self.scaler.memory(self.rows)

        def of(memory: dict[str, State], part: str, rows: np.ndarray) -> State:
            return {name: array[rows] for name, array in memory[part].items()}

        fits = seams.same({n: a[..., before] for n, a in self.state.items()},
                          {n: a[..., later] for n, a in begun.items()}, axis=-1)  # fmt: skip
        fits &= seams.same_guard(of(ended, "guard", before), of(remembered, "guard", later), facts, time)
        if ended["rule"]:
            fits &= seams.same(of(ended, "rule", before), of(remembered, "rule", later))
        for index, (policy, mine) in enumerate(self.cast.members(self.who)):
            inside, prefix = np.isin(later, mine), f"{index}/"
            left, right = (
                {name: array for name, array in of(memory, "policy", rows[inside]).items() if name.startswith(prefix)}
                for memory, rows in ((ended, before), (remembered, later))
            )
            equal = seams.same_policy(policy, left, right, {name: array[inside] for name, array in facts.items()})
            if equal is not None:
                fits[inside] &= equal
        way_before, way_begun, way_ended = (
            seams.turned(of(memory, "guard", self.rows), self.facts) for memory in (ended, remembered, ended)
        )
        passed = way_before.copy()
        for lane in range(1, self.lanes):
            rows = self.rows[self.lane == lane]
            quiet = (way_begun[rows] == 0) & (way_ended[rows] == 0)
            fits[np.isin(later, rows)] &= (way_begun[rows] == passed[rows - 1]) | quiet
            passed[rows] = np.where(quiet, passed[rows - 1], passed[rows])
        self._pass_on(passed)
        torn: np.ndarray = later[~fits]
        return torn

    def _pass_on(self, direction: np.ndarray) -> None:
        memory = self.scaler.memory(self.rows, ("guard",))
        counts = np.isfinite(self.facts["flap_budget"])
        memory["guard"]["direction"] = np.where(counts, direction, memory["guard"]["direction"]).astype(np.int8)
        self.scaler.recall(self.rows, memory)

    def _run(self, rows: np.ndarray, offset: int, steps: int, tell: Callable[[], None], scored: bool = True) -> None:
        """Play `steps` steps of these rows, from `offset` steps after their stretches' beginnings on."""
        told, count = self.told, rows.size
        params = self._params(rows)
        every = count == self.rows.size
        some = None if every else rows
        lanes, which = np.unique(self.lane[rows], return_inverse=True)
        self.scaler.policy = Panel(self.cast.members(self.who[rows]))
        state = self.state if every else {name: array[..., rows] for name, array in self.state.items()}
        watched = np.flatnonzero(self.who[rows] == self.watch) if self.watch is not None else rows[:0]
        for step in range(steps):
            place = lanes * self.steps + offset + step
            inside = (place < self.total)[which]
            place = np.clip(place, 0, self.total - 1)
            at = place[which]
            reading = world.readings(params, state, told.time[at])
            if told.recorded:
                reading = replace(reading, load=told.read[at], age=0.0)
            if self.unread:
                reading = replace(reading, **dict.fromkeys(self.unread, np.nan))
            view = self.scaler.view(reading, some, features=Picked(Picked(told.features, place), which))
            made = self.scaler.decide_on(view, some)
            if made.error:
                raise ContestError(f"a policy failed at step {int(place[0])}: {made.error}")
            orders = made.replicas.astype(np.float32)
            draws = {name: array[place].T[..., which] for name, array in told.draws.items()}
            state, outcome = world.step(params, state, orders, told.rates[place].T[:, which], draws, told.known[at])
            if scored:
                weight = told.weight[at] * inside
                for name, values in self.sums.items():
                    values[rows] += getattr(outcome, name) * weight
                if outcome.late_over is not None:
                    self.waits[:, rows] += outcome.late_over * weight
                if self.keep:
                    self._note(rows, step, outcome, orders)
                if watched.size:
                    self._watch(rows, watched, step, made, view)
            tell()
        if every:
            self.state = state
        else:
            self._put(self.state, rows, state)

    def _note(self, rows: np.ndarray, step: int, outcome: world.Outcome, orders: np.ndarray) -> None:
        values = {name: getattr(outcome, name) for name in COLUMNS} | {"replicas": orders}
        for name, array in values.items():
            if name not in self.columns:
                self.columns[name] = np.zeros((self.rows.size, self.steps), np.float32)
            self.columns[name][rows, step] = array

    def _watch(self, rows: np.ndarray, watched: np.ndarray, step: int, made: Decisions, view: View) -> None:
        lanes = self.lane[rows[watched]]
        for name in DECIDED:
            array = getattr(made, name)
            if name not in self.decided:
                self.decided[name] = np.zeros((self.lanes, self.steps), array.dtype)
            self.decided[name][lanes, step] = array[watched]
        if self.observe:
            found = contest.observed(view, watched)
            if not self.observed.size:
                self.observed = np.zeros((self.lanes, self.steps, found.shape[1]), np.float32)
            self.observed[lanes, step] = found

    def _found(self) -> Found:
        def whole(array: np.ndarray) -> np.ndarray:
            return array.reshape(self.cast.count, -1)[:, : self.total]

        by_lane = (self.cast.count, self.lanes)
        return Found(
            sums={name: values.reshape(by_lane).sum(axis=1) for name, values in self.sums.items()},
            waits=self.waits.reshape(-1, *by_lane).sum(axis=2),
            columns={name: whole(array) for name, array in self.columns.items()},
            decided={name: array.reshape(-1)[: self.total] for name, array in self.decided.items()},
            observed=self.observed.reshape(-1, self.observed.shape[-1])[: self.total],
        )


def _copied(state: State) -> State:
    return {name: array.copy() for name, array in state.items()}


def play(
    load: Load,
    entrants: Sequence[Entrant],
    config: world.WorldConfig,
    settings: Settings,
    seed: int,
    *,
    watch: int | None = None,
    traced: Traced | None = None,
    seen: np.ndarray | None = None,
    start: np.ndarray | None = None,
    unread: Sequence[str] = (),
    known: Told | None = None,
    progress: Progress | None = None,
) -> Totals:
    """Return what `contest.play` returns for one load; see there. A short one is played in one piece.

    config: its capacity and its start-up may differ between the entrants, (E,), where the load is cut. known: what
    `beforehand` says of it, if that is there already.
    """
    if known is None and not worth_it(load, config, settings):
        return contest.play([load], entrants, config, settings, [seed], watch=watch, traced=traced, seen=seen,
                            start=start, unread=unread, progress=progress)  # fmt: skip
    known = known or beforehand(load, config, settings, seed, seen)
    entrants = foretold(entrants, load, known, settings, start, unread)
    if any(remembers(entrant.policy) for entrant in entrants):
        return contest.play([load], entrants, config, settings, [seed], watch=watch, traced=traced, seen=seen,
                            start=start, unread=unread, progress=progress)  # fmt: skip
    found = _Stretches(known, Several(entrants), config, settings, _first(load, settings, start), unread=unread,
                       waits=True, watch=watch, observe=traced is not None and traced.observe,
                       keep=True).play(progress)  # fmt: skip
    if traced is not None:
        _trace(traced, known, found, watch)
    return _totals(known, found)


def foretold(
    entrants: Sequence[Entrant], load: Load, told: Told, settings: Settings, start: np.ndarray | None,
    unread: Sequence[str],
) -> list[Entrant]:  # fmt: skip
    """Return the entrants, with their proposals told beforehand where that is needed to cut the load, and can be."""
    first = _first(load, settings, start)
    return [_foretold(entrant, told, first, unread) for entrant in entrants]


def _first(load: Load, settings: Settings, start: np.ndarray | None) -> float:
    """Return the replicas at first."""
    return float((contest.start_replicas([load], settings) if start is None else start)[0])


def remembers(policy: Policy) -> bool:
    """Return whether what a policy decides depends on all of the past, so that no stretch can begin from a guess."""
    return isinstance(policy, Tenure) or (isinstance(policy, Tenured) and not policy.advisory)


def _foretold(entrant: Entrant, told: Told, start: float, unread: Sequence[str]) -> Entrant:
    """Return the entrant with its proposals told beforehand, if it remembers all of the past and sees load alone."""
    policy = entrant.policy
    if not remembers(policy):
        return entrant
    tenure = policy.tenure if isinstance(policy, Tenured) else policy
    if not isinstance(tenure, Tenure):
        return entrant
    first = int(np.isfinite(told.read).argmax())  # of simulated metrics the first windows are not full
    held = first * float(entrant.settings.interval) < float(entrant.settings.loss.after)  # the count is `start`
    if not (np.isfinite(told.read[first]) and held and "backlog" in unread and hedge_over_time.blind(tenure.hedge)):
        return entrant
    later = slice(first, None)
    features = {name: array[later] for name, array in told.features.items()}
    orders, patience = hedge_over_time.proposals(
        tenure.hedge, told.time[later], told.read[later], features, compiled(entrant.settings, 1), start
    )
    orders, patience = np.pad(orders, (first, 0), constant_values=np.nan), np.pad(patience, (first, 0), mode="edge")
    return replace(entrant, policy=Schedule(orders[None, :], policy.name, patience[None, :]))


def _totals(told: Told, found: Found) -> Totals:
    """Return the sums as of a contest of one load."""
    orders, counted = found.columns["replicas"], told.weight > 0
    changes = (orders[:, 1:] != orders[:, :-1]) & counted[1:]
    return Totals(
        **{name: found.sums[name][:, None] for name in SUMS},
        waits=found.waits[:, :, None],
        rescales=changes.sum(axis=1)[:, None].astype(np.float64),
        largest=np.max(orders * counted, axis=1)[:, None].astype(np.float64),
        steps=len(told.time),
    )


def _trace(traced: Traced, told: Told, found: Found, watch: int | None) -> None:
    """Put every step into `traced`, as a contest does."""
    columns = found.columns
    traced.time += told.time.tolist()
    traced.load += told.rates.mean(axis=1).astype(np.float64).tolist()
    traced.known += told.known.tolist()
    for name in ("ready", "backlog", "billed", "needed", "replicas"):
        traced.columns.setdefault(name, []).extend(columns[name].T)
    late = columns["late"] / np.maximum(columns["arrivals"], 1e-9)
    traced.columns.setdefault("violations", []).extend(late.T)
    if watch is None:
        return
    made = Decisions(rows=np.full(len(told.time), watch), **{name: found.decided[name] for name in DECIDED})
    for step in range(len(told.time)):
        entry: dict[str, Any] = made.explain(step)
        if traced.observe:
            outcome = {name: columns[name][watch, step] for name in contest.TOLD}
            entry |= contest.also_told(outcome, found.observed[step])
        traced.decisions.append(entry)


def own_constants(
    load: Load,
    config: world.WorldConfig,
    settings: Settings,
    seed: int,
    known: Told,
    start: np.ndarray | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the constants of the HPA that scores best on this load, as `evaluation.own_constants` searches them.

    The readings are those of `known`, which are the recorded ones where these are known.
    """
    grid = contenders.own_grid()
    found = _Stretches(known, Hpas(grid, settings), config, settings, _first(load, settings, start), unread=(),
                       waits=False, watch=None, observe=False, keep=False).play(progress)  # fmt: skip
    cost = np.where(found.sums["needed"] > 0, found.sums["billed"] / np.maximum(found.sums["needed"], 1e-300), np.inf)
    late = found.sums["late"] / np.maximum(found.sums["arrivals"], 1e-9)
    best = int((cost + LATE_WEIGHT * late).argmin())
    return {key: float(values[best]) for key, values in grid.items()}
