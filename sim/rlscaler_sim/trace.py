"""Recorded load: reads a CSV of times and values into equal buckets of events per second.

People bring what their monitoring exports, so columns, time formats and gaps are recognised; whatever cannot
be read without guessing is refused with the line that is at fault. A missing bucket is unknown, never zero.
"""

import csv
import gzip
import io
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rlscaler.snapshot import LARGEST

LARGEST_FILE = 256 * 2**20
"""Bytes of text that are read at most, unpacked: a larger file (or a gzip bomb) is refused."""
LARGEST_TRACE = 2**24
"""Buckets of a trace at most (8 years of 15 s): more means that a time is wrong."""
QUIET = 3600.0
"""Seconds of quiet before the first load that are of interest."""
TRACES_VARIABLE = "RLSCALER_TRACES"
"""Environment variable that names the folder of recorded traces."""

_TIME_NAMES = ("t", "timestamp", "time", "ts", "date", "datetime", "period", "start")
_RATE_NAMES = ("rate", "value", "rps", "qps", "requests_per_second", "load", "throughput", "y")
_COUNT_NAMES = ("count", "counts", "requests", "events", "hits", "invocations", "calls", "arrivals")
_OTHER_UNITS = (
    (re.compile(r"(\brpm|(/|\bper)[ _-]?min(ute)?s?)$"), "per minute", "per second: divide by 60"),
    (re.compile(r"(/|\bper)[ _-]?(hr|hour)s?$"), "per hour", "per second: divide by 3600"),
    (re.compile(r"[ _(]ms\)?$"), "in milliseconds", "seconds: divide by 1000"),
)
"""Ends of a value's heading that name a unit, which unit that is, and what is expected."""
_UNKNOWN = frozenset(("", "nan", "null", "none", "na", "n/a"))
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?', re.IGNORECASE)  # what Grafana writes above a CSV that Excel shall open
_ON_GRID = 0.01  # share of a step by which a time may miss its bucket and still count as regular sampling

_FAMILIES = {
    "nasa_http": "nasa",
    "worldcup98": "worldcup98",
    "twitter_stream": "twitter",
    "azure_llm": "azure_llm",
    "servegen": "servegen",
    "nab_elb": "nab_elb",
    "nab_tweets": "nab_tweets",
    "nab_nyc_taxi": "nab_taxi",
    "ms_mongo": "ms_mongo",
    "ms_ingress": "ms_ingress",
    "ms_purchases": "ms_purchases",
    "surf_jobs": "surf",
    "ipsc_jobs": "ipsc",
    "alibaba_gpu": "alibaba_gpu",
    "bank_calls": "bank",
    "imageboard": "imageboard",
    "proxy_alibaba2018": "proxy_alibaba2018",
    "proxy_azure_v2": "proxy_azure_v2",
    "proxy_bitbrains": "proxy_bitbrains",
    "proxy_nab_rds": "proxy_nab_rds",
}


class TraceError(ValueError):
    """A trace cannot be read; the message names the file, the line, the value and what is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Recorded load in equal buckets.

    name: what tables call it. start: time of the first bucket in seconds (since 1970 where the source says
    so, else on its own clock). step: seconds of a bucket. rates: (T,) float64 events/s averaged over the
    bucket, NaN = a gap. warnings: what was changed in reading, one sentence each.

    Raises TraceError where the step is not positive or a rate is negative or above any load there is.
    """

    name: str
    start: float
    step: float
    rates: np.ndarray
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no trace."""
        rates = np.asarray(self.rates, dtype=np.float64)
        if rates.ndim != 1 or rates.size == 0:
            raise TraceError(f"trace {self.name}: rates have shape {rates.shape}; expected one row of buckets")
        if not (np.isfinite(self.step) and self.step > 0.0):
            raise TraceError(f"trace {self.name}: step is {self.step:g}; expected seconds above 0")
        if (rates > LARGEST).any() or (rates < 0.0).any():
            raise TraceError(f"trace {self.name}: a rate is negative or above {LARGEST:g}; expected 0 or more, or NaN")
        object.__setattr__(self, "rates", rates)

    @property
    def duration(self) -> float:
        """Return the length in seconds."""
        return self.step * self.rates.size


def events_per_bucket(trace: Trace) -> float:
    """Return the mean number of events in a known bucket (NaN where nothing is known).

    Below 1 a trace says more about the bucket than about the load.
    """
    known = trace.rates[~np.isnan(trace.rates)]
    return float(known.mean() * trace.step) if known.size else float("nan")


def since_first_load(trace: Trace) -> Trace:
    """Return the trace from `QUIET` seconds before its first load on: what is recorded of a service that did not exist.

    A shorter quiet at the beginning, and a trace without any load, stay as they are.
    """
    loaded = np.flatnonzero(trace.rates > 0.0)
    skipped = int(loaded[0] - QUIET // trace.step) if loaded.size else 0
    if skipped <= 0:
        return trace
    return replace(trace, start=trace.start + skipped * trace.step, rates=trace.rates[skipped:])


def family(name: str) -> str:
    """Return the source family of a trace: traces of one family may not be split over train and test.

    A finer or later view of the same source is the same family; an unknown name is its own family, without
    the bucket length at its end (`shop_60s` and `shop_10s` are both `shop`).
    """
    for prefix, known in _FAMILIES.items():
        if name.startswith(prefix):
            return known
    return re.sub(r"_\d+s$", "", name)


def trace_name(path: str | Path) -> str:
    """Return the name of the trace in a file: the file's name without .csv and .gz, text in any locale."""
    # a locale that is not UTF-8 leaves surrogates in the names of files, which no text may hold
    name = os.fsencode(Path(path).name).decode("utf-8", "replace")
    return name.removesuffix(".gz").removesuffix(".csv")


def trace_files(folder: str | Path) -> list[Path]:
    """Return the trace files (.csv, .csv.gz) of a folder in order of their names.

    Raises TraceError where there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TraceError(f"{folder}: no such folder; name a folder that holds .csv or .csv.gz traces")
    return sorted(p for p in folder.iterdir() if p.name.endswith((".csv", ".csv.gz")) and p.is_file())


def traces_folder() -> Path | None:
    """Return the folder of recorded traces, or None where there is none.

    It is the one that the environment variable RLSCALER_TRACES names, else shared/traces beside the checkout.
    Raises TraceError where the variable names no folder.
    """
    if named := os.environ.get(TRACES_VARIABLE):
        if not Path(named).is_dir():
            raise TraceError(f"{TRACES_VARIABLE} is {named!r}; expected an existing folder of traces")
        return Path(named)
    beside = Path(__file__).resolve().parents[3] / "shared" / "traces"
    return beside if beside.is_dir() else None


def read_trace(path: str | Path) -> Trace:
    """Read a CSV, plain or gzip (told by its content), of times and values into a Trace.

    Time: seconds, milliseconds (named *_ms, or beyond the year 5000 when read as seconds) or ISO 8601 (UTC
    where no zone is given). Value: a rate per second, or a count per bucket under a name such as count or
    requests, which is divided by the bucket's length. Two columns need no header, and a line such as sep=; above names
    what separates them. Empty values and missing buckets are gaps. The step is the median difference of the times;
    other times are averaged onto it, with a warning in the Trace.

    Raises TraceError with the file, the line and the value at fault.
    """
    path = Path(path)
    try:
        return _bucketed(path, *_columns(path, _text(path)))
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is not UTF-8 text; expected a CSV file, plain or gzip") from None


def _text(path: Path) -> io.TextIOWrapper:
    """Return the unpacked text of a file, at most LARGEST_FILE bytes of it."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(LARGEST_FILE + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: damaged gzip data ({error}); fetch or pack the file again") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); name a .csv or .csv.gz file") from None
    if len(data) > LARGEST_FILE:
        limit = LARGEST_FILE // 2**20
        raise TraceError(f"{path}: holds over {limit} MiB of text; expected less, so use coarser buckets")
    if not data.strip():
        raise TraceError(f"{path}: is empty; expected rows of a time and a value")
    if path.name.endswith(".gz") and not packed:
        raise TraceError(f"{path}: is named .gz but holds no gzip data; rename it or pack it with gzip")
    if b"\0" in data:
        raise TraceError(f"{path}: is binary; expected a CSV file, plain or gzip")
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")


def _rows(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every row that is neither blank, a # comment nor the name of the separator."""
    first = next((line for line in iter(text.readline, "") if line.strip() and line.lstrip()[0] != "#"), "")
    text.seek(0)
    named = _SEPARATOR.fullmatch(first.strip("\r\n"))
    reader = csv.reader(text, delimiter=named[1] if named else max(",;\t", key=first.count))
    rows = (row for row in reader if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#"))
    try:
        if named:
            next(rows)
        for row in rows:
            yield reader.line_num, row
    except csv.Error as error:
        raise TraceError(
            f"{path}, line {reader.line_num}: is no CSV row ({error}); expected a time and a value"
        ) from None


def _columns(path: Path, text: io.TextIOWrapper) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return times in seconds and values (NaN = gap), (rows,) float64, and whether values are counts."""
    rows = _rows(path, text)
    first = next(rows, None)
    if first is None:
        raise TraceError(f"{path}: has no data; expected rows of a time and a value")
    line, cells = first
    if len(cells) < 2:
        raise TraceError(f"{path}, line {line}: found {cells[0]!r}; expected two columns, a time and a value")
    headless = len(cells) == 2 and _seconds(cells[0]) is not None and _value(cells[1]) is not None
    at, of, counts, milli = (0, 1, False, None) if headless else _header(path, line, cells)

    times, values = array("d"), array("d")
    parse: Callable[[str], float | None] = _seconds
    pending = first if headless else next(rows, None)
    while pending is not None:
        line, cells = pending
        if len(cells) <= max(at, of):
            raise TraceError(f"{path}, line {line}: has {len(cells)} column(s); expected {max(at, of) + 1} or more")
        if not times and _number(cells[at]) is not None:
            parse = _unit(milli, cells[at])
        time, value = parse(cells[at]), _value(cells[of])
        if time is None:
            raise TraceError(
                f"{path}, line {line}: time {cells[at]!r} is unlike the rows before it or no time at all; "
                "expected seconds, milliseconds or an ISO 8601 date, the same in every row"
            )
        if value is None or value < 0.0 or value > LARGEST:
            raise TraceError(
                f"{path}, line {line}: value {cells[of]!r} is not usable; "
                f"expected a number from 0 to {LARGEST:g} without a unit, its decimals after a point and nothing "
                "between its thousands, or nothing for a gap"
            )
        if times and time <= times[-1]:
            fault = "occurs twice" if time == times[-1] else "is before that of the row above"
            zone = (
                " (a clock that is put back tells an hour twice: export times in UTC)" if _zoneless(cells[at]) else ""
            )
            raise TraceError(f"{path}, line {line}: time {cells[at]!r} {fault}; expected rising times{zone}")
        times.append(time)
        values.append(value)
        pending = next(rows, None)
    return np.array(times), np.array(values), counts


def _header(path: Path, line: int, cells: Sequence[str]) -> tuple[int, int, bool, bool | None]:
    """Return the columns of time and value, whether values are counts, and times milliseconds."""
    names = [re.sub(r"[\s\-/]+", "_", cell.strip().lower()) for cell in cells]
    plain = [name.removesuffix("_s").removesuffix("_ms") for name in names]
    at = next((plain.index(name) for name in _TIME_NAMES if name in plain), None)
    of = next((names.index(name) for name in _RATE_NAMES + _COUNT_NAMES if name in names), None)
    if at is not None and of is None and len(names) == 2:
        of = 1 - at  # monitoring systems head the value with the name of the series
    if at is None or of is None or at == of:
        missing = "time" if at is None else "value"
        known = _TIME_NAMES[1:5] if at is None else ("rate", "value", "count", "requests")
        raise TraceError(
            f"{path}, line {line}: no {missing} column among {', '.join(repr(c.strip()) for c in cells)}; "
            f"expected one named {', '.join(known)}, or two columns of numbers without a header"
        )
    heading = cells[of].strip().lower()
    for ending, unit, expected in _OTHER_UNITS:
        if ending.search(heading.replace("_", " ")):
            raise TraceError(
                f"{path}, line {line}: the values of {cells[of].strip()!r} are {unit}; expected {expected}, and call "
                "the column value"
            )
    return at, of, names[of] in _COUNT_NAMES, True if names[at].endswith("_ms") else None


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _value(text: str) -> float | None:
    """Return the number, NaN for a gap, None for what is neither."""
    return float("nan") if text.strip().lower() in _UNKNOWN else _number(text)


def _seconds(text: str) -> float | None:
    """Return a time in seconds: a finite number as it is, ISO 8601 since 1970; None for what is neither."""
    number = _number(text)
    if number is not None:
        return number if np.isfinite(number) else None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _zoneless(text: str) -> bool:
    """Tell whether a time that can be read is one of a clock on a wall, whose zone is not said."""
    return _number(text) is None and datetime.fromisoformat(text.strip()).tzinfo is None


def _unit(milli: bool | None, first: str) -> Callable[[str], float | None]:
    """Return the parser of numeric times, in the unit that the header or the first of them shows."""
    value = abs(_number(first) or 0.0)
    scale = 1e-3 if milli else 1.0
    while milli is None and 1e11 < value * scale < float("inf"):  # later than the year 5000
        scale *= 1e-3

    def parse(text: str) -> float | None:
        number = _number(text)
        return number * scale if number is not None and np.isfinite(number) else None

    return parse


def _bucketed(path: Path, times: np.ndarray, values: np.ndarray, counts: bool) -> Trace:
    """Return the trace of irregular or regular rows, on buckets of the median step."""
    if times.size == 0:
        raise TraceError(f"{path}: has no data; expected rows of a time and a value")
    if np.isnan(values).all():
        raise TraceError(f"{path}: has no value in any row; expected one at least that is not a gap")
    if times.size == 1:
        raise TraceError(f"{path}: has one row only; expected two or more, so that the step is known")
    steps = np.diff(times)
    step = float(np.sort(steps)[(steps.size - 1) // 2])  # the lower median, for it is a step that occurs
    place = (times - times[0]) / step
    if place[-1] >= LARGEST_TRACE:
        raise TraceError(
            f"{path}: {times.size} rows span {place[-1]:.3g} buckets of {step:g} s; expected at most "
            f"{LARGEST_TRACE}, so look for a wrong time in the first or the last row"
        )
    bucket = np.rint(place).astype(np.int64)
    off_grid = np.abs(place - bucket) > _ON_GRID
    name, start = trace_name(path), float(times[0])
    if off_grid.any() or (np.diff(bucket) < 1).any():
        rates = _resampled(times, values, counts, step)
        odd = int(np.count_nonzero(np.abs(steps - step * np.rint(steps / step)) > _ON_GRID * step))
        note = f"{odd} of {steps.size} steps are no multiple of {step:g} s; averaged onto buckets of {step:g} s"
        return Trace(name, start, step, rates, (note,))
    rates = np.full(int(bucket[-1]) + 1, np.nan)
    rates[bucket] = values / step if counts else values
    return Trace(name, start, step, rates)


def _resampled(times: np.ndarray, values: np.ndarray, counts: bool, step: float) -> np.ndarray:
    """Average rows of any spacing onto buckets of `step` seconds, keeping the integral.

    A row holds until the next one, but for at most 1.5 steps: a longer silence is one step of data and a gap.
    A bucket of which less than half is covered is a gap.
    """
    spacing = np.append(np.diff(times), step)
    held = np.where(spacing <= 1.5 * step, spacing, step)
    rates = values / held if counts else values
    held = np.where(np.isnan(values), 0.0, held)
    rates = np.where(np.isnan(values), 0.0, rates)
    knots = np.column_stack((times, times + held)).ravel() - times[0]
    total = round((times[-1] - times[0]) / step) + 1
    edges = np.arange(total + 1) * step
    covered, events = (
        np.diff(np.interp(edges, knots, np.repeat(np.append(0.0, np.cumsum(part)), 2)[1:-1]))
        for part in (held, rates * held)
    )
    return np.where(covered >= 0.5 * step, events / np.maximum(covered, 0.5 * step), np.nan)
