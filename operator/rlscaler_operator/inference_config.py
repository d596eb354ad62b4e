"""The entries of `servers` in the operator's configuration: where decisions may be asked for, and how to be let in.

    servers:
      gpu: {url: "http://decisions.rlscaler:8000", policy: web, fallback: default, timeout: 1s, bearerTokenFile: /...}

A resource names a server and never a URL, so that whoever may create one cannot have the operator send credentials, or
what it knows of other workloads, anywhere. Read as strictly as sources are, by the same fields.
"""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from rlscaler.policies import DEFAULT
from rlscaler.prometheus_config import ACCESS, ACCESS_RULES, Secretive, SourceConfig, Url, written
from rlscaler.quantities import shown
from rlscaler.resource_fields import LABEL_NAME, OBJECT_NAME
from rlscaler.resource_schema import Block, Field
from rlscaler.resource_values import BAD, DURATION, Amount, Place, Report
from rlscaler.yaml_nodes import Node

MOST_SERVERS = 16
TIMEOUT = 1.0
"""Seconds that an answer may take where nothing is said."""
LARGEST_ANSWER = 4 * 2**20
"""Bytes of an answer that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One inference server.

    source: its name, URL, time-out, TLS and credentials. policy: the one that it is asked for, None: the first that it
    serves. fallback: the local policy that decides where it gives no answer.
    """

    source: SourceConfig
    policy: str | None = None
    fallback: str = DEFAULT

    @property
    def name(self) -> str:
        """What resources call it."""
        return self.source.name


@dataclass(frozen=True, slots=True)
class ServerUrl(Url):
    """The address of an inference server; read without the slash at its end."""

    expected: str = "a URL such as http://decisions.rlscaler:8000"

    def _wrong(self, text: str) -> str | None:
        if "?" in text or "#" in text:
            return f"has a part after ? or #; expected {self.expected}"
        if urlsplit(text).path.rstrip("/").endswith(("/v1", "/v1/decide")):
            return "leads to /v1; leave that out, it is added"
        wrong = Url._wrong(self, text)  # super() knows no class where slots made it anew
        return None if wrong is None else wrong.replace("a Prometheus", "an inference server")


SERVER = Block(
    (
        Field("url", ServerUrl(), "What stands before /v1/decide.", required=True),
        Field("policy", OBJECT_NAME, "The policy that it is asked for. Left out: the first that it serves."),
        Field("fallback", OBJECT_NAME, f"The local policy that decides where it gives no answer. Left out: {DEFAULT}."),
        Field("timeout", Amount(DURATION, 0.02, 5.0), "Time for a whole answer. Left out: 1s."),
        *ACCESS,
    ),
    written,
    rules=ACCESS_RULES,
)


@dataclass(frozen=True, slots=True)
class Servers:
    """A mapping of name to inference server; read as a dict of `ServerConfig`."""

    expected: str = "a mapping of names to inference servers, each with a url"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "object", "additionalProperties": SERVER.schema(), "maxProperties": MOST_SERVERS}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the servers by name."""
        if node.kind != "mapping":
            return report.add(place, f"not a mapping (what stands there is not shown); expected {self.expected}")
        if len(node.entries) > MOST_SERVERS:
            return report.add(place, f"{len(node.entries)} servers; expected at most {MOST_SERVERS}")
        before = len(report.problems)
        found: dict[str, ServerConfig] = {}
        for key, value in node.entries:
            inner = place.inner(shown(key.text), key.line or place.line)
            if LABEL_NAME.read(key, inner, report) is BAD:
                continue
            if key.text in found:
                report.add(inner, "written twice; keep one")
                continue
            values = Secretive(SERVER).read(value, inner, report)
            if values is not BAD:
                own = {name: values.pop(name) for name in ("policy", "fallback") if name in values}
                source = SourceConfig(name=key.text, max_bytes=LARGEST_ANSWER, **({"timeout": TIMEOUT} | values))
                found[key.text] = ServerConfig(source=source, **own)
        return BAD if len(report.problems) > before else found


SERVERS: Final = Servers()
