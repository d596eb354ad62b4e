"""An artifact on its way to where the operator finds policies: a labelled ConfigMap of its namespace, or its folder.

What the operator would refuse is refused here, before anything is written. The ConfigMap is written by server-side
apply, so that rights on one name suffice (`create` and `patch` with `resourceNames`), and so that a key which somebody
else wrote is a conflict and not overwritten.
"""

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from rlscaler.artifact import SUFFIX, Artifact, ArtifactError, dumps, load
from rlscaler.errors import UserError
from rlscaler.files import write_bytes_atomically
from rlscaler.policies import BUILT_IN, PolicyError, from_artifact
from rlscaler.quantities import shown
from rlscaler.resource_fields import LABEL_NAME, OBJECT_NAME
from rlscaler.resource_values import Text, matches
from rlscaler.trial import require_answers, require_numbers
from rlscaler_operator.api_errors import ClusterError, Right
from rlscaler_operator.conflicts import MANAGER
from rlscaler_operator.connection import Connection
from rlscaler_operator.policy_store import LARGEST

LABEL = "rlscaler.io/policy"
"""The label by which the operator finds ConfigMaps with policies; its value is "true"."""
ROOM = 2**20
"""Bytes of all values of a ConfigMap that the API server takes."""
APPLY_PATCH = "application/apply-patch+yaml"
_LONGEST = 64
"""Characters of a policy's name that its field manager has; such a name has 128 in all."""


class Published(NamedTuple):
    """A policy as it is published. name: that a resource says. data: the artifact's file."""

    name: str
    digest: str
    data: bytes


def prepared(path: Path, name: str | None = None, *, any_score: bool = False) -> Published:
    """Return an artifact's file or folder as it is published, after all checks that the operator makes of it.

    name: of the policy; None: the artifact's own. any_score: also where its manifest says that it is no better than
    the rule that it corrects. Raises UserError.
    """
    try:
        artifact = load(path)
        require_numbers(artifact)
        require_answers(from_artifact(artifact))
    except (ArtifactError, PolicyError) as error:
        text = str(error)
        raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    called = artifact.name if name is None else name
    _require_name("--name", called, OBJECT_NAME)
    if called in BUILT_IN:
        raise UserError(f"--name {called} is a built-in policy; give this one another name")
    if not any_score:
        _require_better(path, artifact)
    return Published(called, artifact.digest, dumps(artifact))


def into_folder(folder: Path, policy: Published) -> Path:
    """Write the policy into a folder that the operator mounts, whole or not at all. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"--folder {folder}: there is no such folder; expected the one that the operator mounts")
    if len(policy.data) > LARGEST:
        raise UserError(f"{policy.name} has {len(policy.data):,} bytes; the operator reads {LARGEST:,} at most")
    path = folder / f"{policy.name}{SUFFIX}"
    write_bytes_atomically(path, policy.data)
    return path


def require_place(namespace: str, config_map: str, policy: Published) -> None:
    """Raise UserError unless a ConfigMap can be called so and has room for the policy."""
    _require_name("--configmap", config_map, OBJECT_NAME)
    _require_name("--namespace", namespace, LABEL_NAME)
    if len(policy.data) > ROOM:
        raise UserError(
            f"{policy.name} has {len(policy.data):,} bytes, and a ConfigMap holds {ROOM:,} at most; put it into a "
            "volume that the operator mounts (policies.volume of its chart) by --folder"
        )


def into_config_map(
    connection: Connection, namespace: str, config_map: str, policy: Published, *, force: bool = False
) -> None:
    """Make a ConfigMap hold the policy, beside what else is in it. Raises ClusterError.

    force: take the key over where somebody else wrote it.
    """
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": config_map, "namespace": namespace, "labels": {LABEL: "true"}},
        "binaryData": {f"{policy.name}{SUFFIX}": base64.b64encode(policy.data).decode()},
    }
    path = f"/api/v1/namespaces/{namespace}/configmaps/{config_map}"
    query = urlencode({"fieldManager": _manager(config_map, policy.name), "force": json.dumps(force)})
    right = Right("patch", "", "configmaps", namespace)
    what = f"apply ConfigMap {namespace}/{config_map}"
    try:
        connection.request("PATCH", f"{path}?{query}", what, right, json.dumps(body), APPLY_PATCH)
    except ClusterError as error:
        if error.reason == "Conflict" and not force:
            said = f"{' '.join(error.message.split())}: choose another --configmap, or take it over by --force"
            raise ClusterError(error.reason, said, error.status) from error
        raise


def own_config_map(name: str) -> str:
    """Return what the ConfigMap of a policy is called where nobody says it."""
    return f"policy-{name}"


def _manager(config_map: str, name: str) -> str:
    """Return who applies a policy to a ConfigMap.

    What the same manager applied before, and does not name any more, is taken away: in a ConfigMap of several policies
    each has one of its own.
    """
    if config_map == own_config_map(name):
        return MANAGER
    short = name if len(name) <= _LONGEST else hashlib.blake2b(name.encode(), digest_size=_LONGEST // 2).hexdigest()
    return f"{MANAGER}-policy-{short}"


def _require_name(option: str, name: str, kind: Text) -> None:
    if len(name) > kind.longest or not matches(kind.pattern, name):
        raise UserError(f"{option} {shown(name)}: expected {kind.expected}")


def _require_better(path: Path, artifact: Artifact) -> None:
    """Raise UserError where the artifact's own manifest says that learning made nothing better."""
    scores = artifact.manifest["scores"]
    found, rule = (scores.get(key, math.nan) for key in ("validation_score", "untrained_score"))
    numbers = all(isinstance(value, (int, float)) for value in (found, rule))
    if numbers and found >= rule:
        raise UserError(
            f"{path}: its validation score {found:.3f} is no better than {rule:.3f} of the rule that it corrects; "
            "train longer or on other load, or publish it all the same by --any-score"
        )
