"""`rlscaler publish` with a kubeconfig that cannot be used."""

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
