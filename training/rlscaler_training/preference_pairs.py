"""Pairs of episodes to choose from, and the file of what was chosen.

Nothing of an episode is stored: a pair is a number, and who knows what it is drawn from (scenarios, hours, seed) can
play it again to the bit. A line of the file holds these, the answer, and a digest of the replicas of both episodes, so
that a world that has changed since is noticed:

    {"pair": 17, "scenarios": ["spike"], "hours": 3.0, "seed": 0, "answer": "a", "by": "person", "digest": "..."}

Both episodes of a pair meet the same load from the same moment and the same replicas on; what differs is how much
headroom is kept and how long. A line is on the disk before the next pair is asked, so a kill loses none; what a crash
left of a last line is cut off.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.action import BRANCHING
from rlscaler.errors import UserError
from rlscaler.files import unwritable
from rlscaler_sim.batch import Batch
from rlscaler_sim.load import LoadError, generator
from rlscaler_sim.patterns import PatternError
from rlscaler_sim.pool import Pool, prepare
from rlscaler_sim.scenarios import ScenarioError
from rlscaler_sim.trace import TraceError
from rlscaler_training import splits, worlds

SEGMENT = 60
"""Decisions of an episode: a quarter of an hour, in which an order serves from its fifth on."""
ROUND = 64
"""Pairs that are played at once."""
KEPT = 16
"""Rounds that are kept so as not to be played again, 3 MB each."""
HELD = 8
"""Decisions for which an episode keeps to a choice on average."""
AROUND = (2, 1)
"""How far a choice of either branch strays from the one that its episode is about."""
ANSWERS = ("a", "b", "equal", "skip")
REFUSE, SKIP = "refuse", "skip"
_STREAM, _LOADS = 0x70726566, 9_000


@dataclass(frozen=True, slots=True)
class Source:
    """What pairs are drawn from. scenarios: by name, none for those that are trained on by default."""

    scenarios: tuple[str, ...]
    hours: float
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One line: which of a pair is better. by: who said so. line: its number in the file, 0 before it is there."""

    pair: int
    scenarios: tuple[str, ...]
    hours: float
    seed: int
    answer: str
    by: str
    digest: str
    line: int = 0

    @property
    def source(self) -> Source:
        """What the pair is drawn from."""
        return Source(self.scenarios, self.hours, self.seed)


@dataclass(frozen=True, slots=True)
class Segments:
    """P pairs of episodes of T decisions: arrays (P, 2, T) unless stated.

    names (P,): of the loads. load: (P,) which workload of the source it is. interval: seconds. capacity: (P,)
    requests/s of a replica. needed: (P,) replicas that the load needs on average at full use. rate: (P, T) requests/s.
    observation: (P, 2, T, F) float32, before each decision. action: (P, 2, T, branches) int64. replicas: asked for.
    ready, backlog: replicas and requests after it. cost: billed over needed. late: late requests over the load's mean
    arrivals of a decision. arrivals: (P, T) requests over the same.
    """

    names: tuple[str, ...]
    load: np.ndarray
    interval: float
    capacity: np.ndarray
    needed: np.ndarray
    rate: np.ndarray
    observation: np.ndarray
    action: np.ndarray
    replicas: np.ndarray
    ready: np.ndarray
    backlog: np.ndarray
    cost: np.ndarray
    late: np.ndarray
    arrivals: np.ndarray

    @property
    def late_share(self) -> np.ndarray:
        """Share of the requests of each episode that are late, (P, 2)."""
        come = np.maximum(self.arrivals.sum(axis=1), 1e-9)
        share: np.ndarray = self.late.sum(axis=2) / come[:, None]
        return share

    @property
    def changes(self) -> np.ndarray:
        """Change of the replicas at each decision, as a share of those that the load needs on average."""
        steps = np.abs(np.diff(self.replicas, axis=2, prepend=self.replicas[:, :, :1]))
        share: np.ndarray = steps / self.needed[:, None, None]
        return share

    def digest(self, row: int) -> str:
        """Return a digest of what a pair is, by its whole replicas."""
        return hashlib.sha256(self.replicas[row].astype("<i4").tobytes()).hexdigest()[:16]

    def some(self, rows: Sequence[int]) -> "Segments":
        """Return these pairs alone."""
        index = np.asarray(rows, np.int64)
        own: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        own.update({name: value[index] for name, value in own.items() if isinstance(value, np.ndarray)})
        own["names"] = tuple(self.names[i] for i in index)
        return Segments(**own)


def joined(parts: Sequence[Segments]) -> Segments:
    """Return the pairs of all, of one interval."""
    own: dict[str, Any] = {}
    own["names"] = tuple(name for part in parts for name in part.names)
    own["interval"] = parts[0].interval
    for each in fields(Segments):
        if each.name not in own:
            own[each.name] = np.concatenate([getattr(part, each.name) for part in parts])
    return Segments(**own)


class Player:
    """Plays the pairs of one source."""

    def __init__(self, source: Source) -> None:
        """Prepare its load, which takes seconds. Raises UserError where a scenario is not there."""
        self.source = source
        try:
            found = splits.named(source.scenarios).train
            drawn = [worlds.stated(each) for each in found]
            seed = source.seed + _LOADS
            loads = [worlds.load(each, source.hours * 3600.0, generator(each.scenario.name, seed)) for each in drawn]
            config, settings = worlds.conditions(drawn)
            self.pool: Pool = prepare(loads, config, settings, seed)
        except (TraceError, LoadError, ScenarioError, PatternError) as error:
            raise UserError(f"pairs of {', '.join(source.scenarios)}: {error}") from error
        self.names = tuple(each.name for each in found)
        self.batch = Batch(self.pool, config, settings, BRANCHING, ROUND, SEGMENT + 1, 0)
        self._rounds: dict[int, Segments] = {}

    def play(self, pairs: Sequence[int]) -> Segments:
        """Return these pairs, in this order."""
        rounds = {which: self._rounds.get(which) or self._round(which) for which in sorted({n // ROUND for n in pairs})}
        self._rounds = dict(list((rounds | self._rounds).items())[:KEPT])
        parts = [
            rounds[which].some([pair % ROUND for pair in group])
            for which, group in groupby(pairs, key=lambda pair: pair // ROUND)
        ]
        return joined(parts)

    def _round(self, which: int) -> Segments:
        """Return the pairs of one round, each side played on its own."""
        seeds = np.random.SeedSequence((_STREAM, self.source.seed, which)).generate_state(3)
        sides = [self._side(int(seeds[0]), np.random.default_rng(int(seed))) for seed in seeds[1:]]
        both = {name: np.stack([side[name] for side in sides], axis=1) for name in sides[0] if name not in _SHARED}
        one = {name: sides[0][name] for name in _SHARED}
        capacity = np.broadcast_to(np.asarray(self.batch.config.capacity_per_replica, np.float64), (self.pool.loads,))
        load = one["load"]
        return Segments(
            names=tuple(self.names[i] for i in load), load=load, interval=self.pool.interval, capacity=capacity[load],
            needed=self.pool.mean_needed[load] / self.pool.interval, rate=one["rate"], arrivals=one["arrivals"], **both,
        )  # fmt: skip

    def _side(self, seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Play one episode of each pair of a round."""
        batch, pool = self.batch, self.pool
        observation = batch.reset(seed)
        load, begin, price = batch.load.copy(), batch.at.copy(), batch.price
        rows: dict[str, list[np.ndarray]] = {}
        for action in behaviour(rng, ROUND, SEGMENT):
            seen = np.array(observation)
            done = batch.step(action)
            told = {
                "observation": seen, "action": action, "replicas": done.replicas, "ready": batch.state["plan"][0],
                "backlog": batch.state["waiting"], "cost": done.cost, "late": done.late / price,
            }  # fmt: skip
            for name, values in told.items():
                rows.setdefault(name, []).append(np.array(values))
            observation = done.observation
        at = begin[:, None] + np.arange(SEGMENT)
        rate = pool.rates[load[:, None], at].mean(axis=2, dtype=np.float64)
        shared = {"load": load, "rate": rate, "arrivals": rate * pool.interval / pool.mean_arrivals[load][:, None]}
        return {name: np.stack(values, axis=1) for name, values in rows.items()} | shared


_SHARED = ("load", "rate", "arrivals")


@lru_cache(maxsize=2)
def player(source: Source) -> Player:
    """Return what plays the pairs of a source, prepared once. Raises UserError."""
    return Player(source)


def behaviour(rng: np.random.Generator, n: int, steps: int) -> Iterator[np.ndarray]:
    """Yield the choices (n, branches) of each decision: near one that each episode is about, held for a while."""
    branches = np.array(BRANCHING.branches)
    about = rng.integers(branches, size=(n, 2))
    action = about
    for _ in range(steps):
        stray = np.stack([rng.integers(-far, far + 1, size=n) for far in AROUND], axis=1)
        anew = rng.random((n, 2)) < 1.0 / HELD
        action = np.where(anew, np.clip(about + stray, 0, branches - 1), action)
        yield action


def played(answers: Sequence[Answer], faulty: str, where: str | Path) -> tuple[list[Answer], Segments, list[str]]:
    """Return the answers whose pairs are what they were, the pairs, and notes.

    faulty: REFUSE raises UserError naming the first line whose pair is another one now; SKIP leaves it out.
    """
    kept: list[Answer] = []
    parts: list[Segments] = []
    lost = 0
    for source in dict.fromkeys(each.source for each in answers):
        mine = [each for each in answers if each.source == source]
        try:
            segments = player(source).play([each.pair for each in mine])
        except UserError as error:
            if faulty == REFUSE:
                raise UserError(f"{where}: line {mine[0].line}: {error}") from error
            lost += len(mine)
            continue
        same = [row for row, each in enumerate(mine) if segments.digest(row) == each.digest]
        if faulty == REFUSE and len(same) < len(mine):
            first = next(each for row, each in enumerate(mine) if row not in set(same))
            raise UserError(f"{where}: line {first.line}: pair {first.pair} is played otherwise by this version than "
                            "when it was answered; expected the same world, or '--preference-faulty skip'")  # fmt: skip
        lost += len(mine) - len(same)
        if same:
            kept += [mine[row] for row in same]
            parts.append(segments.some(same))
    if not parts:
        raise UserError(f"{where}: holds no answer to a pair that this version can play again")
    notes = [f"{where}: {lost} answers are left out, whose pairs cannot be played again as they were"] if lost else []
    return kept, joined(parts), notes


# --- the file


def read(path: str | Path, faulty: str = REFUSE) -> tuple[list[Answer], list[str]]:
    """Return the answers of a file, and notes about it.

    A last line without an end is what a crash left and is left out. faulty: REFUSE raises UserError naming the first
    other line that is none, SKIP leaves such lines out and says so.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    rows, notes, bad = text.split("\n"), [], []
    if torn := rows.pop():
        notes.append(f"{path}: line {len(rows) + 1} is torn ({torn[:40]!r}...) and left out")
    answers = []
    for number, row in enumerate(rows, 1):
        try:
            answers.append(parsed(row, number))
        except ValueError as error:
            if faulty == REFUSE:
                raise UserError(f"{path}: line {number} is no answer: {error}; mend it or take it out") from error
            bad.append(number)
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        notes.append(f"{path}: {len(bad)} lines are no answers and left out: {shown}")
    return answers, notes


def parsed(row: str, number: int = 0) -> Answer:
    """Return the answer of a line. Raises ValueError."""
    try:
        told = json.loads(row)
    except (ValueError, RecursionError):
        raise ValueError(f"{row[:40]!r} is not JSON") from None
    if not isinstance(told, dict):
        raise ValueError(f"{row[:40]!r} is not an object")
    wanted: dict[str, Any] = {
        "pair": int, "scenarios": list, "hours": (int, float), "seed": int, "answer": str, "by": str, "digest": str,
    }  # fmt: skip
    for name, kind in wanted.items():
        if name not in told:
            raise ValueError(f"{name!r} is missing")
        if not isinstance(told[name], kind) or isinstance(told[name], bool):
            raise ValueError(f"{name} is {told[name]!r}")
    if told["answer"] not in ANSWERS:
        raise ValueError(f"answer is {told['answer']!r}; expected one of {', '.join(ANSWERS)}")
    if told["pair"] < 0 or told["seed"] < 0 or not 1.0 <= told["hours"] <= 24.0 * 14:
        raise ValueError(f"pair {told['pair']}, seed {told['seed']} or hours {told['hours']} is out of range")
    if not all(isinstance(name, str) for name in told["scenarios"]):
        raise ValueError("scenarios are not all names")
    own = {name: told[name] for name in wanted}
    return Answer(**(own | {"scenarios": tuple(told["scenarios"]), "hours": float(told["hours"]), "line": number}))


def line(answer: Answer) -> str:
    """Return an answer as a line, its end included."""
    told = asdict(answer)
    told.pop("line")
    return json.dumps(told) + "\n"


def mended(path: str | Path) -> list[str]:
    """Cut off what a crash left of a last line, so that lines can be appended; return notes. Raises UserError."""
    file = Path(path)
    if not file.exists():
        return []
    try:
        data = file.read_bytes()
        if not data or data.endswith(b"\n"):
            return []
        whole = data.rfind(b"\n") + 1
        with file.open("r+b") as stream:
            stream.truncate(whole)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise unwritable(path, error) from error
    number, rest = data.count(b"\n") + 1, data[whole:].decode("utf-8", "replace")
    return [f"{path}: line {number} was torn ({rest[:40]!r}...): it is cut off, and its pair is asked again"]


def append(path: str | Path, answers: Sequence[Answer]) -> None:
    """Append answers, on the disk before it returns. Raises UserError where they cannot be written whole."""
    data = "".join(line(each) for each in answers).encode("utf-8")
    try:
        with Path(path).open("ab") as stream:
            before = stream.tell()
            try:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                with suppress(OSError):
                    os.ftruncate(stream.fileno(), before)
                raise
    except OSError as error:
        raise unwritable(path, error) from error
