"""Targets of other kinds than the built-in ones: only their scale subresource says where their replicas are counted.

An event of such an object starts a read of its /scale, in a thread and some at a time; events that come meanwhile are
covered by one further read. Nothing is read for an object that no workload names.

Ready replicas: `status.readyReplicas`, else `status.availableReplicas`, where the object has one of them. The scale
subresource tells only how many replicas exist, so without both of them those count as ready, and a replica that
starts is taken for one that serves.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from rlscaler.resource_objects import TargetRef
from rlscaler_operator import objects
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.model import Target, TargetKey

THREADS = 4
"""Reads at a time."""
RETRY = 5.0
"""Seconds until a read that failed is tried again."""

log = logging.getLogger("rlscaler.watching")


class ScaleReader(Protocol):
    """What is needed of `cluster.Cluster`."""

    def scale(self, namespace: str, ref: TargetRef) -> Any:
        """Return what a scale subresource says (`cluster.ScaleRead`); raises ClusterError."""
        ...


class _Seen(NamedTuple):
    """What the watch shows of an object."""

    api_version: str
    uid: str
    version: int
    ready: int | None
    manager: str
    managed_at: float


class Scales:
    """Keeps the fleet's targets of custom kinds up to date."""

    def __init__(self, fleet: Fleet, cluster: ScaleReader) -> None:
        """Take where the targets go, and what reads them."""
        self._fleet, self._cluster = fleet, cluster
        self._seen: dict[TargetKey, _Seen] = {}
        self._waiting: dict[TargetKey, None] = {}
        self._work = asyncio.Event()
        self._failing: set[TargetKey] = set()
        fleet.on_reference = self._want

    def see(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        """Take in an event of an object of a custom kind."""
        key, who = objects.target_key(body), objects.identity(body)
        known = self._seen.get(key)
        if event_type == "DELETED":
            if known is not None and known.uid == who.uid:
                self._forget(key)
        elif known is None or who.version < 0 or who.version >= known.version:
            made = _Seen(body["apiVersion"], who.uid, who.version, objects.ready_of(body), *objects.set_by(body))
            self._seen[key] = made
            self._want(key)

    def keep(self, group: str, kind: str, namespace: str | None, uids: Collection[str], version: int) -> None:
        """Forget each object of a kind that is neither on a list nor newer than it."""
        for key, seen in list(self._seen.items()):
            among = (group, kind) == (key.group, key.kind) and namespace in (None, key.namespace)
            if among and seen.uid not in uids and seen.version <= version:
                self._forget(key)

    async def run(self) -> None:
        """Read what there is to read, until cancelled."""
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="scales")
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(THREADS):
                    group.create_task(self._reads(threads))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _reads(self, threads: ThreadPoolExecutor) -> None:
        while True:
            while not self._waiting:
                self._work.clear()
                await self._work.wait()
            key = next(iter(self._waiting))
            del self._waiting[key]
            seen = self._seen.get(key)
            if seen is not None and self._fleet.is_named(key):
                await self._read(threads, key, seen)

    async def _read(self, threads: ThreadPoolExecutor, key: TargetKey, seen: _Seen) -> None:
        ref = TargetRef(api_version=seen.api_version, kind=key.kind, name=key.name)
        loop = asyncio.get_running_loop()
        try:
            scale = await loop.run_in_executor(threads, self._cluster.scale, key.namespace, ref)
        except ClusterError as error:
            if error.reason == "NotFound":
                return  # the watch tells of its end
            if key not in self._failing:
                log.warning("%s; trying again", error.message)
                self._failing.add(key)
            if self._seen.get(key, seen).uid == seen.uid:
                self._fleet.put_unreadable(key, error.message)
            loop.call_later(RETRY, self._want, key)
            return
        self._failing.discard(key)
        if self._seen.get(key, seen).uid != seen.uid:
            return
        ready = scale.replicas if seen.ready is None else seen.ready
        target = Target(
            key, seen.uid, scale.desired, scale.replicas, ready, scale.selector, seen.manager, seen.managed_at
        )
        self._fleet.put_target(target, seen.version)

    def _want(self, key: TargetKey) -> None:
        if key in self._seen and self._fleet.is_named(key):
            self._waiting[key] = None
            self._work.set()

    def _forget(self, key: TargetKey) -> None:
        uid = self._seen.pop(key).uid
        self._waiting.pop(key, None)
        self._failing.discard(key)
        self._fleet.drop_target(key, uid)
