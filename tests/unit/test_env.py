"""The environments keep Gymnasium's contract, say what is true of themselves, and pay what the score says."""

import fnmatch
import pickle
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from rlscaler import Objective, Settings
from rlscaler.action import CORRECTIONS, PATIENCES, SCHEMES, Scheme, headroom_proposal, scheme
from rlscaler.features import SOURCES
from rlscaler.observation import FIELDS, HIGH, LOW, NAMES
from rlscaler.policy import Proposal, View
from rlscaler.rules.growth import Growth
from rlscaler_sim import patterns, world
from rlscaler_sim.batch import Batch
from rlscaler_sim.contest import Entrant, Schedule, play
from rlscaler_sim.load import Load, realise
from rlscaler_sim.pool import WARM_UP, Pool, prepare

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, NormalizeObservation

from rlscaler_sim.env import ID, LEGACY_ID, ScalerEnv, ScalerVectorEnv, register
from rlscaler_sim.legacy_env import LegacyScalingEnv

SMALL: dict[str, Any] = {"hours": 1.0, "loads": 2, "episode": 40}
STANDARD = Settings(
    capacity_per_replica=10.0, startup=60.0, lag=15.0, objective=Objective(latency=0.5, target=99.9), max_replicas=100
)
DOCUMENT = ScalerEnv.__doc__ or ""


@pytest.fixture(params=SCHEMES)
def actions(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- Gymnasium's contract


def test_gymnasium_accepts_the_environment(actions: str) -> None:
    check_env(ScalerEnv(actions=actions, **SMALL), skip_render_check=True)


def test_stable_baselines3_accepts_the_environment(actions: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(ScalerEnv(actions=actions, **SMALL), warn=True)


@pytest.mark.parametrize("name", [ID, f"rlscaler_sim.env:{ID}"])
def test_it_is_made_by_its_id(name: str, actions: str) -> None:
    env = gymnasium.make(name, actions=actions, **SMALL)
    assert isinstance(env.unwrapped, ScalerEnv)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=1)
    for _ in range(5):
        assert env.observation_space.contains(observation)
        observation, *_ = env.step(env.action_space.sample())
    env.close()


def test_many_are_made_at_once_by_the_id(actions: str) -> None:
    envs = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point", actions=actions, **SMALL)
    assert isinstance(envs.unwrapped, ScalerVectorEnv)
    envs.action_space.seed(0)
    envs.reset(seed=1)
    observation, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(observation)
    assert [np.shape(v) for v in (reward, terminated, truncated)] == [(3,)] * 3
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
    envs.close()


def test_both_ids_are_registered_once() -> None:
    assert (ID, LEGACY_ID) == ("rlscaler/Scaler-v0", "rlscaler/Legacy-v0")
    before = {name: gymnasium.registry[name] for name in (ID, LEGACY_ID)}
    register()
    assert before == {name: gymnasium.registry[name] for name in (ID, LEGACY_ID)}
    legacy = gymnasium.make(LEGACY_ID)
    assert isinstance(legacy.unwrapped, LegacyScalingEnv)
    assert legacy.spec is not None
    assert legacy.spec.max_episode_steps == 200


def test_the_spaces_of_many_are_those_of_one(actions: str) -> None:
    one, many = ScalerEnv(actions=actions, **SMALL), ScalerVectorEnv(num_envs=4, actions=actions, **SMALL)
    assert many.single_observation_space == one.observation_space
    assert many.single_action_space == one.action_space
    assert many.observation_space.shape == (4, len(FIELDS))
    assert many.action_space.shape == (4, *(one.action_space.shape or ()))
    assert many.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_observations_of_many_are_normalised_as_the_document_says() -> None:
    """Gymnasium's wrapper wants environments that start anew a step later, and its refusal names no way out."""
    with pytest.raises(ValueError, match="NEXT_STEP"):
        NormalizeObservation(ScalerVectorEnv(num_envs=2, **SMALL))
    assert 'make_vec(..., vectorization_mode="sync")' in (ScalerVectorEnv.__doc__ or "")
    several = NormalizeObservation(gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync", **SMALL))
    several.reset(seed=0)
    several.action_space.seed(0)
    for _ in range(SMALL["episode"] + 2):
        assert np.isfinite(several.step(several.action_space.sample())[0]).all()
    several.close()


def same_mask(one: Any, other: Any) -> None:
    """Hold two masks of one environment, each an array or a tuple of one for each branch, against each other."""
    assert type(one) is type(other)
    ones, others = ((mask if isinstance(mask, tuple) else (mask,)) for mask in (one, other))
    for mine, theirs in zip(ones, others, strict=True):
        assert mine.dtype == theirs.dtype == np.int8
        np.testing.assert_array_equal(mine, theirs)


def test_one_of_many_does_what_one_does_to_the_bit(actions: str) -> None:
    one, many = ScalerEnv(actions=actions, **SMALL), ScalerVectorEnv(num_envs=1, actions=actions, **SMALL)
    first, info = one.reset(seed=11)
    firsts, infos = many.reset(seed=11)
    np.testing.assert_array_equal(first, firsts[0])
    same_mask(info["action_mask"], infos["action_mask"][0])
    many.action_space.seed(3)
    seen, all_seen = first, firsts
    for step in range(1, SMALL["episode"] + 1):
        action = many.action_space.sample()
        seen, reward, terminated, truncated, info = one.step(action[0])
        all_seen, rewards, ended, cut, infos = many.step(action)
        assert (reward, terminated, truncated) == (rewards[0], ended[0], cut[0])
        assert info["replicas"] == infos["replicas"][0]
        assert truncated == (step == SMALL["episode"])
        if not truncated:
            np.testing.assert_array_equal(seen, all_seen[0])
    np.testing.assert_array_equal(seen, infos["final_obs"][0])
    assert infos["_final_obs"].tolist() == [True]
    ended = infos["final_info"]
    same_mask(ended["action_mask"][0], info["action_mask"])
    assert (ended["replicas"][0], ended["cost"][0], ended["late"][0]) == (info["replicas"], info["cost"], info["late"])
    assert (all_seen[0] != seen).any(), "the observation after the cut is the new episode's"


def test_episodes_are_cut_after_their_length_and_begin_anew() -> None:
    envs = ScalerVectorEnv(num_envs=5, **SMALL)
    envs.reset(seed=2)
    lasted = 0
    for step in range(3 * SMALL["episode"]):
        observation, _, terminated, truncated, infos = envs.step(np.full(5, 5))
        lasted += 1
        assert not terminated.any(), "never terminated"
        assert truncated.any() == (lasted == SMALL["episode"]), step
        assert ("final_obs" in infos) == truncated.any()
        if truncated.any():
            assert truncated.all()
            assert len({row.tobytes() for row in infos["final_obs"]}) == 5
            assert all((row != now).any() for row, now in zip(infos["final_obs"], observation, strict=True))
            lasted = 0


def test_an_episode_ends_where_the_load_ends() -> None:
    env = ScalerEnv(hours=1.0, loads=1, episode=10_000)
    env.reset(seed=0)
    steps = next(step for step in range(1, 300) if env.step(5)[3])
    assert steps == 240 - 1 - min(WARM_UP, 240 // 4)


def test_the_same_seed_gives_the_same_episode_to_the_bit(actions: str) -> None:
    def played(seed: int) -> bytes:
        env = ScalerEnv(actions=actions, **SMALL)
        env.action_space.seed(5)
        found = [env.reset(seed=seed)[0]]
        for _ in range(50):
            seen, reward, _, truncated, _ = env.step(env.action_space.sample())
            found += [seen, np.array(reward)]
            if truncated:
                found.append(env.reset()[0])
        return b"".join(part.tobytes() for part in found)

    assert played(3) == played(3)
    assert played(3) != played(4)


def test_a_copy_goes_on_as_the_original_would_and_apart_from_it(actions: str) -> None:
    """Whoever plans ahead copies the environment, noise and resets included."""
    short: dict[str, Any] = {**SMALL, "episode": 5}
    env = ScalerEnv(actions=actions, **short)
    env.action_space.seed(0)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    copies = [deepcopy(env) for _ in range(2)]
    tried = [env.action_space.sample() for _ in range(4)]
    first = [env.step(action) for action in tried]
    for copied in copies:
        for action, (observation, reward, _, truncated, _) in zip(tried, first, strict=True):
            again = copied.step(action)
            np.testing.assert_array_equal(again[0], observation)
            assert (again[1], again[3]) == (reward, truncated)
    assert first[-1][3], "the episode has ended, and the next one is drawn alike too"
    began = env.reset()[0]
    for copied in copies:
        np.testing.assert_array_equal(copied.reset()[0], began)


def test_a_pickle_goes_on_as_the_original_would(actions: str) -> None:
    """Whoever runs environments in other processes, or keeps them in a file, pickles them."""
    for made in (ScalerEnv(actions=actions, **SMALL), ScalerVectorEnv(num_envs=3, actions=actions, **SMALL)):
        env: Any = made
        env.action_space.seed(0)
        env.reset(seed=1)
        env.step(env.action_space.sample())
        other = pickle.loads(pickle.dumps(env))
        assert other.action_space == env.action_space
        for _ in range(SMALL["episode"] + 3):
            action = env.action_space.sample()
            mine, theirs = env.step(action), other.step(action)
            for one, two in zip(mine[:4], theirs[:4], strict=True):
                np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_a_seed_gives_many_the_same_episodes_whatever_was_played_before() -> None:
    envs = ScalerVectorEnv(num_envs=6, **SMALL)
    first, _ = envs.reset(seed=8)
    after = envs.step(np.arange(6))[:2]
    for _ in range(7):
        envs.step(np.full(6, 2))
    again, _ = envs.reset(seed=[8, None, None, None, None, None])
    np.testing.assert_array_equal(first, again)
    for one, two in zip(after, envs.step(np.arange(6))[:2], strict=True):
        np.testing.assert_array_equal(one, two)


def test_every_seed_of_a_list_counts() -> None:
    envs = ScalerVectorEnv(num_envs=3, **SMALL)
    first, same, other = (envs.reset(seed=seeds)[0].tobytes() for seeds in ([1, 2, 3], [1, 2, 3], [1, 2, 4]))
    assert first == same
    assert first != other


def test_the_infos_of_many_come_apart_by_gymnasiums_own_wrapper() -> None:
    envs = DictInfoToList(ScalerVectorEnv(num_envs=3, **SMALL))
    _, told = envs.reset(seed=1)
    assert [info["action_mask"].shape for info in told] == [(len(CORRECTIONS),)] * 3
    for _ in range(SMALL["episode"]):
        *_, told = envs.step(np.full(3, 5))
    assert [set(info) for info in told] == [{"action_mask", "replicas", "cost", "late", "final_obs", "final_info"}] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "working-days"}, "no scenario is called 'working-days'"),
        ({"actions": "steps"}, "action scheme 'steps' is unknown"),
        ({"episode": 0}, "episode is 0"),
        ({"num_envs": 0}, "n is 0"),
        ({"loads": 0}, "loads is 0"),
        ({"hours": -1.0}, "duration is -3600"),
        ({"hours": float("nan")}, "hours is nan; expected a number"),
        ({"hours": "6"}, "hours is '6'; expected a number"),
        ({"episode": 1.5}, "episode is 1.5; expected a whole number"),
        ({"loads": 1.5}, "loads is 1.5; expected a whole number"),
        ({"num_envs": 1.5}, "num_envs is 1.5; expected a whole number"),
        ({"pool_seed": 0.5}, "pool_seed is 0.5; expected a whole number from 0 on"),
        ({"pool_seed": -1}, "pool_seed is -1; expected a whole number from 0 on"),
        (
            {"scenario": 3},
            "scenario is 3; expected a name, as 'rlscaler scenarios' lists them, or a file's path as text",
        ),
        ({"scenario": []}, r"scenario is \[\]; expected a name"),
        ({"actions": [1]}, r"action scheme \[1\] is unknown; expected one of step, headroom"),
        ({"hours": 15.0 / 3600.0}, "steps of the pool is 1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScalerVectorEnv(**(SMALL | arguments))


@pytest.mark.parametrize(("actions", "wrong"), [("headroom", -1), ("headroom", 11), ("step", 3), ("branching", [0, 5])])
def test_an_action_that_does_not_exist_is_refused(actions: str, wrong: Any) -> None:
    env = ScalerEnv(actions=actions, **SMALL)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action is"):
        env.step(wrong)


@pytest.mark.parametrize(
    ("actions", "wrong"),
    [
        ("headroom", 2.7), ("headroom", float("inf")), ("headroom", None), ("headroom", "5"), ("headroom", [5]),
        ("branching", 5), ("branching", [5.5, 1]), ("branching", [5, 1, 1]), ("branching", [[5, 1]]),
    ],
)  # fmt: skip
def test_what_is_no_action_is_refused_and_changes_nothing(actions: str, wrong: Any) -> None:
    """Neither a part of a number nor another shape; the same of many at once."""
    env, other = (ScalerEnv(actions=actions, **SMALL) for _ in range(2))
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(ValueError, match=r"an action is .*; expected (a )?whole number"):
        env.step(wrong)
    good = np.array([5, 1]) if actions == "branching" else 5.0
    np.testing.assert_array_equal(env.step(good)[0], other.step(good)[0])
    envs = ScalerVectorEnv(num_envs=2, actions=actions, **SMALL)
    envs.reset(seed=0)
    for all_wrong in ([wrong] * 2, wrong):
        with pytest.raises(ValueError, match=r"an action is .*; expected whole numbers of the shape"):
            envs.step(all_wrong)


# --- what the document says


def test_the_document_tells_the_sizes_of_the_spaces() -> None:
    assert f"`Box({len(FIELDS)},)`" in DOCUMENT
    assert len(FIELDS) == 96
    assert f"`Discrete({len(CORRECTIONS)})`" in DOCUMENT
    assert f"`MultiDiscrete([{len(CORRECTIONS)}, {len(PATIENCES)}])`" in DOCUMENT
    assert re.search(r"(\d+) = none", DOCUMENT)
    assert CORRECTIONS[int(re.findall(r"(\d+) = none", DOCUMENT)[0])] == 0.0
    assert ScalerEnv(**SMALL).observation_space == gymnasium.spaces.Box(LOW, HIGH, dtype=np.float32)


@pytest.mark.parametrize("group", ["micro", "macro", "state"])
def test_the_document_names_every_column_of_the_observation(group: str) -> None:
    row = next(line for line in DOCUMENT.splitlines() if line.strip().startswith(f"| {group} "))
    told = re.findall(r"`([^`]+)`", row.split("|")[2])
    if "..." in row:
        told += [f"{source}_*" for source in SOURCES]
    columns = {f.name for f in FIELDS if f.group == group}
    found = {name for name in NAMES if any(fnmatch.fnmatchcase(name, pattern) for pattern in told)}
    assert columns <= found, columns - found
    assert all(any(fnmatch.fnmatchcase(name, pattern) for name in columns) for pattern in told), told


def test_the_schemes_of_the_document_are_those_of_the_code() -> None:
    table = re.findall(r"\| `(\w+)`(?: \(default\))? \| `(Multi)?Discrete", DOCUMENT)
    assert {name for name, _ in table} == SCHEMES.keys()
    assert {name for name, many in table if many} == {n for n, s in SCHEMES.items() if len(s.branches) > 1}


# --- masks


def pool_of(sources: list[str], hours: float, settings: Settings, seed: int = 0, **config: Any) -> tuple[Pool, Any]:
    """Return a pool of one draw of each source, in the standard world but for `config`."""
    made = world.WorldConfig(**config)
    loads = [
        realise(patterns.parse(name), duration=hours * 3600.0, rng=np.random.default_rng([seed, i]))
        for i, name in enumerate(sources)
    ]
    return prepare(loads, made, settings, seed), made


def narrow() -> Settings:
    return Settings(capacity_per_replica=10.0, min_replicas=18, max_replicas=26, floor=False)


def test_masked_actions_are_those_beyond_a_bound_but_the_nearest() -> None:
    pool, config = pool_of(["sinusoidal", "spike"], 2.0, narrow())
    batch = Batch(pool, config, narrow(), SCHEMES["headroom"], 16, 60, seed=1)
    rng = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(80):
        view, mask = batch.view, batch.mask()
        counts = np.stack([headroom_proposal(view, np.full(16, c)).replicas for c in CORRECTIONS], axis=1)
        for row, allowed in zip(counts, mask, strict=True):
            expected = [
                not ((i > 0 and row[i - 1] >= 26) or (i < len(row) - 1 and row[i + 1] <= 18)) for i in range(len(row))
            ]
            assert allowed.tolist() == expected, row
            assert allowed.any()
            if row.min() > 18 and row.max() < 26:
                assert allowed.all(), "nothing is masked away from the bounds"
            decided = np.clip(np.ceil(row - 1e-6 * row), 18, 26)
            for masked in np.flatnonzero(~allowed):
                nearest = np.flatnonzero(allowed)[np.abs(np.flatnonzero(allowed) - masked).argmin()]
                assert decided[masked] == decided[nearest], "a masked action is no choice of its own"
            seen[bool(allowed.all())] += 1
        batch.step(rng.integers(0, 11, 16))
    assert seen[False] > 100, "the bounds were met"


def test_an_action_is_sampled_by_its_mask_as_gymnasium_has_it(actions: str) -> None:
    """Of one environment, of many, and of those that Gymnasium itself puts together; the mask is that of the scheme."""
    one = ScalerEnv(actions=actions, hours=1.0, loads=1, episode=110)
    one.action_space.seed(0)
    _, info = one.reset(seed=4)
    masked = 0
    for _ in range(109):
        allowed = one._batch.mask()[0]
        masked += not allowed.all()
        for _ in range(20):
            action = one.action_space.sample(mask=info["action_mask"])
            assert one.action_space.contains(action)
            assert allowed[np.ravel(action)[0]]
        most = np.array(one.scheme.branches) - 1
        *_, info = one.step(most if len(most) > 1 else most[0])
    assert masked or actions != "step", "the bound was met"
    for way in ("vector_entry_point", "sync"):
        envs = gymnasium.make_vec(ID, num_envs=3, vectorization_mode=way, actions=actions, **SMALL)
        envs.single_action_space.seed(0)
        _, infos = envs.reset(seed=4)
        for _ in range(5):
            action = np.stack([envs.single_action_space.sample(mask=mask) for mask in infos["action_mask"]])
            assert envs.action_space.contains(action)
            *_, infos = envs.step(action)
        envs.close()


def test_a_masked_step_would_cross_a_bound_and_the_mask_is_that_of_the_observation_returned() -> None:
    env = ScalerEnv(actions="step", hours=1.0, loads=1, episode=110)
    env.reset(seed=4)
    bounds = set()
    truncated = above = False
    for _ in range(110):
        _, _, _, truncated, info = env.step(2)
        below, stay, above = info["action_mask"]
        assert stay
        assert below == (info["replicas"] > 1)
        assert above == (info["replicas"] < 100)
        bounds.add(bool(above))
    assert bounds == {True, False}
    assert truncated
    assert not above, "the mask of the ended episode, not of the next one"


# --- rewards


def test_the_reward_is_the_two_costs_and_the_bill_is_exact() -> None:
    env = ScalerEnv(**SMALL)
    env.reset(seed=1)
    pool = env._batch.pool
    for action in (0, 5, 10, 3, 7):
        load = env._batch.load[0]
        _, reward, _, _, info = env.step(action)
        assert reward == -(info["cost"] + info["late"])
        assert info["cost"] == pytest.approx(info["replicas"] * 15.0 / pool.mean_needed[load], rel=1e-6)
        assert info["late"] >= 0.0


@pytest.mark.parametrize("replicas", [11, 12, 15])
def test_the_mean_reward_is_the_score_with_its_sign_changed(replicas: int) -> None:
    """A steady load of 100 requests/s, Poisson, on a fixed number of replicas: queueing theory's own case."""
    settings = Settings(
        capacity_per_replica=10.0, min_replicas=replicas, max_replicas=replicas, objective=Objective(latency=0.5)
    )
    config = world.WorldConfig(fano=1.0)
    ticks = np.full(5 * 400, 100.0, np.float32)
    load = Load("steady", 3.0, ticks, np.ones(2000, bool), np.ones(2000, bool))
    batch = Batch(prepare([load], config, settings, 0), config, settings, SCHEMES["step"], 2, 130, seed=0)
    paid = []
    for step in range(130):
        done = batch.step(np.array([1, 1]))
        if step >= 10:
            paid.append(done.reward)
    orders = np.full((1, 400), replicas, np.int32)
    sums = play([load], [Entrant("fixed", Schedule(orders), settings)], config, settings, [0])
    assert sums.cost_ratio[0, 0] == replicas / 10.0
    np.testing.assert_allclose(np.mean(paid, axis=0), -sums.score[0, 0], rtol=5e-3)


class Own:
    """A rule in place of an action scheme: what the environment pays for it."""

    branches = (1,)

    def __init__(self, choose: Callable[[View], Proposal]) -> None:
        self.choose = choose

    def propose(self, view: View, actions: Any) -> Proposal:
        return self.choose(view)

    def mask(self, view: View) -> Any:
        return np.ones((len(view.demand), 1), bool)


def mean_cost(pool: Pool, config: Any, settings: Settings, how: Scheme | Own, action: int) -> float:
    """Return J of always the same action, masked, over 240 steps of 24 environments."""
    batch = Batch(pool, config, settings, how, 24, 240, seed=5)  # type: ignore[arg-type]
    paid = 0.0
    for _ in range(240):
        distance = np.where(batch.mask(), np.abs(np.arange(how.branches[0]) - action), np.inf)
        paid -= float(batch.step(distance.argmin(axis=1)).reward.mean()) / 240
    return paid


def test_doing_nothing_but_the_middle_action_is_a_sane_rule() -> None:
    pool, config = pool_of(["working-day", "sinusoidal", "random-walk", "spike"], 4.0, STANDARD, fano=2.0)
    growth = mean_cost(pool, config, STANDARD, Own(lambda view: Growth().propose(view, {})[0]), 0)
    middle = mean_cost(pool, config, STANDARD, scheme("headroom"), len(CORRECTIONS) // 2)
    lowest, highest = (mean_cost(pool, config, STANDARD, scheme("headroom"), a) for a in (0, len(CORRECTIONS) - 1))
    assert middle < 1.15 * growth, (middle, growth)
    assert middle < 0.75 * min(lowest, highest), (middle, lowest, highest)


# --- the pool


def test_draws_of_one_source_have_noise_of_their_own() -> None:
    pool, _ = pool_of(["sine-curve", "sine-curve"], 1.0, STANDARD, fano=3.0)
    factor = pool.rates[0] / np.maximum(pool.rates[1], 1e-9)
    assert np.std(np.log(factor)) > 0.03
    busy = np.isfinite(pool.seen).all(axis=0)
    assert (pool.seen[0, busy] != pool.seen[1, busy]).mean() > 0.9


def test_where_the_load_is_unknown_so_is_all_that_the_same_pipeline_brings() -> None:
    pool, config = pool_of(["sinusoidal"], 2.0, STANDARD, gap_rate=20.0, gap_duration=60.0)
    batch = Batch(pool, config, STANDARD, SCHEMES["headroom"], 8, 60, seed=3)
    missing = 0
    for _ in range(60):
        lost = np.isnan(batch.view.snapshot["load"])
        for name in ("backlog", "utilization", "latency"):
            assert np.isnan(batch.view.snapshot[name][lost]).all(), name
        assert np.isfinite(batch.view.snapshot["ready"]).all(), "replica counts come from the cluster"
        missing += int(lost.sum())
        before = batch.view.current[lost]
        assert (batch.step(np.full(8, 0)).replicas[lost] >= before).all(), "unknown never scales down"
    assert missing > 20
