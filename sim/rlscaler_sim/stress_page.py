"""What a stress test found, as a page and as plain values."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscaler.quantities import whole_text
from rlscaler_sim import contenders
from rlscaler_sim.markdown import figures_table
from rlscaler_sim.result import CLAIRVOYANT, plain
from rlscaler_sim.stress import BOUND, LEAST_SPAN, Hard
from rlscaler_sim.verdict import counted


@dataclass(frozen=True, slots=True)
class Report:
    """command: what makes it. policies: that were searched against. rules: scored beside. tried: loads that each search
    ran. hard: every load, the named ones first."""

    command: str
    policies: tuple[str, ...]
    rules: tuple[str, ...]
    tried: int
    hard: Sequence[Hard]

    @property
    def named(self) -> list[Hard]:
        """The loads that were not searched."""
        return [each for each in self.hard if not each.source.against]

    def found(self, policy: str = "") -> list[Hard]:
        """Return the loads found against a policy, or against any."""
        return [each for each in self.hard if each.source.against and policy in ("", each.source.against)]

    def worst(self, policy: str, most: int) -> list[Hard]:
        """Return the loads on which a policy loses most."""
        return sorted(self.hard, key=lambda each: -each.loss(policy))[:most]


def plainly(report: Report) -> dict[str, Any]:
    """Return everything in JSON's own types."""
    names = (*report.policies, *report.rules)
    loads = [
        {
            "load": each.source.title,
            "found_against": each.source.against or None,
            "expression": each.source.pattern.name,
            "seconds": each.source.duration,
            "seeds": list(each.seeds),
            "hpa_own": each.own,
            "score": {name: each.score(name) for name in (*names, contenders.OWN, CLAIRVOYANT)},
            "loss": {name: each.loss(name) for name in names},
            "error": {name: each.error(name) for name in names},
            "within": {name: each.within(name) for name in names},
        }
        for each in report.hard
    ]
    told = {"command": report.command, "bound": BOUND, "least_span": LEAST_SPAN, "loads_tried": report.tried}
    found: dict[str, Any] = plain(told | {"policies": report.policies, "rules": report.rules, "loads": loads})
    return found


def markdown(report: Report, picture: str | None = None) -> str:
    """Return the page. picture: what it links to, None: none."""
    names, seeds = (*report.policies, *report.rules), len(report.hard[0].seeds)
    parts = [
        f"Made by `{report.command}`.",
        "How much a policy may lose on load that is hard for it, in the standard world, from a cold start and with the"
        " guard on. The loss of a load is (J - J_own) / max(J_own - J\\*, 0.05), J_own the HPA whose target, window and"
        " tolerance were tuned in hindsight on that very load, J\\* the clairvoyant on the same draws: 0 is as good as"
        f" that HPA, below 0 better. The bound is {BOUND:g}; what is beyond it is **bold**. {counted(seeds, 'draw')} of"
        " noise that no search saw; ± is the standard error.",
        "\n".join(_verdict(report, policy) for policy in report.policies),
    ]
    if report.named:
        parts += ["## Named loads", _table(report, report.named)]
    if report.found():
        parts += [
            "## Loads found by search",
            f"{report.tried} loads were run in each search: sums of waves, ramps, crowds, trains of bursts and work"
            " that is on or off, with noise. The worst one of each start, scored anew:",
            _table(report, report.found()),
            "\n".join(["To run one again:", "", "```sh", *map(_again, report.found()), "```"]),
        ]
    parts += ["## Everyone", _everyone(report, names)]
    if picture:
        parts += [f"## Where `{report.policies[0]}` loses most", f"![Load and ready replicas]({picture})"]
    return "\n\n".join(parts) + "\n"


def _verdict(report: Report, policy: str) -> str:
    """Return one line on a policy: where it is beyond the bound, and who is not there."""
    told = []
    for what, loads in (("named loads", report.named), ("loads found against it", report.found(policy))):
        if loads:
            beyond = [each for each in loads if not each.within(policy)]
            which = "; ".join(f"{each.source.title}: {_number(each.loss(policy))}" for each in beyond)
            told.append(f"on {len(beyond)} of {len(loads)} {what}" + (f" ({which})" if which else ""))
    line = f"- `{policy}` is beyond the bound {' and '.join(told)}."
    beyond = [each for each in report.hard if not each.within(policy)]
    for rule in report.rules:
        if better := [each.source.title for each in beyond if each.within(rule)]:
            line += f" `{rule}` keeps to it where `{policy}` does not: {'; '.join(better)}."
    nobody = [each.source.title for each in beyond if not any(map(each.within, (*report.policies, *report.rules)))]
    return line + (f" Nobody in the tables keeps to it on {'; '.join(nobody)}." if nobody else "")


def _table(report: Report, loads: Sequence[Hard]) -> str:
    head = ["load", "J\\*", "J_own"]
    for policy in report.policies:
        head += [f"J {policy}", f"loss {policy}"]
    head += [f"loss {rule}" for rule in report.rules]
    rows = []
    for each in loads:
        cells = [each.source.title, f"{each.score(CLAIRVOYANT):.3f}", f"{each.score(contenders.OWN):.3f}"]
        for policy in report.policies:
            cells += [f"{each.score(policy):.3f}", _loss(each, policy)]
        cells += [_loss(each, rule) for rule in report.rules]
        rows.append(cells)
    return figures_table(head, rows)


def _loss(each: Hard, name: str) -> str:
    figure = _number(each.loss(name))
    error = each.error(name)
    spread = "" if math.isnan(error) else f" ± {error:.2f}"
    return (figure if each.within(name) else f"**{figure}**") + spread


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _again(each: Hard) -> str:
    trace = shlex.quote(each.source.pattern.name)
    hours = whole_text(each.source.duration, "h")
    return f"# {each.source.title}\nrlscaler dry-run -f examples/web.yaml --for {hours} --trace {trace}"


def _everyone(report: Report, names: Sequence[str]) -> str:
    first = report.policies[0]
    head = ["contender", "named loads beyond the bound", "worst", "found loads beyond", "worst",
            f"less loss than {first}, of {len(report.hard)}"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name in names:
        cells = [name]
        for loads in (report.named, report.found()):
            losses = [each.loss(name) for each in loads]
            beyond = sum(not each.within(name) for each in loads)
            cells += [f"{beyond} of {len(loads)}", _number(max(losses))] if loads else ["-", "-"]
        less = sum(each.loss(name) < each.loss(first) for each in report.hard)
        lines.append(f"| {' | '.join([*cells, '-' if name == first else str(less)])} |")
    return "\n".join(lines)


def link(picture: str | None, page: str | None) -> str | None:
    """Return how a page names its picture: by its way from the page's folder; None where either is not written."""
    if picture is None or page is None:
        return None
    return Path(os.path.relpath(picture, Path(page).parent)).as_posix()
