"""What an evaluation found, as JSON and as a table in the terminal."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from rlscaler.quantities import printable
from rlscaler_sim.contenders import OWN_TARGET
from rlscaler_sim.evaluation import Scored, regrets_to, summary
from rlscaler_sim.result import CLAIRVOYANT, plain
from rlscaler_sim.verdict import counted, figure

CLOSEST = 8
"""Contenders in the table of regrets to OWN_TARGET."""


def to_json(
    scored: Sequence[Scored],
    *,
    command: str,
    seeds: int,
    duration: float,
    startup: float,
    scale_to: float,
    elapsed: float,
) -> dict[str, Any]:
    """Return the evaluation as plain values; what is not finite is None."""
    found: dict[str, Any] = plain({
        "command": command,
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
                  title=f"{counted(len(headline), 'headline trace')} of {len(scored)}; regret 0 = clairvoyant, "
                  "1 = the HPA")  # fmt: skip
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

    for name in ranked(found):
        row = found[name]
        table.add_row(
            name,
            *(_figure(row.get(f"{how}_regret")) for how in ("median", "mean", "worst")),
            _between(row),
            *(_figure(row.get(f"{how}_regret_own")) for how in ("median", "mean", "worst")),
            "-" if name == CLAIRVOYANT else str(row["traces_worse_than_hpa_own"]),
        )
    console.print(table)
    left_out = [s for s in scored if not s.headline]
    for why, those in (
        ("too few events, or the clairvoyant late too", [s.trace for s in left_out if s.loaded]),
        ("no load in what was run", [s.trace for s in left_out if not s.loaded]),
    ):
        if those:
            console.print(printable(f"not in the headline ({why}): {', '.join(those)}"), markup=False)


def _figure(value: float | None) -> str:
    return figure(value, ".2f", none="-")


def markdown(scored: Sequence[Scored], found: Mapping[str, Mapping[str, Any]], command: str) -> str:
    """Return the summary and the table by trace as Markdown, with the command that makes it."""
    headline = [s for s in scored if s.headline]
    lines = [
        f"Made by `{command}`.",
        "",
        f"{counted(len(headline), 'headline trace')} of {len(scored)}, {counted(scored[0].seeds, 'seed')} each. Regret"
        " is 0 for the clairvoyant and 1 for the HPA tuned on training load (`hpa-tuned`); regret_own is 1 for the HPA"
        " tuned on the very trace (`hpa-own`). IQM: interquartile mean with a 90 % bootstrap interval over source"
        " families.",
        "",
        "| contender | regret median | mean | worst | IQM [90 %] "
        "| regret_own median | mean | worst | worse than hpa-own |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in ranked(found):
        row = found[name]
        cells = [_figure(row.get(f"{how}_regret")) for how in ("median", "mean", "worst")]
        cells.append(_between(row))
        cells += [_figure(row.get(f"{how}_regret_own")) for how in ("median", "mean", "worst")]
        cells.append("-" if name == CLAIRVOYANT else str(row["traces_worse_than_hpa_own"]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += _to_target_alone(scored)
    names = [n for n in ranked(found) if n not in ("constant", "churn", "random", "static", CLAIRVOYANT)]
    lines += ["", "Score J = C + 20 V by trace; `*` marks traces outside of the headline set.", "",
              "| trace | " + " | ".join(names) + " | clairvoyant | bound |",
              "|---" + "|---:" * (len(names) + 2) + "|"]  # fmt: skip
    for s in scored:
        by_name = {c.name: c for c in s.contenders}
        best = min((by_name[n].score for n in names if n in by_name and isfinite(by_name[n].score)), default=0.0)
        cells = [_marked(by_name[n].score, best) if n in by_name else "-" for n in names]
        limit = figure(by_name[CLAIRVOYANT].score if CLAIRVOYANT in by_name else None, ".3f", none="-")
        bound = figure(s.lower_bound, ".3f", none="-")
        lines.append(f"| {s.trace}{'' if s.headline else ' *'} | {' | '.join(cells)} | {limit} | {bound} |")
    return "\n".join(lines) + "\n"


def _to_target_alone(scored: Sequence[Scored]) -> list[str]:
    """Return what the regrets would be, had the HPA that is tuned in hindsight nothing but its target to tune."""
    found = regrets_to(scored, OWN_TARGET)
    if not found:
        return []
    alike = sorted((name for name in found if name not in (CLAIRVOYANT, OWN_TARGET)), key=lambda n: found[n].mean())
    lines = [
        "",
        f"`{OWN_TARGET}` has no window and a tolerance of 10 %, and its target alone is tuned on the very trace."
        " Regret to it:",
        "",
        "| contender | median | mean | worst | worse |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in alike[:CLOSEST]:
        values = found[name]
        cells = [_figure(float(each)) for each in (np.median(values), values.mean(), values.max())]
        lines.append(f"| {name} | {' | '.join(cells)} | {int((values > 1.0 + 1e-9).sum())} |")
    return lines


def _marked(score: float, best: float) -> str:
    return f"**{score:.3f}**" if score <= best else figure(score, ".3f", none="-")


def ranked(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the contenders, least mean regret_own first; those without one last."""

    def order(name: str) -> float:
        value = found[name].get("mean_regret_own")
        return float("inf") if value is None else float(value)

    return sorted(found, key=order)


def _between(row: Mapping[str, Any]) -> str:
    spread = row.get("iqm_regret_interval")
    if not spread or spread[0] is None:
        return "-"
    return f"{row['iqm_regret']:.2f} [{spread[0]:.2f}, {spread[1]:.2f}]"
