"""What a calibration found, in words: the rows of the table in the terminal and on the page, and the headline."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlscaler.profile import Estimate, Profile
from rlscaler.quantities import duration_text


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what it is, its value, its 95 % interval ("" where there is none), and from what it is known."""

    name: str
    value: str
    interval: str
    why: str


def rows(profile: Profile) -> list[Row]:
    """Return the figures of a profile."""
    load, used = profile.load, profile.saturation
    found = [
        _row("Capacity of a replica", profile.capacity, rate, " requests/s"),
        _row("Start-up", profile.startup, short),
        _row("Age of the load's readings", profile.lag, short),
        _row("Noise, 1 = Poisson", profile.noise, lambda v: f"{v:.2f}"),
        _row("Variance that the time of day explains", profile.day, _part, " %"),
        _row("and beyond it the weekday", profile.week, _part, " %"),
    ]
    demand = profile.p95_demand
    needs = "" if demand is None else f"; the 95th percentile needs {demand:.1f} replicas at full use"
    found.append(Row("Load", f"{rate(load.mean)} requests/s on average", f"p95 {rate(load.p95)}, peak "
                     f"{rate(load.peak)}", f"{days(load.end - load.begin)}, read every "
                     f"{duration_text(profile.interval)}{needs}"))  # fmt: skip
    known = "no gap" if not load.gaps else (f"{load.gaps} gap{'s' if load.gaps > 1 else ''}, the longest "
                                            f"{duration_text(load.longest_gap)}")  # fmt: skip
    found.append(Row("Known", f"{share(load.coverage)} of the time", "", known))
    if used.utilization is not None:
        each = "" if used.load_per_replica is None else f"; {rate(used.load_per_replica)} requests/s a replica"
        full = used.saturated or 0.0
        said = f"at 93 % use and more for {duration_text(round(full))} in all" if full else "never at 93 % use or more"
        found.append(Row("Highest use over 3 minutes", f"{100.0 * used.utilization:.0f} %{each}", "", said))
    return found


def headline(profile: Profile) -> tuple[str, str]:
    """Return what is found in a sentence, and whether that is all that is wanted: won, even or lost."""
    capacity, startup = profile.capacity, profile.startup
    if capacity.value is None or capacity.low is None or capacity.high is None:
        return f"What a replica serves cannot be told: {capacity.why}.", "lost"
    if capacity.told == "stated":
        return f"What a replica serves is taken as stated, {rate(capacity.value)} requests/s: {capacity.why}.", "even"
    text = (f"A replica serves {rate(capacity.value)} requests/s at full use, {rate(capacity.low)} to "
            f"{rate(capacity.high)} with 95 % certainty")  # fmt: skip
    if startup.told != "learned" or startup.value is None or startup.low is None or startup.high is None:
        return f"{text}; how long it takes to start cannot be told.", "even"
    return (f"{text}, and starts in {short(startup.value)}, {short(startup.low)} to {short(startup.high)}.", "won")


def short(seconds: float) -> str:
    """Return seconds to the second, to a tenth below ten."""
    return duration_text(round(seconds, 1 if seconds < 10.0 else 0))


def days(seconds: float) -> str:
    """Return a span in hours or days."""
    return f"{seconds / 3600.0:.1f} hours" if seconds < 2 * 86_400.0 else f"{seconds / 86_400.0:.1f} days"


def share(part: float) -> str:
    """Return a share in per cent that is 100 only where all is meant."""
    return "100 %" if part >= 1.0 else f"{min(100.0 * part, 99.99):.4g} %"


def rate(value: float) -> str:
    """Return requests/s with three digits at least, and no exponent."""
    digits = 0 if value <= 0.0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{min(digits, 12)}f}"


def _part(value: float) -> str:
    """Return a share in per cent, with a digit more where it is nearly all."""
    return f"{100.0 * value:.{1 if 0.99 < value < 1.0 else 0}f}"


def _row(name: str, found: Estimate, text: Callable[[float], str], unit: str = "") -> Row:
    if found.value is None or found.low is None or found.high is None:
        return Row(name, "unknown", "", found.why)
    if found.told == "stated":
        return Row(name, text(found.value) + unit, "", found.why)
    return Row(name, text(found.value) + unit, f"{text(found.low)} to {text(found.high)}{unit}", found.why)
