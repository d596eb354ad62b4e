"""The rules that policies must beat: what each does in named cases, and what all of them hold to."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.policy import Policy
from rlscaler.reasons import Reason
from rlscaler.rules.erlang import Erlang
from rlscaler.rules.keda import Keda
from rlscaler.rules.kpa import Kpa
from rlscaler.rules.lcp import Lcp
from rlscaler.rules.mpc import Mpc
from rlscaler.rules.parameters import Parameter
from rlscaler.rules.phpa import Phpa
from rlscaler.rules.simple import Churn, Constant, Random, Static, Threshold, hashed
from views import NAN, make_view, random_views, run

RULES: dict[str, Any] = {
    "static": Static,
    "constant": Constant,
    "churn": Churn,
    "random": Random,
    "threshold": Threshold,
    "keda": Keda,
    "kpa": Kpa,
    "phpa": Phpa,
    "erlang": Erlang,
    "mpc": Mpc,
    "lcp": Lcp,
}
READ_LOAD = ("threshold", "keda", "kpa", "phpa", "erlang", "mpc", "lcp")


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_a_named_policy_with_documented_parameters(name: str) -> None:
    rule = RULES[name]()
    assert isinstance(RULES[name](), Policy), "not of the protocol"
    assert rule.name == name
    for key, parameter in rule.PARAMETERS.items():
        assert isinstance(parameter, Parameter)
        assert getattr(rule, key) == parameter.default, f"{key} does not start at its default"
        assert parameter.meaning


def test_parameter_refuses_a_default_outside_its_range() -> None:
    with pytest.raises(ValueError, match="low <= default <= high"):
        Parameter(2.0, 0.0, 1.0, False, "share")
    with pytest.raises(ValueError, match="logarithmic"):
        Parameter(0.5, 0.0, 1.0, True, "share")


@pytest.mark.parametrize(
    ("bad", "message"), [(NAN, "keda: target is nan"), (np.ones((2, 2)), "keda: target has shape")]
)
def test_a_parameter_that_is_no_number_is_named(bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Keda(target=bad)


@pytest.mark.parametrize("name", READ_LOAD)
def test_unknown_load_gives_no_answer_and_changes_no_state(name: str) -> None:
    rule = RULES[name]()
    state = rule.state(2)
    _, state = rule.propose(make_view(n=2, load=100, backlog=5, ready=10), state)
    proposal, after = rule.propose(make_view(n=2, load=[NAN, 120], ready=[10, 10], time=15), state)
    assert np.isnan(proposal.replicas[0])
    assert np.isfinite(proposal.replicas[1])
    for key, value in after.items():
        np.testing.assert_array_equal(value[0], state[key][0], err_msg=f"{key} moved on an unknown load")


@pytest.mark.parametrize("name", READ_LOAD)
def test_no_load_asks_for_no_negative_zero(name: str) -> None:
    views = [make_view(load=0, backlog=0, current=1, ready=1, min_replicas=0, time=15.0 * i) for i in range(8)]
    assert not np.signbit(run(RULES[name](), views)).any()


@pytest.mark.parametrize("name", ["keda", "kpa", "phpa", "erlang", "mpc", "lcp"])
def test_unknown_capacity_gives_no_answer(name: str) -> None:
    view = make_view(load=100, capacity_per_replica=NAN)
    assert np.isnan(run(RULES[name](), [view])).all()


@pytest.mark.parametrize("name", ["static", "constant", "churn", "random"])
def test_rules_that_look_at_nothing_answer_without_metrics(name: str) -> None:
    assert np.isfinite(run(RULES[name](), [make_view(load=NAN)])).all()


@pytest.mark.parametrize("name", RULES)
def test_rows_are_independent(name: str) -> None:
    rule, n, steps = RULES[name](), 7, 12
    together = run(rule, random_views(np, 1, steps, n))
    for row in range(n):
        state = {key: value[row : row + 1] for key, value in rule.state(n).items()}
        alone = run(rule, random_views(np, 1, steps, n, slice(row, row + 1)), state)
        np.testing.assert_array_equal(alone[:, 0], together[:, row], err_msg=f"row {row}")


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.PARAMETERS])
def test_an_array_of_parameters_is_one_candidate_for_each_row(name: str) -> None:
    n, rng = 5, np.random.default_rng(3)
    candidates = {k: rng.uniform(p.low, p.high, n) for k, p in RULES[name].PARAMETERS.items()}
    views = random_views(np, 2, 8, n)
    rule = RULES[name](**candidates)
    together = run(rule, views)
    for row in range(n):
        single = RULES[name](**{k: v[row] for k, v in candidates.items()})
        alone = run(single, views, rule.state(n))
        np.testing.assert_array_equal(alone[:, row], together[:, row], err_msg=f"candidate {row}")


@pytest.mark.parametrize("name", RULES)
def test_answers_do_not_depend_on_the_unit_of_a_request(name: str) -> None:
    rng = np.random.default_rng(5)
    load, backlog, current = rng.gamma(2, 60, 9), rng.gamma(0.5, 30, 9), np.round(rng.uniform(1, 40, 9))
    scale, answers = 16.0, []
    for k in (1.0, scale):
        # A queue knows the length of a service: with k times the capacity its clock runs k times faster.
        rule = Erlang(window=15.0 / k) if name == "erlang" else RULES[name]()
        latency = 0.5 / k if name == "erlang" else 0.5
        view = make_view(n=9, load=k * load, backlog=k * backlog, current=current, ready=current,
                         capacity_per_replica=10 * k, latency=latency)  # fmt: skip
        answers.append(run(rule, [view]))
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_torch_gives_the_same_answers(name: str) -> None:
    pytest.importorskip("torch")
    import array_api_compat.torch as xp

    rule = RULES[name]()
    ours = run(rule, random_views(np, 11, 10, 33))
    theirs = run(rule, random_views(xp, 11, 10, 33))
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    name=st.sampled_from(READ_LOAD),
    loads=st.tuples(st.floats(0, 3e4), st.floats(0, 3e4)),
    current=st.integers(1, 2000),
    startup=st.floats(0, 600),
    noise=st.floats(0, 1),
)
def test_more_load_never_means_fewer_replicas(
    name: str, loads: tuple[float, float], current: int, startup: float, noise: float
) -> None:
    less, more = sorted(loads)
    view = make_view(n=2, load=[less, more], current=current, ready=current, startup=startup,
                     max_replicas=10_000, noise_5m=noise, noise_1h=noise)  # fmt: skip
    answer = run(RULES[name](), [view])[0]
    assert answer[0] <= answer[1] + 1e-9 * answer[1]


@pytest.mark.parametrize("name", ["erlang", "mpc", "lcp"])
def test_a_stricter_objective_never_lowers_replicas(name: str) -> None:
    prices = np.geomspace(0.2, 2000, 40)
    answer = run(RULES[name](), [make_view(n=40, load=170, current=20, price=prices)])[0]
    assert (np.diff(answer) >= 0).all()
    assert answer[-1] > answer[0], "the price has no effect"


def test_static_and_constant_stay() -> None:
    views = [make_view(load=load, current=c) for load, c in ((10, 7), (900, 30), (NAN, 2))]
    np.testing.assert_array_equal(run(Static(replicas=4), views)[:, 0], [4, 4, 4])
    np.testing.assert_array_equal(run(Constant(), views)[:, 0], [7, 7, 7])


def test_constant_waits_for_the_first_known_count() -> None:
    np.testing.assert_array_equal(run(Constant(), [make_view(current=c) for c in (NAN, 5, 9)])[:, 0], [NAN, 5, 5])


def test_churn_alternates_without_looking() -> None:
    np.testing.assert_array_equal(run(Churn(), [make_view(load=NAN, current=10)] * 4)[:, 0], [9, 11, 9, 11])
    assert run(Churn(), [make_view(current=0)])[0, 0] == 0


def test_random_steps_are_uniform_independent_and_repeatable() -> None:
    views = [make_view(n=3000, load=NAN, current=10)] * 12
    steps = run(Random(size=2, seed=1), views) - 10
    np.testing.assert_array_equal(run(Random(size=2, seed=1), views) - 10, steps)
    assert (steps != run(Random(size=2, seed=2), views) - 10).mean() > 0.6
    shares = [(steps == change).mean() for change in (-2, 0, 2)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)
    assert abs(np.corrcoef(steps[:-1].ravel(), steps[1:].ravel())[0, 1]) < 0.02, "successive steps hang together"
    assert abs(np.corrcoef(steps[:, :-1].ravel(), steps[:, 1:].ravel())[0, 1]) < 0.02, "rows hang together"


def test_random_takes_a_seed_for_each_row() -> None:
    views = [make_view(n=2, current=10)] * 20
    alike = run(Random(seed=np.array([5, 5])), views)
    np.testing.assert_array_equal(alike[:, 0], alike[:, 1])
    with pytest.raises(ValueError, match="seed has shape"):
        Random(seed=np.array([5, 5])).state(3)


def test_the_hash_equals_its_definition_in_whole_numbers() -> None:
    def mixed(word: int) -> int:
        word &= 0xFFFFFFFF
        word = ((word ^ (word >> 16)) * 0x7FEB352D) % 2**32
        word = ((word ^ (word >> 15)) * 0x846CA68B) % 2**32
        return word ^ (word >> 16)

    seeds, counters = np.arange(0, 2**33, 2**33 // 99), np.arange(100) ** 5
    expected = [mixed(mixed(int(s) + 0x9E3779B9) + int(c)) for s, c in zip(seeds, counters, strict=True)]
    assert hashed(seeds, counters).tolist() == expected


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param({"load": 90, "ready": 10}, 12, id="above-high-adds-a-fifth"),
        pytest.param({"load": 60, "ready": 10}, 10, id="between-keeps"),
        pytest.param({"load": 30, "ready": 10}, 8, id="below-low-removes-a-fifth"),
        pytest.param({"load": 30, "ready": 10, "current": 3}, 2, id="at-least-one-replica"),
        pytest.param({"load": 30, "ready": 10, "current": 19}, 16, id="a-step-is-rounded-down"),
        pytest.param({"load": 60, "ready": 5}, 12, id="ready-counts-not-current"),
        pytest.param({"load": 90}, 12, id="ready-unknown-takes-current"),
        pytest.param({"load": 60, "ready": 10, "utilization": 0.95}, 12, id="measured-utilisation-wins"),
        pytest.param({"load": NAN, "ready": 10, "utilization": 0.95}, 12, id="utilisation-alone-is-enough"),
        pytest.param({"load": 5, "ready": 0}, 12, id="nothing-ready-is-overload"),
        pytest.param({"load": 0, "ready": 0}, 8, id="no-load-no-ready"),
        pytest.param({"load": 1000, "ready": 10, "current": 95}, 100, id="bounded-by-max"),
        pytest.param({"load": 0, "ready": 1, "current": 1}, 1, id="bounded-by-min"),
    ],
)
def test_threshold_cases(readings: dict[str, Any], expected: float) -> None:
    assert run(Threshold(step=0.2), [make_view(**readings)])[0, 0] == expected


def test_threshold_waits_out_its_cooldown() -> None:
    views = [make_view(load=90, ready=10, time=time) for time in (0, 15, 45, 60, 75)]
    np.testing.assert_array_equal(run(Threshold(cooldown=60), views)[:, 0], [11, 10, 10, 11, 10])


def test_threshold_at_a_bound_starts_no_cooldown() -> None:
    views = [make_view(load=2000, current=100, time=0), make_view(load=100, current=100, time=15)]
    np.testing.assert_array_equal(run(Threshold(cooldown=600), views)[:, 0], [100, 90])


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param({"load": 140}, 20, id="rate-over-threshold"),
        pytest.param({"load": 141}, 21, id="rounded-up"),
        pytest.param({"load": 140, "backlog": 1600}, 32, id="backlog-wins"),
        pytest.param({"load": 140, "backlog": 100}, 20, id="rate-wins"),
        pytest.param({"load": 77, "current": 10}, 10, id="upper-edge-of-the-tolerance"),
        pytest.param({"load": 78, "current": 10}, 12, id="above-the-tolerance"),
        pytest.param({"load": 63, "current": 10}, 10, id="lower-edge-of-the-tolerance"),
        pytest.param({"load": 62, "current": 10}, 9, id="below-the-tolerance"),
        pytest.param({"load": 62, "current": 10, "backlog": 480}, 10, id="one-metric-within-holds"),
        pytest.param({"load": 0, "current": 4}, 1, id="hpa-never-below-one"),
        pytest.param({"load": 0, "current": 0, "min_replicas": 0}, 0, id="asleep"),
        pytest.param({"load": 500, "current": 0, "min_replicas": 0}, 1, id="zero-to-one-first"),
        pytest.param({"load": 0, "backlog": 1, "current": 0, "min_replicas": 0}, 1, id="a-backlog-wakes"),
        pytest.param({"load": 0, "current": 3, "min_replicas": 0}, 0, id="never-active-goes-to-zero"),
    ],
)
def test_keda_cases(readings: dict[str, Any], expected: float) -> None:
    assert run(Keda(target=0.7, wait=5, tolerance=0.1), [make_view(**readings)])[0, 0] == expected


def test_keda_says_why_it_holds_and_asks_for_stabilisation() -> None:
    proposal, _ = Keda(hold=120).propose(make_view(n=2, load=[72, 140], current=10), Keda().state(2))
    assert proposal.reasons is not None
    assert proposal.reasons.tolist() == [int(Reason.WithinTolerance), 0]
    np.testing.assert_array_equal(proposal.patience, 105, err_msg="as old as the window is forgotten")
    assert proposal.tolerated is not None
    assert proposal.tolerated.all()


def test_keda_goes_to_zero_after_the_cooldown_since_it_was_last_seen_active() -> None:
    loads = {0: 50, 30: 50, 45: 0, 60: 0, 300: 0, 330: 0, 345: 0}
    views = [make_view(load=load, current=5, min_replicas=0, time=time) for time, load in loads.items()]
    expected = [5, 5, 1, 1, 1, 1, 0]  # last seen active at 30, so 330 is not yet longer than 300 s ago
    loads_in_tolerance = Keda(target=1.0, cooldown=300, polling=30)
    np.testing.assert_array_equal(run(loads_in_tolerance, views)[:, 0], expected)


def test_keda_looks_at_activity_only_when_it_polls() -> None:
    loads = {0: 0, 15: 50, 30: 50}
    views = [make_view(load=load, current=0, min_replicas=0, time=time) for time, load in loads.items()]
    np.testing.assert_array_equal(run(Keda(polling=30), views)[:, 0], [0, 0, 1])


def test_keda_activation_is_strictly_above() -> None:
    views = [make_view(load=load, current=0, min_replicas=0, time=60 * i) for i, load in enumerate((5, 5.01))]
    np.testing.assert_array_equal(run(Keda(activation=0.5), views)[:, 0], [0, 1])


@pytest.mark.parametrize(
    ("options", "readings", "expected"),
    [
        pytest.param({}, {"load": 0}, 0, id="no-load-no-replica"),
        pytest.param({"late": 0.01}, {"load": 100}, 12, id="standard-world"),
        pytest.param({"late": 0.01}, {"load": 100, "latency": 0.01}, 19, id="any-wait-is-late"),
        pytest.param({"late": 0.01, "growth": 1.0}, {"load": 50}, 12, id="growth-doubles-the-rate"),
        pytest.param({"late": 0.01, "confidence": 4.5, "fano": 6, "window": 6}, {"load": 64}, 12, id="confidence"),
        pytest.param({"late": 0.01, "drain": 10.0}, {"load": 50, "backlog": 500}, 12, id="backlog-adds-demand"),
    ],
)
def test_erlang_cases(options: dict[str, Any], readings: dict[str, Any], expected: float) -> None:
    rule = Erlang(**{"confidence": 0.0, "growth": 0.0, **options})
    assert run(rule, [make_view(**readings)])[0, 0] == expected
