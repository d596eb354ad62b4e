"""Numbers of the command line within bounds, finite ones alone.

A comparison with NaN is never true, so click's own range lets it pass whatever the bounds are, and infinity where there
is no upper one.
"""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A finite number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; raises click's BadParameter."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            bounds = self._describe_range()
            self.fail(f"{found:g} is no finite number; expected one in the range {bounds}.", param, ctx)
        return found
