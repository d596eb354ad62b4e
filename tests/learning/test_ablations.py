"""What a part is worth: what is taken away is away, nobody learns of load that it is scored on, the page tells it."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from rlscaler import Autoscaler, Snapshot, artifact
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import HIGH, LOAD_FIELDS, LOW, NAMES
from rlscaler.policy import Proposal, View
from rlscaler.settings import compiled
from rlscaler_sim import score_statistics
from rlscaler_sim.contenders import OWN_TARGET, standard_settings
from rlscaler_sim.evaluation import Scored
from rlscaler_sim.result import Contender
from rlscaler_sim.trace import Trace
from rlscaler_training import ablation_report as report
from rlscaler_training import apg, blinding, export
from rlscaler_training.blinding import HISTORY, PARTS, PROFILE, Blinded, blinded, pastless
from rlscaler_training.corpus import MADE_UP, Corpus, corpus
from rlscaler_training.learner import Outcome
from three_families import FAMILIES, trace, write_traces

SCRIPTS = str(Path(__file__).resolve().parents[2] / "scripts")
MINUTES = 120


@pytest.fixture(scope="module")
def small() -> Corpus:
    traces = [trace(f"{name}_60s", seed, MINUTES) for seed, name in enumerate(FAMILIES[:2])]
    return corpus(traces, [[name] for name in FAMILIES[:2]], days=0.04, draws=1, made_up=1, seed=3)


@pytest.fixture(scope="module")
def material(small: Corpus) -> apg.Material:
    return apg.material(small.pool, torch.device("cpu"))


def test_a_workload_without_a_past_has_what_is_put_for_it() -> None:
    """But for the last bits: what is put is what half precision holds of it."""
    settings = standard_settings()
    price = compiled(settings, 2)["price"]
    found = Autoscaler("growth-quantile", settings, 2).remember(Snapshot(time=1e6, load=np.array([30.0, 700.0])))
    for name, values in pastless(price).items():
        real = found["ahead"][:, int(name[6:]) - 1] if name.startswith("ahead_") else found[name]
        np.testing.assert_allclose(values, real, rtol=1e-3, atol=5e-3, err_msg=name)
        assert np.array_equal(values, values.astype(np.float16)), name


def test_the_parts_are_what_they_are_called() -> None:
    """All of the last hour stays, and the profile is a part of the history."""
    assert not [field.name for field in LOAD_FIELDS if field.group == "micro" and field.name in PARTS[HISTORY]]
    assert set(PARTS[PROFILE]) < set(PARTS[HISTORY])
    assert {"yesterday", "lastweek", "quarter_mean", "ahead_1", "ahead_8"} <= set(PARTS[PROFILE])
    assert not {"trend_cheap", "daylong_q99", "experience"} & set(PARTS[PROFILE])


def view_of(small: Corpus, load: int, features: dict[str, np.ndarray]) -> View:
    """Return all moments of a load as one view, with these features."""
    steps = small.pool.steps
    seen = small.pool.seen[load]
    nothing = np.full(steps, np.nan)
    counts = dict.fromkeys(("ready", "starting", "desired", "backlog", "utilization", "latency", "errors"), nothing)
    settings = compiled(small.pool.settings, small.pool.loads)
    options = {name: np.broadcast_to(values[load], (steps, *values.shape[1:])) for name, values in settings.items()}
    return View(xp=np, settings=options, snapshot={**counts, "load": seen, "time": nothing}, features=features,
                demand=seen / options["capacity_per_replica"], current=np.ones(steps))  # fmt: skip


def past_of(small: Corpus, load: int) -> dict[str, np.ndarray]:
    return {name: values[load].copy() for name, values in small.pool.features.items()}


def scrambled(features: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the features with another past in those of these names."""
    rng = np.random.default_rng(5)
    other = dict(features)
    for name in names:
        if name.startswith("ahead_"):
            other["ahead"] = other["ahead"].copy()
            other["ahead"][:, int(name[6:]) - 1] = rng.uniform(0.1, 2.0, len(other["ahead"]))
        else:
            other[name] = rng.uniform(0.1, 2.0, features[name].shape).astype(np.float32)
    return other


@dataclass
class Looking:
    """A policy that keeps what it sees."""

    seen: dict[str, np.ndarray]
    name: str = "looking"

    def state(self, n: int) -> dict[str, np.ndarray]:
        return {}

    def propose(self, view: View, state: dict[str, Any]) -> tuple[Proposal, dict[str, Any]]:
        self.seen = {name: np.array(view.features[name]) for name in view.features}
        return Proposal(replicas=view.demand), state


@pytest.mark.parametrize("part", PARTS)
def test_a_blinded_policy_sees_nothing_of_the_part_and_all_of_the_rest(small: Corpus, part: str) -> None:
    hidden, features = PARTS[part], past_of(small, 0)
    looking = Looking({})
    seen = []
    for past in (features, scrambled(features, hidden)):
        Blinded(looking, hidden, "blind").propose(view_of(small, 0, past), {})
        seen.append(looking.seen)
    for name, values in features.items():
        np.testing.assert_array_equal(seen[0][name], seen[1][name], err_msg=name)
        if name not in hidden and name != "ahead":
            np.testing.assert_array_equal(seen[0][name], values, err_msg=name)
    assert not seen[0]["ahead"].any()
    assert "trend_cheap" in hidden or np.ptp(seen[0]["trend_cheap"]) > 0.0


@pytest.mark.parametrize("part", PARTS)
def test_load_to_train_on_is_without_the_part(material: apg.Material, part: str) -> None:
    found = blinded(material, PARTS[part])
    for place, name in enumerate(apg.FIELDS):
        mine, before = found.seen[..., place], material.seen[..., place]
        if name in PARTS[part]:
            assert bool((mine == mine[:, :1]).all()), name
        else:
            assert torch.equal(mine, before), name
    headroom = found.cheap - found.cheap[:, :1]
    assert bool((headroom == 0.0).all()) is (part == HISTORY)
    assert torch.equal(found.weight, material.weight)


def test_nothing_hidden_is_the_load_itself(material: apg.Material) -> None:
    assert torch.equal(blinded(material, ()).seen, material.seen)


@pytest.mark.parametrize("part", PARTS)
def test_a_network_is_served_what_it_was_trained_on(small: Corpus, material: apg.Material, part: str) -> None:
    """The order of a network that corrects nothing is that of its training, and what is hidden is in its range."""
    hidden, load = PARTS[part], 1
    found = blinded(material, hidden)
    network = apg.Net((4,), "silu")
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    observations = np.zeros((small.pool.steps, len(NAMES)), np.float32)
    observations[:, [NAMES.index(name) for name in apg.FIELDS]] = found.seen[load].float().numpy()
    made = export.artifact(network, name="none", output="correction", scheme="headroom", observations=observations,
                               provenance={}, scores={})  # fmt: skip
    served = MlpPolicy(made)
    policy = Blinded(served, hidden, "blind")
    at = np.flatnonzero(found.known[load].numpy())
    proposal, _ = policy.propose(view_of(small, load, past_of(small, load)), {})
    level = found.level[load].double().numpy()
    expected = (level + 0.5) * np.exp(0.02 * np.round(found.cheap[load].double().numpy() / 0.02)) - 0.5
    np.testing.assert_allclose(proposal.replicas[at], expected[at], rtol=0.021)
    told = pastless(view_of(small, load, {}).settings["price"][:1])
    for name, low, high in zip(served.fields, served.low, served.high, strict=True):
        assert name not in hidden or low <= told[name][0] <= high, name


# --- the command


@pytest.fixture(scope="module")
def ablations() -> Iterator[ModuleType]:
    """Return the script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("ablations")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three traces of three families, one for each fold."""
    return write_traces(tmp_path / "traces", MINUTES)


def test_folds_never_train_on_what_they_are_scored_on(
    ablations: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither networks nor other learners; and what is trained is not trained again."""
    trained: list[tuple[str, str, Any]] = []

    def learn(task: Any, config: Any, train: apg.Material, judge: apg.Material) -> Any:
        trained.append((task.run.folder.parent.name, task.name, train))
        network = apg.Net((4,), "silu")
        observations = np.stack([LOW, HIGH])
        made = export.artifact(network, name=task.name, output="correction", scheme="headroom",
                                   observations=observations, provenance=task.provenance, scores={})  # fmt: skip
        return Outcome(made, 1)

    def other(learner: str, seconds: float, pools: Any, seed: int, folder: Path) -> Any:
        trained.append((folder.parent.name, learner, pools))
        folder.mkdir(parents=True)
        artifact.save(artifact.load(folder.parent / "anew" / "policy.rlz"), folder / "policy.rlz")
        return ablations.benchmark_learners.Training(artifact.load(folder / "policy.rlz"), 1, 0.0, 0.0)

    prepared: list[Corpus] = []

    def kept(*arguments: Any, **options: Any) -> Corpus:
        prepared.append(corpus(*arguments, **options))
        return prepared[0]

    scored: list[tuple[tuple[str, ...], list[str], list[str]]] = []

    def evaluate(traces: list[Trace], policies: Any, *, others: Any, **_: Any) -> list[Scored]:
        scored.append((tuple(policies), [each.name for each in traces], [each.name for each in others]))
        return [made_up(each.name, {e.name: 0.5 for e in others} | {"hpa-own": 1.0}) for each in traces]

    monkeypatch.setattr(ablations, "corpus", kept)
    monkeypatch.setattr(ablations.report, "summary", lambda found, facts: facts | {"traces": [s.trace for s in found]})
    monkeypatch.setattr(ablations.apg, "learn", learn)
    monkeypatch.setattr(ablations.benchmark_learners, "trained", other)
    monkeypatch.setattr(ablations.evaluation, "evaluate", evaluate)
    arguments = ["--traces", str(folder), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "a.json"),
                 "--days", "0.03", "--draws", "1", "--made-up", "1", "--steps", "1"]  # fmt: skip
    told = ablations.made(ablations.options(arguments))
    (whole,) = prepared
    assert whole.families == ("alpha", "alpha", "beta", "beta", "gamma", "gamma", MADE_UP)
    for fold, name in enumerate(FAMILIES):
        mine = [(who, what) for where, who, what in trained if where == f"fold-{fold + 1}"]
        assert [who for who, _ in mine] == [*(f"learned-{each}" for each in ablations.VARIANTS), *ablations.LEARNERS]
        others = [index for index, each in enumerate(whole.families) if each != name]
        for who, what in mine:
            if isinstance(what, apg.Material):
                rates = what.whole.rates.numpy()
            else:
                rates = what.train.rates
                assert name not in what.trained_on
                assert any(np.array_equal(what.validation.rates[0], one) for one in rates)
            np.testing.assert_array_equal(rates, whole.pool.rates[others], err_msg=f"{name} {who}")
        policies, traces, entrants = scored[fold]
        assert (policies, traces) == (("default", "learned"), [f"{name}_60s"])
        assert set(entrants) == {f"{kind}-{each}" for kind in ("default", "learned") for each in ablations.VARIANTS} | {
            *ablations.LEARNERS
        }
    assert told["folds"] == [[name] for name in FAMILIES]
    assert told["traces"] == [f"{name}_60s" for name in FAMILIES]
    monkeypatch.setattr(ablations.apg, "learn", None)
    monkeypatch.setattr(ablations, "corpus", None)
    assert ablations.made(ablations.options(arguments)) == told
    with pytest.raises(ablations.UserError, match=r"was begun by .*--steps 1 "):
        ablations.made(ablations.options([*arguments, "--steps", "2"]))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [(("--budget", "0"), "--budget is 0"), (("--steps", "0"), "--steps is 0"), (("--for", "99"), "--for is 99")],
)
def test_a_mistake_is_named(
    ablations: ModuleType, wrong: tuple[str, str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ablations.options(["--traces", "t", "--work", "w", "--output", "a.json", *wrong])
    assert named in capsys.readouterr().err


# --- the page


def made_up(name: str, own: dict[str, float]) -> Scored:
    """Return a headline trace with these regrets."""
    figures = Contender("", 1.0, 0.0, 1.0, None, 1.0, 1, 0.0, 1)
    found = [replace(figures, name=who, regret=value / 2.0, regret_own=value) for who, value in own.items()]
    return Scored(name, name.partition("_")[0], True, found, 1.0, 1)


OWN = {"default": 0.8, "learned": 0.9, "tenure": 0.7, "growth-quantile": 0.75, "hpa-own": 1.0, "default-anew": 0.8,
       "learned-anew": 0.9, "default-no-history": 0.85, "learned-no-history": 1.4, "q-learning": 0.95}  # fmt: skip
FACTS: dict[str, Any] = {
    "command": "the command", "budget": 7.0, "seeds": 1, "days": 2.0, "folds": [["a"], ["b"], ["c"]],
    "learned": {"q-learning": {"training": [{"steps": 1234, "seconds": 9.0}] * 3, "outside": [0.6, 0.7, 0.5],
                               "constant": [None, "always hold", None]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """Return the figures of three traces, each contender's 0.01 apart from one to the next."""
    scored = [
        made_up(f"{name}_60s", {who: value + 0.01 * place for who, value in OWN.items()})
        for place, name in enumerate(FAMILIES)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_statistics, "DRAWS", 60)
        return report.summary(scored, FACTS)


@pytest.fixture
def told(figures: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of them, as a file has them."""
    found: dict[str, Any] = json.loads(json.dumps(figures))
    return found


def test_the_page_says_who_wins_and_what_a_part_is_worth(told: dict[str, Any]) -> None:
    page = report.markdown(told)
    assert "Least mean regret_own: `tenure` with 0.71" in page
    assert "**A rule wins** against `q-learning`" in page
    assert "Own history, to the network alone: worth +0.500 [+0.500, +0.500]" in page
    assert "**Learning, to tenure: worth less than nothing**, -0.100" in page
    assert "| tenure | `default` | `learned` | +0.100 [+0.100, +0.100] | 3 of 3 | better |" in page
    assert "| `q-learning` | 1,234 | 9 | -0.200 [-0.200, -0.200] | worse | -0.050" in page
    assert "60.0% | always hold |" in page
    assert "mostly outside of the training range" in page


def test_a_profile_is_not_tested_on_load_without_a_yesterday(told: dict[str, Any]) -> None:
    what = f"{report.PROFILE}, to the network alone"
    told["pairs"].append({**told["pairs"][0], "what": what, "other": "learned-no-profile"})
    assert "profile, to the network alone: worth +0.5" in report.markdown(told)
    page = report.markdown(told | {"days": 1.0})
    assert "profile, to the network alone: not tested" in page
    assert "| +0.500 [+0.500, +0.500] | 3 of 3 | not tested |" in page


def test_what_cannot_be_told_is_said_to_be_so() -> None:
    one = made_up("alpha_60s", {"default": 0.8, "learned": 0.9})
    other = made_up("beta_60s", {"default": 0.9, "learned": 0.8})
    found = report.compared([one, other], "default", "learned")
    assert found["verdict"] == report.OPEN
    assert (found["better_on"], found["of"]) == (1, 2)
    assert found["gain"] == pytest.approx(0.0)


def test_the_figures_of_the_page_are_those_of_the_file(told: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is in the page but what is stored, and another figure there is another figure here."""
    path = tmp_path / "ablations.json"
    report.write(told, path)
    page = path.with_suffix(".md").read_text()
    assert page == report.markdown(json.loads(path.read_text()))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    told["summary"]["default"]["mean_regret_own"] = 0.4321
    told["pairs"][0] |= {"gain": 0.4567}
    changed = report.markdown(told)
    assert "0.43 [0.80, 0.82]" in changed
    assert "+0.457" in changed
    assert "+0.457" not in page


def test_every_contender_is_told_in_words(ablations: ModuleType) -> None:
    taking_part = {f"{kind}-{each}" for kind in ("default", "learned") for each in ablations.VARIANTS}
    rules = {*ablations.RULES, OWN_TARGET}
    assert taking_part | rules | {*ablations.LEARNERS, *ablations.SHIPPED} == set(report.ABOUT)
    assert report.LEARNERS == ablations.LEARNERS
    assert {name for _, *pair in report.WORTH for name in pair} <= set(report.ABOUT)
    assert set(ablations.VARIANTS) == {"anew", *(f"no-{part}" for part in blinding.PARTS)}
