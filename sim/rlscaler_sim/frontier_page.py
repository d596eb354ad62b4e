"""The fronts of pods against late requests as a page and a picture, beside the file that `frontier` wrote.

    python -m rlscaler_sim.frontier_page docs/frontier.json

writes docs/frontier.md and docs/frontier.png.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.errors import UserError
from rlscaler.files import write_bytes_atomically, write_text_atomically
from rlscaler_sim import drawing, frontier
from rlscaler_sim.drawing import MUTED
from rlscaler_sim.frontier import ANY, DEFAULT, HPA, LATE, USUAL, Fronts, as_late, at_shares, pods
from rlscaler_sim.palette import DASHES, LIGHT, MATPLOTLIB_DASHES

SHARES = np.geomspace(LATE[0], LATE[-1], 60)
"""Shares of late requests from one end of the picture to the other."""
WIDTH, HEIGHT = 1400, 720
"""Pixels."""


def more_pods(found: Fronts, name: str) -> np.ndarray:
    """Return (traces, SHARES) the share of pods that one needs more than `default` to be as seldom late; NaN where
    either of them cannot be."""
    mine, other = (
        np.array([[pods(front, late) for late in SHARES] for front in found.front[each]]) for each in (DEFAULT, name)
    )
    return frontier.more_than(other, mine)


def png(found: Fronts) -> bytes:
    """Return the picture: the median of that by share of late requests, where half of the traces have one.

    Raises UserError without matplotlib.
    """
    return drawing.png(WIDTH, HEIGHT, lambda figure: _draw(figure, found))


def _draw(figure: Any, found: Fronts) -> None:
    axes = figure.add_axes((0.065, 0.115, 0.725, 0.73))
    figure.text(0.02, 0.955, "Pods that others need more than default, to be as seldom late", fontsize=8.5,
                fontweight="bold", va="center")  # fmt: skip
    figure.text(0.02, 0.9, f"Medians of {len(found.traces)} recorded loads; everybody's target is chosen in "
                "hindsight on the load itself; band: half of the loads, for hpa", color=MUTED, va="center")  # fmt: skip
    late = 100.0 * SHARES
    axes.set_xlim(late[0], late[-1])
    axes.set_xscale("log")
    ends = []
    for index, name in enumerate(name for name in found.front if name != DEFAULT):
        each = more_pods(found, name)
        enough = np.isfinite(each).sum(axis=0) * 2 >= len(found.traces)
        if not enough.any():
            continue
        low, middle, high = 100.0 * np.nanpercentile(each[:, enough], (25.0, 50.0, 75.0), axis=0)
        colour, dash = LIGHT[1 + index], MATPLOTLIB_DASHES[DASHES[index % len(DASHES)]]
        axes.plot(late[enough], middle, color=colour, linestyle=dash, linewidth=1.2)
        if name == HPA:
            axes.fill_between(late[enough], low, high, color=colour, alpha=0.12, linewidth=0)
        ends.append((middle[-1], name, colour))
    axes.axhline(0.0, color=LIGHT[0], linewidth=1.6)
    ends.append((0.0, DEFAULT, LIGHT[0]))
    axes.axvline(usual := 100.0 * float(np.median(found.usual[:, 0])), color=MUTED, linewidth=0.7,
                 linestyle=MATPLOTLIB_DASHES["dot"])  # fmt: skip
    axes.annotate(f"default at {USUAL} %", (usual, 1.0), (3, -2), xycoords=("data", "axes fraction"),
                  textcoords="offset points", va="top", color=MUTED)  # fmt: skip
    axes.set_xticks([100.0 * share for share in LATE], [f"{100.0 * share:g} %" for share in LATE])
    axes.minorticks_off()
    axes.set_xlabel("late requests", labelpad=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.0f} %" if value else "0")
    ends.sort()
    for place, (_, name, colour) in zip(_apart([at for at, *_ in ends], axes.get_ylim()), ends, strict=True):
        axes.annotate(name.replace("`", "").replace(", ", ",\n"), (1.0, place), (5, 0),
                      xycoords=("axes fraction", "data"), textcoords="offset points", va="center", color=colour,
                      annotation_clip=False, fontweight="bold" if name == DEFAULT else "normal")  # fmt: skip


def _apart(places: list[float], limits: tuple[float, float]) -> list[float]:
    """Return sorted places moved up where they are too close for lines of text."""
    least, out = 0.075 * (limits[1] - limits[0]), [places[0]]
    for place in places[1:]:
        out.append(max(place, out[-1] + least))
    return out


def markdown(found: Fronts, picture: str) -> str:
    """Return the page. picture: what it links to."""
    days, draws = frontier.SECONDS / 86_400.0, frontier.SEEDS
    targets, objectives = frontier.TARGETS, frontier.OBJECTIVES
    return f"""# Pods at the same lateness

A score weighs late requests against pods at one price, so a contender may win by standing nearer to that price. Here
everybody's knob is turned: `objective.target` of {DEFAULT} from {objectives[0]:g} to {objectives[-1]:g} %, and the
targets of the rules from {targets[0]:.0%} to {targets[-1]:.0%} of capacity. On each trace that makes a front for each
of them: the fewest pods by the share of late requests, with what lies between two settings. An HPA's target ({HPA}), or
its window and tolerance as well ({ANY}), are so chosen in hindsight on the trace
itself; so is `objective.target`, but the weights of {DEFAULT} are of other sources than the trace.
{len(found.traces)} headline traces, the first {days:g} days and {draws} draws of noise.

```
python -m rlscaler_sim.frontier --traces FOLDER --results docs/results.json --output docs/frontier.json
python -m rlscaler_sim.frontier_page docs/frontier.json
```

![Pods that others need more than default, by share of late requests]({picture})

## As seldom late as {DEFAULT} at {USUAL} %

{as_late(found)}

Not every rule can be so seldom late on every trace, whatever its target.

## At a share of late requests

The median of the pods that each needs more than {DEFAULT}, on the traces where both can be so seldom late; and on how
many it can be, with its most careful setting.

{at_shares(found)}
"""


def write(path: Path) -> None:
    """Write page and picture beside a file of fronts. Raises UserError."""
    found, picture = frontier.read(path), path.with_suffix(".png")
    write_bytes_atomically(picture, png(found))
    write_text_atomically(path.with_suffix(".md"), markdown(found, picture.name))


def main() -> None:
    """Make page and picture of a file of fronts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path, metavar="FILE.json")
    try:
        write(parser.parse_args().path)
    except UserError as error:
        parser.exit(2, f"frontier_page: {error}\n")


if __name__ == "__main__":
    main()
