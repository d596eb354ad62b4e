"""An exported network decides as its network in torch, on single situations and along whole episodes."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import nn

from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler.observation import HIGH, LOW
from rlscaler.policies import from_artifact
from rlscaler_training import agreement, episodes, finishing, loads, verifying
from rlscaler_training.agreement import Agreement
from served_artifacts import PROVENANCE, branching, network, table

KINDS: dict[str, Callable[[], Artifact]] = {
    "choices": network,
    "a correction": lambda: network("correction"),
    "two branches": lambda: network(actions="branching", activation="tanh"),
    "branching": branching,
}
EPISODE = 12
"""Decisions of an episode in these tests."""


@lru_cache(maxsize=1)
def pools() -> loads.Pools:
    return loads.pools(("spike",), None, 1.0, 7)


def made_of(make: Callable[[], Artifact]) -> Artifact:
    """Return an artifact without a training range, as a file that any situation is answered by."""
    artifact = make()
    return finishing.changed(artifact, training_range={}, provenance=PROVENANCE | {"validated_on": ["spike"]})


def reversed_(net: nn.Module) -> nn.Module:
    """Return the network with the sign of what it says last turned."""
    last = [each for each in net.modules() if isinstance(each, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.neg_()
        last.bias.neg_()
    return net


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_the_network_of_an_artifact_answers_as_numpy_does(make: Callable[[], Artifact]) -> None:
    policy = from_artifact(made_of(make))
    net = episodes.network(policy)
    assert net is not None
    seen = np.random.default_rng(0).uniform(LOW, HIGH, (300, len(LOW))).astype(np.float32)
    columns, answered = (getattr(policy, name) for name in ("columns", "network"))
    ours = answered(np, seen[:, columns])
    np.testing.assert_allclose(episodes.asked(net, seen), ours, rtol=1e-4, atol=1e-5)
    found = episodes.sampled(made_of(make))
    assert found is not None
    assert (found.rows, found.agree) == (100_000, True)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_they_decide_alike_along_whole_episodes(make: Callable[[], Artifact]) -> None:
    """Every decision of every validation environment is compared; a network that differs is found."""
    artifact = made_of(make)
    found = episodes.agreed(pools(), artifact, EPISODE, 7)
    assert found is not None
    assert (found.rows, found.different) == (EPISODE * loads.VALIDATION_ENVS, 0)
    policy = from_artifact(artifact)
    net = episodes.network(policy)
    assert net is not None
    _, _, judge = loads.batches(pools(), artifact.manifest["action_scheme"], 1, EPISODE, 7)
    assert episodes.along(policy, reversed_(net), judge, EPISODE, 9).different > 0


def test_what_has_no_network_is_not_compared() -> None:
    assert episodes.agreed(pools(), table(), EPISODE, 7) is None
    assert episodes.sampled(table()) is None
    assert finishing.agreed(pools(), table(), 7) == {}


THEIRS = np.array([[1.0, 0.0, 0.5], [1.0, 1.0 + 1e-6, 0.0], [0.0, 1.0, 0.9]])
COMPARED: dict[str, tuple[list[list[float]], list[bool], tuple[int, int]]] = {
    "the same": ([[1.0, 0.0, 0.5], [1.0, 1.0 + 1e-6, 0.0], [0.0, 1.0, 0.9]], [True] * 3, (0, 0)),
    "a tie goes either way": ([[1.0, 0.0, 0.5], [1.0 + 1e-6, 1.0, 0.0], [0.0, 1.0, 0.9]], [True] * 3, (1, 0)),
    "another choice": ([[1.0, 0.0, 0.5], [1.0, 1.0 + 1e-6, 0.0], [0.0, 0.9, 1.0]], [True] * 3, (0, 1)),
    "one that is not allowed": ([[1.0, 9.0, 0.5], [1.0, 9.0, 0.0], [0.0, 1.0, 0.9]], [True, False, True], (0, 0)),
}


@pytest.mark.parametrize(("ours", "mask", "expected"), COMPARED.values(), ids=COMPARED)
def test_ties_are_told_from_differences(ours: list[list[float]], mask: list[bool], expected: tuple[int, int]) -> None:
    """(ties, differences) among the rows of THEIRS."""
    found = agreement.compared(np.array(ours), THEIRS, (3,), np.tile(mask, (len(THEIRS), 1)))
    assert (found.ties, found.different) == expected


def test_corrections_are_compared_by_the_headroom_that_they_come_to() -> None:
    """Rounded to 0.02; on either side of the middle between two multiples is a tie within the margin."""
    theirs = np.array([0.10, 0.109_999, 0.113])
    assert agreement.rounded(theirs, theirs, np.zeros(3), 0.02) == Agreement(3, 0, 0, 0.0)
    found = agreement.rounded(theirs + np.array([0.0, 2e-6, -0.004]), theirs, np.zeros(3), 0.02)
    assert (found.rows, found.ties, found.different) == (3, 1, 1)
    assert found.and_(found) == Agreement(6, 2, 2, found.largest)


def test_a_network_that_lives_otherwise_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that does not has it in its manifest."""
    monkeypatch.setattr(finishing, "EPISODE", EPISODE)
    artifact = made_of(network)
    told = finishing.agreed(pools(), artifact, 7)["export"]
    assert told["observations"] == 100_000
    assert told["episodes"]["decisions"] == EPISODE * loads.VALIDATION_ENVS
    plain = episodes.network
    monkeypatch.setattr(episodes, "network", lambda policy: reversed_(plain(policy)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not decide as the trained one along episodes: "):
        finishing.agreed(pools(), artifact, 7)


def test_verify_compares_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On observations alone where the load is not wanted or cannot be had; along episodes where it can."""
    monkeypatch.setattr(finishing, "EPISODE", EPISODE)
    whole = verifying.agreeing(made_of(network), None, along=True)
    assert whole.passed, whole.told
    assert "100,000 observations" in whole.told
    assert f"{EPISODE * loads.VALIDATION_ENVS} decisions of whole episodes" in whole.told
    assert verifying.agreeing(made_of(network), None, along=False).told.endswith("; not along episodes")
    foreign = finishing.changed(made_of(network), provenance={})
    assert "the manifest does not say on which load" in verifying.agreeing(foreign, None, along=True).told
