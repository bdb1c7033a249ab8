"""What the operator asks of its own SuperLink, whose Control API answers on loopback alone.

flwr is called as a command and never imported: its command line is its public interface, and a
fault in it stays in a process of its own. One request is made by hand, the registration of a node:
a volunteer waits for it, and the command takes seconds of computing on a busy machine.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from federation import durable
from federation.errors import ConfigError, ProcessError
from federation.flower_env import flower_environment
from server.ca import TlsFiles
from server.config import HOME_VARIABLE, ServerHome, load_config

CONNECTION = "op"
CALL_S = 120.0  # a second or two of computing, on a machine that may be busy training
KEY_IN_USE = "already in use"
REGISTER_PATH = "/v1/control/register-node"
REGISTER_S = 15.0
_CONFIG = """\
[superlink]
default = "{name}"
[superlink.{name}]
address = "127.0.0.1:{port}"
root-certificates = {certificates}
"""


def program(name: str) -> Path:
    """An installed command: beside this interpreter, or in its scripts folder.

    Raises:
        ConfigError: it is not there.
    """
    suffix = ".exe" if os.name == "nt" else ""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise ConfigError(
        f"the command '{name}' is not installed", hint="Run: pip install conscienceai"
    )


def environment(home: ServerHome) -> dict[str, str]:
    """Environment of every Flower process of this server."""
    return flower_environment(os.environ, home.flwr, extra={HOME_VARIABLE: str(home.root)})


def write_connection(home: ServerHome, superlink_port: int) -> None:
    """Write flwr's own settings, which name our SuperLink and nothing else."""
    certificates = json.dumps(str(TlsFiles(home.tls).ca_certificate))
    text = _CONFIG.format(name=CONNECTION, port=superlink_port, certificates=certificates)
    durable.write_text(home.flwr / "config.toml", text)


@dataclass(frozen=True)
class SuperLink:
    """The SuperLink of one home, seen through the `flwr` command."""

    home: ServerHome

    def register(self, supernode_key: str) -> str:
        """Admit a SuperNode; returns its Flower node id (decimal).

        Args:
            supernode_key: value of its `flwr-public-key` header (base64 of PEM).

        Raises:
            ProcessError: refused or not reachable; the message holds `KEY_IN_USE` if Flower knew
                the key already.
        """
        trust = ssl.create_default_context(cafile=str(TlsFiles(self.home.tls).ca_certificate))
        kind = "application/protobuf"
        try:
            with httpx.Client(verify=trust, trust_env=False, timeout=REGISTER_S) as client:
                answer = client.post(
                    f"https://127.0.0.1:{load_config(self.home).superlink_port}{REGISTER_PATH}",
                    content=_bytes_field(1, base64.b64decode(supernode_key)),
                    headers={"content-type": kind, "accept": kind},
                )
        except httpx.HTTPError as err:
            raise ProcessError(f"the SuperLink did not answer: {err}") from err
        if answer.status_code != 200:
            raise ProcessError(f"the SuperLink refused the node: {_one_line(answer.text)}")
        return str(_first_number(answer.content))

    def unregister(self, node_id: str) -> None:
        """Put a SuperNode out for good; its key can never be admitted again."""
        self._call("supernode", "unregister", node_id, CONNECTION)

    def nodes(self) -> dict[str, str]:
        """Flower node id -> "online", "offline", "registered" or "unregistered"."""
        answer = self._call("supernode", "list", CONNECTION)
        return {str(row["node-id"]): str(row["status"]) for row in answer.get("nodes", [])}

    def start_run(self, app: Path, settings: Sequence[str] = ()) -> str:
        """Start a run of the app in folder `app`; returns its id.

        Args:
            app: an app folder.
            settings: overrides as `key=value` in TOML.
        """
        extra = [part for setting in settings for part in ("--run-config", setting)]
        return str(self._call("run", str(app), CONNECTION, *extra)["run-id"])

    def run_status(self, run_id: str) -> str:
        """Status such as "running" or "finished:completed"."""
        answer = self._call("list", CONNECTION, "--run-id", run_id)
        return str(answer["runs"][0]["status"])

    def stop_run(self, run_id: str) -> None:
        """End a run that is still going."""
        self._call("stop", run_id, CONNECTION)

    def _call(self, *arguments: str) -> dict[str, Any]:
        command = [str(program("flwr")), *arguments, "--format", "json"]
        what = " ".join(["flwr", *arguments[:2]])
        try:
            done = subprocess.run(  # noqa: S603 (our own program, no shell)
                command,
                env=environment(self.home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=CALL_S,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired as err:
            raise ProcessError(f"{what} gave no answer within {CALL_S:.0f} s") from err
        answer = _last_object(done.stdout)
        if done.returncode != 0 or not answer.get("success", False):
            detail = str(answer.get("error-message") or done.stderr or done.stdout).strip()
            raise ProcessError(
                f"{what} failed: {_one_line(detail)}", hint="Is the server up? flower-server status"
            )
        return answer


def _bytes_field(number: int, data: bytes) -> bytes:
    """One length-delimited protobuf field, `number` below 16."""
    length, rest = bytearray(), len(data)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return bytes([number << 3 | 2]) + bytes(length) + data


def _first_number(message: bytes) -> int:
    """Value of field 1, a varint, of a protobuf message that holds nothing else.

    Raises:
        ProcessError: it does not.
    """
    value = 0
    for index, byte in enumerate(message[1:]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            if message[0] == 0x08 and len(message) == index + 2:  # field 1, varint
                return value
            break
    raise ProcessError("the SuperLink answered with something unknown")


def _last_object(text: str) -> dict[str, Any]:
    """The JSON object in what flwr printed; {} if there is none. Talk may stand before it."""
    decoder = json.JSONDecoder()
    for start in (i for i, char in enumerate(text) if char == "{"):
        try:
            found = decoder.raw_decode(text, start)[0]
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def _one_line(text: str) -> str:
    return " ".join(text.split())[-300:]
