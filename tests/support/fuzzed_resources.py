"""RLScaler resources with wrong, odd and barely right values in every field, from a seed.

The schema of the CRD says which fields there are and what kind each has, so a new field is fuzzed without a word
here. About half of what comes out is valid.
"""

import copy
import json
import random
import string
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rlscaler.custom_resource import openapi_schema

Path = tuple[str | int, ...]

_QUERY = {"query": "sum by (app) (rate(http_requests_total[1m]))", "match": {"app": "web"}}
_RULES = {
    "stabilizationWindowSeconds": 60,
    "selectPolicy": "Max",
    "tolerance": "0.1",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 60},
    ],
}
_SHORTEST = {
    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
    "maxReplicas": 10,
    "metrics": {"load": {"query": "up"}},
}
_FULL = {
    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
    "mode": "Active",
    "minReplicas": 2,
    "maxReplicas": 10,
    "interval": "15s",
    "objective": {"latency": "500ms", "target": "99.9"},
    "capacity": {"perReplica": "50", "startup": "60s", "concurrency": 4},
    "metrics": {
        "source": "default",
        "load": _QUERY | {"counts": "Arrivals"},
        "backlog": _QUERY,
        "latency": _QUERY | {"quantile": "0.95"},
        "errors": _QUERY,
        "utilization": _QUERY,
    },
    "policy": {"name": "default", "digest": "sha256:" + "0" * 64},
    "behavior": {"scaleUp": _RULES, "scaleDown": _RULES},
    "onMetricLoss": {"after": "3m", "action": "Replicas", "replicas": 3},
}
_ODD_TEXT = (
    "", " ", "\t", "\n", "\0", "a\0", "\x7f", "\x85", "\u00a0", "\u2028", "\ufeff", "\ufffd", "\u0660", "\uff11", "é",
    "e\u0301", "日本", "😀", "\U0010ffff", "\u202ex", "null", "true", "NaN", "Infinity", "~", "<<", "*", "${x}", "%00",
    "../x", "x" * 63, "x" * 64, "x" * 253, "x" * 254, "x" * 1024, "x" * 1025, "é" * 1024, "😀" * 1025, "x" * 8192,
    "x" * 8193,
)  # fmt: skip
_NAMES = (
    "web", "Web", "web-1", "-web", "web-", "web.a", "web..a", "web.a-", "web_a", "1", "0.0", "a" * 63, "a" * 64,
    "a." * 126 + "a", "a." * 126 + "ab", "web\n", " web", "wéb", "default", "v1", "apps/v1", "/v1", "apps/v1/scale",
    "apps//v1", "v1beta1", "v1beta", "v01", "apps.example.com/v2alpha10", "Deployment", "deployment", "D", "D-",
    "StatefulSet\n", "sha256:" + "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64,
)  # fmt: skip
_LABELS = (
    "app", "App_1.x", "a/b", "example.com/app", "Example.com/app", "example.com/App", "/a", "a/", "a/b/c", "a b/c",
    "-a", "a-", "_a", "a_", ".a", "a.", "a" * 63 + "/a", "a/" + "a" * 63, "a/" + "a" * 64, "rlscaler.io/paused",
    "kubernetes.io/name",
)  # fmt: skip
_DURATIONS = (
    "0s", "0", "0ms", "0.0s", "1ms", "0.5ms", "999ms", "0.999s", "0.9999999s", "1s", "1.000s", "5m", "300s",
    "300.000s", "300.001s", "300001ms", "300.0000001s", "5m0s", "5m0.001s", "1h", "60m", "3600s", "3600.001s",
    "1h1ms", "3600000.1ms", "24h", "1440m", "24h1ms", "86400.0004s", "86401s", "1h1m1s1ms", "1ms1s", "1m1m", "00015s",
    "15", "15S", "15 s", " 15s", "15s ", "15s\n", "+15s", "-15s", "-0s", ".5s", "5.s", "1.5h", "0.1h", "1e1s", "1_0s",
    "10us", "10µs", "10μs", "10ns", "1d", "1w", "1y", "PT15S", "1h 1m", "１s", "١s", "9999999h", "99999999h",
    "0.000001s", "0.0000001s", "0.123456s", "0.1234567s", "1s" * 32, "1s" * 33, "79ms", "80ms", "81ms", "80.5ms",
    "80.000001ms", "0.0800009s", "2562047h47m16.854775807s", "2562048h", "0h0m0s", "s", "ms", "h",
)  # fmt: skip
_NUMBERS = (
    "0", "0.0", "-0", "+0", "-0.0", "1", "+1", "-1", "01", "1.", ".5", ".", "0.05", "-0.05", "+0.05", "0.5", "0.9",
    "0.95", "1.0", "0.99999999999999999999", "99.9", "99.99999999999999999999", "100", "100.0", "100.000001", "99",
    "50", "50.0", "1e3", "1E3", "1e+3", "1e-3", "1e", "1e03", "1e99", "1e-99", "1e100", "-1e99", "1e18", "1e19", "1k",
    "1K", "1Ki", "1ki", "1KiB", "500m", "1M", "1Mi", "1G", "1Gi", "1T", "1Ti", "1P", "1Pi", "1E", "1Ei", "9E", "10E",
    "8Ei", "1u", "1n", "0.1n", "1µ", "1e3k", "1 k", " 1", "1 ", "1\n", "0x10", "1_000", "1,000", "1/2", "50%", "٣",
    "１", "Inf", "NaN", "1000000000", "1000000001", "1000000000.0000000001", "999999999.999999999", "0.0000000001",
    "0.000000001", "9" * 30, "0." + "0" * 40 + "1", "1" * 64, "1" * 65, "-9" * 3, "--1", "12.5", "12.500001", "6.25",
    "1e9", "1.0e9", "1e10", "9223372036854775807", "9223372036854775808",
)  # fmt: skip
_WHOLE: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 9, 10, 11, 99, 100, 101, 1800, 1801, 3600, 3601, 100_000, 100_001, 2**31 - 1, 2**31, 2**32, 2**53,
    2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), 10**18, 10**19, 10**25, 10**400, 0.0, -0.0, 1.0, 3.0,
    10.0, 1.5, 0.1, 1e3, 1e15, 1e16, 1e21, 1e300, 5e-324, 2.0**31, 2.0**63,
)  # fmt: skip
_ANY: tuple[Any, ...] = (
    None, True, False, [], {}, [None], [{}], {"": None}, {"a": None}, {"a": "b"}, {"a": 1}, {"a": ["b"]}, ["a"], "x",
    1, 1.5, [[[[[]]]]], {"name": "a"}, {"server": "a"}, {"name": "a", "server": "b"}, {"query": "up"},
    {"action": "Hold"}, {"action": "Replicas"}, {"action": "Replicas", "replicas": 0}, {"type": "Pods"},
    {"key": "value", "other": 1},
)  # fmt: skip


class Fuzzed(NamedTuple):
    """A resource and how it came about, in a few words."""

    resource: dict[str, Any]
    changes: tuple[str, ...]


def fuzzed_resources(seed: int) -> Iterator[Fuzzed]:
    """Yield resources without end; the same ones for the same seed."""
    rng = random.Random(seed)
    spec = openapi_schema()["properties"]["spec"]
    fields = [(("spec", *path), schema) for path, schema in _fields(spec)]
    while True:
        # Through JSON, so that no part is shared with another part.
        body = json.loads(json.dumps(rng.choices((_FULL, _SHORTEST), (3, 1))[0]))
        metadata: dict[str, Any] = {"name": "web"}
        resource = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": metadata, "spec": body}
        changes = []
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))):
            path, schema = rng.choice(fields)
            changes.append(_change(rng, resource, path, schema))
        if rng.random() < 0.1:
            changes.append(_relate(rng, body))
        if rng.random() < 0.1:
            changes.append(_change_head(rng, resource))
        yield Fuzzed(resource, tuple(change for change in changes if change))


def _fields(schema: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield path and schema of every field; an index stands for an entry of a list."""
    for name, inner in schema.get("properties", {}).items():
        yield (name,), inner
        yield from (((name, *path), deeper) for path, deeper in _fields(inner))
    if "items" in schema:
        for index in (0, 1):
            yield (index,), schema["items"]
            yield from (((index, *path), deeper) for path, deeper in _fields(schema["items"]))


def _change(rng: random.Random, resource: dict[str, Any], path: Path, schema: dict[str, Any]) -> str:
    """Change one field in place, and return what was done; an empty text where the field has no parent here."""
    parent: Any = resource
    try:
        for step in path[:-1]:
            parent = parent[step]
    except (KeyError, IndexError, TypeError):
        return ""
    key = path[-1]
    if not _has_keys_like(parent, key):
        return ""
    where = ".".join(str(step) for step in path)
    draw = rng.random()
    if draw < 0.06:
        return _remove(parent, key, where)
    if draw < 0.12 and isinstance(key, str):
        name = _misspelt(rng, key)
        value = parent.pop(key, None) if rng.random() < 0.3 else rng.choice(_ANY)
        parent[name] = copy.deepcopy(value)
        return f"{where}: beside it {name!r}: {value!r}"
    value = copy.deepcopy(rng.choice(_ANY) if draw < 0.25 else _fitting(rng, schema, parent, key))
    if isinstance(key, str) or key < len(parent):
        parent[key] = value
    else:
        parent.append(value)
    return f"{where} = {value!r}"


def _has_keys_like(parent: Any, key: str | int) -> bool:
    return isinstance(parent, dict if isinstance(key, str) else list)


def _remove(parent: Any, key: str | int, where: str) -> str:
    try:
        del parent[key]
    except (KeyError, IndexError):
        return ""
    return f"{where} removed"


def _fitting(rng: random.Random, schema: dict[str, Any], parent: Any, key: str | int) -> Any:
    """Return a value of the field's kind: right, at a bound, or written oddly."""
    if "enum" in schema:
        word = str(rng.choice(schema["enum"]))
        return rng.choice((word, word, word, word, word.lower(), word + " ", rng.choice(_ODD_TEXT)))
    if schema.get("x-kubernetes-int-or-string"):
        return rng.choice((*_NUMBERS, *_WHOLE))
    match schema.get("type"):
        case "integer":
            near = [schema[bound] + step for bound in ("minimum", "maximum") for step in (-1, 0, 1)]
            return rng.choice(_WHOLE) if rng.random() < 0.4 else rng.choice((*near, rng.randint(1, 12)))
        case "string":
            return _text(rng, schema)
        case "array":
            return _list(rng, schema, parent.get(key) if isinstance(parent, dict) else None)
        case "object" if "additionalProperties" in schema:
            return _mapping(rng, schema["maxProperties"])
        case _:
            return rng.choice(_ANY)


def _text(rng: random.Random, schema: dict[str, Any]) -> Any:
    if rng.random() < 0.15:
        return rng.choice(_ODD_TEXT)
    if schema["pattern"].endswith("(h|m|s|ms))+$"):
        return rng.choice(_DURATIONS) if rng.random() < 0.7 else _made_up_duration(rng)
    length = schema["maxLength"] + rng.choice((-1, 0, 1))
    return rng.choice((*_NAMES, "a" * length, "é" * length, "".join(rng.choices(string.printable, k=12))))


def _made_up_duration(rng: random.Random) -> str:
    number: tuple[Callable[[], str], ...] = (
        lambda: str(rng.randint(0, 100)),
        lambda: f"{rng.uniform(0, 400):.{rng.randint(1, 7)}f}",
        lambda: str(rng.randint(0, 10**7)),
    )
    return "".join(rng.choice(number)() + rng.choice(("h", "m", "s", "ms")) for _ in range(rng.randint(1, 3)))


def _list(rng: random.Random, schema: dict[str, Any], known: Any) -> list[Any]:
    entry = known[0] if isinstance(known, list) and known else {"type": "Pods", "value": 1, "periodSeconds": 1}
    count = rng.choice((0, 1, 2, 3, schema["maxItems"], schema["maxItems"] + 1))
    return [copy.deepcopy(entry) for _ in range(count)]


def _mapping(rng: random.Random, most: int) -> dict[str, Any]:
    count = rng.choice((0, 1, 2, 3, most, most + 1))
    out: dict[str, Any] = {f"label_{number}": "value" for number in range(count)}
    if rng.random() < 0.5:
        out[rng.choice((*_ODD_TEXT, *_NAMES))] = rng.choice((*_ODD_TEXT, *_ANY))
    return out


def _misspelt(rng: random.Random, name: str) -> str:
    return rng.choice((name + "x", name.lower(), name.upper(), name.capitalize(), name + " ", "", *_ODD_TEXT[:25]))


def _relate(rng: random.Random, spec: dict[str, Any]) -> str:
    """Put two fields at the edge of the rule that holds between them."""
    if rng.random() < 0.3:
        low = rng.randint(0, 20)
        changed: dict[str, Any] = {"minReplicas": low, "maxReplicas": low + rng.choice((-1, 0, 1))}
    else:
        tenths, concurrency = rng.randint(1, 300), rng.randint(1, 20)
        milliseconds = 10_000 * concurrency // tenths + rng.choice((-1, 0, 0, 0, 1))
        rate = rng.choice((f"{tenths / 10}", f"{tenths}00m", f"{tenths}e-1"))
        changed = {
            "objective": {"latency": f"{milliseconds}ms"},
            "capacity": {"perReplica": rate, "concurrency": concurrency},
        }
    spec.update(changed)
    return f"spec: {changed}"


def _change_head(rng: random.Random, resource: dict[str, Any]) -> str:
    """Change what stands around the spec."""
    value: Any
    match rng.choice(("name", "labels", "annotations", "kind", "apiVersion", "spec", "unknown")):
        case "name":
            value = resource["metadata"]["name"] = rng.choice((*_NAMES, *_ODD_TEXT, 1, True, {}, []))
            return f"metadata.name = {value!r}"
        case "labels" | "annotations" as field:
            text = (*_NAMES, *_ODD_TEXT, *_LABELS)
            pair = {rng.choice(text): rng.choice(text)} if rng.random() < 0.5 else {"a": rng.choice(text)}
            value = rng.choice((pair, pair, pair, {"a": 1}, {"a": True}, {"a": {}}, {"a": None}, {}, [], "a", None))
            resource["metadata"][field] = value
            return f"metadata.{field} = {value!r}"
        case "kind" | "apiVersion" as field:
            value = resource[field] = rng.choice((*_NAMES, *_ODD_TEXT[:30], 1, None, True, {}, []))
            return f"{field} = {value!r}"
        case "spec":
            value = resource["spec"] = rng.choice(_ANY)
            return f"spec = {value!r}"
        case _:
            name = _misspelt(rng, rng.choice(("spec", "metadata", "kind")))
            value = resource[name] = rng.choice(_ANY)
            return f"{name!r} = {value!r}"
