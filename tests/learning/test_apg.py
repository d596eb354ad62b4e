"""The relaxation is the world with soft edges, and following its gradient beats the rule that it corrects."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rlscaler.errors import UserError
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import HIGH, LOW
from rlscaler_sim import pods, scenarios, world
from rlscaler_sim.batch import Batch
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import generator, realise
from rlscaler_sim.pool import prepare
from rlscaler_training import apg, export, learner, loads, relaxation, runs
from rlscaler_training.apg import Config
from rlscaler_training.devices import Device
from rlscaler_training.learner import Outcome, StoppedError, Task
from rlscaler_training.relaxation import Stretch
from rlscaler_training.worlds import Ranges

CPU = Device("cpu", "cpu")
N, T = 24, 240
SETTINGS = standard_settings()
WORLD = standard_world(SETTINGS)


def ordered(target: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return load (N, T) that swings and jumps, and orders (N, T) that follow it late, at this utilisation."""
    rng = np.random.default_rng(seed)
    swing = 1.0 + 0.5 * np.sin(np.arange(T) / 30.0 + rng.uniform(0.0, 6.0, (N, 1)))
    load = 150.0 * swing * np.exp(np.cumsum(rng.normal(0.0, 0.02, (N, T)), axis=1))
    seen = np.concatenate([load[:, :1]] * 2 + [load[:, :-2]], axis=1)
    return load, np.clip(np.ceil(seen / 10.0 / target), 1.0, 100.0)


def each(value: float) -> Tensor:
    return torch.full((N,), value)


STRETCH = Stretch(
    rates=torch.zeros(N, T, 5), needed=each(1.0), arrivals=each(1.0), capacity=each(10.0), believed=each(10.0),
    startup=each(60.0), slo=each(float(WORLD.slo_wait)), price=each(20.0), low=each(1.0), high=each(100.0),
    interval=15.0,
)  # fmt: skip


def lived(load: np.ndarray, orders: np.ndarray) -> tuple[Stretch, np.ndarray]:
    """Let the world serve the load under the orders; return the stretch, and J after the lead (N,)."""
    rng = np.random.default_rng(1)
    noisy, quiet = world.compiled(WORLD, N), world.compiled(replace(WORLD, fano=1.0), N)
    state = world.initial(quiet, orders[:, 0])
    rates = np.zeros((N, T, quiet.ticks), np.float32)
    billed, late, come = (np.zeros((N, T)) for _ in range(3))
    for t in range(T):
        served = world.modulated(noisy, load[:, t].astype(np.float32), world.draws(noisy, rng))
        rates[:, t] = served.T
        state, out = world.step(quiet, state, orders[:, t].astype(np.float32), served, world.draws(quiet, rng))
        billed[:, t], late[:, t], come[:, t] = out.billed, out.late, out.arrivals
    arrivals = come.mean(axis=1)

    stretch = replace(
        STRETCH, rates=torch.as_tensor(rates), needed=torch.as_tensor(arrivals / 10.0).float(),
        arrivals=torch.as_tensor(arrivals).float(),
    )  # fmt: skip
    lead = stretch.lead
    score = billed[:, lead:].mean(axis=1) / (arrivals / 10.0) + 20.0 * late[:, lead:].mean(axis=1) / arrivals
    return stretch, score


@pytest.mark.parametrize("startup", [0.0, 3.0, 15.0, 37.0, 60.0, 120.0])
def test_ready_replicas_are_those_of_the_world(startup: float) -> None:
    """To the replica in every tick, once orders from before the stretch have served."""
    _, orders = ordered(0.7)
    stretch = replace(STRETCH, startup=torch.full((N,), startup))
    params = world.compiled(replace(WORLD, startup=startup), N)
    state = pods.initial(np, params.pods, orders[:, 0].astype(np.float32))
    ready = np.zeros((N, T, params.ticks))
    for t in range(T):
        state, moves = pods.step(np, params.pods, state, orders[:, t].astype(np.float32), {})
        ready[:, t] = moves.ready.T
    found = relaxation.ready(stretch, torch.as_tensor(orders).float()).numpy()
    np.testing.assert_array_equal(found[:, stretch.lead :], ready[:, stretch.lead :])


@pytest.mark.parametrize("target", [0.5, 0.6, 0.7])
def test_the_score_is_that_of_the_world(target: float) -> None:
    """Within 3 % in the mean at the last width of training, where orders are sane."""
    load, orders = ordered(target)
    stretch, score = lived(load, orders)
    cost, late = relaxation.score(stretch, torch.as_tensor(orders).float(), Config().width_end)
    relaxed = (cost + late).numpy()
    assert relaxed.mean() == pytest.approx(score.mean(), rel=0.03)
    assert np.abs(relaxed / score - 1.0).mean() < 0.05


def served(network: apg.Net) -> MlpPolicy:
    """Return the policy of a network, in any situation at all."""
    return MlpPolicy(export.artifact(
        network, name="none", output="correction", scheme="headroom", provenance={}, scores={},
        observations=np.random.default_rng(0).uniform(LOW, HIGH, (1000, len(LOW))).astype(np.float32),
        parameters={"patience": 30.0},
    ))  # fmt: skip


def trained() -> apg.Net:
    """Return the network of `learned`."""
    arrays = learned().artifact.arrays
    network = apg.Net(TINY.hidden, TINY.activation, learned().artifact.manifest["fields"])
    with torch.no_grad():
        for index, layer in enumerate(network.linears()):
            layer.weight.copy_(torch.from_numpy(arrays[f"weight_{index}"].T.copy()))
            layer.bias.copy_(torch.from_numpy(arrays[f"bias_{index}"].copy()))
        network.mean.copy_(torch.from_numpy(arrays["mean"].copy()))
        network.scale.copy_(torch.from_numpy(arrays["scale"].copy()))
    return network


@pytest.mark.parametrize("learning", [False, True], ids=["the rule", "a trained policy"])
def test_the_score_is_that_of_the_world_behind_the_whole_decision(learning: bool) -> None:
    """Within 3 %, queues and what is ordered for them included, in the world of evaluations.

    (A trained policy on loads that are not foreign to it: where one is overloaded half of the time, its queues are 6 %
    too short.)
    """
    names = ("spike", "level-shift", "flash-crowd", "random-walk" if learning else "on-off")
    drawn = [realise(scenarios.get(name).source, duration=4 * 3600.0, rng=generator(name, 1)) for name in names]
    made = apg.material(prepare(drawn, WORLD, SETTINGS, 5), torch.device("cpu"))
    load = torch.arange(len(names))[:, None].expand(-1, made.steps)
    at = torch.arange(made.steps)[None].expand(len(names), -1)
    network = trained() if learning else apg.Net((4,), "silu")
    with torch.no_grad():
        correction = apg.corrected(network, made.seen[load, at]) if learning else None
        orders = apg.orders(made, correction, load, at)
        cost, late = relaxation.score(apg.part(made, load, at), orders, 0.05, made.known)
        alone = relaxation.for_backlog(apg.part(made, load, at), torch.full(load.shape, 1.0), made.demand, 3)
    rule = served(network)
    # a pool numbers its loads, and draws by these names
    loads_ = [replace(each, name=f"{each.name}#{index}") for index, each in enumerate(drawn)]
    played = play(loads_, [Entrant("rule", rule, replace(SETTINGS, floor=True))], WORLD, SETTINGS, [5] * len(names))
    np.testing.assert_allclose((cost + late).numpy(), played.score[0], rtol=0.05)
    assert float((cost + late).mean()) == pytest.approx(float(played.score[0].mean()), rel=0.03)
    assert float(alone.max()) > 1.0


def test_the_gradient_is_that_of_the_score() -> None:
    """Held against differences; and more replicas where requests are late lower the score."""
    load, orders = ordered(0.9)
    stretch, _ = lived(load, orders)
    stretch = replace(stretch, **{name: getattr(stretch, name).double() for name in
                                  ("rates", "needed", "arrivals", "capacity", "startup", "slo", "price")})  # fmt: skip
    ties = np.random.default_rng(3).uniform(0.0, 0.9, orders.shape)  # a tie of two orders has no gradient
    start = torch.as_tensor(orders + ties).requires_grad_()
    total = sum(relaxation.score(stretch, start, 1.0)[k].sum() for k in (0, 1))
    assert isinstance(total, Tensor)
    torch.autograd.backward(total)
    gradient = start.grad
    assert gradient is not None
    rng = np.random.default_rng(2)
    for _ in range(12):
        row, at = int(rng.integers(N)), int(rng.integers(stretch.lead, T))
        step = torch.zeros_like(start)
        step[row, at] = 1e-4
        with torch.no_grad():
            above, below = (sum(relaxation.score(stretch, start + sign * step, 1.0)[k].sum() for k in (0, 1))
                            for sign in (1.0, -1.0))  # fmt: skip
        slope = float(above - below) / 2e-4
        assert float(gradient[row, at]) == pytest.approx(slope, rel=0.02, abs=1e-6)
    assert float(gradient.mean()) < 0.0


def test_orders_are_rounded_up_as_the_guard_rounds() -> None:
    """With the gradient of the identity."""
    given = torch.tensor([2.0, 2.0000001, 2.2, 0.0]).requires_grad_()
    whole = relaxation.rounded_up(given)
    assert whole.tolist() == [2.0, 2.0, 3.0, 0.0]
    torch.autograd.backward(whole.sum())
    assert given.grad is not None
    assert given.grad.tolist() == [1.0] * 4


TINY = Config(steps=120, batch=16, decisions=60, hidden=(24,), evaluate_every=40, rate=5e-3)


@lru_cache(maxsize=1)
def pools() -> loads.Pools:
    return loads.pools(("spike", "random-walk"), None, 3.0, 0)


def task(folder: Path, config: Config, after: int = 10**9) -> Task:
    """Return a task in a new or an old folder, that is asked to stop at its so-many-th step."""
    run = runs.resume(folder) if folder.exists() else runs.begin(folder, "apg", config, {})
    asked = iter(range(10**9))
    return Task("net", pools(), run, CPU, 3, {"seed": 3}, stop=lambda: next(asked) >= after)


@lru_cache(maxsize=1)
def learned() -> Outcome:
    import tempfile

    return apg.learn(task(Path(tempfile.mkdtemp()) / "run", TINY), TINY)


def test_it_beats_the_rule_that_it_corrects_in_the_world_itself() -> None:
    """On other draws, through the decision: the relaxation's gain is real."""
    judge = loads.batches(pools(), "headroom", 8, 120, 0)[2]
    policy = learner.scored(judge, learned().artifact, 120, 5)
    rule = learner.untrained(judge, 120, 5)
    assert policy.total < rule.total
    assert (
        learned().artifact.manifest["scores"]["relaxed_score"] < learned().artifact.manifest["scores"]["relaxed_rule"]
    )


def test_a_run_that_was_cut_off_ends_as_if_it_never_was(tmp_path: Path) -> None:
    """The same artifact to the bit, and the same measurements."""
    whole = task(tmp_path / "whole", TINY)
    expected = apg.learn(whole, TINY)
    cut = task(tmp_path / "cut", TINY, after=57)
    with pytest.raises(StoppedError):
        apg.learn(cut, TINY)
    again = task(tmp_path / "cut", TINY)
    found = apg.learn(again, TINY)
    for name, array in expected.artifact.arrays.items():
        np.testing.assert_array_equal(found.artifact.arrays[name], array)
    measured = list(runs.read_metrics(whole.run.folder))
    rows = [json.dumps(row) for row in runs.read_metrics(again.run.folder) if row["step"] != 57]
    assert rows == [json.dumps(row) for row in measured]
    for row in measured:
        assert row["cost"] + row["late"] == pytest.approx(row["score"], rel=1e-5)


@pytest.mark.parametrize("after", [0, 1])
def test_a_run_that_was_cut_off_at_its_beginning_measures_it_once(tmp_path: Path, after: int) -> None:
    """Also where only its first checkpoint, of step 0, is there to go on from."""
    config = replace(TINY, steps=4, evaluate_every=2)
    with pytest.raises(StoppedError):
        apg.learn(task(tmp_path / "run", config, after=after), config)
    apg.learn(task(tmp_path / "run", config), config)
    rows = [row["step"] for row in runs.read_metrics(tmp_path / "run") if row["step"] % 2 == 0]
    assert rows == [0, 2, 4]


def test_a_stretch_that_is_longer_than_the_load_is_refused(tmp_path: Path) -> None:
    """At the last that fits it learns; the lead of the slowest start-up comes before what counts."""
    room = pools().train.steps - 5
    config = replace(TINY, steps=1, batch=2, decisions=room)
    assert apg.learn(task(tmp_path / "fits", config), config).steps == 2 * room
    config = replace(config, decisions=room + 1)
    told = rf"decisions is {room + 1}, but the load to train on has {room + 5}.* expected at most {room}: lower"
    with pytest.raises(UserError, match=told):
        apg.learn(task(tmp_path / "long", config), config)


def test_worlds_open_as_the_curriculum_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stretch is of a world that is not open yet; once all are, all are met."""
    found = loads.pools(("spike",), None, 1.0, 0, Ranges(worlds=6, rise=0.5))
    config = replace(TINY, steps=20, batch=64, decisions=20)
    met: list[int] = []

    def orders(material: apg.Material, correction: Tensor, load: Tensor, at: Tensor) -> Tensor:
        met.append(int(load.max()) + 1)
        return plain(material, correction, load, at)

    plain = apg.orders
    run = runs.begin(tmp_path / "run", "apg", config, {})
    monkeypatch.setattr(apg, "whole_costs", lambda *_: torch.zeros(1, 2))
    monkeypatch.setattr(apg, "orders", orders)
    apg.learn(Task("net", found, run, CPU, 3, {}), config)
    opened = [found.train.opened(step / config.steps) for step in range(config.steps)]
    assert opened[0] < opened[-1] == found.train.loads
    assert all(many <= most for many, most in zip(met, opened, strict=True))
    assert met[-1] == found.train.loads


def test_the_decision_divides_by_the_capacity_that_it_believes_in() -> None:
    """Where a replica serves less than that, as many requests/s are as many replicas to the decision, and late more."""
    names = ("spike",)
    drawn = [realise(scenarios.get(name).source, duration=2 * 3600.0, rng=generator(name, 1)) for name in names]
    right, wrong = (
        apg.material(prepare(drawn, replace(WORLD, capacity_per_replica=capacity), SETTINGS, 5), torch.device("cpu"))
        for capacity in (10.0, 8.0)
    )
    np.testing.assert_array_equal(wrong.demand.numpy(), right.demand.numpy())
    np.testing.assert_array_equal(wrong.seen.numpy(), right.seen.numpy())
    assert wrong.whole.capacity.tolist() == [8.0]
    assert wrong.whole.believed.tolist() == [10.0]
    assert float(apg.whole_score(wrong, None)) > float(apg.whole_score(right, None))


def test_an_untrained_network_is_the_rule() -> None:
    """So that training begins from something sane."""
    stretch = apg.material(pools().validation, torch.device("cpu"))
    rule, fresh = apg.whole_score(stretch, None), apg.whole_score(stretch, apg.Net((24,), "silu"))
    np.testing.assert_allclose(fresh.numpy(), rule.numpy(), rtol=0.02)


def test_what_is_served_is_what_was_trained() -> None:
    """The decision's proposals in the world are the orders that the relaxation made of the same network."""
    judge: Batch = loads.batches(pools(), "headroom", 8, 60, 0)[2]
    policy = MlpPolicy(learned().artifact)
    judge.reset(4)
    proposal, _ = policy.propose(judge.view, {})
    view = judge.view
    seen = torch.as_tensor(np.stack([judge.pool.features["level"][judge.load, judge.at]], axis=1)[:, 0])
    np.testing.assert_allclose(seen.numpy(), view.features["level"], rtol=1e-6)
    assert np.isfinite(proposal.replicas).all()
    assert proposal.trained is not None
    assert proposal.trained.mean() > 0.8
