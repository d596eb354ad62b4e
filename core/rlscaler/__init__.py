"""rlscaler: the decision of a Kubernetes autoscaler, for N workloads at once.

    from rlscaler import Autoscaler, Settings, Snapshot

The names below are loaded on first use, so that the command line starts fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlscaler.autoscaler import Autoscaler, Decisions
    from rlscaler.settings import MetricLoss, Objective, Settings
    from rlscaler.snapshot import Snapshot

_HOMES = {
    "Autoscaler": "autoscaler",
    "Decisions": "autoscaler",
    "MetricLoss": "settings",
    "Objective": "settings",
    "Settings": "settings",
    "Snapshot": "snapshot",
}

__all__ = ["Autoscaler", "Decisions", "MetricLoss", "Objective", "Settings", "Snapshot"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"rlscaler.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'rlscaler' has no attribute {name!r}")
