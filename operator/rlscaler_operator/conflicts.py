"""Who else scales a target, who wins, and for how long rlscaler gives way. Pure; time is an argument.

The rules, in the order in which they are looked at:

1. **Another autoscaler owns the target**: a HorizontalPodAutoscaler or a KEDA ScaledObject names it. rlscaler writes
   nothing as long as that object exists (`OwnedByHPA`, `OwnedByScaledObject`). In mode Shadow this is only said.
2. **Two RLScalers name one target**: the older one (creationTimestamp, then name) goes on (`SharedTarget`), the
   other writes nothing (`OwnedByRLScaler`). One in mode Shadow owns nothing and takes no part; a paused one does, and
   so does one whose spec cannot be used but names the target, so that a slip hands it to nobody.
3. **Somebody else changes spec.replicas** (a person, a GitOps tool, a deploy) while rlscaler is Active:
   - The first time, that count is respected for 5 minutes (`ReplicasRewritten`). Only if the demand now needs more is
     it raised, so that a deploy that resets replicas causes no outage. Each further change starts the 5 minutes anew.
   - If a write of rlscaler is answered like this again within 15 minutes of it, rlscaler yields completely for 5
     minutes (`Yielding`); for 10, 20, 40 and at most 60 if that goes on after each return.
   - It is forgotten once a write of rlscaler has stood for 15 minutes, or nothing happened for an hour.

What is no rewrite: a watch that shows a write of rlscaler late or twice; a write whose answer was lost; another
replica of the operator (its field manager is the same); an update of anything but the count, such as a rollout or
`kubectl apply` of a manifest without replicas; somebody who sets the very count that stands. A target that was
deleted and made anew, and one that another autoscaler has just let go of, starts without a past. Changes by hand are
expected in mode Paused or under the annotation rlscaler.io/paused: none of them counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from rlscaler.resource_objects import Mode
from rlscaler_operator.model import Note, Target, TargetKey
from rlscaler_operator.timestamps import stamp

MANAGER = "rlscaler"
"""The field manager of every write of ours, and who reports events."""
RESPECT = 300.0
"""Seconds for which a count that somebody else set is respected at first."""
ANSWER = 900.0
"""Seconds after a write of ours within which a rewrite is taken for an answer to it."""
YIELD = 300.0
"""Seconds of the first complete yield; each further one in a row is twice as long."""
LONGEST = 3600.0
"""Seconds of the longest yield, and seconds after which an old quarrel is forgotten."""
SETTLE = 120.0
"""Seconds at most that a watch may show what stood before a write; a silent watch is replaced within this time."""
PROMPT = 10.0
"""The same, for a watch that has shown a newer version of the object since."""
_UNSEEN = 8
"""Writes of ours that the watch has not shown yet, of which the counts are kept."""

RivalKind = Literal["HorizontalPodAutoscaler", "ScaledObject", "RLScaler"]


class Rival(NamedTuple):
    """Another object that scales the same target. wins: it goes before the workload that is looked at."""

    kind: RivalKind
    name: str
    wins: bool = True


class Verdict(NamedTuple):
    """What may be done to a target.

    may_write: set any count. may_raise_to_floor: raise the count to what the demand now needs, no more. conflict: what
    to report. until: decision time at which a yield ends, NaN where there is none or its end is not known.
    """

    may_write: bool = True
    may_raise_to_floor: bool = True
    conflict: Note | None = None
    until: float = math.nan


class View(NamedTuple):
    """What a watch shows of a target: spec.replicas, who set it and when (None: unknown), and the object's version."""

    desired: int
    manager: str
    at: float | None
    version: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of one target, between ticks and over restarts; see `saved` and `restored`.

    uid: of the target. ours: the count that we last set. wrote_at: when. unseen: counts that we wrote, or may have
    written, and that the watch has not shown yet, oldest first; unseen_at: when the last of them was; confirmed:
    whether the API server confirmed that one; before: what the watch showed before them; version: the one that our
    last write made, -1 where it is not known. theirs: the count that somebody else has set since; manager: who.
    rewrites: how often in a row. until: the end of the yield. complete: not even the floor may write. looked_at:
    when the target was last looked at. Times are decision times, minus infinity where there is none.
    """

    uid: str = ""
    ours: int | None = None
    wrote_at: float = -math.inf
    unseen: tuple[int, ...] = ()
    unseen_at: float = -math.inf
    confirmed: bool = False
    before: View | None = None
    version: int = -1
    theirs: int | None = None
    manager: str = ""
    rewrote: int = -1
    rewrites: int = 0
    until: float = -math.inf
    complete: bool = False
    looked_at: float = -math.inf


def judge(
    memory: Memory, now: float, target: Target, rivals: Sequence[Rival] = (), mode: Mode = "Active", version: int = -1
) -> tuple[Verdict, Memory]:
    """Return what may be done to the target, and what to remember.

    mode: the one in force, annotations included. version: the object's resourceVersion in the watch, -1 if unknown.
    """
    owners = [rival for rival in rivals if rival.wins]
    if owners:
        shadow = mode == "Shadow"
        return Verdict(shadow, shadow, _owned(owners, target.key, mode)), Memory(target.uid)
    if mode != "Active":
        return Verdict(conflict=_shared(rivals, target.key)), Memory(target.uid)
    memory = replace(_forgotten(_looked(_known(memory, target), now, _view(target, version)), now), looked_at=now)
    if now < memory.until:
        note = _rewritten_note(memory, target.key)
        return Verdict(False, not memory.complete, note, memory.until), memory
    return Verdict(conflict=_shared(rivals, target.key)), memory


def wrote(memory: Memory, now: float, count: int, target: Target, version: int = -1, made: int = -1) -> Memory:
    """Return the memory after a write of `count` that the API server confirmed.

    target, version: what the decision saw; its count was the precondition of the write. made: the resourceVersion that
    the write gave to the object; with it, no late view is ever mistaken. Both versions: -1 if unknown.
    """
    memory = _known(memory, target)
    if memory.ours in memory.unseen and target.desired not in memory.unseen:
        # The precondition held, so our last count was gone again before the watch ever showed it.
        manager = "" if target.manager == MANAGER else target.manager
        memory = _rewritten(memory, now, now, View(target.desired, manager, None, version))
    memory = _sent(memory, now, count, target, version)
    return replace(memory, ours=count, wrote_at=now, confirmed=True, theirs=None, version=made)


def tried(memory: Memory, now: float, count: int, target: Target, version: int = -1) -> Memory:
    """Return the memory after a write of `count` of which nobody knows whether it was done: its answer was lost."""
    memory = _known(memory, target)
    # Of several attempts at one count at most one is done; the rest would stay unseen for ever.
    others = tuple(other for other in memory.unseen if other != count or other == memory.ours)
    return _sent(replace(memory, unseen=others), now, count, target, version)


def saved(memory: Memory) -> dict[str, Any]:
    """Return the memory as plain JSON, without what is at its default."""
    fresh = asdict(Memory())
    return {name: value for name, value in asdict(memory).items() if value != fresh[name]}


def restored(value: object) -> Memory:
    """Return the memory of plain JSON; a fresh one where it is none of ours."""
    if not isinstance(value, Mapping):
        return Memory()
    known = {name: value[name] for name in asdict(Memory()) if name in value}
    try:
        if "unseen" in known:
            known["unseen"] = tuple(int(count) for count in known["unseen"])
        if known.get("before") is not None:
            known["before"] = View(*known["before"])
        memory = Memory(**known)
        return memory if _sound(memory) else Memory()
    except (TypeError, ValueError):
        return Memory()


def moved(memory: Memory, seconds: float) -> Memory:
    """Return the memory of a clock that was ahead of today's by so many seconds; times of the API server stay."""
    return replace(
        memory,
        wrote_at=memory.wrote_at - seconds,
        unseen_at=memory.unseen_at - seconds,
        until=memory.until - seconds,
        looked_at=memory.looked_at - seconds,
    )


def _sound(memory: Memory) -> bool:
    """Tell whether every value is of its kind."""
    before = memory.before or View(0, "", None, -1)
    whole = (memory.rewrites, memory.rewrote, memory.version, before.desired, before.version, *memory.unseen)
    counts = (memory.ours, memory.theirs)
    times = (memory.wrote_at, memory.unseen_at, memory.until, memory.looked_at)
    return (
        all(isinstance(number, int) for number in whole)
        and all(count is None or isinstance(count, int) for count in counts)
        and all(isinstance(time, (int, float)) and not math.isnan(time) for time in times)
        and (before.at is None or isinstance(before.at, (int, float)))
        and all(isinstance(text, str) for text in (memory.uid, memory.manager, before.manager))
        and isinstance(memory.complete, bool)
        and isinstance(memory.confirmed, bool)
    )


def _view(target: Target, version: int) -> View:
    return View(target.desired, target.manager, None if math.isnan(target.managed_at) else target.managed_at, version)


def _sent(memory: Memory, now: float, count: int, target: Target, version: int) -> Memory:
    """Return the memory after a write of `count` that the watch has not shown yet."""
    before = memory.before if memory.unseen else _view(target, version)
    unseen = (*memory.unseen, count)[-_UNSEEN:]
    return replace(memory, unseen=unseen, unseen_at=now, confirmed=False, before=before)


def _known(memory: Memory, target: Target) -> Memory:
    """Return the memory if it is of this very object, else a fresh one."""
    return memory if memory.uid == target.uid else Memory(target.uid)


def _looked(memory: Memory, now: float, view: View) -> Memory:
    """Return the memory after a look at the target."""
    if _is_late(memory, now, view):
        return memory
    if view.manager == MANAGER or view.desired in memory.unseen:
        # Where nobody says who set it, or somebody set the very count that we wrote, ours stands all the same.
        return _ours(memory, now, view)
    memory = replace(memory, unseen=(), before=None)
    standing = memory.ours if memory.theirs is None else memory.theirs
    if memory.ours is None or view.desired == standing:
        return memory
    # Without a time of its own it may have been set at any moment since the last look; the latest is the safe guess.
    at = now if view.at is None else min(now, max(memory.looked_at, memory.wrote_at, view.at))
    return _rewritten(memory, now, at, view)


def _is_late(memory: Memory, now: float, view: View) -> bool:
    """Tell whether the watch shows what stood before our write."""
    before = memory.before
    if not memory.unseen or before is None:
        return False
    if view.version >= 0 and memory.version >= 0:
        if view.version < memory.version:
            return True
        if memory.confirmed:
            return False
    if view[:3] != before[:3]:
        return False
    if view.at is not None:
        return True  # whoever sets the count again leaves another time
    return now - memory.unseen_at <= (SETTLE if view.version == before.version else PROMPT)


def _ours(memory: Memory, now: float, view: View) -> Memory:
    """Return the memory after the watch showed a count of ours."""
    if view.desired in memory.unseen:
        unseen = memory.unseen[memory.unseen.index(view.desired) + 1 :]
        at = max(memory.wrote_at, memory.unseen_at)
        before = view if unseen else None
        return replace(memory, ours=view.desired, wrote_at=at, theirs=None, unseen=unseen, before=before)
    if view.desired != memory.ours or memory.theirs is not None:
        # Another replica of the operator wrote it, or this one before it lost its memory.
        at = max(memory.wrote_at, now if view.at is None else min(view.at, now))
        memory = replace(memory, ours=view.desired, wrote_at=at, theirs=None)
    return replace(memory, unseen=(), before=None)


def _rewritten(memory: Memory, now: float, at: float, view: View) -> Memory:
    """Return the memory after somebody else set the count, at the time `at`."""
    answered = memory.theirs is None and at - memory.wrote_at <= ANSWER
    rewrites, complete, until = memory.rewrites, memory.complete and now < memory.until, memory.until
    if rewrites and answered:
        complete, until = True, at + min(YIELD * 2.0 ** min(rewrites - 1, 10), LONGEST)
        rewrites += 1
    elif not complete:
        rewrites, until = max(rewrites, 1), at + RESPECT
    return replace(
        memory, theirs=view.desired, manager=view.manager, rewrote=view.desired, rewrites=rewrites, complete=complete,
        until=until, unseen=(), before=None,
    )  # fmt: skip


def _forgotten(memory: Memory, now: float) -> Memory:
    """Return the memory without a quarrel that is over."""
    stood = memory.theirs is None and now >= memory.until and now - memory.wrote_at > ANSWER
    if memory.rewrites and (stood or now - max(memory.until, memory.wrote_at) > LONGEST):
        return replace(memory, rewrites=0, complete=False)
    return memory


def _owned(owners: Sequence[Rival], target: TargetKey, mode: Mode) -> Note:
    kinds = {owner.kind for owner in owners}
    names = ", ".join(f"{owner.kind} {owner.name}" for owner in owners)
    scale = "scales" if len(owners) == 1 else "scale"
    if kinds == {"RLScaler"}:
        reason, remedy = "OwnedByRLScaler", "delete one of them, or set mode: Shadow in it"
    else:
        reason = "OwnedByScaledObject" if "ScaledObject" in kinds else "OwnedByHPA"
        remedy = f"delete {'it' if len(owners) == 1 else 'them'}, or set mode: Shadow here"
    if mode == "Shadow":
        return Note(reason, f"{names} {scale} {target}, and Shadow only watches; delete it before mode: Active")
    return Note(reason, f"{names} {scale} {target}, so nothing is written to it; {remedy}")


def _shared(rivals: Sequence[Rival], target: TargetKey) -> Note | None:
    if not rivals:
        return None
    names = ", ".join(f"{rival.kind} {rival.name}" for rival in rivals)
    return Note("SharedTarget", f"{names} names {target} too and writes nothing, being younger; delete one of them")


def _rewritten_note(memory: Memory, target: TargetKey) -> Note:
    who = memory.manager or "somebody (no field manager is recorded)"
    end = stamp(memory.until)
    if memory.complete:
        return Note(
            "Yielding",
            f"{who} changes the replicas of {target} again after each write of rlscaler, {memory.rewrites} times so "
            f"far; nothing is written until {end}; take replicas out of what it applies, or set mode: Shadow",
        )
    return Note(
        "ReplicasRewritten",
        f"{who} set {target} to {memory.rewrote} replicas; that stands until {end} and is only raised if the demand "
        f"now needs more; to scale by hand for longer, set the annotation rlscaler.io/paused",
    )
