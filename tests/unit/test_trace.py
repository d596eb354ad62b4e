"""Reading recorded load: formats, gaps, odd sampling, and every way in which a file can be wrong."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlscaler_sim import trace as trace_module
from rlscaler_sim.trace import (
    Trace,
    TraceError,
    events_per_bucket,
    family,
    read_trace,
    since_first_load,
    trace_files,
    trace_name,
    traces_folder,
)

NAN = float("nan")
FOLDER = traces_folder()
needs_traces = pytest.mark.skipif(
    FOLDER is None or not (FOLDER / "README.md").is_file(),
    reason="no folder of recorded traces with the README.md that describes them: set RLSCALER_TRACES to it",
)


def written(folder: Path, content: str | bytes, name: str = "load.csv") -> Path:
    data = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    ("content", "start", "step", "rates"),
    [
        pytest.param("t_s,rate\n0,1\n60,2.5\n120,0\n", 0, 60, [1, 2.5, 0], id="the-standard-format"),
        pytest.param("t_s,rate\r\n0,1\r\n60,\r\n120,3\r\n", 0, 60, [1, NAN, 3], id="empty-is-a-gap"),
        pytest.param("t_s,rate\n0,1\n60,NaN\n120,null\n", 0, 60, [1, NAN, NAN], id="words-for-a-gap"),
        pytest.param("t_s,rate\n0,1\n60,2\n240,3\n300,4\n", 0, 60, [1, 2, NAN, NAN, 3, 4], id="missing-rows"),
        pytest.param("0,1\n60,2\n180,3\n", 0, 60, [1, 2, NAN, 3], id="no-header-and-lower-median"),
        pytest.param("time,count\n0,120\n60,30\n", 0, 60, [2, 0.5], id="counts-become-rates"),
        pytest.param("Requests;Timestamp\n30;0\n60;30\n", 0, 30, [1, 2], id="semicolons-other-order"),
        pytest.param("# exported\n\ntime\tvalue\n0\t1\n\n5\t2\n", 0, 5, [1, 2], id="tabs-comments-blanks"),
        pytest.param("sep=,\r\nTime,web\r\n0,1\r\n5,2\r\n", 0, 5, [1, 2], id="separator-named-first"),
        pytest.param('"sep=;"\nt_s;rate\n0;1\n5;2\n', 0, 5, [1, 2], id="separator-named-in-quotes"),
        pytest.param("SEP=\t\n0\t1\n5\t2\n", 0, 5, [1, 2], id="separator-named-without-a-header"),
        pytest.param('"Time","{job=""web""}"\n0,1\n5,2\n', 0, 5, [1, 2], id="value-headed-by-its-series"),
        pytest.param("host,ts,rps,load\na,0,1,9\na,5,2,9\n", 0, 5, [1, 2], id="other-columns"),
        pytest.param("t_ms,rate\n500,1\n1500,2\n", 0.5, 1, [1, 2], id="milliseconds-by-name"),
        pytest.param("ts,rate\n1700000000000,1\n1700000015000,2\n", 1.7e9, 15, [1, 2], id="milliseconds"),
        pytest.param("ts,rate\n1700000000,1\n1700000015,2\n", 1.7e9, 15, [1, 2], id="epoch-seconds"),
        pytest.param("date,value\n1970-01-02,1\n1970-01-03,2\n", 86400, 86400, [1, 2], id="dates"),
        pytest.param("ts,value\n1970-01-01T01:00:00+01:00,1\n1970-01-01T00:01:00Z,2\n", 0, 60, [1, 2], id="zones"),
        pytest.param("\ufefft_s,rate\n0,1\n60,2\n", 0, 60, [1, 2], id="byte-order-mark"),
        pytest.param("t_s,rate\n0,1\n59.9,2\n120.1,3\n", 0, 60.05, None, id="small-jitter-of-the-clock"),
    ],
)
@pytest.mark.parametrize("name", ["load.csv", "load.csv.gz"])
def test_formats(tmp_path: Path, name: str, content: str, start: float, step: float, rates: list[float] | None) -> None:
    trace = read_trace(written(tmp_path, content, name))
    assert trace.name == "load"
    assert trace.start == pytest.approx(start)
    if rates is None:
        assert trace.rates.tolist() == [1, 2, 3]
    else:
        assert trace.step == pytest.approx(step)
        np.testing.assert_allclose(trace.rates, rates)
    assert trace.warnings == ()


def test_gzip_is_told_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "packed.csv"
    path.write_bytes(gzip.compress(b"t_s,rate\n0,1\n60,2\n"))
    assert read_trace(path).rates.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        pytest.param("", "a.csv", ["is empty", "a time and a value"], id="empty"),
        pytest.param(" \n\n", "a.csv", ["is empty"], id="blank"),
        pytest.param("# nothing\n", "a.csv", ["no data"], id="comments-only"),
        pytest.param("t_s,rate\n", "a.csv", ["no data"], id="header-only"),
        pytest.param("t_s,rate\n0,\n60,\n", "a.csv", ["no value in any row", "not a gap"], id="gaps-only"),
        pytest.param("sep=,\n", "a.csv", ["no data"], id="separator-only"),
        pytest.param("sep=,\nt_s,rate\n0,much\n", "a.csv", ["line 3", "'much'"], id="line-after-the-separator"),
        pytest.param("t_s,rate\n0,1\n", "a.csv", ["one row only", "two or more"], id="one-row"),
        pytest.param("t_s\n0\n", "a.csv", ["line 1", "'t_s'", "two columns"], id="one-column"),
        pytest.param("0,1\n60\n", "a.csv", ["line 2", "1 column", "expected 2"], id="short-row"),
        pytest.param("a,b,c\n0,1,2\n", "a.csv", ["line 1", "no time column", "'a', 'b', 'c'"], id="no-time"),
        pytest.param("ts,b,c\n0,1,2\n", "a.csv", ["no value column", "rate, value"], id="no-value"),
        pytest.param("t_s,rate\n0,1\n120,1\n60,1\n", "a.csv", ["line 4", "'60'", "rising"], id="unsorted"),
        pytest.param("t_s,rate\n0,1\n60,1\n60,2\n", "a.csv", ["line 4", "'60'", "twice"], id="duplicate"),
        pytest.param("t_s,rate\n0,1\n60,much\n", "a.csv", ["line 3", "'much'", "number"], id="no-number"),
        pytest.param("t_s,rate\n0,1\n60,1_0\n", "a.csv", ["line 3", "'1_0'"], id="underscore"),
        pytest.param("t_s,rate\n0,1\n60,-2\n", "a.csv", ["line 3", "'-2'"], id="negative"),
        pytest.param("t_s,rate\n0,inf\n60,2\n", "a.csv", ["line 2", "'inf'"], id="infinite"),
        pytest.param("t_s,rate\n0,1e16\n60,2\n", "a.csv", ["line 2", "'1e16'", "1e+15"], id="absurd"),
        pytest.param("t_s,rate\n0,1\nsoon,2\n", "a.csv", ["line 3", "'soon'", "ISO 8601"], id="no-time-value"),
        pytest.param("t_s,rate\n0,1\n,2\n", "a.csv", ["line 3", "time ''"], id="empty-time"),
        pytest.param("t_s,rate\n0,1\ninf,2\n", "a.csv", ["line 3", "'inf'"], id="infinite-time"),
        pytest.param("t_s,rate\n0,1\n1,1\n1e9,1\n", "a.csv", ["3 rows", "wrong time"], id="years-of-gap"),
        pytest.param(b"\x89PNG\0\0,\n1,2", "a.csv", ["binary"], id="binary"),
        pytest.param("t_s,rate\n0,1\n60,£\n".encode("latin-1"), "a.csv", ["UTF-8"], id="not-utf-8"),
        pytest.param("t_s,rate\n0," + "1" * 200_000, "a.csv", ["line 2", "no CSV row"], id="endless-field"),
    ],
)
def test_errors_say_where_and_what(tmp_path: Path, content: str | bytes, name: str, words: list[str]) -> None:
    path = written(tmp_path, content, name)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert [word for word in words if word not in message] == [], message


def test_errors_of_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read \(No such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path)
    plain = tmp_path / "plain.csv.gz"
    plain.write_bytes(b"t_s,rate\n0,1\n60,2\n")
    with pytest.raises(TraceError, match=r"named \.gz but holds no gzip data"):
        read_trace(plain)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"t_s,rate\n0,1\n60,2\n" * 1000)[:40])
    with pytest.raises(TraceError, match="damaged gzip data"):
        read_trace(cut)
    monkeypatch.setattr(trace_module, "LARGEST_FILE", 2**20)
    bomb = written(tmp_path, b"0" * (64 * 2**20), "bomb.csv.gz")
    assert bomb.stat().st_size < 2**17
    with pytest.raises(TraceError, match="holds over 1 MiB of text"):
        read_trace(bomb)


def test_unpacking_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = gzip.GzipFile.read

    def read(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        asked.append(-1 if size is None else size)
        return real(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", read)
    read_trace(written(tmp_path, "t_s,rate\n0,1\n60,2\n", "a.csv.gz"))
    assert asked
    assert all(0 <= size <= trace_module.LARGEST_FILE + 1 for size in asked)


def test_irregular_sampling_is_averaged_onto_buckets(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "t_s,rate\n0,1\n10,2\n20,3\n35,5\n40,6\n"))
    assert trace.step == 10.0
    # 35 s is off the grid: bucket 3 (30 to 40 s) holds the row of 20 s for 5 s, and the row of 35 s for 5 s
    np.testing.assert_allclose(trace.rates, [1, 2, 3, 4, 6])
    assert len(trace.warnings) == 1
    assert "2 of 4 steps" in trace.warnings[0]
    assert "10 s" in trace.warnings[0]


def test_irregular_sampling_with_a_silence_leaves_a_gap(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "t_s,rate\n0,1\n10,2\n20,3\n63,4\n73,5\n"))
    # the row of 20 s counts for one step, 30 to 63 s is silent, and the last bucket is covered to 3 s of 10
    np.testing.assert_allclose(trace.rates, [1, 2, 3, NAN, NAN, NAN, 4, (4 * 3 + 5 * 7) / 10])


@settings(deadline=None, derandomize=True, max_examples=60)
@example(gaps=[0.9375, 0.9375, 0.9453125], values=[0.0, 1.0, *([0.0] * 39)])
@given(
    gaps=st.lists(st.floats(0.6, 1.4), min_size=3, max_size=40),
    values=st.lists(st.floats(0.0, 100.0), min_size=41, max_size=41),
)
def test_resampling_keeps_every_event(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[float], values: list[float]
) -> None:
    """Counts without a silence: the events of whole buckets are the events of the rows, up to the edge."""
    times = np.concatenate(([0.0], np.cumsum(np.array(gaps) * 10.0)))
    counts = np.round(values[: times.size], 6)
    rows = "\n".join(f"{t!r},{c!r}" for t, c in zip(times.tolist(), counts.tolist(), strict=True))
    trace = read_trace(written(tmp_path_factory.mktemp("odd"), f"time,count\n{rows}\n"))
    steps = np.diff(times)
    if (steps > 1.5 * trace.step).any():
        return
    found = np.nansum(trace.rates) * trace.step
    edge = 2.0 * trace.step * (counts.max() / min(steps.min(), trace.step))
    assert found == pytest.approx(counts.sum(), abs=edge + 1e-6)
    if not trace.warnings:
        return  # near enough to a grid to be taken for one: a count then belongs to its bucket alone
    inner = (np.arange(trace.rates.size) + 1) * trace.step <= times[-1]
    held = np.append(steps, trace.step)
    edges = np.arange(trace.rates.size + 1) * trace.step
    for i in np.flatnonzero(inner):
        overlap = np.minimum(edges[i + 1], times + held) - np.maximum(edges[i], times)
        exact = float((np.maximum(overlap, 0.0) * counts / held).sum() / trace.step)
        assert trace.rates[i] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(
    ("step", "rates", "words"),
    [(0.0, [1.0], "step is 0"), (60.0, [-1.0], "negative"), (60.0, [np.inf], "above"), (60.0, [], "shape")],
    ids=["step", "negative", "infinite", "nothing"],
)
def test_a_trace_made_in_code_is_checked_too(step: float, rates: list[float], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        Trace("made", 0.0, step, np.array(rates))


def test_events_per_bucket_counts_known_buckets() -> None:
    assert events_per_bucket(Trace("a", 0.0, 60.0, np.array([0.1, NAN, 0.3]))) == pytest.approx(12.0)
    assert np.isnan(events_per_bucket(Trace("a", 0.0, 60.0, np.array([NAN]))))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nasa_http_1995-07_60s", "nasa"),
        ("nasa_http_1995-07-13_10s", "nasa"),
        ("twitter_stream_2021-08_60s", "twitter"),
        ("twitter_stream_2021-08_day10_10s", "twitter"),
        ("worldcup98_groups_60s", "worldcup98"),
        ("nab_nyc_taxi_2014-07_1800s", "nab_taxi"),
        ("proxy_nab_rds_cpu_300s", "proxy_nab_rds"),
        ("shop_60s", "shop"),
        ("shop_10s", "shop"),
        ("checkout", "checkout"),
    ],
)
def test_family(name: str, expected: str) -> None:
    assert family(name) == expected


@pytest.mark.parametrize(
    ("rates", "start", "left"),
    [
        ([0.0] * 200 + [1.0, 0.0], 140 * 60.0, [0.0] * 60 + [1.0, 0.0]),
        ([NAN] * 100 + [0.0, 2.0], 41 * 60.0, [NAN] * 59 + [0.0, 2.0]),
        ([0.0] * 60 + [1.0], 0.0, [0.0] * 60 + [1.0]),
        ([1.0] + [0.0] * 200, 0.0, [1.0] + [0.0] * 200),
        ([0.0] * 200, 0.0, [0.0] * 200),
    ],
    ids=["long quiet", "a gap", "an hour", "quiet at the end", "no load"],
)
def test_a_trace_begins_an_hour_before_its_first_load(rates: list[float], start: float, left: list[float]) -> None:
    found = since_first_load(Trace("late", 1000.0, 60.0, np.array(rates)))
    assert found.start == 1000.0 + start
    np.testing.assert_array_equal(found.rates, left)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.csv", "a.csv.gz", "README.md"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in trace_files(tmp_path)] == ["a.csv.gz", "b.csv"]
    with pytest.raises(TraceError, match="no such folder"):
        trace_files(tmp_path / "none")
    monkeypatch.setenv("RLSCALER_TRACES", str(tmp_path))
    assert traces_folder() == tmp_path
    monkeypatch.setenv("RLSCALER_TRACES", str(tmp_path / "none"))
    with pytest.raises(TraceError, match="RLSCALER_TRACES"):
        traces_folder()


def table(folder: Path) -> dict[str, list[str]]:
    rows = (line.split("|")[1:-1] for line in (folder / "README.md").read_text().splitlines())
    return {cells[0].strip(" `"): [c.strip() for c in cells] for cells in rows if cells and ".csv" in cells[0]}


@needs_traces
def test_recorded_traces_are_as_described() -> None:
    assert FOLDER is not None
    described = table(FOLDER)
    files = trace_files(FOLDER)
    assert {path.name for path in files} == set(described)
    wrong = []
    for path in files:
        trace, cells = read_trace(path), described[path.name]
        unit = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
        step, length = (float(n) * unit[u] for n, u in (cells[5].split(), cells[6].split()))
        gaps = float(np.isnan(trace.rates).mean())
        ok = (
            trace.step == step
            and trace.start == 0.0
            and trace.duration == pytest.approx(length, rel=6e-3)
            and np.nanmean(trace.rates) == pytest.approx(float(cells[7]), rel=6e-4)
            and np.nanmax(trace.rates) == pytest.approx(float(cells[8]), rel=6e-4)
            and gaps == pytest.approx(float(cells[13].strip("%")) / 100, abs=6e-4)
            and trace.warnings == ()
        )
        wrong += [] if ok else [path.name]
    assert wrong == []
    assert len(files) == 37
    assert len({family(name.split(".csv")[0]) for name in described}) == 20


@needs_traces
def test_the_documentation_names_every_recorded_trace() -> None:
    assert FOLDER is not None
    text = (Path(__file__).resolve().parents[2] / "docs" / "traces.md").read_text()
    names = [path.name.removesuffix(".csv.gz") for path in trace_files(FOLDER)]
    assert [name for name in names if not re.search(rf"`{re.escape(name)}`", text)] == []


def test_the_name_of_a_trace_is_text_in_a_locale_that_is_not_utf_8() -> None:
    """Python gives such a file's name in surrogates there, which nothing can encode, and the noise hangs on it."""
    assert trace_name("folder/\udcc3\udca9.csv.gz") == trace_name("folder/é.csv.gz") == "é"
    trace_name("\udcff.csv").encode()


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("rpm", "'rpm' are per minute; expected per second: divide by 60"),
        ("requests_per_minute", "per minute"),
        ("req/min", "per minute"),
        ("Requests per hour", "per hour; expected per second: divide by 3600"),
        ("latency_ms", "in milliseconds; expected seconds: divide by 1000"),
        ("Latency (ms)", "in milliseconds"),
    ],
)
def test_a_value_of_another_unit_is_refused(tmp_path: Path, heading: str, words: str) -> None:
    with pytest.raises(TraceError, match=re.escape(words)):
        read_trace(written(tmp_path, f"time,{heading}\n0,60\n60,120\n"))


@pytest.mark.parametrize("heading", ["items", "shop/web", "farms", "rpm_limit", "rate(x[1m])", "requests/s", "alarms"])
def test_a_heading_that_names_no_unit_is_a_name(tmp_path: Path, heading: str) -> None:
    assert read_trace(written(tmp_path, f"time,{heading}\n0,60\n60,120\n")).rates.tolist() == [60.0, 120.0]


@pytest.mark.parametrize("value", ['"1,234.5"', "12 req/s", "1.2 K"])
def test_how_a_number_is_written_is_said(tmp_path: Path, value: str) -> None:
    with pytest.raises(TraceError, match="without a unit, its decimals after a point"):
        read_trace(written(tmp_path, f"time,rate\n0,1\n60,{value}\n"))


def test_an_hour_that_a_clock_tells_twice_is_explained(tmp_path: Path) -> None:
    rows = "time,rate\n2026-10-25T01:00:00,1\n2026-10-25T02:00:00,2\n2026-10-25T02:00:00,3\n"
    with pytest.raises(TraceError, match=r"occurs twice; .*export times in UTC"):
        read_trace(written(tmp_path, rows))
    with pytest.raises(TraceError, match=r"occurs twice; expected rising times$"):
        read_trace(written(tmp_path, rows.replace(":00,", ":00Z,")))
