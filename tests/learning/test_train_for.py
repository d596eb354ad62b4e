"""`rlscaler train --for`: better on the workload's own later past than the default policy, or refused with figures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from command_line import mistakes, run, working_in
from rlscaler import artifact
from rlscaler import profile as profiles
from rlscaler.policies import load_policy
from rlscaler.profile import Estimate, LoadFacts, Profile, Recording, Saturation
from rlscaler_training import own_past, run_record, runs
from rlscaler_training.own_past_command import said

INTERVAL = 60.0
DAYS = 1.3
START = 100 * 7 * 86400.0


@pytest.fixture(autouse=True, scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with working_in(tmp_path_factory) as folder:
        (folder / "quick.json").write_text(json.dumps({"steps": 40, "batch": 16, "decisions": 40, "rate": 1e-3}))
        yield


def stated(value: float | None) -> Estimate:
    return Estimate(value, value, value, "unknown" if value is None else "stated", "stated in the resource")


def kept(name: str, load: np.ndarray, *, capacity: float | None = 20.0, interval: float = INTERVAL) -> str:
    """Write a profile of a load, one value an interval, and return its name."""
    nothing = np.full(len(load), np.nan, np.float32)
    facts = LoadFacts(begin=START, end=START + interval * (len(load) - 1), mean=float(np.nanmean(load)),
                      p95=float(np.nanpercentile(load, 95)), peak=float(np.nanmax(load)),
                      coverage=float(np.isfinite(load).mean()), gaps=0, longest_gap=0.0)  # fmt: skip
    profile = Profile(
        workload="shop/web", source="test", made_by="0", interval=interval, capacity=stated(capacity),
        startup=stated(60.0), lag=stated(None), noise=stated(1.0), day=stated(0.0), week=stated(0.0),
        saturation=Saturation(utilization=None, load_per_replica=None, saturated=None), load=facts,
    )  # fmt: skip
    recording = Recording(START, interval, load.astype(np.float32), nothing, nothing, nothing, nothing)
    profiles.write(profile, recording, name)
    return name


def rushes(steps: int) -> np.ndarray:
    """Return a load that more than doubles for some minutes, at gaps as uneven as 20 to 40 min, and falls back.

    What its own past tells best: how high a rush is and how long it lasts. No period gives it away beforehand.
    """
    chance = np.random.default_rng(1)
    begins = np.cumsum(chance.integers(20, 41, steps // 20 + 1))
    rushing = np.zeros(steps, bool)
    for begin in begins[begins < steps]:
        rushing[begin : begin + 4] = True
    load = 300.0 * (1.0 + 1.5 * rushing) * np.exp(0.03 * chance.standard_normal(steps))
    load[500:520] = np.nan
    return np.asarray(load)


def noise(steps: int) -> np.ndarray:
    """Return a load about which nothing is to be learned."""
    return np.asarray(300.0 * np.exp(0.05 * np.random.default_rng(1).standard_normal(steps)))


def steps(days: float) -> int:
    return round(days * 86400.0 / INTERVAL)


@pytest.fixture(scope="module")
def accepted(_place: None) -> Any:
    kept("rushes.json", rushes(steps(DAYS)))
    result = run("train", "--for", "rushes.json", "--config", "quick.json", "--json", "--out", "rushes.rlz")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_its_past_tells_makes_it_better_on_later_load(accepted: Any) -> None:
    verdict = accepted["scores"]
    assert verdict["better"]
    assert own_past.WORTH < verdict["low"] < verdict["gain"] < verdict["high"]
    assert verdict["gain"] == pytest.approx(verdict["default"]["score"] - verdict["fitted"]["score"])
    assert verdict["fitted"]["score"] == pytest.approx(verdict["fitted"]["cost"] + verdict["fitted"]["late"])
    assert verdict["seconds"] == pytest.approx(DAYS * 86400.0 / 3.0, rel=0.01)


def test_the_artifact_is_the_default_policy_with_other_weights(accepted: Any) -> None:
    made, default = artifact.load(Path("rushes.rlz")), own_past.shipped()[1]
    assert made.manifest["digest"] == accepted["digest"] == artifact.load(Path(accepted["artifact"])).manifest["digest"]
    assert made.manifest["parameters"] == default.manifest["parameters"]
    assert made.manifest["fields"] == default.manifest["fields"]
    for name, (low, high) in default.manifest["training_range"].items():
        assert made.manifest["training_range"][name][0] <= low
        assert made.manifest["training_range"][name][1] >= high
    assert any(not np.array_equal(made.arrays[name], default.arrays[name]) for name in made.arrays)
    told = made.manifest["provenance"]
    assert told["profile"]["workload"] == "shop/web"
    assert told["profile"]["readings"] == profiles.read("rushes.json").readings.digest  # type: ignore[union-attr]
    assert told["begun_from"]["digest"] == default.manifest["digest"]
    assert told["judged"] == accepted["scores"]
    assert load_policy(Path("rushes.rlz")).name == "shop-web"


def test_the_network_goes_on_from_where_the_default_one_stands() -> None:
    made = own_past.shipped()[1]
    again = own_past.with_network(made, own_past.network_of(made))
    for name, array in made.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_no_better_is_refused_and_nothing_is_written() -> None:
    """Steps so small that the network stays what it was."""
    kept("noise.json", noise(steps(1.1)))
    Path("still.json").write_text(json.dumps({"steps": 2, "batch": 16, "decisions": 40, "rate": 1e-6}))
    result = run("train", "--for", "noise.json", "--config", "still.json", "--out", "noise.rlz", "--run", "noise")
    assert result.exit_code == 1, result.output
    for words in ("trains on 17h", "fitted   score", "default  score", "90% interval", "refused"):
        assert words in result.stdout
    assert not Path("noise.rlz").exists()
    assert not Path("noise/policy.rlz").exists()
    report = json.loads(Path("noise/report.json").read_text())
    assert (report["better"], report["artifact"]) == (False, None)
    assert report["scores"]["low"] <= own_past.WORTH


@pytest.mark.parametrize(
    ("gain", "low", "high", "words"),
    [
        pytest.param(0.0071, 0.0012, 0.013, "better by 0.0071 (90% interval 0.0012 to 0.0130)", id="better"),
        pytest.param(-0.0071, -0.013, 0.0012, "worse by 0.0071 (90% interval -0.0012 to 0.0130)", id="worse"),
        pytest.param(-0.00001, -0.002, 0.002, "better by 0.0000 (90% interval -0.0020 to 0.0020)", id="level"),
    ],
)
def test_a_defeat_is_not_told_as_a_gain(gain: float, low: float, high: float, words: str) -> None:
    figures = {"score": 1.2, "cost": 1.1, "late": 0.1}
    assert said(own_past.Verdict(figures, figures, gain, low, high, 4))[-1] == words


def test_a_training_repeats_itself() -> None:
    profile = profiles.read(kept("again.json", rushes(steps(1.1))))
    past = own_past.own_past(profile, profiles.read_recording(profile, "again.json"))
    made, config = own_past.shipped()[1], own_past.Config(steps=3, batch=4, decisions=20)

    def weights(number: int) -> np.ndarray:
        run = runs.begin(f"again-{number}", "for", config, {})
        network, _ = own_past.fitted(past, made, config, 5, run, lambda _: None)
        return np.asarray(network.head.weight.detach().numpy())

    np.testing.assert_array_equal(weights(1), weights(2))


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "too little past": (["--for", "short.json"], ["12h of load are known", "24h at least"]),
    "no capacity": (["--for", "unsized.json"], ["how many requests/s", "perReplica"]),
    "readings far apart": (["--for", "coarse.json"], ["5m apart", "1m or less"]),
    "no profile": (["--for", "none.json"], ["none.json"]),
    "a name": (["--for", "short.json", "--name", "a b"], ["--name 'a b'"]),
    "a setting": (["--for", "short.json", "--config", "bad.json"], ["steps"]),
    "options without it": (["--seed", "3"], ["--seed", "without --for"]),
    "and a learner": (["--for", "short.json", "apg"], ["--for", "apg"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(arguments: list[str], words: list[str]) -> None:
    kept("short.json", noise(steps(0.5)))
    kept("unsized.json", noise(steps(1.1)), capacity=None)
    kept("coarse.json", noise(400), interval=300.0)
    Path("bad.json").write_text('{"steps": -1}')
    said = " ".join(mistakes(run("train", *arguments)))
    for word in words:
        assert word in said


def parts(lacking: slice, value: float) -> np.ndarray:
    """Return three days of load, of which a part is something else."""
    load = rushes(steps(3.0))
    load[lacking] = value
    return load


LACKING: dict[str, tuple[np.ndarray, list[str]]] = {
    "no load at all": (np.zeros(steps(1.1)), ["trained on", "there is no load"]),
    "none to judge by": (parts(slice(2880, None), 0.0), ["24h", "judged by", "there is no load"]),
    "a gap where the network is chosen": (parts(slice(2300, 2879), np.nan), ["chosen by 1m of load are known"]),
    "nothing to learn from": (parts(slice(1, 2304), np.nan), ["trained on", "0s of load are known", "1h"]),
}


@pytest.mark.parametrize(("load", "words"), LACKING.values(), ids=LACKING)
def test_each_part_of_the_past_has_load(load: np.ndarray, words: list[str]) -> None:
    kept("lacking.json", load)
    (said,) = mistakes(run("train", "--for", "lacking.json", "--config", "quick.json", "--run", "lacking"))
    for word in [*words, "calibrate on another span"]:
        assert word in said
    assert not Path("lacking").exists()


@pytest.mark.parametrize("name", ["over.json", "quick.json"])
def test_the_artifact_is_not_written_over_what_is_read(name: str) -> None:
    kept("over.json", noise(steps(1.1)))
    before = Path(name).read_bytes()
    (said,) = mistakes(run("train", "--for", "over.json", "--config", "quick.json", "--out", name))
    assert f"--out {name}: --" in said
    assert "names the same file" in said
    assert Path(name).read_bytes() == before


def test_a_run_of_it_is_begun_anew_and_not_resumed() -> None:
    kept("stops.json", noise(steps(1.1)))
    profile = profiles.read("stops.json")
    runs.begin("stopped", "for", own_past.Config(), {"profile": "stops.json", "seed": 0, "name": profile.workload})
    (said,) = mistakes(run("train", "--for", "stops.json", "--config", "quick.json", "--run", "stopped"))
    assert "--run stopped: holds a run, and one of --for cannot be resumed" in said
    assert run_record.read("stopped").resumption == "rlscaler train --for stops.json"
    (said,) = mistakes(run("inspect", "stopped"))
    assert said.endswith("keeps no checkpoint to go on from: begin anew by 'rlscaler train --for stops.json'")


def test_a_refused_run_is_not_said_to_lack_its_end() -> None:
    begun = runs.begin("refused", "for", own_past.Config(), {"profile": "stops.json", "seed": 0, "name": "web"})
    begun.finish({"better": False})
    (said,) = mistakes(run("inspect", "refused"))
    assert "refused: the run is complete and made no artifact; 'rlscaler report refused' shows" in said
