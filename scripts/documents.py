"""Make the parts of the documents that the code states: conditions, events, who wins, metrics, a dry-run, an HPA.

``python scripts/documents.py`` writes them between their markers; a test holds the documents to what this makes.
"""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.convert.converting import convert
from rlscaler.convert.draft import Options
from rlscaler.convert.page import page
from rlscaler_operator import conflicts, events
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.condition_reasons import MEANINGS
from rlscaler_operator.telemetry import Telemetry
from rlscaler_sim.score_statistics import interval
from rlscaler_sim.summary_table import ranked
from rlscaler_training import worlds

ROOT = Path(__file__).resolve().parent.parent


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


def dry_run() -> str:
    """Return what `rlscaler dry-run -f examples/web.yaml` prints at 80 columns."""
    command: list[str | Path] = [Path(sys.executable).with_name("rlscaler"), "dry-run", "-f", "examples/web.yaml"]
    environment = os.environ | {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, encoding="utf-8")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join(["```", *lines, "```", ""])


def ranges() -> str:
    """Return what randomised worlds are drawn from."""
    rows = []
    for each in fields(worlds.Ranges):
        standard = worlds.STANDARD.get(each.name)
        told = " to ".join(f"{value:g}" for value in each.default) if isinstance(each.default, tuple) else each.default
        rows.append(
            (f"`{each.name}`", "" if standard is None else f"{standard:g}", str(told), each.metadata["rlscaler"].about)
        )
    return table(("value", "standard", "at level 1", "what and why"), rows)


def results() -> str:
    """Return the regrets over recorded load that docs/results.json holds, and the differences that count."""
    found = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))
    headline = [each for each in found["traces"] if each["headline"]]
    rows = []
    for name in ranked(found["summary"]):
        row = found["summary"][name]
        cells = [row.get(f"{how}_{what}") for what in ("regret", "regret_own") for how in ("median", "mean", "worst")]
        worse = "-" if name == "clairvoyant" else str(row["traces_worse_than_hpa_own"])
        rows.append((f"`{name}`", *("-" if cell is None else f"{cell:.2f}" for cell in cells), worse))
    head = ("contender", "regret, median", "mean", "worst", "regret_own, median", "mean", "worst", "worse than hpa-own")
    facts = found["world"]
    text = (
        f"{len(headline)} headline traces of {len(found['traces'])}, {facts['seconds'] / 86400:g} days and"
        f" {facts['seeds']} seeds of each: `{found['command']}`.\n\n{table(head, rows)}\n"
        "Mean of regret_own that one has less than another, on the same draws (90 % over source families):\n\n"
    )
    pairs = (
        ("default", "growth-quantile"),
        ("default", "tenure"),
        ("default", "learned"),
        ("learned", "growth-quantile"),
    )
    return text + table(("", "less by", "better on"), (_paired(headline, *pair) for pair in pairs))


def _paired(headline: list[dict[str, Any]], one: str, other: str) -> tuple[str, str, str]:
    """Return by how much the first has less regret_own than the second, in words."""
    own = [{c["name"]: c["regret_own"] for c in each["contenders"]} for each in headline]
    told = [(each[other] - each[one], trace["family"]) for each, trace in zip(own, headline, strict=True)
            if each[one] is not None and each[other] is not None]  # fmt: skip
    gain = np.array([difference for difference, _ in told])
    low, high = interval(
        gain, [name for _, name in told], lambda values: float(values.mean()), np.random.default_rng(0)
    )
    spread = f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"`{one}` than `{other}`", spread, f"{(gain > 0.0).sum()} of {len(gain)}"


def converted() -> str:
    """Return what is made of the example's HPA."""
    path = ROOT / "examples" / "workloads" / "beside-hpa.yaml"
    (draft,) = convert([(path.name, path.read_text())], Options()).drafts
    return f"```yaml\n{page(draft)}```\n"


PARTS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "docs" / "cluster.md": {
        "convert": converted,
        "owners": owners,
        "conditions": conditions,
        "events": told,
        "metrics": metrics,
    },
    ROOT / "docs" / "training.md": {"worlds": ranges},
    ROOT / "README.md": {"dry-run": dry_run, "results": results},
}
"""What is made, by the document that holds it."""


def made(document: Path, text: str) -> str:
    """Return the text of a document with its parts as they should be."""
    for name, make in PARTS[document].items():
        start, end = f"<!-- {name}: made by scripts/documents.py -->\n", f"<!-- /{name} -->\n"
        before, found, rest = text.partition(start)
        if not found or end not in rest:
            sys.exit(f"{document}: there are no markers of {name!r}")
        text = before + start + make() + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    for document in PARTS:
        document.write_text(made(document, document.read_text()))
