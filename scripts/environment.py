"""Run a command in an environment of pinned packages: ``environment.py NAME COMMAND [ARGUMENT]...``.

NAME is a file of ``constraints/``: its packages and nothing else are installed, each held to its hash. Needs
a Python with venv and ensurepip, no root, and the network only where something is missing. Two layers lie in
``$RLSCALER_CACHE`` (default ``~/.cache/rlscaler``), outside the checkout:

- ``venv-NAME-HASH``: the packages; shared by all checkouts, made anew when a pin or the Python changes;
- ``checkout-NAME-HASH``: a thin environment above it, in which this checkout is installed in editable form;
  made anew (in a second) when pyproject.toml or the checkout's place changes.

A layer counts once its stamp is written, which is the last step and happens under a lock, so that runs that
race or were cut short leave nothing half-made behind. Layers that no run has used for 30 days are removed
when a new one is made.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python has to hear this before it meets a newer module
    sys.exit(
        f"rlscaler needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}: "
        "name another one, as in `make PYTHON=python3.12 dry-run`"
    )

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = "build"  # the environment of the installer and the build back end themselves
KEEP_SECONDS = 30 * 86400.0


def main(arguments: list[str]) -> None:
    """Make the environment that the first argument names, then become the command that follows."""
    if len(arguments) < 2:
        sys.exit("usage: environment.py NAME COMMAND [ARGUMENT]... where constraints/NAME.txt is a file")
    name, command = arguments[0], arguments[1:]
    environment = packages(name) if name == TOOLS else checkout(name)
    variables = dict(os.environ)
    for variable in ("PYTHONPATH", "PYTHONHOME"):  # either would put other packages before the pinned ones
        variables.pop(variable, None)
    if variables.pop("PYTHONDONTWRITEBYTECODE", None):
        # Compiled anew in each process, the larger packages take half a minute; so it is written, but into the cache.
        variables.setdefault("PYTHONPYCACHEPREFIX", str(cache() / "bytecode"))
    variables["VIRTUAL_ENV"] = str(environment)
    variables["PATH"] = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
    try:
        os.execvpe(command[0], command, variables)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


def packages(name: str) -> Path:
    """Return the environment that holds the packages of constraints/NAME.txt."""
    constraints = ROOT / "constraints" / f"{name}.txt"
    if not constraints.is_file():
        known = ", ".join(sorted(path.stem for path in constraints.parent.glob("*.txt")))
        sys.exit(f"there is no environment {name!r}: expected one of {known} (files of constraints/)")

    def fill(directory: Path) -> None:
        print(f"rlscaler: installing {constraints.relative_to(ROOT)} into {directory}, once", file=sys.stderr)
        start = time.monotonic()
        install(directory, "--require-hashes", "-r", str(constraints), by_pip=name == TOOLS)
        print(f"rlscaler: installed in {time.monotonic() - start:.0f} s", file=sys.stderr)

    return made(f"venv-{name}", constraints.read_bytes(), fill, with_pip=name == TOOLS)


def checkout(name: str) -> Path:
    """Return the environment that has this checkout installed above the packages of constraints/NAME.txt."""
    below = packages(name)

    def fill(directory: Path) -> None:
        (library(directory) / "packages.pth").write_text(f"{library(below)}\n")
        hatchling, wheels = packages(TOOLS) / "bin" / "hatchling", directory / "wheel"
        command = [str(hatchling), "build", "-t", "wheel:editable", "-d", str(wheels)]
        if not succeeds(command, {"HATCH_QUIET": "1"} | dict(os.environ)):
            sys.exit(f"rlscaler: {ROOT / 'pyproject.toml'} does not build (see above)")
        install(directory, *map(str, wheels.glob("*.whl")))

    key = b"\0".join([str(ROOT).encode(), str(below).encode(), (ROOT / "pyproject.toml").read_bytes()])
    return made(f"checkout-{name}", key, fill)


def install(environment: Path, *arguments: str, by_pip: bool = False) -> None:
    """Install what is named and nothing else, with uv, or with pip where asked or where uv cannot."""
    python = str(environment / "bin" / "python")
    installer = (environment if by_pip else packages(TOOLS)) / "bin"
    if not by_pip and not pip_has_own_index(installer):
        uv = [str(installer / "uv"), "pip", "install", "--quiet", "--no-deps", "--python", python]
        if succeeds([*uv, *arguments], {"UV_CACHE_DIR": str(cache() / "uv")} | dict(os.environ)):
            return
        print("rlscaler: uv could not install it (see above); pip takes over", file=sys.stderr)
    pip = [str(installer / "python"), "-m", "pip", "--python", python, "--disable-pip-version-check"]
    if not succeeds([*pip, "install", "--quiet", "--no-deps", "--no-compile", *arguments], dict(os.environ)):
        sys.exit("rlscaler: pip could not install it (see above): is a package index within reach?")


def pip_has_own_index(installer: Path) -> bool:
    """Tell whether the user's settings send pip to an index of their own, of which uv would not know."""
    command = [str(installer / "python"), "-m", "pip", "config", "list"]
    return "index-url=" in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def library(environment: Path) -> Path:
    """Return the folder from which an environment imports."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))


def succeeds(command: list[str], variables: dict[str, str]) -> bool:
    """Run a command in the checkout and tell whether it returned 0; show its output where it did not."""
    result = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        print(result.stdout, end="", file=sys.stderr)
    return result.returncode == 0


def cache() -> Path:
    """Return the folder that holds all layers."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RLSCALER_CACHE") or Path(home) / "rlscaler").absolute()


def made(prefix: str, key: bytes, fill: Callable[[Path], None], with_pip: bool = False) -> Path:
    """Return the environment for this key and this Python; create and fill it if it is not there whole."""
    python = f"{sys.version}\0{sys.base_prefix}\0{os.uname().machine}\0".encode()
    directory = cache() / f"{prefix}-{hashlib.sha256(python + key).hexdigest()[:16]}"
    stamp = directory / ".complete"

    def whole() -> bool:
        return stamp.exists() and (directory / "bin" / "python").exists()

    if not whole():
        with locked(prefix):
            if not whole():
                shutil.rmtree(directory, ignore_errors=True)
                create(directory, with_pip)
                fill(directory)
                stamp.touch()
                forget_unused(prefix)
    with contextlib.suppress(OSError):  # a cache that may only be read serves as well
        os.utime(stamp)
    return directory


def create(directory: Path, with_pip: bool) -> None:
    """Create an empty virtual environment."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"{sys.executable} lacks the module {module}: install it (Debian, Ubuntu: python3-venv) "
                "or name another Python, as in `make PYTHON=python3.12 dry-run`"
            )
    command = [sys.executable, "-m", "venv", *([] if with_pip else ["--without-pip"]), str(directory)]
    if not succeeds(command, dict(os.environ)):
        sys.exit(f"{sys.executable} could not create a virtual environment in {directory} (see above)")


@contextlib.contextmanager
def locked(prefix: str) -> Iterator[None]:
    """Hold the lock under which layers of one kind are made."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        lock = (cache() / f".lock-{prefix}").open("w")
    except OSError as error:
        sys.exit(f"cannot write to {cache()}: {error.strerror}; set RLSCALER_CACHE to a folder that you own")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"rlscaler: another run makes {prefix} at this moment; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def forget_unused(prefix: str) -> None:
    """Remove layers of one kind that no run has used for a long time."""
    for directory in cache().glob(f"{prefix}-*"):
        stamp = directory / ".complete"
        if stamp.exists() and time.time() - stamp.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
