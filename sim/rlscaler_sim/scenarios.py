"""Named worlds to try a decision in: a load, and what is different about the cluster that serves it.

A scenario is written as LOAD, as VARIANT, or as LOAD/VARIANT/...: `working-day`, `slow-start` (the default
load with pods that start slowly), `daily+flash-crowd/lossy-metrics`, `logs/shop.csv.gz/crashes/slow-nodes`; or as the
path of a file that states one (see `scenario_file`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlscaler_sim import scenario_file
from rlscaler_sim.patterns import DAY, HOUR, WEEK, Pattern, PatternError, nearest, parse
from rlscaler_sim.trace import Trace, read_trace, trace_name

Override = float | int | bool
DEFAULT = "working-day"
"""The scenario where none is named."""


class ScenarioError(ValueError):
    """No such scenario; the message names the nearest."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load and the world that serves it.

    name: as written. description: one sentence. load: a pattern, a trace, or the path of a trace file. duration:
    seconds (infinity: all of the trace). world: fields of the world's configuration that differ from its
    defaults. scale_to: replicas that the 95th percentile of the load needs, where that is stated.
    """

    name: str
    description: str
    load: Pattern | Trace | Path
    duration: float
    world: Mapping[str, Override] = field(default_factory=dict)
    scale_to: float | None = None

    @property
    def source(self) -> Trace | Pattern:
        """Return what `load.realise` takes; reads the file of a trace (TraceError where it cannot)."""
        return read_trace(self.load) if isinstance(self.load, Path) else self.load


LOADS: dict[str, Scenario] = {}
"""Scenarios that differ in load."""
VARIANTS: dict[str, Scenario] = {}
"""Scenarios that differ in the world, each under the default load."""


def _load(name: str, expression: str, duration: float, description: str) -> None:
    LOADS[name] = Scenario(name, description, parse(expression), duration)


def _variant(name: str, description: str, **world: Override) -> None:
    VARIANTS[name] = replace(LOADS[DEFAULT], name=name, description=description, world=world)


_load("working-day", "working-day", DAY, "a working day: morning rise, lunch dip, evening tail, a flash crowd")
_load("steady", "steady*jitter", 6 * HOUR, "the same load all the time, with a little noise")
_load("sine-curve", "sine-curve", 6 * HOUR, "one slow sine between nothing and full load")
_load("sinusoidal", "sinusoidal", DAY, "three overlapping cycles")
_load("spike", "spike", 12 * HOUR, "short spikes of three times the load at regular moments")
_load("poisson", "poisson", 6 * HOUR, "a steady load with Poisson noise")
_load("random-walk", "random-walk", DAY, "a load that drifts at random between two walls")
_load("ramp", "ramp*jitter", 3 * HOUR, "a rise to five times the load within an hour")
_load("flash-crowd", "0.3*jitter+flash-crowd", 4 * HOUR, "a quiet service that a crowd finds within two minutes")
_load("idle-then-spike", "idle-then-spike", DAY, "hours of next to nothing, then full load within a minute")
_load("daily", "daily*jitter", 3 * DAY, "a smooth day, three times")
_load("weekly", "weekly*jitter", 2 * WEEK, "two weeks with quiet weekends")
_load("level-shift", "level-shift*jitter", DAY, "jumps to other levels at random moments")
_load("launch", "launch*jitter", DAY, "a launch: a steep rise, then a slow fall to a plateau")
_load("on-off", "on-off", 12 * HOUR, "ten minutes of work at uncertain moments of every half hour")
_load("batch", "batch", DAY, "batches of random size at random moments")

_variant("slow-start", "pods take five minutes to start", startup=300.0)
_variant("lossy-metrics", "metrics are missing for two minutes, twice an hour", gap_rate=2.0, gap_duration=120.0)
_variant("laggy-metrics", "metrics are averages of a minute, and a minute old", lag=60.0, window=60.0)
_variant("crashes", "every replica crashes about once in ten hours", crash_rate=0.1)
_variant("slow-nodes", "ten pods fill a node, and a new node takes four minutes", node_pods=10, node_startup=240.0)


def names() -> tuple[str, ...]:
    """Return the names of all scenarios: loads, then variants of the world."""
    return (*LOADS, *VARIANTS)


def get(name: str = DEFAULT) -> Scenario:
    """Return the scenario of a name, a pattern's expression, a trace file or a file that states one, with variants
    after slashes.

    The variants' overrides are joined, the last one winning. A trace file is not read yet (see `Scenario.source`).
    Raises ScenarioError, or PatternError where an expression is at fault.
    """
    load = name.strip()
    if load.endswith(scenario_file.SUFFIXES):
        return _in_file(load)
    variants: list[Scenario] = []
    while "/" in load and load.rpartition("/")[2] in VARIANTS:
        load, _, variant = load.rpartition("/")
        variants.insert(0, VARIANTS[variant])
    if load in VARIANTS:
        load, variants = DEFAULT, [VARIANTS[load], *variants]
    base = _base(load)
    if not variants:
        return base
    world = {key: value for variant in variants for key, value in variant.world.items()}
    description = "; ".join((base.description, *(variant.description for variant in variants)))
    return replace(base, name=name.strip(), description=description, world=world)


def _in_file(path: str) -> Scenario:
    """Return the scenario that a file states; its trace file lies beside it. Raises ScenarioError."""
    try:
        stated = scenario_file.read(path)
        load = stated.load
        if load.endswith((".csv", ".csv.gz")):
            load = str(Path(path).parent / load)
        if load.endswith(scenario_file.SUFFIXES):
            raise ScenarioError(f"{load} is a scenario's file; expected a load")
        base = get(load)
    except scenario_file.ScenarioFileError as error:
        raise ScenarioError(str(error)) from error
    except (ScenarioError, PatternError) as error:
        raise ScenarioError(f"{path}: load: {error}") from error
    return Scenario(
        name=path,
        description=stated.description or base.description,
        load=base.load,
        duration=stated.duration or base.duration,
        world={**base.world, **stated.world},
        scale_to=stated.scale_to,
    )


def _base(load: str) -> Scenario:
    if load in LOADS:
        return LOADS[load]
    if load.endswith((".csv", ".csv.gz")):
        return Scenario(load, f"the recorded load {trace_name(load)}", Path(load), float("inf"))
    if any(symbol in load for symbol in "+*(.") and "/" not in load:
        return Scenario(load, f"the load {load}", parse(load), DAY)
    if "/" in load:
        wrong = load.rpartition("/")[2]
        raise ScenarioError(f"no variant of the world is called {wrong!r}; {nearest(wrong, VARIANTS)}")
    raise ScenarioError(f"no scenario is called {load!r}; {nearest(load, names())}, an expression or a .csv file")
