"""An evaluation of some loads of an hour, two seeds each, written as `rlscaler evaluate --output` writes it."""

import json
from collections.abc import Sequence
from pathlib import Path

from rlscaler_sim import contenders, evaluation
from rlscaler_sim.summary_table import to_json
from rlscaler_sim.trace import Trace


def evaluated(traces: Sequence[Trace], beside: Sequence[str], path: Path) -> Path:
    """Score `default` and those beside it, and return the file that was written."""
    rules = tuple(name for name in beside if name != "default")
    scored = evaluation.evaluate(
        traces, ["default"], seeds=range(2), duration=3600.0, settings=contenders.standard_settings(), rules=rules
    )
    value = to_json(scored, command="", seeds=2, duration=3600.0, startup=60.0, scale_to=25.0, elapsed=1.0)
    path.write_text(json.dumps(value))
    return path
