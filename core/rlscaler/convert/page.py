"""A resource as YAML for people: a comment at each value that tells where it comes from, DECIDE at what is theirs."""

import re
import textwrap
from collections.abc import Iterable

import yaml

from rlscaler.convert.draft import Draft
from rlscaler.quantities import duration_text
from rlscaler.resource_fields import API_VERSION, KIND
from rlscaler.yaml_nodes import Node, YamlError, documents

WIDTH = 120
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


class Page:
    """Lines of YAML, each entry two spaces further in than what holds it."""

    def __init__(self) -> None:
        """Begin with no lines."""
        self._lines: list[str] = []

    def remark(self, depth: int, *texts: str) -> None:
        """Add comments, each from a line of its own on."""
        start = "  " * depth + "# "
        for text in texts:
            further = start + "  " * text.startswith("- ")
            clean = "".join(c if c.isprintable() else "?" for c in text)
            self._lines += textwrap.wrap(clean, WIDTH, initial_indent=start, subsequent_indent=further,
                                         break_long_words=False, break_on_hyphens=False)  # fmt: skip

    def add(self, depth: int, name: str, value: str = "", comment: str = "") -> None:
        """Add an entry; its comment stands behind it where there is room, else above."""
        line = f"{'  ' * depth}{name}:{' ' if value and value[0] != chr(10) else ''}{value}"
        if comment and "\n" not in line and len(line) + len(comment) + 3 <= WIDTH:
            line += f" # {''.join(c if c.isprintable() else '?' for c in comment)}"
        elif comment:
            self.remark(depth, comment)
        self._lines.append(line)

    def text(self) -> str:
        """Return the lines as text."""
        return "\n".join([*self._lines, ""])


def page(draft: Draft) -> str:
    """Return a resource as one document of YAML."""
    out, own = Page(), draft.autoscaler
    short = own.short
    out.remark(0, f"Made by rlscaler convert of {own.source.called}. DECIDE marks what that does not say for sure.")
    out.add(0, "apiVersion", API_VERSION)
    out.add(0, "kind", KIND)
    out.add(0, "metadata")
    out.add(1, "name", word(own.name), f"the {short}'s")
    left_out = f"DECIDE: the {short} names none" if own.namespace is None else f"the {short}'s"
    out.add(1, "namespace", word(own.where), left_out)
    out.add(0, "spec")
    usual = f"the {short}'s"
    out.add(1, "scaleTargetRef", "", usual)
    for name, said in zip(("apiVersion", "kind", "name"), own.target, strict=True):
        out.add(2, name, word(said.value), said.comment if said.comment != usual else "")
    out.add(1, "mode", "Shadow", f"decides and writes nothing; Active scales, once the {short} is deleted")
    out.add(1, "minReplicas", *draft.min_replicas)
    out.add(1, "maxReplicas", str(own.max_replicas), own.max_comment)
    out.add(1, "objective", "", f"DECIDE: the {short} has none; these are the defaults")
    out.add(2, "latency", *draft.latency)
    out.add(2, "target", '"99.9"', "percent of the requests within the latency")
    _capacity(out, draft)
    _metrics(out, draft)
    if own.behavior is not None:
        _node(out, 1, "behavior", own.behavior, own.behavior_comment)
    if own.fallback is not None:
        out.add(1, "onMetricLoss", "", f"the {short}'s fallback")
        after = f"failureThreshold times pollingInterval of the {short}"
        out.add(2, "after", duration_text(own.fallback.after), after)
        out.add(2, "action", own.fallback.action, "the fallback's behavior")
        if own.fallback.replicas is not None:
            out.add(2, "replicas", str(own.fallback.replicas), "the fallback's replicas")
    if draft.notes:
        out.remark(0, "What is not the same:", *(f"- {note}" for note in draft.notes))
    return out.text()


def _capacity(out: Page, draft: Draft) -> None:
    if draft.per_replica is None:
        out.remark(1, f"DECIDE capacity.perReplica, what a replica serves at full use: {draft.capacity_missing}.")
    if draft.per_replica is None and draft.startup is None:
        return
    out.add(1, "capacity")
    if draft.per_replica is not None:
        out.remark(2, f"DECIDE: {draft.per_replica.comment}", *draft.per_replica_more)
        out.add(2, "perReplica", f'"{draft.per_replica.value}"')
    if draft.startup is not None:
        out.add(2, "startup", draft.startup, "as --startup has it")


def _metrics(out: Page, draft: Draft) -> None:
    out.add(1, "metrics")
    out.add(2, "source", word(draft.source.value), draft.source.comment)
    out.add(2, "load", "", f"DECIDE: taken from {draft.load_called}")
    out.remark(3, *draft.about)
    out.add(3, "query", query(draft.load, 4))
    if draft.counts != "Arrivals":
        out.add(3, "counts", draft.counts)
    for name, said in (("backlog", draft.backlog), ("utilization", draft.utilization)):
        if said is not None:
            out.add(2, name, "", said.comment)
            out.add(3, "query", query(said.value, 4))


def word(text: str) -> str:
    """Return a name as YAML, in quotes where it would be anything else than text."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else _double_quoted(text)


def query(text: str, depth: int) -> str:
    """Return a query as the value of an entry: on one line as it stands, several lines as a block.

    YAML takes characters as they are that would turn the text around on a screen; they are written as escapes.
    """
    if not text.replace("\n", "").replace("\t", "").isprintable():
        return _double_quoted(text)
    for form in _forms(text, depth):
        if _reads(form, text):
            return form
    return _double_quoted(text)


def _forms(text: str, depth: int) -> Iterable[str]:
    if "\n" in text:
        lines = [f"{'  ' * depth}{line}" if line else "" for line in text.removesuffix("\n").split("\n")]
        yield "\n".join(["|" if text.endswith("\n") else "|-", *lines])
    else:
        yield yaml.safe_dump(text, allow_unicode=True, width=10**9).splitlines()[0]


def _reads(form: str, text: str) -> bool:
    """Tell whether the form is read as the text, here and by the API server."""
    try:
        (root,) = documents(f"      query: {form}\n")
    except (YamlError, ValueError):
        return False
    value = root.entries[0][1] if len(root.entries) == 1 else root
    return value.kind == "text" and value.text == text


def _double_quoted(text: str) -> str:
    return str(yaml.safe_dump(text, default_style='"', width=10**9)).rstrip("\n")


def _node(out: Page, depth: int, name: str, node: Node, comment: str = "") -> None:
    """Add what was given, as it was given; it has been read as `behavior` before."""
    if node.kind == "mapping" and node.entries:
        out.add(depth, name, "", comment)
        for key, value in node.entries:
            _node(out, depth + 1, key.text, value)
    elif node.kind == "mapping":
        out.add(depth, name, "{}", comment)
    elif node.kind == "list":
        items = (", ".join(f"{k.text}: {_scalar(k.text, v)}" for k, v in item.entries) for item in node.items)
        out.add(depth, name, "".join(f"\n{'  ' * (depth + 1)}- {{{item}}}" for item in items), comment)
    else:
        out.add(depth, name, _scalar(name, node), comment)


def _scalar(name: str, node: Node) -> str:
    return node.text if node.kind == "whole number" and name != "tolerance" else word(node.text)
