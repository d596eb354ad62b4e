"""The server as an application of Ray Serve: its replicas, what they may queue, and how they hear of new policies."""

from typing import Any

from ray import serve

from rlscaler_training.serving import CPU, CUDA, Offer
from rlscaler_training.serving_http import Limits, Tally
from rlscaler_training.serving_server import Server

APP, DEPLOYMENT = "rlscaler", "Decisions"
SPARE = 8
"""Requests beside questions (health, metrics, a new policy) that there is room for though the queue is full."""
TOGETHER = 2.0
"""Seconds for the replicas to say what they have counted."""


class Replica(Server):
    """A server in a process of Ray Serve's, which calls its methods from elsewhere."""

    def __init__(self, offers: list[Offer], limits: Limits, device: str, replicas: int) -> None:
        """Load the policies. device: "cpu", or "cuda", which gives way to the CPU where torch finds none."""
        if device == CUDA:
            import torch

            device = CUDA if torch.cuda.is_available() else CPU
        super().__init__(offers, limits, device, _tallies if replicas > 1 else None)

    async def Decide(self, question: Any, grpc_context: Any) -> Any:  # noqa: N802 - as gRPC calls it
        """Do as `decide`: Ray Serve's proxy finds the method by its name in decisions.proto."""
        return await self.decide(question, grpc_context)

    async def offer(self, offer: Offer) -> str:
        """Do as `take`."""
        return self.take(offer)

    async def counted(self) -> Tally:
        """Do as `tally`."""
        return self.tally()


async def _tallies() -> list[Tally]:
    """Return what all replicas have counted, those left out that do not say it in time."""
    handle = serve.get_deployment_handle(DEPLOYMENT, APP)
    found = await handle.broadcast("counted").results_async(timeout_s=TOGETHER, return_exceptions=True)
    return [each for each in found if isinstance(each, Tally)]


def application(offers: list[Offer], limits: Limits, device: str, replicas: int, gpus: float) -> Any:
    """Return the application for `serve.run`. gpus: of a replica."""
    return deployed(Replica, limits, replicas, gpus).bind(offers, limits, device, replicas)


def deployed(replica: type[Replica], limits: Limits, replicas: int, gpus: float) -> Any:
    """Return a class of replicas as Ray Serve deploys it."""
    return serve.deployment(
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=limits.queue + SPARE,
        max_queued_requests=limits.queue,
        ray_actor_options={"num_cpus": 1.0, "num_gpus": gpus},
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=5.0,
        health_check_period_s=5.0,
        health_check_timeout_s=60.0,
    )(replica)
