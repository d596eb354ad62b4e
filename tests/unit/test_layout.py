"""The shape of the repository: the traps of a folder called `operator`, one version, what is shipped."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
IGNORED = {"out", "runs", "dist", "build", "__pycache__"}

# Written so that this file does not hold what it looks for.
HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("proxy", "golang", "org"),
        ("download", "pytorch", "org"),
        ("anaconda", "org"),
    ]
]
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:root|home|work|Users|opt/wheels)/[\w.-]")


def own_files() -> list[Path]:
    """Return the files that are, or would be, under version control."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists():
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file()
        and not any(
            part in IGNORED or (part.startswith(".") and part != ".ci") for part in path.relative_to(ROOT).parts[:-1]
        )
    ]


def test_operator_folder_never_shadows_the_standard_library() -> None:
    loose = sorted(path.name for path in (ROOT / "operator").glob("*.py"))
    assert loose == [], f"operator/ holds {loose}: an import of the standard library's operator would find them"


def test_tests_are_no_packages() -> None:
    found = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("__init__.py"))
    assert found == [], "an __init__.py under tests/ breaks collection beside a folder named operator"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_whole_and_typed(package: str) -> None:
    assert (ROOT / package / "__init__.py").is_file(), f"{package} is no package"
    assert (ROOT / package / "py.typed").is_file(), f"{package} hides its types from users"


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_of_modules_are_packages(package: str) -> None:
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    bare = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()]
    assert bare == [], "without an __init__.py the import linter does not see what is inside"


def test_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((ROOT / "charts/rlscaler/Chart.yaml").read_text())
    version = PROJECT["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = []
    for path in own_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if any(host in line for host in HOSTS) or MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == [], "\n".join(found)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the wheel and the source distribution."""
    pytest.importorskip("hatchling", reason="hatchling comes with the environment of `make test`")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, check=True)
    return out


def test_wheel_holds_the_four_packages_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    roots = {Path(package).name for package in PACKAGES}
    version = PROJECT["project"]["version"]
    assert {name.split("/")[0] for name in names} == roots | {f"rlscaler-{version}.dist-info"}
    assert {f"{root}/py.typed" for root in roots} <= set(names)
    on_disk = {
        str(path.relative_to((ROOT / package).parent))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert on_disk <= set(names), "files of a package are not shipped"
    assert any(name.endswith("/LICENSE") for name in names)


def test_source_distribution_holds_sources_only(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"pyproject.toml", "LICENSE", "README.md", "core/rlscaler/__init__.py"} <= set(names)
    unwanted = [name for name in names if re.search(r"(^|/)(__pycache__|\.venv|out|runs|site-packages)/", name)]
    assert unwanted == []
