"""The dry-run as one HTML page that opens anywhere: plots, tables and reasons in a file that needs no
network.

Tables, figures and sentences are plain HTML, so the page reads without JavaScript; plotly.js is inlined for
the plots. A content security policy lets only the page's own two scripts run and nothing be fetched, and
every name that comes from a user is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

from rlscaler.files import write_text_atomically
from rlscaler_sim.chart_data import MAX_POINTS, Thinning, chart_data
from rlscaler_sim.decision_rows import decision_rows
from rlscaler_sim.page import as_read, csp_hash, inert, packaged, palette, plotly_source
from rlscaler_sim.report_parts import (
    chips,
    contender_head,
    contender_rows,
    finite,
    pairs,
    score_bars,
    tiles,
    words,
    world_facts,
)
from rlscaler_sim.result import DryRun
from rlscaler_sim.verdict import assumptions, counted, figure, outcome, seconds, sentence, verdict


@dataclass(frozen=True, slots=True)
class Frame:
    """What a page says of where its run comes from, all plain text but `sections`.

    command: that made it. past: the time and the source of what was recorded, "" where nothing was; a fragment. beside:
    a sentence below the verdict. sections: HTML that follows the contenders. tags: name of a contender -> what stands
    beside it. words: further entries of the glossary. footer: sentences.
    """

    command: str = "dry-run"
    past: str = ""
    beside: str = ""
    sections: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    footer: str = "A dry-run simulates: no cluster was read or changed."


DRY_RUN = Frame()


def write_report(run: DryRun, path: str | Path, notes: Sequence[str] = (), frame: Frame = DRY_RUN) -> None:
    """Write the report of `run` to `path` as one self-contained HTML page, whole or not at all.

    notes: sentences on what was assumed, shown below the verdict. frame: what made it.

    Raises UserError where plotly is not installed or the file cannot be written.
    """
    write_text_atomically(path, render(run, plotly_source("the HTML report"), notes=notes, frame=frame))


def render(
    run: DryRun, plotly_js: str, max_points: int = MAX_POINTS, notes: Sequence[str] = (), frame: Frame = DRY_RUN
) -> str:
    """Return the page as HTML.

    plotly_js: the source of plotly.js. max_points: points of a series beyond which it is thinned. notes, frame: see
    `write_report`.
    """
    headline, why = verdict(run)
    log = decision_rows(run)
    scripts = {"plotly": as_read(plotly_js), "script": as_read(packaged("report.js"))}
    took = f"{counted(run.decisions)}, simulated in {seconds(run.elapsed_s)}"
    facts = f"Past: {frame.past}. Policy {run.policy}: {took}" if frame.past else (
        f"Policy {run.policy} on {run.trace}: {took}"
    )  # fmt: skip
    parts = {
        "title": escape(f"{run.resource}: {headline} (rlscaler {frame.command})"),
        "command": escape(frame.command),
        "palette": palette(),
        "style": packaged("report.css"),
        "script_hashes": " ".join(map(csp_hash, scripts.values())),
        "resource": escape(run.resource),
        "facts": escape(facts),
        "outcome": outcome(run),
        "headline": escape(headline),
        "why": escape(why),
        "beside": f"<p>{escape(frame.beside)}</p>" if frame.beside else "",
        "notes": "".join(f'<p class="note">{escape(note)}</p>' for note in map(sentence, (*assumptions(run), *notes))),
        "tiles": "\n".join(tiles(run)),
        "limit_note": "; the clairvoyant, a limit and no rival, last" if run.limit else "",
        "contender_head": contender_head(run),
        "contender_rows": "\n".join(contender_rows(run, frame.tags)),
        "sections": frame.sections,
        "bound_note": f"No policy can score below {run.lower_bound:.3f} on this trace (proven)."
        if finite(run.lower_bound)
        else "",
        "limit_key": '<span><i class="key limit"></i>clairvoyant</span>' if run.limit else "",
        "score_bars": "\n".join(score_bars(run)),
        "chips": "\n".join(chips(run)),
        "plot_note": "".join(f'<p class="note">{escape(n)}</p>' for n in _plot_notes(run, max_points)),
        "policy": escape(run.policy),
        "decision_note": escape(log.note),
        "paper_note": f'<span class="on-paper"> {escape(log.paper_note)}</span>' if log.paper_note else "",
        "reason_options": "".join(f"<option>{escape(reason)}</option>" for reason in log.reasons),
        "decision_rows": "\n".join(log.rows),
        "run_pairs": pairs(_run_facts(run, frame)),
        "world_pairs": pairs(world_facts(run)),
        "words": words(frame.words),
        "footer": escape(frame.footer),
        "data": inert(chart_data(run, max_points)),
    }
    return Template(packaged("report.html.in")).substitute(parts | scripts)


def _run_facts(run: DryRun, frame: Frame) -> dict[str, str]:
    return {
        "Resource": run.resource,
        "Policy": run.policy,
        **({"Past": frame.past} if frame.past else {"Trace": run.trace}),
        "Steps": f"{len(run.series.time):,}",
        "Decisions": f"{run.decisions:,}",
        "Lower bound of the score": figure(run.lower_bound, ".3f"),
        "Time taken": seconds(run.elapsed_s),
    }


def _plot_notes(run: DryRun, max_points: int) -> list[str]:
    """Return what a reader must know of the plotted data: whether it is thinned, and whether it has gaps."""
    series = run.series
    thin = Thinning.of(len(series.time), max_points)
    notes = []
    if thin.stretch > 1:
        span = seconds(float(series.time[thin.stretch] - series.time[0]))
        notes.append(
            f"The {thin.steps:,} steps are thinned: each {thin.stretch} ({span}) are drawn as their lowest "
            "and highest value, so no spike is lost, and its place is right to within that time. "
            "Tables and scores use every step."
        )
    if not series.known.all():
        notes.append("Grey bands: the trace has a gap; the load there is unknown and not scored.")
    return notes
