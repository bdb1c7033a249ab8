"""What holds for every test: a home of its own, fixed seeds, no network beyond this machine."""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.tor_fixtures"]

OFFLINE = {
    "DO_NOT_TRACK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
}
LANGUAGE_VARIABLES = ("LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES")
SEED = 20_260_101


def pytest_configure(config: pytest.Config) -> None:
    """Set what libraries read once, at their import, before any test module is collected."""
    os.environ.update(OFFLINE)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # two small machines' worth of tests run side by side
    # Else each of hundreds of processes would compile all it imports of the rooms once more.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)  # else what the tests have started would live on


def _end(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is no NVIDIA driver."""
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _matplotlib_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep one font cache for the whole run: building it takes seconds, homes change per test."""
    os.environ["MPLCONFIGDIR"] = str(tmp_path_factory.mktemp("matplotlib"))


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point every home into `tmp_path`; drop settings, proxies and the user's language."""
    for name in list(os.environ):
        ours = name.startswith(("CONSCIENCE_", "XDG_")) or name in LANGUAGE_VARIABLES
        if ours or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    homes = {
        "HOME": "home",
        "CONSCIENCE_HOME": "node",
        "CONSCIENCE_SERVER_HOME": "server",
        "FLWR_HOME": "flwr",
        "HF_HOME": "hf",
    }
    for variable, folder in homes.items():
        monkeypatch.setenv(variable, str(tmp_path / "homes" / folder))
    (tmp_path / "homes" / "home").mkdir(parents=True)
    monkeypatch.setenv("PYTHONUTF8", "1")


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a program's `main`, run inside a test, changes for its whole process."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Seed every generator that is loaded; torch and numpy are not imported for this."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to anything but this machine.

    pytest's own failure is not an Exception, so code that retries cannot swallow it.
    """
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            pytest.fail(f"a test tried to connect to {address[0]}: only loopback is allowed")
        return connect(self, address)

    return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
