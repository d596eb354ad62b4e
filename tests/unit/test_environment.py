"""The set-up script: a layer is made once, whole or not at all, and old ones go."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "environment.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module whose cache is an empty folder."""
    monkeypatch.setenv("RLSCALER_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of an environment that has pip."""
    folder = tmp_path_factory.mktemp("pip")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin"


class Fill:
    """Fills a layer, counts how often, and fails where asked."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False

    def __call__(self, directory: Path) -> None:
        self.count += 1
        (directory / "half").touch()
        if self.fails:
            raise SystemExit("no network")
        (directory / "half").rename(directory / "filled")


def test_a_layer_is_made_once_and_works(script: ModuleType) -> None:
    fill = Fill()
    layer = script.made("venv-a", b"key", fill)
    assert script.made("venv-a", b"key", fill) == layer
    assert fill.count == 1
    command = [layer / "bin" / "python", "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(layer)


def test_another_key_is_another_layer(script: ModuleType) -> None:
    fill = Fill()
    assert script.made("venv-a", b"key", fill) != script.made("venv-a", b"other", fill)


def test_a_layer_that_was_cut_short_is_made_again(script: ModuleType) -> None:
    fill = Fill()
    fill.fails = True
    with pytest.raises(SystemExit, match="no network"):
        script.made("venv-a", b"key", fill)
    fill.fails = False
    layer = script.made("venv-a", b"key", fill)
    assert fill.count == 2
    assert (layer / "filled").exists()
    assert not (layer / "half").exists()


def test_a_layer_whose_python_went_away_is_made_again(script: ModuleType) -> None:
    fill = Fill()
    python = script.made("venv-a", b"key", fill) / "bin" / "python"
    python.unlink()
    python.symlink_to("nowhere")
    script.made("venv-a", b"key", fill)
    assert fill.count == 2
    assert python.exists()


def test_only_layers_of_the_same_kind_that_were_long_unused_go(script: ModuleType) -> None:
    long_ago = time.time() - script.KEEP_SECONDS - 60.0
    old, used, other = (
        script.made(prefix, key, Fill())
        for prefix, key in [("venv-a", b"old"), ("venv-a", b"used"), ("venv-b", b"old")]
    )
    for layer in (old, used, other):
        os.utime(layer / ".complete", (long_ago, long_ago))
    script.made("venv-a", b"used", Fill())
    script.made("venv-a", b"new", Fill())
    assert [layer.exists() for layer in (old, used, other)] == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param([], "usage: environment.py NAME COMMAND", id="nothing"),
        pytest.param(["nope", "true"], "there is no environment 'nope': expected one of build, ", id="unknown"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    variables = {**os.environ, "RLSCALER_CACHE": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), *arguments]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert result.stderr.startswith(says)
    assert result.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    command = [sys.executable, str(SCRIPT), "run", "true"]
    variables = {**os.environ, "RLSCALER_CACHE": str(blocked)}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert result.stderr.startswith(f"cannot write to {blocked}")


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        pytest.param({}, False, id="none"),
        pytest.param({"PIP_INDEX_URL": "http://127.0.0.1/simple"}, True, id="index"),
        pytest.param({"PIP_EXTRA_INDEX_URL": "http://127.0.0.1/simple"}, True, id="extra-index"),
    ],
)
def test_an_index_of_ones_own_is_noticed(
    script: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], own: bool
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert script.pip_has_own_index(programs) is own


def test_compiled_code_is_written_into_the_cache_where_it_may_not_lie_beside_its_source(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process would compile its packages anew else; a person's own folder for it is left alone."""
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(script, "checkout", lambda name: tmp_path)
    monkeypatch.setattr(script.os, "execvpe", lambda file, command, variables: seen.append(variables))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    script.main(["run", "python"])
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "own")
    script.main(["run", "python"])
    assert [each.get("PYTHONDONTWRITEBYTECODE") for each in seen] == [None, None]
    assert [each["PYTHONPYCACHEPREFIX"] for each in seen] == [str(tmp_path / "cache" / "bytecode"), "own"]
