"""Who gives way to whom: named histories, and what holds in every history of a simulated API server and its watch."""

import json
import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.resource_objects import Mode
from rlscaler_operator import conflicts
from rlscaler_operator.conflicts import ANSWER, LONGEST, PROMPT, RESPECT, SETTLE, YIELD, Memory, Rival, Verdict
from rlscaler_operator.model import Target, TargetKey

KEY = TargetKey("shop", "apps", "Deployment", "web")
START = 1_700_000_000.0
OURS = conflicts.MANAGER
APPLIERS = ("argocd-controller", "flux", "helm")
"""They change the object itself, and the API server records when; of writes through /scale it does not."""
KNOWN = [(m, v, w) for m in (True, False) for v, w in ((True, True), (True, False), (False, False))]
"""What is known: managers, versions in the watch, versions that writes made."""


@dataclass
class Server:
    """One target as the API server keeps it, its watch, which may lag, and an operator that wants what it is told.

    managers: the object records who set the count, and when unless that was by /scale, as built-in kinds do. versions:
    the operator knows the versions of the object in the watch; made: those that its writes made, too.
    """

    managers: bool = True
    versions: bool = True
    made: bool = True
    count: int = 5
    now: float = START
    by: str = "kubectl"
    at: float = math.nan
    lag: int = 0
    uid: str = "1"
    memory: Memory = field(default_factory=Memory)
    shown: list[Target] = field(default_factory=list)
    position: int = 0

    def __post_init__(self) -> None:
        self.shown = [self.live]

    @property
    def live(self) -> Target:
        by, at = (self.by, self.at) if self.managers else ("", math.nan)
        return Target(KEY, self.uid, self.count, self.count, self.count, "app=web", by, at)

    @property
    def view(self) -> Target:
        """The object as the watch shows it: `lag` states behind, but never back in time."""
        self.position = max(self.position, len(self.shown) - 1 - self.lag)
        return self.shown[self.position]

    @property
    def version(self) -> int:
        """The version of what the watch shows."""
        assert self.view is not None
        return self.position if self.versions else -1

    def set(self, count: int, by: str = "kubectl") -> None:
        """Somebody sets the count; as on the real server, who sets what stands already is not recorded."""
        if count != self.count:
            self.count, self.by, self.at = count, by, math.floor(self.now) if by in APPLIERS else math.nan
            self.shown.append(self.live)

    def write(self, count: int, *, answered: bool = True, arrives: bool = True) -> bool:
        """Write as the operator does, with the count that the watch shows as the precondition."""
        view, version = self.view, self.version
        if arrives and view.desired != self.count:
            return False  # the test of the patch failed; the answer says so
        if arrives:
            self.set(count, OURS)
        if answered and arrives:
            made = len(self.shown) - 1 if self.made else -1
            self.memory = conflicts.wrote(self.memory, self.now, count, view, version, made)
        elif not answered:
            self.memory = conflicts.tried(self.memory, self.now, count, view, version)
        return arrives

    def look(self, *rivals: Rival, mode: Mode = "Active") -> Verdict:
        """Judge what the watch shows; what is remembered goes through its saved form each time."""
        verdict, memory = conflicts.judge(self.memory, self.now, self.view, rivals, mode, self.version)
        self.memory = conflicts.restored(json.loads(json.dumps(conflicts.saved(memory), allow_nan=False)))
        assert self.memory == memory
        return verdict

    def wait(self, seconds: float) -> Verdict:
        """Let time pass, with a look every 15 s."""
        end = self.now + seconds
        while True:
            self.now = min(self.now + 15.0, end)
            verdict = self.look()
            if self.now >= end:
                return verdict

    def scale(self, count: int) -> Verdict:
        """Write, and look twice."""
        self.look()
        assert self.write(count)
        self.look()
        self.now += 1.0
        return self.look()


def reason(verdict: Verdict) -> str:
    return verdict.conflict.reason if verdict.conflict else ""


FREE = Verdict()

# Rivals

OWNERS = {
    "HPA": ([Rival("HorizontalPodAutoscaler", "web")], "OwnedByHPA"),
    "ScaledObject": ([Rival("ScaledObject", "web")], "OwnedByScaledObject"),
    "ScaledObject before HPA": (
        [Rival("ScaledObject", "web"), Rival("HorizontalPodAutoscaler", "own")],
        "OwnedByScaledObject",
    ),
    "an older RLScaler": ([Rival("RLScaler", "first")], "OwnedByRLScaler"),
    "HPA before RLScaler": ([Rival("RLScaler", "first"), Rival("HorizontalPodAutoscaler", "web")], "OwnedByHPA"),
}


@pytest.mark.parametrize(("rivals", "expected"), OWNERS.values(), ids=OWNERS)
def test_an_owner_forbids_every_write(rivals: list[Rival], expected: str) -> None:
    verdict = Server().look(*rivals)
    assert (verdict.may_write, verdict.may_raise_to_floor, reason(verdict)) == (False, False, expected)
    assert math.isnan(verdict.until)
    assert verdict.conflict is not None
    assert all(rival.name in verdict.conflict.message for rival in rivals)


@pytest.mark.parametrize(("rivals", "expected"), OWNERS.values(), ids=OWNERS)
def test_shadow_only_says_it(rivals: list[Rival], expected: str) -> None:
    verdict = Server().look(*rivals, mode="Shadow")
    assert verdict.may_write
    assert reason(verdict) == expected


def test_the_older_of_two_goes_on_and_says_so() -> None:
    verdict = Server().look(Rival("RLScaler", "second", wins=False))
    assert verdict.may_write
    assert reason(verdict) == "SharedTarget"


def test_what_another_owner_did_is_no_rewrite_once_it_is_gone() -> None:
    server = Server()
    server.scale(8)
    hpa = Rival("HorizontalPodAutoscaler", "web")
    server.look(hpa)
    server.set(3, "kube-controller-manager")
    assert not server.look(hpa).may_write
    assert server.look() == FREE


# Rewrites


def test_the_first_rewrite_is_respected_but_for_the_floor() -> None:
    server = Server()
    assert server.scale(8) == FREE
    server.set(3, "argocd-controller")
    verdict = server.look()
    assert (verdict.may_write, verdict.may_raise_to_floor, reason(verdict)) == (False, True, "ReplicasRewritten")
    assert verdict.conflict is not None
    assert "argocd-controller set Deployment shop/web to 3 replicas" in verdict.conflict.message
    assert verdict.until == pytest.approx(server.now + RESPECT, abs=2.0)
    assert server.wait(RESPECT - 15.0) == verdict  # the message does not change, or it would be written again
    assert server.wait(30.0) == FREE


def test_a_rewrite_that_answers_twice_is_yielded_to() -> None:
    server = Server()
    server.scale(8)
    server.set(3)
    server.wait(RESPECT + 15.0)
    server.scale(8)
    server.set(3)
    verdict = server.look()
    assert (verdict.may_write, verdict.may_raise_to_floor, reason(verdict)) == (False, False, "Yielding")
    assert server.wait(YIELD + 15.0) == FREE


def test_yields_double_up_to_an_hour() -> None:
    server = Server()
    lengths = []
    for _ in range(8):
        server.scale(8)
        server.now += 60.0
        server.set(3, "flux")
        lengths.append(server.look().until - server.now)
        server.wait(lengths[-1] + 15.0)
    assert lengths == pytest.approx([300, 300, 600, 1200, 2400, 3600, 3600, 3600], abs=2.0)


def test_raising_to_the_floor_counts_as_a_write() -> None:
    server = Server()
    server.scale(8)
    server.set(3, "flux")
    assert server.look().may_raise_to_floor
    server.scale(4)
    server.set(3, "flux")
    assert reason(server.look()) == "Yielding"


def test_a_person_who_tries_several_counts_is_not_fought() -> None:
    server = Server()
    server.scale(8)
    for count in (3, 4, 5):
        server.now += 60.0
        server.set(count)
        verdict = server.look()
        assert reason(verdict) == "ReplicasRewritten"
        assert verdict.until == pytest.approx(server.now + RESPECT, abs=2.0)


def test_a_write_that_stands_ends_the_quarrel() -> None:
    server = Server()
    for _ in range(3):  # a deploy every hour
        server.scale(8)
        server.wait(3600.0)
        server.set(3, "helm")
        assert reason(server.look()) == "ReplicasRewritten"
        server.wait(RESPECT + 15.0)


def test_a_quarrel_of_long_ago_is_forgotten() -> None:
    server = Server()
    server.scale(8)
    server.set(3)
    server.wait(RESPECT + LONGEST + 60.0)
    server.scale(8)
    server.set(3)
    assert reason(server.look()) == "ReplicasRewritten"


def test_another_rewrite_while_yielding_keeps_the_end() -> None:
    server = Server()
    server.scale(8)
    server.set(3)
    server.look()
    server.wait(RESPECT + 15.0)
    server.scale(8)
    server.set(3)
    until = server.look().until
    server.now += 60.0
    server.set(2)
    verdict = server.look()
    assert (reason(verdict), verdict.until) == ("Yielding", until)


# What is no rewrite


def test_first_contact() -> None:
    server = Server()
    assert server.look() == FREE
    server.set(6)
    assert server.look() == FREE


@pytest.mark.parametrize(("managers", "versions", "made"), KNOWN)
def test_a_watch_that_lags_shows_what_stood_before(managers: bool, versions: bool, made: bool) -> None:
    server = Server(managers, versions, made)
    server.look()
    server.write(8)
    server.lag = 1
    assert server.view.desired == 5
    assert server.wait(60.0) == FREE
    server.lag = 0
    assert server.look() == FREE
    server.set(5)
    assert reason(server.look()) == "ReplicasRewritten"


@pytest.mark.parametrize(("managers", "versions", "made"), KNOWN)
def test_a_write_whose_answer_was_lost(managers: bool, versions: bool, made: bool) -> None:
    server = Server(managers, versions, made)
    server.scale(8)
    assert server.write(9, answered=False)
    assert server.look() == FREE
    assert server.memory.ours == 9
    server.set(3)
    assert reason(server.look()) == "ReplicasRewritten"


@pytest.mark.parametrize(("managers", "versions", "made"), KNOWN)
def test_a_write_that_never_arrived(managers: bool, versions: bool, made: bool) -> None:
    server = Server(managers, versions, made)
    server.scale(8)
    server.write(9, answered=False, arrives=False)
    assert server.look() == FREE
    assert server.wait(SETTLE + 60.0) == FREE
    assert server.scale(10) == FREE


@pytest.mark.parametrize(("managers", "versions", "made"), KNOWN)
@pytest.mark.parametrize("lost", [(9, 9, 9), (9, 7, 9), (7, 9)])
def test_a_write_after_some_that_failed_is_seen_before_it_is_answered(
    lost: tuple[int, ...], managers: bool, versions: bool, made: bool
) -> None:
    """The watch is often faster than the answer: its view of our own write is no rewrite of the former ones."""
    server = Server(managers, versions, made)
    server.scale(8)
    for count in lost:
        server.write(count, answered=False, arrives=False)
        assert server.look() == FREE
        server.now += 1.0
    seen, version = server.view, server.version
    server.set(9, OURS)
    assert server.look() == FREE
    server.memory = conflicts.wrote(server.memory, server.now, 9, seen, version, server.version if made else -1)
    assert server.look() == FREE
    assert server.wait(SETTLE + 60.0) == FREE
    assert server.memory.unseen == ()


def test_the_count_that_is_told_is_that_of_the_rewrite_also_after_the_demand_has_raised_it() -> None:
    server = Server()
    server.scale(8)
    server.set(3)
    assert server.look().may_raise_to_floor
    verdict = server.scale(10)
    assert verdict.conflict is not None
    assert "kubectl set Deployment shop/web to 3 replicas" in verdict.conflict.message


def test_another_replica_of_the_operator_wrote() -> None:
    server = Server()
    server.scale(8)
    server.set(11, OURS)
    assert server.look() == FREE
    server.set(4)
    assert reason(server.look()) == "ReplicasRewritten"


def test_a_restart_that_lost_its_memory_knows_its_writes() -> None:
    server = Server()
    server.scale(8)
    server.memory = Memory()
    assert server.look() == FREE
    assert server.memory.ours == 8
    server.set(4)
    assert reason(server.look()) == "ReplicasRewritten"


def test_an_update_that_leaves_the_count_alone() -> None:
    server = Server()
    server.scale(8)
    for ready in (2, 5):  # a rollout
        server.shown.append(replace(server.live, ready=ready, replicas=10))
        assert server.look() == FREE
    server.shown.append(replace(server.live, manager="flux", managed_at=server.now))  # applied with the same count
    assert server.look() == FREE


def test_a_target_that_was_made_anew_has_no_past() -> None:
    server = Server()
    server.scale(8)
    server.uid, server.count, server.by = "2", 3, "helm"
    server.shown.append(server.live)
    assert server.look() == FREE


@pytest.mark.parametrize("mode", ["Paused", "Shadow"])
def test_changes_by_hand_while_it_does_not_write(mode: Mode) -> None:
    server = Server()
    server.scale(8)
    assert server.look(mode=mode) == FREE
    server.set(3)
    assert server.look(mode=mode) == FREE
    assert server.look() == FREE


def test_a_rewrite_that_nobody_saw_is_dated_by_the_server() -> None:
    """After a stop of an hour, the count that a person set 40 minutes ago has been respected long enough."""
    server = Server()
    server.scale(8)
    server.now += 1200.0
    server.set(3, "helm")
    server.now += 2400.0
    assert server.look() == FREE


def test_a_rewrite_that_nobody_saw_and_nobody_dates_is_respected_from_now_on() -> None:
    server = Server()
    server.scale(8)
    server.now += 1200.0
    server.set(3, "kubectl")
    server.now += 2400.0
    assert server.look().until == server.now + RESPECT


def test_a_rewrite_by_a_server_whose_clock_is_behind_is_respected_all_the_same() -> None:
    server = Server()
    server.scale(8)
    server.wait(60.0)
    server.set(3, "helm")
    server.shown[-1] = replace(server.shown[-1], managed_at=server.now - 7200.0)
    assert server.look().until == pytest.approx(server.now + RESPECT, abs=20.0)


def test_a_count_that_is_reset_faster_than_the_watch_shows_it() -> None:
    """Nobody says who set it, and the watch shows 5 all the time: only the preconditions that hold tell of it."""
    server = Server(managers=False)
    verdicts = []
    for _ in range(3):
        verdicts.append(server.look())
        server.memory = conflicts.wrote(server.memory, server.now, 8, server.view)
        server.now += 15.0
    assert verdicts[0] == FREE
    assert reason(server.look()) == "Yielding"


@pytest.mark.parametrize(("managers", "versions", "made"), KNOWN)
def test_a_person_who_sets_the_count_back_between_two_looks(managers: bool, versions: bool, made: bool) -> None:
    """It looks as if our write had not been shown yet; versions tell at once, their absence only in time."""
    server = Server(managers, versions, made)
    server.look()
    server.write(8)
    server.set(5)
    verdict = server.look() if made else server.wait((PROMPT if versions else SETTLE) + 1.0)
    assert reason(verdict) == "ReplicasRewritten"


def test_a_lost_write_of_the_count_that_stands_confirms_nothing() -> None:
    """The watch shows the count that we wrote before; it is late all the same, and the lost write to 1 comes next."""
    server = Server(managers=False)
    server.scale(4)
    server.lag = 1
    server.write(1, answered=False)
    server.look()
    server.write(4, answered=False, arrives=False)
    server.look()
    server.now, server.lag = server.now + 6.0, 0
    assert server.look() == FREE


NONE_OF_OURS: list[object] = [
    None,
    [],
    "x",
    {"ours": "x"},
    {"before": 3},
    {"until": "x"},
    {"unseen": 3},
    {"rewrites": None},
]


@pytest.mark.parametrize("value", NONE_OF_OURS, ids=str)
def test_a_memory_that_is_none_starts_afresh(value: object) -> None:
    assert conflicts.restored(value) == Memory()


# Every history

COUNTS = st.integers(1, 9)
OWN = st.one_of(
    st.tuples(st.just("write"), COUNTS),
    st.tuples(st.just("lost answer"), COUNTS),
    st.tuples(st.just("never arrives"), COUNTS),
    st.tuples(st.just("time"), st.floats(0.1, 2000.0)),
    st.tuples(st.just("lag"), st.integers(0, 3)),
    st.tuples(st.just("rollout"), st.just(0)),
    st.tuples(st.just("restart"), st.integers(0, 5)),
)


@given(known=st.sampled_from(KNOWN), steps=st.lists(OWN, max_size=40))
@settings(max_examples=600, deadline=None)
def test_a_workload_that_nobody_else_touches_is_never_yielded(
    known: tuple[bool, bool, bool], steps: list[tuple[str, float]]
) -> None:
    """Restarts fall back to any earlier checkpoint. Without managers a write after that checkpoint cannot be told
    from somebody else's, so there a restart keeps the last one.
    """  # fmt: skip
    server = Server(*known)
    managers, versions, made = known
    late = math.inf if made else PROMPT / 2 if versions else SETTLE / 2
    checkpoints = [server.memory]
    held = math.inf
    for what, how in steps:
        if what == "write":
            server.write(int(how))
        elif what == "lost answer":
            server.write(int(how), answered=False)
            late = min(late, PROMPT / 2)  # nobody told which version it made
        elif what == "never arrives":
            server.write(int(how), answered=False, arrives=False)
            late = min(late, PROMPT / 2)
        elif what == "time":
            server.now += how
            if server.now - held > late:
                server.lag = 0
        elif what == "lag":
            server.lag, held = int(how), min(held, server.now) if how else math.inf
        elif what == "rollout":
            server.shown.append(server.live)
        elif managers:
            server.memory = checkpoints[max(0, len(checkpoints) - 1 - int(how))]
        assert server.look() == FREE, (what, how)
        checkpoints.append(server.memory)


@given(
    known=st.sampled_from(KNOWN),
    before=st.floats(1.0, ANSWER - 30.0),
    between=st.floats(0.0, LONGEST - 60.0),
    after=st.floats(1.0, ANSWER - 30.0),
)
@settings(max_examples=100, deadline=None)
def test_two_answers_in_a_row_are_always_yielded_to(
    known: tuple[bool, bool, bool], before: float, between: float, after: float
) -> None:
    server = Server(*known)
    server.scale(8)
    server.wait(before)
    server.set(3, "bot")
    server.look()
    server.wait(RESPECT + between + 15.0)
    server.scale(9)
    server.wait(after)
    server.set(3, "bot")
    verdict = server.look()
    assert not verdict.may_write
    assert not verdict.may_raise_to_floor


FOREIGN = st.one_of(OWN, st.tuples(st.just("foreign"), COUNTS), st.tuples(st.just("recreated"), COUNTS))


@given(known=st.sampled_from(KNOWN), steps=st.lists(FOREIGN, max_size=40))
@settings(max_examples=400, deadline=None)
def test_a_yield_ends(known: tuple[bool, bool, bool], steps: list[tuple[str, float]]) -> None:
    """Whatever happened: no end is further off than an hour, and with nobody touching it, it may be written again."""
    server = Server(*known)
    for what, how in steps:
        if what in ("write", "lost answer", "never arrives") and server.look().may_write:
            server.write(int(how), answered=what == "write", arrives=what != "never arrives")
        elif what == "time":
            server.now += how
        elif what == "lag":
            server.lag = int(how)
        elif what == "foreign":
            server.set(int(how), "bot")
        elif what == "recreated":
            server.uid, server.count, server.by = f"{server.uid}1", int(how), "helm"
            server.shown.append(server.live)
        verdict = server.look()
        assert verdict.may_write or verdict.until <= server.now + LONGEST
        assert verdict.may_write == math.isnan(verdict.until)
    server.lag = 0
    server.wait(SETTLE + 15.0)
    server.now += LONGEST + 15.0
    assert server.look() == FREE
