"""A source that is asked by a test, and what it says of a fault."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rlscaler.prometheus import Source, SourceConfig, SourceError

ONE = {"metric": {"a": "b"}, "value": [1.5, "2"]}
"""A series of an instant answer."""
GONE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
"""The head of an answer of which more is told than comes."""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def asking(url: str, **config: Any) -> Iterator[Source]:
    """Ask a source. config: of `SourceConfig`, and memory as of `Source`."""
    memory = config.pop("memory", None)
    source = Source(SourceConfig(name="shop", url=url, **config), memory=memory)
    try:
        yield source
    finally:
        source.close()


def fault(source: Source, query: str = "up", **options: Any) -> SourceError:
    """Return the error of a query, whose text names the source and is one line of bounded length."""
    with pytest.raises(SourceError) as caught:
        source.instant(query, **options)
    error = caught.value
    assert str(error) == error.message
    assert error.message.startswith("source shop")
    assert "\n" not in error.message
    assert len(error.message) < 600
    assert error.__context__ is None or error.__suppress_context__, "a traceback would show the client's own words"
    return error
