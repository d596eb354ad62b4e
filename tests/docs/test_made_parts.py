"""What the documents take from the code is what the code says."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "documents.py"


@pytest.fixture(scope="module")
def documents() -> Any:
    """Return the script as a module."""
    specification = importlib.util.spec_from_file_location("documents", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_tables_are_what_the_code_states(documents: Any) -> None:
    page = documents.ROOT / "docs" / "cluster.md"
    text = page.read_text()
    assert documents.made(page, text) == text, "run `make docs`"
    assert documents.made(page, text.replace("| `NoConflict` |", "| `Quarrel` |")) == text


def test_the_worlds_are_those_that_are_drawn(documents: Any) -> None:
    page = documents.ROOT / "docs" / "training.md"
    text = page.read_text()
    assert documents.made(page, text) == text, "run `make docs`"
    assert documents.made(page, text.replace("5 to 600", "5 to 60")) == text


def wording(text: str) -> list[str]:
    """Return the lines without what another processor may round otherwise: figures, bars, and the room around them."""
    return [" ".join(re.sub(r"[0-9][0-9,.]*|[▁-█]+", "0", line).split()) for line in text.splitlines()]


def test_the_readme_shows_what_a_dry_run_prints(documents: Any) -> None:
    page = documents.ROOT / "README.md"
    text = page.read_text()
    assert wording(documents.made(page, text)) == wording(text), "run `make docs`"
    assert wording(documents.made(page, text.replace("late: waited longer", "late: waited"))) == wording(text)
