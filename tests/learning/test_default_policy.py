"""The command that trains the default policy leaves whole families out, and goes on where it was cut off."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from rlscaler import artifact
from rlscaler.policies import from_artifact
from rlscaler.policy import View
from rlscaler.rules.growth import Growth
from rlscaler.settings import compiled
from rlscaler.tenured import Tenured
from rlscaler_sim.contenders import standard_settings
from rlscaler_training import apg, relaxation, rule_gradient
from rlscaler_training.corpus import MADE_UP, Corpus, corpus
from three_families import FAMILIES, trace, write_traces

SCRIPTS = str(Path(__file__).resolve().parents[2] / "scripts")
MINUTES = 240


@pytest.fixture(scope="module")
def small() -> Corpus:
    traces = [trace(f"{name}_60s", seed, MINUTES) for seed, name in enumerate(FAMILIES)]
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
        seeds = {"alpha": 0, "beta": 1, "gamma": other}
        traces = [trace(f"{name}_60s", seed, MINUTES) for name, seed in seeds.items()]
        found = corpus(traces, [["alpha", "beta"], ["gamma"]], days=0.08, draws=3, made_up=1, seed=3)
        return found.pool.rates[[name in ("alpha", "beta") for name in found.families]]

    np.testing.assert_array_equal(made(2), made(9))


@pytest.fixture(scope="module")
def default_policy() -> Iterator[ModuleType]:
    """Return the script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("default_policy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three traces of three families."""
    return write_traces(tmp_path / "traces", MINUTES)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder with a table of tuned constants whose folds are the three families."""
    folder = tmp_path / "package"
    folder.mkdir()
    folds = [{"held_out": [name], "constants": {"static": {"replicas": 3.0}}} for name in FAMILIES]
    table = {"provenance": {"command": "tune"}, "constants": {"static": {"replicas": 4.0}}, "folds": folds}
    (folder / "tuned.json").write_text(json.dumps(table))
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["default_policy.py", *map(str, arguments)])


def test_the_command_makes_the_policy_and_its_folds(
    default_policy: ModuleType,
    folder: Path,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fold's rule and network know nothing of its family, and a second call makes the same without training."""
    work = tmp_path / "work"
    tiny = ("--steps", "2", "--networks", "2", "--days", "0.06", "--draws", "1", "--made-up", "1")
    places = ("--output", package, "--folds", package)
    call(monkeypatch, "--traces", folder, "--work", work, *places, *tiny)
    default_policy.main()
    table = json.loads((package / "tuned.json").read_text())
    assert table["constants"]["static"] == {"replicas": 4.0}
    made = {name: artifact.load(package / f"default{name}.rlz") for name in ("", "-1", "-2", "-3")}
    for index, name in enumerate(FAMILIES):
        manifest = made[f"-{index + 1}"].manifest
        assert sorted(manifest["provenance"]["trained_on"]) == sorted({*FAMILIES, MADE_UP} - {name})
        rule = table["folds"][index]["constants"]["growth-quantile"]
        assert {key: manifest["parameters"]["tenure"][key] for key in rule if key != "hold"} == {
            key: value for key, value in rule.items() if key != "hold"
        }
    assert set(made[""].manifest["provenance"]["trained_on"]) == {*FAMILIES, MADE_UP}
    policy = from_artifact(made[""])
    assert isinstance(policy, Tenured)
    assert policy.tenure.peak == table["constants"]["growth-quantile"]["peak"]
    before = (package / "default.rlz").read_bytes()
    monkeypatch.setattr(default_policy.apg, "learn", None)
    default_policy.main()
    assert (package / "default.rlz").read_bytes() == before
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"command": "rlscaler evaluate", "summary": {"default": {"traces": 3}}}))
    call(monkeypatch, "--work", work, *places, "--scores", results)
    default_policy.main()
    told = artifact.load(package / "default.rlz").manifest["scores"]["leave_family_out"]
    assert told == {"command": "rlscaler evaluate", "default": {"traces": 3}}
    call(monkeypatch, "--traces", folder, "--work", work, *places, *tiny, "--steps", "3")
    with pytest.raises(SystemExit, match=r"was begun by .*--steps 2"):
        default_policy.main()


def test_a_mistake_is_named(
    default_policy: ModuleType, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, before anything is trained."""
    call(
        monkeypatch, "--traces", tmp_path / "none", "--work", tmp_path / "work", "--output", package, "--folds", package
    )
    with pytest.raises(SystemExit, match="none"):
        default_policy.main()


def test_the_rule_is_tuned_by_the_gradient_of_its_score(small: Corpus) -> None:
    """Its relaxed score on what it was tuned on is below that of its defaults."""
    material = apg.material(small.pool, torch.device("cpu"))
    found = rule_gradient.fitted(material, steps=80, batch=16, decisions=60)
    assert found == rule_gradient.fitted(material, steps=80, batch=16, decisions=60)

    def score(constants: dict[str, float]) -> float:
        weights = torch.tensor([constants[name] for name in rule_gradient.TUNED])
        load = torch.arange(small.pool.loads)[:, None].expand(-1, material.steps)
        at = torch.arange(material.steps)[None].expand_as(load)
        orders = apg.orders(material, rule_gradient.correction(weights, material, load, at), load, at)
        cost, late = relaxation.score(apg.part(material, load, at), orders, 0.1)
        return float((material.weight * (cost + late)).mean())

    assert score(found) < score({name: Growth.PARAMETERS[name].default for name in rule_gradient.TUNED})


def test_the_rule_of_the_relaxation_is_the_rule(small: Corpus) -> None:
    """The correction that stands for it leads to the replicas that it proposes, but for the backlog's."""
    material = apg.material(small.pool, torch.device("cpu"))
    constants: dict[str, Any] = {name: 0.1 * (index + 2) for index, name in enumerate(rule_gradient.TUNED)}
    load, at = torch.zeros(1, 200, dtype=torch.int64), torch.arange(250, 450)[None]
    correction = rule_gradient.correction(torch.tensor(list(constants.values())), material, load, at)
    level, cheap = material.level[load, at].double(), material.cheap[load, at].double()
    found = ((level + 0.5) * torch.exp(cheap + correction.double()) - 0.5)[0].numpy()
    steps = np.arange(250, 450)
    view = View(
        xp=np,
        settings=compiled(standard_settings(), 200),
        snapshot={"backlog": np.zeros(200), "load": small.pool.seen[0, steps]},
        features={name: array[0, steps] for name, array in small.pool.features.items()},
        demand=small.pool.seen[0, steps] / 10.0,
        current=np.ones(200),
    )
    proposed = Growth(**constants, drain=15.0, hold=0.0).propose(view, {})[0].replicas
    np.testing.assert_allclose(found, proposed, rtol=0.02)
