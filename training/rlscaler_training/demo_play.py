"""One load scaled by several agents, step by step, as a demo shows it: live, in lines, or recorded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from rlscaler.errors import UserError
from rlscaler.policies import LEARNED
from rlscaler_sim.contenders import NAMES, OWN
from rlscaler_sim.palette import DARK, LIGHT
from rlscaler_sim.result import CLAIRVOYANT, LATE_WEIGHT, REFERENCE
from rlscaler_training import run_record
from rlscaler_training.run_table import printable
from rlscaler_training.trials import Candidate, Episode, unservable

BUILT_IN = "default"
"""The policy that comes with the program."""
BESIDE = (REFERENCE, "keda", "threshold")
"""The rules that are shown where no agents are named."""
MOST = 6
"""Trained policies that are shown at most where no agents are named."""
KNOWN = tuple(name for name in NAMES if name not in (CLAIRVOYANT, OWN))
"""The rules that can take part: those that are not made for the very load."""
_ORDER = (0, 2, 3, 4, 5, 6)
"""Colours of the palette in the order in which agents take them."""


@dataclass(frozen=True, slots=True)
class Agent:
    """name: what it is called. source: a rule's name or an artifact's path. learned: it is an artifact."""

    name: str
    source: str
    learned: bool


@dataclass(frozen=True, slots=True)
class Play:
    """T steps of E agents. time (T,): seconds since the start. load (T,): requests/s. demand (T,): replicas at full
    use. ready, replicas, backlog, late (E, T): serving, asked for, requests waiting, share of a step's requests that
    are late. cost, late_share, score (E, T): of all so far (late_share NaN-free; 0 before any request).
    """

    scenario: str
    agents: tuple[Agent, ...]
    interval: float
    capacity: float
    time: np.ndarray
    load: np.ndarray
    demand: np.ndarray
    ready: np.ndarray
    replicas: np.ndarray
    backlog: np.ndarray
    late: np.ndarray
    cost: np.ndarray
    late_share: np.ndarray
    score: np.ndarray

    @property
    def steps(self) -> int:
        """T."""
        return len(self.time)

    @property
    def top(self) -> float:
        """Replicas that charts reach up to: those that matter, without the odd peak of a policy."""
        least, most = 1.3 * self.demand.max(), 2.0 * self.demand.max()
        return float(max(np.clip(np.percentile(self.ready, 99.0), least, most), 1.0))

    def short(self, agent: int, step: int) -> bool:
        """Return whether requests wait that are not served within a second."""
        return bool(self.backlog[agent, step] > max(1.0, self.ready[agent, step] * self.capacity))

    def best(self, step: int) -> int:
        """Return the agent with the lowest score so far."""
        return int(self.score[:, step].argmin())

    def ranking(self, step: int) -> list[int]:
        """Return the agents by their score so far, the best first."""
        return [int(i) for i in np.argsort(self.score[:, step], kind="stable")]


def colour_of(index: int, *, dark: bool = True) -> str:
    """Return the colour of an agent as #rrggbb."""
    return (DARK if dark else LIGHT)[_ORDER[index % len(_ORDER)]]


def agents(asked: Sequence[str], root: str | Path) -> tuple[list[Agent], list[str]]:
    """Return who takes part, and what the watcher must know.

    asked: rules, artifacts or folders of runs; nothing: every policy among the runs in `root`, the newest MOST, then
    the built-in one and BESIDE. Raises UserError.
    """
    if asked:
        found = [agent(name, root) for name in asked]
        names = [each.name for each in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"--agents: {twice[0]!r} is named twice; expected every name once")
        return found, []
    notes: list[str] = []
    trained: list[Agent] = []
    if Path(root).is_dir():
        records, problems = run_record.found(root)
        notes += [f"left out: {problem}" for problem in problems]
        for record in records:
            if record.policy is None:
                continue
            if problem := unservable(record.policy):
                notes.append(f"left out: {record.name}: {problem}")
            else:
                trained.append(Agent(record.name, str(record.policy), True))
        if len(trained) > MOST:
            notes.append(
                f"the newest {MOST} of {len(trained)} trained policies in {root} are shown; choose by --agents"
            )
            trained = trained[-MOST:]
    if not trained:
        notes.append(f"no trained policies in {root}; train one with 'rlscaler train q-learning'")
    taken = {each.name for each in trained}
    return trained + [Agent(name, name, False) for name in (BUILT_IN, *BESIDE) if name not in taken], notes


def agent(name: str, root: str | Path = "runs") -> Agent:
    """Return the agent of a rule's name, an artifact's path, or a run's folder or name. Raises UserError."""
    if name in (BUILT_IN, LEARNED) or name in KNOWN:
        return Agent(name, name, False)
    for path in (Path(name), Path(root) / name):
        if (path / run_record.CONFIG).exists():
            policy = run_record.read(path).policy
            if policy is None:
                raise UserError(f"--agents {name}: the run has no policy yet; finish it first")
            return Agent(path.resolve().name, str(policy), True)
    if Path(name).exists():
        return Agent(Path(name).stem, name, True)
    raise UserError(f"--agents {name}: no such rule, artifact or run; expected {BUILT_IN}, {LEARNED}, "
                    f"{', '.join(KNOWN)}, a file NAME.rlz or the folder of a run")  # fmt: skip


def candidates(found: Sequence[Agent]) -> list[Candidate]:
    """Return the agents as candidates of a trial."""
    return [Candidate(each.name, each.source) for each in found]


def play_of(found: Episode, taking_part: Sequence[Agent], scenario: str) -> Play:
    """Return an episode as a demo shows it; its entrants are the agents."""
    traced, interval = found.traced, float(found.settings.interval)
    capacity = float(found.settings.capacity_per_replica)
    load = np.array(traced.load)
    billed, needed = (np.cumsum(traced.array(name), axis=1) for name in ("billed", "needed"))
    late = np.nan_to_num(traced.array("violations"))
    requests = np.cumsum(load * interval)
    cost = billed / np.maximum(needed, 1e-9)
    share = np.cumsum(late * load * interval, axis=1) / np.maximum(requests, 1e-9)
    return Play(
        scenario=scenario, agents=tuple(taking_part), interval=interval, capacity=capacity,
        time=np.array(traced.time) - traced.time[0], load=load, demand=load / capacity, ready=traced.array("ready"),
        replicas=traced.array("replicas"), backlog=traced.array("backlog"), late=late, cost=cost, late_share=share,
        score=cost + LATE_WEIGHT * share,
    )  # fmt: skip


def clock(seconds: float) -> str:
    """Return a time since the start."""
    whole = round(seconds)
    return f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"


def lines(play: Play, every: float = 300.0) -> Iterator[str]:
    """Yield the demo as plain lines: a heading, and for each `every` seconds of the load a line for each agent."""
    width = max(5, *(len(each.name) for each in play.agents))
    yield f"time      load/s  {'agent':<{width}}  ready  asked  backlog    cost    late %   score"
    stride = max(1, round(every / play.interval))
    for step in [*range(0, play.steps - 1, stride), play.steps - 1]:
        for i, each in enumerate(play.agents):
            counts = f"{play.ready[i, step]:>5.0f}  {play.replicas[i, step]:>5.0f}  {play.backlog[i, step]:>7,.0f}"
            figures = f"{play.cost[i, step]:>6.3f}  {100 * play.late_share[i, step]:>8.2f}  {play.score[i, step]:>6.3f}"
            moment = f"{clock(play.time[step])} {play.load[step]:>7,.0f}"
            yield f"{moment}  {printable(each.name):<{width}}  {counts}  {figures}"


def corners(values: np.ndarray) -> list[int]:
    """Return the indices at which values (T,) change, the first and the last among them."""
    changed = [i for i, (before, now) in enumerate(pairwise(values.tolist()), 1) if now != before]
    return sorted({0, *changed, len(values) - 1})
