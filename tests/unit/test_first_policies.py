"""Policies in ConfigMaps are there before what is kept of their workloads is read, though the API server is busy."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rlscaler_operator import running
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.running import Operator

BUSY = ClusterError("Throttled", "cannot list ConfigMaps: too many requests")
FORBIDDEN = ClusterError("Forbidden", "cannot list ConfigMaps: forbidden")


class Beginning(Operator):
    """The part of an operator that finds policies. fails: errors of the first requests. offered: to the store."""

    def __init__(self, fails: list[ClusterError]) -> None:
        self.asked, self.offered, self.time = 0, list[Any](), 0.0
        self._fails, self._told = fails, ""
        self._options = cast(Any, SimpleNamespace(lease_namespace="rlscaler"))
        self._clock = cast(Any, SimpleNamespace(monotonic=self._now))
        self.cluster = cast(Any, SimpleNamespace(list_config_maps=self._list))
        self.store = cast(Any, SimpleNamespace(offer=self.offered.append))

    def _now(self) -> float:
        self.time += 1.0
        return self.time

    def _list(self, *_: object) -> list[str]:
        self.asked += 1
        if self._fails:
            raise self._fails.pop(0)
        return ["mine"]


@pytest.mark.parametrize(
    ("fails", "asked", "offered"),
    [([], 1, [["mine"]]), ([BUSY] * 3, 4, [["mine"]]), ([FORBIDDEN], 1, []), ([BUSY] * 999, 30, [])],
    ids=["at once", "after a while", "not allowed", "never"],
)
def test_a_busy_api_server_is_asked_again(
    fails: list[ClusterError], asked: int, offered: list[Any], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(running, "READ_AGAIN", 0.0)
    one = Beginning(list(fails))
    asyncio.run(asyncio.wait_for(one._find_policies(), 30.0))
    assert one.asked == asked
    assert one.offered == offered
    assert len(caplog.messages) == bool(fails), "the same is told once"
