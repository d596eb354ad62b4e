"""What a failed request means: the reason to act on, and a sentence that says what to do."""

import json
from typing import Any

import pytest
import urllib3

from rlscaler_operator.api_errors import Failure, Right, from_answer, from_transport

RIGHT = Right("patch", "apps", "deployments/scale", "shop")
WHAT = "resize Deployment shop/web"


def answered(status: int, said: str = "", headers: dict[str, str] | None = None, **details: Any) -> Any:
    body = json.dumps({"kind": "Status", "message": said, "details": details}).encode()
    return from_answer(WHAT, RIGHT, status, headers or {}, body)


@pytest.mark.parametrize(
    ("status", "reason", "transient"),
    [
        (400, "Invalid", False),
        (401, "Unauthorized", False),
        (403, "Forbidden", False),
        (404, "NotFound", False),
        (405, "Invalid", False),
        (408, "Timeout", True),
        (409, "Conflict", False),
        (410, "Invalid", False),
        (413, "Invalid", False),
        (422, "Invalid", False),
        (429, "Throttled", True),
        (500, "Unavailable", True),
        (502, "Unavailable", True),
        (503, "Unavailable", True),
        (504, "Timeout", True),
    ],
)
def test_each_status_has_its_reason(status: int, reason: Failure, transient: bool) -> None:
    error = answered(status, "words of the server")
    assert (error.reason, error.status, error.transient) == (reason, status, transient)
    assert error.message.startswith("cannot resize Deployment shop/web: ")
    assert "words of the server" in error.message
    assert str(error) == error.message


def test_missing_rbac_says_what_to_grant() -> None:
    error = answered(403, 'deployments.apps "web" is forbidden: User "x" cannot patch resource "deployments/scale"')
    assert error.message.endswith("grant the operator's service account the verb 'patch' on 'deployments/scale' "
                                  "of API group 'apps' in namespace shop")  # fmt: skip
    assert "in the whole cluster" in str(Right("list", "rlscaler.io", "rlscalers"))


def test_other_refusals_speak_for_themselves() -> None:
    assert "grant" not in answered(403, "exceeded quota: pods").message
    assert "token or kubeconfig" in answered(401, "Unauthorized").message


def test_a_custom_resource_without_a_count_is_not_the_servers_fault() -> None:
    error = answered(500, 'Internal error occurred: the spec replicas field ".spec.size" does not exist')
    assert error.reason == "Invalid"


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [
        ({"Retry-After": "7"}, {}, 7.0),
        ({}, {"retryAfterSeconds": 3}, 3.0),
        ({"Retry-After": "1"}, {"retryAfterSeconds": 3}, 1.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, None),
        ({"Retry-After": "-5"}, {}, None),
        ({"Retry-After": "nan"}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_servers_wish_to_be_left_alone(
    headers: dict[str, str], details: dict[str, Any], seconds: float | None
) -> None:
    assert answered(429, "slow down", headers, **details).retry_after == seconds


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"[]", b"\xff\xfe", b'{"message": null}'])
def test_a_proxys_page_is_told_by_its_code(body: bytes) -> None:
    error = from_answer(WHAT, RIGHT, 502, {}, body)
    assert error.message == "cannot resize Deployment shop/web: HTTP status 502"


def test_no_answer_is_a_timeout_or_no_connection() -> None:
    pool = urllib3.HTTPConnectionPool("h")
    late = from_transport(WHAT, urllib3.exceptions.ReadTimeoutError(pool, "/", "late"), 4.0)
    assert (late.reason, late.status, late.transient) == ("Timeout", 0, True)
    assert late.message == "cannot resize Deployment shop/web: the API server did not answer within 4 s"
    wrapped = urllib3.exceptions.ProtocolError("aborted")
    wrapped.__cause__ = TimeoutError()
    assert from_transport(WHAT, wrapped, 4.0).reason == "Timeout"
    refused = from_transport(WHAT, ConnectionRefusedError(111, "Connection refused"), 4.0)
    assert refused.reason == "Unavailable"
    assert "Connection refused" in refused.message
