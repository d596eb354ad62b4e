"""The pieces of the report's HTML that depend on the contenders; texts are escaped where they become HTML."""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, TypeGuard

from rlscaler_sim.palette import Look, looks
from rlscaler_sim.result import LATE_WEIGHT, Contender, DryRun, plain
from rlscaler_sim.verdict import COLUMNS, figure

_TILES = ("score", "regret", "violation_share", "replica_hours", "rescales")
_LOWER_IS_BETTER = ("score", "cost_ratio", "violation_share", "regret", "replica_hours", "wait_p95_s")
_DASH_ARRAYS = {
    "solid": "none",
    "dash": "6 3",
    "longdash": "11 3",
    "dashdot": "6 3 1.5 3",
    "longdashdot": "11 3 1.5 3",
    "dot": "1.5 3",
}
_WORDS = {
    "Clairvoyant": "The best schedule found with the whole load known beforehand: the limit, not a rival.",
    "hpa-tuned": "The Horizontal Pod Autoscaler with target, tolerance and window tuned on training load.",
    "Demand": "Load over the capacity of a replica: the replicas needed if each were busy all the time.",
    "Rule": "What the rule beside the policy would have asked for at that moment.",
    "Proposal": "What the policy wanted, before the guard: bounds, behaviour, reactive floor, metric loss.",
}

_WORLD = {
    "capacity_per_replica": ("Capacity of a replica", "requests/s"),
    "concurrency": ("Requests that a replica serves at once", ""),
    "slo_wait": ("Wait above which a request is late", "s"),
    "fano": ("Variance over mean of the arrivals", ""),
    "startup": ("Start-up of a pod", "s"),
    "startup_spread": ("Spread of start-up between orders", "of the mean"),
    "startup_jitter": ("Spread of start-up within an order", "of the mean"),
    "drain": ("Time a removed pod is still billed", "s"),
    "lag": ("Age of the metrics", "s"),
    "window": ("Window of the metrics", "s"),
    "completions": ("Load counted when requests end", ""),
    "crash_rate": ("Crashes of a pod", "an hour"),
    "gap_rate": ("Gaps in the metrics", "an hour"),
    "gap_duration": ("Length of a gap", "s"),
    "node_pods": ("Pods that fit on a node", "(0: no limit)"),
    "node_startup": ("Start-up of a node", "s"),
    "max_nodes": ("Nodes at most", "(0: no limit)"),
    "interval": ("Interval between decisions", "s"),
    "min_replicas": ("minReplicas", ""),
    "max_replicas": ("maxReplicas", ""),
    "scale_to": ("Load needs at its 95th percentile", "replicas"),
    "seed": ("Seed of the noise", ""),
    "price": ("Price of late requests that the policy is told", "x their share"),
    "objective": ("Objective", ""),
    "late_allowed": ("Share of requests that may be late", ""),
}
"""What the parameters of a world are called on the page, and their units."""


def finite(value: float | None) -> TypeGuard[float]:
    """Return whether there is a number to show."""
    return value is not None and math.isfinite(value)


def text_of(value: Any) -> str:
    """Return a parameter of the world as text: numbers short, lists joined."""
    value = plain(value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {text_of(item)}" for key, item in value.items())
    return str(value)


def pairs(facts: Mapping[str, str]) -> str:
    """Return the rows of a list of names and values."""
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())


def world_facts(run: DryRun) -> dict[str, str]:
    """Return the world's parameters in words, with units; those without a name here go by their own."""
    found = {}
    for key, value in run.world.items():
        name, unit = _WORLD.get(str(key), (str(key), ""))
        if key == "scale_to" and value is None:
            name, value, unit = "Load", "as it is, not scaled", ""
        found[name] = f"{text_of(value)} {unit}".strip()
    return found


def words(more: Mapping[str, str]) -> str:
    """Return the glossary: every figure, the words of the decisions, and more."""
    return pairs({column.long: column.meaning for column in COLUMNS} | _WORDS | dict(more))


def tiles(run: DryRun) -> Iterable[str]:
    """Yield the headline figures of the policy under test, each with its distance to the reference."""
    for column in COLUMNS:
        if column.key in _TILES:
            delta, other, tone = _delta(column.key, run.tested, run.reference)
            if column.key == "violation_share" and not run.loaded:
                delta, other, tone = "nothing to serve", "", ""
            value = escape(column.text(run.tested))
            yield (
                f'<div><dt>{escape(column.long)}</dt><dd class="value">{value}</dd>'
                f'<dd class="delta {tone}">{escape(delta)} <span class="whole">{escape(other)}</span></dd>'
                "</div>"
            )


def _delta(key: str, one: Contender, other: Contender | None) -> tuple[str, str, str]:
    """Return in words how a figure differs, from whose, and whether that is good, bad or neither ("")."""
    if key == "regret":
        return "0 = clairvoyant,", "1 = hpa-tuned", ""
    if other is None:
        return "", "", ""
    mine, theirs = getattr(one, key), getattr(other, key)
    if not (finite(mine) and finite(theirs)):
        return "not comparable with", other.name, ""
    change = mine - theirs
    if key == "violation_share":
        size, least = f"{abs(100 * change):.2f} points", 5e-5
    elif key == "score":
        size, least = f"{abs(change):.3f}", 5e-4
    elif 0 < mine < 2.5 * theirs:
        size, least = f"{100 * abs(change) / theirs:.0f} %", 0.005 * theirs
    else:
        size, least = figure(abs(change), ",.0f"), 0.5
    if abs(change) < least:
        return "as", other.name, ""
    tone = "" if key == "rescales" else "good" if change < 0 else "bad"
    return f"{size} {'below' if change < 0 else 'above'}", other.name, tone


def _swatch(look: Look) -> str:
    return (
        '<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true"><line x1="0" y1="5" x2="30" y2="5" '
        f'style="stroke:var(--c{look.colour})" stroke-width="{3 if look.strong else 2.2}" '
        f'stroke-dasharray="{_DASH_ARRAYS[look.dash]}"/></svg>'
    )


def _ordered(run: DryRun) -> list[tuple[Contender, Look]]:
    """Return everyone with their look, best score first and the clairvoyant last."""
    look = dict(zip((c.name for c in run.contenders), looks(run), strict=True))
    return [(c, look[c.name]) for c in [*run.ranked, *([run.limit] if run.limit else [])]]


def contender_head(run: DryRun) -> str:
    """Return the headings of the table of contenders."""
    heads = ['<th scope="col">Contender</th>']
    for column in COLUMNS:
        heads.append(f'<th scope="col" title="{escape(column.meaning)}">{escape(column.long)}</th>')
        if column.key == "regret" and _has_own(run):
            heads.append('<th scope="col" title="1 is the HPA tuned on this very trace">Regret, own</th>')
    return "".join(heads)


def _has_own(run: DryRun) -> bool:
    return any(c.regret_own is not None for c in run.contenders)


def contender_rows(run: DryRun, marks: Mapping[str, str]) -> Iterable[str]:
    """Yield one row for each contender; the lowest of a column, the limit aside, is marked.

    marks: name of a contender -> what stands beside it.
    """
    ranked = run.ranked
    lowest = {
        column.key: min((v for c in ranked if finite(v := getattr(c, column.key))), default=None) for column in COLUMNS
    }
    for contender, look in _ordered(run):
        rival = contender is not run.limit
        tested = contender.name == run.policy
        tags = '<span class="tag">under test</span>' if tested else ""
        if contender.name in marks:
            tags += f'<span class="tag">{escape(marks[contender.name])}</span>'
        if not rival:
            tags += '<span class="tag">limit</span>'
        elif contender is ranked[0] and len(ranked) > 1 and finite(contender.score):
            tags += '<span class="tag best">best</span>'
        cells = []
        for column in COLUMNS:
            telling = rival and len(ranked) > 1 and column.key in _LOWER_IS_BETTER
            marked = telling and getattr(contender, column.key) == lowest[column.key]
            mark = ' class="lowest"' if marked else ""
            cells.append(f"<td{mark}>{escape(column.text(contender))}</td>")
            if column.key == "regret" and _has_own(run):
                cells.append(f"<td>{escape(figure(contender.regret_own, '.2f'))}</td>")
        kind = "tested" if tested else "" if rival else "limit"
        name = f'<span class="name">{_swatch(look)}<span>{escape(contender.name)}</span>{tags}</span>'
        yield f'<tr class="{kind}"><th scope="row">{name}</th>{"".join(cells)}</tr>'


def score_bars(run: DryRun) -> Iterable[str]:
    """Yield one bar for each contender: cost ratio, then 20 times the share of late requests.

    A score far above the others would flatten them all, so bars are cut at 2.5 times the median score.
    """
    shown = [(c, look) for c, look in _ordered(run) if finite(c.score)]
    scores = sorted(c.score for c, _ in shown)
    if not scores:
        yield '<div role="listitem">No contender has a score.</div>'
        return
    top = min(scores[-1], 2.5 * scores[len(scores) // 2]) or 1.0
    limit = run.limit
    line = ""
    if limit is not None and finite(limit.score):
        line = f'<i class="limit" style="left:{100 * limit.score / top:.2f}%"></i>'
    for contender, look in shown:
        late = LATE_WEIGHT * contender.violation_share
        cost_width = 100 * min(contender.cost_ratio / top, 1)
        late_width = min(100 * late / top, 100 - cost_width)
        kind = " tested" if contender.name == run.policy else ""
        cut = " cut" if contender.score > top else ""
        name = escape(contender.name)
        yield (
            f'<div role="listitem"><span class="who{kind}" title="{name}">{name}</span>'
            f'<span class="track{cut}" style="--bar:var(--c{look.colour})">'
            f'<b class="cost" style="width:{cost_width:.2f}%"></b>'
            f'<b class="late" style="width:{late_width:.2f}%"></b>{line}</span>'
            f'<span class="sum">{contender.cost_ratio:.3f} + {late:.3f} = '
            f"<strong>{contender.score:.3f}</strong></span></div>"
        )


def chips(run: DryRun) -> Iterable[str]:
    """Yield one check box for each contender that shows or hides its lines in every plot."""
    index = {c.name: i for i, c in enumerate(run.contenders)}
    for contender, look in _ordered(run):
        yield (
            f'<label class="chip"><input type="checkbox" data-contender="{index[contender.name]}">'
            f"{_swatch(look)}<span>{escape(contender.name)}</span></label>"
        )
