"""One look for each contender, the same in every plot: colour and dash, so that colour alone never tells.

The colours keep a CIE76 distance of 18 or more from one another for normal vision and for simulated
deuteranopia, protanopia and tritanopia (matrices of Machado, Oliveira and Fernandes 2009), and a contrast
of 3:1 or more against the page in its theme (WCAG 2.2, 1.4.11).
"""

from dataclasses import dataclass

from rlscaler_sim.result import CLAIRVOYANT, REFERENCE, DryRun

LIGHT = ("#0b4fc4", "#e0331a", "#157553", "#b03a8c", "#6c9337", "#1a9cce", "#642c14", "#1f2937")
DARK = ("#4c8dff", "#ff8a4c", "#0fb27c", "#d483b3", "#ead03a", "#62d6fb", "#96703f", "#e5e9f0")
DASHES = ("solid", "dash", "longdash", "dashdot", "longdashdot", "dot")
"""Plotly's names of the dashes; see `MATPLOTLIB_DASHES`."""

MATPLOTLIB_DASHES = {
    "solid": (0, ()),
    "dash": (0, (4, 1.6)),
    "longdash": (0, (8, 2)),
    "dashdot": (0, (5, 1.6, 1, 1.6)),
    "longdashdot": (0, (8, 1.6, 1, 1.6)),
    "dot": (0, (1, 1.3)),
}
_TESTED, _REFERENCE, _LIMIT = 0, 1, len(LIGHT) - 1


@dataclass(frozen=True, slots=True)
class Look:
    """How one contender is drawn. colour: index into LIGHT and DARK. dash: one of DASHES. strong: drawn
    thick.
    """

    colour: int
    dash: str
    strong: bool


def looks(run: DryRun) -> list[Look]:
    """Return one look for each contender of the run, in its order.

    The policy under test, the tuned HPA and the clairvoyant look the same in every report; the others take
    the remaining colours in turn, and the dash tells two of the same colour apart.
    """
    rest = [i for i in range(len(LIGHT)) if i not in (_TESTED, _REFERENCE, _LIMIT)]
    found: list[Look] = []
    others = 0
    for contender in run.contenders:
        if contender.name == run.policy:
            found.append(Look(_TESTED, "solid", True))
        elif contender.name == CLAIRVOYANT:
            found.append(Look(_LIMIT, "dot", False))
        elif contender.name == REFERENCE:
            found.append(Look(_REFERENCE, "dash", False))
        else:
            dash = DASHES[2 + (others % len(rest) + others // len(rest)) % 3]
            found.append(Look(rest[others % len(rest)], dash, False))
            others += 1
    return found
