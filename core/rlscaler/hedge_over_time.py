"""What a hedge proposes over a whole load at once, to the bit what it proposes tick by tick.

Where candidates look at nothing but load and their own orders, what each orders over time follows from the load alone,
whatever is decided. So the load is cut into stretches that run side by side; each begins some time early, from a guess,
and where it does not fit to the end of the one before it, it is run again from there. The sums that a say is earned by
are then followed tick by tick, as each depends on the one before; all the rest is arithmetic over time.
"""

from collections.abc import Mapping

import numpy as np

from rlscaler import hedge as _hedge
from rlscaler.arrays import State
from rlscaler.guard import in_order
from rlscaler.hedge import LAXER, ORDERS, PRICES, Hedge, asks_for
from rlscaler.lateness import allowed_wait, late_share
from rlscaler.network_policy import NetworkPolicy
from rlscaler.observation import LOAD_FIELDS
from rlscaler.policy import View
from rlscaler.rows import Picked
from rlscaler.rules.growth import Growth
from rlscaler.rules.hpa import Hpa
from rlscaler.rules.periodic import Periodic
from rlscaler.snapshot import Snapshot, cleaned

STRETCHES, WARM_UP = 160, 1800.0
"""Stretches at most; seconds that each begins early."""
OWN = {"size", "desired", "reaction", "startup_share", "price", *(field.name for field in LOAD_FIELDS)}
"""Fields of the observation that follow from the load, the settings and a candidate's own orders."""
_BLOCK = 4096
_PARTS = ("orders", "kept", "kept_age")


def blind(hedge: Hedge) -> bool:
    """Return whether no candidate looks at the world: none at a metric but load, where no backlog is read."""
    return (
        all(family.rule in (Growth, Hpa) for family in hedge.families)
        and not any({"wait", "utilization"} & set(each) for family in hedge.families for each in family.constants)
        and all(
            isinstance(other, Periodic) or (isinstance(other, NetworkPolicy) and set(other.fields) <= OWN)
            for other in hedge.others
        )
    )


def proposals(
    hedge: Hedge,
    time: np.ndarray,
    load: np.ndarray,
    features: Mapping[str, np.ndarray],
    settings: State,
    current: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the proposal at each of T ticks, (T,) float64, NaN where the load is unknown; and its patience, (T,).

    hedge: one that is `blind`. time: (T,) seconds, an interval apart. load: (T,) requests/s that are read, NaN =
    unknown; the first is known. features: of each tick (see `replay`). settings: compiled, of one row. current:
    replicas at the first tick.
    """
    ran = _Ran(hedge, time, load, features, settings, current)
    orders = ran.orders()
    known: np.ndarray = np.all(np.isfinite(orders), axis=1)
    orders = np.where(known[:, None], orders, 0.0)
    state = _followed(hedge, ran.demand, orders, known, settings, ran.absent)
    out = np.empty(len(time))
    prices = [PRICES[0], *(price for price in (*PRICES[1:], *LAXER) if asks_for(settings["price"][0], price))]
    farthest = np.minimum if prices[-1] < PRICES[0] else np.maximum
    for begin in range(0, len(time), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        memory = {name: array[part] for name, array in state.items()}
        mixed = [np.sum(hedge.weights(np, memory, price) * orders[part], axis=1) for price in prices]
        out[part] = farthest.reduce(mixed)
    out[~known] = np.nan
    patience = hedge.patience(np, state["known"], settings)
    return out, np.zeros(len(time)) if patience is None else patience


class _Ran:
    """The candidates of one load, in stretches."""

    def __init__(
        self, hedge: Hedge, time: np.ndarray, load: np.ndarray, features: Mapping[str, np.ndarray], settings: State,
        current: float,
    ) -> None:  # fmt: skip
        self.hedge, self.time, self.load, self.features, self.current = hedge, time, load, features, current
        self.settings = settings
        self.total = len(time)
        self.demand = self._view(np.arange(self.total), np.zeros(self.total), settings).demand
        self.early = round(WARM_UP / float(settings["interval"][0]))
        self.lanes = max(1, min(STRETCHES, self.total // max(1, 4 * self.early)))
        self.steps = -(-self.total // self.lanes)
        self.lanes = -(-self.total // self.steps)
        self.found = np.empty((self.lanes, self.steps, hedge.size))
        self.absences = np.ones((self.lanes, self.steps, hedge.guests), bool)

    def _facts(self, rows: int) -> State:
        return {name: np.repeat(array, rows, axis=0) for name, array in self.settings.items()}

    def _view(self, place: np.ndarray, current: np.ndarray, settings: State) -> View:
        snapshot = cleaned(np, Snapshot(time=self.time[place], load=self.load[place]), len(place), settings["interval"])
        return View(xp=np, settings=settings, snapshot=snapshot, features=Picked(self.features, place),
                    demand=snapshot["load"] / settings["capacity_per_replica"], current=current)  # fmt: skip

    def orders(self) -> np.ndarray:
        """Return what each candidate orders at each tick, (T, K), NaN where it has no answer."""
        lanes = np.arange(self.lanes)
        state = {name: array for name, array in self.hedge.state(self.lanes).items() if name in (*_PARTS, "seen_time")}
        state = self._run(lanes, state, -self.early, self.early)
        for name, array in self.hedge.state(1).items():
            if name in state:
                state[name][:1] = array
        begun = {name: array.copy() for name, array in state.items()}
        ended = self._run(lanes, state, 0, self.steps)
        while True:
            torn = lanes[1:][~_same({n: a[:-1] for n, a in ended.items()}, {n: a[1:] for n, a in begun.items()})]
            if not torn.size:
                found: np.ndarray = self.found.reshape(-1, self.hedge.size)[: self.total]
                return found
            fresh = {name: array[torn - 1] for name, array in ended.items()}
            for name, array in fresh.items():
                begun[name][torn] = array
            for name, array in self._run(torn, fresh, 0, self.steps).items():
                ended[name][torn] = array

    @property
    def absent(self) -> np.ndarray:
        """Which guests had no answer at each tick, (T, guests) bool, once there are orders."""
        found: np.ndarray = self.absences.reshape(self.lanes * self.steps, -1)[: self.total]
        return found

    def _run(self, lanes: np.ndarray, state: State, offset: int, steps: int) -> State:
        """Return the memory of these stretches after so many steps, from `offset` after their beginnings on."""
        state = dict(state)
        facts, current = self._facts(len(lanes)), np.full(len(lanes), self.current)
        for step in range(steps):
            place = lanes * self.steps + offset + step
            view = self._view(np.clip(place, 0, self.total - 1), current, facts)
            orders = self.hedge._orders(view, state)
            known: np.ndarray = np.all(np.isfinite(orders), axis=1)
            counted = _hedge.counted(np, np.where(known[:, None], orders, 0.0))
            state["orders"] = _hedge.lengthened(np, state["orders"], counted, known)
            if offset >= 0:
                self.found[lanes, step] = orders
                self.absences[lanes, step] = state.pop("absent", True)
        return state


def _same(a: State, b: State) -> np.ndarray:
    """Return where candidates remember the same, (rows,) bool."""
    same = (a["orders"][:, :, 0] == b["orders"][:, :, 0]).all(axis=1)
    for mine, other in zip(*(in_order(each["kept"], each["kept_age"]) for each in (a, b)), strict=True):
        same &= (mine == other).all(axis=(1, 2))
    found: np.ndarray = same & (a["seen_time"] == b["seen_time"])
    return found


def _followed(
    hedge: Hedge, demand: np.ndarray, orders: np.ndarray, known: np.ndarray, settings: State, absent: np.ndarray
) -> State:
    """Return `cost`, `late` (T, K) float32, and (T,) the other sums of a hedge's memory after each tick's charge.

    orders: (T, K), of the ticks that are known. absent: (T, guests) bool, see `Hedge.state`.
    """
    interval, capacity = float(settings["interval"][0]), float(settings["capacity_per_replica"][0])
    first, behind = (int(each[0]) for each in _hedge._reach(np, settings))
    steps, size = orders.shape
    last = np.maximum.accumulate(np.where(known, np.arange(steps), 0))
    kept = _hedge.counted(np, orders)[last].astype(np.float64)
    # a charge sees the orders of the ticks before; what came before the first order is taken as that
    padded = np.concatenate([np.repeat(kept[:1], ORDERS, axis=0), kept[:-1]])
    aged = [padded[ORDERS - 1 - age : ORDERS - 1 - age + steps] for age in range(first, first + behind + 1)]
    ready, billed = np.minimum.reduce(aged), aged[0]
    told = np.isfinite(demand)
    told[0] = False  # before the first tick nobody has ordered
    need = np.where(told, demand, 0.0)[:, None]
    ready = np.where(told[:, None], ready, 1.0)

    before, after = np.empty((steps, size)), np.empty((steps, size))
    moves, waiting = (need - ready) * interval, np.zeros(size, np.float32)
    for t, charged in enumerate(told.tolist()):
        if not charged:
            before[t] = after[t] = waiting
            continue
        np.copyto(before[t], waiting)
        np.add(before[t], moves[t], out=after[t])
        np.maximum(after[t], 0.0, out=after[t])
        waiting = after[t].astype(np.float32)
    concurrency, latency = float(settings["concurrency"][0]), float(settings["latency"][0])
    allowed = float(allowed_wait(np, latency, concurrency, capacity))
    missed = np.empty((steps, size))
    one = np.ones((1, 1))
    for begin in range(0, steps, _BLOCK):
        part = slice(begin, begin + _BLOCK)
        share = late_share(np, before[part], after[part], need[part], ready[part], concurrency * one,
                           capacity * one, allowed * one, interval * one)  # fmt: skip
        missed[part] = need[part] * share

    keep = float(2.0 ** (-settings["interval"] / hedge.half_life)[0])
    found = _summed(keep, told, billed, missed)
    if hedge.guests:
        hosts, guests = hedge.hosts, slice(hedge.hosts, hedge.hosts + hedge.guests)
        # a charge goes by what was known at the tick before
        ahead = np.concatenate([[0], _hedge.leading(np, found["cost"], found["late"], hosts)[:-1]])
        away = np.concatenate([np.ones((1, hedge.guests), bool), absent[:-1]])
        billed, missed = _hedge.instead(np, ahead, away, hosts, billed, missed)
        for name, array in _summed(keep, told, billed[:, guests], missed[:, guests]).items():
            found[name][:, guests] = array
        found["absent"] = absent
    between: list[float] = ((missed.max(axis=1) - missed.min(axis=1)) * (_hedge.MOMENT / interval)).tolist()
    total, sure, most = 0.0, 0.0, 0.0
    found |= {name: np.empty(steps) for name in ("demand", "known", "apart")}
    for t, charged in enumerate(told.tolist()):
        if charged:
            total = keep * total + float(need[t, 0])
            sure = keep * sure + interval
            most = max(keep * most, between[t])
        for name, value in (("demand", total), ("known", sure), ("apart", most)):
            found[name][t] = value
    return found


def _summed(keep: float, told: np.ndarray, billed: np.ndarray, missed: np.ndarray) -> State:
    """Return `cost` and `late`, (T, K) float32: the charges (T, K) of the ticks that are told of, discounted."""
    steps, size = billed.shape
    cost, late = np.zeros(size, np.float32), np.zeros(size, np.float32)
    found: State = {name: np.empty((steps, size), np.float32) for name in ("cost", "late")}
    for t, charged in enumerate(told.tolist()):
        if charged:
            cost = (keep * cost.astype(np.float64) + billed[t]).astype(np.float32)
            late = (keep * late.astype(np.float64) + missed[t]).astype(np.float32)
        found["cost"][t], found["late"][t] = cost, late
    return found
