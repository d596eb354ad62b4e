"""What tests of several files are given."""

import pytest

from dry_run_example import day
from rlscaler_sim.result import DryRun


@pytest.fixture(scope="module")
def run() -> DryRun:
    """Return a made-up day: growth-quantile is under test and wins."""
    return day()
