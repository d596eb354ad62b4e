"""The branching Q-network comes near the optimum where it is known, with less data than one that lists combinations."""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlscaler.action import BRANCHING
from rlscaler.artifact import Artifact, dumps
from rlscaler.branching import KIND, BranchingPolicy
from rlscaler.errors import UserError
from rlscaler.observation import HIGH, LOW, NAMES
from rlscaler_sim.batch import Transition
from rlscaler_training import bdq, runs
from rlscaler_training import loads as training_load
from rlscaler_training.bdq import Config, Learner
from rlscaler_training.branching import Branching, artifact, compared, exported
from rlscaler_training.devices import device
from rlscaler_training.export import sampled
from rlscaler_training.learner import Progress, StoppedError, Task
from rlscaler_training.replay import Replay
from rlscaler_training.runs import NotFiniteError


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Networks this small are slower on several threads, far slower where others want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- two queues that share a budget, whose optimum is known

ARRIVING = (np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.2, 0.2, 0.3]))
"""Probabilities of 0, 1, 2 (and 3) jobs in a step, of either queue."""
ROOM = 4
SERVERS = 4
"""0 to 3 servers for each queue, so 16 combinations."""
WAITING, LOST = 0.6, 5.0
"""Cost of each job that waits, and of each for which there is no room."""
GAMMA = 0.9
FIELDS = ("trend", "yesterday")
"""Fields of the observation that tell the jobs in either queue: one for each encoder."""


def wage(servers: Any) -> Any:
    """Return the cost of servers, each dearer than the one before, of both queues together."""
    return 0.5 * servers + 0.12 * servers**2


def outcome(jobs: Any, servers: Any, arriving: Any) -> tuple[Any, Any]:
    """Return the jobs of one queue after a step, and what those that wait and those that are lost cost."""
    left = np.maximum(jobs - servers, 0) + arriving
    return np.minimum(left, ROOM), WAITING * jobs + LOST * np.maximum(left - ROOM, 0)


STATES = np.stack(np.meshgrid(np.arange(ROOM + 1), np.arange(ROOM + 1), indexing="ij"), axis=-1).reshape(-1, 2)


def model() -> tuple[np.ndarray, np.ndarray]:
    """Return the chain (states, actions, states) and the costs (states, actions) of the 16 combinations, exactly."""
    count, actions = len(STATES), SERVERS**2
    chain, cost = np.zeros((count, actions, count)), np.zeros((count, actions))
    for action in range(actions):
        servers = divmod(action, SERVERS)
        cost[:, action] += wage(sum(servers))
        for first, p in enumerate(ARRIVING[0]):
            for second, q in enumerate(ARRIVING[1]):
                one, paid_one = outcome(STATES[:, 0], servers[0], first)
                two, paid_two = outcome(STATES[:, 1], servers[1], second)
                chain[np.arange(count), action, one * (ROOM + 1) + two] += p * q
                cost[:, action] += p * q * (paid_one + paid_two)
    return chain, cost


CHAIN, COST = model()


def worth(policy: np.ndarray) -> float:
    """Return the discounted cost of a policy (states,), the mean over all states."""
    rows = np.arange(len(STATES))
    return float(np.linalg.solve(np.eye(len(STATES)) - GAMMA * CHAIN[rows, policy], COST[rows, policy]).mean())


def optimum() -> np.ndarray:
    """Return the best policy (states,), by policy iteration."""
    policy = np.zeros(len(STATES), np.int64)
    for _ in range(100):
        rows = np.arange(len(STATES))
        value = np.linalg.solve(np.eye(len(STATES)) - GAMMA * CHAIN[rows, policy], COST[rows, policy])
        policy = (COST + GAMMA * CHAIN @ value).argmin(axis=1)
    return policy


class Queues:
    """The two queues in the shape of a batch of environments; `joint`: one branch of all combinations."""

    view = last_view = None

    def __init__(self, n: int, episode: int, joint: bool) -> None:
        self.n, self.episode, self.joint = n, episode, joint
        self.branches = (SERVERS**2,) if joint else (SERVERS, SERVERS)
        self.scheme = self
        self.reset(0)

    def reset(self, seed: int) -> np.ndarray:
        self.rng = np.random.default_rng(seed)
        self.age = 0
        self.jobs = self.rng.integers(ROOM + 1, size=(self.n, 2))
        return observed(self.jobs)

    def mask(self, _: Any = None) -> np.ndarray:
        return np.ones((self.n, self.branches[0]), bool)

    def step(self, action: np.ndarray) -> Transition:
        servers = np.stack(np.divmod(action[:, 0], SERVERS), axis=1) if self.joint else action
        cost = wage(servers.sum(axis=1))
        for queue, probabilities in enumerate(ARRIVING):
            arriving = self.rng.choice(len(probabilities), size=self.n, p=probabilities)
            self.jobs[:, queue], paid = outcome(self.jobs[:, queue], servers[:, queue], arriving)
            cost = cost + paid
        self.age += 1
        last, truncated = observed(self.jobs), np.full(self.n, self.age >= self.episode)
        if truncated.all():
            self.jobs, self.age = self.rng.integers(ROOM + 1, size=(self.n, 2)), 0
        return Transition(observed(self.jobs), last, -cost, truncated, cost, 0.0 * cost, cost)


def observed(jobs: np.ndarray) -> np.ndarray:
    found = np.zeros((len(jobs), len(NAMES)), np.float32)
    for queue, name in enumerate(FIELDS):
        found[:, NAMES.index(name)] = jobs[:, queue]
    return found


ROUNDS = 12
"""Episodes of the comparison: 38,400 transitions and 600 gradient steps."""
SEEDS = (1, 2, 3, 4)
SMALL = Config(
    envs=64, episode=50, gamma=GAMMA, lookahead=1, batch=256, rate=5e-3, target_every=20, replay=20_000, warm_up=400,
    epsilon=0.8, epsilon_end=0.1, repeat=1, encoder=(16,), trunk=(32, 32), head=(16,), activation="tanh",
)  # fmt: skip


def regret(rounds: int, joint: bool, seed: int, config: Config = SMALL) -> float:
    """Return by how much more than the optimum the learned policy costs, relative, after so many episodes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    queues: Any = Queues(config.envs, config.episode, joint)
    learner = Learner(config, FIELDS, queues.branches, (0,) * len(queues.branches), torch.device("cpu"))
    for played in range(rounds):
        epsilon = config.epsilon + (config.epsilon_end - config.epsilon) * played / rounds
        bdq.play(learner, queues, None, 1000 * seed + played, epsilon, 0.4 + 0.6 * played / rounds, rng)
    free = learner.tensor(np.ones((len(STATES), queues.branches[0]), bool))
    chosen = learner.decide(learner.tensor(observed(STATES)), free)
    policy = chosen[:, 0] if joint else chosen[:, 0] * SERVERS + chosen[:, 1]
    return worth(policy) / worth(optimum()) - 1.0


@pytest.mark.timeout(900)
def test_it_comes_near_the_optimum_as_a_list_of_combinations_does() -> None:
    """Two branches of four beside one of sixteen, with the same data, network and number of gradient steps.

    Means over seeds: one seed's end is chance, and another on every kind of processor. Sixteen combinations are few
    enough to be learned one by one, so the list may be as near; branches must not be far behind it.
    """
    branching, listed = (float(np.mean([regret(ROUNDS, joint, seed) for seed in SEEDS])) for joint in (False, True))
    constant = min(worth(np.full(len(STATES), action)) for action in range(SERVERS**2)) / worth(optimum()) - 1.0
    print(f"above the optimum: branching {branching:.1%}, combinations {listed:.1%}, best constant {constant:.1%}")
    assert constant > 0.3
    assert branching < 0.1
    assert branching < listed + 0.05


# --- the parts


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes where values are read off tensors, or copied from one place to another; torch's own optimisers apart,
    whose count of steps stays on the host whatever the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten._to_copy.default):
            callers = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
            optimises = any("/torch/optim/" in frame.filename for frame in traceback.extract_stack())
            if not optimises:
                self.found.append(f"{func} at {callers[-2].name}")
        return func(*args, **(kwargs or {}))


def test_updates_copy_nothing_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither draws, nor gradients, nor priorities: on a device the updates are queued without a wait."""
    config = replace(SMALL, envs=8, episode=25, batch=64, replay=400, warm_up=1000)
    learner = Learner(config, FIELDS, (SERVERS, SERVERS), (0, 0), torch.device("cpu"))
    queues: Any = Queues(8, 25, False)
    bdq.play(learner, queues, None, 1, 0.9, 0.5, np.random.default_rng(2))
    learner.begin()
    kept = [learner.replay.observation.data_ptr(), learner.replay.tree.levels[-1].data_ptr()]

    def numpy(*_: Any, **__: Any) -> None:
        raise AssertionError("a tensor was taken to the host")

    for name in ("numpy", "__array__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, numpy)
    with Copies() as copies:
        losses = [bdq.update(learner, 0.5) for _ in range(20)]
    assert copies.found == []
    assert kept == [learner.replay.observation.data_ptr(), learner.replay.tree.levels[-1].data_ptr()]
    assert all(bool(loss.isfinite()) for loss in losses)


def test_a_target_is_the_mean_over_the_branches() -> None:
    """One gradient step from known transitions: its loss, held against the paper's formulas written out."""
    torch.manual_seed(2)
    config = replace(SMALL, envs=8, episode=25, batch=64, replay=400, warm_up=1000, alpha=0.0, gamma=0.7)
    queues: Any = Queues(8, 25, False)
    learner = Learner(config, FIELDS, (SERVERS, SERVERS), (0, 0), torch.device("cpu"))
    bdq.play(learner, queues, None, 1, 0.9, 0.5, np.random.default_rng(2))
    assert learner.updates == 0
    learner.begin()
    with torch.no_grad():  # apart, so that which network chooses and which values shows
        for weight in learner.target.parameters():
            weight.mul_(1.3)
    random = torch.get_rng_state()
    drawn = learner.replay.draw(64, 1.0)
    torch.set_rng_state(random)
    with torch.no_grad():
        now, then, valued = learner.network(drawn.observation), learner.network(drawn.then), learner.target(drawn.then)
    total, errors = 0.0, []
    for row in range(64):
        following = [int(then[row, :4].argmax()), int(then[row, 4:].argmax())]
        after = (float(valued[row, following[0]]) + float(valued[row, 4 + following[1]])) / 2
        target = float(drawn.reward[row] / learner.reward_scale) + 0.7 * after
        error = [float(now[row, 4 * k + int(drawn.action[row, k])]) - target for k in range(2)]
        total += (error[0] ** 2 + error[1] ** 2) / 2 / 64
        errors.append(abs(error[0]) + abs(error[1]))
    before = [weight.clone() for weight in learner.target.parameters()]
    assert float(bdq.update(learner, 1.0)) == pytest.approx(total, rel=1e-4)
    assert learner.replay.highest >= 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, learner.target.parameters(), strict=True))
    for _ in range(config.target_every - 1):
        bdq.update(learner, 1.0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(learner.network.state_dict().values(), learner.target.state_dict().values(), strict=True)
    )


def test_errors_become_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of the branches' errors, of what was drawn."""
    torch.manual_seed(2)
    config = replace(SMALL, envs=8, episode=25, replay=400, warm_up=1000)
    queues: Any = Queues(8, 25, False)
    learner = Learner(config, FIELDS, (SERVERS, SERVERS), (0, 0), torch.device("cpu"))
    bdq.play(learner, queues, None, 1, 0.9, 0.5, np.random.default_rng(2))
    learner.begin()
    replay = learner.replay
    with torch.no_grad():
        after = learner.target.q(replay.then)
        following = bdq.best(learner.network.q(replay.then), replay.mask)
        target = replay.reward / learner.reward_scale + replay.discount * bdq.taken(after, following).mean(dim=1)
        error = (bdq.taken(learner.network.q(replay.observation), replay.action) - target[:, None]).abs().sum(dim=1)
    told: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(Replay, "learned", lambda self, index, size: told.append((index, size)))
    bdq.update(learner, 1.0)
    [(index, size)] = told
    torch.testing.assert_close(size, error[index], rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_trunk_is_shared() -> None:
    """What reaches trunk and encoders is a third with two branches; what reaches the heads is whole."""
    torch.manual_seed(3)
    network = Branching(FIELDS, (4, 4), (8,), (8,), (8,))
    observations = torch.from_numpy(observed(STATES))

    def gradients(scaled: bool) -> dict[str, torch.Tensor]:
        network.zero_grad()
        x = observations[:, network.where]
        if scaled:
            q = network.q(observations)
        else:
            encoded = [network.stacks[part](x[:, [k]]) for k, part in enumerate(("micro", "macro"))]
            trunk = network.stacks["trunk"](torch.cat(encoded, dim=1))
            value, heads = network.stacks["value"](trunk), [network.stacks[f"branch_{k}"](trunk) for k in range(2)]
            q = [value + a - a.mean(dim=1, keepdim=True) for a in heads]
        torch.autograd.backward(torch.cat(q, dim=1).square().sum())
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    shared, whole = gradients(True), gradients(False)
    assert shared.keys() == whole.keys()
    for name, gradient in shared.items():
        factor = 3.0 if any(part in name for part in ("micro", "macro", "trunk")) else 1.0
        torch.testing.assert_close(gradient * factor, whole[name], rtol=1e-4, atol=1e-5)


def test_a_forbidden_choice_is_neither_taken_nor_explored() -> None:
    """The mask of the first branch holds for the greedy choice and for exploration; the rest explores as told."""
    rng = np.random.default_rng(1)
    q = [torch.rand(500, 11), torch.rand(500, 5)]
    mask = rng.random((500, 11)) < 0.5
    mask[:, 5] = True
    greedy = bdq.best(q, torch.from_numpy(mask)).numpy()
    assert mask[np.arange(500), greedy[:, 0]].all()
    held = np.full((500, 2), -1)
    config, shares = Config(repeat=6), []
    for _ in range(120):
        action = bdq.explored(greedy, held, mask, (11, 5), config, 0.3, rng)
        assert (action[held[:, 1] < 0, 1] == greedy[held[:, 1] < 0, 1]).all()
        assert mask[np.arange(500), action[:, 0]].all()
        shares.append(np.mean(held[:, 1] >= 0))
    assert np.mean(shares[40:]) == pytest.approx(0.3, abs=0.03)
    assert (bdq.explored(greedy, np.full((500, 2), -1), mask, (11, 5), config, 0.0, rng) == greedy).all()


# --- what it exports


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
def test_a_hundred_thousand_observations_are_decided_alike(activation: str) -> None:
    """Every choice of either branch is the same but for ties, and the manifest says on how many that was seen."""
    torch.manual_seed(2)
    observations = np.random.default_rng(1).uniform(LOW, HIGH, (2000, len(NAMES))).astype(np.float32)
    network = Branching(NAMES, BRANCHING.branches, (16,), (32, 16), (16,), activation)
    network.normalise(torch.from_numpy(observations))
    made = artifact(network, name="net", scheme="branching", observations=observations, provenance={}, scores={})
    assert made.manifest["kind"] == KIND
    assert made.manifest["scores"]["export"]["observations"] == 100_000
    agreement = compared(network, made, sampled(observations, seed=5)[:20_000])
    assert agreement.agree
    assert agreement.ties < 20
    policy = BranchingPolicy(made)
    inside = (observations[:, policy.columns] >= policy.low) & (observations[:, policy.columns] <= policy.high)
    assert inside.all()


def test_a_network_that_decides_otherwise_or_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else leaves than what was proven."""
    network = Branching(FIELDS, BRANCHING.branches, (8,), (8,), (8,), "tanh")
    observations = observed(STATES)
    told: dict[str, Any] = {"name": "net", "scheme": "branching", "observations": observations, "provenance": {}}
    with monkeypatch.context() as changed:
        changed.setattr("rlscaler.branching.FARTHEST", 1e-3)
        with pytest.raises(UserError, match="does not decide as the trained one"):
            artifact(network, **told, scores={})
    with torch.no_grad():
        next(network.stacks["branch_1"].parameters())[0, 0] = float("nan")
    with pytest.raises(UserError, match="branch_1_weight_0 of the network is not finite"):
        exported(network, name="net", scheme="branching")


# --- a run

TINY = Config(
    steps=300, envs=4, episode=15, batch=16, replay=200, warm_up=40, lookahead=3, encoder=(8,), trunk=(16,), head=(8,),
    evaluate_every=2, evaluation=4, checkpoint_every=1, target_every=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def pools() -> training_load.Pools:
    return training_load.pools(("spike",), None, 1.0, 3)


def task(pools: training_load.Pools, folder: Path, config: Config, **more: Any) -> Task:
    run = runs.resume(folder) if folder.exists() else runs.begin(folder, "bdq", config, {})
    return Task("bdq", pools, run, device("cpu"), 5, {"seed": 5}, **more)


def final(outcome: Any) -> tuple[dict[str, Any], bytes]:
    made: Artifact = outcome.artifact
    return dict(made.manifest["scores"]), dumps(made)


def test_a_resumed_run_equals_an_unbroken_one(pools: training_load.Pools, tmp_path: Path) -> None:
    """Stopped twice, gone on in a fresh learner with other random numbers about: the same file to the bit."""
    told: list[Progress] = []
    whole = bdq.learn(task(pools, tmp_path / "whole", TINY, report=told.append), TINY)
    assert whole.steps == 300
    assert [progress.step for progress in told] == [60, 120, 180, 240, 300]
    assert {"score", "cost", "late", "loss", "rule", "best"} <= told[-1].numbers.keys()
    for _ in range(2):
        torch.manual_seed(99)
        asked = iter([False, True]).__next__
        with pytest.raises(StoppedError):
            bdq.learn(task(pools, tmp_path / "cut", TINY, stop=asked), TINY)
    resumed = bdq.learn(task(pools, tmp_path / "cut", TINY), TINY)
    assert final(resumed) == final(whole)
    rows = [list(runs.read_metrics(tmp_path / name)) for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    assert final(whole)[0]["validation_score"] == min(row["score"] for row in rows[0] if "best" in row)


def test_numbers_that_are_none_end_it_with_the_last_checkpoint_whole(
    pools: training_load.Pools, tmp_path: Path
) -> None:
    """An infinite loss is named with its step, and no checkpoint holds what came of it."""
    given = task(pools, tmp_path / "run", TINY)
    played: list[int] = []
    given.report = lambda progress: played.append(progress.step)
    learned = bdq.update

    def update(learner: Learner, beta: float) -> torch.Tensor:
        return learned(learner, beta) * (float("inf") if 120 in played else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bdq, "update", update)
        with pytest.raises(NotFiniteError, match=r"loss is inf at step 180.*000000000120\.pt"):
            bdq.learn(given, TINY)
    state = given.run.restore()
    assert state is not None
    assert all(bool(torch.isfinite(weight).all()) for weight in state["learner"]["network"].values())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a replay of less than a step": ({"replay": 3}, "replay is 3; expected at least envs, 4"),
    "no step after the warm-up": ({"warm_up": 1000, "replay": 300}, "steps is 300, of which 260 transitions come"),
    "episodes too short to sum": ({"episode": 3, "lookahead": 9}, "of which 0 transitions come"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_learn_nothing_are_refused(case: str) -> None:
    """Before anything is played."""
    changes, message = WRONG[case]
    config = replace(TINY, **changes)
    with pytest.raises(UserError) as refused:
        bdq.check(config, -(-config.steps // (config.envs * config.episode)))
    assert message in str(refused.value)
