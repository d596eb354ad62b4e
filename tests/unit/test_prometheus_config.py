"""The `sources` of a configuration: what is read, and what a person is told who got it wrong."""

import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.errors import UserError
from rlscaler.prometheus_config import SourceConfig, source_config, source_configs

WHERE = "config.yaml: sources"
FULL = """
default:
  url: https://prometheus.monitoring:9090/base/
  timeout: 1500ms
  basic: {username: reader, passwordFile: /etc/secret/password}
  tls: {caFile: /etc/ca.crt, certFile: /etc/tls.crt, keyFile: /etc/tls.key}
  headers: {X-Scope-OrgID: shop}
  headerFiles: {X-Api-Key: /etc/secret/key}
  queryParameters: {dedup: "true"}
  maxBytes: 1Mi
  maxSeries: 100
  acceptPartial: true
other:
  url: http://[::1]:9090
  bearerTokenFile: /var/run/secrets/token
"""


def problems(value: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        source_configs(value, WHERE)
    return str(caught.value).splitlines()


def test_everything_that_is_written_is_read() -> None:
    found = source_configs(yaml.safe_load(FULL), WHERE)
    assert found == {
        "default": SourceConfig(
            name="default",
            url="https://prometheus.monitoring:9090/base",
            timeout=1.5,
            username="reader",
            password_file="/etc/secret/password",
            ca_file="/etc/ca.crt",
            cert_file="/etc/tls.crt",
            key_file="/etc/tls.key",
            headers={"X-Scope-OrgID": "shop"},
            header_files={"X-Api-Key": "/etc/secret/key"},
            query_parameters={"dedup": "true"},
            max_bytes=2**20,
            max_series=100,
            accept_partial=True,
        ),
        "other": SourceConfig(
            name="other", url="http://[::1]:9090", bearer_token_file="/var/run/secrets/token", timeout=3.0
        ),
    }


def test_what_is_left_out_has_the_defaults() -> None:
    (found,) = source_configs({"a": {"url": "http://p:9090"}}, WHERE).values()
    assert found == SourceConfig(name="a", url="http://p:9090")
    assert (found.timeout, found.max_series, found.max_bytes) == (3.0, 20_000, 64 * 2**20)
    assert not found.insecure_skip_verify
    assert not found.accept_partial


def test_no_sources_are_no_mistake() -> None:
    assert source_configs({}, WHERE) == {}


URL = {"url": "http://p:9090"}
SECURE = {"url": "https://p:9090"}

MISTAKES: dict[str, tuple[Any, str]] = {
    "no url": ({}, "default.url: missing; expected a URL such as http://prometheus.monitoring:9090"),
    "no scheme": ({"url": "prometheus:9090"}, "default.url: prometheus:9090 does not begin with http:// or https://"),
    "other scheme": ({"url": "ftp://p"}, "default.url: ftp://p does not begin with http:// or https://"),
    "no host": ({"url": "http://:9090"}, "default.url: http://:9090 names no host"),
    "port 0": ({"url": "http://p:0"}, "default.url: http://p:0 names no port"),
    "port too high": ({"url": "http://p:99999"}, "default.url: http://p:99999 is no URL of a Prometheus"),
    "space": ({"url": "http://p q"}, "default.url: 'http://p q' is no URL of a Prometheus"),
    "label too long": ({"url": f"http://{'p' * 64}"}, "is no URL of a Prometheus"),
    "API in the url": ({"url": "http://p/api/v1/query"}, "leads to /api/v1; leave that out, it is added"),
    "query in the url": ({"url": "http://p?dedup=true"}, "has a part after ? or #; write it under queryParameters"),
    "user in the url": ({"url": "http://u:hunter2@p"}, "default.url: a user name or password"),
    "unknown field": (URL | {"tiemout": "3s"}, "default.tiemout: unknown field; did you mean timeout?"),
    "unit slip": (URL | {"timeout": 3}, "default.timeout: 3 has no unit; write 3s if seconds are meant"),
    "timeout of 0": (URL | {"timeout": "0s"}, "default.timeout: 0s is out of bounds; expected at least 100ms"),
    "token in place of a file": (URL | {"bearerTokenFile": "hunter2"}, "default.bearerTokenFile: not a path (what"),
    "number in place of a file": (URL | {"bearerTokenFile": 1234567}, "default.bearerTokenFile: not a path (what"),
    "pair in place of basic": (URL | {"basic": "u:hunter2"}, "default.basic: not a mapping (what stands there is not"),
    "password in basic": (
        URL | {"basic": {"username": "u", "password": "hunter2"}},
        "default.basic.password: unknown field; did you mean passwordFile?",
    ),
    "user with a colon": (
        URL | {"basic": {"username": "u:v", "passwordFile": "/p"}},
        "default.basic.username: u:v is not allowed; expected a user name without ':'",
    ),
    "two identities": (
        URL | {"bearerTokenFile": "/t", "basic": {"username": "u", "passwordFile": "/p"}},
        "default.basic: stands beside bearerTokenFile; expected one of them",
    ),
    "authorization twice": (
        URL | {"bearerTokenFile": "/t", "headerFiles": {"authorization": "/a"}},
        "default.headerFiles: holds Authorization, which bearerTokenFile or basic sets",
    ),
    "header twice": (
        URL | {"headers": {"X-A": "hunter2"}, "headerFiles": {"x-a": "/a"}},
        "default.headerFiles: x-a stands under headers too",
    ),
    "secret in a header": (
        URL | {"headers": {"Authorization": "Bearer hunter2"}},
        "default.headers.Authorization: a secret must not stand here; use bearerTokenFile, basic or headerFiles",
    ),
    "number in a header": (URL | {"headers": {"X-A": 1234567}}, "default.headers.X-A: no value of an HTTP header"),
    "two lines in a header": (
        URL | {"headers": {"X-A": "hunter2\r\nX-B: c"}},
        "default.headers.X-A: no value of an HTTP header (what stands there is not shown)",
    ),
    "no header name": (URL | {"headers": {"X A": "hunter2"}}, "default.headers.'X A': no name of an HTTP header"),
    "own header": (URL | {"headers": {"Content-Length": "1"}}, "default.headers.Content-Length: is set for each"),
    "header in two spellings": (URL | {"headers": {"X-A": "b", "x-a": "c"}}, "default.headers.x-a: written twice"),
    "text in place of headers": (URL | {"headers": "X-A: hunter2"}, "default.headers: not a mapping (what stands"),
    "own parameter": (URL | {"queryParameters": {"query": "up"}}, "default.queryParameters: query is set for each"),
    "parameter without quotes": (
        URL | {"queryParameters": {"dedup": True}},
        'default.queryParameters.dedup: true is a boolean to YAML; write "true" in quotes',
    ),
    "key alone": (SECURE | {"tls": {"keyFile": "/k"}}, "default.tls.certFile: missing; expected the certificate of"),
    "trust in vain": (
        SECURE | {"tls": {"caFile": "/c", "insecureSkipVerify": True}},
        "default.tls.insecureSkipVerify: true, so that caFile has no effect; expected one of them",
    ),
    "flag as text": (
        SECURE | {"tls": {"insecureSkipVerify": "true"}},
        'default.tls.insecureSkipVerify: "true" is text; write true without quotes',
    ),
    "TLS without https": (URL | {"tls": {"caFile": "/c"}}, "default.tls: has no effect on an http:// url; write https"),
    "too few bytes": (URL | {"maxBytes": 100}, "default.maxBytes: 100 is out of bounds; expected at least 1024"),
    "no series": (URL | {"maxSeries": 0}, "default.maxSeries: 0 is out of bounds; expected 1 to 1000000"),
    "text in place of a source": ("http://u:hunter2@p", "default: not a mapping (what stands there is not shown)"),
}  # fmt: skip


@pytest.mark.parametrize(("written", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_field(written: Any, said: str) -> None:
    messages = problems({"default": written})
    assert said in messages[0]
    for message in messages:
        assert message.startswith(f"{WHERE}.default")
        assert "hunter2" not in message
        assert "1234567" not in message


def test_all_mistakes_are_told_at_once() -> None:
    found = problems({"Default": URL, "a": {"url": "p", "timeout": 3}, "b": SECURE | {"tls": {"keyFile": "k"}}})
    assert [line.removeprefix(f"{WHERE}.").partition(":")[0] for line in found] == [
        "Default", "a.url", "a.timeout", "b.tls.keyFile",
    ]  # fmt: skip


def test_what_json_cannot_hold_is_told() -> None:
    with pytest.raises(UserError, match="date is no part of a resource"):
        source_configs(yaml.safe_load("{a: {url: 2020-01-01}}"), WHERE)


def test_a_list_is_no_mapping_of_sources() -> None:
    assert problems([URL]) == [
        f"{WHERE}: not a mapping (what stands there is not shown); expected a mapping of names to sources, each with "
        "a url"
    ]


def test_no_header_is_shown() -> None:
    shown = repr(SourceConfig(name="a", url="http://p", headers={"X-A": "hunter2"}, query_parameters={"k": "hunter3"}))
    assert "hunter" not in shown
    assert "http://p" in shown


def test_one_url_makes_a_source() -> None:
    assert source_config("http://p:9090/", "--prometheus") == SourceConfig(name="default", url="http://p:9090")
    with pytest.raises(UserError, match=r"^--prometheus: p does not begin with http"):
        source_config("p", "--prometheus")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["url", "timeout", "bearerTokenFile", "basic", "tls", "headers", "headerFiles", "queryParameters", "maxBytes",
     "maxSeries", "acceptPartial", "username", "passwordFile", "caFile", "insecureSkipVerify"]
)  # fmt: skip


@settings(deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["default", "b", "C"]),
        st.dictionaries(FIELDS, VALUES | st.dictionaries(FIELDS, VALUES)) | VALUES,
    )
)
def test_anything_is_read_or_told(value: Any) -> None:
    found, told = {}, ""
    try:
        found = source_configs(value, WHERE)
    except UserError as error:
        told = str(error)
    assert all(line.startswith(WHERE) for line in told.splitlines())
    assert told or set(found) == set(value)
    assert all(config.url.startswith("http") and 0.1 <= config.timeout <= 120 for config in found.values())


def test_a_configuration_can_be_read_without_the_client_library() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["prometheus_api_client", "requests", "urllib3"]))
from rlscaler.prometheus_config import source_configs
assert source_configs({"a": {"url": "http://p"}}, "x")
try:
    import rlscaler.prometheus
except ModuleNotFoundError as error:
    print(error.name.partition(".")[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["prometheus_api_client"], done.stderr  # what the command line knows the extra of
