"""`rlscaler train ... --rollouts ray`: what is asked for, who can do it, and the workers of a training.

A learner that can be rolled out for takes chunks from `opened(...)`; `rollouts` says what a chunk is, `rollouts_ray`
makes them in other processes.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from rlscaler.errors import UserError

if TYPE_CHECKING:
    from rlscaler_training.rollouts import Counts, Maker, Rollouts

HERE, RAY = "here", "ray"
LIMITS: dict[str, int] = {"ppo-fast": 4, "bdq": 1000}
"""Learners that can be rolled out for, and versions that their chunks may be behind: few where chunks of another policy
have to be corrected for, any number where they are as good."""
COUNT, MOST = 2, 1024
LATE = 5.0
"""Seconds within which a cluster that is there takes a connection."""
OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--rollouts", type=click.Choice([HERE, RAY]), default=HERE, show_default=True,
                 help="Who steps the environments: this process, or workers on Ray, which learn nothing; for "
                 f"{' and '.join(LIMITS)}."),
    click.option("--workers", type=click.IntRange(1, MOST), help="With --rollouts ray: how many workers share the "
                 f"environments.  [default: {COUNT}]"),
    click.option("--address", metavar="HOST:PORT", help="With --rollouts ray: cluster for the workers; it has rlscaler "
                 "installed.  [default: this machine]"),
    click.option("--lockstep", is_flag=True, default=None, help="With --rollouts ray: every worker waits for the "
                 "newest weights, so that nothing is stale and a run can be repeated to the bit; slower."),
    click.option("--stale", type=click.IntRange(0, 10**9), metavar="N", help="With --rollouts ray: versions of the "
                 "weights that a chunk may be behind before it is dropped.  [default: "
                 f"{', '.join(f'{limit:,} for {name}' for name, limit in LIMITS.items())}]"),
)  # fmt: skip
"""The options of every learner; those that cannot be rolled out for refuse them."""
NAMES = ("workers", "address", "lockstep", "stale")
"""Options that go with `--rollouts ray`."""


def _nothing() -> "Counts":
    from rlscaler_training.rollouts import Counts

    return Counts()


@dataclass(slots=True)
class Workers:
    """The workers of a training. count: how many. address: of a Ray cluster, None: this machine. lockstep: whether all
    wait for the newest weights. limit: versions that a chunk may be behind. counts: what came of it, so far. seconds:
    that they were there."""

    count: int
    address: str | None
    lockstep: bool
    limit: int
    counts: "Counts" = field(default_factory=_nothing)
    seconds: float = 0.0

    def share(self, envs: int) -> int:
        """Return the environments of each worker, of so many in all: rounded up."""
        return -(-envs // self.count)

    def told(self) -> dict[str, float]:
        """Return what came of it so far, for the metrics."""
        counts = self.counts
        return {
            "chunks": counts.chunks, "stale": counts.stale, "staleness": counts.staleness, "dropped": counts.dropped,
            "mismatched": counts.mismatched, "replaced": counts.replaced, "lost": counts.lost,
        }  # fmt: skip

    def spoken(self) -> str:
        """Return a line about all of it."""
        counts = self.counts
        said = f"rollouts: {self.count} worker{'s' if self.count > 1 else ''}, {counts.chunks:,} chunks, "
        said += f"{counts.stale:,} stale ({counts.staleness:.1f} versions behind), {counts.dropped:,} dropped; "
        said += f"{counts.replaced:,} worker{'s' if counts.replaced != 1 else ''} replaced"
        said += f", {counts.lost:,} lost" if counts.lost else ""
        return f"{said}; the learner waited {self.waited:.0%} of the time"

    @property
    def waited(self) -> float:
        """Share of the time that the learner waited; the workers' start is part of it."""
        return self.counts.waited / max(self.seconds, 1e-9)


def asked(learner: str, given: Mapping[str, Any], flags: list[str]) -> dict[str, Any] | None:
    """Return what a run keeps of the options, None where this process rolls out.

    flags: those of NAMES that were given. Raises UserError where the learner cannot, or they say nothing.
    """
    if given["rollouts"] == HERE:
        if flags:
            raise UserError(f"{flags[0]} is given without --rollouts ray; expected both or neither")
        return None
    if learner not in LIMITS:
        raise UserError(f"--rollouts ray: {learner} learns in one process; expected {' or '.join(LIMITS)}")
    if given["lockstep"] and given["stale"] is not None:
        raise UserError("--stale is given with --lockstep, where nothing is stale; leave one out")
    if learner == "bdq" and given["preferences"] is not None:
        raise UserError("--preferences is given with --rollouts ray, whose workers know of none; leave one out")
    limit = LIMITS[learner] if given["stale"] is None else given["stale"]
    return {"count": given["workers"] or COUNT, "address": given["address"], "lockstep": bool(given["lockstep"]),
            "limit": limit}  # fmt: skip


def require(kept: Mapping[str, Any] | None) -> None:
    """Raise ModuleNotFoundError where there is no Ray, UserError where nothing at all answers at the address."""
    if kept is not None:
        from rlscaler_training import ray_cluster

        ray_cluster.prepare(kept["address"])
        if kept["address"] is not None:
            ray_cluster.require_answer(kept["address"])


def workers(kept: Mapping[str, Any] | None, address: str | None) -> Workers | None:
    """Return the workers of what `asked` returned. address: where they are now, if that is said anew."""
    if kept is None:
        return None
    found = Workers(**kept)
    found.address = address if address is not None else found.address
    return found


@contextmanager
def opened(of: Workers, make: "Maker", stop: Callable[[], bool]) -> "Iterator[Rollouts]":
    """Have the workers on Ray; what is counted is counted in `of`.

    stop: whether to end now, asked while the learner waits, which raises StoppedError then. On this machine, torch gets
    the processors that the workers leave. Raises UserError where there is no such cluster, ModuleNotFoundError where
    there is no Ray.
    """
    import torch

    from rlscaler_training import ray_cluster, rollouts_ray
    from rlscaler_training.learner import StoppedError

    def watched() -> None:
        """Look after the cluster, too: where its head is lost, Ray soon ends this process without a word."""
        if stop():
            raise StoppedError("stopped while it waited for rollouts")
        if of.address is not None:
            try:
                ray_cluster.require_answer(of.address, LATE)
            except UserError as error:
                raise UserError(
                    f"the Ray cluster is lost ({error}); the checkpoints are kept: go on with --resume, and --address "
                    "where it is elsewhere now"
                ) from error

    threads, begun = torch.get_num_threads(), time.monotonic()
    if of.address is None:
        torch.set_num_threads(max(1, min(threads, (os.cpu_count() or 1) - of.count)))
    try:
        with (
            ray_cluster.cluster(of.count, of.address),
            rollouts_ray.Remote(make, of.count, of.limit, timeout=rollouts_ray.TIMEOUT, ahead=1,
                                lockstep=of.lockstep, glance=watched, counts=of.counts) as source,
        ):  # fmt: skip
            yield source
    finally:
        of.seconds += time.monotonic() - begun
        torch.set_num_threads(threads)
