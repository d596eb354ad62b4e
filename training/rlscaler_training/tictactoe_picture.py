"""The picture of the Tic-Tac-Toe benchmark: episodes per second by workers, and strength, beside what was published."""

from collections.abc import Mapping
from typing import Any

from rlscaler_sim import drawing
from rlscaler_sim.drawing import LOAD, MUTED
from rlscaler_sim.palette import LIGHT
from rlscaler_training.tictactoe_report import RATES, WINS

WIDTH, HEIGHT = 2000, 760
"""Pixels."""


def png(told: Mapping[str, Any]) -> bytes:
    """Return the picture as PNG. Raises UserError where matplotlib is not installed."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.42, "left": 0.06, "right": 0.975, "top": 0.88,
                                                         "bottom": 0.16, "width_ratios": [1.1, 1.0]})  # fmt: skip
        _speed(left, told)
        _strength(right, told)

    return drawing.png(WIDTH, HEIGHT, draw)


def _speed(axes: Any, told: Mapping[str, Any]) -> None:
    rows = [row for row in told["rows"] if row["workers"]]
    local = next((row for row in told["rows"] if not row["workers"]), None)
    counts = [row["workers"] for row in rows]
    top = max([*counts, *RATES])
    over = [row["workers"] for row in rows if row["oversubscribed"]]
    if over:
        begins = told["machine"]["usable_processors"] + 0.5
        axes.axvspan(begins, top + 1, color=LOAD, alpha=0.35, linewidth=0)
        axes.annotate("oversubscribed", (begins + 0.15, 0.97), xycoords=("data", "axes fraction"), va="top",
                      color=MUTED, fontsize=6)  # fmt: skip
    for label, colour, values, marker in (
        ("workers alone", LIGHT[1], [row["alone"]["episodes_per_s"] for row in rows], "s"),
        ("training", LIGHT[0], [row["episodes_per_s"] for row in rows], "o"),
    ):
        axes.plot(counts, values, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=label)
    axes.plot(list(RATES), list(RATES.values()), color=MUTED, marker="x", markersize=4, linewidth=1.0,
              linestyle=(0, (2, 1.5)), label="published training, 12 processors")  # fmt: skip
    if local is not None:
        axes.axhline(local["episodes_per_s"], color=LIGHT[0], linewidth=0.9, linestyle=(0, (1, 1.5)),
                     label="training in one process")  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(RATES.values()) / 2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set_xlim(0.5, top + 0.7)
    axes.set_xticks(sorted({*counts, *RATES}))
    axes.set_title(f"Episodes per second by workers, {told['machine']['usable_processors']} processors", loc="left",
                   fontweight="bold", fontsize=8)  # fmt: skip
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, fontsize=6, frameon=False, columnspacing=1.2)


def _strength(axes: Any, told: Mapping[str, Any]) -> None:
    last = told["rows"][-1]
    players = [("chance", told["chance"]), ("table", told["table"]["strength"]), ("DQN", last["strength"]),
               ("perfect", told["perfect"])]  # fmt: skip
    bars: list[tuple[str, float, float, float]] = []
    for where, (low, high) in WINS.items():
        bars.append((f"published DQN, {where}", (low + high) / 2, float("nan"), float("nan")))
        bars += [(f"{who}, {where}", *(found[f"random_{where}"][what] for what in ("wins", "draws", "losses")))
                 for who, found in players]  # fmt: skip
    for at, (_, wins, draws, losses) in enumerate(bars):
        place = -at - (0.6 if at >= len(bars) // 2 else 0.0)
        axes.barh(place, wins, color=LIGHT[0], height=0.7, label="wins" if at == 0 else None)
        if draws == draws:
            axes.barh(place, draws, left=wins, color=LOAD, height=0.7, label="draws" if at == 1 else None)
            axes.barh(place, losses, left=wins + draws, color=LIGHT[1], height=0.7, label="losses" if at == 1 else None)
    axes.set_yticks([-at - (0.6 if at >= len(bars) // 2 else 0.0) for at in range(len(bars))], [bar[0] for bar in bars])
    axes.set_xlim(0, 1)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title("Against a player of chance", loc="left", fontweight="bold", fontsize=8)
    axes.legend(loc="lower center", bbox_to_anchor=(0.72, 0.985), ncols=3, fontsize=6, frameon=False)
