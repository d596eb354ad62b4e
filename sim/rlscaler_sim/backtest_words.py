"""A backtest in words: of what past it is, how it stands to what was done then, what it costs, and how sure that is.

The terminal and the page say the same. Costs and late requests are predicted for everyone; what was done then is
recorded, and what it cost and broke is predicted too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from rlscaler.quantities import duration_text
from rlscaler_sim.backtest import Bracket, bill, scored_seconds
from rlscaler_sim.calibration_words import days, short
from rlscaler_sim.recorded import Past
from rlscaler_sim.report import Frame
from rlscaler_sim.result import RECORDED, Contender, DryRun
from rlscaler_sim.trace import Trace
from rlscaler_sim.verdict import YEAR, figure, hours, percent

DOUBTED = 0.05
"""Share of late requests then, above which it is doubted that a replica serves no more."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a past comes from. source: address or file. asked: of a Prometheus. begin, end: seconds. step: seconds."""

    source: str
    asked: bool
    begin: float
    end: float
    step: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"source": self.source, "begin": self.begin, "end": self.end, "step": self.step}


def origin(past: Past | Trace, interval: float, source: str, *, asked: bool) -> Origin:
    """Return where a past comes from, whose readings are `interval` seconds apart where it is no trace."""
    if isinstance(past, Trace):
        return Origin(source, asked, past.start, past.start + past.duration, past.step)
    return Origin(source, asked, float(past.times[0]) - interval, float(past.times[-1]), interval)


def past(origin: Origin) -> str:
    """Return of what past a backtest is: how long, from when to when, how fine, and from where."""
    when = f"from {_moment(origin.begin)} to {_moment(origin.end)} UTC, " if origin.begin >= YEAR else ""
    return f"{days(origin.end - origin.begin)}, {when}a value every {duration_text(origin.step)}, from {origin.source}"


def _moment(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}"


def beside(run: DryRun) -> str:
    """Return how the policy stands to what was done then, "" where that is not known."""
    by_name = {c.name: c for c in run.contenders}
    if RECORDED not in by_name or by_name[RECORDED].replica_hours <= 0.0:
        return ""
    mine, then = by_name[run.policy], by_name[RECORDED]
    share = round(100.0 * (mine.replica_hours / then.replica_hours - 1.0))
    less = f"{abs(share)} % {'more' if share > 0 else 'fewer'}" if share else "as many"
    capacity = float(run.world["capacity_per_replica"])
    doubt = f" If so many were not late then, a replica serves more than {capacity:g} requests/s."
    return (
        f"Beside what was done then: {less} replica-hours ({hours(mine.replica_hours)} for "
        f"{hours(then.replica_hours)}), {percent(mine.violation_share)} late for {percent(then.violation_share)} (both "
        f"predicted).{doubt if then.violation_share > DOUBTED else ''}"
    )


def lines(run: DryRun, brackets: Sequence[Bracket], price: float | None) -> list[str]:
    """Return what a backtest says in a terminal beyond the table of a dry-run."""
    found = [said] if (said := beside(run)) else []
    for bracket in brackets:
        late = ", ".join(
            f"{c.name} {percent(c.violation_share)} in {hours(c.replica_hours)} replica-hours"
            for c in bracket.contenders
        )
        case = (f"serves {100.0 * bracket.factor:.0f} % of what is stated" if bracket.startup is None
                else f"starts in {short(bracket.startup)}")  # fmt: skip
        found.append(f"If a replica {case}, late: {late}.")
    if price is not None and scored_seconds(run) > 0.0:
        bills = ", ".join(f"{c.name} {bill(c, price, scored_seconds(run))['month']:,.2f}" for c in run.contenders)
        found.append(f"Money for 30 days like these, at {price:g} a replica-hour: {bills}.")
    return found


def frame(run: DryRun, brackets: Sequence[Bracket], price: float | None, origin: Origin) -> Frame:
    """Return what the page of a backtest says in place of a dry-run's words."""
    read = "Prometheus was asked for ranges of its past;" if origin.asked else "The past is of files;"
    return Frame(
        command="backtest",
        past=past(origin),
        beside=beside(run),
        sections="\n".join(filter(None, (_money(run, price), _brackets(run, brackets)))),
        tags={RECORDED: "what was done then"},
        words={
            RECORDED: "The replicas that were asked for at the time; what comes of them is predicted, as for all.",
        },
        footer=f"A backtest decides on what was recorded, and simulates what comes of it: costs and late requests are "
        f"predicted for everyone, for what was done then too. {read} nothing was written or changed.",
    )


def _ordered(run: DryRun) -> list[Contender]:
    return [*run.ranked, *([run.limit] if run.limit else [])]


def _table(title: str, name: str, lead: str, heads: Sequence[str], rows: Sequence[Sequence[str]], tested: str) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "\n".join(
        f'<tr{" class=tested" if first == tested else ""}><th scope="row">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(each)}</td>' for each in more)}</tr>"
        for first, *more in rows
    )
    return (
        f'<section aria-labelledby="{name}-title">\n<h2 id="{name}-title">{escape(title)}</h2>\n'
        f'<p class="lead">{escape(lead)}</p>\n'
        f'<div class="scroll" role="region" aria-labelledby="{name}-title" tabindex="0"><table id="{name}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n</section>"
    )


def _money(run: DryRun, price: float | None) -> str:
    seconds = scored_seconds(run)
    if price is None or seconds <= 0.0:
        return ""
    rows = []
    for contender in _ordered(run):
        found = bill(contender, price, seconds)
        rows.append([contender.name, *(figure(found[key], ",.2f") for key in ("total", "month"))])
    lead = f"At {price:g} a replica-hour: the total of the {days(seconds)} that are scored, and 30 days like these."
    return _table("Money", "money", lead, ["Contender", "Total", "30 days"], rows, run.policy)


def _brackets(run: DryRun, brackets: Sequence[Bracket]) -> str:
    """Return a table for the ends of the capacity's uncertainty, and one for those of the start-up's."""
    mine = Bracket(1.0, run.contenders)
    served = [(each.factor, f"{100.0 * each.factor:.0f} %", each) for each in brackets if each.startup is None]
    started = [(each.startup, short(each.startup), each) for each in brackets if each.startup is not None]
    thought = float(run.world["startup"])
    found = []
    if served:
        lead = (
            "Decided by the stated capacity, while a replica really serves this share of it (the clairvoyant knows "
            "which). Where late requests leap from one column to the next, the capacity has to be known better first."
        )
        columns = [*served, (1.0, "100 %", mine)]
        found.append(_ends(run, columns, "If a replica serves less or more", "capacity", lead))
    if started:
        lead = (
            "Decided by the start-up that is told, while replicas really start in this time (the clairvoyant knows "
            "which)."
        )
        columns = [*started, (thought, short(thought), mine)]
        found.append(_ends(run, columns, "If a replica starts sooner or later", "startup", lead))
    return "\n".join(found)


def _ends(run: DryRun, columns: Sequence[tuple[float, str, Bracket]], title: str, name: str, lead: str) -> str:
    ordered = [(text, {c.name: c for c in each.contenders}) for _, text, each in sorted(columns, key=lambda c: c[0])]
    heads = ["Contender"]
    for text, _ in ordered:
        heads += [f"Late at {text}", f"Replica-hours at {text}"]
    rows = [
        [contender.name, *(text for _, by_name in ordered for text in (
            percent(by_name[contender.name].violation_share), hours(by_name[contender.name].replica_hours)))]
        for contender in _ordered(run)
    ]  # fmt: skip
    return _table(title, name, lead, heads, rows, run.policy)
