"""What a leader starts from and leaves behind: the checkpoint in ConfigMaps, and the past read back from Prometheus.

A workload that is new here, be it new to the cluster or to this process, is first given its memory: the guard's from
the checkpoint, the last hour of load from its source, and the decisions of the ticks that were missed, made again
without acting on them. Then it is decided. The rest of its past follows in the background.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from rlscaler_operator import checkpoint, missed_writes, past
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.checkpoint import Kept
from rlscaler_operator.conflicts import MANAGER
from rlscaler_operator.leading import FORGOTTEN, Leader
from rlscaler_operator.model import Key, Readings
from rlscaler_operator.older_past import OlderPast
from rlscaler_operator.past_loads import SLICE, Loads, PastLoads, alike
from rlscaler_operator.queries import Group, fingerprint
from rlscaler_operator.remeasuring import unlearned
from rlscaler_operator.shelf import Shelf

GATHER = 0.2
"""Seconds for which new workloads are gathered before their past is read together."""
AT_ONCE = 256
"""Workloads whose past is taken in together: more cost memory, fewer cost time."""
GROUPS_AT_ONCE = 256
"""Groups of new workloads whose last hour is asked for together, so that the first need not wait for the last."""
SAVE_EVERY = 60.0
"""Seconds between two checkpoints while nothing is changed."""
SOON = 1.0
"""Seconds after a change within which others join it in a checkpoint."""
SAVING = 0.05
"""Share of the time, at most, in which checkpoints are made because of changes."""
TICKS = 8
"""Missed ticks that are decided again at a stretch."""
READ_FOR = 30.0
"""Seconds for which a checkpoint that cannot be read is asked for again."""
READ_AGAIN = 0.5
"""Seconds between two such requests."""
ROOM = 900 * 2**10
"""Bytes of a chunk that a ConfigMap surely has room for: the API server takes 1 MiB in all."""

log = logging.getLogger("rlscaler.keeping")


class Keeper:
    """Gives workloads their memory, and keeps it."""

    def __init__(self, leader: Leader, shelf: Shelf, loads: PastLoads, older: OlderPast) -> None:
        """Take the leader, where its checkpoint lies, and who reads the last hour and the rest of the past."""
        self._leader, self._shelf, self._past, self.older = leader, shelf, loads, older
        self._kept: dict[Key, Kept] = {}
        self._saving = asyncio.Lock()
        self._restored = False

    async def restore(self) -> None:
        """Read the checkpoint; what cannot be read is told and left out."""
        blobs = await self._read_shelf()
        found = []
        for called, blob in blobs:
            kept, note = checkpoint.unpacked(blob, called)
            found.append(kept)
            if note is not None:
                log.warning(note.message, extra={"context": {"reason": note.reason}})
        self._kept, self._restored = checkpoint.newest(found), True
        if self._kept:
            log.info("the checkpoint has %d workloads", len(self._kept))

    async def _read_shelf(self) -> list[tuple[str, bytes]]:
        """Return the chunks of the checkpoint; an API server that is busy or away is asked again for a while."""
        until = self._leader.clock.monotonic() + READ_FOR
        while True:
            try:
                return await asyncio.to_thread(self._shelf.read)
            except ClusterError as error:
                if not error.transient or self._leader.clock.monotonic() >= until:
                    log.warning("no checkpoint: %s", error.message)
                    return []
            await asyncio.sleep(READ_AGAIN)

    async def save_regularly(self) -> None:
        """Keep the state soon after a target was changed or a workload came, else once a minute, until cancelled."""
        leader = self._leader
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_EVERY):
                    await leader.unkept.wait()
                    await asyncio.sleep(SOON)
            began = leader.clock.monotonic()
            await self.save()
            await asyncio.sleep((leader.clock.monotonic() - began) / SAVING)

    async def save(self) -> None:
        """Keep the state as it is now; nothing while the state before has not been read, which this would overwrite."""
        if not self._restored:
            return
        async with self._saving:
            leader = self._leader
            leader.unkept.clear()
            self._kept = {key: one for key, one in self._kept.items() if key in leader.fleet.workloads}
            blobs = []
            # Those that were never decided have no memory but the one that was kept before.
            ready = [
                key
                for key, ledger in leader.ledgers.items()
                if key in leader.decider and (ledger.ready or leader.decider.has_decided(key))
            ]
            parts = list(checkpoint.chunks([*ready, *self._kept]).values())
            for keys in parts:
                blob = self._packed(keys)
                while len(blob) > ROOM and len(keys) > 1:
                    # Last in the line, so that the other chunks keep their names.
                    parts.append(keys[len(keys) // 2 :])
                    del keys[len(keys) // 2 :]
                    await asyncio.sleep(0)
                    blob = self._packed(keys)
                blobs.append(blob)
                await asyncio.sleep(0)
            try:
                await asyncio.to_thread(self._shelf.write, blobs)
            except ClusterError as error:
                log.warning("the state is not kept: %s", error.message)

    def _packed(self, keys: Iterable[Key]) -> bytes:
        """Return the chunk of workloads: of those that wait for their past what was kept before."""
        leader = self._leader
        waiting = {key: self._kept[key] for key in keys if key in self._kept}
        mine = [key for key in keys if key not in waiting and key in leader.decider]
        batches = [*leader.decider.memory(mine), *checkpoint.joined(waiting, math.inf)]
        notes = {key: leader.notes(key) for key in mine} | {key: kept.notes for key, kept in waiting.items()}
        return checkpoint.packed(batches, notes)

    async def read_recent(self) -> None:
        """Give new workloads their memory and their last hour, then let them be decided, until cancelled.

        Each source is read by a task of its own, so that one that hangs keeps the workloads of no other waiting.
        """
        reading: dict[str, tuple[Mapping[Key, object], asyncio.Task[dict[Key, Loads]]]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                if reading:
                    running = [task for _, task in reading.values()]
                    await asyncio.wait(running, timeout=GATHER, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(GATHER)
                read: list[Key] = []
                loads: dict[Key, Loads] = {}
                for source in [source for source, (_, task) in reading.items() if task.done()]:
                    asked, task = reading.pop(source)
                    read += [key for key, load in asked.items() if self._past.asked(key) == load]
                    loads |= task.result()
                for source, keys in self._unread(reading, set(read)).items():
                    asked = {key: self._past.asked(key) for key in keys}
                    reading[source] = asked, tasks.create_task(self._recent(keys))
                await self._remember(read, loads)

    def _unread(self, sources: Container[str], keys: Container[Key]) -> dict[str, list[Key]]:
        """Return new workloads whose target is there, by their source; those of its first groups.

        sources, keys: that are left out.
        """
        leader = self._leader
        found: dict[str, dict[Group, list[Key]]] = {}
        for key in leader.unread:
            if key in keys or key not in leader.roster or leader.target(key) is None:
                continue
            group = leader.roster.group(key)
            groups = found.setdefault(group.load.source, {})
            if group.load.source not in sources and (group in groups or len(groups) < GROUPS_AT_ONCE):
                groups.setdefault(group, []).append(key)
        return {source: list(chain.from_iterable(groups.values())) for source, groups in found.items() if groups}

    async def _recent(self, keys: Sequence[Key]) -> dict[Key, Loads]:
        now = self._leader.clock.now()
        return await self._past.between(keys, now - past.HOUR, now)

    async def _remember(self, keys: Sequence[Key], found: Mapping[Key, Loads]) -> None:
        leader = self._leader
        for begin in range(0, len(keys), AT_ONCE):
            some = [key for key in keys[begin : begin + AT_ONCE] if key in leader.unread and key in leader.decider]
            asked = {key: self._past.asked(key) for key in some}
            await self._give(some, found, leader.clock.now())
            for key in some:  # what is kept of them now is what they remember
                self._kept.pop(key, None)
            others = {key for key in some if self._past.asked(key) != asked[key]}
            leader.decider.forget_past(others)  # half of it may be that of the load before, so it is read again
            some = [key for key in some if key not in others]
            leader.begin(some)
            self.older.add(some)
            await asyncio.sleep(0)

    async def _give(self, keys: Sequence[Key], loads: Mapping[Key, Loads], now: float) -> None:
        """Recall the guard's memory, then take in the last hour and decide again what was missed of it."""
        leader = self._leader
        kept = {key: self._kept[key] for key in keys if key in self._kept and not self._is_of_namesake(key)}
        self._measure(keys, loads)
        leader.recall_policies({key: one.notes for key, one in kept.items()})
        sights = {key: sight for key, one in kept.items() if (sight := self._sight(key, one)) is not None}
        changed = self._changed(kept)
        for batch in checkpoint.joined(kept, now):
            try:
                batch = unlearned(batch, *changed)
                leader.decider.recall(missed_writes.counted(batch, sights, now), leader.refused(batch.keys))
            except ValueError as error:
                log.warning("%d workloads begin with an empty memory: %s", len(batch.keys), error)
        for key, one in kept.items():
            leader.recall_notes(key, one.notes, checkpoint.ahead(one.time, now))
        # Some were decided by this process, until their spec was of no use for a while.
        last = {key: time for key in keys if (time := leader.decider.decided_at(key)) <= now}
        for known, times, values in _matrices({key: loads[key] for key in keys if key in loads}):
            fresh = np.array([key not in last for key in known])
            if fresh.any():
                await self._fill([key for key in known if key not in last], times[fresh], values[fresh])
            if not fresh.all():
                again = [key for key in known if key in last]
                seen = np.array([last[key] for key in again])
                await self._decide_again(again, times[~fresh], values[~fresh], seen)

    def _is_of_namesake(self, key: Key) -> bool:
        """Tell whether what was kept is of a resource that is gone, as this one was made while nobody watched."""
        workload, uid = self._leader.fleet.workloads.get(key), self._kept[key].notes.get("uid")
        return workload is not None and isinstance(uid, str) and uid not in ("", workload.uid)

    def _changed(self, kept: Mapping[Key, Kept]) -> tuple[set[Key], set[Key]]:
        """Return those whose load is another one than what was kept was learned by, and those of another target.

        What was kept before this was told is believed.
        """
        found = set[Key](), set[Key]()
        words = "spec.metrics.load was changed while no operator ran", "spec.scaleTargetRef names another target"
        for key, one in kept.items():
            ledger = self._leader.ledgers.get(key)
            if ledger is None:
                continue
            now = "" if ledger.load is None else fingerprint(ledger.load), str(ledger.target)
            for name, is_now, keys, why in zip(("load", "target"), now, found, words, strict=True):
                if isinstance(before := one.notes.get(name), str) and before != is_now:
                    keys.add(key)
                    if self._leader.decider.learns_capacity(key) and _has_capacity(one):
                        log.warning(FORGOTTEN, key, why)
        return found

    def _measure(self, keys: Iterable[Key], loads: Mapping[Key, Loads]) -> None:
        """Let what is learned go along with a load that is another one now."""
        nothing = Loads(np.zeros(0), np.zeros(0))
        for key, factor in self._leader.decider.measure_anew({key: loads.get(key, nothing) for key in keys}).items():
            if math.isnan(factor):
                log.warning(FORGOTTEN, key, "the load of spec.metrics.load cannot be compared with the former one")
            elif factor != 1.0:
                log.info("%s: spec.metrics.load returns %.3g times the former load, and what was learned of a replica "
                         "is taken times that", key, factor)  # fmt: skip

    async def _fill(self, keys: Sequence[Key], times: np.ndarray, values: np.ndarray) -> None:
        """Take in load; others have their turn in between, above all the renewal of the Lease."""
        known = np.flatnonzero(np.isfinite(values).any(axis=0))  # many were born within the hour
        for begin in range(int(known[0]) if len(known) else times.shape[1], times.shape[1], SLICE):
            self._leader.decider.fill(keys, times[:, begin : begin + SLICE], values[:, begin : begin + SLICE])
            await asyncio.sleep(0)

    def _sight(self, key: Key, kept: Kept) -> missed_writes.Sight | None:
        """Return what the target tells of writes since the memory was kept, None where it was not rlscaler's."""
        workload, target = self._leader.fleet.workloads.get(key), self._leader.target(key)
        before = kept.notes.get("replicas")
        if workload is None or target is None or target.manager != MANAGER or not isinstance(before, int):
            return None
        return missed_writes.Sight(before, target.desired, missed_writes.changed_at(workload, target))

    async def _decide_again(self, keys: Sequence[Key], times: np.ndarray, values: np.ndarray, seen: np.ndarray) -> None:
        """Take in load up to the last decision, and make the decisions after it without acting on them.

        The target is taken to have had its present replicas since then; load is all that is known of these ticks.
        """
        leader = self._leader
        old = int((times <= seen[:, None]).sum(axis=1).min())
        await self._fill(keys, times[:, :old], values[:, :old])
        for column in range(old, times.shape[1]):
            missed = times[:, column] > seen
            if not missed.all():
                rows = np.flatnonzero(~missed).tolist()
                one = slice(column, column + 1)
                leader.decider.fill([keys[row] for row in rows], times[rows, one], values[rows, one])
            rows = np.flatnonzero(missed).tolist()
            due = {keys[row]: float(times[row, column]) for row in rows}
            loads = {keys[row]: float(values[row, column]) for row in rows}
            targets = {key: target for key in due if (target := leader.target(key)) is not None}
            due = {key: time for key, time in due.items() if key in targets and key in leader.decider}
            readings = {key: Readings(due[key], loads[key]) for key in due}
            leader.decider.decide(due, readings, targets, live=False)
            if column % TICKS == 0:
                await asyncio.sleep(0)


def _has_capacity(kept: Kept) -> bool:
    """Tell whether what was kept has a learned capacity."""
    learned = kept.batch.parts.get("learned", {}).get("capacity")
    return learned is not None and bool(np.isfinite(learned[kept.row]).all())


def _matrices(loads: Mapping[Key, Loads]) -> Iterator[tuple[list[Key], np.ndarray, np.ndarray]]:
    """Yield workloads with times and loads as matrices (N, T): those whose samples are as many at the same interval."""
    for keys in alike(loads):
        yield keys, np.array([loads[key].times for key in keys]), np.array([loads[key].values for key in keys])
