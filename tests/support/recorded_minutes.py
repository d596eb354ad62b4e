"""Recorded loads of some minutes, written into a folder: one that is calm and one that jumps for two minutes of ten."""

from pathlib import Path

from rlscaler_sim.trace import Trace, read_trace


def written(folder: Path, minutes: int, jump: float) -> list[Trace]:
    """Return the two loads. jump: to how many times the load."""
    folder.mkdir()
    found = []
    for name, times in (("calm_60s", 1.0), ("jumping_60s", jump)):
        path = folder / f"{name}.csv"
        rates = [100.0 * (times if minute % 10 in (4, 5) else 1.0) for minute in range(minutes)]
        path.write_text("t_s,rate\n" + "".join(f"{60 * k},{rate}\n" for k, rate in enumerate(rates)))
        found.append(read_trace(path))
    return found
