"""What an evaluation found, as JSON and as a table in the terminal."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlscaler_sim.evaluation import Scored, summary
from rlscaler_sim.result import CLAIRVOYANT, plain


def to_json(
    scored: Sequence[Scored], *, seeds: int, duration: float, startup: float, scale_to: float, elapsed: float
) -> dict[str, Any]:
    """Return the evaluation as plain values; what is not finite is None."""
    found: dict[str, Any] = plain({
        "world": {"startup": startup, "scale_to": scale_to, "seeds": seeds, "seconds": duration},
        "traces": [
            {
                "trace": s.trace,
                "family": s.family,
                "headline": s.headline,
                "lower_bound": s.lower_bound,
                "contenders": [asdict(c) for c in s.contenders],
            }
            for s in scored
        ],
        "summary": summary(scored),
        "elapsed_s": round(elapsed, 2),
    })  # fmt: skip
    return found


def print_summary(scored: Sequence[Scored], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the regrets of every contender over the headline traces, best first."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    headline = [s for s in scored if s.headline]
    table = Table(box=None, pad_edge=False, title_justify="left",
                  title=f"{len(headline)} headline traces of {len(scored)}; regret 0 = clairvoyant, 1 = the HPA")  # fmt: skip
    table.add_column("contender")
    for heading in (
        "regret\nmedian",
        "mean",
        "worst",
        "IQM\n90 % interval",
        "regret_own\nmedian",
        "mean",
        "worst",
        "worse than\nhpa-own",
    ):
        table.add_column(heading, justify="right")

    def order(name: str) -> float:
        value = found[name].get("mean_regret_own")
        return float("inf") if value is None else float(value)

    for name in sorted(found, key=order):
        row = found[name]
        spread = row.get("iqm_regret_interval")
        between = (
            "-" if not spread or spread[0] is None else f"{row['iqm_regret']:.2f} [{spread[0]:.2f}, {spread[1]:.2f}]"
        )
        table.add_row(
            name,
            *(_figure(row.get(f"{how}_regret")) for how in ("median", "mean", "worst")),
            between,
            *(_figure(row.get(f"{how}_regret_own")) for how in ("median", "mean", "worst")),
            "-" if name == CLAIRVOYANT else str(row["traces_worse_than_hpa_own"]),
        )
    console.print(table)
    left_out = [s for s in scored if not s.headline]
    if left_out:
        console.print(
            f"not in the headline (too few events, or the clairvoyant late too): {', '.join(s.trace for s in left_out)}"
        )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
