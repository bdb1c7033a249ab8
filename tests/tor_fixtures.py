"""The private Tor networks that tests share, and what happens where there is no tor program."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tor_network import INSTALL, PrivateTor, missing_programs

FIXTURES = {"tor_network", "tor_network_8"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a private network; skip it where tor is missing, but never in CI.

    Such a test that fails is run once more, and the summary lists it as RERUN: on a busy machine
    tor itself loses a circuit now and then. What is broken fails twice.
    """
    needing = [item for item in items if _needs_tor(item)]
    for item in needing:
        item.add_marker(pytest.mark.tor)
        item.add_marker(pytest.mark.flaky(reruns=1))
    missing = missing_programs()
    if not missing or os.environ.get("CI") == "true":
        return
    for item in needing:
        item.add_marker(pytest.mark.skip(reason=_reason(missing)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not run for want of tor, wherever it was to run."""
    reason = _reason(missing_programs())
    skipped = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    if count := sum(reason in why for why in skipped):
        terminalreporter.write_line(f"{count} tests NOT RUN: {reason}")


@pytest.fixture(scope="session")
def tor_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateTor]:
    """The network of four nodes; none of them may be killed."""
    with PrivateTor(tmp_path_factory.mktemp("tor")) as network:
        yield network


@pytest.fixture(scope="session")
def tor_network_8(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateTor]:
    """Eight nodes: enough to lose one, which the test that killed it starts again."""
    with PrivateTor(tmp_path_factory.mktemp("tor8"), authorities=8) as network:
        yield network


def _needs_tor(item: pytest.Item) -> bool:
    used = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("tor") is not None or bool(FIXTURES & used)


def _reason(missing: list[str]) -> str:
    return f"needs {' and '.join(missing)} for a private Tor network ({INSTALL})"
