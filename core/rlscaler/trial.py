"""What an artifact has to show before it may decide for anybody: numbers in its arrays, and finite answers on trial."""

import numpy as np

from rlscaler.artifact import Artifact, ArtifactError
from rlscaler.autoscaler import Autoscaler
from rlscaler.policies import PolicyError
from rlscaler.policy import Policy
from rlscaler.settings import Settings
from rlscaler.snapshot import Snapshot

_TRIALS = 8


def require_numbers(artifact: Artifact) -> None:
    """Raise ArtifactError where an array holds NaN, also where the manifest allows it: no weight of ours may."""
    for name, array in artifact.arrays.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ArtifactError(f"array {name} holds NaN; expected numbers")


def require_answers(policy: Policy) -> None:
    """Raise PolicyError unless the policy gives finite replicas for workloads of several sizes."""
    load = 10.0 ** np.linspace(-1.0, 6.0, _TRIALS)
    replicas = np.ceil(load / 50.0) + 1.0
    settings = Settings(max_replicas=10**6, capacity_per_replica=50.0)
    scaler = Autoscaler(policy, settings, _TRIALS)
    for tick in range(4):
        time, factor = 15.0 * tick, 1.0 + 0.3 * tick
        snapshot = Snapshot(time=time, load=load * factor, ready=replicas, starting=0.0, desired=replicas)
        proposal, error = scaler.propose(scaler.view(snapshot))
        if error:
            raise PolicyError(f"it fails on trial ({error}); expected replicas for every workload")
        if not np.isfinite(proposal.replicas).all():
            raise PolicyError("it gives no finite number of replicas on trial; expected replicas for every workload")
