"""Evolution strategies straight on the score (Salimans et al. 2017, arXiv 1703.03864), for small policies.

Read from top to bottom: the settings, the candidates, the trial, the search, the loop. A candidate is a small network,
or the weights of a rule, that corrects the headroom which the workload's own growth makes cheapest. All candidates of a
generation run at once, each on the same stretches of load with the same noise, in the world itself: no gradient, no
value function and no relaxation, so whatever the guard, the queue and the metrics do is in the score.

The search is our own page and no library's: a full covariance (CMA-ES) of a few hundred weights is not learned from
the hundreds of generations that a noisy score leaves time for, and what a diagonal one does is done by Adam's scale of
each weight. Opposite pairs and ranks make it need neither a learning rate for each problem nor a scale of the score.
The world is stepped by NumPy on the CPU, whatever the device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from rlscaler.action import HOLD, headroom_proposal, scheme
from rlscaler.errors import UserError
from rlscaler.mlp import ACTIVATIONS, LARGEST_CORRECTION
from rlscaler.observation import NAMES, observe, observe_load
from rlscaler.rows import Picked
from rlscaler_sim import world
from rlscaler_sim.batch import Batch
from rlscaler_sim.pool import WARM_UP, Pool
from rlscaler_training import export
from rlscaler_training.export import Mlp
from rlscaler_training.hyper import choice, setting
from rlscaler_training.inputs import with_extremes
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task
from rlscaler_training.loads import VALIDATION_ENVS, VALIDATION_SEED, elsewhere, progressed

SCHEME = "headroom"
FIELDS = (
    "rel_latest", "mean_5m", "max_5m", "noise_5m", "noise_1h", "trend", "trend_lean", "trend_cheap", "trend_cost",
    "hour_cheap", "level_cheap", "quarter_mean", "quarter_high", "ahead_2", "versus_profile",
    "size", "desired", "ready", "starting", "backlog", "busy", "startup_share",
)  # fmt: skip
"""What a candidate sees at most: few fields, as every weight more needs trials more."""
LEAST_SCALE = 0.1
"""Least deviation that an input is divided by: what hardly varies in training must not be magnified elsewhere."""


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    generations: int = setting(300, 1, 1_000_000, "Generations.")
    pairs: int = setting(32, 1, 16_384, "Opposite pairs of candidates in each (Brockhoff et al. 2010).")
    stretches: int = setting(32, 1, 65_536, "Stretches of load that every candidate of a generation meets; own choice.")
    decisions: int = setting(120, 8, 5000, "Decisions of a stretch: half an hour, some five reaction times and more.")
    sigma: float = setting(0.03, 1e-6, 10.0, "Spread of the candidates about the centre (0.02 in the paper's code).")
    rate: float = setting(0.01, 1e-6, 10.0, "First step of Adam (0.01 in the paper's code); it falls to 0 as a cosine.")
    decay: float = setting(1e-3, 0.0, 1.0, "Share of the centre that a step takes away (0.005 in the paper).")
    policy: str = choice("network", ("network", "rule"), "A network, or a rule: the fields weighted and summed.")
    hidden: tuple[int, ...] = setting((16,), 1, 1024, "Widths of the network's hidden layers; own choice.")
    activation: str = choice("tanh", ("silu", "tanh", "relu"), "What stands between them; own choice.")
    evaluate_every: int = setting(10, 1, 1_000_000, "Generations between evaluations of the centre, and checkpoints.")


# --- candidates


def sizes(config: Config, inputs: int) -> tuple[int, ...]:
    """Return the widths of a candidate's layers, the first of its inputs and the last of its output."""
    return (inputs, *(config.hidden if config.policy == "network" else ()), 1)


def begun(config: Config, inputs: int, seed: int) -> np.ndarray:
    """Return the weights (P,) that a search begins with: hidden layers as torch draws them, the last one 0.

    So the first centre corrects nothing, and is the rule.
    """
    rng = np.random.default_rng([seed, 0])
    widths = list(pairwise(sizes(config, inputs)))
    parts = []
    for layer, (before, after) in enumerate(widths):
        bound = 0.0 if layer == len(widths) - 1 else 1.0 / math.sqrt(before)
        parts += [rng.uniform(-bound, bound, before * after), rng.uniform(-bound, bound, after)]
    return np.concatenate(parts)


def layers(weights: np.ndarray, config: Config, inputs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the layers of C candidates (C, P): each its weights (C, in, out) and biases (C, 1, out), float32."""
    found, begin = [], 0
    for before, after in pairwise(sizes(config, inputs)):
        middle, end = begin + before * after, begin + (before + 1) * after
        weight = weights[:, begin:middle].reshape(-1, before, after)
        found.append((weight.astype(np.float32), weights[:, None, middle:end].astype(np.float32)))
        begin = end
    return found


def corrections(weights: np.ndarray, inputs: np.ndarray, config: Config) -> np.ndarray:
    """Return the corrections (C, S) of C candidates (C, P) for their normalised inputs (C, S, in)."""
    activation = ACTIVATIONS[config.activation]
    *hidden, (last, bias) = layers(weights, config, inputs.shape[2])
    for weight, offset in hidden:
        inputs = activation(np, inputs @ weight + offset)
    out: np.ndarray = (inputs @ last + bias)[:, :, 0]
    return np.asarray(np.clip(out, -LARGEST_CORRECTION, LARGEST_CORRECTION))


# --- the trial


@dataclass(frozen=True, slots=True)
class Trial:
    """What C candidates cost on S stretches, (C, S) each: billed over needed, price x late share; J is their sum."""

    cost: np.ndarray
    late: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """J of each candidate, (C,)."""
        score: np.ndarray = (self.cost + self.late).mean(axis=1)
        return score


def tried(
    stretches: Batch, correct: Callable[[np.ndarray], np.ndarray], copies: int, decisions: int, seed: int
) -> Trial:
    """Run candidates on the same stretches, from the same start, with the same noise.

    stretches: S environments of which the seed draws load, moment and start; they are not stepped themselves.
    correct: from observations (C, S, F) to corrections (C, S). copies: C. decisions: at most the batch's `episode`.
    """
    stretches.reset(seed)
    rng = np.random.default_rng([seed, 1])
    pool, count = stretches.pool, stretches.n
    rows = copies * count
    state = {name: np.tile(array, copies) for name, array in stretches.state.items()}
    which = np.tile(np.arange(count), copies)
    params, scaler = world.selected(stretches.params, which), stretches.autoscaler(stretches.load[which])
    patience = np.full(rows, HOLD)
    load, cost, late = stretches.load, np.zeros(rows), np.zeros(rows)
    for at in (stretches.at + step for step in range(decisions)):
        features = {name: array[load, at] for name, array in pool.features.items()}
        seen = pool.seen[load, at][which]
        time = (pool.start[load] + at * pool.interval)[which]
        reading = replace(world.readings(params, state, time, np.isfinite(seen)), load=seen)
        view = scaler.view(reading, features=Picked(features, which))
        observed = observe(view, observe_load(np, features)[which])
        correction = correct(observed.reshape(copies, count, -1)).reshape(rows)
        decided = scaler.settle(view, headroom_proposal(view, correction, patience))
        drawn = {name: np.tile(array, copies) for name, array in world.draws(stretches.params, rng).items()}
        orders = decided.replicas.astype(np.float32)
        state, out = world.step(params, state, orders, np.tile(pool.rates[load, at].T, copies), drawn)
        cost += out.billed / pool.mean_needed[load][which]
        late += stretches.price[which] * out.late / pool.mean_arrivals[load][which]
    return Trial(cost.reshape(copies, count) / decisions, late.reshape(copies, count) / decisions)


# --- the search


@dataclass(frozen=True, slots=True)
class Search:
    """Where the search is: its centre (P,), Adam's two averages (P,), and the generations done."""

    centre: np.ndarray
    first: np.ndarray
    second: np.ndarray
    generation: int = 0

    @classmethod
    def at(cls, centre: np.ndarray) -> "Search":
        """Return a search that begins there."""
        return cls(centre, np.zeros_like(centre), np.zeros_like(centre))


def directions(search: Search, pairs: int, seed: int) -> np.ndarray:
    """Return the directions (pairs, P) of this generation; each is tried forwards and backwards."""
    return np.random.default_rng([seed, 2, search.generation]).standard_normal((pairs, len(search.centre)))


def candidates(search: Search, along: np.ndarray, sigma: float) -> np.ndarray:
    """Return the candidates (2 x pairs, P): all forwards, then all backwards."""
    return np.concatenate([search.centre + sigma * along, search.centre - sigma * along])


def ranked(scores: np.ndarray) -> np.ndarray:
    """Return centred ranks (C,) of scores (C,): -1/2 for the lowest, 1/2 for the highest, ties alike.

    Only the order counts, so neither one overload nor the scale of the load rules the step.
    """
    below = (scores[None, :] < scores[:, None]).sum(axis=1)
    level = (scores[None, :] == scores[:, None]).sum(axis=1) - 1
    ranks: np.ndarray = (below + 0.5 * level) / max(1, len(scores) - 1) - 0.5
    return ranks


def moved(search: Search, along: np.ndarray, scores: np.ndarray, rate: float, sigma: float, decay: float) -> Search:
    """Return the search after a step of Adam (Kingma & Ba 2015) towards lower scores.

    scores: (2 x pairs,) of `candidates`. decay: share of the centre that is taken away, scaled by the rate.
    """
    pairs = len(along)
    ranks = ranked(scores)
    gradient = (ranks[:pairs] - ranks[pairs:]) @ along / (2 * pairs * sigma)
    done = search.generation + 1
    first = 0.9 * search.first + 0.1 * gradient
    second = 0.999 * search.second + 0.001 * gradient**2
    scaled = (first / (1.0 - 0.9**done)) / (np.sqrt(second / (1.0 - 0.999**done)) + 1e-8)
    return Search(search.centre - rate * (scaled + decay * search.centre), first, second, done)


# --- the loop


def check(config: Config, *pools: Pool) -> None:
    """Raise UserError where a stretch would reach beyond the end of the load of a pool, naming the settings."""
    steps = min(pool.steps for pool in pools)
    early = min(WARM_UP, steps // 4)  # the latest that an episode begins in so short a load, see `Batch`
    if config.decisions > steps - early:
        raise UserError(
            f"decisions is {config.decisions:,}, but the load has {steps:,}, of which {early:,} may come before a "
            f"stretch; expected at most {steps - early:,}: lower decisions, or give more --hours of load"
        )


def learn(task: Task, config: Config) -> Outcome:
    """Evolve, and return the centre that scored best on the validation load. A step is a generation.

    Every generation draws from (seed, generation) alone, so a resumed run equals an unbroken one to the bit. Raises
    UserError where a stretch is longer than the load.
    """
    check(config, *task.pools.known)
    train, judged, span = task.pools.train, task.pools.validation, config.decisions
    stretches = Batch(train, train.config, train.settings, scheme(SCHEME), config.stretches, span, task.seed)
    judge = Batch(judged, judged.config, judged.settings, scheme(SCHEME), VALIDATION_ENVS, span, task.seed)
    varied = elsewhere(task.pools, SCHEME, span)
    fields = [name for name in FIELDS if name in task.pools.fields]
    columns = np.array([NAMES.index(name) for name in fields])
    sample = with_extremes(_seen_by_the_rule(stretches, span, task.seed), train)
    mean, scale = sample[:, columns].mean(axis=0), np.maximum(sample[:, columns].std(axis=0), LEAST_SCALE)

    def trial(batch: Batch, weights: np.ndarray, seed: int) -> Trial:
        def correct(observed: np.ndarray) -> np.ndarray:
            return corrections(weights, (observed[:, :, columns] - mean) / scale, config)

        return tried(batch, correct, len(weights), span, seed)

    best, best_score = begun(config, len(fields), task.seed), math.inf
    search = Search.at(best.copy())
    if (state := task.run.restore()) is not None:
        centre, first, second, best = (state[name].numpy() for name in ("centre", "first", "second", "best"))
        search, best_score = Search(centre, first, second, int(state["generation"])), float(state["best_score"])
    resumed = -1 if state is None else search.generation
    spread: dict[str, float] = {}
    numbers: dict[str, float] = {"best": best_score} if math.isfinite(best_score) else {}
    while True:
        now = search.generation
        ended = now == config.generations
        stopping = not ended and task.stop()
        # at these generations alone, so that a stop in between adds no line to what an unbroken run measures
        if (now % config.evaluate_every == 0 or ended) and now > resumed:
            found = trial(judge, search.centre[None], task.seed + VALIDATION_SEED)
            score = float(found.score[0])
            better = score < best_score
            if better:
                best, best_score = search.centre.copy(), score
            numbers = {"score": score, "cost": float(found.cost.mean()), "late": float(found.late.mean()),
                       "best": best_score}  # fmt: skip
            if varied is not None:
                again = trial(varied, search.centre[None], task.seed + VALIDATION_SEED)
                numbers["score_randomised"] = float(again.score[0])
            task.run.log(now, numbers | spread)
            _keep(task, search, best, best_score, better)
        elif stopping:
            _keep(task, search, best, best_score, False)
        task.report(Progress(now, config.generations, numbers))
        if ended:
            break
        if stopping:
            raise StoppedError
        progressed(now / config.generations, stretches)
        along = directions(search, config.pairs, task.seed)
        drawn = int(np.random.default_rng([task.seed, 3, now]).integers(2**31))
        scores = trial(stretches, candidates(search, along, config.sigma), drawn).score
        spread = {"spread": float(scores.std())}
        rate = 0.5 * config.rate * (1.0 + math.cos(math.pi * now / config.generations))
        search = moved(search, along, scores, rate, config.sigma, config.decay)

    # on draws that nothing was chosen by: the best of many centres was lucky on those that it was chosen by
    final, rule = (
        float(trial(judge, weights[None], task.seed + VALIDATION_SEED + 1).score[0])
        for weights in (best, np.zeros_like(best))
    )
    made = export.artifact(
        _network(best, fields, mean, scale, config), name=task.name, output="correction", scheme=SCHEME,
        observations=with_extremes(sample, *task.pools.known),
        provenance=task.provenance | {"algorithm": "evolve", "settings": asdict(config)},
        scores={"validation_score": final, "untrained_score": rule},
    )  # fmt: skip
    return Outcome(made, config.generations * 2 * config.pairs * config.stretches * span)


def _keep(task: Task, search: Search, best: np.ndarray, best_score: float, better: bool) -> None:
    arrays = {"centre": search.centre, "first": search.first, "second": search.second, "best": best}
    state: dict[str, Any] = {name: torch.as_tensor(array) for name, array in arrays.items()}
    state |= {"generation": search.generation, "best_score": best_score}
    task.run.checkpoint(search.generation, state, best=better)


def _seen_by_the_rule(stretches: Batch, decisions: int, seed: int) -> np.ndarray:
    """Return what is observed while nothing is corrected, (decisions x S, F) float32."""
    seen: list[np.ndarray] = []

    def nothing(observed: np.ndarray) -> np.ndarray:
        seen.append(observed[0])
        return np.zeros(observed.shape[:2], np.float32)

    tried(stretches, nothing, 1, decisions, seed)
    return np.concatenate(seen)


def _network(
    weights: np.ndarray, fields: Sequence[str], mean: np.ndarray, scale: np.ndarray, config: Config
) -> Mlp:  # fmt: skip
    """Return the candidate as a torch network, to be exported as every other."""
    made = Mlp(fields, sizes(config, len(fields))[1:-1], 1, config.activation)
    with torch.no_grad():
        made.mean.copy_(torch.as_tensor(mean))
        made.scale.copy_(torch.as_tensor(scale))
        for layer, (weight, bias) in zip(made.linears(), layers(weights[None], config, len(fields)), strict=True):
            layer.weight.copy_(torch.as_tensor(weight[0].T.copy()))
            layer.bias.copy_(torch.as_tensor(bias[0, 0]))
    return made
