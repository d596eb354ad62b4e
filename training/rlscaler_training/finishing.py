"""What a run comes to: its artifact's provenance, and its scores on load that nothing was chosen by.

Said once, so that training, an export from a checkpoint and `rlscaler verify` score alike.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler_sim.scenario_file import SUFFIXES
from rlscaler_training import episodes, learner, legacy, loads
from rlscaler_training.learner import Score
from rlscaler_training.legacy import Legacy
from rlscaler_training.loads import Pools
from rlscaler_training.run_record import ENVIRONMENT
from rlscaler_training.runs import Run

EPISODE = 240
"""Decisions of the last evaluation: one hour of each environment."""


def provenance(run: Run, world: Pools | Legacy) -> dict[str, Any]:
    """Return what is needed to train the same again and to judge it again, and the day on which it was begun.

    asked: what the command was told, with the names of folders and files alone: an artifact crosses machines. Raises
    UserError where the run does not tell how it was begun.
    """
    date, git = _begun(run.folder / ENVIRONMENT)
    asked = {key: value for key, value in run.arguments.items() if key != "name"}
    asked |= {"traces": _bare(asked.get("traces")), "decisions": [_bare(each) for each in asked.get("decisions", ())]}
    if told := asked.get("preferences"):
        asked["preferences"] = told | {"file": _bare(told["file"])}
    asked["scenarios"] = [_bare(each) if each.endswith(SUFFIXES) else each for each in asked.get("scenarios", ())]
    return loads.provenance(world, asked["seed"]) | {
        "command": f"rlscaler train {run.algorithm}",
        "asked": asked,
        "config": run.settings,
        "date": date,
        "git": git,
    }


def _begun(path: Path) -> tuple[str, Any]:
    """Return the day on which a run was begun, and the state of git then. Raises UserError where that is not told."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["began"])[:10], found["git"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or f"it is not whole ({error})"
        raise UserError(f"{path}: cannot be read: {why}; an artifact tells what is in it: put it back, or begin a new "
                        "run") from error  # fmt: skip


def _bare(path: str | None) -> str | None:
    return Path(path).resolve().name if path else None


def scores(world: Pools | Legacy, artifact: Artifact, seed: int) -> Mapping[str, Any]:
    """Return what a manifest says of how good the artifact is, measured as at the end of its training."""
    if isinstance(world, Legacy):
        return legacy.verdict(artifact).told()
    return told(*judged(world, artifact, seed)) | elsewhere(world, artifact)


def agreed(world: Pools | Legacy, artifact: Artifact, seed: int) -> dict[str, Any]:
    """Return what is to be added to the manifest's scores: that the artifact decides as its network along episodes.

    Those of the last evaluation. Nothing for what has no network. Raises UserError where they decide differently.
    """
    found = episodes.agreed(world, artifact, EPISODE, seed)
    if found is None:
        return {}
    if not found.agree:
        raise UserError(f"{artifact.name}: the exported network does not decide as the trained one along episodes: "
                        f"{found}")  # fmt: skip
    lived = {"decisions": found.rows, "ties": found.ties, "largest_difference": found.largest}
    return {"export": {**artifact.manifest["scores"].get("export", {}), "episodes": lived}}


def as_exported(scores: Mapping[str, Any]) -> str:
    """Return in words how an artifact compares with its network, by a manifest's scores; "" where it has none."""
    found = scores.get("export", {})
    alike = [(found, "observations", "observations"), (found.get("episodes", {}), "decisions", "decisions of episodes")]
    told = [f"in {held[count]:,} {what}, {held['ties']:,} of them tied" for held, count, what in alike if count in held]
    return f"as exported it decides as trained: {'; '.join(told)}" if told else ""


def judged(pools: Pools, artifact: Artifact, seed: int) -> tuple[Score, Score]:
    """Return the scores of the artifact and of the rule that it corrects, on draws that nothing was chosen by.

    The best of many policies was lucky on those that it was chosen by.
    """
    _, _, judge = loads.batches(pools, artifact.manifest["action_scheme"], 1, EPISODE, seed)
    return learner.scored(judge, artifact, EPISODE, seed + 2), learner.untrained(judge, EPISODE, seed + 2)


def elsewhere(world: Pools | Legacy, artifact: Artifact) -> dict[str, float]:
    """Return the scores of the artifact and of the rule in randomised worlds, nothing where these were not trained in.

    The worlds and their draws are the same for every training.
    """
    seed = loads.ELSEWHERE_SEED
    if (judge := loads.elsewhere(world, artifact.manifest["action_scheme"], EPISODE)) is None:
        return {}
    return {
        "randomised_score": learner.scored(judge, artifact, EPISODE, seed).total,
        "randomised_untrained_score": learner.untrained(judge, EPISODE, seed).total,
    }


def told(score: Score, rule: Score) -> dict[str, float]:
    """Return the two as a manifest has them."""
    return {
        "validation_score": score.total,
        "validation_cost": score.cost,
        "validation_late": score.late,
        "untrained_score": rule.total,
    }


def changed(artifact: Artifact, **parts: Any) -> Artifact:
    """Return the artifact with other parts of its manifest, under a new digest."""
    manifest = {key: value for key, value in artifact.manifest.items() if key not in ("format", "arrays", "digest")}
    return Artifact(manifest=manifest | parts, arrays=artifact.arrays)
