"""Log lines: their two forms, that a line is one line, and that no secret is in any."""

import io
import json
import logging
import string
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlscaler.errors import UserError
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.logs import FORMS, LEVELS, Form, configure
from rlscaler_operator.redaction import STRUCK, is_telling, redacted

CONTEXT = {"workload": "shop/web", "target": "Deployment shop/web", "from": 4, "to": 7, "reason": "SuccessfulRescale"}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put the process' logging back as it was."""
    root = logging.getLogger()
    names = ["rlscaler", "kopf", "urllib3", "py.warnings", "requests", "aiohttp", "kubernetes", "asyncio",
             "charset_normalizer"]  # fmt: skip
    levels = {name: logging.getLogger(name).level for name in names}
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def written(form: Form, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(form, level, stream)
    return stream


def test_a_line_of_text() -> None:
    stream = written("text")
    logging.getLogger("rlscaler.workload").info("New size: %d", 7, extra={"context": CONTEXT})
    time, level, rest = stream.getvalue().split(maxsplit=2)
    assert len(time) == len("2025-06-15T15:06:40.123Z")
    assert time.endswith("Z")
    assert level == "INFO"
    assert rest == ('New size: 7 workload=shop/web target="Deployment shop/web" from=4 to=7 reason=SuccessfulRescale\n')


def test_a_line_of_json() -> None:
    stream = written("json")
    context = CONTEXT | {"share": float("nan"), "labels": {"token": "abc"}, "list": (1, "b"), "level": "not this"}
    logging.getLogger("rlscaler.workload").warning("grüße", extra={"context": context})
    found = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    del found["time"]
    assert found == {
        "level": "warning", "logger": "rlscaler.workload", "message": "grüße", **CONTEXT, "share": None,
        "labels": {"token": STRUCK}, "list": [1, "b"],
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_is_expected_to_fail_is_a_sentence(form: Form) -> None:
    stream = written(form)
    for error in (UserError("no such file"), ClusterError("Timeout", "slow"), ConnectionRefusedError(111, "refused")):
        try:
            raise error
        except Exception:
            logging.getLogger("rlscaler.loop").exception("it failed")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all("Traceback" not in line for line in lines)
    assert "no such file" in lines[0]
    assert "refused" in lines[2]


def raise_a_defect() -> None:
    try:
        raise KeyError("password=hunter2")
    except KeyError:
        logging.getLogger("rlscaler.loop").exception("it failed")


def test_a_defect_has_its_traceback_in_one_field_of_json() -> None:
    stream = written("json")
    raise_a_defect()
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert "raise_a_defect" in found["traceback"]
    assert found["error"].startswith("KeyError")
    assert "hunter2" not in line


def test_a_defect_has_its_traceback_below_the_line_of_text() -> None:
    stream = written("text")
    raise_a_defect()
    first, second, *rest = stream.getvalue().splitlines()
    assert "it failed error=" in first
    assert second == "Traceback (most recent call last):"
    assert "hunter2" not in "".join(rest)


@pytest.mark.parametrize("form", FORMS)
def test_nobody_can_forge_a_line(form: Form) -> None:
    stream = written(form)
    context = {"name": "a\n2025-01-01T00:00:00.000Z ERROR forged", "quote": 'b" c="d'}
    logging.getLogger("rlscaler.x").info("one\ntwo\r\nthree", extra={"context": context})
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("form", FORMS)
def test_nobody_can_steer_a_terminal_through_a_line(form: Form) -> None:
    """What is told may come from a label of a tenant's series, and is read by whoever follows the log."""
    stream, nasty = written(form), "a\x1b[2J\x07\x7f\x9b2J\u2028\u202e\ud800\U000e0001 grüße"
    try:
        raise ValueError(nasty)
    except ValueError:
        logging.getLogger("rlscaler.workload").exception(nasty, extra={"context": {nasty: nasty}})
    lines = stream.getvalue().split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert all("grüße" in line for line in (lines[0], lines[-2]))
    if form == "json":
        found = json.loads(lines[0])
        assert found["message"] == found[nasty] == nasty


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_is_of_our_own_lines_and_others_tell_of_warnings(level: str) -> None:
    stream = written("text", level)
    for name in ("rlscaler.x", "kopf.objects", "urllib3.connectionpool"):
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(number, "line")
    lines = stream.getvalue().splitlines()
    ours = [line for line in lines if "logger=" not in line]
    assert len(ours) == {"debug": 4, "info": 3, "warning": 2, "error": 1}[level]
    kopfs = [line for line in lines if "logger=kopf" in line]
    assert len(kopfs) == {"debug": 4, "info": 2, "warning": 2, "error": 1}[level]


def test_configuring_twice_writes_once() -> None:
    written("text")
    stream = written("text")
    logging.getLogger("rlscaler.x").info("line")
    assert len(stream.getvalue().splitlines()) == 1


# --- secrets

SECRET = st.text(string.ascii_letters + string.digits + "._~+/-", min_size=18, max_size=60)
FRAMES = (
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    "{{'Authorization': 'Bearer {}'}}",
    '{{"authorization": "Bearer {}", "Accept": "*/*"}}',
    '{{\\"Authorization\\": \\"Bearer {}\\"}}',
    "headers=CIMultiDict('Authorization': b'Bearer {}')",
    "Proxy-Authorization={}",
    "sent Bearer {} to the server",
    "password={}",
    "password: '{}'",
    '"client_secret": "{}"',
    "X-Api-Key: {}",
    "https://prometheus/api?access_token={}&query=up",
    "grant: refresh_token={};",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n{}",
)


@settings(max_examples=200, deadline=None)
@given(frame=st.sampled_from(FRAMES), secret=SECRET, before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_secret_is_left_in_any_form_that_it_travels_in(frame: str, secret: str, before: str, after: str) -> None:
    assume(secret not in before + after)
    text = f"{before} {frame.format(secret)} {after}"
    assert secret not in redacted(text)
    assert STRUCK in redacted(text)


@settings(max_examples=200, deadline=None)
@given(secret=st.text(min_size=1, max_size=40), user=st.text(string.ascii_lowercase, min_size=1, max_size=9))
def test_a_password_in_a_url_is_struck_out_and_the_user_stays(secret: str, user: str) -> None:
    quoted = urllib.parse.quote(secret, safe="@:!$&'()*+,;=")
    found = redacted(f"GET https://{user}:{quoted}@prometheus:9090/api/v1/query?query=up failed")
    assert found == f"GET https://{user}:{STRUCK}@prometheus:9090/api/v1/query?query=up failed"


@settings(max_examples=100, deadline=None)
@given(frame=st.sampled_from(FRAMES), secret=SECRET, form=st.sampled_from(FORMS), where=st.integers(0, 3))
def test_no_line_of_the_log_has_a_secret(frame: str, secret: str, form: Form, where: int) -> None:
    stream, text = written(form), frame.format(secret)
    log = logging.getLogger("rlscaler.x")
    match where:
        case 0:
            log.info(text)
        case 1:
            log.info("sent %s", {"headers": text})
        case 2:
            log.info("sent", extra={"context": {"headers": {"x": [text]}}})
        case _:
            try:
                raise RuntimeError(text)
            except RuntimeError:
                log.exception("failed")
    assert secret not in stream.getvalue()
    assert secret not in stream.getvalue().replace("\\n", "\n").replace('\\"', '"')


@settings(max_examples=100, deadline=None)
@given(secret=SECRET, form=st.sampled_from(FORMS))
def test_what_is_called_a_secret_is_one(secret: str, form: Form) -> None:
    stream = written(form)
    logging.getLogger("rlscaler.x").info("x", extra={"context": {"bearer_token": secret, "password": secret}})
    assert secret not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "cannot resize Deployment shop/web: it does not ask for 4 replicas any more",
        "spec.metrics.load: the query returns 12 series, which differ in pod",
        "source default: basic authentication is refused; check the password file",
        "https://prometheus:9090/api/v1/query?query=sum(rate(x[1m]))",
        "HorizontalPodAutoscaler web scales Deployment shop/web, so nothing is written to it",
        "sources.main.bearer.tokenFile: no such file /var/run/secrets/token",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("name", "telling"),
    [("password", True), ("bearer_token", True), ("Authorization", True), ("api-key", True), ("apiKey", True),
     ("workload", False), ("tokenFile", False), ("key", False), ("secretName", False)],
)  # fmt: skip
def test_names_that_tell(name: str, telling: bool) -> None:
    assert is_telling(name) is telling


def test_a_hostile_text_is_struck_out_in_no_time() -> None:
    texts: list[Any] = ["authorization: " * 20_000, "a:" * 100_000 + "//", "eyJ" + "a" * 200_000, "://" * 100_000]
    for text in texts:
        redacted(text)
