"""Runs as small as they can be: one that was trained to the end, the same as of another seed, one cut off, no run."""

import json
import shutil
from pathlib import Path

import pytest

from command_line import install, run

TINY = ("--scenario", "spike", "--hours", "1", "--steps", "12", "--envs", "4", "--episode", "30", "--lookahead", "2",
        "--evaluate-every", "4", "--checkpoint-every", "4", "-q")  # fmt: skip


def tiny_runs(factory: pytest.TempPathFactory) -> Path:
    """Train q-learning in a fresh folder and return it, with copies: of another seed, interrupted, and broken."""
    root = factory.mktemp("runs")
    installed = factory.mktemp("installed")
    install(installed)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(installed))
        done = run("train", "q-learning", *TINY, "--run", str(root / "q-0"))
        assert done.exit_code == 0, done.output
    reseeded(root / "q-0", root / "q-1", 1)
    cut_off(root / "q-1", root / "cut")
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    (root / "notes").mkdir()
    return root


def reseeded(run_folder: Path, to: Path, seed: int) -> None:
    """Copy a run as if it were of another seed."""
    shutil.copytree(run_folder, to)
    config = json.loads((to / "config.json").read_text())
    config["arguments"]["seed"] = seed
    (to / "config.json").write_text(json.dumps(config))


def cut_off(run_folder: Path, to: Path) -> None:
    """Copy a run as it was before its end."""
    shutil.copytree(run_folder, to)
    for name in ("report.json", "policy.rlz"):
        (to / name).unlink()
    max((to / "checkpoints").glob("0*.pt")).unlink()
    rows = (to / "metrics.jsonl").read_text().splitlines(keepends=True)
    (to / "metrics.jsonl").write_text("".join(rows[:-1]) + '{"step": 12, "sco')


def made_up(folder: Path, *, seed: int, scores: list[float], learner: str = "ppo", **settings: object) -> Path:
    """Write a finished run without a policy, whose score was measured at steps 0, 10, 20 ..."""
    folder.mkdir(parents=True)
    config = {"algorithm": learner, "settings": settings, "arguments": {"seed": seed, "name": learner}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"began": f"2026-01-{1 + seed:02}T10:00:00+00:00"}))
    lines = (json.dumps({"step": 10 * i, "score": score}) + "\n" for i, score in enumerate(scores))
    (folder / "metrics.jsonl").write_text("".join(lines))
    steps = 1000 * (len(scores) - 1)
    (folder / "report.json").write_text(json.dumps({"score": scores[-1], "steps": steps, "seconds": 20.0}))
    return folder
