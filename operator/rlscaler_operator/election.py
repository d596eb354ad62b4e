"""Who leads, as a rule: what to ask of the Lease next, and what its answers mean. No clock, no wire.

The algorithm is that of client-go's leaderelection over a Lease of coordination.k8s.io/v1, with `valid` as the fence.

- A holder is believed to be alive for its lease's duration after *we* first saw its last renewal, by our own monotonic
  clock. Times that others wrote into the Lease are never compared with a clock.
- We hold it from the answer to a renewal until `deadline` after that renewal was *sent*. Whoever takes over has seen
  the renewal later than it was sent and waits for longer (`duration` > `deadline`), so no two are valid at once while
  clocks run alike within the ratio of the two (15 s to 10 s by default).
- Every write carries the resourceVersion that was read, so of two that see a free Lease one gets it.

Apart from client-go: a lease that somebody else holds is lost at once and not after the deadline, and one that
somebody else has written is not `valid` until it was read again; one that was deleted is believed to be held for the
rest of its duration, so that its holder can make it again; a holder's own duration counts where it differs from ours
(two versions of a deployment during a roll-out).
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

Answer = Mapping[str, Any] | None | Literal["Conflict", "Failed"]
"""A Lease as the API server has it now, None where there is none, "Conflict" where a write came second, "Failed" where
nothing is known: no answer, or an error."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to make: read the Lease, create it, or replace the version that `lease` names."""

    verb: Literal["read", "create", "replace"]
    lease: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds. duration: of the Lease. deadline: for which a renewal is good. retry: between two renewals.

    look: between two looks of one who waits. The object's leaseDurationSeconds is `duration` rounded up.
    """

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0
    look: float = 0.5

    def __post_init__(self) -> None:
        """Refuse terms under which nobody could lead, or two could. Raises ValueError."""
        if not 0 < self.look <= self.retry < self.deadline < self.duration:
            raise ValueError(f"a lease needs 0 < look <= retry < deadline < duration, not {self}")

    @property
    def seconds(self) -> int:
        """What the Lease says."""
        return math.ceil(self.duration)


class Candidate:
    """One who wants to lead. Every `now` is of one monotonic clock; `stamp` is the wall clock's time as the API
    server writes it, for people to read.
    """  # fmt: skip

    def __init__(self, namespace: str, name: str, identity: str, terms: Terms) -> None:
        """Take the Lease's name, and who we are: no other process that is alive may have the same identity."""
        self.identity, self.terms = identity, terms
        self.holder = ""
        """Who held the Lease when it was last seen."""
        self.why_lost = ""
        """Why we stopped leading the last time, in words."""
        self._metadata = {"namespace": namespace, "name": name}
        self._seen: Mapping[str, Any] | None = None
        self._seen_at = -math.inf
        self._known = False  # whether `_seen` is still what the server has, as far as can be told
        self._next = -math.inf
        self._until = -math.inf
        self._doubted = False  # whether somebody else wrote the Lease since we knew it to be ours

    @property
    def leading(self) -> bool:
        """Whether we hold the Lease as far as we know; its last renewal may be too old (see `valid`)."""
        return self._until > -math.inf

    def valid(self, now: float) -> bool:
        """Tell whether it is certain that nobody else leads."""
        return now < self._until and not self._doubted

    def remaining(self, now: float) -> float:
        """Return the seconds for which we are `valid` without another renewal."""
        return max(0.0, self._until - now)

    def wake(self) -> float:
        """Return when `ask` has to be called next."""
        return min(self._next, self._until) if self.leading else self._next

    def ask(self, now: float, stamp: str) -> Ask | None:
        """Return the request to make now, None if there is nothing to do before `wake`."""
        if self.leading and now >= self._until:
            self._lose(f"no renewal got through for {self.terms.deadline:g} s")
        if now < self._next:
            return None
        if not self._known:
            return Ask("read")
        if self._held_by_another(now):
            self._rest(now, self.terms.look)
            return None
        if self._seen is None:
            return Ask("create", self._claim(stamp))
        return Ask("replace", self._claim(stamp))

    def take(self, ask: Ask, answer: Answer, asked: float, now: float) -> None:
        """Take the answer to a request that was sent at `asked`."""
        if answer == "Failed":
            self._rest(now, self.terms.look if self.leading else self.terms.retry)
        elif answer == "Conflict":
            # Who leads wants to know at once whether the Lease was stolen, and is not sure of it until then.
            self._doubted = True
            self._rest(now, 0.0 if self.leading else self.terms.look)
        elif ask.verb == "read":
            self._observe(answer, now)
        else:
            assert answer is not None
            self._observe(answer, now)
            self._next = asked + self.terms.retry
            self._until = asked + self.terms.deadline
            if now >= self._until:
                self._lose(f"a renewal took {now - asked:.1f} s")

    def resign(self, stamp: str) -> Ask | None:
        """Stop leading at once; return the request that gives the Lease away, None where it is not known to be ours.

        Where that is in doubt (the last write got no answer) it is a read: take its answer, and call this again.
        """
        self._lose("given away")
        if self.holder != self.identity:
            return None
        if not self._known:
            return Ask("read")
        lease = self._copy()
        # A second is the shortest that the object can say; nobody waits for it, since nobody holds the Lease.
        lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": stamp, "acquireTime": stamp}
        return Ask("replace", lease)

    def resigned(self, answer: Answer) -> bool:
        """Take the answer to a replacing request of `resign`; return whether the Lease is given away."""
        self._known = False
        if answer in ("Failed", "Conflict") or answer is None:
            return False
        self.holder = ""
        return True

    def _observe(self, lease: Mapping[str, Any] | None, now: float) -> None:
        self._known = True
        if lease is None:
            if self.leading or self.holder in ("", self.identity) or now >= self._expires():
                self._seen, self.holder = None, ""
            else:
                self._known = False
                self._next = now + self.terms.look
            return
        if self._seen is None or _term(lease) != _term(self._seen):
            self._seen_at = now
        self._seen = lease
        self.holder = _spec(lease).get("holderIdentity") or ""
        self._doubted = self._doubted and self.holder != self.identity
        if self.leading and self.holder not in ("", self.identity):
            self._lose(f"{self.holder} took it")

    def _held_by_another(self, now: float) -> bool:
        return self._seen is not None and self.holder not in ("", self.identity) and now < self._expires()

    def _expires(self) -> float:
        """Return when the lease that was seen last runs out."""
        assert self._seen is not None
        theirs = _spec(self._seen).get("leaseDurationSeconds") or self.terms.seconds
        return self._seen_at + (self.terms.duration if theirs == self.terms.seconds else theirs)

    def _claim(self, stamp: str) -> Mapping[str, Any]:
        lease = self._copy()
        spec = lease["spec"]
        if self._seen is None:
            spec |= {"leaseTransitions": 0, "acquireTime": stamp}
        elif self.holder != self.identity:
            spec |= {"leaseTransitions": (spec.get("leaseTransitions") or 0) + 1, "acquireTime": stamp}
        spec |= {"holderIdentity": self.identity, "leaseDurationSeconds": self.terms.seconds, "renewTime": stamp}
        return lease

    def _copy(self) -> dict[str, Any]:
        """Return the Lease as it is, with all that others wrote into it."""
        if self._seen is not None:
            return deepcopy({**self._seen, "spec": _spec(self._seen)})
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": dict(self._metadata),
            "spec": {},
        }

    def _rest(self, now: float, seconds: float) -> None:
        self._known = False
        self._next = now + seconds

    def _lose(self, why: str) -> None:
        if self.leading:
            self.why_lost = why
        self._until = -math.inf


def _term(lease: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a renewal changes."""
    spec = _spec(lease)
    return tuple(spec.get(field) for field in ("holderIdentity", "renewTime", "acquireTime", "leaseTransitions"))


def _spec(lease: Mapping[str, Any]) -> Mapping[str, Any]:
    return lease.get("spec") or {}
