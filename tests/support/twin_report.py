"""What came of a side-by-side play, as a person reads it: a table in Markdown, and how it was made."""

from collections.abc import Mapping, Sequence

from twin_burst import CAPACITY, INTERVAL, STARTUP, Burst
from twin_figures import Figures
from twin_play import Played

HEADS = (
    "twin", "replica-seconds", "predicted", "off", "unmet demand", "share", "predicted", "between", "rescales",
    "predicted", "peak", "predicted",
)  # fmt: skip


def table(measured: Mapping[str, Figures], predictions: Sequence[Mapping[str, Figures]], needed: float) -> str:
    """Return the figures as a table in Markdown.

    predictions: as `twin_prediction.predicted` returns them: the usual one, and those that bound it. needed:
    replica-seconds of the whole demand at full use.
    """
    rows = [HEADS, ("---",) + ("---:",) * (len(HEADS) - 1)]
    for name, real in measured.items():
        told, *bounds = (prediction[name] for prediction in predictions)
        between = " to ".join(f"{unmet:.0f}" for unmet in sorted(each.unmet for each in bounds))
        rows.append(
            (
                name,
                f"{real.replica_seconds:.0f}", f"{told.replica_seconds:.0f}",
                f"{100.0 * (real.replica_seconds / told.replica_seconds - 1.0):+.1f} %",
                f"{real.unmet:.0f}", f"{100.0 * real.unmet / needed:.1f} %", f"{told.unmet:.0f}", between,
                str(real.rescales), str(told.rescales), str(real.peak), str(told.peak),
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(
        f"| {' | '.join([row[0].ljust(widths[0]), *line[1:]])} |" for row, line in zip(rows, lines, strict=True)
    )


def report(burst: Burst, played: Played, predictions: Sequence[Mapping[str, Figures]]) -> str:
    """Return the table, and below it what was played and how true to its word the cluster was."""
    minutes = (len(burst.shown) - burst.counted) * burst.interval * burst.speed / 60.0
    standard = f"{INTERVAL:g} s between decisions, {STARTUP:g} s of start-up, {CAPACITY:g} requests/s a replica"
    fast = f"{burst.interval:g} s, {burst.startup:g} s and {burst.capacity:g} requests/s"
    middle, late = played.startup
    lines = (
        f"{burst.source}: {minutes:g} minutes from second {burst.begins:,.0f} on, seed {burst.seed}.",
        f"{standard}; at {burst.speed:g} times the speed {fast}." if burst.speed != 1.0 else f"{standard}.",
        f"Needed at full use: {burst.needed:.0f} replica-seconds; a share is one of these.",
        f"Pods were ready after {middle:.2f} s (95th percentile {late:.2f} s). An HPA decided every "
        f"{played.syncs:.2f} s, rlscaler every {played.decisions:.2f} s.",
    )
    return "\n".join((table(played.figures, predictions, burst.needed), "", *lines))
