"""`rlscaler calibrate` as somebody runs it: from files, with a profile, a page and a manifest that others read."""

import errno
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import WEB, mistakes, run, stand_in
from rlscaler import profile as profiles
from rlscaler.custom_resource import load_resources
from rlscaler.files import unwritable
from rlscaler.manifest_edit import with_capacity
from rlscaler_sim import calibrating, profiled
from rlscaler_sim.trace import Trace

BEGIN, INTERVAL, STEPS = 1_767_571_200, 15, 960
TIMES = np.arange(STEPS)
LOAD = 300.0 * (1.0 + 0.3 * np.sin(TIMES / 80.0))
ASKED = np.where(TIMES // 60 % 2 == 0, 10.0, 12.0)
READY = np.minimum(ASKED, np.concatenate([[10.0] * 4, ASKED[:-4]]))
CAPACITY, STARTUP = 55.0, 60.0
USE = LOAD / READY / CAPACITY


def written(name: str, values: Any) -> str:
    """Write a CSV of one value a reading, empty where it is unknown."""
    rows = [f"{BEGIN + INTERVAL * i},{'' if np.isnan(v) else repr(float(v))}" for i, v in enumerate(values)]
    Path(name).write_text("\n".join(["time,value", *rows, ""]))
    return name


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    for name, values in (("load", LOAD), ("use", USE), ("asked", ASKED), ("ready", READY)):
        written(f"{name}.csv", values)


FILES = ["--load", "load.csv", "--utilization", "use.csv", "--replicas", "asked.csv", "--ready", "ready.csv"]


def test_files_make_a_profile_a_page_and_a_manifest() -> None:
    result = run("calibrate", "-f", WEB, *FILES, "--output", "web.json", "--report", "web.html", "--manifest",
                 "web.yaml", "--json")  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    profile = profiles.read("web.json")
    assert told == json.loads(json.dumps(profiles.to_json(profile)))
    assert profile.workload == "shop/web"
    for found, truth in ((profile.capacity, CAPACITY), (profile.startup, STARTUP)):
        assert found.low is not None
        assert found.high is not None
        assert found.low <= truth <= found.high
    np.testing.assert_allclose(profiles.read_recording(profile, "web.json").load, LOAD[:STEPS], rtol=1e-6)
    (resource,) = load_resources("web.yaml")
    assert resource.spec.capacity.per_replica == pytest.approx(profile.capacity.value, rel=0.01)
    assert resource.spec.capacity.startup == pytest.approx(profile.startup.value, abs=0.5)
    assert "# requests/s that a ready replica serves" in Path("web.yaml").read_text()
    page = Path("web.html").read_text()
    assert "A replica serves" in page
    assert "No daily pattern" in page or "no daily pattern" in page


def test_the_table_is_in_words() -> None:
    result = run("calibrate", *FILES)
    assert result.exit_code == 0, result.output
    for words in ("Capacity of a replica", "requests/s (", "Start-up", "unknown", "note: 4h of load are known"):
        assert words in result.stdout


def test_what_cannot_be_told_is_said_and_why() -> None:
    told = json.loads(run("calibrate", "--load", "load.csv", "--json").stdout)
    assert told["capacity"]["value"] is None
    assert told["startup"]["told"] == "unknown"
    assert "utilization" in told["capacity"]["why"]
    assert any("no utilization is named" in note for note in told["notes"])


def test_what_the_resource_states_stands_in_for_what_the_data_cannot_tell() -> None:
    result = run("calibrate", "-f", WEB, "--load", "load.csv", "--output", "stated.json")
    assert result.exit_code == 0, result.output
    assert "What a replica serves is taken as stated, 50.0 requests/s: the resource states it; utilization is not" in (
        " ".join(result.stdout.split())
    )
    told = json.loads(Path("stated.json").read_text())
    for name, value in (("capacity", 50.0), ("startup", 60.0)):
        assert {told[name][key] for key in ("value", "low", "high")} == {value}
        assert told[name]["told"] == "stated"
    (resource,) = load_resources(WEB)
    same, profile = profiled.with_profile(resource, "stated.json")
    assert same.spec.capacity == resource.spec.capacity
    assert (profiled.capacity_factors(profile), profiled.startup_ends(profile)) == ((), ())
    other = replace(resource.spec, capacity=replace(resource.spec.capacity, per_replica=80.0, startup=None))
    changed, _ = profiled.with_profile(
        replace(resource, manifest=replace(resource.manifest, spec=other)), "stated.json"
    )
    assert (changed.spec.capacity.per_replica, changed.spec.capacity.startup) == (80.0, 60.0), "stated anew, left out"
    refused = mistakes(run("calibrate", "-f", WEB, "--load", "load.csv", "--manifest", "filled.yaml"))
    assert "nothing is known to fill in" in " ".join(refused)


def test_odd_data_are_named_and_left_out() -> None:
    use = USE.copy()
    use[:600] = np.nan
    asked = ASKED.copy()
    asked[500:700] = 40.0
    still = np.where((TIMES > 400) & (TIMES < 800), 300.0, LOAD)
    still[100:110] = np.nan
    found = [Trace(name, float(BEGIN), float(INTERVAL), values)
             for name, values in (("load", still), ("utilization", use), ("replicas", asked))]  # fmt: skip
    past, recording = calibrating.from_traces(found[0], {each.name: each for each in found[1:]}, 15.0)
    notes = " ".join(past.notes)
    for words in ("load is unknown for 1 %", "left out of every fit", "utilization is known for 38 %", "jumped 2 times",
                  "from 10 to 40", "ready replicas are not known"):  # fmt: skip
        assert words in notes, (words, notes)
    assert np.isnan(recording.load[100:110]).all()
    assert np.isnan(recording.utilization[:600]).all()


def test_a_latency_that_is_no_service_s_is_asked_about() -> None:
    written("lat.csv", np.full(STEPS, 85.0))
    notes = json.loads(run("calibrate", *FILES, "--latency", "lat.csv", "--json").stdout)["notes"]
    assert any("the latency is 85 s as a rule: is it in seconds?" in note for note in notes)
    written("lat.csv", np.full(STEPS, 0.085))
    notes = json.loads(run("calibrate", *FILES, "--latency", "lat.csv", "--json").stdout)["notes"]
    assert not any("latency is" in note for note in notes)


def test_a_utilization_that_its_source_caps_is_noted() -> None:
    def noted(use: Any) -> tuple[float, list[str]]:
        written("use.csv", use)
        told = json.loads(run("calibrate", *FILES, "--json").stdout)
        return told["capacity"]["value"], [note for note in told["notes"] if "its source caps it" in note]

    assert noted(USE)[1] == []
    capacity, (note,) = noted(np.minimum(USE, 0.6))
    assert note.startswith("utilization goes no higher than 60 % whatever the load is")
    assert capacity == pytest.approx(CAPACITY, rel=0.02)


@pytest.mark.parametrize(("factor", "named"), [(1.0, False), (1.2, False), (1.6, True), (2.0, True), (3.0, False)])
def test_a_utilization_of_cpu_requests_is_noted(factor: float, named: bool) -> None:
    """What never exceeds 100 % may be a share; of what mostly exceeds 150 % no capacity is told."""
    written("use.csv", factor * USE)
    told = json.loads(run("calibrate", *FILES, "--json").stdout)
    notes = [note for note in told["notes"] if "relative to CPU requests" in note]
    assert bool(notes) is named
    if factor == 3.0:
        assert told["capacity"]["value"] is None


def test_work_beside_the_load_is_noted() -> None:
    def noted(use: Any) -> list[str]:
        written("use.csv", use)
        return [note for note in json.loads(run("calibrate", *FILES, "--json").stdout)["notes"] if "half-hour" in note]

    assert noted(USE) == []
    (note,) = noted(USE * np.where(TIMES // 300 % 2 == 0, 1.0, 1.25))
    assert "other work beside it, or another mix of requests" in note


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "no past": (["-f", WEB], ["where is the past?", "--load FILE.csv"]),
    "two pasts": (["--prometheus", "http://127.0.0.1:9", "--config", "c.yaml"], ["name one of them"]),
    "no load": (["--prometheus", "http://127.0.0.1:9"], ["what is the load?", "--load"]),
    "no file": (["--load", "none.csv"], ["none.csv"]),
    "too short": (["--load", "short.csv"], ["10m of load are known", "30m tell a capacity"]),
    "samples twice": (["--load", "twice.csv"], ["twice.csv, line 3", "occurs twice"]),
    "samples out of order": (["--load", "back.csv"], ["back.csv, line 3", "rising times"]),
    "a manifest of nothing": (["--load", "load.csv", "--manifest", "m.yaml"], ["--manifest", "-f"]),
    "nothing to fill in": (["-f", WEB, "--load", "load.csv", "--manifest", "m.yaml"], ["nothing is known to fill in"]),
    "no place": (["--load", "load.csv", "--output", "no/such.json"], ["no/such.json"]),
    "no interval": (["--load", "load.csv", "--interval", "0s"], ["--interval 0s"]),
    "looking back in a file": (["--load", "load.csv", "--last", "3d"], ["--last 72h: looks back in a Prometheus"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(arguments: list[str], words: list[str]) -> None:
    written("short.csv", LOAD[:40])
    Path("twice.csv").write_text("time,value\n0,1\n0,2\n15,3\n")
    Path("back.csv").write_text("time,value\n30,1\n15,2\n45,3\n")
    said = " ".join(mistakes(run("calibrate", *arguments)))
    for word in words:
        assert word in said
    assert not Path("m.yaml").exists()


def test_a_disk_without_room_for_the_page_has_no_profile_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, _: str) -> None:
        raise unwritable(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr("rlscaler_sim.calibration_page.write_text_atomically", full)
    outputs = ("--output", "full.json", "--report", "full.html", "--manifest", "full.yaml")
    result = run("calibrate", "-f", WEB, *FILES, *outputs)
    assert "error: full.html cannot be written: No space left on device" in result.stderr
    assert not list(Path().glob("full.*"))


SPANS = [pytest.param("0s", "--last 0s: readings are 15s apart", id="none"),
         pytest.param("20s", "--last 20s: readings are 15s apart", id="less than two readings")]  # fmt: skip


@pytest.mark.parametrize("command", ["calibrate", "backtest"])
@pytest.mark.parametrize(("last", "words"), SPANS)
def test_a_span_without_readings_is_named(command: str, last: str, words: str) -> None:
    said = mistakes(run(command, "-f", WEB, "--prometheus", "http://127.0.0.1:9", "--last", last))
    assert words in said[0]


@pytest.mark.parametrize("command", ["calibrate", "backtest"])
@pytest.mark.parametrize("option", ["--prometheus", "--config"])
def test_a_source_that_does_not_answer_is_told_by_its_option(command: str, option: str) -> None:
    Path("source.yaml").write_text("sources: {default: {url: 'http://127.0.0.1:9'}}\n")
    place = "source.yaml" if option == "--config" else "http://127.0.0.1:9"
    (said,) = mistakes(run(command, "-f", WEB, option, place))
    assert said.startswith(f"error: {option}: source default (http://127.0.0.1:9) refuses the connection")


def test_no_file_of_the_past_is_written_over() -> None:
    before = Path("use.csv").read_text()
    said = " ".join(mistakes(run("calibrate", *FILES, "--output", "use.csv")))
    assert "--output use.csv: --utilization names the same file" in said
    said = " ".join(mistakes(run("calibrate", *FILES, "--output", "x", "--report", "x")))
    assert "--report x: --output names the same file" in said
    assert Path("use.csv").read_text() == before
    shutil.copy(WEB, "web.yaml")
    assert run("calibrate", "-f", "web.yaml", *FILES, "--manifest", "web.yaml").exit_code == 0, "filled in place"


def test_replicas_that_are_changed_by_hand_are_seen_beside_noise() -> None:
    """No jump follows from this load, whose single readings differ by more than a tenth by chance."""
    rng = np.random.default_rng(4)
    load = rng.poisson(20.0 * INTERVAL, 960) / INTERVAL
    assert np.ptp(load[440:520]) > 0.15 * load.mean()
    asked = np.where(TIMES < 480, 10.0, 25.0)
    past, _ = calibrating.from_traces(
        Trace("load", float(BEGIN), float(INTERVAL), load),
        {"replicas": Trace("replicas", float(BEGIN), float(INTERVAL), asked)},
        float(INTERVAL),
    )
    (jump,) = [note for note in past.notes if "jumped" in note]
    assert "from 10 to 25" in jump
    surge = np.where((TIMES > 474) & (TIMES < 500), 1.8 * load, load)
    past, _ = calibrating.from_traces(
        Trace("load", float(BEGIN), float(INTERVAL), surge),
        {"replicas": Trace("replicas", float(BEGIN), float(INTERVAL), asked)},
        float(INTERVAL),
    )
    assert not any("jumped" in note for note in past.notes)


def profile_file(kept: int = STEPS) -> str:
    """Calibrate the files without a command, and return the file of a profile with so many of the readings."""
    traces = {name: Trace(name, float(BEGIN), float(INTERVAL), values)
              for name, values in (("utilization", USE), ("replicas", ASKED), ("ready", READY))}  # fmt: skip
    past, recording = calibrating.from_traces(Trace("load", float(BEGIN), float(INTERVAL), LOAD), traces, 15.0)
    found = calibrating.calibrate(past, recording, "files", "1").profile
    names = ("load", "replicas", "ready", "utilization", "latency")
    part = {name: getattr(recording, name)[:kept] for name in names}
    profiles.write(found, replace(recording, **part), "web.json")
    return "web.json"


def test_a_dry_run_takes_capacity_start_up_and_recorded_load_of_a_profile() -> None:
    path = profile_file()
    result = run("dry-run", "-f", WEB, "--profile", path, "--for", "1h", "--compare", "hpa-tuned", "-q", "--json")
    assert result.exit_code == 0, result.output
    told, profile = json.loads(result.stdout), profiles.read(path)
    assert told["world"]["capacity_per_replica"] == pytest.approx(profile.capacity.value)
    assert told["world"]["startup"] == pytest.approx(profile.startup.value)
    assert (told["trace"], told["world"]["scale_to"], told["world"]["fano"]) == ("load", None, 1.0)


def test_what_a_profile_has_noted_is_said_once() -> None:
    path = profile_file()
    (resource,) = load_resources(WEB)
    notes = profiled.recorded_past(profiles.read(path), path, resource).notes
    assert any("of load are known" in note for note in notes)
    assert len(notes) == len(set(notes))


def test_a_backtest_takes_its_brackets_from_a_profile() -> None:
    path = profile_file(kept=250)
    result = run("backtest", "-f", WEB, "--profile", path, "--compare", "hpa-tuned", "-q", "--json")
    assert result.exit_code == 0, result.output
    told, found = json.loads(result.stdout), profiles.read(path).capacity
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert [each["factor"] for each in told["capacity"]] == pytest.approx(
        [found.low / found.value, found.high / found.value]
    )
    assert told["world"]["capacity_per_replica"] == pytest.approx(found.value)
    assert {"late", "score", "replica_hours"} <= set(told["capacity"][0]["contenders"]["recorded"])


def test_a_backtest_is_told_for_the_ends_of_the_start_up_too() -> None:
    path = profile_file(kept=250)
    asked = ("backtest", "-f", WEB, "--profile", path, "--compare", "hpa-tuned", "-q")
    result = run(*asked, "--json", "--report", "page.html")
    assert result.exit_code == 0, result.output
    told, found = json.loads(result.stdout), profiles.read(path).startup
    ends = [found.low, found.high]
    assert [each["seconds"] for each in told["startup"]] == [end for end in ends if end != found.value]
    assert told["world"]["startup"] == found.value
    late = [each["contenders"]["recorded"]["late"] for each in told["startup"]]
    then = next(c for c in told["contenders"] if c["name"] == "recorded")["violation_share"]
    assert late[0] <= then <= late[-1]
    assert late[0] < late[-1], "the same replicas, and they come later"
    page = Path("page.html").read_text()
    assert "If a replica starts sooner or later" in page
    assert page.count('id="startup"') == 1
    lines = [line for line in run(*asked).stdout.splitlines() if line.startswith("If a replica starts in ")]
    assert len(lines) == len(told["startup"])


def test_no_start_up_is_told_that_is_the_one_which_is_thought() -> None:
    found = profiles.read(profile_file(kept=250))
    for ends in ((60.0, 60.0), (0.0, 60.0)):
        known = replace(found, startup=replace(found.startup, low=ends[0], value=60.0, high=ends[1]))
        assert profiled.startup_ends(known) == (() if ends[0] == 60.0 else (0.0,))


def test_a_profile_that_tells_no_capacity_leaves_the_resources() -> None:
    (resource,) = load_resources(WEB)
    past, recording = calibrating.from_traces(Trace("load", float(BEGIN), float(INTERVAL), LOAD), {}, 15.0)
    profiles.write(calibrating.calibrate(past, recording, "files", "1").profile, recording, "bare.json")
    changed, _ = profiled.with_profile(resource, "bare.json")
    assert changed.spec.capacity == resource.spec.capacity
    text = (
        Path(WEB).read_text().replace('    perReplica: "50" # requests/s that a ready replica serves at full use\n', "")
    )
    Path("learned.yaml").write_text(text)
    said = mistakes(run("dry-run", "-f", "learned.yaml", "--profile", "bare.json"))
    assert "bare.json: tells no capacity" in said[0]


ONE = "kind: RLScaler\nspec:\n  capacity: {perReplica: '1', concurrency: 2} # kept\n  maxReplicas: 3\n"
FILLED = {
    "replaced and added": (ONE, '  capacity: {startup: 9s, perReplica: "7", concurrency: 2} # kept'),
    "left out": ("spec:\n  maxReplicas: 3\n", '  capacity: {startup: 9s, perReplica: "7"}\n  maxReplicas: 3'),
    "empty": ("spec:\n  capacity: {}\n", '  capacity: {startup: 9s, perReplica: "7"}'),
    "without a value": ("spec:\n  capacity:\n  x: 1\n", '  capacity: {startup: 9s, perReplica: "7"}'),
    "a block": ("spec:\n  capacity:\n    # why\n    startup: 1s\n", '    perReplica: "7"\n    startup: 9s'),
}


@pytest.mark.parametrize(("text", "expected"), FILLED.values(), ids=FILLED)
def test_a_manifest_keeps_what_is_not_filled_in(text: str, expected: str) -> None:
    second = with_capacity(f"---\n{text}---\nspec: {{a: 1}}\n", 1, "7", "9s")
    assert expected in second
    assert second.endswith("---\nspec: {a: 1}\n")
    assert "capacity" in with_capacity("spec: {a: 1}\n---\nspec: {b: 2}\n", 2, "7", None).split("---")[1]


def test_the_page_shows_what_is_unknown_and_no_start_below_zero() -> None:
    """Under a gap of the load nothing is filled, and the axis of the start-ups begins at 0."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: the page was not opened in a browser")
    load = LOAD.copy()
    load[300:500] = np.nan
    written("load.csv", load)
    assert run("calibrate", *FILES, "--report", "page.html").exit_code == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(Path("page.html").resolve().as_uri())
        page.wait_for_selector("html[data-drawn=true]")
        filled = page.evaluate(
            "document.querySelector('#load .draw').data.filter(t => t.fill === 'tozeroy').map(t => [t.x, t.y])"
        )
        ranges = page.evaluate("document.querySelector('#startup .draw').layout.xaxis.range")
        browser.close()
    ((x, y),) = filled
    edges = sorted(np.flatnonzero(np.diff(x) > 100 * INTERVAL * 1000).tolist())
    assert len(edges) == 1
    assert [y[edges[0]], y[edges[0] + 1]] == [0, 0]
    assert ranges[0] == 0
    assert ranges[1] > STARTUP


def test_on_a_phone_the_times_of_the_page_lie_flat_and_apart() -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: the page was not opened in a browser")
    readings = np.arange(3 * 24 * 240)
    written("load.csv", 300.0 * (1.0 + 0.3 * np.sin(readings / 80.0)))
    assert run("calibrate", "--load", "load.csv", "--interval", "15s", "--report", "page.html").exit_code == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 375, "height": 800})
        page.goto(Path("page.html").resolve().as_uri())
        page.wait_for_selector("html[data-drawn=true]")
        boxes = page.evaluate(
            "[...document.querySelector('#load .draw').querySelectorAll('.xtick text')]"
            ".map(t => t.getBoundingClientRect()).map(b => [b.left, b.right, b.width, b.height])"
            ".sort((a, b) => a[0] - b[0])"
        )
        browser.close()
    assert len(boxes) >= 2
    assert all(width > height for _, _, width, height in boxes), boxes
    assert all(one[1] < other[0] for one, other in pairwise(boxes)), boxes


def test_the_page_draws_all_figures() -> None:
    """In a browser with the network off, without a complaint."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: the page was not opened in a browser")
    from rlscaler_sim.calibration_page import write_page

    traces = {name: Trace(name, float(BEGIN), float(INTERVAL), values)
              for name, values in (("utilization", USE), ("replicas", ASKED), ("ready", READY))}  # fmt: skip
    past, recording = calibrating.from_traces(Trace("<b>load", float(BEGIN), float(INTERVAL), LOAD), traces, 15.0)
    write_page(calibrating.calibrate(past, recording, "files", "1"), "page.html")
    complaints: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.context.set_offline(True)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.goto(Path("page.html").resolve().as_uri())
        page.wait_for_selector("html[data-drawn=true]")
        assert page.locator("#workload").inner_text() == "<b>load"
        assert page.locator("figure .main-svg").count() >= 6
        page.set_viewport_size({"width": 390, "height": 844})
        rows = page.locator("#figures tbody tr")
        for index in range(rows.count()):  # on a telephone each value is seen whole, and no row is a column of words
            box, value = rows.nth(index).bounding_box(), rows.nth(index).locator("td.value").bounding_box()
            assert value["x"] + value["width"] <= 390
            assert box["height"] < 130
        browser.close()
    assert complaints == []
