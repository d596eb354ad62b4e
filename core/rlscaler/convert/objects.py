"""The Kubernetes objects of a file: documents of YAML, JSON, and the entries of Lists, each with its place."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from rlscaler.convert.given import Given, Refused
from rlscaler.input_text import decoded
from rlscaler.quantities import shown
from rlscaler.resource_fields import LABEL_NAME, OBJECT_NAME
from rlscaler.resource_values import Place, wrong_kind
from rlscaler.yaml_nodes import Node, documents, from_object

EXPECTED = "Kubernetes objects, HorizontalPodAutoscalers or ScaledObjects among them"


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a file; `file`: what messages call it."""

    file: str
    api_version: str
    kind: str
    given: Given

    @property
    def group(self) -> str:
        """The API group; empty for the core's."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version within its group."""
        return self.api_version.rpartition("/")[2]

    @property
    def called(self) -> str:
        """Kind, namespace and name for people, as far as they can be read."""
        names = [self.loosely("namespace"), self.loosely("name") or "without a name"]
        return f"{shown(self.kind)} {'/'.join(shown(name) for name in names if name)}"

    def loosely(self, field: str) -> str:
        """Return a field of the metadata; empty where it cannot be read."""
        try:
            found = self.given.at("metadata", field)
            return found.node.text if found is not None and found.node.kind == "text" else ""
        except Refused:
            return ""

    def name(self) -> str:
        """Return the name; raises Refused where it is none of Kubernetes."""
        metadata = self.given.need("metadata", "a mapping with name")
        return str(metadata.need("name", OBJECT_NAME.expected).value(OBJECT_NAME))

    def namespace(self) -> str | None:
        """Return the namespace, None where none is written; raises Refused where it is none of Kubernetes."""
        found = self.given.at("metadata", "namespace")
        return None if found is None else str(found.value(LABEL_NAME))


def objects(text: str | bytes, file: str) -> Iterator[Object]:
    """Yield the objects of YAML or JSON; those of a List one by one.

    Raises YamlError where it is neither, and Refused for a document that is no object, after those before it.
    """
    for number, root in enumerate(_roots(decoded(text)), start=1):
        whole = Given(root, Place("", root.line))
        if root.kind != "mapping":
            raise whole.refused(f"document {number} is {wrong_kind(root, EXPECTED)}")
        kind, version = (_word(whole, name) for name in ("kind", "apiVersion"))
        items = whole.get("items") if kind.endswith("List") else None
        if items is None:
            yield Object(file, version, kind, whole)
            continue
        for item in items.items("a list of Kubernetes objects"):
            # What the API server itself lists has its kind in the list alone.
            own = set(item.names())
            yield Object(
                file,
                _word(item, "apiVersion") if "apiVersion" in own or kind == "List" else version,
                _word(item, "kind") if "kind" in own or kind == "List" else kind.removesuffix("List"),
                item,
            )


def _word(given: Given, name: str) -> str:
    return given.need(name, "that of a Kubernetes object").scalar("that of a Kubernetes object")


def _roots(text: str) -> Iterator[Node]:
    """Yield the documents; JSON is read as such, since YAML knows no escapes of two surrogates and reads it slowly."""
    if (root := _json(text)) is not None:
        yield root
    else:
        yield from documents(text)


def _json(text: str) -> Node | None:
    """Return JSON's object as a node; None where the text is none, or holds half of a surrogate pair."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return from_object(value)
    except (ValueError, RecursionError):
        return None
