"""One tor process of a test, and a control connection to it without any library."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from federation import durable

HOST = "127.0.0.1"
STOP_S = 5.0
T = TypeVar("T")
SHOWN = 2000  # characters of a log in an error


class TorNetworkError(Exception):
    """A tor of the private network did not do what it should; the end of its log is in the text."""


@dataclass(frozen=True)
class Onion:
    """A published service; `key` publishes it again at the same address."""

    host: str
    key: str


class ControlPort:
    """An authenticated control connection to the tor whose data are in `folder`."""

    def __init__(self, folder: Path, *, timeout_s: float = 10.0) -> None:
        # PORT=127.0.0.1:12345, and a line UNIX_PORT=… for each socket
        written = (folder / "control_port").read_text(encoding="ascii").splitlines()
        (port,) = (line.rsplit(":", 1)[1] for line in written if line.startswith("PORT="))
        address = (HOST, int(port))
        cookie = (folder / "control_auth_cookie").read_bytes()
        self._socket = socket.create_connection(address, timeout=timeout_s)
        self._buffer = b""
        try:
            self.ask(f"AUTHENTICATE {cookie.hex()}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it the onions that were added through it."""
        self._socket.close()

    def ask(self, command: str) -> list[str]:
        """Send one command; the lines of the answer without their status.

        Raises:
            TorNetworkError: tor refused.
            OSError: the connection is gone.
        """
        self._socket.sendall(command.encode("ascii") + b"\r\n")
        lines: list[str] = []
        while True:
            line = self.read_line()
            lines.append(line[4:])
            if line[3] == "+":
                while (text := self.read_line()) != ".":
                    lines.append(text)
            elif line[3] == " ":
                if line[:3] not in ("250", "251", "252"):
                    raise TorNetworkError(f"{command.split()[0]}: {line}")
                return lines

    def info(self, key: str) -> str:
        """What GETINFO says about `key`, "" while tor cannot tell."""
        try:
            lines = self.ask(f"GETINFO {key}")[:-1]
        except TorNetworkError:
            return ""
        return "\n".join(lines).split("=", 1)[1].strip()

    def read_line(self, timeout_s: float = 10.0) -> str:
        """The next line, an event's or an answer's; TimeoutError after `timeout_s`."""
        self._socket.settimeout(timeout_s)
        while b"\n" not in self._buffer:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionResetError("tor closed the control connection")
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode("utf-8", "replace").rstrip("\r")


class TorProcess:
    """A tor with the settings `torrc`, its data, log and control port in `folder`."""

    def __init__(self, folder: Path, torrc: str) -> None:
        self.folder = durable.make_folder(folder)
        self._torrc = torrc
        self._process: subprocess.Popen[bytes] | None = None
        self._control: ControlPort | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the present run, or of the last."""
        if self._process is None:
            raise TorNetworkError(f"{self.folder.name} was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def socks(self) -> str:
        """Where its SOCKS port listens ("127.0.0.1:port"); elsewhere after a restart."""
        return self.control.info("net/listeners/socks").split()[0].strip('"')

    @property
    def log(self) -> str:
        """What tor said so far: warnings of its start, then the notice log."""
        paths = [self.folder / name for name in ("output.log", "notice.log")]
        return "".join(
            path.read_text(encoding="utf-8", errors="replace") for path in paths if path.exists()
        )

    @property
    def control(self) -> ControlPort:
        """The control connection of this run, opened when first asked for."""
        if self._control is None:
            self._control = self._await("control port", self._open, 20.0)
        return self._control

    def start(self) -> Self:
        """Start tor, or start it again on the data it has."""
        torrc = self.folder / "torrc"
        torrc.write_text(self._torrc, encoding="utf-8")
        for name in ("control_port", "control_auth_cookie"):  # those of the run before
            (self.folder / name).unlink(missing_ok=True)
        with (self.folder / "output.log").open("wb") as output:
            self._process = subprocess.Popen(
                [*tor_command(), "-f", str(torrc), "--hush"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=bare_environment(),
                process_group=0,  # a Ctrl-C for the tests must not end tor before them
            )
        return self

    def wait_bootstrapped(self, timeout_s: float = 60.0) -> Self:
        """Wait until this tor can build circuits."""
        self._await(
            "bootstrap",
            lambda: "PROGRESS=100" in self.control.info("status/bootstrap-phase"),
            timeout_s,
        )
        return self

    def publish(
        self, ports: Mapping[int, int], *, key: str = "", client_keys: Sequence[str] = ()
    ) -> Onion:
        """Add an onion service and wait until every directory has its descriptor.

        Args:
            ports: port of the onion -> port of this machine.
            key: that of an earlier `Onion`; "" makes a new address.
            client_keys: public keys (base32) of who may read the descriptor; none for all.
        """
        flags = "Flags=V3Auth " if client_keys else ""
        offered = " ".join(f"Port={onion},{HOST}:{ours}" for onion, ours in ports.items())
        allowed = "".join(f" ClientAuthV3={each}" for each in client_keys)
        with ControlPort(self.folder) as events:
            events.ask("SETEVENTS HS_DESC")
            command = f"ADD_ONION {key or 'NEW:ED25519-V3'} {flags}{offered}{allowed}"
            answer = dict(line.split("=", 1) for line in self.control.ask(command)[:-1])
            await_uploads(events, answer["ServiceID"])
        return Onion(f"{answer['ServiceID']}.onion", key or answer["PrivateKey"])

    def kill(self) -> None:
        """SIGKILL: what a crash looks like to the others."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for one that does not listen."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def failure(self, what: str) -> TorNetworkError:
        """Say what went wrong, with the end of the log and the circuits."""
        circuits = self._control.info("circuit-status") if self._control else ""
        return TorNetworkError(f"{self.folder.name}: {what}\n{self.log[-SHOWN:]}\n{circuits}")

    def _open(self) -> ControlPort | None:
        try:
            return ControlPort(self.folder)
        except (OSError, ValueError, TorNetworkError):
            return None  # not yet, or written in part

    def _await(self, what: str, look: Callable[[], T | None], timeout_s: float) -> T:
        deadline = time.monotonic() + timeout_s
        while not (found := look()):
            if not self.is_running:
                raise self.failure(f"no {what}: tor has ended")
            if time.monotonic() > deadline:
                raise self.failure(f"no {what} within {timeout_s:g} s")
            time.sleep(0.02)
        return found


def await_uploads(events: ControlPort, label: str, timeout_s: float = 60.0) -> None:
    """Wait until each upload for `label`.onion has ended and no further one begins for 0.3 s."""
    deadline = time.monotonic() + timeout_s
    begun = ended = 0
    while time.monotonic() < deadline:
        try:
            _status, _event, action, address, *_rest = events.read_line(0.3).split()
        except TimeoutError:
            if begun and ended >= begun:
                return
            continue
        begun += address == label and action == "UPLOAD"
        ended += address == label and action in ("UPLOADED", "FAILED")
    raise TorNetworkError(f"{ended} of {begun} uploads of a descriptor ended in {timeout_s:g} s")


def tor_command() -> list[str]:
    """The tor program without the settings that a distribution adds."""
    return [shutil.which("tor") or "tor", "--defaults-torrc", os.devnull]


def bare_environment() -> dict[str, str]:
    """No HOME, where tor would look for a torrc, and no proxy variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
