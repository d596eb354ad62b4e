"""Targets of custom kinds: what is known of one whose scale subresource cannot be read."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
import yaml

from minimal_resource import MINIMAL
from rlscaler.resource_objects import TargetRef
from rlscaler_operator import scales
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.cluster import ScaleRead
from rlscaler_operator.collecting import Collector
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Key, TargetKey
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.scales import Scales
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Actuator

POOL = TargetKey("shop", "example.com", "EncoderPool", "web")
SCALER = Key("shop", "web")
LACKS = "EncoderPool of example.com/v1 has no scale subresource: add it to its CRD"


class Server:
    """Answers a read by its failure, where it has one."""

    def __init__(self, fault: ClusterError | None) -> None:
        self.fault = fault

    def scale(self, namespace: str, ref: TargetRef) -> ScaleRead:
        if self.fault is not None:
            raise self.fault
        return ScaleRead(3, 2, "app=web")


def scaler() -> Mapping[str, Any]:
    body = yaml.safe_load(MINIMAL)
    body["metadata"] = {"name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "1"}
    body["spec"]["scaleTargetRef"] = {"apiVersion": "example.com/v1", "kind": "EncoderPool", "name": "web"}
    return cast(Mapping[str, Any], body)


def pool(version: int = 1) -> Mapping[str, Any]:
    metadata = {"name": "web", "namespace": "shop", "uid": "2", "resourceVersion": str(version)}
    return {"apiVersion": "example.com/v1", "kind": "EncoderPool", "metadata": metadata}


def problem(fleet: Fleet) -> tuple[str, str]:
    """Return reason and sentence of what a leader tells of a target that is not known."""
    unused = cast(Any, None)
    leader = Leader(fleet, cast(Collector, unused), cast(PolicyStore, unused), cast(Actuator, unused),
                    cast(Reporter, unused), cast(Telemetry, unused), unused,
                    frozenset({("example.com", "EncoderPool")}))  # fmt: skip
    note = leader.settler.target_problem(POOL)
    return note.reason, note.message


async def until_changed(fleet: Fleet) -> None:
    fleet.take_changed()
    async with asyncio.timeout(20.0):
        await fleet.wake.wait()
    assert fleet.take_changed() == {SCALER}


def test_a_target_that_is_there_and_cannot_be_read_is_told_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scales, "RETRY", 0.01)

    async def scene() -> None:
        fleet, server = Fleet(), Server(ClusterError("Invalid", LACKS))
        fleet.see_workload("ADDED", scaler())
        assert problem(fleet)[0] == "TargetNotFound"
        watched = Scales(fleet, server)
        reading = asyncio.create_task(watched.run())
        watched.see("ADDED", pool())
        await until_changed(fleet)
        assert problem(fleet) == ("TargetUnreadable", f"spec.scaleTargetRef: {LACKS}")
        server.fault = ClusterError("Forbidden", "grant it")
        await until_changed(fleet)
        assert problem(fleet) == ("TargetUnreadable", "spec.scaleTargetRef: grant it")
        server.fault = None
        await until_changed(fleet)
        assert fleet.targets[POOL].desired == 3
        assert not fleet.unreadable
        reading.cancel()

    asyncio.run(scene())


def test_one_that_is_gone_is_not_there_any_more() -> None:
    async def scene() -> None:
        fleet = Fleet()
        fleet.see_workload("ADDED", scaler())
        watched = Scales(fleet, Server(ClusterError("Invalid", LACKS)))
        reading = asyncio.create_task(watched.run())
        watched.see("ADDED", pool())
        await until_changed(fleet)
        watched.see("DELETED", pool(2))
        assert fleet.take_changed() == {SCALER}
        assert problem(fleet)[0] == "TargetNotFound"
        reading.cancel()

    asyncio.run(scene())
