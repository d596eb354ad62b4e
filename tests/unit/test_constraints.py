"""The pinned sets hold what pyproject.toml asks for: hashed, in one version, nothing about one machine."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETS = {
    "run": (["report"], []),
    "test": (["report", "train"], ["build", "lint", "test"]),
    "operator": (["operator"], []),
    "training": (["report", "train", "distributed", "serve", "operator"], []),
    "build": (None, ["build"]),
    "go": (None, ["go"]),
}
"""Extras and dependency groups of each file of constraints/ (None: without the base)."""
PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.+!-]+)(?: ; (?P<marker>[^\\]+))? \\")
HASH = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}(?: \\)?")


def lines(name: str) -> list[str]:
    return (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()


def pins(name: str) -> dict[str, set[tuple[str, str]]]:
    """Return the versions of each package with the marker under which each is meant."""
    found: dict[str, set[tuple[str, str]]] = {}
    for match in filter(None, map(PIN.fullmatch, lines(name))):
        found.setdefault(match["name"], set()).add((match["version"], (match["marker"] or "").strip()))
    return found


def asked(project: dict[str, Any], extras: list[str] | None, groups: list[str]) -> Iterator[Requirement]:
    """Yield what the base, the extras (an extra may name others) and the groups ask for."""
    texts = [text for group in groups for text in project["dependency-groups"][group]]
    if extras is not None:
        texts += project["project"]["dependencies"]
        texts += [text for extra in extras for text in project["project"]["optional-dependencies"][extra]]
    for requirement in map(Requirement, texts):
        if requirement.name == project["project"]["name"]:
            yield from asked({**project, "dependency-groups": {}}, sorted(requirement.extras), [])
        else:
            yield requirement


def test_every_file_is_known() -> None:
    assert {path.stem for path in (ROOT / "constraints").glob("*.txt")} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_pins_follow_pyproject(name: str) -> None:
    pinned = pins(name)
    stale = [
        str(requirement)
        for requirement in asked(PYPROJECT, *SETS[name])
        if not (versions := pinned.get(canonicalize_name(requirement.name), set()))
        or not all(requirement.specifier.contains(version) for version, _ in versions)
    ]
    assert stale == [], f"constraints/{name}.txt does not pin {stale}: run `make constraints`"


@pytest.mark.parametrize("name", SETS)
def test_only_names_versions_and_hashes(name: str) -> None:
    other = [line for line in lines(name) if not (PIN.fullmatch(line) or HASH.fullmatch(line))]
    assert other == []


@pytest.mark.parametrize("name", SETS)
def test_every_pin_has_a_hash(name: str) -> None:
    text = lines(name)
    bare = [
        line for line, after in zip(text, [*text[1:], ""], strict=True) if PIN.fullmatch(line) and "--hash" not in after
    ]
    assert bare == []


@pytest.mark.parametrize("name", sorted(set(SETS) - {"test"}))
def test_what_is_shipped_is_what_is_tested(name: str) -> None:
    tested = pins("test")
    different = {package: pin for package, pin in pins(name).items() if package in tested and pin != tested[package]}
    assert different == {}, "another version than in constraints/test.txt: run `make constraints`"


@pytest.mark.parametrize("name", ["run", "operator"])
def test_the_learning_stack_stays_out(name: str) -> None:
    learning = {"torch", "ray", "gymnasium", "stable-baselines3", "triton"}
    assert learning & set(pins(name)) == set()
