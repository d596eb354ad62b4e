"""The notebooks run from top to bottom, and are kept without their outputs.

What IPython makes of a cell is made here, so that no kernel and none of its dependencies has to be pinned: a line that
begins with `!` is a command with `{name}` filled in, anything else is Python.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from command_line import ROOT, install, run

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(notebook: Path, kind: str = "code") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def executed(source: str, names: dict[str, Any]) -> str:
    """Run a cell with these names, and return what its commands print."""
    commands = [line for line in source.splitlines() if line.startswith("!")]
    if not commands:
        exec(compile(source, "<cell>", "exec"), names)
        return ""
    assert commands == source.splitlines(), "a cell holds Python or commands"
    told = ""
    for command in commands:
        program, *arguments = shlex.split(re.sub(r"\{(\w+)\}", lambda name: str(names[name[1]]), command[1:]))
        assert program == "rlscaler"
        done = run(*arguments)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        told += done.output
    return told


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs_from_top_to_bottom(
    notebook: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, temporary = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("temporary")
    install(installed)
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(notebook.parent)
    names: dict[str, Any] = {}
    told = [executed("".join(cell["source"]), names) for cell in cells(notebook)]
    assert any("score" in each for each in told)
    names["plt"].close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_it_is_kept_without_its_outputs(notebook: Path) -> None:
    for cell in cells(notebook):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_there_is_a_tutorial() -> None:
    """And a link of it leads somewhere."""
    tutorial = ROOT / "notebooks" / "tutorial.ipynb"
    text = "".join("".join(cell["source"]) for cell in cells(tutorial, "markdown"))
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all((tutorial.parent / link).exists() for link in links)
