"""`rlscaler demo`: who takes part, what is shown, what keys do, and recordings that stand alone."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from command_line import ROOT, install, mistakes, run
from rlscaler.errors import UserError
from rlscaler_training import demo_play, demo_record, demo_screen
from rlscaler_training.demo_play import Agent, Play
from rlscaler_training.demo_screen import Layout, Playback
from rlscaler_training.trials import episode
from tiny_runs import made_up, tiny_runs

EVIL = "<b>&evil\x1b[2J"
SHORT = ("--pattern", "steady", "--for", "10m", "-q")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def made(steps: int = 80, names: tuple[str, ...] = ("one", "two", EVIL)) -> Play:
    """Return a play with a step of load in the middle, that agent 0 follows at once and agent 1 never does."""
    demand = np.where(np.arange(steps) < steps // 2, 10.0, 20.0)
    ready = np.stack([demand + 2.0, np.full(steps, 12.0), demand + 8.0])[: len(names)]
    late = (ready < demand).astype(float)
    backlog = np.cumsum(np.maximum(demand - ready, 0.0) * 150.0, axis=1)
    cost = np.cumsum(ready, axis=1) / np.cumsum(demand)
    share = np.cumsum(late * demand, axis=1) / np.cumsum(demand)
    return Play("a step", tuple(Agent(n, n, False) for n in names), 15.0, 10.0, 15.0 * np.arange(steps), 10.0 * demand,
                demand, ready, ready, backlog, late, cost, share, cost + 20.0 * share)  # fmt: skip


# ---- who takes part ----


def test_by_default_every_trained_policy_stands_beside_the_built_in_one_and_rules(root: Path) -> None:
    found, notes = demo_play.agents([], root)
    assert [each.name for each in found] == ["q-0", "q-1", "default", "hpa-tuned", "keda", "threshold"]
    assert [each.learned for each in found][:3] == [True, True, False]
    assert any("broken" in note for note in notes)


def test_without_runs_the_rules_play_and_it_is_said_how_to_train(tmp_path: Path) -> None:
    found, notes = demo_play.agents([], tmp_path / "none")
    assert [each.name for each in found] == ["default", "hpa-tuned", "keda", "threshold"]
    assert any("rlscaler train" in note for note in notes)


def test_a_policy_that_cannot_be_served_is_left_out_with_its_reason(tmp_path: Path) -> None:
    (made_up(tmp_path / "odd", seed=0, scores=[1.0, 1.0]) / "policy.rlz").write_bytes(b"junk")
    found, notes = demo_play.agents([], tmp_path)
    assert "odd" not in [each.name for each in found]
    assert any("left out: odd" in note for note in notes)


@pytest.mark.parametrize("how", ["q-0", "{root}/q-0", "{root}/q-0/policy.rlz"])
def test_an_agent_is_a_run_by_name_or_folder_or_an_artifact(root: Path, how: str) -> None:
    found = demo_play.agent(how.format(root=root), root)
    assert found.learned
    assert Path(found.source) == root / "q-0" / "policy.rlz"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["nobody"], "no such rule, artifact or run"),
        (["hpa", "hpa"], "named twice"),
        (["cut"], "no policy yet"),
        (["clairvoyant"], "no such rule"),
    ],
)
def test_mistakes_in_the_agents_are_named(root: Path, asked: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        demo_play.agents(asked, root)


def test_a_play_is_what_happened(root: Path) -> None:
    taking_part = [demo_play.agent("q-0", root), demo_play.agent("hpa-tuned", root)]
    found = episode(demo_play.candidates(taking_part), (), "spike", seconds=1800.0, clairvoyant=False)
    play = demo_play.play_of(found, taking_part, "spike")
    assert play.steps == 120
    for i, contender in enumerate(found.contenders):
        assert play.cost[i, -1] == pytest.approx(contender.cost_ratio)
        assert play.late_share[i, -1] == pytest.approx(contender.violation_share, rel=1e-3, abs=1e-6)
        assert play.score[i, -1] == pytest.approx(contender.score, rel=1e-3)
    assert play.ranking(play.steps - 1)[0] == play.best(play.steps - 1)


# ---- lines and the screen ----


def test_plain_lines_hold_every_agent_at_every_moment() -> None:
    play = made()
    head, *rows = demo_play.lines(play, every=300.0)
    moments = sorted({row.split()[0] for row in rows})
    assert moments == ["00:00:00", "00:05:00", "00:10:00", "00:15:00", "00:19:45"]
    assert len(rows) == len(moments) * len(play.agents)
    last = rows[-2].split()
    assert dict(zip(head.split()[2:], last[2:], strict=False))["ready"] == "12"


@pytest.mark.parametrize(
    ("keys", "speed", "paused", "at", "left"),
    [
        ("", 120.0, False, 220.0, False),
        ("+", 240.0, False, 340.0, False),
        ("--", 30.0, False, 130.0, False),
        (" ", 120.0, True, 100.0, False),
        ("  ", 120.0, False, 220.0, False),
        ("\x1b[C", 120.0, False, 280.0, False),
        ("\x1b[D\x1b[D", 120.0, False, 120.0, False),
        ("x", 120.0, False, 220.0, False),
        ("q", 120.0, False, 220.0, True),
        ("-" * 20, 1.0, False, 101.0, False),
        ("+" * 20, 7680.0, False, 1000.0, False),
    ],
)
def test_keys_move_the_demo(keys: str, speed: float, paused: bool, at: float, left: bool) -> None:
    playback = Playback(100.0, 1000.0, 120.0)
    for key in demo_screen.keys_in(keys):
        playback.press(key)
    playback.advance(1.0)
    assert (playback.speed, playback.paused, playback.at, playback.quit) == (speed, paused, at, left)


@pytest.mark.parametrize("agents", [1, 2, 4, 8, 11])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60), (40, 10)])
def test_panels_fit_the_screen(agents: int, width: int, height: int) -> None:
    layout = Layout.of(agents, width, height)
    play = made(names=("one", "two", "three"))
    assert layout.across * layout.width <= max(width, demo_screen.PANEL)
    assert 1 <= layout.shown <= agents
    if agents <= 3:
        shown = Console(width=width, height=height, file=io.StringIO(), record=True)
        shown.print(demo_screen.screen(play, 50, 60.0, Layout.of(3, width, height)))
        lines = shown.export_text().rstrip("\n").split("\n")
        assert len(lines) <= max(height, 9)
        assert max(map(len, lines)) <= width


def test_the_chart_is_red_where_the_load_is_not_served() -> None:
    play = made()
    served, short = (demo_screen.chart(play, agent, 79, 30, 8) for agent in (0, 1))
    styles = {str(span.style) for span in served.spans}, {str(span.style) for span in short.spans}
    assert demo_screen.RED not in styles[0]
    assert demo_screen.RED in styles[1]
    assert len(served.plain.split("\n")) == 8
    assert {len(line) for line in served.plain.split("\n")} == {30}


def test_the_chart_needs_no_more_than_ascii_where_asked() -> None:
    assert demo_screen.chart(made(), 1, 79, 30, 8, ascii_only=True).plain.isascii()


def test_the_show_follows_clock_and_keys_to_its_end() -> None:
    """Time comes from the clock that is handed in; a pause holds it, q ends it."""
    play, now = made(), iter(np.arange(0.0, 100.0, 0.5).tolist())
    pressed = iter([" ", "", "", " ", "+", "q"])
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    last = demo_screen.watch(play, console, lambda _: next(pressed), lambda: next(now), 120.0)
    seconds = 0.5 * 120.0 + 2 * 0.5 * 240.0  # three of the six half seconds were paused; then +, and q
    assert play.time[last] == seconds - seconds % 15.0
    to_the_end = demo_screen.watch(play, console, lambda _: "", lambda: next(now), 480.0)
    assert to_the_end == play.steps - 1


# ---- recordings ----


def test_the_svg_is_whole_and_stands_alone() -> None:
    text = demo_record.svg(made(), 60.0)
    tree = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    titles = [t.text for t in tree.iter(f"{space}text") if t.get("class") == "title"]
    assert titles[:2] == ["one", "two"]
    assert not list(tree.iter(f"{space}script"))
    assert not [e for e in tree.iter() for key, value in e.attrib.items() if key.endswith("href") and value[0] != "#"]
    assert "url(http" not in text
    assert "@import" not in text
    assert "\x1b" not in text


def test_the_svg_uncovers_the_curves_and_holds_the_end() -> None:
    play = made()
    text = demo_record.svg(play, 60.0)
    shown = demo_record.frames(play)
    assert shown[0] == 0
    assert shown[-1] == play.steps - 1
    assert f"steps({len(shown) + max(1, round(demo_record.HOLD * len(shown)))})" in text
    assert f"animation: uncover {play.time[-1] / 60.0:.2f}s" in text
    assert "prefers-reduced-motion" in text
    ranked = play.best(play.steps - 1)
    assert f'class="best" x="244" y="{36 + 92 + 24 + 16 + demo_record.STRIP * (len(shown) - 1)}">' \
           f"{play.score[ranked, -1]:.2f}<" in text  # fmt: skip


@pytest.mark.parametrize(("speed", "lasts"), [(1e6, 4.0), (60.0, 1185.0 / 60.0), (1.0, 120.0)])
def test_an_animation_is_no_blink_and_no_film(speed: float, lasts: float) -> None:
    assert demo_record.seconds_of(made(), speed) == pytest.approx(lasts)


def test_a_terminal_recording_is_an_asciicast() -> None:
    header, *events = map(json.loads, demo_record.cast(made(), 120.0).splitlines())
    assert header["version"] == 2
    times = [event[0] for event in events]
    assert times == sorted(times)
    assert {event[1] for event in events} == {"o"}
    assert "00:19:45" in events[-1][2]
    lines = events[-1][2].count("\r\n") + 1
    assert lines <= header["height"]


def test_a_gif_has_a_picture_for_each_frame() -> None:
    image = pytest.importorskip("PIL.Image")
    play = made(12, ("one", "two"))
    with image.open(io.BytesIO(demo_record.gif(play, 60.0))) as opened:
        assert opened.n_frames == 12
        first = np.asarray(opened.convert("RGB")).copy()
        opened.seek(11)
        assert (np.asarray(opened.convert("RGB")) != first).any()


# ---- the command ----


@pytest.mark.usefixtures("installed")
def test_where_the_output_is_no_terminal_lines_are_printed(root: Path) -> None:
    done = run("demo", "--runs", str(root), "--agents", "q-0,hpa-tuned", *SHORT)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("time      load/s  agent")
    assert "\x1b" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]]


@pytest.mark.usefixtures("installed")
def test_a_recording_is_written_whole(root: Path, tmp_path: Path) -> None:
    done = run("demo", "--agents", "default,hpa-tuned", "--record", str(tmp_path / "x.svg"), *SHORT)
    assert done.exit_code == 0, done.output
    assert ET.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--record", "x.mp4"), "expected a name that ends in .svg, .gif or .cast"),
        (("--agents", "nobody"), "no such rule"),
        (("--agents", ","), "--agents ,: no name; expected names separated by commas, such as hpa,keda"),
        (("--agents", ""), "--agents '': no name"),
        (("--agents", " , ", "--environment", "legacy"), "--agents ' , ': no name"),
        (("--agents", "hpa", "--pattern", "spikee"), "spike"),
        (("--agents", "hpa", "--for", "30s"), "at least 2m"),
        (("--agents", "hpa", "--from", "8h"), "--from 8h: flash-crowd ends after 4h; start earlier"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert any(told in line for line in mistakes(run("demo", *arguments)))
    assert list(tmp_path.iterdir()) == []


def _read(handle: int, until: bytes) -> Iterator[bytes]:
    """Yield what a terminal shows until it has shown `until`."""
    seen = b""
    while until not in seen:
        ready, _, _ = select.select([handle], [], [], 60.0)
        assert ready, f"{until!r} was not shown: {seen[-2000:]!r}"
        part = os.read(handle, 65536)
        seen = seen[-200:] + part
        yield part


def test_in_a_real_terminal_it_plays_and_q_ends_it(installed: Path) -> None:
    """A pseudo-terminal, so that the keys are read as they are typed, and the terminal is put back."""
    ours, theirs = pty.openpty()
    rooms = [str(ROOT / room) for room in ("core", "sim", "training")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *rooms]), "TERM": "xterm-256color",
                   "COLUMNS": "100", "LINES": "30", "PYTHONIOENCODING": "utf-8"}  # fmt: skip
    command = [sys.executable, "-c", "from rlscaler.cli import main; main()", "demo", "--agents", "default,hpa", *SHORT,
               "--speed", "1"]  # fmt: skip
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            for _ in _read(ours, b"[q] quit"):
                pass
            os.write(ours, b" ")
            for _ in _read(ours, b"paused"):
                pass
            os.write(ours, b"q")
            rest = b"".join(_read(ours, b"rescales"))
            assert b"\x1b[?1049l" in rest, "the screen is given back before the table is printed"
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(ours)
