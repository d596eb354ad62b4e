"""The watches: kopf lists and watches, the fleet takes in what it shows. Nothing is ever written to an object by them.

kopf is embedded for this alone: handlers of raw events, no finalizers, no annotations, no events posted, no scanning
of CRDs and namespaces (`embedded_kopf`). It needs no rights but list and watch on the kinds that are watched.

What kopf does not see to is done here. Kinds that may not be there (KEDA's, custom ones, our own before its CRD is
installed) are looked for now and then, and watched once they are served. A list tells of what went while nobody
watched (`listening`). A watch that nothing is heard of for `INACTIVITY` seconds, not even a bookmark, is replaced.
ReplicaSets that a Deployment made are never sent: by their label, the server leaves them out.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import kopf

from rlscaler.errors import UserError
from rlscaler_operator import embedded_kopf
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.connection import credentials
from rlscaler_operator.embedded_kopf import SLOWEST
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.listening import Kind, Listing, Session, ages
from rlscaler_operator.scales import ScaleReader, Scales

RLSCALERS = Kind("rlscaler.io", "v1alpha1", "rlscalers", "RLScaler")
TARGETS = (
    Kind("apps", "v1", "deployments", "Deployment"),
    Kind("apps", "v1", "statefulsets", "StatefulSet"),
    Kind("apps", "v1", "replicasets", "ReplicaSet"),
)
HPAS = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
SCALED_OBJECTS = Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")
_NEEDED = (RLSCALERS, HPAS)
"""Kinds without which nothing can be decided: without HPAs nobody can tell whom a target belongs to."""

INACTIVITY = 70.0
"""Seconds without a word after which a watch is replaced. The API server sends a bookmark each minute."""
LOOK = 60.0
"""Seconds between two looks for kinds that may come and go."""
AGAIN = 5.0
"""Seconds until a second look for a kind that seems to be gone."""

log = logging.getLogger("rlscaler.watching")


class Reader(ScaleReader, Protocol):
    """What is needed of `cluster.Cluster`; it is called in threads."""

    def served(self, group: str, name: str) -> bool:
        """Tell whether the API server serves a kind; raises ClusterError."""
        ...


class CustomKind(Protocol):
    """A kind of target beside the built-in ones, as the configuration names it."""

    @property
    def group(self) -> str:
        """API group."""
        ...

    @property
    def version(self) -> str:
        """Version of it."""
        ...

    @property
    def plural(self) -> str:
        """Name in URLs."""
        ...

    @property
    def kind(self) -> str:
        """Kind."""
        ...


class Watches:
    """Feeds a fleet, until it is cancelled.

    ready: set once every kind has been listed, so that a target which is not known then is not there. Kinds that may
    not be read do not hold it up, except RLScalers and HPAs. names: of all collections that are watched where they are
    served.
    """

    def __init__(
        self,
        fleet: Fleet,
        cluster: Reader,
        *,
        namespaces: Sequence[str] = (),
        targets: Iterable[CustomKind] = (),
        kubeconfig: str | None = None,
        context: str | None = None,
        inactivity: float = INACTIVITY,
        look: float = LOOK,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the parts; nothing is asked of the API server yet.

        namespaces: none = all. targets: custom kinds with a scale subresource. kubeconfig, context: as for the
        cluster; credentials are read at the start and again after a refusal.
        """
        self._fleet, self._cluster, self._monotonic = fleet, cluster, monotonic
        self._credentials = partial(credentials, kubeconfig, context)
        self._namespaces, self._inactivity, self._look = tuple(dict.fromkeys(namespaces)), inactivity, look
        self._custom = tuple(Kind(kind.group, kind.version, kind.plural, kind.kind) for kind in targets)
        self._scales = Scales(fleet, cluster)
        everything = (RLSCALERS, HPAS, *TARGETS, SCALED_OBJECTS, *self._custom)
        self._optional = frozenset((SCALED_OBJECTS, *self._custom))
        self._listings = {
            kind: [
                Listing(kind, namespace, partial(self._keep, kind, namespace), self._check_ready, monotonic)
                for namespace in self._namespaces or (None,)
            ]
            for kind in everything
        }
        self._served: frozenset[Kind] = frozenset()
        self._looked_at = monotonic()
        self._session = Session(listing for listings in self._listings.values() for listing in listings)
        self._refusals: list[float] = []
        self._told: str = ""
        self.ready = asyncio.Event()
        self.names = tuple(listing.name for listings in self._listings.values() for listing in listings)

    @property
    def kinds(self) -> frozenset[tuple[str, str]]:
        """Group and kind of everything that may be named as a target: all that is watched and may be read."""
        kinds = (*TARGETS, *self._custom)
        refused = {kind for kind in kinds if any(listing.refused for listing in self._listings[kind])}
        return frozenset((kind.group, kind.kind) for kind in kinds if kind not in refused)

    def ages(self) -> Mapping[str, float]:
        """Return the seconds since each collection was last heard of, by name.

        One that has not been listed is left out. Of one that is not served, it is the time since that was found; of
        one that may not be read and need not be (see `ready`), the time since the last refusal.
        """
        now = self._monotonic()
        served = [listing for kind in self._served for listing in self._listings[kind]]
        found = dict(ages(served, now))
        for listing in served:
            if listing.kind not in _NEEDED and listing.refused and not listing.listed:
                found[listing.name] = now - listing.refused_at
        for kind in self._optional - self._served:
            if self._served:
                found |= {listing.name: now - self._looked_at for listing in self._listings[kind]}
        return found

    async def run(self) -> None:
        """Watch until cancelled."""
        embedded_kopf.quieten()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scales.run())
            group.create_task(self._watch())

    async def _watch(self) -> None:
        failures = 0
        while True:
            await self._look_until_served()
            began = self._monotonic()
            try:
                await self._watch_these(self._served)
            except Exception as error:
                failures = 1 if self._monotonic() - began > 10.0 * SLOWEST else failures + 1
                pause = random.uniform(0.0, min(SLOWEST, 0.5 * 2.0 ** min(failures, 10)))
                expected = isinstance(error, (kopf.LoginError, OSError)) or type(error).__name__ == "WatchingError"
                trace = not expected and not hasattr(error, "status")
                log.warning("the watches ended: %s; starting them anew", _sentence(error), exc_info=trace)
                await asyncio.sleep(pause)

    async def _watch_these(self, served: frozenset[Kind]) -> None:
        """Watch these kinds until others are served; raises what kopf fails with."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, errors=kopf.ErrorsMode.TEMPORARY, backoff=SLOWEST)(self._login)
        for kind in sorted(served):
            watched = kopf.on.event(
                group=kind.group, version=kind.version, plural=kind.plural, id=str(kind), registry=registry
            )
            watched(self._handler(kind))
        look = asyncio.create_task(self._look_for_others(served))
        tasks: Collection[asyncio.Task[Any]] = ()
        with embedded_kopf.descendants() as family:
            try:
                with embedded_kopf.signals_left_alone():
                    tasks = await kopf.spawn_tasks(
                        registry=registry,
                        settings=embedded_kopf.settings(self._inactivity),
                        clusterwide=not self._namespaces,
                        namespaces=self._namespaces,
                    )
                done, _ = await asyncio.wait({look, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                try:
                    with embedded_kopf.false_alarm_left_out():
                        await embedded_kopf.ended({look, *tasks}, family)
                finally:
                    await self._session.close()
        for task in done:
            if not task.cancelled():
                task.result()
        if look not in done:
            raise RuntimeError("kopf ended by itself")

    def _handler(self, kind: Kind) -> Callable[..., Any]:
        """Return what takes in the events of a kind."""
        listings = {listing.namespace: listing for listing in self._listings[kind]}
        see = self._fleet.see_target
        if kind == RLSCALERS:
            see = self._fleet.see_workload
        elif kind in (HPAS, SCALED_OBJECTS):
            see = self._fleet.see_owner
        elif kind in self._custom:
            see = self._scales.see

        async def take_in(event: Mapping[str, Any], **_: Any) -> None:
            body = event["object"]
            metadata = body["metadata"]
            try:
                see(event["type"], body)
            except Exception:
                name = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
                log.exception("%s %s could not be taken in; please report this", kind.kind, name)
            if event["type"] is None:
                namespace = metadata.get("namespace") if self._namespaces else None
                if namespace in listings:
                    listings[namespace].took(metadata.get("uid", ""))

        return take_in

    def _keep(self, kind: Kind, namespace: str | None, uids: Iterable[str], version: int) -> None:
        """Take in the end of a list."""
        listed = frozenset(uids)
        if kind == RLSCALERS:
            self._fleet.keep_workloads(namespace, listed, version)
        elif kind in (HPAS, SCALED_OBJECTS):
            self._fleet.keep_owners(kind.kind, namespace, listed, version)
        elif kind in self._custom:
            self._scales.keep(kind.group, kind.kind, namespace, listed, version)
        else:
            self._fleet.keep_targets(kind.group, kind.kind, namespace, listed, version)

    def _check_ready(self) -> None:
        def settled(kind: Kind) -> bool:
            waived = kind not in _NEEDED
            return all(listing.listed or (waived and listing.refused) for listing in self._listings[kind])

        if self._served and all(settled(kind) for kind in self._served):
            self.ready.set()

    async def _look_until_served(self) -> None:
        """Find out which kinds are served, and return once RLScalers are."""
        while True:
            try:
                served = await self._kinds_served()
                gone = self._served - served
                if gone:
                    # An API server that has just started may not know everything yet; nothing is forgotten in haste.
                    await asyncio.sleep(min(AGAIN, self._look))
                    gone -= await self._kinds_served()
                    served |= self._served - gone
            except ClusterError as error:
                self._say(f"cannot look for the kinds to watch: {error.message}; trying again")
            else:
                if RLSCALERS in served:
                    self._say("")
                    self._forget(gone)
                    self._served = served
                    return
                self._say(f"the API server does not know {RLSCALERS}: install the chart's CRD; waiting for it")
            await asyncio.sleep(random.uniform(0.5, 0.5 * SLOWEST))

    async def _look_for_others(self, served: frozenset[Kind]) -> None:
        """Return once other kinds are served than these."""
        while True:
            await asyncio.sleep(self._look)
            for kind in served:
                if all(math.isnan(listing.heard_at) and not listing.refused for listing in self._listings[kind]):
                    self._say(f"{kind} cannot be watched: the API server does not serve it in version {kind.version}")
            with contextlib.suppress(ClusterError):
                if await self._kinds_served() != served:
                    log.info("the API server may serve other kinds than before; starting the watches anew")
                    return

    async def _kinds_served(self) -> frozenset[Kind]:
        found = {HPAS, *TARGETS}
        for kind in (RLSCALERS, *self._optional):
            if await asyncio.to_thread(self._cluster.served, kind.group, kind.plural):
                found.add(kind)
        self._looked_at = self._monotonic()
        return frozenset(found)

    def _forget(self, gone: Iterable[Kind]) -> None:
        """Forget the objects of kinds that are served no more: no event may have told of their end."""
        for kind in gone:
            for listing in self._listings[kind]:
                listing.listed = False
                self._keep(kind, listing.namespace, (), 2**63)

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        """Return a session with credentials that are read anew; the more often they are refused, the later."""
        now = self._monotonic()
        if self._session.unauthorized:
            self._session.unauthorized = False
            self._refusals = [at for at in self._refusals if now - at < 60.0] + [now]
            if len(self._refusals) > 1:
                self._say("the API server does not accept the operator's credentials; check its token or kubeconfig")
                await asyncio.sleep(min(SLOWEST, 0.5 * 2.0 ** len(self._refusals)))
        try:
            settings = await asyncio.to_thread(self._credentials)
        except UserError as error:
            self._say(str(error))
            raise kopf.TemporaryError(str(error), delay=SLOWEST) from None
        return kopf.AiohttpSession(server=settings.host, aiohttp_session=await self._session.open(settings))

    def _say(self, text: str) -> None:
        """Log a state of things once."""
        if text and text != self._told:
            log.warning("%s", text)
        self._told = text


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
