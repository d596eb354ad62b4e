"""Who scales the twins of the side-by-side test: real HPAs and rlscaler, each with one Deployment of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import twin_burst
from fake_nodes import READY_AFTER
from rlscaler import Settings, tuned
from rlscaler.policies import load_policy
from rlscaler.policy import Policy
from rlscaler.quantities import duration_text
from rlscaler.rules.hpa import Hpa
from rlscaler_sim import contenders
from rlscaler_sim.evaluation import own_constants, standard_world
from rlscaler_sim.load import Source, realise_many
from shop import deployment
from twin_burst import CAPACITY, HIGH, INTERVAL, LOW, SCALE, Burst

NAMESPACE, METRIC = "twins", "load"
QUERY = "sum(load_rps)"
"""PromQL of the one load that all twins meet; the HPAs' adapter sends it as the operator does."""
RLSCALER = "rlscaler"


@dataclass(frozen=True, slots=True)
class Twin:
    """A contender, and what its Deployment is called. constants: of an HPA (target, window, tolerance), in seconds
    before time is compressed; None = rlscaler with its default policy."""

    name: str
    constants: Mapping[str, float] | None = None

    def deployment(self, burst: Burst) -> dict[str, Any]:
        """Return its Deployment, whose pods are ready after the start-up time."""
        made = deployment(NAMESPACE, self.name, burst.start)
        template = made["spec"]["template"]
        template["metadata"]["annotations"] = {READY_AFTER: duration_text(burst.startup)}
        template["spec"] |= {"nodeName": "node-0", "terminationGracePeriodSeconds": 0}
        return made

    def scaler(self, burst: Burst) -> dict[str, Any]:
        """Return its HorizontalPodAutoscaler or RLScaler."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
        metadata = {"name": self.name, "namespace": NAMESPACE}
        if self.constants is None:
            spec = twin_burst.spec(burst.speed, QUERY) | {"scaleTargetRef": target, "mode": "Active"}
            return {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": metadata, "spec": spec}
        each = {"type": "AverageValue", "averageValue": f"{1000.0 * self.constants['target'] * burst.capacity:.0f}m"}
        spec = {
            "scaleTargetRef": target,
            "minReplicas": LOW,
            "maxReplicas": HIGH,
            "metrics": [{"type": "External", "external": {"metric": {"name": METRIC}, "target": each}}],
            "behavior": _behavior(self.constants, burst.speed),
        }
        kind = "HorizontalPodAutoscaler"
        return {"apiVersion": "autoscaling/v2", "kind": kind, "metadata": metadata, "spec": spec}

    def entrant(self, burst: Burst) -> tuple[Policy, Settings]:
        """Return its policy and the settings that it runs under in the simulator."""
        if self.constants is None:
            return load_policy("default"), twin_burst.settings(burst.speed)
        bare = twin_burst.settings(burst.speed, _behavior(self.constants, burst.speed))
        return Hpa(target=self.constants["target"], name=self.name), replace(bare, floor=False, flap_budget=np.inf)


def twins(source: Source, start: float, minutes: float) -> list[Twin]:
    """Return the usual contenders.

    hpa: one that aims at 70 %, with the defaults of Kubernetes. hpa-tuned: with the constants that are best on all
    recorded loads, as they ship. hpa-own: with those that are best on this very part of this load, which nobody has
    beforehand. rlscaler: as it ships.
    """
    standard = contenders.standard_settings()
    loads = realise_many(
        [source],
        [0, 1],
        interval=INTERVAL,
        duration=60.0 * minutes,
        start=start,
        scale_to=SCALE,
        capacity=CAPACITY,
    )
    own = own_constants(loads, standard_world(standard), standard)[contenders.OWN][0]
    usual = {name: parameter.default for name, parameter in contenders.HPA_PARAMETERS.items()}
    best = usual | tuned.constants("hpa-tuned")
    return [Twin("hpa", usual), Twin("hpa-tuned", best), Twin("hpa-own", own), Twin(RLSCALER)]


def _behavior(constants: Mapping[str, float], speed: float) -> dict[str, Any]:
    """Return the defaults of Kubernetes with another scale-down window and tolerance, in fast motion."""
    period = max(1, round(15.0 / speed))
    percent, pods = ({"type": kind, "value": value, "periodSeconds": period} for kind, value in _POLICIES.items())
    tolerance = f"{constants['tolerance']:g}"
    up = {"stabilizationWindowSeconds": 0, "policies": [percent, pods], "tolerance": tolerance}
    window = round(constants["window"] / speed)
    down = {"stabilizationWindowSeconds": window, "policies": [percent], "tolerance": tolerance}
    return {"scaleUp": up, "scaleDown": down}


_POLICIES = {"Percent": 100, "Pods": 4}
