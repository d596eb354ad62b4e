"""The source against a real Prometheus: what it returns, how it is let in, and what happens when it goes and comes."""

import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certificates import Authority, Pair
from load_exporter import Exporter
from processes import wait_until
from prometheus_server import PrometheusServer
from rlscaler.prometheus import MOST_POINTS, Source, SourceConfig, SourceError
from rlscaler.resource_objects import Query
from rlscaler_operator.queries import Index, picked

pytestmark = pytest.mark.components("prometheus")

BEGAN = 1_700_000_000
"""Time of the first sample that lies in the database, seconds since the epoch."""
STEP = 15
WEB = Query(query="q", match={"deployment": "web"})
LOOKBACK = 300
"""Seconds for which Prometheus lets a sample stand for the time after it."""
WORDS = 'quote" back\\slash line\nbreak ünïcode'
BCRYPT = {
    "first-password": "$2b$04$2oazBntmqRs4uHoXzbFTOeU0cczufhd560D1PzYyc2YvBK9HGw7Ni",
    "second-password": "$2b$04$qSOq4AEDFW6D45/jQb/2L.mSyZ8otsMcCPEWWP39fIBIm3B3FaZf6",
}


def samples() -> dict[str, dict[int, float]]:
    """Return time -> value of each series of `past`: one whole, one with gaps, one that comes late."""
    rng = np.random.default_rng(5)
    times = BEGAN + STEP * np.arange(1200)
    whole = dict(zip(times.tolist(), rng.normal(size=len(times)).round(6).tolist(), strict=True))
    gaps = {t: v + 1.0 for t, v in whole.items() if not 100 <= (t - BEGAN) // STEP < 180 and (t // STEP) % 7}
    late = {t: v + 2.0 for t, v in whole.items() if (t - BEGAN) // STEP >= 1000}
    return {"whole": whole, "gaps": gaps, "late": late}


PAST = samples()


def openmetrics() -> str:
    lines = [f'past{{pod="{pod}"}} {v!r} {t}' for pod, series in PAST.items() for t, v in series.items()]
    return "\n".join(["# TYPE past gauge", *lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """Return a Prometheus that has scraped what the tests ask for."""
    with Exporter() as exporter:
        exporter.set("app_rps", 12.5, deployment="web", namespace="shop")
        exporter.set("app_rps", 7.0, deployment=WORDS, namespace="shop")
        exporter.set("app_broken", math.nan, kind="nan")
        exporter.set("app_broken", math.inf, kind="inf")
        exporter.set("app_broken", -math.inf, kind="minus")
        exporter.set("app_broken", 0.0, kind="zero")
        exporter.rate("app_requests_total", 100.0, deployment="web")
        for i in range(300):
            exporter.set("app_many", float(i), number=str(i))
        directory = tmp_path_factory.mktemp("prometheus")
        with PrometheusServer(directory, {"app": exporter.address}, history=openmetrics()) as server:
            with asking(server.url) as source:
                wait_until(lambda: bool(source.instant("rate(app_requests_total[5s])")), "nothing was scraped", 30.0)
            yield server


@contextmanager
def asking(url: str, **config: Any) -> Iterator[Source]:
    source = Source(SourceConfig(name="shop", url=url, **{"timeout": 20.0, **config}))
    try:
        yield source
    finally:
        source.close()


def fault(call: Callable[[], object]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        call()
    return caught.value


def by(name: str, found: list[Any]) -> dict[str, float]:
    return {one.labels[name]: one.value for one in found}


def test_a_vector_has_labels_values_and_the_servers_time(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        began = time.time()
        found = source.instant("sum by (deployment) (app_rps)")
    assert by("deployment", found) == {"web": 12.5, WORDS: 7.0}
    assert all(began - 2.0 < one.time < time.time() + 2.0 for one in found)


def test_a_query_is_sent_as_it_is(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        for quoted in ('"', "'"):
            value = WORDS.replace("\\", "\\\\").replace("\n", "\\n").replace(quoted, f"\\{quoted}")
            (found,) = source.instant(f"app_rps{{deployment={quoted}{value}{quoted}}} + 0 # 100 % &limit=0")
            assert found.value == 7.0


def test_a_long_query_is_answered(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        (found,) = source.instant(" + ".join(["sum(app_rps{deployment='web'})"] * 1000))
    assert found.value == 12_500.0


def test_what_is_not_finite_is_nan(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        found = by("kind", source.instant("app_broken"))
        quotient = source.instant("sum(app_broken{kind='zero'}) / 0")
    assert found.pop("zero") == 0.0
    assert sorted(found) == ["inf", "minus", "nan"]
    assert all(math.isnan(value) for value in found.values())
    assert math.isnan(quotient[0].value)


def test_what_is_advised_of_a_ratio_with_0_below_makes_it_0(prometheus: PrometheusServer) -> None:
    """The message's own words, with a vector for A and one for B; `or vector(0)` would leave the NaN as it is."""
    over, below = "sum by (deployment) (app_rps)", "(0 * sum by (deployment) (app_rps))"
    with asking(prometheus.url) as source:
        _, note = picked(Index(source.instant(f"{over} * 0 / {below}")), WEB, "spec.metrics.load")
        assert note is not None
        assert note.reason == "NotANumber"
        advice = re.search(r"`(.*)`", note.message)
        assert advice is not None
        query = advice[1].replace("A", over).replace("B", below)
        assert picked(Index(source.instant(query)), WEB, "spec.metrics.load") == (0.0, None)


def test_a_scalar_is_a_series_without_labels(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        (found,) = source.instant("3 * 14")
    assert (found.labels, found.value) == ({}, 42.0)


def test_nothing_found_is_no_fault(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        assert source.instant("no_such_metric") == []
        found = source.range("no_such_metric", BEGAN, BEGAN + 60, 15)
    assert found.labels == ()
    assert found.values.shape == (0, 5)


def test_remarks_are_kept(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        found = source.instant("histogram_quantile(0.9, app_rps)")
    assert found == []
    assert any("bucket label" in note for note in found.notes)


WRONG = {
    "parse error": ("sum(rate(x[5m])", "BadQuery", "unclosed left parenthesis"),
    "unknown function": ("rat(x)", "BadQuery", 'unknown function with name "rat"'),
    "range of values": ("app_rps[5m]", "BadQuery", "returns a range of values ([5m]); put rate(), avg_over_time()"),
    "text": ("'five'", "BadQuery", "returns text; expected one that returns numbers"),
    "ambiguous match": ("app_rps * on(namespace) app_rps", "BadQuery", "duplicate series"),
    "too many series": ("app_many", "TooLarge", "finds more than 100 series; sum them up in the query"),
    "empty": ("", "BadQuery", "no expression found in input"),
}


@pytest.mark.parametrize(("query", "reason", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_query_is_told_with_the_servers_words(
    prometheus: PrometheusServer, query: str, reason: str, said: str
) -> None:
    with asking(prometheus.url, max_series=100) as source:
        error = fault(lambda: source.instant(query))
        assert error.reason == reason
        assert said in error.message
        assert len(source.instant("app_rps")) == 2


def test_a_large_answer_is_refused(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url, max_bytes=10_000) as source:
        error = fault(lambda: source.instant("app_many"))
        assert error.reason == "TooLarge"
        assert "sends more than 10000 bytes" in error.message
        assert len(source.instant("app_rps")) == 2


def test_a_wrong_range_is_told(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        assert fault(lambda: source.range("past[5m]", BEGAN, BEGAN + 60, 15)).reason == "BadQuery"


def test_the_servers_own_clock(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        assert abs(source.server_time() - time.time()) < 2.0


def expected(series: dict[int, float], times: np.ndarray) -> np.ndarray:
    """Return what Prometheus shows at `times`: the last sample of the five minutes before, itself left out."""
    at = np.array(list(series))
    values = np.array(list(series.values()))
    last = np.searchsorted(at, times, "right") - 1
    found = np.where(last >= 0, values[last], np.nan)
    return np.where(times - at[last] < LOOKBACK, found, np.nan)


GRIDS = {
    "the samples' own": (BEGAN, 1200, 15.0),
    "between samples": (BEGAN - 600, 800, 7.0),
    "parts of a second": (BEGAN + 0.25, 500, 0.125),
    "one point": (BEGAN + 30, 1, 15.0),
    "exactly one part": (BEGAN, MOST_POINTS, 1.0),
    "one point more": (BEGAN, MOST_POINTS + 1, 1.0),
    "three parts, a series only in the last": (BEGAN - 10_000, 30_000, 1.0),
}


@pytest.mark.parametrize(("start", "count", "step"), GRIDS.values(), ids=GRIDS)
def test_a_range_holds_each_series_on_the_grid(
    prometheus: PrometheusServer, start: float, count: int, step: float
) -> None:
    with asking(prometheus.url, timeout=60.0) as source:
        found = source.range("past", start, start + step * (count - 1) + 0.4 * step, step)
    times = start + step * np.arange(count)
    np.testing.assert_allclose(found.times, times, rtol=0, atol=1e-6)
    assert found.values.shape == (len(found.labels), count)
    wanted = {pod: expected(series, times) for pod, series in PAST.items()}
    wanted = {pod: values for pod, values in wanted.items() if np.isfinite(values).any()}
    assert sorted(labels["pod"] for labels in found.labels) == sorted(wanted)
    for labels, values in zip(found.labels, found.values, strict=True):
        np.testing.assert_array_equal(values, wanted[labels["pod"]])


def test_a_range_of_a_scalar_has_no_labels(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        found = source.range("time()", BEGAN, BEGAN + 30, 15)
    assert found.labels == ({},)
    np.testing.assert_array_equal(found.values, [[BEGAN, BEGAN + 15, BEGAN + 30]])


def test_threads_share_a_source(prometheus: PrometheusServer) -> None:
    wrong: list[int] = []
    with asking(prometheus.url) as source:

        def ask(first: int) -> None:
            for i in range(first, 300, 6):
                if [one.value for one in source.instant(f"app_many{{number='{i}'}}")] != [float(i)]:
                    wrong.append(i)

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_server_that_hangs_and_goes_on(prometheus: PrometheusServer) -> None:
    with asking(prometheus.url) as source:
        source.instant("app_rps")
        prometheus.hang()
        try:
            began = time.monotonic()
            assert fault(lambda: source.instant("app_rps", deadline=0.5)).reason == "Timeout"
            assert time.monotonic() - began < 5.0
        finally:
            prometheus.resume()
        assert len(source.instant("app_rps")) == 2


def test_a_query_that_takes_the_server_too_long(prometheus: PrometheusServer) -> None:
    slow = "sum(" + " + ".join(["rate(past[2w:1s])"] * 4) + ")"
    with asking(prometheus.url) as source:
        error = fault(lambda: source.instant(f"max_over_time(({slow})[1w:1s] @ {BEGAN})", deadline=0.2))
    assert error.reason in ("Timeout", "TooLarge")


def test_a_server_that_goes_and_comes(tmp_path: Path) -> None:
    server = PrometheusServer(tmp_path)
    with server, asking(server.url) as source:
        assert source.instant("vector(1)")[0].value == 1.0
        server.stop()
        assert fault(lambda: source.instant("vector(1)")).reason == "Unreachable"
        server.start()
        assert source.instant("vector(1)")[0].value == 1.0


class Guarded:
    """A Prometheus that speaks TLS and asks for a password or a client certificate, and the files for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory / "ca")
        self.other = Authority(directory / "other", "another authority")
        self.server_pair = self.authority.issue("server", "127.0.0.1", "prometheus.shop")
        self.client_pair = self.authority.issue("client")
        self.foreign_pair = self.other.issue("foreign")
        self.password = directory / "password"
        self.password.write_text("first-password\n")

    def web(self, **more: Any) -> dict[str, Any]:
        certificate, key = map(str, self.server_pair)
        return {"tls_server_config": {"cert_file": certificate, "key_file": key, **more}}

    @property
    def ca(self) -> str:
        return str(self.authority.certificate)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded(tmp_path_factory.mktemp("guarded"))


def pair(files: Pair) -> dict[str, str]:
    return {"cert_file": str(files.certificate), "key_file": str(files.key)}


@pytest.fixture(scope="module")
def by_password(guarded: Guarded) -> Iterator[PrometheusServer]:
    web = guarded.web() | {"basic_auth_users": {"reader": BCRYPT["first-password"]}}
    with PrometheusServer(guarded.directory / "by-password", web_config=web) as server:
        yield server


@pytest.fixture(scope="module")
def by_certificate(guarded: Guarded) -> Iterator[PrometheusServer]:
    web = guarded.web(client_auth_type="RequireAndVerifyClientCert", client_ca_file=guarded.ca)
    with PrometheusServer(guarded.directory / "by-certificate", web_config=web) as server:
        yield server


def test_tls_with_a_password(by_password: PrometheusServer, guarded: Guarded) -> None:
    config = {"ca_file": guarded.ca, "username": "reader", "password_file": str(guarded.password)}
    with asking(by_password.url, **config) as source:
        for _ in range(3):
            assert source.instant("vector(1)")[0].value == 1.0
        assert source.range("vector(1)", BEGAN, BEGAN + 30, 15).values.tolist() == [[1.0, 1.0, 1.0]]


REFUSED: dict[str, tuple[Callable[[Guarded], dict[str, Any]], str, str]] = {
    "no password": (lambda g: {"ca_file": g.ca}, "Unauthorized", "it asks who is there; set bearerTokenFile, basic"),
    "wrong password": (
        lambda g: {"ca_file": g.ca, "username": "reader", "password_file": g.ca.replace("ca.crt", "wrong")},
        "Unauthorized", "answers 401 Unauthorized: it does not accept basic.passwordFile",
    ),
    "authority not known": (lambda g: {}, "Unreachable", "has a certificate that is not trusted (unable to get local"),
    "another authority": (
        lambda g: {"ca_file": str(g.other.certificate)},
        "Unreachable", "set tls.caFile, or the host in url that it names",
    ),
    "no authority file": (
        lambda g: {"ca_file": "/nowhere/ca.crt"},
        "Unauthorized", "tls.caFile /nowhere/ca.crt cannot be used: No such file or directory",
    ),
    "authority is a key": (
        lambda g: {"ca_file": str(g.server_pair.key)},
        "Unauthorized", "holds no certificate in PEM form",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "reason", "said"), REFUSED.values(), ids=REFUSED)
def test_who_is_not_let_in_is_told_why(
    by_password: PrometheusServer,
    guarded: Guarded,
    config: Callable[[Guarded], dict[str, Any]],
    reason: str,
    said: str,
) -> None:
    Path(guarded.ca.replace("ca.crt", "wrong")).write_text("wrong-password")
    with asking(by_password.url, **config(guarded)) as source:
        error = fault(lambda: source.instant("vector(1)"))
    assert error.reason == reason, error.message
    assert said in error.message
    assert "wrong-password" not in error.message


def test_a_host_that_the_certificate_does_not_name(by_password: PrometheusServer, guarded: Guarded) -> None:
    with asking(by_password.url.replace("127.0.0.1", "127.0.0.2"), ca_file=guarded.ca, timeout=5.0) as source:
        assert fault(lambda: source.instant("vector(1)")).reason == "Unreachable"
    with asking(by_password.url.replace("127.0.0.1", "localhost"), ca_file=guarded.ca) as source:
        error = fault(lambda: source.instant("vector(1)"))
    assert error.reason == "Unreachable"
    assert "not trusted (Hostname mismatch" in error.message


def test_verification_can_be_switched_off(by_password: PrometheusServer, guarded: Guarded) -> None:
    config = {"insecure_skip_verify": True, "username": "reader", "password_file": str(guarded.password)}
    with asking(by_password.url.replace("127.0.0.1", "localhost"), **config) as source:
        assert source.instant("vector(1)")[0].value == 1.0


def test_the_wrong_scheme_is_told(by_password: PrometheusServer, prometheus: PrometheusServer) -> None:
    with asking(by_password.url.replace("https:", "http:")) as source:
        error = fault(lambda: source.instant("vector(1)"))
    assert (error.reason, "speaks TLS; write https:// in url" in error.message) == ("BadAnswer", True)
    with asking(prometheus.url.replace("http:", "https:")) as source:
        error = fault(lambda: source.instant("vector(1)"))
    assert (error.reason, "does not speak TLS; write http:// in url" in error.message) == ("Unreachable", True)


def test_a_rotated_password(guarded: Guarded, tmp_path: Path) -> None:
    """Prometheus reads its own file at each request, so that both sides can be rotated while they run."""
    password = tmp_path / "password"
    password.write_text("first-password")
    web = guarded.web() | {"basic_auth_users": {"reader": BCRYPT["first-password"]}}
    with PrometheusServer(tmp_path / "data", web_config=web) as server:
        config = {"ca_file": guarded.ca, "username": "reader", "password_file": str(password)}
        with asking(server.url, **config) as source:
            assert len(source.instant("vector(1)")) == 1
            server.set_web_config(guarded.web() | {"basic_auth_users": {"reader": BCRYPT["second-password"]}})
            assert fault(lambda: source.instant("vector(1)")).reason == "Unauthorized"
            password.write_text("second-password")
            assert len(source.instant("vector(1)")) == 1


def test_a_client_certificate(by_certificate: PrometheusServer, guarded: Guarded) -> None:
    with asking(by_certificate.url, ca_file=guarded.ca, **pair(guarded.client_pair)) as source:
        assert source.instant("vector(1)")[0].value == 1.0
    both = guarded.directory / "both.pem"
    both.write_text(guarded.client_pair.certificate.read_text() + guarded.client_pair.key.read_text())
    with asking(by_certificate.url, ca_file=guarded.ca, cert_file=str(both)) as source:
        assert source.instant("vector(1)")[0].value == 1.0


NOT_LET_IN: dict[str, tuple[Callable[[Guarded], dict[str, Any]], str]] = {
    "none": (lambda g: {}, "demands a client certificate; set tls.certFile and tls.keyFile"),
    "of another authority": (lambda g: pair(g.foreign_pair), "refuses the client certificate"),
    "of another key": (
        lambda g: {"cert_file": str(g.client_pair.certificate), "key_file": str(g.foreign_pair.key)},
        "are no certificate with its key",
    ),
    "with an encrypted key": (
        lambda g: {
            "cert_file": str(g.client_pair.certificate),
            "key_file": str(g.authority.encrypted(g.client_pair.key, "passphrase")),
        },
        "expected both in PEM form, the key without a passphrase",
    ),
    "that is not there": (lambda g: {"cert_file": "/nowhere/tls.crt"}, "tls.certFile /nowhere/tls.crt cannot be used"),
}


@pytest.mark.parametrize(("config", "said"), NOT_LET_IN.values(), ids=NOT_LET_IN)
def test_without_a_good_client_certificate(
    by_certificate: PrometheusServer, guarded: Guarded, config: Callable[[Guarded], dict[str, Any]], said: str
) -> None:
    with asking(by_certificate.url, ca_file=guarded.ca, **config(guarded)) as source:
        error = fault(lambda: source.instant("vector(1)"))
    assert error.reason == "Unauthorized", error.message
    assert said in error.message


def test_a_rotated_client_certificate(by_certificate: PrometheusServer, guarded: Guarded, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    config = {"ca_file": guarded.ca, "cert_file": str(certificate), "key_file": str(key)}
    with asking(by_certificate.url, **config) as source:
        for files, good in ((guarded.foreign_pair, False), (guarded.client_pair, True)):
            shutil.copy(files.certificate, certificate)
            shutil.copy(files.key, key)
            if good:
                assert len(source.instant("vector(1)")) == 1
            else:
                assert fault(lambda: source.instant("vector(1)")).reason == "Unauthorized"
