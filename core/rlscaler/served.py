"""What an inference server is asked and what it answers: N workloads' views as two arrays, N proposals as three.

A policy without a memory proposes by a `View` alone, so a view is all that has to travel; history and guard stay with
the caller (`Autoscaler.view` before, `Autoscaler.settle` after). Both ends use this module, so that a proposal made far
away is the one that would have been made here. Bodies are zips of `.npy` entries without pickles, as `numpy.savez`
writes them, read as if their author were hostile (`container`). Nothing here speaks HTTP.

======== =============================== ==============================================================
features (N, len(FEATURES)) float32      the fields of LOAD_FIELDS before they are bounded, and `level`
numbers  (N, len(NUMBERS)) float64       demand, counts, readings, settings: units of `Snapshot`, `Settings`
replicas (N,) float64                    what is proposed; NaN: no answer
patience (N,) float64                    seconds to keep replicas before lowering them
trained  (N,) bool                       the input lies within the policy's training range
======== =============================== ==============================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from rlscaler.container import ArtifactError, from_npy, npy, packed, unpacked
from rlscaler.errors import UserError
from rlscaler.observation import LOAD_FIELDS, SCHEMA
from rlscaler.policy import Proposal, View
from rlscaler.snapshot import LARGEST

FEATURES = (*(field.name for field in LOAD_FIELDS), "level")
"""Columns of `features`."""
READ = ("ready", "starting", "backlog", "utilization", "latency")
"""Columns of `numbers` that are readings: NaN where unknown."""
STATED = ("min_replicas", "max_replicas", "interval", "lag", "startup", "price", "objective_latency")
"""Columns of `numbers` that are settings, always known."""
NUMBERS = ("demand", "current", "capacity_per_replica", *READ, *STATED)
"""Columns of `numbers`."""
CONTENT_TYPE = "application/octet-stream"
POLICY, DIGEST, OBSERVED = "Rlscaler-Policy", "Rlscaler-Digest", "Rlscaler-Schema"
"""Headers of an answer: name and digest of the policy that made it, and the observation's schema that it reads."""
PATH = "/v1/decide"
LEAST = -1.0
"""What a proposal is above: half a replica is added to both sides of a headroom, and taken away again."""
_AHEAD = tuple(i for i, name in enumerate(FEATURES) if name.startswith("ahead_"))
_POSITIVE = ("max_replicas", "interval", "price", "objective_latency")
_ZERO_OR_MORE = ("min_replicas", "lag", "startup")


class WireError(UserError):
    """A request or an answer that cannot be used; the message says what was found and what is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What is asked: features (N, len(FEATURES)) float32 and numbers (N, len(NUMBERS)) float64."""

    features: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        """Return the number of workloads."""
        return len(self.numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What is proposed, of shape (N,) each: replicas and patience float64, trained bool."""

    replicas: np.ndarray
    patience: np.ndarray
    trained: np.ndarray

    def __len__(self) -> int:
        """Return the number of workloads."""
        return len(self.replicas)

    def part(self, begin: int, end: int) -> "Answers":
        """Return the answers to some of the rows."""
        return Answers(self.replicas[begin:end], self.patience[begin:end], self.trained[begin:end])


def rows_of(view: View) -> Rows:
    """Return what has to be asked for a view of NumPy arrays."""
    n = len(view.demand)
    features = np.empty((n, len(FEATURES)), np.float32)
    for column, name in enumerate(FEATURES):
        ahead = column in _AHEAD
        features[:, column] = view.features["ahead"][:, int(name[6:]) - 1] if ahead else view.features[name]
    settings, snapshot = view.settings, view.snapshot
    known = {"demand": view.demand, "current": view.current, "capacity_per_replica": settings["capacity_per_replica"]}
    known |= {name: snapshot[name] for name in READ}
    known |= {name: settings["latency" if name == "objective_latency" else name] for name in STATED}
    return Rows(features, np.stack([np.asarray(known[name], np.float64) for name in NUMBERS], axis=1))


def view_of(rows: Rows, xp: Any = np, device: Any = None) -> View:
    """Return the view that was asked for, as arrays of a library on one of its devices."""

    def array(values: np.ndarray) -> Any:
        return np.ascontiguousarray(values) if xp is np else xp.asarray(np.array(values), device=device)

    features = {name: array(rows.features[:, i]) for i, name in enumerate(FEATURES) if i not in _AHEAD}
    features["ahead"] = array(rows.features[:, list(_AHEAD)])
    numbers = {name: array(rows.numbers[:, i]) for i, name in enumerate(NUMBERS)}
    settings = {name: numbers[name] for name in ("capacity_per_replica", *STATED)}
    settings["latency"] = settings.pop("objective_latency")
    return View(
        xp=xp,
        settings=settings,
        snapshot={name: numbers[name] for name in READ},
        features=features,
        demand=numbers["demand"],
        current=numbers["current"],
    )


def answers_of(proposal: Proposal) -> Answers:
    """Return a proposal of NumPy arrays as an answer."""
    replicas = np.asarray(proposal.replicas, np.float64)
    patience = np.zeros(len(replicas)) if proposal.patience is None else np.asarray(proposal.patience, np.float64)
    trained = np.ones(len(replicas), bool) if proposal.trained is None else np.asarray(proposal.trained, bool)
    return Answers(replicas, patience, trained)


def joined(parts: Sequence[Rows]) -> Rows:
    """Return several questions as one, an empty one where there are none."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Rows(np.zeros((0, len(FEATURES)), np.float32), np.zeros((0, len(NUMBERS))))
    return Rows(np.concatenate([part.features for part in parts]), np.concatenate([part.numbers for part in parts]))


def require_rows(rows: Rows) -> Rows:
    """Return the rows, if a policy can be asked about them; raises WireError that names the column and the row.

    Unknown readings are NaN; settings are known, and nothing is infinite.
    """
    for name, array, columns in (("features", rows.features, FEATURES), ("numbers", rows.numbers, NUMBERS)):
        if array.ndim != 2 or array.shape[1] != len(columns):
            _refuse(f"{name} has the shape {array.shape}", f"(N, {len(columns)}), the columns of schema {SCHEMA}")
        _require(~np.isinf(array), name, columns, array, "a finite number, or NaN where it is unknown")
    if len(rows.features) != len(rows.numbers):
        _refuse(f"features has {len(rows.features)} rows and numbers {len(rows.numbers)}", "as many")
    if not len(rows):
        _refuse("there are no rows", "one for each workload")
    numbers = rows.numbers
    for names, above, unknown in (
        (_POSITIVE, True, False),
        (_ZERO_OR_MORE, False, False),
        ((*READ, "demand", "current"), False, True),
        (("capacity_per_replica",), True, True),
    ):
        part = numbers[:, [NUMBERS.index(name) for name in names]]
        good = (part > 0.0 if above else part >= 0.0) | (np.isnan(part) & unknown)
        expected = ("a number above 0" if above else "0 or more") + (", or NaN where it is unknown" if unknown else "")
        _require(good, "numbers", names, part, expected)
    least, most = (numbers[:, NUMBERS.index(name)] for name in ("min_replicas", "max_replicas"))
    if (wrong := np.flatnonzero(least > most)).size:
        row = int(wrong[0])
        _refuse(f"numbers.min_replicas of row {row} is {least[row]:g}", f"at most max_replicas, {most[row]:g}")
    return rows


def _require(good: np.ndarray, name: str, columns: Sequence[str], array: np.ndarray, expected: str) -> None:
    if not good.all():
        row, column = (int(index) for index in np.argwhere(~good)[0])
        _refuse(f"{name}.{columns[column]} of row {row} is {array[row, column]:g}", expected)


def _refuse(found: str, expected: str) -> NoReturn:
    raise WireError(f"{found}; expected {expected}")


def question(rows: Rows) -> bytes:
    """Return the body of a request."""
    features, numbers = (np.ascontiguousarray(array) for array in (rows.features, rows.numbers))
    return packed({"features.npy": npy(features.astype("<f4")), "numbers.npy": npy(numbers.astype("<f8"))})


def asked(body: bytes, max_bytes: int) -> Rows:
    """Return the rows of a request's body; raises WireError for anything else."""
    arrays = _arrays(body, max_bytes, {"features": "float32", "numbers": "float64"}, "a question")
    return require_rows(Rows(arrays["features"], arrays["numbers"]))


def reply(answers: Answers) -> bytes:
    """Return the body of an answer."""
    return packed(
        {
            "replicas.npy": npy(np.ascontiguousarray(answers.replicas, "<f8")),
            "patience.npy": npy(np.ascontiguousarray(answers.patience, "<f8")),
            "trained.npy": npy(np.ascontiguousarray(answers.trained, bool)),
        }
    )


def answered(body: bytes, n: int, max_bytes: int) -> Answers:
    """Return the answers to n rows; raises WireError where it is none that a guard could be given.

    Replicas must be finite: a workload with nothing to decide by is not asked about.
    """
    kinds = {"replicas": "float64", "patience": "float64", "trained": "bool"}
    arrays = _arrays(body, max_bytes, kinds, "an answer")
    for name, array in arrays.items():
        if array.shape != (n,):
            _refuse(f"{name} has the shape {array.shape}", f"({n},), one for each row")
        if name != "trained" and not (good := (array > LEAST) & (array <= LARGEST)).all():
            row = int(np.flatnonzero(~good)[0])
            _refuse(f"{name} of row {row} is {array[row]:g}", f"a number above {LEAST:g}, at most {LARGEST:g}")
    return Answers(arrays["replicas"], arrays["patience"], arrays["trained"])


def _arrays(body: bytes, max_bytes: int, kinds: dict[str, str], what: str) -> dict[str, np.ndarray]:
    try:
        entries = unpacked(body, max_bytes)
        arrays = {name.removesuffix(".npy"): from_npy(name, data, max_bytes) for name, data in entries.items()}
    except ArtifactError as error:
        raise WireError(f"the body is no {what.split()[-1]}: {_first(error)}") from error
    if arrays.keys() != kinds.keys():
        found = ", ".join(sorted(arrays)) or "nothing"
        _refuse(f"the body holds {found}", f"the arrays {', '.join(kinds)} ({what})")
    for name, kind in kinds.items():
        if arrays[name].dtype.name != kind:
            _refuse(f"{name} is of the type {arrays[name].dtype.name}", kind)
    return arrays


def _first(error: ArtifactError) -> str:
    """Return an error without what is to be done about an artifact."""
    return str(error).rpartition(";")[0] or str(error)
