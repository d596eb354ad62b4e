"""The command `rlscaler stress`: what a policy may lose on hard load, and on load found by search against it."""

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rlscaler.errors import UserError
from rlscaler.name_lists import names_in
from rlscaler.quantities import whole_text
from rlscaler_sim.commands import RULES_EXAMPLE, Seconds, known_policy, progress_bar

if TYPE_CHECKING:
    from rlscaler_sim.stress import Source

SHOWN = 3
"""Loads in the picture."""
LONGEST, SHORTEST = 86400.0, 900.0
"""Seconds of a load."""


@click.command()
@click.option("--policy", "policies", multiple=True, default=("default",), show_default=True, metavar="NAME|PATH",
              help="Policy to search against: a rule's name, or an artifact. May be given several times.")  # fmt: skip
@click.option("--rules", default="growth-quantile,tenure,hpa-tuned,hpa", show_default=True, metavar="NAMES",
              help="Rules to score beside, separated by commas.")  # fmt: skip
@click.option("--pattern", "patterns", multiple=True, metavar="NAME",
              help="Load to score, one of 'rlscaler scenarios'. May be given several times.  [default: the six classic"
              " ones, flash-crowd, idle-then-spike, batch]")  # fmt: skip
@click.option("--for", "duration", default="6h", type=Seconds(), show_default=True, help="At most this much of each.")
@click.option("--budget", default=768, show_default=True, type=click.IntRange(0),
              help="Loads that are run in each search; 0: no search.")  # fmt: skip
@click.option("--search-for", "length", default="2h", type=Seconds(), show_default=True,
              help="Length of the loads that are searched.")  # fmt: skip
@click.option("--starts", default=3, show_default=True, type=click.IntRange(1, 24),
              help="Beginnings of a search, each of which finds a load.")  # fmt: skip
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Draws of noise to score on.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the search.")
@click.option("--output", type=click.Path(), metavar="FILE.json", help="Write the figures.")
@click.option("--markdown", type=click.Path(), metavar="FILE.md", help="Write the page as Markdown.")
@click.option("--plot", type=click.Path(), metavar="FILE.png", help="Draw the loads on which the policy loses most.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def stress(
    policies: Sequence[str], rules: str, patterns: Sequence[str], duration: float, budget: int, length: float,
    starts: int, seeds: int, seed: int, output: str | None, markdown: str | None, plot: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Tell how much a policy loses on hard load, and search the load on which it loses most.

    Loss = (J - J_own) / max(J_own - J*, 0.05), J_own being the HPA that was tuned in hindsight on that very load and J*
    the clairvoyant. A policy keeps to the bound where that is 0.5 at most. What is found is an expression that
    'rlscaler dry-run --trace' runs again.

    \b
    Examples:
      rlscaler stress --budget 0
      rlscaler stress --policy runs/mine/policy.rlz --pattern flash-crowd --plot out/stress.png
    """
    from rlscaler.files import require_ending, require_writable, write_bytes_atomically, write_text_atomically
    from rlscaler_sim import adversary, contenders, drawing, stress_page, stress_plot
    from rlscaler_sim import stress as known
    from rlscaler_sim.result import CLAIRVOYANT

    require_ending({"--plot": plot}, ".png")
    for path in (output, markdown, plot):
        if path:
            require_writable(path)
    if plot:
        drawing.require()
    for option, value in (("--for", duration), ("--search-for", length)):
        if not SHORTEST <= value <= LONGEST:
            raise UserError(f"{option} {value:g}s: expected {SHORTEST:g}s to {LONGEST:g}s, 15 minutes to a day")
    there = tuple(name for name in contenders.NAMES if name not in (contenders.OWN, CLAIRVOYANT))
    beside = tuple(dict.fromkeys(names_in(rules, "--rules", RULES_EXAMPLE, or_none=True)))
    if unknown := [name for name in beside if name not in there]:
        raise UserError(f"--rules {unknown[0]}: expected some of {', '.join(there)}")
    sources = [_named(name, duration) for name in dict.fromkeys(patterns or known.NAMED)]
    settings = contenders.standard_settings()
    with progress_bar(quiet) as progress, known_policy():
        tested = {name: contenders.tested(name, settings) for name in dict.fromkeys(policies)}
        if twice := {e.name for e in tested.values() if [f.name for f in tested.values()].count(e.name) > 1}:
            raise UserError(f"two policies are called {sorted(twice)[0]}; name one of them")
        entrants = {e.name: e for e in tested.values()}
        beside = tuple(name for name in beside if name not in entrants)
        for name, entrant in entrants.items() if budget else ():

            def told(done: int, total: int, name: str = name) -> None:
                if progress is not None:
                    progress(f"searching against {name}", done, total)

            try:
                found = known.searched(entrant, adversary.family(length), settings=settings, budget=budget, seed=seed,
                                       starts=starts, batch=known.BATCH, progress=told)  # fmt: skip
            except adversary.AdversaryError as error:
                raise UserError(f"--budget: {error}, or 0 for no search") from error
            sources += [known.Source(f"against {name} #{place + 1}", each.pattern, length, name)
                        for place, each in enumerate(found)]  # fmt: skip
        everyone = [*entrants.values(), *(contenders.entrant(name, settings) for name in beside)]
        hard = known.scored(sources, everyone, settings=settings, seeds=seeds, progress=progress)
    words = ["rlscaler", "stress", *(f"--policy={name}" for name in policies), "--rules", rules,
             *(f"--pattern={name}" for name in patterns), "--for", whole_text(duration, "h"), "--budget", str(budget),
             "--search-for", whole_text(length, "h"), "--starts", str(starts), "--seeds", str(seeds),
             "--seed", str(seed)]  # fmt: skip
    report = stress_page.Report(shlex.join(words), tuple(entrants), beside, budget, hard)
    if plot:
        first = next(iter(entrants))
        courses = [stress_plot.course(each, entrants[first], settings) for each in report.worst(first, SHOWN)]
        write_bytes_atomically(plot, stress_plot.png(courses, first))
    if output:
        write_text_atomically(output, json.dumps(stress_page.plainly(report), indent=1) + "\n")
    page = stress_page.markdown(report, stress_page.link(plot, markdown))
    if markdown:
        write_text_atomically(markdown, page)
    click.echo(page, nl=False)


def _named(name: str, duration: float) -> "Source":
    """Return a scenario as a load to score; raise UserError where it is none of the standard world."""
    from rlscaler_sim import scenarios
    from rlscaler_sim.patterns import Pattern, PatternError
    from rlscaler_sim.stress import Source

    try:
        scenario = scenarios.get(name)
    except (scenarios.ScenarioError, PatternError) as error:
        raise UserError(f"--pattern {name}: {error}") from error
    if scenario.world or not isinstance(scenario.load, Pattern):
        raise UserError(f"--pattern {name}: expected a made-up load in the standard world, such as flash-crowd or"
                        " 0.3+on-off; 'rlscaler scenarios' lists them")  # fmt: skip
    return Source(name, scenario.load, min(scenario.duration, duration))
