"""What the learners of stable-baselines3 share: its checkpoints, its evaluation, its export (environments: `sb3_envs`).

stable-baselines3 keeps its own state in pickles; here all of it that a step depends on (networks, optimiser, replay,
generators, counters, environments) goes into a checkpoint of plain tensors and numbers, taken where a roll-out begins,
so that a run that was cut off goes on as if it never was. Its DQN and PPO know no masks: they may choose what a bound
forbids, which has the effect of the nearest choice within it. The policy that is served takes masks into account.
"""

import json
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import nn

from rlscaler.errors import UserError
from rlscaler.mlp import chosen
from rlscaler.observation import NAMES
from rlscaler_sim.batch import Batch
from rlscaler_training import export, loads
from rlscaler_training.export import Mlp
from rlscaler_training.inputs import with_extremes
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task
from rlscaler_training.legacy import Legacy
from rlscaler_training.loads import Environments
from rlscaler_training.sb3_envs import Envs, survey


@dataclass(slots=True)
class Watch:
    """What is measured on the way: evaluations, and the network that was best. waited: evaluations since then."""

    score: float = float("nan")
    cost: float = float("nan")
    late: float = float("nan")
    best_score: float = float("inf")
    waited: int = 0
    evaluated: int = -1
    saved: int = -1
    best: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """When what is done, in steps of environments. patience: evaluations without a better one, 0: for ever."""

    steps: int
    evaluate_every: int
    checkpoint_every: int
    patience: int
    episode: int


class EnoughError(Exception):
    """The validation score has not become better for long enough."""


class Overseer(BaseCallback):
    """Evaluates, logs, keeps checkpoints and the best network, tells progress, and stops when that is asked for."""

    def __init__(self, task: Task, envs: Envs, judge: Environments, plan: Plan, copied: Callable[[], Mlp]) -> None:
        """Take what is watched. copied: returns the policy as it is."""
        super().__init__()
        self.task, self.envs, self.judge, self.plan, self.copied = task, envs, judge, plan, copied
        self.elsewhere = loads.elsewhere(task.world, judge.scheme.name, plan.episode)
        self.watch = Watch()
        self.seconds = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.at(self.model.num_timesteps)

    def at(self, step: int, last: bool = False) -> None:
        """Do what is due after so many steps. Raises StoppedError, EnoughError and NotFiniteError."""
        watch, plan = self.watch, self.plan
        loads.progressed(step / plan.steps, self.envs.batch, self.envs.twin)
        due = last or step // plan.evaluate_every > watch.evaluated // plan.evaluate_every
        if due and step != watch.evaluated:
            self._evaluate(step)
        told = {"return": -watch.score * plan.episode, **self._numbers()}
        self.task.report(Progress(step, plan.steps, told))
        enough = bool(plan.patience) and watch.waited >= plan.patience
        wanted = self.task.stop() and not last
        better = watch.evaluated == step and watch.waited == 0
        if step != watch.saved and (last or better or wanted or enough or self._passed(step)):
            watch.saved = step
            self.require_finite()
            self.task.run.checkpoint(step, self.kept(), best=better)
        if wanted:
            raise StoppedError
        if enough and not last:
            raise EnoughError

    def require_finite(self) -> None:
        """Raise NotFiniteError where a weight is no number."""
        if not all(bool(torch.isfinite(value).all()) for value in self.model.policy.state_dict().values()):
            self.task.run.log(self.model.num_timesteps, {"weights": float("nan")})

    def _passed(self, step: int) -> bool:
        return step // self.plan.checkpoint_every > self.watch.saved // self.plan.checkpoint_every

    def _numbers(self) -> dict[str, float]:
        watch = self.watch
        return {"score": watch.score, "best": watch.best_score, "cost": watch.cost, "late": watch.late}

    def _evaluate(self, step: int) -> None:
        network, watch = self.copied(), self.watch
        cost, late = evaluate(self.judge, network, self.plan.episode, self.task.seed + 1)
        watch.score, watch.cost, watch.late, watch.evaluated = cost + late, cost, late, step
        if watch.score < watch.best_score:
            watch.best_score, watch.waited = watch.score, 0
            watch.best = {name: value.clone() for name, value in network.state_dict().items()}
        else:
            watch.waited += 1
        told = {
            name.replace("/", "_"): float(value)
            for name, value in self.model.logger.name_to_value.items()
            if name.startswith(("train/", "rollout/")) and np.ndim(value) == 0
        }
        if not np.isfinite(told.get("train_explained_variance", 0.0)):
            del told["train_explained_variance"]  # none is defined where all returns are the same
        if self.elsewhere is not None:
            told["score_randomised"] = sum(evaluate(self.elsewhere, network, self.plan.episode, self.task.seed + 1))
        self.task.run.log(step, self._numbers() | told)

    def kept(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as tensors, numbers and text."""
        watch = self.watch
        names = ("score", "cost", "late", "best_score", "waited", "evaluated", "saved", "best")
        return {
            "model": model_kept(self.model),
            "envs": self.envs.kept(),
            "watch": {name: getattr(watch, name) for name in names},
            "random": generators(),
        }

    def put_back(self, held: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        model_put_back(self.model, held["model"])
        self.envs.put_back(held["envs"])
        self.watch = Watch(**held["watch"])
        restore_generators(held["random"])


def evaluate(judge: Environments, network: Mlp, steps: int, seed: int) -> tuple[float, float]:
    """Return cost and price x late share of the greedy policy in the judge's environments."""
    observation = judge.reset(seed)
    cost = late = 0.0
    for _ in range(steps):
        with torch.no_grad():
            values = network(torch.from_numpy(np.ascontiguousarray(observation))).numpy()
        done = judge.step(best(judge, values))
        observation = done.observation
        cost += float(done.cost.mean()) / steps
        late += float(done.late.mean()) / steps
    return cost, late


def best(envs: Environments, values: np.ndarray) -> np.ndarray:
    """Return the best allowed choices by their values, (N, choices of all branches side by side)."""
    if isinstance(envs, Batch):
        return np.asarray(chosen(envs.view, envs.scheme, values))
    found: np.ndarray = np.where(envs.mask(), values, -np.inf).argmax(axis=1)
    return found


_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num", "_current_progress_remaining",
             "exploration_rate")  # fmt: skip
_ARRAYS = ("_last_obs", "_last_episode_starts")
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _replay(model: BaseAlgorithm) -> Any:
    """Return the model's replay, None where it has none."""
    return getattr(model, "replay_buffer", None)


def model_kept(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the state of a model of stable-baselines3 as it is where a roll-out begins."""
    held: dict[str, Any] = {
        "policy": {name: value.detach().cpu().clone() for name, value in model.policy.state_dict().items()},
        "optimiser": model.policy.optimizer.state_dict(),
        "counters": {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)},
        "arrays": {name: getattr(model, name) for name in _ARRAYS if getattr(model, name, None) is not None},
        "action_space": json.dumps(model.action_space.np_random.bit_generator.state),
    }
    replay = _replay(model)
    if replay is not None:
        filled = replay.size()
        held["replay"] = {"pos": replay.pos, "full": replay.full}
        held["replay"] |= {name: getattr(replay, name)[:filled] for name in _REPLAY}
    kept: dict[str, Any] = loads.tensors(held)
    return kept


def model_put_back(model: BaseAlgorithm, held: Mapping[str, Any]) -> None:
    """Put back what `model_kept` returned. Raises UserError where it is another network's."""
    try:
        model.policy.load_state_dict(held["policy"])
        model.policy.optimizer.load_state_dict(held["optimiser"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"the checkpoint is of another network: {str(error)[:200]}; begin a new run") from error
    for name, value in held["counters"].items():
        setattr(model, name, value)
    for name, value in loads.arrays(held["arrays"]).items():
        setattr(model, name, value)
    model.action_space.np_random.bit_generator.state = json.loads(held["action_space"])
    replay = _replay(model)
    if replay is not None:
        replay.pos, replay.full = held["replay"]["pos"], held["replay"]["full"]
        for name in _REPLAY:
            found = held["replay"][name].numpy()
            getattr(replay, name)[: len(found)] = found


def generators() -> dict[str, Any]:
    """Return the state of the global generators that stable-baselines3 draws from."""
    name, keys, at, has, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - it draws from this one
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "numpy": [name, torch.from_numpy(np.array(keys, np.int64)), at, has, cached],
        "python": [version, list(words), gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_generators(held: Mapping[str, Any]) -> None:
    """Put back what `generators` returned."""
    name, keys, at, has, cached = held["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), at, has, cached))  # noqa: NPY002
    version, words, gauss = held["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(held["torch"])
    if "cuda" in held and torch.cuda.is_available():
        torch.cuda.set_rng_state(held["cuda"])


@contextmanager
def own_generators() -> Iterator[None]:
    """Leave the global generators as they were."""
    before = generators()
    try:
        yield
    finally:
        restore_generators(before)


def copied(layers: Sequence[nn.Module], envs: Envs, activation: str, names: Sequence[str] = NAMES) -> Mlp:
    """Return the layers of a trained network as one that can be exported, its inputs normalised as in training."""
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    hidden = [layer.out_features for layer in linears[:-1]]
    fields = [names[int(column)] for column in envs.columns]
    network = Mlp(fields, hidden, linears[-1].out_features, activation, names)
    with torch.no_grad():
        for mine, theirs in zip(network.linears(), linears, strict=True):
            mine.weight.copy_(theirs.weight)
            mine.bias.copy_(theirs.bias)
        network.mean.copy_(torch.from_numpy(envs.mean))
        network.scale.copy_(torch.from_numpy(envs.scale))
    return network


def learned(
    task: Task,
    config: Any,
    made: Callable[[Envs], BaseAlgorithm],
    layers: Callable[[BaseAlgorithm], Sequence[nn.Module]],
) -> Outcome:
    """Train a model on the task, or go on with it, and return the network that was best on the validation load.

    config: a learner's, with the settings of `Plan`, `actions`, `envs`, `activation` and `twin`. made: makes the
    model. layers: those of its policy, in their order. Raises StoppedError, NotFiniteError and UserError.
    """
    batch, twin, judge = loads.environments(task.world, config.actions, config.envs, config.episode, task.seed)
    inputs = task.world.inputs
    sample = survey(batch, task.seed + 3)
    mean, scale = sample.mean(axis=0), np.maximum(sample.std(axis=0), 1e-2)
    columns = np.array([inputs.names.index(name) for name in task.world.fields])
    envs = Envs(batch, twin if config.twin else None, mean.astype(np.float32), scale.astype(np.float32), columns)
    plan = Plan(config.steps, config.evaluate_every, config.checkpoint_every, config.patience, config.episode)
    with own_generators(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to run PPO on the GPU", category=UserWarning)
        loads.progressed(0.0, batch, twin)
        envs.begin(task.seed)
        model = made(envs)
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.action_space.seed(task.seed)
        overseer = Overseer(
            task, envs, judge, plan, lambda: copied(layers(model), envs, config.activation, inputs.names)
        )
        overseer.model = model
        if (held := task.run.restore()) is not None:
            overseer.put_back(held)
        try:
            model.learn(
                max(0, config.steps - model.num_timesteps), overseer, log_interval=10**9,
                reset_num_timesteps=held is None,
            )  # fmt: skip
            overseer.at(model.num_timesteps, last=True)
        except EnoughError:
            pass
        except ValueError:  # a distribution of such weights raises it
            overseer.require_finite()
            raise
        network = overseer.copied()
        network.load_state_dict(overseer.watch.best)
    seen = np.concatenate([sample, np.stack([envs.low, envs.high])])
    artifact = export.artifact(
        network,
        name=task.name,
        output="choices",
        scheme=batch.scheme.name,
        observations=seen if isinstance(task.world, Legacy) else with_extremes(seen, *task.world.known),
        provenance=task.provenance,
        scores={"best_score": overseer.watch.best_score},
        inputs=inputs,
    )
    return Outcome(artifact, int(model.num_timesteps))
