"""The command line as a package manager installs it, for tests that run real commands."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rlscaler.cli import root

ROOT = Path(__file__).parents[2]
WEB = str(ROOT / "examples" / "web.yaml")


def install(folder: Path) -> None:
    """Record the project's commands in `folder`, which has to come first on the path, as an installation would."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / "rlscaler-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rlscaler\nVersion: 9.9\n")
    commands = (f"{name} = {target}" for name, target in project["entry-points"]["rlscaler.commands"].items())
    (info / "entry_points.txt").write_text("\n".join(["[rlscaler.commands]", *commands]))


def stand_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Stand in a folder, with the project's commands installed in another beside it."""
    installed = folder.with_name(f"{folder.name}-installed")
    installed.mkdir()
    install(installed)
    patch.syspath_prepend(str(installed))
    patch.chdir(folder)


@contextmanager
def working_in(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stand in a fresh folder, with the project's commands installed in another."""
    installed, folder = factory.mktemp("installed"), factory.mktemp("place")
    install(installed)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(installed))
        patch.chdir(folder)
        yield folder


def run(*arguments: str, text: str | None = None) -> Result:
    """Run `rlscaler` with these arguments."""
    return CliRunner().invoke(root, arguments, prog_name="rlscaler", input=text)


def mistakes(result: Result) -> list[str]:
    """Return the sentences that a mistake was answered with; check that it was nothing worse than a mistake."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == "", "nothing on the standard output"
    lines = [line for line in result.stderr.splitlines() if line.lower().startswith("error: ")]
    assert lines, result.stderr
    return lines
