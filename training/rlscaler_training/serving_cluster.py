"""Starts Ray and Ray Serve for a server of policies, follows the policies' files, and ends both again.

A new file is checked here before any replica hears of it; one that is refused changes nothing. What replicas hold is
compared now and then with what they should, since one that Ray starts anew begins with the first policies.
"""

import contextlib
import errno
import io
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from typing import Any, NamedTuple

from rlscaler.errors import UserError
from rlscaler_training import serving
from rlscaler_training.ray_cluster import cluster
from rlscaler_training.serving import CPU, CUDA, Offer, Wanted
from rlscaler_training.serving_files import Followed
from rlscaler_training.serving_http import Limits

LOOK_EVERY, COMPARE_EVERY = 0.5, 5.0
"""Seconds between two looks at the files, and between two comparisons with the replicas."""
PATIENCE = 10.0
"""Seconds for all replicas to take in a policy."""
REQUEST = 30.0
"""Seconds after which a request is given up, however slow its sender."""
PATIENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "120",
}
"""Environment variables of Ray, unless they are set: nobody is told of it, and where processes start slowly, on a busy
machine, they are not killed for that."""
EVERYWHERE = ("0.0.0.0", "::")
"""Hosts that say that everybody may reach the server."""
SERVICER = "rlscaler_training.serving_grpc.add_to_server"
"""What tells Ray Serve's proxy of our service."""
QUIET: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
"""What Ray Serve logs."""


class Place(NamedTuple):
    """Where to serve. address: of a Ray cluster that runs already; None: on this machine alone. grpc: port for gRPC
    beside HTTP; None: HTTP alone.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    address: str | None = None
    replicas: int = 1
    device: str = "auto"
    grpc: int | None = None


class Running(NamedTuple):
    """A server that runs. device: "cpu" or "cuda"."""

    url: str
    device: str
    handle: Any


def require_serve() -> None:
    """Raise UserError where Ray Serve is not installed; else keep Ray from asking home, here and in its processes."""
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    for module in ("ray", "starlette", "uvicorn", "prometheus_client"):
        if find_spec(module) is None:
            raise UserError(f"'serve' needs {module}: pip install 'rlscaler[serve]'")


def free_port(host: str, port: int, option: str = "--port") -> int:
    """Return the port, or a free one for 0. Raises UserError where it is taken, or the host is none of this machine."""
    try:
        with socket.create_server((host, port)) as taken:
            return int(taken.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = "choose another, or 0 for any" if option == "--port" else "choose another"
            raise UserError(f"{option} {port} of {host} is taken; {other}") from error
        raise UserError(
            f"--host {host} {option} {port}: {error.strerror or error}; expected one of this machine"
        ) from error


@contextlib.contextmanager
def running(offers: Sequence[Offer], place: Place, limits: Limits) -> Iterator[Running]:
    """Serve the policies until the block ends. Raises UserError where that cannot begin."""
    require_serve()
    local = place.address is None
    if not local and place.port == 0:
        raise UserError("--port 0 is given with --address; expected the port that the cluster is to listen at")
    require_open(place)
    port = free_port(place.host, place.port) if local else place.port
    if local and place.grpc is not None:
        free_port(place.host, place.grpc, "--grpc-port")
    with cluster(place.replicas, place.address), _serving(place, port):
        import ray
        from ray import serve

        from rlscaler_training.serving_app import APP, application

        device = _device(place.device, float(ray.cluster_resources().get("GPU", 0.0)))  # type: ignore[no-untyped-call]
        gpus = 1.0 / place.replicas if device == CUDA else 0.0
        made = application(list(offers), limits, device, place.replicas, gpus)
        try:
            handle = serve.run(made, name=APP, route_prefix="/", logging_config=QUIET)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the server does not start: {_first_line(error)}") from error
        except KeyboardInterrupt:
            if not local:  # a cluster that goes on would go on starting it
                with contextlib.suppress(Exception):
                    serve.delete(APP)
            raise
        try:
            yield Running(_listening(place.host, port), device, handle)
        finally:
            # before anything else ends, so that what is under way is answered
            with contextlib.suppress(Exception) if local else contextlib.nullcontext():
                serve.delete(APP)


@contextlib.contextmanager
def _serving(place: Place, port: int) -> Iterator[None]:
    """Have Ray Serve listen; it ends with the block where it is our own."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this process; QUIET is for Ray's own
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": place.host, "port": port, "request_timeout_s": REQUEST},
            grpc_options=_grpc_options(place.grpc),
            logging_config=QUIET,
        )
    except Exception as error:  # Ray's own errors share no other base
        raise UserError(f"Ray Serve does not start: {_first_line(error)}; is the machine busy, or short of memory? "
                        f"Try again") from error  # fmt: skip
    try:
        yield
    finally:
        if place.address is None:
            unheard = io.StringIO()  # Ray tells on the way out that its controller ended, as if that were an error
            with contextlib.suppress(Exception), redirect_stdout(unheard), redirect_stderr(unheard):
                serve.shutdown()  # type: ignore[no-untyped-call]


def require_open(place: Place) -> None:
    """Raise UserError where gRPC is wanted, and not that everybody can reach it: Ray's proxy listens at every address
    of the machine, and can be told of none."""
    if place.grpc is not None and place.host not in EVERYWHERE:
        raise UserError(f"--grpc-port is given with --host {place.host}: Ray Serve listens for gRPC at every address "
                        "of the machine; say that it may, by --host 0.0.0.0, or leave --grpc-port out")  # fmt: skip
    if place.grpc is not None and find_spec("grpc") is None:
        raise UserError("--grpc-port needs grpc: pip install 'ray[serve-grpc]'")


def _grpc_options(port: int | None) -> Any:
    from ray.serve.config import gRPCOptions

    if port is None:
        return None
    return gRPCOptions(port=port, grpc_servicer_functions=[SERVICER], request_timeout_s=REQUEST)


def _listening(host: str, port: int) -> str:
    """Return the URL where Ray Serve listens: on a cluster on which it runs already, it stays where it was."""
    from ray.serve.context import _get_global_client

    found = getattr(_get_global_client(), "http_config", None)  # None in another version: it is told nowhere else
    host, port = getattr(found, "host", None) or host, getattr(found, "port", None) or port
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _device(asked: str, gpus: float) -> str:
    if asked == CUDA and not gpus:
        raise UserError("--device cuda: Ray finds no GPU here; use --device cpu, or leave it out")
    return CUDA if asked == CUDA or (asked == "auto" and gpus) else CPU


def follow(
    handle: Any, wanted: Sequence[Wanted], offers: Sequence[Offer], stop: threading.Event, tell: Callable[[str], None]
) -> None:
    """Serve what the files hold, as they change, until `stop`. tell: hears a line for each change and each refusal."""
    files = Followed(wanted, offers)
    looks = 0
    while not stop.wait(LOOK_EVERY):
        looks += 1
        for offer in files.changed(tell):
            tell(f"{offer.name}: {_push(handle, [offer]) or serving.shelved(offer).digest}")
        if looks * LOOK_EVERY >= COMPARE_EVERY:
            looks = 0
            _push(handle, files.current())


def _push(handle: Any, offers: Sequence[Offer]) -> str:
    """Have all replicas serve these; return what went wrong, "" where nothing did."""
    try:
        for offer in offers:
            refused = [each for each in handle.broadcast("offer", offer).results(timeout_s=PATIENCE) if each]
            if refused:
                return str(refused[0])
    except Exception as error:
        return f"the replicas cannot be told now, and will be within {COMPARE_EVERY:g} s: {_first_line(error)}"
    return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
