"""The operator's configuration file: where load comes from, which custom kinds may be scaled, and who else decides.

YAML with four fields, all optional:

    sources: {default: {url: "http://prometheus.monitoring:9090"}}   # see rlscaler.prometheus_config
    targets: [{group: argoproj.io, version: v1alpha1, kind: Rollout, plural: rollouts}]
    history: 168h                                                    # past load that is read back
    servers: {gpu: {url: "http://decisions.rlscaler:8000"}}          # inference servers, see `inference_config`

Reading is strict and tells all problems at once. The file may change under a running operator (a ConfigMap's mount
swaps a link): a good one is taken, a bad one is told and the last good one stays (`Watched`).
"""

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlscaler.errors import UserError
from rlscaler.prometheus_config import SOURCES, SourceConfig
from rlscaler.quantities import duration_text
from rlscaler.resource_fields import LABEL_NAME, OBJECT_NAME
from rlscaler.resource_schema import Block, Field
from rlscaler.resource_values import BAD, DURATION, Amount, Place, Problem, Report, Text, TooManyProblems, wrong_kind
from rlscaler.yaml_nodes import Node, YamlError, documents
from rlscaler_operator.inference_config import SERVERS, ServerConfig
from rlscaler_operator.model import Note

LARGEST = 2**20
"""Bytes of a file that is read: what a ConfigMap holds."""
HISTORY = 7 * 24 * 3600.0
"""Seconds of past load that are read back where nothing is said: what the longest profile is made of."""
MOST_TARGETS = 64
BUILT_IN: Final = (("apps", "Deployment"), ("apps", "StatefulSet"), ("apps", "ReplicaSet"))
"""Group and kind of what is watched without being asked for."""
_FILE = "the operator's configuration: sources, targets, history, servers"


class CustomTarget(NamedTuple):
    """A kind with a scale subresource that is watched beside the built-in ones."""

    group: str
    version: str
    kind: str
    plural: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the file says. history: seconds of past load that are read back at start. servers: of spec.policy.server."""

    sources: Mapping[str, SourceConfig] = field(default_factory=dict)
    targets: tuple[CustomTarget, ...] = ()
    history: float = HISTORY
    servers: Mapping[str, ServerConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Targets:
    """A list of custom targets, each kind once; an empty list is one too."""

    expected: str = "a list of custom targets, each with group, version, kind and plural"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "array", "items": _TARGET.schema(), "maxItems": MOST_TARGETS}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return a tuple of `CustomTarget`."""
        if node.kind != "list":
            return report.add(place, wrong_kind(node, self.expected))
        if len(node.items) > MOST_TARGETS:
            return report.add(place, f"{len(node.items)} entries; expected at most {MOST_TARGETS}")
        before = len(report.problems)
        found: dict[tuple[str, str], CustomTarget] = {}
        for index, item in enumerate(node.items):
            inner = Place(f"{place.path}[{index}]", item.line or place.line)
            target = _TARGET.read(item, inner, report)
            if target is BAD:
                continue
            name = (target.group, target.kind)
            if name in BUILT_IN:
                report.add(inner, f"{target.kind} of {target.group} is watched without it; leave it out")
            elif name in found:
                report.add(inner, f"{target.kind} of {target.group} is written twice; keep one version")
            found[name] = target
        return BAD if len(report.problems) > before else tuple(found.values())


_TARGET = Block(
    (
        Field("group", OBJECT_NAME, "API group, such as argoproj.io.", required=True),
        Field("version", LABEL_NAME, "Version of it, such as v1alpha1.", required=True),
        Field(
            "kind",
            Text("a kind such as Rollout: letters and digits, the first in upper case", "^[A-Z][A-Za-z0-9]*$", 63),
            "Kind, such as Rollout.",
            required=True,
        ),
        Field("plural", LABEL_NAME, "Name of the resource in URLs, such as rollouts.", required=True),
    ),
    CustomTarget,
)


def _configuration(**values: Any) -> Configuration:
    return Configuration(**{name: value for name, value in values.items() if value is not None})


CONFIGURATION = Block(
    (
        Field("sources", SOURCES, "Prometheus sources by name."),
        Field("targets", _Targets(), "Custom kinds with a scale subresource that may be scaled."),
        Field(
            "history",
            Amount(DURATION, 3600.0, 31 * 24 * 3600.0),
            f"Past load that is read back at start. Left out: {duration_text(HISTORY)}.",
        ),
        Field("servers", SERVERS, "Inference servers by name, for spec.policy.server."),
    ),
    _configuration,
)


def load(path: Path | None) -> Configuration:
    """Return the configuration of a file; None is a configuration that names no source.

    Raises UserError with a line for each problem: file, line, field, what was found, what is expected.
    """
    return Configuration() if path is None else parse(_content(path), str(path))


def parse(text: bytes, file: str) -> Configuration:
    """Return the configuration of YAML text; `file` is what messages call it. An empty one says nothing.

    Raises UserError as `load`.
    """
    report = Report()
    found: Any = BAD
    try:
        roots = list(documents(_decoded(text)))
        if len(roots) > 1:
            report.add(Place("", roots[1].line), "a second document; expected one")
        found = CONFIGURATION.read(roots[0], Place("", roots[0].line), report) if roots else Configuration()
    except YamlError as error:
        report.problems.append(Problem(Place("", error.line), str(error)))
    except TooManyProblems:
        report.problems.append(Problem(Place("", None), f"more than {report.most} problems; correct these first"))
    if report.problems:
        raise UserError(_told(file, report.problems))
    assert isinstance(found, Configuration)
    return found


class Watched:
    """The configuration of a file that may change.

    value: the last good one. problem: what is wrong with the file as it stands now, None where nothing is.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file; raises UserError as `load`."""
        self._path = path
        self._text: bytes | None = None if path is None else _content(path)
        self.value = Configuration() if self._text is None else parse(self._text, str(path))
        self.problem: Note | None = None

    def changed(self) -> bool:
        """Tell whether the file holds something else than at the last look, or can no longer be read."""
        if self._path is None:
            return False
        try:
            return _content(self._path) != self._text
        except UserError:
            return self._text is not None

    def reload(self) -> Note | None:
        """Take in the file as it is now; return what is wrong with it, and then the last good one stays."""
        if self._path is None:
            return None
        self._text = None
        try:
            self._text = _content(self._path)
            self.value = parse(self._text, str(self._path))
            self.problem = None
        except UserError as error:
            text = f"{error}\nThe configuration read before stays in use; correct the file, no restart is needed."
            self.problem = Note("ConfigurationInvalid", text)
        return self.problem


def _content(path: Path) -> bytes:
    """Return the bytes of a file, never more than one above LARGEST. Raises UserError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: no plain file; expected {_FILE}")
        with path.open("rb") as stream:
            return stream.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected {_FILE}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path}: cannot be read: {reason}; expected {_FILE}") from error


def _decoded(text: bytes) -> str:
    if len(text) > LARGEST:
        raise YamlError(f"larger than {LARGEST // 2**20} MiB; expected {_FILE}")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise YamlError("not UTF-8 text; save the file as UTF-8", line) from error


def _told(file: str, problems: Sequence[Problem]) -> str:
    lines = []
    for (path, line), text, _ in sorted(problems, key=lambda problem: problem.place.line or 2**31):
        where = file if line is None else f"{file}:{line}"
        lines.append(f"{where}: {path}: {text}" if path else f"{where}: {text}")
    return "\n".join(lines)
