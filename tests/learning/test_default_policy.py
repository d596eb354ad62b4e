"""The command that trains the default policy leaves whole families out, and goes on where it was cut off."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rlscaler import artifact
from rlscaler_sim.trace import Trace, family, read_trace
from rlscaler_training.corpus import MADE_UP, Corpus, corpus

SCRIPTS = str(Path(__file__).resolve().parents[2] / "scripts")
FAMILIES = ("alpha", "beta", "gamma")


def trace(name: str, seed: int, minutes: int = 240) -> Trace:
    """Return four hours of minutes of a load that swings and jumps."""
    rng = np.random.default_rng(seed)
    swing = 1.0 + 0.4 * np.sin(np.arange(minutes) / (10.0 + 7.0 * seed))
    return Trace(name, 0.0, 60.0, 100.0 * swing * np.exp(np.cumsum(rng.normal(0.0, 0.02, minutes))))


@pytest.fixture(scope="module")
def small() -> Corpus:
    traces = [trace(f"{name}_60s", seed) for seed, name in enumerate(FAMILIES)]
    return corpus(traces, [[name] for name in FAMILIES], days=0.08, draws=1, made_up=2, seed=3)


def test_a_corpus_is_recorded_varied_and_made_up_load(small: Corpus) -> None:
    """Of each trace as many variants as recorded windows."""
    assert [small.families.count(name) for name in (*FAMILIES, MADE_UP)] == [2, 2, 2, 2]
    assert small.pool.loads == 8
    assert np.isfinite(small.pool.rates).all()
    recorded, varied = small.pool.rates[0], small.pool.rates[1]
    assert not np.array_equal(recorded, varied)


def test_what_is_held_out_is_nowhere_in_what_is_trained_on(small: Corpus) -> None:
    """Neither its load nor a variant of it; made-up load stays."""
    pool = small.without(["beta"])
    assert pool.loads == 6
    kept = np.flatnonzero([name != "beta" for name in small.families])
    np.testing.assert_array_equal(pool.rates, small.pool.rates[kept])
    np.testing.assert_array_equal(pool.features["level"], small.pool.features["level"][kept])
    sampled = small.sample(["beta"])
    assert all(any(np.array_equal(one, other) for other in pool.rates) for one in sampled.rates)


def test_variants_mix_load_of_their_own_fold_alone() -> None:
    """Another fold's trace changes nothing about them."""

    def made(other: int) -> np.ndarray:
        traces = [trace("alpha_60s", 0), trace("beta_60s", 1), trace("gamma_60s", other)]
        found = corpus(traces, [["alpha", "beta"], ["gamma"]], days=0.08, draws=3, made_up=1, seed=3)
        return found.pool.rates[[name in ("alpha", "beta") for name in found.families]]

    np.testing.assert_array_equal(made(2), made(9))


@pytest.fixture(scope="module")
def learned_policy() -> Iterator[ModuleType]:
    """Return the script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("learned_policy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three traces of three families."""
    traces = tmp_path / "traces"
    traces.mkdir()
    for seed, name in enumerate(FAMILIES):
        rows = [f"{60 * t},{rate:.3f}" for t, rate in enumerate(trace(name, seed).rates)]
        (traces / f"{name}_60s.csv").write_text("\n".join(["t_s,rate", *rows]) + "\n")
    return traces


def test_the_command_makes_the_table_and_the_policy(
    learned_policy: ModuleType,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every trace is scored by networks of other families, and a second call makes the same without training."""
    monkeypatch.setattr(sys, "argv", [
        "learned_policy.py", "--traces", str(folder), "--work", str(tmp_path / "work"),
        "--results", str(tmp_path / "scores.json"), "--output", str(tmp_path / "default.rlz"), "--steps", "2",
        "--networks", "1", "--days", "0.06", "--draws", "1", "--made-up", "1", "--seeds", "1", "--for", "0.02",
    ])  # fmt: skip
    learned_policy.main()
    assert "of families not trained on" in capsys.readouterr().out
    told = json.loads((tmp_path / "scores.json").read_text())
    assert {row["family"] for row in told["by_trace"]} == {family(read_trace(f).name) for f in folder.iterdir()}
    for index, name in enumerate(FAMILIES):
        trained_on = artifact.load(tmp_path / "work" / f"fold-{index + 1}" / "policy.rlz").manifest["provenance"]
        assert sorted(trained_on["trained_on"]) == sorted({*FAMILIES, MADE_UP} - {name})
    final = artifact.load(tmp_path / "default.rlz")
    assert final.manifest["scores"]["leave_family_out"]["headline_traces"] == told["headline_traces"]
    assert set(final.manifest["provenance"]["trained_on"]) == {*FAMILIES, MADE_UP}
    before = (tmp_path / "default.rlz").read_bytes()
    monkeypatch.setattr(learned_policy.apg, "learn", None)
    learned_policy.main()
    assert (tmp_path / "default.rlz").read_bytes() == before
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--steps", "3"])
    with pytest.raises(SystemExit, match=r"was begun by .*--steps 2"):
        learned_policy.main()


def test_a_mistake_is_named(learned_policy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before anything is trained."""
    monkeypatch.setattr(sys, "argv", [
        "learned_policy.py", "--traces", str(tmp_path / "none"), "--work", str(tmp_path / "work"),
        "--results", str(tmp_path / "scores.json"),
    ])  # fmt: skip
    with pytest.raises(SystemExit, match="none"):
        learned_policy.main()
