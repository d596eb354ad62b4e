"""Chunks made in other processes are those made in this one; what dies or is silent is replaced, what is old told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rlscaler.errors import UserError
from rlscaler_training import ray_cluster, rollouts_ray
from rlscaler_training.rollouts import DROPPED, FRESH, MISMATCHED, STALE, Counts, Data, Local, gathered

ray = pytest.importorskip("ray", reason="Ray comes with the extra `distributed`")
pytestmark = [
    # Ray's own processes are still there when their handles are collected
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@dataclass(slots=True)
class Walk:
    """A worker: a random walk, that `weights` is added to at each step; a weight of `sick` has a mistake in it."""

    rng: np.random.Generator
    sick: str = ""
    weights: float = 0.0
    loads: int = 0
    at: float = 0.0

    def load(self, weights: Any) -> None:
        self.weights, self.loads = float(weights[0]), self.loads + 1

    def collect(self) -> Data:
        if self.sick == "mistaken":
            raise UserError("the load has no requests")
        if self.sick == "dying":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.sick == "silent":
            signal.pause()
        steps = self.at + np.cumsum(self.rng.normal(size=100) + self.weights)
        self.at = float(steps[-1])
        return {"steps": steps, "loads": np.array([self.loads])}


@dataclass(frozen=True, slots=True)
class Making:
    """Makes walks. sick: what is wrong with those of a life under `lives`, from the worker `first` on."""

    sick: str = ""
    lives: int = 0
    first: int = 0

    def __call__(self, number: int, life: int) -> Walk:
        sick = life < self.lives and number >= self.first
        return Walk(np.random.default_rng([7, number, life]), self.sick if sick else "")


class Liar(rollouts_ray._Actor):
    """What runs in the other process, when it decides by another version than it is told."""

    def collect(self, version: int, boxed: list[Any]) -> tuple[int, int, Data]:
        _, process, data = super().collect(version, boxed)
        return version + 1, process, data


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Have Ray, once for all tests of this file."""
    # what the other processes unpickle by name is sent to them whole, as they have no tests to import
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_cluster.cluster(2))
        except UserError as error:
            if "timed out" not in str(error):
                raise
            pytest.skip(f"this machine is too busy to start Ray, which gives up on itself after 30 s: {error}")
        yield
    assert not ray.is_initialized(), "Ray ends with the block"


def steps(data: Data) -> np.ndarray:
    return data["steps"]


# --- in this process


def test_local_chunks_follow_on_each_other_and_on_the_newest_weights() -> None:
    with Local(Making(), workers=2) as source:
        assert source.publish([0.0]) == 1
        first = [source.next() for _ in range(4)]
        source.publish([1000.0])
        last = source.next()
    assert [(each.worker, each.number, each.version, each.behind) for each in first] == [
        (0, 0, 1, 0), (1, 0, 1, 0), (0, 1, 1, 0), (1, 1, 1, 0),
    ]  # fmt: skip
    assert [int(each.data["loads"][0]) for each in first] == [1, 1, 1, 1], "weights are loaded once for each version"
    assert steps(last.data)[-1] - steps(first[2].data)[-1] == pytest.approx(100_000, rel=0.01)
    assert source.counts.chunks == 5
    assert source.counts.stale == source.counts.dropped == 0


def test_chunks_need_weights() -> None:
    with pytest.raises(RuntimeError, match="publish some first"):
        Local(Making()).next()


@pytest.mark.parametrize(
    ("asked", "made", "newest", "found"),
    [(5, 5, 5, FRESH), (4, 4, 5, STALE), (2, 2, 5, STALE), (1, 1, 5, DROPPED), (5, 4, 5, MISMATCHED)],
    ids=["newest", "one-behind", "at-the-limit", "beyond-it", "not-what-was-asked-for"],
)
def test_chunks_are_judged_by_their_version(asked: int, made: int, newest: int, found: str) -> None:
    counts = Counts()
    assert counts.judge(asked, made, newest, limit=3) == found
    used = found in (FRESH, STALE)
    assert (counts.chunks, counts.dropped, counts.mismatched) == (used, found == DROPPED, found == MISMATCHED)
    assert counts.staleness == (newest - made if used else 0.0)


# --- on Ray


@pytest.mark.usefixtures("cluster")
def test_chunks_of_other_processes_are_those_of_this_one() -> None:
    """Same seeds and weights, same chunks, to the bit, in each worker's order; weights are loaded once a version."""
    with Local(Making(), workers=2) as source:
        source.publish([0.5])
        wanted = {(chunk.worker, chunk.number): chunk.data for chunk in (source.next() for _ in range(40))}
    with rollouts_ray.Remote(Making(), 2, limit=0, timeout=250.0) as there:
        there.publish([0.5])
        found = [there.next() for _ in range(20)]
        assert len(set(there.processes.values()) - {os.getpid()}) == len(there.processes)
    for chunk in found:
        if (chunk.worker, chunk.number) in wanted:
            assert (steps(chunk.data) == steps(wanted[chunk.worker, chunk.number])).all()
        assert chunk.data["loads"][0] == 1
    assert len({(chunk.worker, chunk.number) for chunk in found}) == 20, "no chunk comes twice"
    assert there.counts.chunks == 20
    assert there.counts.broadcasts == 1


@pytest.mark.usefixtures("cluster")
def test_an_answer_that_is_seen_late_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two answers of one worker the second may be seen first; the chunks come as they were made."""
    wait = ray.wait

    def newest(calls: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        ready, others = wait(calls, num_returns=len(calls), timeout=30.0)
        return ready[-num_returns:], [*ready[:-num_returns], *others]

    with Local(Making(), workers=1) as source:
        source.publish([0.5])
        wanted = [source.next().data for _ in range(6)]
    with rollouts_ray.Remote(Making(), 1, limit=0, timeout=250.0) as there:
        there.publish([0.5])
        monkeypatch.setattr(ray, "wait", newest)
        found = [there.next() for _ in range(6)]
        monkeypatch.undo()
    assert [chunk.number for chunk in found] == list(range(6))
    for chunk, data in zip(found, wanted, strict=True):
        assert (steps(chunk.data) == steps(data)).all()


@pytest.mark.usefixtures("cluster")
def test_old_chunks_are_dropped_and_counted() -> None:
    """Calls under way when weights are published are of the version before; beyond the limit they are not given."""
    with rollouts_ray.Remote(Making(), 1, limit=0, timeout=250.0) as there:
        there.publish([0.0])
        there.next()
        there.publish([0.0])
        chunk = there.next()
        assert (chunk.version, chunk.behind) == (2, 0)
        assert there.counts.dropped == rollouts_ray.IN_FLIGHT
    with rollouts_ray.Remote(Making(), 1, limit=1, timeout=250.0) as there:
        there.publish([0.0])
        there.next()
        there.publish([0.0])
        assert there.next().behind == 1
        assert (there.counts.stale, there.counts.dropped) == (1, 0)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_is_replaced_and_counted() -> None:
    with rollouts_ray.Remote(Making(), 1, limit=0, timeout=250.0) as there:
        there.publish([0.0])
        before = there.next()
        killed = there.processes[0]
        os.kill(killed, signal.SIGKILL)
        chunk = before
        for _ in range(10_000):  # chunks that it had sent before are still good
            chunk = there.next()
            if chunk.life:
                break
        assert (chunk.life, chunk.number) == (1, 0)
        assert there.counts.replaced == 1
        assert there.processes[0] != killed
        assert steps(chunk.data)[0] != steps(before.data)[0], "the next one has other random numbers"


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("sick", "lives", "told"),
    [("dying", 9, "worker 0 came to nothing 3 times in a row"), ("mistaken", 9, "the load has no requests")],
)
def test_a_worker_that_comes_to_nothing_ends_the_training_with_its_reason(sick: str, lives: int, told: str) -> None:
    with rollouts_ray.Remote(Making(sick, lives), 1, limit=0, timeout=250.0) as there:
        there.publish([0.0])
        with pytest.raises(UserError, match=told):
            there.next()


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is let run out by hand, so that a slow machine is not taken for a silent worker."""
    with rollouts_ray.Remote(Making("silent", 1), 1, limit=0, timeout=600.0) as there:
        there.publish([0.0])
        monkeypatch.setattr(there._held[0], "since", -1e9)
        assert there.next().life == 1
        assert (there.counts.silent, there.counts.replaced) == (1, 1)


@pytest.mark.usefixtures("cluster")
def test_a_session_that_is_there_goes_on_with_as_many_workers_as_it_has_processors() -> None:
    assert ray_cluster.processors() >= 2
    with pytest.raises(UserError, match="expected one for each of 10,000 workers"), ray_cluster.cluster(10_000):
        pass
    with ray_cluster.cluster(2):
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.parametrize(("end", "told"), [("os._exit(1)", True), ("pass", False), ("sys.exit(3)", False)])
def test_a_process_that_is_ended_does_not_end_without_a_word(end: str, told: bool) -> None:
    """As Ray does it: at once, with nothing that Python could still do."""
    program = f"import os, sys\nfrom rlscaler_training import ray_cluster\nwith ray_cluster.last_word():\n    {end}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=250,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert (ray_cluster.ENDED in done.stderr) == told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken", "RAY_AUTH_MODE=token"),
        ("RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.1\n", "another version of Ray"),
        ("ConnectionError: no", "no Ray cluster of this version"),
    ],
    ids=["token", "version", "other"],
)
def test_why_a_cluster_takes_nobody_in_is_told_in_one_line(said: str, told: str) -> None:
    found = ray_cluster._refusal(said)
    assert told in found
    assert "\n" not in found


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_cannot_be_replaced_is_given_up_and_the_others_go_on() -> None:
    with rollouts_ray.Remote(Making("dying", 9, 1), 2, limit=0, timeout=250.0) as there:
        there.publish([0.0])
        ends = time.monotonic() + 240.0
        while not there.counts.lost and time.monotonic() < ends:
            assert there.next().worker == 0
        assert (there.counts.lost, there.counts.replaced) == (1, rollouts_ray.LIVES)
        assert there.next().worker == 0


@pytest.mark.usefixtures("cluster")
def test_a_worker_of_another_version_of_the_policy_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts_ray, "_Actor", Liar)
    with rollouts_ray.Remote(Making(), 1, limit=0, timeout=250.0) as there:
        there.publish([0.0])
        with pytest.raises(UserError, match="it decided by version 2 of the policy; expected 1"):
            there.next()
        assert (there.counts.mismatched, there.counts.replaced) == (rollouts_ray.LIVES, rollouts_ray.LIVES)


@pytest.mark.usefixtures("cluster")
def test_in_lockstep_each_worker_makes_one_chunk_of_each_version() -> None:
    with rollouts_ray.Remote(Making(), 2, limit=0, timeout=250.0, lockstep=True) as there:
        for version in (1, 2, 3):
            there.publish([0.0])
            chunks = gathered(there, 2)
            assert [(each.worker, each.number, each.version) for each in chunks] == [
                (0, version - 1, version), (1, version - 1, version),
            ]  # fmt: skip
        assert (there.counts.stale, there.counts.dropped) == (0, 0)


@pytest.mark.usefixtures("cluster")
def test_a_learner_that_waits_can_be_called_away() -> None:
    def glance() -> None:
        raise InterruptedError

    with rollouts_ray.Remote(Making("silent", 1), 1, limit=0, timeout=600.0, glance=glance) as there:
        there.publish([0.0])
        with pytest.raises(InterruptedError):
            there.next()


@pytest.mark.parametrize(
    ("address", "told"),
    [("nowhere", "expected HOST:PORT"), ("127.0.0.1:0", "expected HOST:PORT"), ("127.0.0.1:1", "nothing answers")],
)
def test_an_address_that_does_not_answer_is_told_in_one_sentence(address: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as found:
        ray_cluster._reach(address)
    assert "\n" not in str(found.value)
