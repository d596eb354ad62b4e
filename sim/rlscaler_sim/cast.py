"""Who takes part in a load that is played in stretches: entrants, each in as many rows as there are stretches."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from rlscaler import Settings
from rlscaler.policy import Policy
from rlscaler_sim import contenders
from rlscaler_sim.contest import Entrant, Schedule


class Cast(Protocol):
    """Who takes part: E entrants, each in as many rows as there are stretches."""

    count: int

    def settings(self, who: np.ndarray) -> list[tuple[np.ndarray, Settings]]:
        """Return the settings of rows: (rows, settings) pairs. who: (R,) entrant of each row, ascending."""
        ...

    def members(self, who: np.ndarray) -> list[tuple[Policy, np.ndarray]]:
        """Return the policies of rows, always the same in the same order: (policy, positions in `who`) pairs."""
        ...


class Several:
    """Entrants of which each has one set of constants."""

    def __init__(self, entrants: Sequence[Entrant]) -> None:
        """Take the entrants; raises ValueError where one enters in several copies."""
        if any(entrant.copies != 1 for entrant in entrants):
            raise ValueError("an entrant enters in several copies; expected one")
        self.entrants, self.count = entrants, len(entrants)

    def settings(self, who: np.ndarray) -> list[tuple[np.ndarray, Settings]]:
        """Return the settings of rows."""
        return [(np.flatnonzero(who == i), entrant.settings) for i, entrant in enumerate(self.entrants)]

    def members(self, who: np.ndarray) -> list[tuple[Policy, np.ndarray]]:
        """Return the policies of rows."""
        found = []
        for index, entrant in enumerate(self.entrants):
            rows, policy = np.flatnonzero(who == index), entrant.policy
            if isinstance(policy, Schedule):
                policy = policy.repeated(rows.size)
            found.append((policy, rows))
        return found


class Hpas:
    """HPAs that differ by their constants: name -> (E,)."""

    def __init__(self, constants: Mapping[str, np.ndarray], settings: Settings) -> None:
        """Take the constants (see `contenders.own_grid`) and the workload's settings."""
        self.constants, self.common = constants, settings
        self.count = len(constants["target"])

    def _entrant(self, who: np.ndarray) -> Entrant:
        mine = {name: values[who] for name, values in self.constants.items()}
        return contenders.entrant(contenders.OWN, self.common, mine, len(who))

    def settings(self, who: np.ndarray) -> list[tuple[np.ndarray, Settings]]:
        """Return the settings of rows."""
        return [(np.arange(len(who)), self._entrant(who).settings)]

    def members(self, who: np.ndarray) -> list[tuple[Policy, np.ndarray]]:
        """Return the policies of rows."""
        return [(self._entrant(who).policy, np.arange(len(who)))]
