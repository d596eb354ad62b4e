"""The picture of a dry-run, and the looks that it shares with the page."""

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dry_run_example import day, enlarged, quiet
from rlscaler.errors import UserError
from rlscaler_sim import plot
from rlscaler_sim.palette import DARK, DASHES, LIGHT, MATPLOTLIB_DASHES, looks
from rlscaler_sim.plot import HEIGHT, WIDTH, png, shown, write_plot
from rlscaler_sim.result import DryRun


def test_looks_tell_contenders_apart_and_stay_the_same(run: DryRun) -> None:
    many = enlarged(run, 12)
    found = looks(many)
    assert len({(look.colour, look.dash) for look in found}) == len(found)
    assert [look.strong for look in found] == [True] + [False] * (len(found) - 1)
    by_name = dict(zip((c.name for c in many.contenders), found, strict=True))
    fewer = dict(zip((c.name for c in run.contenders), looks(run), strict=True))
    for name in ("growth-quantile", "hpa-tuned", "clairvoyant"):
        assert by_name[name] == fewer[name]
    assert {look.dash for look in found} <= set(DASHES) == set(MATPLOTLIB_DASHES)


def _linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(np.eye(3), id="normal"),
        pytest.param([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                      [-0.011820, 0.042940, 0.968881]], id="deuteranopia"),
        pytest.param([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                      [-0.003882, -0.048116, 1.051998]], id="protanopia"),
        pytest.param([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                      [0.004733, 0.691367, 0.303900]], id="tritanopia"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("colours", "page"), [(LIGHT, "#ffffff"), (DARK, "#151a21")], ids=["light", "dark"])
def test_colours_are_told_apart_by_everyone(colours: tuple[str, ...], page: str, seen: Any) -> None:
    labs = [_lab(np.asarray(seen) @ _linear(c)) for c in colours]
    for i, one in enumerate(labs):
        for j, other in enumerate(labs[:i]):
            distance = float(np.linalg.norm(one - other))
            assert distance >= 17.9, f"{colours[i]} and {colours[j]} are {distance:.1f} apart"
    weights = np.array([0.2126, 0.7152, 0.0722])
    ground = float(weights @ _linear(page))
    for colour in colours:
        light, dark = sorted((float(weights @ _linear(colour)), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0, f"{colour} is faint on {page}"


def test_picture_is_a_png_of_the_stated_size(run: DryRun, tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    write_plot(run, path)
    image = path.read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", image[16:24]) == (WIDTH, HEIGHT)
    assert len(image) > 30_000, "an empty picture is smaller"


def test_picture_shows_the_policy_the_reference_and_the_best_other(run: DryRun) -> None:
    names = [c.name for c in run.contenders]
    assert [names[i] for i in shown(run)] == ["growth-quantile", "hpa-tuned", "two-thresholds"]
    loser = replace(run, policy="hpa-default")
    assert [names[i] for i in shown(loser)] == ["hpa-default", "hpa-tuned", "growth-quantile"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"resource": "$x_1$ 日本 " + "long " * 60}, id="names-that-look-like-formulae"),
        pytest.param({"steps": 1}, id="one-step"),
        pytest.param({"steps": 9000, "start": 1.76e9}, id="days-of-unix-time"),
    ],
)
def test_picture_of_odd_runs(change: dict[str, Any]) -> None:
    assert png(day(**change)).startswith(b"\x89PNG")


def test_picture_of_a_run_in_which_nothing_is_known(run: DryRun) -> None:
    nothing = replace(run.series, known=np.zeros(5760, bool), cost=np.full((5, 5760), np.nan))
    assert png(replace(run, series=nothing)).startswith(b"\x89PNG")


def test_the_picture_tells_what_a_replica_serves_without_any_load(run: DryRun, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(plot, "_title", lambda axes, title, unit: written.append(unit))
    assert png(replace(quiet(run), world={"capacity_per_replica": 50.0})).startswith(b"\x89PNG")
    assert written[0] == "grey: the load, in replicas at full use (50 requests/s each)"


def test_a_cost_ratio_that_is_none_is_written_as_in_the_table(run: DryRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was needed the ratio is infinite."""
    written: list[str] = []
    monkeypatch.setattr(plot, "_label", lambda axes, labels: written.extend(text for *_, text in labels))
    idle = [replace(c, cost_ratio=np.inf, score=np.inf) for c in run.contenders]
    assert png(replace(run, contenders=idle)).startswith(b"\x89PNG")
    assert not [text for text in written if "inf" in text]
    assert [text for text in written if text.startswith("–  ")]


def test_missing_extra_is_one_line(run: DryRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"needs matplotlib; install it with: pip install"):
        write_plot(run, tmp_path / "r.png")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(run: DryRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        write_plot(run, tmp_path / "nowhere" / "r.png")


def test_the_extras_are_loaded_only_when_asked_for() -> None:
    code = (
        "import sys, rlscaler_sim.plot, rlscaler_sim.report, rlscaler_sim.table; "
        "print(*sorted({'plotly', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
