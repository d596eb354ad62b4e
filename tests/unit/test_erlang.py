"""The M/M/c formulas against their exact recursion."""

import math

import numpy as np
import pytest

from rlscaler.erlang import late_share, normal_tail, replicas_needed, wait_probability


def exact_erlang_c(servers: int, offered: float) -> float:
    """Return Erlang C by the recursion over servers, on the inverse of Erlang B."""
    inverse = 1.0
    for k in range(1, servers + 1):
        inverse = 1.0 + inverse * k / offered
    rho = offered / servers
    return 1.0 / (rho + (1.0 - rho) * inverse)


@pytest.mark.parametrize("servers", [1, 2, 3, 5, 10, 30, 100, 1000, 10_000])
def test_the_wait_probability_equals_the_recursion(servers: int) -> None:
    worst = 0.0
    for rho in (0.001, 0.05, 0.3, 0.6, 0.8, 0.9, 0.95, 0.979, 0.981, 0.99, 0.999, 0.99999):
        exact = exact_erlang_c(servers, servers * rho)
        found = wait_probability(np, np.array([float(servers)]), np.array([servers * rho]))[0]
        worst = max(worst, abs(found / exact - 1.0) if exact > 1e-200 else abs(found))
    assert worst < (0.003 if servers < 10 else 1e-4)


def test_the_wait_probability_at_its_ends() -> None:
    servers, offered = np.array([4.0, 4.0, 4.0, 4.0]), np.array([0.0, 4.0, 5.0, 1e-12])
    np.testing.assert_allclose(wait_probability(np, servers, offered), [0, 1, 1, 0], atol=1e-30)
    assert late_share(np, np.array([3.0]), np.array([3.5]), np.array([9.0]))[0] == 1.0


def test_the_normal_tail_equals_the_error_function() -> None:
    z = np.linspace(-7, 7, 301)
    exact = np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in z])
    np.testing.assert_allclose(normal_tail(np, z), exact, atol=1e-7)


@pytest.mark.parametrize("demand", [0.0, 0.01, 0.5, 1.0, 1.5, 5.0, 24.0, 24.99, 300.0, 9_990.0])
@pytest.mark.parametrize(
    ("concurrency", "times", "late"), [(1, 4.0, 1e-3), (8, 0.01, 1e-3), (1, 0.0, 1e-6), (3, 1.0, 0.2)]
)
def test_replicas_needed_are_the_fewest(demand: float, concurrency: int, times: float, late: float) -> None:
    parts = [np.array([x]) for x in (demand, float(concurrency), times, late)]
    found = int(replicas_needed(np, *parts)[0])

    def share(replicas: int) -> float:
        servers = replicas * concurrency
        if replicas <= demand:
            return 1.0 if demand > 0 else 0.0
        return exact_erlang_c(servers, demand * concurrency) * math.exp(-(servers - demand * concurrency) * times)

    assert share(found) <= late * 1.003, "too few"
    assert found == 0 or share(found - 1) > late * 0.997, "one fewer would do"
