"""What is known of the kinds that the API server serves, and for how long."""

from typing import Any, cast

from rlscaler.resource_objects import TargetRef
from rlscaler_operator.connection import Connection
from rlscaler_operator.discovery import REREAD, Discovery

POOL = TargetRef(api_version="example.com/v1", kind="EncoderPool", name="web")


class Server:
    """Serves the kinds of a CRD. asked: how often."""

    def __init__(self) -> None:
        self.names, self.asked = ["encoderpools"], 0

    def request(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        return {"resources": [{"name": name, "kind": "EncoderPool", "namespaced": True} for name in self.names]}


def test_a_scale_subresource_that_is_added_later_is_found_and_not_asked_for_too_often() -> None:
    now, server = [100.0], Server()
    discovery = Discovery(cast(Connection, server), lambda: now[0])
    assert not discovery.kind(POOL).scalable
    server.names.append("encoderpools/scale")
    now[0] += 0.5 * REREAD
    assert not discovery.kind(POOL).scalable
    assert server.asked == 1
    now[0] += 0.5 * REREAD
    assert discovery.kind(POOL).scalable
    now[0] += 2.0 * REREAD
    assert discovery.kind(POOL).scalable
    assert server.asked == 2
