"""Options of the whole suite, and what is done before the first test."""

import pytest

CONTROL_PLANE = ("kubernetes", "kwok")
"""Families of test programs that fixture `control_plane` starts."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cluster",
        choices=("local", "kind", "current"),
        default="local",
        help="where tests that need a Kubernetes cluster find one: a real control plane without nodes, started here "
        "(default); a cluster that kind makes, and deletes again; or the one of the current kubeconfig context, in "
        "which the tests install the CRD and make namespaces of their own",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "components(*families): real programs of tests/components that a test needs; built before the tests"
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests need now: this takes minutes once, and a test's time-out must not count it."""
    families: set[str] = set()
    for item in session.items:
        for marker in item.iter_markers("components"):
            families.update(marker.args)
        if "control_plane" in getattr(item, "fixturenames", ()):
            families.update(CONTROL_PLANE)
    if families and not session.config.option.collectonly:
        from programs import folder  # on the path only after pytest has read its settings

        for family in sorted(families):
            folder(family)
