"""The server as Ray Serve builds it from a configuration: `import_path: rlscaler_training.serving_build:build`.

Where nobody runs `rlscaler serve`, as with a RayService of KubeRay, the replicas themselves follow the files of their
policies: at each of Ray Serve's health checks, so that a file that changes is served within some seconds, and each
replica has to find the files at the same place.

    applications:
      - name: rlscaler
        import_path: rlscaler_training.serving_build:build
        args: {policies: ["web=/policies/web.rlz"], replicas: 2}
"""

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlscaler.errors import UserError
from rlscaler_training import serving
from rlscaler_training.serving import CPU, CUDA, Offer, Wanted
from rlscaler_training.serving_app import Replica, deployed
from rlscaler_training.serving_files import Followed
from rlscaler_training.serving_http import MEGABYTE, Limits

log = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a configuration may say; all as the options of `rlscaler serve`.

    policies: "learned", the path of an artifact, or NAME=PATH. tenure: "Off" serves the networks alone of policies that
    earn their say. gpus: of a replica; above 0 its networks run there. max_wait: milliseconds.
    """

    policies: tuple[str, ...] = ("learned",)
    tenure: str | None = None
    replicas: int = 1
    gpus: float = 0.0
    max_rows: int = 8192
    max_wait: float = 0.0
    max_queue: int = 64
    max_megabytes: int = 16


_LEAST = {"replicas": 1, "gpus": 0, "max_rows": 1, "max_wait": 0, "max_queue": 1, "max_megabytes": 1}


class Following(Replica):
    """A replica that serves what its files hold."""

    def __init__(
        self, wanted: Sequence[Wanted], offers: list[Offer], limits: Limits, device: str, replicas: int
    ) -> None:
        """Load the policies; see `Replica`."""
        super().__init__(offers, limits, device, replicas)
        self._files = Followed(wanted, offers)

    async def check_health(self) -> None:
        """Take in what is new; nothing that a file holds makes the replica ill."""
        for offer in await asyncio.to_thread(self._files.changed, log.warning):
            refused = self.take(offer)
            log.warning("%s: %s", offer.name, refused or serving.shelved(offer).digest)


def build(args: dict[str, Any]) -> Any:
    """Return the application. Raises UserError, which Ray Serve shows as the application's state."""
    asked = arguments(args)
    wanted = [serving.wanted(text, asked.tenure) for text in asked.policies]
    serving.require_names(wanted)
    offers = [serving.offered(each) for each in wanted]
    limits = Limits(asked.max_rows, asked.max_wait / 1000.0, asked.max_queue, asked.max_megabytes * MEGABYTE)
    device = CUDA if asked.gpus else CPU
    return deployed(Following, limits, asked.replicas, asked.gpus).bind(wanted, offers, limits, device, asked.replicas)


def arguments(told: dict[str, Any]) -> Arguments:
    """Return what a configuration's `args` say. Raises UserError naming the key."""
    known = {each.name: each for each in dataclasses.fields(Arguments)}
    if unknown := sorted(told.keys() - known.keys()):
        raise UserError(f"args.{unknown[0]} is no argument; expected some of {', '.join(known)}")
    values = dict(told)
    if "policies" in values:
        policies = values["policies"]
        if not isinstance(policies, list) or not policies or not all(isinstance(each, str) for each in policies):
            raise UserError(f"args.policies is {policies!r}; expected a list such as [web=/policies/web.rlz]")
        values["policies"] = tuple(policies)
    if values.get("tenure") not in (None, "Off"):
        raise UserError(f'args.tenure is {values["tenure"]!r}; expected "Off", or leave it out')
    for name, least in _LEAST.items():
        value = values.get(name, least)
        whole = isinstance(known[name].default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
            raise UserError(f"args.{name} is {value!r}; expected a {'whole ' * whole}number of {least} or more")
    return Arguments(**values)
