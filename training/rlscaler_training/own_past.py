"""The default policy, fitted to one workload's own past: trained on the earlier part, judged on the later one.

The network of the default policy goes on learning where it stands, by analytic policy gradient on the readings that a
profile holds (`rlscaler calibrate` makes one). The last fifth of the earlier part chooses among its states. The later
part, which nothing was chosen by, judges: the world of a contest serves it with the decisions of the fitted policy and
of the default one, both with the whole past behind them, and the difference has to stand out of the noise that hours
differ by. Where it does not, the default policy is the better choice, and that is the answer.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from rlscaler import Objective, Settings
from rlscaler.artifact import Artifact
from rlscaler.cli import version_of
from rlscaler.errors import UserError
from rlscaler.observation import NAMES
from rlscaler.policies import DEFAULT, from_artifact, load_policy
from rlscaler.policy import Policy
from rlscaler.profile import Profile, Recording
from rlscaler.quantities import duration_text
from rlscaler.tenured import Tenured
from rlscaler_sim import backtest, stretches, world
from rlscaler_sim.contest import Entrant
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load
from rlscaler_sim.pool import IDLE, Pool
from rlscaler_sim.recorded import Past
from rlscaler_sim.result import LATE_WEIGHT
from rlscaler_sim.told import Told, beforehand, worth_it
from rlscaler_sim.totals import Traced
from rlscaler_training import apg, export, relaxation
from rlscaler_training.apg import Material, Net
from rlscaler_training.hyper import setting
from rlscaler_training.learner import Progress, StoppedError
from rlscaler_training.runs import Run

LEAST = 86_400.0
"""Seconds of known load that are needed: hours to learn from, and others to be judged by."""
LONGEST = 60.0
"""Seconds between readings at most: between them nothing can be learned of how load moves."""
EARLIER, CHOSEN_BY = 2.0 / 3.0, 0.2
"""Share of the past that is trained on, and of that the share, its end, that the network is chosen by."""
BLOCK = 3600.0
"""Seconds whose costs are drawn together: what one minute costs hangs on the minutes before."""
WORTH = 0.005
"""Gain in the score, half a per cent of the replicas that are needed, below which another artifact is not worth it."""
RESAMPLED, CONFIDENCE = 4000, 0.9
"""Draws of blocks, and the share of them that the interval of the difference holds."""


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = setting(1000, 1, 1_000_000, "Gradient steps: minutes on two cores.")
    batch: int = setting(32, 1, 65_536, "Stretches of load in each.")
    decisions: int = setting(120, 8, 10_000, "Decisions of a stretch that count, as the default policy's.")
    rate: float = setting(3e-4, 1e-7, 1.0, "First learning rate, a seventh of the default policy's; it falls to 0.")
    decay: float = setting(1e-4, 0.0, 1.0, "Weight decay, as the default policy's.")
    dropout: float = setting(0.1, 0.0, 0.9, "Share of the inputs that is blanked, as the default policy's.")
    width: float = setting(0.1, 1e-3, 60.0, "Width, in seconds of waiting, of the edge of being late.")
    evaluate_every: int = setting(50, 1, 1_000_000, "Steps between looks at what the network is chosen by.")


@dataclass(frozen=True, slots=True)
class OwnPast:
    """What a profile says, in the simulator's words.

    settings, config: of the workload, and its world. load, told: all of it. start: replicas at first, None = unknown.
    earlier: decisions that are trained on. notes: what was assumed.
    """

    name: str
    settings: Settings
    config: world.WorldConfig
    load: Load
    told: Told
    start: np.ndarray | None
    earlier: int
    notes: tuple[str, ...]

    @property
    def edge(self) -> int:
        """Decisions of the earlier part that come before those that the network is chosen by."""
        return round((1.0 - CHOSEN_BY) * self.earlier)


def own_past(profile: Profile, recording: Recording, seed: int = 0) -> OwnPast:
    """Return the past of a profile. Raises UserError where it is too little, or says too little."""
    capacity = profile.capacity.value
    if capacity is None:
        raise UserError(f"{profile.workload}: the profile does not know how many requests/s a replica serves "
                        f"({profile.capacity.why}); calibrate -f FILE.yaml with spec.capacity.perReplica")  # fmt: skip
    if recording.interval > LONGEST:
        raise UserError(f"{profile.workload}: its readings are {duration_text(recording.interval)} apart; expected "
                        f"{duration_text(LONGEST)} or less")  # fmt: skip
    known = np.flatnonzero(np.isfinite(recording.load))
    seconds = known.size * recording.interval
    if seconds < LEAST:
        raise UserError(f"{profile.workload}: {duration_text(round(seconds))} of load are known; training needs "
                        f"{duration_text(LEAST)} at least, and a week to learn how its days differ")  # fmt: skip
    whole = slice(int(known[0]), int(known[-1]) + 1)
    replicas = recording.replicas[whole].astype(np.float64)
    past = Past(profile.workload, recording.times[whole], recording.load[whole].astype(np.float64),
                replicas if np.isfinite(replicas).any() else None)  # fmt: skip
    plain, notes = Settings(), []
    startup, lag = (estimate.value for estimate in (profile.startup, profile.lag))
    if startup is None:
        startup = float(plain.startup)
        notes.append(f"start-up is not known: taken as {duration_text(startup)}")
    if lag is None:
        lag = float(plain.lag)
    service = 1.0 / capacity
    settings = Settings(
        min_replicas=1,
        max_replicas=max(100, int(np.ceil(4.0 * profile.load.p95 / capacity))),
        interval=recording.interval,
        lag=lag,
        startup=startup,
        capacity_per_replica=capacity,
        objective=Objective(latency=max(float(plain.objective.latency), 2.0 * service)),
    )
    config = replace(standard_world(settings), fano=backtest.POISSON)
    load, seen, counts = backtest.arrived(past, settings)
    told = beforehand(load, config, settings, seed, seen)
    start = None if counts is None or not np.isfinite(counts).any() else backtest.first_known(counts, settings)
    made = OwnPast(profile.workload, settings, config, load, told, start, int(EARLIER * len(told.time)), tuple(notes))
    _require_load(made)
    return made


def _require_load(past: OwnPast) -> None:
    """Raise UserError where a part of the past has nothing to learn from, to choose by, or to judge by."""
    edges = (0, past.edge, past.earlier, len(past.told.time))
    for what, begin, end in zip(("trained on", "chosen by", "judged by"), edges, edges[1:], strict=False):
        known = past.told.known[begin:end]
        seconds = float(known.sum()) * float(past.settings.interval)
        lack = f"{duration_text(round(seconds))} of load are known" if seconds < BLOCK else "there is no load"
        if seconds < BLOCK or not past.told.rates[begin:end][known].any():
            span = float(past.settings.interval) * (end - begin)
            raise UserError(
                f"{past.name}: in the {duration_text(60 * round(span / 60.0))} of its past that the network would be "
                f"{what} {lack}; expected {duration_text(BLOCK)} that are known, and some load: calibrate on another "
                "span, by --last and --until"
            )


def pool(past: OwnPast, begin: int, end: int) -> Pool:
    """Return the decisions from `begin` to `end` as load to train on, with all that came before as their history."""
    told, part = past.told, slice(begin, end)
    rates, capacity = told.rates[None, part], float(past.config.capacity_per_replica)
    arrivals = np.maximum(rates.mean(axis=(1, 2), dtype=np.float64), IDLE * capacity) * float(past.settings.interval)
    return Pool(
        rates=rates,
        seen=np.where(told.known[None, part], told.read[None, part], np.nan),
        features={name: array[None, part] for name, array in told.features.items()},
        start=told.time[begin : begin + 1],
        mean_needed=arrivals / capacity,
        mean_arrivals=arrivals,
        interval=float(past.settings.interval),
        config=past.config,
        settings=past.settings,
        levels=np.zeros(1),
    )


def network_of(made: Artifact) -> Net:
    """Return the network of an artifact, to go on with. Raises UserError where analytic policy gradient has none."""
    fields, parameters = made.manifest["fields"], made.manifest["parameters"]
    if set(fields) - set(apg.FIELDS) or parameters.get("output") != "correction":
        raise UserError(f"{made.name}: its network sees what its own orders change; expected one that apg trained")
    hidden = [made.arrays[f"bias_{index}"].shape[0] for index in range(_layers(made) - 1)]
    network = Net(tuple(hidden), parameters["activation"], fields)
    with torch.no_grad():
        network.mean.copy_(torch.from_numpy(made.arrays["mean"].copy()))
        network.scale.copy_(torch.from_numpy(made.arrays["scale"].copy()))
        for index, layer in enumerate(network.linears()):
            layer.weight.copy_(torch.from_numpy(made.arrays[f"weight_{index}"].T.copy()))
            layer.bias.copy_(torch.from_numpy(made.arrays[f"bias_{index}"].copy()))
    return network


def _layers(made: Artifact) -> int:
    return sum(name.startswith("weight_") for name in made.arrays)


def with_network(made: Artifact, network: Net, **parts: Any) -> Artifact:
    """Return the artifact with the weights of a network, and other parts of its manifest."""
    arrays = dict(made.arrays)
    for index, layer in enumerate(network.linears()):
        for name, tensor in ((f"weight_{index}", layer.weight.T), (f"bias_{index}", layer.bias)):
            arrays[name] = np.ascontiguousarray(tensor.detach().numpy(), np.float32)
    manifest = {key: value for key, value in made.manifest.items() if key not in ("format", "arrays", "digest")}
    return Artifact(manifest=manifest | parts, arrays=arrays)


def fitted(
    past: OwnPast, begun: Artifact, config: Config, seed: int, run: Run, report: Callable[[Progress], None],
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Net, dict[str, list[float]]]:  # fmt: skip
    """Return the network of `begun` after it has learned on the earlier part, and the range that it was trained in.

    It is the one that is best on the end of that part, which may be the one that it began as. Raises StoppedError where
    it is stopped.
    """
    train, validation = (
        apg.material(pool(past, *part), torch.device("cpu")) for part in ((0, past.edge), (past.edge, past.earlier))
    )
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = network_of(begun)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    best, kept = float("inf"), _copied(network)
    for step in range(config.steps + 1):
        if step % config.evaluate_every == 0 or step == config.steps:
            score = float(apg.whole_score(validation, network)[0])
            if score < best:
                best, kept = score, _copied(network)
            run.log(step, {"score": score, "best": best})
            report(Progress(step, config.steps, {"score": score, "best": best}))
        if stop():
            raise StoppedError
        if step < config.steps:
            _step(train, network, optimiser, config, rng)
            schedule.step()
    network.load_state_dict(kept)
    return network, _range(begun, train, network)


def _range(begun: Artifact, train: Material, network: Net) -> dict[str, list[float]]:
    """Return field -> [low, high] of the training range: that of `begun`, as far as the own past goes beyond it."""
    seen = train.seen[train.known].numpy().astype(np.float32)
    observations = np.zeros((len(seen), len(NAMES)), np.float32)
    observations[:, [NAMES.index(name) for name in apg.FIELDS]] = seen
    own, known = export.training_range(observations, network.fields), begun.manifest["training_range"]
    return {
        name: [min(low, known[name][0]), max(high, known[name][1])] if name in known else [low, high]
        for name, (low, high) in own.items()
    }


def _copied(network: Net) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _step(
    train: Material, network: Net, optimiser: torch.optim.Optimizer, config: Config, rng: np.random.Generator
) -> None:
    """Follow the gradient of one batch of stretches."""
    length = min(config.decisions + train.whole.lead, train.steps)
    begin = torch.as_tensor(rng.integers(0, train.steps - length + 1, (config.batch, 1)))
    load, at = torch.zeros((config.batch, length), dtype=torch.int64), begin + torch.arange(length)
    correction = apg.corrected(network, train.seen[load, at], config.dropout)
    stretch, counts = apg.part(train, load, at), train.known[load, at]
    cost, late = relaxation.score(stretch, apg.orders(train, correction, load, at), config.width, counts)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward((cost + late).mean())
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the later part says.

    fitted, default: score, cost and late (billed over needed, and LATE_WEIGHT x share of late requests). gain: how
    much lower the fitted policy's score is; low, high: its interval, from blocks of hours drawn again. seconds: judged.
    """

    fitted: dict[str, float]
    default: dict[str, float]
    gain: float
    low: float
    high: float
    seconds: float

    @property
    def better(self) -> bool:
        """Whether the gain is worth it, for all its noise."""
        return self.low > WORTH

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"confidence": CONFIDENCE, "better": self.better}


def judged(
    past: OwnPast, mine: Policy, default: Policy, progress: Callable[[int, int], None] | None = None, seed: int = 0
) -> Verdict:
    """Return what the later part says of two policies that have lived through all of it."""
    entrants = [Entrant("fitted", mine, past.settings), Entrant(DEFAULT, default, past.settings)]
    traced = Traced()
    unread = ("backlog", "latency", "utilization")
    known = past.told if worth_it(past.load, past.config, past.settings) else None
    stretches.play(past.load, entrants, past.config, past.settings, seed, traced=traced, seen=past.told.read[None],
                   start=past.start, unread=unread, known=known, progress=progress)  # fmt: skip
    weight = np.where(np.arange(len(past.told.time)) >= past.earlier, past.told.weight, 0.0)
    rates = past.told.rates.mean(axis=1, dtype=np.float64) * weight
    interval = float(past.settings.interval)
    billed = traced.array("billed") * weight
    late = traced.array("violations") * rates * interval
    sums = np.stack([*billed, *late, traced.array("needed")[0] * weight, rates * interval])
    size = max(1, round(BLOCK / interval))
    later = sums[:, past.earlier :]
    blocks = np.add.reduceat(later, np.arange(0, later.shape[1], size), axis=1)
    rng = np.random.default_rng(seed)
    drawn = blocks[:, rng.integers(blocks.shape[1], size=(RESAMPLED, blocks.shape[1]))].sum(axis=2)
    low, high = np.quantile(_gain(drawn), [0.5 - 0.5 * CONFIDENCE, 0.5 + 0.5 * CONFIDENCE])
    whole = blocks.sum(axis=1)

    def figures(of: int) -> dict[str, float]:
        cost = float(whole[of] / max(whole[4], 1e-9))
        lateness = float(LATE_WEIGHT * whole[2 + of] / max(whole[5], 1e-9))
        return {"score": cost + lateness, "cost": cost, "late": lateness}

    return Verdict(figures(0), figures(1), float(_gain(whole)), float(low), float(high), later.shape[1] * interval)


def _gain(sums: np.ndarray) -> np.ndarray:
    """Return the score of the second less that of the first; sums: (6, ...), see `judged`."""
    needed, come = np.maximum(sums[4], 1e-9), np.maximum(sums[5], 1e-9)
    gain: np.ndarray = (sums[1] - sums[0]) / needed + LATE_WEIGHT * (sums[3] - sums[2]) / come
    return gain


def shipped() -> tuple[Policy, Artifact]:
    """Return the default policy and its artifact. Raises UserError where it is a rule, which has nothing to fit."""
    policy = load_policy(DEFAULT)
    made = getattr(policy, "artifact", None)
    if not isinstance(made, Artifact):
        raise UserError(f"the default policy, {policy.name}, is a rule of this version, and no network to go on with")
    return policy, made


def provenance(past: OwnPast, begun: Artifact, config: Config, seed: int, profile: str, digest: str) -> dict[str, Any]:
    """Return what is needed to fit the same again. profile: its file's name; digest: of its readings."""
    return {
        "command": f"rlscaler train --for {profile}",
        "profile": {"file": profile, "workload": past.name, "readings": digest},
        "begun_from": {"name": begun.name, "digest": begun.manifest["digest"]},
        "config": asdict(config),
        "seed": seed,
        "version": version_of("rlscaler"),
    }


def served(made: Artifact) -> Policy:
    """Return the policy of an artifact, as a cluster would have it."""
    policy = from_artifact(made)
    return policy if not isinstance(policy, Tenured) else replace(policy, name=made.name)
