"""All that the watches show: workloads, their targets, and who else scales them. In memory; no I/O.

Every target of a watched kind is kept, whether a workload names it or not: half a kilobyte each, and in return the
order in which objects come does not matter. A body is never kept. An event that is older than what is known is
dropped, and so is the end of an object whose name another one has taken over.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from rlscaler_operator import objects
from rlscaler_operator.conflicts import Rival
from rlscaler_operator.model import Key, Target, TargetKey, Workload
from rlscaler_operator.objects import Owner


class _Known(Protocol):
    @property
    def uid(self) -> str: ...


K = TypeVar("K")
V = TypeVar("V", bound=_Known)


class _Table(Generic[K, V]):
    """Objects of one sort, by what names them, each with the version at which it was seen."""

    def __init__(self) -> None:
        self.values: dict[K, V] = {}
        self._versions: dict[K, int] = {}

    def put(self, key: K, value: V, version: int) -> bool:
        """Take an object in, and tell whether that was news."""
        if self.is_old(key, version):
            return False
        self.values[key] = value
        self._versions[key] = version
        return True

    def is_old(self, key: K, version: int) -> bool:
        """Tell whether a later version is known."""
        return -1 < version < self.version(key)

    def version(self, key: K) -> int:
        """Return the version at which an object was seen, -1 where it is not known."""
        return self._versions.get(key, -1)

    def drop(self, key: K, uid: str) -> V | None:
        """Forget an object, and return what it was; None where another one has its name, or none."""
        known = self.values.get(key)
        if known is None or known.uid != uid:
            return None
        del self._versions[key]
        return self.values.pop(key)

    def missing(self, uids: Collection[str], version: int, among: Callable[[K], bool]) -> list[tuple[K, str]]:
        """Return those that a full list of that version does not have."""
        return [
            (key, value.uid)
            for key, value in self.values.items()
            if value.uid not in uids and among(key) and self._versions[key] <= version
        ]


class Fleet:
    """What is known of the cluster.

    workloads, targets: by key; read them, and write them by the methods only. unreadable: why targets that are there
    are not among these. wake: set as soon as `take_changed` has something to tell. on_reference: told of each target
    that a workload begins to name.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._workloads: _Table[Key, Workload] = _Table()
        self._targets: _Table[TargetKey, Target] = _Table()
        self._owners: _Table[tuple[str, str, str], Owner] = _Table()
        self._named_by: dict[TargetKey, set[Key]] = {}
        self._owned_by: dict[TargetKey, set[tuple[str, str, str]]] = {}
        self._target_of: dict[Key, TargetKey] = {}
        self._changed: set[Key] = set()
        self.workloads: Mapping[Key, Workload] = self._workloads.values
        self.targets: Mapping[TargetKey, Target] = self._targets.values
        self.unreadable: dict[TargetKey, str] = {}
        self.wake = asyncio.Event()
        self.on_reference: Callable[[TargetKey], None] = lambda target: None

    # What is known

    def target_of(self, workload: Workload) -> TargetKey | None:
        """Return what a workload scales, None where its spec cannot be used."""
        return None if workload.resource is None else _target_of(workload)

    def is_named(self, target: TargetKey) -> bool:
        """Tell whether a workload scales this target, or claims it."""
        return target in self._named_by

    def version(self, target: TargetKey) -> int:
        """Return the resourceVersion at which a target was last seen, -1 where it is not known."""
        return self._targets.version(target)

    def rivals(self, workload: Workload) -> tuple[Rival, ...]:
        """Return who else scales the target of a workload, and which of them go before it.

        An HPA of KEDA's own making is told as its ScaledObject. A workload in mode Shadow owns nothing, so every
        other goes before it, and it stands in nobody's way.
        """
        target = self.target_of(workload)
        if target is None:
            return ()
        owners = [self._owners.values[key] for key in self._owned_by.get(target, ())]
        scaled = {owner.keda or owner.name for owner in owners if owner.keda or owner.kind == "ScaledObject"}
        hpas = {owner.name for owner in owners if owner.kind == "HorizontalPodAutoscaler" and not owner.keda}
        found = [Rival("ScaledObject", name) for name in sorted(scaled)]
        found += [Rival("HorizontalPodAutoscaler", name) for name in sorted(hpas)]
        for key in sorted(self._named_by.get(target, ())):
            other = self.workloads[key]
            if key != workload.key and not _is_shadow(other):
                older = (other.created, other.key) < (workload.created, workload.key)
                found.append(Rival("RLScaler", other.key.name, older or _is_shadow(workload)))
        return tuple(found)

    def take_changed(self) -> set[Key]:
        """Return the workloads of which something has changed since the last call, those that are gone among them.

        A change of the status alone is none.
        """
        changed, self._changed = self._changed, set()
        self.wake.clear()
        return changed

    # What the watches show; event_type: ADDED, MODIFIED, DELETED, None for an object of a list

    def see_workload(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        """Take in an event of an RLScaler. One that is being deleted counts as gone."""
        who = objects.identity(body)
        key = Key(who.namespace, who.name)
        if event_type == "DELETED":
            return self._drop_workload(key, who.uid)
        if self._workloads.is_old(key, who.version):
            return None
        if objects.is_going(body):
            return self._drop_workload(key, who.uid)
        last = self.workloads.get(key)
        workload = objects.workload(body, last)
        self._workloads.put(workload.key, workload, who.version)
        if last is None or _matters(last) != _matters(workload):
            self._rename(workload.key, self.target_of(workload) or workload.claims)
            self._change(workload.key)
        return None

    def see_target(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        """Take in an event of a Deployment, StatefulSet or ReplicaSet."""
        target = objects.target(body)
        if event_type == "DELETED":
            self.drop_target(target.key, target.uid)
        else:
            self.put_target(target, objects.identity(body).version)

    def see_owner(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        """Take in an event of a HorizontalPodAutoscaler or ScaledObject."""
        who, owner = objects.identity(body), objects.owner(body)
        kind = "ScaledObject" if body.get("kind") == "ScaledObject" else "HorizontalPodAutoscaler"
        key = (kind, who.namespace, who.name)
        if event_type == "DELETED" or owner is None:
            return self._drop_owner(key, who.uid)
        last = self._owners.values.get(key)
        if not self._owners.put(key, owner, who.version) or last == owner:
            return None
        if last is not None:
            self._disown(last.target, key)
        self._owned_by.setdefault(owner.target, set()).add(key)
        self._change_target(owner.target)
        return None

    def put_target(self, target: Target, version: int) -> None:
        """Take in what is known of a target as of a version of its object."""
        last = self.targets.get(target.key)
        if last is not None:
            # One copy of the names is enough, and most events of a target say nothing new.
            target = last if last == target else replace(target, key=last.key)
        self.unreadable.pop(target.key, None)
        if self._targets.put(target.key, target, version) and last is not target:
            self._change_target(target.key)

    def put_unreadable(self, target: TargetKey, why: str) -> None:
        """Take in that a target is there but cannot be read; what was known of it before stays."""
        if self.unreadable.get(target) != why:
            self.unreadable[target] = why
            self._change_target(target)

    def drop_target(self, target: TargetKey, uid: str) -> None:
        """Forget a target that is gone; nothing happens if another one has its name by now."""
        told = self.unreadable.pop(target, None)
        if self._targets.drop(target, uid) is not None or told is not None:
            self._change_target(target)

    # After a full list: whoever is not on it has gone while nobody was looking

    def keep_workloads(self, namespace: str | None, uids: Collection[str], version: int) -> None:
        """Forget each workload (of one namespace, or of all) that is neither listed nor newer than the list."""
        gone = self._workloads.missing(uids, version, lambda key: namespace in (None, key.namespace))
        for key, uid in gone:
            self._drop_workload(key, uid)

    def keep_targets(self, group: str, kind: str, namespace: str | None, uids: Collection[str], version: int) -> None:
        """Forget each target of a kind that is neither listed nor newer than the list."""
        gone = self._targets.missing(
            uids, version, lambda key: (group, kind) == (key.group, key.kind) and namespace in (None, key.namespace)
        )
        for key, uid in gone:
            self.drop_target(key, uid)

    def keep_owners(self, kind: str, namespace: str | None, uids: Collection[str], version: int) -> None:
        """Forget each owner of a kind that is neither listed nor newer than the list."""
        gone = self._owners.missing(uids, version, lambda key: kind == key[0] and namespace in (None, key[1]))
        for key, uid in gone:
            self._drop_owner(key, uid)

    def _drop_workload(self, key: Key, uid: str) -> None:
        if self._workloads.drop(key, uid) is not None:
            self._rename(key, None)
            self._change(key)

    def _drop_owner(self, key: tuple[str, str, str], uid: str) -> None:
        owner = self._owners.drop(key, uid)
        if owner is not None:
            self._disown(owner.target, key)

    def _disown(self, target: TargetKey, owner: tuple[str, str, str]) -> None:
        _take_out(self._owned_by, target, owner)
        self._change_target(target)

    def _rename(self, key: Key, target: TargetKey | None) -> None:
        """Note what a workload scales, or claims, now; the others that scale the same, before or after, hear of it."""
        before = self._target_of.pop(key, None)
        if before is not None and before != target:
            _take_out(self._named_by, before, key)
            self._change_target(before)
        if target is None:
            return
        self._target_of[key] = target
        first = not self.is_named(target)
        self._named_by.setdefault(target, set()).add(key)
        self._change_target(target)
        if first:
            self.on_reference(target)

    def _change_target(self, target: TargetKey) -> None:
        for key in self._named_by.get(target, ()):
            self._change(key)

    def _change(self, key: Key) -> None:
        self._changed.add(key)
        self.wake.set()


def _take_out(index: dict[K, set[Any]], key: K, value: object) -> None:
    members = index[key]
    members.discard(value)
    if not members:
        del index[key]


def _target_of(workload: Workload) -> TargetKey | None:
    assert workload.resource is not None
    ref = workload.resource.spec.scale_target_ref
    return TargetKey(workload.key.namespace, ref.api_version.rpartition("/")[0], ref.kind, ref.name)


def _is_shadow(workload: Workload) -> bool:
    return workload.resource is not None and workload.resource.spec.mode == "Shadow"


def _matters(workload: Workload) -> tuple[object, ...]:
    """Return all of a workload but its status."""
    same = (workload.uid, workload.generation, workload.problem, workload.paused, workload.force)
    return (*same, workload.annotation_problem)
