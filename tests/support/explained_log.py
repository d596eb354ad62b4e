"""A workload that lives for some hours by an autoscaler's decisions, and what its log tells of the last of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlscaler import Autoscaler, Snapshot
from rlscaler.explained_decision import explanation
from rlscaler_operator.model import Key, PolicyInUse
from rlscaler_operator.recording import Batch, Lines

DECISIONS, FIRST = 400, 12


def explained(
    scaler: Autoscaler, policy: str, reading: Callable[[int, int], Mapping[str, float]], path: Path
) -> dict[str, Any]:
    """Return the explanation of the last decision, all of which come out alike when the log is replayed.

    policy: what the scaler's is called. reading: returns what is read at a step, with so many replicas. path: of the
    log that is written.
    """
    lines, texts, replicas = Lines(), list[str](), FIRST
    for step in range(DECISIONS):
        counts = {"ready": replicas, "starting": 0, "desired": replicas}
        view = scaler.view(Snapshot(**{"time": 1.7e9 + 15.0 * step} | counts | dict(reading(step, replicas))))
        made = scaler.decide_on(view)
        texts += lines.made(Batch([Key("shop", "web")], PolicyInUse(policy), view, made))
        replicas = int(made.replicas[0])
    path.write_text("".join([*texts, *lines.rest()]))
    value = explanation(path, "last")
    assert value["replay"]["exact"]
    assert value["replay"]["alike"] == value["replay"]["decisions"] > DECISIONS // 2
    return value
