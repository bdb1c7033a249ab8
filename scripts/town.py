"""One server and its volunteers on this machine, driven by the commands that people type.

Used by the demo, the benchmarks and the end-to-end tests. Every process is real and is stopped by
its own id; nothing outlives `Town.stop`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from federation import durable

STOP_S = 30.0
COMMAND_S = 900.0
READY = re.compile(rb"server is up|Connected (to|through) ")


class CommandError(Exception):
    """A command ended with another status than 0; `code` is that status, the text its stderr."""

    def __init__(self, command: Sequence[str], code: int, said: str) -> None:
        super().__init__(f"{' '.join(command)} ended with {code}:\n{said}")
        self.code = code
        self.said = said


class Town:
    """The server and the nodes, each with a home below `root` and processes of its own.

    Args:
        root: folder of all homes.
        say: told one line about each step.
        wrap: put in front of every command line (a tracer, say).
        tor: settings `tor` of server and nodes, which then meet at an onion service; None: on
            loopback.
    """

    def __init__(
        self,
        root: Path,
        *,
        say: Callable[[str], None] = lambda _line: None,
        wrap: Sequence[str] = (),
        tor: Mapping[str, Any] | None = None,
    ) -> None:
        self.tor = tor
        self.root = root
        self.server = root / "server"
        self.say = say
        self.wrap = tuple(wrap)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_server(self, *options: str) -> None:
        """Set the server up (`options` go to init) and start it."""
        if not (self.server / "server_config.json").exists():
            way = ["--no-onion"] if self.tor is None else ["--set", f"tor={json.dumps(self.tor)}"]
            self.operator("init", *way, *options)
        self.start("server", ["flower-server", "up"])

    def invite(self, name: str) -> Path:
        """Make the home of a new node with an invitation in it; returns the invitation's file."""
        invitation = self.root / name / "invitation"
        self.operator("invite", name, "--out", str(invitation))
        return invitation

    def join(
        self, name: str, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> None:
        """Give a new node its texts and settings, let it join and start it."""
        home = self.root / name
        invitation = self.invite(name)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        durable.write_text(home / "datasets" / "texts.jsonl", "\n".join(lines) + "\n")
        self.volunteer(name, "init")
        own: dict[str, Any] = {"data": ["datasets/texts.jsonl"], "start_jitter_s": 0}
        if self.tor is not None:
            own["tor"] = dict(self.tor)
        self.configure(name, own | dict(settings))
        self.volunteer(name, "join", str(invitation))
        self.start(name, ["flower-client", "run"])

    def join_all(
        self, rows: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]
    ) -> None:
        """`join` for each node of `rows`, as many at a time as there are cores."""
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda name: self.join(name, rows[name], settings), rows))

    def configure(self, name: str, settings: Mapping[str, Any]) -> None:
        """Change settings of a node."""
        path = self.root / name / "node_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | dict(settings)
        durable.write_text(path, json.dumps(config, indent=2) + "\n")

    def round(self, *options: str) -> dict[str, Any]:
        """One round now; its report."""
        report: dict[str, Any] = json.loads(self.operator("round", "--now", "--json", *options))[0]
        return report

    def traffic(self) -> dict[str, tuple[int, int]]:
        """Bytes up and down of each node, as the gateway counted them."""
        rows = json.loads(self.operator("nodes", "--json"))
        return {row["name"]: (row["bytes_up"], row["bytes_down"]) for row in rows}

    def operator(self, *arguments: str) -> str:
        """Run a `flower-server` command; what it printed on stdout."""
        return run(["flower-server", *arguments], self._environment("server"), self.wrap)

    def volunteer(self, name: str, *arguments: str) -> str:
        """Run a `flower-client` command in the home of node `name`."""
        return run(["flower-client", *arguments], self._environment(name), self.wrap)

    def volunteers(self, *arguments: str) -> None:
        """Run a `flower-client` command in every home, all at once: each has one thread."""
        names = [name for name in self.processes if name != "server"]
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            list(pool.map(lambda name: self.volunteer(name, *arguments), names))

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process that stays; it is ready when it says so on stdout."""
        home = durable.make_folder(self.root / name)
        with (home / "output.log").open("ab") as errors:
            child = subprocess.Popen(
                [*self.wrap, str(program(command[0])), *command[1:]],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment(name),
            )
        self.processes[name] = child
        for line in child.stdout or ():
            if READY.search(line):
                self.say(f"{name}: {line.decode(errors='replace').strip()}")
                return
        said = (home / "output.log").read_text(encoding="utf-8", errors="replace")
        code = child.wait()
        self.stop(name)
        raise CommandError(command, code, said)

    def stop(self, *names: str) -> None:
        """End what was started (all of it by default), the last first."""
        for name in names or reversed(list(self.processes)):
            child = self.processes.pop(name)
            child.terminate()
            try:
                child.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self.say(f"{name} had to be killed")
                child.kill()
                child.wait()
            if child.stdout is not None:
                child.stdout.close()

    def _environment(self, name: str) -> dict[str, str]:
        if name == "server":
            return os.environ | {"CONSCIENCE_SERVER_HOME": str(self.root / name)}
        # One thread a node: several small models at once are faster so than each on all cores.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        home = {"CONSCIENCE_HOME": str(self.root / name), "CONSCIENCE_LANG": "en"}
        return os.environ | threads | home


def run(command: Sequence[str], environment: Mapping[str, str], wrap: Sequence[str] = ()) -> str:
    """Run one command to its end; what it printed on stdout.

    Raises:
        CommandError: it ended with another status than 0.
    """
    done = subprocess.run(
        [*wrap, str(program(command[0])), *command[1:]],
        env=dict(environment),
        capture_output=True,
        timeout=COMMAND_S,
        check=False,
    )
    if done.returncode:
        raise CommandError(command, done.returncode, done.stderr.decode(errors="replace").strip())
    return done.stdout.decode()


def program(name: str) -> Path:
    """The console script beside the running interpreter."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise FileNotFoundError(f"{name} is not installed beside {sys.executable}")
    return Path(found)
