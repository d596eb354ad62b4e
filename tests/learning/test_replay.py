"""Prioritised replay: drawn in proportion, n-step sums that stop at a cut, and whole again from a checkpoint."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler_training.replay import FAN, Replay, Step, SumTree

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(
    leaves=st.integers(1, 3 * FAN * FAN), seed=st.integers(0, 2**31), share=st.floats(0.01, 1.0), scale=st.floats(-6, 6)
)
def test_a_leaf_is_drawn_where_the_sum_says(leaves: int, seed: int, share: float, scale: float) -> None:
    """Held against a cumulative sum in float64; leaves of priority 0 are never drawn, to the edges of [0, 1)."""
    rng = np.random.default_rng(seed)
    wanted = np.where(rng.random(leaves) < share, rng.random(leaves) * 10.0**scale, 0.0).astype(np.float32)
    wanted[rng.integers(leaves)] = 10.0**scale
    tree = SumTree(leaves, CPU)
    tree.put(torch.randperm(leaves), torch.zeros(leaves))
    tree.put(torch.arange(leaves), torch.from_numpy(wanted))
    assert float(tree.total) == pytest.approx(wanted.sum(dtype=np.float64), rel=1e-5)
    uniform = np.append(rng.random(500), [0.0, 1.0 - 2.0**-24]).astype(np.float32)
    found = tree.draw(torch.from_numpy(uniform)).numpy()
    assert (wanted[found] > 0.0).all()
    share_before = np.concatenate([[0.0], np.cumsum(wanted, dtype=np.float64)]) / wanted.sum(dtype=np.float64)
    assert (share_before[found] <= uniform + 1e-5).all()
    assert (share_before[found + 1] >= uniform - 1e-5).all()


def test_what_is_drawn_follows_the_priorities() -> None:
    """A transition's share of many draws is its share of the priorities, after some were updated."""
    tree = SumTree(2000, CPU)
    tree.put(torch.arange(2000), torch.ones(2000))
    tree.put(torch.tensor([7, 1999, 7]), torch.tensor([500.0, 1000.0, 300.0]))  # 7 twice: the highest stays
    drawn = tree.draw(torch.rand(200_000, generator=torch.Generator().manual_seed(1)))
    shares = torch.bincount(drawn, minlength=2000) / 200_000
    assert float(tree.total) == 1998 + 500 + 1000
    assert float(shares[7]) == pytest.approx(500 / 3498, rel=0.03)
    assert float(shares[1999]) == pytest.approx(1000 / 3498, rel=0.03)


def filled(envs: int = 3, capacity: int = 40, lookahead: int = 3, alpha: float = 0.6) -> Replay:
    return Replay(capacity, envs, 2, 2, 4, lookahead, 0.5, alpha, CPU)


def step(at: int, envs: int = 3, ended: Any = False) -> Step:
    """A step whose every number tells its time and its environment: 100 x environment + time."""
    told = 100.0 * torch.arange(envs) + at
    return Step(
        observation=torch.stack([told, -told], dim=1), action=torch.full((envs, 2), at % 4), reward=told,
        last=torch.stack([told + 1.0, -told - 1.0], dim=1), mask=torch.eye(4, dtype=torch.bool)[[at % 4] * envs],
        ended=torch.as_tensor(ended).expand(envs),
    )  # fmt: skip


def test_a_transition_sums_its_steps_and_stops_at_a_cut() -> None:
    """Held against a loop over each environment."""
    replay = filled(lookahead=3)
    ends = {1: torch.tensor([True, False, False]), 2: torch.tensor([False, True, False])}
    for at in range(4):
        replay.add(step(at, ended=ends.get(at, False)))
    assert replay.size == 6  # of the steps 0 and 1; the others are not complete
    for row in range(6):
        begun, env = divmod(row, 3)
        reward, discount, at = 0.0, 1.0, begun
        for at in range(begun, begun + 3):
            reward += discount * (100.0 * env + at)
            discount *= 0.5
            if at in ends and bool(ends[at][env]):
                break
        assert float(replay.reward[row]) == reward
        assert float(replay.discount[row]) == discount
        assert float(replay.observation[row, 0]) == 100.0 * env + begun
        assert float(replay.then[row, 0]) == 100.0 * env + at + 1.0
        assert replay.mask[row].nonzero().flatten().tolist() == [at % 4]
        assert replay.action[row].tolist() == [begun % 4] * 2


def test_the_oldest_give_way() -> None:
    """A ring: as many whole steps as there is room for."""
    replay = filled(capacity=14, lookahead=1)  # four steps of three environments
    for at in range(7):
        replay.add(step(at))
    assert replay.size == 12
    assert sorted(set((replay.observation[:, 0] % 100).tolist())) == [3.0, 4.0, 5.0, 6.0]
    assert replay.seen().shape == (12, 2)


def test_steps_before_a_new_start_are_not_joined_with_those_after() -> None:
    replay = filled(lookahead=3)
    replay.add(step(0))
    replay.add(step(1))
    replay.begin()
    replay.add(step(2))
    replay.add(step(3))
    assert replay.size == 0
    replay.add(step(4))
    assert (replay.observation[:3, 0] % 100).tolist() == [2.0, 2.0, 2.0]


def test_weights_undo_what_the_priorities_bias() -> None:
    """With beta 1 the weighted mean of a number over many draws is its mean over all transitions."""
    torch.manual_seed(3)
    replay = filled(envs=100, capacity=1000, lookahead=1, alpha=1.0)
    for at in range(10):
        replay.add(step(at, envs=100))
    replay.learned(torch.arange(1000), 0.01 + replay.reward / 1e3)
    drawn = replay.draw(50_000, beta=1.0)
    assert float(drawn.weight.max()) == 1.0
    weighted = float((drawn.weight * drawn.reward).sum() / drawn.weight.sum())
    assert weighted == pytest.approx(float(replay.reward.mean()), rel=0.03)
    assert float(drawn.reward.mean()) > 1.2 * weighted  # without them
    assert bool((replay.draw(100, beta=0.0).weight == 1.0).all())


def test_new_transitions_come_with_the_highest_priority() -> None:
    """Each is seen soon, however large the errors of the others were."""
    replay = filled(lookahead=1, alpha=1.0)
    replay.add(step(0))
    replay.learned(torch.tensor([1]), torch.tensor([50.0]))
    replay.add(step(1))
    priorities = replay.tree.priorities
    assert bool((priorities[3:6] == priorities[1]).all())
    assert float(priorities[1]) == pytest.approx(50.0, rel=1e-3)


def test_no_error_is_so_small_that_a_transition_is_lost() -> None:
    replay = filled(lookahead=1)
    replay.add(step(0))
    replay.learned(torch.arange(3), torch.zeros(3))
    assert float(replay.tree.priorities[:3].min()) > 0.0


@pytest.mark.parametrize("steps", [2, 5, 9, 30])
def test_it_is_whole_again_from_its_state(steps: int) -> None:
    """To the bit, whether or not the ring has come round: the same draws, and the same ones after more steps."""
    torch.manual_seed(5)
    before, after = filled(lookahead=2), filled(lookahead=2)
    for at in range(steps):
        before.add(step(at))
        if before.size:
            before.learned(torch.arange(min(before.size, 4)), torch.rand(min(before.size, 4)))
    before.begin()
    after.restore(before.state())
    for at in range(steps, steps + 3):
        before.add(step(at))
        after.add(step(at))
    for seed in range(5):
        torch.manual_seed(seed)
        one = before.draw(16, 0.4)
        torch.manual_seed(seed)
        two = after.draw(16, 0.4)
        for name in ("index", "weight", "observation", "action", "reward", "discount", "then", "mask"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert all(torch.equal(a, b) for a, b in zip(before.tree.levels, after.tree.levels, strict=True))


def test_room_for_less_than_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="the replay holds 2 transitions; expected at least one for each of 3 envs"):
        filled(envs=3, capacity=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_is_copied_to_the_host() -> None:
    """Adding, drawing and updating on a GPU never wait for it."""
    cuda = torch.device("cuda")
    replay = Replay(4096, 64, 2, 2, 4, 3, 0.9, 0.6, cuda)
    steps = [step(at, envs=64) for at in range(8)]
    moved = [Step(**{name: getattr(each, name).to(cuda) for name in Step.__slots__}) for each in steps]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for each in moved:
            replay.add(each)
        drawn = replay.draw(32, 0.5)
        replay.learned(drawn.index, drawn.reward.abs())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert replay.size == 6 * 64
