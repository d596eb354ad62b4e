"""Scores, regrets and summaries are the formulas that the documents state, on draws that everyone shares."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st

from rlscaler import tuned
from rlscaler.artifact import Artifact, save
from rlscaler.observation import SCHEMA
from rlscaler.policies import RULES, PolicyError
from rlscaler_sim import contenders, evaluation, tuner
from rlscaler_sim.contest import play
from rlscaler_sim.evaluation import Scored, evaluate, regrets_to, summary, with_regrets
from rlscaler_sim.load import LoadError, realise_many
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE, Contender
from rlscaler_sim.score_statistics import interval, iqm
from rlscaler_sim.summary_table import markdown, print_summary, to_json
from rlscaler_sim.trace import Trace, family, read_trace, traces_folder

STANDARD = contenders.standard_settings()


def contender(name: str, score: float, **values: Any) -> Contender:
    return Contender(name, score, 0.0, score, None, 1.0, 1, 0.1, 5, **values)


# --- regret


def test_regret_is_the_distance_to_the_clairvoyant_in_units_of_the_reference() -> None:
    found = with_regrets(
        [contender("mine", 1.5), contender(REFERENCE, 2.0), contender("hpa-own", 1.25), contender(CLAIRVOYANT, 1.0)]
    )
    assert [c.regret for c in found] == [0.5, 1.0, 0.25, 0.0]
    assert [c.regret_own for c in found] == [2.0, 4.0, 1.0, 0.0]
    assert [c.score for c in found] == [1.5, 2.0, 1.25, 1.0]


def told(name: str, headline: bool = True, **scores: float) -> Scored:
    named = {key.replace("_", "-"): score for key, score in scores.items()}
    return Scored(name, name, headline, [contender(key, score) for key, score in named.items()], 1.0, 1)


def test_regret_to_another_reference() -> None:
    traces = [
        told("one", mine=1.5, hpa_own_target=2.0, clairvoyant=1.0),
        told("two", mine=3.0, hpa_own_target=2.0, clairvoyant=1.0),
        told("left out", headline=False, mine=9.0, hpa_own_target=2.0, clairvoyant=1.0),
        told("nothing to win", mine=1.5, hpa_own_target=1.0, clairvoyant=1.0),
    ]
    found = regrets_to(traces, "hpa-own-target")
    assert {name: values.tolist() for name, values in found.items()} == {
        "mine": [0.5, 2.0], "hpa-own-target": [1.0, 1.0], "clairvoyant": [0.0, 0.0],
    }  # fmt: skip
    assert regrets_to(traces, "nobody") == {}
    page = markdown(traces, summary(traces), "the command").splitlines()
    assert "| mine | 1.25 | 1.25 | 2.00 | 1 |" in page
    assert not any(line.startswith("| clairvoyant | 0.00 | 0.00 | 0.00 |") and line.count("|") == 6 for line in page)


def test_the_markdown_of_a_trace_without_load_has_dashes() -> None:
    """Nothing is needed there, so that no score is a number; nor is a bound, where none is proven."""
    empty = replace(told("empty", headline=False, hpa_tuned=math.nan, mine=math.inf, clairvoyant=math.nan),
                    lower_bound=math.nan)  # fmt: skip
    alone = told("alone", hpa_tuned=2.0, mine=1.5)
    page = markdown([empty, alone], summary([empty, alone]), "the command")
    assert not any(word in page.lower() for word in ("nan", "inf"))
    rows = {line.split(" |")[0]: line for line in page.splitlines() if line.startswith("|")}
    assert rows["| empty *"] == "| empty * | - | - | - | - |"
    assert "**1.500**" in rows["| alone"]
    assert rows["| alone"].endswith("| - | 1.000 |")
    nothing = markdown([empty], summary([empty]), "the command")
    assert not any(word in nothing.lower() for word in ("nan", "inf"))


UNDEFINED = {
    "no clairvoyant": {REFERENCE: 2.0, "mine": 1.5},
    "no reference": {CLAIRVOYANT: 1.0, "mine": 1.5},
    "the reference is the limit": {CLAIRVOYANT: 1.0, REFERENCE: 1.0, "mine": 1.5},
    "the reference is better": {CLAIRVOYANT: 1.0, REFERENCE: 0.9, "mine": 1.5},
    "nothing was needed": {CLAIRVOYANT: math.inf, REFERENCE: math.inf, "mine": math.inf},
}


@pytest.mark.parametrize("scores", UNDEFINED.values(), ids=UNDEFINED.keys())
def test_regret_is_not_defined(scores: dict[str, float]) -> None:
    found = with_regrets([contender(name, score) for name, score in scores.items()])
    assert {c.regret for c in found} == {None}
    assert {c.regret_own for c in found} == {None}


# --- summaries


def plain_iqm(values: list[float]) -> float:
    """Return the mean of the middle half, by shares: 4 copies of each, a quarter cut at either end."""
    copies = sorted(v for v in values for _ in range(4))
    return statistics.fmean(copies[len(values) : -len(values)])


@given(st.lists(st.floats(-100.0, 100.0), min_size=1, max_size=25))
@checked(deadline=None, derandomize=True)
def test_the_interquartile_mean_of_any_values(values: list[float]) -> None:
    assert iqm(np.array(values)) == pytest.approx(plain_iqm(values), abs=1e-9)


def test_the_interquartile_mean_of_nothing_is_unknown() -> None:
    assert math.isnan(iqm(np.array([])))
    assert all(math.isnan(v) for v in interval(np.array([]), [], iqm, np.random.default_rng(0)))


def scored(name: str, regrets: dict[str, float | None], own: dict[str, float | None], headline: bool = True) -> Scored:
    found = [contender(n, 1.0, regret_own=own.get(n)) for n in regrets]
    found = [replace(c, regret=regrets[c.name]) for c in found]
    return Scored(name, family(name), headline, found, 0.9, 2)


def made_up(count: int = 9) -> list[Scored]:
    rng = np.random.default_rng(3)
    out = []
    for k in range(count):
        regrets = {n: float(v) for n, v in zip(("a", "b", CLAIRVOYANT), rng.uniform(0.1, 2.0, 3), strict=True)}
        own: dict[str, float | None] = {n: 1.5 * v for n, v in regrets.items()}
        out.append(scored(f"source{k % 4}_{k}_60s", {**regrets}, own))
    return out


def test_the_summary_against_plain_python() -> None:
    traces = made_up()
    found = summary(traces)
    assert list(found) == ["a", "b", CLAIRVOYANT]
    for name, entry in found.items():
        for key in ("regret", "regret_own"):
            values = [getattr(s.of(name), key) for s in traces]
            assert entry["traces"] == 9
            assert entry[f"median_{key}"] == pytest.approx(statistics.median(values))
            assert entry[f"mean_{key}"] == pytest.approx(statistics.fmean(values))
            assert entry[f"worst_{key}"] == max(values)
            assert entry[f"iqm_{key}"] == pytest.approx(plain_iqm(values))
        worse = sum(s.of(name).regret_own > 1.0 for s in traces)  # type: ignore[operator]
        assert entry["traces_worse_than_hpa_own"] == worse


def test_only_headline_traces_and_defined_regrets_count() -> None:
    traces = [
        scored("one_60s", {"a": 1.0, "b": None}, {"a": 1.0, "b": 2.0}),
        scored("two_60s", {"a": 3.0, "b": None}, {"a": 0.5, "b": None}),
        scored("three_60s", {"a": 9.0, "b": 9.0}, {"a": 9.0, "b": 9.0}, headline=False),
    ]
    found = summary(traces)
    assert (found["a"]["mean_regret"], found["a"]["worst_regret"], found["a"]["traces"]) == (2.0, 3.0, 2)
    assert found["a"]["traces_worse_than_hpa_own"] == 0, "equal to hpa-own is not worse"
    assert found["b"]["mean_regret"] is None
    assert found["b"]["mean_regret_own"] == 2.0
    assert found["b"]["traces_worse_than_hpa_own"] == 1


def test_the_interval_holds_the_estimate_and_is_the_same_again() -> None:
    traces = made_up(16)
    for entry in summary(traces).values():
        low, high = entry["iqm_regret_interval"]
        assert low <= entry["iqm_regret"] <= high
        assert low < high
    assert summary(traces) == summary(traces)
    assert summary(traces, seed=1) != summary(traces)


def test_whole_families_are_drawn() -> None:
    """Two families, each of equal values: a draw holds the one, the other, or both, and nothing between."""
    values = np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])
    seen = set()

    def mean(drawn: np.ndarray) -> float:
        seen.add((len(drawn), float(drawn.mean())))
        return float(drawn.mean())

    low, high = interval(values, ["x"] * 3 + ["y"] * 3, mean, np.random.default_rng(0))
    assert seen == {(6, 1.0), (6, 3.0), (6, 5.0)}
    assert (low, high) == (1.0, 5.0)
    assert interval(values, ["x"] * 6, iqm, np.random.default_rng(0)) == (3.0, 3.0), "one family has no spread"


def test_the_interval_of_many_families_is_about_that_of_theory() -> None:
    """90 % of the mean of 100 values of standard deviation 1: within 1.645 / 10 of it."""
    values = np.random.default_rng(1).standard_normal(100)
    values = (values - values.mean()) / values.std()
    low, high = interval(values, [str(i) for i in range(100)], lambda v: float(v.mean()), np.random.default_rng(0))
    assert (low, high) == pytest.approx((-0.1645, 0.1645), abs=0.015)


# --- a whole evaluation


def trace_file(folder: Path, name: str, seed: int, minutes: int = 30) -> Path:
    """Write a trace of 15 s buckets, a wave with noise and a surge, and return its path."""
    rng = np.random.default_rng(seed)
    time = 15.0 * np.arange(4 * minutes)
    rates = 80.0 * (1.0 + 0.75 * np.sin(time / 300.0 + seed)) * np.exp(0.08 * rng.standard_normal(time.size))
    rates[60:75] *= 1.8
    path = folder / f"{name}.csv"
    path.write_text("t,rate\n" + "".join(f"{t:g},{r:.4f}\n" for t, r in zip(time, rates, strict=True)))
    return path


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    folder = tmp_path_factory.mktemp("traces")
    return [
        read_trace(trace_file(folder, "shop_15s", 1)),
        read_trace(trace_file(folder, "bank_calls_15s", 2, minutes=40)),
    ]


def table() -> dict[str, Any]:
    """Return tuned constants: every fold has others, so that it shows which were used."""

    def constants(step: int) -> dict[str, dict[str, float]]:
        hpa = {"target": contenders.TARGETS[step], "window": 60.0, "tolerance": 0.05}
        return {REFERENCE: hpa, "static": {"replicas": 20.0 + step}, "growth-quantile": {"peak": 0.1 * step}}

    return {
        "constants": constants(4),
        "folds": [
            {"held_out": ["shop"], "constants": constants(5)},
            {"held_out": ["bank", "nasa"], "constants": constants(6)},
        ],
    }


@pytest.fixture(scope="module")
def tuned_table() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned, "table", table)
        yield


@pytest.fixture(scope="module")
def result(traces: list[Trace], tuned_table: None) -> list[Scored]:
    return evaluate(traces, ["growth-quantile"], seeds=[0, 1], duration=1800.0, settings=STANDARD)


def holds(found: Scored, *policies: str) -> None:
    """Check what is true of every evaluation."""
    names = [c.name for c in found.contenders]
    everyone = [*contenders.NAMES, contenders.OWN_TARGET, *policies]
    assert sorted(names) == sorted(everyone), "everyone takes part, and once"
    best = found.of(CLAIRVOYANT)
    assert best.score >= found.lower_bound > 0.0
    for c in found.contenders:
        assert c.score >= best.score * (1.0 - 1e-3), f"{c.name} beats the clairvoyant"
        assert c.score == pytest.approx(c.cost_ratio + 20.0 * c.violation_share)
        assert 0.0 <= c.violation_share <= 1.0
        assert c.regret is not None
        assert c.regret == pytest.approx(
            (c.score - best.score) / (found.of(REFERENCE).score - best.score), rel=1e-9, abs=1e-12
        )
    assert found.of(REFERENCE).regret == 1.0
    assert found.of("hpa-own").regret_own == 1.0
    assert found.of("random").rescales > found.of("growth-quantile").rescales > found.of("constant").rescales


def test_an_evaluation_of_two_traces(result: list[Scored]) -> None:
    assert [(s.trace, s.family, s.seeds, s.headline) for s in result] == [
        ("shop_15s", "shop", 2, True),
        ("bank_calls_15s", "bank", 2, True),
    ]
    for found in result:
        holds(found)


def test_constants_churn_and_chance_stand_in_the_table_and_are_bad(result: list[Scored]) -> None:
    for found in result:
        assert found.of("constant").rescales <= 1
        assert found.of("churn").rescales >= 100
        for name in ("constant", "churn", "random"):
            assert found.of(name).score > 1.3 * found.of(CLAIRVOYANT).score


def test_the_hpa_of_the_very_trace_is_no_worse_than_the_one_of_training_load(result: list[Scored]) -> None:
    """Its search holds the tuned constants, and both seeds are those that it is tuned on."""
    for found in result:
        assert found.of("hpa-own").score <= found.of(REFERENCE).score + 1e-12


def test_an_hpa_with_its_target_alone_to_tune_is_no_better(result: list[Scored]) -> None:
    for found in result:
        assert found.of("hpa-own-target").score >= found.of("hpa-own").score - 1e-12


def test_the_target_alone_is_tuned_without_a_window_and_with_the_tolerance_of_kubernetes() -> None:
    grid, allowed = contenders.own_grid(), contenders.own_allowed()
    alone = {key: values[allowed[contenders.OWN_TARGET]].tolist() for key, values in grid.items()}
    assert alone["target"] == list(contenders.TARGETS)
    assert (set(alone["window"]), set(alone["tolerance"])) == ({0.0}, {0.1})
    assert allowed[contenders.OWN].all()


def test_the_same_again_is_the_same_to_the_bit(traces: list[Trace], result: list[Scored], tuned_table: None) -> None:
    again = evaluate(traces[::-1], ["growth-quantile"], seeds=[0, 1], duration=1800.0, settings=STANDARD)[::-1]
    for one, two in zip(result, again, strict=True):
        assert (one.trace, one.lower_bound) == (two.trace, two.lower_bound)
        for c in one.contenders:
            if c.name != "random":  # draws by the place in the batch
                assert c == two.of(c.name), "nor does the order of the traces matter"


def test_the_constants_of_a_fold_were_tuned_without_the_family(
    traces: list[Trace], result: list[Scored], tuned_table: None
) -> None:
    entrant = contenders.folded(REFERENCE, STANDARD, ["shop", "bank", "elsewhere"])
    assert entrant.policy.target.tolist() == [contenders.TARGETS[i] for i in (5, 6, 4)]  # type: ignore[attr-defined]
    for found, fold in zip(result, (5, 6), strict=True):
        trace = next(t for t in traces if t.name == found.trace)
        loads = realise_many([trace], [0, 1], duration=1800.0)
        rows = [loads.row(0), loads.row(1)]
        target = {"target": contenders.TARGETS[fold], "window": 60.0, "tolerance": 0.05}
        by_hand = [
            contenders.entrant(REFERENCE, STANDARD, target),
            contenders.entrant("static", STANDARD, {"replicas": 20.0 + fold}),
            contenders.entrant("growth-quantile", STANDARD, {"peak": 0.1 * fold}),
        ]
        sums = play(rows, by_hand, evaluation.standard_world(STANDARD), STANDARD, [0, 1])
        for index, entrant in enumerate(by_hand):
            assert found.of(entrant.name).score == pytest.approx(float(sums.score[index].mean()), rel=1e-9), (
                entrant.name
            )


@pytest.mark.parametrize("rules", [contenders.NAMES, (REFERENCE, CLAIRVOYANT)], ids=["among all", "among few"])
def test_a_rule_as_the_policy_has_the_constants_of_the_fold_too(
    traces: list[Trace], result: list[Scored], tuned_table: None, rules: tuple[str, ...]
) -> None:
    policies = ["growth-quantile"]
    found = evaluate(traces[:1], policies, seeds=[0, 1], duration=1800.0, settings=STANDARD, rules=rules)[0]
    assert found.of("growth-quantile") == replace(
        result[0].of("growth-quantile"), regret_own=found.of("growth-quantile").regret_own
    )


def artifact(folder: Path, name: str, file: str, correction: int) -> str:
    """Save a policy that always takes the same correction and return its path."""
    values = np.zeros((2, 11))
    values[:, correction] = 1.0
    manifest = {
        "name": name,
        "kind": "q-table",
        "observation_schema": SCHEMA,
        "action_scheme": "headroom",
        "parameters": {"bins": [["trend", [0.0]]]},
    }
    save(Artifact(manifest, {"values": values}), folder / file)
    return str(folder / file)


def test_policies_of_one_name_are_told_apart_by_their_paths(
    traces: list[Trace], tmp_path: Path, tuned_table: None
) -> None:
    one, two = (artifact(tmp_path, "mine", f"{k}.rlz", k) for k in (4, 6))
    rule = artifact(tmp_path, "hpa-tuned", "rule.rlz", 5)
    found = evaluate(
        traces[:1], [one, two, rule, one], seeds=[0], duration=900.0, settings=STANDARD, rules=(REFERENCE, CLAIRVOYANT)
    )[0]
    assert [c.name for c in found.contenders] == [REFERENCE, "mine", two, rule, CLAIRVOYANT]
    assert len({c.score for c in found.contenders}) == 5


def test_a_policy_that_does_not_exist(traces: list[Trace]) -> None:
    with pytest.raises(PolicyError, match="policy 'nobody' is unknown"):
        evaluate(traces[:1], ["nobody"], seeds=[0], duration=900.0, settings=STANDARD, rules=(REFERENCE,))


def test_a_trace_of_nothing_has_no_score_and_no_bound(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor has the beginning of one whose load comes later; nobody was late and nobody was in time."""
    nothing = Trace("nothing", 0.0, 60.0, np.zeros(30))
    later = Trace("[/later]\x9b", 0.0, 60.0, np.repeat([0.0, 1000.0], [20, 10]))
    scored = evaluate([nothing, later], ["default"], seeds=[0], duration=900.0, settings=STANDARD)
    print_summary(scored, summary(scored))
    said = capsys.readouterr().out
    assert "0 headline traces of 2" in said
    assert "not in the headline (no load in what was run): nothing, [/later]?" in said
    assert "too few events" not in said
    assert "0 headline traces of 2, 1 seed each. Regret is" in markdown(scored, summary(scored), "command")
    found = scored[0]
    assert not found.headline
    assert {(math.isnan(c.violation_share), math.isnan(c.wait_p95_s)) for c in found.contenders} == {(True, True)}
    assert {c.regret for c in found.contenders} == {None}
    told = to_json(
        [found], command="rlscaler evaluate", seeds=1, duration=900.0, startup=60.0, scale_to=25.0, elapsed=0.0
    )["traces"][0]
    assert told["lower_bound"] is None
    assert {c["score"] for c in told["contenders"]} == {None}


def test_json_holds_every_figure_of_every_trace(result: list[Scored]) -> None:
    told = to_json(
        result, command="rlscaler evaluate", seeds=2, duration=1800.0, startup=60.0, scale_to=25.0, elapsed=1.234
    )
    assert told["command"] == "rlscaler evaluate"
    assert set(told) == {"command", "world", "traces", "summary", "elapsed_s"}
    assert told["world"] == {"startup": 60.0, "scale_to": 25.0, "seeds": 2, "seconds": 1800.0}
    for found, written in zip(result, told["traces"], strict=True):
        assert set(written) == {"trace", "family", "headline", "lower_bound", "contenders"}
        assert [c["score"] for c in written["contenders"]] == [c.score for c in found.contenders]
        assert all({"regret", "regret_own", "rescales", "wait_p95_s"} <= c.keys() for c in written["contenders"])
    assert set(told["summary"]) == {*contenders.NAMES, contenders.OWN_TARGET}


# --- tuning


def test_folds_hold_each_family_out_once() -> None:
    families = ["a", "b", "c", "d", "a", "b"]
    folds = tuner.folds_of(families)
    assert len(folds) == 3
    assert sorted(name for fold in folds for name in fold) == ["a", "b", "c", "d"]


def test_too_few_families_for_the_folds(traces: list[Trace]) -> None:
    with pytest.raises(LoadError, match=r"2 source families .* expected 3 at least"):
        tuner.tune(traces, budget=2, duration=600.0, seed=0)


def test_tuning_finds_constants_within_their_ranges_and_no_worse_than_the_defaults(
    traces: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {name: rule for name, rule in RULES.items() if name in ("static", "erlang")}
    monkeypatch.setattr(tuner, "RULES", rules)
    third = Trace("third", 0.0, 15.0, traces[0].rates[::-1].copy())
    data = tuner.tune([*traces, third], budget=8, duration=600.0, seed=3, date="2026-01-02")
    assert set(data["constants"]) == {REFERENCE, "static", "erlang"}
    assert [fold["held_out"] for fold in data["folds"]] == [["bank"], ["shop"], ["third"]]
    assert data["provenance"]["traces"] == ["shop_15s", "bank_calls_15s", "third"]
    assert (data["provenance"]["budget"], data["provenance"]["date"]) == (8, "2026-01-02")
    for constants in (data["constants"], *(fold["constants"] for fold in data["folds"])):
        for rule, found in constants.items():
            space = tuner.search_space(rule)
            assert found.keys() == space.keys()
            for key, value in found.items():
                assert space[key].low * 0.999 <= value <= space[key].high * 1.001, (rule, key)
        assert constants[REFERENCE]["window"] in contenders.WINDOWS
        assert constants[REFERENCE]["tolerance"] in contenders.TOLERANCES
    assert data == tuner.tune([*traces, third], budget=8, duration=600.0, seed=3, date="2026-01-02")


def test_a_rule_is_tuned_alone_and_the_others_keep_their_constants(
    traces: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "RULES", {name: RULES[name] for name in ("static", "erlang")})
    third = Trace("third", 0.0, 15.0, traces[0].rates[::-1].copy())
    loads = [*traces, third]
    told: dict[str, Any] = {"budget": 8, "duration": 600.0, "seed": 3}
    every = tuner.tune(loads, **told)
    monkeypatch.setattr(tuned, "table", lambda: every)
    more: dict[str, Any] = told | {"budget": 16}
    again = tuner.tune(loads, only=["erlang"], date="2026-01-02", **more)
    command = every["provenance"]["command"].replace("--budget 8", "--budget 16") + " --rule erlang"
    assert again["provenance"] == every["provenance"] | {"erlang": {"command": command, "by": "the same search",
                                                                    "date": "2026-01-02"}}  # fmt: skip
    assert again["constants"]["erlang"] != every["constants"]["erlang"]
    for part, before in zip([again, *again["folds"]], [every, *every["folds"]], strict=True):
        assert part["constants"] | {"erlang": None} == before["constants"] | {"erlang": None}

    others = [replace(third, name="fourth") if trace is third else trace for trace in loads]
    with pytest.raises(LoadError, match="other source families than those"):
        tuner.tune(others, only=["erlang"], **told)


# --- recorded load


@pytest.mark.skipif(traces_folder() is None, reason="no folder of recorded traces; RLSCALER_TRACES names one")
def test_recorded_load() -> None:
    folder = traces_folder()
    assert folder is not None
    names = ("azure_llm_2023_conv_10s", "nasa_http_1995-07-13_10s", "twitter_stream_2021-08_60s")
    found = evaluate(
        [read_trace(folder / f"{name}.csv.gz") for name in names],
        ["default"], seeds=[0], duration=3600.0, settings=STANDARD,
    )  # fmt: skip
    assert [s.trace for s in found] == list(names)
    for trace in found:
        holds(trace, "default")
        assert trace.of("hpa-own").score <= trace.of(REFERENCE).score * 1.02
