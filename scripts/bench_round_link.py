"""A SuperLink on loopback with its executor, for `bench_round`; and the bundle that runs there."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from town import program, run

from federation import durable
from federation.flower_env import ONE_HEAP, flower_environment
from federation.processes import free_port, is_listening

APP = "bench_round_app"
READY_S = 120.0
STOP_S = 20.0
_PROJECT = f"""\
[project]
name = "bench-round"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<1.43"]

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "{APP}:app"
clientapp = "{APP}:node"

[tool.flwr.app.config]
side = "stock"
nodes = 1
report = ""
adapter = ""
home = ""
"""
_CONNECTION = '[superlink]\ndefault = "op"\n[superlink.op]\naddress = "{}"\ninsecure = true\n'


def write_app(folder: Path) -> Path:
    """Write the bench's own Flower App into `folder`; returns it."""
    source = Path(__file__).with_name(f"{APP}.py")
    durable.write_bytes(folder / source.name, source.read_bytes())
    durable.write_text(folder / "pyproject.toml", _PROJECT)
    return folder


def settings_of(values: Mapping[str, str | int | Path]) -> list[str]:
    """Settings of a run, each as TOML `key=value`."""
    return [f"{k}={v}" if isinstance(v, int) else f"{k}='{v}'" for k, v in values.items()]


class Link:
    """A SuperLink without TLS and a superexec, below `folder`; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self._children = ExitStack()

    def __enter__(self) -> Self:
        home = durable.make_folder(self.folder / "flwr")
        durable.write_text(home / "config.toml", _CONNECTION.format(self.address))
        durable.write_text(self.folder / "secret", secrets.token_hex(32))
        secret = ("--superexec-auth-secret-file", str(self.folder / "secret"))
        host, port = self.address.split(":")
        with self._children:
            self._start(
                *("flower-superlink", "--insecure", "--host", host, "--port", port),
                *("--isolation", "process", *secret, "--disable-runtime-dependency-installation"),
            )
            _wait_for(int(port))
            self._start(
                "flower-superexec", "--insecure", "--runtime-api-address", self.address, *secret
            )
            self._children = self._children.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def start_run(self, settings: Mapping[str, str | int | Path]) -> None:
        """Start a run of the bench's app; it goes on by itself."""
        app = write_app(self.folder / "app")
        extra = [part for each in settings_of(settings) for part in ("--run-config", each)]
        run(["flwr", "run", str(app), "op", *extra], self._environment())

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                [str(program(name)), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=self.folder,
            )
        self._children.callback(stop, child)

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        inherited = os.environ | threads | {"PATH": path}
        return flower_environment(inherited, self.folder / "flwr", extra=ONE_HEAP)


def wait_for_report(path: Path, deadline: float) -> str:
    """Text of the report when it is there, "" before.

    Raises:
        TimeoutError: `deadline` (monotonic seconds) has passed.
    """
    if path.exists():
        return path.read_text(encoding="utf-8")
    if time.monotonic() > deadline:
        raise TimeoutError(f"the run wrote no {path.name}; see the logs beside it")
    return ""


def keep_logs(source: Path, target: Path) -> None:
    """Copy the logs of a link that failed, for whoever looks into it."""
    for log in source.glob("*.log"):
        shutil.copyfile(log, durable.make_folder(target) / log.name)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + READY_S
    while not is_listening(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the SuperLink does not listen on port {port}")
        time.sleep(0.2)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child: SIGTERM, and SIGKILL if it does not listen."""
    child.terminate()
    try:
        child.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
