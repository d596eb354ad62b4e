"""What the documents promise exists: commands, files behind links, headings behind anchors."""

import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = set(PROJECT["entry-points"]["rlscaler.commands"])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
IGNORED = {"out", "runs", "dist", "build"}
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in IGNORED or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n(.*?)^ {0,3}\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def fenced_commands(text: str, program: str) -> list[list[str]]:
    """Return the words of each command line in fenced blocks that starts with the program's name."""
    found = []
    for match in FENCE.finditer(text):
        for line in match[2].replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line.startswith(program + " "):
                found.append(shlex.split(line, comments=True))
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#{1,6} +(.+?)[ #]*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_shows_the_two_commands() -> None:
    shown = fenced_commands((ROOT / "README.md").read_text(), "make")
    assert {"dry-run", "test"} <= {words[1] for words in shown}


@each_document
def test_relative_links_resolve(document: Path) -> None:
    broken = []
    for match in LINK.finditer(FENCE.sub("", document.read_text())):
        link = match[1] or match[2]
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / unquote(name)).resolve() if name else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


@each_document
def test_commands_exist(document: Path) -> None:
    text = document.read_text()
    unknown = [
        shlex.join(words)
        for words in fenced_commands(text, "rlscaler")
        if not words[1].startswith("-") and words[1] not in COMMANDS
    ]
    unknown += [
        shlex.join(words) for words in fenced_commands(text, "make") if not any(word in TARGETS for word in words[1:])
    ]
    assert unknown == [], f"sub-commands are {sorted(COMMANDS)}, targets of make {sorted(TARGETS)}"


@each_document
def test_what_is_applied_has_its_namespace_and_its_target(document: Path) -> None:
    """In the very commands that are shown, for who tries it on an empty cluster has neither."""
    shown = fenced_commands(document.read_text(), "kubectl")
    words = [word for command in shown if command[1] == "apply" for word in command]
    files = [ROOT / word for word in words if word.startswith("examples/")]
    objects = [item for file in files for item in yaml.safe_load_all(file.read_text())]
    there = {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects}
    for kind, namespace, name in there:
        assert namespace is None or ("Namespace", None, namespace) in there, f"{kind} {namespace}/{name}"
    for item in objects:
        if item["kind"] == "RLScaler":
            target = item["spec"]["scaleTargetRef"]
            assert (target["kind"], item["metadata"]["namespace"], target["name"]) in there
