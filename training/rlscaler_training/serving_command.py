"""`rlscaler serve`: decisions over HTTP, for callers outside of the operator and for the operator itself."""

import signal
import threading
from typing import Any

import click

from rlscaler.ranges import FiniteRange


@click.command()
@click.argument("policies", nargs=-1, metavar="[POLICY]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: a free one.")
@click.option("--grpc-port", metavar="PORT", type=click.IntRange(1, 65535), help="Listen for gRPC as well; at every "
              "address of the machine, so with --host 0.0.0.0 alone.  [default: HTTP alone]")  # fmt: skip
@click.option("--address", metavar="ADDRESS", help="Serve on a Ray cluster that runs already, such as auto or "
              "ray://head:10001.  [default: on this machine]")  # fmt: skip
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes that decide.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]),
              help="Where networks run: torch on a GPU, NumPy on a CPU.")  # fmt: skip
@click.option("--tenure", type=click.Choice(["Off"]), help="Serve the networks alone of policies that earn their say: "
              "the past that they earn it on is the caller's.")  # fmt: skip
@click.option("--max-rows", default=8192, show_default=True, type=click.IntRange(1, 10**6),
              help="Workloads in one pass, and in one request.")  # fmt: skip
@click.option("--max-wait", default=0.0, show_default=True, type=FiniteRange(0.0, 1000.0),
              help="Milliseconds for which a pass waits for more requests, though it could begin.")  # fmt: skip
@click.option("--max-queue", default=64, show_default=True, type=click.IntRange(1, 10**5),
              help="Requests that may wait; more are answered 503.")  # fmt: skip
@click.option("--max-megabytes", default=16, show_default=True, type=click.IntRange(1, 1024),
              help="Largest request; a larger one is answered 413.")  # fmt: skip
def serve(
    policies: tuple[str, ...], host: str, port: int, grpc_port: int | None, address: str | None, replicas: int,
    device: str, tenure: str | None, max_rows: int, max_wait: float, max_queue: int, max_megabytes: int,
) -> None:  # fmt: skip
    """Serve decisions over HTTP on Ray Serve: observation in, proposal out.

    POLICY is 'learned' (the default), the path of an artifact, or NAME=PATH; callers that name none get the first. A
    file that changes is taken in without a failed request; one that is broken is refused, and the one before stays.
    History and guard stay with the caller. docs/serving.md has the requests. SIGTERM or Ctrl-C ends it with 0, or with
    143 or 130 where it does not serve yet.
    """
    from rlscaler_training import serving, serving_cluster
    from rlscaler_training.serving_http import MEGABYTE, Limits

    serving_cluster.require_serve()
    wanted = [serving.wanted(text, tenure) for text in policies or ("learned",)]
    serving.require_names(wanted)
    offers = [serving.offered(each) for each in wanted]
    limits = Limits(max_rows, max_wait / 1000.0, max_queue, max_megabytes * MEGABYTE)
    place = serving_cluster.Place(host, port, address, replicas, device, grpc_port)
    serving_cluster.require_open(place)
    stop = threading.Event()
    serves, told = False, 0

    def end(number: int, _: Any) -> None:
        nonlocal told
        first, told = not told, told or number
        stop.set()
        if first and not serves:  # Ray's start takes a while, and hears of nothing else
            raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with serving_cluster.running(offers, place, limits) as running:
            serves = True
            for offer in offers:
                shelved = serving.shelved(offer)
                click.echo(f"{shelved.name} {shelved.digest}")
            where = "NumPy" if running.device == serving.CPU else "torch"
            click.echo(f"serving at {running.url}, device: {running.device} ({where}); Ctrl-C ends it")
            if grpc_port is not None:
                click.echo(f"serving gRPC at port {grpc_port} of every address")
            serving_cluster.follow(running.handle, wanted, offers, stop, click.echo)
            click.echo("ending")
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        raise click.exceptions.Exit(128 + told) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
