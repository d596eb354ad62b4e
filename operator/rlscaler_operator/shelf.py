"""Where a checkpoint lies: ConfigMaps beside the Lease, which whoever leads next finds by their label."""

from collections.abc import Callable, Sequence

from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.under_way import UnderWay

LABEL = "rlscaler.io/state"
"""Label of the ConfigMaps that hold a checkpoint; its value is the Lease's name."""


class Shelf:
    """The ConfigMaps that hold the checkpoint, one chunk in each."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        valid: Callable[[], bool],
        timeout: float = 4.0,
        writes: UnderWay | None = None,
    ) -> None:
        """Take where they lie. name: the Lease's. valid: whether we lead, asked before each write.

        timeout: seconds for a write, as of `writing.Actuator`: one that came late would lie over the next leader's.
        writes: where those under way are counted.
        """
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._valid, self._timeout, self._writes = valid, timeout, writes or UnderWay()
        self._there: dict[str, int] = {}

    def read(self) -> list[tuple[str, bytes]]:
        """Return name and content of each chunk. Raises ClusterError."""
        found = self._cluster.list_config_maps(self._namespace, f"{LABEL}={self._name}")
        self._there = {each.name: 0 for each in found}
        return [(f"ConfigMap {each.name}", blob) for each in found for blob in each.binary_data.values()]

    def write(self, blobs: Sequence[bytes]) -> None:
        """Put the chunks where those before lay; chunks that are as they were are not written.

        Raises ClusterError: the first refusal of a chunk, such as one that is too large, after all others are put; at
        once where it is no matter of the chunk.
        """
        refused: ClusterError | None = None
        names = [f"{self._name}-state-{number}" for number in range(len(blobs))]
        for name, blob in zip(names, blobs, strict=True):
            if self._there.get(name) != hash(blob):
                try:
                    self._put(name, blob)
                except ClusterError as error:
                    if error.transient:
                        raise
                    refused = refused or error
        if refused is not None:  # a chunk of former ones may be all that there is of what was refused
            raise refused
        for name in sorted(self._there.keys() - set(names)):
            with self._writes:
                if self._valid():
                    self._cluster.delete_config_map(self._namespace, name, self._timeout)
                    del self._there[name]

    def _put(self, name: str, blob: bytes) -> None:
        with self._writes:
            if self._valid():
                labels, data = {LABEL: self._name}, {"state": blob}
                self._cluster.put_config_map(self._namespace, name, labels, data, timeout=self._timeout)
                self._there[name] = hash(blob)
