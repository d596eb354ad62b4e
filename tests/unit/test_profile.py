"""A profile is written whole, read back as it was, and refused by file and field where anything is wrong with it."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscaler import profile as profiles
from rlscaler.errors import UserError
from rlscaler.files import unwritable
from rlscaler.profile import Estimate, LoadFacts, Profile, ProfileError, Recording, Saturation, unknown

NAN = float("nan")
PROFILE = Profile(
    workload="shop/web",
    source="http://127.0.0.1:9090",
    made_by="0.1.0",
    interval=15.0,
    capacity=Estimate(50.0, 47.0, 53.0, "learned", "load and utilization of 40 blocks tell it"),
    startup=Estimate(60.0, 52.0, 71.0, "learned", "12 scale-ups tell it"),
    lag=unknown("utilization is not known"),
    noise=Estimate(2.0, 1.8, 2.2, "learned", "changes between readings tell it"),
    day=Estimate(0.4, 0.2, 0.6, "learned", "14 days tell it"),
    week=unknown("less than two weeks are known"),
    saturation=Saturation(utilization=0.8, load_per_replica=41.0, saturated=0.0),
    load=LoadFacts(begin=0.0, end=45.0, mean=2.0, p95=3.0, peak=3.5, coverage=0.75, gaps=1, longest_gap=15.0),
    notes=("one of four readings is unknown",),
)
LOAD = np.array([1.0, 2.0, NAN, 3.5], np.float32)
RECORDING = Recording(0.0, 15.0, LOAD, LOAD + 1, LOAD + 2, LOAD / 10, np.full(4, NAN, np.float32))


def written(tmp_path: Path) -> Path:
    path = tmp_path / "web.json"
    profiles.write(PROFILE, RECORDING, path)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = profiles.read(path)
    assert replace(found, readings=None) == PROFILE
    assert found.p95_demand == pytest.approx(0.06)
    back = profiles.read_recording(found, path)
    assert (back.start, back.interval) == (0.0, 15.0)
    np.testing.assert_array_equal(back.times, [0.0, 15.0, 30.0, 45.0])
    for name in ("load", "replicas", "ready", "utilization", "latency"):
        np.testing.assert_array_equal(getattr(back, name), getattr(RECORDING, name))


def test_numpy_alone_reads_the_readings(tmp_path: Path) -> None:
    found = profiles.read(written(tmp_path))
    assert found.readings is not None
    with np.load(tmp_path / found.readings.file, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["load"], LOAD)


def test_a_profile_that_is_written_anew_leaves_no_readings_behind(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "web.0123abcd.npz").write_bytes(b"somebody else's")
    profiles.write(PROFILE, replace(RECORDING, load=LOAD + 1), path)
    kept = profiles.read(path).readings
    assert kept is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["web.json", "web.0123abcd.npz", kept.file])


def test_readings_are_not_left_without_the_profile_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: str) -> None:
        raise unwritable(path, OSError(errno.ENOSPC, "No space left on device"))

    before = sorted(p.name for p in written(tmp_path).parent.iterdir())
    monkeypatch.setattr(profiles, "write_text_atomically", full)
    for load in (LOAD, LOAD + 1):
        with pytest.raises(UserError, match="No space left on device"):
            profiles.write(PROFILE, replace(RECORDING, load=load), tmp_path / "web.json")
        assert sorted(p.name for p in tmp_path.iterdir()) == before


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "another version": ({"version": 2}, ["version is 2", "expected 1", "calibrate again"]),
    "another format": ({"format": "x"}, ["is no profile"]),
    "an unknown field": ({"price": 1}, ["price is unknown"]),
    "text for a number": ({"interval": "15s"}, ["interval is '15s'", "expected a number"]),
    "truth for a number": ({"interval": True}, ["interval is True", "expected a number"]),
    "no time": ({"interval": 0}, ["interval is 0"]),
    "a number for an object": ({"capacity": 50}, ["capacity is 50", "an object"]),
    "half an estimate": ({"capacity.low": None}, ["capacity.told is learned"]),
    "an interval beside its value": ({"capacity.low": 51}, ["capacity is 50, from 51 to 53"]),
    "nothing served": ({"capacity.low": 0}, ["capacity.low is 0"]),
    "known and unknown": ({"capacity.told": "unknown"}, ["capacity.told is unknown"]),
    "guessed": ({"capacity.told": "guessed"}, ["capacity.told is 'guessed'", "learned, stated, unknown"]),
    "half a gap": ({"load.gaps": 1.5}, ["load.gaps is 1.5", "whole number"]),
    "more than all": ({"load.coverage": 1.5}, ["load.coverage is 1.5"]),
    "a note that is none": ({"notes": [1]}, ["notes[0] is 1", "expected text"]),
    "a way out": ({"readings.file": "../x.npz"}, ["readings.file is '../x.npz'", "same folder"]),
    "a number beyond all bounds": ({"interval": 10**400}, ["interval is 1000", "expected a number"]),
    "a count beyond all bounds": ({"load.gaps": 10**400}, ["load.gaps is 1000", "whole number"]),
    "no digest": ({"readings.digest": "x"}, ["readings.digest is 'x'"]),
}


@pytest.mark.parametrize(("changes", "words"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    path = written(tmp_path)
    found = json.loads(path.read_text())
    for name, value in changes.items():
        part, *keys = found, *name.split(".")
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
    path.write_text(json.dumps(found))
    with pytest.raises(ProfileError) as caught:
        profiles.read(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"interval": NaN}', "[" * 100_000, "\0"])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "web.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match=r"web\.json"):
        profiles.read(path)


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = json.loads(path.read_text())
    del found["load"]["peak"]
    path.write_text(json.dumps(found))
    with pytest.raises(ProfileError, match=r"load\.peak is missing"):
        profiles.read(path)


def test_readings_of_another_profile_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = profiles.read(path)
    assert found.readings is not None
    place = tmp_path / found.readings.file
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(ProfileError, match="not the one that the profile was written with"):
        profiles.read_recording(found, path)
    place.unlink()
    with pytest.raises(ProfileError, match="copy it beside the profile"):
        profiles.read_recording(found, path)


@pytest.mark.parametrize("name", ["x\0.npz", "\ud800.npz"])
def test_readings_whose_name_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path)
    found = profiles.read(path)
    assert found.readings is not None
    wrong = replace(found, readings=replace(found.readings, file=name))
    with pytest.raises(ProfileError, match="copy it beside the profile") as caught:
        profiles.read_recording(wrong, path)
    str(caught.value).encode()


def test_no_file_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"none\.json: cannot be read"):
        profiles.read(tmp_path / "none.json")
