"""Mistakes in RLScaler resources: each is named with file, line and field, and nothing ends in a traceback."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from minimal_resource import MINIMAL
from rlscaler.custom_resource import ResourceError, parse_resources, resource_from_object

EXAMPLES = Path(__file__).parents[2] / "examples"
FUZZ = settings(deadline=None, derandomize=True, max_examples=300)


def messages(text: str | bytes) -> tuple[str, ...]:
    """Return the messages that text is refused with."""
    with pytest.raises(ResourceError) as caught:
        parse_resources(text, "web.yaml")
    assert str(caught.value).splitlines() == list(caught.value.messages)
    return caught.value.messages


def refused(more: str) -> tuple[str, ...]:
    """Return what MINIMAL with more lines of its spec, from line 8 on, is refused with."""
    return messages(MINIMAL + textwrap.indent(textwrap.dedent(more), "  "))


# --- mistakes, one at a time

MISTAKES: dict[str, tuple[str, str]] = {
    "min-above-max": (
        "minReplicas: 20",
        "8: spec.minReplicas: 20 is above maxReplicas 10; expected at most 10",
    ),
    "min-negative": ("minReplicas: -1", "8: spec.minReplicas: -1 is out of bounds; expected 0 or more"),
    "min-text": ('minReplicas: "2"', '8: spec.minReplicas: "2" is text; write 2 without quotes'),
    "min-fraction": (
        "minReplicas: 2.5",
        "8: spec.minReplicas: 2.5 is not a plain whole number; expected a whole number, 0 or more",
    ),
    "min-octal": (
        "minReplicas: 010",
        "8: spec.minReplicas: 010 is not a plain whole number; expected a whole number, 0 or more",
    ),
    "min-word": (
        "minReplicas: two",
        "8: spec.minReplicas: two is not a number; expected a whole number, 0 or more",
    ),
    "min-huge": (
        f"minReplicas: {10**30}",
        f"8: spec.minReplicas: {10**30} is out of bounds; expected 0 to 2147483647",
    ),
    "min-above-int32": (
        "minReplicas: 2147483648",
        "8: spec.minReplicas: 2147483648 is out of bounds; expected 0 to 2147483647",
    ),
    "unknown": ("minReplica: 2", "8: spec.minReplica: unknown field; did you mean minReplicas?"),
    "unknown-case": ("MaxReplicas: 2", "8: spec.MaxReplicas: unknown field; did you mean maxReplicas?"),
    "unknown-far": (
        "objective: {zzz: 2}",
        "8: spec.objective.zzz: unknown field; expected one of latency, target, window",
    ),
    "twice": ("mode: Active\nmode: Active", "9: spec.mode: written twice, first on line 8; keep one"),
    "mode": ("mode: active", "8: spec.mode: active is not known; expected one of Shadow, Active, Paused"),
    "mode-off": (
        "mode: off",
        "8: spec.mode: off is a boolean to YAML; expected one of Shadow, Active, Paused",
    ),
    "interval-bare": ("interval: 15", "8: spec.interval: 15 has no unit; write 15s if seconds are meant"),
    "interval-short": (
        "interval: 500ms",
        "8: spec.interval: 500ms is out of bounds; expected at least 1s and at most 5m",
    ),
    "interval-long": (
        "interval: 6m",
        "8: spec.interval: 6m is out of bounds; expected at least 1s and at most 5m",
    ),
    "interval-base-60": (
        "interval: 1:30",
        "8: spec.interval: 1:30 is not a duration; expected one such as 15s, 1m30s, 500ms or 2h",
    ),
    "interval-list": (
        "interval: [15s]",
        "8: spec.interval: a list; expected a duration at least 1s and at most 5m",
    ),
    "latency-zero": (
        "objective:\n  latency: 0s",
        "9: spec.objective.latency: 0s is out of bounds; expected above 0s and at most 1h",
    ),
    "window-short": (
        "objective:\n  window: 5m",
        "9: spec.objective.window: 5m is out of bounds; expected at least 1h and at most 2160h",
    ),
    "target-100": (
        "objective: {target: 100}",
        "8: spec.objective.target: 100 is out of bounds; expected above 0 and below 100",
    ),
    "target-bare": (
        "objective: {target: 99.9}",
        '8: spec.objective.target: 99.9 is a bare fraction; write "99.9" in quotes',
    ),
    "target-sign": ('objective: {target: "99%"}', '8: spec.objective.target: 99% has a % sign; write "99"'),
    "objective-text": (
        "objective: fast",
        "8: spec.objective: fast is text; expected a mapping with latency, target, window",
    ),
    "capacity-zero": (
        "capacity: {perReplica: 0}",
        "8: spec.capacity.perReplica: 0 is out of bounds; expected above 0 and at most 1000000000",
    ),
    "capacity-word": (
        "capacity: {perReplica: many}",
        "8: spec.capacity.perReplica: many is not a quantity; expected one such as 50, 500m, 1k, 1Ki or 2.5",
    ),
    "startup-long": (
        "capacity: {startup: 61m}",
        "8: spec.capacity.startup: 61m is out of bounds; expected at least 0s and at most 1h",
    ),
    "concurrency": (
        "capacity: {concurrency: 0}",
        "8: spec.capacity.concurrency: 0 is out of bounds; expected 1 to 100000",
    ),
    "latency-below-service-time": (
        'capacity: {perReplica: "2", concurrency: 4}\nobjective:\n  latency: 2s',
        "10: spec.objective.latency: 2s is not above the 2 s that one request takes (concurrency 4 / perReplica 2); "
        "expected a longer latency, or the right concurrency and perReplica",
    ),
    "default-latency-below-service-time": (
        "capacity: {perReplica: 1}",
        "4: spec.objective.latency: 500ms is not above the 1 s that one request takes (concurrency 1 / perReplica 1); "
        "expected a longer latency, or the right concurrency and perReplica",
    ),
    "policy-both": (
        "policy: {name: a, server: b}",
        "8: spec.policy: both name and server are given; expected one of them",
    ),
    "policy-neither": (
        "policy: {}",
        "8: spec.policy: neither name nor server is given; expected one of them",
    ),
    "policy-name": (
        "policy: {name: My_Policy}",
        "8: spec.policy.name: My_Policy is not allowed; expected a DNS-1123 name: lower-case letters, digits, '-' and "
        "'.', at most 253",
    ),
    "policy-no": ("policy: {name: no}", '8: spec.policy.name: no is a boolean to YAML; write "no" in quotes'),
    "digest": (
        "policy: {name: a, digest: sha256:AB}",
        "8: spec.policy.digest: sha256:AB is not allowed; expected sha256: and 64 hexadecimal digits in lower case",
    ),
    "tenure-unquoted": (
        "policy: {name: default, tenure: Off}",
        '8: spec.policy.tenure: Off is a boolean to YAML; write "Off" in quotes',
    ),
    "tenure-unknown": (
        "policy: {name: default, tenure: Maybe}",
        "8: spec.policy.tenure: Maybe is not known; expected one of On, Advisory, Off",
    ),
    "tenure-of-a-server": (
        "policy: {server: gpu, tenure: Advisory}",
        "8: spec.policy.tenure: given beside server; expected name, since say is earned by a policy that decides here",
    ),
    "tenure-of-a-rule": (
        "policy: {name: hpa, tenure: Advisory}",
        "8: spec.policy.tenure: Advisory, and hpa is a rule; expected a learned policy in name, or leave tenure out",
    ),
    "window": (
        "behavior: {scaleDown: {stabilizationWindowSeconds: 3601}}",
        "8: spec.behavior.scaleDown.stabilizationWindowSeconds: 3601 is out of bounds; expected 0 to 3600",
    ),
    "no-policies": (
        "behavior: {scaleUp: {policies: []}}",
        "8: spec.behavior.scaleUp.policies: 0 entries; expected a list of 1 to 100 entries",
    ),
    "policy-period": (
        "behavior:\n  scaleUp:\n    policies:\n    - type: Pods\n      value: 1\n      periodSeconds: 1801",
        "13: spec.behavior.scaleUp.policies[0].periodSeconds: 1801 is out of bounds; expected 1 to 1800",
    ),
    "policy-value": (
        "behavior: {scaleUp: {policies: [{type: Pods, value: 0, periodSeconds: 1}]}}",
        "8: spec.behavior.scaleUp.policies[0].value: 0 is out of bounds; expected 1 or more",
    ),
    "policy-type": (
        "behavior: {scaleUp: {policies: [{type: Percentage, value: 1, periodSeconds: 1}]}}",
        "8: spec.behavior.scaleUp.policies[0].type: Percentage is not known; expected one of Pods, Percent",
    ),
    "tolerance": (
        'behavior: {scaleUp: {tolerance: "-0.1"}}',
        "8: spec.behavior.scaleUp.tolerance: -0.1 is out of bounds; expected at least 0",
    ),
    "loss-replicas": (
        "onMetricLoss:\n  action: Replicas",
        "8: spec.onMetricLoss.replicas: missing; expected a whole number, since action is Replicas",
    ),
    "loss-action": (
        "onMetricLoss: {action: static}",
        "8: spec.onMetricLoss.action: static is not known; expected one of Hold, Replicas, ReplicasIfHigher, "
        "ReplicasIfLower",
    ),
    "loss-after": (
        "onMetricLoss: {after: -1s}",
        "8: spec.onMetricLoss.after: -1s is not a duration; expected one such as 15s, 1m30s, 500ms or 2h",
    ),
    "merge-key": ("<<: {mode: Active}", "8: spec: a merge key (<<) is not read here; write the fields out"),
    "boolean-key": ("on: 1", '8: spec.on: the key is a boolean to YAML; write "on" in quotes'),
    "list-key": ("? [a]\n: 1", "8: spec: a key is a list; expected the name of a field"),
    "tag": (
        "mode: !mine Active",
        "8: spec.mode: Active carries a YAML tag; expected one of Shadow, Active, Paused",
    ),
}


@pytest.mark.parametrize(("more", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_line_and_field(more: str, message: str) -> None:
    assert refused(more) == (f"web.yaml:{message}",)


NO_CHARACTER = r"web.yaml: not YAML: a quoted escape such as \UFFFFFFFF or \uD800 is no character"
WHOLE_DOCUMENTS: dict[str, tuple[str, str]] = {
    "another-kind": (
        MINIMAL.replace("kind: RLScaler", "kind: Deployment"),
        "web.yaml:2: kind: Deployment is not read here; expected RLScaler",
    ),
    "another-version": (
        MINIMAL.replace("v1alpha1", "v1beta1"),
        "web.yaml:1: apiVersion: rlscaler.io/v1beta1 is not read here; expected rlscaler.io/v1alpha1",
    ),
    "no-version": (
        MINIMAL.partition("\n")[2],
        "web.yaml:1: apiVersion: missing; expected rlscaler.io/v1alpha1",
    ),
    "no-name": (
        MINIMAL.replace("{name: web}", "{namespace: shop}", 1),
        "web.yaml:3: metadata.name: missing; expected a DNS-1123 name: lower-case letters, digits, '-' and '.', at "
        "most 253",
    ),
    "no-load": (
        MINIMAL.replace("{load: {query: up}}", "{backlog: {query: up}}"),
        "web.yaml:7: spec.metrics.load: missing; expected a mapping with query, match, counts",
    ),
    "blank-query": (
        MINIMAL.replace("query: up", 'query: " "'),
        "web.yaml:7: spec.metrics.load.query: empty text; expected a PromQL query",
    ),
    "number-in-match": (
        MINIMAL.replace("query: up", "query: up, match: {port: 80}"),
        'web.yaml:7: spec.metrics.load.match.port: 80 is a whole number to YAML; write "80" in quotes',
    ),
    "quantile": (
        MINIMAL.replace("up}", "up}, latency: {query: a, quantile: 1}"),
        "web.yaml:7: spec.metrics.latency.quantile: 1 is out of bounds; expected above 0 and below 1",
    ),
    "no-quantile": (
        MINIMAL.replace("up}", "up}, latency: {query: a}"),
        "web.yaml:7: spec.metrics.latency.quantile: missing; expected a number above 0 and below 1",
    ),
    "counts": (
        MINIMAL.replace("query: up", "query: up, counts: Both"),
        "web.yaml:7: spec.metrics.load.counts: Both is not known; expected one of Arrivals, Completions",
    ),
    "list": ("- a\n", "web.yaml:1: a list; expected a mapping with apiVersion, kind, metadata, spec"),
    "repeated": (
        f"{MINIMAL}---\n{MINIMAL}",
        "web.yaml:9: metadata.name: default/web is written twice, first on line 1; rename or drop one",
    ),
    "syntax": (
        "a: [\n\n",
        "web.yaml:3: not YAML: while parsing a flow node expected the node content, but found '<stream end>'",
    ),
    "tab": (
        "a:\n\t- b\n",
        "web.yaml:2: not YAML: while scanning for the next token found character '\\t' that cannot start any token",
    ),
    "undefined-alias": ("a: *b\n", "web.yaml:1: not YAML: found undefined alias 'b'"),
    "control-character": (
        "a: b\nc: \x00\n",
        "web.yaml:2: not YAML: the character U+0000 is not allowed; remove it",
    ),
    "escape": ('a: "\\UFFFFFFFF"\n', NO_CHARACTER),
    "surrogate": ('a: "\\uD800"\n', NO_CHARACTER),
    "empty": ("", "web.yaml: nothing in it; expected a resource of kind RLScaler"),
    "only-comments": ("# a\n---\n# b\n", "web.yaml: nothing in it; expected a resource of kind RLScaler"),
    "deep": ("[" * 10_000, "web.yaml: nested too deeply; a resource has at most 7 levels"),
}


@pytest.mark.parametrize(("text", "message"), WHOLE_DOCUMENTS.values(), ids=WHOLE_DOCUMENTS)
def test_a_document_that_is_no_resource_is_refused(text: str, message: str) -> None:
    assert messages(text) == (message,)


# --- mistakes together


def test_all_mistakes_of_a_file_are_reported_in_order() -> None:
    second = MINIMAL.replace("name: web}", "name: worker}", 1) + "  interval: 15\n"
    found = messages(f"{MINIMAL}  modes: Active\n  minReplicas: 11\n---\n{second}---\nkind: List\n---\na: [")
    assert [message.split(" ")[0:2] for message in found] == [
        ["web.yaml:8:", "spec.modes:"],
        ["web.yaml:9:", "spec.minReplicas:"],
        ["web.yaml:18:", "spec.interval:"],
        ["web.yaml:20:", "kind:"],
        ["web.yaml:22:", "not"],
    ]


def test_after_a_hundred_mistakes_the_rest_is_not_read() -> None:
    found = messages("".join(f"field{i}: 1\n" for i in range(2_000)))
    assert len(found) == 101
    assert found[-1] == "web.yaml: more than 100 problems; correct these first"


def test_aliases_that_would_expand_without_end_are_refused_at_once() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 64))
    assert "unknown field" in messages(bomb)[0]
    holds_itself = "&a {apiVersion: rlscaler.io/v1alpha1, kind: RLScaler, metadata: *a, spec: *a}"
    assert any("spec.spec: unknown field" in message for message in messages(holds_itself))


# --- anything at all

PIECES = st.sampled_from(
    ["apiVersion", "rlscaler.io/v1alpha1", "kind", "RLScaler", "metadata", "spec", "name", "metrics", "load",
     "query", "behavior", "scaleUp", "policies", ": ", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ", ",
     "&a ", "*a", "<<", "? ", "| ", "> ", "---\n", "...\n", "!!str ", "!!python/name:os.system ", "!", '"',
     "'", "%YAML 1.1\n", "\\", "#", "\t", "1", "-1", "1.5", "1e3", "on", "null", "~", "2020-01-01", "15s",
     "\u2028", "\ufeff", "\x85", "é"]
)  # fmt: skip


def _only_refused(read: Callable[[], object]) -> None:
    """Assert that something is read, or refused in lines that a person can read."""
    try:
        read()
    except ResourceError as error:
        found = error.messages
    else:
        return
    assert found, "refused without a word"
    for message in found:
        assert message.startswith("fuzz.yaml"), message
        assert message.isprintable(), message
        assert len(message) < 1000, message


@FUZZ
@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    _only_refused(lambda: parse_resources(text, "fuzz.yaml"))


@FUZZ
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_words(data: bytes) -> None:
    _only_refused(lambda: parse_resources(data, "fuzz.yaml"))


@FUZZ
@given(st.data())
def test_a_damaged_example_is_read_or_refused_in_words(data: st.DataObject) -> None:
    text = (EXAMPLES / "worker.yaml").read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 20))
        text = text[:start] + data.draw(st.one_of(PIECES, st.just(""))) + text[end:]
    _only_refused(lambda: parse_resources(text, "fuzz.yaml"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@FUZZ
@given(JSON, st.sampled_from(["metadata", "spec", "metrics", "behavior", "policy", "interval", "minReplicas"]))
def test_any_object_is_read_or_refused_in_words(value: object, name: str) -> None:
    whole = yaml.safe_load(MINIMAL)
    (whole if name in ("metadata", "spec") else whole["spec"])[name] = value
    _only_refused(lambda: resource_from_object(whole, "fuzz.yaml"))
