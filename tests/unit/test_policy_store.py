"""Policies by name: found, pinned, followed as they change; a bad one is refused and the last good one decides."""

import io
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscaler import policies
from rlscaler.action import CORRECTIONS
from rlscaler.artifact import Artifact, dumps, load
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import SCHEMA
from rlscaler.policies import BUILT_IN, RULES, artifact_path
from rlscaler.table import TablePolicy
from rlscaler.tenured import Tenured
from rlscaler_operator.model import PolicyInUse
from rlscaler_operator.policy_store import LARGEST, PolicyRefused, PolicyStore
from small_artifact import FILE as FOREIGN

STATES = 2


def artifact(middle: float = 1.0, **changes: Any) -> Artifact:
    """Return a q-table that can decide, the same for the same arguments; `middle` makes its digest another one."""
    values = np.zeros((STATES, len(CORRECTIONS)))
    values[:, len(CORRECTIONS) // 2] = middle
    arrays = {"values": values}
    if "values" in changes:
        arrays["values"] = changes.pop("values")
    manifest: dict[str, Any] = {
        "name": "trained",
        "kind": "q-table",
        "observation_schema": SCHEMA,
        "action_scheme": "headroom",
        "fields": ["trend"],
        "parameters": {"bins": [["trend", [0.0]]]},
    }
    if np.isnan(arrays["values"]).any():
        manifest["arrays"] = {"values": {"finite": False}}
    return Artifact(manifest | changes, arrays)


GOOD, NEWER, NEWEST = artifact(), artifact(2.0), artifact(3.0)


@dataclass
class Map:
    """A ConfigMap as the cluster shows it."""

    name: str
    binary_data: Mapping[str, bytes] = field(default_factory=dict)
    resource_version: str = "1"


def digest_of(store: PolicyStore, name: str, digest: str | None = None) -> str:
    return store.get(name, digest)[1].digest


def refused(store: PolicyStore, name: str, digest: str | None = None) -> tuple[str, str]:
    with pytest.raises(PolicyRefused) as caught:
        store.get(name, digest)
    assert str(caught.value) == caught.value.note.message
    return caught.value.note


def written(path: Path, data: bytes, moment: int) -> Path:
    """Write a file as if at this moment, so that its time of change differs whatever the clock's steps are."""
    path.write_bytes(data)
    os.utime(path, (moment, moment))
    return path


def test_every_built_in_policy_is_there_under_its_name() -> None:
    store = PolicyStore()
    assert store.names() == ["default", "learned", *RULES]
    for name in BUILT_IN:
        policy, in_use = store.get(name)
        assert in_use.name == name
        assert policy is store.get(name)[0]
        assert store.problem(name) is None
    for name in RULES:
        assert store.get(name)[1] == PolicyInUse(name), "without digest and schema"
    (default, shipped), (learned, alone) = store.get("default"), store.get("learned")
    assert isinstance(default, Tenured)
    assert isinstance(learned, MlpPolicy)
    assert shipped.digest == alone.digest == load(artifact_path("default")).digest
    assert (shipped.schema, shipped.tenure, alone.tenure) == (SCHEMA, "On", "")


def test_what_the_package_brings_is_held_against_a_digest() -> None:
    store = PolicyStore()
    for name in ("default", "learned"):
        digest = digest_of(store, name)
        assert store.get(name, digest) == store.get(name)
        reason, message = refused(store, name, NEWER.digest)
        assert reason == "PolicyRefused"
        assert message.startswith(f"spec.policy.digest: {name} of this version has {digest}; expected {NEWER.digest}")


def test_a_mode_of_tenure_is_one_policy_for_all_who_ask_for_it(tmp_path: Path) -> None:
    written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    for name, own in (("default", "On"), ("learned", ""), ("mine", "")):
        found = {mode: store.get(name, None, mode) for mode in ("On", "Advisory", "Off", None)}
        modes = {mode: in_use.tenure for mode, (_, in_use) in found.items()}
        assert modes == {"On": "On", "Advisory": "Advisory", "Off": "", None: own}, name
        assert len({in_use.digest for _, in_use in found.values()}) == 1, name
        for mode, (policy, in_use) in found.items():
            assert isinstance(policy, Tenured) == bool(in_use.tenure), name
            assert store.get(name, None, mode)[0] is policy, name
        assert found[own or "Off"][0] is found[None][0], "the mode that it is in anyhow"
        constants = {repr(policy.tenure.rate) for policy, _ in found.values() if isinstance(policy, Tenured)}
        assert len(constants) == 1, name


def test_a_rule_has_no_say_to_earn() -> None:
    store = PolicyStore()
    assert store.get("hpa", None, "Off") == store.get("hpa")
    with pytest.raises(PolicyRefused, match=r"spec.policy.tenure: hpa is a rule, and tenure is for learned") as caught:
        store.get("hpa", None, "Advisory")
    assert caught.value.note.reason == "PolicyRefused"


def test_a_rule_has_no_digest() -> None:
    reason, message = refused(PolicyStore(), "hpa", "sha256:" + "0" * 64)
    assert reason == "PolicyRefused"
    assert message.startswith("spec.policy.digest: hpa is a rule of this version and has no digest; leave it out")


def test_what_is_not_there_is_told_with_what_is_near(tmp_path: Path) -> None:
    written(tmp_path / "shop-trained.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    reason, message = refused(store, "shop-traned")
    assert reason == "PolicyNotFound"
    assert message.startswith("spec.policy.name: shop-traned is no policy here; did you mean shop-trained? There are ")
    assert f"the folder {tmp_path}" in message
    assert 'rlscaler.io/policy: "true"' in message
    _, message = refused(PolicyStore(), "x" * 10_000)
    assert len(message) < 600
    assert "folder" not in message


def test_an_artifact_of_the_folder_is_called_as_its_file(tmp_path: Path) -> None:
    written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    policy, in_use = store.get("mine")
    assert isinstance(policy, TablePolicy)
    assert (in_use.name, in_use.digest, in_use.schema) == ("mine", GOOD.digest, SCHEMA)
    assert store.names()[-1] == "mine"
    assert store.notes() == []
    assert store.get("mine", GOOD.digest)[0] is policy
    reason, message = refused(store, "mine", NEWER.digest)
    assert reason == "PolicyRefused"
    assert f"mine.rlz has {GOOD.digest}; expected {NEWER.digest}" in message


def test_an_artifact_of_a_config_map_is_called_as_its_key() -> None:
    store = PolicyStore()
    store.offer([Map("policies", {"mine.rlz": dumps(GOOD), "yours.rlz": dumps(NEWER), "README": b"of mine"})])
    assert "mine" not in store.names(), "it counts from the next refresh on"
    assert store.refresh() == {"mine", "yours"}
    assert digest_of(store, "mine") == GOOD.digest
    assert digest_of(store, "yours") == NEWER.digest
    assert store.notes() == []


def test_who_comes_first(tmp_path: Path) -> None:
    for name in ("mine", "hpa"):
        written(tmp_path / f"{name}.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    store.offer([Map("b", {"mine.rlz": dumps(NEWER), "both.rlz": dumps(NEWEST)}),
                 Map("a", {"both.rlz": dumps(NEWER), "default.rlz": dumps(NEWER)})])  # fmt: skip
    store.refresh()
    assert digest_of(store, "hpa") == ""
    assert digest_of(store, "default") != NEWER.digest
    assert digest_of(store, "mine") == GOOD.digest, "the folder"
    assert digest_of(store, "both") == NEWER.digest, "the ConfigMap whose name comes first"
    told = "\n".join(message for reason, message in store.notes() if reason == "PolicyPassedOver")
    assert f"{tmp_path / 'hpa.rlz'} is passed over: hpa is a built-in policy; rename the file" in told
    assert "ConfigMap a, key default.rlz is passed over: default is a built-in policy" in told
    assert f"ConfigMap b, key mine.rlz is passed over: there is {tmp_path / 'mine.rlz'} of that name" in told
    assert "ConfigMap b, key both.rlz is passed over: ConfigMap a, key both.rlz has that name" in told
    assert len(store.notes()) == 4
    store.refresh()
    assert len(store.notes()) == 4, "told again, not twice"


def test_what_cannot_be_a_policy_is_told(tmp_path: Path) -> None:
    written(tmp_path / "Of_Mine.rlz", dumps(GOOD), 1)
    written(tmp_path / "notes.txt", b"of mine", 1)
    written(tmp_path / ".mine.rlz.tmp.rlz", b"half", 1)
    store = PolicyStore(tmp_path)
    store.offer([Map("empty"), Map("text", {"policy.json": b"{}"})])
    assert store.refresh() == set()
    assert store.names() == list(BUILT_IN)
    assert [message.split(":")[0] for _, message in store.notes()] == [
        f"{tmp_path / 'Of_Mine.rlz'} is passed over", "ConfigMap empty is passed over", "ConfigMap text is passed over",
    ]  # fmt: skip
    assert "kubectl create configmap empty --from-file=NAME.rlz" in store.notes()[1].message


def test_a_folder_that_is_not_there_is_told_and_may_come(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies")
    assert [message for _, message in store.notes()] == [
        f"{tmp_path / 'policies'} is passed over: it cannot be listed: No such file or directory; expected a folder"
    ]
    (tmp_path / "policies").mkdir()
    written(tmp_path / "policies" / "mine.rlz", dumps(GOOD), 1)
    assert store.refresh() == {"mine"}
    assert store.notes() == []


# What changes.


def test_a_changed_file_decides_from_the_next_refresh_on(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    before = store.get("mine")[0]
    assert store.refresh() == set()
    written(path, dumps(NEWER), 2)
    assert store.get("mine")[0] is before
    assert store.refresh() == {"mine"}
    assert digest_of(store, "mine") == NEWER.digest
    assert store.refresh() == set()


def test_the_same_content_written_again_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    policy = store.get("mine")[0]
    written(path, dumps(GOOD), 2)
    assert store.refresh() == set()
    assert store.get("mine")[0] is policy
    store.offer([Map("map", {"yours.rlz": dumps(NEWER)})])
    assert store.refresh() == {"yours"}
    policy = store.get("yours")[0]
    store.offer([Map("map", {"yours.rlz": dumps(NEWER)}, "2")])
    assert store.refresh() == set()
    assert store.get("yours")[0] is policy


def test_nothing_is_read_where_nothing_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    written(tmp_path / "bad.rlz", b"bad", 1)
    store = PolicyStore(tmp_path)
    store.offer([Map("map", {"yours.rlz": dumps(NEWER)})])
    store.refresh()

    def read(*_: Any) -> bytes:
        raise AssertionError("read again")

    monkeypatch.setattr("rlscaler_operator.policy_store.read_file", read)
    monkeypatch.setattr("rlscaler_operator.policy_store.loads", read)
    assert store.refresh() == set()
    assert {note.reason for note in store.notes()} == {"PolicyRefused"}, "what is bad is still told"


def test_a_mounts_swap_of_links_is_followed(tmp_path: Path) -> None:
    """As the kubelet updates a volume: files are links through `..data`, which is replaced by a rename."""
    for moment, policy in enumerate((GOOD, NEWER)):
        (tmp_path / f"..{moment}").mkdir()
        written(tmp_path / f"..{moment}" / "mine.rlz", dumps(policy), 7)
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "mine.rlz").symlink_to("..data/mine.rlz")
    store = PolicyStore(tmp_path)
    assert digest_of(store, "mine") == GOOD.digest
    (tmp_path / "..tmp").symlink_to("..1")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert store.refresh() == {"mine"}
    assert digest_of(store, "mine") == NEWER.digest


def test_a_half_written_file_is_no_alarm(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    data = dumps(NEWER)
    for moment, share in enumerate((0.2, 0.6, 0.9), start=2):
        written(path, data[: int(share * len(data))], moment)
        assert store.refresh() == set()
        assert store.problem("mine") is None
        assert digest_of(store, "mine") == GOOD.digest
    written(path, data, 9)
    assert store.refresh() == {"mine"}
    assert digest_of(store, "mine") == NEWER.digest
    written(path, data[:-10], 10)
    assert store.refresh() == set()
    assert store.refresh() == {"mine"}, "it has stayed so: it is not being written, it is broken"
    assert store.problem("mine") is not None


def test_a_file_that_is_replaced_by_a_rename_counts_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    written(tmp_path / ".mine.tmp", dumps(NEWER), 1).replace(path)
    assert store.refresh() == {"mine"}
    assert digest_of(store, "mine") == NEWER.digest


# What is bad.


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"{}")
        archive.writestr("values.npy", bytes(2**26))
    return out.getvalue()


def lying_bomb() -> bytes:
    return bomb().replace(struct.pack("<I", 2**26), struct.pack("<I", 100))


def not_finite() -> np.ndarray:
    values = np.zeros((STATES, len(CORRECTIONS)))
    values[1, 3] = np.nan
    return values


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a readable zip"),
    "a pickle": (lambda: b"\x80\x04\x95\x00", "not a readable zip"),
    "cut": (lambda: dumps(NEWER)[:-20], "not a readable zip"),
    "a flipped byte": (lambda: dumps(NEWER).replace(b"headroom", b"headroon", 1), "it is not a readable zip"),
    "too large": (lambda: dumps(NEWER) + bytes(LARGEST), "expected at most 8388608"),
    "a bomb": (bomb, "it unpacks to more than 8388608 bytes; expected less"),
    "a bomb that lies": (lying_bomb, "not a readable zip"),
    "another schema": (lambda: dumps(artifact(observation_schema="0")), "observation_schema of policy trained is '0'"),
    "another scheme": (lambda: dumps(artifact(action_scheme="jump")), "action_scheme of policy trained is 'jump'"),
    "another kind": (lambda: dumps(artifact(kind="forest")), "policy kind 'forest' is unknown"),
    "of other bins": (lambda: dumps(artifact(parameters={})), "a q-table needs parameters.bins"),
    "NaN weights": (lambda: dumps(artifact(values=not_finite())), "array values holds NaN; expected numbers"),
    "foreign": (lambda: FOREIGN, "parameters.output"),
}


@pytest.mark.parametrize("kind", ["file", "ConfigMap"])
@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_a_bad_one_is_refused_and_the_last_good_one_stays(
    data: Callable[[], bytes], message: str, kind: str, tmp_path: Path
) -> None:
    store = PolicyStore(tmp_path)

    def put(content: bytes, moment: int) -> set[str]:
        if kind == "file":
            written(tmp_path / "mine.rlz", content, moment)
        else:
            store.offer([Map("policies", {"mine.rlz": content}, str(moment))])
        return store.refresh() | store.refresh()

    called = str(tmp_path / "mine.rlz") if kind == "file" else "ConfigMap policies, key mine.rlz"
    assert put(data(), 1) == {"mine"}
    note = refused(store, "mine")
    assert note[0] == "PolicyRefused"
    assert note[1].startswith(f"{called}: ")
    assert note[1].endswith("; export it again with this version of rlscaler, or put the former file back")
    assert any(part in note[1] for part in message.split("|"))
    assert "max_bytes" not in note[1]
    assert "mine" not in store.names()
    assert store.problem("mine") is None, "get says it already"

    assert put(dumps(GOOD), 2) == {"mine"}
    assert digest_of(store, "mine") == GOOD.digest
    assert put(data(), 3) == {"mine"}
    for _ in range(3):
        assert digest_of(store, "mine") == GOOD.digest
        assert store.problem("mine") == note
        assert store.notes() == [note]
        assert store.refresh() == set()
    assert put(dumps(NEWER), 4) == {"mine"}
    assert digest_of(store, "mine") == NEWER.digest
    assert store.problem("mine") is None


def test_the_good_one_again_is_no_other_policy(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    policy = store.get("mine")[0]
    written(path, b"bad", 2)
    store.refresh()
    store.refresh()
    written(path, dumps(GOOD), 3)
    assert store.refresh() == {"mine"}, "the problem is gone"
    assert store.get("mine")[0] is policy


class Moody(TablePolicy):
    """A policy that breaks when it is asked, or gives no number."""

    answer: float | None = None

    def propose(self, view: Any, state: Any) -> Any:
        if self.answer is None:
            raise ZeroDivisionError("division by zero")
        proposal, state = super().propose(view, state)
        proposal.replicas = proposal.replicas * self.answer
        return proposal, state


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "fails on trial (ZeroDivisionError: division by zero)"), (np.inf, "no finite number of replicas on trial")],
    ids=["raises", "infinite"],
)
def test_a_policy_is_tried_before_it_decides(
    answer: float | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Moody, "answer", answer)
    monkeypatch.setitem(policies._KINDS, "q-table", Moody)
    written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    assert message in refused(PolicyStore(tmp_path), "mine")[1]


def test_what_is_no_plain_file_is_refused_and_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.rlz")
    (tmp_path / "folder.rlz").mkdir()
    (tmp_path / "nowhere.rlz").symlink_to(tmp_path / "gone")
    store = PolicyStore(tmp_path)
    assert "'pipe.rlz' is not a plain file" in refused(store, "pipe")[1]
    assert "folder.rlz: cannot be read: Is a directory" in refused(store, "folder")[1]
    assert "nowhere.rlz: cannot be read: No such file" in refused(store, "nowhere")[1]


# What is deleted, and what is pinned.


@pytest.mark.parametrize("kind", ["file", "ConfigMap"])
def test_what_is_deleted_stays_in_use(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.rlz"
    store = PolicyStore(tmp_path)
    if kind == "file":
        written(path, dumps(GOOD), 1)
    else:
        store.offer([Map("policies", {"mine.rlz": dumps(GOOD)})])
    store.refresh()
    path.unlink(missing_ok=True)
    store.offer([])
    assert store.refresh() == {"mine"}
    assert store.refresh() == set()
    assert digest_of(store, "mine") == GOOD.digest
    note = store.problem("mine")
    assert note is not None
    assert note.reason == "PolicyNotFound"
    assert "mine.rlz is gone; what it held stays in use until the operator restarts: put it back" in note.message
    assert refused(PolicyStore(tmp_path), "mine")[0] == "PolicyNotFound"

    written(path, dumps(GOOD), 2)
    assert store.refresh() == {"mine"}
    assert store.problem("mine") is None
    assert digest_of(store, "mine") == GOOD.digest


def test_what_was_never_good_is_forgotten_with_its_file(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.rlz", b"bad", 1)
    store = PolicyStore(tmp_path)
    path.unlink()
    assert store.refresh() == {"mine"}
    assert refused(store, "mine")[0] == "PolicyNotFound"
    assert store.notes() == []


def test_a_pinned_digest_outlives_one_change(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.rlz", dumps(GOOD), 1)
    store = PolicyStore(tmp_path)
    policy = store.get("mine", GOOD.digest)[0]
    assert store.problem("mine", GOOD.digest) is None
    written(path, dumps(NEWER), 2)
    store.refresh()
    assert store.get("mine", GOOD.digest)[0] is policy
    note = store.problem("mine", GOOD.digest)
    assert note is not None
    assert f"mine.rlz has {NEWER.digest} now; the pinned one stays in use until the operator restarts" in note.message
    assert digest_of(store, "mine") == digest_of(store, "mine", NEWER.digest) == NEWER.digest
    assert store.problem("mine", NEWER.digest) is None
    written(path, dumps(NEWEST), 3)
    store.refresh()
    assert "mine.rlz has" in refused(store, "mine", GOOD.digest)[1]
    assert store.problem("mine", GOOD.digest) is None
    assert digest_of(store, "mine", NEWER.digest) == NEWER.digest
