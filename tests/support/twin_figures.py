"""What is counted of each twin, measured and predicted alike, and the table of both."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Figures:
    """One contender's: seconds are those of the cluster.

    replica_seconds: billed, from a pod's creation to its end. unmet: replica-seconds by which the ready replicas were
    fewer than the demand at full use. rescales: changes of the count that is asked for. peak: most replicas at once.
    """

    name: str
    replica_seconds: float = 0.0
    unmet: float = 0.0
    rescales: int = 0
    peak: int = 0

    def add(self, replica_seconds: float, unmet: float, rescales: int, replicas: int) -> None:
        """Add what happened in a stretch of time."""
        self.replica_seconds += replica_seconds
        self.unmet += unmet
        self.rescales += rescales
        self.peak = max(self.peak, replicas)


HEADS = ("", "replica-seconds", "predicted", "off", "unmet demand", "predicted", "rescales", "predicted", "peak", "predicted")  # fmt: skip


def table(measured: Mapping[str, Figures], predicted: Mapping[str, Figures]) -> str:
    """Return the figures as a table in Markdown."""
    rows = [HEADS, ("---",) + ("---:",) * (len(HEADS) - 1)]
    for name, real in measured.items():
        told = predicted[name]
        off = real.replica_seconds / told.replica_seconds - 1.0
        rows.append(
            (
                name, f"{real.replica_seconds:.0f}", f"{told.replica_seconds:.0f}", f"{100 * off:+.1f} %",
                f"{real.unmet:.1f}", f"{told.unmet:.1f}", str(real.rescales), str(told.rescales),
                str(real.peak), str(told.peak),
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    aligned = [[cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
               for row in rows]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)
