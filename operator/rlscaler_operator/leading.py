"""What the leader does: everyone who is due is read, decided in one batch and settled (`settling`).

One loop for all workloads. Nothing in it waits for a source, the API server or a policy's file: reads and writes are
tasks of their own under deadlines, and their results are taken in when they are there. A follower runs none of it;
when it becomes the leader it starts as a fresh process does: checkpoint, the last hour, the ticks that were missed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlscaler.resource_objects import Spec
from rlscaler_operator import accounts
from rlscaler_operator.asking import Asking, Question
from rlscaler_operator.clock import Clock
from rlscaler_operator.collecting import Collector
from rlscaler_operator.deciding import Admission, Decider
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.inference import Reply, Servers
from rlscaler_operator.ledger import Ledger, chosen, decided_before
from rlscaler_operator.model import Key, Note, PolicyInUse, Readings, Target, Workload
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.proposals import Served
from rlscaler_operator.queries import Group, group_of, load_of
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.roster import Roster
from rlscaler_operator.settling import Settler
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Actuator

BATCH = 0.1
"""Seconds for which readings are gathered before they are decided together."""
SLICE = 100
"""Workloads that are taken in or decided at a stretch: thousands come at once when a process begins."""
ROUND = 0.02
"""Seconds that a round takes at least: hundreds of watch events and due groups a second need no round each."""
IDLE = 1.0
"""Seconds after which the loop looks around though nothing has happened."""

FORGOTTEN = "%s: %s, so what was learned of a replica is forgotten; state spec.capacity.perReplica to go on at once"
"""What the log says where that is so: of whom, and why."""

log = logging.getLogger("rlscaler.loop")


class Leader:
    """Decides for all workloads of a fleet while it may."""

    def __init__(
        self,
        fleet: Fleet,
        collector: Collector,
        store: PolicyStore,
        actuator: Actuator,
        reporter: Reporter,
        telemetry: Telemetry,
        clock: Clock,
        watched: frozenset[tuple[str, str]],
        servers: Servers | None = None,
    ) -> None:
        """Take the parts. watched: group and kind of all targets that are watched. servers: None for none."""
        self.servers = servers if servers is not None else Servers()
        self.fleet, self.collector, self.store = fleet, collector, store
        self.actuator, self.reporter, self.telemetry, self.clock = actuator, reporter, telemetry, clock
        self.decider = Decider()
        self.asking = Asking(self.servers, self.decider, telemetry)
        self.roster = Roster()
        self.ledgers: dict[Key, Ledger] = {}
        self.unread: set[Key] = set()
        self.settler = Settler(
            fleet, self.ledgers, self.decider, actuator, reporter, telemetry, clock, watched, self._start
        )
        self.unkept = self.settler.unkept
        self._resting = False
        self._collecting: set[Group] = set()
        self._collected: dict[Key, tuple[float, Readings]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ticks(self) -> None:
        """Decide until cancelled."""
        everyone = list(self.fleet.workloads.values())
        with contextlib.suppress(Exception):  # what is wrong with one is told when it is taken in
            self.decider.reserve([self._admission(each, Ledger()) for each in everyone if each.resource is not None])
        await self._take_in([each.key for each in everyone])
        after = 0.0
        try:
            while not self._resting:
                await self._take_in(list(self.fleet.take_changed()))
                for due, group in self.roster.due(self.clock.now()):
                    self._collect(due, group, self.roster.members(group))
                if self._collected and self.clock.monotonic() >= after:
                    self._decide([key for key, _ in zip(self._collected, range(SLICE), strict=False)])
                    if self._collected:  # others have their turn, and who is due meanwhile is read
                        await self._yield()
                        continue
                    after = self.clock.monotonic() + BATCH
                self.telemetry.beat(self.clock.monotonic())
                pause = self.roster.next_due() - self.clock.now()
                if self._collected:
                    pause = min(pause, after - self.clock.monotonic())
                await self._pause(min(max(pause, 0.0), IDLE))
        finally:
            for task in self._tasks:
                task.cancel()

    async def _pause(self, seconds: float) -> None:
        wake = self.fleet.wake
        await asyncio.sleep(ROUND)
        if self._collected:  # more may come, and nothing is gained by waking for each
            await asyncio.sleep(seconds - ROUND)
            return
        try:
            async with asyncio.timeout(max(seconds - ROUND, 0.0)):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the loop failed", exc_info=error)

    async def _take_in(self, changed: Sequence[Key]) -> None:
        for begin in range(0, len(changed), SLICE):
            if begin:
                await self._yield()
            self.take_in(changed[begin : begin + SLICE])

    def take_in(self, changed: Iterable[Key]) -> None:
        """Admit, update or drop workloads whose resource, target or other owners have changed."""
        seen: list[tuple[Workload, Ledger]] = []
        for key in changed:
            with _alone(key):
                workload = self.fleet.workloads.get(key)
                if workload is None:
                    self._drop(key)
                else:
                    seen.append((workload, self._seen(workload)))
        failed = self._admit([one for one in seen if self._is_new(*one)])
        for workload, ledger in seen:
            if workload.key not in failed:
                with _alone(workload.key):
                    self._taken_in(workload, ledger)

    def _seen(self, workload: Workload) -> Ledger:
        """Return the ledger of a workload that has changed, with what it names as its target now."""
        key = workload.key
        if (former := self.ledgers.get(key)) is not None and former.version[0] not in ("", workload.uid):
            self._drop(key)  # it was made anew, and nobody saw that its name was free in between
        ledger = self.ledgers.setdefault(key, Ledger())
        before, ledger.target = ledger.target, self.fleet.target_of(workload)
        if before is not None and (before != ledger.target or not accounts.is_active(workload)):
            self.actuator.withdraw(before, key)  # what waits to be written is not wanted any more
        if workload.resource is None:
            self._stop(key)
        return ledger

    def _is_new(self, workload: Workload, ledger: Ledger) -> bool:
        """Tell whether a workload's resource is not the one that it is decided by."""
        if workload.resource is None:
            return False
        return workload.key not in self.decider or ledger.version != (workload.uid, workload.generation)

    def _taken_in(self, workload: Workload, ledger: Ledger) -> None:
        version = (workload.uid, workload.generation)
        if ledger.version != version:
            ledger.readings = ledger.decision = None  # those of the former spec say nothing of this one
        ledger.version = version
        if workload.force is not None:  # whoever forces a count waits for no tick
            self.settler.settle(workload, ledger)
            return
        account = self.settler.account(workload, ledger)
        if account.target is not None:  # a count of the former spec, annotation or owners is not to be tried again
            self.actuator.withdraw(account.target.key, workload.key, account.wanted)
        self.settler.tell(account)

    def _drop(self, key: Key) -> None:
        self._stop(key)
        if key in self.decider:
            self.decider.drop(key)
        ledger = self.ledgers.pop(key, None)
        if ledger is not None and ledger.target is not None:
            self.actuator.withdraw(ledger.target, key)
        self.reporter.forget(key)
        self.telemetry.forget(key)

    def _stop(self, key: Key) -> None:
        """Decide for a workload no more; what is remembered of it stays, as its spec may be of use again soon."""
        self.roster.remove(key)
        self.unread.discard(key)

    def _admit(self, admitted: Sequence[tuple[Workload, Ledger]]) -> set[Key]:
        """Let workloads be decided by their resources as they are now, and return those with which that failed.

        All at once, since one alone costs nearly as much.
        """
        failed: set[Key] = set()
        try:
            self._put([self._admission(*one) for one in admitted])
        except Exception:
            failed = {workload.key for workload, _ in admitted}
            for workload, ledger in admitted:
                with _alone(workload.key):
                    self._put([self._admission(workload, ledger)])
                    failed.discard(workload.key)
        return failed

    def _admission(self, workload: Workload, ledger: Ledger) -> Admission:
        assert workload.resource is not None
        policy, in_use = chosen(self.store, workload.resource.spec.policy, ledger, self.servers)
        if ledger.server is None or ledger.in_use is None or ledger.in_use.name != ledger.server:
            ledger.in_use = in_use  # where a server decided last, it is told until the next decision
        return Admission(workload.key, workload.resource, policy, in_use)

    def _put(self, admissions: Sequence[Admission]) -> None:
        others: list[Key] = []
        for each in admissions:
            ledger, known = self.ledgers[each.key], each.key in self.decider
            if known and ledger.learned_of not in (None, ledger.target) and self.decider.forget_learned(each.key):
                log.warning(FORGOTTEN, each.key, "spec.scaleTargetRef names another target")
            if not known:
                ledger.learned_by = load_of(each.resource.spec)
            ledger.learned_of = ledger.target
            is_other = ledger.load != load_of(each.resource.spec)
            if not known or is_other or each.key not in self.roster:  # who was stopped has missed some load
                self.unread.add(each.key)
                ledger.ready = False
                others += [each.key] if known and is_other else []
        self.decider.put_all(admissions)
        self.decider.forget_past(others)  # it is that of another load, and perhaps in another unit
        for each in admissions:
            spec = each.resource.spec
            self.ledgers[each.key].load = load_of(spec)
            # Shadow's own replicas are those of the policy here, which tell nothing of one that decides elsewhere.
            self.decider.compare(each.key, spec.mode == "Shadow" and spec.policy.server is None)
            self.roster.place(each.key, group_of(spec), self.clock.now())

    def policies_changed(self, names: Iterable[str]) -> None:
        """Ask the store again for the workloads whose policy is one of these, and for those that were refused.

        For those of an inference server as well, whose name or local policy may be another one now.
        """
        named = set(names)
        changed: list[tuple[Workload, Ledger]] = []
        for key, workload in self.fleet.workloads.items():
            ledger = self.ledgers.get(key)
            if workload.resource is None or ledger is None:
                continue
            wanted = workload.resource.spec.policy
            if ledger.policy_problem is not None or wanted.server is not None or wanted.name in named:
                changed.append((workload, ledger))
        failed = self._admit(changed)
        for workload, ledger in changed:
            if workload.key not in failed:
                with _alone(workload.key):
                    self.settler.tell(self.settler.account(workload, ledger))

    def rest(self) -> None:
        """Begin nothing any more; what has been decided may still be written."""
        self._resting = True

    def target(self, key: Key) -> Target | None:
        """Return what is known of a workload's target, None where it is not there."""
        workload = self.fleet.workloads.get(key)
        target = None if workload is None else self.fleet.target_of(workload)
        return None if target is None else self.fleet.targets.get(target)

    def notes(self, key: Key) -> dict[str, Any]:
        """Return what must outlive this process beside the guard's memory, as plain JSON."""
        ledger = self.ledgers[key]
        found = ledger.notes() | {"uid": ledger.version[0]}
        if (target := self.target(key)) is not None:
            found["replicas"] = target.desired
        if (comparison := self.decider.comparison_memory(key)) is not None:
            found["comparison"] = comparison
        return found

    def recall_policies(self, notes: Mapping[Key, Mapping[str, Any]]) -> None:
        """Let the policy that decided before go on where the one asked for cannot be had, as without a restart.

        notes: what `notes` returned, by workload. What was kept is that policy's, so this comes before it is recalled.
        """
        found: list[tuple[Workload, Ledger]] = []
        for key, each in notes.items():
            workload, ledger = self.fleet.workloads.get(key), self.ledgers.get(key)
            if workload is None or workload.resource is None or ledger is None or ledger.usable is not None:
                continue
            ledger.usable = decided_before(self.store, each)
            found += [] if ledger.usable is None else [(workload, ledger)]
        self._admit(found)

    def refused(self, keys: Iterable[Key]) -> set[Key]:
        """Return those of the workloads whose policy cannot be had."""
        return {key for key in keys if key in self.ledgers and self.ledgers[key].policy_problem is not None}

    def recall_notes(self, key: Key, notes: Mapping[str, Any], ahead: float = 0.0) -> None:
        """Put back what `notes` returned. ahead: seconds by which the clock of then was ahead of today's."""
        workload = self.fleet.workloads.get(key)
        self.ledgers[key].recall(notes, {} if workload is None else workload.status, ahead)
        if isinstance(comparison := notes.get("comparison"), Mapping):
            self.decider.recall_comparison(key, comparison)

    def begin(self, keys: Iterable[Key]) -> None:
        """Decide for workloads whose past has been read: at once, then at the moments of their group."""
        groups: dict[Group, list[Key]] = {}
        for key in keys:
            self.unread.discard(key)
            if key in self.roster:
                self.ledgers[key].ready = True
                self.ledgers[key].learned_by = self.ledgers[key].load
                self.unkept.set()
                groups.setdefault(self.roster.group(key), []).append(key)
        for group, members in groups.items():
            self._collect(self.clock.now(), group, members)

    def _collect(self, due: float, group: Group, members: Iterable[Key]) -> None:
        workloads = [self.fleet.workloads[key] for key in members if self._is_decided(key)]
        if not workloads:
            return
        if group in self._collecting:
            self.telemetry.late(len(workloads))
            return
        self._collecting.add(group)
        self._start(self._read(due, group, workloads))

    def _is_decided(self, key: Key) -> bool:
        workload, ledger = self.fleet.workloads.get(key), self.ledgers.get(key)
        return (
            workload is not None
            and ledger is not None
            and ledger.ready
            and workload.resource is not None
            and self.fleet.target_of(workload) in self.fleet.targets
        )

    def _tells(self, key: Key, readings: Readings) -> bool:
        """Tell whether readings are what the resource asks for now; it may have changed while they came."""
        resource = self.fleet.workloads[key].resource
        return resource is not None and readings.asked in (None, resource.spec.metrics)

    async def _read(self, due: float, group: Group, workloads: list[Workload]) -> None:
        try:
            found = await self.collector.collect(due, workloads, self.clock)
        finally:
            self._collecting.discard(group)
        # Who falls behind decides by the newest readings, in the order in which the workloads began to wait.
        self.telemetry.late(len(found.keys() & self._collected.keys()))
        self._collected |= {key: (due, readings) for key, readings in found.items()}
        self.fleet.wake.set()

    def _decide(self, keys: Iterable[Key]) -> None:
        """Decide for some whose readings are there.

        All at a stretch, so that what is written has the count that the decision saw as its precondition.
        """
        collected = {key: self._collected.pop(key) for key in keys}
        elsewhere = {key for key in collected if self._is_decided(key) and self.ledgers[key].server is not None}
        if elsewhere:
            self._ask({key: collected.pop(key) for key in elsewhere})
        self._conclude(collected)

    def _ask(self, collected: dict[Key, tuple[float, Readings]]) -> None:
        """Ask inference servers about workloads; they are decided when it is answered, or late, and nobody waits."""
        for question in self.asking.begun(collected, self._served_by):
            self._start(self._asked(question))

    def _served_by(self, key: Key) -> tuple[str, Spec] | None:
        """Return the server of a workload and what its resource states, None where none is to be asked."""
        workload, server = self.fleet.workloads.get(key), self.ledgers[key].server
        if workload is None or workload.resource is None or server is None or self.target(key) is None:
            return None
        return server, workload.resource.spec

    async def _asked(self, question: Question) -> None:
        """Decide by what a server proposes, or by the local policy where it proposes nothing that can be used."""
        try:
            self._conclude(question.collected, *await self.asking.answer(question, self.target))
        finally:
            self.asking.over(question)

    def _conclude(
        self,
        collected: Mapping[Key, tuple[float, Readings]],
        served: Mapping[Key, Served] | None = None,
        reply: Reply | Note | None = None,
    ) -> None:
        """Decide for some whose readings are there. served: what a server proposes, reply: what it answered."""
        began = self.clock.monotonic()
        due = {key: at for key, (at, found) in collected.items() if self._is_decided(key) and self._tells(key, found)}
        readings = {key: collected[key][1] for key in due}
        targets = {key: target for key in due if (target := self.target(key)) is not None}
        more: dict[str, Any] = {"served": served} if served else {}
        decisions = self.decider.decide(due, readings, targets, **more)
        self.telemetry.decided(len(decisions), self.clock.monotonic() - began)
        now = self.clock.now()
        for key, decision in decisions.items():
            ledger = self.ledgers[key]
            ledger.readings, ledger.decision = readings[key], decision
            if ledger.server is not None:
                self._note_server(key, ledger, reply, served is not None and key in served)
            self.telemetry.on_time(now - due[key] <= self.roster.group(key).interval)
            with _alone(key):
                self.settler.settle(self.fleet.workloads[key], ledger)

    def _note_server(self, key: Key, ledger: Ledger, reply: Reply | Note | None, used: bool) -> None:
        """Note by whom a workload of an inference server was decided, and why not by the server."""
        if used and isinstance(reply, Reply) and ledger.server is not None:
            ledger.in_use = PolicyInUse(ledger.server, reply.digest, reply.schema)
            ledger.server_problem = None
            return
        ledger.server_problem = reply if isinstance(reply, Note) else None
        if ledger.server_problem is not None and (local := self.decider.in_use(key)) is not None:
            ledger.in_use = local

    async def _yield(self) -> None:
        """Let others have their turn, above all the renewal of the Lease."""
        self.telemetry.beat(self.clock.monotonic())
        await asyncio.sleep(0)


@contextlib.contextmanager
def _alone(key: Key) -> Iterator[None]:
    """Keep a fault of this program that one workload brings to light from the others; it is logged with its trace."""
    try:
        yield
    except Exception:
        log.exception("%s: a defect of rlscaler; the other workloads go on", key)
