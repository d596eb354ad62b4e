"""The image: what its Dockerfile promises, its own steps run here, and, where an engine answers, the image itself.

The steps are those of the Dockerfile to the letter: what it copies from the context (as .dockerignore leaves it) and
what it runs, with its absolute paths moved below a folder. Not tried here are the base image and its Python.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
LEARNING = ("torch", "gymnasium", "stable_baselines3", "ray")
ENGINES = [engine for engine in ("docker", "podman") if shutil.which(engine)]


class Step(NamedTuple):
    """One instruction of the Dockerfile. stage: counted from 0, -1 before the first FROM."""

    stage: int
    word: str
    rest: str


def steps() -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], -1
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            stage += word == "FROM"
            found.append(Step(stage, word, rest.strip()))
    return found


STEPS = steps()
FINAL = [step for step in STEPS if step.stage == STEPS[-1].stage]


def only(word: str) -> str:
    """Return what an instruction that stands once in the final stage says."""
    (found,) = (step.rest for step in FINAL if step.word == word)
    return found


def sent(name: str) -> bool:
    """Tell whether .dockerignore lets a path of the checkout into the build."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = name.split("/")
        if any(fnmatch.fnmatch(part, pattern) for part in (parts if line.startswith("**/") else parts[:1])):
            kept = line.startswith("!")
    return kept


# --- what it says


def test_the_image_runs_the_operator_as_nobody_in_particular() -> None:
    assert json.loads(only("ENTRYPOINT")) == ["rlscaler"]
    assert json.loads(only("CMD")) == ["run"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", only("USER")), "by number, so that runAsNonRoot can be checked"


def test_the_chart_runs_it_as_the_same_user() -> None:
    user, group = only("USER").split(":")
    deployment = (ROOT / "charts/rlscaler/templates/deployment.yaml").read_text()
    assert f"runAsUser: {user}\n" in deployment
    assert f"runAsGroup: {group}\n" in deployment


def test_the_base_is_pinned_to_a_patch_version() -> None:
    default = next(step.rest for step in STEPS if step.word == "ARG")
    assert re.fullmatch(r"BASE=python:\d+\.\d+\.\d+-slim-[a-z]+", default)
    assert {step.rest.split()[0] for step in STEPS if step.word == "FROM"} == {"${BASE}"}


def test_every_package_is_held_to_its_hash() -> None:
    commands = [command for step in STEPS if step.word == "RUN" for command in step.rest.split("&&")]
    installs = [command for command in commands if re.search(r"\bpip install\b", command)]
    assert len(installs) == 3
    assert all("--require-hashes" in command or "--no-index" in command for command in installs)


def test_only_the_environment_reaches_the_final_stage() -> None:
    assert only("COPY") == "--from=build /opt/rlscaler /opt/rlscaler"
    assert "RUN" not in {step.word for step in FINAL}, "nothing is installed beside what was built"


# --- its steps, run


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the Dockerfile's build stage would leave as /opt/rlscaler, made by its own steps."""
    root = tmp_path_factory.mktemp("image")
    work, home = root / "src", root / "opt" / "rlscaler"
    work.mkdir()
    cache = os.environ.get("RLSCALER_CACHE") or f"{os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')}/rlscaler"
    path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(find_uv_bin()).parent), os.environ["PATH"]])
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    variables |= {"PATH": path, "UV_CACHE_DIR": f"{cache}/uv", "UV_PYTHON_DOWNLOADS": "never"}
    for step in STEPS:
        if step.stage != 0:
            continue
        if step.word == "COPY":
            *names, target = step.rest.split()
            for name in names:
                copied(ROOT / name, work / target / (Path(name).name if target.endswith("/") else ""))
        elif step.word == "RUN" and "constraints/build.txt" not in step.rest:  # the tests' environment holds these
            command = step.rest.replace("/opt/rlscaler", str(home)).replace("/wheel", str(root / "wheel"))
            done = subprocess.run(["sh", "-ec", command], cwd=work, env=variables, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return home


def copied(source: Path, target: Path) -> None:
    """Copy what the build is sent of a path."""

    def kept_back(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if not sent(str((Path(folder) / name).relative_to(ROOT)))}

    assert sent(str(source.relative_to(ROOT))), f".dockerignore keeps {source.name} from the build"
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=kept_back)
    else:
        shutil.copy(source, target)


def ran(built: Path, *command: str) -> str:
    """Return what a command of the image prints, run with the image's environment and nothing of this one."""
    variables = dict(pair.split("=", 1) for pair in shlex.split(only("ENV")))
    variables["PATH"] = variables["PATH"].replace("/opt/rlscaler", str(built)).replace("$PATH", os.defpath)
    done = subprocess.run(command, env=variables, cwd=built, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_what_builds_the_image_is_what_is_pinned_for_it() -> None:
    text = (ROOT / "constraints" / "build.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    assert {name: metadata.version(name) for name in pins} == pins


def test_the_command_line_works_with_the_operators_packages_alone(built: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ran(built, str(built / "bin" / "rlscaler"), "version").startswith(f"rlscaler {version}\n")
    assert "--lease-namespace" in ran(built, str(built / "bin" / "rlscaler"), "run", "--help")


def test_every_module_of_the_operator_can_be_imported_there(built: Path) -> None:
    script = (
        "import importlib, pkgutil, rlscaler_operator as p\n"
        "for m in pkgutil.walk_packages(p.__path__, 'rlscaler_operator.'): importlib.import_module(m.name)"
    )
    ran(built, str(built / "bin" / "python"), "-c", script)


def test_no_learning_stack_and_no_installer_is_in_it(built: Path) -> None:
    names = {path.name for path in next((built / "lib").iterdir()).joinpath("site-packages").iterdir()}
    assert not names & {*LEARNING, "pip", "uv", "hatchling", "pytest"}


def test_nothing_is_written_while_it_runs(built: Path) -> None:
    """The root is read-only in a cluster, and the user another one: bytecode has to be there already."""
    before = {path for path in built.rglob("*") if path.suffix == ".pyc"}
    assert any("rlscaler_operator" in path.parts for path in before)
    ran(built, str(built / "bin" / "rlscaler"), "version")
    assert {path for path in built.rglob("*") if path.suffix == ".pyc"} == before


def test_a_dry_run_works_as_the_dockerfile_shows_it(built: Path) -> None:
    shown = re.search(r"rlscaler:[\d.]+ (dry-run -f) (/examples/\S+)", DOCKERFILE.read_text())
    assert shown
    example = str(ROOT) + shown[2]
    assert "policy default" in ran(built, str(built / "bin" / "rlscaler"), *shown[1].split(), example, "--for", "1h")


# --- the image itself


@pytest.mark.timeout(1200)
def test_the_image_is_built_and_runs(tmp_path: Path) -> None:
    engine = next((e for e in ENGINES if subprocess.run([e, "info"], capture_output=True).returncode == 0), None)
    if engine is None:
        found = f"{' and '.join(ENGINES)} cannot be reached" if ENGINES else "there is neither docker nor podman"
        pytest.skip(f"builds an image: {found}")
    tag = f"rlscaler-test:{os.getpid()}"
    subprocess.run([engine, "build", "--tag", tag, str(ROOT)], check=True)
    try:
        strict = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]
        run = [engine, "run", *strict, tag]
        shown = subprocess.run([*run, "version"], capture_output=True, text=True, check=True).stdout
        assert shown.startswith("rlscaler ")
        assert subprocess.run([*run, "run", "--help"], capture_output=True).returncode == 0
    finally:
        subprocess.run([engine, "rmi", "--force", tag], check=False, capture_output=True)
