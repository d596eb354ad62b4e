"""The bound on hard load: its arithmetic, the family of loads, the search, and the command around them."""

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest

from command_line import mistakes, run, stand_in
from rlscaler.arrays import State
from rlscaler.policy import Proposal, View
from rlscaler_sim import contenders, stress
from rlscaler_sim.adversary import MOST_PEAK, AdversaryError, child, drawn, family, search
from rlscaler_sim.contest import Entrant
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.patterns import Pattern, parse
from rlscaler_sim.stress import Hard, Source

SETTINGS = contenders.standard_settings()
SHORT = family(1800.0)


class Ratchet:
    """A deliberately bad policy: it never scales down."""

    name = "ratchet"

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        return Proposal(replicas=np.fmax(view.current, 1.4 * view.demand)), state


def hard(*scores: tuple[float, ...], seeds: int = 1) -> Hard:
    """Return a load with the scores of a policy, hpa-own and the clairvoyant, one for each seed."""
    names = ("mine", contenders.OWN, "clairvoyant")
    told = {name: np.array(each) for name, each in zip(names, scores, strict=True)}
    return Hard(Source("load", parse("steady"), 900.0), told, {}, tuple(range(seeds)))


@pytest.mark.parametrize(
    ("score", "own", "least", "loss", "within"),
    [
        pytest.param(2.0, 2.0, 1.0, 0.0, True, id="as good as the HPA"),
        pytest.param(1.0, 2.0, 1.0, -1.0, True, id="as good as the clairvoyant"),
        pytest.param(2.5, 2.0, 1.0, 0.5, True, id="at the bound"),
        pytest.param(2.51, 2.0, 1.0, 0.51, False, id="beyond it"),
        pytest.param(1.13, 1.10, 1.09, 0.6, False, id="an HPA that is nearly perfect counts 0.05"),
        pytest.param(1.12, 1.10, 1.09, 0.4, True, id="and that much is allowed"),
        pytest.param(1.12, 1.10, 1.20, 0.4, True, id="an HPA that beats the plan too"),
    ],
)
def test_the_bound_on_one_load(score: float, own: float, least: float, loss: float, within: bool) -> None:
    found = hard((score,), (own,), (least,))
    assert found.loss("mine") == pytest.approx(loss)
    assert found.within("mine") is within
    assert math.isnan(found.error("mine"))


def test_a_loss_is_of_the_means_and_its_error_of_paired_draws() -> None:
    """What is common to the policy and the HPA on a draw is no error of their difference."""
    found = hard((2.5, 3.5), (2.0, 3.0), (1.0, 1.0), seeds=2)
    assert found.loss("mine") == pytest.approx(0.5 / 1.5)
    assert found.error("mine") == pytest.approx(0.0)
    found = hard((2.4, 2.6), (2.0, 2.0), (1.0, 1.0), seeds=2)
    assert found.error("mine") == pytest.approx(0.1)


def test_every_load_of_the_family_is_an_expression_that_can_be_served() -> None:
    rng = np.random.default_rng(1)
    one, two = drawn(SHORT, rng), drawn(SHORT, rng)
    every = [drawn(SHORT, rng) for _ in range(40)] + [child(SHORT, rng, one, two, 0.2) for _ in range(40)]
    times = np.arange(7.5, 1800.0, 15.0)
    for genes in every:
        load = SHORT.pattern(genes)
        rates = load.rates(times, np.random.default_rng(2))
        np.testing.assert_array_equal(parse(load.name).rates(times, np.random.default_rng(2)), rates)
        assert SHORT.servable(load)
        if "jitter" not in load.name and "on-off" not in load.name:
            assert rates.max() <= MOST_PEAK * np.percentile(rates, 95) + 1e-9
    kinds = ("sine-curve", "ramp", "flash-crowd", "idle-then-spike", "on-off", "jitter")
    names = [SHORT.pattern(genes).name for genes in every]
    assert all(0 < sum(kind in name for name in names) < len(names) for kind in kinds)
    assert any(name.count("idle-then-spike") == 2 for name in names)


def test_a_peak_that_no_bounds_serve_is_refused() -> None:
    assert not SHORT.servable(parse("0.1+flash-crowd(at=300,rise=15,hold=15,decay=1)"))
    assert not SHORT.servable(parse("steady(level=0)"))
    assert SHORT.servable(parse("0.5+flash-crowd(at=300,rise=15,hold=15,decay=1)"))


def bumps(patterns: "list[Pattern]", draws: "list[int]") -> np.ndarray:
    """Return a loss without a world: the number of parts, and chance."""
    chance = [
        np.random.default_rng([draw, len(p.name)]).standard_normal() for p, draw in zip(patterns, draws, strict=True)
    ]
    return np.array([p.name.count("+") + 0.3 * c for p, c in zip(patterns, chance, strict=True)])


def test_a_search_is_the_same_with_the_same_seed() -> None:
    found = [search(bumps, SHORT, budget=96, seed=seed, starts=2, batch=24) for seed in (3, 3, 4)]  # type: ignore[arg-type]
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 2
    assert all(each.draws == 3 for each in found[0])
    assert found[0][0].loss >= found[0][1].loss


def test_the_best_of_a_search_are_drawn_anew_with_each_batch() -> None:
    """So that a load that was only unlucky once is not what is found."""
    seen: dict[str, list[int]] = {}

    def losses(patterns: list[Pattern], draws: list[int]) -> np.ndarray:
        for pattern, draw in zip(patterns, draws, strict=True):
            seen.setdefault(pattern.name, []).append(draw)
        return bumps(patterns, draws)

    found = search(losses, SHORT, budget=120, seed=1, starts=1, batch=24)  # type: ignore[arg-type]
    assert sum(map(len, seen.values())) == 120
    told = seen[found[0].pattern.name]
    assert len(set(told)) == len(told) > found[0].draws


@pytest.mark.parametrize(
    ("budget", "batch", "sentence"),
    [
        pytest.param(47, 24, "a budget of 47 loads; expected 48 or more", id="budget"),
        pytest.param(96, 8, "a batch of 8 loads for 3 starts", id="batch"),
    ],
)
def test_a_search_needs_room(budget: int, batch: int, sentence: str) -> None:
    with pytest.raises(AdversaryError, match=sentence):
        search(bumps, SHORT, budget=budget, seed=0, batch=batch)  # type: ignore[arg-type]


def test_an_hpa_of_the_small_grid_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside itself alone; beside more of them it can only lose."""
    patterns = [SHORT.pattern(drawn(SHORT, np.random.default_rng(i))) for i in range(3)]
    own = contenders.hpa_entrant("mine", SETTINGS, {"target": 0.7, "window": 60.0, "tolerance": 0.05})
    config = standard_world(SETTINGS)

    def losses() -> np.ndarray:
        return stress.rough_losses(own, patterns, [0, 1, 2], duration=1800.0, settings=SETTINGS, config=config)

    beside_others = losses()
    monkeypatch.setattr(stress, "TARGETS", (0.7,))
    monkeypatch.setattr(stress, "WINDOWS", (60.0,))
    np.testing.assert_allclose(losses(), 0.0, atol=1e-9)
    assert (beside_others >= 0.0).all()
    assert beside_others.max() > 0.0


def test_a_search_finds_what_a_bad_policy_cannot_do_deeper_than_chance() -> None:
    """A policy that never scales down, on fresh draws of what was found, and of the worst of as many at random."""
    ratchet = Entrant("ratchet", Ratchet(), SETTINGS)
    config, space, budget, batch = standard_world(SETTINGS), family(900.0), 96, 16
    found = stress.searched(ratchet, space, settings=SETTINGS, budget=budget, seed=2, starts=1, batch=batch)
    rng = np.random.default_rng(2)
    drawn_at_random = [space.pattern(drawn(space, rng)) for _ in range(budget)]
    losses = stress.rough_losses(
        ratchet, drawn_at_random, range(budget), duration=900.0, settings=SETTINGS, config=config
    )
    sources = [Source("searched", found[0].pattern, 900.0), Source("drawn", drawn_at_random[losses.argmax()], 900.0)]
    one, other = stress.scored(sources, [ratchet], settings=SETTINGS, seeds=2)
    assert one.loss("ratchet") > 1.1 * other.loss("ratchet") > stress.BOUND


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the commands installed."""
    stand_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param("--pattern rain", "--pattern rain: no scenario is called 'rain'", id="pattern"),
        pytest.param(
            "--pattern steady(levl=1)+spike", "--pattern steady(levl=1)+spike: steady has no", id="expression"
        ),
        pytest.param("--pattern crashes", "--pattern crashes: expected a made-up load", id="another world"),
        pytest.param("--pattern a.csv", "--pattern a.csv: expected a made-up load", id="recorded"),
        pytest.param("--rules luck", "--rules luck: expected some of static", id="rule"),
        pytest.param("--rules ,", "--rules ,: no name; expected names", id="no rule"),
        pytest.param("--rules hpa-own", "--rules hpa-own: expected some of static", id="the reference"),
        pytest.param("--policy nobody", "policy 'nobody' is unknown", id="policy"),
        pytest.param(
            "--policy hpa --policy keda --budget 100", "--budget: a budget of 100 loads; expected 192", id="budget"
        ),
        pytest.param("--for 5s", "--for 5s: expected 900s to 86400s", id="short"),
        pytest.param("--search-for 9d", "--search-for 777600s: expected 900s to 86400s", id="long"),
        pytest.param("--seeds 0", "0 is not in the range", id="seeds"),
        pytest.param("--output no/where.json", "no/where.json", id="output"),
    ],
)
def test_mistakes_are_one_sentence(place: Path, arguments: str, sentence: str) -> None:
    told = mistakes(run("stress", "-q", *arguments.split()))
    assert len(told) == 1
    assert sentence in told[0].replace("Invalid value for ", "")
    assert [path.name for path in place.iterdir()] == []


def test_the_command_writes_page_figures_and_picture(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "BATCH", 4)
    result = run(
        "stress", "-q", "--policy", "static", "--rules", "hpa,static", "--pattern", "steady", "--pattern", "0.2+on-off",
        "--for", "30m", "--search-for", "15m", "--budget", "8", "--starts", "1", "--seeds", "2",
        "--output", "out.json", "--markdown", "page.md", "--plot", "loads.png",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    page, told = (place / "page.md").read_text(), json.loads((place / "out.json").read_text())
    assert page == result.stdout
    assert "![Load and ready replicas](loads.png)" in page
    assert (place / "loads.png").read_bytes().startswith(b"\x89PNG")
    assert [load["load"] for load in told["loads"]] == ["steady", "0.2+on-off", "against static #1"]
    assert [load["found_against"] for load in told["loads"]] == [None, None, "static"]
    assert told["policies"] == ["static"]
    assert told["rules"] == ["hpa"]
    for load in told["loads"]:
        score = load["score"]
        span = max(score["hpa-own"] - score["clairvoyant"], 0.05)
        for name in ("static", "hpa"):
            assert load["loss"][name] == pytest.approx((score[name] - score["hpa-own"]) / span)
            assert load["within"][name] is (load["loss"][name] <= 0.5)
            figure = f"{load['loss'][name]:.2f}"
            assert (figure if load["within"][name] else f"**{figure}**") in page
    found = told["loads"][-1]
    assert f"--for 0.25h --trace {shlex.quote(found['expression'])}" in page
    assert parse(found["expression"]).name == found["expression"]
    assert told["command"] in page


def test_a_rule_that_keeps_to_the_bound_where_the_policy_does_not_is_told(place: Path) -> None:
    result = run("stress", "-q", "--policy", "constant", "--rules", "hpa-tuned,growth-quantile", "--pattern",
                 "flash-crowd", "--for", "2h", "--seeds", "1", "--budget", "0")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "- `constant` is beyond the bound on 1 of 1 named loads (flash-crowd: " in result.stdout
    assert "`growth-quantile` keeps to it where `constant` does not: flash-crowd." in result.stdout
    assert " 1 draw of noise that no search saw" in result.stdout
    assert "found by search" not in result.stdout
