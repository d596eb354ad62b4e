"""Scenarios in files: what they state, and each mistake by file, line and key."""

import json
from dataclasses import fields
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rlscaler_sim.env
from command_line import WEB, mistakes, run, stand_in
from rlscaler_sim import scenario_file, scenarios
from rlscaler_sim.patterns import parse
from rlscaler_sim.scenarios import ScenarioError
from rlscaler_sim.world import WorldConfig

SHOP = """\
load: working-day+0.5*flash-crowd   # with a comment
description: the shop before a sale
duration: 6h
scale_to: 40
world:
  startup: 2m
  lag: 30
  crash_rate: 0.2
  node_pods: 10
  completions: true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in(tmp_path, monkeypatch)
    return tmp_path


def test_a_file_states_load_and_world(folder: Path) -> None:
    Path("shop.yaml").write_text(SHOP)
    found = scenarios.get("shop.yaml")
    assert found.load == parse("working-day+0.5*flash-crowd")
    assert (found.name, found.description) == ("shop.yaml", "the shop before a sale")
    assert (found.duration, found.scale_to) == (21_600.0, 40.0)
    assert found.world == {"startup": 120.0, "lag": 30.0, "crash_rate": 0.2, "node_pods": 10, "completions": True}
    assert WorldConfig(**found.world).startup == 120.0


def test_a_load_is_enough_and_the_rest_is_the_loads_own(folder: Path) -> None:
    """JSON is read too; variants of the load's name join what is stated, which wins."""
    Path("some.json").write_text(json.dumps({"load": "spike/slow-start/crashes", "world": {"startup": "90s"}}))
    found, base = scenarios.get("some.json"), scenarios.get("spike")
    assert (found.load, found.duration, found.scale_to) == (base.load, base.duration, None)
    assert found.world == {"startup": 90.0, "crash_rate": 0.1}


def test_a_trace_lies_beside_its_file(folder: Path) -> None:
    Path("sub").mkdir()
    Path("sub/load.csv").write_text("timestamp,requests\n" + "".join(f"{60 * k},600\n" for k in range(90)))
    Path("sub/mine.yml").write_text("load: load.csv\n")
    found = scenarios.get("sub/mine.yml")
    assert found.load == Path("sub/load.csv")
    assert found.source.name == "load"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 documents; expected one, with the keys load, "),
        ("load: spike\n---\nload: spike\n", "holds 2 documents"),
        ("load: [\n", ":2: not YAML: "),
        ("spike\n", ":1: it is 'a text'; expected keys: load, "),
        ("duration: 2h\n", "load is missing"),
        ("load: spike\nlaod: spike\n", ":2: no key is called laod; did you mean load? expected one of load, "),
        ("load: spike\nload: ramp\n", ":2: load is there twice"),
        ("load: [spike]\n", ":1: load is 'a list'; expected text"),
        ("load: spikes\n", "load: no scenario is called 'spikes'; did you mean 'spike'"),
        ("load: spike(high=1)\n", "load: spike has no parameter 'high'"),
        ("load: other.yaml\n", "load: other.yaml is a scenario's file; expected a load"),
        ("load: spike\nduration: long\n", ":2: duration is long; expected seconds, or a duration such as 5m"),
        ("load: spike\nduration: 0\n", ":2: duration is 0; expected a number above 0"),
        ("load: spike\nscale_to: -1\n", ":2: scale_to is -1; expected a number above 0, up to 1,000,000"),
        ("load: spike\nscale_to: 5m\n", ":2: scale_to is 5m; expected a number"),
        ("load: spike\nworld: fast\n", ":2: world is 'a text'; expected keys: capacity_per_replica, "),
        ("load: spike\nworld:\n  startupp: 2m\n", ":3: no key is called world.startupp; did you mean world.startup?"),
        ("load: spike\nworld:\n  interval: 30\n", ":3: no key is called world.interval"),
        ("load: spike\nworld:\n  startup: -2\n", ":3: world.startup is -2; expected 0 or more seconds"),
        ("load: spike\nworld:\n  startup: 3h\n", ":3: world.startup is 3h; expected 7200 seconds at most"),
        ("load: spike\nworld:\n  lag: .nan\n", ":3: world.lag is .nan; expected"),
        ("load: spike\nworld:\n  fano: 0.5\n", ":3: world.fano is 0.5; expected 1 (Poisson) or more"),
        ("load: spike\nworld:\n  fano: 2m\n", ":3: world.fano is 2m; expected a number"),
        ("load: spike\nworld:\n  node_pods: 1.5\n", ":3: world.node_pods is 1.5; expected a whole number, 0 or more"),
        ("load: spike\nworld:\n  completions: 1\n", ":3: world.completions is 1; expected true or false"),
    ],
)
def test_a_mistake_is_named_with_its_place(folder: Path, text: str, message: str) -> None:
    Path("mine.yaml").write_text(text)
    with pytest.raises(ScenarioError) as found:
        scenarios.get("mine.yaml")
    assert str(found.value).removeprefix("mine.yaml").removeprefix(": ").startswith(message), str(found.value)
    assert str(found.value).startswith("mine.yaml")


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    Path("binary.yaml").write_bytes(b"load: \xff\xfe")
    Path("large.yaml").write_text("#" * 1_000_001)
    for name, message in (
        ("none.yaml", "cannot be read: No such file"),
        ("binary.yaml", "cannot be read: it is no text in UTF-8"),
        ("large.yaml", "has 1,000,001 bytes"),
    ):
        with pytest.raises(ScenarioError, match=message):
            scenarios.get(name)


@pytest.mark.parametrize("key", scenario_file.WORLD_KEYS)
def test_every_part_of_the_world_can_be_stated(folder: Path, key: str) -> None:
    """And the standard value is in its range."""
    Path("mine.yaml").write_text(f"load: spike\nworld:\n  {key}: {str(getattr(WorldConfig(), key)).lower()}\n")
    assert scenarios.get("mine.yaml").world == {key: getattr(WorldConfig(), key)}


def test_all_but_the_interval_can_be_stated() -> None:
    assert {field.name for field in fields(WorldConfig)} - set(scenario_file.WORLD_KEYS) == {"interval"}


# --- who reads them


def test_a_dry_run_is_run_in_the_stated_world_at_the_stated_scale(folder: Path) -> None:
    Path("shop.yaml").write_text(SHOP)
    told = {}
    for name, more in (("file", []), ("flag", ["--scale-to", "10"])):
        done = run("dry-run", "-f", WEB, "--trace", "shop.yaml", "--compare", "hpa", "--for", "1h", "--json", *more)
        assert done.exit_code == 0, done.output
        told[name] = json.loads(done.stdout)
    assert told["file"]["world"]["startup"] == 120.0
    assert [told[name]["world"]["scale_to"] for name in ("file", "flag")] == [40.0, 10.0]


def test_a_dry_run_names_the_mistake_of_a_file_once(folder: Path) -> None:
    Path("shop.yaml").write_text("load: spike\nworld:\n  lag: soon\n")
    (line,) = mistakes(run("dry-run", "-f", WEB, "--trace", "shop.yaml"))
    assert line == "error: shop.yaml:3: world.lag is soon; expected seconds, or a duration such as 5m"


def test_an_environment_is_made_of_a_file(folder: Path) -> None:
    Path("small.yaml").write_text("load: sinusoidal\nscale_to: 8\nworld:\n  startup: 30s\n")
    env = gymnasium.make(rlscaler_sim.env.ID, scenario="small.yaml", hours=1.0, loads=1, episode=20)
    observation, _ = env.reset(seed=0)
    assert np.isfinite(observation).all()
    pool, config, settings = rlscaler_sim.env.scenario_pool("small.yaml", 1, 1.0, 0)
    assert (config.startup, settings.startup) == (30.0, 30.0)
    assert np.percentile(pool.rates, 95.0) == pytest.approx(80.0, rel=0.2)
