"""Where torch computes: what was asked for, or the best that is there, and why."""

from dataclasses import dataclass

import torch

from rlscaler.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, slots=True)
class Device:
    """A device of torch and one line about it."""

    name: str
    why: str

    @property
    def torch(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.name)


def device(asked: str = "auto") -> Device:
    """Return the device that was asked for; `auto`: CUDA, else MPS, else the CPU.

    Raises UserError where it is asked for and not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        if cuda:
            return Device("cuda", f"device: cuda ({torch.cuda.get_device_name()}), the fastest that is here")
        if mps:
            return Device("mps", "device: mps, the fastest that is here")
        return Device("cpu", f"device: cpu ({torch.get_num_threads()} threads), as neither CUDA nor MPS is here")
    if asked not in DEVICES:
        raise UserError(f"--device {asked!r} is unknown; expected one of {', '.join(DEVICES)}")
    if asked == "cuda" and not cuda:
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu, or leave it out")
    if asked == "mps" and not mps:
        raise UserError("--device mps: torch finds no MPS device here; use --device cpu, or leave it out")
    return Device(asked, f"device: {asked}, as asked for")
