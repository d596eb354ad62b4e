"""HPA v2 `behavior`: named cases, and equality with a plain restatement of the controller."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpa_oracle as oracle
from rlscaler import behavior
from rlscaler.arrays import State
from rlscaler.behavior import DEFAULT, IMMEDIATE, Behavior, ScalingPolicy, ScalingRules
from rlscaler.reasons import names

NAN = float("nan")
FREE = ScalingRules(0.0, "Max", ())
UP, DOWN, LIMIT_UP, LIMIT_DOWN, FEW, MANY, OFF = (
    "ScaleUpStabilized", "ScaleDownStabilized", "ScaleUpLimit", "ScaleDownLimit", "TooFewReplicas",
    "TooManyReplicas", "ScalingDisabled",
)  # fmt: skip


def rules(*policies: tuple[Any, int, float], window: float = 0.0, select: Any = "Max") -> ScalingRules:
    return ScalingRules(window, select, tuple(ScalingPolicy(*policy) for policy in policies))


def compiled(behaviors: list[Behavior | None], low: Any = 1, high: Any = 100, interval: Any = 15.0) -> State:
    n = len(behaviors)
    plain = {"min_replicas": low, "max_replicas": high, "interval": interval}
    return behavior.compiled(behaviors) | {
        k: np.array(np.broadcast_to(np.asarray(v, float), (n,))) for k, v in plain.items()
    }


def reasons(bits: Any) -> set[str]:
    return set(names(int(bits))) - {"DesiredWithinRange"}


# Named cases: behaviour, (min, max), then per decision (time, current, desired, replicas, reasons).
Step = tuple[float, float, float, float, set[str]]
CASES: dict[str, tuple[Behavior | None, tuple[int, int], list[Step]]] = {
    "no behavior: the desired count stands": (None, (1, 100), [(0, 10, 3, 3, set()), (1, 3, 90, 90, set())]),
    "no behavior: the bounds stand": (None, (2, 20), [(0, 10, 0, 2, {FEW}), (15, 2, 21, 20, {MANY})]),
    "the first count seen is a recommendation and holds for the window": (
        DEFAULT, (1, 100), [(0, 10, 2, 10, {DOWN}), (285, 10, 2, 10, {DOWN}), (299.5, 10, 2, 10, {DOWN}),
                            (300, 10, 2, 2, set())]),
    "a recommendation exactly as old as the window no longer counts": (
        Behavior(FREE, rules(window=60)), (1, 100),
        [(0, 8, 9, 9, set()), (59, 9, 1, 9, {DOWN}), (60, 9, 1, 1, set())]),
    "the largest recommendation in the window wins": (
        DEFAULT, (1, 100), [(0, 6, 6, 6, set()), (200, 6, 8, 8, set()), (300, 8, 5, 8, {DOWN}),
                            (499, 8, 4, 8, {DOWN}), (500, 8, 4, 5, {DOWN})]),
    "the first count is seen although metrics fail": (
        DEFAULT, (1, 100), [(0, 10, NAN, 10, set()), (15, 10, 2, 10, {DOWN}), (300, 10, 2, 2, set())]),
    "a failed metric is no recommendation": (
        Behavior(FREE, rules(window=60)), (1, 100),
        [(0, 8, 9, 9, set()), (45, 9, NAN, 9, set()), (60, 9, 1, 1, set())]),
    "an unknown count decides nothing and seeds nothing": (
        DEFAULT, (1, 100), [(0, NAN, 2, NAN, set()), (200, 10, 2, 10, {DOWN}), (499, 10, 2, 10, {DOWN}),
                            (500, 10, 2, 2, set())]),
    "default up doubles": (DEFAULT, (1, 100), [(0, 10, 50, 20, {LIMIT_UP})]),
    "default up adds four where doubling is less": (DEFAULT, (1, 100), [(0, 1, 50, 5, {LIMIT_UP})]),
    "what was added in the period counts": (
        DEFAULT, (1, 100), [(0, 10, 50, 20, {LIMIT_UP}), (14, 20, 50, 20, {LIMIT_UP}),
                            (15, 20, 50, 40, {LIMIT_UP})]),
    "a write that did not land is no event": (
        DEFAULT, (1, 100), [(0, 10, 50, 20, {LIMIT_UP}), (10, 10, 50, 20, {LIMIT_UP})]),
    "an event counts although somebody changed the target since": (
        DEFAULT, (1, 100), [(0, 10, 50, 20, {LIMIT_UP}), (10, 30, 50, 40, {LIMIT_UP})]),
    "a change back before the next decision looks like a write that did not land": (
        DEFAULT, (1, 100), [(0, 10, 20, 20, set()), (14, 10, 50, 20, {LIMIT_UP})]),
    "an unknown count in between leaves the event pending": (
        DEFAULT, (1, 100), [(0, 10, 20, 20, set()), (8, NAN, 50, NAN, set()), (14, 20, 50, 20, {LIMIT_UP})]),
    "80 pods at 10 percent: 72, 64": (
        Behavior(FREE, rules(("Percent", 10, 60))), (1, 100),
        [(0, 80, 1, 72, {LIMIT_DOWN}), (30, 72, 1, 72, {LIMIT_DOWN}), (60, 72, 1, 64, {LIMIT_DOWN})]),
    "percent up rounds up": (Behavior(rules(("Percent", 1, 60)), FREE), (1, 100), [(0, 1, 9, 2, {LIMIT_UP})]),
    "percent up in the controller's floating point: 50 x 1.1 is a little more than 55": (
        Behavior(rules(("Percent", 10, 60)), FREE), (1, 100), [(0, 50, 90, 56, {LIMIT_UP})]),
    "percent down in the controller's floating point: 90 x 0.7 is a little less than 63": (
        Behavior(FREE, rules(("Percent", 30, 60))), (1, 100), [(0, 90, 1, 62, {LIMIT_DOWN})]),
    "percent down truncates what remains": (
        Behavior(FREE, rules(("Percent", 50, 60))), (0, 100), [(0, 1, 0, 0, set())]),
    "more than 100 percent down is no limit": (
        Behavior(FREE, rules(("Percent", 1000, 60))), (2, 100), [(0, 90, 0, 2, {FEW})]),
    "Min allows the least up": (
        Behavior(rules(("Pods", 4, 15), ("Percent", 100, 15), select="Min"), FREE), (1, 100),
        [(0, 10, 50, 14, {LIMIT_UP})]),
    "Min allows the least down": (
        Behavior(FREE, rules(("Pods", 4, 15), ("Percent", 100, 15), select="Min")), (1, 100),
        [(0, 10, 1, 6, {LIMIT_DOWN})]),
    "Max allows the most down": (
        Behavior(FREE, rules(("Pods", 4, 15), ("Percent", 10, 15))), (1, 100), [(0, 10, 1, 6, {LIMIT_DOWN})]),
    "Disabled up": (
        Behavior(rules(("Pods", 4, 15), select="Disabled"), FREE), (1, 100), [(0, 5, 9, 5, {LIMIT_UP})]),
    "Disabled down, without policies": (
        Behavior(FREE, rules(select="Disabled")), (1, 100),
        [(0, 5, 3, 5, {LIMIT_DOWN}), (15, 5, 9, 9, set())]),
    "the bound is the reason where it is the tighter one": (DEFAULT, (1, 15), [(0, 10, 50, 15, {MANY})]),
    "the bound is the reason where it equals the limit": (DEFAULT, (1, 20), [(0, 10, 50, 20, {MANY})]),
    "minReplicas is the reason where it is the tighter one": (
        Behavior(FREE, rules(("Pods", 5, 60))), (8, 100), [(0, 10, 2, 8, {FEW})]),
    "stabilised and limited at once": (
        Behavior(FREE, rules(("Pods", 1, 60), window=60)), (1, 100),
        [(0, 10, 10, 10, set()), (30, 10, 6, 10, {DOWN}), (60, 10, 2, 9, {DOWN, LIMIT_DOWN})]),
    "above maxReplicas goes there at once": (
        Behavior(FREE, rules(select="Disabled", window=300)), (1, 10), [(0, 50, 50, 10, {MANY})]),
    "below minReplicas goes there at once": (
        Behavior(rules(select="Disabled"), FREE), (3, 10), [(0, 1, 1, 3, {FEW})]),
    "outside of the bounds no metric is needed": (DEFAULT, (3, 10), [(0, 50, NAN, 10, {MANY})]),
    "the way to the bound is a scale event": (
        Behavior(rules(("Pods", 1, 60)), FREE), (10, 20),
        [(0, 5, 20, 10, {FEW}), (30, 10, 20, 10, {LIMIT_UP}), (60, 10, 20, 11, {LIMIT_UP})]),
    "at zero with minReplicas above zero somebody switched it off": (
        DEFAULT, (1, 100), [(0, 0, 50, 0, {OFF}), (15, 0, NAN, 0, {OFF})]),
    "from zero with minReplicas zero": (
        DEFAULT, (0, 100), [(0, 0, 50, 4, {LIMIT_UP}), (15, 4, 50, 8, {LIMIT_UP})]),
    "to zero with minReplicas zero": (Behavior(FREE, FREE), (0, 100), [(0, 3, 0, 0, set())]),
    "a scale-up window waits for the smallest": (
        Behavior(rules(window=60), FREE), (1, 100),
        [(0, 5, 5, 5, set()), (30, 5, 20, 5, {UP}), (59, 5, 30, 5, {UP}), (60, 5, 30, 20, {UP}),
         (120, 20, 30, 30, set())]),
    "both windows: no scale-up when the recommendation comes down": (
        Behavior(rules(window=300), rules(window=300)), (1, 100),
        [(0, 2, 3, 2, {UP}), (60, 2, 1, 2, {DOWN}), (120, 2, 3, 2, {UP})]),
    "events of both directions count: (6 - 4 + 2) x 4 = 16": (
        Behavior(rules(("Percent", 300, 300)), rules(("Percent", 100, 15))), (1, 1000),
        [(0, 4, 8, 8, set()), (60, 8, 6, 6, set()), (120, 6, 24, 16, {LIMIT_UP})]),
    "recent removals forbid more of them": (
        Behavior(FREE, rules(("Percent", 10, 120))), (1, 1000),
        [(0, 130, 100, 117, {LIMIT_DOWN}), (60, 117, 1, 117, {LIMIT_DOWN}),
         (119, 117, 1, 117, {LIMIT_DOWN})]),
    "an event outdated for its own direction gives its slot away": (
        Behavior(rules(("Pods", 100, 15)), rules(("Pods", 4, 60))), (1, 100),
        [(0, 10, 20, 20, set()), (20, 20, 25, 25, set()), (45, 25, 1, 16, {LIMIT_DOWN})]),
    "a policy of int32's maximum allows all": (
        Behavior(rules(("Pods", 2**31 - 1, 60)), FREE), (1, 10000), [(0, 10, 9000, 9000, set())]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_named_case(name: str) -> None:
    chosen, (low, high), steps = CASES[name]
    options = compiled([chosen], low, high)
    memory = behavior.state(options, 1)
    for time, current, desired, replicas, why in steps:
        now, have, want = (np.array([float(x)]) for x in (time, current, desired))
        counts, bits, memory = behavior.apply(np, options, memory, now, have, want)
        np.testing.assert_equal(counts[0], replicas, f"replicas at {time} s")
        assert reasons(bits[0]) == why, f"reasons at {time} s"


def test_defaults_are_those_of_kubernetes() -> None:
    options = behavior.compiled([DEFAULT, None])
    assert (DEFAULT.up.window, DEFAULT.down.window) == (0, 300)
    assert DEFAULT.up.select == DEFAULT.down.select == "Max"
    assert DEFAULT.up.policies == (ScalingPolicy("Pods", 4, 15), ScalingPolicy("Percent", 100, 15))
    assert DEFAULT.down.policies == (ScalingPolicy("Percent", 100, 15),)
    assert options["up_tolerance"].tolist() == options["down_tolerance"].tolist() == [0.1, 0.0]
    assert options["rate_limited"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScalingPolicy(cast(Any, "Pod"), 1, 15), "policy type is 'Pod'; expected Pods or Percent"),
        (lambda: ScalingPolicy("Pods", 0, 15), "policy value is 0; expected a whole number above 0"),
        (lambda: ScalingPolicy("Pods", 1, 1801), "policy period is 1801; expected 1 to 1800 seconds"),
        (lambda: ScalingRules(3601, "Max", ()), "window is 3601; expected 0 to 3600 seconds"),
        (
            lambda: ScalingRules(0, cast(Any, "Most"), ()),
            "selectPolicy is 'Most'; expected Max, Min or Disabled",
        ),
        (lambda: ScalingRules(0, "Max", (), NAN), "tolerance is nan; expected 0 or more"),
    ],
)
def test_what_the_api_server_refuses_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"behavior {message}"):
        make()


# Histories: random behaviours, irregular times, failed metrics, failed writes, changes by others.
@dataclass
class History:
    """Rows (N) and what happens to them at each step (T, N)."""

    behaviors: list[Behavior | None]
    low: np.ndarray
    high: np.ndarray
    interval: np.ndarray
    start: np.ndarray
    time: np.ndarray
    desired: np.ndarray
    lands: np.ndarray
    foreign: np.ndarray

    def settings(self) -> State:
        return compiled(self.behaviors, self.low, self.high, self.interval)

    def moved(self, step: int, current: np.ndarray, replicas: np.ndarray) -> np.ndarray:
        """Return the counts before the next step; nobody sets a count back to what it was."""
        lands, foreign = self.lands[step], self.foreign[step]
        after = np.where(lands, replicas, current)
        return np.where(lands & ~np.isnan(foreign) & (foreign != current), foreign, after)

    def decided(self, xp: Any = np) -> tuple[np.ndarray, np.ndarray]:
        """Return replicas and reasons (T, N) of all rows at once, whatever `resized` does meanwhile."""
        options = {k: xp.asarray(v) for k, v in self.settings().items()}
        memory = behavior.state(options, len(self.behaviors))
        current, counts, why = self.start, [], []
        for step, (now, want) in enumerate(zip(self.time, self.desired, strict=True)):
            arguments = (xp.asarray(a) for a in (now, current, want))
            replicas, bits, memory = behavior.apply(xp, options, memory, *arguments)
            counts.append(np.asarray(replicas))
            if step % 20 == 7:
                memory = behavior.resized(memory, options)
            why.append(np.asarray(bits))
            current = self.moved(step, current, counts[-1])
        return np.stack(counts), np.stack(why)


def random_rules(rng: np.random.Generator) -> ScalingRules:
    policies = [
        (
            ("Pods", "Percent")[rng.integers(2)],
            int(rng.choice([1, 2, 4, 5, 10, 13, 33, 50, 100, 1000])),
            period,
        )
        for period in rng.choice([1, 7, 15, 30, 60, 90, 300, 1800], rng.integers(1, 5)).tolist()
    ]
    select = ("Max", "Max", "Min", "Disabled")[rng.integers(4)]
    return rules(*policies, window=float(rng.choice([0, 0, 15, 60, 100, 300, 3600])), select=select)


def random_history(seed: int, n: int = 40, steps: int = 60) -> History:
    rng = np.random.default_rng(seed)
    mixed = [Behavior(random_rules(rng), random_rules(rng)) for _ in range(n)]
    behaviors: list[Behavior | None] = [(None, DEFAULT)[rng.integers(2)] if rng.random() < 0.2 else b for b in mixed]
    low = rng.choice([0, 1, 1, 5], n).astype(float)
    high = low + rng.choice([1, 10, 100, 1000], n)
    interval = rng.choice([5.0, 15.0, 30.0], n)
    gaps = rng.choice([0.5, 0.75, 1.0, 1.0, 1.0, 1.5, 4.0, 20.0], (steps, n)) * interval
    level = rng.uniform(0, 1.2 * high, n) + np.cumsum(rng.normal(0, 0.1, (steps, n)) * high, axis=0)
    desired = np.floor(np.clip(level, 0, None))
    desired[rng.random((steps, n)) < 0.07] = NAN
    foreign = np.where(rng.random((steps, n)) < 0.05, np.floor(rng.uniform(0, high + 3, (steps, n))), NAN)
    return History(
        behaviors=behaviors,
        low=low,
        high=high,
        interval=interval,
        start=np.floor(rng.uniform(0, high + 2)),
        time=1.7e9 + np.cumsum(gaps, axis=0) + rng.integers(0, 1000, n),
        desired=desired,
        lands=rng.random((steps, n)) < 0.9,
        foreign=foreign,
    )


def check_against_controller(history: History) -> set[str]:
    """Hold every row to a controller of its own; return the reasons that occurred."""
    counts, bits = history.decided()
    seen: set[str] = set()
    for row, chosen in enumerate(history.behaviors):
        controller = oracle.Controller(chosen or IMMEDIATE, int(history.low[row]), int(history.high[row]))
        current = int(history.start[row])
        for step, now in enumerate(history.time[:, row]):
            want = history.desired[step, row]
            replicas, why = controller.reconcile(now, current, None if np.isnan(want) else int(want))
            found = (int(counts[step, row]), reasons(bits[step, row]))
            assert found == (replicas, why), f"row {row}, step {step}: {current} -> {want}, {chosen}"
            seen |= why
            if replicas != current and history.lands[step, row]:
                controller.rescaled(now, current, replicas)
            after = np.where(np.arange(len(history.start)) == row, float(current), 0.0)
            current = int(history.moved(step, after, counts[step])[row])
    return seen


@settings(deadline=None, derandomize=True, max_examples=12)
@given(st.integers(0, 2**32 - 1))
def test_many_rows_decide_as_one_controller_each(seed: int) -> None:
    check_against_controller(random_history(seed))


def test_random_histories_meet_every_reason() -> None:
    assert check_against_controller(random_history(1)) == {UP, DOWN, LIMIT_UP, LIMIT_DOWN, FEW, MANY, OFF}


POLICY = st.builds(
    ScalingPolicy, st.sampled_from(["Pods", "Percent"]), st.integers(1, 300), st.integers(1, 1800).map(float)
)
RULES = st.builds(
    ScalingRules,
    st.one_of(st.just(0.0), st.integers(0, 3600).map(float)),
    st.sampled_from(["Max", "Min", "Disabled"]),
    st.lists(POLICY, max_size=4).map(tuple),
)
STEP = st.tuples(
    st.integers(15, 400),
    st.one_of(st.none(), st.integers(0, 60)),
    st.booleans(),
    st.one_of(st.none(), st.none(), st.integers(0, 60)),
)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    st.builds(Behavior, RULES, RULES), st.integers(0, 5), st.integers(1, 50), st.integers(0, 60),
    st.lists(STEP, min_size=30, max_size=50),
)  # fmt: skip
def test_any_row_decides_as_a_controller(
    chosen: Behavior, low: int, span: int, start: int, steps: list[tuple[int, int | None, bool, int | None]]
) -> None:
    gaps, desired, lands, foreign = (np.array(column, float)[:, None] for column in zip(*steps, strict=True))
    history = History(
        behaviors=[chosen],
        low=np.array([low]),
        high=np.array([low + span]),
        interval=np.array([30.0]),
        start=np.array([float(start)]),
        time=np.cumsum(gaps, axis=0),
        desired=desired,
        lands=lands.astype(bool),
        foreign=foreign,
    )
    check_against_controller(history)


WIDEST = Behavior(rules(("Pods", 1, 1800), window=3600), rules(("Percent", 1, 1800), ("Pods", 1, 5), window=3600))


def with_neighbour(options: State, memory: State, chosen: Behavior | None) -> tuple[State, State]:
    """Return settings and memory with one more row."""
    joined = compiled([chosen], interval=4.0)
    for name, array in options.items():
        other = joined[name]
        if array.ndim == 2:
            width = max(array.shape[1], other.shape[1])
            array, other = (np.pad(a, [(0, 0), (0, width - a.shape[1])]) for a in (array, other))
        joined[name] = np.concatenate([array, other])
    memory = behavior.resized(memory, joined)
    fresh = behavior.state(joined, 1)
    return joined, {name: np.concatenate([memory[name], fresh[name]]) for name in memory}


@settings(deadline=None, derandomize=True, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_neighbours_that_come_and_go_change_no_decision(seed: int) -> None:
    history = random_history(seed, n=12)
    expected = history.decided()
    options = history.settings()
    memory, current = behavior.state(options, 12), history.start
    widths = set()
    for step, now in enumerate(history.time):
        if step in (10, 40):
            options, memory = with_neighbour(options, memory, WIDEST if step == 10 else None)
            current = np.append(current, 7.0)
        if step in (25, 50):
            options = {k: v[:12] for k, v in options.items()}
            memory = behavior.resized({k: v[:12] for k, v in memory.items()}, options)
            current = current[:12]
        extra = len(current) - 12
        times, desired = (np.append(a, [a[0]] * extra) for a in (now, history.desired[step]))
        replicas, bits, memory = behavior.apply(np, options, memory, times, current, desired)
        np.testing.assert_array_equal(replicas[:12], expected[0][step], f"replicas at step {step}")
        np.testing.assert_array_equal(bits[:12], expected[1][step], f"reasons at step {step}")
        current = np.append(history.moved(step, current[:12], replicas[:12]), replicas[12:])
        widths.add((memory["recommended_time"].shape[1], memory["scaled_time"].shape[2]))
    assert len(widths) > 1, "the neighbour never made the memory wider, so nothing was shown"


@settings(deadline=None, derandomize=True, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_changed_settings_mean_the_same_in_any_company(seed: int) -> None:
    """Windows, periods, the interval of a live workload change; it decides the same alone or not."""
    first, second = random_history(seed, n=8), random_history(seed + 1, n=8)
    for history in (first, second):
        history.low, history.high, history.start = np.ones(8), np.full(8, 50.0), np.full(8, 20.0)
        history.desired = np.where(np.isnan(first.desired), NAN, np.round(first.desired % 60))
        history.time, history.lands, history.foreign = first.time, first.lands, first.foreign

    def decided(rows: slice) -> np.ndarray:
        before, after = ({k: v[rows] for k, v in h.settings().items()} for h in (first, second))
        options, memory = before, behavior.state(before, len(first.start[rows]))
        current, counts = first.start, []
        for step, now in enumerate(first.time):
            if step == 30:
                options, memory = after, behavior.resized(memory, after)
            part = (now[rows], current[rows], first.desired[step, rows])
            replicas, _, memory = behavior.apply(np, options, memory, *part)
            counts.append(replicas)
            whole = current.copy()
            whole[rows] = replicas
            current = first.moved(step, current, whole)
        return np.stack(counts)

    together = decided(slice(None))
    for row in range(8):
        alone = decided(slice(row, row + 1))
        np.testing.assert_array_equal(alone[:, 0], together[:, row], f"row {row}")


def test_a_wider_memory_keeps_what_it_holds() -> None:
    options, wide = compiled([DEFAULT], interval=15.0), compiled([WIDEST], interval=5.0)
    memory = behavior.state(options, 1)
    for time in range(0, 1500, 15):
        _, _, memory = behavior.apply(np, options, memory, *(np.array([float(x)]) for x in (time, 9, 9 - time % 4)))
    held = memory["recommended_time"][memory["recommended_time"] > 1200].tolist()
    memory = behavior.resized(memory, wide) | {"other": np.array([3])}
    assert memory["recommended_time"].shape[1] > 1000
    assert set(held) <= set(memory["recommended_time"].ravel().tolist())
    memory = behavior.resized(memory, options)
    assert memory["recommended_time"].shape == behavior.state(options, 1)["recommended_time"].shape
    assert sorted(held) == sorted(memory["recommended_time"][memory["recommended_time"] > 1200].tolist())
    assert memory["other"].tolist() == [3], "keys of others are kept"


def test_no_workloads_need_no_special_case() -> None:
    options = compiled([])
    memory = behavior.resized(behavior.state(options, 0), options)
    replicas, bits, memory = behavior.apply(np, options, memory, *(np.zeros(0) for _ in range(3)))
    assert replicas.shape == bits.shape == memory["recommended_slot"].shape == (0,)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 50)), min_size=30, max_size=200))
def test_decisions_closer_than_half_an_interval_look_back_that_much_further(
    steps: list[tuple[int, int]],
) -> None:
    """A window of 60 s at an interval of 15 s then acts like one of 60 s up to 67.5 s."""
    options = compiled([Behavior(FREE, rules(window=60))])
    memory, now = behavior.state(options, 1), 0.0
    shorter, longer = (oracle.Controller(Behavior(FREE, rules(window=window)), 1, 100) for window in (60.0, 67.5))
    for gap, desired in steps:
        now += gap
        arguments = (np.array([x]) for x in (now, 100.0, float(desired)))
        replicas, _, memory = behavior.apply(np, options, memory, *arguments)
        least, most = (c.reconcile(now, 100, desired)[0] for c in (shorter, longer))
        assert least <= replicas[0] <= most, f"at {now} s"


def test_events_closer_than_half_an_interval_are_all_counted() -> None:
    options = compiled([Behavior(rules(("Pods", 10, 60)), FREE)])
    memory, current = behavior.state(options, 1), 10.0
    for now in range(30):
        arguments = (np.array([float(x)]) for x in (now, current, current + 1))
        replicas, _, memory = behavior.apply(np, options, memory, *arguments)
        current = float(replicas[0])
    assert current == 20.0


def run(options: State, memory: State, steps: list[tuple[float, float, float]]) -> tuple[list[float], State]:
    """Return the replicas of row 0 at each (time, current, desired), given to all rows, and the memory."""
    counts = []
    for step in steps:
        arguments = (np.full(len(options["interval"]), x) for x in step)
        replicas, _, memory = behavior.apply(np, options, memory, *arguments)
        counts.append(float(replicas[0]))
    return counts, memory


@pytest.mark.parametrize("neighbours", [[], [WIDEST]], ids=["alone", "beside a wide row"])
def test_a_longer_interval_keeps_the_newest_recommendations(neighbours: list[Behavior]) -> None:
    before, after = (compiled([DEFAULT, *neighbours], interval=interval) for interval in (5.0, 30.0))
    climb = [(5.0 * i, 2.0 if i < 30 else 9.0, 2.0 if i < 30 else 9.0) for i in range(40)]
    _, memory = run(before, behavior.state(before, len(neighbours) + 1), climb)
    late = [(230, 9, 2), (494, 9, 2), (495, 9, 2)]
    counts, _ = run(after, behavior.resized(memory, after), [(float(t), float(c), float(d)) for t, c, d in late])
    assert counts == [9.0, 9.0, 2.0]


def test_changes_made_without_a_behavior_are_no_events_of_a_later_one() -> None:
    before, after = compiled([None]), compiled([DEFAULT])
    _, memory = run(before, behavior.state(before, 1), [(0, 10, 20)])
    counts, _ = run(after, behavior.resized(memory, after), [(5, 20, 50)])
    assert counts == [40.0]


@pytest.mark.parametrize("neighbours", [[], [WIDEST]], ids=["alone", "beside a wide row"])
def test_a_longer_interval_keeps_the_newest_events_that_fit(neighbours: list[Behavior]) -> None:
    """Of 20 events 5 s apart 13 fit at an interval of 30 s and a period of 150 s; more join the newest."""
    before = compiled([Behavior(rules(("Pods", 999, 100)), FREE), *neighbours], interval=5.0)
    after = compiled([Behavior(rules(("Pods", 15, 150)), FREE), *neighbours], interval=30.0)
    climb = [(5.0 * i, 10.0 + i, 11.0 + i) for i in range(20)]
    _, memory = run(before, behavior.state(before, len(neighbours) + 1), climb)
    _, memory = run(before, memory, [(100, 30, 30)])
    counts, _ = run(after, behavior.resized(memory, after), [(130, 30, 99), (145, 32, 99), (160, 32, 99)])
    assert counts == [32.0, 32.0, 32.0]


def test_torch_decides_the_same() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    import array_api_compat.torch as xp

    for seed in (3, 4):
        history = random_history(seed, n=24)
        for mine, theirs in zip(history.decided(xp), history.decided(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    options, wide = ({k: xp.asarray(v) for k, v in compiled([b, b], interval=5).items()} for b in (None, WIDEST))
    memory = behavior.resized(behavior.resized(behavior.state(options, 2), wide), options)
    assert memory["recommended_time"].shape == (2, 3)
