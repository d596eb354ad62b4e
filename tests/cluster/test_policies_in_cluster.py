"""Policies in a mounted folder and in ConfigMaps, before an operator that runs: good ones decide, and are followed as
they change; corrupt, foreign and senseless ones are refused with a condition, and the last good one stays.

One story for the folder and the ConfigMaps together, since the operator looks for changes every ten seconds.
"""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fault_scene import HOME, SHOP, Scene
from operator_process import OperatorProcess
from rlscaler.action import CORRECTIONS
from rlscaler.artifact import Artifact, dumps, load
from rlscaler.observation import SCHEMA
from rlscaler.policies import artifact_path
from scene_shop import count, follows, make, reports, says, unharmed
from shop import condition, events
from small_artifact import FILE as FOREIGN

pytestmark = pytest.mark.components("kubernetes", "prometheus")


def table(middle: float, finite: bool = True) -> Artifact:
    """Return a q-table that corrects nothing; `middle` makes its digest another one."""
    values = np.zeros((2, len(CORRECTIONS)))
    values[:, len(CORRECTIONS) // 2] = middle
    manifest: dict[str, Any] = {
        "name": "trained", "kind": "q-table", "observation_schema": SCHEMA, "action_scheme": "headroom",
        "fields": ["trend"], "parameters": {"bins": [["trend", [0.0]]]},
    }  # fmt: skip
    return Artifact(manifest if finite else manifest | {"arrays": {"values": {"finite": False}}}, {"values": values})


OLD, NEW = table(1.0), table(2.0)
_FILE = dumps(OLD)
BAD: dict[str, tuple[bytes, str]] = {
    "corrupt": (_FILE[: len(_FILE) // 2] + bytes(8) + _FILE[len(_FILE) // 2 + 8 :], ""),
    "cut": (_FILE[:-200], ""),
    "foreign": (FOREIGN, ""),
    "no-artifact": (b"apiVersion: v1\nkind: Secret\n", ""),
    "nan": (dumps(table(float("nan"), finite=False)), "NaN"),
}
"""What is refused, and what is said of it."""


class Places:
    """The folder of an operator, and a ConfigMap in its namespace."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        """Make the folder."""
        self._scene, self._folder = scene, folder
        folder.mkdir()

    def put(self, artifacts: Mapping[str, bytes]) -> None:
        """Let both hold these: those of the folder are called folder-NAME, the others map-NAME."""
        for name, data in artifacts.items():
            beside = self._folder / f".{name}"
            beside.write_bytes(data)
            beside.replace(self._folder / f"folder-{name}.rlz")  # whole at once, as a mount does it
        body = {
            "metadata": {"name": "policies", "labels": {"rlscaler.io/policy": "true"}},
            "binaryData": {f"map-{name}.rlz": base64.b64encode(data).decode() for name, data in artifacts.items()},
        }
        path, cluster = f"/api/v1/namespaces/{HOME}/configmaps", self._scene.cluster
        names = [each["metadata"]["name"] for each in cluster.request("GET", path)["items"]]
        if "policies" in names:
            cluster.request("PUT", f"{path}/policies", body)
        else:
            cluster.request("POST", path, body)


PLACES = ("folder", "map")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("policies")) as scene:
        yield scene


@pytest.fixture(scope="module")
def places(scene: Scene) -> Places:
    return Places(scene, scene.directory / "policies")


@pytest.fixture(scope="module")
def operator(scene: Scene, places: Places) -> Iterator[OperatorProcess]:
    places.put({name: data for name, (data, _) in BAD.items()} | {"good": _FILE})
    with scene.operator("one", "--policies", str(scene.directory / "policies"), lease=30.0) as operator:
        yield operator


def test_what_is_refused_is_said_and_replaced_and_refused_again(
    scene: Scene, operator: OperatorProcess, places: Places
) -> None:
    keep = {"scaleDown": {"stabilizationWindowSeconds": 3600}}
    good, bad = [f"{place}-good" for place in PLACES], [f"{place}-{name}" for place in PLACES for name in BAD]
    for name in (*good, *bad):
        make(scene, name, load=200.0, policy={"name": name}, behavior=keep)

    # What is there at the start
    for name in good:
        reports(scene, name, lambda told: told.get("policy", {}).get("digest") == OLD.digest, "its policy")
        assert says(scene, name, "FallbackActive", "NoFallback")["status"] == "False"
    for name in bad:
        ready = says(scene, name, "Ready", "PolicyRefused")
        assert ready["status"] == "False"
        assert BAD[name.partition("-")[2]][1] in ready["message"], ready["message"]
        assert f"{name}.rlz" in ready["message"]
        fallback = says(scene, name, "FallbackActive", "PolicyRefused")
        assert fallback["status"] == "True"
        assert "Meanwhile policy growth-quantile decides" in fallback["message"]
    for name in (*good, *bad):
        follows(scene, name, 200.0, "whatever its policy is", operator)
    high = {name: count(scene, name) for name in (*good, *bad)}
    for name in (*good, *bad):
        scene.load(name, 20.0)

    # All change places
    places.put({name: dumps(NEW) for name in BAD} | {"good": BAD["nan"][0]})
    for name in bad:
        reports(scene, name, lambda told: told["policy"].get("digest") == NEW.digest, "its new policy")
        says(scene, name, "Ready", "Ready")
        says(scene, name, "FallbackActive", "NoFallback")
    for name in good:
        fallback = says(scene, name, "FallbackActive", "PolicyRefused")
        assert f"The last good one, policy {name} ({OLD.digest[:19]}), decides" in fallback["message"]
        assert condition(scene.cluster, SHOP, name, "Ready")["status"] == "True"
        assert reports(scene, name, bool, "anything")["policy"]["digest"] == OLD.digest

    # All is well
    places.put({name: dumps(NEW) for name in (*BAD, "good")})
    for name in good:
        reports(scene, name, lambda told: told["policy"].get("digest") == NEW.digest, "its new policy")
        says(scene, name, "FallbackActive", "NoFallback")
    make(scene, "pinned", policy={"name": "map-good", "digest": OLD.digest})
    message = says(scene, "pinned", "FallbackActive", "PolicyRefused")["message"]
    assert "pin the new digest, or put the former file back" in message
    assert reports(scene, "pinned", bool, "anything")["policy"]["digest"] == OLD.digest
    lower = {name: kept for name in high if (kept := count(scene, name)) < high[name]}
    assert not lower, "the memory of the scale-down window went with a policy"
    for name in (*good, *bad):
        told = [event["reason"] for event in events(scene.cluster, SHOP, name)]
        assert "PolicyRefused" in told
        assert "PolicyLoaded" in told
    unharmed(operator)


def test_what_the_package_brings_is_told_with_its_digest_and_who_has_the_say(
    scene: Scene, operator: OperatorProcess
) -> None:
    digest = load(artifact_path("default")).digest
    for mode in ("On", "Advisory"):
        policy = {"name": "default", "digest": digest} | ({"tenure": mode} if mode != "On" else {})
        make(scene, mode.lower(), load=200.0, policy=policy)
    for mode in ("On", "Advisory"):
        found = reports(
            scene, mode.lower(), lambda told: "learned" in told.get("policy", {}).get("tenure", {}), "its say"
        )
        assert (found["policy"]["digest"], found["policy"]["schema"]) == (digest, SCHEMA)
        assert found["policy"]["tenure"]["mode"] == mode
        follows(scene, mode.lower(), 200.0, f"with tenure {mode}", operator)
    make(scene, "other", policy={"name": "default", "digest": NEW.digest})
    refused = says(scene, "other", "FallbackActive", "PolicyRefused")
    assert f"default of this version has {digest}; expected {NEW.digest}" in refused["message"]
    assert "Meanwhile policy growth-quantile decides" in refused["message"]
    unharmed(operator)
