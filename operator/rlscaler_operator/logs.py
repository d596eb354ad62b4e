"""Log lines: one for each change, none for each tick, as text for people or JSON for machines.

A line is a sentence and its context (`extra={"context": {...}}`): workload, target, from, to, reason. Secrets are
struck out of every part of it. A traceback is shown for a defect of the program only; what is expected to go wrong
(the API server, a source, a user's mistake) is a sentence.
"""

import contextlib
import json
import logging
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import IO, Any, Final, Literal

from rlscaler.errors import UserError
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.redaction import STRUCK, is_telling, redacted

Form = Literal["text", "json"]
FORMS: Final[tuple[Form, ...]] = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

EXPECTED: Final = (UserError, ClusterError, OSError, TimeoutError)
"""What goes wrong in a healthy program: told in a sentence, without a traceback."""
QUIET: Final = ("kopf", "urllib3", "requests", "aiohttp", "kubernetes", "asyncio", "charset_normalizer", "py.warnings")
"""Loggers of others, from which only warnings are wanted."""

log = logging.getLogger("rlscaler.operator")


def configure(form: Form, level: str, stream: IO[str] | None = None) -> logging.Handler:
    """Send every log line of this process to `stream` (the standard error), and return what sends them.

    level: of our own loggers, one of LEVELS; those of others tell of warnings, and of all at debug.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    own = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("rlscaler").setLevel(own)
    for name in QUIET:
        logging.getLogger(name).setLevel(own if own == logging.DEBUG else max(own, logging.WARNING))
    logging.captureWarnings(True)
    return handler


MOST_WAITING: Final = 10_000
"""Lines that wait to be written; further ones are left out, and counted."""


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Write this process' log lines in a thread of their own until the end, with the handlers that are there now.

    The event loop then waits for nobody who reads them, nor for other threads after each line.
    """
    root = logging.getLogger()
    handlers = list(root.handlers)
    waiting = _Waiting()
    listener = QueueListener(waiting.records, *handlers, respect_handler_level=True)
    root.handlers = [waiting]
    listener.start()
    try:
        yield
    finally:
        root.handlers = handlers
        listener.stop()
        if waiting.lost:
            log.warning("%d log lines were left out, since they were not taken as fast as they came", waiting.lost)


class _Waiting(QueueHandler):
    """Hands records on as they are; the other thread makes lines of them."""

    def __init__(self) -> None:
        self.records: SimpleQueue[Any] = SimpleQueue()
        self.lost = 0
        super().__init__(self.records)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.records.qsize() < MOST_WAITING:
            self.records.put(record)
        else:
            self.lost += 1


class _Lines(logging.Formatter):
    """What both forms share: the parts of a record, with all secrets struck out."""

    def parts(self, record: logging.LogRecord) -> tuple[str, str, dict[str, Any], str]:
        """Return time, message, context and traceback ("" where there is none) of a record."""
        at = datetime.fromtimestamp(record.created, UTC)
        time = at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
        message = record.getMessage()
        context, trace = dict(getattr(record, "context", None) or {}), ""
        if record.exc_info and (error := record.exc_info[1]) is not None:
            if isinstance(error, EXPECTED):
                context["error"] = " ".join(str(error).split()) or type(error).__name__
            else:
                context["error"] = f"{type(error).__name__}: {error}"
                trace = redacted("".join(traceback.format_exception(error)))
        return time, redacted(message), {name: _clean(name, value) for name, value in context.items()}, trace


class TextLines(_Lines):
    """Time, level, sentence, then key=value; what is not printable within them is shown as \\n or \\x1b."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback of a defect below it."""
        time, message, context, trace = self.parts(record)
        pairs = [f"{_one_line(name)}={_word(value)}" for name, value in context.items()]
        name = [] if record.name.partition(".")[0] == "rlscaler" else [f"logger={record.name}"]
        line = " ".join([f"{time} {record.levelname:<7} {_one_line(message)}", *pairs, *name])
        return "\n".join([line, *map(_one_line, trace.rstrip().split("\n"))] if trace else [line])


class JsonLines(_Lines):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time, message, context, trace = self.parts(record)
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": message}
        line |= {name: value for name, value in context.items() if name not in line}
        if trace:
            line["traceback"] = trace
        text = json.dumps(line, default=str, ensure_ascii=False)
        # JSON lets stand what a terminal may take for a command, or for the end of the line.
        return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _clean(name: str, value: Any) -> Any:
    """Return a value of the context as JSON has it, without secrets."""
    if is_telling(name):
        return STRUCK
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return redacted(str(value))


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _word(value: Any) -> str:
    """Return a value as one word, in quotes where it is more than one."""
    text = _one_line(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
    return text if text and not any(c.isspace() or c in '"=' for c in text) else json.dumps(text, ensure_ascii=False)
