"""Where a Prometheus is and how to be let in: the entries of `sources` in a configuration, read strictly.

Nothing here needs the client library, so that a configuration can be checked wherever rlscaler is installed.
Secrets are named by the file that holds them; a value that could be a secret written in its place is not repeated
in a message.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from rlscaler.errors import UserError
from rlscaler.quantities import shown
from rlscaler.resource_fields import LABEL_NAME
from rlscaler.resource_schema import Block, Field, Rule, TextMap
from rlscaler.resource_values import (
    BAD,
    DURATION,
    QUANTITY,
    Amount,
    Place,
    Report,
    Text,
    TooManyProblems,
    Whole,
    matches,
    text_of,
    wrong_kind,
)
from rlscaler.yaml_nodes import Node, from_object

MOST_SOURCES = 64
_TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_OWN_HEADERS = {"connection", "content-length", "content-type", "transfer-encoding", "accept-encoding", "expect", "te"}
_SECRET_HEADERS = {"authorization", "proxy-authorization", "cookie"}
_OWN_PARAMETERS = {"query", "time", "start", "end", "step", "timeout", "limit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """One Prometheus, or what answers as one (Thanos, Mimir, VictoriaMetrics).

    url: http or https, what stands before /api/v1, without a slash at its end. timeout: seconds for a whole call.
    headers: sent as they are. header_files, bearer_token_file, password_file: files that hold the value.
    ca_file: certificates that are trusted, in place of the public ones. cert_file, key_file: the client's own.
    query_parameters: sent with each query; they show up in servers' logs and are no place for secrets.
    max_bytes, max_series: larger answers are refused. accept_partial: an answer that the server itself calls
    incomplete is taken nevertheless.
    """

    name: str
    url: str
    timeout: float = 3.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    header_files: Mapping[str, str] = field(default_factory=dict)
    bearer_token_file: str | None = None
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    insecure_skip_verify: bool = False
    query_parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_bytes: int = 64 * 2**20
    max_series: int = 20_000
    accept_partial: bool = False


def source_configs(value: Mapping[str, Any], where: str) -> dict[str, SourceConfig]:
    """Return the sources of a configuration by name, from plain objects as YAML gives them.

    where: what messages call the mapping, such as "config.yaml: sources".
    Raises UserError with a line for each problem: the field, what was found, what is expected.
    """
    report = Report()
    found: Any = BAD
    try:
        found = SOURCES.read(from_object(value), Place("", None), report)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error
    except TooManyProblems:
        pass
    if found is BAD:
        lines = [f"{where}{'.' if place.path else ''}{place.path}: {text}" for place, text, _ in report.problems]
        raise UserError("\n".join(lines))
    return dict(found)


def source_config(url: str, where: str, name: str = "default") -> SourceConfig:
    """Return the source at a URL, all else by default; raises UserError where it is no URL of a Prometheus."""
    report = Report()
    found = URL.read(from_object(url), Place(where, None), report)
    if found is BAD:
        raise UserError("\n".join(f"{place.path}: {text}" for place, text, _ in report.problems))
    return SourceConfig(name=name, url=found)


@dataclass(frozen=True, slots=True)
class Url:
    """An address of a Prometheus; read without the slash at its end."""

    expected: str = "a URL such as http://prometheus.monitoring:9090"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "string", "pattern": "^https?://", "maxLength": 2048}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the URL."""
        text = text_of(node, place, report, self.expected)
        if text is BAD:
            return BAD
        if "@" in text:  # not repeated: what stands before it may be a password
            return report.add(
                place, "a user name or password (user:password@host) stands in it; write them under basic instead"
            )
        if wrong := self._wrong(text):
            return report.add(place, f"{shown(text)} {wrong}")
        return text.rstrip("/")

    def _wrong(self, text: str) -> str | None:
        """Return what is wrong with a URL as the end of a sentence."""
        unfit = f"is no URL of a Prometheus; expected {self.expected}"
        if len(text) > 2048 or not text.isascii() or not re.fullmatch(r"[!-~]+", text):
            return unfit
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            return unfit
        if parts.scheme not in ("http", "https"):
            return f"does not begin with http:// or https://; expected {self.expected}"
        if not parts.hostname or port == 0:
            return f"names no {'port' if port == 0 else 'host'}; expected {self.expected}"
        if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9a-f:.]+(%[A-Za-z0-9_.-]+)?", parts.hostname):
            return unfit
        if any(len(label) > 63 for label in parts.hostname.split(".")):
            return unfit
        if "?" in text or "#" in text:
            return "has a part after ? or #; write it under queryParameters"
        if re.search(r"/api/v1(/|$)", parts.path):
            return "leads to /api/v1; leave that out, it is added"
        return None


@dataclass(frozen=True, slots=True)
class SecretFile:
    """The path of a file that holds a secret. A value that is no such path may be the secret and is not repeated."""

    expected: str = "the absolute path of a file that holds it"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "string", "pattern": "^/", "maxLength": 4096}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the path."""
        if node.kind != "text" or not re.fullmatch(r"/[^\0\n\r]{1,4095}", node.text):
            return report.add(place, f"not a path (what stands there is not shown); expected {self.expected}")
        return node.text


@dataclass(frozen=True, slots=True)
class Headers:
    """HTTP headers: names and values, or with `files`, names and the files that hold the values."""

    files: bool = False

    @property
    def expected(self) -> str:
        """What is written."""
        return f"a mapping of HTTP header to {'the file that holds its value' if self.files else 'its value'}"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "object", "additionalProperties": {"type": "string", "maxLength": 4096}, "maxProperties": 32}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the mapping."""
        if node.kind != "mapping":
            return report.add(place, f"not a mapping (what stands there is not shown); expected {self.expected}")
        if len(node.entries) > 32:
            return report.add(place, f"{len(node.entries)} headers; expected at most 32")
        out: dict[str, Any] = {}
        for key, value in node.entries:
            inner = place.inner(shown(key.text), key.line or place.line)
            name = key.text.lower()
            if key.kind not in ("text", "whole number") or not matches(_TOKEN, key.text):
                out[name] = report.add(inner, "no name of an HTTP header; expected one such as X-Scope-OrgID")
            elif name in out:
                out[name] = report.add(inner, "written twice; keep one")
            elif name in _OWN_HEADERS:
                out[name] = report.add(inner, "is set for each request; leave it out")
            elif not self.files and name in _SECRET_HEADERS:
                out[name] = report.add(
                    inner, "a secret must not stand here; use bearerTokenFile, basic or headerFiles instead"
                )
            else:
                out[name] = (SecretFile().read if self.files else _header_value)(value, inner, report)
        if any(value is BAD for value in out.values()):
            return BAD
        return {key.text: out[key.text.lower()] for key, _ in node.entries}


def _header_value(node: Node, place: Place, report: Report) -> Any:
    if node.kind != "text" or not re.fullmatch(r"[!-~]([ -~]{0,4094}[!-~])?", node.text):
        return report.add(
            place,
            "no value of an HTTP header (what stands there is not shown); expected one line of ASCII text, in quotes "
            "where YAML would take it for a number",
        )
    return node.text


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    expected: str = "true or false"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "boolean"}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the truth."""
        if node.kind == "text" and node.text.lower() in ("true", "false"):
            return report.add(place, f'"{node.text}" is text; write {node.text.lower()} without quotes')
        if node.kind != "boolean":
            return report.add(place, wrong_kind(node, self.expected))
        return node.text.lower() in ("true", "yes", "on", "y")


@dataclass(frozen=True, slots=True)
class Secretive:
    """A block that people may mistake for a single value, a secret; such a value is not repeated."""

    block: Block

    @property
    def expected(self) -> str:
        """The block's fields."""
        return self.block.expected

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return self.block.schema()

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return what the block builds."""
        if node.kind != "mapping":
            return report.add(place, f"not a mapping (what stands there is not shown); expected {self.expected}")
        return self.block.read(node, place, report)


def _parameters_wrong(values: Mapping[str, Any]) -> str | None:
    own = sorted(_OWN_PARAMETERS & set(values["query_parameters"] or ()))
    return f"{', '.join(own)} {'is' if len(own) == 1 else 'are'} set for each query; leave it out" if own else None


def _identities(values: Mapping[str, Any]) -> str | None:
    if values["bearer_token_file"] and values["basic"]:
        return "stands beside bearerTokenFile; expected one of them"
    return None


def _authorized_twice(values: Mapping[str, Any]) -> str | None:
    files = {name.lower() for name in values["header_files"] or ()}
    if "authorization" in files and (values["bearer_token_file"] or values["basic"]):
        return "holds Authorization, which bearerTokenFile or basic sets; expected one of them"
    both = sorted(files & {name.lower() for name in values["headers"] or ()})
    return f"{', '.join(both)} stands under headers too; expected one of them" if both else None


def _tls_unused(values: Mapping[str, Any]) -> str | None:
    if values["tls"] and values["url"].startswith("http://"):
        return "has no effect on an http:// url; write https:// there, or leave tls out"
    return None


def _key_alone(values: Mapping[str, Any]) -> str | None:
    return None if values["cert_file"] or not values["key_file"] else "missing; expected the certificate of keyFile"


def _trust_unused(values: Mapping[str, Any]) -> str | None:
    if values["ca_file"] and values["insecure_skip_verify"]:
        return "true, so that caFile has no effect; expected one of them"
    return None


def _python_rule(check: Any, *needs: str, blames: str) -> Rule:
    """Return a rule that no API server has to know."""
    return Rule("", "", check, needs, blames)


def written(*, basic: dict[str, Any] | None, tls: dict[str, Any] | None, **values: Any) -> dict[str, Any]:
    """Return the arguments of `SourceConfig` that were written, but for the name."""
    flat = values | (basic or {}) | (tls or {})
    return {name: value for name, value in flat.items() if value is not None}


BASIC = Secretive(
    Block(
        (
            Field(
                "username", Text("a user name without ':'", r"^[^:\x00-\x1f\x7f]+$", 256), "The user.", required=True
            ),
            Field("passwordFile", SecretFile(), "File that holds the password.", required=True),
        ),
        dict,
    )
)

TLS = Block(
    (
        Field("caFile", SecretFile("the absolute path of a PEM file"), "Certificates that are trusted."),
        Field("certFile", SecretFile("the absolute path of a PEM file"), "The client's certificate."),
        Field("keyFile", SecretFile("the absolute path of a PEM file"), "Its key, unless it is in certFile."),
        Field("insecureSkipVerify", Flag(), "Trust any server. Whoever is in between reads and changes the answers."),
    ),
    dict,
    rules=(
        _python_rule(_key_alone, "cert_file", "key_file", blames="certFile"),
        _python_rule(_trust_unused, "ca_file", "insecure_skip_verify", blames="insecureSkipVerify"),
    ),
)

ACCESS: Final = (
    Field("bearerTokenFile", SecretFile(), "File that holds a bearer token; read again when it changes."),
    Field("basic", BASIC, "HTTP basic authentication."),
    Field("tls", TLS, "What an https:// url needs beside public certificates."),
    Field("headers", Headers(), "Headers of each request, such as X-Scope-OrgID."),
    Field("headerFiles", Headers(files=True), "Headers whose values are secrets, by the files that hold them."),
)
ACCESS_RULES: Final = (
    _python_rule(_identities, "bearer_token_file", "basic", blames="basic"),
    _python_rule(_authorized_twice, "headers", "header_files", "bearer_token_file", "basic", blames="headerFiles"),
    _python_rule(_tls_unused, "tls", "url", blames="tls"),
)
"""How a server lets somebody in: the fields of anything that has a URL, and what must hold between them."""

URL = Url()

SOURCE = Block(
    (
        Field("url", URL, "What stands before /api/v1.", required=True),
        Field("timeout", Amount(DURATION, 0.1, 120), "Time for a whole call. Left out: 3s."),
        *ACCESS,
        Field("queryParameters", TextMap(32, 1024), "Sent with each query, such as dedup of Thanos. Not for secrets."),
        Field("maxBytes", Amount(QUANTITY, 1024, 2**32), "Larger answers are refused. Left out: 64Mi."),
        Field("maxSeries", Whole(1, 1_000_000), "Answers with more series are refused. Left out: 20000."),
        Field("acceptPartial", Flag(), "Take answers that the server itself calls incomplete. Left out: false."),
    ),
    written,
    rules=(_python_rule(_parameters_wrong, "query_parameters", blames="queryParameters"), *ACCESS_RULES),
)


@dataclass(frozen=True, slots=True)
class Sources:
    """A mapping of name to source; read as a dict of `SourceConfig`."""

    expected: str = "a mapping of names to sources, each with a url"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "object", "additionalProperties": SOURCE.schema(), "maxProperties": MOST_SOURCES}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the sources by name."""
        if node.kind != "mapping":
            return report.add(place, f"not a mapping (what stands there is not shown); expected {self.expected}")
        if len(node.entries) > MOST_SOURCES:
            return report.add(place, f"{len(node.entries)} sources; expected at most {MOST_SOURCES}")
        before = len(report.problems)
        out: dict[str, SourceConfig] = {}
        for key, value in node.entries:
            inner = place.inner(shown(key.text), key.line or place.line)
            if LABEL_NAME.read(key, inner, report) is BAD:
                continue
            if key.text in out:
                report.add(inner, "written twice; keep one")
                continue
            values = Secretive(SOURCE).read(value, inner, report)
            if values is not BAD:
                values |= {"max_bytes": int(values["max_bytes"])} if "max_bytes" in values else {}
                out[key.text] = SourceConfig(name=key.text, **values)
        return BAD if len(report.problems) > before else out


SOURCES: Final = Sources()
