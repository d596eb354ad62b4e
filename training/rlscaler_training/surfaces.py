"""What a policy decides, laid open: its headroom over the level and the trend of load, and the table of a tabular one.

Each point of a surface is a workload of its own, whose load was steady for hours and then changed in a straight line
over the last minutes; what the policy sees of it is made by the same code as everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.action import CORRECTIONS
from rlscaler.policy import Policy
from rlscaler.table import TablePolicy

LEVELS = (1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 10.0, 15.0, 22.0, 33.0, 50.0, 70.0)
"""Demands now, in replicas at full use."""
CHANGES = (-0.4, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""Changes of the load over RAMP, as a share of what it was before."""
RAMP = 180.0
"""Seconds of the change: the span over which the observation's trend is measured."""
STEADY = 2 * 3600.0
"""Seconds of steady load before it."""
JITTER = 0.03
"""Standard deviation of the noise of the load, as a share; the same noise at every point."""
USE = 0.7
"""Utilisation that the replicas had before the change."""
NOON = 12 * 3600.0 + 14 * 86400.0


@dataclass(frozen=True, slots=True)
class Surface:
    """headroom: (changes, levels) replicas proposed over the demand, before the guard; NaN = no answer."""

    name: str
    headroom: np.ndarray


def situations(settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times (T,), loads (N, T) requests/s and replicas (N,) of every level (fastest) and change."""
    interval = float(settings.interval)
    change, level = (a.ravel() for a in np.meshgrid(CHANGES, LEVELS, indexing="ij"))
    times = NOON + np.arange(-STEADY - RAMP, interval / 2, interval)
    before = level / (1.0 + change)
    share = np.clip((times - (NOON - RAMP)) / RAMP, 0.0, 1.0)
    demand = before[:, None] + (level - before)[:, None] * share
    noise = 1.0 + JITTER * np.random.default_rng(0).standard_normal(len(times))
    noise[-1] = 1.0
    replicas = np.maximum(1.0, np.ceil(before / USE))
    return times, demand * noise * float(settings.capacity_per_replica), replicas


def surfaces(policies: Sequence[Policy], settings: Settings) -> list[Surface]:
    """Return the surface of each policy, in the same situations."""
    times, loads, replicas = situations(settings)
    count = len(replicas)
    scaler = Autoscaler("default", settings, count)
    scaler.fill(np.arange(count), times[:-1], loads[:, :-1])
    view = scaler.view(Snapshot(time=times[-1], load=loads[:, -1], backlog=0.0, utilization=np.minimum(
        1.0, loads[:, -1] / float(settings.capacity_per_replica) / replicas), ready=replicas, starting=0.0,
        desired=replicas))  # fmt: skip
    found = []
    for policy in policies:
        proposal, _ = policy.propose(view, policy.state(count))
        headroom = np.asarray(proposal.replicas, np.float64) / view.demand
        found.append(Surface(policy.name, headroom.reshape(len(CHANGES), len(LEVELS))))
    return found


@dataclass(frozen=True, slots=True)
class Choice:
    """A state of a tabular policy. bins: of each field, in words. action: what it does. gain: over the middle action.

    blank: all actions are valued alike, so the state was never learned.
    """

    bins: tuple[str, ...]
    action: str
    gain: float
    blank: bool


def table_of(policy: Policy) -> tuple[list[str], list[Choice]] | None:
    """Return the fields and every state of a tabular policy, None where it is none."""
    if not isinstance(policy, TablePolicy):
        return None
    values = np.asarray(policy.artifact.arrays["values"], np.float64)
    cuts = policy.bins.cuts
    middle = values.shape[1] // 2
    rows = []
    for state, each in enumerate(values):
        rest, digits = state, []
        for limits in reversed(cuts.values()):
            rest, digit = divmod(rest, len(limits) + 1)
            digits.append(digit)
        words = tuple(bin_of(limits, digit) for limits, digit in zip(cuts.values(), reversed(digits), strict=True))
        best = int(policy.values[state].argmax())
        blank = bool((each[np.arange(len(each)) != middle] == each[0]).all())
        rows.append(Choice(words, action_of(policy.scheme.name, best), float(each[best] - each[middle]), blank))
    return list(cuts), rows


def bin_of(cuts: Sequence[float], digit: int) -> str:
    """Return a bin in words."""
    if digit == 0:
        return f"below {cuts[0]:g}"
    return f"{cuts[-1]:g} and more" if digit == len(cuts) else f"{cuts[digit - 1]:g} to {cuts[digit]:g}"


def action_of(scheme: str, action: int) -> str:
    """Return an action in words."""
    if scheme == "headroom":
        change = float(np.expm1(CORRECTIONS[action]))
        return "as the rule" if change == 0.0 else f"{100 * change:+.0f} % of the rule's"
    return ("one replica less", "stay", "one replica more")[action]
