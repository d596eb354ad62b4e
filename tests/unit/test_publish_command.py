"""`rlscaler publish` with a kubeconfig that cannot be used."""

import json
from pathlib import Path

import pytest

from command_line import mistakes, run, stand_in
from rlscaler.policies import LEARNED, artifact_path

BROKEN = {
    "no YAML": "a: [",
    "a list": "[]",
    "a word": "hello",
    "no text": "\0",
    "a context that is none": "contexts: [{name: a, context: 3}]\ncurrent-context: a\n",
}
DATA = {
    "no base64": ("certificate-authority-data", "bm8gY", "is text that is no base64; expected a certificate in PEM"),
    "no certificate": (
        "certificate-authority-data",
        "bm8gY2VydGlmaWNhdGU=",
        "is base64 of no certificate; expected a certificate in PEM form, in base64",
    ),
    "nothing that base64 has": ("certificate-authority-data", "----", "is base64 of no certificate; expected"),
    "a file of no certificate": ("certificate-authority", "config", "holds no certificate; expected a certificate in"),
    "no base64 of a client": ("client-certificate-data", "bm8gY", "is text that is no base64; expected a certificate"),
    "no key": ("client-key-data", "bm8gY", "is text that is no base64; expected a key in PEM form, in base64"),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("options", [[], ["--context", "a"]], ids=["current", "named"])
def test_a_broken_kubeconfig_is_told_in_a_line(
    text: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the namespace is to be that of its context."""
    stand_in(tmp_path, monkeypatch)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    file = tmp_path / "config"
    file.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(file))
    (line,) = mistakes(run("publish", str(artifact_path(LEARNED)), "--name", "web", "--any-score", *options))
    assert f"kubeconfig {file}" in line
    assert "cannot be used: " in line


@pytest.mark.parametrize(("field", "value", "told"), DATA.values(), ids=DATA)
def test_what_is_no_certificate_is_named_before_anything_is_asked(
    field: str, value: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    part = "users" if field.startswith("client-") else "clusters"
    stated: dict[str, dict[str, str]] = {"clusters": {"server": "https://127.0.0.1:9"}, "users": {}}
    stated[part][field] = value
    file = tmp_path / "config"
    named = {each: [{"name": "a", each[:-1]: fields}] for each, fields in stated.items()}
    chosen = {"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "current-context": "a"}
    file.write_text(json.dumps(named | chosen))
    monkeypatch.setenv("KUBECONFIG", str(file))
    (line,) = mistakes(run("publish", str(artifact_path(LEARNED)), "--name", "web", "--any-score"))
    assert f"kubeconfig {file} cannot be used: {field} " in line
    assert told in line
