"""The CustomResourceDefinition of RLScaler, whole: `python -m rlscaler.crd` prints it as YAML.

The schema of the spec is the table that resources are read with (`resource_fields`), that of the status the one
that it is reported with (`resource_status`); the Helm chart carries what is printed here, so none of the three
can drift from the others.
"""

import json
from typing import Any

import yaml

from rlscaler.custom_resource import openapi_schema
from rlscaler.resource_fields import API_VERSION, KIND
from rlscaler.resource_status import status_schema
from rlscaler.resource_values import HAS_UNIT

GROUP, VERSION = API_VERSION.split("/")
PLURAL = "rlscalers"
NAME = f"{PLURAL}.{GROUP}"

SCALE = {
    "specReplicasPath": ".spec.minReplicas",
    "statusReplicasPath": ".status.currentReplicas",
    "labelSelectorPath": ".status.selector",
}
"""The scale subresource of an RLScaler is its floor.

A Scale's spec.replicas is what somebody asks for, and of all counts minReplicas alone is asked of an RLScaler by
others: `kubectl scale rls/web --replicas=20` asks for 20 at least and leaves the rest to the decision, as does a
cron scaler that is pointed at the RLScaler. maxReplicas would make the same command a limit; a count that is
forced has no place here because most of the time there is none, and a path that is empty makes reading the Scale
an error.
"""


def _condition(name: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{name}")].{field}'


def _column(name: str, kind: str, path: str, description: str, priority: int = 0) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | ({"priority": priority} if priority else {})


def columns() -> list[dict[str, Any]]:
    """Return the columns that `kubectl get` shows; those of priority 1 only with `-o wide`."""
    return [
        _column("Target", "string", ".spec.scaleTargetRef.name", "Name of what is scaled."),
        _column("Mode", "string", ".status.mode", "The mode in force; empty where no operator has seen the resource."),
        _column("Min", "integer", ".spec.minReplicas", "Fewest replicas."),
        _column("Max", "integer", ".spec.maxReplicas", "Most replicas."),
        _column("Current", "integer", ".status.currentReplicas", "Pods of the target that exist."),
        _column("Desired", "integer", ".status.desiredReplicas", "Replicas that the decision asks for."),
        _column("Ready", "string", _condition("Ready", "status"), "Whether the resource can be used."),
        _column("Active", "string", _condition("ScalingActive", "status"), "Whether data flow and decisions are made."),
        _column("Reason", "string", ".status.reason", "What a person should know first, in one word."),
        _column("Age", "date", ".metadata.creationTimestamp", "Time since it was made."),
        _column("Kind", "string", ".spec.scaleTargetRef.kind", "Kind of what is scaled.", 1),
        _column("Policy", "string", ".status.policy.name", "The policy that decides.", 1),
        _column("Leader", "string", ".status.policy.tenure.leader", "Who has the most say, where it is earned.", 1),
        _column("Last Scale", "date", ".status.lastScaleTime", "Time since the target's count was last changed.", 1),
    ]


def _told(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose descriptions end with what `kubectl explain` does not show otherwise.

    That is the default, and the form of a duration, of which it knows only that it is no plain text.
    """
    out: dict[str, Any] = {key: _told(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if any(rule["rule"] == HAS_UNIT for rule in out.get("x-kubernetes-validations", ())):
        out["description"] = f"{out['description']} A duration: 500ms, 15s, 1m30s or 2h."
    if "description" in out and out.get("default") not in (None, {}):
        default = out["default"]
        text = default if isinstance(default, str) else json.dumps(default)
        out["description"] = f"{out['description']} Default: {text}."
    return out


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition as the API server takes it, made anew for each caller."""
    spec = _told(openapi_schema())
    schema = {"description": spec.pop("description")} | spec
    schema["properties"]["status"] = status_schema()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["rls"],
                "categories": ["all", "autoscaling"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}, "scale": dict(SCALE)},
                    "additionalPrinterColumns": columns(),
                }
            ],
        },
    }


def crd_yaml() -> str:
    """Return the CustomResourceDefinition as the YAML file of the chart, to the byte."""
    head = "# Made by `python -m rlscaler.crd`; a change made here is lost.\n"
    text: str = yaml.safe_dump(crd(), sort_keys=False, allow_unicode=True, width=120)
    return head + text


if __name__ == "__main__":
    print(crd_yaml(), end="")
