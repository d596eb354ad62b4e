"""Queries to a Prometheus: what the operator decides by, and what backtests and calibration read.

`Source` wraps prometheus-api-client: a total deadline for each call, one error type, values that are not finite as
NaN, and nothing silently dropped (incomplete answers are refused unless they are wanted). Queries are whole PromQL;
the client's `label_config` is not used, since it does not escape.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, NamedTuple, TypeVar

import numpy as np
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from requests.exceptions import RequestException
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from rlscaler import prometheus_answer as answers
from rlscaler.prometheus_answer import Grid, Row, Series
from rlscaler.prometheus_config import SourceConfig
from rlscaler.prometheus_credentials import UnreadableError
from rlscaler.prometheus_faults import Faults, Reason, SourceError
from rlscaler.prometheus_session import AnswerTooLargeError, DeadlineSession

__all__ = ["MOST_POINTS", "Reason", "Series", "SeriesList", "SeriesRange", "Source", "SourceConfig", "SourceError"]

MOST_POINTS = 11_000
"""Points of a series that Prometheus returns in one answer."""

_NO_VECTOR = {
    "matrix": "finds a query that returns a range of values ([5m]); put rate(), avg_over_time() or the like around it",
    "string": "finds a query that returns text; expected one that returns numbers",
}
_UNKNOWN = "answers JSON that is no query result; does url lead to a Prometheus?"
T = TypeVar("T")


class SeriesList(list[Series]):
    """The series of a query. notes: what the server remarked on the query ("PromQL warning: ...")."""

    def __init__(self, series: Sequence[Series] = (), notes: tuple[str, ...] = ()) -> None:
        """Take the series and the notes."""
        super().__init__(series)
        self.notes = notes


class SeriesRange(NamedTuple):
    """S series at T times. times: (T,) float64, seconds by the server. values: (S, T) float64, NaN = missing."""

    labels: tuple[Mapping[str, str], ...]
    times: np.ndarray
    values: np.ndarray


class _Result(NamedTuple):
    """What a query returned. kind: vector, matrix, scalar or string."""

    kind: str
    value: Any
    notes: tuple[str, ...]


class Source:
    """One Prometheus. Threads may share it: each call has a connection and a deadline of its own."""

    def __init__(
        self,
        config: SourceConfig,
        monotonic: Callable[[], float] = time.monotonic,
        pool_size: int = 8,
        memory: int | None = None,
    ) -> None:
        """Take the configuration; nothing is opened yet.

        pool_size: connections that are kept. memory: bytes that reading one answer may take, about, while others wait
        with theirs; None: as many as all of them take.
        """
        self.config = config
        self._monotonic = monotonic
        self._session = DeadlineSession(config, monotonic, pool_size, memory)
        self._client = PrometheusConnect(config.url, session=self._session, retry=Retry(total=0))
        self._faults = Faults(config, self._session.credentials.described)

    def instant(self, query: str, *, deadline: float | None = None) -> SeriesList:
        """Return the series of a query now: none where it finds nothing, one without labels for a scalar.

        deadline: seconds for the whole call; None: the configuration's time-out. Raises SourceError.
        """
        seconds = self.config.timeout if deadline is None else deadline
        with self._session.within(seconds):
            result = self._ask(seconds, lambda params: self._client.custom_query(query, params))
            if result.kind in _NO_VECTOR:
                raise self._faults.error("BadQuery", _NO_VECTOR[result.kind])
            if result.kind not in ("vector", "scalar"):
                raise self._faults.error("BadAnswer", _UNKNOWN)
            value = [{"metric": {}, "value": result.value}] if result.kind == "scalar" else result.value
            return SeriesList(self._read(lambda: answers.vector(value)), result.notes)

    def range(self, query: str, start: float, end: float, step: float, *, deadline: float | None = None) -> SeriesRange:
        """Return the series of a query at start, start + step, ... up to end, in several requests where it is long.

        start, end: seconds since the epoch; step: seconds; all to the millisecond, as Prometheus counts.
        deadline: seconds for all of it. Raises SourceError; ValueError where these make no grid.
        """
        if not (math.isfinite(start) and math.isfinite(end) and start <= end and 0.001 <= step < math.inf):
            raise ValueError(f"no grid from {start} to {end} by {step}; expected start <= end and a step of 1 ms")
        first, every = round(start * 1000.0), round(step * 1000.0)
        count = (round(end * 1000.0) - first) // every + 1
        until = self._monotonic() + (self.config.timeout if deadline is None else deadline)
        labels: dict[frozenset[tuple[str, str]], Mapping[str, str]] = {}
        parts: list[tuple[int, list[Row]]] = []
        for begin in range(0, count, MOST_POINTS):
            grid = Grid(first + every * begin, every, min(MOST_POINTS, count - begin))
            rows = self._part(query, grid, until - self._monotonic())
            parts.append((begin, rows))
            for row in rows:
                labels.setdefault(frozenset(row.labels.items()), row.labels)
            if len(labels) > self.config.max_series or 8 * len(labels) * count > 8 * self.config.max_bytes:
                raise self._faults.error(
                    "TooLarge", f"has {len(labels)} series for {count} times; ask for a shorter time, or fewer series"
                )
        index = {key: i for i, key in enumerate(labels)}
        values = np.full((len(labels), count), np.nan)
        for begin, rows in parts:
            for row in rows:
                values[index[frozenset(row.labels.items())], begin + row.places] = row.values
        return SeriesRange(tuple(labels.values()), (first + every * np.arange(count)) / 1000.0, values)

    def server_time(self) -> float:
        """Return the server's own clock, seconds since the epoch. Raises SourceError."""
        found = self.instant("time()")
        if len(found) != 1 or math.isnan(found[0].value):
            raise self._faults.error("BadAnswer", "does not tell its time; does url lead to a Prometheus?")
        return found[0].value

    def close(self) -> None:
        """Give back the connections."""
        self._session.close()

    def _part(self, query: str, grid: Grid, seconds: float) -> list[Row]:
        """Return the series on one grid."""
        start, end = grid.first / 1000.0, (grid.first + grid.every * (grid.points - 1)) / 1000.0
        step = f"{grid.every / 1000.0:.3f}"
        exact = {"start": f"{start:.3f}", "end": f"{end:.3f}"}  # the client rounds what it is given to seconds
        times = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)
        with self._session.within(seconds):
            result = self._ask(
                seconds, lambda params: self._client.custom_query_range(query, *times, step, {**params, **exact})
            )
            if result.kind != "matrix":
                raise self._faults.error("BadAnswer", _UNKNOWN)
            return self._read(lambda: answers.matrix(result.value, grid))

    def _ask(self, seconds: float, call: Callable[[dict[str, str]], Any]) -> _Result:
        """Return what a call of the client brings, within the session's seconds; raises SourceError."""
        if seconds <= 0.0:
            raise self._faults.late(seconds)
        session, config = self._session, self.config
        # The server gives up when nobody waits any more, and leaves out what is refused here anyway.
        params = {"timeout": f"{seconds:.3f}", "limit": str(config.max_series + 1)}
        value: Any = None
        try:
            value = call(params)
        except (PrometheusApiClientException, KeyError, TypeError):
            pass  # the answer itself says more
        except UnreadableError as error:
            raise SourceError("Unauthorized", f"source {config.name}: {error}") from None
        except AnswerTooLargeError as error:
            raise self._faults.error("TooLarge", f"sends {error}; make the query return fewer series") from None
        except UnicodeEncodeError:
            raise self._faults.error("BadQuery", "cannot be asked: the query holds half a character") from None
        except (OSError, HTTPError, RequestException, HTTPException, UnicodeError) as error:
            raise self._faults.unsent(error, seconds) from None
        answer, keys = session.answer, session.keys
        if answer is None:
            raise self._faults.error("BadAnswer", "gave no answer; does url lead to a Prometheus?")
        payload = answer.payload
        data = payload.get("data") if isinstance(payload, dict) else None
        if answer.status_code != 200 or not isinstance(data, dict) or payload.get("status") != "success":
            if answer.status_code == 401:
                session.credentials.forget()
            raise self._faults.answered(answer.status_code, answer.headers, answer.content, payload, keys)
        if isinstance(value, list) and len(value) > config.max_series:
            raise self._faults.error(
                "TooLarge", f"finds more than {config.max_series} series; sum them up in the query, or raise maxSeries"
            )
        remarks = [*_texts(payload.get("warnings")), *_texts(payload.get("infos"))]
        notes = [self._faults.said(remark, keys) for remark in remarks[:10]]
        lost = [note for remark, note in zip(remarks, notes, strict=False) if not remark.startswith("PromQL ")]
        if (lost or payload.get("isPartial") is True) and not config.accept_partial:
            why = lost[0] if lost else "isPartial"
            raise self._faults.error(
                "BadAnswer", f"calls its answer incomplete ({why}); set acceptPartial: true if that is good enough"
            )
        return _Result(str(data.get("resultType")), value, tuple(notes))

    def _read(self, read: Callable[[], T]) -> T:
        """Return what is read of a result; raises SourceError."""
        try:
            return read()
        except answers.HistogramsError:
            rest = "finds a query that returns native histograms; put histogram_quantile() or the like around it"
            raise self._faults.error("BadQuery", rest) from None
        except answers.OffGridError:
            rest = "answers for other times than were asked for; VictoriaMetrics needs queryParameters {nocache: '1'}"
            raise self._faults.error("BadAnswer", rest) from None
        except answers.MalformedError:
            raise self._faults.error("BadAnswer", _UNKNOWN) from None


def _texts(remarks: Any) -> list[str]:
    return [str(remark) for remark in remarks] if isinstance(remarks, list) else []
