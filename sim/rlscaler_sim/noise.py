"""The random draws of many loads, each from a generator of its own, the same for every contender.

A load's draws depend on its name and seed alone, whatever else is in the batch, so scores are paired: contenders
differ by what they decide and by nothing else.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from rlscaler.arrays import State
from rlscaler_sim import world

BLOCK = 256
"""Steps that are drawn at once."""
_STREAM = 0x6E6F6973


class Noise:
    """Draws for loads x copies rows, step after step; the copies of a load get the same."""

    def __init__(self, params: world.Params, loads: Sequence[tuple[str, int]], copies: int) -> None:
        """Prepare the generators. loads: (name, seed) of each load, seeds 0 or more. Rows are copies x loads."""
        self._kinds = {name: (kind, len(shape) > 1) for name, (kind, shape) in world.draw_kinds(params).items()}
        self._ticks = params.ticks
        self._copies = copies
        self._rngs = [
            np.random.default_rng(np.random.SeedSequence([_STREAM, seed, crc32(name.encode())])) for name, seed in loads
        ]
        self._block: dict[str, np.ndarray] = {}
        self._at = BLOCK

    def _draw(self) -> None:
        count = len(self._rngs)
        for name, (kind, by_tick) in self._kinds.items():
            shape = (BLOCK, self._ticks) if by_tick else (BLOCK,)
            block = np.empty((*shape, count), np.float32)
            for index, rng in enumerate(self._rngs):
                make = rng.standard_normal if kind == "normal" else rng.random
                block[..., index] = make(shape, dtype=np.float32)
            self._block[name] = block
        self._at = 0

    def step(self) -> State:
        """Return the draws of the next step, each with copies x loads as its last axis."""
        if self._at == BLOCK:
            self._draw()
        found = {name: np.tile(block[self._at], self._copies) for name, block in self._block.items()}
        self._at += 1
        return found

    def whole(self, steps: int) -> State:
        """Return the draws of the next so many steps of one load, each (steps,) or (steps, ticks); copies do not count.

        Raises ValueError where there are several loads, or steps were made that do not end a block.
        """
        if len(self._rngs) != 1 or self._at != BLOCK:
            raise ValueError(f"{len(self._rngs)} loads, {BLOCK - self._at} draws left of a block; expected 1 and 0")
        blocks = []
        for _ in range(-(-steps // BLOCK)):
            self._draw()
            blocks.append(dict(self._block))
        self._at = BLOCK
        return {name: np.concatenate([block[name] for block in blocks])[:steps, ..., 0] for name in self._kinds}
