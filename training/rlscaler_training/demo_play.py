"""One load scaled by several agents, step by step, as a demo shows it: live, in lines, or recorded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from rlscaler.errors import UserError
from rlscaler.policies import LEARNED
from rlscaler.quantities import printable
from rlscaler_sim.contenders import NAMES, OWN
from rlscaler_sim.palette import DARK, LIGHT
from rlscaler_sim.result import CLAIRVOYANT, LATE_WEIGHT, REFERENCE
from rlscaler_training import run_record
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
class Terms:
    """What the figures of a play are called, and how they are written: here those of this package's world.

    load, count: units of the load and of what is scaled. ready, asked, backlog, cost, late, score: labels. percent:
    whether `late` is a share. digits: of the cost on a screen. sign: of the score as it is shown, where the lowest
    stored one is the best. grey, line, red: what the chart's parts are. by: what agents are ranked by.
    """

    load: str = "requests/s"
    count: str = "replicas"
    ready: str = "ready"
    asked: str = "asked"
    backlog: str = "backlog"
    cost: str = "cost"
    late: str = "late"
    score: str = "score"
    percent: bool = True
    digits: int = 2
    sign: int = 1
    grey: str = "load in replicas"
    line: str = "ready"
    red: str = "not served"
    strip: str = "late requests"
    by: str = "lowest score = cost + 20 x late"

    def late_told(self, value: float, digits: int = 2) -> str:
        """Return what is late in words."""
        return f"{100 * value:.{digits}f} %" if self.percent else f"{value:.{digits}f}"


WORKLOADS = Terms()


@dataclass(frozen=True, slots=True)
class Play:
    """T steps of E agents. time (T,): seconds since the start. load (T,): requests/s. demand (T,): replicas at full
    use. ready, replicas, backlog, late (E, T): serving, asked for, requests waiting, share of a step's requests that
    are late. cost, late_share, score (E, T): of all so far (late_share NaN-free; 0 before any request). terms: what
    all that is called where it is something else. notes (E,): what has to be said of an agent beside its name.
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
    terms: Terms = WORKLOADS
    notes: tuple[str, ...] = ()

    def title(self, agent: int) -> str:
        """Return an agent's name, with what has to be said of it, fit for a terminal."""
        note = self.notes[agent] if self.notes else ""
        return printable(self.agents[agent].name) + (f" ({note})" if note else "")

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


@dataclass(frozen=True, slots=True)
class Stage:
    """Who can take part in a demo. rules: by name. beside: those that stand beside policies where no agents are named.
    refusal: returns why an artifact cannot take part, "" where it can. train: the command that makes one that can.
    """

    rules: tuple[str, ...]
    beside: tuple[str, ...]
    refusal: Callable[[Path], str]
    train: str


WORLD = Stage((BUILT_IN, LEARNED, *KNOWN), (BUILT_IN, *BESIDE), unservable, "rlscaler train q-learning")
"""The world of this package."""


def agents(asked: Sequence[str], root: str | Path, stage: Stage = WORLD) -> tuple[list[Agent], list[str]]:
    """Return who takes part, and what the watcher must know.

    asked: rules, artifacts or folders of runs; nothing: every policy among the runs in `root`, the newest MOST, then
    what stands beside them. Raises UserError.
    """
    if asked:
        found = [agent(name, root, stage) for name in asked]
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
            if problem := stage.refusal(record.policy):
                notes.append(f"left out: {record.name}: {problem}")
            else:
                trained.append(Agent(record.name, str(record.policy), True))
        if len(trained) > MOST:
            notes.append(
                f"the newest {MOST} of {len(trained)} trained policies in {root} are shown; choose by --agents"
            )
            trained = trained[-MOST:]
    if not trained:
        notes.append(f"no trained policies in {root}; train one with '{stage.train}'")
    taken = {each.name for each in trained}
    return trained + [Agent(name, name, False) for name in stage.beside if name not in taken], notes


def agent(name: str, root: str | Path = "runs", stage: Stage = WORLD) -> Agent:
    """Return the agent of a rule's name, an artifact's path, or a run's folder or name. Raises UserError."""
    if name in stage.rules:
        return Agent(name, name, False)
    for path in (Path(name), Path(root) / name):
        if (path / run_record.CONFIG).exists():
            policy = run_record.read(path).policy
            if policy is None:
                raise UserError(f"--agents {name}: the run has no policy yet; finish it first")
            return _learned(path.resolve().name, policy, stage)
    if Path(name).exists():
        return _learned(Path(name).stem, Path(name), stage)
    raise UserError(f"--agents {name}: no such rule, artifact or run; expected {', '.join(stage.rules)}, a file "
                    "NAME.rlz or the folder of a run")  # fmt: skip


def _learned(name: str, path: Path, stage: Stage) -> Agent:
    if problem := stage.refusal(path):
        raise UserError(f"--agents {name}: {problem}")
    return Agent(name, str(path), True)


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
    terms = play.terms
    titles = [play.title(i) for i in range(len(play.agents))]
    width = max(5, *map(len, titles))
    unit = terms.load.replace("requests/s", "load/s")
    late = f"{terms.late} %" if terms.percent else terms.late
    yield (f"time      {unit:>6}  {'agent':<{width}}  {terms.ready:>5}  {terms.asked:>5}  {terms.backlog:>7}  "
           f"{terms.cost:>6}  {late:>8}  {terms.score:>6}")  # fmt: skip
    stride = max(1, round(every / play.interval))
    for step in [*range(0, play.steps - 1, stride), play.steps - 1]:
        for i, title in enumerate(titles):
            counts = f"{play.ready[i, step]:>5.0f}  {play.replicas[i, step]:>5.0f}  {play.backlog[i, step]:>7,.0f}"
            share = play.late_share[i, step] * (100.0 if terms.percent else 1.0)
            figures = f"{play.cost[i, step]:>6.3f}  {share:>8.2f}  {terms.sign * play.score[i, step]:>6.3f}"
            moment = f"{clock(play.time[step])} {play.load[step]:>7,.0f}"
            yield f"{moment}  {title:<{width}}  {counts}  {figures}"


def corners(values: np.ndarray) -> list[int]:
    """Return the indices at which values (T,) change, the first and the last among them."""
    changed = [i for i, (before, now) in enumerate(pairwise(values.tolist()), 1) if now != before]
    return sorted({0, *changed, len(values) - 1})
