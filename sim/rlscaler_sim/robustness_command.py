"""The command `rlscaler robustness`: scores under other conditions than those that a policy was made for."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlscaler.errors import UserError
from rlscaler.name_lists import names_in
from rlscaler.quantities import whole_text
from rlscaler_sim.commands import RULES_EXAMPLE, Seconds, known_policy, progress_bar, read_traces

if TYPE_CHECKING:
    from rlscaler_sim.evaluation import Scored


@click.command()
@click.option("--policy", "policies", multiple=True, default=("default",), show_default=True, metavar="NAME|PATH",
              help="Policy to score: a rule's name, or an artifact. May be given several times.")  # fmt: skip
@click.option(
    "--trace", "files", multiple=True, type=click.Path(), metavar="FILE", help="Recorded load; several times."
)
@click.option("--traces", "folder", type=click.Path(), metavar="FOLDER", help="All recorded loads of a folder.")
@click.option("--rules", default="growth-quantile", show_default=True, metavar="NAMES",
              help="Rules to score beside, separated by commas.")  # fmt: skip
@click.option("--conditions", default="all", show_default=True, metavar="NAMES", help="Conditions, by commas.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Draws of noise of each trace.")
@click.option("--for", "duration", default="2d", type=Seconds(), show_default=True, help="At most this much of each.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes at work.")
@click.option("--output", type=click.Path(), metavar="FILE.json", help="Write the figures.")
@click.option("--markdown", type=click.Path(), metavar="FILE.md", help="Write the table as Markdown.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def robustness(
    policies: Sequence[str], files: Sequence[str], folder: str | None, rules: str, conditions: str, seeds: int,
    duration: float, jobs: int, output: str | None, markdown: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Score policies where the world is not as it is told.

    Other start-ups and intervals, replicas that serve less or more than is stated, older metrics, missing samples, load
    that is counted when requests end. Regret is 0 for the clairvoyant and 1 for an HPA tuned on other load, each under
    the same condition.

    \b
    Examples:
      rlscaler robustness --trace load.csv.gz --conditions capacity-0.7,lag-60s
      rlscaler robustness --traces recorded/ --jobs 2 --output out/robustness.json --markdown docs/robustness.md
    """
    from rlscaler.files import require_writable, write_text_atomically
    from rlscaler_sim import contenders, evaluation
    from rlscaler_sim import robustness as known
    from rlscaler_sim.load import LoadError
    from rlscaler_sim.result import plain

    for path in (output, markdown):
        if path:
            require_writable(path)
    every = conditions.strip() == "all"
    listed = tuple(known.CONDITIONS) if every else names_in(conditions, "--conditions", "capacity-0.7,lag-60s")
    names = tuple(dict.fromkeys(listed))
    beside = tuple(dict.fromkeys(names_in(rules, "--rules", RULES_EXAMPLE, or_none=True)))
    for option, asked, there in (
        ("--conditions", names, tuple(known.CONDITIONS)),
        ("--rules", beside, contenders.NAMES),
    ):
        if unknown := [name for name in asked if name not in there]:
            raise UserError(f"{option} {unknown[0]}: expected some of {', '.join(there)}")
    traces = read_traces(files, folder)
    try:
        with progress_bar(quiet) as progress, known_policy():
            found = known.table(
                traces, policies, names, seeds=seeds, duration=duration, rules=beside, jobs=jobs, progress=progress
            )
    except LoadError as error:
        raise UserError(str(error)) from error
    words = ["rlscaler", "robustness", *(f"--policy={policy}" for policy in policies),
             *(f"--trace={Path(file).name}" for file in files), *(["--traces", "FOLDER"] if folder else []),
             "--rules", rules, "--conditions", conditions, "--seeds", str(seeds),
             "--for", whole_text(duration, "d")]  # fmt: skip
    page = known.markdown(found, shlex.join(words))
    if output:
        told = {
            name: {"summary": evaluation.summary(scored), "traces": [_figures(each) for each in scored]}
            for name, scored in found.items()
        }
        result = plain({"command": shlex.join(words), "conditions": told})
        write_text_atomically(output, json.dumps(result, indent=1) + "\n")
    if markdown:
        write_text_atomically(markdown, page)
    click.echo(page, nl=False)


def _figures(scored: "Scored") -> dict[str, Any]:
    """Return what is kept of a trace."""
    figures = {c.name: [c.score, c.regret] for c in scored.contenders}
    return {"trace": scored.trace, "headline": scored.headline, "score_and_regret": figures}
