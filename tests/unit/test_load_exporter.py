"""The exporter that the cluster tests are scraped from is silent when a scrape is broken off, and only then."""

import socket
import struct
import threading
import urllib.request
from http.client import RemoteDisconnected

import pytest

from load_exporter import Exporter

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_scrape_that_is_broken_off_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    with Exporter() as exporter:
        for number in range(20_000):  # more than the buffers of a connection hold
            exporter.set("load_rps", float(number), deployment=f"web-{number}")
        host, _, port = exporter.address.partition(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=30) as scrape:
                # With nothing to linger for, closing resets the connection under the answer.
                scrape.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                scrape.sendall(REQUEST * 20)
                assert scrape.recv(16).startswith(b"HTTP/1.1 200")
        with urllib.request.urlopen(f"http://{exporter.address}/metrics", timeout=30) as answer:
            assert b"load_rps" in answer.read()
        for thread in threading.enumerate():
            if "process_request_thread" in thread.name:
                thread.join(30.0)
    assert capfd.readouterr().err == ""


def test_a_defect_is_still_told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Exporter() as exporter:
        monkeypatch.setattr(exporter, "text", lambda: 1 / 0)
        with pytest.raises(RemoteDisconnected):
            urllib.request.urlopen(f"http://{exporter.address}/metrics", timeout=30)
    assert "ZeroDivisionError" in capfd.readouterr().err
