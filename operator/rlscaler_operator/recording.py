"""The decision log of `rlscaler run --decisions`: each decision as a line of JSON, as `rlscaler dry-run` writes it.

The loop hands over what it has decided and goes on; a thread works out what followed (`aftermath`), makes the lines and
appends them (`decision_file`). A line is complete, and written, when the interval after its decision has been lived
through, or when that can no longer be known: `outcome` is then null. A disk that is full or hangs costs lines, which
are counted and told, and never a decision.
"""

import json
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from rlscaler.decisions import Decisions
from rlscaler.observation import NAMES, SCHEMA, observe
from rlscaler.policy import View
from rlscaler.stated import stated
from rlscaler.tenured import OFF
from rlscaler_operator.aftermath import OUTCOME, Aftermath
from rlscaler_operator.decision_file import DecisionFile
from rlscaler_operator.model import Key, PolicyInUse

Fate = Literal["Written", "Failed", "Dropped"]
"""What becomes of a line. Failed: the file could not be written. Dropped: the disk, or this thread, did not keep up."""
WAITING: Final = 64
"""Batches that may wait for the thread; a tick makes one for each policy in use, at most ten in a second."""
FORGOTTEN: Final = 3600.0
"""Seconds without a decision after which nothing more is expected of a workload."""

log = logging.getLogger("rlscaler.recording")


class Batch(NamedTuple):
    """Decisions of one policy at one tick. view: its arrays are made anew for each tick, so they may be kept.

    served: by workload, the policy of an inference server that proposed in place of that one.
    """

    keys: Sequence[Key]
    policy: PolicyInUse
    view: View
    made: Decisions
    served: Mapping[Key, str] = MappingProxyType({})


@dataclass(slots=True)
class _Line:
    """A decision whose line is not written yet.

    number: of the decision in its worlds; -1 where what followed it is known to be unknown, or known already.
    """

    number: int
    told: dict[str, Any]
    observation: np.ndarray
    outcome: dict[str, Any] | None = None
    applied: bool | None = None

    def text(self) -> str:
        """Return the line."""
        observation = np.asarray(self.observation, np.float64).round(5).tolist()
        value = self.told | {
            "applied": self.applied,
            "outcome": self.outcome,
            "observation_schema": SCHEMA,
            "observation": dict(zip(NAMES, observation, strict=True)),
        }
        return json.dumps(value) + "\n"


class Lines:
    """Makes the lines of decisions, each when what followed is known; those of a workload are in their order."""

    def __init__(self) -> None:
        """Start empty."""
        self._aftermath = Aftermath()
        self._waiting: dict[Key, deque[_Line]] = {}
        self._looked_at = -np.inf

    def made(self, batch: Batch) -> Iterator[str]:
        """Take in a batch, and yield the lines that are complete by it."""
        ticks = self._aftermath.tick(batch.keys, batch.view)
        observations = observe(batch.view)
        for i, key in enumerate(batch.keys):
            waiting = self._waiting.setdefault(key, deque())
            if waiting:
                # Whoever set the count, the decision or somebody else: what followed is what that count brought.
                waiting[-1].applied = bool(batch.view.current[i] == waiting[-1].told["replicas"])
            if ticks.began[i]:
                yield from _all(waiting)
            elif ticks.told[i] >= 0:
                yield from _until(waiting, int(ticks.told[i]), ticks.outcome[i])
            told = {"workload": str(key), "policy": batch.served.get(key, batch.policy.name)} | batch.made.explain(i)
            if batch.policy.digest and key not in batch.served:
                told["tenure"] = batch.policy.tenure or OFF
            told["settings"] = stated(batch.view.settings, i)
            waiting.append(_Line(int(ticks.number[i]), told, observations[i]))
        now = float(np.max(batch.made.time, initial=-np.inf))
        if now - self._looked_at > FORGOTTEN:
            self._looked_at = now
            yield from self._forgotten(now)

    def rest(self) -> Iterator[str]:
        """Yield what waits; what follows is not known then."""
        for waiting in self._waiting.values():
            yield from _all(waiting)

    def _forgotten(self, now: float) -> Iterator[str]:
        for key in [key for key, lines in self._waiting.items() if now - lines[-1].told["time"] > FORGOTTEN]:
            yield from _all(self._waiting.pop(key))
            self._aftermath.forget(key)


def _all(waiting: deque[_Line]) -> Iterator[str]:
    while waiting:
        yield waiting.popleft().text()


def _until(waiting: deque[_Line], number: int, outcome: np.ndarray) -> Iterator[str]:
    """Yield what waits up to the decision of that number, of which the outcome is known."""
    while waiting and waiting[0].number <= number:
        line = waiting.popleft()
        if line.number == number and np.isfinite(outcome).all():
            values: Mapping[str, Any] = dict(zip(OUTCOME, outcome.round(6).tolist(), strict=True))
            line.outcome = {**values, "estimate": True}
        yield line.text()


class Recorder:
    """Writes the decision log from a thread of its own."""

    def __init__(self, file: DecisionFile, told: Callable[[Fate, int], None] = lambda *_: None) -> None:
        """Begin. told: hears, in that thread or the caller's, what became of how many lines."""
        self._file, self._told = file, told
        self._lines = Lines()
        self._batches: queue.Queue[Batch | None] = queue.Queue(WAITING)
        self._trouble = ""
        self._lost = 0
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="decisions", daemon=True)
        self._thread.start()

    def take(
        self,
        keys: Sequence[Key],
        policy: PolicyInUse,
        view: View,
        made: Decisions,
        served: Mapping[Key, str] | None = None,
    ) -> None:
        """Take in a batch of decisions; returns at once, and raises nothing. served: see `Batch`."""
        try:
            self._batches.put_nowait(Batch(tuple(keys), policy, view, made, served or {}))
        except queue.Full:
            self._told("Dropped", len(keys))

    def end(self) -> None:
        """Take in nothing more; what waits is written yet. Returns at once."""
        self._ending = True
        with suppress(queue.Full):  # the thread sees the end when it has gone through them
            self._batches.put_nowait(None)

    def join(self, seconds: float) -> None:
        """Wait until everything is written, for so long at most."""
        self._thread.join(seconds)

    def _work(self) -> None:
        while not (self._ending and self._batches.empty()):
            batch = self._batches.get()
            if batch is not None:
                self._write(batch)
        self._append(list(self._lines.rest()))

    def _write(self, batch: Batch) -> None:
        try:
            lines = list(self._lines.made(batch))
        except Exception:
            log.exception("decisions could not be recorded, which is a defect of rlscaler; scaling goes on")
            self._lines = Lines()
            self._told("Failed", len(batch.keys))
            return
        self._append(lines)

    def _append(self, lines: Sequence[str]) -> None:
        if not lines:
            return
        try:
            self._file.append("".join(lines).encode())
        except OSError as error:
            self._told("Failed", len(lines))
            self._lost += len(lines)
            said = error.strerror or str(error)
            if said != self._trouble:
                log.warning("%s: decisions cannot be recorded: %s; make room or make it writable, scaling goes on "
                            "without", self._file.path, said)  # fmt: skip
            self._trouble = said
            return
        self._told("Written", len(lines))
        if self._trouble:
            log.info("%s: decisions are recorded again; %d were lost", self._file.path, self._lost)
            self._trouble, self._lost = "", 0
