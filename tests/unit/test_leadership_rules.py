"""The rule of the election, without a clock or a wire: each answer's meaning, and that never two may write at once."""

import heapq
import math
import random
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler_operator.election import Answer, Ask, Candidate, Terms

TERMS = Terms()


@dataclass
class Store:
    """One Lease as an API server keeps it: a write needs the version that is there."""

    lease: dict[str, Any] | None = None
    versions: "count[int]" = field(default_factory=lambda: count(1))

    def do(self, ask: Ask) -> Answer:
        there = self.lease and self.lease["metadata"]["resourceVersion"]
        if ask.verb == "read":
            return deepcopy(self.lease)
        assert ask.lease is not None
        told = ask.lease["metadata"].get("resourceVersion")
        if (ask.verb == "create") != (self.lease is None) or told != there:
            return "Conflict"
        self.lease = deepcopy(dict(ask.lease))
        self.lease["metadata"]["resourceVersion"] = str(next(self.versions))
        return deepcopy(self.lease)

    @property
    def spec(self) -> Mapping[str, Any]:
        assert self.lease is not None
        spec: Mapping[str, Any] = self.lease["spec"]
        return spec


def candidate(name: str, terms: Terms = TERMS) -> Candidate:
    return Candidate("ns", "rlscaler", name, terms)


def go(who: Candidate, store: Store, now: float) -> float:
    """Let a candidate do all that it wants to do at a moment, with answers that take no time; return when it wakes."""
    for _ in range(10):
        if (ask := who.ask(now, stamp(now))) is None:
            return who.wake()
        who.take(ask, store.do(ask), now, now)
    raise AssertionError("it asks without end")


def stamp(now: float) -> str:
    return f"at {now}"


def test_the_first_one_creates_the_lease_and_the_second_one_waits() -> None:
    store, one, two = Store(), candidate("one"), candidate("two", Terms(duration=14.5))
    assert go(one, store, 0.0) == TERMS.retry
    assert go(two, store, 0.0) == TERMS.look
    assert one.leading
    assert one.valid(9.99)
    assert not one.valid(10.0)
    assert not two.leading
    assert store.spec == {"holderIdentity": "one", "leaseDurationSeconds": 15, "leaseTransitions": 0,
                          "acquireTime": stamp(0.0), "renewTime": stamp(0.0)}  # fmt: skip


def test_a_renewal_is_good_from_when_it_was_sent() -> None:
    store, one = Store(), candidate("one")
    go(one, store, 0.0)
    ask = one.ask(2.0, stamp(2.0))
    assert ask is not None
    assert ask.verb == "replace"
    one.take(ask, store.do(ask), asked=2.0, now=7.0)
    assert one.remaining(7.0) == 5.0
    assert store.spec["acquireTime"] == stamp(0.0)
    assert store.spec["leaseTransitions"] == 0


def test_a_renewal_that_took_longer_than_the_deadline_is_none() -> None:
    store, one = Store(), candidate("one")
    go(one, store, 0.0)
    ask = one.ask(2.0, stamp(2.0))
    assert ask is not None
    one.take(ask, store.do(ask), asked=2.0, now=12.0)
    assert not one.leading
    assert not one.valid(12.0)
    assert "10.0 s" in one.why_lost


def test_who_is_not_renewed_is_taken_over_a_duration_after_the_last_renewal_was_seen() -> None:
    store, one, two = Store(), candidate("one"), candidate("two")
    go(one, store, 0.0)
    go(two, store, 1.0)
    go(one, store, 2.0)  # its last
    now, wakes = 2.5, []
    while not two.leading:
        wakes.append(now)
        now = max(go(two, store, now), now + 1e-9)
        assert now < 30.0
    assert wakes[-1] == pytest.approx(2.5 + TERMS.duration, abs=TERMS.look)
    assert wakes[-1] >= 2.5 + TERMS.duration
    assert store.spec["leaseTransitions"] == 1
    assert store.spec["holderIdentity"] == "two"
    assert go(one, store, now) > now
    assert not one.leading


def test_times_in_the_lease_count_for_nothing() -> None:
    store, two = Store(), candidate("two")
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": "1970-01-01T00:00:00.000000Z"}
    store.do(Ask("create", {"metadata": {}, "spec": spec}))
    go(two, store, 1000.0)
    go(two, store, 1014.9)
    assert not two.leading
    go(two, store, 1015.5)
    assert two.leading


@pytest.mark.parametrize(("theirs", "takeover"), [(60, 60.0), (4, 4.0), (15, 14.2), (None, 14.2)])
def test_the_holders_own_duration_counts_where_it_is_another_than_ours(theirs: int | None, takeover: float) -> None:
    store, two = Store(), candidate("two", Terms(duration=14.2))
    spec = {"holderIdentity": "one", "leaseDurationSeconds": theirs, "renewTime": "x"}
    store.do(Ask("create", {"metadata": {}, "spec": spec}))
    go(two, store, 0.0)
    go(two, store, takeover - 0.01)
    assert not two.leading
    go(two, store, takeover + TERMS.look)
    assert two.leading
    assert store.spec["leaseDurationSeconds"] == 15


def test_a_lease_that_was_given_away_is_taken_at_the_next_look() -> None:
    store, one, two = Store(), candidate("one"), candidate("two")
    go(one, store, 0.0)
    go(two, store, 0.0)
    ask = one.resign(stamp(0.1))
    assert not one.valid(0.1)
    assert ask is not None
    assert one.resigned(store.do(ask))
    assert (store.spec["holderIdentity"], store.spec["leaseTransitions"]) == ("", 0)
    go(two, store, 0.5)
    assert two.leading
    assert store.spec["leaseTransitions"] == 1


def test_who_gives_away_in_doubt_reads_first() -> None:
    store, one = Store(), candidate("one")
    go(one, store, 0.0)
    renewal = one.ask(2.0, stamp(2.0))
    assert renewal is not None
    store.do(renewal)  # done, but the answer is lost
    one.take(renewal, "Failed", 2.0, 5.0)
    assert one.valid(5.0)
    ask = one.resign(stamp(5.0))
    assert ask is not None
    assert ask.verb == "read"
    one.take(ask, store.do(ask), 5.0, 5.0)
    ask = one.resign(stamp(5.0))
    assert ask is not None
    assert one.resigned(store.do(ask))
    assert one.resign(stamp(5.0)) is None
    assert store.spec["holderIdentity"] == ""


def test_who_does_not_hold_it_gives_nothing_away() -> None:
    store, one, two = Store(), candidate("one"), candidate("two")
    go(one, store, 0.0)
    go(two, store, 0.0)
    assert two.resign(stamp(0.1)) is None
    assert candidate("three").resign(stamp(0.1)) is None


def test_a_stolen_lease_is_lost_with_the_next_renewal() -> None:
    store, one = Store(), candidate("one")
    go(one, store, 0.0)
    assert store.lease is not None
    thief = deepcopy(store.lease)
    thief["spec"] |= {"holderIdentity": "thief", "renewTime": "x"}
    store.do(Ask("replace", thief))
    go(one, store, 2.0)
    assert not one.leading
    assert one.why_lost == "thief took it"
    assert one.holder == "thief"
    assert store.spec["holderIdentity"] == "thief"


def test_a_leader_is_not_sure_of_a_lease_that_somebody_else_wrote_until_it_has_read_it() -> None:
    store, one = Store(), candidate("one")
    go(one, store, 0.0)
    assert store.lease is not None
    store.do(Ask("replace", {**store.lease, "metadata": {**store.lease["metadata"], "labels": {"seen": "yes"}}}))
    assert one.valid(2.0)
    ask = one.ask(2.0, stamp(2.0))
    assert ask is not None
    one.take(ask, store.do(ask), 2.0, 2.0)
    assert one.leading
    assert not one.valid(2.0)
    go(one, store, 2.0)
    assert one.valid(2.0)
    assert store.spec["renewTime"] == stamp(2.0)


def test_a_lost_answer_costs_a_read_and_no_leadership() -> None:
    store, one = Store(), candidate("one")
    go(one, store, 0.0)
    renewal = one.ask(2.0, stamp(2.0))
    assert renewal is not None
    store.do(renewal)
    one.take(renewal, "Failed", 2.0, 5.0)
    assert one.ask(5.1, stamp(5.1)) is None
    go(one, store, 5.5)
    assert one.remaining(5.5) == TERMS.deadline


def test_a_holder_makes_a_deleted_lease_again_while_others_leave_it_alone() -> None:
    store, one, two, fresh = Store(), candidate("one"), candidate("two"), candidate("fresh")
    go(one, store, 0.0)
    go(two, store, 0.0)
    store.lease = None
    go(two, store, 0.5)
    assert store.lease is None
    go(one, store, 2.0)
    assert one.leading
    assert store.spec["holderIdentity"] == "one"
    store.lease = None
    go(two, store, 15.5)
    assert two.leading  # its holder is gone too
    store.lease = None
    go(fresh, store, 16.0)
    assert fresh.leading  # it has never seen a holder


def test_the_same_identity_goes_on_after_a_restart() -> None:
    store, one, again = Store(), candidate("one"), candidate("one")
    go(one, store, 0.0)
    go(again, store, 1.0)
    assert again.leading
    assert store.spec["leaseTransitions"] == 0


def test_what_others_wrote_into_the_lease_stays() -> None:
    store, one = Store(), candidate("one")
    store.do(Ask("create", {"metadata": {"labels": {"a": "b"}}}))
    go(one, store, 0.0)
    go(one, store, 2.0)
    assert store.lease is not None
    assert store.lease["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize(
    "terms",
    [
        {"duration": 10.0, "deadline": 10.0},
        {"deadline": 2.0, "retry": 2.0},
        {"look": 3.0},
        {"look": 0.0},
        {"duration": math.nan},
    ],
)
def test_terms_under_which_nobody_or_two_could_lead_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="look <= retry < deadline < duration"):
        Terms(**terms)


@dataclass
class Replica:
    """A process of the simulation: a candidate, a clock of its own, and what it waits for."""

    who: Candidate
    offset: float
    rate: float
    request: int = 0
    asked: float = 0.0
    paused_until: float = 0.0
    ends: float = math.inf

    def local(self, at: float) -> float:
        return self.offset + self.rate * at

    def at(self, local: float) -> float:
        return (local - self.offset) / self.rate


def simulate(rng: random.Random, trouble: float, seconds: float = 240.0) -> tuple[int, int, float]:
    """Run replicas against one store, and check at every event that at most one is valid.

    trouble: 0 to 1, how often requests are slow or lost, and processes stand still or end. Return how many times one
    began to lead, how many ended, and the share of the time with a leader.
    """
    store, ids, events = Store(), count(1), list[tuple[float, int, str, int, Any]]()
    replicas = list[Replica]()

    def add(at: float) -> None:
        drift = rng.uniform(0.95, 1.05)
        who = candidate(f"r{len(replicas)}")
        replicas.append(Replica(who, rng.uniform(-1e6, 1e6), drift))
        if rng.random() < trouble:
            replicas[-1].ends = at + rng.expovariate(1 / 60.0)
        push(at, "wake", len(replicas) - 1)

    def push(at: float, what: str, index: int, content: Any = None) -> None:
        heapq.heappush(events, (at, next(ids), what, index, content))

    def slow() -> float:
        return rng.choice((0.01, 0.3, 2.0, 8.0, 25.0)) * rng.random() if rng.random() < trouble else 0.01

    for _ in range(3):
        add(rng.uniform(0.0, 5.0))
    began = ended = 0
    led, last = 0.0, 0.0
    while events:
        at, number, what, index, content = heapq.heappop(events)
        if at > seconds:
            break
        replica = replicas[index]
        if what == "apply":
            answer = store.do(content)
            if rng.random() >= trouble / 4:
                push(at + slow(), "answer", index, (replica.request, content, answer))
            continue
        if at < replica.paused_until:
            push(replica.paused_until, what, index, content)
            continue
        if at >= replica.ends:
            if replica.ends < math.inf:
                replica.ends, replica.paused_until = -math.inf, math.inf
                ended += 1
                add(at + rng.uniform(0.0, 5.0))
            continue
        if rng.random() < trouble / 20:
            replica.paused_until = at + rng.choice((1.0, 6.0, 20.0)) * rng.random()
            push(at, what, index, content)
            continue
        was = replica.who.leading
        now = replica.local(at)
        if what == "wake" and not replica.request:
            ask = replica.who.ask(now, f"{index} at {now}")
            if ask is None:
                push(max(replica.at(replica.who.wake()), at + 1e-6), "wake", index)
            else:
                replica.request, replica.asked = number, now
                if rng.random() >= trouble / 4:
                    push(at + slow(), "apply", index, ask)
                limit = TERMS.deadline / 3
                if replica.who.leading:
                    limit = min(limit, replica.who.remaining(now))
                push(at + limit / replica.rate, "timeout", index, (number, ask))
        elif what in ("answer", "timeout") and content[0] == replica.request:
            replica.request = 0
            replica.who.take(content[1], content[2] if what == "answer" else "Failed", replica.asked, now)
            push(at, "wake", index)
        valid = [r.who.identity for r in replicas if r.ends > at and r.who.valid(r.local(at))]
        assert len(valid) <= 1, f"{valid} are valid at {at}"
        began += replica.who.leading and not was
        led += (at - last) * bool(valid)
        last = at
    return began, ended, led / seconds


@settings(deadline=None, derandomize=True, max_examples=200)
@given(seed=st.integers(0, 2**32), trouble=st.sampled_from((0.05, 0.2, 0.5, 0.8)))
def test_never_two_are_valid_at_once(seed: int, trouble: float) -> None:
    simulate(random.Random(seed), trouble)


def test_the_simulation_has_changes_of_leaders_and_somebody_leads_most_of_the_time() -> None:
    began, ended, led = zip(*(simulate(random.Random(seed), 0.2) for seed in range(50)), strict=True)
    assert sum(began) > 150
    assert sum(ended) > 20
    assert sum(led) / 50 > 0.5


def test_without_trouble_the_first_leads_for_good() -> None:
    for seed in range(20):
        began, ended, led = simulate(random.Random(seed), 0.0)
        assert (began, ended) == (1, 0)
        assert led > 0.97
