"""Measure a server of policies beside the same decision in this process: load held, latency, and errors in overload.

``python -m rlscaler_training.bench_serving`` starts the server of `rlscaler serve` on loopback, asks it from threads of
this process, and prints a table; ``--markdown FILE`` writes it between the markers of a document. Callers are closed
loops: each asks again when it is answered. They share the machine's cores with the server, as the table says.
"""

import http.client
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from rlscaler import Autoscaler, Settings, Snapshot, served
from rlscaler.policy import View
from rlscaler_training import bench_document, serving, serving_cluster
from rlscaler_training.serving_http import Limits

SECONDS = 4.0
"""Of each row of the table."""
CASES = ((1, 1), (1, 100), (1, 1000), (4, 1), (4, 100), (16, 100))
"""Callers, and workloads of each request."""
OVERLOAD = (96, 100)
QUEUE = 32


class Measured(NamedTuple):
    """What came of asking for a while. seconds: of each request that was answered; refused: answered 503."""

    seconds: np.ndarray
    refused: int
    failed: int
    took: float


def asked(rows: int) -> served.Rows:
    """Return a question about so many workloads after an hour of load."""
    rng = np.random.default_rng(0)
    load = rng.lognormal(5.0, 1.0, rows)
    scaler = Autoscaler("growth-quantile", Settings(capacity_per_replica=50.0), workloads=rows)
    replicas = np.ceil(load / 50.0) + 1.0

    def seen(tick: int) -> View:
        now = load * np.exp(rng.normal(0.0, 0.05, rows))
        return scaler.view(Snapshot(time=15.0 * tick, load=now, ready=replicas, starting=0.0, desired=replicas))

    for tick in range(240):
        seen(tick)
    return served.rows_of(seen(240))


def measured(callers: int, ask: Callable[[], Callable[[], int]], seconds: float) -> Measured:
    """Return what came of so many callers asking for so many seconds; ask: makes a caller, which returns a status."""
    over = threading.Event()
    found: list[list[tuple[float, int]]] = [[] for _ in range(callers)]

    def caller(mine: list[tuple[float, int]]) -> None:
        one = ask()
        while not over.is_set():
            began = time.perf_counter()
            status = one()
            mine.append((time.perf_counter() - began, status))
            if status == 503:
                over.wait(0.05)  # a caller that is told to come back does

    threads = [threading.Thread(target=caller, args=(mine,)) for mine in found]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    every = [each for mine in found for each in mine]
    good = np.array([duration for duration, status in every if status == 200])
    refused = sum(status == 503 for _, status in every)
    return Measured(good, refused, len(every) - len(good) - refused, took)


def over_http(url: str, body: bytes) -> Callable[[], Callable[[], int]]:
    """Return what makes a caller that keeps its connection."""
    host = url.removeprefix("http://")

    def caller() -> Callable[[], int]:
        connection = http.client.HTTPConnection(host, timeout=60.0)

        def ask() -> int:
            try:
                connection.request("POST", f"{served.PATH}?schema=1", body, {"Content-Type": served.CONTENT_TYPE})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                return 0
            return response.status

        return ask

    return caller


def line(where: str, callers: int, rows: int, found: Measured) -> str:
    """Return a row of the table."""
    count = len(found.seconds)
    p50, p99 = (np.percentile(found.seconds, q) * 1e3 for q in (50, 99)) if count else (np.nan, np.nan)
    total = count + found.refused + found.failed
    shares = f"{100.0 * found.refused / max(total, 1):.1f} % | {found.failed}"
    rate = count / found.took
    return f"| {where} | {callers} | {rows} | {rate:,.0f} | {rate * rows:,.0f} | {p50:.2f} | {p99:.2f} | {shares} |"


def table(seconds: float) -> str:
    """Return the measurements as Markdown."""
    lines = ["| where | callers | workloads each | answers/s | decisions/s | p50 ms | p99 ms | answered 503 | errors |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    offer = serving.offered(serving.wanted("learned", None))
    policy = serving.shelved(offer).policy
    for rows in (1, 100, 1000):
        question = asked(rows)

        def here(question: served.Rows = question) -> int:
            serving.answer(policy, question)
            return 200

        lines.append(line("in this process", 1, rows, measured(1, lambda here=here: here, seconds)))  # type: ignore[misc]
    with serving_cluster.running([offer], serving_cluster.Place(port=0), Limits(queue=QUEUE)) as server:
        for callers, rows in (*CASES, OVERLOAD):
            one = over_http(server.url, served.question(asked(rows)))
            measured(1, one, 0.5)
            where = "HTTP, overload" if (callers, rows) == OVERLOAD else "HTTP"
            lines.append(line(where, callers, rows, measured(callers, one, seconds)))
            print(lines[-1], file=sys.stderr)
    cores, busy = os.cpu_count(), os.getloadavg()[0]
    facts = (
        f"`make bench-serving`: Python {platform.python_version()}, {cores} cores shared by server and callers, load "
        f"average {busy:.1f} at the end, one replica, `learned` on NumPy, a queue of {QUEUE}, {seconds:g} s a row."
    )
    return "\n".join([facts, "", *lines, ""])


@click.command()
@click.option("--seconds", default=SECONDS, show_default=True, type=click.FloatRange(0.2, 600.0), help="Of each row.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Document whose table is made anew.")
def main(seconds: float, markdown: Path | None) -> None:
    """Measure a server of policies beside the decision in this process."""
    text = table(seconds)
    click.echo(text)
    if markdown is not None:
        bench_document.rewrite(markdown, "bench-serving", text)


if __name__ == "__main__":
    main()
