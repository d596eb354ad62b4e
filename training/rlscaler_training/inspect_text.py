"""What `rlscaler inspect` prints of a policy. Needs no learning stack."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from rlscaler.quantities import printable

WIDTH = 100
"""Columns that a line of values may take before it is continued below."""


def print_policy(told: Mapping[str, Any]) -> None:
    """Print what a policy is: what it sees, how it acts, where it comes from, its scores."""
    if told["kind"] == "rule":
        _print_rule(told)
        return
    sees, acts = told["observation"], told["action"]
    provenance, agreement = told["provenance"], told["agreement"]
    lines: list[tuple[str, str]] = [
        ("policy", f"{told['policy']}, {told['kind']}"),
        ("file", f"{told['path']}, {told['bytes']:,} bytes"),
        ("digest", told["digest"]),
    ]
    if not told["served"]:
        lines.append(("not served", told["refusal"]))
    numbers = f"{told['numbers']:,} numbers"
    choices = " x ".join(map(str, acts["choices"])) if acts["choices"] else "unknown"
    of = f"of {sees['of']} " if sees["of"] else ""
    seen = f"schema {sees['schema']}, {len(sees['fields'])} {of}fields"
    if len(sees["fields"]) <= 12:
        seen += f": {', '.join(sees['fields'])}"
    ranges = (f"{len(sees['training_range'])} of them with a training range, outside of which the rule decides"
              if sees["training_range"] else "no training range: it decides wherever the load is known")  # fmt: skip
    lines += [
        ("holds", f"{told['shape']}; {numbers}" if told["shape"] else numbers),
        ("sees", seen),
        *([("", ranges)] if told["served"] else []),
        ("acts", f"{acts['scheme']}, {choices} choices"),
        ("trained", _origin(provenance)),
        ("on", _loads(provenance, "trained_on")),
        ("validated", _loads(provenance, "validated_on")),
        ("scores", ", ".join(listed(told["scores"])) or "none stated"),
        ("agreement", in_words(agreement) if agreement else "not stated: there was no network to compare with"
                      if told["kind"] == "q-table" else "not stated"),
    ]  # fmt: skip
    if settings := provenance.get("config", provenance.get("settings")):
        lines.append(("settings", ", ".join(f"{name} {_short(value)}" for name, value in settings.items())))
    _print_lines(lines)


def _print_rule(told: Mapping[str, Any]) -> None:
    lines = [("policy", f"{told['policy']}, a built-in rule"), ("about", told["about"])]
    for name, each in told["constants"].items():
        value = "not set" if each["value"] is None else f"{each['value']:g}"
        lines.append((name, f"{value}, {each['meaning']}{'' if each['tuned'] else ' (not tuned)'}"))
    if provenance := told["provenance"]:
        lines.append(("tuned", f"{provenance['date']} on {len(provenance['traces'])} recorded loads, seed "
                      f"{provenance['seed']}, {provenance['budget']} candidates; {provenance['world']}"))  # fmt: skip
    _print_lines(lines)


def _origin(provenance: Mapping[str, Any]) -> str:
    git = provenance.get("git")
    commit = f"commit {str(git.get('commit'))[:10]}{' with changes' if git.get('changed') else ''}" if isinstance(
        git, dict) else ""  # fmt: skip
    checkpoint = provenance.get("checkpoint")
    parts = (
        provenance.get("command", ""),
        f"checkpoint {checkpoint.get('step')}" if isinstance(checkpoint, dict) else "",
        f"seed {provenance['seed']}" if "seed" in provenance else "",
        str(provenance.get("date", "")),
        f"version {provenance['version']}" if "version" in provenance else "",
        commit,
    )
    return ", ".join(str(part) for part in parts if part) or "not stated"


def _loads(provenance: Mapping[str, Any], key: str) -> str:
    names = provenance.get(key)
    if not isinstance(names, list):
        return "not stated"
    asked = provenance.get("asked")
    asked = asked if isinstance(asked, dict) else {}
    timed = "hours" in asked and asked.get("environment", "standard") == "standard"
    hours = f" ({_short(asked['hours'])} h of each)" if timed else ""
    recorded = f" of {asked['traces']}" if asked.get("traces") else ""
    return ", ".join(map(str, names)) + recorded + hours


def in_words(told: Mapping[str, Any]) -> str:
    """Return how NumPy compares with the trained network, by a manifest."""
    rows, ties = told.get("observations"), told.get("ties")
    found = (f"NumPy decides as the trained network on {_short(rows)} observations; {_short(ties)} differ, all within "
             f"the margin of a tie; outputs differ by up to {_short(told.get('largest_difference'))}")  # fmt: skip
    if isinstance(lived := told.get("episodes"), Mapping):
        found += (f"; along whole episodes, in {_short(lived.get('decisions'))} decisions, "
                  f"{_short(lived.get('ties'))} differ, all within that margin")  # fmt: skip
    return found


def listed(scores: Mapping[str, Any], within: str = "") -> list[str]:
    """Return each score with its name; what is nested has dots in it."""
    found = []
    for name, value in scores.items():
        if isinstance(value, Mapping):
            found += listed(value, f"{within}{name}.")
        else:
            found.append(f"{within}{name} {_short(value)}")
    return found


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _print_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns, long values continued below."""
    import textwrap

    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        for index, part in enumerate(textwrap.wrap(value, WIDTH - width, break_on_hyphens=False) or [""]):
            click.echo(printable(f"{(name if index == 0 else ''):<{width}}{part}").rstrip())


def print_behaviour(told: Mapping[str, Any]) -> None:
    """Print what it does in named situations."""
    from rlscaler.commands import print_table

    behaviour = told["behaviour"]
    if behaviour is None:
        return
    is_rule = told["kind"] == "rule"

    def count(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f}"

    header = (
        "situation",
        "demand",
        "ready",
        "proposes",
        "decides",
        *(() if is_rule else ("the rule",)),
        "why",
        "what it is",
    )
    rows = []
    for each in behaviour["situations"]:
        why = ", ".join(each["reasons"])
        if each["outside"] and "OutOfTrainingRange" in each["reasons"]:
            more = f" and {len(each['outside']) - 2} more" if len(each["outside"]) > 2 else ""
            why += f": {', '.join(each['outside'][:2])}{more}"
        rule = () if is_rule else (count(each["rule"]),)
        rows.append((each["situation"], count(each["demand"]), f"{each['ready']:,}", count(each["proposal"]),
                     f"{each['replicas']:,}", *rule, why, each["about"]))  # fmt: skip
    click.echo()
    print_table("What it does, in replicas", header, rows)
    click.echo(f"\nmore load gave fewer replicas in {behaviour['more_load_fewer_replicas']} of "
               f"{behaviour['comparisons']} steps of load within one decision")  # fmt: skip
