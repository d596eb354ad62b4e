"""Who may import whom, held twice: by the import linter, and by what a fresh interpreter has loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "sim", "training", "operator")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ROOMS)}
LEARNING_STACK = ("torch", "ray", "gymnasium", "stable_baselines3")
IMPORT_EACH = """
import importlib, json, sys
unwanted, modules = sys.argv[1].split(","), sys.argv[2:]
brought = {}
for module in modules:
    importlib.import_module(module)
    brought |= {name: module for name in unwanted if name in sys.modules and name not in brought}
print(json.dumps(brought))
"""


def modules(room: str, package: str, leave_out: str | None = None) -> list[str]:
    """Return the modules of a package by their files; leave_out: those whose own name contains this."""
    paths = sorted((ROOT / room / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT / room).with_suffix("").parts) for path in paths]
    return [
        name.removesuffix(".__init__")
        for name in names
        if not name.endswith(".__main__") and not (leave_out and leave_out in name.rpartition(".")[2])
    ]


@pytest.mark.parametrize(
    ("room", "package", "leave_out"),
    [
        pytest.param("core", "rlscaler", None, id="core"),
        pytest.param("sim", "rlscaler_sim", "env", id="sim-without-environments"),
        pytest.param("operator", "rlscaler_operator", None, id="operator"),
    ],
)
def test_importing_loads_no_learning_stack(room: str, package: str, leave_out: str | None) -> None:
    names = modules(room, package, leave_out)
    assert package in names
    command = [sys.executable, "-c", IMPORT_EACH, ",".join(LEARNING_STACK), *names]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {}, "what was loaded, and the module that brought it"


def test_probe_sees_what_is_loaded() -> None:
    command = [sys.executable, "-c", IMPORT_EACH, "wave,colorsys", "json", "colorsys"]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {"colorsys": "colorsys"}


def test_rooms_import_only_downwards() -> None:
    pytest.importorskip("importlinter", reason="import-linter comes with the environment of `make test`")
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
        "--no-cache",
    ]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
