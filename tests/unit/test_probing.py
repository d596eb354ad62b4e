"""What is found out of a policy without a world: sane ones pass, and each way to be insane is named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscaler import Autoscaler, probing
from rlscaler.artifact import Artifact
from rlscaler.policies import from_artifact, load_policy
from rlscaler.policy import Policy, Proposal, View
from rlscaler.rules.simple import Static
from served_artifacts import branching, network, table

LEARNED = {"table": table, "network": network, "correction": lambda: network("correction"), "branching": branching}
NARROW = {"size": [0.5, 2.5]}


def policy(propose: Callable[[View], Any], patience: Any = None) -> Policy:
    """Return a policy without state that proposes what a function of the view says."""

    class Made:
        name = "made"

        def state(self, n: int) -> dict[str, np.ndarray]:
            return {}

        def propose(self, view: View, state: Any) -> tuple[Proposal, Any]:
            return Proposal(replicas=np.asarray(propose(view), np.float64), patience=patience), state

    return Made()


@pytest.mark.parametrize("name", ["growth-quantile", "hpa", "mpc", "static"])
def test_rules_stay_sane_whatever_they_are_shown(name: str) -> None:
    assert probing.fuzzed(load_policy(name), rows=64).wrong == ()
    assert probing.repeatable(load_policy(name), load_policy(name)) == ""


@pytest.mark.parametrize("made", LEARNED.values(), ids=LEARNED)
def test_learned_policies_stay_sane_whatever_they_learned(made: Callable[[], Artifact]) -> None:
    """Even with random weights: the guard and the schema's bounds see to it."""
    found = probing.fuzzed(from_artifact(made()), rows=64)
    assert found.wrong == ()
    assert (found.decisions, found.fallbacks) == (64 * 24, 0)
    assert probing.repeatable(from_artifact(made()), from_artifact(made())) == ""


def test_what_lies_outside_of_the_training_range_falls_back_to_the_rule() -> None:
    found = probing.fuzzed(from_artifact(network(training_range=NARROW)), rows=64)
    assert found.wrong == ()
    assert 0.3 < found.fallbacks / found.decisions < 0.9


def raising(view: View) -> Any:
    raise ZeroDivisionError("no")


INSANE = {
    "no answer": (lambda view: view.demand * np.nan, "no usable answer to a known load"),
    "infinite": (lambda view: view.demand * 0.0 + np.inf, "no usable answer to a known load"),
    "raises": (raising, "raised ZeroDivisionError: no"),
    "of another shape": (lambda view: np.ones(3), "raised ValueError: the policy proposed"),
}


@pytest.mark.parametrize(("propose", "message"), INSANE.values(), ids=INSANE)
def test_a_policy_that_cannot_answer_is_named(propose: Callable[[View], Any], message: str) -> None:
    with np.errstate(invalid="ignore"):
        found = probing.fuzzed(policy(propose), rows=32)
    assert any(told.startswith(message) for told in found.wrong), found.wrong


@pytest.mark.parametrize("value", [-1e9, 0.0, 1e15])
def test_no_proposal_leads_out_of_the_bounds(value: float) -> None:
    assert probing.fuzzed(policy(lambda view: view.demand * 0.0 + value), rows=32).wrong == ()


def test_a_policy_that_hides_where_it_was_trained_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest states a range, and the policy decides outside of it."""
    served = from_artifact(network(training_range=NARROW))
    honest = type(served).propose

    def careless(self: Any, view: View, state: Any) -> tuple[Proposal, Any]:
        proposal, state = honest(self, view, state)
        proposal.trained = None
        return proposal, state

    monkeypatch.setattr(type(served), "propose", careless)
    (told,) = probing.fuzzed(served, rows=32).wrong
    assert told.startswith("input outside of the training range, and the rule does not decide")


def test_a_guard_that_lets_go_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes hold the guard too: here one that forgets bounds, holding, and the rule."""
    settle = Autoscaler.settle

    def careless(self: Any, view: View, proposal: Proposal, rows: Any = None) -> Any:
        done = settle(self, view, proposal, rows)
        return replace(done, replicas=np.nan_to_num(proposal.replicas, nan=0.0, posinf=9e9).astype(np.int64))

    monkeypatch.setattr(Autoscaler, "settle", careless)
    told = " ".join(probing.fuzzed(load_policy("hpa"), rows=64).wrong)
    for what in ("outside of minReplicas and maxReplicas", "unknown load lowers", "present count is unknown"):
        assert what in told


def neighbourly(view: View) -> Any:
    return np.nan_to_num(view.demand) + np.nan_to_num(view.demand).max()


def counted() -> Callable[[View], Any]:
    calls = iter(range(10**6))
    return lambda view: np.nan_to_num(view.demand) + next(calls)


def test_answers_that_hang_on_others_or_on_chance_are_found() -> None:
    alike = policy(lambda view: np.nan_to_num(view.demand))
    assert probing.repeatable(alike, alike) == ""
    assert "row by row" in probing.repeatable(policy(neighbourly), policy(neighbourly))
    assert "asked twice" in probing.repeatable(policy(counted()), alike)
    other = policy(lambda view: np.nan_to_num(view.demand) + 1.0)
    assert "read anew" in probing.repeatable(alike, other)


def test_fewer_replicas_for_more_load_are_counted() -> None:
    pairs = (len(probing.SITUATIONS) - 2) * (len(probing.STEPS_OF_LOAD) - 1)
    assert probing.monotonic(Static(replicas=7.0)) == (0, pairs)
    assert probing.monotonic(policy(lambda view: 2.0 * view.demand)) == (0, pairs)
    backwards, of = probing.monotonic(policy(lambda view: 4000.0 / (1.0 + view.demand)))
    assert 30 < backwards < of == pairs


def test_situations_are_what_they_say() -> None:
    """A policy that follows the demand shows it; the unknown one is held."""
    found = {each.situation: each for each in probing.probe(policy(lambda view: 1.5 * view.demand))}
    assert found.keys() == probing.SITUATIONS.keys()
    for name, demand in {"steady": 10, "rising": 15, "falling": 8, "jump": 20, "idle": 0, "large": 2000}.items():
        assert found[name].demand == pytest.approx(demand, rel=0.1)
        assert found[name].proposal == pytest.approx(1.5 * (found[name].demand or 0.0), abs=1e-2)
    held = found["unknown"]
    assert (held.demand, held.proposal, held.replicas, held.reasons) == (None, None, 14, ("MetricsUnknown",))
    assert found["overloaded"].rule is not None
    assert found["overloaded"].rule > 30, "the rule drains the backlog"


def test_fields_outside_of_the_training_range_are_named() -> None:
    found = {each.situation: each for each in probing.probe(from_artifact(network(training_range=NARROW)))}
    assert found["steady"].outside == ()
    assert found["large"].outside == ("size",)
    assert "OutOfTrainingRange" in found["large"].reasons
