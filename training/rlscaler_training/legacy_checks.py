"""What a policy of the environment of earlier work is checked for: the same answers each time, and sane ones.

Those checks that `rlscaler.probing` makes of a workload's policy, on what is seen there. All is drawn from fixed seeds.
"""

from itertools import pairwise

import numpy as np

from rlscaler.arrays import State
from rlscaler.artifact import Artifact
from rlscaler_sim import legacy
from rlscaler_sim.legacy_policy import HIGH, LOW, STEPS, LegacyPolicy, look, played
from rlscaler_training import agreement
from rlscaler_training.agreement import Agreement

SHOWN = 4096
"""Observations that a policy is asked about."""
SAMPLED = 100_000
"""Observations that a policy and its network in torch are asked about."""
ROWS = 64
"""Of them, those that it is asked about one by one."""


def anything(n: int, seed: int) -> np.ndarray:
    """Return observations (n, F) float32: half of them anywhere within the bounds, the rest at corners."""
    rng = np.random.default_rng(seed)
    inside = rng.uniform(LOW, HIGH, (n, len(LOW)))
    corner = np.where(rng.random((n, len(LOW))) < 0.5, LOW, HIGH)
    found: np.ndarray = np.where(np.arange(n)[:, None] < n // 2, inside, corner).astype(np.float32)
    return found


def repeatable(policy: LegacyPolicy, again: LegacyPolicy) -> str:
    """Return how answers differ where they may not, "" where they are the same: asked twice, of the artifact read anew,
    in another order, and row by row."""
    shown = anything(SHOWN, 1)
    whole = policy.values(shown)
    order = np.random.default_rng(2).permutation(SHOWN)
    tried = {
        "asked twice": policy.values(shown),
        "read anew": again.values(shown),
        "in another order": policy.values(shown[order])[np.argsort(order)],
        "row by row": np.concatenate([policy.values(shown[row : row + 1]) for row in range(ROWS)]),
    }
    for how, values in tried.items():
        same = np.isclose(whole[: len(values)], values, rtol=0.0, atol=0.0, equal_nan=True).all(axis=1)
        if different := int((~same).sum()):
            return f"{different} of {len(values)} answers differ {how}"
    return ""


def behaved(policy: LegacyPolicy) -> tuple[str, str]:
    """Return what is wrong with its answers, "" where nothing is, and what they are in words.

    Wrong are values that are no numbers, and one action whatever is seen: such a policy is a constant, and no policy.
    """
    shown = anything(SHOWN, 3)
    values = policy.values(shown)
    if bad := int((~np.isfinite(values)).any(axis=1).sum()):
        return f"{bad:,} of {SHOWN:,} answers to observations within their bounds are no numbers", ""
    episode = played(lambda _, fields: policy(fields))
    told = f"{SHOWN:,} answers to any observation at all are numbers"
    if episode.constant is not None and len(set(policy(shown).tolist())) == 1:
        return f"it is a constant: always {('remove', 'hold', 'add')[episode.constant]}, whatever it sees", told
    end = f"crashes in step {len(episode.queue)}" if len(episode.queue) < STEPS else f"lasts {STEPS} steps"
    counts = [int((episode.actions == action).sum()) for action in range(len(legacy.ACTIONS))]
    return "", (f"{told}; its episode {end}: removes {counts[0]}, holds {counts[1]}, adds {counts[2]} times, "
                f"{episode.instances.min():.0f} to {episode.instances.max():.0f} instances")  # fmt: skip


def more_load(policy: LegacyPolicy) -> tuple[int, int]:
    """Return how often more load gave fewer instances, and of how many steps of load: from idle to overloaded, nothing
    else changed."""
    needed = np.linspace(0.0, legacy.MAX_INFLUX / legacy.CAPACITY, 51)
    fewer = steps = 0
    for instances in (10.0, 20.0, 30.0, 40.0, 50.0):
        actions = policy(look(_state(instances, needed), needed * legacy.CAPACITY))
        fewer += sum(after < before for before, after in pairwise(actions.tolist()))
        steps += len(needed) - 1
    return fewer, steps


def _state(instances: float, needed: np.ndarray) -> State:
    """Return environments of so many instances each, and a load that needs as many (N,), nothing queued."""
    state = legacy.start(len(needed))
    influx = needed * legacy.CAPACITY
    load = np.ceil(np.minimum(influx / (instances * legacy.CAPACITY), 1.0) * 100.0)
    return state | {"instances": np.full(len(needed), instances), "influx": influx, "load": load}


def sampled(made: Artifact) -> Agreement | None:
    """Return how the artifact and its network in torch answer observations within their bounds; None without one."""
    from rlscaler_training import episodes

    policy = LegacyPolicy(made)
    if (net := episodes.network(policy)) is None:
        return None
    shown = anything(SAMPLED, 0)
    return agreement.compared(policy.values(shown), episodes.asked(net, shown), policy.scheme.branches)
