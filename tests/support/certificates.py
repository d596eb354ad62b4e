"""Certificates for tests, made by the openssl of the machine."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Pair(NamedTuple):
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder; skips the test where there is no openssl."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        """Make its own certificate."""
        if shutil.which("openssl") is None:
            pytest.skip("makes certificates: needs openssl on PATH")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._own = Pair(directory / "ca.crt", directory / "ca.key")
        _openssl(
            "req", "-x509", *_KEY, "-keyout", self._own.key, "-out", self._own.certificate, "-days", "2",
            "-subj", f"/CN={name}",
        )  # fmt: skip

    @property
    def certificate(self) -> Path:
        """What has to be trusted."""
        return self._own.certificate

    def issue(self, name: str, *hosts: str) -> Pair:
        """Return a certificate for a client, or for a server at `hosts` (names, or addresses of IPv4)."""
        made = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        _openssl("req", *_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
        names = ",".join(f"{'IP' if host.replace('.', '').isdigit() else 'DNS'}:{host}" for host in hosts)
        use = f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n" if hosts else "extendedKeyUsage=clientAuth\n"
        extensions.write_text(use)
        _openssl(
            "x509", "-req", "-in", request, "-CA", self._own.certificate, "-CAkey", self._own.key,
            "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", made.certificate,
        )  # fmt: skip
        return made

    def encrypted(self, key: Path, passphrase: str) -> Path:
        """Return a copy of a key that needs a passphrase."""
        out = key.with_suffix(".encrypted")
        _openssl("pkey", "-in", key, "-aes256", "-passout", f"pass:{passphrase}", "-out", out)
        return out


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr}")
