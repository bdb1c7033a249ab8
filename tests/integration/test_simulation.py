"""One cell of a comparison by `flwr run` on a real SuperLink and Ray, as `docs/compare.md` says."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from federation import durable
from federation.flower_env import flower_environment
from federation.processes import free_port, is_listening
from server.control import program
from strategies.compare.federate import federate
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting

pytestmark = [
    pytest.mark.strategies,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="needs ray: the extra `simulation`"
    ),
]
APP = Path(__file__).resolve().parents[2] / "server" / "simulation"
ONE_PROCESS = "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=1"
LIMIT_S = 240.0


class Simulation:
    """A SuperLink that simulates, and all that it starts; `environment` marks them."""

    def __init__(self, home: Path, ray: str) -> None:
        # Flower finds its own programs by it
        path = f"{program('flwr').parent}{os.pathsep}{os.environ['PATH']}"
        extra = {"RAY_TMPDIR": ray, "RAY_USAGE_STATS_ENABLED": "0", "PATH": path}
        self.environment = flower_environment(os.environ, home, extra=extra)
        self.port = free_port()
        text = f'[superlink]\ndefault = "sim"\n[superlink.sim]\naddress = "127.0.0.1:{self.port}"\n'
        durable.write_text(home / "config.toml", text + "insecure = true\n")
        argv = [str(program("flower-superlink")), "--insecure", "--simulation"]
        argv += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._log = (home / "superlink.log").open("wb")
        self._superlink = subprocess.Popen(
            argv, env=self.environment, stdout=self._log, stderr=subprocess.STDOUT
        )

    def wait(self) -> None:
        """Until the SuperLink answers."""
        began = time.monotonic()
        while not is_listening(self.port):
            assert self._superlink.poll() is None
            assert time.monotonic() < began + LIMIT_S
            time.sleep(0.2)

    def run(self, config: str) -> str:
        """Run the app to its end; what its log said.

        Once more where Ray gave up before anything of ours ran: it waits 30 s for itself.
        """
        told = self._run(config)
        return self._run(config) if "timed out during startup" in told else told

    def _run(self, config: str) -> str:
        argv = [str(program("flwr")), "run", ".", "sim", "--stream", "--run-config", config]
        argv += ["--federation-config", ONE_PROCESS]
        done = subprocess.run(
            argv,
            cwd=APP,
            env=self.environment,
            timeout=LIMIT_S,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout

    def close(self) -> list[psutil.Process]:
        """End the SuperLink; what it started and did not end by itself, killed."""
        self._superlink.terminate()
        self._superlink.wait(LIMIT_S)
        self._log.close()
        _gone, alive = psutil.wait_procs(self._ours(), timeout=30)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive)
        return alive

    def _ours(self) -> list[psutil.Process]:
        mark, found = self.environment["FLWR_HOME"], []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FLWR_HOME") == mark and process.pid != os.getpid():
                    found.append(process)
        return found


@pytest.fixture
def simulation(tmp_path: Path) -> Iterator[Simulation]:
    ray = tempfile.mkdtemp(prefix="ray")  # short: Ray's sockets lie below it
    running = Simulation(tmp_path / "flwr", ray)
    try:
        running.wait()
        yield running
    finally:
        left = running.close()
        shutil.rmtree(ray, ignore_errors=True)
    assert left == []


def test_flwr_run_gives_the_cell_that_the_comparison_gives(
    simulation: Simulation, tmp_path: Path
) -> None:
    sizes = f"clients=3 rounds=2 steps=3 seed=1 out='{tmp_path / 'study'}'"
    told = simulation.run(f"strategy='flora' partition='shift:2' {sizes}")
    (path,) = (tmp_path / "study" / "cells").glob("*.json")
    found = json.loads(path.read_bytes())
    setting = Setting.from_json(found["setting"])
    assert setting == Setting(
        strategy="flora", partition="shift:2", clients=3, rounds=2, steps=3, seed=1
    )
    expected = json.loads(json.dumps(federate(Lab(setting), setting).to_json()))
    for part in ("setting", "facts", "rounds"):
        assert found[part] == expected[part]
    assert f"loss {found['rounds'][-1]['loss']:.6f}" in told
