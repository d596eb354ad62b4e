"""The smallest artifact that is complete, and what its file holds."""

import io
import zipfile
from typing import Any

import numpy as np

from rlscaler.artifact import Artifact, dumps

MANIFEST: dict[str, Any] = {
    "name": "small",
    "kind": "mlp",
    "observation_schema": "1",
    "action_scheme": "step",
    "fields": ["trend"],
    "training_range": {"trend": [-1, 1.5]},
}
WEIGHTS = np.array([[0.5, -2.0], [3.0, 1e-30]], np.float32)
SMALL = Artifact(MANIFEST, {"w": WEIGHTS})
FILE = dumps(SMALL)


def unpacked(data: bytes) -> dict[str, bytes]:
    """Return the entries of a file by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
