"""Where the real programs lie that the cluster tests start; built on first use (scripts/components.py)."""

import functools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {
    "etcd": "kubernetes",
    "kube-apiserver": "kubernetes",
    "kube-controller-manager": "kubernetes",
    "kube-scheduler": "kubernetes",
    "kubectl": "kubernetes",
    "kwok": "kwok",
    "helm": "helm",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
"""Program to family, a folder of tests/components/."""


def program(name: str) -> Path:
    """Return a program's path; builds its family if it is not there, which takes minutes."""
    return folder(FAMILIES[name]) / name


@functools.cache
def folder(family: str) -> Path:
    """Return the folder of a family's programs; raises RuntimeError where they cannot be built."""
    # Another process, because the script ends the one that it runs in when something is missing.
    command = [sys.executable, str(ROOT / "scripts" / "components.py"), family]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the test programs of {family!r} cannot be built (see above): {' '.join(command)}")
    return Path(done.stdout.strip())
