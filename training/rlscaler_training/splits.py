"""What is trained on and what is validated on: other draws of the same made-up load, other sources of recorded load."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlscaler.errors import UserError
from rlscaler_sim import scenarios
from rlscaler_sim.scenarios import Scenario
from rlscaler_sim.trace import events_per_bucket, family, read_trace, trace_files

USUAL = ("working-day", "sinusoidal", "random-walk", "spike", "level-shift", "on-off", "ramp", "flash-crowd")
"""Scenarios that are trained on where none is named."""


@dataclass(frozen=True, slots=True)
class Split:
    """Scenarios to train and to validate on, and lines about them. draws: of each scenario, to train on."""

    train: Sequence[Scenario]
    validation: Sequence[Scenario]
    draws: int
    told: tuple[str, ...] = ()


def named(names: Sequence[str]) -> Split:
    """Return scenarios by name or file, none for those of USUAL. Raises UserError, ScenarioError and PatternError."""
    found = [scenarios.get(name) for name in (names or USUAL)]
    if files := [each.name for each in found if isinstance(each.load, Path)]:
        raise UserError(
            f"--scenario {files[0]}: is recorded load; name its folder by --traces, so that whole sources are kept for "
            "validation"
        )
    return Split(found, found, 2)


def recorded(folder: str, chosen: Sequence[str] = ()) -> Split:
    """Return the traces of a folder, split by source family. chosen: families to validate on (none: every third).

    Raises UserError and TraceError.
    """
    found = [read_trace(path) for path in trace_files(Path(folder))]
    traces = [trace for trace in found if events_per_bucket(trace) >= 1.0]
    families = sorted({family(trace.name) for trace in traces})
    if len(families) < 2:
        raise UserError(f"{folder}: holds {len(families)} source families; expected at least 2, one to validate on")
    if unknown := sorted(set(chosen) - set(families)):
        raise UserError(
            f"--validate {unknown[0]}: no source family of {folder}; expected some of {', '.join(families)}"
        )
    held = set(chosen) or set(families[::3])
    if not (left := [name for name in families if name not in held]):
        raise UserError(f"--validate: names all {len(families)} families of {folder}; expected one left to train on")
    told = [
        f"trains on {len(left)} source families: {', '.join(left)}",
        f"validates on {len(held)} others: {', '.join(sorted(held))}",
    ]
    if few := len(found) - len(traces):
        told.append(f"left out: {few} {'trace' if few == 1 else 'traces'} with less than one event a bucket")

    def scenes(wanted: bool) -> list[Scenario]:
        mine = (trace for trace in traces if (family(trace.name) in held) is wanted)
        return [Scenario(trace.name, f"the recorded load {trace.name}", trace, float("inf")) for trace in mine]

    return Split(scenes(False), scenes(True), 1, tuple(told))
