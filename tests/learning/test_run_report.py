"""`rlscaler report`: the curves of several seeds, what policies decide, the page in a browser, the dashboard."""

import json
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import install, mistakes, run
from rlscaler.artifact import Artifact
from rlscaler.observation import NAMES, SCHEMA
from rlscaler.policies import from_artifact, load_policy
from rlscaler.policy import Proposal, View
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.drawing import DPI, STYLE
from rlscaler_training import run_record
from rlscaler_training.run_compare import difference
from rlscaler_training.run_curves import band, grouped, in_environment_steps, rule
from rlscaler_training.run_dashboard import HEIGHT, WIDTH, _draw, png
from rlscaler_training.run_page import render
from rlscaler_training.run_summary import Summary, summarise, verdict
from rlscaler_training.surfaces import CHANGES, LEVELS, bin_of, surfaces, table_of
from rlscaler_training.trials import Trials
from tiny_runs import made_up, tiny_runs

EVIL = "<b>evil&amp;"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tiny_runs(tmp_path_factory)
    shutil.copytree(found / "q-0", found / EVIL)
    return found


@pytest.fixture(scope="module")
def summary(root: Path) -> Summary:
    runs = [run_record.read(root / name) for name in ("q-0", "q-1", "cut", EVIL)]
    return summarise(runs, draws=1, hours=0.25, scenario="spike")


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    monkeypatch.syspath_prepend(str(folder))


# ---- curves ----


def bands_of(tmp_path: Path, curves: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    runs = [run_record.read(made_up(tmp_path / str(i), seed=i, scores=c)) for i, c in enumerate(curves)]
    (group,) = grouped(runs)
    found = band(group, "score", environment_steps=False)
    assert found is not None
    return found.middle, found.low, found.high


def test_a_few_seeds_are_a_median_within_their_range(tmp_path: Path) -> None:
    middle, low, high = bands_of(tmp_path, [[3.0, 1.0], [5.0, 2.0], [4.0, 9.0]])
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([4.0, 2.0], [3.0, 1.0], [5.0, 9.0])


def test_many_seeds_are_a_median_within_the_interquartile_range(tmp_path: Path) -> None:
    middle, low, high = bands_of(tmp_path, [[float(v)] * 2 for v in (1, 2, 3, 4, 100)])
    assert (middle[0], low[0], high[0]) == (3.0, 2.0, 4.0)


def test_a_run_that_ended_early_counts_as_far_as_it_came(tmp_path: Path) -> None:
    middle, low, high = bands_of(tmp_path, [[3.0, 1.0, 1.0], [5.0, 3.0]])
    assert middle.tolist() == [4.0, 2.0, 1.0]
    assert (low[-1], high[-1]) == (1.0, 1.0)


def test_runs_of_other_settings_are_another_group_named_by_them(tmp_path: Path) -> None:
    folders = [
        made_up(tmp_path / "a", seed=0, scores=[2.0, 1.0], rate=0.1, envs=4),
        made_up(tmp_path / "b", seed=1, scores=[2.0, 1.0], rate=0.1, envs=4),
        made_up(tmp_path / "c", seed=0, scores=[2.0, 1.0], rate=0.2, envs=4),
        made_up(tmp_path / "d", seed=0, scores=[2.0, 1.0], learner="dqn"),
    ]
    groups = grouped([run_record.read(folder) for folder in folders])
    assert [group.label for group in groups] == ["ppo: rate 0.1", "ppo: rate 0.2", "dqn"]
    assert [len(group.runs) for group in groups] == [2, 1, 1]


def test_steps_are_those_of_environments_where_all_runs_tell_them(tmp_path: Path) -> None:
    finished = run_record.read(made_up(tmp_path / "a", seed=0, scores=[3.0, 2.0, 1.0]))
    (group,) = grouped([finished])
    assert in_environment_steps([group])
    found = band(group, "score", environment_steps=True)
    assert found is not None
    assert found.x.tolist() == [0.0, 1000.0, 2000.0]
    (tmp_path / "a" / "report.json").unlink()
    assert not in_environment_steps(grouped([run_record.read(tmp_path / "a")]))


def test_the_rules_score_is_the_logged_one(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "a", seed=0, scores=[3.0, 2.0])
    (group,) = grouped([run_record.read(folder)])
    assert rule(group) is None
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 20, "score": 1.5, "rule": 2.5}\n')
    (group,) = grouped([run_record.read(folder)])
    assert rule(group) == 2.5


# ---- what is decided ----


class Double:
    """Proposes twice the demand."""

    name = "double"

    def state(self, n: int) -> Any:
        return {}

    def propose(self, view: View, state: Any) -> tuple[Proposal, Any]:
        return Proposal(replicas=2.0 * view.demand), state


class Seen:
    """Keeps what it was shown."""

    name = "seen"

    def state(self, n: int) -> Any:
        return {}

    def propose(self, view: View, state: Any) -> tuple[Proposal, Any]:
        self.trend, self.demand = np.array(view.features["trend"]), np.array(view.demand)
        return Proposal(replicas=view.demand), state


def test_a_surface_is_the_proposal_over_the_demand() -> None:
    seen = Seen()
    double, _ = surfaces([Double(), seen], standard_settings())
    assert double.headroom.shape == (len(CHANGES), len(LEVELS))
    np.testing.assert_allclose(double.headroom, 2.0)
    demand, trend = (array.reshape(double.headroom.shape) for array in (seen.demand, seen.trend))
    np.testing.assert_allclose(demand, np.broadcast_to(LEVELS, demand.shape), rtol=1e-6)
    middle = trend[:, 6]
    assert (np.diff(middle) > 0.0).all(), "the more the load has risen, the more the trend says so"
    assert middle[0] < 0.0 < middle[-1]


def test_a_table_is_told_state_by_state_in_words() -> None:
    values = np.zeros((6, 3))
    values[0, 2] = 1.5
    values[4] = [0.5, 0.25, 0.0]
    cuts = [["trend", [-0.1, 0.1]], ["backlog", [0.05]]]
    manifest = {"name": "t", "kind": "q-table", "observation_schema": SCHEMA, "action_scheme": "step",
                "fields": ["trend", "backlog"], "parameters": {"bins": cuts}}  # fmt: skip
    policy = from_artifact(Artifact(manifest, {"values": values}))
    found = table_of(policy)
    assert found is not None
    fields, rows = found
    assert fields == ["trend", "backlog"]
    assert set(fields) <= set(NAMES)
    assert [row.bins for row in rows[:3]] == [("below -0.1", "below 0.05"), ("below -0.1", "0.05 and more"),
                                              ("-0.1 to 0.1", "below 0.05")]  # fmt: skip
    assert (rows[0].action, rows[0].gain, rows[0].blank) == ("one replica more", 1.5, False)
    assert (rows[4].action, rows[4].gain) == ("one replica less", 0.25)
    assert rows[1].blank
    assert rows[1].action == "stay"
    assert table_of(load_policy("hpa")) is None


@pytest.mark.parametrize(("digit", "told"), [(0, "below 1"), (1, "1 to 2"), (2, "2 and more")])
def test_bins_in_words(digit: int, told: str) -> None:
    assert bin_of((1.0, 2.0), digit) == told


# ---- the page ----


def test_the_summary_evaluates_every_policy_and_says_who_has_none(summary: Summary) -> None:
    assert set(summary.candidates) == {"q-0", "q-1", EVIL}
    assert summary.trials is not None
    assert summary.trials.names[-2:] == ("hpa-tuned", "clairvoyant")
    assert summary.trials.loads == ("steady", "sine-curve", "sinusoidal", "spike", "poisson", "random-walk")
    assert any("cut has no policy yet" in note for note in summary.notes)
    means = [summary.trials.mean(name) for name in summary.candidates]
    assert means == sorted(means), "the best first"
    head, why, outcome = verdict(summary)
    assert summary.candidates[0] in head
    better = difference(summary.trials, summary.candidates[0], "hpa-tuned").better
    assert outcome == {summary.candidates[0]: "won", "hpa-tuned": "lost", None: "even"}[better]
    assert f"{means[0]:.3f}" in why
    assert "flatters" in why, "the best of three was chosen on these draws"


@pytest.mark.parametrize(
    ("apart", "told"),
    [
        ([-0.1, -0.2, -0.1, -0.1, -0.2, -0.1], ("q beats hpa-tuned on all 6 patterns", "won")),
        ([0.1, 0.2, 0.1, 0.1, 0.2, 0.1], ("q loses to hpa-tuned on all 6 patterns", "lost")),
        ([1.0, 1.2, 1.0, 1.1, 1.2, 0.0], ("q loses to hpa-tuned on average, and on 5 of 6 patterns", "lost")),
        ([-1.0, -1.2, -1.0, -1.1, -1.2, 0.1], ("q beats hpa-tuned on average, and on 5 of 6 patterns", "won")),
        ([-1.0, 1.2, -1.0, 1.1, -1.2, 1.0], ("It cannot be told whether q is better than hpa-tuned", "even")),
    ],
)
def test_the_verdict_says_what_the_draws_say(apart: list[float], told: tuple[str, str]) -> None:
    mine = np.full((6, 2), 2.0) + np.array(apart)[:, None]
    scores = np.stack([mine, np.full((6, 2), 2.0), np.ones((6, 2))])
    trials = Trials(("q", "hpa-tuned", "clairvoyant"), tuple("abcdef"), scores, scores, scores, [])
    head, why, outcome = verdict(Summary((), [], ("q",), trials, [], {}, None, []))
    assert (head, outcome) == told
    assert "flatters" not in why


def test_the_page_reads_without_javascript_and_escapes_names(summary: Summary) -> None:
    page = render(summary, "/* plotly */")
    text = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert EVIL not in page
    assert "&lt;b&gt;evil&amp;amp;" in text
    for heading in ("Runs", "Learning curves", "Evaluation on the classic patterns", "What is decided", "Timeline"):
        assert f">{heading}</h2>" in text
    assert summary.trials is not None
    for score in summary.trials.scores.mean(axis=2).ravel():
        assert f"{score:.3f}</td>" in text
    assert text.count("never learned: as the rule") > 0
    assert "$" not in re.sub(r"\$\{", "", text), "nothing of the template is left"


def test_a_run_without_a_policy_has_a_page_of_curves_alone(root: Path) -> None:
    found = summarise([run_record.read(root / "cut")], draws=1, hours=0.25, scenario=None)
    page = render(found, "")
    assert found.trials is None
    assert "No policy to evaluate yet" in page
    assert f"go on with it by: rlscaler train q-learning --resume {root / 'cut'}" in page
    assert 'id="curves"' in page
    assert 'id="plot"' not in page
    width, height = struct.unpack(">II", png(found)[16:24])
    assert (width, height) == (2000, 640)


def test_the_dashboard_is_a_picture_with_something_on_it(summary: Summary) -> None:
    import io

    from matplotlib.image import imread

    picture = imread(io.BytesIO(png(summary)))
    assert picture.shape[:2] == (1500, 2000)
    thirds = [picture[a:b, :, :3] for a, b in ((150, 480), (600, 950), (1080, 1400))]
    assert all((part.min(axis=2) < 0.9).mean() > 0.01 for part in thirds), "each row has something drawn"


def test_no_power_of_ten_is_written_over_a_title_of_the_dashboard(summary: Summary) -> None:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    assert summary.replay is not None
    series = summary.replay.series
    tiny = replace(series, violations=np.full_like(series.violations, 4e-14))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        _draw(figure, replace(summary, replay=replace(summary.replay, series=tiny)))
        figure.draw_without_rendering()
    for axes in figure.axes:
        power = axes.yaxis.get_offset_text()
        box = power.get_window_extent()
        for each in axes.findobj(Annotation):
            assert not (power.get_text() and box.overlaps(each.get_window_extent())), each.get_text()
    assert figure.axes[-1].get_ylim() == (0.0, 1.0), "a millionth of a per cent is nothing to see"


@pytest.fixture(scope="module")
def page(summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the page, open in a headless Chromium with the network off, with what it complained of."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: the page was not opened in a browser")
    from rlscaler_training.run_page import write_page

    file = tmp_path_factory.mktemp("page") / "report.html"
    write_page(summary, file)
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        context.set_offline(True)
        found = context.new_page()
        complaints: list[str] = []
        found.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.goto(file.as_uri())
        found.wait_for_selector("html[data-drawn=true][data-ready=true]")
        yield found, complaints
        browser.close()


def test_the_page_opens_offline_without_complaints(page: Any) -> None:
    opened, complaints = page
    assert complaints == []
    assert opened.title() != "evil"
    assert opened.evaluate("document.documentElement.scrollWidth") == 1280


def test_every_chart_is_drawn_from_its_data(page: Any, summary: Summary) -> None:
    opened, _ = page
    drawn = "[...document.querySelectorAll('#curves .draw')].map(d => [d.getAttribute('aria-label'), d.data.length])"
    curves = dict(opened.evaluate(drawn))
    label = "Validation score, J = cost + price × late; lower is better"
    assert curves[label] == 3, "a line, and two edges of its band"
    assert opened.evaluate("document.querySelectorAll('#surfaces .draw').length") == 1 + len(summary.candidates)
    shown = opened.evaluate("document.getElementById('surfaces').querySelector('.draw').data[0].z")
    np.testing.assert_allclose(shown, summary.surfaces[0].headroom, atol=1e-4)
    assert opened.evaluate("document.getElementById('scores').data.length") == len(summary.candidates) + 2


def test_curves_can_be_read_by_steps_and_by_share(page: Any) -> None:
    opened, _ = page
    last = "document.querySelector('#curves .draw').data[2].x.slice(-1)[0]"
    opened.click("[data-share='1']")
    opened.wait_for_function(f"{last} === 1")
    assert opened.get_attribute("[data-share='1']", "aria-pressed") == "true"
    opened.click("[data-share='0']")
    opened.wait_for_function(f"{last} > 1")


def test_the_theme_turns_every_chart(page: Any) -> None:
    opened, _ = page
    colour = "document.querySelector('#curves .draw').layout.font.color"
    before = opened.evaluate(colour)
    opened.click("#theme")
    opened.wait_for_function(f"{colour} !== '{before}'")
    opened.click("#theme")
    opened.wait_for_function(f"{colour} === '{before}'")


# ---- the command ----


@pytest.mark.usefixtures("installed")
def test_the_command_writes_page_and_picture(root: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    done = run("report", str(root / "q-0"), "--draws", "1", "--hours", "0.25", "--scenario", "steady", "-q",
               "--output", str(page), "--png", str(picture))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"page:    {page}" in done.stdout
    data = re.search(r'id="training">(.*?)</script>', page.read_text(), re.DOTALL)
    assert data is not None
    assert json.loads(data.group(1))["scores"]["draws"] == 1
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(("missing",), "missing: is not there; expected the folder of a run", id="missing"),
        pytest.param(("broken",), "cannot be read", id="broken"),
        pytest.param(("q-0", "q-0"), "named twice", id="twice"),
        pytest.param(("q-0", "--png", "x.gif"), "x.gif: ends in .gif; expected a name that ends in .png", id="gif"),
        pytest.param(("q-0", "--output", "nowhere/x.html"), "does not exist; create it first", id="no folder"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(root)
    assert any(told in line for line in mistakes(run("report", *arguments)))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("module", "option"), [("plotly.offline", ()), ("matplotlib", ("--png", "x.png"))])
def test_a_missing_extra_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: str, option: tuple[str, ...]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setitem(sys.modules, module, None)
    (line,) = mistakes(run("report", "q-0", *option))
    assert "pip install 'rlscaler[report]'" in line
