"""The report on training runs as one HTML page: the dry-run's look, its timeline and its decisions, and the curves.

Tables, figures and sentences are plain HTML, so the page reads without JavaScript. Every name that comes from a user
is escaped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from rlscaler.files import write_text_atomically
from rlscaler_sim.chart_data import chart_data
from rlscaler_sim.decision_rows import decision_rows
from rlscaler_sim.page import as_read, csp_hash, inert, packaged, palette, plotly_source, section
from rlscaler_sim.palette import looks
from rlscaler_sim.report_parts import chips, contender_head, contender_rows, pairs
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_sim.verdict import COLUMNS
from rlscaler_training import run_curves, surfaces
from rlscaler_training.run_record import Record
from rlscaler_training.run_summary import DEFAULT, Summary, best_figures, listed, verdict
from rlscaler_training.run_table import COLUMNS as RUN_COLUMNS

HERE = "rlscaler_training"
TILES = ("score", "regret", "cost_ratio", "violation_share", "rescales")


def write_page(found: Summary, path: str | Path) -> None:
    """Write the page to `path`, whole or not at all. Raises UserError where plotly is missing or nothing is written."""
    write_text_atomically(path, render(found, plotly_source("the report")))


def render(found: Summary, plotly_js: str) -> str:
    """Return the page as HTML. plotly_js: the source of plotly.js."""
    scripts = [plotly_js, packaged("run_report.js", HERE)]
    if found.replay is not None:
        scripts.append(packaged("report.js"))
    scripts = [as_read(script) for script in scripts]
    headline, why, outcome = verdict(found)
    training = {"curves": run_curves.told(found.groups, found.colours)}
    training |= {"scores": _scores(found), "surfaces": _surfaces(found)} if found.trials is not None else {}
    parts = {
        "title": escape(f"{_heading(found)}: {headline} (rlscaler report)"),
        "palette": palette(),
        "style": packaged("report.css"),
        "more_style": packaged("run_report.css", HERE),
        "script_hashes": " ".join(map(csp_hash, scripts)),
        "heading": escape(_heading(found)),
        "facts": escape(_facts(found.runs)),
        "outcome": outcome,
        "headline": escape(headline),
        "why": escape(why),
        "notes": "".join(f'<p class="note">{escape(note)}.</p>' for note in found.notes),
        "tiles": _tiles(found),
        "runs_note": escape(
            "Best score: J = cost + price × late on the validation load, the lowest on the way; the policy was chosen "
            "by it. Final score: the kept policy on other draws, beside the rule that it corrects on the same."
        ),
        "run_head": "".join(f'<th scope="col">{escape(c.heading)}</th>' for c in RUN_COLUMNS),
        "run_rows": "\n".join(_run_rows(found.runs)),
        "curves_note": escape(
            f"{run_curves.band_words(found.groups)} The dotted line is the score of the rule on the same draws, where "
            "the learner logs it. Runs of other seeds or loads are validated on other draws, so their curves do not "
            "tell who is better.".strip()
        ),
        "curve_keys": "".join(
            f'<span><i class="key cost" style="--bar:var(--c{found.colours[g.label]})"></i>{escape(_label(g))}</span>'
            for g in found.groups
        ),
        "evaluated": _evaluated(found),
        "settings": "".join(_settings(found)),
        "training": inert(training),
        "scripts": "\n".join(
            ([f'<script type="application/json" id="data">{inert(chart_data(found.replay))}</script>']
             if found.replay else [])
            + [f"<script>{script}</script>" for script in scripts]
        ),
    }  # fmt: skip
    return Template(packaged("run_report.html.in", HERE)).substitute(parts)


def _heading(found: Summary) -> str:
    learners = list(dict.fromkeys(run.learner for run in found.runs))
    count = len(found.runs)
    return found.runs[0].name if count == 1 else f"{count} runs of {listed(learners)}"


def _facts(runs: Sequence[Record]) -> str:
    took = sum(run.seconds or 0.0 for run in runs)
    steps = sum(run.steps or 0 for run in runs)
    versions = sorted({str(run.environment.get("versions", {}).get("rlscaler", "")) for run in runs} - {""})
    said = [f"{steps:,} steps of environments" if steps else "", f"trained for {took:,.0f} s" if took else "",
            f"rlscaler {listed(versions)}" if versions else ""]  # fmt: skip
    return ", ".join(filter(None, said))


def _label(group: run_curves.Group) -> str:
    count = len(group.runs)
    return group.label if count == 1 else f"{group.label} ({count} seeds)"


def _tiles(found: Summary) -> str:
    """Return the figures of the best policy as means over the classic patterns."""
    best = best_figures(found)
    if best is None:
        return ""
    index = {column.key: column for column in COLUMNS}
    cells = [
        f'<div><dt>{escape(index[key].long)}</dt><dd class="value">{escape(index[key].text(best))}</dd>'
        f'<dd class="delta">{escape(best.name)}, mean over the patterns</dd></div>'
        for key in TILES
    ]
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _run_rows(runs: Iterable[Record]) -> Iterable[str]:
    """Yield a row for each run, the same figures as in the terminal."""
    for run in runs:
        cells = [escape(column.text(run)) for column in RUN_COLUMNS]
        cells[3] = f'<span class="state-{run.state}">{cells[3]}</span>'
        title = f' title="go on by: {escape(run.resumption)}"' if run.state == "interrupted" else ""
        yield f'<tr{title}><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>'


def _evaluated(found: Summary) -> str:
    """Return the sections that need a policy; empty where there is none."""
    if found.trials is None or found.replay is None:
        return ""
    run, template = found.replay, packaged("report.html.in")
    rows = decision_rows(run)
    draws, hours = found.trials.scores.shape[2], len(run.series.time) * 15.0 / 3600.0
    low, high = surfaces.CHANGES[0], surfaces.CHANGES[-1]
    text = packaged("run_report_evaluated.html.in", HERE)
    text = text.replace("$timeline", section(template, "timeline-title"))
    text = text.replace("$decisions", section(template, "decisions-title"))
    note = (
        f"Mean score over {draws} {'draws' if draws > 1 else 'draw'} of each, the same for everyone: new draws, that "
        f"nothing was trained or chosen on. Bars: the range over draws. {REFERENCE}: the HPA tuned on training load; "
        f"{CLAIRVOYANT}: the limit. The lowest of a pattern is marked, and what is above {REFERENCE} is red."
    )
    about = (
        f"Headroom (replicas proposed over the demand, before the guard) in situations made for it: steady load for "
        f"two hours at {surfaces.USE:.0%} use, then a change of {low:+.0%} to {high:+.0%} within "
        f"{surfaces.RAMP / 60:g} minutes. All share one colour scale."
    )
    return Template(text).substitute(
        evaluation_note=escape(note),
        evaluation_head="".join(_evaluation_head(found)),
        evaluation_rows="\n".join(_evaluation_rows(found)),
        surfaces_note=escape(about),
        tables="".join(_table(name, *table) for name, table in found.tables.items()),
        trace=escape(run.trace),
        episode_note=escape(f"{run.decisions:,} decisions over {hours:.1f} h; everyone met the same load in the same "
                            "world."),
        contender_head=contender_head(run),
        contender_rows="\n".join(contender_rows(run, {})),
        chips="\n".join(chips(run)),
        plot_note="",
        policy=escape(run.policy),
        decision_note=escape(rows.note),
        paper_note=f'<span class="on-paper"> {escape(rows.paper_note)}</span>' if rows.paper_note else "",
        reason_options="".join(f"<option>{escape(reason)}</option>" for reason in rows.reasons),
        decision_rows="\n".join(rows.rows),
    )  # fmt: skip


def _ordered(found: Summary) -> list[str]:
    return [*found.candidates, REFERENCE, CLAIRVOYANT]


def _evaluation_head(found: Summary) -> Iterable[str]:
    yield '<th scope="col">Pattern</th>'
    for name in _ordered(found):
        yield f'<th scope="col">{escape(name)}</th>'


def _evaluation_rows(found: Summary) -> Iterable[str]:
    """Yield a row of mean scores for each pattern, and their mean."""
    trials = found.trials
    assert trials is not None
    order = [trials.names.index(name) for name in _ordered(found)]
    means = trials.scores.mean(axis=2)[order]
    rows = [(name, means[:, column]) for column, name in enumerate(trials.loads)] + [("mean", means.mean(axis=1))]
    for name, values in rows:
        rivals, reference = values[:-1], values[-2]
        cells = []
        for place, value in enumerate(values):
            kind = "lowest" if place < len(rivals) and value == rivals.min() else ""
            kind = kind or ("above" if place < len(found.candidates) and value > reference + 5e-4 else "")
            cells.append(f'<td class="{kind}">{value:.3f}</td>' if kind else f"<td>{value:.3f}</td>")
        mark = ' class="mean"' if name == "mean" else ""
        yield f'<tr{mark}><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _scores(found: Summary) -> dict[str, Any]:
    """Return the scores as the chart takes them."""
    trials, replay = found.trials, found.replay
    assert trials is not None
    assert replay is not None
    look = dict(zip((c.name for c in replay.contenders), looks(replay), strict=True))
    entrants = []
    for name in _ordered(found):
        scores = trials.scores[trials.names.index(name)]
        means = scores.mean(axis=1)
        kind = {REFERENCE: "reference", CLAIRVOYANT: "limit"}.get(name, "policy")
        entrants.append({
            "name": name, "kind": kind, "colour": look[name].colour, "means": _rounded(means),
            "above": _rounded(scores.max(axis=1) - means), "below": _rounded(means - scores.min(axis=1)),
        })  # fmt: skip
    return {"loads": list(trials.loads), "draws": trials.scores.shape[2], "entrants": entrants}


def _surfaces(found: Summary) -> dict[str, Any]:
    """Return the surfaces as the charts take them, on one colour scale."""
    every = np.concatenate([s.headroom.ravel() for s in found.surfaces])
    low, high = np.nanpercentile(every, [1.0, 99.0])
    return {
        "levels": [f"{level:g}" for level in surfaces.LEVELS],
        "changes": [f"{change:+.0%}" if change else "±0%" for change in surfaces.CHANGES],
        "minutes": f"{surfaces.RAMP / 60:g}",
        "low": float(low), "high": float(high), "scale": "Viridis",
        "maps": [
            {"name": s.name, "rule": s.name == DEFAULT and i == 0, "headroom": [_rounded(row) for row in s.headroom],
             "replicas": [_rounded(row * np.array(surfaces.LEVELS)) for row in s.headroom]}
            for i, s in enumerate(found.surfaces)
        ],
    }  # fmt: skip


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(v, 4) if math.isfinite(v) else None for v in np.asarray(values, np.float64).tolist()]


def _table(name: str, fields: Sequence[str], rows: Sequence[surfaces.Choice]) -> str:
    """Return the table of a tabular policy, folded away."""
    head = "".join(f'<th scope="col">{escape(field)}</th>' for field in (*fields, "decides", "gain over the rule"))
    body = "".join(
        f"<tr{' class=blank' if row.blank else ''}>{''.join(f'<td>{escape(bin_)}</td>' for bin_ in row.bins)}"
        f"<td>{escape('never learned: as the rule' if row.blank else row.action)}</td>"
        f'<td class="number">{"" if row.blank else f"{row.gain:.3f}"}</td></tr>'
        for row in rows
    )
    return (
        f"<details><summary>The table of {escape(name)}: {len(rows)} states</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _settings(found: Summary) -> Iterable[str]:
    """Yield what was asked of each group, that by which they differ marked."""
    firsts = [group.runs[0] for group in found.groups]
    for group in found.groups:
        same = [run for run in firsts if run.learner == group.runs[0].learner]
        marked = set(run_curves.differing(same)) if len(same) > 1 else set()
        facts: Mapping[str, Any] = run_curves.asked(group.runs[0])
        told = {name + (" (differs)" if name in marked else ""): run_curves.text(v) for name, v in facts.items()}
        told["seeds"] = ", ".join(str(run.seed) for run in group.runs)
        yield f'<div><h3>{escape(group.label)}</h3><dl class="pairs">{pairs(told)}</dl></div>'
