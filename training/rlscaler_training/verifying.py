"""Whether an artifact is what its manifest says: every check that can be made again, with what was found.

Digest, schema, repeatability and behaviour need NumPy alone. The scores need the simulator and, for the load that they
were measured on, the learning stack; where that cannot be had, the check says why and is left open.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rlscaler import artifact as artifacts
from rlscaler import inspecting, probing
from rlscaler.artifact import Artifact, ArtifactError
from rlscaler.cli import missing_extra, version_of
from rlscaler.container import MANIFEST, show
from rlscaler.errors import UserError
from rlscaler.policies import from_artifact
from rlscaler.policy import Policy
from rlscaler.table import KIND as TABLE
from rlscaler.tenured import Tenured
from rlscaler_training import run_record

SCORE, UNTRAINED = "validation_score", "untrained_score"
"""Of a manifest: how good it is, and how good the rule is that it corrects."""
RETURN, THRESHOLD = "return", "threshold"
"""The same in the environment of earlier work, nearer to 0 the better."""
ALIKE = "the same answers twice, read anew, in any order and row by row"
CLOSE = 1e-3
"""Relative difference of a score that other machines' arithmetic may make; on the same machine there is none."""
LONGEST_HOURS, MOST_NAMES, MOST_WORLDS = 24.0 * 14, 64, 512
"""What 'rlscaler train' may well be told; a manifest that states more is not obeyed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. passed: None where it could not be made. told: what was found, or why not."""

    name: str
    passed: bool | None
    told: str


@dataclass(slots=True)
class Verified:
    """An artifact and what its checks found. score, untrained: of its manifest, None where it states none."""

    path: Path
    name: str = ""
    kind: str = ""
    digest: str = ""
    score: float | None = None
    untrained: float | None = None
    checks: list[Check] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.passed is False]

    @property
    def open(self) -> list[Check]:
        """The checks that could not be made."""
        return [check for check in self.checks if check.passed is None]

    def told(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {**asdict(self), "path": str(self.path), "passed": not self.failed}


def models(folder: str | Path) -> list[Path]:
    """Return the artifacts of a model folder: in it, in its runs, in its folders; files and unpacked ones, by path.

    folder: may itself be a run, or an artifact. Raises UserError where it is not there, or holds none.
    """
    path = Path(folder)
    try:
        there = path.exists()
    except OSError:
        there = False
    if not there:
        raise UserError(f"{folder}: no such folder; expected one of artifacts or runs, as 'rlscaler train' makes")
    if path.is_file() or (path / MANIFEST).is_file():
        return [path]
    try:
        folders = [path, *sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))]
        found = [file for each in folders for file in sorted(each.glob(f"*{artifacts.SUFFIX}"))]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error}); check who may read it") from error
    found += [each for each in folders[1:] if (each / MANIFEST).is_file() and each not in found]
    found = [each for each in found if not each.name.startswith(".")]
    if not found:
        unfinished = [each for each in folders if (each / run_record.CONFIG).is_file()]
        count = "one run in it has" if len(unfinished) == 1 else f"{len(unfinished)} runs in it have"
        more = (f"{count} none yet: 'rlscaler runs {folder}' tells how to go on, or take one of a checkpoint by "
                "'rlscaler export RUN'") if unfinished else "train one by 'rlscaler train q-learning'"  # fmt: skip
        raise UserError(f"{folder}: holds no artifact; {more}")
    return sorted(found)


def verified(path: Path, traces: str | None = None, *, scores: bool = True) -> Verified:
    """Return what the checks of an artifact find. traces: folder of recorded load. scores: measure them again."""
    out = Verified(path)
    try:
        made = artifacts.load(path)
    except UserError as error:
        out.checks.append(Check("digest", False, str(error)))
        return out
    manifest = made.manifest
    out.name, out.kind, out.digest = made.name, made.kind, made.digest
    out.score, out.untrained = (run_record.number(manifest["scores"].get(name)) for name in (SCORE, UNTRAINED))
    out.checks.append(_digest(path, made))
    if (environment := manifest["parameters"].get("environment")) is not None:
        out.score, out.untrained = (_turned(manifest["scores"].get(name)) for name in (RETURN, THRESHOLD))
        checks = _alone(made, str(environment))
        out.checks += checks
        return out if checks[0].passed is False else _with_scores(out, made, traces, scores)
    try:
        policy, again = from_artifact(made), from_artifact(artifacts.loads(artifacts.dumps(made)))
    except ValueError as error:
        out.checks.append(Check("schema", False, str(error)))
        return out
    kept = f"observation schema {manifest['observation_schema']}, actions {manifest['action_scheme']}"
    out.checks.append(Check("schema", True, f"{kept}; {inspecting.shape(policy)}"))
    out.checks += behaved(policy, again)
    return _with_scores(out, made, traces, scores)


def _turned(value: Any) -> float | None:
    """Return a return as a score, of which less is better."""
    number = run_record.number(value)
    return None if number is None else -number


def _alone(made: Artifact, environment: str) -> list[Check]:
    """Return the checks of a policy of an environment that no workload has; the first: whether it is a whole one."""
    from rlscaler_sim.legacy_policy import LegacyPolicy
    from rlscaler_training import legacy_checks
    from rlscaler_training.legacy import ID

    if environment != ID:
        return [Check("schema", False, f"of the environment {show(environment)}; expected {ID}, or none")]
    try:
        policy, again = LegacyPolicy(made), LegacyPolicy(artifacts.loads(artifacts.dumps(made)))
    except ArtifactError as error:
        return [Check("schema", False, str(error))]
    told = f"of the environment {show(environment)} alone: no workload has what it sees"
    differ, (wrong, found) = legacy_checks.repeatable(policy, again), legacy_checks.behaved(policy)
    fewer, of = legacy_checks.more_load(policy)
    return [
        Check("schema", True, told),
        Check("repeatable", not differ, differ or ALIKE),
        Check("behaviour", not wrong, wrong or found),
        Check("more load", True, f"{fewer} of {of} steps of load up gave fewer instances"),
    ]


def _with_scores(out: Verified, made: Artifact, traces: str | None, wanted: bool) -> Verified:
    if made.manifest["kind"] != TABLE:
        out.checks.append(agreeing(made, traces, along=wanted))
    if wanted:
        out.checks.append(rescored(made, traces))
    return out


def agreeing(made: Artifact, traces: str | None, *, along: bool) -> Check:
    """Return whether NumPy decides as torch does with the artifact's weights: on observations drawn from its training
    range, and along the episodes that it was validated in, where these can be had and `along` says so."""
    try:
        from rlscaler_training import episodes, finishing, legacy_checks

        alone = made.manifest["parameters"].get("environment") is not None
        parts = {"observations": legacy_checks.sampled(made) if alone else episodes.sampled(made)}
        left = "not along episodes"
        if along:
            world, why = _validated_in(made, traces)
            left = f"not along episodes: {why}"
            if world is not None:
                seed = made.manifest["provenance"]["asked"]["seed"]
                parts["decisions of whole episodes"] = episodes.agreed(world, made, finishing.EPISODE, seed)
    except ModuleNotFoundError as error:
        if (missing := missing_extra("verify", error)) is None:
            raise
        return Check("agreement", None, f"not compared again: {missing.message}")
    except UserError as error:
        return Check("agreement", None, f"not compared again: {error}")
    found = {name: part for name, part in parts.items() if part is not None}
    if not found:
        return Check("agreement", None, f"not compared again: {left}")
    told = "; ".join(f"{part.rows:,} {name}, {part.ties:,} tied, outputs within {part.largest:.1e}" if part.agree else
                     f"{name}: {part}" for name, part in found.items())  # fmt: skip
    lived = "decisions of whole episodes" in found
    return Check("agreement", all(part.agree for part in found.values()), told + ("" if lived else f"; {left}"))


def _digest(path: Path, made: Artifact) -> Check:
    """Return whether the content has its digest, and a run's report names the same one."""
    stated = None
    if path.name == run_record.POLICY and (path.parent / run_record.REPORT).is_file():
        try:
            stated = run_record.read(path.parent).report.get("digest")
        except UserError as error:
            return Check("digest", False, f"the run beside it cannot be read: {error}")
    if stated is not None and stated != made.digest:
        return Check("digest", False, f"it is {made.digest}, and {path.parent / run_record.REPORT} states {stated}: "
                     "another artifact took the place of the run's")  # fmt: skip
    return Check("digest", True, made.digest)


def behaved(policy: Policy, again: Policy) -> list[Check]:
    """Return whether the policy answers alike each time, and stays sane whatever it is shown.

    again: the same policy, read anew.
    """
    differ = probing.repeatable(policy, again)
    found = [probing.fuzzed(each) for each in (policy, *([policy.learned] if isinstance(policy, Tenured) else []))]
    wrong = tuple(dict.fromkeys(what for each in found for what in each.wrong))
    fewer, of = probing.monotonic(policy)
    told = f"{found[0].decisions:,} decisions on any input at all, {_ruled(found[0])} of them by the rule"
    told += "".join(f"; of the learned policy alone, {_ruled(each)}" for each in found[1:])
    return [
        Check("repeatable", not differ, differ or ALIKE),
        Check("behaviour", not wrong, "; ".join(wrong) or told),
        Check("more load", True, f"{fewer} of {of} steps of load up gave fewer replicas"),
    ]


def _ruled(found: probing.Fuzzed) -> str:
    return f"{found.fallbacks / found.decisions:.0%}"


def rescored(made: Artifact, traces: str | None) -> Check:
    """Return whether the manifest's scores come out again, by the evaluation that they were measured by."""
    stated, provenance = made.manifest["scores"], made.manifest["provenance"]

    def left(why: object) -> Check:
        return Check("scores", None, f"not measured again: {why}")

    try:
        world, why = _validated_in(made, traces)
        if world is None:
            return left(why)
        from rlscaler_training import finishing

        found = {key: number for key, value in finishing.scores(world, made, provenance["asked"]["seed"]).items()
                 if (number := run_record.number(value)) is not None}  # fmt: skip
    except ModuleNotFoundError as error:
        if (missing := missing_extra("verify", error)) is None:
            raise
        return left(missing.message)
    except UserError as error:
        return left(error)
    claims = {key: run_record.number(stated.get(key)) for key in found}
    if unstated := [key for key, value in claims.items() if value is None]:
        return left(f"the manifest has no {unstated[0]}")
    wrong = [key for key in found if not math.isclose(found[key], claims[key] or 0.0, rel_tol=CLOSE, abs_tol=1e-6)]
    if not wrong:
        return Check("scores", True, ", ".join(f"{key} {value:.4f}" for key, value in found.items())
                     + ", as in the manifest")  # fmt: skip
    told = ", ".join(f"{key} is {found[key]:.4f} and the manifest states {claims[key]:.4f}" for key in wrong)
    if UNTRAINED in wrong:
        told += "; the untrained rule differs too, so the world or the load is another one"
    here, there = version_of("rlscaler"), provenance.get("version")
    return Check("scores", False, told + (f" (exported by version {there}, this is {here})" if here != there else ""))


def _validated_in(made: Artifact, traces: str | None) -> tuple[Any, str]:
    """Return what an artifact was validated in, or None and why that cannot be had.

    Raises UserError, and ModuleNotFoundError without the learning stack.
    """
    provenance = made.manifest["provenance"]
    asked = provenance.get("asked")
    if why := _unusable(asked, provenance):
        return None, why
    if asked["traces"] and traces is None:
        return None, f"it is of recorded load ({asked['traces']}); name its folder by --traces"
    recorded = traces if asked["traces"] else None
    world = _world(json.dumps(asked | {"name": "any", "decisions": [], "traces": recorded}))
    from rlscaler_training.loads import Pools

    if isinstance(world, Pools) and list(world.validated_on) != provenance["validated_on"]:
        return None, f"{traces or 'this version'} has other load than it was validated on"
    return world, ""


def _unusable(asked: Any, provenance: Mapping[str, Any]) -> str:
    """Return why the evaluation that a manifest states cannot be made again, "" where it can."""
    if not isinstance(asked, dict):
        return "the manifest does not say on which load (provenance has no asked)"
    for key, expected, usable in (
        ("scenarios", f"at most {MOST_NAMES} names", _names),
        ("traces", "the name of a folder, or null", lambda value: value is None or isinstance(value, str)),
        ("hours", f"1 to {LONGEST_HOURS:g}", lambda value: 1.0 <= (run_record.number(value) or 0.0) <= LONGEST_HOURS),
        ("seed", "a whole number, 0 or more", lambda value: type(value) is int and 0 <= value < 2**31),
    ):
        if key not in asked or not usable(asked[key]):
            return f"provenance.asked.{key} is {show(asked.get(key))}; expected {expected}"
    worlds = asked.get("worlds")
    count = worlds.get("worlds") if isinstance(worlds, dict) else worlds
    if count is not None and (run_record.number(count) or 0.0) > MOST_WORLDS:
        return f"provenance.asked.worlds is {show(worlds)}; expected at most {MOST_WORLDS}"
    return "" if _names(provenance.get("validated_on")) else "provenance.validated_on is missing; expected names"


def _names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_NAMES and all(isinstance(each, str) for each in value)


@cache
def _world(asked: str) -> Any:
    """Return what a model was validated on, made once for all that were validated on the same. asked: JSON."""
    from rlscaler_training.asked import Asked, world_of

    return world_of(Asked.of(json.loads(asked), Path("provenance")))
