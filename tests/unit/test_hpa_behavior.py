"""HPA v2 `behavior`: named cases, and equality with a plain restatement of the controller."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpa_oracle as oracle
from behavior_history import FREE, NAN, History, compiled, random_history, rules
from rlscaler import behavior
from rlscaler.behavior import DEFAULT, IMMEDIATE, Behavior, ScalingPolicy, ScalingRules
from rlscaler.reasons import names

UP, DOWN, LIMIT_UP, LIMIT_DOWN, FEW, MANY, OFF = (
    "ScaleUpStabilized", "ScaleDownStabilized", "ScaleUpLimit", "ScaleDownLimit", "TooFewReplicas",
    "TooManyReplicas", "ScalingDisabled",
)  # fmt: skip


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


def test_torch_decides_the_same() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    import array_api_compat.torch as xp

    for seed in (3, 4):
        history = random_history(seed, n=24)
        for mine, theirs in zip(history.decided(xp), history.decided(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
