"""What a dry-run means in words and rounded figures, the same in the terminal and on the page.

The verdict names the winner even where it is a rule, and says how the policy under test stands to it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rlscaler_sim.result import LATE_WEIGHT, Contender, DryRun

YEAR = 365 * 86400
"""Seconds; a clock beyond this counts from the Unix epoch, a smaller one from the start of the trace."""


def figure(value: float | None, form: str, unit: str = "", none: str = "–") -> str:
    """Return a number in a format-specification with its unit, and `none` where there is none."""
    return none if value is None or not math.isfinite(value) else f"{value:{form}}{unit}"


def seconds(value: float | None) -> str:
    """Return a duration in the unit that reads best: 85 ms, 1.84 s, 42 s, 3 min."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.0f} s" if value < 119.5 else f"{value / 60:.0f} min"


def percent(share: float | None) -> str:
    """Return a share as a percentage with the digits that matter: 12.3 %, 0.31 %, 0.004 %, <0.001 %."""
    if share is None or not math.isfinite(share):
        return "–"
    value = 100 * share
    if 0 < value < 0.001:
        return "<0.001 %"
    digits = 1 if value >= 9.995 else 2 if value >= 0.0095 or value == 0 else 3
    return f"{value:.{digits}f} %"


def hours(value: float) -> str:
    """Return replica-hours with the digits that matter: 1,234, 271, 9.7."""
    return figure(value, ",.0f" if value >= 99.95 else ",.1f")


def counted(number: int, what: str = "decision") -> str:
    """Return how many there are, with the word: 1 decision, 5,760 decisions, 2 seeds."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def clock(time: float, start: float, end: float) -> str:
    """Return a moment of the trace: a date in UTC, or the time since the start (with the day if it lasts
    days).
    """
    if start >= YEAR:
        return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S}"
    days, rest = divmod(round(time), 86400)
    hours, rest = divmod(rest, 3600)
    text = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    return f"day {days + 1} {text}" if end > 86400 else text


LEVEL = 0.0005
"""Scores that differ by less are level: they read the same."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of the table of contenders.

    key: the field of `Contender`. short, long: heading in the terminal (may have two lines) and on the
    page. meaning: one sentence. text: how its value is written.
    """

    key: str
    short: str
    long: str
    meaning: str
    text: Callable[[Contender], str]


COLUMNS = (
    Column("score", "score", "Score",
           "Cost ratio + 20 × share of late requests. Lower is better.", lambda c: figure(c.score, ".3f")),
    Column("cost_ratio", "cost", "Cost ratio",
           "Billed over needed pod-seconds. 1 is a replica count that follows the demand exactly.",
           lambda c: figure(c.cost_ratio, ".3f")),
    Column("violation_share", "late", "Late requests",
           "Share of requests that waited longer than the objective allows.",
           lambda c: percent(c.violation_share)),
    Column("regret", "regret", "Regret",
           "Distance to the clairvoyant: 0 is the clairvoyant, 1 is the HPA tuned on training load.",
           lambda c: figure(c.regret, ".2f")),
    Column("replica_hours", "hours", "Replica-hours",
           "Pod-hours billed, from a pod's creation to its deletion.",
           lambda c: hours(c.replica_hours)),
    Column("rescales", "rescales", "Rescales",
           "How often the replica count changed.", lambda c: figure(c.rescales, ",.0f")),
    Column("wait_p95_s", "p95\nwait", "Wait p95",
           "95th percentile of a request's wait before it is served.", lambda c: seconds(c.wait_p95_s)),
    Column("max_replicas", "max", "Max replicas",
           "Most replicas asked for at once.", lambda c: figure(c.max_replicas, ",.0f")),
)  # fmt: skip
"""The figures of a contender, most telling first."""


def versus(one: Contender, other: Contender) -> str:
    """Return how `one` differs from `other` in cost and in lateness, e.g. "12 % fewer replica-hours than
    hpa …".
    """
    ratio = one.replica_hours / other.replica_hours - 1 if other.replica_hours > 0 else math.nan
    points = 100 * (one.violation_share - other.violation_share)
    if not math.isfinite(ratio) or not math.isfinite(points):
        return f"its figures cannot be compared with those of {other.name}"
    amount = f"{100 * abs(ratio):.{0 if abs(ratio) >= 0.0095 else 1}f} %"
    hours = f"{amount} {'fewer' if ratio < 0 else 'more'}" if abs(ratio) >= 0.0005 else "as many"
    late = f"{abs(points):.{1 if abs(points) >= 0.095 else 2}f} points {'fewer' if points < 0 else 'more'}"
    late = f"at {late} late requests" if abs(points) >= 0.005 else "at the same share of late requests"
    than = "as" if hours == "as many" else "than"
    return f"{hours} replica-hours {than} {other.name} {late}"


def ordinal(place: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def verdict(run: DryRun) -> tuple[str, str]:
    """Return who won in a few words, and why in a sentence; the clairvoyant is never the winner."""
    ranked, tested, reference = run.ranked, run.tested, run.reference
    if tested is run.limit:
        return f"{tested.name} is the limit", "It knows the load beforehand, so it wins nothing."
    if reference is None:
        return f"{tested.name} ran alone", "There is no rule to compare it with."
    if not math.isfinite(ranked[0].score):
        unscored = "Nothing in the trace could be scored, so no contender has a score."
        return "Nobody wins", unscored if run.loaded else "There was no load, so nothing to scale and no score."
    best = ranked[0].score
    level = [c for c in ranked if abs(c.score - best) <= LEVEL]
    if len(level) > 1 and tested in level:
        others = ", ".join(c.name for c in level if c is not tested)
        return f"{tested.name} and {others} draw", sentence(versus(tested, next(c for c in level if c is not tested)))
    if tested is ranked[0]:
        why = sentence(versus(tested, reference))
        if ranked[1] is not reference:
            why += f" Next is {ranked[1].name}, score {ranked[1].score:.3f} against {tested.score:.3f}."
        return f"{tested.name} wins", why
    place = f"{tested.name} comes {ordinal(ranked.index(tested) + 1)} of {len(ranked)}"
    why = sentence(f"{versus(tested, ranked[0])}; score {figure(tested.score, '.3f')} against {best:.3f}")
    return f"{ranked[0].name} wins, {place}", why


def outcome(run: DryRun) -> str:
    """Return how the policy under test did: won (draws included), lost, or even where nothing can be said."""
    ranked = run.ranked
    if run.reference is None or run.tested is run.limit or not math.isfinite(ranked[0].score):
        return "even"
    return "won" if run.tested.score <= ranked[0].score + LEVEL else "lost"


def assumptions(run: DryRun) -> list[str]:
    """Return what the score charges and why, what late means here, and what the load was scaled to, where known."""
    found = [f"score: 1 % late weighs like {LATE_WEIGHT:g} % of the needed pods, whatever the objective"]
    wait, objective, scale = (run.world.get(key) for key in ("slo_wait", "objective", "scale_to"))
    if isinstance(wait, int | float) and objective:
        found.append(f"late: waited longer than {seconds(float(wait))} (objective: {objective})")
    served = run.loaded and any(math.isfinite(each.violation_share) for each in run.contenders)
    if isinstance(allowed := run.world.get("late_allowed"), int | float) and served:
        found.append(f"objective: {percent(float(allowed))} may be late; kept by {_keepers(run, float(allowed))}")
    if isinstance(scale, int | float):
        found.append(f"load: scaled to need {scale:g} replicas at its 95th percentile")
    return found


def _keepers(run: DryRun, allowed: float) -> str:
    """Return the names of those of whose requests no larger share is late, the clairvoyant's last."""
    everyone = [*run.ranked, *([run.limit] if run.limit is not None else [])]
    names = [each.name for each in everyone if each.violation_share <= allowed]
    if len(names) == len(everyone):
        return "all"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "nobody"


def sentence(text: str) -> str:
    """Return `text` with a capital, unless it begins with a name such as `spec.policy`, and a stop if it has none."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    named = re.search(r"\w[-._/]\w", first) is not None
    return f"{text if named else text[:1].upper() + text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}"
