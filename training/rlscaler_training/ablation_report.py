"""What the parts of the default policy are worth, as plain values, as a page and as a picture.

    python -m rlscaler_training.ablation_report docs/ablations.json

makes the page and the picture anew, beside the stored figures.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from rlscaler.errors import UserError
from rlscaler.files import write_bytes_atomically, write_text_atomically
from rlscaler.policies import SPARE_RULE
from rlscaler_sim import drawing, evaluation
from rlscaler_sim.contenders import OWN, OWN_TARGET
from rlscaler_sim.drawing import MUTED
from rlscaler_sim.evaluation import Scored
from rlscaler_sim.palette import LIGHT
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE, plain
from rlscaler_sim.score_statistics import interval
from rlscaler_sim.summary_table import ranked

ENDINGS = (".json", ".md", ".png")
ABOUT: dict[str, str] = {
    CLAIRVOYANT: "knows the load beforehand",
    "default": "shipped: network and rules, each with the say that it has earned",
    "learned": "shipped: the network alone, so `default` without tenure",
    "tenure": "the rules alone, so `default` without learning",
    SPARE_RULE: "the own-history rule, with neither tenure nor a network",
    OWN: "HPA tuned in hindsight on the very trace",
    OWN_TARGET: "the same with its target alone to tune, without a window",
    REFERENCE: "HPA tuned on other load",
    "default-anew": "`default`, its network trained again here",
    "learned-anew": "`learned`, trained again here",
    "default-no-history": "`default`, its network without any past older than an hour",
    "learned-no-history": "the network without any past older than an hour",
    "default-no-profile": "`default`, its network without the day's and the week's profile",
    "learned-no-profile": "the network without the day's and the week's profile",
    "q-learning": "tabular Q-learning, corrections of the rule's headroom",
    "dqn": "deep Q-network (stable-baselines3)",
    "ppo": "proximal policy optimisation (stable-baselines3)",
    "bdq": "branching dueling Q-network",
}
"""Every contender in words."""
PROFILE = "day and week profile"
SHIPPED = "the shipped network, not one trained here"
WORTH: tuple[tuple[str, str, str], ...] = (
    ("own history, to the network alone", "learned-anew", "learned-no-history"),
    ("own history, to the network in tenure", "default-anew", "default-no-history"),
    (f"{PROFILE}, to the network alone", "learned-anew", "learned-no-profile"),
    (f"{PROFILE}, to the network in tenure", "default-anew", "default-no-profile"),
    ("tenure", "default", "learned"),
    ("learning, to tenure", "default", "tenure"),
    ("learning and tenure, to the own-history rule", "default", SPARE_RULE),
    (SHIPPED, "learned", "learned-anew"),
    (f"{SHIPPED}, in tenure", "default", "default-anew"),
)
"""What is told of, the contender that has it, and the one that has it not."""
LEARNERS = ("q-learning", "dqn", "ppo", "bdq")
BETTER, WORSE, OPEN = "better", "worse", "cannot be told"
MOSTLY = 0.5
"""Share of decisions outside of the training range, where the guard follows the rule, above which that is said."""
FIGURES = ("score", "cost_ratio", "violation_share", "regret", "regret_own")
WIDTH, ROW, MARGIN = 1400, 44, 210
"""Pixels, pixels of a contender, and pixels above and below."""


# --- figures


def summary(scored: Sequence[Scored], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the page says, as plain values. facts: what is said of how it was made."""
    headline = [each for each in scored if each.headline]
    found = evaluation.summary(scored)
    for name, row in found.items():
        for what in ("regret", "regret_own"):
            values = {s.trace: getattr(s.of(name), what) for s in headline}
            row[f"mean_{what}_interval"] = _mean(headline, values)[1:]
    pairs = [
        {"what": what, "one": one, "other": other} | compared(headline, one, other)
        for what, one, other in (*WORTH, *((name, name, SPARE_RULE) for name in LEARNERS),
                                 *((name, name, "learned-anew") for name in LEARNERS))
        if {one, other} <= set(found)
    ]  # fmt: skip
    traces = [
        {
            "trace": s.trace,
            "family": s.family,
            "headline": s.headline,
            "contenders": {c.name: {key: getattr(c, key) for key in FIGURES} for c in s.contenders},
        }
        for s in scored
    ]
    told: dict[str, Any] = plain({**facts, "summary": found, "pairs": pairs, "traces": traces})
    return told


def compared(headline: Sequence[Scored], one: str, other: str) -> dict[str, Any]:
    """Return by how much the first has less regret_own than the second, on the same draws, with an interval."""
    gains = {}
    for each in headline:
        first, second = each.of(one).regret_own, each.of(other).regret_own
        gains[each.trace] = None if first is None or second is None else second - first
    mean, low, high = _mean(headline, gains)
    known = [gain for gain in gains.values() if gain is not None]
    verdict = BETTER if low > 0.0 else WORSE if high < 0.0 else OPEN
    return {"gain": mean, "interval": [low, high], "better_on": sum(gain > 0.0 for gain in known), "of": len(known),
            "verdict": verdict}  # fmt: skip


def _mean(headline: Sequence[Scored], values: Mapping[str, float | None]) -> tuple[float, float, float]:
    """Return the mean of traces' values and its 90 % interval over source families."""
    pairs = [(value, s.family) for s in headline if (value := values[s.trace]) is not None]
    known = np.array([value for value, _ in pairs], np.float64)
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    low, high = interval(known, [name for _, name in pairs], lambda v: float(v.mean()), np.random.default_rng(0))
    return float(known.mean()), low, high


# --- the page


def markdown(told: Mapping[str, Any]) -> str:
    """Return the page of what `summary` returned."""
    headline = [each for each in told["traces"] if each["headline"]]
    families = {each["family"] for each in headline}
    lines = [
        "# What the parts of the default policy are worth",
        "",
        f"Made by `{told['command']}`; `make ablations` runs the script, `make docs` makes"
        " this page from the stored figures.",
        "",
        f"{len(headline)} headline traces of {len(families)} source families, {told['days']:g} days and"
        f" {told['seeds']} {'seed' if told['seeds'] == 1 else 'seeds'} of each; all contenders on the same draws.",
        "What is learned never met the source family that it is scored on. regret is 0 for the clairvoyant and 1 for"
        f" `{REFERENCE}`; regret_own is 1 for `{OWN}`. Intervals: 90 %, by bootstrap over source families. They hold"
        " the luck of which load is met, not that of training, which happened once; the table has an idea of that too.",
        "",
        "![Mean regret_own of each contender with its interval](ablations.png)",
        "",
        *sentences(told),
        "",
        "## What each part is worth",
        "",
        "Mean of regret_own that there is less of with the part than without it:",
        "",
        *worth(told),
        "",
        "Without own history a network sees the last hour, its own replicas and the facts of the workload, and corrects"
        " the headroom that is cheapest for a workload without a past. Tenure stays as it is: its rules know the past,"
        " and it is by the past that say is earned. Without the profile it does not see what is usual at this time of"
        f" the day and the week, yesterday and a week ago; only the first {told['days']:g} days of each trace were"
        " scored, in which there is little of that yet. All networks trained here are trained by one recipe, on the"
        " same load, from the same seed.",
        "",
        "## Other learners",
        "",
        f"Each had {told['budget']:g} s of training on one thread for each fold, turned into steps beforehand by its"
        " usual pace (`BUDGETS` in `benchmark_learners.py`), on the load that the default policy is trained on.",
        "",
        *learners(told),
        "",
        "## Everyone",
        "",
        *table(told),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def sentences(told: Mapping[str, Any]) -> list[str]:
    """Return who wins, in words, as a list."""
    found = told["summary"]
    players = [name for name in ranked(found) if name not in (CLAIRVOYANT, OWN)]
    best = players[0]
    lines = [f"- Least mean regret_own: `{best}` with {_number(found[best]['mean_regret_own'])}, {ABOUT[best]}."]
    pairs = {(pair["one"], pair["other"]): pair for pair in told["pairs"]}
    losers = [name for name in LEARNERS if (name, SPARE_RULE) in pairs and pairs[name, SPARE_RULE]["verdict"] == WORSE]
    open_ = [name for name in LEARNERS if (name, SPARE_RULE) in pairs and pairs[name, SPARE_RULE]["verdict"] == OPEN]
    winners = [
        name for name in LEARNERS if (name, SPARE_RULE) in pairs and pairs[name, SPARE_RULE]["verdict"] == BETTER
    ]
    if losers:
        lines.append(f"- **A rule wins** against {_listed(losers)}: `{SPARE_RULE}` is better beyond chance.")
    if open_:
        lines.append(f"- Whether {_listed(open_)} or the rule `{SPARE_RULE}` is better cannot be told.")
    if winners:
        lines.append(f"- Better than the rule `{SPARE_RULE}` beyond chance: {_listed(winners)}.")
    if told["days"] <= 1.0:
        lines.append(
            f"- Scored are the first {24.0 * told['days']:g} hours of each load, when hardly any past is there to be"
            " used: what history is worth on later days cannot be told from this."
        )
    for pair in told["pairs"]:
        if (pair["what"], pair["one"], pair["other"]) in WORTH and SHIPPED not in pair["what"]:
            lines.append(f"- {_worth_in_words(pair, _shown(told, pair))}")
    return lines


def _shown(told: Mapping[str, Any], pair: Mapping[str, Any]) -> bool:
    """Tell whether the load that was scored is long enough for a part to be of any use."""
    return told["days"] > 1.0 or PROFILE not in pair["what"]


def _worth_in_words(pair: Mapping[str, Any], shown: bool) -> str:
    what = pair["what"][0].upper() + pair["what"][1:]
    if not shown:
        return f"{what}: not tested, as the load scored is no longer than a day and so has no yesterday."
    gain = f"{pair['gain']:+.3f} [{pair['interval'][0]:+.3f}, {pair['interval'][1]:+.3f}]"
    if pair["verdict"] == BETTER:
        return f"{what}: worth {gain} of mean regret_own."
    if pair["verdict"] == WORSE:
        return f"**{what}: worth less than nothing**, {gain}; `{pair['other']}`, which has it not, wins."
    return f"{what}: {gain}; that it is worth anything cannot be told."


def worth(told: Mapping[str, Any]) -> list[str]:
    """Return the table of WORTH."""
    rows = [pair for pair in told["pairs"] if (pair["what"], pair["one"], pair["other"]) in WORTH]
    return _table(
        ("part", "with", "without", "less by [90 %]", "better on", "verdict"),
        [(pair["what"], f"`{pair['one']}`", f"`{pair['other']}`", *_difference(pair)[:2],
          pair["verdict"] if _shown(told, pair) else "not tested") for pair in rows],
    )  # fmt: skip


def learners(told: Mapping[str, Any]) -> list[str]:
    """Return the table of LEARNERS beside the rule that they correct, and the network of the recipe."""
    pairs = {(pair["one"], pair["other"]): pair for pair in told["pairs"]}
    rows = []
    for name in (*LEARNERS, "learned-anew"):
        if name not in told["learned"]:
            continue
        spent = told["learned"][name]
        steps = int(np.mean([each["steps"] for each in spent["training"]]))
        seconds = np.mean([each["seconds"] for each in spent["training"]])
        against = [_difference(pairs[name, other]) if (name, other) in pairs else ("-", "-", "-")
                   for other in (SPARE_RULE, "learned-anew")]  # fmt: skip
        constant = [each for each in spent["constant"] if each]
        rows.append((f"`{name}`", f"{steps:,}", f"{seconds:.0f}", against[0][0], against[0][2], against[1][0],
                     f"{np.mean(spent['outside']):.1%}", "; ".join(dict.fromkeys(constant)) or "-"))  # fmt: skip
    head = ("learner", "decisions trained on, each fold", "s", f"less than `{SPARE_RULE}` by [90 %]", "verdict",
            "less than `learned-anew` by [90 %]", "outside of the training range", "does always the same")  # fmt: skip
    lines = _table(head, rows)
    mostly = [name for name in LEARNERS if name in told["learned"]
              and np.mean(told["learned"][name]["outside"]) > MOSTLY]  # fmt: skip
    if mostly:
        lines += ["", f"{_listed(mostly)}: mostly outside of the training range, where the guard follows the rule"
                  " instead; the figures are the rule's."]  # fmt: skip
    return lines


def table(told: Mapping[str, Any]) -> list[str]:
    """Return the table of everyone, least mean regret_own first."""
    rows = []
    for name in ranked(told["summary"]):
        row = told["summary"][name]
        cells = [
            cell
            for what in ("regret", "regret_own")
            for cell in (
                _number(row.get(f"median_{what}")),
                f"{_number(row.get(f'mean_{what}'))} {_between(row[f'mean_{what}_interval'])}",
                _number(row.get(f"worst_{what}")),
            )
        ]
        worse = "-" if name == CLAIRVOYANT else str(row["traces_worse_than_hpa_own"])
        rows.append((f"`{name}`", ABOUT.get(name, ""), *cells, worse))
    head = ("contender", "what it is", "regret median", "mean [90 %]", "worst", "regret_own median", "mean [90 %]",
            "worst", "worse than hpa-own")  # fmt: skip
    return _table(head, rows)


def _difference(pair: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = pair["interval"]
    return f"{pair['gain']:+.3f} [{low:+.3f}, {high:+.3f}]", f"{pair['better_on']} of {pair['of']}", pair["verdict"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _between(pair: Sequence[float | None]) -> str:
    return f"[{_number(pair[0])}, {_number(pair[1])}]"


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


# --- the picture


def png(told: Mapping[str, Any]) -> bytes:
    """Return the mean regret_own of everyone with its interval, as PNG. Raises UserError without matplotlib."""
    found = told["summary"]
    names = [name for name in ranked(found) if name != CLAIRVOYANT and found[name].get("mean_regret_own") is not None]
    height = MARGIN + ROW * len(names)

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.17, 95 / height, 0.80, 1 - MARGIN / height))
        figure.text(0.02, 1 - 32 / height, "Mean regret_own of each contender: less is better", fontsize=8.5,
                    fontweight="bold", va="center")  # fmt: skip
        figure.text(0.02, 1 - 72 / height, "0 is the clairvoyant, 1 an HPA tuned in hindsight on the very trace; bars"
                    " are 90 % intervals over source families, none of which was trained on", color=MUTED,
                    va="center")  # fmt: skip
        for place, name in enumerate(reversed(names)):
            mean, (low, high) = found[name]["mean_regret_own"], found[name]["mean_regret_own_interval"]
            colour = LIGHT[_kind(name)]
            axes.plot([low, high], [place, place], color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="butt")
            axes.plot([mean], [place], "o" if _kind(name) != RULE else "D", color=colour, markersize=4)
            axes.annotate(f"{mean:.2f}", (high, place), (6, 0), textcoords="offset points", va="center", color=colour,
                          bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"})  # fmt: skip
        axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0.9)
        axes.set_yticks(range(len(names)), list(reversed(names)))
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlabel("mean regret_own")
        for kind, text in KINDS.items():
            axes.plot([], [], "D" if kind == RULE else "o", color=LIGHT[kind], markersize=4, label=text)
        axes.legend(loc="upper right", frameon=False)

    return drawing.png(WIDTH, height, draw, {"axes.grid.axis": "x"})


PART, LEARNER, RULE = 0, 1, 7
KINDS = {PART: "shipped, and trained again without parts", LEARNER: "other learners", RULE: "rules"}
"""What the picture's colours say of a contender."""


def _kind(name: str) -> int:
    """Return the colour by what a contender is: the default policy and its parts, another learner, a rule."""
    if name in LEARNERS:
        return LEARNER
    return PART if name.startswith(("default", "learned")) else RULE


# --- files


def write(told: Mapping[str, Any], path: Path) -> None:
    """Write the figures to a JSON file, and page and picture beside it. Raises UserError."""
    write_text_atomically(path, json.dumps(told, indent=1) + "\n")
    write_page(told, path)


def write_page(told: Mapping[str, Any], path: Path) -> None:
    """Write the page and the picture of the figures in a JSON file beside it. Raises UserError."""
    write_text_atomically(path.with_suffix(".md"), markdown(told))
    write_bytes_atomically(path.with_suffix(".png"), png(told))


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def main(path: Path) -> None:
    """Make the page and the picture of stored figures anew."""
    try:
        write_page(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError, KeyError, UserError) as error:
        raise click.ClickException(f"{path}: {error}") from error


if __name__ == "__main__":
    main()
