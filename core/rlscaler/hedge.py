"""Several policies propose, and each has as much say as it has earned on the workload's own past.

Every candidate is replayed in a small world of its own, closed over its own orders: a replica is billed from its order
on and ready after the start-up; load above that waits. Costs are discounted, and orders are averaged with weights that
fall exponentially with cost: Hedge (Freund and Schapire, "A decision-theoretic generalization of on-line learning and
an application to boosting", 1997), which is never much worse than the best candidate in hindsight. So a policy that
fits this workload leads after some hours, and one that stops paying loses its say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler import erlang
from rlscaler.arrays import Array, State
from rlscaler.guard import patient
from rlscaler.policy import Policy, Proposal, View
from rlscaler.rows import Picked
from rlscaler.rules.parameters import Rule

ORDERS = 48
"""Past orders that are kept of each candidate; a start-up of more intervals is taken for so many."""
MOST = 32_000
"""Replicas of a candidate's order at most: orders are kept in 16 bits."""
PRICES = (20.0, 40.0, 200.0)
"""Prices of late requests at which say is earned: the standard one, of an objective of 99.9 %, and those above it."""
LEAST_WAIT = 0.1
"""Share of the objective's latency that a request may always wait, however long it takes itself."""
_PATIENCE = ("peak", "next")


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
    of the view. prior: (K,) weights at the beginning (None: equal).
    """

    families: Sequence[Family]
    others: Sequence[Policy] = ()
    spare: int = 0
    rate: Any = 120.0
    half_life: Any = 24 * 3600.0
    doubt: Any = 4 * 3600.0
    prior: Sequence[float] | None = None
    name: str = "hedge"
    size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Count the candidates."""
        self.size = sum(len(family.constants) for family in self.families) + len(self.others)

    def state(self, n: int) -> State:
        """Return the memory of n workloads.

        orders: (n, K, ORDERS) int16, newest first, -1 = none. cost, late: (n, K) float32, what was discounted of the
        replicas that were paid for, and of the load that was late, in replica-intervals. waiting: (n, K) float32
        replica-seconds of backlog. demand, known: (n,) float64, the discounted demand and
        seconds. seen_time: (n,) float64 seconds, of the last call. peak, next, peak_age, next_age: (n, K) float32, what
        patience remembers, as of that time. What the others remember follows, with their number before the name.
        """
        shape = (n, self.size)
        out: State = {
            "orders": np.full((*shape, ORDERS), -1, np.int16),
            "cost": np.zeros(shape, np.float32),
            "late": np.zeros(shape, np.float32),
            "waiting": np.zeros(shape, np.float32),
            "demand": np.zeros(n),
            "known": np.zeros(n),
            "seen_time": np.zeros(n),
        }
        for name in _PATIENCE:
            out |= {name: np.full(shape, -np.inf, np.float32), f"{name}_age": np.full(shape, np.inf, np.float32)}
        for index, policy in enumerate(self.others):
            out |= {f"{index}/{name}": array for name, array in policy.state(n).items()}
        return out

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the weighted mean of the candidates' orders, NaN where the load is unknown.

        Of the means at all PRICES up to the objective's it is the largest, so that a stricter objective, by which other
        candidates would lead, never orders less.
        """
        xp, state = view.xp, dict(state)
        _charge(view, state, self.half_life)
        orders = self._orders(view, state)
        known = xp.all(xp.isfinite(orders), axis=1)
        orders = xp.where(known[:, None], orders, 0.0)
        whole = xp.clip(xp.ceil(orders - 1e-6 * xp.clip(orders, 1.0, None)), 0.0, MOST)
        last = state["orders"][:, :, :1]
        newest = xp.where(known[:, None, None], xp.astype(whole, xp.int16)[:, :, None], last)
        before = xp.where(last < 0, newest, state["orders"][:, :, :-1])
        state["orders"] = xp.concat([newest, before], axis=2)
        price = view.settings["price"]
        mixed = xp.sum(self.weights(xp, state, PRICES[0]) * orders, axis=1)
        for stricter in PRICES[1:]:
            if bool(xp.any(asked := price >= stricter)):
                more = xp.sum(self.weights(xp, state, stricter) * orders, axis=1)
                mixed = xp.where(asked, xp.maximum(mixed, more), mixed)
        return Proposal(replicas=xp.where(known, mixed, float("nan"))), state

    def condensed(self, state: State, settings: Mapping[str, Array]) -> State:
        """Return the memory with those orders alone that a charge looks at, which is most of it left out.

        settings: compiled, of the same rows.
        """
        first, behind = _reach(np, settings)
        width = int(np.max(first + behind, initial=0.0)) + 1
        return {**state, "orders": np.ascontiguousarray(state["orders"][:, :, :width])}

    def whole(self, state: State) -> State:
        """Return the memory that `condensed` made smaller, its oldest orders repeated; it decides the same."""
        orders = state.get("orders")
        if orders is None or orders.ndim != 3 or not 0 < orders.shape[2] <= ORDERS:
            return state
        return {**state, "orders": np.pad(orders, ((0, 0), (0, 0), (0, ORDERS - orders.shape[2])), mode="edge")}

    def weights(self, xp: Any, state: State, price: Any = PRICES[0]) -> Array:
        """Return (N, K) float64 how much say each candidate has at a price of late requests; each row's sum is 1."""
        score = self.scores(xp, state, price)
        known = state["known"]
        sure = self.rate * known / (known + self.doubt)
        weight = xp.exp(-sure[:, None] * (score - xp.min(score, axis=1, keepdims=True)))
        if self.prior is not None:
            weight = weight * xp.asarray(self.prior, dtype=weight.dtype, device=getattr(weight, "device", None))
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
        wanted, held, begin = [], [], 0

        def take(proposal: Proposal, count: int) -> None:
            hold = xp.zeros_like(proposal.replicas) if proposal.patience is None else proposal.patience
            wanted.append(xp.reshape(proposal.replicas, (n, count)))
            held.append(xp.reshape(hold, (n, count)))

        for family in self.families:
            count = len(family.constants)
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
            for found in (wanted, held):
                found[-1] = xp.where(sound, found[-1], found[0][:, self.spare : self.spare + 1])
        asked = xp.clip(xp.concat(wanted, axis=1), view.settings["min_replicas"][:, None],
                        view.settings["max_replicas"][:, None])  # fmt: skip
        kept = _kept(xp, state, view.snapshot["time"], asked, xp.concat(held, axis=1))
        return xp.maximum(asked, xp.minimum(kept, xp.where(last < 0.0, asked, last)))


def _charge(view: View, state: State, half_life: Any) -> None:
    """Charge each candidate for the interval that the newest reading tells of, in place."""
    xp, settings = view.xp, view.settings
    interval, capacity = settings["interval"], settings["capacity_per_replica"][:, None]
    first, behind = _reach(xp, settings)
    width = int(xp.max(first + behind)) + 1
    first, behind, place = first[:, None, None], behind[:, None, None], xp.arange(width, dtype=xp.float64)
    orders = xp.astype(state["orders"][:, :, :width], xp.float64)
    ready = xp.min(xp.where((place >= first) & (place <= first + behind), orders, xp.inf), axis=2)
    billed = xp.sum(xp.where(place == first, orders, 0.0), axis=2)
    told = xp.isfinite(view.demand) & (ready[:, 0] >= 0.0)
    each = told[:, None]
    need, ready = xp.where(told, view.demand, 0.0)[:, None], xp.where(each, ready, 1.0)
    concurrency = settings["concurrency"][:, None]
    before = xp.astype(state["waiting"], xp.float64)
    after = xp.clip(before + (need - ready) * interval[:, None], 0.0, None)
    latency = settings["latency"][:, None]
    allowed = xp.clip(latency - concurrency / capacity, LEAST_WAIT * latency, None)
    share = _late(xp, before, after, need, ready, concurrency, capacity, allowed, interval[:, None])
    keep = 2.0 ** (-interval / half_life)
    for name, new in (("cost", billed), ("late", need * share)):
        total = keep[:, None] * xp.astype(state[name], xp.float64) + new
        state[name] = xp.where(each, xp.astype(total, xp.float32), state[name])
    state["waiting"] = xp.where(each, xp.astype(after, xp.float32), state["waiting"])
    state["demand"] = xp.where(told, keep * state["demand"] + need[:, 0], state["demand"])
    state["known"] = xp.where(told, keep * state["known"] + interval, state["known"])


def _reach(xp: Any, settings: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return (N,) the age in intervals of the order that is billed, and of how many before it may still start."""
    interval = settings["interval"]
    # A reading tells of the interval that ended one lag ago, when the order of its beginning stood.
    first = xp.clip(xp.round(settings["lag"] / interval), 0.0, ORDERS - 1.0)
    return first, xp.clip(xp.ceil(settings["startup"] / interval - 1e-9), 0.0, ORDERS - 1.0 - first)


def _late(
    xp: Any,
    before: Array,
    after: Array,
    need: Array,
    ready: Array,
    concurrency: Array,
    capacity: Array,
    allowed: Array,
    interval: Array,
) -> Array:
    """Return (N, K) the share of an interval's requests that wait longer than `allowed` seconds.

    before, after: backlog in replica-seconds at its ends, between which it moves evenly. Where there is none, the queue
    is in its steady state (Erlang C). `need` is a count of Poisson arrivals, and scatters by more than what it counts:
    that much of a backlog is left out, and the mean of the steady state's exponential is taken without it.
    """
    scatter = xp.sqrt(need * interval / capacity)
    most = xp.clip(allowed * ready + scatter, 1e-9, None)
    low, high = xp.minimum(before, after), xp.maximum(before, after)
    stuck = xp.clip((high - most) / xp.clip(high - low, 1e-9, None), 0.0, 1.0)
    servers = xp.clip(ready * concurrency, 1.0, None) + 0.0 * need
    counted = xp.clip(1.0 - 0.5 * allowed / interval, 0.5, None)
    offered = xp.minimum(need * counted * concurrency + 0.0 * servers, servers)
    times = allowed * capacity / concurrency + 0.0 * servers
    calm = xp.where(offered < servers, erlang.late_share(xp, servers, offered, times), 0.0)
    return xp.where(high > scatter, stuck, calm)


def _kept(xp: Any, state: State, time: Array, asked: Array, hold: Array) -> Array:
    """Return (N, K) the largest order asked for within each candidate's patience, in place on `state`."""
    memory: State = {}
    seen = state["seen_time"][:, None]
    for name in _PATIENCE:
        memory[name] = xp.astype(state[name], xp.float64)
        memory[f"{name}_time"] = seen - xp.astype(state[f"{name}_age"], xp.float64)
    known = xp.isfinite(asked)
    now = time[:, None] + xp.zeros_like(asked)
    found = patient(xp, memory, now, xp.where(known, asked, -xp.inf), hold)
    for name in _PATIENCE:
        state[name] = xp.where(known, xp.astype(memory[name], xp.float32), state[name])
        age = xp.where(known, now - memory[f"{name}_time"], now - seen + xp.astype(state[f"{name}_age"], xp.float64))
        state[f"{name}_age"] = xp.astype(age, xp.float32)
    state["seen_time"] = time + 0.0
    return found


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
