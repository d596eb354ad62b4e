"""The RLScaler resource as data: read from YAML, checked, and turned into the settings of a decision.

The resource is the contract: the command line, the simulator and the operator read the same text in the
same way, and `openapi_schema` makes the CRD's schema from the same table of fields (`resource_fields`).
Reading is strict: unknown fields, duplicate keys and values that YAML turns into something else are
refused, all problems of a file are reported at once, and each names its file, line and field.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlscaler.behavior import Behavior
from rlscaler.errors import UserError
from rlscaler.input_text import contents, decoded, file_called
from rlscaler.policies import HPA
from rlscaler.quantities import shown
from rlscaler.resource_fields import API_VERSION, KIND, RESOURCE
from rlscaler.resource_objects import Manifest, Spec
from rlscaler.resource_values import BAD, Place, Problem, Report, TooManyProblems
from rlscaler.settings import Settings
from rlscaler.yaml_nodes import Node, YamlError, documents, from_object


@dataclass(frozen=True, slots=True)
class Source:
    """Where a resource was written: file, 1-based number of the document in it, 1-based line (None: no file)."""

    file: str
    document: int
    line: int | None


@dataclass(frozen=True, slots=True)
class Resource:
    """One RLScaler resource."""

    manifest: Manifest
    source: Source

    @property
    def name(self) -> str:
        """The resource's name."""
        return self.manifest.metadata.name

    @property
    def namespace(self) -> str:
        """The resource's namespace; `default` where none is written."""
        return self.manifest.metadata.namespace

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"

    @property
    def spec(self) -> Spec:
        """What is asked for."""
        return self.manifest.spec


class ResourceError(UserError):
    """A file holds something that is no valid resource.

    problems: all that is wrong, in the order of the lines. messages: a sentence for each, with file and line.
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        """Take what messages call the file, and what is wrong with it."""
        self.problems = tuple(problems)
        self.messages = tuple(_message(file, problem) for problem in problems)
        super().__init__("\n".join(self.messages))


def load_resources(path: str | Path) -> list[Resource]:
    """Return the resources of a YAML file; `-` is the standard input.

    Raises ResourceError with every problem of the file.
    """
    try:
        text = contents(path, "a file of RLScaler resources")
    except YamlError as error:
        raise ResourceError(file_called(path), [Problem(Place("", error.line), str(error))]) from error
    return parse_resources(text, file_called(path))


def parse_resources(text: str | bytes, file: str) -> list[Resource]:
    """Return the resources of YAML text; `file` is what messages call it.

    Raises ResourceError with every problem of the text.
    """
    return _accepted(_roots(text), file)


def resource_from_object(value: Mapping[str, Any], called: str = "") -> Resource:
    """Return the resource of plain objects as the API server's JSON gives them.

    called: what messages call it; `namespace/name` by default.

    Raises ResourceError with every problem.
    """
    metadata = value.get("metadata")
    known = metadata if isinstance(metadata, Mapping) else {}
    called = called or f"{known.get('namespace', 'default')}/{known.get('name', '')}"
    return _accepted(iter([from_object(value)]), called)[0]


def to_settings(resource: Resource) -> Settings:
    """Return what the decision needs of a resource; what is to be learned keeps the default of `Settings`."""
    spec = resource.spec
    known = {"capacity_per_replica": spec.capacity.per_replica, "startup": spec.capacity.startup}
    return Settings(
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        interval=spec.interval,
        concurrency=spec.capacity.concurrency,
        load_counts=spec.metrics.load.counts,
        objective=spec.objective,
        behavior=_behavior(spec),
        loss=spec.on_metric_loss,
        **{name: value for name, value in known.items() if value is not None},
    )


def _behavior(spec: Spec) -> Behavior | None:
    """Return the behaviour with what it leaves out of tolerance towards more replicas: none, unless an HPA decides.

    An HPA's tenth lies beside a target that keeps the headroom. Other policies propose the headroom itself, so that a
    tenth less of it would be late requests that nobody asked for, where only a scale-down window was.
    """
    behavior = spec.behavior
    if behavior is None or behavior.up.tolerance is not None or spec.policy.name == HPA:
        return behavior
    return replace(behavior, up=replace(behavior.up, tolerance=0.0))


def openapi_schema() -> dict[str, Any]:
    """Return the CRD's `openAPIV3Schema`: structural, every field described, the status left to the CRD.

    Bounds and relations that a structural schema cannot say are CEL rules (`x-kubernetes-validations`).
    """
    # Copied through JSON, so that no part is shared with the table or with another part.
    schema: dict[str, Any] = json.loads(json.dumps(RESOURCE.schema()))
    del schema["properties"]["status"]
    # The API server checks metadata itself and refuses a schema that says more than this, even a description.
    schema["properties"]["metadata"] = {"type": "object"}
    for name in ("apiVersion", "kind"):
        del schema["properties"][name]["enum"]
    schema["description"] = "RLScaler scales a workload by the decisions of a policy trained offline."
    schema["required"] = ["spec"]
    return schema


def _roots(text: str | bytes) -> Iterator[Node]:
    yield from documents(decoded(text))


def _accepted(roots: Iterator[Node], file: str) -> list[Resource]:
    """Return the resources of documents; raises ResourceError where anything is wrong with one."""
    report = Report()
    resources: dict[str, Resource] = {}
    count = 0
    try:
        for count, root in enumerate(roots, start=1):
            resource = _resource(root, Source(file, count, root.line), report)
            if resource is BAD:
                continue
            if resource.key in resources:
                first = resources[resource.key].source.line
                text = f"{resource.key} is written twice, first on line {first}; rename or drop one"
                report.add(Place("metadata.name", root.line), text)
            resources[resource.key] = resource
    except YamlError as error:
        report.problems.append(Problem(Place("", error.line), str(error)))
    except TooManyProblems:
        text = f"more than {report.most} problems; correct these first"
        report.problems.append(Problem(Place("", None), text))
    if not count and not report.problems:
        report.add(Place("", None), f"nothing in it; expected a resource of kind {KIND}")
    if report.problems:
        raise ResourceError(file, sorted(report.problems, key=_line))
    return list(resources.values())


def _resource(root: Node, source: Source, report: Report) -> Any:
    """Return the resource of one document, or `BAD`."""
    place = Place("", source.line)
    written = {key.text: (key, value) for key, value in root.entries if key.kind == "text"}
    for name, expected in (("kind", KIND), ("apiVersion", API_VERSION)):
        found = written.get(name)
        if found and found[1].kind == "text" and found[1].text != expected:
            # The fields of another kind would only be reported one by one as unknown.
            text = f"{shown(found[1].text)} is not read here; expected {expected}"
            return report.add(Place(name, found[0].line), text)
    manifest = RESOURCE.read(root, place, report)
    return BAD if manifest is BAD else Resource(manifest, source)


def _line(problem: Problem) -> float:
    """Return the line to sort by; what has none comes last."""
    return math.inf if problem.place.line is None else problem.place.line


def _message(file: str, problem: Problem) -> str:
    line = "" if problem.place.line is None else f":{problem.place.line}"
    path = f" {problem.place.path}:" if problem.place.path else ""
    return f"{file}{line}:{path} {problem.text}"
