"""The page of a dry-run in a browser: the system's Chromium, headless and with the network off.

Without a Chromium or playwright these tests are skipped and say so.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dry_run_example import day, enlarged
from rlscaler_sim.report import write_report
from rlscaler_sim.result import DryRun


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: the page was not opened in a browser")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update"]  # fmt: skip
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=flags)
        yield found
        found.close()


@dataclass
class Opened:
    """A page in the browser, what it complained of, and what it asked of the network."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def opened(browser: Any, path: Path, **context: Any) -> Opened:
    """Open a file with the network off and wait until its plots are drawn."""
    session = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"} | context)
    session.set_offline(True)
    found = Opened(session.new_page())
    found.page.on("console", lambda m: found.complaints.append(m.text) if m.type in ("error", "warning") else None)
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("request", lambda r: found.requests.append(r.url) if not r.url.startswith("data:") else None)
    found.page.goto(path.as_uri())
    found.page.wait_for_selector("html[data-ready=true]")
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report with names that try to break out of it."""
    run: DryRun = day(resource="<script>document.title='broken'</script>")
    names = [replace(c, name="<b>two</b>&amp;") if c.name == "two-thresholds" else c for c in run.contenders]
    path = tmp_path_factory.mktemp("report") / "run.html"
    write_report(replace(run, contenders=names), path)
    return path


@pytest.fixture(scope="module")
def page(browser: Any, report: Path) -> Iterator[Opened]:
    """Return the report, open."""
    found = opened(browser, report)
    yield found
    found.page.context.close()


def colour_of(page: Any, selector: str) -> str:
    return str(page.eval_on_selector(selector, "e => getComputedStyle(e).color"))


def test_page_is_of_a_size_that_opens_fast(report: Path) -> None:
    assert report.stat().st_size < 6e6


def test_page_opens_offline_without_complaints(page: Opened, report: Path) -> None:
    assert page.complaints == []
    assert page.requests == [report.as_uri()]
    assert "document.title='broken'" in page.page.inner_text("h1")
    assert page.page.title() != "broken"


def test_plots_have_their_traces(page: Opened, run: DryRun) -> None:
    traces = page.page.evaluate(
        "document.getElementById('plot').data.map(t => [t.name, t.yaxis, t.x.length, t.y.length, t.visible ?? true])"
    )
    assert len(traces) == 5 * len(run.contenders) + 2
    assert {tuple(t[2:4]) for t in traces} == {(5760, 5760)}
    seen = {name for name, _, _, _, visible in traces if visible}
    assert seen == {"load", "needed", "growth-quantile", "hpa-tuned"}
    titles = page.page.evaluate("document.getElementById('plot').layout.annotations.map(a => a.text)")
    for title in ("Load and ready capacity", "Replicas asked for", "Late requests", "Backlog", "Cost so far"):
        assert any(title in t for t in titles), f"no panel {title}"


def test_a_contender_is_toggled_in_every_plot_by_keyboard(page: Opened) -> None:
    box = page.page.get_by_label("<b>two</b>&amp;", exact=True)
    count = "document.getElementById('plot').data.filter(t => t.name.includes('two') && t.visible).length"
    assert page.page.evaluate(count) == 0
    box.focus()
    page.page.keyboard.press("Space")
    page.page.wait_for_function(f"{count} === 5")
    names = page.page.evaluate("document.getElementById('plot').data.map(t => t.name)")
    assert names.count("&lt;b&gt;two&lt;/b&gt;&amp;amp;") == 5, "plotly would read the name as HTML"
    assert "<b>two</b>&amp;" in page.page.inner_text("#moment")
    page.page.keyboard.press("Space")
    page.page.wait_for_function(f"{count} === 0")


def test_theme_follows_the_button_and_so_do_the_plots(page: Opened) -> None:
    line = "getComputedStyle(document.querySelector('#plot .scatterlayer .js-line')).stroke"
    ground = "getComputedStyle(document.body).backgroundColor"
    before = [page.page.evaluate(e) for e in (line, ground)]
    page.page.click("#theme")
    page.page.wait_for_function(f"{line} !== '{before[0]}'")
    assert page.page.evaluate(ground) != before[1]
    assert page.page.get_attribute("#theme", "aria-pressed") == "true"
    page.page.click("#theme")
    page.page.wait_for_function(f"{line} === '{before[0]}'")
    assert [page.page.evaluate(e) for e in (line, ground)] == before


def test_theme_follows_the_system(browser: Any, report: Path) -> None:
    dark = opened(browser, report, color_scheme="dark")
    red, green, blue = map(int, re.findall(r"\d+", dark.page.evaluate("getComputedStyle(document.body).color"))[:3])
    assert min(red, green, blue) > 200, "light letters on a dark page"
    assert dark.page.evaluate("document.getElementById('plot').layout.font.color") != "rgb(86, 96, 113)"
    assert dark.complaints == []
    dark.page.context.close()


def test_zoom_buttons_set_the_window_and_fit_the_height(page: Opened) -> None:
    layout = "document.getElementById('plot').layout"
    page.page.click("[data-window=worst]")
    page.page.wait_for_function(f"{layout}.xaxis.range[1] - {layout}.xaxis.range[0] === 3600000")
    assert page.page.get_attribute("[data-window=worst]", "aria-pressed") == "true"
    narrow = page.page.evaluate(f"{layout}.yaxis.range[1]")
    page.page.click("[data-window=all]")
    page.page.wait_for_function(f"{layout}.xaxis.range[1] - {layout}.xaxis.range[0] > 80000000")
    assert page.page.evaluate(f"{layout}.yaxis.range[1]") > narrow


@pytest.mark.parametrize("steps", [2, 40])
def test_a_short_run_shows_its_first_cost_too(browser: Any, steps: int, tmp_path: Path) -> None:
    """Only of a long one the beginning is left out, in which the cost swings."""
    run: DryRun = day(steps=steps)
    cost = np.linspace(3.0, 1.0, steps) + np.zeros_like(run.series.cost)
    write_report(replace(run, series=replace(run.series, cost=cost)), tmp_path / "short.html")
    page = opened(browser, tmp_path / "short.html").page
    low, high = page.evaluate("document.getElementById('plot').layout.yaxis5.range")
    page.context.close()
    assert low < 1.0
    assert high > 3.0


def test_dragging_zooms_all_plots(page: Opened) -> None:
    layout = "document.getElementById('plot').layout"
    page.page.locator("#plot").scroll_into_view_if_needed()
    area = page.page.locator("#plot .nsewdrag").first.bounding_box()
    page.page.mouse.move(area["x"] + 200, area["y"] + 60)
    page.page.mouse.down()
    page.page.mouse.move(area["x"] + 500, area["y"] + 60, steps=5)
    page.page.mouse.up()
    page.page.wait_for_function(f"{layout}.xaxis.range[0] > 15000000")
    assert page.page.get_attribute("[data-window=all]", "aria-pressed") == "false"
    page.page.click("[data-window=all]")


def test_moment_follows_the_slider(page: Opened, run: DryRun) -> None:
    page.page.focus("#cursor")
    page.page.keyboard.press("Home")
    page.page.keyboard.press("ArrowRight")
    assert page.page.inner_text("#moment-time").startswith("00:00:15: load ")
    row = page.page.inner_text("#moment tbody tr.tested")
    assert row.split()[:3] == [
        "growth-quantile",
        f"{run.series.ready[0, 1]:.0f}",
        f"{run.series.replicas[0, 1]:.0f}",
    ]


def test_filters_keep_the_rows_that_match(page: Opened) -> None:
    rows = page.page.locator("#decisions tbody tr:visible")
    assert rows.count() == 300
    page.page.select_option("#reason", "ReactiveFloor")
    floor = rows.count()
    assert 0 < floor < 300
    assert page.page.inner_text("#found") == f"{floor} of 300 shown"
    assert all("ReactiveFloor" in text for text in rows.all_inner_texts())
    page.page.select_option("#direction", "down")
    assert rows.count() == 0
    page.page.select_option("#reason", "")
    assert 0 < rows.count() < 300
    page.page.select_option("#direction", "")
    page.page.fill("#find", "stabilisation WINDOW")
    assert all("stabilisation window" in text for text in rows.all_inner_texts())
    page.page.fill("#find", "")
    assert rows.count() == 300


def test_a_decision_leads_to_its_place_in_the_plots(page: Opened) -> None:
    button = page.page.locator("#decisions button").nth(150)
    at = int(button.get_attribute("data-time"))
    button.click()
    page.page.wait_for_function(f"document.getElementById('plot').layout.xaxis.range[0] === {at - 1200000}")
    assert page.page.inner_text("#moment-time").startswith(button.text_content())
    page.page.click("[data-window=all]")


def test_page_fits_a_telephone(browser: Any, report: Path) -> None:
    small = opened(browser, report, viewport={"width": 400, "height": 800})
    assert small.page.evaluate("document.documentElement.scrollWidth") == 400
    assert small.page.evaluate("document.getElementById('plot').clientWidth") <= 400
    small.page.context.close()


def test_printing_is_light_without_controls_and_fits_the_paper(browser: Any, report: Path) -> None:
    dark = opened(browser, report, color_scheme="dark")
    dark.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    dark.page.emulate_media(media="print", color_scheme="dark")
    dark.page.wait_for_function("document.getElementById('plot').layout.width === 690")
    assert dark.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for control in ("#theme", ".filters", ".zoom", "#cursor"):
        assert not dark.page.is_visible(control), f"{control} is printed"
    assert dark.page.locator("#decisions tbody tr:visible").count() == 40
    dark.page.emulate_media(media="screen")
    dark.page.evaluate("dispatchEvent(new Event('afterprint'))")
    dark.page.wait_for_function("document.getElementById('plot').layout.width !== 690")
    assert dark.page.evaluate("document.documentElement.dataset.theme") is None
    dark.page.context.close()


def test_a_thinned_page_of_many_contenders_opens(browser: Any, tmp_path: Path) -> None:
    long = enlarged(day(steps=12000, start=1.76e9), 6)
    write_report(long, tmp_path / "long.html")
    found = opened(browser, tmp_path / "long.html")
    assert found.complaints == []
    assert found.page.evaluate("document.getElementById('plot').data[0].x.length") <= 6000
    assert " UTC: load " in found.page.inner_text("#moment-time")
    assert " to " in found.page.inner_text("#moment-time"), "a stretch shows its lowest and highest value"
    found.page.context.close()


def test_page_reads_without_javascript(browser: Any, report: Path) -> None:
    session = browser.new_context(java_script_enabled=False)
    plain = session.new_page()
    plain.goto(report.as_uri())
    text = plain.inner_text("main")
    assert "growth-quantile wins" in text
    assert "The plots need JavaScript." in text
    assert not plain.is_visible("#theme")
    session.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_large_numbers_of_an_axis_are_whole(browser: Any, tmp_path: Path, width: int) -> None:
    """A backlog of millions: the room beside the axis is for six digits, so that the others would be cut off."""
    run = day()
    backlog = run.series.backlog * 0.0
    backlog[:, 100:200] = 5e6
    write_report(replace(run, series=replace(run.series, backlog=backlog)), tmp_path / "run.html")
    found = opened(browser, tmp_path / "run.html", viewport={"width": width, "height": 900})
    left = found.page.locator("#plot").bounding_box()["x"]
    labels = found.page.locator("#plot .ytick text, #plot [class^=y] .tick text, #plot .yaxislayer-above text").all()
    assert any("M" in label.text_content() for label in labels)
    for label in labels:
        assert label.bounding_box()["x"] >= left, label.text_content()
    found.page.context.close()


def test_a_load_of_less_than_one_request_a_second_is_told(browser: Any, tmp_path: Path) -> None:
    run = day()
    series = replace(run.series, load=run.series.load / 1e4, demand=run.series.demand / 1e4)
    write_report(replace(run, series=series), tmp_path / "run.html")
    found = opened(browser, tmp_path / "run.html")
    said = found.page.inner_text("#moment-time")
    assert "load 0 requests/s" not in said
    assert " 0 replicas needed" not in said
    found.page.context.close()
