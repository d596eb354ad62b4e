"""Tenure: the own-history rule with more or less headroom, and HPAs, each with the say that it earned on this workload.

Which headroom and which patience fit depends on the workload more than any constants tuned on others can know, so a
ladder of them is replayed on the workload's own past, and their orders are averaged (see `hedge`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rlscaler.arrays import State
from rlscaler.hedge import Family, Hedge
from rlscaler.policy import Policy, Proposal, View
from rlscaler.rules.growth import Growth
from rlscaler.rules.hpa import Hpa
from rlscaler.rules.parameters import Parameter, check
from rlscaler.rules.periodic import Periodic

HEADROOM = ("peak", "latest", "cheap", "quarter", "yesterday", "root")
"""Constants of the own-history rule that make its headroom."""
LADDER = ((0.4, 900.0), (0.7, 300.0), (0.7, 15.0), (0.85, 15.0), (1.0, 15.0), (1.25, 15.0), (1.25, 60.0))
"""Shares of the tuned headroom of the own-history rules that are candidates, each with its seconds of patience.

Bursts that come again within minutes are served cheapest by what the last one needed, kept; so the patient ones have
little headroom.
"""
LEARNED = 0.4
"""Share of the say that learned policies have together before anything is known."""
CAUTION = 5.0
"""Start-ups for which replicas are kept while nothing is known: at a minute each, what HPA's default keeps them for."""
HPAS, TOLERANCE = ((0.7, 300.0), (0.8, 60.0)), 0.05
"""Targets with seconds of stabilisation, and the tolerance, of the HPAs that are candidates."""


@dataclass(slots=True, kw_only=True)
class Tenure:
    """Hedge over a ladder of own-history rules and HPAs; each constant a float or an array of shape (N,).

    others: further candidates, such as learned policies; before anything is known they have LEARNED of the say.
    """

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        **{name: parameter for name, parameter in Growth.PARAMETERS.items() if name != "hold"},
        "rate": Parameter(120.0, 10.0, 400.0, True, "how fast say falls with the score"),
        "half_life": Parameter(86400.0, 3600.0, 604800.0, True, "seconds in which a past cost loses half its weight"),
        "doubt": Parameter(3600.0, 900.0, 86400.0, True, "seconds of history at which half of it is believed"),
    }
    peak: Any = PARAMETERS["peak"].default
    latest: Any = PARAMETERS["latest"].default
    cheap: Any = PARAMETERS["cheap"].default
    quarter: Any = PARAMETERS["quarter"].default
    yesterday: Any = PARAMETERS["yesterday"].default
    root: Any = PARAMETERS["root"].default
    drain: Any = PARAMETERS["drain"].default
    rate: Any = PARAMETERS["rate"].default
    half_life: Any = PARAMETERS["half_life"].default
    doubt: Any = PARAMETERS["doubt"].default
    others: Sequence[Policy] = ()
    name: str = "tenure"
    hedge: Hedge = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)
        common = {name: getattr(self, name) for name in Growth.PARAMETERS if name != "hold"}
        more = [
            {name: np.multiply(value, share if name in HEADROOM else 1.0) for name, value in common.items()}
            | {"hold": hold}
            for share, hold in LADDER
        ]
        hpas = [{"target": target, "tolerance": TOLERANCE, "hold": hold} for target, hold in HPAS]
        rules, learned = len(more) + len(hpas), len(self.others)
        self.hedge = Hedge(
            [Family(Growth, more), Family(Hpa, hpas)],
            [Periodic(), *self.others],
            guests=1,
            spare=LADDER.index((1.0, 15.0)),
            rate=self.rate,
            half_life=self.half_life,
            doubt=self.doubt,
            prior=[*[(1.0 - LEARNED) / rules] * (rules + 1), *[LEARNED / learned] * learned] if learned else None,
            caution=CAUTION,
        )

    @property
    def candidates(self) -> tuple[tuple[str, str], ...]:
        """The candidates in their order: each one's kind (the name of its rule, or "learned"), and itself in words."""
        growths = [f"growth-quantile x{share:g} held {hold:g}s" for share, hold in LADDER]
        hpas = [f"hpa at {100.0 * target:g}% held {hold:g}s" for target, hold in HPAS]
        alone = len(self.others) == 1
        learned = ["learned policy" if alone else f"learned policy {other.name}" for other in self.others]
        kinds = ["growth-quantile"] * len(growths) + ["hpa"] * len(hpas) + ["periodic"] + ["learned"] * len(learned)
        return tuple(zip(kinds, [*growths, *hpas, "periodic", *learned], strict=True))

    def state(self, n: int) -> State:
        """Return the memory of n workloads, see `Hedge.state`."""
        return self.hedge.state(n)

    def regridded(self, state: State, old: np.ndarray, new: np.ndarray) -> State:
        """Return the memory of rows at another interval, see `Hedge.regridded`."""
        return self.hedge.regridded(state, old, new)

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the weighted mean of the candidates' orders; NaN where load is unknown."""
        return self.hedge.propose(view, state)
