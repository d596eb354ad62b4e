"""What `behavior` remembers, while rows come and go, settings change, and decisions come off their grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpa_oracle as oracle
from behavior_history import FREE, NAN, compiled, random_history, rules
from rlscaler import behavior
from rlscaler.arrays import State
from rlscaler.behavior import DEFAULT, Behavior

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


def test_a_long_window_at_a_short_interval_takes_bounded_memory_and_looks_back_a_little_further() -> None:
    options = compiled([Behavior(FREE, rules(("Pods", 1, 1800), window=3600))], interval=1.0)
    memory = behavior.state(options, 1)
    assert memory["recommended_time"].shape[1] == behavior.MOST_SLOTS + 3
    assert memory["scaled_time"].shape[2] == behavior.MOST_EVENTS + 3
    falls = [(float(now), 50.0, 50.0 if now < 100 else 10.0) for now in range(3800)]
    counts, _ = run(options, memory, falls)
    assert 99 + 3600 <= counts.index(49.0) <= 99 + 3600 + 3600 // behavior.MOST_SLOTS


def test_events_closer_than_half_an_interval_are_all_counted() -> None:
    options = compiled([Behavior(rules(("Pods", 10, 60)), FREE)])
    memory, current = behavior.state(options, 1), 10.0
    for now in range(30):
        arguments = (np.array([float(x)]) for x in (now, current, current + 1))
        replicas, _, memory = behavior.apply(np, options, memory, *arguments)
        current = float(replicas[0])
    assert current == 20.0


def test_more_changes_than_are_told_apart_are_all_counted() -> None:
    options = compiled([Behavior(rules(("Pods", 950, 1800)), FREE)], interval=1.0, high=2000)
    memory, current = behavior.state(options, 1), 10.0
    for now in range(1000):
        counts, memory = run(options, memory, [(float(now), current, current + 1)])
        current = counts[0]
    assert current == 960.0


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


@pytest.mark.parametrize("neighbours", [[], [WIDEST]], ids=["alone", "beside a wide row"])
@pytest.mark.parametrize("interval", [30.0, 60.0, 100.0])
def test_a_longer_interval_ends_no_window_early(neighbours: list[Behavior], interval: float) -> None:
    """What was asked for at 100 s holds until 400 s, however few slots are left, and for half an interval at most."""
    before, after = (compiled([DEFAULT, *neighbours], interval=each) for each in (5.0, interval))
    falls = [(5.0 * i, 50.0, 50.0 if i <= 20 else 10.0) for i in range(60)]
    _, memory = run(before, behavior.state(before, len(neighbours) + 1), falls)
    memory = behavior.resized(memory, after)
    for time, count in ((399.0, 50.0), (400.0 + 0.5 * interval, 10.0)):
        counts, _ = run(after, {name: array.copy() for name, array in memory.items()}, [(time, 50.0, 10.0)])
        assert counts == [count], f"at {time} s"


def test_changes_made_without_a_behavior_are_no_events_of_a_later_one() -> None:
    before, after = compiled([None]), compiled([DEFAULT])
    _, memory = run(before, behavior.state(before, 1), [(0, 10, 20)])
    counts, _ = run(after, behavior.resized(memory, after), [(5, 20, 50)])
    assert counts == [40.0]


@pytest.mark.parametrize("neighbours", [[], [WIDEST]], ids=["alone", "beside a wide row"])
def test_a_longer_interval_forgets_no_event_that_counts(neighbours: list[Behavior]) -> None:
    """Of 20 events 5 s apart 13 fit at an interval of 30 s and a period of 150 s: those within 15 s share a slot.

    Then they are forgotten together, by less than half an interval too early: at 190 s HPA would allow 34.
    """
    before = compiled([Behavior(rules(("Pods", 999, 100)), FREE), *neighbours], interval=5.0)
    after = compiled([Behavior(rules(("Pods", 15, 150)), FREE), *neighbours], interval=30.0)
    climb = [(5.0 * i, 10.0 + i, 11.0 + i) for i in range(20)]
    _, memory = run(before, behavior.state(before, len(neighbours) + 1), climb)
    _, memory = run(before, memory, [(100, 30, 30)])
    counts, _ = run(after, behavior.resized(memory, after), [(130, 30, 99), (145, 30, 99), (160, 30, 99)])
    assert counts == [30.0, 30.0, 30.0]
    counts, _ = run(after, behavior.resized(memory, after), [(190, 30, 99)])
    assert counts == [36.0]


def test_a_longer_interval_forgets_no_fall_that_counts() -> None:
    before = compiled([Behavior(FREE, rules(("Pods", 999, 100)))], interval=5.0)
    after = compiled([Behavior(FREE, rules(("Pods", 15, 150)))], interval=30.0)
    _, memory = run(before, behavior.state(before, 1), [(5.0 * i, 60.0 - i, 59.0 - i) for i in range(20)])
    _, memory = run(before, memory, [(100, 40, 40)])
    counts, _ = run(after, behavior.resized(memory, after), [(130, 40, 1), (145, 40, 1), (160, 40, 1)])
    assert counts == [40.0, 40.0, 40.0]


def test_torch_keeps_the_same_memory() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    import array_api_compat.torch as xp

    options, wide = ({k: xp.asarray(v) for k, v in compiled([b, b], interval=5).items()} for b in (None, WIDEST))
    memory = behavior.resized(behavior.resized(behavior.state(options, 2), wide), options)
    assert memory["recommended_time"].shape == (2, 3)
