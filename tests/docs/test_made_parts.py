"""What the documents take from the code is what the code says."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "documents.py"


def test_the_tables_are_what_the_code_states() -> None:
    specification = importlib.util.spec_from_file_location("documents", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    documents = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(documents)
    text = documents.DOCUMENT.read_text()
    assert documents.made(text) == text, "run `make docs`"
    assert documents.made(text.replace("| `NoConflict` |", "| `Quarrel` |")) == text
