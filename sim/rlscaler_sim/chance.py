"""Where the environments of a batch take their random numbers from: NumPy's generator, or one on a torch device."""

import math
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler_sim import world


class Chance(Protocol):
    """A source of random numbers, reproducible from its seed."""

    def integers(self, low: int, high: int, size: int) -> Array:
        """Return (size,) int64 from `low` to below `high`."""
        ...

    def uniform(self, low: float, high: float, size: int) -> Array:
        """Return (size,) float64 from `low` to below `high`."""
        ...

    def draws(self, params: world.Params) -> State:
        """Return the random arrays of one step of the world, as `world.draws`."""
        ...


class NumpyChance:
    """Random numbers of NumPy, handed to the world in the library that it runs on."""

    def __init__(self, seed: int) -> None:
        """Start from the seed."""
        self.rng = np.random.default_rng(seed)

    def integers(self, low: int, high: int, size: int) -> Array:
        """See `Chance`."""
        return self.rng.integers(low, high, size=size)

    def uniform(self, low: float, high: float, size: int) -> Array:
        """See `Chance`."""
        return self.rng.uniform(low, high, size=size)

    def draws(self, params: world.Params) -> State:
        """See `Chance`."""
        return world.draws(params, self.rng)


class TorchChance:
    """Random numbers made on the device of a tensor, so that nothing is copied to it."""

    def __init__(self, seed: int, like: Any) -> None:
        """Start from the seed, on the device of `like`."""
        import torch

        self._torch, self._device = torch, like.device
        self.generator = torch.Generator(device=like.device).manual_seed(seed)

    def integers(self, low: int, high: int, size: int) -> Array:
        """See `Chance`."""
        return self._torch.randint(low, high, (size,), generator=self.generator, device=self._device)

    def uniform(self, low: float, high: float, size: int) -> Array:
        """See `Chance`."""
        drawn = self._torch.rand(size, generator=self.generator, device=self._device, dtype=self._torch.float64)
        return low + (high - low) * drawn

    def draws(self, params: world.Params) -> State:
        """See `Chance`."""
        kinds = world.draw_kinds(params)
        result: State = {}
        for kind, make in (("normal", self._torch.randn), ("uniform", self._torch.rand)):
            shapes = {name: shape for name, (of, shape) in kinds.items() if of == kind}
            sizes = [math.prod(shape) for shape in shapes.values()]
            if sizes:
                drawn: Any = make(sum(sizes), generator=self.generator, device=self._device)
                parts = drawn.split(sizes)
                result |= {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return result


class Twice:
    """What another source gives for half of the environments, once more for the other half."""

    def __init__(self, of: Chance, xp: Any) -> None:
        """Take the numbers from `of`, whose library is `xp`."""
        self.of, self._xp = of, xp

    def integers(self, low: int, high: int, size: int) -> Array:
        """See `Chance`; size: even."""
        return self._xp.concat([self.of.integers(low, high, size // 2)] * 2)

    def uniform(self, low: float, high: float, size: int) -> Array:
        """See `Chance`; size: even."""
        return self._xp.concat([self.of.uniform(low, high, size // 2)] * 2)

    def draws(self, params: world.Params) -> State:
        """See `Chance`."""
        drawn = self.of.draws(replace(params, n=params.n // 2))
        return {name: self._xp.concat([array] * 2, axis=-1) for name, array in drawn.items()}


class Part:
    """What another source gives for some of many environments, that are drawn for all at once."""

    def __init__(self, of: Chance, first: int, many: int) -> None:
        """Take the numbers of `of`, which are for `many` environments, from that of number `first` on."""
        self.of, self.first, self.many = of, first, many

    def integers(self, low: int, high: int, size: int) -> Array:
        """See `Chance`; size: of all the part."""
        return self.of.integers(low, high, self.many)[self.first : self.first + size]

    def uniform(self, low: float, high: float, size: int) -> Array:
        """See `Chance`; size: of all the part."""
        return self.of.uniform(low, high, self.many)[self.first : self.first + size]

    def draws(self, params: world.Params) -> State:
        """See `Chance`."""
        drawn = self.of.draws(replace(params, n=self.many))
        return {name: array[..., self.first : self.first + params.n] for name, array in drawn.items()}
