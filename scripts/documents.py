"""Make the parts of the documents that the code states: conditions, events, the rules between owners, the metrics.

``python scripts/documents.py`` writes them between their markers; a test holds the documents to what this makes.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rlscaler_operator import conflicts, events
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.condition_reasons import MEANINGS
from rlscaler_operator.telemetry import Telemetry

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "cluster.md"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def owners() -> str:
    """Return the rules of who wins a target, as `rlscaler_operator.conflicts` states and applies them."""
    _, _, rules = inspect.cleandoc(conflicts.__doc__ or "").partition("\n\n")
    return re.sub(r"^The rules", "These rules", rules) + "\n"


def conditions() -> str:
    """Return the conditions with their reasons."""
    return table(
        ("condition", "status", "reason", "meaning"),
        ((each.condition, each.statuses, f"`{each.reason}`", each.meaning) for each in MEANINGS),
    )


def told() -> str:
    """Return the events that are not reasons of a condition."""
    return table(("event", "type", "meaning"), ((f"`{name}`", kind, text) for kind, name, text in events.REASONS))


def metrics() -> str:
    """Return the operator's own metrics."""
    found = {family.name: family for family in Telemetry(SystemClock()).registry.collect()}
    rows = (
        (f"`{name}{'_total' if family.type == 'counter' else ''}`", family.type, family.documentation)
        for name, family in sorted(found.items())
        if name.startswith("rlscaler_")
    )
    return table(("metric", "type", "meaning"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "owners": owners,
    "conditions": conditions,
    "events": told,
    "metrics": metrics,
}


def made(text: str) -> str:
    """Return a document with its parts as they should be."""
    for name, make in PARTS.items():
        start, end = f"<!-- {name}: made by scripts/documents.py -->\n", f"<!-- /{name} -->\n"
        before, found, rest = text.partition(start)
        if not found or end not in rest:
            sys.exit(f"{DOCUMENT}: there are no markers of {name!r}")
        text = before + start + make() + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(made(DOCUMENT.read_text()))
