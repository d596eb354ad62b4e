"""Artifacts: what is saved is what is loaded, under a digest that never changes."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlscaler.artifact import Artifact, ArtifactError, dumps, load, loads, require, save
from small_artifact import FILE, MANIFEST, SMALL, WEIGHTS, unpacked


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What an artifact is.


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.data())
def test_what_is_saved_is_what_is_loaded(data: st.DataObject) -> None:
    kinds = st.sampled_from(["float32", "float64", "int64", "int32", "int8", "uint8", "bool", ">f4", ">i8"])
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    finite: dict[str, Any] = {"allow_nan": False, "allow_infinity": False}
    array = hnp.arrays(kinds, shapes, elements=finite)
    names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
    arrays = data.draw(st.dictionaries(names, array, max_size=3))
    text = st.text(max_size=5)
    leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(**finite) | text
    tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
    parameters = data.draw(st.dictionaries(text, tree, max_size=3))
    first = Artifact({**MANIFEST, "parameters": parameters}, arrays)
    second = loads(dumps(first))
    assert first == second
    assert hash(first) == hash(second)
    assert second.manifest["parameters"] == parameters
    assert dumps(second) == dumps(first)
    plain = np.load(io.BytesIO(dumps(first)), allow_pickle=False)
    for name, given_array in arrays.items():
        for read in (second.arrays[name], plain[name]):
            np.testing.assert_array_equal(read, given_array)
            assert read.dtype == given_array.dtype.newbyteorder("<")


def test_the_bytes_and_the_digest_are_fixed_for_ever() -> None:
    """A change here breaks every digest that anybody has written down."""
    assert SMALL.digest == "sha256:03a4d6bb0d37294eac504030656c2c9ca3fdcee5df72d41f0059cbf829679151"
    assert hashlib.sha256(FILE).hexdigest() == "ab83307fd795d85287b5c360be0865db9add37a656c5fa73fd6ece49d86f4a52"


def test_the_digest_is_over_the_canonical_manifest_and_the_manifest_over_the_arrays() -> None:
    manifest = SMALL.manifest
    stated = manifest.pop("digest")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    assert stated == SMALL.digest == "sha256:" + hashlib.sha256(canonical).hexdigest()
    digest = hashlib.sha256(WEIGHTS.tobytes()).hexdigest()
    assert manifest["arrays"] == {"w": {"dtype": "float32", "shape": [2, 2], "sha256": digest}}
    assert list(unpacked(FILE)) == ["manifest.json", "w.npy"]


def test_an_artifact_cannot_be_changed() -> None:
    mine = WEIGHTS.copy()
    artifact = Artifact(MANIFEST, {"w": mine})
    mine[:] = 0
    artifact.manifest["scores"]["regret"] = 0.0
    assert artifact == SMALL
    assert artifact.manifest == SMALL.manifest
    np.testing.assert_array_equal(artifact.arrays["w"], WEIGHTS)
    with pytest.raises(AttributeError):
        artifact.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        artifact.arrays["v"] = mine  # type: ignore[index]
    with pytest.raises(ValueError, match="WRITEABLE"):
        artifact.arrays["w"].setflags(write=True)


def test_numpy_scalars_and_tuples_are_taken_as_json() -> None:
    scores = {"regret": np.float32(0.5), "seeds": (np.int64(1), 2), "ok": np.bool_(True)}
    assert loads(dumps(Artifact({**MANIFEST, "scores": scores}, {}))).manifest["scores"] == {
        "regret": 0.5,
        "seeds": [1, 2],
        "ok": True,
    }


def test_nan_needs_to_be_declared() -> None:
    holey = np.array([np.nan, 1.0, -np.inf])
    with pytest.raises(ArtifactError, match="array w holds NaN or infinity; expected finite numbers"):
        Artifact(MANIFEST, {"w": holey})
    declared = Artifact({**MANIFEST, "arrays": {"w": {"finite": False}}}, {"w": holey})
    np.testing.assert_array_equal(loads(dumps(declared)).arrays["w"], holey)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"name": "../up"}, "name is '../up'", id="name"),
        pytest.param({"kind": 3}, "kind is 3", id="kind"),
        pytest.param({"format": 2}, "format is 2; expected 1", id="format"),
        pytest.param({"format": True}, "format is True; expected 1", id="format-bool"),
        pytest.param({"extra": 1}, "has the key 'extra'", id="unknown-key"),
        pytest.param({"fields": ["trend", "trend"]}, "fields is", id="fields"),
        pytest.param({"scores": []}, r"scores is \[\]; expected an object", id="scores"),
        pytest.param({"training_range": {"trend": [2, 1]}}, "training_range.trend", id="range-order"),
        pytest.param({"training_range": {"trend": [0, True]}}, "training_range.trend", id="range-type"),
        pytest.param({"training_range": {"level": [0, 1]}}, "training_range.level", id="range-field"),
        pytest.param({"scores": {"a": [float("nan")]}}, r"manifest.scores.a\[0\] is nan", id="nan"),
        pytest.param({"scores": {"a": 2**63}}, "manifest.scores.a is beyond 64 bits", id="large"),
        pytest.param({"scores": {"a": WEIGHTS}}, "manifest.scores.a is of type ndarray", id="array"),
        pytest.param({"scores": {1: 2}}, "manifest.scores has the key 1; expected text", id="key"),
        pytest.param({"arrays": []}, r"arrays of the manifest is \[\]", id="arrays"),
        pytest.param({"arrays": {"v": {}}}, "the arrays are", id="missing-array"),
        pytest.param({"arrays": {"w": {"dtype": "int8"}}}, "dtype of array w is 'float32'", id="dtype"),
        pytest.param({"arrays": {"w": {"shape": [2, 2.0]}}}, "shape of array w", id="shape"),
        pytest.param({"arrays": {"w": {"finite": True}}}, "arrays.w of the manifest has", id="finite"),
        pytest.param({"digest": "sha256:00"}, "format is None; expected 1", id="digest-without-the-rest"),
        pytest.param({"parameters": {"x": "a" * 2**20}}, "the manifest has 1048", id="size"),
    ],
)
def test_a_wrong_manifest_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Artifact({**MANIFEST, **change}, {"w": WEIGHTS})


def test_a_manifest_nested_too_deep_is_refused() -> None:
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(ArtifactError, match="nested deeper than 16"):
        Artifact({**MANIFEST, "parameters": {"x": deep}}, {})


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.array([None]), id="object"),
        pytest.param(np.zeros(2, [("a", "f4")]), id="structured"),
        pytest.param(np.zeros(2, "c16"), id="complex"),
        pytest.param(np.zeros(2, "f2"), id="half"),
        pytest.param(np.array(["a"]), id="text"),
        pytest.param([1.0], id="list"),
        pytest.param(np.zeros((1,) * 9), id="axes"),
    ],
)
def test_other_arrays_are_refused(array: Any) -> None:
    with pytest.raises(ArtifactError, match=r"array w is .*expected float32"):
        Artifact(MANIFEST, {"w": array})


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "ä", "x" * 129])
def test_array_names_are_plain(name: str) -> None:
    with pytest.raises(ArtifactError, match="an array is called"):
        Artifact(MANIFEST, {name: WEIGHTS})


def test_require_names_what_differs() -> None:
    assert require(SMALL, observation_schema="1", action_schemes=["headroom", "step"], kinds={"mlp"}) is SMALL
    assert require(SMALL) is SMALL
    with pytest.raises(ArtifactError, match="observation_schema of policy small is '1'; expected '2'; export"):
        require(SMALL, observation_schema="2")
    with pytest.raises(ArtifactError, match="action_scheme of policy small is 'step'; expected 'a' or 'b'"):
        require(SMALL, action_schemes=("b", "a"))
    with pytest.raises(ArtifactError, match="kind of policy small is 'mlp'; expected 'rule'"):
        require(SMALL, kinds=("rule",))


# Files.


def test_save_replaces_whole_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "small.rlz"
    path.write_bytes(b"old")
    assert save(SMALL, path) == SMALL.digest
    assert path.read_bytes() == FILE
    assert names(tmp_path) == ["small.rlz"]
    save(SMALL, tmp_path / "other.rlz")
    assert (tmp_path / "other.rlz").stat().st_mode == path.stat().st_mode, "others may read it, as any new file"
    assert load(path) == load(str(path), expect_digest=SMALL.digest) == SMALL


def test_a_file_that_cannot_be_written_is_one_sentence_and_no_litter(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "taken", tmp_path / "none" / "a.rlz", tmp_path / "nul\0.rlz"):
        with pytest.raises(ArtifactError, match=r"\.rlz: not saved .*expected a file|taken: not saved"):
            save(SMALL, path)
    with pytest.raises(ArtifactError, match="expected at most 10; raise max_bytes"):
        save(SMALL, tmp_path / "a.rlz", max_bytes=10)
    assert names(tmp_path) == ["taken"]


def test_a_folder_is_read_like_a_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(FILE)) as archive:
        archive.extractall(tmp_path)
    assert load(tmp_path) == SMALL
    with pytest.raises(ArtifactError, match=r"too large; expected at most 100 bytes"):
        load(tmp_path, max_bytes=100)
    with pytest.raises(ArtifactError, match="too large"):
        load(tmp_path, max_bytes=sum(map(len, unpacked(FILE).values())) - 1)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ArtifactError, match=f"{tmp_path}: there is an entry 'notes.txt'"):
        load(tmp_path)


def test_a_mounted_config_map_is_read_and_links_out_of_it_are_not(tmp_path: Path) -> None:
    mount, data = tmp_path / "mount", tmp_path / "mount" / "..2024_01_01"
    data.mkdir(parents=True)
    (mount / "..data").symlink_to("..2024_01_01")
    for name, content in unpacked(FILE).items():
        (data / name).write_bytes(content)
        (mount / name).symlink_to(f"..data/{name}")
    assert load(mount) == SMALL
    (data / "w.npy").rename(tmp_path / "w.npy")
    (mount / "w.npy").unlink()
    (mount / "w.npy").symlink_to(tmp_path / "w.npy")
    with pytest.raises(ArtifactError, match=r"'w.npy' is a link that leads out of the folder"):
        load(mount)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: None, "cannot be read .No such file", id="missing"),
        pytest.param(lambda path: path.symlink_to(path), "cannot be read", id="loop"),
        pytest.param(os.mkfifo, "is not a plain file", id="pipe"),
        pytest.param(lambda path: path.touch(), "not a readable zip", id="empty"),
        pytest.param(lambda path: path.mkdir(), "there is no manifest.json", id="empty-folder"),
        pytest.param(lambda path: path.write_bytes(bytes(2**24 + 1)), "too large; expected at most", id="large"),
    ],
)
def test_a_path_that_is_no_artifact_is_named(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.rlz"
    make(path)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_another_digest_than_expected_is_refused() -> None:
    other = "sha256:" + 64 * "0"
    with pytest.raises(ArtifactError, match=f"the digest is {SMALL.digest}; expected '{other}'"):
        loads(FILE, expect_digest=other)
