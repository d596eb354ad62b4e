"""The operator's configuration file: all its problems at once, and a bad change leaves the last good one in use."""

import os
from pathlib import Path

import pytest

from rlscaler.errors import UserError
from rlscaler_operator.configuration import HISTORY, LARGEST, Configuration, CustomTarget, Watched, load, parse

WHOLE = b"""\
# The operator's configuration.
sources:
  default:
    url: http://prometheus.monitoring:9090/
    timeout: 5s
  far: {url: "https://thanos.example", headers: {X-Scope-OrgID: shop}}
targets:
  - {group: argoproj.io, version: v1alpha1, kind: Rollout, plural: rollouts}
  - {group: example.com, version: v1, kind: Worker, plural: workers}
history: 36h
"""


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse(text.encode() if isinstance(text, str) else text, "c.yaml")
    return str(caught.value).splitlines()


def test_a_whole_file() -> None:
    found = parse(WHOLE, "c.yaml")
    assert found.sources["default"].url == "http://prometheus.monitoring:9090"
    assert found.sources["default"].timeout == 5.0
    assert found.sources["far"].headers == {"X-Scope-OrgID": "shop"}
    assert found.targets == (
        CustomTarget("argoproj.io", "v1alpha1", "Rollout", "rollouts"),
        CustomTarget("example.com", "v1", "Worker", "workers"),
    )
    assert found.history == 36 * 3600.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\n",
        "# nothing\n",
        "{}",
        "sources:\ntargets:\nhistory:\n",
        "sources: {}\ntargets: []\n",
        "\ufeffsources: {}",
    ],
)
def test_what_is_left_out_is_the_default(text: str) -> None:
    assert parse(text.encode(), "c.yaml") == Configuration(sources={}, targets=(), history=HISTORY)


def test_no_file_names_no_source() -> None:
    assert load(None) == Configuration()


MISTAKES: dict[str, tuple[str | bytes, list[str]]] = {
    "no mapping": ("- a", ["c.yaml:1: a list; expected a mapping with sources, targets, history, servers"]),
    "unknown field": ("source: {}", ["c.yaml:1: source: unknown field; did you mean sources?"]),
    "twice": ("history: 2h\nhistory: 3h", ["c.yaml:2: history: written twice, first on line 1; keep one"]),
    "days": ("history: 7d", ["c.yaml:1: history: 7d is in days; write 168h"]),
    "no unit": ("history: 3600", ["c.yaml:1: history: 3600 has no unit; write 3600s if seconds are meant"]),
    "too short": ("history: 59m", ["c.yaml:1: history: 59m is out of bounds; expected at least 1h and at most 744h"]),
    "too long": ("history: 800h", ["c.yaml:1: history: 800h is out of bounds; expected at least 1h and at most 744h"]),
    "targets of one": (
        "targets: {kind: Rollout}",
        ["c.yaml:1: targets: a mapping; expected a list of custom targets, each with group, version, kind and plural"],
    ),
    "a target's field": (
        "targets:\n- {group: a.io, version: v1, kind: rollout, plural: rollouts}",
        [
            "c.yaml:2: targets[0].kind: rollout is not allowed; expected a kind such as Rollout: letters and digits, "
            "the first in upper case"
        ],
    ),
    "a target that is watched anyway": (
        "targets: [{group: apps, version: v1, kind: Deployment, plural: deployments}]",
        ["c.yaml:1: targets[0]: Deployment of apps is watched without it; leave it out"],
    ),
    "a target twice": (
        "targets:\n- {group: a.io, version: v1, kind: A, plural: as}\n- {group: a.io, version: v2, kind: A, plural: a}",
        ["c.yaml:3: targets[1]: A of a.io is written twice; keep one version"],
    ),
    "a URL": (
        "sources:\n  default:\n    url: prometheus:9090",
        [
            "c.yaml:3: sources.default.url: prometheus:9090 does not begin with http:// or https://; expected a URL "
            "such as http://prometheus.monitoring:9090"
        ],
    ),
    "two documents": ("history: 2h\n---\nhistory: 3h", ["c.yaml:3: a second document; expected one"]),
    "no YAML": (
        "sources: {",
        ["c.yaml:1: not YAML: while parsing a flow node expected the node content, but found '<stream end>'"],
    ),
    "no UTF-8": (b"sources:\n \xff", ["c.yaml:2: not UTF-8 text; save the file as UTF-8"]),
    "too large": (
        b"#" * (LARGEST + 1),
        ["c.yaml: larger than 1 MiB; expected the operator's configuration: sources, targets, history, servers"],
    ),
    "several at once": (
        "histori: 2h\ntargets: 3\nsources: {Default: {url: 'http://x'}, near: {url: 'ftp://x'}}",
        [
            "c.yaml:1: histori: unknown field; did you mean history?",
            "c.yaml:2: targets: 3 is a whole number to YAML; expected a list of custom targets, each with group, "
            "version, kind and plural",
            "c.yaml:3: sources.Default: Default is not allowed; expected a DNS-1123 label: lower-case letters, digits "
            "and '-', at most 63",
            "c.yaml:3: sources.near.url: ftp://x does not begin with http:// or https://; expected a URL such as "
            "http://prometheus.monitoring:9090",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_place(text: str | bytes, expected: list[str]) -> None:
    assert problems(text) == expected


def test_many_mistakes_end() -> None:
    found = problems("\n".join(f"a{i}: 1" for i in range(1000)))
    assert len(found) == 101
    assert found[-1] == "c.yaml: more than 100 problems; correct these first"


def test_many_targets_are_refused_at_once() -> None:
    entries = ", ".join(f"{{group: a.io, version: v1, kind: K{i}, plural: ks}}" for i in range(65))
    assert problems(f"targets: [{entries}]") == ["c.yaml:1: targets: 65 entries; expected at most 64"]


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    text = "sources: {default: {url: 'http://prometheus:9090', bearerTokenFile: hunter2}}"
    (told,) = problems(text)
    assert told.startswith("c.yaml:1: sources.default.bearerTokenFile: not a path")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("missing.yaml", "no such file"),
        ("", "no plain file"),
        ("pipe", "no plain file"),
        ("c.yaml/x", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read(place: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(WHOLE)
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / place
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {told}")
    assert str(caught.value).endswith("expected the operator's configuration: sources, targets, history, servers")


# A file that changes.


def test_a_good_change_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(WHOLE)
    watched = Watched(path)
    assert watched.value == load(path)
    assert not watched.changed()
    path.write_bytes(WHOLE.replace(b"36h", b"48h"))
    assert watched.changed()
    assert watched.value.history == 36 * 3600.0
    assert watched.reload() is None
    assert watched.value.history == 48 * 3600.0
    assert not watched.changed()


@pytest.mark.parametrize("breakage", ["content", "deleted", "folder"])
def test_a_bad_change_leaves_the_last_good_one(breakage: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(WHOLE)
    watched = Watched(path)
    before = watched.value
    if breakage == "content":
        path.write_bytes(b"sources: 3\nhistory: 7d")
    else:
        path.unlink()
    if breakage == "folder":
        path.mkdir()
    assert watched.changed()
    note = watched.reload()
    assert note is not None
    assert note == watched.problem
    assert note.reason == "ConfigurationInvalid"
    assert note.message.startswith(f"{path}:")
    assert note.message.endswith("The configuration read before stays in use; correct the file, no restart is needed.")
    if breakage == "content":
        assert "history: 7d is in days; write 168h" in note.message
    assert watched.value is before
    assert not watched.changed(), "it is told once"

    if breakage == "folder":
        path.rmdir()
    path.write_bytes(WHOLE)
    assert watched.changed(), "also where it is what it was before"
    assert watched.reload() is None
    assert watched.problem is None
    assert watched.value == before


def test_a_mounts_swap_of_links_is_followed(tmp_path: Path) -> None:
    """As the kubelet updates a volume: the file is a link through `..data`, which is replaced by a rename."""
    for name, hours in (("..1", b"36h"), ("..2", b"48h")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.yaml").write_bytes(WHOLE.replace(b"36h", hours))
        os.utime(tmp_path / name / "c.yaml", (7, 7))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "c.yaml").symlink_to("..data/c.yaml")
    watched = Watched(tmp_path / "c.yaml")
    assert not watched.changed()
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert watched.changed()
    assert watched.reload() is None
    assert watched.value.history == 48 * 3600.0


def test_a_start_with_a_bad_file_fails(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"history: 7d")
    with pytest.raises(UserError, match="7d is in days"):
        Watched(path)


def test_without_a_file_nothing_changes() -> None:
    watched = Watched(None)
    assert watched.value == Configuration()
    assert not watched.changed()
    assert watched.reload() is None
