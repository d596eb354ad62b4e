"""Several policies propose, and each has as much say as it has earned on the workload's own past.

Every candidate is replayed in a small world of its own, closed over its own orders: a replica is billed from its order
on and ready after the start-up; load above that waits. Costs are discounted, and orders are averaged with weights that
fall exponentially with cost: Hedge (Freund and Schapire, "A decision-theoretic generalization of on-line learning and
an application to boosting", 1997), which is never much worse than the best candidate in hindsight. So a policy that
fits this workload leads after some hours, and one that stops paying loses its say. One minute of late requests costs as
much as hours of spare replicas, and may have been bad luck: however much is known, no single moment decides, so that
the rate of the fall is bounded by the largest difference that one has made (as in AdaHedge, de Rooij and
others, "Follow the leader if you can, hedge if you must", 2014, where the losses' range sets it). And while nobody has
earned anything, replicas are kept a while, as HPA keeps them: the first dip says nothing of the next rise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.guard import KEPT, in_order, patient, unkept
from rlscaler.lateness import allowed_wait, late_share
from rlscaler.lean import is_numpy
from rlscaler.policy import Policy, Proposal, View
from rlscaler.rows import Picked
from rlscaler.rules.parameters import Rule

ORDERS = 48
"""Past orders that are kept of each candidate; a start-up of more intervals is taken for so many."""
MOST = 32_000
"""Replicas of a candidate's order at most: orders are kept in 16 bits."""
PRICES = (20.0, 40.0, 200.0, 2000.0)
"""Prices of late requests at which say is earned: the standard one, of an objective of 99.9 %, and those above it."""
LAXER = tuple(PRICES[0] * 2.0 ** (-step / 2.0) for step in range(1, 7))
"""Those below it, each for objectives whose price is as far below again: at a price itself that is low, candidates lead
that have three times as much late as the objective allows."""
SWAY, MOMENT = 2.0, 15.0
"""Most that the late requests of so many seconds change the logarithm of a say by, beside another one's."""
_BLOCK = 1280
"""Rows that are decided at once: few enough that what lies between their candidates stays in the cache."""
_NO_SCORE = 1e30
"""Score of a candidate that is not there: above all others."""
_COLUMN = (slice(None), None)
"""Each row beside itself: (N,) becomes (N, 1)."""


def asks_for(objective: Any, price: float) -> Any:
    """Tell where say is earned at a price too, for objectives that set these prices; their last bits are left out."""
    if price < PRICES[0]:
        return objective * PRICES[0] < (1.0 + 1e-9) * price**2
    return objective > (1.0 - 1e-9) * price


def utmost_price(xp: Any, objective: Array) -> Array:
    """Return (N,) the price farthest from the standard one at which say is earned, for objectives' prices (N,)."""
    found = xp.full_like(objective, PRICES[0])
    for price in (*PRICES[1:], *LAXER):
        found = xp.where(asks_for(objective, price), price, found)
    return found


@dataclass(frozen=True, slots=True)
class Family:
    """A rule with several sets of constants, asked in one call.

    constants: of each member, by name of parameter; numbers, or arrays (N,) with one for each row of the view.
    """

    rule: type[Rule]
    constants: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Hedge:
    """Hedge over K candidates that are replayed on the workload's own past.

    families, others: the candidates: the families' members in their order, then the others. spare: the candidate, of
    the first family, that stands in for one of the others where that has no answer or was not trained on its input.
    rate: how fast a weight falls with the score (cost ratio + price x late share): a candidate that is worse by
    1 / rate loses a factor e once much is known. half_life: seconds in which a past cost loses half its weight. doubt:
    seconds of history at which half of that is believed; the three are numbers, or arrays (N,) with one for each row
    of the view. prior: (K,) weights at the beginning (None: equal). caution: start-ups for which replicas are kept at
    the beginning; each as long a known past takes away half of that. guests: how many of the others, its first, have
    no say while they have no answer.
    """

    families: Sequence[Family]
    others: Sequence[Policy] = ()
    spare: int = 0
    rate: Any = 120.0
    half_life: Any = 24 * 3600.0
    doubt: Any = 3600.0
    prior: Sequence[float] | None = None
    caution: float = 0.0
    guests: int = 0
    name: str = "hedge"
    size: int = field(init=False, default=0)
    _at_once: Sequence[Rule | None] = field(init=False, default=(), repr=False, compare=False)
    _alike: bool = field(init=False, default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Count the candidates, and see which families answer for all of their members at once."""
        self.size = sum(len(family.constants) for family in self.families) + len(self.others)
        self._at_once = [_at_once(family) for family in self.families]
        values = [value for family in self.families for each in family.constants for value in each.values()]
        self._alike = not any(np.ndim(value) for value in (*values, self.rate, self.half_life, self.doubt))

    @property
    def hosts(self) -> int:
        """How many candidates come before the guests."""
        return self.size - len(self.others)

    def state(self, n: int) -> State:
        """Return the memory of n workloads.

        orders: (n, K, ORDERS) int16, newest first, -1 = none. cost, late: (n, K) float32, what was discounted of the
        replicas that were paid for, and of the load that was late, in replica-intervals. waiting: (n, K) float32
        replica-seconds of backlog. demand, known: (n,) float64, the discounted demand and seconds. apart: (n,) float64,
        by how much late load differed between candidates in the MOMENT where that was most, in replica-intervals,
        discounted too. absent: (n, guests) bool, which of them have no answer now; there where there are guests.
        seen_time: (n,) float64 seconds, of the last call. kept, kept_age: (n, KEPT, K) float32, what patience
        remembers, as of that time. What the others remember follows, with their number before the name.
        """
        shape = (n, self.size)
        out: State = {
            "orders": np.full((*shape, ORDERS), -1, np.int16),
            "cost": np.zeros(shape, np.float32),
            "late": np.zeros(shape, np.float32),
            "waiting": np.zeros(shape, np.float32),
            "demand": np.zeros(n),
            "known": np.zeros(n),
            "apart": np.zeros(n),
            "seen_time": np.zeros(n),
        }
        kept = unkept(n, self.size, dtype=np.float32)
        out |= {"kept": kept["kept"], "kept_age": -kept["kept_time"]}
        if self.guests:
            out["absent"] = np.ones((n, self.guests), bool)
        for index, policy in enumerate(self.others):
            out |= {f"{index}/{name}": array for name, array in policy.state(n).items()}
        return out

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the weighted mean of the candidates' orders, NaN where the load is unknown.

        Of the means at all prices from the standard one to the objective's it is the largest where that is stricter,
        and the smallest where it is laxer, so that a stricter objective, by which other candidates would lead, never
        orders less.
        """
        xp, n = view.xp, view.demand.shape[0]
        state, before = dict(state), state["orders"]
        if is_numpy(xp) and self._alike and n > _BLOCK:
            replicas, asked, known, state = self._in_blocks(view, state)
        else:
            replicas, asked, known = self._decided(view, state)
        state["orders"] = lengthened(xp, before, asked, known)
        patience = self.patience(xp, state["known"], view.settings)
        return Proposal(replicas=replicas, patience=patience), state

    def _in_blocks(self, view: View, state: State) -> tuple[Array, Array, Array, State]:
        """Return what `_decided` does, and the memory but for the orders, made of some rows at a time."""
        n = view.demand.shape[0]
        replicas, asked, known = np.empty(n), np.empty((n, self.size), np.int16), np.empty(n, bool)
        after: State = {}
        for begin in range(0, n, _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            part = {name: array[rows] for name, array in state.items()}
            replicas[rows], asked[rows], known[rows] = self._decided(_part(view, rows, view.current[rows]), part)
            for name, array in part.items():
                if name != "orders":
                    after.setdefault(name, np.empty((n, *array.shape[1:]), array.dtype))[rows] = array
        return replicas, asked, known, after

    def _decided(self, view: View, state: State) -> tuple[Array, Array, Array]:
        """Return the proposal (N,), the orders (N, K) int16 that are to be remembered, and where (N,) they are known.

        All of the memory but the orders is brought up to date, in place on `state`.
        """
        xp = view.xp
        _charge(view, state, self.half_life, self.hosts)
        orders = self._orders(view, state)
        known = xp.all(xp.isfinite(orders), axis=1)
        orders = xp.where(known[:, None], orders, 0.0)
        mixed = xp.sum(self.weights(xp, state, PRICES[0]) * orders, axis=1)
        for price in (*PRICES[1:], *LAXER):
            if bool(xp.any(asked := asks_for(view.settings["price"], price))):
                other = xp.sum(self.weights(xp, state, price) * orders, axis=1)
                farther = xp.minimum(mixed, other) if price < PRICES[0] else xp.maximum(mixed, other)
                mixed = xp.where(asked, farther, mixed)
        return xp.where(known, mixed, float("nan")), counted(xp, orders), known

    def patience(self, xp: Any, known: Array, settings: Mapping[str, Array]) -> Array | None:
        """Return (N,) seconds for which replicas are kept before they are lowered, None where that is for nobody.

        known: (N,) seconds of past. settings: compiled, of the same rows; less than an interval keeps nothing.
        """
        if not self.caution:
            return None
        first = xp.clip(self.caution * settings["startup"], 1e-9, None)
        hold = first * 2.0 ** (-known / first)
        lasting = hold >= settings["interval"]
        return xp.where(lasting, hold, 0.0) if bool(xp.any(lasting)) else None

    def condensed(self, state: State, settings: Mapping[str, Array]) -> State:
        """Return the memory with those orders alone that a charge looks at, which is most of it left out.

        settings: compiled, of the same rows.
        """
        first, behind = _reach(np, settings)
        width = int(np.max(first + behind, initial=0.0)) + 1
        kept, age = in_order(state["kept"], state["kept_age"])
        most = int(np.max(np.sum(kept > -np.inf, axis=1), initial=0))
        orders = np.ascontiguousarray(state["orders"][:, :, :width])
        return {**state, "orders": orders, "kept": kept[:, :most], "kept_age": age[:, :most]}

    def whole(self, state: State) -> State:
        """Return the memory that `condensed` made smaller, its oldest orders repeated; it decides the same."""
        orders, kept, age = (state.get(name) for name in ("orders", "kept", "kept_age"))
        if orders is None or orders.ndim != 3 or not 0 < orders.shape[2] <= ORDERS:
            return state
        out = {**state, "orders": np.pad(orders, ((0, 0), (0, 0), (0, ORDERS - orders.shape[2])), mode="edge")}
        if kept is not None and age is not None and kept.shape == age.shape and kept.ndim == 3:
            more = ((0, 0), (0, max(KEPT - kept.shape[1], 0)), (0, 0))
            out |= {"kept": np.pad(kept, more, constant_values=-np.inf), "kept_age": np.pad(age, more)}
        return out

    def regridded(self, state: State, old: np.ndarray, new: np.ndarray) -> State:
        """Return the memory of rows that are decided at another interval from now on. old, new: (N,) seconds.

        Sums are told in intervals, and orders stand an interval apart: both keep the time that they are of. At each
        moment that order stood which was made then or last before.
        """
        scale = old / new
        out = dict(state)
        for name in ("cost", "late"):
            out[name] = (state[name] * scale[:, None]).astype(np.float32)
        out |= {name: state[name] * scale for name in ("demand", "apart")}
        age = np.ceil(np.arange(ORDERS) * (new / old)[:, None] - 1e-6).astype(np.int64)
        out["orders"] = np.take_along_axis(state["orders"], np.minimum(age, ORDERS - 1)[:, None, :], axis=2)
        return out

    def weights(self, xp: Any, state: State, price: Any = PRICES[0]) -> Array:
        """Return (N, K) float64 how much say each candidate has at a price of late requests; each row's sum is 1."""
        score = self.scores(xp, state, price)
        guests = slice(self.hosts, self.hosts + self.guests)
        if self.guests:
            score[:, guests] = xp.where(state["absent"], _NO_SCORE, score[:, guests])
        known = state["known"]
        sure = (self.rate * known / (known + self.doubt))[:, None]
        once = price * (state["apart"] / xp.clip(state["demand"], 1e-9, None))[:, None]
        weight = xp.exp(-sure / (1.0 + sure * once / SWAY) * (score - xp.min(score, axis=1, keepdims=True)))
        if self.prior is not None:
            weight = weight * xp.asarray(self.prior, dtype=weight.dtype, device=getattr(weight, "device", None))
        if self.guests:
            weight[:, guests] = xp.where(state["absent"], 0.0, weight[:, guests])
        return weight / xp.sum(weight, axis=1, keepdims=True)

    def scores(self, xp: Any, state: State, price: Any = PRICES[0]) -> Array:
        """Return (N, K) float64 the candidates' discounted scores: cost ratio + price x share of late requests."""
        total = xp.astype(state["cost"], xp.float64) + price * xp.astype(state["late"], xp.float64)
        return total / xp.clip(state["demand"], 1e-9, None)[:, None]

    def standing(self, xp: Any, state: State) -> Array:
        """Return (N,) int64 the candidate with the most say."""
        return xp.argmax(self.weights(xp, state), axis=1)

    def _orders(self, view: View, state: State) -> Array:
        """Return (N, K) what the candidates order now, their patience kept; NaN where one has no answer."""
        xp, n = view.xp, view.demand.shape[0]
        last = xp.astype(state["orders"][:, :, 0], xp.float64)
        current = xp.where(last < 0.0, view.current[:, None], last)
        wanted, held, absent, begin = [], [], [], 0

        def take(proposal: Proposal, count: int) -> None:
            hold = xp.zeros_like(proposal.replicas) if proposal.patience is None else proposal.patience
            wanted.append(xp.reshape(proposal.replicas, (n, count)))
            held.append(xp.reshape(hold, (n, count)))

        for family, rule in zip(self.families, self._at_once, strict=True):
            count = len(family.constants)
            if rule is not None:
                take(rule.propose(_part(view, _COLUMN, current[:, begin : begin + count]), {})[0], count)
                begin += count
                continue
            rows = xp.reshape(xp.broadcast_to(xp.arange(n)[:, None], (n, count)), (-1,))
            mine = xp.reshape(current[:, begin : begin + count], (-1,))
            take(family.rule(**_spread(family.constants, n)).propose(_part(view, rows, mine), {})[0], count)
            begin += count
        for index, policy in enumerate(self.others):
            prefix = f"{index}/"
            memory = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
            proposal, memory = policy.propose(_part(view, None, current[:, begin + index]), memory)
            state |= {prefix + name: array for name, array in memory.items()}
            take(proposal, 1)
            sound = xp.isfinite(wanted[-1]) & (True if proposal.trained is None else proposal.trained[:, None])
            if index < self.guests:
                absent.append(~sound[:, 0])
            for found in (wanted, held):
                found[-1] = xp.where(sound, found[-1], found[0][:, self.spare : self.spare + 1])
        if absent:
            state["absent"] = xp.stack(absent, axis=1)
        asked = xp.clip(xp.concat(wanted, axis=1), view.settings["min_replicas"][:, None],
                        view.settings["max_replicas"][:, None])  # fmt: skip
        kept = _kept(xp, state, view.snapshot["time"], asked, xp.concat(held, axis=1))
        return xp.maximum(asked, xp.minimum(kept, xp.where(last < 0.0, asked, last)))


def _charge(view: View, state: State, half_life: Any, hosts: int) -> None:
    """Charge each candidate for the interval that the newest reading tells of, in place; hosts: of `Hedge`."""
    xp, settings = view.xp, view.settings
    interval, capacity = settings["interval"], settings["capacity_per_replica"][:, None]
    ready, billed = _stood(xp, state["orders"], *_reach(xp, settings))
    told = xp.isfinite(view.demand) & (ready[:, 0] >= 0.0)
    each = told[:, None]
    need, ready = xp.where(told, view.demand, 0.0)[:, None], xp.where(each, ready, 1.0)
    concurrency = settings["concurrency"][:, None]
    before = xp.astype(state["waiting"], xp.float64)
    after = xp.maximum(before + (need - ready) * interval[:, None], 0.0)
    wait = allowed_wait(xp, settings["latency"][:, None], concurrency, capacity)
    share = late_share(xp, before, after, need, ready, concurrency, capacity, wait, interval[:, None])
    keep = 2.0 ** (-interval / half_life)
    late = need * share
    if "absent" in state:
        billed, late = instead(
            xp, leading(xp, state["cost"], state["late"], hosts), state["absent"], hosts, billed, late
        )
    between = (xp.max(late, axis=1) - xp.min(late, axis=1)) * (MOMENT / interval)
    apart = xp.maximum(keep * state["apart"], between)
    state["apart"] = xp.where(told, apart, state["apart"])
    for name, new in (("cost", billed), ("late", late)):
        total = keep[:, None] * xp.astype(state[name], xp.float64) + new
        state[name] = xp.where(each, xp.astype(total, xp.float32), state[name])
    state["waiting"] = xp.where(each, xp.astype(after, xp.float32), state["waiting"])
    state["demand"] = xp.where(told, keep * state["demand"] + need[:, 0], state["demand"])
    state["known"] = xp.where(told, keep * state["known"] + interval, state["known"])


def leading(xp: Any, cost: Array, late: Array, hosts: int) -> Array:
    """Return (N,) which of the first `hosts` candidates has the least score, by what they cost and had late (N, K)."""
    total = xp.astype(cost[:, :hosts], xp.float64) + PRICES[0] * xp.astype(late[:, :hosts], xp.float64)
    return xp.argmin(total, axis=1)


def instead(xp: Any, best: Array, absent: Array, hosts: int, *charges: Array) -> list[Array]:
    """Return charges (N, K) in which guests that are absent have those of the candidates `best` (N,).

    Who sleeps is charged as those who are awake (Freund, Schapire, Singer and Warmuth, "Using and combining predictors
    that specialize", 1997), here as the leader: so a guest comes with the leader's record, and leaves with its own.
    """
    rows, end = xp.arange(best.shape[0], device=getattr(best, "device", None)), hosts + absent.shape[1]
    return [
        xp.concat(
            [each[:, :hosts], xp.where(absent, each[rows, best][:, None], each[:, hosts:end]), each[:, end:]], axis=1
        )
        for each in charges
    ]


def _stood(xp: Any, orders: Array, first: Array, behind: Array) -> tuple[Array, Array]:
    """Return (N, K) float64 the replicas that were ready and those that were billed. orders, first, behind: see below.

    Ready is the least order that may still start, and of those `behind` it; billed is the first of them.
    """
    low, high = int(first[0]), int(first[0] + behind[0])
    if bool(xp.all((first == low) & (behind == high - low))):
        ready = billed = orders[:, :, low]
        for age in range(low + 1, high + 1):
            ready = xp.minimum(ready, orders[:, :, age])
    else:
        place = xp.arange(int(xp.max(first + behind)) + 1, dtype=xp.float64)
        least, most = first[:, None, None], (first + behind)[:, None, None]
        seen = orders[:, :, : place.shape[0]]
        ready = xp.min(xp.where((place >= least) & (place <= most), seen, MOST), axis=2)
        billed = xp.sum(xp.where(place == least, seen, 0), axis=2)
    return xp.astype(ready, xp.float64), xp.astype(billed, xp.float64)


def _reach(xp: Any, settings: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return (N,) the age in intervals of the order that is billed, and of how many before it may still start."""
    interval = settings["interval"]
    # A reading tells of the interval that ended one lag ago, when the order of its beginning stood.
    first = xp.clip(xp.round(settings["lag"] / interval), 0.0, ORDERS - 1.0)
    return first, xp.clip(xp.ceil(settings["startup"] / interval - 1e-9), 0.0, ORDERS - 1.0 - first)


def _kept(xp: Any, state: State, time: Array, asked: Array, hold: Array) -> Array:
    """Return (N, K) the largest order asked for within each candidate's patience, in place on `state`."""
    # ages and not times, which take twice as many bits
    now = xp.astype(time - state["seen_time"], xp.float32)[:, None] + xp.zeros_like(asked, dtype=xp.float32)
    memory = {"kept": state["kept"], "kept_time": -state["kept_age"]}
    asked = xp.where(xp.isfinite(asked), asked, -xp.inf)
    found = patient(xp, memory, now, asked, xp.astype(hold, xp.float32))
    state["kept"], state["kept_age"] = memory["kept"], now[:, None] - memory["kept_time"]
    state["seen_time"] = time + 0.0
    return found


def counted(xp: Any, orders: Array) -> Array:
    """Return the orders rounded up, as int16, which is the form in which they are kept."""
    raised = xp.ceil(orders - 1e-6 * xp.maximum(orders, 1.0))
    return xp.astype(xp.clip(raised, 0.0, MOST), xp.int16)


def lengthened(xp: Any, before: Array, newest: Array, known: Array) -> Array:
    """Return the orders (N, K, ORDERS) with the newest ones (N, K) first; where these are unknown, the last ones again.

    The first orders of all are taken to have stood for ever.
    """
    last = before[:, :, 0]
    if not bool(xp.all(known)):
        newest = xp.where(known[:, None], newest, last)
    after = xp.empty(before.shape, dtype=before.dtype, device=getattr(before, "device", None))
    # Each row's orders move up by one: so does all that lies in one piece, which is one copy and not one for each row.
    xp.reshape(after, (-1,))[1:] = xp.reshape(before, (-1,))[:-1]
    after[:, :, 0] = newest
    if bool(xp.any(fresh := last < 0)):
        after[fresh] = newest[fresh][:, None]
    return after


def _at_once(family: Family) -> Rule | None:
    """Return the rule with (K,) constants, one for each member, where it answers (N, 1) rows for all of them."""
    values = [value for each in family.constants for value in each.values()]
    if not getattr(family.rule, "BROADCASTS", False) or any(value is None or np.ndim(value) for value in values):
        return None
    names = family.constants[0] if family.constants else {}
    return family.rule(**{name: np.array([each[name] for each in family.constants], np.float64) for name in names})


def _spread(constants: Sequence[Mapping[str, Any]], n: int) -> dict[str, np.ndarray]:
    """Return the constants of K members for each of n rows, (n x K,), a row's members beside each other."""
    return {name: _beside([each[name] for each in constants], n) for name in constants[0]}


def _beside(values: Sequence[Any], n: int) -> np.ndarray:
    if all(np.ndim(value) == 0 for value in values):
        return np.tile(np.array(values, np.float64), n)
    return np.stack([np.broadcast_to(np.asarray(value, np.float64), (n,)) for value in values], 1).reshape(-1)


def _part(view: View, rows: Array | None, current: Array) -> View:
    """Return the view that candidates have, with their own counts in place of the target's; rows: None = all."""
    if rows is None:
        return View(xp=view.xp, settings=view.settings, snapshot=view.snapshot, features=view.features,
                    demand=view.demand, current=current)  # fmt: skip
    return View(
        xp=view.xp,
        settings=Picked(view.settings, rows),
        snapshot=Picked(view.snapshot, rows),
        features=Picked(view.features, rows),
        demand=view.demand[rows],
        current=current,
    )
