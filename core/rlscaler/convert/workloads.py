"""The workloads that autoscalers scale: who they are, and what CPU a replica requests where their manifest is given."""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from rlscaler.convert.autoscaler import Said
from rlscaler.convert.given import Given
from rlscaler.convert.objects import Object
from rlscaler.quantities import exact_quantity
from rlscaler.resource_fields import OBJECT_NAME
from rlscaler.resource_values import QUANTITY, Amount, Text

APPS = ("Deployment", "StatefulSet", "ReplicaSet")
TEMPLATED = (*APPS, "ReplicationController", "Rollout", "DaemonSet")
"""Kinds whose pods are made of spec.template."""
_OLD = ("extensions/v1beta1", "apps/v1beta1", "apps/v1beta2")
_API_VERSION = Text(
    "a group and version such as apps/v1",
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?v[0-9]+((alpha|beta)[0-9]+)?$",
    253,
)
_KIND = Text("a kind such as Deployment", "^[A-Z][A-Za-z0-9]*$", 63)

Workloads = Mapping[tuple[str, str, str], Object]
"""Objects by kind, namespace and name."""


def target(reference: Given, short: str, *, kind_left_out: str | None = None) -> tuple[Said, Said, Said]:
    """Return apiVersion, kind and name of a scaleTargetRef.

    short: what comments call the autoscaler. kind_left_out: the kind that is meant where none is written, None where
    one has to be. Raises Refused.
    """
    comment = f"the {short}'s"
    name = Said(str(reference.need("name", OBJECT_NAME.expected).value(OBJECT_NAME)), comment)
    written = reference.get("kind")
    if written is not None:
        kind = Said(str(written.value(_KIND)), comment)
    elif kind_left_out is not None:
        kind = Said(kind_left_out, f"left out in the {short}")
    else:
        kind = Said(str(reference.need("kind", _KIND.expected).value(_KIND)), comment)
    return _api_version(reference, kind.value, short), kind, name


def _api_version(reference: Given, kind: str, short: str) -> Said:
    written = reference.get("apiVersion")
    usual = "apps/v1" if kind in APPS else "v1" if kind == "ReplicationController" else None
    if written is None:
        if usual is None:
            reference.need("apiVersion", f"the group and version of {kind}")
        return Said(usual or "", f"left out in the {short}")
    text = str(written.value(_API_VERSION))
    if text in _OLD and usual is not None:
        return Said(usual, f"the {short} has {text}, which is served no more")
    return Said(text, f"the {short}'s")


class CpuRequest(NamedTuple):
    """Cores that a replica requests; None where a container states none, which `lacking` names."""

    cores: Decimal | None
    lacking: str


def cpu_request(workload: Object, container: str | None) -> CpuRequest:
    """Return the CPU request of a workload's pods, or of one container of them; raises Refused.

    A limit stands for a request that is left out, as the API server has it for pods. Init containers that go on running
    count, as for HPA.
    """
    spec = workload.given.at("spec", "template", "spec")
    listed = [] if spec is None else [*_containers(spec, "containers"), *_containers(spec, "initContainers")]
    total, found = Decimal(0), False
    for each, is_init in listed:
        name = each.need("name", "the container's name").scalar("the container's name")
        policy = each.get("restartPolicy")
        if is_init and (policy is None or policy.node.text != "Always"):
            continue
        if container is not None and name != container:
            continue
        found = True
        amount = each.at("resources", "requests", "cpu") or each.at("resources", "limits", "cpu")
        if amount is None:
            return CpuRequest(None, f"container {name} states no CPU request")
        total += exact_quantity(amount.quantity(Amount(QUANTITY, 0)))
    if not found:
        return CpuRequest(None, "it has no such container" if container else "it states no containers")
    return CpuRequest(total, "") if total > 0 else CpuRequest(None, "its CPU request is 0")


def _containers(spec: Given, field: str) -> list[tuple[Given, bool]]:
    found = spec.get(field)
    return [] if found is None else [(each, field == "initContainers") for each in found.items("a list of containers")]
