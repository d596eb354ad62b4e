"""Scripted answers to pairs, for tests and measurements: what a person of one mind would say, now and then by mistake.

A mistake is an answer turned round, with a stated probability (the `Mistake` teacher of B-Pref, Lee et al. 2021, arXiv
2111.03026); two episodes within a margin of each other are called equal, as its teachers do.
"""

from collections.abc import Callable

import numpy as np

from rlscaler_training.preference_pairs import Segments

TEACHERS: dict[str, tuple[str, Callable[[Segments], np.ndarray], float]] = {
    "slo": ("fewer late requests", lambda found: found.late_share, 1e-3),
    "cost": ("fewer replicas billed", lambda found: found.cost.mean(axis=2), 1e-2),
    "flap": ("fewer changes of the replicas", lambda found: (found.changes > 0.0).sum(axis=2).astype(float), 0.5),
}
"""Name -> what it wants, what it counts of episodes (P, 2), and the difference within which two are equal."""
_STREAM = 0x7465616368


def meant(name: str, found: Segments) -> list[str]:
    """Return what a teacher answers each pair without a mistake."""
    _, counted, margin = TEACHERS[name]
    values = counted(found)
    lead = values[:, 1] - values[:, 0]
    return ["equal" if abs(each) <= margin else "a" if each > 0.0 else "b" for each in lead]


def answers(name: str, found: Segments, pairs: np.ndarray, error: float, seed: int) -> list[str]:
    """Return what a teacher answers pairs of these numbers, a share of `error` of its choices turned round.

    Whether it errs on a pair follows from seed and number alone, so a file that is gone on with is that of one go.
    """
    said = []
    for answer, pair in zip(meant(name, found), pairs, strict=True):
        errs = np.random.default_rng((_STREAM, seed, int(pair))).random() < error
        said.append({"a": "b", "b": "a"}.get(answer, answer) if errs else answer)
    return said
