"""The environment of earlier work, faults included, as pure batched functions; nothing else has its dynamics.

It is that of adobe/gym-scaling (2019, Apache-2.0, https://github.com/adobe/gym-scaling, commit 4bb7d15),
whose fork arshiya-salehi/CS-175-final-submition published the results that are compared with; written anew
here. One step is 300 s, an instance works off 87 items a step, there are 2 to 100 instances and 50 at the
start. In a step, in this order: items arrive; the present instances work off what they can and the rest
queues; the action of the step before changes the instances; the reward takes the load from before that change
and the instances after it.

Faults, kept because the published numbers are made of them:

- The queue's penalty saturates at 1, and all rewards are negative while the episode ends when the queue
  passes 43,500: a crash shortens the loss.
- The pending action and the direction of the load are hidden, so the observation is not a Markov state.
- Load is rounded up to whole percent, and the published trace ends before a third of its period.
- Dollars: see `published_cost`.

State is a dict of float64 arrays of NumPy or torch, the environments first; one environment is N = 1.
"""

from typing import Any, NamedTuple

import numpy as np

from rlscaler.arrays import Array, State, namespace

STEP_SECONDS = 300
CAPACITY = 87
MIN_INSTANCES = 2
MAX_INSTANCES = 100
START_INSTANCES = 50
OFFSET = 500
MAX_INFLUX = 4350
MAX_QUEUE = 43_500
CHANGE_RATE = 10_000
PRICE = 0.192
ACTIONS = (-1, 0, 1)
PATTERNS = ("SINE_CURVE", "STEADY", "SINUSOIDAL", "SPIKE", "POISSON", "RANDOM")

_MIDDLE = (OFFSET + MAX_INFLUX) // 2
_SPAN = MAX_INFLUX - OFFSET
_BILLED_EVERY = 12


def sine(time: Array) -> Array:
    """Return the items of SINE_CURVE in the given steps: ceil((sin(0.01 t) + 1) 4350 / 2), float64."""
    xp = namespace(time)
    return xp.ceil((xp.sin(time * 0.01) + 1.0) * MAX_INFLUX / 2)


def items(pattern: str, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what arrives in each of the given steps, the shape of `time`, float64.

    pattern: one of `PATTERNS`; POISSON and RANDOM draw once for each step, the others draw nothing.

    Raises ValueError for an unknown pattern.
    """
    time = np.asarray(time, np.float64)
    match pattern:
        case "SINE_CURVE":
            return np.asarray(sine(time), np.float64)
        case "STEADY":
            return np.full(time.shape, float(_MIDDLE))
        case "SINUSOIDAL":
            return np.asarray(OFFSET + np.ceil((np.sin(time * 0.01) + 1.0) * _SPAN / 2))
        case "SPIKE":
            phase = time % 500
            base, rise = OFFSET + 3 * _SPAN // 10, _SPAN / 20
            return np.asarray(np.floor(base + rise * np.clip(np.minimum(phase, 20 - phase), 0, None)))
        case "POISSON":
            return np.clip(rng.poisson(_MIDDLE, time.shape), OFFSET, MAX_INFLUX).astype(np.float64)
        case "RANDOM":
            return rng.integers(OFFSET, MAX_INFLUX, time.shape, endpoint=True).astype(np.float64)
    raise ValueError(f"pattern is {pattern!r}; expected one of {', '.join(PATTERNS)}")


def influx(pattern: str, steps: int, rng: np.random.Generator, change_rate: int = 1) -> np.ndarray:
    """Return what arrives in the steps 0 to `steps`, (steps + 1,) float64; step 0 is only shown at the start.

    change_rate: steps for which a value stays. The published results have 1; `CHANGE_RATE` is the original's
    own default, with which nothing changes in the 200 steps of an evaluation.

    Raises ValueError for an unknown pattern or a rate below 1.
    """
    if change_rate < 1:
        raise ValueError(f"change_rate is {change_rate}; expected 1 step or more")
    return np.repeat(items(pattern, np.arange(0, steps + 1, change_rate), rng), change_rate)[: steps + 1]


def start(n: int, shown: Any = MAX_INFLUX / 2, like: Array | None = None) -> State:
    """Return n environments at their start.

    shown: items that the first observation shows, a scalar or (n,). like: an array of the library to be used.

    The state: time (steps done), instances, pending (the change that the next step makes), capacity (items
    that the last step could work off), load (percent of it that was used), queue (items), influx (items of
    the last step); each of shape (n,).
    """
    xp = np if like is None else namespace(like)
    device = getattr(like, "device", None)

    def full(value: float) -> Array:
        return xp.full((n,), float(value), dtype=xp.float64, device=device)

    return {
        "time": full(0),
        "instances": full(START_INSTANCES),
        "pending": full(0),
        "capacity": full(START_INSTANCES * CAPACITY),
        "load": full(0),
        "queue": full(0),
        "influx": full(0) + shown,
    }


def step(state: State, action: Array, influx: Array | None = None) -> tuple[State, Array, Array]:
    """Return the state after one step, the reward (N,) float64 and whether the episode has ended (N,) bool.

    action: (N,) integers, positions in `ACTIONS`: 0 removes an instance, 1 holds, 2 adds one, a step later.
    influx: (N,) items that arrive in this step; None = SINE_CURVE at a change rate of 1, as published.

    Raises ValueError for an action outside of 0 to 2.
    """
    xp = namespace(state["queue"])
    if xp.any((action < 0) | (action > 2)):
        raise ValueError("an action is outside of 0 to 2; expected a position in ACTIONS (remove, hold, add)")
    time = state["time"] + 1.0
    arriving = sine(time) if influx is None else influx
    before, waiting = state["instances"], state["queue"] + arriving
    capacity = before * CAPACITY
    processed = xp.minimum(waiting, capacity)
    load = xp.ceil(processed / capacity * 100.0)
    queue = waiting - processed
    wanted = before + state["pending"]
    inside = (wanted >= MIN_INSTANCES) & (wanted <= MAX_INSTANCES)
    instances = xp.where(inside, wanted, before)
    reward = -(1.0 - load / 100.0) * (instances / MAX_INSTANCES)
    reward = reward - 0.1 * xp.astype(~inside, xp.float64) - queue / (1.0 + queue)
    after = {
        "time": time,
        "instances": instances,
        "pending": xp.astype(action, xp.float64) - 1.0,
        "capacity": capacity,
        "load": load,
        "queue": queue,
        "influx": arriving + xp.zeros_like(queue),
    }
    return after, reward, queue > MAX_QUEUE


def observe(state: State) -> Array:
    """Return the observation, (N, 5) float64: instances / 100, load / 100, capacity, influx, queue."""
    xp = namespace(state["queue"])
    columns = (state["instances"] / MAX_INSTANCES, state["load"] / 100.0, state["capacity"], state["influx"])
    return xp.stack([*columns, state["queue"]], axis=1)


def threshold(state: State, high: Any = 80.0, low: Any = 40.0, patience: Any = 100.0) -> Array:
    """Return the actions of the two-threshold rule, (N,) int64.

    Adds above `high` percent of load or above `patience` queued items; removes below `low` percent with an
    empty queue. The default is the published baseline, there called Kubernetes HPA-like.
    """
    xp = namespace(state["queue"])
    add = (state["load"] > high) | (state["queue"] > patience)
    remove = ~add & (state["load"] < low) & (state["queue"] == 0)
    return xp.astype(add, xp.int64) - xp.astype(remove, xp.int64) + 1


def published_cost(instances: np.ndarray) -> np.ndarray:
    """Return the dollars that earlier work reports for an episode, (N,) for (steps + 1, N) instances.

    instances: their number at the start and after each step, (steps + 1, N), or (steps + 1,) for one.

    Two faults make it up. The instances of the start cost 87 an hour, their capacity, instead of 0.192. And
    each instance adds, at every full hour of its age, the cost of its whole life so far. As the oldest
    instance goes first, adding and removing in turn makes nearly all of it vanish.
    """
    change = np.diff(np.asarray(instances, np.int64).reshape(len(instances), -1), axis=0)
    steps, n = change.shape
    added, removed = np.cumsum(change > 0, axis=0), np.cumsum(change < 0, axis=0)
    born = np.zeros((START_INSTANCES + steps, n), np.int64)
    gone = np.full_like(born, steps)
    when, where = np.nonzero(change > 0)
    born[START_INSTANCES + added[when, where] - 1, where] = when + 1
    when, where = np.nonzero(change < 0)
    gone[removed[when, where] - 1, where] = when + 1
    number = np.arange(START_INSTANCES + steps)[:, None]
    rate = np.where(number < START_INSTANCES, CAPACITY, PRICE)
    hours = (gone - born) // _BILLED_EVERY
    exists = number < START_INSTANCES + (change > 0).sum(axis=0)
    cost = np.where(exists, rate * hours * (hours + 1) / 2, 0.0).sum(axis=0)
    return np.asarray(cost if np.ndim(instances) > 1 else cost[0])


def instance_cost(instances: np.ndarray) -> np.ndarray:
    """Return the dollars of the instance-hours at 0.192 each; arguments as of `published_cost`."""
    hours = np.asarray(instances, np.float64)[1:].sum(axis=0) * (STEP_SECONDS / 3600)
    return np.asarray(hours * PRICE)


class Optimum(NamedTuple):
    """The best that can be done where the whole load is known: return (a sum of rewards) and actions
    (steps,)."""

    value: float
    actions: np.ndarray


def optimum(influx: np.ndarray) -> Optimum:
    """Return the clairvoyant optimum from the start over the steps 1 to T of influx (T + 1,), exactly.

    Forward dynamic programming over the reachable (instances, queue); the action delay only means that the
    first step changes nothing. Rewards are never positive, so what has already lost more than some whole
    schedule loses cannot win: that schedule is found first by keeping the best thousand states of each step.
    Hitting a bound is left out, since holding does the same without the penalty. Whole numbers of items are
    assumed.

    Raises ValueError where `influx` holds anything else, or no step.
    """
    trace = np.asarray(influx, np.float64)
    if trace.ndim != 1 or len(trace) < 2 or not np.all((trace >= 0) & (trace == np.floor(trace))):
        raise ValueError("influx is expected to hold whole numbers of items for the steps 0 to T, T at least 1")
    bound = _searched(trace, -np.inf, 1000).value
    return _searched(trace, bound, None)


def _searched(trace: np.ndarray, bound: float, keep: int | None) -> Optimum:
    """Return the best schedule whose states never fall below `bound`, among the best `keep` of each step."""
    instances = np.array([START_INSTANCES])
    queue, value = np.zeros(1, np.int64), np.zeros(1)
    parents: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    best = (-np.inf, 0, 0)
    for time, arriving in enumerate(trace[1:].astype(np.int64), start=1):
        choices = np.array([0] if time == 1 else ACTIONS)[:, None]
        waiting, capacity = queue + arriving, instances * CAPACITY
        processed = np.minimum(waiting, capacity)
        load, left = np.ceil(processed / capacity * 100.0), waiting - processed
        after = instances + choices
        total = value - (1.0 - load / 100.0) * (after / MAX_INSTANCES) - left / (1.0 + left)
        allowed = (after >= MIN_INSTANCES) & (after <= MAX_INSTANCES)
        allowed &= (total >= bound - 1e-9) & np.isfinite(total)
        choice, parent = np.nonzero(allowed)
        if not len(choice):
            break
        after, left, total = after[choice, parent], left[parent], total[choice, parent]
        order = np.lexsort((-total, left, after))
        fresh = np.r_[True, (np.diff(after[order]) != 0) | (np.diff(left[order]) != 0)]
        order = order[fresh]
        if keep is not None and len(order) > keep:
            order = order[np.argsort(-total[order], kind="stable")[:keep]]
        instances, queue, value = after[order], left[order], total[order]
        parents.append(parent[order])
        changes.append(choices[choice[order], 0])
        over = (queue > MAX_QUEUE) | (time == len(trace) - 1)
        if over.any():
            last = int(np.argmax(np.where(over, value, -np.inf)))
            best = max(best, (float(value[last]), time, last))
            # The episode ended there, so these states go no further.
            value = np.where(over, -np.inf, value)
    total_best, steps, place = best
    applied = np.zeros(len(trace) - 1, np.int64)
    for time in range(steps, 0, -1):
        applied[time - 1] = changes[time - 1][place]
        place = int(parents[time - 1][place])
    return Optimum(total_best, np.append(applied[1:], 0) + 1)
