"""One training on several processes (ranks), each with a share of the same global batch.

Every rank holds the whole network and takes the same steps. What is drawn at random is drawn for all rows by every
rank, from the same seeds, and each takes its own rows of it; so the environments, the minibatches and the replay are
those of a single process, and gradients that are averaged over the ranks are its gradients, but for rounding.
Autograd's are averaged by torch's DistributedDataParallel, or by DeepSpeed where ZeRO-2 splits the optimiser (`zero`).

A learner asks `task.parallel`, which is ALONE where one process trains: its methods hand back what they are given then.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rlscaler.errors import UserError

if TYPE_CHECKING:
    from rlscaler_sim.batch import Batch

DDP, ZERO2 = "ddp", "zero2"
TIMEOUT = timedelta(seconds=120)
"""How long a rank waits for the others before it ends with a message; one that was killed is noticed at once."""


PROCESSOR = torch.device("cpu")


class RankLostError(UserError):
    """Another rank does not answer any more: nobody's mistake."""

    exit_code = 1


@contextmanager
def reached() -> Iterator[None]:
    """Turn torch's errors about ranks that went away, or never answered, into RankLostError."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if not any(word in said for word in ("gloo", "NCCL", "Connection", "Timed out", "Broken pipe")):
            raise
        raise RankLostError(f"another rank was lost, or said nothing for {TIMEOUT.seconds} s") from error


@dataclass(frozen=True, slots=True)
class Parallel:
    """This process among those that train together. mode: DDP, ZERO2 or "" for a process alone. device: its own."""

    rank: int = 0
    ranks: int = 1
    mode: str = ""
    device: torch.device = PROCESSOR

    @property
    def alone(self) -> bool:
        """Whether no other process takes part."""
        return self.ranks == 1

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes and tells."""
        return self.rank == 0

    def mine(self, count: int, name: str) -> slice:
        """Return which of so many rows are this rank's. Raises UserError, with their name, where they do not share."""
        if count % self.ranks:
            raise UserError(f"{name} is {count:,}, which {self.ranks} ranks cannot share evenly; expected a multiple "
                            f"of {self.ranks}")  # fmt: skip
        each = count // self.ranks
        return slice(self.rank * each, (self.rank + 1) * each)

    def part(self, envs: int) -> tuple[int, int] | None:
        """Return what `Batch` is told of this rank's share of so many environments, None for all of them."""
        return None if self.alone else (self.mine(envs, "envs").start, envs)

    def require_even(self, batch: "Batch") -> None:
        """Raise UserError where episodes could end at different moments: ranks would not draw the same then."""
        if not self.alone and not batch.even:
            raise UserError(f"episode is {batch.episode}, for which a load is too short where it may begin; expected "
                            "one that fits, to train on several ranks: lower --episode, or raise --hours")  # fmt: skip

    def whole(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Return the parts of all ranks side by side along an axis, on each of them."""
        if self.alone:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.ranks)]
        with reached():
            torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim=dim)

    def summed(self, tensor: Tensor) -> Tensor:
        """Add up the ranks' tensors, in place, and return the sum."""
        if not self.alone:
            with reached():
                torch.distributed.all_reduce(tensor)
        return tensor

    def averaged(self, tensor: Tensor) -> Tensor:
        """Return the mean over the ranks."""
        return tensor if self.alone else self.summed(tensor.clone()) / self.ranks

    def mean(self, values: Tensor, count: int) -> Tensor:
        """Return what averages over the ranks to the mean of `count` values, of which these (m,) are this rank's."""
        return values.mean() if self.alone else values.sum() * (self.ranks / count)

    def any(self, flag: bool) -> bool:
        """Return whether any rank says so; all wait for each other here."""
        return flag if self.alone else bool(self.summed(torch.tensor(float(flag), device=self.device)))

    def told(self, data: bytes) -> bytes:
        """Return what rank 0 says, on every rank."""
        if self.alone:
            return data
        size = self.summed(torch.tensor(len(data) if self.leads else 0, device=self.device))
        buffer = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.leads and data:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        with reached():
            torch.distributed.broadcast(buffer, 0)
        return buffer.cpu().numpy().tobytes()

    def drawn(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """Return random numbers of a shape: this rank's rows of what `draw` makes for the rows of all ranks."""
        if self.alone:
            return draw(shape)
        rows = slice(self.rank * shape[0], (self.rank + 1) * shape[0])
        return draw((shape[0] * self.ranks, *shape[1:]))[rows]

    def generator(self, rng: np.random.Generator) -> "np.random.Generator | Rows":
        """Return a generator whose arrays are this rank's rows of what `rng` draws for those of all ranks."""
        return rng if self.alone else Rows(rng, self)

    def owned(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return which of rows (M,) int64 are this rank's, (M,) bool, and where they lie among its own, (m,) int64.

        Rows are numbered step after step, `width` of all ranks in each.
        """
        own = self.mine(width, "envs")
        step, column = rows // width, rows % width
        held = (column >= own.start) & (column < own.stop)
        return held, step[held] * (own.stop - own.start) + column[held] - own.start

    def model(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, clip: float, autograd: bool = True
    ) -> "Model":
        """Return what makes gradient steps of the network. clip: largest norm of a gradient.

        autograd: False where the learner averages the gradient itself, by `summed`.
        """
        if self.mode == ZERO2:
            from rlscaler_training.zero import ZeroModel

            return ZeroModel(network, optimiser, clip)
        return Model(network, optimiser, clip, shared=autograd and not self.alone)


ALONE = Parallel()


@dataclass(frozen=True, slots=True)
class Rows:
    """The part of NumPy's generator that learners use, for one rank's rows."""

    rng: np.random.Generator
    parallel: Parallel

    def integers(self, high: int, *, size: int) -> np.ndarray:
        """Return (size,) int64 from 0 to below `high`."""
        return self.rng.integers(high, size=size * self.parallel.ranks)[self._own(size)]

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return numbers from 0 to below 1."""
        return self.rng.random((shape[0] * self.parallel.ranks, *shape[1:]))[self._own(shape[0])]

    def _own(self, count: int) -> slice:
        return slice(self.parallel.rank * count, (self.parallel.rank + 1) * count)


class Through(nn.Module):
    """A network by any of its functions: what wraps modules listens to `forward` alone."""

    def __init__(self, network: nn.Module) -> None:
        """Hold the network."""
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[..., Any], *given: Any) -> Any:
        """Return compute(network, ...)."""
        return compute(self.network, *given)


class Model:
    """A network and the optimiser that learns it: called for what has a gradient, then `backward`, then `step`."""

    def __init__(self, network: nn.Module, optimiser: torch.optim.Optimizer, clip: float, shared: bool = False) -> None:
        """Take them; shared: average the gradient over the ranks, by DistributedDataParallel."""
        self.network, self.optimiser, self.clip = network, optimiser, clip
        self._through: nn.Module = Through(network)
        if shared:
            wrap: Any = nn.parallel.DistributedDataParallel
            # buffers are set alike on all ranks, so that none needs to be sent; torch 2.15 renames the option
            names = signature(wrap).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
            with reached():
                self._through = wrap(self._through, **{name: False})

    def __call__(self, compute: Callable[..., Any], *given: Any) -> Any:
        """Return compute(network, ...), followed by the gradient."""
        return self._through(compute, *given)

    def backward(self, loss: Tensor) -> None:
        """Leave the gradient of the mean of the ranks' losses with the parameters, clipped."""
        self.optimiser.zero_grad(set_to_none=True)
        with reached():
            torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)

    def step(self) -> None:
        """Let the optimiser follow the gradient."""
        self.optimiser.step()

    def state(self) -> dict[str, Any]:
        """Return the optimiser's state as a single process has it; all ranks have to ask."""
        return self.optimiser.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned, once the network has its weights."""
        self.optimiser.load_state_dict(state)
