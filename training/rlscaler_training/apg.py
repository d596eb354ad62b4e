"""Analytic policy gradient: the score of whole stretches of load is differentiable in the orders, so follow it.

Read from top to bottom: the settings, the material, the policy's orders, the loop. Load does not depend on what is
ordered; so the score of a stretch is a function of the orders alone (`relaxation`), its gradient is exact but for two
softened edges, and no value function, advantage or exploration is needed (as in the study of `policy.md`, and in
SHAC, Xu et al. 2022, arXiv 2204.07137, without its critic). The network corrects the headroom that the workload's own
growth makes cheapest; the rest of the decision is the guard's.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlscaler.action import HOLD, QUANTUM
from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler.mlp import LARGEST_CORRECTION
from rlscaler.observation import LOAD_FIELDS, NAMES, observe
from rlscaler.policy import View
from rlscaler.settings import compiled
from rlscaler_sim.pool import WARM_UP, Pool
from rlscaler_training import export, relaxation
from rlscaler_training.export import Mlp
from rlscaler_training.hyper import choice, setting
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task
from rlscaler_training.parallel import ALONE, Model, Parallel
from rlscaler_training.preferences import Liking
from rlscaler_training.relaxation import Stretch
from rlscaler_training.runs import generators, restore_generators

LONG = ("lastweek", "experience")
"""Fields that leave their training range once a workload is older than what is trained on, which is days."""
FIELDS = (
    *(field.name for field in LOAD_FIELDS if field.name not in LONG), "size", "reaction", "startup_share", "price",
)  # fmt: skip
"""What the network sees: what orders do not change."""
HPA_TARGETS, HPA_WINDOWS = (0.45, 0.55, 0.65, 0.75, 0.85, 0.95), (1, 4, 20)
"""Utilisations, and decisions for which replicas are kept, of the HPAs that weights are made with."""
SPARES = (0.0, 0.04, 0.1, 0.2)
"""Shares by which orders made with the next minute known exceed its peak, of which the best is taken."""
SMALLEST_SPAN = 0.08
"""Least of what there is to win, in units of the score."""
HOPELESS = 4.0
"""Score of orders made with the next minute known, above which there is more work than replicas."""
ROWS = 8
"""Loads that are scored whole at once."""
NEIGHBOURS = 16
"""Loads, of about one start-up, that a batch is drawn from at least."""
SAMPLED = 5
"""One observation of so many tells the mean and the scale of the inputs."""


TAKES_PREFERENCES = True
"""`--preferences` leans on its trajectories, see `preferences`."""


SHARED_OUT = "batch"
"""The setting whose rows several processes share, see `parallel`."""


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = setting(3000, 1, 1_000_000, "Gradient steps.")
    batch: int = setting(48, 1, 65_536, "Stretches of load in each; own choice.")
    decisions: int = setting(120, 8, 10_000, "Decisions of a stretch that count: half an hour.")
    rate: float = setting(2e-3, 1e-7, 1.0, "First learning rate, own choice; it falls to 0 as a cosine.")
    decay: float = setting(1e-4, 0.0, 1.0, "Weight decay of AdamW (Loshchilov & Hutter 2019).")
    clip: float = setting(1.0, 1e-3, 1e3, "Largest norm of the gradient; own choice.")
    hidden: tuple[int, ...] = setting((96, 96), 1, 4096, "Widths of the hidden layers; own choice.")
    activation: str = choice("silu", ("silu", "tanh", "relu"), "What stands between them; own choice.")
    dropout: float = setting(
        0.1, 0.0, 0.9, "Share of the inputs that is blanked, so that none is leaned on; own choice."
    )
    cold: float = setting(
        0.1, 0.0, 1.0, "Share of the stretches from a load's first hour, own choice: a cold start is rare else."
    )
    width: float = setting(
        1.0, 1e-3, 60.0, "First width, in seconds of waiting, of the edge of being late; own choice."
    )
    width_end: float = setting(0.1, 1e-3, 60.0, "Last width, own choice; it falls geometrically.")
    evaluate_every: int = setting(250, 1, 1_000_000, "Steps between evaluations.")


@dataclass(slots=True)
class Material:
    """A pool of load as tensors of one device.

    seen: observations (P, S, len(FIELDS)), float16. level, cheap, demand: (P, S) replicas, log headroom, replicas;
    NaN-free, with `known` (P, S) where the load is. whole: the load and its world. weight: (P,), see `weights`.
    """

    seen: Tensor
    level: Tensor
    cheap: Tensor
    demand: Tensor
    known: Tensor
    whole: Stretch
    weight: Tensor

    @property
    def steps(self) -> int:
        """Decisions of each load."""
        return int(self.seen.shape[1])


def material(pool: Pool, device: torch.device) -> Material:
    """Return what is trained on, each load in its own world."""
    config, settings = pool.config, pool.settings
    count = pool.loads
    options = compiled(settings, count)
    capacity = np.broadcast_to(np.asarray(config.capacity_per_replica, np.float64), (count,))
    believed = options["capacity_per_replica"]
    columns = [NAMES.index(name) for name in FIELDS]
    seen = np.zeros((count, pool.steps, len(FIELDS)), np.float32)
    nothing = np.full(pool.steps, np.nan)
    for load in range(count):
        level = pool.features["level"][load].astype(np.float64)
        counts = dict.fromkeys(("ready", "starting", "desired", "backlog", "utilization", "latency", "errors"), nothing)
        view = View(
            xp=np,
            settings={name: np.broadcast_to(array[load], (pool.steps, *array.shape[1:]))
                      for name, array in options.items()},
            snapshot={**counts, "time": nothing, "load": pool.seen[load]},
            features={name: array[load] for name, array in pool.features.items()},
            demand=pool.seen[load] / believed[load],
            current=level,
        )  # fmt: skip
        seen[load] = observe(view)[:, columns]

    def tensor(array: Any) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32), device=device)

    def each(value: Any) -> Tensor:
        return tensor(np.broadcast_to(np.asarray(value, np.float32), (count,)).copy())

    level = pool.features["level"]
    known = np.isfinite(level) & np.isfinite(pool.seen)
    whole = Stretch(
        rates=tensor(pool.rates), needed=tensor(pool.mean_needed), arrivals=tensor(pool.mean_arrivals),
        capacity=each(capacity), believed=each(believed), startup=each(config.startup), slo=each(config.slo_wait),
        price=each(settings.objective.price), low=each(settings.min_replicas), high=each(settings.max_replicas),
        interval=pool.interval,
    )  # fmt: skip
    made = Material(
        seen=torch.as_tensor(seen, dtype=torch.float16, device=device),
        level=tensor(_begun(level)),
        cheap=tensor(pool.features["trend_cheap"]),
        demand=tensor(np.nan_to_num(pool.seen / believed[:, None])),
        known=torch.as_tensor(known, device=device),
        whole=whole,
        weight=torch.ones(count, device=device),
    )
    made.weight = weights(made)
    return made


def _begun(level: np.ndarray) -> np.ndarray:
    """Return the level (P, S) with the first that is known standing before it too: a workload has replicas by then."""
    first = np.isfinite(level).argmax(axis=1)
    early = np.arange(level.shape[1]) < first[:, None]
    return np.nan_to_num(np.where(early, np.take_along_axis(level, first[:, None], axis=1), level))


def weights(material: Material) -> Tensor:
    """Return how much each load's score counts, (P,): 1 over what there is to win on it, so that none outweighs others.

    That is the score of the best of a few HPAs less that of the best orders made with the next minute known (of a few),
    SMALLEST_SPAN at least. A load that even those cannot serve well teaches nothing and counts nothing.
    """
    count, steps = material.demand.shape
    weight = torch.zeros(count, device=material.demand.device)
    for load in _batches(material, ROWS):
        reaction = math.ceil(float(material.whole.startup[load[0]]) / material.whole.interval) + 1
        at = torch.arange(steps, device=load.device)[None].expand(len(load), -1)
        load_at = load[:, None].expand(-1, steps)
        stretch, measured = part(material, load_at, at), material.demand[load_at, at]
        coming = stretch.rates.mean(dim=2) / stretch.capacity[:, None]
        later = torch.cat([coming, coming[:, -1:].expand(-1, reaction)], dim=1)
        peak = later.unfold(1, reaction + 1, 1).amax(dim=2)[:, :steps]
        rules = [relaxation.kept(measured / target, kept) for target in HPA_TARGETS for kept in HPA_WINDOWS]
        plans = [peak * (1.0 + spare) + 0.5 for spare in SPARES]
        scores = []
        for wanted in (*rules, *plans):
            bounded = relaxation.rounded_up(wanted).clamp(min=0.0)
            bounded = torch.minimum(torch.maximum(bounded, stretch.low[:, None]), stretch.high[:, None])
            cost, late = relaxation.score(stretch, bounded, 0.05, material.known[load_at, at])
            scores.append(cost + late)
        best, limit = (torch.stack(some).amin(dim=0) for some in (scores[: len(rules)], scores[len(rules) :]))
        weight[load] = torch.where(limit < HOPELESS, 1.0 / (best - limit).clamp(min=SMALLEST_SPAN), 0.0)
    return weight / weight.mean().clamp(min=1e-9)


def orders(material: Material, correction: Tensor | None, load: Tensor, at: Tensor) -> Tensor:
    """Return the orders (N, T) of a network's correction (N, T), as the guard makes them of proposals.

    None: no correction, the rule. load, at: (N, T) which load and which decision.
    """
    level, headroom = material.level[load, at], material.cheap[load, at]
    if correction is not None:
        headroom = headroom + correction.clamp(-LARGEST_CORRECTION, LARGEST_CORRECTION)
    headroom = headroom + (QUANTUM * torch.round(headroom / QUANTUM) - headroom).detach()
    wanted = (level + 0.5) * torch.exp(headroom) - 0.5
    stretch, needed = part(material, load, at), material.demand[load, at]
    patience = 1 + round(HOLD / stretch.interval)
    wanted = wanted + relaxation.for_backlog(stretch, wanted, needed, patience)
    whole = relaxation.rounded_up(relaxation.kept(torch.maximum(wanted, needed), patience))
    return torch.minimum(torch.maximum(whole, stretch.low[:, None]), stretch.high[:, None])


def part(material: Material, load: Tensor, at: Tensor) -> Stretch:
    """Return the load and world of stretches, (N, T) each as of `orders`."""
    whole, first = material.whole, load[:, 0]
    return Stretch(
        rates=whole.rates[load, at], needed=whole.needed[first], arrivals=whole.arrivals[first],
        capacity=whole.capacity[first], believed=whole.believed[first], startup=whole.startup[first],
        slo=whole.slo[first], price=whole.price[first], low=whole.low[first], high=whole.high[first],
        interval=whole.interval,
    )  # fmt: skip


def some(material: Material, loads: Tensor) -> Material:
    """Return the material of some loads, (M,) int64, their weights 1 on average again."""
    own = {each.name: getattr(material, each.name)[loads] for each in fields(material) if each.name != "whole"}
    whole = material.whole
    parts = {each.name: getattr(whole, each.name)[loads] for each in fields(whole) if each.name != "interval"}
    found = Material(**own, whole=Stretch(**parts, interval=whole.interval))
    found.weight = found.weight / found.weight.mean().clamp(min=1e-9)
    return found


class Net(Mlp):
    """The network, whose inputs are some of FIELDS. of_seen: (in,) where each stands among these."""

    of_seen: Tensor

    def __init__(self, hidden: tuple[int, ...], activation: str, fields: Sequence[str] = FIELDS) -> None:
        """Make it; its last layer begins near 0, so that it begins as the rule."""
        super().__init__(fields, hidden, 1, activation)
        self.register_buffer("of_seen", torch.tensor([FIELDS.index(name) for name in fields]), persistent=False)
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()

    def features(self, seen: Tensor) -> Tensor:
        """Return what all heads share, (N, width), of what is seen, (N, len(FIELDS))."""
        out: Tensor = self.trunk((seen[..., self.of_seen].float() - self.mean) / self.scale)
        return out


def corrected(network: Net, seen: Tensor, dropout: float = 0.0, parallel: Parallel = ALONE) -> Tensor:
    """Return the correction (N, T) of what is seen, (N, T, len(FIELDS)); dropout blanks that share of the inputs of a
    stretch."""

    def uniform(shape: Sequence[int]) -> Tensor:
        return torch.rand(shape, device=seen.device)

    inputs = (seen[..., network.of_seen].float() - network.mean) / network.scale
    if dropout:
        shape = (seen.shape[0], 1, inputs.shape[2])
        inputs = inputs * (parallel.drawn(shape, uniform) >= dropout) / (1.0 - dropout)
    out: Tensor = network.head(network.trunk(inputs))[..., 0]
    return out


def whole_score(material: Material, network: Net | None, width: float = 0.05, rows: int = ROWS) -> Tensor:
    """Return the relaxed score of each load, (P,), from the warm-up on; network None: the rule."""
    return whole_costs(material, network, width, rows).sum(dim=1)


def whole_costs(material: Material, network: Net | None, width: float = 0.05, rows: int = ROWS) -> Tensor:
    """Return what the score of each load is made of, (P, 2): billed over needed, and price x late over arrivals."""
    found = torch.zeros(material.seen.shape[0], 2, device=material.seen.device)
    with torch.no_grad():
        for load in _batches(material, rows):
            at = torch.arange(min(WARM_UP, material.steps // 4), material.steps, device=load.device)
            load_at, at = load[:, None].expand(-1, len(at)), at[None].expand(len(load), -1)
            correction = None if network is None else corrected(network, material.seen[load_at, at])
            stretch, counts = part(material, load_at, at), material.known[load_at, at]
            costs = relaxation.score(stretch, orders(material, correction, load_at, at), width, counts)
            found[load] = torch.stack(costs, dim=1)
    return found


def _batches(material: Material, rows: int) -> Iterator[Tensor]:
    """Yield all loads, so many at a time, (M,) int64: those of one start-up together, as long ones cost the most."""
    startup = material.whole.startup
    for value in torch.unique(startup):
        yield from torch.split(torch.nonzero(startup == value)[:, 0], rows)


def check(config: Config, train: Material) -> None:
    """Raise UserError where the load to train on is shorter than a stretch of it, naming the settings."""
    if (room := train.steps - train.whole.lead) < config.decisions:
        raise UserError(
            f"decisions is {config.decisions:,}, but the load to train on has {train.steps:,}, of which "
            f"{train.whole.lead:,} come before those that count; expected at most {max(0, room):,}: lower decisions, "
            "or give more --hours of load"
        )


def learn(task: Task, config: Config, train: Material | None = None, validation: Material | None = None) -> Outcome:
    """Train on the task's load and return the network that was best on its validation load.

    train, validation: what `material` makes of the task's pools, where that is known already. Raises UserError where
    a stretch is longer than the load, StoppedError after a checkpoint where the task says stop.
    """
    pools, run, device, parallel = task.pools, task.run, task.device.torch, task.parallel
    train = material(pools.train, device) if train is None else train
    check(config, train)
    validation = material(pools.validation, device) if validation is None else validation
    torch.manual_seed(task.seed)
    rng = np.random.default_rng(task.seed)
    network = Net(config.hidden, config.activation, [name for name in FIELDS if name in pools.fields]).to(device)
    sample = train.seen[train.known][::SAMPLED][:, network.of_seen].float()
    network.mean.copy_(sample.mean(dim=0))
    network.scale.copy_(sample.std(dim=0).clamp(min=1e-2))
    liking = None
    if task.preferences is not None:
        liking = task.preferences.outcomes(FIELDS, config.hidden[-1], device, task.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
    model = parallel.model(network, optimiser, config.clip)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    best, kept, smoothed = float("inf"), _copied(network), float("nan")
    if (state := run.restore()) is not None:
        network.load_state_dict(state["network"])
        model.restore(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        restore_generators(rng, state["random"])
        if liking is not None:
            liking.restore(state["liking"])
        best, kept, smoothed = state["best"], state["kept"], state["smoothed"]
    rule = float((validation.weight * whole_score(validation, None)).mean())

    for step in range(run.step, config.steps + 1):
        stopped = task.stop()
        due = step % config.evaluate_every == 0 or step == config.steps
        if due or stopped:
            if step > run.step or state is None:
                better = False
                # where a run is cut off decides nothing about which network is kept
                if due:
                    costs = whole_costs(validation, network)
                    score = float((validation.weight * costs.sum(dim=1)).mean())
                    cost, late = (validation.weight[:, None] * costs).mean(dim=0).tolist()
                    numbers = {"score": score, "cost": cost, "late": late, "rule": rule}
                    numbers |= {"loss": smoothed} if step else {}
                    numbers |= {} if liking is None else liking.numbers(network)
                    run.log(step, numbers)
                    if better := score < best:
                        best, kept = score, _copied(network)
                    task.report(Progress(step, config.steps, {**numbers, "best": best}))
                state = {
                    "network": _copied(network), "optimiser": model.state(), "best": best, "kept": kept,
                    "schedule": schedule.state_dict(), "random": generators(rng), "smoothed": smoothed,
                    **({} if liking is None else {"liking": liking.state()}),
                }  # fmt: skip
                run.checkpoint(step, state, best=better)
            if stopped and step < config.steps:
                raise StoppedError
        if step < config.steps:
            opened = pools.train.opened(step / config.steps)
            loss = _step(train, network, model, config, step, opened, rng, liking, parallel)
            schedule.step()
            smoothed = loss if smoothed != smoothed else 0.98 * smoothed + 0.02 * loss
    liked = {} if liking is None else liking.report(network)
    network.load_state_dict(kept)
    made = _artifact(task, network, train, validation, config, {"relaxed_score": best, "relaxed_rule": rule, **liked})
    return Outcome(made, config.steps * config.batch * config.decisions)


def _copied(network: Mlp) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def alike(material: Material, loads: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw so many of the first loads, (count,), all of about the start-up of one of them: each stretch has a lead as
    long as the longest start-up beside it, and is computed in vain until then."""
    startup = material.whole.startup[:loads].cpu().numpy()
    apart = np.abs(startup - startup[rng.integers(loads)])
    nearest = np.argsort(apart, kind="stable")[: max(NEIGHBOURS, int((apart == 0.0).sum()))]
    return rng.choice(nearest, count)


def _step(
    train: Material, network: Net, model: Model, config: Config, step: int, loads: int,
    rng: np.random.Generator, liking: Liking | None = None, parallel: Parallel = ALONE,
) -> float:  # fmt: skip
    """Follow the gradient of one batch of stretches of the first so many loads, and return its loss."""
    device = train.seen.device
    load = torch.as_tensor(alike(train, loads, config.batch, rng)[:, None], device=device)
    lead = part(train, load, torch.zeros_like(load)).lead
    length = config.decisions + lead
    last = train.steps - length
    latest = np.where(rng.random(config.batch) < config.cold, min(WARM_UP, last), last)
    begin = torch.as_tensor(rng.integers(0, np.maximum(latest, 1))[:, None], device=device)
    mine = parallel.mine(config.batch, "batch")
    load, at = load[mine].expand(-1, length), begin[mine] + torch.arange(length, device=device)
    width = config.width * (config.width_end / config.width) ** (step / config.steps)
    correction = model(corrected, train.seen[load, at], config.dropout, parallel)
    stretch, counts = part(train, load, at), train.known[load, at]
    if not parallel.alone:
        counts[:, :lead] = False  # as for the whole batch, where a rank's part of it may start up faster
    ordered = orders(train, correction, load, at)
    cost, late = relaxation.score(stretch, ordered, width, counts)
    if liking is not None and liking.strength:
        late = late + liking.against(network, train.seen[load, at], stretch, ordered, width, counts)
    loss = (train.weight[load[:, 0]] * (cost + late)).mean()
    model.backward(loss)
    if liking is not None:
        liking.pull(network, step)
    model.step()
    return float(parallel.averaged(loss.detach()))


def _artifact(
    task: Task, network: Mlp, train: Material, validation: Material, config: Config, scores: dict[str, Any]
) -> Artifact:  # fmt: skip
    """Return what the autoscaler serves, scored in the world itself beside the rule that it corrects."""
    columns = [NAMES.index(name) for name in FIELDS]
    learned, shown = train.seen[train.known], validation.seen[validation.known]
    extremes = [extreme(seen, dim=0, keepdim=True) for seen in (learned, shown) for extreme in (torch.amin, torch.amax)]
    seen = torch.cat([learned[::SAMPLED], *extremes]).cpu().numpy()
    observations = np.zeros((len(seen), len(NAMES)), np.float32)
    observations[:, columns] = seen
    return export.artifact(
        network.cpu(), name=task.name, output="correction", scheme="headroom", observations=observations,
        provenance=task.provenance | {"config": asdict(config)}, scores=scores,
        parameters={"patience": HOLD},
    )  # fmt: skip
