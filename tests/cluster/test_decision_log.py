"""The decision log of an operator in a real cluster: written while it decides, whole at its end, read by learning."""

import json
from pathlib import Path
from typing import Any

import pytest

from fault_scene import Scene
from processes import wait_until
from rlscaler_training.decision_log import read

pytestmark = pytest.mark.components("kubernetes", "kwok", "prometheus")

PATIENCE = 90.0


def test_a_log_that_learning_reads(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    with Scene(tmp_path / "scene") as scene:
        scene.workload("web", 100.0, policy={"name": "hpa"})
        scene.workload("watched", 100.0, mode="Shadow", policy={"name": "hpa"})
        operator = scene.operator("one", "--decisions", str(path)).start()

        def lines() -> list[dict[str, Any]]:
            whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # the last line may be half written
            return [json.loads(line) for line in whole.splitlines()]

        def learnable(name: str) -> int:
            mine = [line for line in lines() if line["workload"] == f"shop/{name}"]
            return sum(line["outcome"] is not None and line["applied"] is True for line in mine)

        wait_until(lambda: learnable("web") >= 8, "no decisions are recorded", PATIENCE)
        scene.load("web", 300.0)
        decided = len(lines())
        wait_until(lambda: len(lines()) >= decided + 16, "it does not go on", PATIENCE)
        written = operator.metric("rlscaler_decision_log_lines_total", outcome="Written")
        assert decided <= written <= len(lines())
        assert operator.metric("rlscaler_decision_log_lines_total", outcome="Dropped") == 0.0
        operator.stop()
    found = lines()
    assert {line["workload"] for line in found} == {"shop/web", "shop/watched"}
    assert found[-1]["outcome"] is None, "what waited for its outcome is written at the end"
    log = read([path], least=5)
    assert (log.cost > 0.0).all()
    web = [line for line in found if line["workload"] == "shop/web"]
    assert [line["time"] for line in web] == sorted(line["time"] for line in web)
