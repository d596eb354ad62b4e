"""The process: what `rlscaler run` starts, in which order, and how it ends in under two seconds.

Every replica watches; the one that holds the Lease decides (`leading`). All of it runs in one event loop; what blocks
runs in small pools of threads. A part that dies unexpectedly ends the process with an error, for Kubernetes to start
it anew: a half-alive operator would be worse.
"""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlscaler.files import require_writable
from rlscaler.prometheus import Source
from rlscaler_operator import configuration as configurations
from rlscaler_operator import inference, logs, memory_use
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.clock import Clock, SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.collecting import Collector, Line
from rlscaler_operator.configuration import Configuration
from rlscaler_operator.decision_file import DecisionFile
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.health import HealthServer, loop_check, role_check, watch_checks
from rlscaler_operator.heartbeat import LONGEST_LIMIT
from rlscaler_operator.inference import Servers
from rlscaler_operator.keeping import READ_AGAIN, READ_FOR, Keeper
from rlscaler_operator.leadership import Elector
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Note
from rlscaler_operator.older_past import OlderPast
from rlscaler_operator.past_loads import PastLoads
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.recording import Recorder
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.shelf import Shelf
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.under_way import UnderWay
from rlscaler_operator.watching import Watches
from rlscaler_operator.writing import Actuator

CONFIGURED_EVERY = 10.0
"""Seconds between two looks at the configuration file and the policies' folder."""
DRAIN = 0.2
"""Seconds that writes under way have when the process is told to end."""
RECORD = 0.3
"""Seconds that the decision log has at the end to be written."""
KEEP = 0.5
"""Seconds that the state has then to be kept."""
LAST_WRITES = 0.5
"""Seconds for which writes that are under way after that are waited for before the Lease is given away."""
BEAT = 1.0
"""Seconds between two beats of a leader that does not decide yet."""
MEMORY = 2
"""Multiple of a source's maxBytes that reading one answer may take of memory: 128 MiB of the chart's 1 GiB by default.
Who writes a resource chooses what its queries return."""
POLICY_LABEL = "rlscaler.io/policy=true"
"""Label of the ConfigMaps that hold policies, in the operator's own namespace."""

log = logging.getLogger("rlscaler.operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `rlscaler run` is told.

    namespaces: that are watched; none = all. lease_namespace: of the Lease, the kept state and the policies'
    ConfigMaps. lease_seconds: for which a Lease is held without a renewal. decisions: file of the decision log, None =
    none; decisions_megabytes: that it has at most, beside as much that was written before.
    """

    kubeconfig: str | None = None
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    config: Path | None = None
    policies: Path | None = None
    listen: str = "127.0.0.1:8080"
    lease_namespace: str = "default"
    lease_name: str = "rlscaler"
    lease_seconds: float = 15.0
    identity: str = ""
    decisions: Path | None = None
    decisions_megabytes: int = 100


async def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT, or until a part fails.

    Raises UserError where it cannot start as it was told to, and what a part failed with.
    """
    memory_use.settle()
    operator = Operator(options, SystemClock())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    trimming = asyncio.create_task(memory_use.trim_regularly())
    try:
        with logs.aside():
            await operator.run(stop)
    finally:
        trimming.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class _Reign(NamedTuple):
    """The parts that run while we lead."""

    leader: Leader
    keeper: Keeper
    actuator: Actuator
    reporter: Reporter
    recorder: Recorder | None


class Operator:
    """The parts of one process."""

    def __init__(self, options: Options, clock: Clock) -> None:
        """Make the parts; nothing runs yet, and nothing is asked of the cluster."""
        self._options, self._clock = options, clock
        if options.decisions is not None:
            require_writable(options.decisions)
        self._configured = configurations.Watched(options.config)
        self.configuration: Configuration = self._configured.value
        self.cluster = Cluster.connect(options.kubeconfig, options.context)
        self.fleet = Fleet()
        self.store = PolicyStore(options.policies)
        self.telemetry = Telemetry(clock)
        identity = f"{options.identity or socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        seconds = options.lease_seconds
        self.elector = Elector(
            self.cluster,
            clock,
            namespace=options.lease_namespace,
            name=options.lease_name,
            identity=identity,
            duration=seconds,
            renew_deadline=seconds * 2.0 / 3.0,
            retry=seconds * 2.0 / 15.0,
            look=min(0.5, seconds / 10.0),
        )
        self.watches = Watches(
            self.fleet,
            self.cluster,
            namespaces=options.namespaces,
            targets=self.configuration.targets,
            kubeconfig=options.kubeconfig,
            context=options.context,
            monotonic=clock.monotonic,
        )
        self.telemetry.watches(self.watches.ages)
        self.health = HealthServer(
            options.listen,
            self.telemetry.registry,
            [loop_check(self.telemetry.heartbeat, clock)],
            [*watch_checks(self.watches.ages, self.watches.names), role_check(self.elector.valid)],
        )
        self._lead: asyncio.Task[None] | None = None
        self._reign: _Reign | None = None
        self._told = ""
        self._noted: list[Note] = []
        self._failed: asyncio.Future[None] | None = None
        self._writes = UnderWay()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`; raises what a part failed with."""
        await self.health.start()
        self._failed = asyncio.get_running_loop().create_future()
        parts = {
            "watches": asyncio.create_task(self.watches.run()),
            "configuration": asyncio.create_task(self._follow_configuration()),
        }
        ready = asyncio.create_task(self.watches.ready.wait())
        ended = asyncio.create_task(stop.wait())
        ends: list[asyncio.Future[Any]] = [ended, self._failed, *parts.values()]
        try:
            await asyncio.wait([ready, *ends], return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not any(end.done() for end in ends):
                parts["election"] = asyncio.create_task(self.elector.run(self._gained, self._lost))
                ends.append(parts["election"])
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                for name, part in parts.items():
                    if part.done():
                        await part
                        raise RuntimeError(f"{name} ended by itself")
                await self._failed
        finally:
            log.info("ending")
            await self._end(parts.values(), (ready, ended))

    async def _end(self, parts: Iterable[asyncio.Task[None]], helpers: Iterable[asyncio.Task[bool]]) -> None:
        """Hand over: stop deciding, let writes under way end, keep the state, give the Lease away, stop watching."""
        lead, reign = self._lead, self._reign
        if reign is not None and self.elector.valid():
            reign.leader.rest()
            await reign.actuator.drain(DRAIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP):
                    await reign.reporter.drain(DRAIN)
                    await reign.keeper.save()
        if lead is not None:
            lead.cancel()
        self.elector.rest()
        if await asyncio.to_thread(self._writes.ended, LAST_WRITES):
            with contextlib.suppress(Exception):
                await self.elector.release()
        else:
            log.warning("the Lease is not given away but runs out: a write without an answer could come after those of "
                        "the next leader")  # fmt: skip
        tasks = [*parts, *helpers, *([lead] if lead is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if reign is not None and reign.recorder is not None:
            await asyncio.to_thread(reign.recorder.join, RECORD)
        await self.health.stop()
        self.cluster.close()

    def _gained(self) -> None:
        self.telemetry.leader(True)
        self._lead = asyncio.get_running_loop().create_task(self._leads())
        self._lead.add_done_callback(self._led)

    def _lost(self) -> None:
        self.telemetry.leader(False)
        if self._lead is not None:
            self._lead.cancel()

    def _led(self, task: asyncio.Task[None]) -> None:
        if task is self._lead:
            self.telemetry.leader(False)  # again: the loop may have gone round once more before it heard of the end
        if not task.cancelled() and (error := task.exception()) is not None:
            assert self._failed is not None
            if not self._failed.done():
                self._failed.set_exception(error)

    async def _leads(self) -> None:
        """Decide for as long as we lead."""
        options, clock, valid = self._options, self._clock, self.elector.valid
        timeout = options.lease_seconds / 4.0  # less than what lies between our last write and another's first
        reporter = Reporter(self.cluster, clock, valid, timeout=timeout, told=self.telemetry.reported,
                            writes=self._writes)  # fmt: skip
        collector = Collector(self._lines(), self.telemetry.query)
        self.telemetry.sources(collector.lines)
        servers = Servers(self._server_lines())
        actuator = Actuator(self.cluster, valid, clock, random.Random(), timeout=timeout, writes=self._writes)
        leader = Leader(
            self.fleet, collector, self.store, actuator, reporter, self.telemetry, clock, self.watches.kinds, servers
        )
        shelf = Shelf(self.cluster, options.lease_namespace, options.lease_name, valid, timeout, self._writes)
        loads = PastLoads(leader)
        older = OlderPast(leader, loads, lambda: self.configuration.history)
        keeper = Keeper(leader, shelf, loads, older)
        recorder = leader.decider.recorder = self._recorder()
        reign = self._reign = _Reign(leader, keeper, actuator, reporter, recorder)
        try:
            beating = asyncio.create_task(self._beat())
            try:
                await self._find_policies()
                await asyncio.to_thread(self.store.refresh)
                self._tell_of_policies()
                await keeper.restore()
            finally:
                beating.cancel()
            async with asyncio.TaskGroup() as parts:
                parts.create_task(reporter.run())
                parts.create_task(leader.ticks())
                parts.create_task(keeper.read_recent())
                parts.create_task(older.read_on())
                parts.create_task(keeper.save_regularly())
                parts.create_task(self._follow_policies(leader))
                parts.create_task(self._follow_sources(collector))
                parts.create_task(self._follow_servers(servers, leader))
        finally:
            if self._reign is reign:
                self._reign = None
            if recorder is not None:
                recorder.end()
            await actuator.drain(0.0)
            collector.close()
            servers.close()

    def _recorder(self) -> Recorder | None:
        """Return what writes the decision log, None where none is asked for."""
        path = self._options.decisions
        if path is None:
            return None
        return Recorder(DecisionFile(path, self._options.decisions_megabytes * 10**6), self.telemetry.recorded)

    async def _beat(self) -> None:
        """Keep the heartbeat going while a new leader restores what it starts from, which may take its time."""
        until = self._clock.monotonic() + LONGEST_LIMIT
        while (now := self._clock.monotonic()) < until and self.elector.valid():
            self.telemetry.beat(now)
            await asyncio.sleep(BEAT)

    def _lines(self) -> dict[str, Line]:
        found = self._configured.value.sources
        return {
            name: Line(name, Source(each, memory=MEMORY * each.max_bytes), self._clock, each.timeout)
            for name, each in found.items()
        }

    async def _follow_sources(self, collector: Collector) -> None:
        """Take the sources of the configuration as it is now."""
        sources = self._configured.value.sources
        while True:
            await asyncio.sleep(CONFIGURED_EVERY)
            if self._configured.value.sources != sources:
                sources = self._configured.value.sources
                collector.replace(self._lines())
                self.telemetry.sources(collector.lines)
                log.info("the sources of the configuration have changed: %s", ", ".join(sorted(sources)) or "none")

    def _server_lines(self) -> dict[str, inference.Line]:
        found = self._configured.value.servers
        return {
            name: inference.Line(inference.Client(each), self._clock, self.telemetry.served)
            for name, each in found.items()
        }

    async def _follow_servers(self, servers: Servers, leader: Leader) -> None:
        """Take the inference servers of the configuration as it is now."""
        known = self._configured.value.servers
        while True:
            await asyncio.sleep(CONFIGURED_EVERY)
            if self._configured.value.servers != known:
                known = self._configured.value.servers
                servers.replace(self._server_lines())
                leader.policies_changed(())
                log.info("the servers of the configuration have changed: %s", ", ".join(sorted(known)) or "none")

    async def _follow_configuration(self) -> None:
        """Read the configuration again whenever it changes."""
        before = self._configured.value
        while True:
            await asyncio.sleep(CONFIGURED_EVERY)
            if not await asyncio.to_thread(self._configured.changed):
                continue
            problem = await asyncio.to_thread(self._configured.reload)
            if problem is not None:
                log.error(problem.message)
            elif (self._configured.value.targets, self._configured.value.history) != (before.targets, before.history):
                log.warning("targets or history have changed in the configuration: restart the operator to use them")

    async def _follow_policies(self, leader: Leader) -> None:
        """Take in policies as their files and ConfigMaps change."""
        while True:
            await asyncio.sleep(CONFIGURED_EVERY)
            await self._offer_policies()
            if changed := await asyncio.to_thread(self.store.refresh):
                log.info("policies have changed: %s", ", ".join(sorted(changed)))
                leader.policies_changed(changed)
            self._tell_of_policies()

    def _tell_of_policies(self) -> None:
        """Log what is wrong with files and ConfigMaps of policies, once."""
        notes = self.store.notes()
        for note in notes:
            if note not in self._noted:
                log.warning(note.message, extra={"context": {"reason": note.reason}})
        self._noted = notes

    async def _find_policies(self) -> None:
        """Show the store the policies' ConfigMaps for the first time; a busy API server is asked again for a while.

        What was kept of a policy is lost on workloads that it does not decide for when that is read.
        """
        until = self._clock.monotonic() + READ_FOR
        while not await self._offer_policies() and self._clock.monotonic() < until:
            await asyncio.sleep(READ_AGAIN)

    async def _offer_policies(self) -> bool:
        """Show the store the ConfigMaps that hold policies; it keeps what it has where they cannot be listed.

        Return False where another try may do.
        """
        namespace = self._options.lease_namespace
        try:
            found = await asyncio.to_thread(self.cluster.list_config_maps, namespace, POLICY_LABEL)
        except ClusterError as error:
            if error.message != self._told:
                log.warning(error.message)
            self._told = error.message
            return not error.transient
        self._told = ""
        self.store.offer(found)
        return True
